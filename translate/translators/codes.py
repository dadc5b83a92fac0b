"""What an image from noise is drawn from besides its latent, and what a head on the discriminator recognises of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import pydantic
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from translate.data import draws
from translate.losses import information_losses
from translate.schema import Config


class Codes(Config):
    """Codes that an image must tell of (InfoGAN, Chen et al. 2016): a head on D finds them again, and G helps it."""

    categorical: tuple[Annotated[int, Field(ge=2, le=65_536)], ...] = (10,)  # how many values each of them has
    continuous: int = Field(2, ge=0, le=65_536)  # numbers between −1 and 1
    weight: float = Field(1.0, gt=0, le=1e9)  # λ of categorical codes
    continuous_weight: float = Field(0.1, gt=0, le=1e9)  # λ of continuous ones: their loss is the larger

    @property
    def num(self) -> int:
        """How many numbers the codes of an image are."""
        return sum(self.categorical) + self.continuous

    def drawn(self, keys: Sequence[int]) -> Tensor:
        """Return the codes (N, num) of samples by their keys: one-hot for each categorical one, then continuous ones.
        """
        cpu = torch.device("cpu")
        named = [F.one_hot((draws.uniform(keys, f"code {number}", cpu) * size).long(), size).float()
                 for number, size in enumerate(self.categorical)]
        numbers = [draws.uniform(keys, f"continuous code {number}", cpu)[:, None] * 2 - 1
                   for number in range(self.continuous)]
        return torch.cat([torch.zeros(len(keys), 0), *named, *numbers], dim=1)

    def loss(self, found: Tensor, codes: Tensor) -> Tensor:
        """Return the loss of a head that says `found` (N, num) of images that were drawn from `codes`."""
        named, near = information_losses(found, codes, self.categorical)
        return self.weight * named + self.continuous_weight * near

    @pydantic.model_validator(mode="after")
    def _some(self) -> Codes:
        if not self.num:
            raise ValueError("no categorical and no continuous code; leave codes out")
        return self


class Styles(Config):
    """Styles that a head on D recognises, and that G avoids (CAN, Elgammal et al. 2017): the data's classes."""

    weight: float = Field(1.0, gt=0, le=1e9)  # of G's part: more is further from every known style
