"""Objectives agree with their closed forms."""

from __future__ import annotations

import math
import typing

import pytest
import torch
from torch import nn

from tests.games import GAMES, game, kinds_of
from tests.networks import members
from translate.losses import (
    Began,
    Hinge,
    LeastSquares,
    NonSaturating,
    Objective,
    Penalty,
    RelativisticAverage,
    Vanilla,
    Wasserstein,
    feature_matching,
    l1_loss,
    over_scales,
    structural_distance,
)
from translate.losses.objectives import exchange
from translate.losses.penalties import R1, WassersteinGP
from translate.networks.discriminators import Discriminator, Scales

OBJECTIVES = members(Objective)


@pytest.mark.parametrize(("part", "union"), [("objective", Objective), ("penalty", Penalty)])
def test_every_objective_and_penalty_is_among_the_games_that_memory_plans_are_tested_with(part: str, union: object
                                                                                          ) -> None:
    """A new one needs an entry in `tests/games.py`: its gradients must be the same under every plan."""
    played = {type(getattr(game(name, kind), part)) for name in GAMES for kind in kinds_of(name)}
    assert set(members(union)) <= played


def logit(probability: float) -> torch.Tensor:
    return torch.full((2, 1, 3, 3), math.log(probability / (1 - probability)), dtype=torch.float64)


@pytest.mark.parametrize("objective", [Vanilla(), NonSaturating()])
def test_the_value_of_the_game_at_the_optimal_discriminator_is_minus_log_4(objective: typing.Any) -> None:
    """Goodfellow et al. 2014, theorem 1. Our loss is the mean of the two halves, so the value is −2 × the loss."""
    assert -2 * objective.discriminator_loss(logit(0.5), logit(0.5)).item() == pytest.approx(-math.log(4), abs=1e-12)


def test_generator_losses_have_their_closed_forms() -> None:
    assert Vanilla().generator_loss(logit(0.2)).item() == pytest.approx(math.log(1 - 0.2))
    assert NonSaturating().generator_loss(logit(0.2)).item() == pytest.approx(-math.log(0.2))
    assert LeastSquares().generator_loss(torch.full((1, 1), 0.25)).item() == pytest.approx(0.75**2)


def test_least_squares_draws_real_to_one_and_fake_to_zero() -> None:
    real, fake = torch.full((1, 1), 0.8), torch.full((1, 1), 0.3)
    assert LeastSquares().discriminator_loss(real, fake).item() == pytest.approx((0.2**2 + 0.3**2) / 2)


def test_the_minimax_generator_gradient_vanishes_where_the_non_saturating_one_does_not() -> None:
    """Why section 3 of Goodfellow et al. 2014 proposes the second: early on the discriminator is sure of itself."""
    gradients = []
    for objective in (Vanilla(), NonSaturating()):
        fake = torch.full((1,), -8.0, requires_grad=True)
        objective.generator_loss(fake).backward()
        gradients.append(fake.grad.abs().item())
    assert gradients[0] < 1e-3 and gradients[1] > 0.99


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.__name__)
def test_objectives_of_half_precision_logits_are_computed_in_float32(objective: typing.Any) -> None:
    logits = torch.randn(1, 1, 30, 30).bfloat16()
    asked = (logits, -logits) if objective.needs_real_logits else (logits,)
    assert objective().generator_loss(*asked).dtype == torch.float32
    exact = objective().discriminator_loss(logits.double(), -logits.double())
    torch.testing.assert_close(objective().discriminator_loss(logits, -logits).double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("objective", [Vanilla, NonSaturating])
def test_one_sided_smoothing_puts_the_optimal_discriminator_at_half_the_smoothed_label(objective: type) -> None:
    """Where real and fake are alike, the labels 1 − s and 0 meet at (1 − s)/2: there the gradient is zero."""
    at = logit((1 - 0.2) / 2).requires_grad_()
    objective(smoothing=0.2).discriminator_loss(at, at).backward()
    assert at.grad.abs().max().item() < 1e-16
    fake = logit(0.3)
    assert objective(smoothing=0.2).generator_loss(fake) == objective().generator_loss(fake), "D's label alone"


def test_smoothed_least_squares_draws_real_to_its_label() -> None:
    assert LeastSquares(smoothing=0.1).discriminator_loss(torch.full((1, 1), 0.9), torch.zeros(1, 1)).item() == 0.0


def test_flipped_labels_exchange_real_and_fake_of_the_chosen_samples_alone() -> None:
    real, fake = torch.arange(4.0).view(2, 1, 1, 2), -torch.arange(4.0).view(2, 1, 1, 2)
    first, second = exchange(real, fake, torch.tensor([False, True]))
    assert torch.equal(first, torch.stack([real[0], fake[1]])) and torch.equal(second, torch.stack([fake[0], real[1]]))


def test_the_hinge_loss_ends_at_the_margins() -> None:
    """Beyond +1 for real and −1 for fake the discriminator has nothing to gain; within, the loss is linear."""
    real, fake = (torch.tensor(values, requires_grad=True) for values in ([[1.5, 0.25]], [[-1.5, 0.25]]))
    loss = Hinge().discriminator_loss(real, fake)
    assert loss.item() == pytest.approx(((0 + 0.75) / 2 + (0 + 1.25) / 2) / 2)
    loss.backward()
    assert real.grad.tolist() == [[0.0, -0.25]] and fake.grad.tolist() == [[0.0, 0.25]]
    assert Hinge().generator_loss(fake).item() == pytest.approx(0.625)


def test_a_wasserstein_critics_loss_is_minus_the_distance_it_sees() -> None:
    """For the critic f(x) = x of slope 1 and two point masses, the distance of 3 itself."""
    real, fake = torch.full((4, 1), 2.0), torch.full((4, 1), -1.0)
    assert -Wasserstein().discriminator_loss(real, fake).item() == 3.0
    assert Wasserstein().generator_loss(fake).item() == 1.0


def test_wasserstein_clips_every_weight_and_null_clips_none() -> None:
    critic = nn.Conv2d(2, 3, 3)
    before = critic.weight.detach().clone()
    Wasserstein(clip=None).after_step({"critic_b": critic}, {}.__getitem__)
    assert torch.equal(critic.weight, before)
    Wasserstein(clip=0.05).after_step({"critic_b": critic}, {}.__getitem__)
    assert torch.equal(critic.weight, before.clamp(-0.05, 0.05)) and critic.bias.abs().max() <= 0.05


def test_the_relativistic_average_is_that_of_the_paper_with_real_and_fake_in_opposite_roles() -> None:
    """Written with probabilities, sample by sample, from the paper's formula."""
    real, fake = torch.randn(2, 1, 3, 3, dtype=torch.float64), torch.randn(2, 1, 3, 3, dtype=torch.float64)

    def paper(first: torch.Tensor, second: torch.Tensor) -> float:
        sides = [-(torch.log(torch.sigmoid(x - y.mean())) + torch.log(1 - torch.sigmoid(y - x.mean()))).mean()
                 for x, y in zip(first, second, strict=True)]
        return (sum(sides) / len(sides)).item()

    assert RelativisticAverage().discriminator_loss(real, fake).item() == pytest.approx(paper(real, fake) / 2)
    assert RelativisticAverage().generator_loss(fake, real).item() == pytest.approx(paper(fake, real))
    alike = torch.full((2, 1, 3, 3), 0.7)
    assert RelativisticAverage().discriminator_loss(alike, alike).item() == pytest.approx(math.log(2))


def test_began_moves_its_balance_by_how_far_the_errors_are_from_equilibrium() -> None:
    """k ← k + λ(γ L(real) − L(fake)) within [0, 1], and M = L(real) + |γ L(real) − L(fake)|, by hand."""
    began = Began(gamma=0.5, rate=0.1)
    real, fake = torch.full((1, 1, 2, 2), 0.8), torch.full((1, 1, 2, 2), 0.3)
    assert began.generator_loss(fake).item() == pytest.approx(0.3)
    assert began.discriminator_loss(real, fake, torch.tensor(0.25)).item() == pytest.approx(0.8 - 0.25 * 0.3)
    balance = torch.tensor(0.25)
    assert began.rebalance(balance, real.mean(), fake.mean()).item() == pytest.approx(0.8 + 0.1)
    assert balance.item() == pytest.approx(0.25 + 0.1 * (0.5 * 0.8 - 0.3))
    for start, error, end in [(0.0, 5.0, 0.0), (1.0, 0.0, 1.0)]:
        balance = torch.tensor(start)
        began.rebalance(balance, torch.tensor(1.0), torch.tensor(error))
        assert balance.item() == end
    at_equilibrium = torch.tensor(0.4)
    began.rebalance(at_equilibrium, torch.tensor(0.6), torch.tensor(0.3))
    assert at_equilibrium.item() == pytest.approx(0.4)


def test_losses_of_an_image_judged_at_several_sizes_add_up() -> None:
    """Wang et al. 2018, equations 3 and 5: a sum over discriminators, each with the mean over its own patches."""
    real, fake = ([torch.randn(2, 1, side, side) for side in (8, 3)] for _ in range(2))
    for objective in (LeastSquares(), NonSaturating(), Hinge()):
        expected = sum(objective.discriminator_loss(*pair) for pair in zip(real, fake, strict=True))
        torch.testing.assert_close(over_scales(objective.discriminator_loss, Scales(real), Scales(fake)), expected)
        torch.testing.assert_close(over_scales(objective.generator_loss, fake[0]), objective.generator_loss(fake[0]))
    alike = [logits.expand(-1, 2, -1, -1) for logits in real]
    expected = sum((one - other).abs().mean() for one, other in zip(alike, fake, strict=True))
    torch.testing.assert_close(feature_matching(alike, [each.expand(-1, 2, -1, -1) for each in fake]), expected)


def test_a_penalty_counts_each_size_that_an_image_is_judged_at_as_a_discriminator() -> None:
    fine, coarse = nn.Conv2d(3, 1, 1).double(), nn.Conv2d(3, 1, 1).double()
    images, mix = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.rand(2, dtype=torch.float64)

    class Part(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return coarse(image[:, :, :2])

    class Both(nn.Module):
        def forward(self, image: torch.Tensor) -> Scales:
            return Scales((fine(image), coarse(image[:, :, :2])))

    def of(network: nn.Module) -> Discriminator:
        return Discriminator("discriminator_b", network)

    for penalty in (R1(), WassersteinGP()):
        apart = sum(penalty(of(each), images, images, mix) for each in (fine, Part()))
        torch.testing.assert_close(penalty(of(Both()), images, images, mix), apart)


def test_l1_is_the_mean_absolute_difference_in_float32() -> None:
    image, truth = torch.randn(2, 3, 8, 8).bfloat16(), torch.randn(2, 3, 8, 8)
    assert l1_loss(image, truth).dtype == torch.float32
    torch.testing.assert_close(l1_loss(image, truth), (image.float() - truth).abs().mean())


def test_the_structural_distance_is_that_of_ssim_over_scales_and_so_are_its_gradients() -> None:
    """In float64, window by window, as Wang et al. 2004 write it; 25 px have two scales of at least 11 px."""
    torch.manual_seed(0)
    image, truth = (torch.rand(2, 3, 25, 31, dtype=torch.float64) * 2 - 1 for _ in range(2))
    image.requires_grad_()
    places = torch.arange(11, dtype=torch.float64) - 5
    gaussian = torch.exp(-(places[:, None].square() + places.square()) / (2 * 1.5**2))
    gaussian /= gaussian.sum()

    def distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        found = []
        for top in range(x.shape[2] - 10):
            for left in range(x.shape[3] - 10):
                u, v = ((each[..., top:top + 11, left:left + 11] + 1) / 2 for each in (x, y))
                mean_u, mean_v = (u * gaussian).sum((2, 3)), (v * gaussian).sum((2, 3))
                du, dv = u - mean_u[..., None, None], v - mean_v[..., None, None]
                var_u, var_v, both = ((product * gaussian).sum((2, 3)) for product in (du * du, dv * dv, du * dv))
                found.append((2 * mean_u * mean_v + 1e-4) * (2 * both + 9e-4)
                             / ((mean_u**2 + mean_v**2 + 1e-4) * (var_u + var_v + 9e-4)))
        return 1 - torch.stack(found).mean()

    halves = (nn.functional.avg_pool2d(each, 2) for each in (image, truth))
    expected = (distance(image, truth) + distance(*halves)) / 2
    found = structural_distance(image, truth)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    gradients = (torch.autograd.grad(each, image)[0] for each in (found, expected))
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_the_structural_distance_is_least_at_the_truths_own_contrast_and_l1_at_less() -> None:
    """Of images that agree with half of what the truth shows: an L1 alone draws a pale one."""
    torch.manual_seed(0)
    known, unknown = (torch.randn(4, 3, 64, 64) * 0.1 for _ in range(2))
    truth = known + unknown
    contrasts = (0.5, 1.0, math.sqrt(2), 2.5)  # of what is known; at √2 as strong as the truth
    best = {loss: min(contrasts, key=lambda times: loss(times * known, truth).item())
            for loss in (structural_distance, l1_loss)}
    assert best == {structural_distance: math.sqrt(2), l1_loss: 1.0}
