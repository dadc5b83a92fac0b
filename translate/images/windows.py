"""The images of a file as rows, upright and as the file has them, so that none of them need stand whole in memory.

A TIFF is read by windows wherever its strips or tiles can be decoded one at a time (`translate.images.tiffs`). Anything
else is decoded whole and stays in the bits of its file. `translate.images.pages` makes floats of the rows asked for;
`translate.images.decoder` opens files in the same way in a process of their own.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import tifffile

from translate.images.decoding import decode, decode_page, pillow_reads, read_content
from translate.images.pictures import SIDEWAYS, Picture, check_size, faults_of
from translate.images.tiffs import TiffRows, full_pages, is_tiff, obstacle, orientation_of, page_info


class Rows(Protocol):
    """An upright image as its file has it."""

    def read(self, a: int, b: int) -> Picture:
        """Rows [a, b), without what else the file holds."""


@dataclass(frozen=True)
class HeldRows:
    """A decoded picture, read by rows."""

    picture: Picture

    def read(self, a: int, b: int) -> Picture:
        alpha = self.picture.alpha
        return Picture(self.picture.path, self.picture.pixels[a:b], None if alpha is None else alpha[a:b])


@dataclass(frozen=True, eq=False)
class Head:
    """What is known of a page before its rows are read: a picture (0, W, C) with all else that the file holds."""

    picture: Picture
    height: int
    is_big: bool = False  # from a BigTIFF


@dataclass(frozen=True, eq=False)
class PageRows:
    """A page of an open file. Going from top to bottom nothing is decoded twice, neither for colours nor for alpha: so
    each has a reader of its own."""

    head: Head
    rows: Rows
    alpha_rows: Rows


def held_rows(picture: Picture, is_big: bool = False) -> PageRows:
    """A decoded picture as a page."""
    rows = HeldRows(picture)
    none = rows.read(0, 0)
    head = Head(replace(picture, pixels=none.pixels, alpha=none.alpha), len(picture.pixels), is_big)
    return PageRows(head, rows, rows)


@contextmanager
def open_rows(path: Path, max_pixels: int) -> Iterator[list[PageRows]]:
    """The pages of a file: those of a TIFF without its reduced ones, else a single one. Read them inside the block.

    `max_pixels` is as for `translate.images.pages.open_pages`. Raises ImageError.
    """
    with faults_of(path, "read"):
        file = path.open("rb")
    with file:
        with faults_of(path, "read"):
            tiff = tifffile.TiffFile(file) if is_tiff(file) else None
        if tiff is None:
            yield [held_rows(decode(read_content(path), path, max_pixels))]
            return
        with tiff:
            tiff.filehandle.set_lock(True)
            with faults_of(path, "read"):
                pages = _tiff_pages(tiff, file, path, max_pixels)
            yield pages


def _tiff_pages(tiff: tifffile.TiffFile, file: io.BufferedReader, path: Path, max_pixels: int) -> list[PageRows]:
    pages = full_pages(tiff, path)
    whole = [page for page in pages if orientation_of(page) in SIDEWAYS or (obstacle(page) and pillow_reads(page))]
    if whole:  # one limit for all of them: they will stand in memory together
        infos = [page_info(page) for page in whole]
        check_size(replace(infos[0], height=sum(info.width * info.height for info in infos) // infos[0].width), path,
                   max_pixels)
    return [held_rows(decode_page(page, file, path, max_pixels), tiff.is_bigtiff) if page in whole
            else _windowed_rows(page, path, max_pixels) for page in pages]


def _windowed_rows(page: Any, path: Path, max_pixels: int) -> PageRows:
    rows, alpha_rows = (TiffRows(page, path, max_pixels) for _ in range(2))
    picture = replace(rows.read(0, 0), icc=rows.icc, dpi=rows.dpi, geo=rows.geo)
    return PageRows(Head(picture, rows.height, page.parent.is_bigtiff), rows, alpha_rows)
