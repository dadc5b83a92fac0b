"""BEGAN's discriminator: an autoencoder, which rebuilds real images well and fakes badly (Berthelot et al. 2017).

Its error of reconstruction takes the place of a logit: it is small for images like those the network knows.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from translate.networks.layers import Chain, Layer, Norm, make_norm, pad_to_fit
from translate.networks.weights import Initialisation, initialise
from translate.schema import Config


class AutoencoderConfig(Config):
    """A convolutional autoencoder (Berthelot et al. 2017, section 3.5, with strides for its subsampling)."""

    kind: Literal["autoencoder"] = "autoencoder"
    width: int = Field(64, ge=1, le=4096)  # channels at full resolution; after k downsamplings k + 1 times as many
    downs: int = Field(3, ge=1, le=8)  # downsamplings to the bottleneck
    norm: Norm = "none"
    init: Initialisation = "normal"  # orthogonal: real images are rebuilt after a few dozens of steps

    grows: ClassVar[bool] = False
    reconstructs: ClassVar[bool] = True  # what it judges with are errors of reconstruction
    judges_whole: ClassVar[bool] = False
    least_samples: ClassVar[int] = 1

    def build(self, in_channels: int) -> Autoencoder:
        return initialise(Autoencoder(in_channels, self.width, self.downs, self.norm), init=self.init)

    def smallest_side(self, levels: int = 0) -> int:
        """Return the smallest side, in px, that it can judge: images are padded, and it gains no levels."""
        return 1


class Autoencoder(nn.Module):
    """Maps images (N, C, H, W) to their errors of reconstruction (N, 1, H, W): the mean of |x − D(x)| over channels.

    `balance` is the k of BEGAN's game. It is a buffer so that a checkpoint holds it.
    """

    balance: Tensor

    def __init__(self, in_channels: int, width: int = 64, downs: int = 3, norm: Norm = "none"):
        super().__init__()
        self.multiple = 2**downs

        # Down to the bottleneck, up again, and to an image. Nearest-neighbour upsampling, as published.
        widths = [(level + 1) * width for level in range(downs + 1)]
        chain = [Layer(nn.Conv2d(in_channels, width, 3, 1, 1))]
        for before, after in pairwise(widths):
            chain.append(Layer(nn.Conv2d(before, after, 3, 2, 1), slope=0.2, norm=make_norm(norm, before)))
        for before, after in zip(widths[:0:-1], widths[-2::-1], strict=True):
            chain.append(Layer(nn.Conv2d(before, after, 3, 1, 1), slope=0.2, norm=make_norm(norm, before),
                               scale_factor=2))
        chain.append(Layer(nn.Conv2d(width, in_channels, 3, 1, 1), slope=0.2, norm=make_norm(norm, width)))
        self.chain = Chain(*chain)
        self.register_buffer("balance", torch.zeros(()))

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        rebuilt = self.chain(pad_to_fit(image, self.multiple, self.multiple))[..., :height, :width]
        return (image - rebuilt.to(image.dtype)).abs().mean(1, keepdim=True)

    def features(self, image: Tensor) -> list[Tensor]:
        """Return the convolution outputs of all layers but the last."""
        return self.chain.features(pad_to_fit(image, self.multiple, self.multiple))
