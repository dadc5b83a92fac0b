"""The ResNet generator of CycleGAN (Zhu et al. 2017, after Johnson et al. 2016): c7s1-k, d2k, d4k, R4k × n, u2k, uk."""

from __future__ import annotations

from typing import ClassVar, Literal, cast

from pydantic import Field
from torch import Tensor, nn

from translate.networks.growing import FadingEntry, FadingExit, outer_width
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

    fades: ClassVar[bool] = True

    def build(self, in_channels: int, out_channels: int) -> ResNet:
        network = ResNet(in_channels, out_channels, self.width, self.blocks, self.norm, self.upsample)
        initialise(network)
        return network

    def grow(self, network: ResNet) -> None:
        """Add one more downsampling and upsampling around `network`, fading in until it is settled."""
        network.grow(self.norm, self.upsample)
        for part in network.newest():
            initialise(part)


class ResNet(Generator):
    """Two downsamplings, `blocks` residual blocks at quarter resolution, two upsamplings.

    `head` and `tail` work at full resolution and hold most of the memory and little of the compute; the trunk between
    them holds most of the compute. Memory plans address them separately. Each outer level that it gains
    (`translate.networks.growing`) makes both ends one layer longer, and the trunk's resolution half as large.
    """

    levels = 0


    def __init__(self, in_channels: int, out_channels: int, width: int = 64, blocks: int = 9,
                 norm: Norm = "instance", upsample: Upsample = "transposed"):
        super().__init__()
        self.multiple, self.smallest = 4, 8
        self.exit: FadingExit | None = None  # while a level fades in: what `tail` then ends before
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
        y = self.tail(self.trunk(self._into_trunk(self.head(image))))
        return y if self.exit is None else self.exit(y)

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

    def grow(self, norm: Norm, upsample: Upsample) -> None:
        """Put a level around the ends, which fade out."""
        bias = norm != "batch"
        first, last = cast(Layer, self.head[0]), cast(Layer, self.tail[-1])
        down, up = first.conv.out_channels, last.conv.in_channels
        width = outer_width(down)
        self.head = Chain(
            FadingEntry(first, [
                Layer(nn.Conv2d(first.conv.in_channels, width, 7, bias=bias), reflect=3),
                Layer(nn.Conv2d(width, down, 3, 2, 1, bias=bias), norm=make_norm(norm, width), slope=0.0)]),
            *list(self.head)[1:], role="head")
        self.exit = FadingExit(Chain(last, role="tail"), Chain(
            enlarging(up, width, upsample, bias, norm=make_norm(norm, up), slope=0.0),
            Layer(nn.Conv2d(width, last.conv.out_channels, 7), norm=make_norm(norm, width), slope=0.0, reflect=3,
                  last=nn.Tanh()),
            role="tail"))
        self.tail = Chain(*list(self.tail)[:-1], role="tail")
        self.levels, self.multiple, self.smallest = self.levels + 1, 2 * self.multiple, 2 * self.smallest

    def settle(self) -> None:
        """Let go of the ends that a level has replaced."""
        if self.exit is not None:
            self.head = Chain(*cast(FadingEntry, self.head[0]).new, *list(self.head)[1:], role="head")
            self.tail = Chain(*self.tail, *self.exit.new, role="tail")
            self.exit = None

    def newest(self) -> list[nn.Module]:
        """The two layers down and the two layers up of the outermost level that was added; none before."""
        if self.levels == 0:
            return []
        first, last = (self.head, self.tail) if self.exit is None else (cast(FadingEntry, self.head[0]).new,
                                                                        self.exit.new)
        return [*list(first)[:2], *list(last)[-2:]]


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
