"""What the guard sees and what it does not: induced failures and healthy trainings, small and real.

    python tools/guard_zoo.py --data data/earth                 the whole table, some minutes on one core
    python tools/guard_zoo.py --data data/earth --only healthy  a part: healthy, persistent, transient or overhead

A persistent failure goes on after every rollback: the guard must see it, name it, and give the training up within its
bound. After a transient one the training must end as well as one that never broke. A healthy training must be left
alone. Looks and patience are a tenth and a thirtieth of the defaults, and the learning rate five times the published
one, so that hundreds of images show what thousands do. Images are shrunk to 40 px beforehand.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from PIL import Image

import translate.training.loop
import translate.training.update
from tools.silent import Silent
from translate import __version__
from translate.data import Batch
from translate.errors import Collapsed
from translate.foreign import read_lines
from translate.losses.objectives import BaseObjective
from translate.recipe import Cadence, Recipe, Stage, find_recipe, load_recipe
from translate.schema import validate
from translate.training.guard import Guard
from translate.training.logbook import Logbook
from translate.training.loop import Run, train
from translate.training.update import Update

IMAGES, ONSET, BATCH = 600, 300, 4
GUARD = {"patience": 60, "rollbacks": 1}
EVERY = {"log": 20, "probe": 20, "sample": None, "checkpoint": 60, "evaluate": None}
ADAM = {"kind": "adam", "lr": 1e-3}
RESNET = {"kind": "resnet", "width": 6, "blocks": 1, "upsample": "resize"}
BATCHED = RESNET | {"norm": "batch"}
UNET = {"kind": "unet", "width": 6, "downs": 5}
PATCH = {"kind": "patchgan", "width": 8, "layers": 1}
AUTOENCODER = {"kind": "autoencoder", "width": 4, "downs": 2}

TRANSLATORS: dict[str, dict[str, Any]] = {  # healthy ones: every objective; pix2pix and CycleGAN, not CUT
    "pix2pix lsgan": {"kind": "pix2pix", "generator": BATCHED, "objective": {"kind": "lsgan"}, "weights": {"l1": 60}},
    "pix2pix nonsaturating": {"kind": "pix2pix", "generator": UNET, "discriminator": PATCH | {"norm": "batch"}},
    "pix2pix vanilla": {"kind": "pix2pix", "generator": RESNET, "objective": {"kind": "vanilla"}},
    "pix2pix little l1": {"kind": "pix2pix", "generator": BATCHED, "weights": {"l1": 5}},
    "pix2pix hinge": {"kind": "pix2pix", "generator": BATCHED, "objective": {"kind": "hinge"},
                      "discriminator": PATCH | {"spectral": True}},
    "cyclegan lsgan": {"kind": "cyclegan", "generator": RESNET},
    "cyclegan relativistic": {"kind": "cyclegan", "generator": RESNET, "objective": {"kind": "relativistic"}},
    "cyclegan wasserstein": {"kind": "cyclegan", "generator": RESNET, "objective": {"kind": "wasserstein"},
                             "pace": {"generator": 5}},
    "pix2pix wgan_gp": {"kind": "pix2pix", "generator": BATCHED, "objective": {"kind": "wasserstein", "clip": None},
                        "penalty": {"kind": "wgan_gp"}},
    "cyclegan began": {"kind": "cyclegan", "generator": RESNET, "objective": {"kind": "began"},
                       "discriminator": AUTOENCODER}}


def recipe_of(data: Path, translator: dict[str, Any], seed: int, images: int = IMAGES, **changes: Any) -> Recipe:
    """A small training on 32 px crops."""
    kind = "paired" if translator["kind"] == "pix2pix" else "unpaired"
    return validate(Recipe, {
        "name": "zoo", "seed": seed, "precision": "fp32", "workers": 0, "guard": GUARD, "every": EVERY,
        "data": {"kind": kind, "folder": str(data), "augment": ["flip"]},
        "optimizer": {"generator": ADAM, "discriminator": ADAM},
        "translator": {"discriminator": PATCH, **translator},
        "stages": [{"resolution": 32, "images": images, "batch_size": BATCH}], **changes}, "zoo")


# -- failures ----------------------------------------------------------------------------------------------------------

# Called before a step with the run, the batch, and whether this is the first time; returns the batch to train on.
Damage = Callable[[Run, Batch, bool], Batch]


def faster(run: Run, batch: Batch, first: bool) -> Batch:
    for optimizer in run.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] *= 500
    return batch


def last_layer(run: Run) -> torch.nn.Conv2d | torch.nn.ConvTranspose2d:
    return [part for part in run.translator.networks["generator_ab"].modules()
            if isinstance(part, torch.nn.Conv2d | torch.nn.ConvTranspose2d)][-1]


def constant(run: Run, batch: Batch, first: bool) -> Batch:
    if first:
        run.translator.networks["generator_ab"].register_forward_hook(lambda net, given, made: 0 * made + 0.3)
    return batch


def saturated(run: Run, batch: Batch, first: bool) -> Batch:
    if first:
        last_layer(run).register_forward_hook(lambda net, given, made: 1000 * made)
    return batch


def copying(run: Run, batch: Batch, first: bool) -> Batch:
    if first:
        run.translator.networks["generator_ab"].register_forward_hook(lambda net, given, made: given[0] + 0 * made)
    return batch


@torch.no_grad()
def dead(run: Run, batch: Batch, first: bool) -> Batch:
    for parameter in run.translator.networks["discriminator_b"].parameters():
        parameter.zero_()
    return batch


def too_strong(run: Run, batch: Batch, first: bool) -> Batch:
    """The generator has an artefact that it cannot get rid of, and hardly moves: D knows every fake by it."""
    if first:
        board = 0.3 * (2.0 * (torch.arange(64)[:, None] + torch.arange(64) & 1) - 1)
        run.translator.networks["generator_ab"].register_forward_hook(
            lambda net, given, made: made + board[:made.shape[2], :made.shape[3]])
    for group in run.optimizers["generator"].param_groups:
        group["lr"] *= 1e-3
    return batch


def turned(run: Run, batch: Batch, first: bool) -> Batch:
    """D learns the opposite of what it should."""
    if first:
        for parameter in run.translator.networks["discriminator_b"].parameters():
            parameter.register_hook(lambda gradient: -gradient)
    return batch


def bad_input(run: Run, batch: Batch, first: bool) -> Batch:
    return Batch(torch.full_like(batch.a, float("nan")), batch.b, batch.keys)


def bad_gradient(run: Run, batch: Batch, first: bool) -> Batch:
    weight = last_layer(run).weight

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        handle.remove()
        return gradient * float("nan")

    handle = weight.register_hook(spoil)
    return batch


@torch.no_grad()
def bad_weight(run: Run, batch: Batch, first: bool) -> Batch:
    last_layer(run).weight[0] = float("nan")
    return batch


@torch.no_grad()
def bad_statistics(run: Run, batch: Batch, first: bool) -> Batch:
    norms = [part for part in run.translator.networks["generator_ab"].modules()
             if isinstance(part, torch.nn.BatchNorm2d)]
    running = norms[0].running_var
    assert running is not None
    running.fill_(float("nan"))
    return batch


@dataclass(frozen=True)
class Failure:
    """What is done to a run: before every step, or, where it is transient, before so many."""

    damage: Damage
    signs: tuple[str, ...]  # what the guard may call it
    steps: int | None = None
    translator: str = "pix2pix lsgan"


PERSISTENT = {
    "learning rate × 500": Failure(faster, ("saturated", "lost", "exploded", "vanished", "blind", "constant", "fooled",
                                            "won", "not_finite")),
    "constant output": Failure(constant, ("constant",)),
    "saturated output": Failure(saturated, ("saturated",)),
    "identity copy": Failure(copying, ("copy",)),
    "identity copy, CycleGAN": Failure(copying, ("copy",), translator="cyclegan lsgan"),
    "dead discriminator": Failure(dead, ("blind",)),
    "discriminator too strong": Failure(too_strong, ("won",)),
    "discriminator turned round": Failure(turned, ("fooled",), translator="pix2pix little l1"),
    "NaN input": Failure(bad_input, ("not_finite",)),
    "NaN gradient": Failure(bad_gradient, ("not_finite",)),
    "NaN weight": Failure(bad_weight, ("not_finite",)),
    "NaN running statistics": Failure(bad_statistics, ("not_finite",)),
}
TRANSIENT = {
    "NaN input, 3 steps": Failure(bad_input, (), 3),
    "NaN gradient, 3 steps": Failure(bad_gradient, (), 3),
    "NaN weight, once": Failure(bad_weight, (), 1),
    "learning rate × 500, 3 steps": Failure(faster, (), 3),
    "learning rate × 500, 20 steps": Failure(faster, (), 20),
    "CycleGAN, learning rate × 500, 3 steps": Failure(faster, (), 3, "cyclegan lsgan"),
}


def shrunk(data: Path, folder: Path) -> Path:
    """The images of `data` at 40 px: decoding larger ones would take most of the time."""
    for side in ("trainA", "trainB", "testA", "testB"):
        (folder / side).mkdir(parents=True)
        for path in sorted((data / side).iterdir()):
            Image.open(path).convert("RGB").resize((40, 40), Image.Resampling.BOX).save(folder / side / path.name)
    return folder


@contextmanager
def broken(failure: Failure | None, onset: int = ONSET) -> Iterator[None]:
    """Trainings within the block are broken by `failure`, from `onset` images on."""
    done = 0

    class Broken(Run):
        def step(self, stage: Stage, batch: Batch) -> Update:
            nonlocal done
            if failure and self.progress.images >= onset and (failure.steps is None or done < failure.steps):
                batch = failure.damage(self, batch, done == 0)
                done += 1
            return super().step(stage, batch)

    translate.training.loop.Run = Broken  # type: ignore[misc]
    try:
        yield
    finally:
        translate.training.loop.Run = Run  # type: ignore[misc]


# -- runs --------------------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What a run has left."""

    events: list[dict[str, Any]]
    records: list[dict[str, Any]]
    given_up: str = ""  # the guard's last words

    @property
    def alarms(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["what"] == "collapse"]

    @property
    def error(self) -> float:
        """On the probe, as the mean of the last looks."""
        errors = [record["error_ab"] for record in self.records if record["kind"] == "probe"]
        return statistics.mean(errors[-5:])

    @property
    def num_looks(self) -> int:
        return sum(record["kind"] == "probe" for record in self.records)


def run(recipe: Recipe, failure: Failure | None = None) -> Outcome:
    with tempfile.TemporaryDirectory() as scratch, broken(failure):
        where, given_up = Path(scratch) / "run", ""
        try:
            train(recipe, where, Silent())
        except Collapsed as error:
            given_up = str(error)
        return Outcome(read_lines(where / "events.jsonl"), read_lines(where / "metrics.jsonl"), given_up)


def healthy(data: Path, num_seeds: int, names: list[str]) -> None:
    """Healthy trainings: there must be no alarm."""
    false = looks = total = 0
    for name in names:
        for seed in range(num_seeds):
            outcome = run(recipe_of(data, TRANSLATORS[name], seed))
            total, looks, false = total + 1, looks + outcome.num_looks, false + bool(outcome.alarms)
            for event in outcome.alarms:
                print(f"  FALSE ALARM {name}, seed {seed}: {event['message']}", flush=True)
    print(f"| healthy | {total} runs of {len(names)} recipes, {looks:,} looks | {false} false alarms |\n",
          flush=True)


def persistent(data: Path, names: list[str]) -> None:
    """Failures that come back after every rollback."""
    print("| persistent failure | seen as | after images | given up after images | rollbacks |\n|---|---|---|---|---|")
    seen = 0
    for name in names:
        failure = PERSISTENT[name]
        outcome = run(recipe_of(data, TRANSLATORS[failure.translator], 0, images=4 * IMAGES), failure)
        signs = [event["message"].split(": ")[1] for event in outcome.alarms]
        right = bool(outcome.given_up) and signs[0] in failure.signs
        seen += right
        first = outcome.alarms[0]["images"] - ONSET if outcome.alarms else None
        last = outcome.alarms[-1]["images"] - ONSET if outcome.given_up else None
        rolled = sum(event["what"] == "rollback" for event in outcome.events)
        named = ", ".join(dict.fromkeys(signs)) or "NOT SEEN"
        print(f"| {name} | {named}{'' if right else ' (!)'} | {first} | {last} | {rolled} |", flush=True)
    print(f"\nrecall: {seen} of {len(names)}\n", flush=True)


def transient(data: Path, names: list[str], num_seeds: int) -> None:
    """Failures that pass: the run must end within 10 % of the one that never broke. Beside them, what chance does."""
    def calm(translator: str, seed: int) -> Recipe:
        stage = {"resolution": 32, "images": IMAGES, "batch_size": BATCH, "lr": {"kind": "linear", "to": 0.0}}
        return recipe_of(data, TRANSLATORS[translator], seed, stages=[stage], guard=GUARD | {"rollbacks": 3})

    print("| transient failure | steps left out | rollbacks | error against the unbroken run |\n|---|---|---|---|")
    for name in names:
        failure = TRANSIENT[name]
        for seed in range(num_seeds):
            whole, mended = run(calm(failure.translator, seed)), run(calm(failure.translator, seed), failure)
            skipped = sum(event["what"] == "skipped" for event in mended.events)
            rolled = sum(event["what"] == "rollback" for event in mended.events)
            lost = " GIVEN UP" if mended.given_up else ""
            print(f"| {name}, seed {seed} | {skipped} | {rolled} | {mended.error / whole.error - 1:+.1%}{lost} |",
                  flush=True)
    for translator in dict.fromkeys(TRANSIENT[name].translator for name in names):
        errors = [run(calm(translator, seed)).error for seed in range(2 * num_seeds)]
        spread = statistics.stdev(errors) / statistics.mean(errors)
        print(f"| none: {translator} from {len(errors)} seeds | 0 | 0 | ± {spread:.1%} (one standard deviation) |",
              flush=True)


def overhead(data: Path, small: Path, looks: int = 2) -> None:
    """The share of a step's time that goes into all that the guard does and needs, looks at the default cadence."""
    seconds = dict.fromkeys(("step", "in steps", "in looks"), 0.0)
    calls = dict.fromkeys(seconds, 0)

    def timed(function: Callable[..., Any], what: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            start = time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                seconds[what] += time.process_time() - start
                calls[what] += 1

        return call

    places = [(Run, "step", "step"), (Guard, "note", "in steps"), (Update, "_is_broken", "in steps"),
              (BaseObjective, "verdict", "in steps"), (translate.training.update, "gradient_norm", "in steps"),
              (Logbook, "probe", "in looks"), (Guard, "look", "in looks")]
    functions = [getattr(owner, name) for owner, name, _ in places]
    for (owner, name, what), function in zip(places, functions, strict=True):
        setattr(owner, name, timed(function, what))
    earth = load_recipe(find_recipe("earth")).dump()
    whole = {"kind": "paired", "folder": str(data), "augment": ["flip"]}
    print("| at the default cadence | a step | a look | overhead |\n|---|---|---|---|")
    try:
        tiny = recipe_of(small, TRANSLATORS["pix2pix lsgan"], 0).dump()
        for name, recipe in (("pix2pix, 128 px (recipes/earth.yaml)", earth | {"data": whole, "precision": "fp32"}),
                             ("pix2pix, 32 px, tiny networks", tiny)):
            batch = recipe["stages"][0]["batch_size"]
            recipe |= {"stages": [recipe["stages"][0] | {"images": 10 * batch * looks}], "workers": 0, "guard": {},
                       "every": EVERY | {"probe": 10 * batch}}
            seconds.update(dict.fromkeys(seconds, 0.0)), calls.update(dict.fromkeys(calls, 0))
            run(validate(Recipe, recipe, name))
            step, look = seconds["step"] / calls["step"], seconds["in looks"] / looks
            share = (seconds["in steps"] / calls["step"] + look * batch / Cadence().probe) / step
            print(f"| {name}, batch {batch} | {1e3 * step:.0f} ms | {1e3 * look:.0f} ms | {share:.1%} |", flush=True)
    finally:
        for (owner, name, _), function in zip(places, functions, strict=True):
            setattr(owner, name, function)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/earth"), help="a prepared set of pairs")
    parser.add_argument("--only", choices=["healthy", "persistent", "transient", "overhead"])
    parser.add_argument("--seeds", type=int, default=2, help="of each recipe that is healthy, or is to get well")
    parser.add_argument("--case", help="only failures, or healthy recipes, whose name holds this")
    words = parser.parse_args()
    torch.set_num_threads(1)
    start = time.monotonic()
    wanted = words.case or ""
    with tempfile.TemporaryDirectory() as scratch:
        data = shrunk(words.data, Path(scratch) / "data")
        if words.only in (None, "persistent"):
            persistent(data, [name for name in PERSISTENT if wanted in name])
        if words.only in (None, "transient"):
            transient(data, [name for name in TRANSIENT if wanted in name], words.seeds)
        if words.only in (None, "healthy"):
            healthy(data, words.seeds, [name for name in TRANSLATORS if wanted in name])
        if words.only in (None, "overhead"):
            overhead(words.data, data)
    print(f"\n{time.monotonic() - start:.0f} s; Diptych {__version__}, torch {torch.__version__}, one thread of "
          f"{os.cpu_count()} cores ({platform.machine()}), {datetime.date.today()}")


if __name__ == "__main__":
    main()
