"""The values that a file holds, where they are no colours: a range of them stands for [-1, 1], and some for "no data".

Heights, temperatures, Hounsfield units and 12 bits in files of 16 fill a part of what their type can hold. A recipe
says which (`range`), a file which of its values stands for "no data" (GDAL's tag; NaN always does). Arrays are
(H, W, C) and may be of any real type; pixels without data are a mask (H, W), true where there are none.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Range = tuple[float, float]
NODATA_TAG = 42113  # GDAL_NODATA: the value as text


def to_unit(values: np.ndarray, low_high: Range) -> np.ndarray:
    """Map a range of values to [-1, 1], float32; those outside become its ends. NaN stays NaN."""
    low, high = low_high
    unit = (values.astype(np.float64) - low) * (2 / (high - low)) - 1
    return unit.clip(-1, 1).astype(np.float32)


def from_unit(unit: np.ndarray, low_high: Range, dtype: np.dtype) -> np.ndarray:
    """Map [-1, 1] back to values of a type, rounded to nearest for integers."""
    low, high = low_high
    values = low + (unit.astype(np.float64).clip(-1, 1) + 1) * ((high - low) / 2)
    return (values if dtype.kind == "f" else np.rint(values)).astype(dtype)


def unknown_in(values: np.ndarray, nodata: float | None) -> np.ndarray | None:
    """Return which pixels have no data; None where all have.

    Of unsigned integers such a pixel has the value in all of its channels, as 0 may well be one of a colour's; of
    others in any of them.
    """
    if values.dtype.kind == "f":
        found = np.isnan(values)
        if nodata is not None and not math.isnan(nodata):
            found |= values == values.dtype.type(nodata)
        unknown = found.any(axis=2)
    elif nodata is None or not holds_value(values.dtype, nodata):
        return None
    else:
        same = values == values.dtype.type(nodata)
        unknown = same.all(axis=2) if values.dtype.kind == "u" else same.any(axis=2)
    return unknown if unknown.any() else None


def holds_value(dtype: np.dtype, value: float) -> bool:
    """Tell whether a type can hold a value exactly."""
    if dtype.kind == "f":
        return True
    limits = np.iinfo(dtype)
    return math.isfinite(value) and value == int(value) and limits.min <= value <= limits.max


def nodata_for(dtype: np.dtype, wanted: float | None, low_high: Range | None) -> float:
    """Return the value that is to stand for "no data" in an output of a type, whose values fill a range.

    The input's where the type holds it; else NaN for floats, and for integers one outside of the range, or 0.
    """
    if wanted is not None and holds_value(dtype, wanted):
        return wanted
    if dtype.kind == "f":
        return math.nan
    limits = np.iinfo(dtype)
    low, high = low_high or (limits.min, limits.max)
    return float(limits.min) if low > limits.min else float(limits.max) if high < limits.max else 0.0


def with_unknown(values: np.ndarray, unknown: np.ndarray | None, nodata: float) -> np.ndarray:
    """Return values in which `nodata` stands for what is unknown, and for nothing else: a value like it moves by one.
    """
    if unknown is None:
        return values
    if values.dtype.kind != "f":
        alike = unknown_in(values, nodata)
        if alike is not None:
            step = -1 if nodata == np.iinfo(values.dtype).max else 1
            values = np.where(alike[..., None] & (values == nodata), values.dtype.type(nodata + step), values)
    return np.where(unknown[..., None], values.dtype.type(nodata), values)


def nodata_in(geo: tuple[Any, ...]) -> float | None:
    """Return the value that stands for "no data" by a GeoTIFF's tags; None where they name none that is a number."""
    for code, _, _, value, _ in geo:
        if code == NODATA_TAG:
            try:
                return float(value.decode() if isinstance(value, bytes) else value)
            except ValueError:
                return None
    return None


def with_nodata(geo: tuple[Any, ...], nodata: float) -> tuple[Any, ...]:
    """Return a GeoTIFF's tags that name this value for "no data"; NaN needs no tag where there was none."""
    if math.isnan(nodata) and nodata_in(geo) is None:
        return geo
    text = f"{nodata:.17g}".encode()
    return (*(tag for tag in geo if tag[0] != NODATA_TAG), (NODATA_TAG, "s", len(text) + 1, text, True))
