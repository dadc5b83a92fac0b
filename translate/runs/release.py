"""The folder of weights one gives away, and reading a generator back from it or from a run.

A release holds `recipe.yaml`, one safetensors file for each generator (the averaged one where an average was kept),
`release.json`, a model card, and a manifest. A run folder serves as well: its newest verified checkpoint is read.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from translate import files
from translate.data import LabelsConfig
from translate.errors import CheckpointError, DiskError, UsageError
from translate.images.reading import ImageConfig
from translate.networks.growing import Growable, extend, fade_in
from translate.recipe import Recipe, Stage, load_recipe
from translate.runs.checkpoint import (
    Progress,
    best_checkpoint,
    newest_checkpoint,
    read_progress,
    read_tensors,
    seal,
    verify,
    write_network,
)
from translate.translators import Direction, Translator

RELEASE = "release.json"


@dataclass(frozen=True)
class Release:
    """A generator ready for use, in eval mode and fp32 on the CPU, and what goes in and comes out of it."""

    generator: nn.Module
    image_in: ImageConfig
    image_out: ImageConfig
    direction: Direction
    name: str
    fingerprint: str  # identifies weights, architecture and direction: two equal ones translate alike
    labels: LabelsConfig | None = None  # what goes in are label maps, which become one-hot images
    weights: Path | None = None  # the folder that they are from
    refused: tuple[str, ...] = ()  # newer checkpoints that do not verify, and why
    growth: str = ""  # of a network that has not grown to its end: what it knows, in words


def load_release(path: Path, direction: Direction = "ab") -> Release:
    """Read the generator of a run folder, of `<run>/best` (its best checkpoint), or of a release folder.

    Raises `UsageError` when there is no such folder or direction, `CheckpointError` when its files do not verify.
    """
    if path.name == "best" and (path.parent / "recipe.yaml").is_file():
        return _read(load_recipe(path.parent / "recipe.yaml"), _best_weights(path.parent), direction)
    if not path.is_dir():
        raise UsageError(f"{path}: no such folder; --model takes a run (runs/<name>) or a release folder")
    refused: list[str] = []
    if (path / RELEASE).is_file():
        weights, fault = path, verify(path)
        if fault is not None:
            raise CheckpointError(f"{path}: this release is damaged: {fault}")
    elif (path / "recipe.yaml").is_file():
        newest, refused = newest_checkpoint(path / "checkpoints")
        if newest is None:
            raise CheckpointError("\n".join([f"{path}: this run has no checkpoint that verifies yet", *refused]))
        weights = newest
    else:
        raise UsageError(f"{path}: neither a run nor a release: it holds no recipe.yaml")
    release = _read(load_recipe(path / "recipe.yaml"), weights, direction)
    return replace(release, refused=tuple(refused))


def _best_weights(run: Path) -> Path:
    weights = best_checkpoint(run / "checkpoints")
    if weights is None:
        raise UsageError(f"{run}: no evaluation of this run has said which checkpoint is the best; use --model {run}")
    if (fault := verify(weights)) is not None:
        raise CheckpointError(f"{weights}: the best checkpoint of this run is damaged: {fault}")
    return weights


def write_release(folder: Path, recipe: Recipe, translator: Translator, progress: Progress,
                  chosen: str = "last") -> None:
    """Replace `folder` by a release of the translator's generators. Raises `DiskError`.

    `progress` is what these generators have seen, and `chosen` why they and not others were taken.
    """
    building = folder.with_name(f"{files.TEMPORARY}{folder.name}")
    try:
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        for direction in translator.directions:
            write_network(building, f"generator_{direction}", translator.generator(direction))
        files.write_bytes(building / "recipe.yaml", recipe.dump_yaml().encode())
        files.write_json(building / RELEASE, {"name": recipe.name, "directions": translator.directions,
                                              "images": progress.images, "stage": progress.stage,
                                              "stage_images": progress.stage_images, "chosen": chosen,
                                              "diptych": version("diptych")})
        files.write_bytes(building / "README.md", _model_card(recipe, translator, progress.images, chosen).encode())
        seal(building)
        files.exchange_folder(building, folder)
    except OSError as error:
        shutil.rmtree(building, ignore_errors=True)
        raise DiskError.of(error, folder) from error


def _read(recipe: Recipe, weights: Path, direction: Direction) -> Release:
    a, b = recipe.data.image_a, recipe.data.image_b
    channels = recipe.data.channels_a, recipe.data.channels_b
    config = recipe.translator
    if not (weights / f"generator_{direction}.safetensors").is_file():
        raise UsageError(f"{recipe.name}: this {config.kind} model does not translate {direction[0]} to {direction[1]}")
    averaged = weights / f"ema_generator_{direction}.safetensors"
    file = averaged if averaged.is_file() else weights / f"generator_{direction}.safetensors"
    progress = _progress(weights)
    with torch.random.fork_rng(devices=[]):  # initialisation draws numbers that are replaced at once
        generator = config.generator.build(*(channels if direction == "ab" else reversed(channels)))
        shape = _shape(generator, recipe, progress)
    try:
        generator.load_state_dict(read_tensors(file))
    except RuntimeError as error:
        raise CheckpointError(f"{file}: not the network of its recipe: {error}") from None
    image_in, image_out = (a, b) if direction == "ab" else (b, a)
    identity = json.dumps([config.generator.model_dump(mode="json"), direction, channels, files.sha256(file),
                           image_in.model_dump(mode="json"), image_out.model_dump(mode="json"), *shape])
    return Release(generator.eval().requires_grad_(False), image_in, image_out, direction, recipe.name,
                   hashlib.sha256(identity.encode()).hexdigest(),
                   recipe.data if direction == "ab" and isinstance(recipe.data, LabelsConfig) else None, weights,
                   growth=_growth(recipe, progress))


def _progress(weights: Path) -> Progress:
    """How far a checkpoint or a release had been trained."""
    if not (weights / RELEASE).is_file():
        return read_progress(weights)
    about = json.loads((weights / RELEASE).read_text())
    return Progress(stage=about.get("stage", 0), stage_images=about.get("stage_images", 0))


def _stage(recipe: Recipe, progress: Progress) -> tuple[Stage, float]:
    """The stage that a network was trained in last, and the share of its newest level that had faded in."""
    stage = recipe.stages[progress.stage]
    return stage, progress.stage_images / stage.images if stage.fade else 1.0


def _growth(recipe: Recipe, progress: Progress) -> str:
    """What a network knows that has not all of its levels yet, or not for good; nothing of others."""
    (stage, share), levels = _stage(recipe, progress), recipe.stages[-1].levels
    if stage.levels == levels and share == 1:
        return ""
    faded = f", the newest faded in to α = {share:.2f}" if share < 1 else ""
    return (f"a network that is still growing: {stage.levels} of {levels} levels{faded}; it knows images of about "
            "{}×{} px".format(*stage.size))


def _shape(generator: nn.Module, recipe: Recipe, progress: Progress) -> tuple[float, ...]:
    """Give a generator the shape it had when its weights were written. Returns what says so; nothing without levels."""
    (stage, share), config = _stage(recipe, progress), recipe.translator.generator
    if not stage.levels or not isinstance(config, Growable):
        return ()
    extend(config, generator, stage.levels, stage.fade)
    fade_in(generator, share)
    return stage.levels, share


def _model_card(recipe: Recipe, translator: Translator, num_images: int, chosen: str) -> str:
    directions = ", ".join(f"{direction[0].upper()} → {direction[1].upper()}" for direction in translator.directions)
    data = recipe.data.card or "the folders its recipe names"
    return "\n".join([
        "---", "library_name: diptych", "tags: [image-to-image, " + recipe.translator.kind + "]", "---", "",
        f"# {recipe.name}", "",
        f"A {recipe.translator.kind} translator ({directions}), trained by Diptych {version('diptych')} on {data}, "
        f"{num_images:,} images ({chosen}).", "",
        "```", "translate convert photos/ out/ --model <this folder>", "```", "",
        "`recipe.yaml` says everything about its training.", ""])
