"""The U-Net generator of pix2pix (Isola et al. 2017, section 6.1.1): skip connections at every scale."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from translate.networks.layers import (
    Generator,
    Layer,
    Level,
    Look,
    Norm,
    PositionalDropout,
    Upsample,
    initialise,
    make_norm,
    pad_to_fit,
)
from translate.schema import Config


class UNetConfig(Config):
    """A U-Net generator: width 64, 8 downsamplings and batch norm are the published U-Net-256 (54.414 M parameters)."""

    kind: Literal["unet"] = "unet"
    width: int = Field(64, ge=1)  # channels of the outermost level; doubled up to 8 × width
    downs: int = Field(8, ge=2, le=12)  # 8 sees 256 px whole at its innermost level; sides are padded to 2^downs
    norm: Norm = "batch"
    dropout: float = Field(0.5, ge=0, lt=1)  # in the three innermost full-width levels; pix2pix's only noise
    upsample: Upsample = "transposed"  # resize: slower, and free of checkerboards

    def build(self, in_channels: int, out_channels: int) -> UNet:
        network = UNet(in_channels, out_channels, self.width, self.downs, self.norm, self.dropout, self.upsample)
        initialise(network)
        return network


class UNet(Generator):
    """`downs` halvings to a point and as many doublings back; each level sees its own scale's features again."""

    def __init__(self, in_channels: int, out_channels: int, width: int = 64, downs: int = 8, norm: Norm = "batch",
                 dropout: float = 0.5, upsample: Upsample = "transposed"):
        super().__init__()
        self.multiple = self.smallest = 2**downs
        bias = norm != "batch"
        widths = [min(2**level, 8) * width for level in range(downs)]
        self.feature_channels = (in_channels, *widths[:4])
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        for level, channels in enumerate(widths):
            outermost, innermost = level == 0, level == downs - 1
            before = in_channels if outermost else widths[level - 1]
            self.down.append(Level(
                Layer(nn.Conv2d(before, channels, 4, 2, 1, bias=bias), slope=None if outermost else 0.2),
                norm=None if outermost or innermost else make_norm(norm, channels)))
            after = out_channels if outermost else before
            conv = enlarging_conv(channels if innermost else 2 * channels, after, upsample, bias or outermost)
            self.up.append(Level(
                Layer(conv, slope=0.0, enlarge=2 if upsample == "resize" else 1, last=nn.Tanh() if outermost else None),
                norm=None if outermost else make_norm(norm, after),
                dropout=PositionalDropout(dropout, level) if not innermost and level >= 4 else None))

    def translate(self, image: Tensor) -> Tensor:
        skips = [image]
        for down in self.down:
            skips.append(down(skips[-1]))
        y = self.up[-1](skips.pop())
        for up in reversed(self.up[:-1]):
            y = up(skips.pop(), y)
        return y

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
