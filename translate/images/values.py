"""The values that a file holds, where they are no colours: a range of them stands for [-1, 1], and some for "no data".

Heights, temperatures, Hounsfield units and 12 bits in files of 16 fill a part of what their type can hold. A recipe
says which (`range`), a file which of its values stands for "no data" (GDAL's tag; NaN always does). Arrays are
(H, W, C) and may be of any real type; pixels without data are a mask (H, W), true where there are none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
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
            with np.errstate(over="ignore"):  # of float64, in a picture of float32
                found |= values == values.dtype.type(nodata)
        unknown = found.any(axis=2)
    elif nodata is None or not holds_value(values.dtype, nodata):
        return None
    else:
        same = values == values.dtype.type(nodata)
        unknown = same.all(axis=2) if values.dtype.kind == "u" else same.any(axis=2)
    return unknown if unknown.any() else None


def holds_value(dtype: np.dtype, value: float) -> bool:
    """Tell whether a type can hold a value: exactly, or of floats to their precision."""
    if dtype.kind == "f":
        return not math.isfinite(value) or abs(value) <= float(np.finfo(dtype).max)
    limits = np.iinfo(dtype)
    return math.isfinite(value) and value == int(value) and limits.min <= value <= limits.max


@dataclass(frozen=True)
class NoData:
    """What is written where an input has no data. `told`: the output's tag says so, and no other value is like it."""

    value: float
    told: bool

    @classmethod
    def of_output(cls, dtype: np.dtype, wanted: float | None, low_high: Range | None) -> NoData:
        """Choose it for an output of a type, whose values fill a range (None: all of the type).

        wanted   the input's value for "no data", which is taken where the type holds it; None where it names none

        Else NaN for floats, and for integers one outside of the range. Without any that is free it is 0, and told where
        the input told its own.
        """
        if wanted is not None and holds_value(dtype, wanted):
            return cls(wanted, True)
        if dtype.kind == "f":
            return cls(math.nan, True)
        limits = np.iinfo(dtype)
        low, high = low_high or (limits.min, limits.max)
        if low > limits.min or high < limits.max:
            return cls(float(limits.min if low > limits.min else limits.max), True)
        return cls(0.0, wanted is not None)

    def put(self, values: np.ndarray, unknown: np.ndarray | None) -> np.ndarray:
        """Return values with it where they are unknown. Where it is told, any other value like it moves by one."""
        alike = unknown_in(values, self.value) if self.told and values.dtype.kind != "f" else None
        if alike is not None:
            step = -1 if self.value == np.iinfo(values.dtype).max else 1
            values = np.where(alike[..., None] & (values == self.value), values.dtype.type(self.value + step), values)
        return values if unknown is None else np.where(unknown[..., None], values.dtype.type(self.value), values)

    def tags(self, geo: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return a GeoTIFF's tags that tell it; NaN needs none where there was none."""
        return with_nodata(geo, self.value) if self.told else geo


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
