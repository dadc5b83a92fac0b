"""The U-Net generator of pix2pix (Isola et al. 2017, section 6.1.1): skip connections at every scale."""

from __future__ import annotations

from typing import ClassVar, Literal, cast

from pydantic import Field
from torch import Tensor, nn

from translate.networks.attention import Attention
from translate.networks.growing import FadingLevel, outer_width
from translate.networks.layers import (
    Downsample,
    Generator,
    Layer,
    Level,
    Look,
    Norm,
    PositionalDropout,
    Upsample,
    make_norm,
    pad_to_fit,
)
from translate.networks.weights import Initialisation, prepared
from translate.schema import Config


class UNetConfig(Config):
    """A U-Net generator: width 64, 8 downsamplings and batch norm are the published U-Net-256 (54.414 M parameters)."""

    kind: Literal["unet"] = "unet"
    width: int = Field(64, ge=1)  # channels of the outermost level; doubled up to 8 × width
    downs: int = Field(8, ge=2, le=12)  # 8 sees 256 px whole at its innermost level; sides are padded to 2^downs
    norm: Norm = "batch"
    dropout: float = Field(0.5, ge=0, lt=1)  # in the three innermost full-width levels; pix2pix's only noise
    upsample: Upsample = "transposed"  # resize, bilinear: slower, and free of checkerboards
    downsample: Downsample = "strided"  # blurred: low-pass filtered before each stride, so that nothing aliases
    attention: bool = False  # at an eighth of the resolution; its cost grows with the square of the pixels
    spectral: bool = False  # spectral norm: each convolution's largest singular value is one
    init: Initialisation = "normal"

    fades: ClassVar[bool] = True

    def build(self, in_channels: int, out_channels: int) -> UNet:
        network = UNet(in_channels, out_channels, self.width, self.downs, self.norm, self.dropout, self.upsample,
                       self.downsample, self.attention)
        return prepared(network, self.init, self.spectral)

    def grow(self, network: UNet) -> None:
        """Add one more level around `network`, fading in until it is settled."""
        network.grow(self.norm, self.upsample, self.downsample)
        for part in network.newest():
            prepared(part, self.init, self.spectral)


class UNet(Generator):
    """`downs` halvings to a point and as many doublings back; each level sees its own scale's features again.

    Each outer level that it gains (`translate.networks.growing`) is one more of them.
    """

    levels = 0

    def __init__(self, in_channels: int, out_channels: int, width: int = 64, downs: int = 8, norm: Norm = "batch",
                 dropout: float = 0.5, upsample: Upsample = "transposed", downsample: Downsample = "strided",
                 attention: bool = False):
        super().__init__()
        self.multiple = self.smallest = 2**downs
        self.fading: FadingLevel | None = None  # the outermost level of before, while another fades in around it
        bias = norm != "batch"
        widths = [min(2**level, 8) * width for level in range(downs)]
        self.feature_channels = (in_channels, *widths[:4])
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        for level, channels in enumerate(widths):
            outermost, innermost = level == 0, level == downs - 1
            before = in_channels if outermost else widths[level - 1]
            self.down.append(Level(
                Layer(nn.Conv2d(before, channels, 4, 2, 1, bias=bias), slope=None if outermost else 0.2,
                      smooth=downsample == "blurred"),
                norm=None if outermost or innermost else make_norm(norm, channels)))
            after = out_channels if outermost else before
            conv = enlarging_conv(channels if innermost else 2 * channels, after, upsample, bias or outermost)
            self.up.append(Level(
                Layer(conv, slope=0.0, enlarge=1 if upsample == "transposed" else 2, smooth=upsample == "bilinear",
                      last=nn.Tanh() if outermost else None),
                norm=None if outermost else make_norm(norm, after),
                dropout=PositionalDropout(dropout, level) if not innermost and level >= 4 else None))
        self.attended = min(2, downs - 2)  # the level after which there is attention, where there is: an eighth
        self.attention = Attention(widths[self.attended]) if attention else None

    def translate(self, image: Tensor) -> Tensor:
        skips = [image]
        for level, down in enumerate(self.down):
            y = down(skips[-1])
            y = y if level != 1 or self.fading is None else self.fading.enter(image, y)
            skips.append(y if level != self.attended or self.attention is None else self.attention(y))
        y, old = self.up[-1](skips.pop()), None
        for level in reversed(range(len(self.up) - 1)):
            if level == 1 and self.fading is not None:
                old = self.fading.leave(skips[-1], y)
            y = self.up[level](skips.pop(), y)
        return y if self.fading is None or old is None else self.fading.mix(old, y)

    def grow(self, norm: Norm, upsample: Upsample, downsample: Downsample = "strided") -> None:
        """Put a level around the outermost one, which fades out."""
        bias = norm != "batch"
        first, last = cast(Level, self.down[0]), cast(Level, self.up[0])
        inside = first.layer.conv.out_channels
        width = outer_width(inside)
        enlarge, blurred = 1 if upsample == "transposed" else 2, downsample == "blurred"
        self.fading = FadingLevel(first, last)
        self.down[0] = Level(Layer(nn.Conv2d(width, inside, 4, 2, 1, bias=bias), slope=0.2, smooth=blurred),
                             norm=make_norm(norm, inside))
        self.down.insert(0, Level(Layer(nn.Conv2d(first.layer.conv.in_channels, width, 4, 2, 1, bias=bias),
                                        smooth=blurred)))
        self.up[0] = Level(Layer(enlarging_conv(2 * inside, width, upsample, bias), slope=0.0, enlarge=enlarge,
                                 smooth=upsample == "bilinear"), norm=make_norm(norm, width))
        self.up.insert(0, Level(Layer(enlarging_conv(2 * width, last.layer.conv.out_channels, upsample, True),
                                      slope=0.0, enlarge=enlarge, smooth=upsample == "bilinear", last=nn.Tanh())))
        self.attended += 1
        self.levels, self.multiple, self.smallest = self.levels + 1, 2 * self.multiple, 2 * self.smallest

    def settle(self) -> None:
        """Let go of the level that another has replaced."""
        self.fading = None

    def newest(self) -> list[nn.Module]:
        """The outermost level that was added, and what joins it to the one inside; none before."""
        return [*self.down[:2], *self.up[:2]] if self.levels else []

    def features(self, image: Tensor, look: Look) -> list[Tensor]:
        """The image and the first four levels down: as far as a sixteenth of the size."""
        y = pad_to_fit(image, self.multiple, self.smallest)
        taken = [look(0, y)]
        for number in range(1, len(self.feature_channels)):
            y = self.down[number - 1](y)
            taken.append(look(number, y))
        return taken


def enlarging_conv(in_channels: int, out_channels: int, upsample: Upsample, bias: bool
                   ) -> nn.Conv2d | nn.ConvTranspose2d:
    """The convolution of an upward level: transposed, or a plain one for a resized input."""
    if upsample == "transposed":
        return nn.ConvTranspose2d(in_channels, out_channels, 4, 2, 1, bias=bias)
    return nn.Conv2d(in_channels, out_channels, 3, 1, 1, bias=bias)
