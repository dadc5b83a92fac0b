"""A checkpoint of another project as a release: its generator, a recipe as near to its training as it tells, a card.

Its discriminator goes with it where its file is given: a training that begins with the release takes it over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from translate import files
from translate.errors import CheckpointError, UsageError
from translate.interop.checkpoint_tensors import read_tensors
from translate.interop.evidence import (
    NOTHING_SAID,
    Choices,
    Found,
    FoundDiscriminator,
    NotKnown,
    identify,
    identify_discriminator,
)
from translate.recipe import Recipe
from translate.runs.recipe_paths import PLACEHOLDER
from translate.runs.release import write_generators
from translate.schema import validate
from translate.translators import Direction

DIFFERENCES = (
    "test.py of pix2pix runs with dropout and the statistics of each image unless it is given --eval; here a "
    "generator translates in eval mode",
    "test.py resizes images to its --load_size, or to a multiple of 4; here they are padded and cropped back",
    "test.py cuts fractions off when it stores 8 bits; here they are rounded")


@dataclass(frozen=True)
class Training:
    """What the file does not tell of the training that it is from; None: nobody has said it."""

    load_size: int | None = None  # short side that images were loaded at, px
    crop_size: int | None = None  # px
    labels: int | None = None  # classes, where label maps went in as one-hot images
    instances: int | None = None  # numbers of label maps from here on are class × this + instance
    data: Path | None = None  # the folder of its images, in the layout of the other project


NOTHING_KNOWN = Training()


@dataclass(frozen=True)
class ForeignGenerator:
    """A generator of another project, ready for use here."""

    file: Path
    sha256: str
    found: Found
    network: nn.Module


def read_generator(file: Path, choices: Choices = NOTHING_SAID) -> ForeignGenerator:
    """Read the generator that a checkpoint of another project holds. Raises `CheckpointError` where it holds none."""
    state = read_tensors(file)
    try:
        found = identify(state, choices)
        network = found.build(state)
    except NotKnown as error:
        raise CheckpointError(str(error), file) from None
    return ForeignGenerator(file, files.sha256(file), found, network)


@dataclass(frozen=True)
class ForeignDiscriminator:
    """A discriminator of another project, ready for use here."""

    file: Path
    sha256: str
    found: FoundDiscriminator
    network: nn.Module


def read_discriminator(file: Path) -> ForeignDiscriminator:
    """Read the discriminator that a checkpoint of another project holds. Raises `CheckpointError` where it holds none.
    """
    state = read_tensors(file)
    try:
        found = identify_discriminator(state)
        network = found.build(state)
    except NotKnown as error:
        raise CheckpointError(str(error), file) from None
    return ForeignDiscriminator(file, files.sha256(file), found, network)


def import_release(file: Path, to: Path | None = None, direction: Direction = "ab", back: Path | None = None,
                   choices: Choices = NOTHING_SAID, training: Training = NOTHING_KNOWN,
                   discriminator: Path | None = None, back_discriminator: Path | None = None) -> Imported:
    """Write a release of the generator in `file`, and of the one for the other direction in `back`.

        to          the folder of the release, which must not exist; None: `models/<name>`
        direction   which way `file` translates
        choices     what left no trace of the generators
        training    what left no trace of their training
        discriminator, back_discriminator  those that judge what `file` and `back` make

    Raises `CheckpointError` for files that hold no known network, and `UsageError` for files that do not belong
    together or a folder that exists.
    """
    if back_discriminator is not None and back is None:
        raise UsageError("judges the way back, and no generator of it is given", back_discriminator, "add --back FILE")

    # The networks first: of two generators each is the other's way back, and both are of one kind.
    generators = {direction: read_generator(file, choices)}
    if back is not None:
        generators["ba" if direction == "ab" else "ab"] = read_generator(back, choices)
        _check_pair(*generators.values())
    discriminators = {way: read_discriminator(each) for way, each in zip(
        generators, (discriminator, back_discriminator), strict=False) if each is not None}
    recipe = _recipe(generators, discriminators, training)
    folder = to if to is not None else Path("models") / recipe.name
    if folder.exists():
        raise UsageError("exists already", folder, "name another folder with --to")

    # The release: what is assumed stands in it, for programs and for people.
    assumed = _assumptions(generators, training)
    sources: dict[str, dict[str, str]] = {
        way: {"file": each.file.name, "sha256": each.sha256, "is": each.found.source}
        for way, each in sorted(generators.items())}
    named = {f"discriminator_{way[1]}": each for way, each in sorted(discriminators.items())}
    theirs = {name: {"file": each.file.name, "sha256": each.sha256, "is": each.found.source}
              for name, each in named.items()}
    about = {"name": recipe.name, "directions": sorted(generators), "images": 0, "stage": 0, "stage_images": 0,
             "imported": sources, "discriminators": theirs, "assumed": assumed}
    write_generators(folder, recipe, {way: each.network for way, each in generators.items()}, about,
                     _card(recipe, sources, theirs, assumed), {name: each.network for name, each in named.items()})
    return Imported(folder, recipe, sources, theirs, assumed)


@dataclass(frozen=True)
class Imported:
    """A release that was made of files of another project."""

    folder: Path
    recipe: Recipe
    sources: dict[str, dict[str, str]]  # by direction: the file, its SHA-256, and what it is
    discriminators: dict[str, dict[str, str]]  # the same by name
    assumed: list[str] = field(default_factory=list)  # what no file told


def _check_pair(there: ForeignGenerator, back: ForeignGenerator) -> None:
    """Raise `UsageError` unless two generators can be the two directions of one translator."""
    one, other = there.found, back.found
    if one.config != other.config or one.levels != other.levels:
        raise UsageError(f"is {other.source} of another shape than {there.file.name}, which is {one.source}", back.file,
                         "import each by itself")
    if (one.in_channels, one.out_channels) != (other.out_channels, other.in_channels):
        raise UsageError(f"takes {other.in_channels} channels and gives {other.out_channels}; the way back of "
                         f"{there.file.name} takes {one.out_channels} and gives {one.in_channels}", back.file)


def _kind(generators: Mapping[Direction, ForeignGenerator], discriminators: Mapping[Direction, ForeignDiscriminator],
          labels: bool) -> str:
    """Return the translator that such networks are usually trained by. Raises `UsageError` for a discriminator that
    plays no known game with its generator."""
    # By the generators: each project trains its own, but only a CycleGAN has a way back.
    first = next(iter(generators.values())).found
    kind = first.translator if [*generators] == ["ab"] else "cyclegan"
    if labels:
        kind = "pix2pix"
    if kind == "cut" and first.in_channels != first.out_channels:
        kind = "cyclegan"

    # By what a discriminator sees: input and output together (pix2pix), or the output alone.
    for way, each in discriminators.items():
        found, seen = generators[way].found, each.found.in_channels
        if seen == found.in_channels + found.out_channels and [*generators] == ["ab"]:
            kind = "pix2pix"
        elif seen == found.out_channels and not labels:
            kind = "cyclegan" if kind == "pix2pix" else kind
        else:
            raise UsageError(f"judges images of {seen} channels, and {generators[way].file.name} makes "
                             f"{found.out_channels} of {found.in_channels}", each.file, "a discriminator sees what its "
                             "generator makes, or, of pix2pix and A to B alone, that behind what went in")
    if len({each.found.config for each in discriminators.values()}) > 1:
        raise UsageError("are of two shapes, and a recipe has one for both", " and ".join(
            each.file.name for each in discriminators.values()), "import without one of them")
    return kind


def _recipe(generators: Mapping[Direction, ForeignGenerator], discriminators: Mapping[Direction, ForeignDiscriminator],
            training: Training) -> Recipe:
    """Return the recipe of a training such as the networks are from."""
    direction, first = next(iter(generators.items()))
    found = first.found
    channels = (found.in_channels, found.out_channels)
    channels_a, channels_b = channels if direction == "ab" else channels[::-1]

    # Which translator, and with which networks.
    kind = _kind(generators, discriminators, training.labels is not None)
    translator: dict[str, Any] = {"kind": kind, "generator": found.config.model_dump(mode="json")}
    for each in discriminators.values():
        translator["discriminator"] = each.found.config.model_dump(mode="json")
    if kind == "cyclegan" and channels_a != channels_b:
        translator["weights"] = {"identity": 0.0}

    # Which data, and at which size: one stage of the size that its images had.
    load, crop = _sizes(found, training)
    data: dict[str, Any] = {"kind": "paired" if kind == "pix2pix" else "unpaired", "resize": load,
                            "folder": str(training.data.expanduser().absolute() if training.data else PLACEHOLDER),
                            "image_a": {"channels": channels_a}, "image_b": {"channels": channels_b}}
    if training.labels is not None:
        data |= {"kind": "labels", "classes": training.labels, "instances": training.instances,
                 "edges": _has_edges(first, training.labels)}
        del data["image_a"]
    stage = {"resolution": crop, "images": 100_000, "levels": found.levels}
    return validate(Recipe, {"name": _name(first.file), "data": data, "translator": translator, "stages": [stage]},
                    str(first.file))


def _has_edges(generator: ForeignGenerator, classes: int) -> bool:
    """Whether a generator of label maps sees the edges of things as well. Raises `UsageError` for other channels."""
    channels = generator.found.in_channels
    if channels not in (classes, classes + 1):
        raise UsageError(f"takes {channels} channels: --labels {channels}, or --labels {channels - 1} where the last "
                         f"one shows edges, not {classes}", generator.file)
    return channels == classes + 1


def _sizes(found: Found, training: Training) -> tuple[int, int]:
    """Return the short side that images were loaded at, and that of the crops, px."""
    load, crop = found.sizes
    if training.load_size is not None:
        return training.load_size, training.crop_size or min(crop, training.load_size)
    crop = training.crop_size or crop
    return max(load, crop), crop


def _assumptions(generators: Mapping[Direction, ForeignGenerator], training: Training) -> list[str]:
    """Return, in words, what no file told and was taken as usual."""
    found = next(iter(generators.values())).found
    notes = list(dict.fromkeys(note for each in generators.values() for note in each.found.notes))
    load, crop = _sizes(found, training)
    if training.load_size is None or training.crop_size is None:
        notes.append(f"images are taken to have been loaded at a short side of {load} px and cropped to {crop}, as is "
                     "usual there (--load-size, --crop-size)")
    notes.append("values are taken as [-1, 1], and the direction as it was given: "
                 + ", ".join(f"{each.file.name} translates {way[0].upper()} to {way[1].upper()}"
                             for way, each in sorted(generators.items())))
    if training.labels is None and found.in_channels not in (1, 3, 4):
        notes.append(f"{found.in_channels} channels go in: if these are classes, import with --labels")
    if training.data is None:
        notes.append("where its images lie nobody has said (--data): to evaluate or train, name them")
    return notes


def _name(file: Path) -> str:
    """Return a name for a release: that of the experiment's folder for a file called as all are, else the file's."""
    usual = re.fullmatch(r"(latest|\d+|iter_\d+)_net_G(_[AB])?", file.stem)
    name = file.resolve().parent.name if usual else file.stem
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-")[:100]
    return name or "imported"


def _card(recipe: Recipe, sources: Mapping[str, Mapping[str, str]], theirs: Mapping[str, Mapping[str, str]],
          assumed: list[str]) -> str:
    """Return the README.md of the release."""
    where = [f"- {way[0].upper()} → {way[1].upper()}: `{source['file']}` (SHA-256 `{source['sha256']}`), {source['is']}"
             for way, source in sources.items()]
    where += [f"- {name}, for training on: `{source['file']}` (SHA-256 `{source['sha256']}`), {source['is']}"
              for name, source in theirs.items()]
    return "\n".join([
        "---", "library_name: diptych", f"tags: [image-to-image, {recipe.translator.kind}]", "---", "",
        f"# {recipe.name}", "", "Imported from a checkpoint of another project; its weights are as they were there.",
        "Its licence is the one that it was published under.", "", *where, "",
        "What no file tells, and was assumed:", "", *(f"- {note}" for note in assumed), "",
        "Why its images may differ from those of its own test script, although the weights are the same:", "",
        *(f"- {note}" for note in DIFFERENCES), "",
        "```", "translate convert photos/ out/ --model <this folder>", "```", "",
        "`recipe.yaml` is a training such as it may be from; what its translator's losses were, no file tells.", ""])
