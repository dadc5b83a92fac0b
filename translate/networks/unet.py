"""The U-Net generator of pix2pix (Isola et al. 2017, section 6.1.1): skip connections at every scale.

Down to a single pixel and up again; what each level saw on the way down joins what it makes on the way up, so that
nothing has to pass through the bottleneck that an output can take from its input directly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from translate.errors import Mistake
from translate.networks.attention import Attention
from translate.networks.dropout import PositionalDropout
from translate.networks.growing import FadingLevel, Growable, LevelStage, level_problems, outer_width
from translate.networks.layers import (
    Chain,
    Downsample,
    Generator,
    Layer,
    Level,
    Norm,
    Pick,
    Upsample,
    make_norm,
    pad_to_fit,
)
from translate.networks.weights import Initialisation, initialise, prepared, spectrally_normed

DIFFERENCES, VALUES = 256.0, 16.0  # how loud they are at first where an image joins features at full size


class UNetConfig(Growable):
    """A U-Net generator: width 64, 8 downsamplings and batch norm are the published U-Net-256 (54.414 M parameters)."""

    kind: Literal["unet"] = "unet"
    width: int = Field(64, ge=1, le=4096)  # channels of the outermost level; doubled up to 8 × width
    downs: int = Field(8, ge=2, le=12)  # 8 sees 256 px whole at its innermost level; sides are padded to 2^downs
    norm: Norm = "batch"
    dropout: float = Field(0.5, ge=0, lt=1)  # in the three innermost full-width levels; pix2pix's only noise
    upsample: Upsample = "transposed"  # resize, bilinear: slower, and free of checkerboards
    downsample: Downsample = "strided"  # blurred: low-pass filtered before each stride, so that nothing aliases
    # channels at full resolution, where the image itself joins what the outermost level makes, so that detail of single
    # pixels need not pass through half of the size; 0: none, as published
    image_skip: int = Field(0, ge=0, le=4096)
    attention: bool = False  # at an eighth of the resolution; its cost grows with the square of the pixels
    spectral: bool = False  # spectral norm: each convolution's largest singular value is one
    init: Initialisation = "normal"

    def build(self, in_channels: int, out_channels: int) -> UNet:
        network = UNet(in_channels, out_channels, self.width, self.downs, self.norm, self.dropout, self.upsample,
                       self.downsample, self.attention, self.image_skip)
        initialise(network, init=self.init)
        if network.tail is not None and not self.spectral:
            amplify_detail(network.tail, in_channels)
        return spectrally_normed(network) if self.spectral else network

    @property
    def has_batch_norm(self) -> bool:
        """Whether it has norms that count statistics, which a stage may hold."""
        return self.norm == "batch"

    def level_problems(self, stages: Sequence[LevelStage], begun: bool = False) -> Iterator[Mistake]:
        """Yield what is wrong with the stages' levels: with `image_skip` the outermost level makes no image, which
        another could replace."""
        unable = f"generator.image_skip: {self.image_skip}" if self.image_skip else None
        yield from level_problems(stages, unable=unable, begun=begun)

    def grow(self, network: UNet) -> None:
        """Add one more level around `network`, which fades in."""
        network.grow(self.norm, self.upsample, self.downsample)
        for part in network.newest():
            prepared(part, self.init, self.spectral)


class UNet(Generator):
    """`downs` downsamplings to the bottleneck and as many upsamplings; each level sees its scale's features again.

    Each outer level that it gains (`translate.networks.growing`) is one more of them.
    """

    levels = 0

    def __init__(self, in_channels: int, out_channels: int, width: int = 64, downs: int = 8, norm: Norm = "batch",
                 dropout: float = 0.5, upsample: Upsample = "transposed", downsample: Downsample = "strided",
                 attention: bool = False, image_skip: int = 0):
        super().__init__()
        self.multiple = self.smallest = 2**downs
        self.fading: FadingLevel | None = None  # the outermost level of before, while another fades in around it
        bias = norm != "batch"  # BatchNorm has a shift of its own
        widths = [min(2**level, 8) * width for level in range(downs)]
        self.feature_channels = (in_channels, *widths[:4])
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        for level, channels in enumerate(widths):
            # Down: no activation before the first convolution, no norm after the first and the last.
            outermost, innermost = level == 0, level == downs - 1
            mirrors = outermost and image_skip > 0  # at the borders, where padding with zeros would paint a frame
            before = in_channels if outermost else widths[level - 1]
            self.down.append(Level(
                Layer(nn.Conv2d(before, channels, 4, 2, 0 if mirrors else 1, bias=bias),
                      slope=None if outermost else 0.2, reflect=int(mirrors), smooth=downsample == "blurred"),
                norm=None if outermost or innermost else make_norm(norm, channels)))

            # Up, from the level inside and the skip connection; the innermost has only what comes from below.
            after = before if not outermost else image_skip or out_channels
            makes_image = outermost and not image_skip
            self.up.append(upsampling_level(
                channels if innermost else 2 * channels, after, upsample, bias or makes_image,
                norm=None if makes_image else make_norm(norm, after), last=nn.Tanh() if makes_image else None,
                mirrors=mirrors, dropout=PositionalDropout(dropout, level) if not innermost and level >= 4 else None))
        # At full resolution, beside the image itself, of which LeakyReLU keeps what it says.
        self.tail = None if not image_skip else Chain(
            Layer(nn.Conv2d(image_skip + in_channels, image_skip, 3, bias=bias), slope=0.2, reflect=1),
            Layer(nn.Conv2d(image_skip, out_channels, 3), norm=make_norm(norm, image_skip), slope=0.0, reflect=1,
                  last=nn.Tanh()),
            role="tail")
        self.attended = min(2, downs - 2)  # the level after which there is attention, where there is: an eighth
        self.attention = Attention(widths[self.attended]) if attention else None

    def translate(self, image: Tensor) -> Tensor:
        # Down; while a level fades in, what replaced the old entry is mixed with it.
        skips = [image]
        for level, down in enumerate(self.down):
            y = down(skips[-1])
            y = y if level != 1 or self.fading is None else self.fading.enter(image, y)
            skips.append(y if level != self.attended or self.attention is None else self.attention(y))

        # Up; the old exit leaves from the same features, and is mixed with the image at the end.
        y, old = self.up[-1](skips.pop()), None
        for level in reversed(range(len(self.up) - 1)):
            if level == 1 and self.fading is not None:
                old = self.fading.leave(skips[-1], y)
            y = self.up[level](skips.pop(), y)
        if self.tail is not None:
            return self.tail(torch.cat([y, image], dim=1))
        return y if self.fading is None or old is None else self.fading.mix(old, y)

    def grow(self, norm: Norm, upsample: Upsample, downsample: Downsample = "strided") -> None:
        """Put a level around the outermost one, which fades out."""
        bias = norm != "batch"
        first, last = cast(Level, self.down[0]), cast(Level, self.up[0])
        inside = first.layer.conv.out_channels
        width, blurred = outer_width(inside), downsample == "blurred"
        self.fading = FadingLevel(first, last)

        # What was outermost becomes a level inside: with an activation and a norm, of features instead of images.
        self.down[0] = Level(Layer(nn.Conv2d(width, inside, 4, 2, 1, bias=bias), slope=0.2, smooth=blurred),
                             norm=make_norm(norm, inside))
        self.down.insert(0, Level(Layer(nn.Conv2d(first.layer.conv.in_channels, width, 4, 2, 1, bias=bias),
                                        smooth=blurred)))
        self.up[0] = upsampling_level(2 * inside, width, upsample, bias, norm=make_norm(norm, width))
        self.up.insert(0, upsampling_level(2 * width, last.layer.conv.out_channels, upsample, True, last=nn.Tanh()))
        self.attended += 1
        self.levels, self.multiple, self.smallest = self.levels + 1, 2 * self.multiple, 2 * self.smallest

    def drop_faded(self) -> None:
        """Take out the level that another has replaced."""
        self.fading = None

    def newest(self) -> list[nn.Module]:
        """Return the level that was added last, and what joins it to the one inside; none before."""
        return [*self.down[:2], *self.up[:2]] if self.levels else []

    def trunk_parts(self) -> list[nn.Module]:
        return [*self.down[1:], *self.up[1:]]

    def features(self, image: Tensor, pick: Pick) -> list[Tensor]:
        """Return what `pick` returns for the image and the first four levels down, to a sixteenth of the size."""
        y = pad_to_fit(image, self.multiple, self.smallest)
        picked = [pick(0, y)]
        for number in range(1, len(self.feature_channels)):
            y = self.down[number - 1](y)
            picked.append(pick(number, y))
        return picked


@torch.no_grad()
def amplify_detail(tail: Chain, in_channels: int) -> None:
    """Enlarge, in place, the first weights of a tail for the image that joins it, the last `in_channels` of its inputs.

    Neighbouring pixels differ by a hundredth of what all pixels do, and the features that they are joined to are of
    about one each: with weights like theirs, what is seen at full size alone would not be heard for thousands of steps.
    So half of the filters see nothing but differences of pixels (their weights sum to zero), `DIFFERENCES` times as
    loud; the others see pixels, `VALUES` times as loud. Not under a spectral norm, which would make all other weights
    as much smaller.
    """
    conv = cast(Layer, tail[0]).conv
    if conv.weight.is_meta:
        return
    of_image = conv.weight[:, -in_channels:]
    differences, values = of_image.tensor_split(2)
    differences -= differences.mean((2, 3), keepdim=True)
    differences *= DIFFERENCES
    values *= VALUES


def upsampling_level(in_channels: int, out_channels: int, upsample: Upsample, bias: bool, *,
                     norm: nn.Module | None = None, last: nn.Module | None = None, dropout: nn.Module | None = None,
                     mirrors: bool = False) -> Level:
    """Return a level up, which doubles both sides: a transposed convolution, or an upsampling and a convolution, which
    may mirror its borders."""
    if upsample == "transposed":
        layer = Layer(nn.ConvTranspose2d(in_channels, out_channels, 4, 2, 1, bias=bias), slope=0.0, last=last)
    else:
        layer = Layer(nn.Conv2d(in_channels, out_channels, 3, 1, 0 if mirrors else 1, bias=bias), slope=0.0, last=last,
                      scale_factor=2, reflect=int(mirrors), smooth=upsample == "bilinear")
    return Level(layer, norm, dropout)
