"""Arrays as files hold them, and tensors as networks take them: (H, W, C) ↔ (C, H, W) in [-1, 1]."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from translate.images.pictures import DTYPES
from translate.images.reading import HALF_RANGE, ImageConfig

ROWS_AT_ONCE = 256  # rows that become samples at once


def to_tensor(array: np.ndarray, config: ImageConfig) -> Tensor:
    """Map an array (H, W, C), as `read_image` gives it, to a tensor (C, H, W), float32 in [-1, 1]."""
    assert array.dtype == DTYPES[config.bits], f"{array.dtype} is not of {config.bits} bits"
    tensor = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1), dtype=np.float32))
    if config.bits != "float":  # in place: floats of a large image should not stand there three times
        tensor.div_(HALF_RANGE[config.bits]).sub_(1)
    return tensor


def to_array(tensor: Tensor, config: ImageConfig) -> np.ndarray:
    """Map a tensor (C, H, W) in [-1, 1] to an array (H, W, C) of the declared depth, clamped and rounded to nearest."""
    array = np.empty((*tensor.shape[1:], tensor.shape[0]), DTYPES[config.bits])
    for start in range(0, len(array), ROWS_AT_ONCE):  # a large image's floats should not stand there several times
        rows = tensor.detach()[:, start:start + ROWS_AT_ONCE].to("cpu", torch.float32).clamp(-1, 1).permute(1, 2, 0)
        if config.bits != "float":
            rows = ((rows + 1) * HALF_RANGE[config.bits]).round()
        array[start:start + ROWS_AT_ONCE] = rows.numpy()
    return array
