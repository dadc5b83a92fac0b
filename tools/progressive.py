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
import json
from pathlib import Path
from typing import Any

import torch
from equal_time import Part, done, machine, table, trained

from translate.data import held_out
from translate.data.scale import Fitting
from translate.files import append_line
from translate.foreign import read_lines
from translate.metrics.features import MobileNet, find_mobilenet
from translate.metrics.observations import MEASURES, observe, summarise
from translate.places import data_root
from translate.recipe import Stage, find_recipe, load_recipe
from translate.translators import Translator

TILE, CROP = 300, 256  # of a tile of the card as many pixels are seen at once, at any resolution
SHOWN = ("ssim", "psnr", "l1", "gradient_error", "kernel_distance")
BATCH, RATE = 4, 5e-4  # a rate above the recipe's, for runs of some hundred steps


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
            if done(asked.out, way=way, seed=seed, setting=setting):
                continue
            translator, images = trained(recipe, ways(asked.top)[way], seed, asked.seconds, rate=RATE)
            line = {"way": way, "seed": seed, "setting": setting, "images": images,
                    "scores": scores(recipe, translator, asked.top), "machine": machine()}
            append_line(asked.out, line)
            print(json.dumps(line), flush=True)
    lines = [each for each in read_lines(asked.out) if each["setting"] == setting]
    titles = {name: f"{MEASURES[name].title} {'↑' if MEASURES[name].better == 'higher' else '↓'}" for name in SHOWN}
    print(f"{table(lines, titles)}\n\n{asked.top} px, {asked.seconds:g} s of CPU time a run, earth with "
          f"{', '.join(changes)}; {lines[-1]['machine']}.")


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


if __name__ == "__main__":
    main()
