"""TIFF, BigTIFF and GeoTIFF through tifffile: their pages, read by rows, and the tags with which they are written.

A TIFF is stored in segments (strips or tiles), each compressed by itself. Rows [start, stop) need only the segments
that they touch; so an image of any size is read in the memory of one row of its tiles. How `TiffRowReader.read` gets
there:

    read              rows of the upright image → rows as they are stored, and back upright (`_as_picture`)
    _read_stored      uncompressed rows that follow each other in the file are read as they lie (`_read_uncompressed`);
                      all others are cut out of the rows of segments that they touch
    _segment_row      one row of tiles, or one strip; the last one is kept
    _segment          one strip or tile, decoded by tifffile

Which reader a page gets, `translate.images.row_readers` decides.
"""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile

from translate.errors import ImageError, MissingExtra
from translate.images.metadata import checked_profile
from translate.images.pictures import (
    ORIENTATION_TAG,
    SIDEWAYS_ORIENTATIONS,
    ImageInfo,
    Picture,
    as_image_errors,
    check_kind,
    rotate_upright,
    usable_dpi,
)
from translate.images.values import NODATA_TAG, nodata_in, unknown_in

# Where on Earth an image lies (GeoTIFF 1.1: pixel scale, tie points, transformation, keys and their numbers and texts),
# and what GDAL adds to that: metadata, the value that stands for "no data".
GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113)
ICC_PROFILE_TAG = 34675
UNITS_PER_INCH = {2: 1.0, 3: 2.54}  # by the resolution's unit (TIFF 6.0): 2 is inches, 3 centimetres; 1 is none
JPEG_COMPRESSION = 7
# What the samples of a file, by kind and bytes, become in a picture. Whole numbers of 32 bits become float64, which
# holds them all.
PICTURE_DTYPES: dict[str, type] = {"u1": np.uint8, "u2": np.uint16, "u4": np.float64, "i1": np.int16, "i2": np.int16,
                                   "i4": np.float64, "f2": np.float32, "f4": np.float32, "f8": np.float32}
# Keep tifffile's warnings off stderr; your own logging handler still gets them.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def is_tiff(file: BinaryIO) -> bool:
    """Return whether a file opens as a TIFF or BigTIFF does; it is left at its beginning."""
    start = file.read(4)
    file.seek(0)
    return start[:2] in (b"II", b"MM") and start[2:] in (b"*\0", b"\0*", b"+\0", b"\0+")  # all that Pillow takes


def names_no_data(file: BinaryIO) -> bool:
    """Return whether any page of a TIFF names a value that stands for "no data" (GDAL)."""
    with tifffile.TiffFile(file) as tiff:
        return any(NODATA_TAG in page.tags for page in tiff.pages if isinstance(page, tifffile.TiffPage))


def full_pages(tiff: tifffile.TiffFile, path: Path) -> list[Any]:
    """Return the pages that are images: without smaller copies of one (pyramids, thumbnails). Raises `ImageError`."""
    all_pages: Any = tiff.pages
    _check_last_page(tiff, path)
    pages = [page for page in all_pages if not page.is_reduced]
    if any(page.is_mask for page in pages):
        raise ImageError(path, "read", "holds a transparency mask as a page of its own; make it an alpha channel")
    if not pages:
        raise ImageError(path, "read", "holds nothing but reduced pages (thumbnails); save the image itself as a file")
    return pages


def _check_last_page(tiff: tifffile.TiffFile, path: Path) -> None:
    """Raise `ImageError` where the last page names a further one: tifffile leaves out a page that is cut, and all
    behind it."""
    pointer, length = tiff.pages.next_page_offset, tiff.tiff.offsetsize
    if pointer is None:  # not found by going from page to page
        return
    tiff.filehandle.seek(pointer)
    content = tiff.filehandle.read(length)
    if any(content) or len(content) < length:
        raise ImageError(path, "read", f"is cut off or damaged: what follows page {len(tiff.pages)} cannot be read")


def page_info(page: Any, frames: int = 1) -> ImageInfo:
    """Return what a page says of itself."""
    colours = page.samplesperpixel - (1 if has_alpha(page) else 0)
    if page.photometric.name in ("PALETTE", "SEPARATED"):
        colours = 3
    floats = page.dtype is not None and page.dtype.kind == "f"
    width, height = page.imagewidth, page.imagelength
    if orientation_of(page) in SIDEWAYS_ORIENTATIONS:
        width, height = height, width
    return ImageInfo("TIFF", page.photometric.name, width, height, colours,
                     "float" if floats else max(8, page.bitspersample), frames,
                     alpha=has_alpha(page), turned=orientation_of(page) != 1, segment_bytes=segment_bytes(page))


def segment_bytes(page: Any) -> int:
    """Return the bytes of a strip, or of a row of tiles, once it is decoded: tiles may be larger than their image."""
    rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    rows = rows if page.is_tiled else min(rows, page.imagelength)
    across = math.ceil(page.imagewidth / columns) * columns if columns else 0
    return rows * across * max(page.tiledepth, 1) * page.samplesperpixel * math.ceil(page.bitspersample / 8)


def check_segments(page: Any, path: Path, max_pixels: int) -> None:
    """Raise `ImageError` for a page with a tile of more than `max_pixels`: it is decoded whole, whatever lies in it."""
    if page.is_tiled and page.tilewidth * page.tilelength * max(page.tiledepth, 1) > max_pixels:
        raise ImageError(path, "read", f"is {page.imagewidth}×{page.imagelength} in tiles of "
                         f"{page.tilewidth}×{page.tilelength}, above the limit of {max_pixels:,} pixels; raise the "
                         "limit (max_pixels) if the file is genuine")


def has_alpha(page: Any) -> bool:
    """Return whether the last sample is alpha. A float image has none: its channels have no common unit."""
    return tuple(page.extrasamples) in ((1,), (2,)) and page.dtype is not None and page.dtype in (np.uint8, np.uint16)


def orientation_of(page: Any) -> int:
    value = page.tags.valueof(ORIENTATION_TAG, default=1)
    return value if value in range(1, 9) else 1


def geo_tags(page: Any, path: Path) -> tuple[Any, ...]:
    """Return a GeoTIFF's tags as `tifffile` writes them: (code, type, count, value, once).

    They count stored rows and columns: of an image that has to be turned upright they would tell the wrong place.
    Raises `ImageError` there.
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
    """Return the dots per inch, across and down, where the page states them."""
    with suppress(Exception):
        per_inch = UNITS_PER_INCH[int(page.tags.valueof("ResolutionUnit", default=2))]
        across, down = (value[0] / value[1] * per_inch for value in (
            page.tags.valueof("XResolution"), page.tags.valueof("YResolution")))
        return usable_dpi(across, down)
    return None


def obstacle(page: Any) -> str | None:
    """Say why a page cannot be read by rows, or None."""
    # What its samples are: colours, depth, order.
    photometric, kind = page.photometric.name, page.dtype.kind if page.dtype is not None else ""
    jpeg_colours = photometric == "YCBCR" and page.compression == JPEG_COMPRESSION  # decoded to RGB, strip by strip
    if photometric not in ("MINISBLACK", "MINISWHITE", "RGB") and not jpeg_colours:
        return f"TIFF of {page.dtype} {photometric} is not read; save it as grey or RGB"
    if page.dtype is None or f"{kind}{page.dtype.itemsize}" not in PICTURE_DTYPES:
        return f"TIFF of {page.dtype} {photometric} is not read; save it as 8 or 16 bits or as floats"
    if page.bitspersample != page.dtype.itemsize * 8:
        return f"TIFF of {page.bitspersample} bits a sample, {photometric}, is not read; save it as 8 or 16 bits"
    if page.axes not in ("YX", "YXS", "SYX"):
        return f"TIFF with the axes {page.axes} is not an image of rows and columns"
    if has_alpha(page) and tuple(page.extrasamples) == (1,):
        return f"its {page.bitspersample}-bit colours are premultiplied by alpha; save it with plain alpha"

    # How they are compressed: most ways need a library that is an extra.
    if page.compression not in tifffile.TIFF.DECOMPRESSORS or page.predictor not in tifffile.TIFF.UNPREDICTORS:
        name = page.compression.name if page.predictor == 1 else f"{page.compression.name} with {page.predictor.name}"
        missing = MissingExtra("imagecodecs", "formats", f"TIFF of {page.bitspersample} bits compressed by {name}")
        return f"{missing}; or save the file with deflate"
    return None


class TiffRowReader:
    """Reads rows of a page of a TIFF, upright. `max_pixels` bounds what has to be decoded at once.

    That is one row of tiles, one strip, or nothing where rows lie uncompressed one after the other; and the whole of
    a page that is stored sideways. The row of tiles last decoded is kept until the last rows have been read: the next
    ones mostly begin in it. `kept_bytes` is what it takes.
    Raises `ImageError` for a page that cannot be read in this way, and for a file that has been cut.
    """

    def __init__(self, page: Any, path: Path, max_pixels: int):
        # What the page is, upright.
        self.page, self.path = page, path
        self.info = page_info(page)
        check_kind(self.info, path)
        reason = obstacle(page)
        if reason is not None:
            raise ImageError(path, "read", reason)
        self.orientation = orientation_of(page)
        self.height, self.width = self.info.height, self.info.width
        self.geo = geo_tags(page, path)
        self.nodata = nodata_in(self.geo)

        # How it is stored: one plane of all samples or one for each, every plane in a grid of segments.
        self._samples = page.samplesperpixel
        self._planes = self._samples if page.axes == "SYX" else 1
        self._segment_height = min(page.tilelength if page.is_tiled else page.rowsperstrip, page.imagelength)
        self._segments_across = math.ceil(page.imagewidth / page.tilewidth) if page.is_tiled else 1
        self._segments_down = math.ceil(page.imagelength / self._segment_height)
        self._is_uncompressed = page.is_contiguous and page.predictor == 1 and page.fillorder == 1
        self.kept_bytes = 0 if self._is_uncompressed else self.info.segment_bytes
        self._kept: tuple[int, np.ndarray] | None = None  # the number of a row of segments, and the row
        self._check_segments(max_pixels)

    def _check_segments(self, max_pixels: int) -> None:
        """Raise `ImageError` where segments are missing, or one row of them is more than `max_pixels`."""
        # All of them, and inside the file: it is refused when it is opened, and not after an hour of computing.
        check_segments(self.page, self.path, max_pixels)
        offsets, counts = self.page.dataoffsets, self.page.databytecounts
        if min(len(offsets), len(counts)) < self._planes * self._segments_down * self._segments_across:
            raise ImageError(self.path, "read", "its list of strips or tiles is cut off")
        end = max((offset + count for offset, count in zip(offsets, counts, strict=False)), default=0)
        if end > self.page.parent.filehandle.size:
            raise ImageError(self.path, "read", f"is cut off: it has {self.page.parent.filehandle.size:,} bytes, and "
                             f"its pixels end at {end:,}")

        # What must be decoded at once. More than four samples a pixel count as more pixels.
        sideways = self.orientation in SIDEWAYS_ORIENTATIONS
        rows = self.page.imagelength if sideways else 0 if self._is_uncompressed else self._segment_height
        if self.page.imagewidth * rows * max(1, self._samples / 4) > max_pixels:
            how = "sideways" if sideways else "in strips or tiles"
            raise ImageError(self.path, "read", f"is {self.info.size} and stored {how}, so that "
                             f"{self.page.imagewidth}×{rows} must be decoded at once, above the limit of "
                             f"{max_pixels:,} pixels; raise the limit (max_pixels) if the file is genuine")

    def read(self, start: int, stop: int) -> Picture:
        """Read rows [start, stop) of the upright image: pixels and alpha. Not for a page that is stored sideways."""
        assert self.orientation not in SIDEWAYS_ORIENTATIONS, "only whole() turns rows into columns"
        with as_image_errors(self.path, "read"):
            upwards, is_last = self.orientation in (3, 4), stop == self.height
            if upwards:
                start, stop = self.height - stop, self.height - start
            picture = self._as_picture(self._read_stored(start, stop, upwards))
            if is_last:  # the next rows are of another page, or of the top
                self._kept = None
            return picture

    def whole(self) -> Picture:
        """Read all of the page, and what else it holds."""
        with as_image_errors(self.path, "read"):
            picture = self._as_picture(self._read_stored(0, self.page.imagelength))
        icc, notes = self.icc
        return replace(picture, icc=icc, dpi=self.dpi, geo=self.geo, notes=notes)

    @property
    def icc(self) -> tuple[bytes | None, tuple[str, ...]]:
        """The colour profile, and what is to be said of one that is damaged."""
        value = self.page.tags.valueof(ICC_PROFILE_TAG)
        return checked_profile(value if isinstance(value, bytes) else None)

    @property
    def dpi(self) -> tuple[float, float] | None:
        return resolution_of(self.page)

    def _as_picture(self, samples: np.ndarray) -> Picture:
        """Make colours and alpha, upright, of stored samples (rows, W, S)."""
        with np.errstate(over="ignore"):  # what stands for no data may be the least of all float64
            samples = samples.astype(PICTURE_DTYPES[f"{samples.dtype.kind}{samples.dtype.itemsize}"], copy=False)
        colours = samples[..., :-1] if has_alpha(self.page) else samples
        unknown = unknown_in(colours, self.nodata)
        if self.page.photometric.name == "MINISWHITE":
            ends = 0 if samples.dtype.kind == "f" else np.iinfo(samples.dtype).min + np.iinfo(samples.dtype).max
            samples = ends - samples  # least and greatest value change places
        samples = rotate_upright(samples, self.orientation)
        unknown = None if unknown is None else rotate_upright(unknown, self.orientation)
        if not samples.flags.writeable:  # a view of the file's bytes, which NumPy guards
            samples = samples.copy()
        if not has_alpha(self.page):
            return Picture(self.path, samples, nodata=self.nodata, unknown=unknown)
        return Picture(self.path, np.ascontiguousarray(samples[..., :-1]), np.ascontiguousarray(samples[..., -1]),
                       nodata=self.nodata, unknown=unknown)

    def _read_stored(self, start: int, stop: int, upwards: bool = False) -> np.ndarray:
        """Read rows [start, stop) as the file has them, (stop − start, W, S).

        `upwards`: the caller reads bottom to top.
        """
        # The easy cases: nothing to decode, or all rows in one row of segments.
        if self._is_uncompressed:
            return self._read_uncompressed(start, stop)
        numbers = range(start // self._segment_height, math.ceil(stop / self._segment_height))
        if len(numbers) == 1:
            top = numbers[0] * self._segment_height
            return self._segment_row(numbers[0])[start - top:stop - top]

        # Else from each row of segments its part, in such an order that the one kept is the one needed next.
        rows = np.empty((stop - start, self.page.imagewidth, self._samples), self.page.dtype)
        for number in reversed(numbers) if upwards else numbers:
            top = number * self._segment_height
            part = rows[max(top - start, 0):top + self._segment_height - start]
            part[:] = self._segment_row(number)[max(start - top, 0):stop - top]
        return rows

    def _read_uncompressed(self, start: int, stop: int) -> np.ndarray:
        """Read rows [start, stop) that lie one after the other, in each plane, (stop − start, W, S)."""
        per_plane = self._samples // self._planes
        dtype = self.page.dtype.newbyteorder(self.page.parent.byteorder)
        row_bytes = self.page.imagewidth * per_plane * dtype.itemsize
        planes = []
        for plane in range(self._planes):
            offset = self.page.dataoffsets[0] + (plane * self.page.imagelength + start) * row_bytes
            content = self._read_bytes(offset, (stop - start) * row_bytes)
            planes.append(np.frombuffer(content, dtype).reshape(stop - start, self.page.imagewidth, per_plane))
        return (np.concatenate(planes, axis=2) if len(planes) > 1 else planes[0]).astype(self.page.dtype, copy=False)

    def _segment_row(self, number: int) -> np.ndarray:
        """Return one row of tiles, or one strip, (rows, W, S): the one that is kept, or else decoded."""
        if self._kept is None or self._kept[0] != number:
            self._kept = None  # gives its memory back before the next is made
            self._kept = number, self._decode_segment_row(number)
        return self._kept[1]

    def _decode_segment_row(self, number: int) -> np.ndarray:
        """Put a row of segments together from all of its columns and planes."""
        # One segment that holds everything needs no copy.
        rows = min(self._segment_height, self.page.imagelength - number * self._segment_height)
        if self._planes == self._segments_across == 1:
            return self._segment(number, rows, self.page.imagewidth)

        # Else the segments of a row follow each other in the file's list, and planes follow each other as a whole.
        row = np.empty((rows, self.page.imagewidth, self._samples), self.page.dtype)
        width = self.page.tilewidth if self.page.is_tiled else self.page.imagewidth
        for plane in range(self._planes):
            samples = slice(plane, plane + 1) if self._planes > 1 else slice(None)
            first = (plane * self._segments_down + number) * self._segments_across
            for column in range(self._segments_across):
                part = row[:, column * width:(column + 1) * width, samples]
                part[:] = self._segment(first + column, *part.shape[:2])
        return row

    def _segment(self, index: int, rows: int, columns: int) -> np.ndarray:
        """Decode the upper left (rows, columns) of a strip or tile."""
        offset, count = self.page.dataoffsets[index], self.page.databytecounts[index]
        tables = {"jpegtables": self.page.jpegtables, "jpegheader": self.page.jpegheader} \
            if self.page.compression == JPEG_COMPRESSION else {}
        # A segment without bytes is one that its writer has left out, for all of it is "no data".
        segment, _, shape = self.page.decode(self._read_bytes(offset, count) if count else None, index, **tables)
        if segment is None:
            return np.full((rows, columns, shape[3]), self.page.nodata, self.page.dtype)
        return segment[0, :rows, :columns]

    def _read_bytes(self, offset: int, count: int) -> bytes:
        file = self.page.parent.filehandle
        with file.lock:  # the readers of all pages share it
            file.seek(offset)
            content = file.read(count)
        if len(content) != count:
            raise ImageError(self.path, "read", f"is cut off: {count:,} bytes were to follow byte {offset:,}")
        return content


def writer_options(colours: int, alpha: bool, dtype: np.dtype | type, *, icc: bytes | None,
                   dpi: tuple[float, float] | None, geo: tuple[Any, ...],
                   compression: int | None = None) -> dict[str, Any]:
    """Return how tifffile is to write (H, W, colours + alpha) samples: deflate, differences of neighbours for integers.

    At the quickest level unless `compression` (0 to 9) is given: a network's output is noise to deflate, which higher
    levels search long to save little. In one thread: a caller who has cores to spare writes several files at once, and
    tifffile with more would gather 500 MB of tiles first.
    """
    options: dict[str, Any] = {"photometric": "minisblack", "compression": "zlib", "maxworkers": 1,
                               "compressionargs": {"level": 1 if compression is None else compression},
                               "iccprofile": icc, "metadata": None, "extratags": geo}
    if np.dtype(dtype).kind in "ui":
        options["predictor"] = 2
    if colours + alpha > 1:
        options["photometric"] = "rgb" if colours in (3, 4) else "minisblack"
        options["planarconfig"] = "contig"
        named = 3 if options["photometric"] == "rgb" else 1
        options["extrasamples"] = ["unspecified"] * (colours - named) + ["unassalpha"] * alpha
    if dpi is not None:
        options |= {"resolution": dpi, "resolutionunit": "INCH"}
    return options
