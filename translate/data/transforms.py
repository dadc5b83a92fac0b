"""Load, crop, flip: the classic augmentation, with the same draw for all images of a pair.

The only module that touches albumentations. Two of its habits (2.0.8) shape the code: the workers of a loader all draw
alike, and `Compose.set_random_seed` gives every transform the *same* seed, so that a flip decides on the number that
also placed the crop. Here each transform of each sample gets a seed of its own, hashed from the sample's key.
It is imported where it is used: it takes most of a second, which a conversion has no use for.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from translate.data.hashing import stable_hash
from translate.errors import DataError
from translate.images.pictures import MAX_PIXELS, check_enlarged
from translate.images.resampling import target_shape

Augmentation = Literal["flip", "flip_vertical", "rotate90"]

ClassicalAdaptation = Literal["histogram_matching", "fda", "pixel_distribution", "resolution"]


NO_UPDATE = "NO_ALBUMENTATIONS_UPDATE"  # with this variable in the environment, importing it asks no network


@functools.cache
def albumentations() -> Any:
    """Import albumentations, and leave the environment of this process as it was."""
    before = os.environ.get(NO_UPDATE)
    os.environ[NO_UPDATE] = "1"
    try:
        return importlib.import_module("albumentations")
    finally:
        if before is None:
            del os.environ[NO_UPDATE]
        else:
            os.environ[NO_UPDATE] = before


def loaded(image: np.ndarray, path: Path, resize: int | None, crop: tuple[int, int] = (1, 1), *,
           labels: bool = False) -> np.ndarray:
    """Return an image (H, W, C) at the size that `target_shape` says; `path` is where it is from.

    Raises `ImageError` for one of extreme proportions, which would become larger than any image that is read.
    """
    shape = target_shape(image.shape[:2], resize, crop)
    check_loaded(image.shape[:2], shape, path)
    return resized(image, shape, labels=labels)


def check_loaded(have: tuple[int, int], wanted: tuple[int, int], path: Path) -> None:
    """Raise `ImageError` where an image of a (height, width) would be enlarged to more than `MAX_PIXELS`."""
    check_enlarged(have, wanted, path, MAX_PIXELS, "leave it out, or cut it to usual proportions")


def resized(image: np.ndarray, shape: tuple[int, int], *, labels: bool = False) -> np.ndarray:
    """Return an image (H, W, C) at another (height, width), in its own type.

    Downsampling averages the area of each pixel, so nothing aliases; upsampling is bicubic, as in the published
    loaders. `labels` take the nearest pixel: the mean of two classes is no class.
    """
    if image.shape[:2] == shape:
        return image
    shrinks = shape[0] < image.shape[0] or shape[1] < image.shape[1]
    method = cv2.INTER_NEAREST_EXACT if labels else cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    result = albumentations().augmentations.geometric.functional.resize(image, shape, method)
    if result.dtype == np.float32:  # bicubic overshoots at edges; integer types are clamped by their range
        np.clip(result, np.fmin.reduce(image, None), np.fmax.reduce(image, None), out=result)  # NaN stays NaN
    return result


def middle(image: np.ndarray, most_pixels: int | None) -> np.ndarray:
    """Return an image (H, W, C), or of one with more than `most_pixels` the middle, of the same proportions."""
    height, width = image.shape[:2]
    if most_pixels is None or height * width <= most_pixels:
        return image
    share = (most_pixels / (height * width)) ** 0.5
    rows, columns = max(1, int(height * share)), max(1, int(width * share))
    top, left = (height - rows) // 2, (width - columns) // 2
    return image[top:top + rows, left:left + columns]


class RandomTransform:
    """A random crop of `size` (height, width), then the augmentations.

    Called with images of one (H, W), each at least as large as the crop, and a key: the same key gives the same draw,
    whatever was drawn before and in whichever process.
    """

    def __init__(self, size: tuple[int, int], augment: Sequence[Augmentation]):
        if "rotate90" in augment and size[0] != size[1]:
            raise DataError(f"data.augment: rotate90 needs square crops, and this stage's are {size[0]}×{size[1]}; "
                            "leave rotate90 away, or make the stage's resolution one number")
        library = albumentations()
        augmentations = {
            "flip": library.HorizontalFlip(p=0.5),  # left ↔ right
            "flip_vertical": library.VerticalFlip(p=0.5),  # for images without an up: satellites, tissue
            "rotate90": library.RandomRotate90(p=1.0),  # 0, 90, 180 or 270°; square crops only
        }
        self.transforms = [library.RandomCrop(*size), *(augmentations[name] for name in augment)]
        self.compose = library.Compose(self.transforms, additional_targets={"partner": "image", "mask_of_it": "image"})

    def __call__(self, images: Sequence[np.ndarray], key: int) -> list[np.ndarray]:
        for number, transform in enumerate(self.transforms):
            transform.set_random_seed(stable_hash(key, number))
        targets = dict(zip(("image", "partner", "mask_of_it"), images, strict=False))
        drawn = self.compose(**targets)
        return [drawn[name] for name in targets]


def adapted(kind: ClassicalAdaptation, image: np.ndarray, like: np.ndarray, key: int) -> np.ndarray:
    """Return an image (H, W, C) of 8 bits made like another with as many channels, without learning.

    All but `resolution`, which is that of the other where it is lower, keep its size.

    `key` is what chance is drawn from. The image goes all of the way, not a part of it: half an adaptation would be
    half a baseline. Grey images are shown to albumentations as RGB, which all its transforms know, and come back as
    the mean.
    """
    if kind == "resolution":
        return at_resolution_of(image, like)
    like = resized(like, image.shape[:2])
    if kind == "pixel_distribution":
        return with_moments_of(image, like)

    library = albumentations()
    if kind == "histogram_matching":
        transform = library.HistogramMatching(blend_ratio=(1.0, 1.0), metadata_key="like", p=1.0)
    else:  # the amplitudes of the lowest frequencies: 1 to 9 % of the side, and one of them at least
        least = 1 / min(image.shape[:2]) + 1e-6
        transform = library.FDA(beta_limit=(max(0.01, least), max(0.09, least)), metadata_key="like", p=1.0)

    transform.set_random_seed(key)
    grey = image.shape[2] == 1
    shown, reference = (np.repeat(each, 3, axis=2) if grey else each for each in (image, like))
    changed = transform(image=shown, like=[reference])["image"]
    return np.rint(changed.mean(axis=2, keepdims=True)).astype(image.dtype) if grey else changed


def with_moments_of(image: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Return an image (H, W, C) of 8 bits with the mean and deviation, channel by channel, of another.

    albumentations' PixelDistributionAdaptation (`standard`) is to do this, and gives black images in 2.0.8.
    """
    mean, deviation = (moment((0, 1), dtype=np.float64) for moment in (image.mean, image.std))
    changed = (image - mean) / np.maximum(deviation, 1e-6) * like.std((0, 1)) + like.mean((0, 1))
    return np.rint(changed).clip(0, 255).astype(np.uint8)


def at_resolution_of(image: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Return an image (H, W, C) downsampled to the short side of `like`; the image itself where that is not shorter."""
    short = min(like.shape[:2])
    return image if short >= min(image.shape[:2]) else resized(image, target_shape(image.shape[:2], short))


def use_one_thread() -> None:
    """Keep OpenCV to one thread in a worker process: it would start one for each core in every worker."""
    cv2.setNumThreads(0)
