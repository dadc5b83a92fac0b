"""Baselines that learn nothing: the input as it is, and the input in the colours of the other side.

A translator that does not score better than these has learnt nothing that the score measures.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def identity(source: Tensor, channels: int) -> Tensor | None:
    """Return an image (C, H, W) with `channels` channels, grey repeated to RGB; None where it has others."""
    if source.shape[0] == channels:
        return source
    return source.expand(channels, -1, -1) if (source.shape[0], channels) == (1, 3) else None


class ColourTransfer:
    """Gives each channel of an image the mean and standard deviation that the other side's images have.

    The colour transfer of Reinhard et al. 2001 (eq. 10 and 11), in the images' own channels and towards the mean
    statistics of a set. That set is the one that scores compare with, which makes the baseline harder to beat.
    """

    def __init__(self, moments: Sequence[tuple[Tensor, Tensor]]):
        """`moments` holds what `moments` returns of each image of the other side."""
        self.mean, self.deviation = (torch.stack(each).mean(0)[:, None, None] for each in zip(*moments, strict=True))

    @staticmethod
    def moments(image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the standard deviation of each channel of an image (C, H, W): (C,) each."""
        return image.mean((1, 2)), image.std((1, 2), correction=0)

    def __call__(self, image: Tensor) -> Tensor:
        """Return an image (C, H, W) in [-1, 1] in the other side's colours; a flat channel becomes their mean."""
        mean, deviation = image.mean((1, 2), keepdim=True), image.std((1, 2), correction=0, keepdim=True)
        return ((image - mean) / deviation.clamp_min(1e-6) * self.deviation + self.mean).clamp(-1, 1)
