"""Losses: the objective of the game between generator and discriminator, penalties on the latter, reconstruction."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from translate.losses.contrastive import patch_nce
from translate.losses.objectives import (
    Began,
    Hinge,
    LeastSquares,
    NonSaturating,
    RelativisticAverage,
    Vanilla,
    Wasserstein,
    over_scales,
)
from translate.losses.penalties import R1, R2, Orthogonal, R1AndR2, WassersteinGP, non_orthogonality
from translate.losses.perceptual import VGG19, MobileNetV2, PerceptualLoss
from translate.losses.recognition import information_losses, style_ambiguity
from translate.losses.reconstruction import feature_matching, l1_loss, weighted_l1
from translate.losses.registration import roughness
from translate.losses.semantic import semantic_consistency
from translate.losses.structural import structural_distance

Objective = Annotated[
    LeastSquares | NonSaturating | Vanilla | Hinge | Wasserstein | RelativisticAverage | Began,
    Field(discriminator="kind")]
Penalty = Annotated[WassersteinGP | R1 | R2 | R1AndR2 | Orthogonal, Field(discriminator="kind")]
Perceptual = Annotated[VGG19 | MobileNetV2, Field(discriminator="kind")]

__all__ = [
    "R1",
    "R2",
    "Began",
    "Hinge",
    "LeastSquares",
    "NonSaturating",
    "Objective",
    "Orthogonal",
    "Penalty",
    "Perceptual",
    "PerceptualLoss",
    "R1AndR2",
    "RelativisticAverage",
    "Vanilla",
    "Wasserstein",
    "WassersteinGP",
    "feature_matching",
    "information_losses",
    "l1_loss",
    "non_orthogonality",
    "over_scales",
    "patch_nce",
    "roughness",
    "semantic_consistency",
    "structural_distance",
    "style_ambiguity",
    "weighted_l1",
]
