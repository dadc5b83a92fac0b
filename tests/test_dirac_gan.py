"""The Dirac-GAN (Mescheder et al. 2018, section 2): the simplest game there is, and theory says how each one ends.

The data are a point at 0, the generator's are a point at θ, and the discriminator is D(x) = ψ·x. The equilibrium is
θ = ψ = 0. Gradients are those of the project's own objectives and penalties; the steps alternate as a training's do.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.covering import one_in
from tests.networks import members
from translate.losses import (
    R1,
    R2,
    Began,
    Hinge,
    LeastSquares,
    NonSaturating,
    Objective,
    RelativisticAverage,
    Vanilla,
    Wasserstein,
    WassersteinGP,
)
from translate.networks.discriminators import Discriminator

NUM_STEPS, RATE = 600, 0.2
QUANTILES = torch.tensor([NormalDist().inv_cdf((i + 0.5) / 64) for i in range(64)], dtype=torch.float64)[:, None]


def play(objective: Any, penalty: Any = None, noise: float = 0.0) -> Tensor:
    """The way of (θ, ψ) from (1, 1), as (steps, 2). `noise` is the deviation of Gaussian noise on all that D sees.

    Sixty-four samples stand for each distribution; the noise is at its quantiles, the mix of a penalty spread evenly.
    """
    generator = nn.Parameter(torch.ones(1, 1, dtype=torch.float64))
    discriminator = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.ones_(discriminator.weight)
    opponent = Discriminator("discriminator_b", discriminator)
    players = [torch.optim.SGD([generator], RATE), torch.optim.SGD(discriminator.parameters(), RATE)]
    mix = torch.linspace(0, 1, len(QUANTILES), dtype=torch.float64)
    way = []
    for _ in range(NUM_STEPS):
        for number, player in enumerate(players):
            fake, real = generator + noise * QUANTILES, noise * QUANTILES
            if number == 0:
                judged = discriminator(fake)
                asked = (judged, discriminator(real)) if objective.needs_real_logits else (judged,)
                loss = objective.generator_loss(*asked)
            else:
                loss = objective.discriminator_loss(discriminator(real), discriminator(fake.detach()))
                if penalty is not None:
                    loss = loss + penalty.weight * penalty(opponent, real, fake.detach(), mix)
            player.zero_grad()
            loss.backward()
            player.step()
        objective.after_step({"discriminator_b": discriminator}, {"real_b": loss, "fake_b": loss}.__getitem__)
        way.append(torch.cat([generator.detach().flatten(), discriminator.weight.detach().flatten()]))
    return torch.stack(way)


CASES: dict[str, tuple[dict[str, Any], str]] = {  # the game, and how it ends according to the paper
    "vanilla": ({"objective": Vanilla()}, "goes round"),  # section 2
    "non-saturating": ({"objective": NonSaturating()}, "goes round"),
    "hinge": ({"objective": Hinge()}, "goes round"),  # linear within its margins, as Wasserstein
    "relativistic": ({"objective": RelativisticAverage()}, "goes round"),  # of two points: the non-saturating game
    "wasserstein, unbounded": ({"objective": Wasserstein(clip=None)}, "goes round"),
    "wasserstein, clipped": ({"objective": Wasserstein(clip=0.5)}, "goes round"),
    "wgan-gp": ({"objective": Wasserstein(clip=None), "penalty": WassersteinGP(weight=0.25)}, "goes round"),
    "non-saturating + r1": ({"objective": NonSaturating(), "penalty": R1(weight=1.0)}, "converges"),  # section 4
    "non-saturating + r2": ({"objective": NonSaturating(), "penalty": R2(weight=1.0)}, "converges"),
    "vanilla + r1": ({"objective": Vanilla(), "penalty": R1(weight=1.0)}, "converges"),
    "wasserstein + r1": ({"objective": Wasserstein(clip=None), "penalty": R1(weight=1.0)}, "converges"),
    "non-saturating + noise": ({"objective": NonSaturating(), "noise": 1.0}, "converges"),  # section 3
    "vanilla + noise": ({"objective": Vanilla(), "noise": 1.0}, "converges"),
}


NOT_PLAYED = {LeastSquares: "D(x) = ψ·x says 0 of the data at 0, whatever ψ is, and can never be drawn to the label 1",
              Began: "its discriminator is an autoencoder"}


def test_every_objective_is_played_or_has_a_reason_not_to_be() -> None:
    assert {type(options["objective"]) for options, _ in CASES.values()} | NOT_PLAYED.keys() == set(members(Objective))


@pytest.mark.parametrize("case", one_in(8, list(CASES)))
def test_the_dirac_gan_ends_where_theory_says(case: str) -> None:
    """Converges: at a linear rate. Goes round: bounded, and still on its way when the others have long arrived.

    (Of those that go round, the non-saturating game creeps inwards, slower than any exponential; section 2 there.)
    """
    options, end = CASES[case]
    distance = play(**options).norm(dim=1)
    assert distance.max() < 3 * math.sqrt(2), "bounded"
    late = distance[-NUM_STEPS // 10:]
    if end == "converges":
        assert late.max() < 1e-3
    else:
        assert late.max() > 0.1


@pytest.mark.slow
def test_wgan_gp_goes_on_overshooting_the_equilibrium() -> None:
    """Its penalty asks for a slope of one everywhere; at the equilibrium the slope would have to be none."""
    late = play(Wasserstein(clip=None), WassersteinGP(weight=0.25))[-NUM_STEPS // 2:]
    assert (late[:-1, 0] * late[1:, 0] < 0).sum() >= 4
    assert late[:, 1].abs().max() > 0.5
