"""The networks of progressive growing (PGGAN, Karras et al. 2018, table 2): from 4 px, each level to twice the side.

A layer is convolution → LeakyReLU → pixel norm. In the pre-activation form of this house the norm stands before the
activation: as LeakyReLU(c·x) is c·LReLU(x) for c > 0, x divided by the length of LReLU(x) and then activated is the
very same. The discriminator averages 2×2 pixels behind a convolution and before its activation, as the authors' fused
layers do; and what fades in is mixed before the activation, as in all networks that grow here.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, TypeVar, cast

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from translate.networks.discriminators import MinibatchStd
from translate.networks.growing import FadingEntry, FadingExit, Growable
from translate.networks.latent.latents import (
    ChainDiscriminator,
    LatentConfig,
    LatentGenerator,
    WholeConfig,
)
from translate.networks.layers import Chain, Layer
from translate.precision import at_least_float32

SMALLEST, MOST_LEVELS = 4, 8  # px of level 0, and levels to 1024 px
SLOPE = 0.2  # of LeakyReLU
Conv = TypeVar("Conv", nn.Conv2d, nn.ConvTranspose2d)


class PGGANConfig(LatentConfig, Growable):
    """PGGAN's generator: 23.1 M parameters at 1024 px. Its levels are those of the recipe's stages, from 4 px on."""

    kind: Literal["pggan"] = "pggan"
    latent: int = Field(512, ge=1, le=65_536)
    width: int = Field(512, ge=1, le=4096)  # most channels of a level
    channels: int = Field(8192, ge=1, le=2**20)  # of a level, times half its side: 512 at 32 px, 16 at 1024 px

    grows: ClassVar[bool] = True

    def build(self, conditions: int, channels: int) -> PGGAN:
        return PGGAN(self.latent, conditions, channels, widths(self.width, self.channels))

    def grow(self, network: PGGAN) -> None:
        network.grow()

    def side_at(self, levels: int) -> int:
        return SMALLEST * 2**levels


class PGGANDiscriminatorConfig(WholeConfig, Growable):
    """PGGAN's discriminator: the generator's mirror image, with a channel that compares the samples of a batch."""

    kind: Literal["pggan"] = "pggan"
    width: int = Field(512, ge=1, le=4096)
    channels: int = Field(8192, ge=1, le=2**20)
    norm: Literal["none"] = "none"

    grows: ClassVar[bool] = True

    @property
    def least_samples(self) -> int:
        return 2

    def build(self, channels: int, conditions: int = 0) -> PGGANDiscriminator:
        return PGGANDiscriminator(channels + conditions, widths(self.width, self.channels))

    def grow(self, network: PGGANDiscriminator) -> None:
        network.grow()

    def side_at(self, levels: int) -> int:
        return SMALLEST * 2**levels


def widths(most: int, channels: int) -> list[int]:
    """Return the channels of every level: `channels` over half its side, at most `most`, at least one."""
    return [max(min(channels // (SMALLEST * 2**level // 2), most), 1) for level in range(MOST_LEVELS + 1)]


class PixelNorm(nn.Module):
    """Divides the features of each pixel by the root of their mean square behind LeakyReLU of `slope`.

    Karras et al. 2018, section 4.2; with a slope of 1, of the features as they are.
    """

    def __init__(self, slope: float):
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        activated = F.leaky_relu(at_least_float32(x), self.slope)
        return x * (activated.square().mean(1, keepdim=True) + 1e-8).rsqrt().to(x.dtype)


class Scaled(nn.Module):
    """Multiplies weights by a constant, whenever they are used."""

    def __init__(self, scale: float):
        super().__init__()
        self.scale = scale

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.scale


def equalised(conv: Conv, gain: float = math.sqrt(2)) -> Conv:
    """Give a convolution weights of N(0, 1) that are scaled by He's constant when it is used; return it.

    So Adam, whose steps do not depend on a gradient's scale, trains all layers at one speed (equalised learning rate,
    Karras et al. 2018, section 4.1). A transposed convolution is taken for the dense layer that it is of one pixel.
    """
    fan_in = conv.in_channels * (1 if conv.transposed else math.prod(conv.kernel_size))
    if not conv.weight.is_meta:
        nn.init.normal_(conv.weight)
        nn.init.zeros_(cast(Tensor, conv.bias))
    parametrize.register_parametrization(conv, "weight", Scaled(gain / math.sqrt(fan_in)))
    return conv


class PGGAN(LatentGenerator):
    """A dense layer to 4×4, and two convolutions for each level, the first of what the one before made twice as large.

    The last, a 1×1 convolution, gives an image without tanh; in eval mode it is clamped to [-1, 1].
    """

    levels = 0

    def __init__(self, latent: int, conditions: int, channels: int, widths: list[int]):
        super().__init__()
        self.latent, self.widths, first = latent, widths, widths[0]
        dense = nn.ConvTranspose2d(latent + conditions, first, SMALLEST)
        self.chain = Chain(Layer(equalised(dense, math.sqrt(2) / 4), norm=PixelNorm(1.0)), convolution(first, first),
                           image_layer(first, channels))
        self.exit: FadingExit | None = None  # the old and the new last layers, mixed; `chain` stops before them

    def forward(self, given: Tensor) -> Tensor:
        image = self.chain(given)
        image = image if self.exit is None else self.exit(image)
        return image if self.training else image.clamp(-1, 1)

    def grow(self) -> None:
        """Add a level in the place of the layer to an image, which fades out."""
        before, width = self.widths[self.levels:self.levels + 2]
        *layers, last = cast(list[Layer], list(self.chain))
        self.chain = Chain(*layers)
        self.exit = FadingExit(Chain(last), Chain(
            convolution(before, width, scale_factor=2), convolution(width, width),
            image_layer(width, last.conv.out_channels)))
        self.levels += 1

    def drop_faded(self) -> None:
        """Take out the layer to an image of half the size."""
        if self.exit is not None:
            self.chain, self.exit = Chain(*self.chain, *self.exit.new), None

    def newest(self) -> list[nn.Module]:
        """Return the two convolutions of the level that was added last and its layer to an image; none before."""
        if self.levels == 0:
            return []
        return list(self.chain if self.exit is None else self.exit.new)[-3:]


def convolution(before: int, after: int, scale_factor: int = 1) -> Layer:
    """Return pixel norm → LeakyReLU → enlarge → 3×3 convolution."""
    return Layer(equalised(nn.Conv2d(before, after, 3, 1, 1)), norm=PixelNorm(SLOPE), slope=SLOPE,
                 scale_factor=scale_factor)


def image_layer(width: int, channels: int) -> Layer:
    """Return pixel norm → LeakyReLU → 1×1 convolution to an image."""
    return Layer(equalised(nn.Conv2d(width, channels, 1), 1.0), norm=PixelNorm(SLOPE), slope=SLOPE)


class PGGANDiscriminator(ChainDiscriminator):
    """From an image by a 1×1 convolution to features; two convolutions for each level; at 4×4 a channel more that says
    how much the samples of the batch differ, a 3×3 and a 4×4 convolution, and a dense layer to a logit."""

    levels = 0

    def __init__(self, in_channels: int, widths: list[int]):
        super().__init__()
        self.widths, first = widths, widths[0]
        self.hidden_size = first
        self.chain = Chain(
            Layer(equalised(nn.Conv2d(in_channels, first, 1))),
            Layer(equalised(nn.Conv2d(first + 1, first, 3, 1, 1)), norm=MinibatchStd(), slope=SLOPE),
            Layer(equalised(nn.Conv2d(first, first, SMALLEST)), slope=SLOPE),
            Layer(equalised(nn.Conv2d(first, 1, 1), 1.0), slope=SLOPE))

    def grow(self) -> None:
        """Put a level in front, for images of twice the size, which fades in."""
        after, width = self.widths[self.levels:self.levels + 2]
        first = cast(Layer, self.chain[0])
        self.chain[0] = FadingEntry(first, [
            Layer(equalised(nn.Conv2d(first.conv.in_channels, width, 1))),
            Layer(equalised(nn.Conv2d(width, width, 3, 1, 1)), slope=SLOPE),
            Layer(equalised(nn.Conv2d(width, after, 3, 1, 1)), slope=SLOPE, last=nn.AvgPool2d(2))])
        self.levels += 1

    def drop_faded(self) -> None:
        """Take out the first layer of an image of half the size."""
        entry = self.chain[0]
        if isinstance(entry, FadingEntry):
            self.chain = Chain(*entry.new, *list(self.chain)[1:])

    def newest(self) -> list[nn.Module]:
        """Return the three layers that were added last; none before."""
        if self.levels == 0:
            return []
        entry = self.chain[0]
        return list(entry.new) if isinstance(entry, FadingEntry) else list(self.chain)[:3]
