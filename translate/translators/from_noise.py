"""What translators that draw images from noise share: who is given what.

**Why they are translators of direction `ab`.** A is what an image is drawn under: its class, a vector, or nothing; B
are the images. `generator_ab` maps a latent, joined with that condition, to an image of B, and `discriminator_b` judges
images of B. So phases, optimizers, averages, checkpoints, releases, the guard and the scores against real images of B
are those of every other translator. What differs, it says itself: it `needs_sources` no images, and its generator is
given what `inputs` makes of a sample.

**How to draw** (`translate sample`, evaluation, pictures). Of a run, `load_generator` reads the generator, and its
recipe's `translator` is a `FromNoiseConfig` that says what goes in:

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
from typing import ClassVar, cast

import torch
from torch import Tensor

from translate.data import draws
from translate.data.hashing import stable_hash
from translate.errors import Mistake
from translate.networks import LatentGeneratorConfig, WholeDiscriminatorConfig
from translate.networks.discriminators import Discriminator, Logits
from translate.networks.latent.latents import WholeConfig, WholeDiscriminator
from translate.precision import sent
from translate.translators.config import BaseTranslatorConfig, DataPart, Direction
from translate.translators.stabilisers import Side


class FromNoiseConfig(BaseTranslatorConfig):
    """What the recipe of a translator from noise says, and how its samples are drawn."""

    generator: LatentGeneratorConfig
    discriminator: WholeDiscriminatorConfig

    directions: ClassVar[tuple[Direction, ...]] = ("ab",)
    published_first: ClassVar[Side] = "discriminator"
    needs_pairs: ClassVar[bool] = False
    needs_sources: ClassVar[bool] = False

    def problems(self, data: DataPart) -> Iterator[Mistake]:
        yield from super().problems(data)
        judge = self.discriminator
        if judge.judges_whole and (side := cast(WholeConfig, judge).side_at(0)) != self.generator.side_at(0):
            yield Mistake("translator.discriminator.side", f"judges {side} px, and the generator draws "
                          f"{self.generator.side_at(0)}", "they need one size")

    @property
    def sees_conditions(self) -> bool:
        """Whether images are drawn under what the data give."""
        return True

    @property
    def num_latents(self) -> int:
        """How many numbers a sample's latent is."""
        return self.generator.num_drawn

    @property
    def num_codes(self) -> int:
        """How many numbers the codes of an image are."""
        return 0

    @property
    def num_values(self) -> int:
        """How many values the first categorical code has, whose one-hot form codes begin with; 0: there is none."""
        return 0

    def draw(self, numbers: Sequence[int], seed: int, truncation: float | None = None) -> tuple[Tensor, Tensor]:
        """Return the latents (N, latent) and codes (N, codes) of samples by their numbers; see the top of this file."""
        return self.drawn([stable_hash(seed, "sample", number) for number in numbers], truncation)

    def drawn(self, keys: Sequence[int], truncation: float | None = None) -> tuple[Tensor, Tensor]:
        """Return the same of samples by their keys."""
        latents = draws.normal(keys, "latent", torch.empty(len(keys), self.num_latents))
        if self.generator.distribution == "uniform":
            latents = torch.erf(latents / math.sqrt(2)) * (1.0 if truncation is None else truncation)
        elif truncation is not None:
            # The quantile of N(0, 1) becomes that of N(0, 1) cut off at ±ψ, which is a function of ψ without a jump.
            inside = math.erf(truncation / math.sqrt(2))
            latents = math.sqrt(2) * torch.erfinv(torch.erf(latents.double() / math.sqrt(2)) * inside).float()
        return latents, self.codes_of(keys)

    def codes_of(self, keys: Sequence[int]) -> Tensor:
        """Return the codes (N, codes) of samples by their keys."""
        return torch.zeros(len(keys), 0)

    def joined(self, latents: Tensor, codes: Tensor, conditions: Tensor) -> Tensor:
        """Return what the generator is given, (N, D, 1, 1): on the device and in the number format of the conditions
        (N, channels_a, 1, 1)."""
        drawn = sent(torch.cat([latents, codes], dim=1), conditions.device)[:, :, None, None].to(conditions.dtype)
        return torch.cat([drawn, conditions], dim=1) if self.sees_conditions else drawn

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
