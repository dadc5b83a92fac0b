"""Arrays as files hold them, and tensors as networks take them: (H, W, C) ↔ (C, H, W) in [-1, 1]."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from translate.images.pictures import DTYPES
from translate.images.reading import HALF_RANGE, ImageConfig
from translate.images.values import from_unit

# What stands for a pixel without data: black to a network, and a value that no image holds, so that losses and scores
# tell it. Half precision makes it -1; masks are made of images as they were read.
UNKNOWN = -1 - 2.0**-11
ROWS_AT_ONCE = 256  # rows that become samples at once


def to_tensor(array: np.ndarray, config: ImageConfig) -> Tensor:
    """Map an array (H, W, C), as `read_image` gives it, to a tensor (C, H, W), float32 in [-1, 1].

    A pixel that is not known (NaN in any of its channels) becomes `UNKNOWN` in all of them.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1), dtype=np.float32))
    if array.dtype == np.float32:
        return torch.where(tensor.isnan().any(0), UNKNOWN, tensor)
    assert array.dtype == DTYPES[config.bits], f"{array.dtype} is not of {config.bits} bits"
    return tensor.div_(HALF_RANGE[config.bits]).sub_(1)  # in place: a large image's floats stand there once


def unknown_pixels(image: Tensor) -> Tensor:
    """Return which pixels of an image (…, C, H, W) are not known: (…, 1, H, W)."""
    return (image == UNKNOWN).any(-3, keepdim=True)


def hide_unknown(made: Tensor, real: Tensor, truth: Tensor | None = None) -> Tensor:
    """Return an image made of `real` whose pixels count nowhere where `real`, or its truth, is not known: (N, C, H, W).

    They are those of the truth, or `UNKNOWN` without one: no loss differs there, and no gradient passes.
    """
    if truth is None:
        return torch.where(unknown_pixels(real), UNKNOWN, made)
    return torch.where(unknown_pixels(real) | unknown_pixels(truth), truth.to(made.dtype), made)


def to_file(tensor: Tensor, config: ImageConfig) -> np.ndarray:
    """Map a tensor (C, H, W) in [-1, 1] to the values (H, W, C) that a file of this side holds."""
    if config.value_range is None:
        return to_array(tensor, config)
    unit = tensor.detach().to("cpu", torch.float32).permute(1, 2, 0).numpy()
    return np.ascontiguousarray(from_unit(unit, config.value_range, config.file_dtype))


def to_array(tensor: Tensor, config: ImageConfig) -> np.ndarray:
    """Map a tensor (C, H, W) in [-1, 1] to an array (H, W, C) of the declared depth, clamped and rounded to nearest.

    It is what `to_tensor` takes; of a side with a range of values, `to_file` gives what files hold.
    """
    array = np.empty((*tensor.shape[1:], tensor.shape[0]), DTYPES[config.bits])
    for start in range(0, len(array), ROWS_AT_ONCE):  # a large image's floats should not stand there several times
        rows = tensor.detach()[:, start:start + ROWS_AT_ONCE].to("cpu", torch.float32).clamp(-1, 1).permute(1, 2, 0)
        if config.bits != "float":
            rows = ((rows + 1) * HALF_RANGE[config.bits]).round()
        array[start:start + ROWS_AT_ONCE] = rows.numpy()
    return array
