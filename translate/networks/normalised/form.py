"""What one call of the operation does, beside its tensors: what all ways of computing it are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from translate.networks.normalised.mirroring import NONE, Amounts


@dataclass(frozen=True)
class Form:
    """What the operation does beside its tensors.

        norm      where µ and σ² come from: `none` is no norm at all, `found` are those of z, `given` are numbers
        groups    how many of each there are for a channel: 1, or N where every sample has its own
        eps       ε
        slope     of the activation: None for none, 0 for ReLU, else LeakyReLU
        amounts   of mirrored padding
    """

    norm: Literal["none", "found", "given"] = "none"
    groups: int = 1
    eps: float = 0.0
    slope: float | None = None
    amounts: Amounts = NONE

    def check(self, size: Sequence[int]) -> None:
        """Assert that an image of `size` has more rows and columns than are mirrored of it: a kernel would read what
        lies beside it."""
        left, right, top, bottom = self.amounts
        height, width = size[2:]
        assert not any(self.amounts) or (max(left, right) < width and max(top, bottom) < height), (
            f"{self.amounts} mirrored of {height}×{width} pixels")

    def padded(self, size: Sequence[int]) -> tuple[int, int, int, int]:
        """Return the size (N, C, H, W) of what comes out of an image of `size`."""
        left, right, top, bottom = self.amounts
        samples, channels, height, width = size
        return samples, channels, top + height + bottom, left + width + right

    def unpadded(self, size: Sequence[int]) -> tuple[int, int, int, int]:
        """Return the size of the image that something of `size` comes out of."""
        left, right, top, bottom = self.amounts
        samples, channels, height, width = size
        return samples, channels, height - top - bottom, width - left - right
