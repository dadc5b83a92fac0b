"""Measure how long a generator waits for files: the time of a folder's conversion against the generator's own in it.

    python tools/bench_convert.py                       # 200 photographs of 1024², one compute thread
    python tools/bench_convert.py --images 50 --workers 0 1 2

Both times are of the same run, so that a busy machine makes both longer. What is beyond 1.00 is reading, decoding,
encoding, writing and flushing that nothing else has covered; the start of the decoders is named apart.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from translate.convert import convert
from translate.images.reading import ImageConfig
from translate.networks.resnet import ResNet
from translate.networks.weights import initialise
from translate.runs.release import Release


class Timed(nn.Module):
    """A generator, and when it worked."""

    def __init__(self, generator: nn.Module):
        super().__init__()
        self.generator = generator
        self.began: list[float] = []
        self.seconds: list[float] = []

    def forward(self, image: Tensor) -> Tensor:
        self.began.append(time.perf_counter())
        fake: Tensor = self.generator(image)
        self.seconds.append(time.perf_counter() - self.began[-1])
        return fake


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--size", type=int, default=1024, help="of the square images, px")
    parser.add_argument("--width", type=int, default=16, help="channels of the ResNet-9")
    parser.add_argument("--suffix", choices=[".png", ".jpg"], default=".png")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{datetime.date.today().isoformat()}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores "
          f"(load {os.getloadavg()[0]:.1f} at the start), torch {torch.__version__}, Python "
          f"{platform.python_version()}; {asked.images} {asked.suffix} of {asked.size}², ResNet-9 of width "
          f"{asked.width}, fp32, 1 compute thread\n")
    print("| workers | wall, s | generator, s | ratio | ratio from the second image on | first image after, s |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder) / "in", asked.images, asked.size, asked.suffix)
        for workers in asked.workers:
            print(measure(Path(folder), asked.width, workers), flush=True)


def measure(folder: Path, width: int, workers: int) -> str:
    """A row of the table: one conversion of `folder`/in."""
    torch.manual_seed(0)
    generator = ResNet(3, 3, width=width, blocks=9)
    initialise(generator, 0.02)
    timed: Any = Timed(generator.eval())
    config = ImageConfig()
    release = Release(timed, config, config, "ab", "bench", "0" * 64)
    begin = time.perf_counter()
    summary = convert(folder / "in", folder / f"out{workers}", release, device="cpu", precision="fp32", workers=workers)
    end = time.perf_counter()
    assert summary.exit_code == 0, summary.failed
    own, later = sum(timed.seconds), sum(timed.seconds[1:])
    return (f"| {workers} | {end - begin:.1f} | {own:.1f} | {(end - begin) / own:.3f} | "
            f"{(end - timed.began[1]) / later:.3f} | {timed.began[0] - begin:.1f} |")


def write_photographs(folder: Path, number: int, size: int, suffix: str) -> None:
    """Pictures that take as long to decode and encode as photographs: smooth colours with fine grain."""
    folder.mkdir()
    for index in range(number):
        draw = np.random.default_rng(index)
        coarse = Image.fromarray(draw.integers(0, 256, (size // 32, size // 32, 3), np.uint8))
        smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)).astype(np.int16)
        pixels = (smooth + draw.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:04d}{suffix}", quality=95)


if __name__ == "__main__":
    main()
