"""From noise: a generator that draws images, and a discriminator of them as a whole (Goodfellow et al. 2014).

What it is given, and how one draws with it: `translate.translators.from_noise`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal, cast

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from translate.data import Batch
from translate.errors import Mistake
from translate.losses import NonSaturating, Objective, style_ambiguity
from translate.networks import DCGANConfig, DCGANDiscriminatorConfig, LatentGeneratorConfig, WholeDiscriminatorConfig
from translate.networks.discriminators import Discriminator
from translate.networks.latent.latents import (
    LatentConfig,
    LatentGenerator,
    WholeConfig,
    WholeDiscriminator,
    amplify_classes,
    beside,
)
from translate.networks.latent.recognition_heads import RecognitionHead
from translate.networks.layers import Chain
from translate.precision import at_least_float32, sent
from translate.translators.codes import Codes, Styles
from translate.translators.config import DataPart, Direction
from translate.translators.from_noise import ConditionalDiscriminator, FromNoiseConfig
from translate.translators.translator import StepTools, Translator


class NoiseConfig(FromNoiseConfig):
    """Images from noise: a generator, and a discriminator of whole images."""

    kind: Literal["noise"] = "noise"
    generator: LatentGeneratorConfig = DCGANConfig()
    discriminator: WholeDiscriminatorConfig = DCGANDiscriminatorConfig()
    objective: Objective = NonSaturating()
    divergence: float = Field(1.0, ge=0, le=1e9)  # λ of what StackGAN draws of a condition, from N(0, 1)
    # weight of D's loss of real images beside a condition that is not theirs, a third kind of sample (StackGAN: 1)
    mismatched: float = Field(0.0, ge=0, le=1e9)
    conditioned: bool = True  # both networks see the class or vector that the data give; false: neither does
    codes: Codes | None = None  # what an image must tell of besides (InfoGAN); null: nothing
    styles: Styles | None = None  # the data's classes are styles that images are to be of none of (CAN)

    grows: ClassVar[bool] = True

    def problems(self, data: DataPart) -> Iterator[Mistake]:
        yield from super().problems(data)
        generator, judge = self.generator, self.discriminator
        if generator.grows and not judge.grows:
            yield Mistake("translator.discriminator.kind", f"{judge.kind} cannot grow, and the generator does",
                          f"use {generator.kind}")
        if judge.reconstructs and self.conditions_of(data.channels_a):
            yield Mistake("translator.discriminator.kind", f"{judge.kind} rebuilds images, and would have to rebuild "
                          "the class or vector beside them", "set conditioned: false")
        for name in ("codes", "styles"):
            if getattr(self, name) is not None and not judge.judges_whole:
                yield Mistake(f"translator.{name}", f"are read off hidden features, and a discriminator of kind "
                              f"{judge.kind} judges patches", "use one that judges whole images")
        if self.mismatched and not self.conditions_of(data.channels_a):
            yield Mistake("translator.mismatched", "is of conditions, and the networks see none",
                          "set data.classes or data.vectors, or mismatched: 0")
        if generator.needs_conditions and not self.conditions_of(data.channels_a):
            yield Mistake("translator.generator.kind", f"{generator.kind} draws images under a class or a vector",
                          "set data.vectors or data.classes")
        if self.styles is not None and (self.conditioned or data.num_classes < 2):
            yield Mistake("translator.styles", "are the classes of the data, which neither network may be told",
                          "set data.classes, and conditioned: false")
        if self.styles is not None and data.channels_a > data.num_classes:
            yield Mistake("translator.styles", "are the classes of the data, and data.vectors are no classes",
                          "leave data.vectors out: neither network would see them")

    @property
    def least_samples(self) -> int:
        heads = self.codes is not None or self.styles is not None  # which have a batch norm
        return max(self.generator.least_samples, super().least_samples, 2 if heads else 1)

    def conditions_of(self, channels_a: int) -> int:
        """Return how many numbers of a condition both networks see, where the data give so many."""
        return channels_a if self.conditioned else 0

    def build(self, channels_a: int, channels_b: int, seed: int = 0, num_classes: int = 0) -> Noise:
        """Return networks with fresh weights; the first `num_classes` of A's channels are a one-hot class."""
        return Noise(self, channels_a, channels_b, num_classes)

    def build_generator(self, direction: Direction, channels_a: int, channels_b: int) -> LatentGenerator:
        return self.generator.build(self.num_codes + self.conditions_of(channels_a), channels_b)

    @property
    def sees_conditions(self) -> bool:
        return self.conditioned

    @property
    def num_codes(self) -> int:
        return 0 if self.codes is None else self.codes.num

    @property
    def num_values(self) -> int:
        return self.codes.categorical[0] if self.codes is not None and self.codes.categorical else 0

    def codes_of(self, keys: Sequence[int]) -> Tensor:
        return super().codes_of(keys) if self.codes is None else self.codes.drawn(keys)


class Noise(Translator):
    """One generator noise → B, one discriminator of B, and heads on it.

    The head that finds codes (Q) is trained with the generator and, through the features that it shares, by the
    discriminator as well, as in InfoGAN's code; the head that finds styles is trained with the discriminator.
    """

    def __init__(self, config: NoiseConfig, channels_a: int, channels_b: int, num_classes: int = 0):
        conditions, judge = config.conditions_of(channels_a), config.discriminator
        self.conditioned, self.judges_whole = config.conditioned, judge.judges_whole
        self.generator_ab = config.build_generator("ab", channels_a, channels_b)
        self.discriminator_b = (cast(WholeConfig, judge).build(channels_b, conditions) if judge.judges_whole else
                                judge.build(channels_b + conditions))
        if num_classes and conditions:
            for part, network in ((config.generator, self.generator_ab), (judge, self.discriminator_b)):
                if isinstance(part, LatentConfig | WholeConfig) and part.joins_classes:
                    amplify_classes(cast(Chain, network.chain), num_classes, conditions)
        self.codes, self.styles, self.mismatched = config.codes, config.styles, config.mismatched
        self.divergence = config.divergence
        heads = {name: RecognitionHead(cast(WholeDiscriminator, self.discriminator_b).hidden_size, num)
                 for name, part, num in (("codes", self.codes, config.num_codes), ("styles", self.styles, channels_a))
                 if part is not None}
        self.heads = heads
        super().__init__(config, {"generator_ab": self.generator_ab}, {"discriminator_b": self.discriminator_b} | {
            name: head for name, head in heads.items() if name == "styles"}, {},
            beside={name: head for name, head in heads.items() if name == "codes"})

    def train_generators(self, batch: Batch, update: StepTools) -> list[Tensor]:
        """Draw images under the conditions of the batch, and fool the discriminator (eq. 1); return them."""
        fakes = []
        for a, b in update.micro_batches(batch):
            given = self.inputs(a, update.keys)
            divergence = self.generator_ab.divergence(given)
            if divergence is not None:
                update.backward("divergence", self.divergence * divergence)
            with update.fake(self.generator_ab, given, shared=True) as fake:
                judge = self.conditional(a, b)
                update.backward("adversarial", self.fool(update, judge, fake, b))
                if self.codes is not None:
                    told, codes = self.recognised("codes", update, judge, fake), self.codes.drawn(update.keys)
                    update.backward("information", self.codes.loss(told, sent(codes, fake.device).to(fake.dtype)))
                if self.styles is not None:
                    style = style_ambiguity(self.recognised("styles", update, judge, fake))
                    update.backward("ambiguity", self.styles.weight * style)
            fakes.append(fake.detach())
        return fakes

    def train_discriminators(self, batch: Batch, fakes: list[Tensor] | None, update: StepTools) -> None:
        """Tell real images from drawn ones, each beside its condition (eq. 1)."""
        for number, (a, b) in enumerate(update.micro_batches(batch)):
            fake = fakes[number] if fakes else update.translated(
                self.generator_ab, self.inputs(a, update.keys), shared=True)
            judge = self.conditional(a, b)
            self.tell_apart(update, judge, b, fake)
            if self.mismatched and update.other is not None:
                real = self.seen(update, f"real {judge.name}", b)
                beside_other = self.conditional(update.other, b)(real)
                update.backward("mismatched", self.mismatched * self.objective.total_discriminator_loss(
                    judge, judge(real), beside_other, update.uniform))
            if self.codes is not None:
                told, codes = self.recognised("codes", update, judge, fake), self.codes.drawn(update.keys)
                update.backward("information_b", self.codes.loss(told, sent(codes, fake.device).to(fake.dtype)))
            if self.styles is not None:
                update.backward("styles", F.cross_entropy(
                    at_least_float32(self.recognised("styles", update, judge, b)), a.flatten(1)))

    def recognised(self, head: str, update: StepTools, judge: Discriminator, images: Tensor) -> Tensor:
        """Return what a head says of images (N, C, H, W), as the discriminator sees them: (N, num)."""
        hidden = cast(ConditionalDiscriminator, judge).hidden(self.seen(update, f"{head} {judge.name}", images))
        return self.heads[head](hidden)

    def conditional(self, a: Tensor, b: Tensor) -> Discriminator:
        """Return the discriminator beside the conditions `a` (N, K, 1, 1) of images like `b`."""
        shown = a if self.conditioned else a[:, :0]
        if self.judges_whole:
            return ConditionalDiscriminator("discriminator_b", self.discriminator_b, shown)
        return self.discriminator("b", beside(b[:, :0], shown) if shown.shape[1] else None)
