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
from torch import Tensor, nn

from translate.data import Batch, draws
from translate.data.hashing import stable_hash
from translate.errors import Mistake
from translate.losses import NonSaturating, Objective
from translate.networks import DCGANConfig, DCGANDiscriminatorConfig, LatentGeneratorConfig, WholeDiscriminatorConfig
from translate.networks.discriminators import Discriminator, Logits
from translate.networks.latent.latents import WholeConfig, beside
from translate.translators.config import BaseTranslatorConfig, DataPart, Direction
from translate.translators.stabilisers import Side
from translate.translators.translator import StepTools, Translator


class NoiseConfig(BaseTranslatorConfig):
    """Images from noise: a generator, and a discriminator of whole images."""

    kind: Literal["noise"] = "noise"
    generator: LatentGeneratorConfig = DCGANConfig()
    discriminator: WholeDiscriminatorConfig = DCGANDiscriminatorConfig()
    objective: Objective = NonSaturating()
    conditioned: bool = True  # both networks see the class or vector that the data give; false: for scores alone

    directions: ClassVar[tuple[Direction, ...]] = ("ab",)
    grows: ClassVar[bool] = True
    published_first: ClassVar[Side] = "discriminator"
    needs_pairs: ClassVar[bool] = False
    needs_sources: ClassVar[bool] = False

    def problems(self, data: DataPart) -> Iterator[Mistake]:
        yield from super().problems(data)

    def conditions_of(self, channels_a: int) -> int:
        """Return how many numbers of a condition both networks see, where the data give so many."""
        return channels_a if self.conditioned else 0

    def build(self, channels_a: int, channels_b: int, seed: int = 0) -> Noise:
        return Noise(self, channels_a, channels_b)

    def build_generator(self, direction: Direction, channels_a: int, channels_b: int) -> nn.Module:
        return self.generator.build(self.num_codes + self.conditions_of(channels_a), channels_b)

    @property
    def num_codes(self) -> int:
        """How many numbers the codes of an image have."""
        return 0

    def draw(self, numbers: Sequence[int], seed: int, truncation: float | None = None) -> tuple[Tensor, Tensor]:
        """Return the latents (N, latent) and codes (N, codes) of samples by their numbers; see the top of this file."""
        return self.drawn([stable_hash(seed, "sample", number) for number in numbers], truncation)

    def drawn(self, keys: Sequence[int], truncation: float | None = None) -> tuple[Tensor, Tensor]:
        """Return the same of samples by their keys."""
        latents = draws.normal(keys, "latent", torch.empty(len(keys), self.generator.latent))
        if self.generator.distribution == "uniform":
            latents = torch.erf(latents / math.sqrt(2)) * (1.0 if truncation is None else truncation)
        elif truncation is not None:
            # The quantile of N(0, 1) becomes that of N(0, 1) cut off at ±ψ, which is a function of ψ without a jump.
            inside = math.erf(truncation / math.sqrt(2))
            latents = math.sqrt(2) * torch.erfinv(torch.erf(latents.double() / math.sqrt(2)) * inside).float()
        return latents, torch.zeros(len(keys), 0)

    def joined(self, latents: Tensor, codes: Tensor, conditions: Tensor) -> Tensor:
        """Return what the generator is given, (N, D, 1, 1): on the device and in the number format of the conditions
        (N, channels_a, 1, 1)."""
        drawn = torch.cat([latents, codes], dim=1)[:, :, None, None].to(conditions)
        return torch.cat([drawn, conditions], dim=1) if self.conditioned else drawn

    def inputs(self, images: Tensor, keys: Sequence[int]) -> Tensor:
        return self.joined(*self.drawn(keys), images)


@dataclass(frozen=True)
class ConditionalDiscriminator(Discriminator):
    """A discriminator whose network takes what images are drawn under as an argument of its own."""

    def __call__(self, images: Tensor) -> Logits:
        return self.network(images, self.condition)

    def features(self, images: Tensor) -> list[Tensor]:
        return self.network.features(images, self.condition)  # type: ignore[operator]


class Noise(Translator):
    """One generator noise → B and one discriminator of B."""

    def __init__(self, config: NoiseConfig, channels_a: int, channels_b: int):
        conditions, judge = config.conditions_of(channels_a), config.discriminator
        self.conditioned, self.takes_conditions = config.conditioned, judge.takes_conditions
        self.generator_ab = config.build_generator("ab", channels_a, channels_b)
        self.discriminator_b = (cast(WholeConfig, judge).build(channels_b, conditions) if judge.takes_conditions else
                                judge.build(channels_b + conditions))
        super().__init__(config, {"generator_ab": self.generator_ab}, {"discriminator_b": self.discriminator_b}, {})

    def train_generators(self, batch: Batch, update: StepTools) -> list[Tensor]:
        """Draw images under the conditions of the batch, and fool the discriminator (eq. 1); return them."""
        fakes = []
        for a, b in update.micro_batches(batch):
            with update.fake(self.generator_ab, self.inputs(a, update.keys)) as fake:
                update.backward("adversarial", self.fool(update, self.conditional(a, b), fake, b))
            fakes.append(fake.detach())
        return fakes

    def train_discriminators(self, batch: Batch, fakes: list[Tensor] | None, update: StepTools) -> None:
        """Tell real images from drawn ones, each beside its condition (eq. 1)."""
        for number, (a, b) in enumerate(update.micro_batches(batch)):
            fake = fakes[number] if fakes else update.translated(self.generator_ab, self.inputs(a, update.keys))
            self.tell_apart(update, self.conditional(a, b), b, fake)

    def conditional(self, a: Tensor, b: Tensor) -> Discriminator:
        """Return the discriminator beside the conditions `a` (N, K, 1, 1) of images like `b`."""
        shown = a if self.conditioned else a[:, :0]
        if self.takes_conditions:
            return ConditionalDiscriminator("discriminator_b", self.discriminator_b, shown)
        return self.discriminator("b", beside(b[:, :0], shown) if shown.shape[1] else None)
