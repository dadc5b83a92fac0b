"""Where the rows of an output go: into an array, for formats that are encoded whole, or into a TIFF as they come.

`translate.images.pages` gives the rows of the input; its `Page` tells a sink how large the output is, and its alpha.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tifffile
import torch
from torch import Tensor

from translate.errors import ImageError, TranslateError
from translate.files import Written
from translate.images.pages import Page
from translate.images.reading import ImageConfig, change_bits, under_alpha
from translate.images.tensors import to_file
from translate.images.tiffs import writer_options
from translate.images.values import NoData
from translate.images.writing import as_write_errors, holds, profile_for, replacing_image

TILE_SIDE = 256  # pixels; a multiple of 16 (TIFF 6.0, section 15)
CLASSIC_TIFF_BYTES = 4_000_000_000  # a classic TIFF counts bytes in 32 bits; the rest is for its tags


class UprightImage(Protocol):
    """What an array for the output of an image must know of it: the fields of a `Page`."""

    path: Path

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...


class RowSink(Protocol):
    """Takes the rows of an output, from top to bottom."""

    def write(self, start: int, strip: Tensor) -> None:
        """Take rows (1, C, rows, W) in [-1, 1], from row `start` on."""


class ArraySink:
    """Collects the output of `page` in `array`, (H, W, config.channels) uint8, uint16 or float32, for `write_image`."""

    def __init__(self, page: UprightImage, config: ImageConfig):
        self.page, self.config = page, config
        self.array: np.ndarray = np.empty((page.height, page.width, config.channels), config.file_dtype)

    def write(self, start: int, strip: Tensor) -> None:
        """Take rows (1, C, rows, W) in [-1, 1], from row `start` on. Raises `ImageError` unless all are finite."""
        self.array[start:start + strip.shape[2]] = _samples(strip, self.config, self.page.path)


class TiffSink:
    """Writes the output of `page` as one page of a TIFF: `tifffile` compresses it, a row of tiles at a time.

    `tifffile` asks for tiles, and we are given rows: so it runs in a thread of its own, which also compresses while
    the next rows are computed. It is at most one strip behind, and one more waits to be handed over.
    """

    def __init__(self, writer: tifffile.TiffWriter, thread: ThreadPoolExecutor, path: Path, page: Page,
                 config: ImageConfig, after: TiffSink | None, compression: int | None = None):
        self.path, self.page, self.config, self.after = path, page, config, after
        self.compression = compression
        self.written = 0  # rows
        self._writer, self._thread = writer, thread
        self._alpha = page.has_alpha and holds(".tif", config.channels, config.bits, alpha=True)
        self._nodata = NoData.of_output(config.file_dtype, page.nodata, config.value_range) if page.may_lack_data \
            else None
        self.has_gaps = False  # pixels without data have been written
        self.compose: Callable[[int, np.ndarray], np.ndarray] | None = None  # the last change of rows, by their number
        self._strips: queue.Queue[np.ndarray | None] = queue.Queue(1)
        self._job: Future[None] | None = None

    def write(self, start: int, strip: Tensor) -> None:
        """Take rows (1, C, rows, W) in [-1, 1], from row `start` on: from top to bottom, one page after the other.

        Raises `ImageError` for output that is not finite or alpha that cannot be read, `DiskError` for a full disk.
        """
        # The rows as the file holds them, with the input's alpha beside the colours.
        assert start == self.written, f"rows {self.written} come next, and not {start}"
        rows = _samples(strip, self.config, self.page.path)
        if self._nodata is not None:
            unknown = self.page.read_unknown(start, start + len(rows))
            self.has_gaps |= unknown is not None
            rows = self._nodata.put(rows, unknown)
        if self._alpha:
            alpha = self.page.read_alpha(start, start + len(rows))
            assert alpha is not None, "the page has alpha"
            alpha = change_bits(alpha, self.config.bits)
            rows = np.dstack([under_alpha(rows, alpha, self.page.config, self.config), alpha])
        if self.compose is not None:
            rows = self.compose(start, rows)

        # The first rows of a page start the thread's work on it.
        if self._job is None:
            assert self.after is None or self.after.written == self.after.page.height, "one page after the other"
            self._job = self._thread.submit(self._write_page)
        self._hand_over(rows)
        self.written += len(rows)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of the page once it is written."""
        untold = self.has_gaps and self._nodata is not None and not self._nodata.told
        return (gaps_untold(self._nodata.value, self.path),) if untold and self._nodata is not None else ()

    def finish(self) -> None:
        """Wait until the page is written. Raises `ImageError` for a page that lacks rows, and what `write` raises."""
        if self._job is None or self.written < self.page.height:
            raise ImageError(self.path, "write", f"only {self.written} of {self.page.height} rows of a page were given")
        self._result()

    def abandon(self) -> None:
        """End the thread's work on this page, wherever it is."""
        if self._job is not None:
            with suppress(TranslateError):
                self._hand_over(None)

    def _hand_over(self, rows: np.ndarray | None) -> None:
        """Give rows to the thread, or None to end its work; raise its error where it has stopped."""
        assert self._job is not None
        while not self._job.done():
            with suppress(queue.Full):
                self._strips.put(rows, timeout=0.1)
                return
        self._result()

    def _result(self) -> None:
        """Wait for the thread, and raise its error as one that names the file."""
        assert self._job is not None
        try:
            with as_write_errors(self.path), suppress(_Abandoned):
                self._job.result()
        except TranslateError:
            raise
        except Exception as error:
            raise ImageError(self.path, "write", f"{type(error).__name__}: {error}") from error

    def _write_page(self) -> None:
        """Write the page, in the thread: tifffile asks `_tiles` for its tiles."""
        dtype = self.config.file_dtype
        geo = self.page.geo if self._nodata is None else self._nodata.tags(self.page.geo)
        samples = self.config.channels + self._alpha
        options: dict[str, Any] = writer_options(self.config.channels, self._alpha, dtype, dpi=self.page.dpi, geo=geo,
                                                 icc=profile_for(self.config.channels, self.page.icc),
                                                 compression=self.compression)
        shape = (self.page.height, self.page.width, samples)
        self._writer.write(self._tiles(), shape=shape if samples > 1 else shape[:2], dtype=dtype,
                           tile=(TILE_SIDE, TILE_SIDE), **options)

    def _tiles(self) -> Iterator[np.ndarray]:
        """Cut the rows that are handed over into tiles (rows, columns, samples), smaller ones at the edges."""
        waiting: list[np.ndarray] = []
        for top in range(0, self.page.height, TILE_SIDE):
            # As many strips as one row of tiles needs.
            rows = min(TILE_SIDE, self.page.height - top)
            while sum(map(len, waiting)) < rows:
                strip = self._strips.get()
                if strip is None:
                    raise _Abandoned
                waiting.append(strip)

            # What is left of them begins the next row of tiles.
            joined = np.concatenate(waiting) if len(waiting) > 1 else waiting[0]
            waiting = [joined[rows:]] if len(joined) > rows else []
            for left in range(0, self.page.width, TILE_SIDE):
                yield joined[:rows, left:left + TILE_SIDE]


class _Abandoned(Exception):
    """Ends the thread's work."""


@contextmanager
def writing_pages(path: Path, pages: Sequence[Page], config: ImageConfig, compression: int | None = None,
                  written: Written | None = None) -> Iterator[list[TiffSink]]:
    """Yield sinks for the outputs of `pages` in one TIFF, as `config` declares them, to be filled in their order.

    Deflate (at level `compression`, 0 to 9, if given), tiles; a BigTIFF where the pages are from one or may take more
    than 4 GB. Resolution, ICC profile and GeoTIFF tags of each page are kept, alpha where it can be told from the
    channels (1 or 3 colours, no floats).

    The file is written beside `path` and renamed when the block ends, all pages are complete and on the disk. After
    an error nothing is left of it, and what stood at `path` is intact. `written` takes down what it is. Raises
    `DiskError` and `ImageError`, the latter also for a page that is not complete.
    """
    # A classic TIFF has no room for more than its offsets can count. How much compression will save, nobody knows.
    num_bytes = sum(page.height * page.width * (config.channels + page.has_alpha) for page in pages)
    big = any(page.is_big for page in pages) or num_bytes * config.file_dtype.itemsize > CLASSIC_TIFF_BYTES
    with (replacing_image(path, written=written) as file, tifffile.TiffWriter(file, bigtiff=big) as writer,
          ThreadPoolExecutor(1, "tiff-writer") as thread):
        sinks: list[TiffSink] = []
        for page in pages:
            sinks.append(TiffSink(writer, thread, path, page, config, sinks[-1] if sinks else None, compression))
        try:
            yield sinks
            for sink in sinks:
                sink.finish()
        except BaseException:
            for sink in sinks:
                sink.abandon()
            raise


def gaps_untold(value: float, path: Path) -> str:
    """Say what stands for "no data" in an output that does not tell."""
    return f"its pixels without data are {value:g}, which the {path.suffix} does not tell from others"


def _samples(strip: Tensor, config: ImageConfig, path: Path) -> np.ndarray:
    """Map a strip (1, C, rows, W) to samples (rows, W, C) of the declared depth. Raises `ImageError`: not finite."""
    if not torch.isfinite(strip).all():
        raise ImageError(path, "convert", "the generator's output is not finite; try precision fp32")
    return to_file(strip[0], config)
