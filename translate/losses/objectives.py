"""Objectives of the game. Each takes logits of any shape and returns a scalar in at least float32.

`generator(fake)` is what the generator minimises, `discriminator(real, fake)` what the discriminator minimises. The
discriminator's loss is the mean of its two halves, as in pix2pix and CycleGAN ("we divide the objective by 2 while
optimizing D, which slows down the rate at which D learns relative to G"; Isola et al. 2017, 3.3).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from translate.schema import Config


class Vanilla(Config):
    """The minimax game of Goodfellow et al. 2014, eq. 1: G minimises log(1 − D(G)). Its gradient vanishes early."""

    kind: Literal["vanilla"] = "vanilla"

    def generator(self, fake: Tensor) -> Tensor:
        return -F.softplus(wide(fake)).mean()

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return (F.softplus(-wide(real)).mean() + F.softplus(wide(fake)).mean()) / 2


class NonSaturating(Config):
    """Goodfellow et al. 2014, section 3: G maximises log D(G) instead; what most code calls "vanilla"."""

    kind: Literal["nonsaturating"] = "nonsaturating"

    def generator(self, fake: Tensor) -> Tensor:
        return F.softplus(-wide(fake)).mean()

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return (F.softplus(-wide(real)).mean() + F.softplus(wide(fake)).mean()) / 2


class LeastSquares(Config):
    """LSGAN (Mao et al. 2017), eq. 2 with labels 0 and 1: real is drawn to 1, fake to 0, the generator's fake to 1."""

    kind: Literal["lsgan"] = "lsgan"

    def generator(self, fake: Tensor) -> Tensor:
        return (wide(fake) - 1).square().mean()

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return ((wide(real) - 1).square().mean() + wide(fake).square().mean()) / 2


def wide(logits: Tensor) -> Tensor:
    """At least float32: a mean over thousands of half-precision logits loses its small differences."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
