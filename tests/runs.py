"""What the tests of training share: a small recipe, a silent reporter, and runs in processes that can be killed."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from translate.recipe import Recipe
from translate.schema import validate
from translate.training.loop import train


def cyclegan_recipe(data: Path, /, **changes: Any) -> Recipe:
    """A CycleGAN with everything that a checkpoint must hold: pools that are full soon, an average, two stages."""
    return validate(Recipe, {
        "name": "toy", "data": {"kind": "unpaired", "folder": str(data), "resize": 40, "truth": True},
        "translator": {"kind": "cyclegan", "generator": {"kind": "resnet", "width": 2, "blocks": 1},
                       "discriminator": {"kind": "patchgan", "width": 2, "layers": 1}, "pool": 3, "ema": 0.9},
        "stages": [{"resolution": 16, "images": 12, "batch_size": 2},
                   {"resolution": 24, "images": 8, "batch_size": 2, "lr": {"kind": "linear"}}],
        "every": {"log": 4, "sample": 10, "checkpoint": 4}, "workers": 0, **changes}, "toy")


def pix2pix_recipe(data: Path, /, **changes: Any) -> Recipe:
    """A pix2pix with batch norm and dropout."""
    return validate(Recipe, {
        "name": "toy", "data": {"kind": "paired", "folder": str(data), "resize": 70},
        "translator": {"kind": "pix2pix", "generator": {"kind": "unet", "width": 2, "downs": 6},
                       "discriminator": {"kind": "patchgan", "width": 2, "layers": 1, "norm": "batch"}},
        "stages": [{"resolution": 64, "images": 12, "batch_size": 2}],
        "every": {"log": 4, "sample": 8, "checkpoint": 4}, "workers": 0, **changes}, "toy")


def least_recipe(data: Path, /, **changes: Any) -> Recipe:
    """A training of the least that there is: a third of the time of the others, for what any training shows."""
    return validate(Recipe, {
        "name": "toy", "data": {"kind": "paired", "folder": str(data), "resize": 40},
        "translator": {"kind": "pix2pix", "generator": {"kind": "resnet", "width": 2, "blocks": 1},
                       "discriminator": {"kind": "patchgan", "width": 2, "layers": 1}},
        "stages": [{"resolution": 16, "images": 24, "batch_size": 2}],
        "every": {"log": 4, "sample": 20, "checkpoint": 4}, "workers": 0, **changes}, "toy")


UNSEEN = {"log": 4, "sample": None, "checkpoint": 4, "evaluate": None}  # no picture and no score, which take time


def unseen_recipe(data: Path, /, **changes: Any) -> Recipe:
    """Half of the least training, of which nothing is shown."""
    stages = [{"resolution": 16, "images": 12, "batch_size": 2}]
    return least_recipe(data, **{"stages": stages, "every": UNSEEN} | changes)


def cut_recipe(data: Path, /, **changes: Any) -> Recipe:
    """A FastCUT with an identity loss besides, so that all there is of CUT is trained; with an average."""
    return validate(Recipe, {
        "name": "toy", "data": {"kind": "unpaired", "folder": str(data), "resize": 40, "truth": True},
        "translator": {"kind": "cut", "generator": {"kind": "resnet", "width": 2, "blocks": 1},
                       "discriminator": {"kind": "patchgan", "width": 2, "layers": 1, "minibatch_kernels": 2},
                       "patches": 9, "flip_equivariance": True, "ema": 0.9},
        "stages": [{"resolution": 16, "images": 12, "batch_size": 2}],
        "every": {"log": 4, "sample": 8, "checkpoint": 4}, "workers": 0, **changes}, "toy")


def stabilised_recipe(data: Path, /, **changes: Any) -> Recipe:
    """A CycleGAN with all that draws chance, counts steps or images, or keeps vectors of its own."""
    translator = {
        "kind": "cyclegan", "generator": {"kind": "resnet", "width": 2, "blocks": 1}, "pool": 3, "cycle_noise": 0.02,
        "discriminator": {"kind": "patchgan", "width": 2, "layers": 1, "spectral": True, "dropout": 0.2,
                          "minibatch_std": True},
        "objective": {"kind": "nonsaturating", "smoothing": 0.1, "flips": 0.2},
        "penalty": {"kind": "wgan_gp", "every": 3}, "noise": {"sigma": 0.1, "images": 15},
        "augment": ["color", "translation", "cutout"],
        "pace": {"discriminator": 2, "warmup": 4}}
    adam = {"kind": "adam", "clip": 0.5}
    stages = [{"resolution": 16, "images": 12, "batch_size": 2},
              {"resolution": 24, "images": 4, "batch_size": 2, "lr": {"kind": "linear"}}]
    optimizer = {"generator": adam, "discriminator": adam}
    return cyclegan_recipe(data, translator=translator, **{"optimizer": optimizer, "stages": stages} | changes)


class Silent:
    """A reporter that remembers, and calls back after every step."""

    def __init__(self, after_step: Callable[[int], None] = lambda images: None):
        self.lines: list[str] = []
        self.scored: list[tuple[int, int]] = []
        self.after_step = after_step

    def say(self, line: str) -> None:
        self.lines.append(line)

    def progress(self, images: int, total: int, stage: str, losses: dict[str, float],
                 seconds_left: float | None = None, stage_number: int = 0) -> None:
        self.after_step(images)

    def scoring(self, done: int, total: int) -> None:
        self.scored.append((done, total))


class Interrupted(Exception):
    """What a test stops a run with."""


def train_until(recipe: Recipe, folder: Path, images: int, resume: bool = False) -> None:
    """Train, and break off without any goodbye once `images` have been seen."""
    def stop(seen: int) -> None:
        if seen >= images:
            raise Interrupted

    try:
        train(recipe, folder, Silent(stop), resume=resume)
    except Interrupted:
        return
    raise AssertionError(f"the run ended before {images} images")


def final_state(folder: Path) -> dict[str, Any]:
    """The checksums of everything in the newest checkpoint: equal for two runs that agree bit for bit."""
    newest = sorted((folder / "checkpoints").glob("[0-9]" * 12))[-1]
    return {"images": newest.name, **json.loads((newest / "MANIFEST.json").read_text())}


def in_a_process(recipe: Recipe, folder: Path) -> tuple[Any, Any]:
    """Start or go on with a run in a forked process. Returns it, and the number of images it has seen."""
    context = multiprocessing.get_context("fork")  # it has torch already: a spawned one would import for seconds
    seen = context.Value("i", 0)

    def work() -> None:
        os.setpgid(0, 0)
        train(recipe, folder, Silent(lambda images: setattr(seen, "value", images)),
              resume=(folder / "recipe.yaml").exists())

    process = context.Process(target=work)
    process.start()
    return process, seen


GROWTH = [  # a stage before, one that fades in, one that goes on, and a second level that fades in and is the last
    {"resolution": 16, "images": 8, "batch_size": 2},
    {"resolution": 32, "images": 8, "batch_size": 2, "levels": 1, "fade": True},
    {"resolution": 32, "images": 4, "batch_size": 2, "levels": 1},
    {"resolution": 64, "images": 8, "batch_size": 2, "levels": 2, "fade": True, "resize": 70},
]


def growing_recipe(data: Path, /, **changes: Any) -> Recipe:
    """Of one generator, with an average."""
    return least_recipe(data, **{"stages": GROWTH, "every": {"log": 4, "sample": 8, "checkpoint": 4}, "translator": {
        "kind": "pix2pix", "generator": {"kind": "resnet", "width": 2, "blocks": 1}, "ema": 0.9,
        "discriminator": {"kind": "patchgan", "width": 2, "layers": 1}}} | changes)


def growing_cyclegan_recipe(data: Path, /, **changes: Any) -> Recipe:
    """Of two generators, with pools besides."""
    return cyclegan_recipe(data, **{"stages": GROWTH, "every": {"log": 4, "sample": 8, "checkpoint": 4}} | changes)

ROOT = Path(__file__).parent.parent
