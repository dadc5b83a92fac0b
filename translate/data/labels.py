"""Label maps: images whose pixels are class numbers.

The processes that decode them import this module, so it needs no torch; `label_planes` has their one-hot form.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from translate.errors import ImageError
from translate.images.decoding import pillow_info
from translate.images.decoding_memory import bounded
from translate.images.pictures import MAX_PIXELS, PILLOW_LIMIT, as_image_errors, open_image
from translate.images.png_chunks import without_bad_chunks

VOID = 255  # in most published label maps: pixels that do not count
NO_CLASS = 65535  # in place of a number that is unknown
LOSSLESS = ("PNG", "TIFF", "BMP", "GIF")  # in a JPEG the numbers have been smoothed into other classes


def read_labels(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return the class numbers of a label map, (H, W, 1) of uint8 or uint16, as stored.

    They are the indices of a palette image, or the values of a grey one. Raises `ImageError` for a file that is no
    label map, or has more than `max_pixels`.
    """
    with as_image_errors(path, "read"), open_image(path) as file, PILLOW_LIMIT.lifted():
        try:
            readable, _ = without_bad_chunks(file, path)
            image = Image.open(readable, formats=LOSSLESS)
        except UnidentifiedImageError:
            raise ImageError(path, "read", f"not a label map; expected one of {', '.join(LOSSLESS)}") from None
        if image.width * image.height > max_pixels:
            raise ImageError(path, "read", f"is {image.width}×{image.height}, above the limit of {max_pixels:,} pixels")
        with bounded(pillow_info(image, readable), os.fstat(file.fileno()).st_size, path):
            return numbers_of(image, path)


def numbers_of(image: Image.Image, path: Path) -> np.ndarray:
    """Return the class numbers of a label map that Pillow has opened, upright; `path` is for messages.

    They are (H, W, 1) of uint8 or uint16. Raises `ImageError` for what is no label map.
    """
    array = np.asarray(ImageOps.exif_transpose(image))

    # A colour image is one where its channels are equal.
    if array.ndim == 3:
        if (array != array[..., :1]).any():
            raise ImageError(path, "read", f"colours (mode {image.mode}), and class numbers were expected: store the "
                                           "number of each pixel's class in one channel. To train on the colours "
                                           "themselves, use data.kind: paired")
        array = array[..., 0]

    # Class numbers are whole, and fit into 16 bits.
    if array.dtype.kind == "f":  # a cast would make classes of 1.7 and of NaN
        raise ImageError(path, "read", f"holds fractions (mode {image.mode}); store class numbers as whole numbers")
    if array.min(initial=0) < 0 or array.max(initial=0) > 65535:
        raise ImageError(path, "read", f"values from {array.min()} to {array.max()}; class numbers are 0 … 65535")
    return array.astype(np.uint16 if array.dtype.itemsize > 1 else np.uint8)[..., None]


def numbers_in(labels: np.ndarray) -> list[int]:
    """Return the different numbers of a label map, sorted; much faster than sorting its pixels."""
    return np.flatnonzero(np.bincount(labels.ravel())).tolist()


def default_ignore(classes: int) -> int | None:
    """Return the number that is ignored where nobody says which: 255, unless it is one of the classes."""
    return VOID if classes <= VOID else None


def class_of(number: int, ids: Mapping[int, int]) -> int | None:
    """Return what a number of a label map stands for: what `ids` makes of it, or else itself.

    None: `ids` does not name it, and makes another number that class. So `{255: 1}` leaves 0 what it is, and with
    `{7: 0, 8: 1}` a 0 is unknown.
    """
    return ids.get(number, None if number in ids.values() else number)


@dataclass(frozen=True)
class Labelling:
    """What the numbers of a label map say, and what a generator is shown of them.

    A number is a class, or `ignore`, or, from `instances` on, class × `instances` + instance number (Cityscapes:
    1000); before that, `ids` may have made another of it. With `edges`, one more channel says where a pixel's number is
    not its neighbour's.
    """

    classes: int
    ignore: int | None = 255
    instances: int | None = None
    edges: bool = False
    ids: tuple[tuple[int, int], ...] = ()

    @property
    def channels(self) -> int:
        return self.classes + self.edges

    @property
    def names(self) -> list[str]:
        return [str(number) for number in range(self.classes)]

    def read(self, path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """Do as `read_labels`, after `ids`. Raises `ImageError` for numbers that are neither a class nor `ignore`."""
        labels = read_labels(path, max_pixels)
        if fault := self.fault(labels):
            raise ImageError(path, "read", f"{fault} (data.classes, data.ignore, data.ids)")
        return self.renumbered(labels)

    def fault(self, stored: np.ndarray) -> str | None:
        """Return, in words, which numbers of a label map are neither a class nor `ignore`; None where all are."""
        unknown = ", ".join(map(str, self.unknown(stored)[:8]))
        after = f" after ids {dict(self.ids)}" if self.ids else ""
        return f"class numbers {unknown}; the recipe's are 0 … {self.classes - 1}, ignored {self.ignore}{after}" \
            if unknown else None

    def unknown(self, stored: np.ndarray) -> list[int]:
        """Return the class numbers in a label map, as stored, that are neither a class nor `ignore`."""
        ids, unknown = dict(self.ids), set()
        for number in numbers_in(stored):
            means = class_of(number, ids)
            of_class = number if means is None else int(self.of_class(np.asarray(means)))
            if means is None or (self.ignore not in (means, of_class) and of_class >= self.classes):
                unknown.add(of_class)
        return sorted(unknown)

    def renumbered(self, stored: np.ndarray) -> np.ndarray:
        """Return what `ids` makes of the numbers of a label map; `NO_CLASS` of one that it makes nothing of."""
        ids = dict(self.ids)
        if not ids:
            return stored
        present = numbers_in(stored)
        table = np.zeros(max(present, default=0) + 1, np.uint16)
        classes = [class_of(number, ids) for number in present]
        table[present] = [NO_CLASS if number is None else number for number in classes]
        return table[stored]

    def are_classes(self, numbers: Iterable[int]) -> bool:
        """Tell whether numbers of label maps are classes as they are, and would be lost or others by `ids`.

        So it is where all are a class or `ignore`, `ids` gives none of them another, and some would be no class by it.
        """
        means = {number: class_of(number, dict(self.ids)) for number in numbers}
        return None in means.values() and all(
            (number < self.classes or number == self.ignore) and of_class in (None, number)
            for number, of_class in means.items())

    def classes_in(self, labels: np.ndarray) -> np.ndarray:
        """Return the class of each number that `read` gave, as int64; −1 of what is ignored."""
        numbers = self.of_class(labels).astype(np.int64)
        return np.where((numbers == self.ignore) | (labels == self.ignore), -1, numbers)

    def of_class(self, labels: np.ndarray) -> np.ndarray:
        """Return the class, or `ignore`, of each number."""
        if self.instances is None or self.instances > np.iinfo(labels.dtype).max:  # such numbers are all classes
            return labels
        return np.where(labels >= self.instances, labels // self.instances, labels)
