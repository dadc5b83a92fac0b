"""Fine-tuning compared with a training from scratch: held-out scores after equally many images at the full size.

    python tools/fine_tuning.py --seeds 0 1 2 --before 1600 --images 800 --out fine_tuning.jsonl

Needs the earth card (`translate data prepare earth`). For each seed the recipe `earth` (pix2pix) is trained on
`--before` images at half the size; its release is trained on for `--images` images at the full size (`start`), and so
is a fresh network. Both are scored on all test tiles, shrunk to the full size alike. Each run adds a line to --out; the
table of all lines there is printed at the end, as Markdown. `--set` changes the recipe of all runs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from tools.silent import Silent
from translate.evaluation.scoring import evaluate_run
from translate.files import append_line
from translate.foreign import read_lines
from translate.recipe import Recipe, find_recipe, load_recipe
from translate.training.loop import train

SIDE, TILE = 128, 150  # px at the full size: of crops, and of the tiles that they are cut from
SHOWN = ("psnr", "ssim", "l1", "gradient_error")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--before", type=int, default=1600, help="images at half the size")
    parser.add_argument("--images", type=int, default=800, help="images at the full size, of both")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="A.B=C")
    words = parser.parse_args()
    torch.set_num_threads(1)
    for seed in words.seeds:
        with tempfile.TemporaryDirectory() as folder:
            compare(Path(folder), seed, words.before, words.images, words.changes, words.out)
    print(table(read_lines(words.out)))


def compare(folder: Path, seed: int, before: int, images: int, changes: list[str], out: Path) -> None:
    """Train the three runs of a seed below `folder`, and add the scores of the two at the full size to `out`."""
    def recipe(images: int, scale: int, *more: str) -> Recipe:
        stage = f"stages=[{{resolution: {SIDE // scale}, resize: {TILE // scale}, images: {images}, batch_size: 4}}]"
        return load_recipe(find_recipe("earth"), [f"seed={seed}", stage, "every.evaluate=null", *changes, *more])

    train(recipe(before, 2), folder / "before", Silent())
    starts: dict[str, list[str]] = {"scratch": [], "fine-tuned": [f"start={folder / 'before' / 'release'}"]}
    for way, start in starts.items():
        train(recipe(images, 1, *start), folder / way, Silent())
        scores = evaluate_run(folder / way).as_json()["metrics"]
        append_line(out, {"seed": seed, "way": way, "before": before, "images": images,
                          **{name: scores[name]["value"] for name in SHOWN}})


def table(lines: list[dict[str, Any]]) -> str:
    """Return means and deviations over the seeds of every way and number of images, as Markdown."""
    rows = [f"| way | images at half the size | at the full size | seeds | {' | '.join(SHOWN)} |",
            "|---" * (4 + len(SHOWN)) + "|"]
    for way, before, images in dict.fromkeys((line["way"], line["before"], line["images"]) for line in lines):
        same = [line for line in lines if (line["way"], line["before"], line["images"]) == (way, before, images)]
        cells = [f"{statistics.mean(values):.3f} ± {statistics.stdev(values) if len(values) > 1 else 0:.3f}"
                 for values in ([line[name] for line in same] for name in SHOWN)]
        seen = before if way == "fine-tuned" else 0
        rows.append(f"| {way} | {seen} | {images} | {len(same)} | {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
