"""Two ways to draw digits, after equal processor time of one thread: docs/lectures.md shows the tables.

    python tools/lectures_equal_time.py growing --digits data/mnist --out growing.jsonl  from 4 px on, or at 16 at once?
    python tools/lectures_equal_time.py latents --digits data/mnist --out latents.jsonl   normal, or uniform latents?
    python tools/lectures_equal_time.py latents … --seconds 20 --seeds 1                  quickly

Networks, game and optimizers are the recipes' (`pggan_mnist`, `gan_mnist`); digits lie in memory. The ways take turns,
seed by seed, so that what else the machine does meets both. Learning rates fall to 0 over the second half of the time.
Every training adds a line to --out, which is gone on with; the table of all lines there is printed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch.nn.functional as F
from torch import Tensor

from tools.equal_time import done, machine, table
from tools.lectures_trained import Game, images_in
from translate.files import append_line
from translate.foreign import read_lines
from translate.metrics.distribution import kernel_distance
from translate.metrics.sliced_wasserstein import PyramidPatches, sliced_wasserstein
from translate.networks import memory
from translate.optimizers import follow
from translate.recipe import Stage, find_recipe, load_recipe
from translate.training.built import parameters_of

SAMPLES = 1_000
TITLES = {"kernel": "kernel distance ↓", "sliced": "sliced Wasserstein distance (×1000) ↓"}


@dataclass(frozen=True)
class Part:
    """A stage of a training: its share of the time, the levels of its networks, and whether the last fades in."""

    share: float
    levels: int = 0
    fade: bool = False


@dataclass(frozen=True)
class Way:
    """A recipe, what is changed of it, and its stages."""

    recipe: str
    changes: tuple[str, ...] = ()
    parts: tuple[Part, ...] = (Part(1.0),)


CLAIMS = {
    "growing": {
        "growing": Way("pggan_mnist", parts=(Part(0.1), Part(0.1, 1, True), Part(0.1, 1), Part(0.25, 2, True),
                                             Part(0.45, 2))),
        "at full size": Way("pggan_mnist", parts=(Part(1.0, 2),))},
    "latents": {
        "normal": Way("gan_mnist"),
        "uniform": Way("gan_mnist", ("translator.generator.distribution=uniform",))},
}


def trained(way: Way, digits: Tensor, seed: int, seconds: float) -> tuple[Game, list[int]]:
    """Train networks on digits (N, 1, H, W) for so much processor time; return them, and each part's number of images.
    """
    recipe = load_recipe(find_recipe(way.recipe), list(way.changes))
    rates = {phase: getattr(recipe.optimizer, phase).lr for phase in ("generator", "discriminator")}
    game = Game(recipe.translator.model_dump(), recipe.optimizer.generator.model_dump(), digits,
                torch.zeros(len(digits), 0, 1, 1), seed, recipe.stages[0].batch_size)
    config: Any = recipe.translator.generator
    begun = spent = 0.0
    seen: list[int] = []
    for part in way.parts:
        side = config.side_at(part.levels)
        game.reals = shrunk(digits, side)
        game.translator.take_shape(Stage(resolution=side, levels=part.levels, fade=part.fade, images=1))
        for phase, optimizer in game.optimizers.items():
            follow(optimizer, parameters_of(game.translator, phase))
        for network in game.translator.networks.values():
            memory.apply(game.plan, network)
        before = game.steps
        while spent < begun + part.share * seconds:
            start = time.process_time()
            game.translator.fade_in((spent - begun) / (part.share * seconds))
            for phase, optimizer in game.optimizers.items():
                optimizer.param_groups[0]["lr"] = rates[phase] * min(1.0, 2 * (1 - spent / seconds))
            game.step()
            spent += time.process_time() - start
        begun += part.share * seconds
        game.translator.fade_in(1.0)
        seen.append((game.steps - before) * game.batch)
    return game, seen


def shrunk(digits: Tensor, side: int) -> Tensor:
    return digits if digits.shape[-1] == side else F.interpolate(digits, size=side, mode="bilinear", antialias=True)


def scores(game: Game, test: Tensor) -> dict[str, float]:
    """Return how far samples are from test digits (N, 1, H, W): by pixels, and by the patches of a pyramid."""
    drawn = game.draw(SAMPLES)
    (level,) = sliced_wasserstein(*([PyramidPatches()(image) for image in images] for images in (drawn, test))).values()
    return {"kernel": kernel_distance(*([image.flatten()[None] for image in images] for images in (drawn, test))).value,
            "sliced": level}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claim", choices=CLAIMS)
    parser.add_argument("--digits", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    (digits, _), (test, _) = (images_in(asked.digits / split, 1, 28) for split in ("train", "test"))
    for seed in range(asked.seeds):
        for name, way in CLAIMS[asked.claim].items():
            if done(asked.out, way=name, seed=seed, seconds=asked.seconds):
                continue
            game, images = trained(way, digits, seed, asked.seconds)
            line = {"way": name, "seed": seed, "seconds": asked.seconds, "images": images,
                    "scores": scores(game, shrunk(test, game.reals.shape[-1])), "machine": machine()}
            append_line(asked.out, line)
            print(json.dumps(line), flush=True)
    lines = [line for line in read_lines(asked.out) if line["seconds"] == asked.seconds]
    print(f"{table(lines, TITLES)}\n\n{asked.seconds:g} s of processor time a training; {lines[-1]['machine']}.")


if __name__ == "__main__":
    main()
