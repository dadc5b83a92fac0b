"""Trainings of equal computing time, and the table of what came of them: for the tools that compare ways to train.

Each run is a line of a file, which only grows: a command that was stopped goes on where it was, and seeds may be added.
"""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from scipy.stats import t

from translate import __version__
from translate.data import batches
from translate.foreign import read_lines
from translate.networks import memory
from translate.optimizers import Adam, follow
from translate.places import data_root
from translate.precision import Format
from translate.recipe import Stage
from translate.training.built import parameters_of
from translate.training.update import Update
from translate.translators import Translator


@dataclass(frozen=True)
class Part:
    """A stage, and its share of the time."""

    share: float
    stage: Stage


def trained(recipe: Any, parts: list[Part], seed: int, seconds: float, device: str = "cpu", rate: float | None = None
            ) -> tuple[Translator, list[int]]:
    """Train a translator for so much time; return it, and how many images it has seen in each part.

    Time is that of the training thread, on a GPU that of the clock while a step is computed. The learning rate is
    `rate` (None: the recipe's) for half of the time and falls to zero over the other half, whatever the way.
    """
    configs = {phase: getattr(recipe.optimizer, phase) for phase in ("generator", "discriminator")}
    if rate is not None:
        configs = dict.fromkeys(configs, Adam(lr=rate))
    torch.manual_seed(seed)
    translator = recipe.translator.build(recipe.data.channels_a, recipe.data.channels_b, seed,
                                         recipe.data.num_classes)
    translator.to(torch.device(device))
    samples = recipe.data.build("train", data_root())
    accelerator, plan = Accelerator(cpu=device == "cpu"), memory.PLANS["split"]
    precision: Format = "fp32" if device == "cpu" else "bf16"
    optimizers: dict[str, torch.optim.Optimizer] = {}
    seen: list[int] = []
    begun = spent = 0.0
    for each in parts:
        stage = each.stage
        translator.take_shape(stage)
        for phase in translator.phases:
            if phase in optimizers:
                follow(optimizers[phase], parameters_of(translator, phase))
            else:
                optimizers[phase] = configs[phase].build(parameters_of(translator, phase))
        for network in translator.modules.values():
            memory.apply(plan, network)
        stream = batches(samples, seed=seed, start=sum(seen), stop=10**7, batch_size=stage.batch_size,
                         size=stage.size, resize=stage.resize, workers=1 if device == "cpu" else 12)
        seen.append(0)
        number = 0
        while spent < begun + each.share * seconds:
            batch = next(stream).to(device)
            start = seconds_on(device)
            translator.fade_in((spent - begun) / (each.share * seconds))
            for phase, optimizer in optimizers.items():
                optimizer.param_groups[0]["lr"] = configs[phase].lr * min(1.0, 2 * (1 - spent / seconds))
            update = Update(translator, optimizers, accelerator, plan, precision, number=number, images=sum(seen))
            translator.step(batch, update)
            translator.update_ema(len(batch), sum(seen))
            seen[-1] += len(batch)
            number += 1
            spent += seconds_on(device) - start
        begun += each.share * seconds
        translator.fade_in(1.0)
        stream.close()
    return translator, seen


def seconds_on(device: str) -> float:
    """What a step is timed by: this thread's own time, or the clock when a GPU has done what it was given."""
    if device == "cpu":
        return time.thread_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def machine() -> str:
    return (f"{datetime.date.today()}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
            f"one thread, torch {torch.__version__}, Python {platform.python_version()}, Diptych {__version__}")


def done(out: Path, **run: Any) -> bool:
    """Tell whether `out` holds a line of this run already."""
    return any(all(line.get(name) == value for name, value in run.items()) for line in read_lines(out))


def table(lines: list[dict[str, Any]], titles: dict[str, str]) -> str:
    """Return the mean of each score and its 95 % interval over the seeds (Student's t), as Markdown."""
    names = [name for name in titles if any(name in line["scores"] for line in lines)]
    rows = [f"| way | seeds | {' | '.join(titles[name] for name in names)} | images seen |",
            "|---" * (len(names) + 3) + "|"]
    for way in dict.fromkeys(line["way"] for line in lines):
        mine = [line for line in lines if line["way"] == way]
        cells = []
        for name in names:
            values = [line["scores"][name] for line in mine]
            cell = f"{statistics.mean(values):.4g}"
            if len(values) > 1:
                half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
                cell += f" ± {half:.2g}"
            cells.append(cell)
        images = " + ".join(f"{statistics.mean(each):,.0f}" for each in zip(*(line["images"] for line in mine),
                                                                             strict=True))
        rows.append(f"| {way} | {len(mine)} | {' | '.join(cells)} | {images} |")
    return "\n".join(rows)
