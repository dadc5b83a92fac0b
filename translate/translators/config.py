"""What the configs of all translators share: generators, discriminators and their game, and which choices exclude
each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal, Protocol

from pydantic import Field
from torch import Tensor, nn

from translate.errors import Mistake
from translate.losses import Objective, Penalty
from translate.networks import DiscriminatorConfig, GeneratorConfig, LatentGeneratorConfig, WholeDiscriminatorConfig
from translate.networks.growing import LevelStage, level_problems
from translate.schema import Config
from translate.translators.augmentation import DiffAugmentation
from translate.translators.stabilisers import InstanceNoise, Pace, Side

Direction = Literal["ab", "ba"]


class DataPart(Protocol):
    """What the data of a recipe say about the images of a translator."""

    @property
    def kind(self) -> str:
        """The layout's name in a recipe."""

    @property
    def paired(self) -> bool:
        """Whether each image of A has its truth in B."""

    @property
    def has_sources(self) -> bool:
        """Whether A are images that a translator starts from, and not what images are drawn under from noise."""

    @property
    def channels_a(self) -> int:
        """The channels of what stands for A: those of its images, or of one-hot labels."""

    @property
    def num_classes(self) -> int:
        """How many classes images are drawn under from noise, the first of A's channels; 0: none."""

    @property
    def channels_b(self) -> int:
        """The channels of B's images."""

    @property
    def protects(self) -> bool:
        """Whether regions of A's images are to stay as they are."""


class BaseTranslatorConfig(Config):
    """What every translator's recipe says about the game of its generators and discriminators."""

    directions: ClassVar[tuple[Direction, ...]]
    needs_pairs: ClassVar[bool]
    needs_sources: ClassVar[bool] = True  # whether it starts from images, and not from noise
    needs_equal_channels: ClassVar[str | None] = None  # why its images of A and B need as many; None: they need not
    grows: ClassVar[bool] = False  # whether its networks may gain outer levels
    published_first: ClassVar[Side] = "generator"  # whom the authors' code trains first in a step
    stays_consistent: ClassVar[bool] = False  # whether it has `semantic`, the loss that `adapt.semantic` switches on

    kind: str
    generator: GeneratorConfig | LatentGeneratorConfig
    discriminator: DiscriminatorConfig | WholeDiscriminatorConfig
    objective: Objective
    penalty: Penalty | None = None  # on the discriminators; null: none
    # Keeps the generators' filters apart (orthogonal regularisation, Brock et al. 2019: 1e-4); 0: leaves them alone
    orthogonal: float = Field(0.0, ge=0, le=1e9)
    augment: tuple[DiffAugmentation, ...] = ()  # of what the discriminators see; for little data
    noise: InstanceNoise | None = None  # on what the discriminators see; null: none
    pace: Pace = Pace()
    ema: float | None = Field(None, gt=0, lt=1)  # share of the average kept per image, e.g. 0.999; less at first

    @property
    def first(self) -> Side:
        """Who is trained first in a step."""
        return self.pace.first or self.published_first

    @property
    def least_samples(self) -> int:
        """How many samples a micro-batch must have: of one, batch norm of features without an area knows nothing,
        and neither does a discriminator that compares samples."""
        return self.discriminator.least_samples

    @property
    def least_side(self) -> int:
        """How many pixels the shorter side of an image must have for the losses that compare it with a truth."""
        return 1

    def build_generator(self, direction: Direction, channels_a: int, channels_b: int) -> nn.Module:
        """Return the generator of a direction, before its first stage, with fresh weights."""
        ends = (channels_a, channels_b) if direction == "ab" else (channels_b, channels_a)
        return self.generator.build(*ends)

    def inputs(self, images: Tensor, keys: Sequence[int]) -> Tensor:
        """Return what a generator is given for samples of these keys: their images (N, C, H, W), as they are."""
        return images

    def problems(self, data: DataPart) -> Iterator[Mistake]:
        """Name what of this translator does not go together, or not with the data of its recipe.

        A translator adds what it refuses itself.
        """
        # Data: pairs, channels.
        if self.needs_pairs and not data.paired:
            yield Mistake("translator.kind", f"{self.kind} needs pairs, and data.kind {data.kind} has none",
                          "use data.kind: paired, labels or computed, or translator.kind: cyclegan or cut")
        if self.needs_sources != data.has_sources:
            yield Mistake("translator.kind", f"{self.kind} starts from {'images' if self.needs_sources else 'noise'}, "
                          f"and data.kind {data.kind} has {'sources' if data.has_sources else 'no sources'}",
                          "data.kind: images goes with translator.kind: noise or stacked, all others with the "
                          "others")
        if self.needs_equal_channels is not None and data.channels_a != data.channels_b:
            yield Mistake("translator.kind", f"{self.kind} {self.needs_equal_channels}, which needs as many channels "
                          f"in A as in B, not {data.channels_a} and {data.channels_b}", "use cyclegan or pix2pix")

        if data.protects and data.channels_a != data.channels_b:
            yield Mistake("data.protect", f"pixels of A with {data.channels_a} channels cannot stand in images of B "
                          f"with {data.channels_b}", "leave it out")

        # Parts of the game that need each other, or exclude each other.
        if self.objective.reconstructs != self.discriminator.reconstructs:
            yield Mistake("translator.objective.kind", f"{self.objective.kind} cannot be played with a discriminator "
                          f"of kind {self.discriminator.kind}: began and autoencoder belong together")
        if self.penalty is not None and self.penalty.separate_samples and self.discriminator.norm == "batch":
            yield Mistake("translator.penalty.kind", f"{self.penalty.kind} is each sample's own, and batch norm mixes "
                          "samples (Gulrajani et al. 2017, section 4)",
                          "set translator.discriminator.norm to instance or none")

    def level_problems(self, stages: Sequence[LevelStage], begun: bool = False) -> Iterator[Mistake]:
        """Yield what is wrong with the levels of a recipe's stages; `begun`: with networks that are there."""
        if self.grows:
            yield from self.generator.level_problems(stages, begun=begun)
        else:
            yield from level_problems(stages, unable=f"translator.kind: {self.kind}")


def perceptual_problems(data: DataPart, domains: str) -> Iterator[Mistake]:
    """Name the domains, a letter each, whose images a pretrained network cannot see."""
    for domain in domains:
        channels = getattr(data, f"channels_{domain}")
        if channels not in (1, 3):
            yield Mistake("translator.perceptual", "its network knows images of 1 or 3 channels, not of "
                          f"{channels} (side {domain.upper()})", "set it to null")
