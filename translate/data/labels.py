"""Label maps: images whose pixels are class numbers, and their one-hot form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from translate.data.pictures import MAX_PIXELS, faults_of
from translate.errors import ImageError

LOSSLESS = ("PNG", "TIFF", "BMP", "GIF")  # in a JPEG the numbers have been smoothed into other classes


def read_labels(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """(H, W, 1) class numbers, uint8 or uint16, as stored: the index of a palette image, the value of a grey one."""
    with faults_of(path, "read"), path.open("rb") as file:
        try:
            image = Image.open(file, formats=LOSSLESS)
        except UnidentifiedImageError:
            raise ImageError(path, "read", f"not a label map; expected one of {', '.join(LOSSLESS)}") from None
        if image.width * image.height > max_pixels:
            raise ImageError(path, "read", f"is {image.width}×{image.height}, above the limit of {max_pixels:,} pixels")
        array = np.asarray(ImageOps.exif_transpose(image))
    if array.ndim == 3:
        if (array != array[..., :1]).any():
            raise ImageError(path, "read", "colours, and class numbers were expected (one channel); a map drawn in "
                                           "colours is an ordinary image: use kind: paired")
        array = array[..., 0]
    if array.min(initial=0) < 0 or array.max(initial=0) > 65535:
        raise ImageError(path, "read", f"values from {array.min()} to {array.max()}; class numbers are 0 … 65535")
    return array.astype(np.uint16 if array.dtype.itemsize > 1 else np.uint8)[..., None]


def read_classes(path: Path, classes: int, ignore: int | None, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """`read_labels`, with every number a class or `ignore`. Raises `ImageError` naming those that are neither."""
    labels = read_labels(path, max_pixels)
    unknown = unknown_labels(labels, classes, ignore)
    if unknown:
        raise ImageError(path, "read", f"class numbers {', '.join(map(str, unknown[:8]))}; the recipe's are 0 … "
                                       f"{classes - 1} (data.classes), ignored {ignore} (data.ignore)")
    return labels


def unknown_labels(labels: np.ndarray, classes: int, ignore: int | None) -> list[int]:
    """The numbers in a label map that are neither a class nor `ignore`."""
    return [int(number) for number in np.unique(labels) if number >= classes and number != ignore]


def one_hot(labels: np.ndarray, classes: int, ignore: int | None) -> Tensor:
    """(H, W, 1) class numbers → (classes, H, W) float32: 1 where a pixel is of the class, else 0.

    0 rather than −1 stands for "not this class", as in pix2pixHD: a convolution's zero padding and an ignored pixel
    then both say that nothing is known here. Numbers that are no class must have been refused before.
    """
    numbers = torch.from_numpy(labels[..., 0].astype(np.int64))
    known = numbers < classes if ignore is None else (numbers < classes) & (numbers != ignore)
    planes = torch.zeros(classes, *numbers.shape)
    return planes.scatter_(0, numbers.clamp(max=classes - 1)[None], known[None].float())
