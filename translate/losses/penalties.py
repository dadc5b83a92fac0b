"""Penalties on a discriminator: on the slope of what it says of images, or on its weights.

Each is called with the discriminator and what it judges, and returns a scalar that the recipe's `weight` multiplies.
A penalty on a slope is differentiated twice, so it is computed in float32 whatever the training's precision is.

**Patches.** A patch discriminator gives P logits an image: P critics of overlapping patches. ‖∇D‖² is here the squared
gradient of their sum divided by P. Where patches do not overlap this is the mean of the patches' own squared slopes,
so that a weight means the same at every resolution; for one logit it is the papers' definition.

**Halves.** An objective's loss of D is the mean of its halves, not their sum (`translate.losses.objectives`): beside
it a penalty counts twice as much as the same weight beside a sum.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from translate.losses.objectives import over_scales
from translate.networks.discriminators import Discriminator
from translate.precision import at_least_float32
from translate.schema import Config


class _Penalty(Config):
    """What every penalty has. Applied every k-th step, it counts k times as much ("lazy regularisation": Karras et al.
    2020, appendix B).
    """

    separate_samples: ClassVar[bool] = False  # a gradient per sample: batch norm in D is forbidden

    every: int = Field(1, ge=1, le=1_000_000)  # k steps; 16 costs a sixteenth of the time, and as much memory

    @abstractmethod
    def __call__(self, discriminator: Discriminator, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
        """Return the penalty without its weight, a scalar, of images (N, C, H, W) and a number in [0, 1) each (N,)."""


class SlopePenalty(_Penalty):
    """A penalty on the gradient of D with respect to images."""

    separate_samples: ClassVar[bool] = True


class WassersteinGP(SlopePenalty):
    """WGAN-GP (Gulrajani et al. 2017, eq. 3): E (‖∇D(x̂)‖ − 1)², two-sided, at x̂ = ε·real + (1 − ε)·fake."""

    kind: Literal["wgan_gp"] = "wgan_gp"
    weight: float = Field(10.0, gt=0, le=1e9)

    def __call__(self, discriminator: Discriminator, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
        mix = mix.view(-1, *[1] * (real.ndim - 1))
        return over_slopes(lambda slope: (slope - 1).square(), discriminator, mix * real + (1 - mix) * fake)


class R1(SlopePenalty):
    """R1 (Mescheder et al. 2018, eq. 9): ½ E ‖∇D(real)‖²; D may not keep a slope where the data are."""

    kind: Literal["r1"] = "r1"
    weight: float = Field(10.0, gt=0, le=1e9)  # γ

    def __call__(self, discriminator: Discriminator, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
        return over_slopes(lambda slope: slope.square() / 2, discriminator, real)


class R2(SlopePenalty):
    """R2 (Mescheder et al. 2018, eq. 10): ½ E ‖∇D(fake)‖²; D may not keep a slope where the generator is."""

    kind: Literal["r2"] = "r2"
    weight: float = Field(10.0, gt=0, le=1e9)  # γ

    def __call__(self, discriminator: Discriminator, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
        return over_slopes(lambda slope: slope.square() / 2, discriminator, fake)


class R1AndR2(SlopePenalty):
    """R1 and R2 together (Huang et al. 2024, "The GAN is dead; long live the GAN!", R3): at real images and at fakes.
    """

    kind: Literal["r1_r2"] = "r1_r2"
    weight: float = Field(10.0, gt=0, le=1e9)  # γ of both

    def __call__(self, discriminator: Discriminator, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
        return R1()(discriminator, real, fake, mix) + R2()(discriminator, real, fake, mix)


class Orthogonal(_Penalty):
    """Orthogonal regularisation of D's weights: `non_orthogonality`."""

    kind: Literal["orthogonal"] = "orthogonal"
    weight: float = Field(1e-4, gt=0, le=1e9)  # β

    def __call__(self, discriminator: Discriminator, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
        return non_orthogonality(discriminator.network)


def non_orthogonality(network: nn.Module) -> Tensor:
    """Return Σ ‖WWᵀ ⊙ (1 − I)‖² over the weight matrices that are trained, a scalar (Brock et al. 2019, eq. 3).

    A convolution's matrix has a row for each output channel. Rows are drawn apart; their lengths are left free. Under a
    spectral norm W is what it divides.
    """
    costs = []
    for part in network.modules():
        if not isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            continue
        weight = cast(Any, part).parametrizations.weight.original if is_parametrized(part, "weight") else part.weight
        if weight.requires_grad:
            rows = (weight.transpose(0, 1) if isinstance(part, nn.ConvTranspose2d) else weight).flatten(1)
            if len(rows) <= rows.shape[1]:
                product = rows @ rows.T
                costs.append((product - product.diag().diag()).square().sum())
            else:  # ‖WWᵀ‖ = ‖WᵀW‖, which of a dense layer to 24,576 numbers is 2.4 GB smaller
                costs.append((rows.T @ rows).square().sum() - rows.square().sum(1).square().sum())
    return torch.stack(costs).sum()


def over_slopes(price: Callable[[Tensor], Tensor], discriminator: Discriminator, images: Tensor) -> Tensor:
    """Return the mean of `price(‖∇D‖)`, of the slope at each of `images` (N, …), as a function of D's weights.

    Where D judges at several sizes, the means are summed. The gradient of a slope is 0 where the slope is 0.
    """
    images = at_least_float32(images.detach()).requires_grad_()

    def mean_price(logits: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        return price(torch.linalg.vector_norm(gradient.flatten(1), dim=1) / logits[0].numel() ** 0.5).mean()

    return over_scales(mean_price, discriminator(images))
