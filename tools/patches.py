"""Whole images against patches of them: held-out scores at full size after equal computing time.

    python tools/patches.py --seconds 40 --out patches.jsonl                           # 512 px on a CPU: half an hour
    python tools/patches.py --card terrain --top 2000 --width 64 --batch 4 --seconds 60 --seeds 0 \\
        --device cuda --out patches-2000.jsonl                                         # 2000 px, ten minutes on a GPU

Needs the card (`translate data prepare terrain_small`). Each way trains pix2pix with one U-Net for the same time of the
training thread (on a GPU, of the clock); loading images is left to other processes. Ways take turns, seed by seed.
A patch is a crop of a quarter of the side. What was trained on patches is applied in three ways: to the whole image, to
tiles of a patch's size, and to tiles that overlap by half and are blended. Every run adds a line for each of these to
--out; the table of all lines there is printed at the end, as Markdown.

    PSNR, SSIM, MS-SSIM, gradient error   of whole held-out images at full size
    colour       L1 of images averaged down 16 times: what a picture shows as a whole
    seams        how much more pixels differ across borders of tiles than 16 px beside them, over the same of the truth;
                 1: none
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from equal_time import Part, done, machine, table, trained
from torch import Tensor

from translate.data import held_out
from translate.data.scale import Fitting
from translate.evaluation.heldout import evenly_spaced
from translate.files import append_line
from translate.foreign import read_lines
from translate.metrics.reference import score
from translate.places import data_root
from translate.recipe import Stage, find_recipe, load_recipe

TITLES = {"psnr": "PSNR (dB) ↑", "ssim": "SSIM ↑", "ms_ssim": "MS-SSIM ↑", "gradient_error": "gradient error ↓",
          "colour": "colour ↓", "seams": "seams → 1"}
REDUCED = 16  # times, for the score of large-scale colour
BESIDE = 16  # px from a border of tiles that it is compared with: at the same place in what enlarging can repeat
RATE = 5e-4  # above the recipe's, for runs of some hundred steps
Apply = Callable[[Callable[[Tensor], Tensor], Tensor, int], Tensor]


def stage(resolution: int, resize: int, batch: int, **shape: Any) -> Stage:
    return Stage(resolution=resolution, resize=resize, images=1, batch_size=batch, **shape)


def ways(top: int, batch: int) -> dict[str, list[Part]]:
    """Every way to train, for images of `top` px; each step sees as many pixels as `batch` whole images have."""
    half, quarter = top // 2, top // 4
    return {
        "whole": [Part(1.0, stage(top, top, batch))],
        "patches": [Part(1.0, stage(quarter, top, 16 * batch))],
        "schedule": [Part(0.15, stage(quarter, quarter, 16 * batch)), Part(0.25, stage(half, half, 4 * batch)),
                     Part(0.6, stage(top, top, batch))],
        "growing": [Part(0.25, stage(half, half, 4 * batch)), Part(0.3, stage(top, top, batch, levels=1, fade=True)),
                    Part(0.45, stage(top, top, batch, levels=1))],
        "coarse to fine": [Part(0.3, stage(half, half, 4 * batch)),
                           Part(0.2, stage(top, top, batch, levels=1, freeze=True)),
                           Part(0.5, stage(top, top, batch, levels=1))],
    }


def generator(way: str, width: int, downs: int) -> dict[str, Any]:
    """The same U-Net for all ways, one level smaller where it gains one; coarse to fine has a network of its own."""
    if way == "coarse to fine":
        return {"kind": "coarse_to_fine", "width": 2 * width, "blocks": 3, "downs": 3, "fine_blocks": 1,
                "norm": "batch", "upsample": "resize"}
    return {"kind": "unet", "width": width, "downs": downs - (way == "growing"), "norm": "batch", "dropout": 0.0,
            "upsample": "resize"}


def whole(network: Callable[[Tensor], Tensor], image: Tensor, side: int) -> Tensor:
    """The network's output of an image (1, C, H, W)."""
    return network(image)


def in_tiles(network: Callable[[Tensor], Tensor], image: Tensor, side: int, overlap: bool = False) -> Tensor:
    """The same, of tiles of `side` px each by itself. Those that overlap are blended with weights that fall to zero at
    their borders."""
    step = side // 2 if overlap else side
    ramp = torch.minimum(torch.arange(side) + 1, side - torch.arange(side)).float()
    weight = torch.outer(ramp, ramp) if overlap else torch.ones(side, side)
    height, width = image.shape[-2:]
    tops, lefts = ([*range(0, length - side, step), length - side] for length in (height, width))
    total: Tensor | None = None
    weights = torch.zeros(height, width)
    for top in tops:
        for left in lefts:
            window = (slice(top, top + side), slice(left, left + side))
            out = network(image[(..., *window)])
            total = torch.zeros(1, out.shape[1], height, width) if total is None else total
            total[(..., *window)] += out.cpu() * weight
            weights[window] += weight
    assert total is not None
    return total / weights


def in_overlapping_tiles(network: Callable[[Tensor], Tensor], image: Tensor, side: int) -> Tensor:
    return in_tiles(network, image, side, overlap=True)


APPLIED: dict[str, dict[str, Apply]] = {
    "patches": {"patches, applied whole": whole, "patches, in tiles": in_tiles,
                "patches, in overlapping tiles": in_overlapping_tiles}}


def seams(image: Tensor, truth: Tensor, side: int) -> float:
    """Return differences of neighbouring pixels across borders of tiles over those `BESIDE` px to either side of a
    border, relative to the truth's.

    Not over those anywhere: a network that enlarges by repeating pixels makes smaller steps at even places than at odd
    ones, and borders lie at even places.
    """
    def ratio(of: Tensor) -> float:
        at = beside = 0.0
        for steps in (of.diff(dim=-1), of.diff(dim=-2).transpose(-1, -2)):
            means = steps.abs().mean(dim=(0, 1, 2))
            borders = torch.arange(side - 1, len(means), side)
            at += means[borders].mean().item()
            beside += (means[borders - BESIDE] + means[borders + BESIDE]).mean().item() / 2
        return at / beside
    return ratio(image) / ratio(truth)


def colour(image: Tensor, truth: Tensor) -> float:
    """L1 of two images averaged down `REDUCED` times."""
    return (F.avg_pool2d(image, REDUCED) - F.avg_pool2d(truth, REDUCED)).abs().mean().item()


@torch.no_grad()
def scores(network: Callable[[Tensor], Tensor], apply: Apply, tiles: list[Any], side: int, device: str
           ) -> dict[str, float]:
    """Means over held-out images, which are translated as `apply` does it."""
    found = []
    for a, b, *_ in tiles:
        out, truth = apply(network, a[None].to(device), side).cpu().clamp(-1, 1), b[None]
        found.append(score(out, truth) | {"colour": colour(out, truth), "seams": seams(out, truth, side)})
    return {name: statistics.mean(each[name] for each in found) for name in TITLES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(ways(512, 1))
    parser.add_argument("--ways", nargs="+", choices=names, default=names)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=40.0, help="of each run")
    parser.add_argument("--card", default="terrain_small")
    parser.add_argument("--top", type=int, default=512, help="px of whole images")
    parser.add_argument("--width", type=int, default=12, help="of the U-Net; the discriminator's is the same")
    parser.add_argument("--downs", type=int, default=6, help="of the U-Net")
    parser.add_argument("--batch", type=int, default=1, help="whole images a step")
    parser.add_argument("--images", type=int, default=10, help="most held-out images that are scored")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("patches.jsonl"))
    parser.add_argument("--pictures", type=Path, help="a folder for the first seed's outputs of one held-out image")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    setting = {name: getattr(asked, name) for name in ("card", "top", "seconds", "width", "downs", "batch")}
    side = asked.top // 4
    for seed in asked.seeds:
        for way in asked.ways:
            if done(asked.out, trained=way, seed=seed, setting=setting):
                continue
            network_of_way = json.dumps(generator(way, asked.width, asked.downs))
            recipe = load_recipe(find_recipe("terrain"), [
                f"data.card={asked.card}", f"translator.generator={network_of_way}",
                f"translator.discriminator.width={asked.width}"])
            translator, images = trained(recipe, ways(asked.top, asked.batch)[way], seed, asked.seconds, asked.device,
                                         rate=RATE)
            network = translator.generator("ab").eval()
            tiles = held_out(recipe.data, data_root(), 10**6, Fitting(asked.top, (asked.top, asked.top)))
            chosen = [tiles[number] for number in evenly_spaced(len(tiles), asked.images)]
            for name, apply in APPLIED.get(way, {way: whole}).items():
                append_line(asked.out, {
                    "way": name, "trained": way, "seed": seed, "setting": setting, "images": images,
                    "scores": scores(network, apply, chosen, side, asked.device), "machine": machine()})
                if asked.pictures is not None and seed == asked.seeds[0]:
                    show(asked.pictures / f"{name}.png", network, apply, chosen[len(chosen) // 2], side, asked.device)
    lines = [each for each in read_lines(asked.out) if each["setting"] == setting]
    print(f"{table(lines, TITLES)}\n\n{setting}; {lines[-1]['machine']}.")


@torch.no_grad()
def show(path: Path, network: Callable[[Tensor], Tensor], apply: Apply, sample: Any, side: int, device: str) -> None:
    """Write input, output and truth of one held-out image side by side, at full size."""
    from torchvision.utils import save_image

    a, b = sample[0], sample[1]
    out = apply(network, a[None].to(device), side).cpu().clamp(-1, 1)[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(torch.stack([a.expand_as(b), out, b]), path, nrow=3, padding=8, pad_value=1, normalize=True,
               value_range=(-1, 1))


if __name__ == "__main__":
    main()
