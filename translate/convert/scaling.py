"""At what scale images are translated, and in which size they are given back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from translate.data.scale import Scale
from translate.data.transforms import check_loaded, resized
from translate.errors import UsageError
from translate.images.pages import Page
from translate.images.pictures import MAX_PIXELS, Picture, check_enlarged
from translate.images.resampling import HeightWidth, scaled_shape
from translate.images.resized import ResizedPage, resized_picture

Resize = int | Literal["trained"]
Size = Literal["resized", "input"]


@dataclass(frozen=True)
class Scaling:
    """What is done to the size of an image before it is translated, and to that of its translation.

    sides      the short side is brought into this range, px, by as little as can be; None: it stays as it is
    give_back  `resized`: in the size it was translated in; `input`: in that of the input
    """

    sides: tuple[int, int] | None = None
    give_back: Size = "resized"

    @classmethod
    def of(cls, resize: Resize | None, size: Size, scale: Scale | None) -> Scaling:
        """Return what is done for `resize`: a short side in px, or `trained`, the scale that a model knows.

        Raises `UsageError` for what is neither, and where a model does not say its scale.
        """
        if size not in get_args(Size):
            raise UsageError(f"size {size}: expected {' or '.join(get_args(Size))}")
        if resize is None:
            return cls(None, size)
        if resize == "trained":
            if scale is None:
                raise UsageError("resize trained: it is not known at what scale this model was trained, as its recipe "
                                 "keeps the images' own sizes and an older version did not note these",
                                 advice="give the short side of its training images in pixels, such as resize 512")
            return cls(None if scale.fixed else scale.sides, size)
        if not isinstance(resize, int) or resize < 1:
            raise UsageError(f"resize {resize}: expected trained, or a short side in pixels")
        return cls((resize, resize), size)

    @property
    def key(self) -> list[object]:
        """What of it an output depends on, as JSON; empty where nothing is done."""
        return [] if self.sides is None else [list(self.sides), self.give_back]

    def shape_of(self, shape: HeightWidth) -> HeightWidth:
        """Return the (height, width) in which an image of `shape` is translated."""
        return scaled_shape(shape, self.sides)

    def picture(self, picture: Picture, labels: bool) -> tuple[Picture, Picture]:
        """Return a picture as it is translated, and one of the size that is given back. `labels`: of class numbers.

        Raises `ImageError` where it would be enlarged beyond what is read.
        """
        own = picture.pixels.shape[0], picture.pixels.shape[1]
        shape = self.shape_of(own)
        check_loaded(own, shape, picture.path)
        if labels:
            shown = replace(picture, pixels=resized(picture.pixels, shape, labels=True))
        else:
            shown = resized_picture(picture, shape)
        return shown, picture if self.give_back == "input" else shown

    def page(self, page: Page, max_pixels: int = MAX_PIXELS) -> tuple[Page, Page]:
        """Return the same two of a page that is read by rows."""
        shape = self.shape_of((page.height, page.width))
        check_enlarged((page.height, page.width), shape, page.path, max_pixels)
        shown = page if shape == (page.height, page.width) else ResizedPage(page, shape)
        return shown, page if self.give_back == "input" else shown


def outside(scale: Scale | None, shape: HeightWidth) -> str:
    """Say what is the matter with an image that is translated in `shape` by a model of this scale; '' for nothing."""
    side = min(shape)
    if scale is None or scale.knows(side):
        return ""
    return f"is translated with a short side of {side} px, and the model was trained on images with {scale}"
