"""Where on Earth the pixels of a GeoTIFF lie, by its tags, after its image was resized, cropped or moved.

Tags are those that `tifffile` writes: (code, type, count, value, once).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from translate.images.resampling import HeightWidth
from translate.images.values import NODATA_TAG

PIXEL_SCALE, TIE_POINTS, TRANSFORMATION, GEO_KEYS = 33550, 33922, 34264, 34735  # tags (OGC GeoTIFF 1.1, 7.1)
RASTER_TYPE, PIXEL_IS_POINT = 1025, 2  # a geo key, and its value where coordinates are of a pixel's centre


def place_of(geo: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the tags that say where on Earth an image lies, without the one that names its value for no data."""
    return tuple(tag for tag in geo if tag[0] != NODATA_TAG)


def geo_from(geo: tuple[Any, ...], top: float, left: float) -> tuple[Any, ...]:
    """Return a GeoTIFF's tags for an image whose first pixel is pixel (`top`, `left`) of the one they are of."""
    def changed(code: int, values: Any) -> tuple[float, ...]:
        if code == PIXEL_SCALE:
            return tuple(values)
        if code == TIE_POINTS:  # sixes: a pixel (column, row, 0), and where it lies
            return tuple(value - (left, top, 0, 0, 0, 0)[number % 6] for number, value in enumerate(values))

        # A matrix of four rows: (column, row, depth, 1) to where that lies
        rows = [values[place:place + 4] for place in range(0, len(values), 4)]
        return tuple(value for a, b, c, d in rows for value in (a, b, c, d + a * left + b * top))

    return _changed(geo, changed)


def resized_geo(geo: tuple[Any, ...], old: HeightWidth, new: HeightWidth) -> tuple[Any, ...]:
    """Return a GeoTIFF's tags, (code, type, count, value, once), for the same place on Earth in other pixels."""
    across, down = new[1] / old[1], new[0] / old[0]
    keys = next((tag[3] for tag in geo if tag[0] == GEO_KEYS), ())
    shift = 0.5 if (RASTER_TYPE, 0, 1, PIXEL_IS_POINT) in zip(*[iter(keys)] * 4, strict=False) else 0.0

    def changed(code: int, values: Any) -> tuple[float, ...]:
        if code == PIXEL_SCALE:  # (across, down, depth) of a pixel
            return (values[0] / across, values[1] / down, *values[2:])
        if code == TIE_POINTS:  # sixes: a pixel (column, row, 0), and where it lies
            return tuple(((value + shift) * (down if number % 6 else across) - shift) if number % 6 < 2 else value
                         for number, value in enumerate(values))

        # A matrix of four rows: (column, row, depth, 1) to where that lies
        rows = [values[place:place + 4] for place in range(0, len(values), 4)]
        return tuple(value for a, b, c, d in rows for value in (
            a / across, b / down, c, d + a * (shift / across - shift) + b * (shift / down - shift)))

    return _changed(geo, changed)


def _changed(geo: tuple[Any, ...], change: Callable[[int, Any], tuple[float, ...]]) -> tuple[Any, ...]:
    return tuple((code, kind, count, change(code, value), once)
                 if code in (PIXEL_SCALE, TIE_POINTS, TRANSFORMATION) else (code, kind, count, value, once)
                 for code, kind, count, value, once in geo)
