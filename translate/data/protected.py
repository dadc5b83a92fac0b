"""Regions of training images that a translation must not change: masks in a folder, or classes of label maps in it.

A mask is found by the end of its image's path, with any suffix: for `trainA/town/7.jpg` that is `trainA/town/7.png`,
else `town/7.png`, else `7.png`. It has its image's size, and goes through the same crops and flips.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from translate.data.labels import read_labels
from translate.data.pairing import list_images, named, names_of
from translate.errors import DataError, ImageError, visible
from translate.images.decoding import decode, inspect, read_content
from translate.images.resampling import HeightWidth
from translate.schema import Config

UPRIGHT = "a mask has the size of its image as it is shown, upright where EXIF turns it"

class ProtectConfig(Config):
    """Which regions of A's images are to stay as they are, and how strictly."""

    folder: Path  # of masks: one channel, 0 where an image may change; or of label maps
    # of label maps: the classes that stay; null: they are masks
    classes: tuple[Annotated[int, Field(ge=0, le=65_535)], ...] | None = None
    weight: float = Field(100.0, gt=0, le=1e9)  # of the L1 distance between output and input there

    def mask(self, path: Path) -> Path | None:
        """Return the mask of an image; None where there is none."""
        masks, parts = _masks_below(self.folder.expanduser()), path.with_suffix("").parts
        return next((found for start in range(len(parts)) if (found := masks.get("/".join(parts[start:])))), None)

    def check(self, images: Sequence[Path], shape_in: Callable[[Path], HeightWidth]) -> None:
        """Look at the masks of all images by their names and headers. Raises `DataError`, which names what is wrong.

        `shape_in` gives an image's (height, width).
        """
        folder = self.folder.expanduser()
        if not folder.is_dir():
            raise DataError("no such folder; expected a mask for each image of A in it", folder)
        if lonely := [path for path in images if self.mask(path) is None]:
            raise DataError(f"holds no mask for {len(lonely)} of {len(images)} images: {names_of(lonely)}", folder,
                            "a mask has the name of its image; an empty one (all 0) protects nothing")
        for path in images:
            mask = self.mask(path)
            assert mask is not None, "looked for above"
            try:
                shape = shape_in(path)
            except ImageError:
                continue  # an image that cannot be read is met when it is its turn
            try:
                info = inspect(mask)
            except ImageError as error:
                raise DataError.of(error) from None
            if (info.height, info.width) != shape:
                raise DataError(f"is {info.size} pixels, and its image {visible(path)} {shape[1]}×{shape[0]}", mask,
                                UPRIGHT)
            if self.classes is None and (info.channels != 1 or info.alpha or info.bits == "float"):
                raise DataError(f"is no mask: a mask has one channel of whole numbers, and this is {info.mode}", mask,
                                "save it as grey, 0 where an image may change; or name the classes of label maps "
                                "(data.protect.classes)")

    def read(self, path: Path) -> np.ndarray:
        """Return which pixels of an image stay: (H, W, 1) uint8, 255 where they do. Raises `ImageError`, `DataError`.
        """
        mask = self.mask(path)
        if mask is None:
            raise DataError("holds no mask of its name", self.folder, f"its image is {visible(path)}")
        return np.where(self.protected(mask), np.uint8(255), np.uint8(0))[..., None]

    def protected(self, mask: Path) -> np.ndarray:
        """Return which pixels of a file of masks stay, (H, W). Raises `ImageError`."""
        if self.classes is not None:
            return np.isin(read_labels(mask)[..., 0], self.classes)
        numbers = decode(read_content(mask), mask).pixels
        if numbers.shape[2] != 1 or len(set(np.unique(numbers).tolist()) - {0}) > 1:
            raise ImageError(mask, "read", "is no mask: it has more values than 0 and one other, as one saved with "
                             "loss or with soft borders has")
        return np.asarray(numbers[..., 0] != 0)


@functools.lru_cache(maxsize=8)
def _masks_below(folder: Path) -> dict[str, Path]:
    """Return masks by their paths below a folder, without suffixes. Raises `DataError` for two of one name."""
    by_name = named(folder, list_images(folder))
    if clash := next((paths for paths in by_name.values() if len(paths) > 1), None):
        raise DataError(f"has the name of {clash[0].name}, and masks are found by name", clash[1],
                        "remove or rename one of them")
    return {name: paths[0] for name, paths in by_name.items()}
