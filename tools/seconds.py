"""Predicted seconds beside measured ones: the tables of docs/planning.md.

    python tools/seconds.py           # the steps of docs/benchmarks-recipes.md and docs/benchmarks.md, of an H200
    python tools/seconds.py --cpu     # and small ones of this CPU, one thread, in a minute
    python tools/seconds.py --gpus    # the GPUs that have names

An H200 is predicted by its published numbers, and with layers whose norms, activations and paddings are operations of
their own, as they were when it was measured; this CPU by its measured numbers. Time on the CPU is the processor's, so
that what else the machine does is not counted; the plans take turns, and the fastest of three steps counts.
"""

from __future__ import annotations

import argparse
import datetime
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from accelerate import Accelerator

from tools.bench import our_step
from translate.networks import PatchGANConfig, ResNetConfig, UNetConfig, memory
from translate.networks.normalised import computed_by
from translate.optimizers import Optimizers
from translate.recipe import Stage, find_recipe, load_recipe
from translate.training.gpus import GPUS, gpu_named
from translate.training.machine import processor
from translate.training.plan import predict
from translate.training.speeds import MOVING, Speed, measured, published
from translate.training.step_on_meta import Networks, StepOnMeta
from translate.translators import CycleGANConfig, Pix2PixConfig

DOCS = Path(__file__).parent.parent / "docs"
LEAST_SECONDS = 0.05  # of a measured step: those below have one digit, and say nothing


class Compared(NamedTuple):
    """A step, in seconds an image."""

    what: str
    plan: str
    predicted: float
    measured: float

    @property
    def ratio(self) -> float:
        return self.predicted / self.measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="also measure steps of this CPU")
    parser.add_argument("--gpus", action="store_true", help="print what is published of GPUs, and no more")
    asked = parser.parse_args()
    if asked.gpus:
        print("| GPU | memory, GB | fp16, TFLOP/s | bf16 | fp32 | bandwidth, TB/s | share of TFLOP/s that is reached |")
        print("|---" * 7 + "|")
        for gpu in GPUS:
            print("| " + " | ".join("–" if value is None else str(value) for value in gpu[:-1]) + " |")
        return
    h200 = replace(published(gpu_named("H200"), "fp16"), moving=MOVING["apart"])
    print(f"{datetime.date.today().isoformat()}: an H200, by its published numbers and as it was measured\n")
    with computed_by("eager"):
        print(table([*of_recipes(h200), *at_1024(h200)]))
    if asked.cpu:
        torch.set_num_threads(1)
        speed = measured(torch.device("cpu"), "fp32")
        print(f"\n{processor()}, one thread, fp32: {speed.flops / 1e9:.0f} GFLOP/s, {speed.moved_bytes / 1e9:.1f} "
              f"GB/s, {speed.kernel_seconds * 1e6:.0f} µs a kernel\n")
        print(table(on_this_cpu(speed)))


def of_recipes(speed: Speed) -> list[Compared]:
    """The stages of docs/benchmarks-recipes.md."""
    found = []
    for line in (DOCS / "benchmarks-recipes.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        if len(cells) == 10 and (step := re.fullmatch(r"(\d+), batch (\d+)(, .*)?", cells[1])):
            recipe = load_recipe(find_recipe(cells[0]))
            stage = next(each for each in recipe.stages if each.size[0] == int(step[1])
                         and each.batch_size == int(step[2]) and each.level == (step[3] or ""))
            plan = memory.PLANS[cells[2]]  # type: ignore[index]
            predicted = predict(recipe, stage, plan, "fp16", speed=speed).seconds
            found.append(Compared(f"{cells[0]}, {cells[1]}", cells[2], predicted, float(cells[9])))
    return [each for each in found if each.measured >= LEAST_SECONDS]


def at_1024(speed: Speed) -> list[Compared]:
    """CycleGAN at 1024 px under all plans: docs/benchmarks.md has their times relative to the plain step."""
    recipe = load_recipe(find_recipe("monet2photo_2000"))
    stage = recipe.stages[-1].model_copy(update={"resolution": 1024})
    page = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    relative = dict(re.findall(r"^\| (\w+) \|.*\| ([\d.]+)× \|$", page.partition("1024×1024**")[2], re.MULTILINE))
    plain = 0.30 / float(relative["split"])  # benchmarks-recipes.md: that step takes 0.30 s under `split`
    return [Compared("CycleGAN, 1024, batch 1", name, predict(recipe, stage, plan, "fp16", speed=speed).seconds,
                     plain * float(relative[name])) for name, plan in memory.PLANS.items()]


def on_this_cpu(speed: Speed) -> list[Compared]:
    """Small steps under every plan."""
    def cyclegan(width: int) -> Any:
        return CycleGANConfig(generator=ResNetConfig(width=width, blocks=6), discriminator=PatchGANConfig(width=width))

    def pix2pix(width: int) -> Any:
        return Pix2PixConfig(generator=UNetConfig(width=width, norm="instance", downs=6),
                             discriminator=PatchGANConfig(width=width))

    Accelerator(cpu=True)
    found = []
    for name, config, size in (("CycleGAN, width 8", cyclegan(8), 64), ("CycleGAN, width 16", cyclegan(16), 128),
                               ("CycleGAN, width 32", cyclegan(32), 128), ("pix2pix, width 32", pix2pix(32), 256)):
        counted = StepOnMeta(Networks(translator=config, optimizer=Optimizers()), (3, 3),
                             Stage(resolution=size, images=1))
        steps = {plan.name: our_step(config, size, 1, plan, "fp32", torch.device("cpu"))
                 for plan in memory.PLANS.values()}
        taken: dict[memory.PlanName, list[float]] = {plan: [] for plan in steps}
        for _ in range(3):
            for plan, step in steps.items():
                begin = time.process_time()
                step()
                taken[plan].append(time.process_time() - begin)
        found += [Compared(f"{name}, {size} px", plan, speed.seconds(counted.measure(
            memory.PLANS[plan], "fp32", "cpu", 1).work), min(times)) for plan, times in taken.items()]
    return found


def table(rows: list[Compared]) -> str:
    """The rows as Markdown, and a line that sums them up."""
    lines = ["| step | plan | predicted, s an image | measured | predicted / measured |", "|---|---|---|---|---|"]
    lines += [f"| {each.what} | `{each.plan}` | {each.predicted:.3f} | {each.measured:.3f} | {each.ratio:.2f} |"
              for each in rows]
    ratios = [each.ratio for each in rows]
    near = sum(0.8 <= ratio <= 1.25 for ratio in ratios)
    return "\n".join([*lines, "", f"Median {median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}; "
                                  f"{near} of {len(ratios)} within 25 %."])


if __name__ == "__main__":
    main()
