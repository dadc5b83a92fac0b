"""Objectives: the game between generator and discriminator, one class a game.

    generator_loss(fake)            what the generator minimises, of logits (N, …) of its fakes
    discriminator_loss(real, fake)  what the discriminator minimises, of logits (N, …) of real images and of fakes
    verdict(real, fake)             how the game stands, for people and for the guard

Losses are scalars in at least float32. The discriminator's loss is the mean of its two halves, as in pix2pix and
CycleGAN ("we divide the objective by 2 while optimizing D, which slows down the rate at which D learns relative to G";
Isola et al. 2017, 3.3). Only a Wasserstein critic's is their sum: its negative then estimates a distance.

What else others must know of an objective stands on its class: whether the generator's loss needs the logits of real
images (`needs_real_logits`), what scores a discriminator gives that is sure (`sure_scores`), which discriminators it
goes with (`reconstructs`), and what it does after each step of them (`after_step`). Nobody asks which objective it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from translate.networks.autoencoder import Autoencoder
from translate.networks.discriminators import Discriminator, Logits, Scales
from translate.precision import at_least_float32
from translate.schema import Config


class Verdict(NamedTuple):
    """What a discriminator says, as scalars: the means over what it judged, how often it is right, how much it varies.

    `real` and `fake` are in the objective's own terms: probabilities of being real (vanilla, nonsaturating,
    relativistic), scores drawn to 1 and 0 (lsgan) or beyond 1 and −1 (hinge), a critic's values, whose difference alone
    means something (wasserstein), or errors of reconstruction (began). `right` is a share in [0, 1]; `spread` is the
    standard deviation of all scores, which is 0 where the discriminator says the same of everything.
    """

    real: Tensor
    fake: Tensor
    right: Tensor
    spread: Tensor


class BaseObjective(Config):
    """What every objective has: its two losses, a way to read its discriminator, and what others must know of it."""

    # A score above this says "real", one below "fake". None: the threshold is the midpoint of the two means.
    threshold: ClassVar[float | None] = 0.5
    # Scores of real images and of fakes where D is sure of both and nothing is left to be learnt; None: there are none.
    sure_scores: ClassVar[tuple[float, float] | None] = None
    needs_real_logits: ClassVar[bool] = False  # `generator_loss` takes the logits of real images as well
    reconstructs: ClassVar[bool] = False  # it is played with discriminators that reconstruct images, and only with them

    def generator_loss(self, fake: Tensor) -> Tensor:
        """Return what the generator minimises."""
        raise NotImplementedError

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return what the discriminator minimises."""
        raise NotImplementedError

    def total_discriminator_loss(self, discriminator: Discriminator, real: Logits, fake: Logits,
                                 uniform: Callable[[str], Tensor]) -> Tensor:
        """Return the loss of `discriminator`, summed over the sizes it judges at, with whatever the objective adds.

        `uniform(name)` draws a number in [0, 1) for each sample (N,), the same whenever a step is done again.
        """
        return over_scales(self.discriminator_loss, real, fake)

    def after_step(self, discriminators: Mapping[str, nn.Module], mean: Callable[[str], Tensor],
                   left_out: Tensor | None = None) -> dict[str, Tensor]:
        """Do what the game asks for after a step of the discriminators; return numbers worth recording, by name.

        `mean(name)` is the mean over all processes of what the step observed: `real_b`, `fake_b` and so on. Where
        `left_out` is 1, a scalar on the device, the step did not count, and no weight may change; buffers may.
        """
        return {}

    def scores(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits in the objective's own terms, of the same shapes, in at least float32."""
        return at_least_float32(real), at_least_float32(fake)

    @torch.no_grad()
    def verdict(self, real: Tensor, fake: Tensor) -> Verdict:
        """Return how the game stands by the logits of a step."""
        real, fake = self.scores(real, fake)
        threshold = (real.mean() + fake.mean()) / 2 if self.threshold is None else self.threshold
        right = ((real > threshold).to(real.dtype).mean() + (fake < threshold).to(fake.dtype).mean()) / 2
        return Verdict(real.mean(), fake.mean(), right, torch.cat([real.flatten(), fake.flatten()]).std())


class LabelObjective(BaseObjective):
    """Objectives that draw real images to one label and fakes to another: the labels may be softened and exchanged."""

    smoothing: float = Field(0.0, ge=0, lt=0.5)  # real's label is 1 − this, fake's stays 0 (Salimans et al. 2016, 3.4)
    flips: float = Field(0.0, ge=0, lt=0.5)  # share of samples whose real and fake trade labels in D's loss

    sure_scores: ClassVar[tuple[float, float] | None] = (1.0, 0.0)

    def total_discriminator_loss(self, discriminator: Discriminator, real: Logits, fake: Logits,
                                 uniform: Callable[[str], Tensor]) -> Tensor:
        if not self.flips:
            return super().total_discriminator_loss(discriminator, real, fake, uniform)
        chosen = uniform(f"flips {discriminator.name}") < self.flips
        return over_scales(lambda real, fake: self.discriminator_loss(*exchange(real, fake, chosen)), real, fake)


class LogLoss(LabelObjective):
    """What objectives share whose logits are log odds."""

    def scores(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        return at_least_float32(real).sigmoid(), at_least_float32(fake).sigmoid()

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        return log_loss(real, fake, self.smoothing)


class Vanilla(LogLoss):
    """The minimax game of Goodfellow et al. 2014, eq. 1: G minimises log(1 − D(G)). Its gradient vanishes early."""

    kind: Literal["vanilla"] = "vanilla"

    def generator_loss(self, fake: Tensor) -> Tensor:
        return -F.softplus(at_least_float32(fake)).mean()


class NonSaturating(LogLoss):
    """Goodfellow et al. 2014, section 3: G maximises log D(G) instead; what most code calls "vanilla"."""

    kind: Literal["nonsaturating"] = "nonsaturating"

    def generator_loss(self, fake: Tensor) -> Tensor:
        return F.softplus(-at_least_float32(fake)).mean()


class LeastSquares(LabelObjective):
    """LSGAN (Mao et al. 2017), eq. 2 with labels 0 and 1: real is drawn to 1, fake to 0, the generator's fake to 1."""

    kind: Literal["lsgan"] = "lsgan"

    def generator_loss(self, fake: Tensor) -> Tensor:
        return (at_least_float32(fake) - 1).square().mean()

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        real, fake = at_least_float32(real), at_least_float32(fake)
        return ((real - (1 - self.smoothing)).square().mean() + fake.square().mean()) / 2


class Hinge(BaseObjective):
    """The hinge loss (Lim & Ye 2017; Miyato et al. 2018, eq. 16 and 17): D ignores what it tells apart by a margin."""

    kind: Literal["hinge"] = "hinge"

    threshold: ClassVar[float | None] = 0.0
    sure_scores: ClassVar[tuple[float, float] | None] = (1.0, -1.0)

    def generator_loss(self, fake: Tensor) -> Tensor:
        return -at_least_float32(fake).mean()

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        return (F.relu(1 - at_least_float32(real)).mean() + F.relu(1 + at_least_float32(fake)).mean()) / 2


class Wasserstein(BaseObjective):
    """The Wasserstein distance of real and fake, by a critic of bounded slope (Arjovsky et al. 2017, algorithm 1).

    The slope is bounded by clipping the critic's weights after each of its steps; or by a penalty (`wgan_gp`), with
    `clip: null`. The critic's loss is minus the estimate of the distance, in units that the bound decides.
    """

    kind: Literal["wasserstein"] = "wasserstein"
    # largest magnitude of a weight of D; null: a penalty bounds D instead
    clip: float | None = Field(0.01, gt=0, le=1e9)
    # ε: of the squares of real images' scores, which else may drift (Karras et al. 2018, appendix A.1: 0.001)
    drift: float = Field(0.0, ge=0, le=1e9)

    threshold: ClassVar[float | None] = None

    def generator_loss(self, fake: Tensor) -> Tensor:
        return -at_least_float32(fake).mean()

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        real, fake = at_least_float32(real), at_least_float32(fake)
        distance = real.mean() - fake.mean()
        return self.drift * real.square().mean() - distance if self.drift else -distance

    @torch.no_grad()
    def after_step(self, discriminators: Mapping[str, nn.Module], mean: Callable[[str], Tensor],
                   left_out: Tensor | None = None) -> dict[str, Tensor]:
        """Clip the critics' weights, in place (algorithm 1, line 7)."""
        if self.clip is not None:
            for critic in discriminators.values():
                for parameter in critic.parameters():
                    clipped = parameter.clamp(-self.clip, self.clip)
                    parameter.copy_(clipped if left_out is None else torch.where(left_out > 0, parameter, clipped))
        return {}


class RelativisticAverage(BaseObjective):
    """Whether real looks more real than the average fake, and fake than the average real (Jolicoeur-Martineau 2019).

    RaSGAN, section 4 of the paper: logits count relative to the mean of the other kind's. The generator's loss is
    the same with the roles exchanged, and therefore needs the logits of real images too. The mean is over the patches
    of the sample's counterpart, not over the batch, so that gradients do not depend on how a batch is divided among
    micro-batches and processes; with batches of one sample the two are the same.
    """

    kind: Literal["relativistic"] = "relativistic"

    sure_scores: ClassVar[tuple[float, float] | None] = (1.0, 0.0)
    needs_real_logits: ClassVar[bool] = True

    def generator_loss(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        assert real is not None, "needs_real_logits"
        return 2 * self.discriminator_loss(fake, real)

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        return log_loss(*self.relative(real, fake))

    def scores(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        real, fake = self.relative(real, fake)
        return real.sigmoid(), fake.sigmoid()

    def relative(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, P) as they count: relative to the mean of the sample's counterpart."""
        real, fake = at_least_float32(real).flatten(1), at_least_float32(fake).flatten(1)
        return real - fake.mean(1, keepdim=True), fake - real.mean(1, keepdim=True)


class Began(BaseObjective):
    """BEGAN (Berthelot et al. 2017, section 3.4): D is an autoencoder, good with real images and bad with fakes.

    What it judges with are errors of reconstruction, L. Its loss is L(real) − k L(fake). After each of its steps
    k ← k + λ (γ L(real) − L(fake)), within [0, 1], which holds L(fake) at γ L(real): neither side can win.
    """

    kind: Literal["began"] = "began"
    gamma: float = Field(0.5, gt=0, le=1)  # γ: less makes truer and more alike images, more makes more varied ones
    rate: float = Field(1e-3, gt=0, le=1e9)  # λ

    threshold: ClassVar[float | None] = None
    reconstructs: ClassVar[bool] = True

    def generator_loss(self, fake: Tensor) -> Tensor:
        return at_least_float32(fake).mean()

    def discriminator_loss(self, real: Tensor, fake: Tensor, balance: Tensor | float = 0.0) -> Tensor:
        return at_least_float32(real).mean() - balance * at_least_float32(fake).mean()

    def total_discriminator_loss(self, discriminator: Discriminator, real: Logits, fake: Logits,
                                 uniform: Callable[[str], Tensor]) -> Tensor:
        assert isinstance(real, Tensor) and isinstance(fake, Tensor), "an autoencoder judges at one size"
        return self.discriminator_loss(real, fake, balance_of(discriminator.network))

    def after_step(self, discriminators: Mapping[str, nn.Module], mean: Callable[[str], Tensor],
                   left_out: Tensor | None = None) -> dict[str, Tensor]:
        """Move the k of every discriminator; return its measure of convergence, `convergence_a` and so on."""
        return {f"convergence_{name[-1]}": self.rebalance(balance_of(network), mean(f"real_{name[-1]}"),
                                                          mean(f"fake_{name[-1]}"))
                for name, network in discriminators.items()}

    def verdict(self, real: Tensor, fake: Tensor) -> Verdict:
        """Return the same of errors, of which the smaller says "real"."""
        turned = super().verdict(-real, -fake)
        return Verdict(-turned.real, -turned.fake, turned.right, turned.spread)

    @torch.no_grad()
    def rebalance(self, balance: Tensor, real: Tensor, fake: Tensor) -> Tensor:
        """Move k, in place, by the mean errors of a step. Return the measure of convergence, L(real) + |γL(real) −
        L(fake)|: it falls while a training gets on."""
        tilt = self.gamma * real - fake
        balance.add_(self.rate * tilt).clamp_(0, 1)
        return real + tilt.abs()


def balance_of(network: nn.Module) -> Tensor:
    """Return BEGAN's k, which its discriminator keeps as a buffer."""
    return cast(Autoencoder, network).balance


def over_scales(loss: Callable[..., Tensor], *logits: Logits) -> Tensor:
    """Return a loss of logits, summed over the sizes that an image is judged at (Wang et al. 2018, eq. 3).

    The discriminator of the full size counts as much as it has faded in.
    """
    each = [Scales((scale,)) if isinstance(scale, Tensor) else scale for scale in logits]
    full_size, *others = (loss(*scale) for scale in zip(*each, strict=True))
    return torch.stack([each[0].share * full_size, *others]).sum()


def log_loss(real: Tensor, fake: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return −[(1 − s) log D(real) + s log(1 − D(real)) + log(1 − D(fake))] / 2 of logits, with real's label at 1 − s.
    """
    real, fake = at_least_float32(real), at_least_float32(fake)
    labelled = (1 - smoothing) * F.softplus(-real) + smoothing * F.softplus(real) if smoothing else F.softplus(-real)
    return (labelled.mean() + F.softplus(fake).mean()) / 2


def exchange(real: Tensor, fake: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits (N, …) with the labels of the samples `chosen` (N, boolean) exchanged: flipped labels."""
    chosen = chosen.view(-1, *[1] * (real.ndim - 1))
    return torch.where(chosen, fake, real), torch.where(chosen, real, fake)
