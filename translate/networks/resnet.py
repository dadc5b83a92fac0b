"""The ResNet generator of CycleGAN (Zhu et al. 2017, after Johnson et al. 2016): c7s1-k, d2k, d4k, R4k × n, u2k, uk."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from translate.networks.layers import (
    Block,
    Chain,
    Generator,
    Layer,
    Look,
    Norm,
    Upsample,
    initialise,
    make_norm,
    pad_to_fit,
)
from translate.schema import Config


class ResNetConfig(Config):
    """A ResNet generator: width 64, 9 blocks and instance norm are the published one (11.378 M parameters)."""

    kind: Literal["resnet"] = "resnet"
    width: int = Field(64, ge=1)  # channels at full resolution; doubled at each of the two downsamplings
    blocks: int = Field(9, ge=0)  # 9 for 256 px and more, 6 below
    norm: Norm = "instance"
    upsample: Upsample = "transposed"  # resize: slower, and free of checkerboards

    def build(self, in_channels: int, out_channels: int) -> ResNet:
        network = ResNet(in_channels, out_channels, self.width, self.blocks, self.norm, self.upsample)
        initialise(network)
        return network


class ResNet(Generator):
    """Two downsamplings, `blocks` residual blocks at quarter resolution, two upsamplings.

    `head` and `tail` work at full resolution and hold most of the memory and little of the compute; the trunk between
    them holds most of the compute. Memory plans address them separately.
    """

    multiple = 4
    smallest = 8

    def __init__(self, in_channels: int, out_channels: int, width: int = 64, blocks: int = 9,
                 norm: Norm = "instance", upsample: Upsample = "transposed"):
        super().__init__()
        bias = norm != "batch"  # BatchNorm has a shift of its own
        self.head = Chain(
            Layer(nn.Conv2d(in_channels, width, 7, bias=bias), reflect=3),
            Layer(nn.Conv2d(width, 2 * width, 3, 2, 1, bias=bias), norm=make_norm(norm, width), slope=0.0),
            Layer(nn.Conv2d(2 * width, 4 * width, 3, 2, 1, bias=bias), norm=make_norm(norm, 2 * width), slope=0.0),
            role="head")
        self.norm = make_norm(norm, 4 * width)
        self.shown = sorted({0, min(4, blocks - 1)}) if blocks else []  # the first block and the fifth, or the last
        self.feature_channels = (in_channels, 2 * width, 4 * width, *[4 * width] * len(self.shown))
        self.trunk = nn.Sequential(*(residual(4 * width, norm, bias) for _ in range(blocks)))
        self.tail = Chain(
            enlarging(4 * width, 2 * width, upsample, bias),
            enlarging(2 * width, width, upsample, bias, norm=make_norm(norm, 2 * width), slope=0.0),
            Layer(nn.Conv2d(width, out_channels, 7), norm=make_norm(norm, width), slope=0.0, reflect=3,
                  last=nn.Tanh()),
            role="tail")

    def translate(self, image: Tensor) -> Tensor:
        return self.tail(self.trunk(self._into_trunk(self.head(image))))

    def features(self, image: Tensor, look: Look) -> list[Tensor]:
        """The image, both downsampling convolutions, and the first and the fifth residual block (Park et al. 2020).

        They see 1, 9, 13, 29 and 93 pixels; the paper's 1, 9, 15, 35 and 99 are with a blur before each downsampling.
        """
        image = pad_to_fit(image, self.multiple, self.smallest)
        pixels = look(0, image)
        y, *taken = self.head.looked_at(image, look)
        y, taken = self._into_trunk(y), [pixels, *taken]
        for number in range(self.shown[-1] + 1 if self.shown else 0):
            y = self.trunk[number](y)
            if number in self.shown:
                taken.append(look(len(taken), y))
        return taken

    def _into_trunk(self, y: Tensor) -> Tensor:
        y = y if self.norm is None else self.norm(y)
        return nn.functional.relu(y, inplace=self.norm is not None)


def residual(channels: int, norm: Norm, bias: bool) -> Block:
    """x + norm(conv(pad(relu(norm(conv(pad(x))))))), mirrored at the borders."""
    return Block(Chain(
        Layer(nn.Conv2d(channels, channels, 3, bias=bias), reflect=1),
        Layer(nn.Conv2d(channels, channels, 3, bias=bias), norm=make_norm(norm, channels), slope=0.0, reflect=1)),
        make_norm(norm, channels))


def enlarging(in_channels: int, out_channels: int, upsample: Upsample, bias: bool, *, norm: nn.Module | None = None,
              slope: float | None = None) -> Layer:
    """A layer that doubles both sides: a transposed convolution, or nearest-neighbour resize and a convolution."""
    if upsample == "transposed":
        conv = nn.ConvTranspose2d(in_channels, out_channels, 3, 2, 1, output_padding=1, bias=bias)
        return Layer(conv, norm=norm, slope=slope)
    return Layer(nn.Conv2d(in_channels, out_channels, 3, 1, 1, bias=bias), norm=norm, slope=slope, enlarge=2)
