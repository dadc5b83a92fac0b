"""Losses that compare an image with the one it should be."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def l1_loss(image: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute difference of two images in [-1, 1], computed in at least float32 (Isola et al. 2017, eq. 3)."""
    dtype = torch.promote_types(image.dtype, torch.float32)
    return F.l1_loss(image.to(dtype), truth.to(dtype))
