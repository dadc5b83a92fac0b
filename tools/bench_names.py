"""Measure what a million names cost `translate convert` before anything is opened: listed, planned, resumed.

    python tools/bench_names.py [--names 1000000] [--format jpg]

Empty files in folders of a thousand, and a ledger in which all are done, in a temporary folder. Seconds are CPU time of
this process; memory is what it takes beyond Python, torch and the package.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from translate.convert.jobs import Naming, plan_jobs
from translate.convert.ledger import LEDGER, Ledger, source_of
from translate.convert.saving import remove_leftovers
from translate.images.reading import ImageConfig

FOLDER = 1000  # files in each


def make(root: Path, num: int, suffix: str) -> None:
    """Make the inputs, a folder for the outputs, and the ledger of a conversion that is finished."""
    (root / "out").mkdir()
    with (root / "out" / LEDGER).open("w") as ledger:
        for number in range(num):
            name = f"part{number // FOLDER:05d}/image_{number:09d}"
            path = root / "in" / f"{name}.png"
            if number % FOLDER == 0:
                path.parent.mkdir(parents=True)
            path.touch()
            row = {"path": f"{name}.png", "status": "started", "output": name + suffix, "run": 1,
                   "source": source_of(str(root / "in")), "content": "c" * 64}
            done = {"status": "done", "key": "a" * 64, "pixels": 480, "sha256": "b" * 64, "size": 0,
                    "mtime_ns": 1764500000000000000}
            ledger.write(json.dumps(row) + "\n" + json.dumps(row | done) + "\n")


def megabytes(field: str) -> float:
    """Return what the kernel says of this process's memory (VmRSS now, VmHWM at most)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--names", type=int, default=1_000_000)
    words.add_argument("--format", default="png")
    asked = words.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make(root, asked.names, f".{asked.format}")
        before, begun, seconds = megabytes("VmRSS"), time.process_time(), {}

        jobs, _ = plan_jobs(root / "in", root / "out", Naming(ImageConfig(), asked.format))
        seconds["listing and planning"] = time.process_time() - begun
        ledger = Ledger(root / "out")
        seconds["reading the ledger"] = time.process_time() - begun - sum(seconds.values())
        remove_leftovers(jobs)
        seconds["looking for leftovers"] = time.process_time() - begun - sum(seconds.values())
        known = sum(ledger.made(f"{name.removesuffix('.png')}.{asked.format}") is not None for name in jobs.names)
        seconds["asking it for each"] = time.process_time() - begun - sum(seconds.values())
        assert known == len(jobs) == asked.names

        print(f"{asked.names:,} names to .{asked.format}, {datetime.now(UTC):%Y-%m-%d}, {platform.processor()} "
              f"Python {platform.python_version()}, torch {torch.__version__}")
        for what, took in seconds.items():
            print(f"{what:<24} {took:7.2f} s, {took / asked.names * 100_000:5.2f} s per 100,000")
        ledgers = seconds["reading the ledger"] + seconds["asking it for each"]
        print(f"{'both of the ledger':<24} {ledgers:7.2f} s, {ledgers / asked.names * 100_000:5.2f} s per 100,000")
        print(f"memory at most           {megabytes('VmHWM') - before:7.0f} MiB")


if __name__ == "__main__":
    main()
