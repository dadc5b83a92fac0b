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
import tifffile

from tests.pixels import SRGB
from translate.errors import ImageError
from translate.images import decoder_process, row_readers
from translate.images.decoder_process import DecoderProcess, Request
from translate.images.writing import write_image


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
def decoder(tmp_path: Path) -> Iterator[DecoderProcess]:
    """One that has read a file and waits for the next."""
    one = DecoderProcess()
    one.read(request(tmp_path / "first.png", 0)[0])
    yield one
    one.close()


def kill(decoder: DecoderProcess) -> None:
    assert decoder._process is not None and decoder._process.pid is not None
    os.kill(decoder._process.pid, signal.SIGKILL)
    decoder._process.join(10.0)


def assert_reads(decoder: DecoderProcess, path: Path) -> None:
    asked, pixels = request(path, 2)
    answer = decoder.read(asked)
    assert answer.picture is not None and np.array_equal(answer.picture.pixels, pixels)


def test_a_process_that_dies_in_the_middle_of_its_answer_costs_one_file(decoder: DecoderProcess,
                                                                        tmp_path: Path) -> None:
    """The system's out-of-memory killer comes when a large image is in memory, and so while it is sent."""
    decoder._pipe = Meanwhile(decoder._pipe, lambda: kill(decoder))  # type: ignore[assignment]
    with pytest.raises(ImageError, match="was ended by SIGKILL"):
        decoder.read(request(tmp_path / "large.png", 1)[0])
    assert_reads(decoder, tmp_path / "next.png")


def test_a_process_that_dies_between_two_files_costs_none(decoder: DecoderProcess, tmp_path: Path) -> None:
    kill(decoder)
    assert_reads(decoder, tmp_path / "next.png")


def test_an_answer_there_is_no_memory_for_is_not_taken_for_the_next_file_s(decoder: DecoderProcess,
                                                                           tmp_path: Path) -> None:
    def read_a_little() -> None:
        os.read(decoder._pipe.fileno(), 1000)
        raise MemoryError

    decoder._pipe = Meanwhile(decoder._pipe, read_a_little)  # type: ignore[assignment]
    with pytest.raises(MemoryError):
        decoder.read(request(tmp_path / "large.png", 1)[0])
    assert_reads(decoder, tmp_path / "next.png")


def two_pages(path: Path) -> list[np.ndarray]:
    """A page stored upside down in compressed tiles, with alpha, and one without alpha in plain rows."""
    draw = np.random.default_rng(3)
    pages = [draw.integers(0, 65536, (90, 50, samples), np.uint16) for samples in (4, 3)]
    with tifffile.TiffWriter(path) as writer:
        writer.write(pages[0][::-1, ::-1], photometric="rgb", extrasamples=["unassalpha"], tile=(16, 16),
                     compression="zlib", iccprofile=SRGB, extratags=[(274, "H", 1, 3, True)])
        writer.write(pages[1], photometric="rgb")
    return pages


@pytest.mark.parametrize("piece", [1, 5000, 10**9])
def test_rows_of_another_process_are_those_of_the_file(piece: int, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """However many of them go through the pipe at once."""
    arrays = two_pages(tmp_path / "x.tif")
    monkeypatch.setattr(decoder_process, "PIECE_BYTES", piece)
    with decoder_process.open_file(tmp_path / "x.tif", 10**6) as pages:
        assert [(page.head.height, page.head.picture.pixels.shape) for page in pages] == [(90, (0, 50, 3))] * 2
        assert [page.head.picture.icc for page in pages] == [SRGB, None]
        for a, b in ((0, 0), (0, 37), (30, 89), (89, 90), (0, 90)):
            for page, array in zip(pages, arrays, strict=True):
                assert np.array_equal(page.reader.read(a, b).pixels, array[a:b, :, :3])
            assert np.array_equal(pages[0].alpha_reader.read(a, b).alpha, arrays[0][a:b, :, 3])
            assert pages[1].alpha_reader.read(a, b).alpha is None


def test_what_goes_through_the_pipe_at_once_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 MB of rows are asked for: memory that was allowed for an image must hold no second one."""
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((4000, 5000), np.uint8), photometric="minisblack")
    sizes = []
    answer = DecoderProcess.read_rows
    monkeypatch.setattr(DecoderProcess, "read_rows", lambda self, request: (
        sizes.append((found := answer(self, request)).pixels.nbytes), found)[1])
    with decoder_process.open_file(tmp_path / "x.tif", 10**6) as (page,):
        page.reader.read(0, 4000)
    assert sum(sizes) == 20_000_000 and max(sizes) <= 4_000_000


def test_what_cannot_be_opened_or_decoded_there_is_the_same_error(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, np.random.default_rng(0).integers(0, 256, (96, 64, 3), np.uint8), photometric="rgb",
                     tile=(32, 32), compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[2]  # of the second row of tiles
    content = bytearray(path.read_bytes())
    content[offset:offset + 40] = bytes(40)
    path.write_bytes(content)
    messages = []
    for opening in (row_readers.open_file, decoder_process.open_file):
        with opening(path, 10**6) as (page,):
            page.reader.read(0, 32)
            with pytest.raises(ImageError) as caught:
                page.reader.read(31, 33)
            messages.append(str(caught.value))
            page.reader.read(64, 96)
        with pytest.raises(ImageError, match="above the limit of 10 pixels"), opening(path, 10):
            pass
    assert messages[0] == messages[1]


def test_rows_asked_for_after_the_process_has_died_are_an_error(tmp_path: Path) -> None:
    """A fresh process knows nothing of the file."""
    two_pages(tmp_path / "x.tif")
    with decoder_process.open_file(tmp_path / "x.tif", 10**6) as (page, _):
        decoder: DecoderProcess = page.reader.decoder  # type: ignore[attr-defined]
        kill(decoder)
        for reason in ("was ended by SIGKILL", "is not open any more"):
            with pytest.raises(ImageError, match=reason):
                page.reader.read(0, 10)
