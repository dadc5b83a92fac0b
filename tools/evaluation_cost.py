"""What evaluating cost a training: its share of the time, from what the run recorded.

    python tools/evaluation_cost.py runs/earth        # one line, and what writing the report took beside it
    python tools/evaluation_cost.py --networks        # what scoring a pixel takes beside a step, of several networks

With machine, versions and date. Stretches whose speed is not recorded (the first after a start) are left out on both
sides of the share. `--networks` measures CPU time, one thread.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from accelerate import Accelerator

from tools.bench import our_step
from translate import __version__
from translate.evaluation.heldout import translate_whole
from translate.evaluation.prices import MEASURED_SIDE, Prices
from translate.foreign import read_lines
from translate.metrics import reference
from translate.metrics.features import PATCH_SIDE, MobileNet, find_mobilenet
from translate.networks import PatchGANConfig, ResNetConfig, UNetConfig, memory
from translate.networks.eval_mode import evaluating
from translate.recipe import load_recipe
from translate.training.machine import processor
from translate.translators import CycleGANConfig, Pix2PixConfig

SCORED = 600 * 800  # px of an image that is scored
NETWORKS: list[tuple[str, Any, int]] = [
    *((f"CycleGAN, ResNet of {blocks} blocks, width {width}", CycleGANConfig(
        generator=ResNetConfig(width=width, blocks=blocks), discriminator=PatchGANConfig(width=width)), size)
      for width, blocks, size in ((8, 2, 64), (16, 2, 64), (32, 6, 128), (64, 9, 128))),
    *((f"pix2pix, U-Net of {downs} levels, width {width}", Pix2PixConfig(
        generator=UNetConfig(width=width, norm="instance", downs=downs), discriminator=PatchGANConfig(width=width)),
       size) for width, downs, size in ((16, 6, 64), (32, 6, 128), (64, 8, 256)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--networks", action="store_true")
    asked = parser.parse_args()
    made_by = (f"Diptych {__version__}, torch {torch.__version__}, {os.cpu_count()} cores ({platform.machine()}), "
               f"{datetime.date.today()}")
    if asked.networks:
        print(f"{made_by}, {processor()}, one thread\n")
        of_networks()
        return
    if asked.run is None:
        parser.error("name a run, or --networks")
    run = asked.run
    records = read_lines(run / "metrics.jsonl")
    trained = [record for record in records if record["kind"] == "train"]
    stretches = [(before["images"], after["images"], after["images_per_second"])
                 for before, after in itertools.pairwise(trained) if after["images_per_second"]]
    trained_seconds = sum((stop - start) / speed for start, stop, speed in stretches)
    scored = [record for record in records if record["kind"] == "evaluation"
              and any(start < record["images"] <= stop for start, stop, _ in stretches)]
    if not scored:
        parser.error(f"{run}: no evaluation between two records of its losses")
    seconds = sum(record["seconds"] for record in scored)
    reports = [event["seconds"] for event in read_lines(run / "events.jsonl") if event["what"] == "report"]
    print(f"{load_recipe(run / 'recipe.yaml').name}: {len(scored)} evaluations of {scored[0]['num_held_out']} images "
          f"took {seconds:.1f} s beside {trained_seconds:.1f} s of steps, {seconds / trained_seconds:.1%} of these; "
          f"{len(reports)} reports {sum(reports):.1f} s; {made_by}")


def of_networks() -> None:
    """Print what a pixel of a scored image takes, as a share of what a pixel of a step takes, network by network."""
    torch.set_num_threads(1)
    Accelerator(cpu=True)
    weights = find_mobilenet()
    assert weights is not None, "run: translate data features"
    image = torch.zeros(3, MEASURED_SIDE, MEASURED_SIDE)
    compared = seconds(partial(reference.score, image[None], image[None])) / MEASURED_SIDE**2
    patch = seconds(partial(MobileNet(weights), image[:, :PATCH_SIDE, :PATCH_SIDE]))
    print(f"compared with its truth {compared * 1e6:.2f} s a megapixel; features {patch * 1e3:.0f} ms a patch\n")
    print("| networks | crop, px | step, s a megapixel | translating | with a truth | without |")
    print("|---" * 6 + "|")
    for name, config, size in NETWORKS:
        step = seconds(our_step(config, size, 1, memory.PLANS["split"], "fp32", torch.device("cpu"))) / size**2
        generator = config.build(3, 3).generator("ab")
        with evaluating(generator):
            translated = seconds(partial(translate_whole, generator, image, torch.device("cpu"), "fp32"))
        shares = [Prices(translated / MEASURED_SIDE**2, of_truth, patch).seconds([SCORED], 1, 0) / SCORED / step
                  for of_truth in (compared, 0.0)]
        print(f"| {name} | {size} | {step * 1e6:.1f} | {translated / MEASURED_SIDE**2 * 1e6:.2f} | {shares[0]:.3f} | "
              f"{shares[1]:.3f} |", flush=True)


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU time of the faster of two, after one that starts up much."""
    taken = []
    for _ in range(3):
        begin = time.process_time()
        work()
        taken.append(time.process_time() - begin)
    return min(taken[1:])


if __name__ == "__main__":
    main()
