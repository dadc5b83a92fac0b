"""TIFF, BigTIFF and GeoTIFF through tifffile: their pages, read by rows, and the tags with which they are written.

A TIFF is stored in segments, strips or tiles, each compressed by itself. Rows [a, b) need only the segments that they
touch; so an image of any size is read in the memory of one row of its tiles. Uncompressed rows that follow each other
in the file are read as they lie.
"""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile

from translate.errors import ImageError, MissingExtra
from translate.images.pictures import (
    ORIENTATION,
    SIDEWAYS,
    ImageInfo,
    Picture,
    check_kind,
    checked_floats,
    faults_of,
    rotate_upright,
)

# Where on Earth an image lies (GeoTIFF 1.1: pixel scale, tie points, transformation, keys and their numbers and texts),
# and what GDAL adds to that: metadata, the value that stands for "no data".
GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113)
ICC_PROFILE = 34675
CENTIMETRES = 3  # the unit of a resolution; 2 is inches, 1 none
MEASURES = {2: 1.0, CENTIMETRES: 2.54}  # to dots per inch
# What tifffile finds odd about tags it would print, without the name of a file. A handler of one's own sees it still.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def is_tiff(file: BinaryIO) -> bool:
    """Whether a file opens as a TIFF or BigTIFF does; it is left at its beginning."""
    start = file.read(4)
    file.seek(0)
    return start[:2] in (b"II", b"MM") and start[2:] in (b"*\0", b"\0*", b"+\0", b"\0+")  # all that Pillow takes


def full_pages(tiff: tifffile.TiffFile, path: Path) -> list[Any]:
    """The pages that are images; smaller copies of one (pyramids, thumbnails) are none. Raises ImageError."""
    all_pages: Any = tiff.pages
    _check_last(tiff, path)
    pages = [page for page in all_pages if not page.is_reduced]
    if any(page.is_mask for page in pages):
        raise ImageError(path, "read", "holds a transparency mask as a page of its own; make it an alpha channel")
    if not pages:
        raise ImageError(path, "read", "holds nothing but reduced pages (thumbnails); save the image itself as a file")
    return pages


def _check_last(tiff: tifffile.TiffFile, path: Path) -> None:
    """Refuse a file whose last page names a further one: tifffile leaves out, with all behind it, one that is cut."""
    pointer, length = tiff.pages.next_page_offset, tiff.tiff.offsetsize
    if pointer is None:  # not found by going from page to page
        return
    tiff.filehandle.seek(pointer)
    content = tiff.filehandle.read(length)
    if any(content) or len(content) < length:
        raise ImageError(path, "read", f"is cut off or damaged: what follows page {len(tiff.pages)} cannot be read")


def page_info(page: Any, frames: int = 1) -> ImageInfo:
    """What a page says of itself."""
    colours = page.samplesperpixel - (1 if has_alpha(page) else 0)
    if page.photometric.name in ("PALETTE", "SEPARATED"):
        colours = 3
    floats = page.dtype is not None and page.dtype.kind == "f"
    width, height = page.imagewidth, page.imagelength
    if orientation_of(page) in SIDEWAYS:
        width, height = height, width
    return ImageInfo("TIFF", page.photometric.name, width, height, colours,
                     "float" if floats else max(8, page.bitspersample), frames)


def has_alpha(page: Any) -> bool:
    """Whether the last sample is alpha. A float image has none: its channels have no common unit."""
    return tuple(page.extrasamples) in ((1,), (2,)) and page.dtype is not None and page.dtype.kind == "u"


def orientation_of(page: Any) -> int:
    value = page.tags.valueof(ORIENTATION, default=1)
    return value if value in range(1, 9) else 1


def geo_tags(page: Any, path: Path) -> tuple[Any, ...]:
    """A GeoTIFF's tags as `tifffile` writes them: (code, type, count, value, once). Raises ImageError.

    They count stored rows and columns: of an image that has to be turned upright they would tell the wrong place.
    """
    found = []
    for tag in (page.tags.get(code) for code in GEO_TAGS):
        with suppress(Exception):  # a tag that cannot be read is no reason to lose an image
            if tag is not None:
                text = isinstance(tag.value, str)
                value = tag.value.encode() if text else tag.value
                found.append((tag.code, tag.dtype, len(value) + 1 if text else tag.count, value, True))
    if found and orientation_of(page) != 1:
        raise ImageError(path, "read", "is georeferenced, and its orientation tag says that it is stored turned; its "
                         "coordinates would be wrong once it is upright: set the tag (274) to 1")
    return tuple(found)


def resolution_of(page: Any) -> tuple[float, float] | None:
    """Dots per inch, across and down."""
    with suppress(Exception):
        per_inch = MEASURES[int(page.tags.valueof("ResolutionUnit", default=2))]
        across, down = (value[0] / value[1] * per_inch for value in (
            page.tags.valueof("XResolution"), page.tags.valueof("YResolution")))
        return (across, down) if 0 < across < 65536 and 0 < down < 65536 else None
    return None


def obstacle(page: Any) -> str | None:
    """Why a page cannot be read by rows, or None."""
    photometric, kind = page.photometric.name, page.dtype.kind if page.dtype is not None else ""
    jpeg_colours = photometric == "YCBCR" and page.compression == 7  # decoded to RGB, strip by strip
    if photometric not in ("MINISBLACK", "MINISWHITE", "RGB") and not jpeg_colours:
        return f"TIFF of {page.dtype} {photometric} is not read; save it as grey or RGB"
    if kind not in ("u", "f") or page.bitspersample != page.dtype.itemsize * 8:
        return f"TIFF of {page.bitspersample}-bit {page.dtype} {photometric} is not read; save it as 8 or 16 bits"
    if page.axes not in ("YX", "YXS", "SYX"):
        return f"TIFF with the axes {page.axes} is not an image of rows and columns"
    if has_alpha(page) and tuple(page.extrasamples) == (1,):
        return f"its {page.bitspersample}-bit colours are premultiplied by alpha; save it with plain alpha"
    if page.compression not in tifffile.TIFF.DECOMPRESSORS or page.predictor not in tifffile.TIFF.UNPREDICTORS:
        name = page.compression.name if page.predictor == 1 else f"{page.compression.name} with {page.predictor.name}"
        missing = MissingExtra("imagecodecs", "formats", f"TIFF of {page.bitspersample} bits compressed by {name}")
        return f"{missing}; or save the file with deflate"
    return None


class TiffRows:
    """A page of a TIFF read by rows, upright. `max_pixels` bounds what has to be decoded at once.

    That is one row of tiles, one strip, or nothing where rows lie uncompressed one after the other; and the whole of
    a page that is stored sideways. The row of tiles last decoded is kept: the next rows mostly begin in it.
    Raises ImageError for a page that cannot be read in this way, and for a file that has been cut.
    """

    def __init__(self, page: Any, path: Path, max_pixels: int):
        self.page, self.path = page, path
        self.info = page_info(page)
        check_kind(self.info, path)
        reason = obstacle(page)
        if reason is not None:
            raise ImageError(path, "read", reason)
        self.orientation = orientation_of(page)
        self.height, self.width = self.info.height, self.info.width
        self.geo = geo_tags(page, path)
        self._samples = page.samplesperpixel
        self._planes = self._samples if page.axes == "SYX" else 1
        self._band_rows = min(page.tilelength if page.is_tiled else page.rowsperstrip, page.imagelength)
        self._across = math.ceil(page.imagewidth / page.tilewidth) if page.is_tiled else 1
        self._down = math.ceil(page.imagelength / self._band_rows)
        self._plain = page.is_contiguous and page.predictor == 1 and page.fillorder == 1
        self._last: tuple[int, np.ndarray] | None = None
        self._check_segments(max_pixels)

    def _check_segments(self, max_pixels: int) -> None:
        offsets, counts = self.page.dataoffsets, self.page.databytecounts
        if min(len(offsets), len(counts)) < self._planes * self._down * self._across:
            raise ImageError(self.path, "read", "its list of strips or tiles is cut off")
        end = max((offset + count for offset, count in zip(offsets, counts, strict=False)), default=0)
        if end > self.page.parent.filehandle.size:
            raise ImageError(self.path, "read", f"is cut off: it has {self.page.parent.filehandle.size:,} bytes, and "
                             f"its pixels end at {end:,}")
        rows = self.page.imagelength if self.orientation in SIDEWAYS else 0 if self._plain else self._band_rows
        if self.page.imagewidth * rows * max(1, self._samples / 4) > max_pixels:
            reason = "its rows are columns of the scene" if self.orientation in SIDEWAYS else "it is stored in pieces"
            raise ImageError(self.path, "read", f"is {self.info.size}, and {reason}, so that "
                             f"{self.page.imagewidth}×{rows} must be decoded at once, above the limit of "
                             f"{max_pixels:,} pixels; raise the limit (max_pixels) if the file is genuine")

    def read(self, a: int, b: int) -> Picture:
        """Rows [a, b) of the upright image, without what else the file holds; not for one stored sideways."""
        assert self.orientation not in SIDEWAYS, "only whole() turns rows into columns"
        with faults_of(self.path, "read"):
            upwards = self.orientation in (3, 4)
            return self._picture(self._stored(self.height - b, self.height - a, upwards) if upwards
                                 else self._stored(a, b))

    def whole(self) -> Picture:
        """All of the page, and what else it holds."""
        with faults_of(self.path, "read"):
            picture = self._picture(self._stored(0, self.page.imagelength))
        return Picture(self.path, picture.pixels, picture.alpha, self.icc, dpi=self.dpi, geo=self.geo)

    @property
    def icc(self) -> bytes | None:
        value = self.page.tags.valueof(ICC_PROFILE)
        return value if isinstance(value, bytes) else None

    @property
    def dpi(self) -> tuple[float, float] | None:
        return resolution_of(self.page)

    def _picture(self, samples: np.ndarray) -> Picture:
        """Stored samples (rows, W, S) as colours and alpha, upright."""
        if samples.dtype.kind == "f":
            samples = checked_floats(samples.astype(np.float32), self.path)
        if self.page.photometric.name == "MINISWHITE":
            samples = -samples if samples.dtype.kind == "f" else np.iinfo(samples.dtype).max - samples
        samples = rotate_upright(samples, self.orientation)
        if not samples.flags.writeable:  # a view of the file's bytes, which NumPy guards
            samples = samples.copy()
        if not has_alpha(self.page):
            return Picture(self.path, samples)
        return Picture(self.path, np.ascontiguousarray(samples[..., :-1]), np.ascontiguousarray(samples[..., -1]))

    def _stored(self, a: int, b: int, upwards: bool = False) -> np.ndarray:
        """Rows [a, b) as the file has them, (b − a, W, S). `upwards` when the next to be read are those before."""
        if self._plain:
            return self._plain_rows(a, b)
        numbers = range(a // self._band_rows, math.ceil(b / self._band_rows))
        if len(numbers) == 1:
            top = numbers[0] * self._band_rows
            return self._band(numbers[0])[a - top:b - top]
        rows = np.empty((b - a, self.page.imagewidth, self._samples), self.page.dtype)
        for number in reversed(numbers) if upwards else numbers:  # so that the band kept is the one needed next
            top = number * self._band_rows
            part = rows[max(top - a, 0):top + self._band_rows - a]
            part[:] = self._band(number)[max(a - top, 0):b - top]
        return rows

    def _plain_rows(self, a: int, b: int) -> np.ndarray:
        per_plane = self._samples // self._planes
        dtype = self.page.dtype.newbyteorder(self.page.parent.byteorder)
        row_bytes = self.page.imagewidth * per_plane * dtype.itemsize
        planes = [np.frombuffer(self._bytes(self.page.dataoffsets[0] + (plane * self.page.imagelength + a) * row_bytes,
                                            (b - a) * row_bytes), dtype) for plane in range(self._planes)]
        shaped = [plane.reshape(b - a, self.page.imagewidth, per_plane) for plane in planes]
        return (np.concatenate(shaped, axis=2) if len(shaped) > 1 else shaped[0]).astype(self.page.dtype, copy=False)

    def _band(self, number: int) -> np.ndarray:
        """One row of tiles, or one strip, (rows, W, S)."""
        if self._last is None or self._last[0] != number:
            self._last = None  # gives its memory back before the next is made
            self._last = number, self._decoded(number)
        return self._last[1]

    def _decoded(self, number: int) -> np.ndarray:
        rows = min(self._band_rows, self.page.imagelength - number * self._band_rows)
        if self._planes == self._across == 1:
            return self._segment(number, rows, self.page.imagewidth)
        band = np.empty((rows, self.page.imagewidth, self._samples), self.page.dtype)
        width = self.page.tilewidth if self.page.is_tiled else self.page.imagewidth
        for plane in range(self._planes):
            samples = slice(plane, plane + 1) if self._planes > 1 else slice(None)
            for column in range(self._across):
                part = band[:, column * width:(column + 1) * width, samples]
                part[:] = self._segment((plane * self._down + number) * self._across + column, *part.shape[:2])
        return band

    def _segment(self, index: int, rows: int, columns: int) -> np.ndarray:
        """The upper left (rows, columns) of a strip or tile."""
        offset, count = self.page.dataoffsets[index], self.page.databytecounts[index]
        tables = {"jpegtables": self.page.jpegtables, "jpegheader": self.page.jpegheader} \
            if self.page.compression == 7 else {}
        # A segment without bytes is one that its writer has left out, for all of it is "no data".
        segment, _, shape = self.page.decode(self._bytes(offset, count) if count else None, index, **tables)
        if segment is None:
            return np.full((rows, columns, shape[3]), self.page.nodata, self.page.dtype)
        return segment[0, :rows, :columns]

    def _bytes(self, offset: int, count: int) -> bytes:
        file = self.page.parent.filehandle
        with file.lock:  # for the readers of all pages share it
            file.seek(offset)
            content = file.read(count)
        if len(content) != count:
            raise ImageError(self.path, "read", f"is cut off: {count:,} bytes were to follow byte {offset:,}")
        return content


def layout(colours: int, alpha: bool, dtype: np.dtype | type, *, icc: bytes | None, dpi: tuple[float, float] | None,
           geo: tuple[Any, ...]) -> dict[str, Any]:
    """How tifffile is to write (H, W, colours + alpha) samples: deflate, differences of neighbours for integers.

    At the quickest level: a network's output is noise to deflate, which higher levels search long to save little.
    """
    options: dict[str, Any] = {"photometric": "minisblack", "compression": "zlib", "compressionargs": {"level": 1},
                               "iccprofile": icc, "metadata": None, "extratags": geo}
    if np.dtype(dtype).kind == "u":
        options["predictor"] = 2
    if colours + alpha > 1:
        options["photometric"] = "rgb" if colours in (3, 4) else "minisblack"
        options["planarconfig"] = "contig"
        named = 3 if options["photometric"] == "rgb" else 1
        options["extrasamples"] = ["unspecified"] * (colours - named) + ["unassalpha"] * alpha
    if dpi is not None:
        options |= {"resolution": dpi, "resolutionunit": "INCH"}
    return options
