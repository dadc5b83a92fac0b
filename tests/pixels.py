"""What the tests of image files share: pixels to write, what is seen of a file, and the usual formats."""

from __future__ import annotations

import numpy as np
from PIL import ImageCms

from translate.images.reading import ImageConfig

# Without a background, so that colours which nobody sees are not changed on the way.
RGB8, RGB16, RGB_FLOAT = (ImageConfig(bits=bits, background=None) for bits in (8, 16, "float"))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(height: int, width: int, channels: int, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).random((height, width, channels))
    if dtype == np.float32:
        return (values * 2 - 1).astype(np.float32)
    return np.rint(values * np.iinfo(dtype).max).astype(dtype)


def seen(stored: np.ndarray, orientation: int) -> np.ndarray:
    """EXIF 2.3, table 4.6.4: where the 0th row and the 0th column of the file lie in the scene, pixel by pixel."""
    rows, columns = stored.shape[:2]
    row_is, column_is = {1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
                         5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"),
                         8: ("left", "bottom")}[orientation]
    shape = (columns, rows) if row_is in ("left", "right") else (rows, columns)
    scene = np.zeros((*shape, stored.shape[2]), stored.dtype)
    for row in range(rows):
        for column in range(columns):
            at = {"top": row, "bottom": rows - 1 - row, "left": row, "right": rows - 1 - row}[row_is]
            along = {"left": column, "right": columns - 1 - column, "top": column,
                     "bottom": columns - 1 - column}[column_is]
            y, x = (at, along) if row_is in ("top", "bottom") else (along, at)
            scene[y, x] = stored[row, column]
    return scene
