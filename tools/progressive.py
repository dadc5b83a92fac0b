"""Ways to a high resolution, compared: held-out scores at the top resolution after equal computing time.

    python tools/progressive.py --seconds 45 --out progressive.jsonl
    python tools/progressive.py --ways growing scratch --seeds 3 4 --out progressive.jsonl   # adds to what is there

Needs the earth card (`translate data prepare earth`) and, for the kernel distance, `translate data features`. Each way
trains the recipe `earth` (pix2pix), made narrower, for the same CPU time of the training thread, on one thread; loading
images is left to another process. The ways take turns, seed by seed, so that what else the machine does meets all of
them. Every run adds a line to --out; the table of all lines there is printed at the end, as Markdown.

Test tiles are shrunk to the top resolution and translated whole: every way is scored on the same images. A stage at
r px sees tiles shrunk likewise, so that a crop of r px always shows the same area; patches are crops at the top scale.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from translate import __version__
from translate.data import batches, held_out
from translate.data.scale import Fitting
from translate.files import append_line
from translate.foreign import read_lines
from translate.metrics.features import MobileNet, find_mobilenet
from translate.metrics.observations import MEASURES, observe, summarise
from translate.networks import memory
from translate.optimizers import Adam, follow
from translate.places import data_root
from translate.precision import Format
from translate.recipe import Stage, find_recipe, load_recipe
from translate.training.step_on_meta import parameters_of
from translate.training.update import Update
from translate.translators import Translator

TILE, CROP = 300, 256  # of a tile of the card as many pixels are seen at once, at any resolution
SHOWN = ("ssim", "psnr", "l1", "gradient_error", "kernel_distance")
BATCH, RATE = 4, 5e-4  # a rate above the recipe's, for runs of some hundred steps


@dataclass(frozen=True)
class Part:
    """A stage, and its share of the time."""

    share: float
    stage: Stage


def part(share: float, resolution: int, scale: int | None = None, **shape: Any) -> Part:
    """Crops of `resolution` px out of tiles that are as large as for crops of `scale` px (None: of the same)."""
    return Part(share, Stage(resolution=resolution, resize=round((scale or resolution) * TILE / CROP), images=1,
                             batch_size=BATCH, **shape))


def ways(top: int) -> dict[str, list[Part]]:
    """Every way, for images of `top` px."""
    half, quarter = top // 2, top // 4
    return {
        "scratch": [part(1.0, top)],
        "patches": [part(1.0, half, top)],
        "schedule": [part(0.15, quarter), part(0.25, half), part(0.6, top)],
        "growing": [part(0.25, half), part(0.3, top, levels=1, fade=True), part(0.45, top, levels=1)],
        "growing twice": [part(0.15, quarter), part(0.1, half, levels=1, fade=True), part(0.15, half, levels=1),
                          part(0.2, top, levels=2, fade=True), part(0.4, top, levels=2)],
        "scratch, grown network": [part(1.0, top, levels=1)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ways", nargs="+", choices=list(ways(128)), default=list(ways(128)))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=45.0, help="CPU time of each run")
    parser.add_argument("--top", type=int, default=128, help="px of the crops at the top resolution")
    parser.add_argument("--set", nargs="+", default=[], help="changes of the recipe, such as translator.ema=0.99")
    parser.add_argument("--out", type=Path, default=Path("progressive.jsonl"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    changes = ["translator.generator.width=16", "translator.discriminator.width=16",
               "translator.discriminator.layers=2", "translator.ema=0.99", *asked.set]
    recipe = load_recipe(find_recipe("earth"), changes)
    setting = {"top": asked.top, "cpu_seconds": asked.seconds, "changes": changes}
    for seed in asked.seeds:
        for way in asked.ways:
            if any(each["way"] == way and each["seed"] == seed and each["setting"] == setting
                   for each in read_lines(asked.out)):
                continue
            translator, images = trained(recipe, ways(asked.top)[way], seed, asked.seconds)
            line = {"way": way, "seed": seed, "setting": setting, "images": images,
                    "scores": scores(recipe, translator, asked.top), "machine": machine()}
            append_line(asked.out, line)
            print(json.dumps(line), flush=True)
    print(table([each for each in read_lines(asked.out) if each["setting"] == setting]))


def trained(recipe: Any, parts: list[Part], seed: int, seconds: float, device: str = "cpu"
            ) -> tuple[Translator, list[int]]:
    """A translator trained for so much time, and how many images it has seen in each part.

    Time is that of the training thread, on a GPU that of the clock while a step is computed. The learning rate is
    constant for half of the time and falls to zero over the other half, whatever the way.
    """
    torch.manual_seed(seed)
    translator = recipe.translator.build(recipe.data.channels_a, recipe.data.channels_b, seed)
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
                optimizers[phase] = Adam(lr=RATE).build(parameters_of(translator, phase))
        for network in translator.modules.values():
            memory.apply(plan, network)
        stream = batches(samples, seed=seed, start=sum(seen), stop=10**7, batch_size=stage.batch_size,
                         size=stage.size, resize=stage.resize, workers=1 if device == "cpu" else 12)
        seen.append(0)
        while spent < begun + each.share * seconds:
            batch = next(stream).to(device)
            start = seconds_on(device)
            translator.fade_in((spent - begun) / (each.share * seconds))
            for optimizer in optimizers.values():
                optimizer.param_groups[0]["lr"] = RATE * min(1.0, 2 * (1 - spent / seconds))
            update = Update(translator, optimizers, accelerator, plan, precision, images=sum(seen))
            translator.step(batch, update)
            translator.update_ema(len(batch), sum(seen))
            seen[-1] += len(batch)
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


@torch.no_grad()
def scores(recipe: Any, translator: Translator, top: int) -> dict[str, float]:
    """On all test tiles, whole, at the top resolution."""
    side = round(top * TILE / CROP)
    weights = find_mobilenet()
    networks = [MobileNet(weights, torch.device("cpu"))] if weights else []
    tiles = held_out(recipe.data, data_root(), 1_000, Fitting(side, (side, side)))
    generator = translator.generator("ab").eval()
    fakes = [observe(generator(a[None])[0], b, networks, small=None) for a, b, *_ in tiles]
    reals = [observe(b, None, networks, small=None) for _, b, *_ in tiles]
    return {name: estimate.value for name, estimate in summarise(fakes, reals, paired=True).items() if name in SHOWN}


def machine() -> str:
    return (f"{datetime.date.today()}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
            f"one thread, torch {torch.__version__}, Python {platform.python_version()}, Diptych {__version__}")


def table(lines: list[dict[str, Any]]) -> str:
    """Mean ± deviation over the seeds, as Markdown."""
    names = [name for name in SHOWN if any(name in line["scores"] for line in lines)]
    head = [f"{MEASURES[name].title} {'↑' if MEASURES[name].better == 'higher' else '↓'}" for name in names]
    rows = [f"| way | seeds | {' | '.join(head)} | images seen |", "|---" * (len(names) + 3) + "|"]
    for way in dict.fromkeys(line["way"] for line in lines):
        mine = [line for line in lines if line["way"] == way]
        cells = []
        for name in names:
            values = [line["scores"][name] for line in mine]
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.4g} ± {deviation:.2g}")
        images = " + ".join(f"{statistics.mean(each):,.0f}" for each in zip(*(line["images"] for line in mine),
                                                                             strict=True))
        rows.append(f"| {way} | {len(mine)} | {' | '.join(cells)} | {images} |")
    setting = lines[0]["setting"]
    return "\n".join([*rows, "", f"{setting['top']} px, {setting['cpu_seconds']:g} s of CPU time a run, earth with "
                      f"{', '.join(setting['changes'])}; {lines[-1]['machine']}."])


if __name__ == "__main__":
    main()
