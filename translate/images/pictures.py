"""A decoded image, what a file says of itself before it is decoded, and the limits that both are held to.

Neither this module nor `decoding` and `tiffs`, which stand on it, needs torch: importing them takes a fraction of a
second, so that files nobody has looked at can be decoded in processes of their own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from translate.errors import DocumentError, ImageError, TooLarge, TranslateError
from translate.foreign import opened

Bits = Literal[8, 16, "float"]
DTYPES: dict[Bits, type] = {8: np.uint8, 16: np.uint16, "float": np.float32}

MAX_PIXELS = 200_000_000  # 14 142²; 600 MB once decoded to RGB
MAX_DPI = 65_536  # dots per inch, exclusive: what every format can hold
ORIENTATION_TAG = 0x0112  # of EXIF, and of TIFF
SIDEWAYS_ORIENTATIONS = (5, 6, 7, 8)  # the tag's values for which the rows of the file are columns of the scene


@dataclass(frozen=True)
class ImageInfo:
    """What a file says of itself, before its pixels are decoded. Width and height are those of the upright image."""

    format: str  # as Pillow names it: PNG, JPEG, TIFF
    mode: str  # as Pillow names it: L, RGB, CMYK; of a TIFF: its photometric name
    width: int
    height: int
    channels: int  # without alpha; a palette has 3, CMYK becomes 3
    bits: int | Literal["float"]
    frames: int  # 1 for a still image
    alpha: bool = False  # whether it may be transparent
    turned: bool = False  # whether its rows are not those of the upright image (EXIF, TIFF)
    segment_bytes: int = 0  # of a TIFF: the strip or tile, or row of tiles, that is decoded at once

    @property
    def size(self) -> str:
        return f"{self.width}×{self.height}"


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded image, upright, and what else its file held.

    pixels   (H, W, C), as in the file: uint8, uint16, int16, float32, or float64 for whole numbers of 32 bits
    alpha    (H, W) of the same type, or None
    icc      the colour profile
    exif     without an orientation: the pixels are upright
    dpi      dots per inch, across and down
    geo      the tags by which a GeoTIFF says where on Earth it lies, as `tifffile` writes them (`extratags`)
    notes    what of the file was left out because it cannot be read, in words
    nodata   the value that stands for "no data" in the file; None where it names none
    unknown  (H, W), true where a pixel has no data; None where all have
    range    the values that stand for black and white where the recipe names none; None: the whole range of the type
    """

    path: Path
    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = field(default=None, repr=False)
    exif: bytes | None = field(default=None, repr=False)
    dpi: tuple[float, float] | None = None
    geo: tuple[Any, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()
    nodata: float | None = None
    unknown: np.ndarray | None = None
    range: tuple[float, float] | None = None


def rotate_upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored rows and columns (H, W, …) into the image as it was seen (EXIF 2.3, tag 0x0112, values 1 to 8)."""
    if orientation in SIDEWAYS_ORIENTATIONS:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def bits_of(array: np.ndarray) -> Bits:
    """Return the depth of an array of uint8, uint16 or float32."""
    return next(bits for bits, dtype in DTYPES.items() if array.dtype == dtype)


def usable_dpi(across: float, down: float) -> tuple[float, float] | None:
    """Return a resolution that every format can hold, or None."""
    return (across, down) if 0 < across < MAX_DPI and 0 < down < MAX_DPI else None


@contextmanager
def as_image_errors(path: Path, stage: str) -> Iterator[None]:
    """Raise whatever a decoder raises (there are dozens of classes) as `ImageError`, but a `MemoryError` as it is."""
    try:
        yield
    except (TranslateError, MemoryError):
        raise
    except Exception as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise ImageError(path, stage, reason) from error


def open_image(path: Path) -> BufferedReader:
    """Open the file of an image. Raises `ImageError` for what is no plain file, such as a pipe, without waiting for it.

    What it is, the open file tells: its name may stand for something else than when it was listed.
    """
    with as_image_errors(path, "read"):
        try:
            return opened(path)
        except DocumentError as error:
            raise ImageError(path, "read", error.what) from None


def check_kind(info: ImageInfo, path: Path) -> None:
    """Raise `ImageError`, before an image is decoded, for a depth that nothing here can hold."""
    deep = info.format == "TIFF" and info.bits == 32
    if (info.bits not in DTYPES and not deep) or (info.format == "PPM" and info.bits == 16 and info.channels == 3):
        raise ImageError(path, "read", f"{info.format} of {info.bits} bits and {info.channels} channels is not read; "
                         "save it as 8- or 16-bit PNG or TIFF")


def check_size(info: ImageInfo, path: Path, max_pixels: int) -> None:
    """Raise `ImageError`, before an image is decoded, if it would take too much memory as a whole.

    More than four channels count as more pixels.
    """
    if info.width * info.height * max(1, info.channels / 4) > max_pixels:
        shown = info.size if info.channels <= 4 else f"{info.size} with {info.channels} channels"
        raise ImageError(path, "read", f"is {shown}, above the limit of {max_pixels:,} pixels; "
                         "raise the limit (max_pixels) if the file is genuine")


def check_enlarged(have: tuple[int, int], wanted: tuple[int, int], path: Path, max_pixels: int,
                   advice: str = "ask for a smaller short side") -> None:
    """Raise `TooLarge` where an image of a (height, width) would be enlarged to more than `max_pixels`."""
    if wanted[0] * wanted[1] > max(max_pixels, have[0] * have[1]):
        raise TooLarge(path, "read", f"is {have[1]}×{have[0]}, and would be enlarged to {wanted[1]}×{wanted[0]}, "
                       f"above the limit of {max_pixels:,} pixels; {advice}")


class PillowLimit:
    """Pillow's own limit of pixels, lifted while we decode: ours is an error, and stands for each call.

    Pillow has one for the whole process. A program that imports us relies on it, so it is there again as soon as
    nobody decodes: the first to enter lifts it, and the last to leave puts it back, whichever thread they are in.
    """

    def __init__(self) -> None:
        self._lock, self._num_inside = threading.Lock(), 0
        self._before: int | None = None

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Lift the limit for the block."""
        with self._lock:
            if self._num_inside == 0:
                self._before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._num_inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_inside -= 1
                if self._num_inside == 0:
                    Image.MAX_IMAGE_PIXELS = self._before


PILLOW_LIMIT = PillowLimit()
