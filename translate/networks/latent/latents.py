"""What generators from noise, and the discriminators of whole images, are: sizes, inputs, what they know of stages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from translate.errors import Mistake
from translate.networks.growing import LevelStage, level_problems
from translate.networks.layers import Chain, Layer
from translate.schema import Config

Distribution = Literal["normal", "uniform"]


class LatentConfig(Config, ABC):
    """The config of a generator from noise."""

    latent: int = Field(100, ge=1, le=65_536)  # numbers of a latent z
    distribution: Distribution = "normal"  # of each of them: N(0, 1), or evenly between −1 and 1

    grows: ClassVar[bool] = False
    needs_conditions: ClassVar[bool] = False  # whether it draws images under a class or a vector alone
    fades: ClassVar[bool] = True  # whether its levels, where it has some, can be faded in

    kind: str

    @abstractmethod
    def build(self, conditions: int, channels: int) -> LatentGenerator:
        """Return a generator that maps (N, latent + conditions, 1, 1) to images (N, channels, side, side)."""

    @property
    def num_drawn(self) -> int:
        """How many numbers a sample draws: those of its latent, and others where a network draws more."""
        return self.latent

    @property
    def joins_classes(self) -> bool:
        """Whether its first layer is a dense one of latents and conditions alike: see `amplify_classes`."""
        return False

    @property
    def has_batch_norm(self) -> bool:
        """Whether it has norms that count statistics, which a stage may hold."""
        return False

    @property
    def least_samples(self) -> int:
        """How many samples a micro-batch must have, as batch norm of a vector needs two."""
        return 1

    @abstractmethod
    def side_at(self, levels: int) -> int:
        """Return the side, in px, of the images that it draws with so many levels gained."""

    def level_problems(self, stages: Sequence[LevelStage], begun: bool = False) -> Iterator[Mistake]:
        """Yield what is wrong with the levels and the resolutions of a recipe's stages."""
        name = f"generator.kind: {self.kind}"
        yield from level_problems(stages, unable=None if self.grows else name,
                                  unfading=None if self.fades else name, begun=begun)
        for number, stage in enumerate(stages):
            here, side = f"stages.{number}", self.side_at(stage.levels)
            if (self.grows or not stage.levels) and stage.size != (side, side):
                yield Mistake(f"{here}.resolution", f"{stage.size[0]}×{stage.size[1]} px, and the generator draws "
                              f"{side}×{side}", f"use {side}, or " + (
                                  "other levels" if self.grows else "another translator.generator.side"))
            if stage.freeze == "trunk":
                yield Mistake(f"{here}.freeze", "a generator from noise has no trunk between two ends", "leave it out")


class LatentGenerator(nn.Module):
    """Maps what an image is drawn from and under, (N, D, 1, 1), to an image (N, C, H, W) in [-1, 1].

    `latent`: so many of the D numbers are drawn; what it is drawn under stands behind them.
    """

    latent: int

    def divergence(self, given: Tensor) -> Tensor | None:
        """Return how far what the network draws of its conditions is from N(0, 1), a scalar; None where it draws none.
        """
        return None

    def trunk_parts(self) -> list[nn.Module]:
        """Return nothing: there are no two ends at full resolution, with a trunk between them."""
        return []


class WholeConfig(Config, ABC):
    """The config of a discriminator that judges whole images, one logit each, beside what they are drawn under."""

    judges_whole: ClassVar[bool] = True
    grows: ClassVar[bool] = False
    reconstructs: ClassVar[bool] = False

    kind: str

    @property
    def least_samples(self) -> int:
        """How many samples a micro-batch must have: of one, what compares samples tells nothing."""
        return 1

    @property
    def joins_classes(self) -> bool:
        """Whether its first layer is a dense one of pixels and conditions alike: see `amplify_classes`."""
        return False

    @abstractmethod
    def build(self, channels: int, conditions: int = 0) -> WholeDiscriminator:
        """Return a discriminator of images (N, channels, side, side) beside conditions (N, conditions, 1, 1)."""

    def side_at(self, levels: int) -> int:
        """Return the side, in px, of the images that it judges with so many levels gained."""
        return cast(int, self.side)  # type: ignore[attr-defined]

    def smallest_side(self, levels: int = 0) -> int:
        """Return the smallest side, in px, that it can judge with so many levels gained: its only one."""
        return self.side_at(levels)


class WholeDiscriminator(nn.Module, ABC):
    """Maps images (N, C, side, side), and their conditions (N, K, 1, 1), to logits (N, 1, 1, 1).

    Its hidden features are `hidden_size` numbers an image: heads that recognise codes or styles read them as well.
    """

    hidden_size: int

    @abstractmethod
    def hidden(self, image: Tensor, condition: Tensor) -> Tensor:
        """Return the features (N, hidden_size) that the logit is made of, activated."""


class ChainDiscriminator(WholeDiscriminator):
    """A chain of layers, the last of which gives the logit of what it activates."""

    chain: Chain

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        return self.chain(self.entered(image, condition))

    def hidden(self, image: Tensor, condition: Tensor) -> Tensor:
        before = self.chain(self.entered(image, condition), num_layers=len(self.chain) - 1)
        return cast(Layer, self.chain[-1]).activated(before).flatten(1)

    def entered(self, image: Tensor, condition: Tensor) -> Tensor:
        """Return what enters the chain: the image, and behind it the condition as planes of one value each."""
        return beside(image, condition)


@torch.no_grad()
def amplify_classes(chain: Chain, num_classes: int, conditions: int) -> None:
    """Enlarge, in place, a class's weights in a chain's first layer, a dense one.

    The last `conditions` of its inputs are what images are drawn under, and the first `num_classes` of those a one-hot
    class. It is of length one, and is joined to a hundred latents or 784 pixels of about one each. With weights like
    theirs it is a tenth or a 28th as loud, and a network needs its first thousands of steps to hear it. So it is made
    as loud as all that it is joined to. (Published networks embed a class by numbers of N(0, 1), or by a layer as wide
    as the image's: Mirza and Osindero 2014.) Vectors may be of any length, and are left alone. Not for a layer under a
    spectral norm, which would make all other weights as much smaller.
    """
    conv = cast(Layer, chain[0]).conv
    inputs = conv.weight if conv.transposed else conv.weight.transpose(0, 1)
    joined = len(inputs) - conditions
    inputs[joined:joined + num_classes] *= joined ** 0.5


def beside(image: Tensor, condition: Tensor) -> Tensor:
    """Return an image (N, C, H, W) with a condition (N, K, 1, 1) behind it as K planes of one value each."""
    if not condition.shape[1]:
        return image
    return torch.cat([image, condition.to(image.dtype).expand(-1, -1, *image.shape[2:])], dim=1)
