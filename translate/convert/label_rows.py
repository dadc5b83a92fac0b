"""A label map read by rows: one number a pixel stays in memory, and only the rows asked for become planes of floats."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from translate.data.label_planes import label_planes
from translate.data.labels import Labelling
from translate.images.pictures import Picture


class LabelRows:
    """A label map as a source for `translate.tiling`, with the fields of a `translate.images.pages.Page`."""

    icc = exif = dpi = nodata = None
    geo: tuple[Any, ...] = ()
    read_bytes = 0

    def __init__(self, picture: Picture, labels: Labelling):
        self.path, self.notes, self.held_bytes = picture.path, picture.notes, picture.pixels.nbytes
        self.height, self.width = picture.pixels.shape[:2]
        self.shape = (1, labels.channels, self.height, self.width)
        self._numbers, self._labels = picture.pixels, labels

    def read(self, start: int, stop: int) -> Tensor:
        """Read rows [start, stop): (1, classes and edges, stop − start, W)."""
        first = max(start - 1, 0)  # whether a pixel is at an edge, the rows above and below tell as well
        return label_planes(self._labels, self._numbers[first:stop + 1])[None, :, start - first:stop - first]

    def read_alpha(self, start: int, stop: int) -> np.ndarray | None:
        return None

    def read_unknown(self, start: int, stop: int) -> np.ndarray | None:
        return None
