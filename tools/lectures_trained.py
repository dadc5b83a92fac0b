"""The claims of the lectures that need trained networks, each tried on digits in minutes; docs/lectures.md shows them.

    python tools/lectures_trained.py modes --data data/stacked_digits --digits data/mnist       24 trainings
    python tools/lectures_trained.py modes … --seconds 10 --seeds 1 --only none r3              a part, quickly
    python tools/lectures_trained.py table modes.jsonl                  what `modes` printed, as a table
    python tools/lectures_trained.py quality --digits data/mnist        does a loss tell of quality? 6 trainings
    python tools/lectures_trained.py tstr --run runs/cgan_mnist         are samples of their class? what do they teach?
    python tools/lectures_trained.py classes --digits data/mnist --runs runs/infogan …     which digits do they draw?
    python tools/lectures_trained.py truncation --run runs/cgan_mnist   does truncation trade variety for precision?
    python tools/lectures_trained.py walk --run runs/gan_mnist_conv     is the way from one sample to the next smooth?
    python tools/lectures_trained.py game --run runs/gan_mnist_conv     how often was its discriminator right?

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
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from pydantic import TypeAdapter
from scipy.stats import sem, spearmanr, t
from torch import Tensor, nn

from translate import __version__
from translate.adapt.drawn import add_drawn
from translate.data import Batch
from translate.data.hashing import stable_hash
from translate.evaluation.results import Results
from translate.foreign import read_lines
from translate.images.reading import ImageConfig, read_image
from translate.images.tensors import to_tensor
from translate.metrics import intervals
from translate.metrics.distribution import kernel_distance, precision_recall
from translate.metrics.modes import histogram, modes, named, stacked_modes
from translate.networks import memory
from translate.networks.eval_mode import evaluating
from translate.networks.task_networks import CNNConfig
from translate.optimizers import Optimizers
from translate.places import data_root
from translate.runs.records import METRICS
from translate.sampling.latents import between
from translate.sampling.nearest import small
from translate.sampling.sampler import Sampler
from translate.training.update import Update
from translate.translators import NoiseConfig, TranslatorConfig

SIDE = 14  # px: digits at half their size, so that seconds of a processor go a long way
BATCH, CHUNK = 64, 500
CLASSIFIER_STEPS = 2_000
ADAM = {"kind": "adam", "lr": 5e-4, "betas": [0.5, 0.999]}  # more than the published 2e-4: there is little time
CALM_ADAM = {"kind": "adam", "lr": 5e-4, "betas": [0.0, 0.99]}
PERCEPTRONS = {"generator": {"kind": "mlp", "side": SIDE, "widths": [128, 256], "norm": "batch", "latent": 64},
               "discriminator": {"kind": "mlp", "side": SIDE, "widths": [256, 128]}}
REMEDIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # name: (of the translator, optimizer of both)
    "none": ({}, ADAM),
    "soft labels": ({"objective": {"kind": "nonsaturating", "smoothing": 0.1}}, ADAM),
    "going back": ({}, ADAM),
    "lsgan": ({"objective": {"kind": "lsgan"}}, ADAM),
    "wgan": ({"objective": {"kind": "wasserstein", "clip": 0.01}, "pace": {"generator": 5}},
             {"kind": "rmsprop", "lr": 2e-4}),
    "wgan_gp": ({"objective": {"kind": "wasserstein", "clip": None}, "penalty": {"kind": "wgan_gp", "weight": 10.0},
                 "pace": {"generator": 5}}, {"kind": "adam", "lr": 5e-4, "betas": [0.0, 0.9]}),
    "minibatch discrimination": ({"discriminator": PERCEPTRONS["discriminator"] | {"minibatch_kernels": 16}}, ADAM),
    "r1": ({"penalty": {"kind": "r1", "weight": 1.0}}, ADAM),
    "r3": ({"objective": {"kind": "relativistic"}, "penalty": {"kind": "r1_r2", "weight": 1.0}}, CALM_ADAM),
}
LOOK_EVERY = 100  # steps between the looks of `going back`


class Game:
    """A generator and a discriminator on images in memory: (N, C, H, W), drawn under conditions (N, K, 1, 1)."""

    def __init__(self, translator: dict[str, Any], optimizer: dict[str, Any], reals: Tensor, conditions: Tensor,
                 seed: int, batch: int = BATCH):
        torch.manual_seed(seed)
        self.reals, self.conditions, self.seed, self.batch = reals, conditions, seed, batch
        config = TypeAdapter(TranslatorConfig).validate_python({"kind": "noise"} | PERCEPTRONS | translator)
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
        chosen = torch.from_numpy(chance.integers(0, len(self.reals), self.batch))
        keys = tuple(stable_hash(self.seed, self.steps, number) for number in range(self.batch))
        batch = Batch(self.conditions[chosen], self.reals[chosen], keys)
        update = Update(self.translator, self.optimizers, self.accelerator, self.plan, "fp32", None, self.steps,
                        self.steps * self.batch)
        self.translator.step(batch, update)
        self.translator.update_ema(self.batch, self.steps * self.batch)
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


def digits_classifier(digits: Path, side: int = SIDE) -> tuple[nn.Module, float]:
    """Train a classifier of digits of `side` px on real ones; return it with its accuracy on test digits.

    It sees them turned, slanted, scaled and moved a little. As they are, 97.6 % of 14 px would be right and not 98.4.
    """
    (images, paths), (test, test_paths) = (images_in(digits / split, 1, side) for split in ("train", "test"))
    truth, test_truth = (torch.tensor([int(path.parent.name) for path in each]) for each in (paths, test_paths))
    torch.manual_seed(0)
    network = CNNConfig(width=24 if side < 28 else 16, downs=2 if side < 28 else 3).build(1, 10)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for step in range(CLASSIFIER_STEPS):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 + np.cos(np.pi * step / CLASSIFIER_STEPS)) / 2
        chosen = torch.randint(len(images), (BATCH,))
        loss = F.cross_entropy(network(warped(images[chosen])), truth[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    return network, float((named(network, test) == test_truth.numpy()).mean())


def warped(images: Tensor) -> Tensor:
    """Return digits (N, 1, H, W) turned by up to 14°, slanted, scaled and moved, each in its own way."""
    angle, scale, slant = ((torch.rand(3, len(images)) - 0.5) * torch.tensor([[0.5], [0.3], [0.4]])).unbind()
    down, right = (torch.rand(2, len(images)) - 0.5) * 0.2
    rows = [(1 + scale) * angle.cos(), slant - (1 + scale) * angle.sin(), right,
            (1 + scale) * angle.sin(), (1 + scale) * angle.cos(), down]
    grid = F.affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images + 1, grid, align_corners=False) - 1  # what comes in from outside is black


def images_in(folder: Path, channels: int, side: int = SIDE) -> tuple[Tensor, list[Path]]:
    """Return all images below a folder, (N, C, side, side) in [-1, 1], and their files."""
    config = ImageConfig(channels=channels)
    paths = sorted(folder.rglob("*.png"))
    images = torch.stack([to_tensor(read_image(path, config), config) for path in paths])
    return F.avg_pool2d(images, images.shape[-1] // side), paths


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
    for seed in range(arguments.first_seed, arguments.seeds):
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


def show_table(arguments: argparse.Namespace) -> None:
    """The modes of each remedy and seed, with the mean and its 95 % interval (Student's t, over seeds)."""
    lines = [line for path in arguments.lines for line in read_lines(path) if line.get("what") == "modes"]
    seeds = sorted({line["seed"] for line in lines})
    print(f"| remedy | {' | '.join(f'seed {seed}' for seed in seeds)} | mean | 95 % interval | KL | steps |")
    print("|---" * (len(seeds) + 5) + "|")
    means, spreads = [], []
    names = dict.fromkeys(line["remedy"] for line in lines)
    for name in sorted(names, key=lambda name: -np.mean([line["modes"] for line in lines if line["remedy"] == name])):
        own = {line["seed"]: line for line in lines if line["remedy"] == name}
        found = np.array([line["modes"] for line in own.values()])
        low, high = (found.mean(), found.mean()) if np.ptp(found) == 0 else t.interval(
            0.95, len(found) - 1, found.mean(), sem(found))
        means.append(found.mean())
        spreads.append(found.std(ddof=1) if len(found) > 1 else np.nan)
        kl, steps = (np.mean([line[what] for line in own.values()]) for what in ("kl", "steps"))
        print(f"| {name} | {' | '.join(str(own[seed]['modes']) if seed in own else '—' for seed in seeds)} | "
              f"{found.mean():.0f} | {max(low, 0):.0f} to {high:.0f} | {kl:.2f} | {steps:.0f} |")
    within = np.sqrt(np.nanmean(np.square(spreads)))
    print(f"deviation over the seeds of a remedy (root mean square): {within:.1f}; over the means of the remedies: "
          f"{np.std(means, ddof=1):.1f}")


def try_quality(arguments: argparse.Namespace) -> None:
    """Whether losses rank the moments of a training as a distance to real images does."""
    reals, _ = images_in(arguments.digits / "train", 1)
    held_out = [image.flatten()[None] for image in images_in(arguments.digits / "test", 1)[0][::4]]
    for seed in range(arguments.seeds):
        for name in ("none", "wgan_gp"):
            translator, optimizer = REMEDIES[name]
            game = Game(translator, optimizer, reals, torch.zeros(len(reals), 0, 1, 1), seed)
            seen: list[dict[str, float]] = []
            since: list[dict[str, float]] = []

            def look(game: Game, losses: dict[str, float], since: list[dict[str, float]] = since,
                     seen: list[dict[str, float]] = seen) -> None:
                since.append(losses)
                if game.steps % 25 == 0:
                    drawn = [image.flatten()[None] for image in game.draw(len(held_out))]
                    means = {key: float(np.mean([each[key] for each in since if key in each]))
                             for key in ("discriminator_b", "adversarial", "right_b")}
                    seen.append(means | {"distance": kernel_distance(drawn, held_out).value})
                    since.clear()

            play(game, arguments.seconds, look=look)
            correlation = {key: float(spearmanr([each[key] for each in seen], [each["distance"] for each in seen])[0])
                           for key in ("discriminator_b", "adversarial")}
            say({"what": "quality", "game": name, "seed": seed, "looks": len(seen), "rank correlation": correlation,
                 "distance": [seen[0]["distance"], seen[-1]["distance"]],
                 "d is right": float(np.mean([each["right_b"] for each in seen]))})


def try_tstr(arguments: argparse.Namespace) -> None:
    """What a classifier says of a run's samples, and what another learns from them."""
    results = Results({}, {})
    add_drawn(results, arguments.run_folder, images=arguments.images)
    for name, score in results.scores.items():
        say({"what": name, "samples": str(score), "real": str(results.floor[name])})
    say({"what": "drawn", **results.about["drawn"]})


def try_classes(arguments: argparse.Namespace) -> None:
    """Which digits runs draw, by a classifier of its own: as many of each as asked for, or as its code says."""
    classifier, accuracy = digits_classifier(arguments.digits, 28)
    say({"what": "classifier", "accuracy": accuracy})
    for run in arguments.runs:
        for psi in (None, *arguments.truncation):
            say({"run": run.name, "psi": psi} | classes_of(Sampler.load(run), classifier, arguments.samples, psi))


def classes_of(sampler: Sampler, classifier: nn.Module, num: int, psi: float | None) -> dict[str, Any]:
    asked = [number % 10 if sampler.num_classes else None for number in range(num)]
    drawn = torch.stack(list(sampler.sample(range(num), 0, asked, psi)))
    found = named(classifier, F.interpolate(drawn, size=28, mode="bilinear", antialias=True))
    shares = histogram(found, 10) / num
    line: dict[str, Any] = {"samples": num, "shares": [round(share, 3) for share in shares.tolist()],
                            "deviation": float(drawn.std(0).mean())}
    if sampler.num_classes:
        share = intervals.mean([float(one == other) for one, other in zip(found, asked, strict=True)])
        line |= {"as asked": share.value, "interval": [share.low, share.high]}
    if sampler.num_values:
        values = sampler.config.draw(range(num), 0)[1][:, :sampler.num_values].argmax(1).numpy()
        counts = np.array([histogram(found[values == value], 10) for value in range(sampler.num_values)])
        line |= {"purity": float(counts.max(1).sum() / num), "digits of the values": counts.argmax(1).tolist()}
    return line


def try_truncation(arguments: argparse.Namespace) -> None:
    """Precision and recall of a run's samples, by their pixels, at several truncations."""
    sampler = Sampler.load(arguments.run_folder)
    test = sampler.recipe.data.build("test", data_root())
    step = max(1, len(test) // arguments.samples)
    fitting = sampler.release.fitting
    reals = [small(test.whole(number, fitting.resize, fitting.crop).b)[None] for number in range(0, len(test), step)]
    for psi in (None, 1.5, 1.0, 0.7, 0.5, 0.3, 0.1):
        drawn = [small(image)[None] for image in sampler.sample(range(len(reals)), 0, truncation=psi)]
        precision, recall = precision_recall(drawn, reals)
        say({"what": "truncation", "psi": psi, "precision": str(precision), "recall": str(recall),
             "deviation": float(torch.cat(drawn).std(0).mean())})


def try_walk(arguments: argparse.Namespace) -> None:
    """How far neighbours on ways between samples are apart: the largest step beside the median one."""
    sampler, steps, ratios = Sampler.load(arguments.run_folder), 25, []
    condition = sampler.condition(0 if sampler.num_classes else None)
    for way in range(20):
        latents, codes = sampler.latents([2 * way, 2 * way + 1], 0)
        along = torch.stack([between(latents[0], latents[1], step / (steps - 1), sampler.distribution)
                             for step in range(steps)])
        images = list(sampler.images(along, codes[:1].expand(steps, -1), [condition] * steps))
        apart = [float((one - other).square().mean().sqrt()) for one, other in pairwise(images)]
        ratios.append(max(apart) / float(np.median(apart)))
    say({"what": "walk", "ways": len(ratios), "largest step / median step": {
        "median": float(np.median(ratios)), "largest": max(ratios), "at most 3": sum(each <= 3 for each in ratios)}})


def try_game(arguments: argparse.Namespace) -> None:
    """How often a run's discriminator was right, over its training."""
    right = [line["right_b"] for line in read_lines(arguments.run_folder / METRICS) if "right_b" in line]
    say({"what": "game", "records": len(right), "right on average": float(np.mean(right)),
         "share of records above one half": float(np.mean([each > 0.5 for each in right]))})


def say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("modes")
    command.set_defaults(run=try_modes)
    command.add_argument("--data", type=Path, required=True)
    command.add_argument("--digits", type=Path, required=True)
    command.add_argument("--seconds", type=float, default=12.0)
    command.add_argument("--seeds", type=int, default=3)
    command.add_argument("--first-seed", type=int, default=0)
    command.add_argument("--samples", type=int, default=2_500)
    command.add_argument("--only", nargs="*", choices=REMEDIES)
    command.add_argument("--out", type=Path, help="keep samples of each training here")
    for name, run in (("quality", try_quality), ("tstr", try_tstr), ("truncation", try_truncation), ("walk", try_walk),
                      ("game", try_game)):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        if name == "quality":
            command.add_argument("--digits", type=Path, required=True)
            command.add_argument("--seconds", type=float, default=12.0)
            command.add_argument("--seeds", type=int, default=3)
        else:
            command.add_argument("--run", type=Path, required=True, dest="run_folder")
        if name == "tstr":
            command.add_argument("--images", type=int, default=64_000, help="that each classifier sees")
        if name == "truncation":
            command.add_argument("--samples", type=int, default=1_000)
    command = commands.add_parser("classes")
    command.set_defaults(run=try_classes)
    command.add_argument("--digits", type=Path, required=True)
    command.add_argument("--runs", type=Path, nargs="+", required=True)
    command.add_argument("--truncation", type=float, nargs="*", default=())
    command.add_argument("--samples", type=int, default=2_000)
    command = commands.add_parser("table")
    command.set_defaults(run=show_table)
    command.add_argument("lines", type=Path, nargs="+")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.run is not show_table:
        say({"diptych": __version__, "torch": torch.__version__, "date": str(datetime.date.today()),
             "machine": f"{os.cpu_count()} cores, {platform.machine()}", "threads": 1})
    arguments.run(arguments)


if __name__ == "__main__":
    main()
