"""What pairs that are off by pixels cost a training, and what of it registration and `data align` bring back.

    python tools/registration.py --source grey --out registration.jsonl
    python tools/registration.py --sensors

Needs the earth card (`translate data prepare earth`). Training tiles of the satellite are moved, each once and for all,
by 0 to 8 px into any direction, every second one to the other side of the one before, so that nothing is moved on the
whole; test tiles stay. For each seed the recipe `earth`, with a small U-Net, is trained on exact pairs, on the moved
ones, on those with `translator.registration`, and on what `translate data align` makes of them. All are scored on the
same exact test pairs. Each run adds a line to --out; the table of all lines there is printed at the end, as Markdown.
`--set` changes the recipe of all runs. `--sensors` trains nothing: it prints how well the shift of a satellite tile
from its relief is told, and how often one is claimed of tiles of two places.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import cv2
import numpy as np
import torch

from tools.silent import Silent
from translate.adapt.table import estimate
from translate.evaluation.scoring import evaluate_run
from translate.files import append_line
from translate.foreign import read_lines
from translate.metrics.orientation import shift_by_orientation
from translate.places import data_root
from translate.recipe import find_recipe, load_recipe
from translate.training.loop import train

FURTHEST = 8  # px that a pair is off
MARGIN = 12  # px of each side that are cut off a tile, so that what is moved in is real
WAYS = ("exact", "moved", "registered", "aligned")
# One that learns of exact pairs within minutes, as it sees the image itself at the end: what a training loses is then
# what its pairs lose
GENERATOR = "{kind: unet, width: 16, downs: 4, norm: batch, dropout: 0.0, upsample: resize, image_skip: 16}"
SHOWN = ("psnr", "ssim", "l1", "gradient_error")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=1000, help="that each training sees")
    parser.add_argument("--side", type=int, default=64, help="of crops, px")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--source", choices=["relief", "grey"], default="relief", help="what is translated: the relief "
                        "map, or the negative of the satellite image's own grey values")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sensors", action="store_true")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="A.B=C")
    words = parser.parse_args()
    torch.set_num_threads(1)
    if words.sensors:
        tell_sensors()
        return
    for seed in words.seeds:
        with tempfile.TemporaryDirectory() as folder:
            for way in words.ways:
                append_line(words.out, trained(Path(folder), seed, way, words))
    print(table(read_lines(words.out)))


def trained(folder: Path, seed: int, way: str, words: argparse.Namespace) -> dict[str, Any]:
    """Train one way below `folder`; return its scores on exact test pairs, as a line of --out."""
    source, images, side, changes = words.source, words.images, words.side, words.changes
    data = folder / ("exact" if way == "exact" else "moved")
    if not data.exists():
        write_pairs(data, source, 0 if way == "exact" else FURTHEST, seed)
    if way == "aligned":
        from translate.pairs.correcting import align_pairs

        data = folder / "aligned"
        align_pairs(folder / "moved", data, "shift")

    recipe = load_recipe(find_recipe("earth"), [
        f"seed={seed}", f"data={{kind: paired, folder: {data}, resize: null, augment: [flip]}}",
        f"stages=[{{resolution: {side}, images: {images // 2}, batch_size: 4}}, {{resolution: {side}, images: "
        f"{images - images // 2}, batch_size: 4, lr: {{kind: linear, to: 0.0}}, hold_statistics: true}}]",
        "every.evaluate=null", "workers=0", f"translator.generator={GENERATOR}", "translator.discriminator.width=16",
        "optimizer.generator.lr=1e-3", "optimizer.discriminator.lr=4e-4", "translator.ema=0.99",
        *(["translator.registration={}"] if way == "registered" else []), *changes])
    began = time.process_time()
    train(recipe, folder / f"run-{way}", Silent())
    seconds = time.process_time() - began
    scores = evaluate_run(folder / f"run-{way}").as_json()["metrics"]
    return {"seed": seed, "way": way, "source": source, "images": images, "side": side, "cpu_seconds": round(seconds),
            "changes": list(changes), **{name: scores[name]["value"] for name in SHOWN}}


def write_pairs(folder: Path, source: str, furthest: float, seed: int) -> None:
    """Write the tiles of the earth card without their margins, satellite tiles to train on moved by up to `furthest`.
    """
    chance = np.random.default_rng(seed)
    for split in ("train", "test"):
        for number, path in enumerate(sorted((data_root() / "earth" / f"{split}A").iterdir())):
            shown, satellite = tiles(path)
            if source == "grey":
                shown = 255 - np.repeat(cv2.cvtColor(satellite, cv2.COLOR_BGR2GRAY)[..., None], 3, 2)
            if number % 2 == 0:
                length, angle = chance.uniform(0, furthest), chance.uniform(0, np.pi)
            else:
                length = -length
            shift = np.array([[1, 0, length * np.cos(angle)], [0, 1, length * np.sin(angle)]], np.float32)
            if split == "train" and furthest:
                satellite = cv2.warpAffine(satellite, shift, satellite.shape[1::-1], flags=cv2.INTER_CUBIC)
            for side, image in (("A", shown), ("B", satellite)):
                (folder / f"{split}{side}").mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / f"{split}{side}" / f"{path.stem}.png"), image[MARGIN:-MARGIN, MARGIN:-MARGIN])


def tiles(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the relief map of a tile, and the satellite image beside it."""
    relief, satellite = (cv2.imread(str(each)) for each in (
        path, path.parent.with_name(path.parent.name.replace("A", "B")) / path.name))
    assert relief is not None and satellite is not None, path
    return relief, satellite


def tell_sensors() -> None:
    """Print how shifts between relief and satellite tiles are told: of no shift, of known ones, of two places."""
    paths = sorted((data_root() / "earth" / "trainA").iterdir())
    relief, satellite = ([image.astype(np.float32) / 255 for image in images]
                         for images in zip(*map(tiles, paths), strict=True))
    inside, chance = slice(MARGIN, -MARGIN), np.random.default_rng(0)
    still, followed = list[float](), list[float]()
    for one, other in zip(relief, satellite, strict=True):
        shift = chance.uniform(-FURTHEST, FURTHEST, 2)
        matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
        moved = cv2.warpAffine(other, matrix, other.shape[1::-1], flags=cv2.INTER_CUBIC)
        at_rest, found = (shift_by_orientation(one[inside, inside], each[inside, inside]) for each in (other, moved))
        if at_rest is not None and found is not None:
            still.append(float(np.hypot(*at_rest)))
            followed.append(float(np.hypot(*(np.array(found) - at_rest - shift))))
    claimed = sum(shift_by_orientation(relief[number], satellite[(number + step) % len(paths)]) is not None
                  for number in range(len(paths)) for step in (3, 11, 17))
    for what, values in (("of no shift, px", still), ("of a known shift beyond that, px", followed)):
        print(f"{what}: median {np.median(values):.2f}, 90 % {np.quantile(values, 0.9):.2f}, most {max(values):.2f}")
    print(f"told of {len(still)} of {len(paths)} tiles; claimed of {claimed} of {3 * len(paths)} pairs of two places")


def table(lines: list[dict[str, Any]]) -> str:
    """Return every way's means over the seeds with 95 % intervals, and what part of what is lost stays lost: Markdown.
    """
    rows = [f"| pairs | seeds | {' | '.join(SHOWN)} | of what is lost in them, still lost |",
            "|---" * (3 + len(SHOWN)) + "|"]
    means = {way: {name: statistics.mean(line[name] for line in lines if line["way"] == way) for name in SHOWN}
             for way in dict.fromkeys(line["way"] for line in lines)}
    for way in means:
        same = [line for line in lines if line["way"] == way]
        found = {name: estimate(np.array([line[name] for line in same])) for name in SHOWN}
        cells = [f"{each['mean']:.3f} ± {each['half'] or 0:.3f}" for each in found.values()]
        left = ", ".join(still_lost(name, *(means[each][name] for each in ("exact", "moved", way)))
                         for name in SHOWN if {"exact", "moved"} <= means.keys())
        rows.append(f"| {way} | {len(same)} | {' | '.join(cells)} | {left} |")
    return "\n".join(rows)


def still_lost(name: str, exact: float, moved: float, found: float) -> str:
    """Return which part of what is lost in moved pairs is still lost; a dash where nothing is."""
    better = -1 if name in ("l1", "gradient_error") else 1
    return "–" if better * (exact - moved) <= 0 else f"{100 * (exact - found) / (exact - moved):.0f} %"


if __name__ == "__main__":
    main()
