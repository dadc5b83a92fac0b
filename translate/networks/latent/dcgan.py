"""DCGAN: convolutions that draw and judge images (Radford et al. 2016, figure 1 and section 3).

For sides that are powers of two, 4×4 features of a dense layer are doubled by 4×4 transposed convolutions, and the
discriminator mirrors them: the sizes are those of PyTorch's example (`examples/dcgan`). At 28 px they are those of the
lectures' code: a dense layer to 7×7×256, 5×5 transposed convolutions to 128 and 64 channels and to the image; and 5×5
strided ones to 64 and 128 channels with dropout in the discriminator.

What an image is drawn under is joined to the latent, where the dense layer embeds it; the discriminator sees it as
further planes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from translate.networks.discriminators import MinibatchDiscrimination, MinibatchStd, sequence
from translate.networks.dropout import PositionalDropout
from translate.networks.latent.latents import ChainDiscriminator, LatentConfig, LatentGenerator, WholeConfig
from translate.networks.layers import Chain, Layer, Norm, make_norm
from translate.networks.weights import Initialisation, prepared

DCGANSide = Literal[28, 32, 64, 128, 256]


class DCGANConfig(LatentConfig):
    """DCGAN's generator: width 64 at 64 px is PyTorch's example (3.577 M parameters), width 128 the paper's."""

    kind: Literal["dcgan"] = "dcgan"
    side: DCGANSide = 64
    width: int = Field(64, ge=1, le=4096)  # channels before the image; doubled for each level towards the dense layer
    norm: Norm = "batch"
    spectral: bool = False
    init: Initialisation = "normal"

    def build(self, conditions: int, channels: int) -> DCGAN:
        network = DCGAN(self.latent, conditions, channels, self.side, self.width, self.norm)
        return prepared(network, self.init, self.spectral)

    @property
    def joins_classes(self) -> bool:
        return not self.spectral

    @property
    def has_batch_norm(self) -> bool:
        return self.norm == "batch"

    def side_at(self, levels: int) -> int:
        return self.side


class DCGAN(LatentGenerator):
    """A dense layer to a few pixels, and transposed convolutions, each to twice the side."""

    def __init__(self, latent: int, conditions: int, channels: int, side: int, width: int, norm: Norm = "batch"):
        super().__init__()
        self.latent = latent
        widths = [width * 2**level for level in reversed(range(num_doublings(side)))]
        bias = norm != "batch"

        # The dense layer, to 4×4 or 7×7; at 28 px a convolution at that size after it; then up to the image.
        start, kernel, padding, spare = (7, 5, 2, 1) if side == 28 else (4, 4, 1, 0)
        chain = [Layer(nn.ConvTranspose2d(latent + conditions, 4 * width if side == 28 else widths[0], start,
                                          bias=bias))]
        if side == 28:
            chain.append(Layer(nn.ConvTranspose2d(4 * width, 2 * width, 5, 1, 2, bias=bias), slope=0.0,
                               norm=make_norm(norm, 4 * width)))
        for before, after in pairwise([*widths, channels]):
            chain.append(Layer(nn.ConvTranspose2d(before, after, kernel, 2, padding, spare, bias=bias), slope=0.0,
                               norm=make_norm(norm, before)))
        chain[-1].last = nn.Tanh()
        self.chain = Chain(*chain)

    def forward(self, given: Tensor) -> Tensor:
        return self.chain(given)


class DCGANDiscriminatorConfig(WholeConfig):
    """DCGAN's discriminator: width 64 at 64 px is PyTorch's example (2.766 M parameters)."""

    kind: Literal["dcgan"] = "dcgan"
    side: DCGANSide = 64
    width: int = Field(64, ge=1, le=4096)  # channels of the first layer; doubled by each that follows
    norm: Norm = "batch"  # of all layers but the first; none beside penalties on slopes
    dropout: float = Field(0.0, ge=0, lt=1)  # behind each layer (28 px: 0.3); one mask for real and fake
    minibatch_std: bool = False  # shows the last layer how much the samples of a batch differ; needs a batch
    minibatch_kernels: int = Field(0, ge=0, le=1024)  # kernels that show it how near each is to the others; 0: none
    spectral: bool = False  # spectral norm (Miyato et al. 2018): each layer's largest singular value is one
    init: Initialisation = "normal"

    @property
    def least_samples(self) -> int:
        return 2 if self.minibatch_std or self.minibatch_kernels else 1

    def build(self, channels: int, conditions: int = 0) -> DCGANDiscriminator:
        network = DCGANDiscriminator(channels + conditions, self.side, self.width, self.norm, self.dropout,
                                     self.minibatch_std, self.minibatch_kernels)
        return prepared(network, self.init, self.spectral)


class DCGANDiscriminator(ChainDiscriminator):
    """Strided convolutions down to a few pixels, and a dense layer to a logit."""

    def __init__(self, in_channels: int, side: int, width: int, norm: Norm = "batch", dropout: float = 0.0,
                 minibatch_std: bool = False, minibatch_kernels: int = 0):
        super().__init__()
        widths = [width * 2**level for level in range(num_doublings(side))]
        end, kernel, padding = (7, 5, 2) if side == 28 else (4, 4, 1)
        bias = norm != "batch"

        def prepares(number: int, channels: int) -> nn.Module | None:
            return sequence(make_norm(norm, channels) if number > 1 else None,
                            PositionalDropout(dropout, number) if dropout else None)

        chain = [Layer(nn.Conv2d(before, after, kernel, 2, padding, bias=bias or number == 0),
                       slope=0.2 if number else None, norm=prepares(number, before) if number else None)
                 for number, (before, after) in enumerate(pairwise([in_channels, *widths]))]

        # To a logit; before it, channels that compare the samples of the batch.
        last = widths[-1] + minibatch_std
        compare = MinibatchDiscrimination(last, minibatch_kernels) if minibatch_kernels else None
        chain.append(Layer(nn.Conv2d(last + minibatch_kernels, 1, end, bias=bias), slope=0.2,
                           norm=sequence(prepares(len(widths), widths[-1]), MinibatchStd() if minibatch_std else None,
                                         compare)))
        self.hidden_size = (last + minibatch_kernels) * end**2
        self.chain = Chain(*chain)


def num_doublings(side: int) -> int:
    """Return how often a side is doubled on the way from the dense layer: 28 from 7, powers of two from 4."""
    return 2 if side == 28 else (side // 4).bit_length() - 1
