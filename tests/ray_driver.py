"""Converts on a Ray cluster, as the command line does, with a generator that takes its time; run as a program.

    python -m tests.ray_driver IN OUT LOG SECONDS_PER_MEGAPIXEL

The generator sleeps, so that other work on the machine does not change what is measured. It notes in LOG when it began
and ended, and how many pixels it had.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from torch import Tensor

from tests.conversions import Identity, release_of
from translate.cluster.ray_engine import RayEngine
from translate.convert import convert


class Slow(Identity):
    """Gives back the negative of an image after a time in proportion to its pixels."""

    def __init__(self, log: Path, seconds: float):
        super().__init__()
        self.log, self.seconds = log, seconds

    def translate(self, image: Tensor) -> Tensor:
        begun, pixels = time.time(), image.shape[2] * image.shape[3]
        time.sleep(pixels / 1e6 * self.seconds)
        with self.log.open("a") as file:
            file.write(f"{os.getpid()} {begun} {time.time()} {pixels}\n")
        return -image


def main() -> None:
    source, out, log, seconds = sys.argv[1:5]
    with RayEngine("ray", 1) as engine:
        summary = convert(Path(source), Path(out), release_of(Slow(Path(log), float(seconds))), device="cpu",
                          precision="fp32", workers=0, engine=engine)
    print(summary.converted, summary.already, len(summary.failed), *map(str, summary.failed[:3]), flush=True)  # noqa: T201
    sys.exit(summary.exit_code)


if __name__ == "__main__":
    main()
