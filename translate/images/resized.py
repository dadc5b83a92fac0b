"""Pictures and pages at another size, by `translate.images.resampling`: whole or by rows with the same result.

Alpha goes along; so do resolution and the tags by which a GeoTIFF says where it lies, which count pixels and so change.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from translate.images.georeference import resized_geo
from translate.images.pages import Page
from translate.images.pictures import Picture, usable_dpi
from translate.images.reading import change_bits
from translate.images.resampling import HeightWidth, Resampling
from translate.images.sinks import RowSink


def resized_picture(picture: Picture, shape: HeightWidth) -> Picture:
    """Return a picture at another (height, width)."""
    old = picture.pixels.shape[0], picture.pixels.shape[1]
    if old == shape:
        return picture
    resampling = Resampling(old, shape)
    alpha = None if picture.alpha is None else resampling.whole(picture.alpha)
    unknown = None if picture.unknown is None else np.isnan(resampling.whole(holes(picture.unknown)))
    pixels = resampling.whole(summable(picture.pixels, picture.nodata is not None or unknown is not None))
    return replace(picture, pixels=pixels, alpha=alpha, unknown=unknown,
                   dpi=resized_dpi(picture.dpi, old, shape), geo=resized_geo(picture.geo, old, shape))


def resized_image(image: Tensor, shape: HeightWidth) -> Tensor:
    """Return an image (C, H, W), float32 in [-1, 1] on the CPU, at another (height, width)."""
    old = image.shape[1], image.shape[2]
    if old == shape:
        return image
    made = Resampling(old, shape).whole(image.permute(1, 2, 0).numpy())
    return torch.from_numpy(made).permute(2, 0, 1).contiguous()


class ResizedPage(Page):
    """A page at another (height, width), of whose file only the rows that are asked for are read."""

    def __init__(self, page: Page, shape: HeightWidth):
        old = page.height, page.width
        self.page, self.resampling = page, Resampling(old, shape)
        self.path, self.config, self.is_big, self.has_alpha = page.path, page.config, page.is_big, page.has_alpha
        self.icc, self.exif, self.notes = page.icc, page.exif, page.notes
        self.held_bytes, self.read_bytes = page.held_bytes, page.read_bytes
        self.nodata, self.may_lack_data = page.nodata, page.may_lack_data
        self.dpi, self.geo = resized_dpi(page.dpi, old, shape), resized_geo(page.geo, old, shape)
        self.shape = (1, page.shape[1], *shape)

    def read_pixels(self, start: int, stop: int) -> np.ndarray:
        return self.resampling.rows(
            lambda first, last: summable(self.page.read_pixels(first, last), self.may_lack_data), start, stop)

    def read_alpha(self, start: int, stop: int) -> np.ndarray | None:
        if not self.has_alpha:
            return None

        def read(first: int, last: int) -> np.ndarray:
            alpha = self.page.read_alpha(first, last)
            assert alpha is not None, "the page has alpha"
            return alpha[..., None]

        return self.resampling.rows(read, start, stop)[..., 0]

    def read_unknown(self, start: int, stop: int) -> np.ndarray | None:
        if not self.may_lack_data:
            return None
        unknown = False

        def read(first: int, last: int) -> np.ndarray:
            nonlocal unknown
            found = self.page.read_unknown(first, last)
            unknown |= found is not None
            return holes(np.zeros((last - first, self.page.width), bool) if found is None else found)[..., None]

        rows = np.isnan(self.resampling.rows(read, start, stop)[..., 0])
        return rows if unknown else None


class ResizedSink:
    """Brings rows to another size and hands them to `sink`, from top to bottom; it keeps those that are still needed.

    `old` is the (height, width) of what comes in, `new` of what goes to the sink.
    """

    def __init__(self, sink: RowSink, old: HeightWidth, new: HeightWidth):
        self.sink, self.resampling = sink, Resampling(old, new)
        self._first, self._kept = 0, np.empty((0, old[1], 0), np.float32)  # the rows from number `_first` on
        self._written = 0

    def write(self, start: int, strip: Tensor) -> None:
        """Take rows (1, C, rows, W) in [-1, 1], from row `start` on. Raises what the sink raises."""
        rows = strip[0].to("cpu", torch.float32).permute(1, 2, 0).numpy()
        assert start == self._first + len(self._kept), "rows come from top to bottom"
        self._kept = np.concatenate([self._kept, rows]) if len(self._kept) else rows

        # All that can be made of the rows so far
        stop = self.resampling.made_of(start + len(rows))
        if stop == self._written:
            return
        made = self.resampling.rows(lambda first, last: self._kept[first - self._first:last - self._first],
                                    self._written, stop)
        self.sink.write(self._written, torch.from_numpy(made).permute(2, 0, 1)[None])
        self._written = stop

        # Rows that nothing more is made of are dropped
        if stop < self.resampling.new[0]:
            first, _ = self.resampling.needs(stop, stop + 1)
            self._kept, self._first = self._kept[first - self._first:], first


def summable(pixels: np.ndarray, may_lack_data: bool) -> np.ndarray:
    """Return pixels of one type for all rows of an image: floats, where some rows may hold NaN and others do not."""
    return change_bits(pixels, "float") if may_lack_data else pixels


def holes(unknown: np.ndarray) -> np.ndarray:
    """Return an image (H, W) float32 that is NaN where a pixel has no data: no pixel is made of such a one."""
    return np.where(unknown, np.float32(np.nan), np.float32(0))


def resized_dpi(dpi: tuple[float, float] | None, old: HeightWidth, new: HeightWidth) -> tuple[float, float] | None:
    """Return the dots per inch, across and down, of an image that keeps its size on paper."""
    return None if dpi is None else usable_dpi(dpi[0] * new[1] / old[1], dpi[1] * new[0] / old[0])
