"""Measure how well a folder's conversion uses its cores: what it waits for, and how it scales with its workers.

    python tools/bench_convert.py                         # 100 PNGs of 2000², ResNet-9 of width 8, 1 and 2 workers
    python tools/bench_convert.py --card 0.03             # the same beside a fast card: waiting 0.03 s for each image
    python tools/bench_convert.py --card 0.03 --grain 0 --compression 9           # where compression dominates
    python tools/bench_convert.py --images 200 --size 1024 --width 16 --workers 0 1    # is the generator kept waiting?

The first table is of one thread: what an image costs to read, to translate and to write, and from these the least wall
time that so many cores leave. The second is of whole conversions. Their wall times mean something on an idle machine
only; the processor's time, and what of the wall time the generator worked, do on any.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from translate.convert import convert
from translate.host.cores import num_cores
from translate.images.decoder_process import Request, read_file
from translate.images.reading import ImageConfig
from translate.images.tensors import to_file, to_tensor
from translate.images.writing import write_image
from translate.networks.resnet import ResNet
from translate.networks.weights import initialise
from translate.runs.release import Release

NUM_COSTED = 5  # images of the first table, of which the cheapest counts


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


class Card(nn.Module):
    """What a fast card is to a processor: it waits so many seconds, and has the output."""

    def __init__(self, seconds: float):
        super().__init__()
        self.seconds = seconds

    def forward(self, image: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--size", type=int, default=2000, help="of the square images, px")
    parser.add_argument("--width", type=int, default=8, help="channels of the ResNet")
    parser.add_argument("--blocks", type=int, default=9, help="residual blocks of the ResNet")
    parser.add_argument("--card", type=float, help="seconds to wait in place of the ResNet, as for a card")
    parser.add_argument("--grain", type=int, default=6, help="noise of the images, in steps of 256")
    parser.add_argument("--suffix", choices=[".png", ".jpg", ".tif"], default=".png")
    parser.add_argument("--compression", type=int, choices=range(10))
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    generator = f"ResNet-{asked.blocks} of width {asked.width}, fp32, 1 compute thread" if asked.card is None else \
        f"a wait of {asked.card:g} s for the generator"
    print(f"{datetime.date.today().isoformat()}, {platform.processor() or platform.machine()}, {num_cores()} cores "
          f"(load {os.getloadavg()[0]:.1f} at the start), torch {torch.__version__}, Python "
          f"{platform.python_version()}; {asked.images} {asked.suffix} of {asked.size}² with a grain of {asked.grain}, "
          f"{generator}, compression {asked.compression}\n")
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder) / "in", asked)
        print(costs(Path(folder) / "in", asked))
        print("\n| workers | wall, s | of the first row's | processor, s | generator's part of the wall | ratio to the "
              "generator from the second image on | first image after, s |\n|---|---|---|---|---|---|---|")
        first = 0.0
        for workers in asked.workers:
            row, wall = measure(Path(folder), asked, workers, first)
            first = first or wall
            print(row, flush=True)


def release_for(asked: argparse.Namespace) -> tuple[Release, Timed]:
    """Return a generator as a release, and the clock in it."""
    torch.manual_seed(0)
    generator: nn.Module = ResNet(3, 3, width=asked.width, blocks=asked.blocks)
    initialise(generator, 0.02)
    generator = generator if asked.card is None else Card(asked.card)
    timed: Any = Timed(generator.eval())
    return Release(timed, ImageConfig(), ImageConfig(), "ab", "bench", "0" * 64), timed


@torch.inference_mode()
def costs(source: Path, asked: argparse.Namespace) -> str:
    """What one image costs, in seconds of one processor, and the least wall time of all of them by that."""
    release, _ = release_for(asked)
    spent: dict[str, list[float]] = {"read": [], "translate": [], "write": []}

    def timed(name: str, work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        begin = time.process_time()
        result = work(*arguments, **options)
        spent[name].append(time.process_time() - begin)
        return result

    def save(fake: torch.Tensor, path: Path) -> None:
        write_image(path.parent.parent / f"x{path.suffix}", to_file(fake, release.image_out),
                    compression=asked.compression)

    for path in sorted(source.iterdir())[:NUM_COSTED]:
        picture = timed("read", read_file, Request(path, 10**9, "")).picture
        image = to_tensor(picture.pixels, release.image_in)[None]
        fake = timed("translate", release.generator, image)[0]
        timed("write", save, fake, path)

    # The generator has one thread, and so has each reader and writer; a card needs no core.
    read, translate, write = (min(each) for each in spent.values())
    wait, rows = asked.card or translate, []
    for workers in asked.workers:
        least = max((read + translate + write) / min(num_cores(), 1 + 2 * workers), wait, max(read, write) / workers) \
            if workers else read + wait + write
        rows.append(f"| {workers} | {asked.images * least:.1f} |")
    return (f"one image, seconds of one processor: read {read:.3f}, translate {translate:.3f}, write {write:.3f}\n\n"
            "| workers | least wall for all images, s |\n|---|---|\n" + "\n".join(rows))


def measure(folder: Path, asked: argparse.Namespace, workers: int, first: float) -> tuple[str, float]:
    """One conversion of `folder`/in: a row of the table, and its wall time; `first` is that of the first row."""
    release, timed = release_for(asked)
    begin, before = time.perf_counter(), sum(os.times()[:4])
    summary = convert(folder / "in", folder / f"out{workers}", release, device="cpu", precision="fp32",
                      compression=asked.compression if asked.suffix != ".jpg" else None, workers=workers)
    end = time.perf_counter()
    assert summary.exit_code == 0, summary.failed
    own, later, wall = sum(timed.seconds), sum(timed.seconds[1:]), end - begin
    return (f"| {workers} | {wall:.1f} | {wall / (first or wall):.2f} | {sum(os.times()[:4]) - before:.1f} | "
            f"{own / wall:.2f} | {(end - timed.began[1]) / later:.3f} | {timed.began[0] - begin:.1f} |", wall)


def write_photographs(folder: Path, asked: argparse.Namespace) -> None:
    """Pictures that take as long to decode and encode as photographs: smooth colours with fine grain."""
    size, grain = asked.size, asked.grain
    folder.mkdir()
    for index in range(asked.images):
        draw = np.random.default_rng(index)
        coarse = Image.fromarray(draw.integers(0, 256, (size // 32, size // 32, 3), np.uint8))
        smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)).astype(np.int16)
        pixels = (smooth + draw.integers(-grain, grain + 1, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:04d}{asked.suffix}", quality=95)


if __name__ == "__main__":
    main()
