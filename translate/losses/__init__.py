"""Losses: the objective of the game between generator and discriminator, and reconstruction."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from translate.losses.objectives import (
    Hinge,
    Labelled,
    LeastSquares,
    NonSaturating,
    RelativisticAverage,
    Vanilla,
    Wasserstein,
    exchange,
)
from translate.losses.reconstruction import l1_loss

Objective = Annotated[
    LeastSquares | NonSaturating | Vanilla | Hinge | Wasserstein | RelativisticAverage, Field(discriminator="kind")]

__all__ = ["Hinge", "Labelled", "LeastSquares", "NonSaturating", "Objective", "RelativisticAverage", "Vanilla",
           "Wasserstein", "exchange", "l1_loss"]
