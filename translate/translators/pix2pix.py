"""pix2pix: paired translation with a conditional GAN (Isola et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from translate.data import Batch
from translate.errors import Mistake
from translate.images.tensors import UNKNOWN, unknown_pixels
from translate.losses import (
    NonSaturating,
    Objective,
    Perceptual,
    feature_matching,
    l1_loss,
    roughness,
    structural_distance,
)
from translate.losses.structural import SIDE
from translate.networks import DiscriminatorConfig, GeneratorConfig, PatchGANConfig, RegistrationConfig, UNetConfig
from translate.networks.discriminators import Discriminator
from translate.networks.registration import beyond, warped
from translate.precision import at_least_float32
from translate.schema import Config
from translate.translators.config import BaseTranslatorConfig, DataPart, Direction, perceptual_problems
from translate.translators.stabilisers import Side
from translate.translators.translator import StepTools, Translator

# Of a gap, in a pixel that a deformation has read beside it: bicubic weights are negative there, and whole shifts round
LEAST_SHARE = 1e-3


class Pix2PixWeights(Config):
    """G* = arg min max L_cGAN + λ L_L1 (eq. 4)."""

    adversarial: float = Field(1.0, ge=0, le=1e9)
    features: float = Field(0.0, ge=0, le=1e9)  # distance of D's features (pix2pixHD: 10): sharper than L1
    l1: float = Field(100.0, ge=0, le=1e9)  # towards 0: livelier and less faithful
    ssim: float = Field(0.0, ge=0, le=1e9)  # 1 − SSIM at up to four scales: shapes and contrast (Zhao et al. 2017)


class Pix2PixConfig(BaseTranslatorConfig):
    """Paired translation A → B: a generator, and a discriminator that sees input and output together; with
    `registration` the output alone."""

    kind: Literal["pix2pix"] = "pix2pix"
    generator: GeneratorConfig = UNetConfig()
    discriminator: DiscriminatorConfig = PatchGANConfig(norm="batch")
    objective: Objective = NonSaturating()
    weights: Pix2PixWeights = Pix2PixWeights()
    perceptual: Perceptual | None = None  # distance of a pretrained network's features from the truth's; null: none
    # For pairs that are off by pixels: losses compare them after a learnt deformation (Kong et al. 2021); null: as is
    registration: RegistrationConfig | None = None

    directions: ClassVar[tuple[Direction, ...]] = ("ab",)
    grows: ClassVar[bool] = True
    published_first: ClassVar[Side] = "discriminator"
    needs_pairs: ClassVar[bool] = True

    @property
    def least_side(self) -> int:
        return SIDE if self.weights.ssim else 1

    def problems(self, data: DataPart) -> Iterator[Mistake]:
        yield from super().problems(data)
        if self.perceptual is not None:
            yield from perceptual_problems(data, "b")

    def build(self, channels_a: int, channels_b: int, seed: int = 0, num_classes: int = 0) -> Pix2Pix:
        return Pix2Pix(self, channels_a, channels_b)


class Pix2Pix(Translator):
    """One generator A → B and one discriminator of (a, b) pairs."""

    def __init__(self, config: Pix2PixConfig, channels_a: int, channels_b: int):
        self.weights = config.weights
        self.generator_ab = config.generator.build(channels_a, channels_b)
        self.judges_pairs = config.registration is None
        self.discriminator_b = config.discriminator.build(channels_b + channels_a * self.judges_pairs)
        self.registration, self.smoothness = None, 0.0
        if config.registration is not None:
            self.registration = config.registration.build(channels_b)
            self.smoothness = config.registration.smoothness
        super().__init__(config, {"generator_ab": self.generator_ab}, {"discriminator_b": self.discriminator_b}, {},
                         beside={} if self.registration is None else {"registration": self.registration})
        self.perceptual = None if config.perceptual is None else config.perceptual.build()
        if self.perceptual is not None:
            self.frozen["perceptual"] = self.perceptual

    def train_generators(self, batch: Batch, update: StepTools) -> list[Tensor]:
        """Fool the discriminator and stay near the truth (eq. 4); return the fakes, one a micro-batch."""
        fakes = []
        for a, b in update.micro_batches(batch):
            with update.fake(self.generator_ab, a, truth=b, shared=True) as fake:
                fooled = self.fool(update, self.conditional(update, a), fake, b)
                update.backward("adversarial", self.weights.adversarial * fooled)
                self.keep_protected(update, fake, a)
                if self.weights.features:
                    laid = self.laid_on_truth(update, fake, a, b)
                    update.backward("features", self.weights.features * self.feature_distance(a, laid, b))
                if self.perceptual is not None:
                    update.backward("perceptual", self.perceptual(self.laid_on_truth(update, fake, a, b), b))
                update.backward("l1", self.weights.l1 * l1_loss(self.laid_on_truth(update, fake, a, b), b))
                if self.weights.ssim:
                    laid = self.laid_on_truth(update, fake, a, b)
                    with update.full_precision():
                        update.backward("ssim", self.weights.ssim * structural_distance(laid, b))
                if self.registration is not None:
                    deformation = self.registration(fake, b)
                    found = at_least_float32(deformation.detach())
                    update.observe("deformation", found.norm(dim=1).mean())
                    for way, mean in zip(("right", "down"), found.mean((0, 2, 3)), strict=True):
                        update.observe(f"deformation_{way}", mean)
                    update.backward("smoothness", self.smoothness * roughness(deformation))
            fakes.append(fake.detach())
        return fakes

    def after_generators(self, update: StepTools) -> None:
        if self.registration is not None:
            mean = torch.stack([update.mean(f"deformation_{way}") for way in ("right", "down")])
            self.registration.remember(mean, update.left_out)

    def train_discriminators(self, batch: Batch, fakes: list[Tensor] | None, update: StepTools) -> None:
        """Tell (a, b) from (a, fake) (eq. 1)."""
        for number, (a, b) in enumerate(update.micro_batches(batch)):
            fake = fakes[number] if fakes else update.translated(self.generator_ab, a, truth=b, shared=True)
            self.tell_apart(update, self.conditional(update, a), b, fake)

    def laid_on_truth(self, update: StepTools, fake: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Return the fake as losses compare it with the truth: where the pairs are registered, deformed onto it.

        Each loss asks anew: it is backpropagated alone, and the deformation takes less memory than keeping it would.
        """
        if self.registration is None:
            return fake
        deformation = self.registration(fake, b)
        with update.full_precision():  # in half precision the coordinates of a large image would run together
            deformation = at_least_float32(deformation)
            laid = warped(at_least_float32(fake), deformation)
            laid = torch.where(beyond(deformation), b.to(laid.dtype), laid)  # what it does not show counts nowhere
            if update.has_unknown:  # what is not known has moved as well, and counts nowhere
                gaps = (unknown_pixels(a) | unknown_pixels(b)).to(laid.dtype)
                mixed_in = warped(gaps, deformation.detach()).abs() > LEAST_SHARE
                a = torch.where(mixed_in, UNKNOWN, a)
        return update.hide_unknown(laid, a, truth=b)

    @torch.no_grad()
    def deformation(self, made: Tensor, truth: Tensor) -> Tensor | None:
        if self.registration is None:
            return None
        like = next(self.registration.parameters())
        field: Tensor = self.registration(*(image[None].to(like) for image in (made, truth)))
        return field[0]

    def conditional(self, update: StepTools, a: Tensor) -> Discriminator:
        """Return the discriminator conditioned on `a`, augmented like the images it judges.

        Of pairs that are off it sees no inputs, as in Kong et al. 2021: it would know outputs by where they lie, as
        truths lie anywhere, and would drive them from one place to the next.
        """
        return self.discriminator("b", condition=self.in_place(update, a) if self.judges_pairs else None)

    def feature_distance(self, a: Tensor, fake: Tensor, b: Tensor) -> Tensor:
        """Return how far the discriminator's features of (a, fake) are from those of (a, b).

        The pairs are compared as they are, so `a` is not augmented either: augmentation serves what D judges.
        """
        discriminator = self.discriminator("b", condition=a if self.judges_pairs else None)
        return feature_matching(discriminator.features(fake), discriminator.features(b))
