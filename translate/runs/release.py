"""The folder of weights one gives away, and reading a generator back from it or from a run.

A release holds `recipe.yaml`, which names no place on the disk of its maker, one safetensors file for each generator
(the averaged one where an average was kept), `release.json`, a model card, and a manifest. A run folder serves as well:
its newest verified checkpoint is read.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, cast

import torch
from pydantic import Field
from torch import nn

from translate import files
from translate.data.labels import Labelling
from translate.data.scale import OWN_SIZE, Fitting, Scale, ScaleState
from translate.errors import CheckpointError, DiskError, DocumentError, UsageError, visible
from translate.foreign import Count, Shape, read_json
from translate.images.reading import ImageConfig
from translate.missing import no_model
from translate.networks.growing import Growable, extend, fade_in
from translate.networks.weights import refuse_other_shapes
from translate.places import RECIPE_FILE
from translate.recipe import Recipe, Stage
from translate.runs.checkpoint import best_checkpoint, newest_checkpoint, read_progress
from translate.runs.folder import load_saved
from translate.runs.hub import here
from translate.runs.manifest import read_network, seal, verify, write_network
from translate.runs.progress import Progress
from translate.runs.recipe_paths import LEFT_OUT, places_of, without_places
from translate.translators import Direction, Translator

RELEASE = "release.json"
DomainName = Annotated[str, Field(max_length=300)]  # holds the name of a folder, which has up to 255 letters


class About(Shape):
    """What others read of `release.json`."""

    directions: list[Direction]
    diptych: Annotated[str, Field(pattern=r"^\d{1,9}\.\d{1,9}")] = "0.0"
    stage: Count = 0
    stage_images: Count = 0
    scales: dict[str, ScaleState] = Field(default_factory=dict)
    domains: Annotated[list[DomainName], Field(min_length=2, max_length=2)] | None = None


@dataclass(frozen=True)
class Release:
    """A generator ready for use, in eval mode and fp32 on the CPU, and what goes in and comes out of it."""

    generator: nn.Module
    image_in: ImageConfig
    image_out: ImageConfig
    direction: Direction
    name: str  # of its recipe
    fingerprint: str  # of weights, architecture and direction: releases with equal ones translate alike
    labels: Labelling | None = None  # of the label maps that go in and become one-hot images; None: images go in
    weights: Path | None = None  # the folder that the generator's weights are from
    refused: tuple[str, ...] = ()  # newer checkpoints that do not verify, and why
    growth: str = ""  # of a network that has not grown to its end: what it knows, in words
    fitting: Fitting = OWN_SIZE  # how the last stage that it was trained in showed images
    scale: Scale | None = None  # what that stage has shown of images that go in; None: it is not known
    domains: tuple[str, str] = ("A", "B")  # what goes in and what comes out, by the names of their folders if known
    has_other: bool = False  # whether the model translates the other way as well


@dataclass(frozen=True)
class Weights:
    """Where weights lie that were found and verified."""

    folder: Path  # of the run or the release, with its recipe
    weights: Path
    refused: tuple[str, ...] = ()  # newer checkpoints that do not verify, and why


def draws_from_noise(path: Path) -> bool:
    """Return whether a run or release draws images from noise, rather than translating some. Raises as `find_weights`.
    """
    return not load_saved(find_weights(path).folder).translator.needs_sources


def load_release(path: Path, direction: Direction = "ab") -> Release:
    """Read a generator that translates images, see `load_generator`. Raises `UsageError` for one that draws them from
    noise, too."""
    found = find_weights(path)
    recipe = load_saved(found.folder)
    if not recipe.translator.needs_sources:
        raise UsageError("draws images from noise and translates none", path,
                         f"use: translate sample {shlex.quote(visible(path))} OUT")
    return _read(recipe, found, direction)


def load_generator(path: Path, direction: Direction = "ab") -> Release:
    """Read a generator from a run folder, from `<run>/best` (its best checkpoint), or from a release: its folder, or
    its address on the Hub (`translate.runs.hub`). What it is given, `inputs` of its recipe's translator says.

    Raises `UsageError` when there is no such release or direction, `CheckpointError` when its files do not verify,
    `NetworkError` when one of the Hub cannot be had.
    """
    found = find_weights(path)
    return _read(load_saved(found.folder), found, direction)


def find_weights(path: Path) -> Weights:
    """Find the weights of a run, of `<run>/best`, or of a release, and verify them. Raises as `load_release` does."""
    # From the Hub it becomes a folder. `best` is none: it stands for the best checkpoint of the run beside it
    path = here(path)
    if path.name == "best" and (path.parent / RECIPE_FILE).is_file():
        return Weights(path.parent, _best_weights(path.parent))
    if path.is_file():
        raise UsageError("is a file, such as other projects keep weights in, and no run or release", path,
                         f"a release is made of it by: translate import {shlex.quote(visible(path))}")
    if not path.is_dir():
        raise no_model(path)

    # A release holds the weights itself; of a run, the newest checkpoint that verifies does
    refused: list[str] = []
    if (path / RELEASE).is_file():
        weights, fault = path, verify(path)
        if fault is not None:
            raise CheckpointError(f"this release is damaged: {fault}", path)
        _refuse_other_versions(path)
    elif (path / RECIPE_FILE).is_file():
        newest, refused = newest_checkpoint(path / "checkpoints")
        if newest is None:
            raise CheckpointError("\n".join(["this run has no checkpoint that verifies yet", *refused]), path)
        weights = newest
    else:
        raise UsageError("neither a run nor a release: it holds no recipe.yaml", path)
    return Weights(path, weights, tuple(refused))


def _refuse_other_versions(release: Path) -> None:
    """Raise `CheckpointError` for a release that this version cannot be right about, as it says what it is not."""
    try:
        about = read_json(release / RELEASE, About)
    except DocumentError as error:
        raise CheckpointError(error.what, error.path) from None
    written, here = about.get("diptych", "0.0"), version("diptych")
    if _major_and_minor(written) > _major_and_minor(here):
        raise CheckpointError(f"was written by Diptych {written}, and this is {here}", release, "update it: an older "
                              "version may translate otherwise")
    held = [direction for direction in ("ab", "ba") if (release / f"generator_{direction}.safetensors").is_file()]
    if sorted(about["directions"]) != held:
        raise CheckpointError(f"{RELEASE} names the directions {', '.join(about['directions']) or 'none'}, and there "
                              f"are weights of {', '.join(held) or 'none'}", release)


def _major_and_minor(text: str) -> tuple[int, int]:
    major, minor = re.match(r"(\d{1,9})\.(\d{1,9})", text).groups()  # type: ignore[union-attr]
    return int(major), int(minor)


def _best_weights(run: Path) -> Path:
    """Return the best checkpoint of a run. Raises `UsageError` where there is none, `CheckpointError` for damage."""
    weights = best_checkpoint(run / "checkpoints")
    if weights is None:
        raise UsageError("no evaluation has said which checkpoint of this run is the best", run,
                         f"use --model {shlex.quote(str(run))}")
    if (fault := verify(weights)) is not None:
        raise CheckpointError(f"the best checkpoint of this run is damaged: {fault}", weights)
    return weights


def write_release(folder: Path, recipe: Recipe, translator: Translator, progress: Progress,
                  chosen: str = "last") -> None:
    """Replace `folder` by a release of the translator's generators. Raises `DiskError`.

    `progress` says how far these generators were trained, and `chosen` why they were taken: they are the last, or the
    best by a score.
    """
    write_generators(folder, without_places(recipe), {way: translator.generator(way) for way in translator.directions},
                     {"name": recipe.name, "directions": translator.directions, "images": progress.images,
                      "stage": progress.stage, "stage_images": progress.stage_images,
                      "scales": progress.dump()["scales"], "domains": recipe.data.domains, "chosen": chosen},
                     _model_card(recipe, translator, progress.images, chosen, progress.began,
                                 _scale(progress, "ab", recipe.fitting(stage_of(recipe, progress)[0]),
                                        recipe.data.scale == "fixed")))


def write_generators(folder: Path, recipe: Recipe, generators: Mapping[Direction, nn.Module], about: dict[str, Any],
                     card: str, discriminators: Mapping[str, nn.Module] | None = None) -> None:
    """Replace `folder` by a release of these generators, by their directions. Raises `DiskError`.

    about           what `release.json` says of them
    card            its README.md
    discriminators  by their names in the translator, for trainings that begin with the release; None: none
    """
    building = folder.with_name(f"{files.TEMPORARY}{folder.name}")
    try:
        # The generators, in a fresh folder of a temporary name
        files.remove_folder(building)
        building.mkdir(parents=True)
        for direction, generator in generators.items():
            write_network(building, f"generator_{direction}", generator)
        for name, discriminator in (discriminators or {}).items():
            write_network(building, name, discriminator)

        # What they are: the recipe, where they stand, and a card for people
        files.write_bytes(building / RECIPE_FILE, recipe.dump_yaml().encode())
        files.write_json(building / RELEASE, about | {"diptych": version("diptych")})
        files.write_bytes(building / "README.md", card.encode())

        # Complete: sealed, and in place of what was there
        seal(building)
        files.exchange_folder(building, folder)
    except OSError as error:
        shutil.rmtree(building, ignore_errors=True)
        raise DiskError.of(error, folder) from error


def _read(recipe: Recipe, found: Weights, direction: Direction) -> Release:
    """Read the generator of `direction` from the weights that were `found`: its average where one was kept."""
    # Which file, and how far it was trained
    config, data, weights = recipe.translator, recipe.data, found.weights
    name = f"generator_{direction}"
    if not (weights / f"{name}.safetensors").is_file():
        exchanged = direction == "ba" and data.shows_a and data.has_sources
        raise UsageError(f"this {config.kind} model does not translate {direction[0]} to {direction[1]}", found.folder,
                         "train one that does: write its recipe with `translate new FOLDER --direction ba`" if exchanged
                         else "give it the other direction")
    if (weights / f"ema_{name}.safetensors").is_file():
        name = f"ema_{name}"
    progress = progress_of(weights, recipe)

    # Looked at as shapes first, then built, and filled; its initialisation may not change the caller's random state
    channels = data.channels_a, data.channels_b
    stage, share = stage_of(recipe, progress)

    def built() -> nn.Module:
        """Return a generator in the shape it had when its weights were written."""
        generator = config.build_generator(direction, *channels)
        if stage.levels and config.grows:
            extend(cast(Growable, config.generator), generator, stage.levels, stage.fade)
            fade_in(generator, share)
        return generator

    refuse_other_shapes(weights / f"{name}.safetensors", built)
    with torch.random.fork_rng(devices=[]):
        generator = built()
    read_network(weights, name, generator)

    # What goes in and comes out, how it was shown, and what tells this generator from all others
    fitting = recipe.fitting(stage)
    image_in, image_out = (data.image_a, data.image_b) if direction == "ab" else (data.image_b, data.image_a)
    identity = json.dumps([config.generator.model_dump(mode="json"), direction, channels,
                           files.sha256(weights / f"{name}.safetensors"), image_in.identity, image_out.identity,
                           *((stage.levels, share) if stage.levels else ())])
    return Release(generator.eval().requires_grad_(False), image_in, image_out, direction, recipe.name,
                   hashlib.sha256(identity.encode()).hexdigest(), data.labelling if direction == "ab" else None,
                   weights, found.refused, growth=_growth(recipe, progress), fitting=fitting,
                   scale=_scale(progress, direction, fitting, data.scale == "fixed"),
                   domains=_domains(recipe, weights, direction),
                   has_other=(weights / f"generator_{direction[::-1]}.safetensors").is_file())


def scale_of(run: Path) -> Scale | None:
    """Return at what scale a run was shown images of A; None where that is not known. Raises as `load_release` does."""
    found = find_weights(run)
    recipe = load_saved(found.folder)
    progress = progress_of(found.weights, recipe)
    return _scale(progress, "ab", recipe.fitting(stage_of(recipe, progress)[0]), recipe.data.scale == "fixed")


def progress_of(weights: Path, recipe: Recipe) -> Progress:
    """Return how far a checkpoint or a release was trained; a release that does not say it, to the end."""
    if not (weights / RELEASE).is_file():
        return read_progress(weights)
    about, last = read_json(weights / RELEASE, About), len(recipe.stages) - 1
    return Progress(stage=about.get("stage", last), stage_images=about.get("stage_images", recipe.stages[last].images),
                    scales=about.get("scales", {}))


def stage_of(recipe: Recipe, progress: Progress) -> tuple[Stage, float]:
    """Return the stage that a network was trained in last, and the share of its newest level that had faded in."""
    if progress.stage >= len(recipe.stages) or progress.stage_images > recipe.stages[progress.stage].images:
        raise CheckpointError(f"these weights are of image {progress.stage_images:,} of stage {progress.stage + 1}, "
                              f"which its {RECIPE_FILE} does not have", recipe.name)
    stage = recipe.stages[progress.stage]
    return stage, progress.stage_images / stage.images if stage.fade else 1.0


def _scale(progress: Progress, direction: Direction, fitting: Fitting, fixed: bool) -> Scale | None:
    """Return what a network was shown of images that go in. `fixed`: their recipe says that a pixel has one length.

    Older versions did not keep it. Then the recipe's `resize` says the short side; what images' own size was, it does
    not.
    """
    saved = progress.scales.get(direction[0])
    if saved is None:
        return None if fitting.resize is None else Scale((fitting.resize, fitting.resize))
    known = Scale.load(saved)
    return replace(known, fixed=fixed) if known.is_own else known


def _domains(recipe: Recipe, weights: Path, direction: Direction) -> tuple[str, str]:
    """Return what goes in and what comes out, in words: by the names of the folders of a run's images. The recipe of a
    release leaves these out; it says itself what they were, but for those of earlier versions.
    """
    left_out = any(str(path).startswith(LEFT_OUT) for path in places_of(recipe).values())
    a, b = ("A", "B") if left_out else recipe.data.domains
    if (weights / RELEASE).is_file():
        a, b = read_json(weights / RELEASE, About).get("domains") or (a, b)
    return (a, b) if direction == "ab" else (b, a)


def _growth(recipe: Recipe, progress: Progress) -> str:
    """Say what a network knows that has not grown to its end; of others, nothing."""
    (stage, share), levels = stage_of(recipe, progress), recipe.stages[-1].levels
    if stage.levels == levels and share == 1:
        return ""
    faded = f", the newest faded in to α = {share:.2f}" if share < 1 else ""
    return f"a network that is still growing: {stage.levels} of {levels} levels{faded}"


def _model_card(recipe: Recipe, translator: Translator, num_images: int, chosen: str, began: str,
                scale: Scale | None) -> str:
    """Return the README.md of a release, whose network knows a `scale`."""
    directions = ", ".join(f"{direction[0].upper()} → {direction[1].upper()}" for direction in translator.directions)
    data, options = recipe.data.card or "images of its maker", scale.convert_options if scale is not None else ""
    return "\n".join([
        "---", "library_name: diptych", "tags: [image-to-image, " + recipe.translator.kind + "]", "---", "",
        f"# {recipe.name}", "",
        f"A {recipe.translator.kind} translator ({directions}), trained by Diptych {version('diptych')} on {data}, "
        f"{num_images:,} images ({chosen}).", "",
        *([f"It began with the weights of {began}.", ""] if began else []),
        "```", f"translate convert photos/ out/ --model <this folder> {options}".rstrip(), "```", "",
        "`recipe.yaml` says everything about its training.", ""])
