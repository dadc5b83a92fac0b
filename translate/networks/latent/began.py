"""BEGAN's generator: the decoder of its discriminator (Berthelot et al. 2017, section 3.5 and figure 1).

A dense layer to 8×8, then two 3×3 convolutions at each scale, and nearest-neighbour upsampling between them. The
activation is LeakyReLU, as in the autoencoder of this house that judges the images.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from translate.networks.latent.latents import Distribution, LatentConfig, LatentGenerator
from translate.networks.layers import Chain, Layer, Norm, make_norm
from translate.networks.weights import Initialisation, prepared

SMALLEST = 8  # px of the dense layer's features
SLOPE = 0.2  # of LeakyReLU


class BEGANConfig(LatentConfig):
    """BEGAN's decoder: width 128 and 64 numbers of a latent, evenly drawn, are those of the paper's larger models."""

    kind: Literal["began"] = "began"
    side: Literal[16, 32, 64, 128, 256] = 64
    latent: int = Field(64, ge=1, le=65_536)
    distribution: Distribution = "uniform"
    width: int = Field(128, ge=1, le=4096)  # channels of all layers
    # none, as published; batch: the samples of a batch stay apart, where minutes of training would make them all alike
    norm: Literal["batch", "none"] = "none"
    init: Initialisation = "orthogonal"  # without norms, weights of 0.02 let images fade on their way

    def build(self, conditions: int, channels: int) -> BEGAN:
        network = BEGAN(self.latent, conditions, channels, self.side, self.width, self.norm)
        return prepared(network, self.init, spectral=False)

    @property
    def has_batch_norm(self) -> bool:
        return self.norm == "batch"

    def side_at(self, levels: int) -> int:
        return self.side


class BEGAN(LatentGenerator):
    """A dense layer to 8×8, pairs of convolutions with upsampling between them, and a convolution to an image.

    Its images have no bounds in training, and are clamped to [-1, 1] in eval mode.
    """

    def __init__(self, latent: int, conditions: int, channels: int, side: int, width: int, norm: Norm = "none"):
        super().__init__()
        self.latent = latent
        bias = norm == "none"
        chain = [Layer(nn.ConvTranspose2d(latent + conditions, width, SMALLEST, bias=bias))]
        for scale in range((side // SMALLEST).bit_length()):
            chain += [Layer(nn.Conv2d(width, width, 3, 1, 1, bias=bias), slope=SLOPE if scale + number else None,
                            norm=make_norm(norm, width), scale_factor=2 if scale and number == 0 else 1)
                      for number in range(2)]
        self.chain = Chain(*chain, Layer(nn.Conv2d(width, channels, 3, 1, 1), norm=make_norm(norm, width),
                                         slope=SLOPE))

    def forward(self, given: Tensor) -> Tensor:
        image = self.chain(given)
        return image if self.training else image.clamp(-1, 1)
