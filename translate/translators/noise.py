"""From noise: a generator that draws images, and a discriminator of them as a whole (Goodfellow et al. 2014).

**Why it is a translator of direction `ab`.** A is what an image is drawn under: its class, a vector, or nothing; B are
the images. `generator_ab` maps a latent, joined with that condition, to an image of B, and `discriminator_b` judges
images of B beside it. So phases, optimizers, averages, checkpoints, releases, the guard and the scores against real
images of B are those of every other translator. What differs, it says itself: it `needs_sources` no images, and its
generator is given what `inputs` makes of a sample.

**How to draw** (`translate sample`, evaluation, pictures). Of a run, `load_generator` reads the generator, and its
recipe's `translator` is a `NoiseConfig` that says what goes in:

    latents, codes = config.draw(numbers, seed, truncation)     (N, latent) and (N, codes), float32 on the CPU: of each
                                                                sample a function of the seed and its number alone, in
                                                                any batch, process and order
    given = config.joined(latents, codes, conditions)           conditions (N, channels_a, 1, 1) as the data give them
                                                                (`translate.data.conditioned`); (N, 0, 1, 1): none
    images = generator(given)                                   (N, C, side, side) in [-1, 1], in eval mode

`truncation` is BigGAN's ψ (Brock et al. 2019, section 3.1): normal latents come from N(0, 1) cut off at ±ψ, uniform
ones from between −ψ and ψ; less gives truer and more alike images. `config.generator.distribution` says which they are:
interpolate normal ones along the sphere and uniform ones along a line. A training draws `inputs` of a sample's key.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from translate.data import Batch, draws
from translate.data.hashing import stable_hash
from translate.errors import Mistake
from translate.losses import NonSaturating, Objective, style_ambiguity
from translate.networks import DCGANConfig, DCGANDiscriminatorConfig, LatentGeneratorConfig, WholeDiscriminatorConfig
from translate.networks.discriminators import Discriminator, Logits
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
from translate.translators.config import BaseTranslatorConfig, DataPart, Direction
from translate.translators.stabilisers import Side
from translate.translators.translator import StepTools, Translator


class NoiseConfig(BaseTranslatorConfig):
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

    directions: ClassVar[tuple[Direction, ...]] = ("ab",)
    grows: ClassVar[bool] = True
    published_first: ClassVar[Side] = "discriminator"
    needs_pairs: ClassVar[bool] = False
    needs_sources: ClassVar[bool] = False

    def problems(self, data: DataPart) -> Iterator[Mistake]:
        yield from super().problems(data)
        generator, judge = self.generator, self.discriminator
        if judge.judges_whole and (side := cast(WholeConfig, judge).side_at(0)) != generator.side_at(0):
            yield Mistake("translator.discriminator.side", f"judges {side} px, and the generator draws "
                          f"{generator.side_at(0)}", "they need one size")
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
    def num_codes(self) -> int:
        """How many numbers the codes of an image are."""
        return 0 if self.codes is None else self.codes.num

    def draw(self, numbers: Sequence[int], seed: int, truncation: float | None = None) -> tuple[Tensor, Tensor]:
        """Return the latents (N, latent) and codes (N, codes) of samples by their numbers; see the top of this file."""
        return self.drawn([stable_hash(seed, "sample", number) for number in numbers], truncation)

    def drawn(self, keys: Sequence[int], truncation: float | None = None) -> tuple[Tensor, Tensor]:
        """Return the same of samples by their keys."""
        latents = draws.normal(keys, "latent", torch.empty(len(keys), self.generator.num_drawn))
        if self.generator.distribution == "uniform":
            latents = torch.erf(latents / math.sqrt(2)) * (1.0 if truncation is None else truncation)
        elif truncation is not None:
            # The quantile of N(0, 1) becomes that of N(0, 1) cut off at ±ψ, which is a function of ψ without a jump.
            inside = math.erf(truncation / math.sqrt(2))
            latents = math.sqrt(2) * torch.erfinv(torch.erf(latents.double() / math.sqrt(2)) * inside).float()
        return latents, torch.zeros(len(keys), 0) if self.codes is None else self.codes.drawn(keys)

    def joined(self, latents: Tensor, codes: Tensor, conditions: Tensor) -> Tensor:
        """Return what the generator is given, (N, D, 1, 1): on the device and in the number format of the conditions
        (N, channels_a, 1, 1)."""
        drawn = sent(torch.cat([latents, codes], dim=1), conditions.device)[:, :, None, None].to(conditions.dtype)
        return torch.cat([drawn, conditions], dim=1) if self.conditioned else drawn

    def inputs(self, images: Tensor, keys: Sequence[int]) -> Tensor:
        return self.joined(*self.drawn(keys), images)


@dataclass(frozen=True)
class ConditionalDiscriminator(Discriminator):
    """A discriminator whose network takes what images are drawn under as an argument of its own."""

    def __call__(self, images: Tensor) -> Logits:
        return self.network(images, self.condition)

    def hidden(self, images: Tensor) -> Tensor:
        """Return the features (N, F) that heads read."""
        assert self.condition is not None
        return cast(WholeDiscriminator, self.network).hidden(images, self.condition)


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
