"""DICOM (PS3.3, PS3.5): one image of a file as numbers, brightest last, and the values that it is to be seen between.

Stored values become those of the modality (slope and intercept, or its table: Hounsfield units of a CT). What is
stored inverted (MONOCHROME1) is turned round, so that more is always brighter. A recipe's range or window says which
values are black and white; without one it is the file's first window, else all that its stored bits can hold. Padding
is no data. Frames of a film, and what pydicom has no decoder for, are refused by name.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from translate.errors import ImageError, MissingExtra
from translate.images.pictures import ImageInfo, Picture, check_size

if TYPE_CHECKING:
    from pydicom import Dataset

MARK = slice(128, 132)  # where a file says DICM (PS3.10, 7.1)


def is_dicom(start: bytes) -> bool:
    """Return whether a file of this beginning is a DICOM."""
    return start[MARK] == b"DICM"


def dicom_info(content: bytes, path: Path) -> ImageInfo:
    """Return what a DICOM says of itself. Raises `ImageError`."""
    dataset = _read(content, path)
    return ImageInfo("DICOM", str(dataset.PhotometricInterpretation), int(dataset.Columns), int(dataset.Rows),
                     1 if dataset.SamplesPerPixel == 1 and "PALETTE" not in dataset.PhotometricInterpretation else 3,
                     8 if dataset.BitsAllocated == 8 else 16, int(dataset.get("NumberOfFrames", None) or 1))


def decode_dicom(content: bytes, path: Path, max_pixels: int) -> Picture:
    """Decode a DICOM. Raises `ImageError`, also for one of more than `max_pixels` or of several frames."""
    from pydicom.pixels import apply_color_lut, pixel_array

    # Only what has passed the checks of size and kind is decoded.
    info = dicom_info(content, path)
    check_size(info, path, max_pixels)
    if info.frames > 1:
        raise ImageError(path, "read", f"holds {info.frames} frames; save the one you want as a file")
    dataset = _read(content, path)
    stored = pixel_array(dataset)

    # Colours are as in any other file.
    if info.channels == 3:
        colours = apply_color_lut(stored, dataset) if dataset.SamplesPerPixel == 1 else stored
        if colours.dtype not in (np.uint8, np.uint16):
            raise ImageError(path, "read", f"holds colours of {colours.dtype}; save it as 8 or 16 bits")
        return Picture(path, np.ascontiguousarray(colours))
    return _grey(dataset, stored, path)


def _read(content: bytes, path: Path) -> Dataset:
    """Return the elements of a file. Raises `ImageError` for one without an image, and where pydicom is missing."""
    try:
        import pydicom
    except ImportError:
        raise ImageError(path, "read", str(MissingExtra("pydicom", "dicom", "reading DICOM"))) from None
    dataset = pydicom.dcmread(io.BytesIO(content))
    missing = [name for name in ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel", "PhotometricInterpretation",
                                 "PixelData") if name not in dataset]
    if missing:
        raise ImageError(path, "read", f"is a DICOM without an image ({', '.join(missing)} missing)")
    return dataset


def _grey(dataset: Dataset, stored: np.ndarray, path: Path) -> Picture:
    """Return the values of the modality, brightest last, with the range that they are seen in."""
    from pydicom.pixels import apply_modality_lut

    # The values, and the least and the most that the stored bits can give.
    bits = int(dataset.get("BitsStored", dataset.BitsAllocated))
    signed = bool(dataset.get("PixelRepresentation", 0))
    ends = np.array([-(1 << bits - 1), (1 << bits - 1) - 1] if signed else [0, (1 << bits) - 1], np.int64)
    values = np.asarray(apply_modality_lut(stored, dataset), np.float64)
    low, high = sorted(np.asarray(apply_modality_lut(ends, dataset), np.float64).tolist())
    seen = _window(dataset) or (low, high)

    # Turned round where more is darker.
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        values, seen = low + high - values, (low + high - seen[1], low + high - seen[0])

    # Padding is a value, or all from it to a limit (PS3.3, C.7.5.1.1.2).
    padding, unknown = dataset.get("PixelPaddingValue", None), None
    if padding is not None:
        least, most = sorted((padding, dataset.get("PixelPaddingRangeLimit", padding)))
        unknown = (stored >= least) & (stored <= most)
    return Picture(path, _smallest(values)[..., None], range=seen,
                   unknown=unknown if unknown is not None and unknown.any() else None)


def _window(dataset: Dataset) -> tuple[float, float] | None:
    """Return the values that a file's first window shows as black and white (PS3.3, C.11.2.1.2); None without one."""
    centre, width = (_first(dataset.get(name, None)) for name in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None or width <= 1:
        return None
    if dataset.get("VOILUTFunction", "LINEAR") == "LINEAR":
        return centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    return centre - width / 2, centre + width / 2


def _first(value: Any) -> float | None:
    """Return the first of the numbers that an element holds; None where it holds none."""
    values = [] if value is None or value == "" else value if hasattr(value, "__iter__") else [value]
    return float(values[0]) if values else None


def _smallest(values: np.ndarray) -> np.ndarray:
    """Return values in the smallest of the types of a picture that holds them as they are."""
    for dtype in (np.uint16, np.int16, np.float32):
        small = values.astype(dtype) if dtype == np.float32 else values.clip(*_limits(dtype)).astype(dtype)
        if (small == values).all():
            return small
    return values


def _limits(dtype: type) -> tuple[int, int]:
    limits = np.iinfo(dtype)
    return limits.min, limits.max
