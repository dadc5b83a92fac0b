"""Losses: the objective of the game between generator and discriminator, and reconstruction."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from translate.losses.objectives import LeastSquares, NonSaturating, Vanilla
from translate.losses.reconstruction import l1_loss

Objective = Annotated[LeastSquares | NonSaturating | Vanilla, Field(discriminator="kind")]

__all__ = ["LeastSquares", "NonSaturating", "Objective", "Vanilla", "l1_loss"]
