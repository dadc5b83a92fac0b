"""pix2pix: paired translation with a conditional GAN (Isola et al. 2017)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from translate.losses import NonSaturating, Objective, l1_loss
from translate.networks import DiscriminatorConfig, GeneratorConfig, PatchGANConfig, UNetConfig
from translate.schema import Config
from translate.translators.translator import Direction, Translator, Update


class Pix2PixWeights(Config):
    """G* = arg min max L_cGAN + λ L_L1 (eq. 4)."""

    adversarial: float = Field(1.0, ge=0)
    l1: float = Field(100.0, ge=0)  # towards 0: livelier and less faithful


class Pix2PixConfig(Config):
    """Paired translation A → B: a generator, and a discriminator that sees input and output together."""

    kind: Literal["pix2pix"] = "pix2pix"
    generator: GeneratorConfig = UNetConfig()
    discriminator: DiscriminatorConfig = PatchGANConfig(norm="batch")
    objective: Objective = NonSaturating()
    weights: Pix2PixWeights = Pix2PixWeights()
    ema: float | None = Field(None, gt=0, lt=1)  # share of the average kept per image, e.g. 0.999

    needs_pairs: ClassVar[bool] = True

    def build(self, channels_a: int, channels_b: int, seed: int = 0) -> Pix2Pix:
        return Pix2Pix(self, channels_a, channels_b)


class Pix2Pix(Translator):
    """One generator A → B and one discriminator of (a, b) pairs."""

    directions: ClassVar[tuple[Direction, ...]] = ("ab",)

    def __init__(self, config: Pix2PixConfig, channels_a: int, channels_b: int):
        self.objective, self.weights = config.objective, config.weights
        self.generator_ab = config.generator.build(channels_a, channels_b)
        self.discriminator_b = config.discriminator.build(channels_a + channels_b)
        super().__init__({"generator_ab": self.generator_ab}, {"discriminator_b": self.discriminator_b}, {}, config.ema)

    def step(self, batch: Any, update: Update) -> None:
        fakes = update.phase("generator", self.train_generator, batch)
        update.phase("discriminator", self.train_discriminator, batch, fakes)

    def train_generator(self, batch: Any, update: Update) -> list[Tensor]:
        """Fool the discriminator and stay near the truth (eq. 4); returns the fakes, one a micro-batch."""
        fakes = []
        for a, b in update.micro_batches(batch):
            with update.fake(self.generator_ab, a) as fake:
                logits = self.discriminator_b(torch.cat([a, fake], dim=1))
                update.backward("adversarial", self.weights.adversarial * self.objective.generator(logits))
                update.backward("l1", self.weights.l1 * l1_loss(fake, b))
            fakes.append(fake.detach())
        return fakes

    def train_discriminator(self, batch: Any, fakes: list[Tensor], update: Update) -> None:
        """Tell (a, b) from (a, fake) (eq. 1)."""
        for (a, b), fake in zip(update.micro_batches(batch), fakes, strict=True):
            real = self.discriminator_b(torch.cat([a, b], dim=1))
            judged = self.discriminator_b(torch.cat([a, fake], dim=1))
            update.backward("discriminator_b", self.objective.discriminator(real, judged))
