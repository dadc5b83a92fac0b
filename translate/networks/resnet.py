"""The ResNet generator of CycleGAN (Zhu et al. 2017, appendix 7.2, after Johnson et al. 2016).

In the paper's notation c7s1-k, d2k, d4k, R4k × n, u2k, uk, c7s1-3: two downsamplings, residual blocks at a quarter of
the size, two upsamplings. With `downs: 4` it is the global generator of pix2pixHD.

Layers stand in pre-activation form (`translate.networks.layers`): what the paper writes as conv → norm → ReLU is here a
convolution, and the norm and ReLU of the next layer.
"""

from __future__ import annotations

from typing import Literal, cast

from pydantic import Field
from torch import Tensor, nn

from translate.networks.attention import Attention
from translate.networks.growing import FadingEntry, FadingExit, Growable, outer_width
from translate.networks.layers import (
    Block,
    Chain,
    Generator,
    Layer,
    Norm,
    Pick,
    ResNetDownsample,
    Upsample,
    low_passed,
    make_norm,
    pad_to_fit,
)
from translate.networks.normalised import normalised
from translate.networks.weights import Initialisation, prepared


class ResNetConfig(Growable):
    """A ResNet generator: width 64, 9 blocks and instance norm are the published one (11.378 M parameters)."""

    kind: Literal["resnet"] = "resnet"
    width: int = Field(64, ge=1, le=4096)  # channels at full resolution; doubled at each of the downsamplings
    blocks: int = Field(9, ge=0, le=256)  # 9 for 256 px and more, 6 below
    downs: int = Field(2, ge=1, le=6)  # downsamplings before the blocks; 4: pix2pixHD's global generator (182.4 M)
    norm: Norm = "instance"
    upsample: Upsample = "transposed"  # resize, bilinear: slower, and free of checkerboards
    # blurred: low-pass filtered before each stride, so that nothing aliases. antialiased: the order of CUT's networks,
    # convolve without a stride → norm → ReLU → filter and keep every second pixel; four times the multiplications there
    downsample: ResNetDownsample = "strided"
    attention: bool = False  # among the blocks; its cost grows with the square of the pixels (docs/high-resolution.md)
    spectral: bool = False  # spectral norm: each convolution's largest singular value is one
    init: Initialisation = "normal"

    def build(self, in_channels: int, out_channels: int) -> ResNet:
        network = ResNet(in_channels, out_channels, self.width, self.blocks, self.norm, self.upsample, self.downs,
                         self.downsample, self.attention)
        return prepared(network, self.init, self.spectral)

    @property
    def has_batch_norm(self) -> bool:
        """Whether it has norms that count statistics, which a stage may hold."""
        return self.norm == "batch"

    def grow(self, network: ResNet) -> None:
        """Add one more downsampling and upsampling around `network`, which fade in."""
        network.grow(self.norm, self.upsample, self.downsample)
        for part in network.newest():
            prepared(part, self.init, self.spectral)


class ResNet(Generator):
    """`downs` downsamplings, `blocks` residual blocks at the coarsest scale, as many upsamplings.

    `head` and `tail` work at full resolution and hold most of the memory and little of the compute; the trunk between
    them holds most of the compute. Memory plans address them separately. Each outer level that it gains
    (`translate.networks.growing`) makes both ends one layer longer, and the trunk's resolution half as large.
    """

    levels = 0

    def __init__(self, in_channels: int, out_channels: int, width: int = 64, blocks: int = 9,
                 norm: Norm = "instance", upsample: Upsample = "transposed", downs: int = 2,
                 downsample: ResNetDownsample = "strided", attention: bool = False):
        super().__init__()
        self.multiple = 2**downs
        self.smallest = 2 * self.multiple  # two pixels at the coarsest scale, which are mirrored
        self.exit: FadingExit | None = None  # the old and the new last layers, mixed; `tail` stops before them
        bias = norm != "batch"  # BatchNorm has a shift of its own
        widths = [width * 2**level for level in range(downs + 1)]

        # Down: c7s1, then one strided convolution after the other. An antialiased one leaves the size to what follows
        # its norm and activation: to the next layer, and the last one to the way into the trunk.
        self.antialiased = downsample == "antialiased"
        self.head = Chain(
            Layer(nn.Conv2d(in_channels, width, 7, bias=bias), reflect=3),
            *(Layer(nn.Conv2d(before, 2 * before, 3, 1 if self.antialiased else 2, 1, bias=bias),
                    norm=make_norm(norm, before), slope=0.0, smooth=downsample == "blurred",
                    downsample=self.antialiased and level > 0) for level, before in enumerate(widths[:-1])),
            role="head")
        self.norm = make_norm(norm, widths[-1])

        # The trunk, and which of its parts `features` shows: the first block and the fifth, or the last.
        trunk: list[nn.Module] = [residual(widths[-1], norm, bias) for _ in range(blocks)]
        shown = sorted({0, min(4, blocks - 1)}) if blocks else []
        if attention:
            trunk.insert(blocks // 2, Attention(widths[-1]))
            shown = [number + (number >= blocks // 2) for number in shown]
        self.shown, self.feature_channels = shown, (in_channels, *widths[1:], *[widths[-1]] * len(shown))
        self.trunk = nn.Sequential(*trunk)

        # Up again, and c7s1 to an image.
        self.tail = Chain(
            upsampling_layer(widths[-1], widths[-2], upsample, bias),
            *(upsampling_layer(before, before // 2, upsample, bias, norm=make_norm(norm, before), slope=0.0)
              for before in widths[-2:0:-1]),
            Layer(nn.Conv2d(width, out_channels, 7), norm=make_norm(norm, width), slope=0.0, reflect=3,
                  last=nn.Tanh()),
            role="tail")

    def translate(self, image: Tensor, beside: Tensor | None = None) -> Tensor:
        """Return the translated image (N, C', H, W). `beside`, features of the size of what enters the trunk, is added
        to that."""
        y = self.tail(self.bottleneck(image, beside))
        return y if self.exit is None else self.exit(y)

    def full_size_features(self, image: Tensor, beside: Tensor | None = None) -> Tensor:
        """Return the features at full resolution that the last layer convolves, (N, width, H, W)."""
        last = cast(Layer, self.tail[-1])
        return last.activated(self.tail(self.bottleneck(image, beside), num_layers=len(self.tail) - 1))

    def drop_last_convolution(self) -> None:
        """Leave only `full_size_features`, for a generator around this one: from now on it makes no image."""
        last = cast(Layer, self.tail[-1])
        last.conv, last.last = nn.Identity(), None

    def bottleneck(self, image: Tensor, beside: Tensor | None = None) -> Tensor:
        """Return what the trunk makes of an image, at its coarsest scale."""
        y = self._into_trunk(self.head(image))
        return self.trunk(y if beside is None else y + beside)

    def grow(self, norm: Norm, upsample: Upsample, downsample: ResNetDownsample = "strided") -> None:
        """Put a level around the ends, which fade out.

        Where the others are antialiased it is `blurred`: what fades in must have its final size before the norm.
        """
        bias = norm != "batch"
        first, last = cast(Layer, self.head[0]), cast(Layer, self.tail[-1])
        down, up = first.conv.out_channels, last.conv.in_channels
        width = outer_width(down)

        # Two layers in the place of the first: to fewer channels at the new size, and down to the size it knew.
        self.head = Chain(
            FadingEntry(first, [
                Layer(nn.Conv2d(first.conv.in_channels, width, 7, bias=bias), reflect=3),
                Layer(nn.Conv2d(width, down, 3, 2, 1, bias=bias), norm=make_norm(norm, width), slope=0.0,
                      smooth=downsample != "strided")]),
            *list(self.head)[1:], role="head")

        # Two layers in the place of the last, beside it until it has faded out.
        self.exit = FadingExit(Chain(last, role="tail"), Chain(
            upsampling_layer(up, width, upsample, bias, norm=make_norm(norm, up), slope=0.0),
            Layer(nn.Conv2d(width, last.conv.out_channels, 7), norm=make_norm(norm, width), slope=0.0, reflect=3,
                  last=nn.Tanh()),
            role="tail"))
        self.tail = Chain(*list(self.tail)[:-1], role="tail")
        self.levels, self.multiple, self.smallest = self.levels + 1, 2 * self.multiple, 2 * self.smallest

    def drop_faded(self) -> None:
        """Take out the ends that a level has replaced."""
        if self.exit is not None:
            self.head = Chain(*cast(FadingEntry, self.head[0]).new, *list(self.head)[1:], role="head")
            self.tail = Chain(*self.tail, *self.exit.new, role="tail")
            self.exit = None

    def newest(self) -> list[nn.Module]:
        """Return the two layers down and the two up of the level that was added last; none before."""
        if self.levels == 0:
            return []
        first, last = (self.head, self.tail) if self.exit is None else (cast(FadingEntry, self.head[0]).new,
                                                                        self.exit.new)
        return [*list(first)[:2], *list(last)[-2:]]

    def trunk_parts(self) -> list[nn.Module]:
        return [self.trunk]

    def features(self, image: Tensor, pick: Pick) -> list[Tensor]:
        """Return what `pick` returns for the image, both downsampling convolutions, and the first and the fifth
        residual block (Park et al. 2020).

        They see 1, 9, 13, 29 and 93 pixels, and antialiased ones the paper's 1, 9, 15, 35 and 99.
        """
        image = pad_to_fit(image, self.multiple, self.smallest)
        pixels = pick(0, image)
        y, *picked = self.head.with_features(image, pick)
        y, picked = self._into_trunk(y), [pixels, *picked]
        for number in range(self.shown[-1] + 1 if self.shown else 0):
            y = self.trunk[number](y)
            if number in self.shown:
                picked.append(pick(len(picked), y))
        return picked

    def _into_trunk(self, y: Tensor) -> Tensor:
        y = normalised(y, self.norm, slope=0.0)
        return low_passed(y, stride=2) if self.antialiased else y


def residual(channels: int, norm: Norm, bias: bool) -> Block:
    """Return the block x + norm(conv(pad(relu(norm(conv(pad(x))))))), mirrored at the borders."""
    return Block(Chain(
        Layer(nn.Conv2d(channels, channels, 3, bias=bias), reflect=1),
        Layer(nn.Conv2d(channels, channels, 3, bias=bias), norm=make_norm(norm, channels), slope=0.0, reflect=1)),
        make_norm(norm, channels))


def upsampling_layer(in_channels: int, out_channels: int, upsample: Upsample, bias: bool, *,
                     norm: nn.Module | None = None, slope: float | None = None) -> Layer:
    """Return a layer that doubles both sides: a transposed convolution, or an upsampling and a convolution."""
    if upsample == "transposed":
        conv = nn.ConvTranspose2d(in_channels, out_channels, 3, 2, 1, output_padding=1, bias=bias)
        return Layer(conv, norm=norm, slope=slope)
    return Layer(nn.Conv2d(in_channels, out_channels, 3, 1, 1, bias=bias), norm=norm, slope=slope, scale_factor=2,
                 smooth=upsample == "bilinear")
