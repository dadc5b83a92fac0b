"""The claims of the lectures that need trained networks, each tried on digits in minutes; docs/lectures.md shows them.

    python tools/lectures_trained.py modes --data data/stacked_digits --digits data/mnist       27 trainings
    python tools/lectures_trained.py modes … --seconds 10 --seeds 1 --only none r3              a part, quickly
    python tools/lectures_trained.py tstr --digits data/mnist --run runs/cgan_mnist
    python tools/lectures_trained.py truncation --digits data/mnist --run runs/cgan_mnist
    python tools/lectures_trained.py quality --digits data/mnist

Trainings get equal processor time, of one thread, whatever a step of theirs costs. Images lie in memory and steps are
the translators' own (`Translator.step`); what a run folder, its checkpoints and its report would cost is left out.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from accelerate import Accelerator
from pydantic import TypeAdapter
from torch import Tensor, nn

from translate import __version__
from translate.adapt.examples import Examples
from translate.adapt.tasks import confusions, train_task
from translate.data import Batch
from translate.data.hashing import stable_hash
from translate.data.labelled_layouts import ClassesConfig
from translate.images.reading import ImageConfig, read_image
from translate.images.tensors import to_tensor
from translate.metrics.modes import modes, stacked_modes
from translate.networks import memory
from translate.networks.eval_mode import evaluating
from translate.networks.tasks import CNNConfig
from translate.optimizers import Optimizers
from translate.recipe import Downstream
from translate.training.update import Update
from translate.translators import NoiseConfig, TranslatorConfig

BATCH, CHUNK = 32, 500
DIGITS = tuple("0123456789")
CLASSIFIER = Downstream(network=CNNConfig(width=16, downs=3), resolution=28, images=64_000, batch_size=64, lr=3e-3)
ADAM = {"kind": "adam", "lr": 5e-4, "betas": [0.5, 0.999]}  # more than the published 2e-4: there is little time
CALM_ADAM = {"kind": "adam", "lr": 5e-4, "betas": [0.0, 0.99]}
DCGAN = {"generator": {"kind": "dcgan", "side": 28, "width": 8},
         "discriminator": {"kind": "dcgan", "side": 28, "width": 8, "norm": "none"}}
REMEDIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # name: (of the translator, optimizer of both)
    "none": ({}, ADAM),
    "soft labels": ({"objective": {"kind": "nonsaturating", "smoothing": 0.1}}, ADAM),
    "going back": ({}, ADAM),
    "lsgan": ({"objective": {"kind": "lsgan"}}, ADAM),
    "wgan": ({"objective": {"kind": "wasserstein", "clip": 0.01}, "pace": {"generator": 5}},
             {"kind": "rmsprop", "lr": 2e-4}),
    "wgan_gp": ({"objective": {"kind": "wasserstein", "clip": None}, "penalty": {"kind": "wgan_gp", "weight": 10.0},
                 "pace": {"generator": 5}}, {"kind": "adam", "lr": 5e-4, "betas": [0.0, 0.9]}),
    "r1": ({"penalty": {"kind": "r1", "weight": 1.0}}, ADAM),
    "minibatch": ({"discriminator": DCGAN["discriminator"] | {"minibatch_kernels": 16}}, ADAM),
    "r3": ({"objective": {"kind": "relativistic"}, "penalty": {"kind": "r1_r2", "weight": 1.0}}, CALM_ADAM),
}
LOOK_EVERY = 100  # steps between the looks of `going back`


class Game:
    """A generator and a discriminator on images in memory: (N, C, H, W), drawn under conditions (N, K, 1, 1)."""

    def __init__(self, translator: dict[str, Any], optimizer: dict[str, Any], reals: Tensor, conditions: Tensor,
                 seed: int):
        torch.manual_seed(seed)
        self.reals, self.conditions, self.seed = reals, conditions, seed
        config = TypeAdapter(TranslatorConfig).validate_python({"kind": "noise"} | DCGAN | translator)
        self.config = cast(NoiseConfig, config)
        self.translator = config.build(conditions.shape[1], reals.shape[1], seed)
        both = Optimizers.model_validate({"generator": optimizer, "discriminator": optimizer})
        self.optimizers = {phase: getattr(both, phase).build(parameter for network in networks.values()
                                                             for parameter in network.parameters())
                           for phase, networks in self.translator.phases.items()}
        self.accelerator, self.plan, self.steps = Accelerator(cpu=True), memory.PLANS["split"], 0
        for network in self.translator.networks.values():
            memory.apply(self.plan, network)

    def step(self) -> dict[str, float]:
        """Do one step; return its losses."""
        chance = np.random.default_rng([self.seed, self.steps])
        chosen = torch.from_numpy(chance.integers(0, len(self.reals), BATCH))
        keys = tuple(stable_hash(self.seed, self.steps, number) for number in range(BATCH))
        batch = Batch(self.conditions[chosen], self.reals[chosen], keys)
        update = Update(self.translator, self.optimizers, self.accelerator, self.plan, "fp32", None, self.steps,
                        self.steps * BATCH)
        self.translator.step(batch, update)
        self.translator.update_ema(BATCH)
        self.steps += 1
        return {name: float(value) for name, value in (update.losses | update.observed).items()}

    @torch.no_grad()
    def draw(self, num: int, seed: int = 12_345, truncation: float | None = None) -> Tensor:
        """Draw samples 0 … num − 1, each under the condition of a real image."""
        generator, made = self.translator.generator("ab"), []
        with evaluating(generator):
            for start in range(0, num, CHUNK):
                numbers = range(start, min(start + CHUNK, num))
                conditions = self.conditions[torch.tensor(numbers) % len(self.conditions)]
                made.append(generator(self.config.joined(*self.config.draw(numbers, seed, truncation), conditions)))
        return torch.cat(made)

    def state(self) -> dict[str, Any]:
        return copy.deepcopy({"networks": {name: network.state_dict() for name, network
                                           in self.translator.networks.items()},
                              "optimizers": {name: each.state_dict() for name, each in self.optimizers.items()}})

    def go_back(self, state: dict[str, Any]) -> None:
        for name, network in self.translator.networks.items():
            network.load_state_dict(state["networks"][name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(copy.deepcopy(state["optimizers"][name]))


def play(game: Game, seconds: float, goes_back: bool = False,
         look: Callable[[Game, dict[str, float]], None] = lambda game, losses: None) -> int:
    """Step for so many seconds of processor time; return how often it went back to an earlier state.

    With `goes_back`, every `LOOK_EVERY` steps: where 64 samples differ half as much as at the best look so far, the
    game is put back to that look and goes on with other images; else the state is kept if it is the best.
    """
    spent, best, kept, times = 0.0, 0.0, None, 0
    while spent < seconds:
        start = time.process_time()
        losses = game.step()
        if goes_back and game.steps % LOOK_EVERY == 0:
            varied = float(game.draw(64).std(0).mean())
            if kept is not None and varied < best / 2:
                game.go_back(kept)
                times += 1
            elif varied > best:
                best, kept = varied, game.state()
        spent += time.process_time() - start
        look(game, losses)
    return times


def digits_classifier(digits: Path) -> tuple[nn.Module, float]:
    """Train a classifier of digits; return it with its accuracy on test digits."""
    layout = ClassesConfig(folder=digits, names=DIGITS)
    grey = ImageConfig(channels=1)
    train, test = (Examples.of(layout, layout.find(split, digits), grey, None)
                   for split in ("train", "test"))
    network = train_task(CLASSIFIER, train, 0, torch.device("cpu"))
    counts = np.sum(confusions(network, test, torch.device("cpu")), axis=0)
    return network, float(np.trace(counts[:, :10]) / counts.sum())


def images_in(folder: Path, channels: int) -> tuple[Tensor, list[Path]]:
    """Return all images below a folder, (N, C, H, W) in [-1, 1], and their files."""
    config = ImageConfig(channels=channels)
    paths = sorted(folder.rglob("*.png"))
    return torch.stack([to_tensor(read_image(path, config), config) for path in paths]), paths


def try_modes(arguments: argparse.Namespace) -> None:
    """How many of 1,000 modes each remedy finds, at equal processor time."""
    reals, paths = images_in(arguments.data / "train", 3)
    classifier, accuracy = digits_classifier(arguments.digits)
    # The shares of the modes, as the three digits of an image are drawn one by one.
    shares = np.bincount([int(digit) for path in paths for digit in path.stem[-3:]], minlength=10) / (3 * len(paths))
    expected = np.einsum("i,j,k->ijk", shares, shares, shares).ravel()
    truth = modes(stacked_modes(classifier, reals[:arguments.samples], 10), expected)
    say({"what": "classifier", "accuracy": accuracy})
    say({"what": "real", "modes": truth.found, "kl": truth.kl, "samples": arguments.samples})
    for seed in range(arguments.seeds):
        for name in arguments.only or REMEDIES:
            translator, optimizer = REMEDIES[name]
            game = Game(translator, optimizer, reals, torch.zeros(len(reals), 0, 1, 1), seed)
            times = play(game, arguments.seconds, goes_back=name == "going back")
            drawn = game.draw(arguments.samples)
            found = modes(stacked_modes(classifier, drawn, 10), expected)
            say({"what": "modes", "remedy": name, "seed": seed, "modes": found.found, "kl": found.kl,
                 "steps": game.steps, "returns": times})
            if arguments.out is not None:
                arguments.out.mkdir(parents=True, exist_ok=True)
                np.save(arguments.out / f"{name.replace(' ', '_')}_{seed}.npy", drawn[:64].half().numpy())


def say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("modes")
    command.set_defaults(run=try_modes)
    command.add_argument("--data", type=Path, required=True)
    command.add_argument("--digits", type=Path, required=True)
    command.add_argument("--seconds", type=float, default=40.0)
    command.add_argument("--seeds", type=int, default=3)
    command.add_argument("--samples", type=int, default=2_500)
    command.add_argument("--only", nargs="*", choices=REMEDIES)
    command.add_argument("--out", type=Path, help="keep samples of each training here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    say({"diptych": __version__, "torch": torch.__version__, "date": str(datetime.date.today()),
         "machine": f"{os.cpu_count()} cores, {platform.machine()}", "threads": 1})
    arguments.run(arguments)


if __name__ == "__main__":
    main()
