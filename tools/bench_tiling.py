"""Measure exact strips against the whole image and against what others do; writes docs/benchmarks-tiling.md.

    python tools/bench_tiling.py --model runs/earth_unpaired --image data/earth/largeA/0.png

Three tables, each within one run of this tool:

    quality   a trained generator on a real image, cut to `--crop` px: PSNR and largest error against the whole image's
              output in float32, and the seam ratio (mean step across tile borders over the mean step elsewhere)
    exact     the same generator's error against float64, as the whole image and in strips
    cost      peak resident memory above what the process had before, and time, of generators of published width;
              every method in a process of its own, the methods taking turns

The rivals: tiles of 256 px cut with a border of context (overlap-crop), tiles blended by a Gaussian window
(overlap-blend), and tiles whose norms take their statistics from a small copy of the image (thumbnail).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from translate import tiling
from translate.images.reading import read_image
from translate.images.tensors import to_tensor
from translate.networks import ResNetConfig, UNetConfig
from translate.networks.layers import InstanceNorm
from translate.runs.release import load_release

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "benchmarks-tiling.md"
TILE = 256
# Freed memory stays with the process: else a whole-image run pays for fresh pages again and again, and strips look
# better than they are.
HEAP_REUSE = {"MALLOC_MMAP_THRESHOLD_": str(2**34), "MALLOC_TRIM_THRESHOLD_": str(2**36), "MALLOC_TOP_PAD_": "0"}
COSTS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "ResNet-9, 64 channels, 2000²": (lambda: ResNetConfig().build(3, 3), 2000),
    "U-Net, 64 channels, 2048²": (lambda: UNetConfig(norm="instance").build(3, 3), 2048),
}
METHODS: dict[str, tiling.Settings | None] = {
    "whole image": None,
    "strips, rows wait in memory": tiling.Settings(64, 32.0),
    "strips, rows wait on disk": tiling.Settings(64, 32.0, "disk"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a run or release with instance norm")
    parser.add_argument("--image", type=Path, required=True, help="what it translates, at least --crop px each way")
    parser.add_argument("--crop", type=int, default=768)
    parser.add_argument("--networks", nargs="*", choices=list(COSTS), default=list(COSTS), help="whose cost")
    parser.add_argument("--rounds", type=int, default=2, help="of the timed runs")
    parser.add_argument("--out", type=Path, default=PAGE)
    parser.add_argument("--cost", nargs=3, metavar=("NETWORK", "METHOD", "WHAT"), help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.cost:
        print(json.dumps(cost(*words.cost)))
        return
    release = load_release(words.model)
    image = to_tensor(read_image(words.image, release.image_in), release.image_in)[None, :, :words.crop, :words.crop]
    sections = [f"## Quality\n\n{release.name} on {words.image.name}, {image.shape[2]}×{image.shape[3]} px.\n\n"
                + quality(release.generator, image), "## Exact\n\n" + exactness(release.generator, image)]
    for section in sections:
        print(section, flush=True)
    for name in words.networks:
        sections.append(f"## Cost: {name}\n\n{costs(name, words)}")
        print(sections[-1], flush=True)
    words.out.write_text(page(sections), encoding="utf-8")


@torch.no_grad()
def quality(generator: nn.Module, image: Tensor) -> str:
    """Every method against the whole image."""
    whole = generator(image)
    half = {name: tiling.Settings(64, 32.0, dtype=dtype)
            for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16))}
    outputs: dict[str, Tensor] = {
        "exact strips": strips(generator, image, tiling.Settings(64, 32.0)),
        "exact strips, waiting rows in fp16": strips(generator, image, half["fp16"]),
        "exact strips, waiting rows in bf16": strips(generator, image, half["bf16"]),
        "overlap-crop, border 10 px": tiles(generator, image, 10),
        "overlap-crop, border 64 px": tiles(generator, image, 64),
        "overlap-blend, Gaussian": blended(generator, image),
    }
    for side in (256, 512):
        with norms_of(generator, F.interpolate(image, (side, side), mode="area")):
            outputs[f"thumbnail statistics, {side} px"] = tiles(generator, image, 64)
    lines = ["| method | PSNR against the whole, dB | largest error | seam ratio |", "|---|---|---|---|",
             f"| whole image | – | – | {seam_ratio(whole):.3f} |"]
    for name, output in outputs.items():
        error = output - whole
        psnr = 10 * torch.log10(4 / error.double().square().mean().clamp_min(1e-30))
        lines.append(f"| {name} | {psnr:.1f} | {error.abs().max():.1e} | {seam_ratio(output):.3f} |")
    return "\n".join(lines) + "\n"


@torch.no_grad()
def exactness(generator: nn.Module, image: Tensor) -> str:
    """Whole and in strips, float32 and float64."""
    whole, parts = generator(image), strips(generator, image, tiling.Settings(64, 32.0))
    exact = generator.double()(image.double())
    exact_parts = strips(generator, image.double(), tiling.Settings(64, 32.0))
    generator.float()
    return "\n".join([
        "| | largest error |", "|---|---|",
        f"| strips against whole, float64 | {(exact_parts - exact).abs().max():.1e} |",
        f"| strips against whole, float32 | {(parts - whole).abs().max():.1e} |",
        f"| whole float32 against float64 | {(whole - exact).abs().max():.1e} |",
        f"| strips float32 against float64 | {(parts - exact).abs().max():.1e} |", ""])


def strips(generator: nn.Module, image: Tensor, settings: tiling.Settings) -> Tensor:
    output = tiling.apply(generator, image, settings=settings)
    assert output is not None
    return output


def places(size: int, step: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size, step):
        yield start, min(start + step, size)


def tiles(generator: nn.Module, image: Tensor, border: int) -> Tensor:
    """Tiles translated with a border of context, which is cut off."""
    height, width = image.shape[2:]
    rows = []
    for top, bottom in places(height, TILE):
        row = []
        for left, right in places(width, TILE):
            above, before = max(top - border, 0), max(left - border, 0)
            fake = generator(image[:, :, above:bottom + border, before:right + border])
            row.append(fake[:, :, top - above:bottom - above, left - before:right - before])
        rows.append(torch.cat(row, 3))
    return torch.cat(rows, 2)


def blended(generator: nn.Module, image: Tensor) -> Tensor:
    """Tiles that overlap by a half, averaged by a Gaussian window (σ an eighth of the tile)."""
    line = torch.exp(-((torch.arange(TILE) - (TILE - 1) / 2) / (TILE / 8)).square() / 2).clamp_min(1e-3)
    window = line[:, None] * line
    total, weight = torch.zeros_like(image), torch.zeros_like(image[:, :1])
    tops, lefts = ([*range(0, size - TILE, TILE // 2), size - TILE] for size in image.shape[2:])
    for top in tops:
        for left in lefts:
            place = (slice(None), slice(None), slice(top, top + TILE), slice(left, left + TILE))
            total[place] += generator(image[place]) * window
            weight[place] += window
    return total / weight


@contextmanager
def norms_of(generator: nn.Module, thumbnail: Tensor) -> Iterator[None]:
    """Instance norms take their statistics from a small copy of the image."""
    norms = [module for module in generator.modules() if isinstance(module, InstanceNorm)]
    statistics: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def note(norm: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        variance, mean = torch.var_mean(arguments[0], (0, 2, 3), correction=0)
        statistics[norm] = (mean, variance)

    hooks = [norm.register_forward_pre_hook(note) for norm in norms]
    generator(thumbnail)
    for hook in hooks:
        hook.remove()

    def use(norm: Any, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return F.batch_norm(arguments[0], *statistics[norm], training=False, eps=norm.eps)

    hooks = [norm.register_forward_hook(use) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def seam_ratio(image: Tensor) -> float:
    """The mean step across the borders of tiles over the mean step everywhere else."""
    down = (image[:, :, 1:] - image[:, :, :-1]).abs().mean((0, 1, 3))
    right = (image[..., 1:] - image[..., :-1]).abs().mean((0, 1, 2))
    across, elsewhere = [], []
    for steps in (down, right):
        at = torch.zeros(len(steps), dtype=torch.bool)
        at[TILE - 1::TILE] = True
        across.append(steps[at])
        elsewhere.append(steps[~at])
    return (torch.cat(across).mean() / torch.cat(elsewhere).mean()).item()


def costs(name: str, words: argparse.Namespace) -> str:
    """Peak memory and time of every method, each in a process of its own."""
    peaks = {method: run(name, method, "memory")["peak"] for method in METHODS}
    seconds: dict[str, float] = {}
    for _ in range(words.rounds):
        for method in METHODS:
            took = run(name, method, "time", HEAP_REUSE)["seconds"]
            seconds[method] = min(took, seconds.get(method, took))
    build, size = COSTS[name]
    lines = ["| method | peak above before, MB | of the whole | predicted, MB | time |", "|---|---|---|---|---|"]
    for method, settings in METHODS.items():
        predicted = "–"
        if settings is not None:
            found = tiling.forecast(build().eval(), (1, 3, size, size), settings=settings)
            predicted = f"{found.peak_bytes / 1e6:,.0f}"
        lines.append(f"| {method} | {peaks[method]:,.0f} | {peaks[method] / peaks['whole image']:.2f} | {predicted} | "
                     f"{seconds[method] / seconds['whole image']:.2f}× |")
    return "\n".join(lines) + "\n"


def run(name: str, method: str, what: str, environment: dict[str, str] | None = None) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, "--model", ".", "--image", ".", "--cost", name, method, what],
                          check=True, capture_output=True, text=True, env={**os.environ, **(environment or {})})
    return json.loads(done.stdout)


class Nowhere:
    """The output is written elsewhere: only what translating takes is measured."""

    def write(self, start: int, strip: Tensor) -> None:
        pass


@torch.no_grad()
def cost(name: str, method: str, what: str) -> dict[str, float]:
    """{peak: MB of resident memory above before} or {seconds}."""
    build, size = COSTS[name]
    torch.manual_seed(0)
    network, image = build().eval(), torch.rand(1, 3, size, size) * 2 - 1
    settings = METHODS[method]

    def translated(image: Tensor) -> None:
        if settings is None:
            network(image)
        else:
            tiling.apply(network, image, settings=settings, out=Nowhere())

    translated(image if what == "time" else image[..., :256, :256])
    before, most, done = resident(), [0.0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            most[0] = max(most[0], resident())
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    begin = time.perf_counter()
    translated(image)
    seconds = time.perf_counter() - begin
    done.set()
    watcher.join()
    return {"peak": most[0] - before, "seconds": seconds}


def resident() -> float:
    """MB of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def page(sections: list[str]) -> str:
    machine = (f"{datetime.date.today().isoformat()}, {platform.processor() or platform.machine()} CPU, "
               f"{torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}; "
               "float32. Times are relative to the whole image of the same run, heap reuse on.")
    measured = "".join(sections)
    missing = [f"Not measured here: the cost of {name}.\n" for name in COSTS if f"## Cost: {name}" not in measured]
    return "\n".join(["# Exact strips: what they are worth and what they cost", "",
                      "Written by `tools/bench_tiling.py`.", "", machine, "", *sections, *missing, ""])


if __name__ == "__main__":
    main()
