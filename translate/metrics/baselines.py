"""What needs no learning, to compare a translator with: its input as it is, and its input in the other side's colours.

A translator that does not beat these has learnt nothing that matters to the score at hand.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def identity(source: Tensor, channels: int) -> Tensor | None:
    """(C, H, W) → the same as an image of `channels`, grey repeated to RGB; None where it cannot be one."""
    if source.shape[0] == channels:
        return source
    return source.expand(channels, -1, -1) if (source.shape[0], channels) == (1, 3) else None


class ColourTransfer:
    """Gives an image the mean and standard deviation, channel by channel, that the other side's images have.

    The colour transfer of Reinhard et al. 2001 (eq. 10 and 11), in the images' own channels and towards the mean
    statistics of a set. The set is the one that is compared with, which makes this baseline stronger, not weaker.
    """

    def __init__(self, moments: Sequence[tuple[Tensor, Tensor]]):
        """`moments` are those of each image of the other side."""
        self.mean, self.deviation = (torch.stack(each).mean(0)[:, None, None] for each in zip(*moments, strict=True))

    @staticmethod
    def moments(image: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and the standard deviation of each channel of a (C, H, W) image."""
        return image.mean((1, 2)), image.std((1, 2), correction=0)

    def __call__(self, image: Tensor) -> Tensor:
        """(C, H, W) in [-1, 1] → the same in other colours. A flat channel becomes the mean."""
        mean, deviation = image.mean((1, 2), keepdim=True), image.std((1, 2), correction=0, keepdim=True)
        return ((image - mean) / deviation.clamp_min(1e-6) * self.deviation + self.mean).clamp(-1, 1)
