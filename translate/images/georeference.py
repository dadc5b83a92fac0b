"""Where on Earth the pixels of a GeoTIFF lie, by its tags, after its image was resized, cropped or moved.

Tags are those that `tifffile` writes: (code, type, count, value, once).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from translate.images.resampling import HeightWidth

PIXEL_SCALE, TIE_POINTS, TRANSFORMATION, GEO_KEYS = 33550, 33922, 34264, 34735  # tags (OGC GeoTIFF 1.1, 7.1)
PLACE_TAGS = (PIXEL_SCALE, TIE_POINTS, TRANSFORMATION, GEO_KEYS, 34736, 34737)  # the last two: what keys refer to
RASTER_TYPE, PIXEL_IS_POINT = 1025, 2  # a geo key, and its value where coordinates are of a pixel's centre


def place_of(geo: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the tags that say where on Earth an image lies, without GDAL's, which say what its values are.

    None, where no pixel is tied to a place: keys alone say in what coordinates places would be given.
    """
    if not any(tag[0] in (TIE_POINTS, TRANSFORMATION) for tag in geo):
        return ()
    return tuple(tag for tag in geo if tag[0] in PLACE_TAGS)


def geo_from(geo: tuple[Any, ...], top: float, left: float) -> tuple[Any, ...]:
    """Return a GeoTIFF's tags for an image whose first pixel is pixel (`top`, `left`) of the one they are of."""
    def changed(code: int, values: Any) -> tuple[float, ...]:
        if code == PIXEL_SCALE:
            return tuple(values)
        if code == TIE_POINTS:  # sixes: a pixel (column, row, 0), and where it lies
            return tuple(value - (left, top, 0, 0, 0, 0)[number % 6] for number, value in enumerate(values))
        return tuple(value for a, b, c, d in _rows_of(values) for value in (a, b, c, d + a * left + b * top))

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
        return tuple(value for a, b, c, d in _rows_of(values) for value in (
            a / across, b / down, c, d + a * (shift / across - shift) + b * (shift / down - shift)))

    return _changed(geo, changed)


def _rows_of(matrix: Any) -> list[Any]:
    """Return the four rows of a matrix that leads from (column, row, depth, 1) to where that lies."""
    return [matrix[first:first + 4] for first in range(0, len(matrix), 4)]


def _changed(geo: tuple[Any, ...], change: Callable[[int, Any], tuple[float, ...]]) -> tuple[Any, ...]:
    return tuple((code, kind, count, change(code, value), once)
                 if code in (PIXEL_SCALE, TIE_POINTS, TRANSFORMATION) else (code, kind, count, value, once)
                 for code, kind, count, value, once in geo)
