"""The pages of an open file, each read by rows: upright, and in the channels and bits that the file has.

A page of a TIFF whose strips or tiles can be decoded one at a time has a `tiffs.TiffRowReader`, so that it need never
stand whole in memory. Anything else is decoded whole, stays in the bits of its file, and is cut into rows.

`translate.images.pages` makes sources of these pages: channels and bits as a recipe declares, rows as tensors.
`translate.images.decoder_process` opens files in the same way in a process of their own.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import tifffile

from translate.host.available_memory import Available
from translate.images.decoding import decode, decode_page, inspect, pillow_reads, read_content
from translate.images.decoding_memory import COPIES, at_most, check_memory
from translate.images.pictures import SIDEWAYS_ORIENTATIONS, Picture, as_image_errors, check_size, open_image
from translate.images.tiffs import TiffRowReader, full_pages, is_tiff, obstacle, orientation_of, page_info


class RowReader(Protocol):
    """Reads rows of one upright page, as its file has them."""

    def read(self, start: int, stop: int) -> Picture:
        """Read rows [start, stop): pixels and alpha, without the file's metadata. Raises `ImageError`."""


@dataclass(frozen=True)
class PictureRowReader:
    """Reads rows of a picture that stands decoded in memory."""

    picture: Picture

    def read(self, start: int, stop: int) -> Picture:
        alpha = self.picture.alpha
        unknown = self.picture.unknown
        return Picture(self.picture.path, self.picture.pixels[start:stop], None if alpha is None else alpha[start:stop],
                       nodata=self.picture.nodata, unknown=None if unknown is None else unknown[start:stop],
                       range=self.picture.range)


@dataclass(frozen=True, eq=False)
class PageHead:
    """What is known of a page before its rows are read: a picture (0, W, C) with all else that the file holds."""

    picture: Picture
    height: int
    is_big: bool = False  # from a BigTIFF
    held_bytes: int = 0  # what it takes as long as the file is open
    read_bytes: int = 0  # what it takes besides while its rows are read


@dataclass(frozen=True, eq=False)
class FilePage:
    """A page of an open file, with one reader for its colours and one for its alpha.

    Two readers, because each keeps what it decoded last, and alpha is read later than colours: going from top to bottom
    each of them decodes a row of segments once.
    """

    head: PageHead
    reader: RowReader
    alpha_reader: RowReader

    @classmethod
    def of_picture(cls, picture: Picture, is_big: bool = False) -> FilePage:
        """Make a page of a picture that stands decoded in memory."""
        reader = PictureRowReader(picture)
        no_rows = reader.read(0, 0)
        held = sum(each.nbytes for each in (picture.pixels, picture.alpha, picture.unknown) if each is not None)
        head = replace(picture, pixels=no_rows.pixels, alpha=no_rows.alpha, unknown=no_rows.unknown)
        return cls(PageHead(head, len(picture.pixels), is_big, held), reader, reader)


@dataclass(frozen=True)
class BoundedRowReader:
    """Reads rows of a page within the memory that they should need, whatever lies in the file.

    That is what all segments in hand and the rows take, with the copies that are made of them.
    """

    reader: TiffRowReader

    def read(self, start: int, stop: int) -> Picture:
        reader, rows = self.reader, stop - start
        row_bytes = reader.width * reader.page.samplesperpixel * reader.page.dtype.itemsize
        with at_most(COPIES * (reader.kept_bytes + rows * row_bytes), reader.path):
            return reader.read(start, stop)


@contextmanager
def open_file(path: Path, max_pixels: int, room: Available | None = None) -> Iterator[list[FilePage]]:
    """Open a file and yield its pages: those of a TIFF without its reduced ones, else a single one.

    Read them inside the block. `max_pixels` and `room` are as for `translate.images.pages.open_pages`. Raises
    `ImageError`.
    """
    with open_image(path) as file:
        with as_image_errors(path, "read"):
            tiff = tifffile.TiffFile(file) if is_tiff(file) else None

        # Errors of the caller must pass unchanged, so `yield` is outside of `as_image_errors`.
        if tiff is None:
            info, size = inspect(path), path.stat().st_size
            check_size(info, path, max_pixels)
            check_memory(info, size, path, room)
            yield [FilePage.of_picture(decode(read_content(path), path, max_pixels))]
            return
        with tiff:
            tiff.filehandle.set_lock(True)
            with as_image_errors(path, "read"):
                pages = _tiff_pages(tiff, file, path, max_pixels, room)
            yield pages


def _tiff_pages(tiff: tifffile.TiffFile, file: io.BufferedReader, path: Path, max_pixels: int,
                room: Available | None) -> list[FilePage]:
    """Return the pages of a TIFF: by rows where that can be, else decoded whole."""
    # Pages decoded whole stand in memory together, so one limit is for all of them: as if they were one tall image.
    pages = full_pages(tiff, path)
    whole = [page for page in pages
             if orientation_of(page) in SIDEWAYS_ORIENTATIONS or (obstacle(page) and pillow_reads(page))]
    if whole:
        infos = [page_info(page) for page in whole]
        height = sum(info.width * info.height for info in infos) // infos[0].width
        all_pages = replace(infos[0], height=height)
        check_size(all_pages, path, max_pixels)
        check_memory(all_pages, 0, path, room)
    return [_page_whole(page, file, path, max_pixels) if page in whole else _page_by_rows(page, path, max_pixels)
            for page in pages]


def _page_whole(page: Any, file: io.BufferedReader, path: Path, max_pixels: int) -> FilePage:
    """Make a page of one of tifffile's, decoded now."""
    return FilePage.of_picture(decode_page(page, file, path, max_pixels), page.parent.is_bigtiff)


def _page_by_rows(page: Any, path: Path, max_pixels: int) -> FilePage:
    """Make a page of one of tifffile's, whose rows are decoded when they are asked for."""
    reader, alpha_reader = (TiffRowReader(page, path, max_pixels) for _ in range(2))
    icc, notes = reader.icc
    picture = replace(reader.read(0, 0), icc=icc, dpi=reader.dpi, geo=reader.geo, notes=notes)
    read_bytes = (COPIES + 1) * reader.kept_bytes  # one of them reads, and the other keeps what it decoded last
    head = PageHead(picture, reader.height, page.parent.is_bigtiff, read_bytes=read_bytes)
    return FilePage(head, BoundedRowReader(reader), BoundedRowReader(alpha_reader))
