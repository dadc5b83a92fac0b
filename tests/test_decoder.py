"""Decoding in another process: whatever becomes of it, the next file is read as if nothing had been."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from translate.data.images import write_image
from translate.decoder import Decoder, Request
from translate.errors import ImageError


class Meanwhile:
    """A pipe on which something happens once an answer has begun to arrive."""

    def __init__(self, pipe: Connection, happens: Callable[[], None]):
        self.pipe, self.happens = pipe, happens

    def __getattr__(self, name: str) -> object:
        return getattr(self.pipe, name)

    def poll(self, seconds: float) -> bool:
        arrived = self.pipe.poll(seconds)
        time.sleep(0.3)  # as much of the answer has come as a pipe holds
        self.happens()
        return arrived


def request(path: Path, seed: int) -> tuple[Request, np.ndarray]:
    """An image whose answer is far larger than what a pipe holds: its process is still sending when we read."""
    pixels = np.random.default_rng(seed).integers(0, 256, (600, 500, 3), np.uint8)
    write_image(path, pixels)
    return Request(path, 10**6, ""), pixels


@pytest.fixture
def decoder(tmp_path: Path) -> Iterator[Decoder]:
    """One that has read a file and waits for the next."""
    one = Decoder()
    one.read(request(tmp_path / "first.png", 0)[0])
    yield one
    one.close()


def kill(decoder: Decoder) -> None:
    assert decoder._process is not None and decoder._process.pid is not None
    os.kill(decoder._process.pid, signal.SIGKILL)
    decoder._process.join(10.0)


def assert_reads(decoder: Decoder, path: Path) -> None:
    asked, pixels = request(path, 2)
    answer = decoder.read(asked)
    assert answer.picture is not None and np.array_equal(answer.picture.pixels, pixels)


def test_a_process_that_dies_in_the_middle_of_its_answer_costs_one_file(decoder: Decoder, tmp_path: Path) -> None:
    """The system's out-of-memory killer comes when a large image is in memory, and so while it is sent."""
    decoder._pipe = Meanwhile(decoder._pipe, lambda: kill(decoder))  # type: ignore[assignment]
    with pytest.raises(ImageError, match="was ended by SIGKILL"):
        decoder.read(request(tmp_path / "large.png", 1)[0])
    assert_reads(decoder, tmp_path / "next.png")


def test_a_process_that_dies_between_two_files_costs_none(decoder: Decoder, tmp_path: Path) -> None:
    kill(decoder)
    assert_reads(decoder, tmp_path / "next.png")


def test_an_answer_there_is_no_memory_for_is_not_taken_for_the_next_file_s(decoder: Decoder, tmp_path: Path) -> None:
    def read_a_little() -> None:
        os.read(decoder._pipe.fileno(), 1000)
        raise MemoryError

    decoder._pipe = Meanwhile(decoder._pipe, read_a_little)  # type: ignore[assignment]
    with pytest.raises(MemoryError):
        decoder.read(request(tmp_path / "large.png", 1)[0])
    assert_reads(decoder, tmp_path / "next.png")
