"""Objectives agree with their closed forms."""

from __future__ import annotations

import math
import typing

import pytest
import torch

from translate.losses import LeastSquares, NonSaturating, Objective, Vanilla, l1_loss

OBJECTIVES = typing.get_args(typing.get_args(Objective)[0])


def logit(probability: float) -> torch.Tensor:
    return torch.full((2, 1, 3, 3), math.log(probability / (1 - probability)), dtype=torch.float64)


@pytest.mark.parametrize("objective", [Vanilla(), NonSaturating()])
def test_the_value_of_the_game_at_the_optimal_discriminator_is_minus_log_4(objective: typing.Any) -> None:
    """Goodfellow et al. 2014, theorem 1. Our loss is the mean of the two halves, so the value is −2 × the loss."""
    assert -2 * objective.discriminator(logit(0.5), logit(0.5)).item() == pytest.approx(-math.log(4), abs=1e-12)


def test_generator_losses_have_their_closed_forms() -> None:
    assert Vanilla().generator(logit(0.2)).item() == pytest.approx(math.log(1 - 0.2))
    assert NonSaturating().generator(logit(0.2)).item() == pytest.approx(-math.log(0.2))
    assert LeastSquares().generator(torch.full((1, 1), 0.25)).item() == pytest.approx(0.75**2)


def test_least_squares_draws_real_to_one_and_fake_to_zero() -> None:
    real, fake = torch.full((1, 1), 0.8), torch.full((1, 1), 0.3)
    assert LeastSquares().discriminator(real, fake).item() == pytest.approx((0.2**2 + 0.3**2) / 2)


def test_the_minimax_generator_gradient_vanishes_where_the_non_saturating_one_does_not() -> None:
    """Why section 3 of Goodfellow et al. 2014 proposes the second: early on the discriminator is sure of itself."""
    gradients = []
    for objective in (Vanilla(), NonSaturating()):
        fake = torch.full((1,), -8.0, requires_grad=True)
        objective.generator(fake).backward()
        gradients.append(fake.grad.abs().item())
    assert gradients[0] < 1e-3 and gradients[1] > 0.99


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.__name__)
def test_objectives_of_half_precision_logits_are_computed_in_float32(objective: type) -> None:
    logits = torch.randn(1, 1, 30, 30).bfloat16()
    assert objective().generator(logits).dtype == torch.float32
    exact = objective().discriminator(logits.double(), -logits.double())
    torch.testing.assert_close(objective().discriminator(logits, -logits).double(), exact, rtol=1e-5, atol=1e-6)


def test_l1_is_the_mean_absolute_difference_in_float32() -> None:
    image, truth = torch.randn(2, 3, 8, 8).bfloat16(), torch.randn(2, 3, 8, 8)
    assert l1_loss(image, truth).dtype == torch.float32
    torch.testing.assert_close(l1_loss(image, truth), (image.float() - truth).abs().mean())
