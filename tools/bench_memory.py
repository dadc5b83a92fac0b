"""Measure what a conversion without --memory takes under a limit, beside its share, and what the limit costs in time.

    python tools/bench_memory.py                                    # 2, 4, 8 GB, images of up to 200 megapixels
    python tools/bench_memory.py --limits 2 --megapixels 0.3 4 36

Needs a system that lets a memory cgroup be made. Taken: the memory of all processes of the conversion that belongs to
no file, as the cgroup counts it, every 20 ms, above what there was before the first image.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from PIL import Image

from tests.memory_cgroup import enter, memory_cgroup

Image.MAX_IMAGE_PIXELS = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limits", type=float, nargs="+", default=[2, 4, 8], help="GB")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[0.3, 4, 36, 100, 200])
    parser.add_argument("--width", type=int, default=4, help="channels of the ResNet")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--child", nargs=3, metavar=("GROUP", "IN", "OUT"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        group, source, out = map(Path, asked.child)
        convert_here(group, source, out, asked.width, asked.workers)
        return
    print(f"{datetime.date.today().isoformat()}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores "
          f"(load {os.getloadavg()[0]:.1f} at the start); PNGs of {asked.megapixels} megapixels, ResNet of one block, "
          f"width {asked.width}, fp32, {asked.workers} workers\n")
    print("| limit, GB | share, MB | taken, MB | at once | in strips | failed | seconds |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "in", asked.megapixels)
        for limit in [*asked.limits, None]:
            print(measure(Path(folder), limit, asked), flush=True)


def write_images(folder: Path, megapixels: list[float]) -> None:
    """Square PNGs, the largest in the middle."""
    folder.mkdir()
    order = sorted(megapixels)[::2] + sorted(megapixels)[1::2][::-1]
    tile = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    for number, size in enumerate(order):
        times = max(round((size * 1e6) ** 0.5 / 100), 1)
        Image.fromarray(np.tile(tile, (times, times, 1))).save(folder / f"{number}-{size:g}.png", compress_level=1)


def measure(folder: Path, limit: float | None, asked: argparse.Namespace) -> str:
    """A row of the table: one conversion of `folder`/in, in a cgroup of its own, with `limit` or with none."""
    with memory_cgroup(int((limit or 10_000) * 1e9)) as group:
        if group is None:
            raise SystemExit("this system lets no memory cgroup be made")
        out = folder / f"out-{limit}"
        child = subprocess.Popen([sys.executable, __file__, "--width", str(asked.width), "--workers",
                                  str(asked.workers), "--child", group, folder / "in", out], stdout=subprocess.PIPE)
        most = 0
        while child.poll() is None:
            most = max(most, anonymous_bytes(group))
            time.sleep(0.02)
        printed = child.stdout.read() if child.stdout else b""
    name = f"{limit:g}" if limit else "none"
    if child.returncode or not printed:
        return f"| {name} | killed: exit code {child.returncode} | | | | | |"
    found: dict[str, Any] = json.loads(printed)
    return (f"| {name} | {found['share'] / 1e6:,.0f} | {(most - found['before']) / 1e6:,.0f} | {found['whole']} | "
            f"{found['strips']} | {found['failed']} | {found['seconds']:.0f} |")


def anonymous_bytes(group: Path) -> int:
    """What all processes of a cgroup hold that is no file's, as its kernel counts it (versions 1 and 2)."""
    lines = (group / "memory.stat").read_text().splitlines()
    stat = {name: int(number) for name, number in (line.split() for line in lines)}
    return stat.get("total_rss", stat.get("anon", 0))


def convert_here(group: Path, source: Path, out: Path, width: int, workers: int) -> None:
    """Convert in this process, inside of the cgroup, and print what came of it as JSON."""
    enter(group)
    import torch

    from translate.convert import convert
    from translate.convert.memory_share import MemoryShare
    from translate.images.reading import ImageConfig
    from translate.networks.resnet import ResNet
    from translate.runs.release import Release

    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator, image = ResNet(3, 3, width=width, blocks=1).eval(), ImageConfig()
    release = Release(generator, image, image, "ab", "measured", "0" * 64)
    share, before = MemoryShare.of(workers).total.bytes, anonymous_bytes(group)
    begin = time.monotonic()
    summary = convert(source, out, release, precision="fp32", workers=workers)
    json.dump({"share": share, "before": before, "seconds": time.monotonic() - begin,
               "whole": summary.converted - len(summary.in_strips), "strips": len(summary.in_strips),
               "failed": len(summary.failed)}, sys.stdout)


if __name__ == "__main__":
    main()
