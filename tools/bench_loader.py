"""Measure what a sample of a training costs the processor: decoded as it is, by a draft, and from the cache.

    python tools/bench_loader.py                      # 2 × 24 JPEGs of 2000², loaded at 286 px, crops of 256 px
    python tools/bench_loader.py --size 4000 --suffix .png

Seconds are of one thread of the processor, the least of several rounds, which take turns: they mean something on a busy
machine too. The last column is how far pixels of the sample are from those of the first row, in steps of 255.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from PIL import Image

from translate.data import UnpairedConfig
from translate.data.layout import CACHE_FOLDER
from translate.data.stream import Stream
from translate.data.transforms import use_one_thread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--size", type=int, default=2000, help="of the square photographs, px")
    parser.add_argument("--resize", type=int, default=286)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--suffix", choices=[".jpg", ".png"], default=".jpg")
    parser.add_argument("--rounds", type=int, default=4)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    use_one_thread()
    print(f"{datetime.date.today().isoformat()}, {platform.processor() or platform.machine()}, torch "
          f"{torch.__version__}, Python {platform.python_version()}; 2 × {asked.images} {asked.suffix} of "
          f"{asked.size}², loaded at {asked.resize} px, crops of {asked.crop} px\n")
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder) / "a", asked, seed=0)
        write_photographs(Path(folder) / "b", asked, seed=10**6)
        os.environ["DIPTYCH_DATA"] = folder
        measure(Path(folder), asked)


def measure(folder: Path, asked: argparse.Namespace) -> None:
    """Print the table: an unpaired sample has two images, so half of its seconds are of one."""
    cached: dict[str, object] = {"cache": "10GB"}
    ways: dict[str, dict[str, object]] = {"as it is": {}, "cache, first time": cached, "cache, later": cached,
                                          "draft": {"draft": True}}
    streams = {}
    for way, fields in ways.items():
        config = UnpairedConfig.model_validate({
            "kind": "unpaired", "a": folder / "a", "b": folder / "b", "resize": asked.resize, **fields})
        streams[way] = Stream(config.build("train", folder), 0, (asked.crop, asked.crop))

    # Rounds in turn, each with an empty cache. Whole images before each way, as what ran before decides which memory is
    # there already.
    spent: dict[str, list[float]] = {way: [] for way in ways}
    made: dict[str, list[torch.Tensor]] = {}
    for _ in range(asked.rounds):
        shutil.rmtree(folder / CACHE_FOLDER, ignore_errors=True)
        for way in streams:
            for index in range(2):
                streams["as it is"].sample(index)
            begin = time.process_time()
            made[way] = [streams[way].sample(index).sample.a for index in range(asked.images)]
            spent[way].append((time.process_time() - begin) / asked.images / 2)

    print("| | an image, ms | images a second of a core | of the first row's | difference |\n|---|---|---|---|---|")
    plain = min(spent["as it is"])
    for way in ways:
        seconds = min(spent[way])
        far = np.mean([float((a - b).abs().mean()) for a, b in zip(made[way], made["as it is"], strict=True)]) * 127.5
        print(f"| {way} | {1e3 * seconds:.1f} | {1 / seconds:.0f} | {seconds / plain:.2f} | {far:.2f} |")


def write_photographs(folder: Path, asked: argparse.Namespace, seed: int) -> None:
    """Pictures that take as long to decode as photographs: smooth colours with fine grain."""
    folder.mkdir()
    for index in range(asked.images):
        draw = np.random.default_rng(seed + index)
        coarse = Image.fromarray(draw.integers(0, 256, (asked.size // 16, asked.size // 16, 3), np.uint8))
        smooth = np.asarray(coarse.resize((asked.size, asked.size), Image.Resampling.BICUBIC)).astype(np.int16)
        pixels = (smooth + draw.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:04d}{asked.suffix}", quality=90)


if __name__ == "__main__":
    main()
