"""What the tests of conversion share: generators to convert with, folders of noise, processes to kill."""

from __future__ import annotations

import hashlib
import multiprocessing
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.commands import forget_fork_server
from translate.convert import convert
from translate.convert.jobs import LEDGERS
from translate.foreign import read_lines
from translate.images import reading as images
from translate.images import writing
from translate.images.reading import ImageConfig
from translate.images.writing import write_image
from translate.networks.layers import Generator
from translate.networks.resnet import ResNet
from translate.networks.weights import initialise
from translate.runs.release import Release

FORK = multiprocessing.get_context("fork")  # children that have torch already, so that a kill costs milliseconds


class Identity(Generator):
    """Gives back what it gets, padded and cropped like any generator; remembers the sizes it has seen."""

    multiple, smallest = 4, 8

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def translate(self, image: Tensor) -> Tensor:
        self.seen.append(tuple(image.shape))
        return image


def release_of(generator: nn.Module, channels: int = 3, bits: images.Bits = 8, fingerprint: str = "0" * 64,
               **fields: Any) -> Release:
    """A release of both sides alike; unless `fields` say so, without a background, so that nothing changes on the way.
    """
    config = ImageConfig(channels=channels, bits=bits, **{"background": None} | fields)
    return Release(generator.eval(), config, config, "ab", "a release", fingerprint)


def tiny_release() -> Release:
    """A real generator, the same in every process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = ResNet(3, 3, width=4, blocks=1)
    initialise(generator, 0.2)
    return release_of(generator)


def noise(height: int, width: int, channels: int = 3, seed: int = 0, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (height, width, channels), dtype)


def fill(folder: Path, number: int, height: int = 24, width: int = 20) -> None:
    """A nested folder of small PNGs."""
    for index in range(number):
        path = folder / ("inner" if index % 3 == 1 else ".") / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, noise(height, width, seed=index))


def tree(folder: Path) -> dict[str, str]:
    """The SHA-256 of every finished file below a folder."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(LEDGERS)}


def last_rows(out: Path) -> dict[str, dict[str, str]]:
    return {row["path"]: row for path in sorted(out.glob(f"{LEDGERS}*")) for row in read_lines(path)}


def convert_in_little_memory(source: Path, out: Path) -> None:
    forget_fork_server()
    release = tiny_release()
    used = next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines()
                if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (used + 400_000_000, resource.RLIM_INFINITY))
    sys.exit(convert(source, out, release, workers=0).exit_code)  # a process of its own would not have the limit


def convert_in_child(source: Path, out: Path, workers: int, careless: bool = False) -> None:
    forget_fork_server()
    if careless:  # what a converter without atomic writes does
        writing.replacing = written_in_place
    sys.exit(convert(source, out, tiny_release(), workers=workers).exit_code)


@contextmanager
def written_in_place(path: Path, written: object = None) -> Iterator[object]:
    class TwoHalves:
        def write(self, content: bytes) -> None:
            with path.open("wb") as file:
                file.write(content[: len(content) // 2])
                file.flush()
                time.sleep(0.02)
                file.write(content[len(content) // 2:])
    yield TwoHalves()


def processes_of(number: int) -> list[int]:
    """The children of a process, and theirs."""
    found = [number]
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            if parent == number:
                found += processes_of(int(status.parent.name))
    return found
