"""What an image must be before it is scored: of a wrong range, scores would look right and be wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from translate.errors import DataError
from translate.sizes import plural

TOLERANCE = 1e-3  # how far values may lie outside [-1, 1]: half precision rounds, and so do resampling filters


def check_image(image: Tensor, what: str = "the image") -> None:
    """Raise `DataError` unless `image` holds finite floats in [-1, 1] and has some pixels."""
    if not image.is_floating_point():
        raise DataError(f"{what} is of {image.dtype}; scores take floats in [-1, 1] (8 bits: x / 127.5 − 1)")
    if image.numel() == 0:
        raise DataError(f"{what} has no pixels: {tuple(image.shape)}")
    if not torch.isfinite(image).all():
        raise DataError(f"{what} holds values that are not finite")
    low, high = image.min().item(), image.max().item()
    if low < -1 - TOLERANCE or high > 1 + TOLERANCE:
        raise DataError(f"{what} holds values from {low:.4g} to {high:.4g}; scores take floats in [-1, 1]")


def check_pair(image: Tensor, truth: Tensor) -> None:
    """Raise `DataError` unless `check_image` accepts an image and its truth, and they have one shape."""
    check_image(image)
    check_image(truth, "the truth")
    if image.shape != truth.shape:
        raise DataError(f"the image is {_size(image)} and its truth {_size(truth)}; expected one size")


def _size(image: Tensor) -> str:
    *_, channels, height, width = image.shape
    return f"{width}×{height} px of {plural(channels, 'channel')}"
