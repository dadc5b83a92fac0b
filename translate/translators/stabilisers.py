"""What keeps a game in balance. Every default changes nothing."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from translate.schema import Config

Side = Literal["generator", "discriminator"]  # of the game


class InstanceNoise(Config):
    """Gaussian noise on what the discriminators see, so that real and fake overlap (Sønderby et al. 2017, section 4).

    Its deviation falls linearly to zero; images reach from −1 to 1.
    """

    sigma: float = Field(0.1, gt=0, le=1e9)  # at the first image
    images: int = Field(ge=1, le=10**12)  # after so many images of the run there is none

    def at(self, images: int) -> float:
        """Return the deviation after `images` images."""
        return self.sigma * max(1 - images / self.images, 0.0)


class Pace(Config):
    """How often each side of the game is trained, and which of them first in a step."""

    # every so many steps; 5 gives a critic five steps to one (Arjovsky et al. 2017)
    generator: int = Field(1, ge=1, le=1_000_000)
    discriminator: int = Field(1, ge=1, le=1_000_000)  # every so many steps; 2 holds back one that wins
    warmup: int = Field(0, ge=0, le=10**12)  # images of the run in which the discriminators are trained alone
    # who moves first in a step; the other plays against what it has become. null: as the authors' code has it
    first: Side | None = None

    @model_validator(mode="after")
    def _somebody_moves(self) -> Pace:
        if min(self.generator, self.discriminator) > 1:
            raise ValueError(f"generators every {self.generator} steps and discriminators every {self.discriminator} "
                             "leave steps in which nobody is trained; set one of the two to 1")
        return self
