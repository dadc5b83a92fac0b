"""Differentiable augmentation of what a discriminator sees (DiffAugment: Zhao et al. 2020), for little data.

Real and fake images are changed alike before D judges them, in both phases, and the generator's gradient goes through
the change: so D cannot learn few real images by heart, and the generator does not learn to make changed ones. Kinds,
ranges and their order are the paper's (section 3.2 and its code). A sample keeps its draw throughout a step; what an
image of a pair is judged beside is moved and cut with it.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

DiffAugmentation = Literal["color", "translation", "cutout"]


def recoloured(images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Return images (N, C, H, W) with other colours. Each draw is (N,) in [0, 1); ½ is no change.

    Brightness moves by up to a half, saturation is scaled by 0 to 2, and contrast by ½ to 1½.
    """
    brightness, saturation, contrast = (draw.to(images.dtype).view(-1, 1, 1, 1)
                                        for draw in (brightness, saturation, contrast))
    images = images + (brightness - 0.5)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * (2 * saturation)
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * (contrast + 0.5)


def moved(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Return images moved by whole pixels, up to an eighth of their sides; zeros come in.

    Each draw is (N,) in [0, 1).
    """
    from kornia.geometry.transform import translate  # slow to import

    height, width = images.shape[2:]
    shift = torch.stack([(right * 2 - 1) * (width / 8), (down * 2 - 1) * (height / 8)], dim=1)
    return translate(images, shift.round().to(images.dtype), mode="nearest")


def cut_out(images: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Return images with a rectangle of half their sides set to zero.

    Its centre is at the draws `row` and `column`, each (N,) in [0, 1) of the side.
    """
    height, width = images.shape[2:]
    rows, columns = (torch.arange(side, device=images.device) for side in (height, width))
    inside_rows = (rows - (row * height)[:, None]).abs() < height / 4
    inside_columns = (columns - (column * width)[:, None]).abs() < width / 4
    return images.masked_fill((inside_rows[:, :, None] & inside_columns[:, None, :])[:, None], 0.0)
