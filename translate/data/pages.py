"""The images of a file as pages that are read by rows, so that none of them need stand whole in memory.

    with open_pages(path, image_in) as pages, writing_pages(out, pages, image_out) as sinks:
        for page, sink in zip(pages, sinks):
            tiling.apply(generator, page, out=sink)

A TIFF is read by windows wherever its strips or tiles can be decoded one at a time (`translate.data.tiffs`). Anything
else is decoded whole and stays in the bits of its file; only the rows asked for become floats.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tifffile
from torch import Tensor

from translate.data.decoding import decode, decode_page, pillow_reads, read_content
from translate.data.images import ImageConfig, fit, to_tensor
from translate.data.pictures import MAX_PIXELS, SIDEWAYS, Picture, check_size, faults_of
from translate.data.tiffs import TiffRows, full_pages, is_tiff, obstacle, orientation_of, page_info


class Rows(Protocol):
    """An upright image as its file has it."""

    @property
    def path(self) -> Path: ...

    @property
    def height(self) -> int: ...

    def read(self, a: int, b: int) -> Picture:
        """Rows [a, b)."""


@dataclass(frozen=True)
class HeldRows:
    """A decoded picture, read by rows."""

    picture: Picture

    @property
    def path(self) -> Path:
        return self.picture.path

    @property
    def height(self) -> int:
        return len(self.picture.pixels)

    def read(self, a: int, b: int) -> Picture:
        alpha = self.picture.alpha
        return replace(self.picture, pixels=self.picture.pixels[a:b], alpha=None if alpha is None else alpha[a:b])


class Page:
    """One upright image, read by rows, with the channels and bits that `config` declares (as `images.fit` gives them).

    `shape` is (1, C, H, W). A source for `translate.tiling`. `is_big` says that it comes from a BigTIFF; `icc`, `exif`,
    `dpi` and `geo` are as in a `Picture`. Raises ImageError for an image that cannot be made what `config` declares.

    Rows of a TIFF are decoded as they are asked for, so `read` and `read_alpha` raise ImageError for what is wrong in
    the middle of a file. Going from top to bottom nothing is decoded twice, by either of them: so each has a reader of
    its own (`rows`, `alpha_rows`), and one thread may read colours while another reads alpha.
    """

    def __init__(self, rows: Rows, alpha_rows: Rows, config: ImageConfig, *, icc: bytes | None = None,
                 exif: bytes | None = None, dpi: tuple[float, float] | None = None, geo: tuple[Any, ...] = (),
                 is_big: bool = False):
        self.path, self.config, self.is_big = rows.path, config, is_big
        self.icc, self.exif, self.dpi, self.geo = icc, exif, dpi, geo
        self._rows, self._alpha_rows = rows, alpha_rows
        no_rows = fit(rows.read(0, 0), config)  # what cannot be fitted is refused here, before anything is decoded
        self.shape = (1, config.channels, rows.height, no_rows.pixels.shape[1])
        self.has_alpha = no_rows.alpha is not None

    @property
    def height(self) -> int:
        return self.shape[2]

    @property
    def width(self) -> int:
        return self.shape[3]

    def read(self, a: int, b: int) -> Tensor:
        """Rows [a, b): (1, C, b − a, W) float32 in [-1, 1]."""
        return to_tensor(fit(self._rows.read(a, b), self.config).pixels, self.config)[None]

    def read_alpha(self, a: int, b: int) -> np.ndarray | None:
        """Alpha of rows [a, b): (b − a, W) uint8 or uint16 as in the file; None where it has none, or where `config`
        makes it a channel."""
        return self._alpha_rows.read(a, b).alpha if self.has_alpha else None


def page_of(picture: Picture, config: ImageConfig, is_big: bool = False) -> Page:
    """A decoded picture as a page."""
    rows = HeldRows(picture)
    return Page(rows, rows, config, icc=picture.icc, exif=picture.exif, dpi=picture.dpi, geo=picture.geo,
                is_big=is_big)


@contextmanager
def open_pages(path: Path, config: ImageConfig, max_pixels: int = MAX_PIXELS) -> Iterator[list[Page]]:
    """The pages of a file: those of a TIFF without its reduced ones, else a single one. Read them inside the block.

    `max_pixels` bounds what has to be decoded at once: an image as a whole, all pages together; but of a TIFF that is
    read by windows only one row of tiles or one strip, whatever its size, and nothing where it is not compressed.
    Raises ImageError.
    """
    with faults_of(path, "read"):
        file = path.open("rb")
    with file:
        with faults_of(path, "read"):
            tiff = tifffile.TiffFile(file) if is_tiff(file) else None
        if tiff is None:
            yield [page_of(decode(read_content(path), path, max_pixels), config)]
            return
        with tiff:
            tiff.filehandle.set_lock(True)
            with faults_of(path, "read"):
                pages = _tiff_pages(tiff, file, path, config, max_pixels)
            yield pages


def _tiff_pages(tiff: tifffile.TiffFile, file: io.BufferedReader, path: Path, config: ImageConfig,
                max_pixels: int) -> list[Page]:
    pages = full_pages(tiff, path)
    whole = [page for page in pages if orientation_of(page) in SIDEWAYS or (obstacle(page) and pillow_reads(page))]
    if whole:  # one limit for all of them: they will stand in memory together
        infos = [page_info(page) for page in whole]
        check_size(replace(infos[0], height=sum(info.width * info.height for info in infos) // infos[0].width), path,
                   max_pixels)
    return [page_of(decode_page(page, file, path, max_pixels), config, tiff.is_bigtiff) if page in whole
            else _windowed_page(page, path, config, max_pixels) for page in pages]


def _windowed_page(page: Any, path: Path, config: ImageConfig, max_pixels: int) -> Page:
    rows, alpha_rows = (TiffRows(page, path, max_pixels) for _ in range(2))
    return Page(rows, alpha_rows, config, icc=rows.icc, dpi=rows.dpi, geo=rows.geo, is_big=page.parent.is_bigtiff)
