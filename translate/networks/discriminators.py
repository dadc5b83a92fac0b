"""Discriminators: PatchGAN, which judges overlapping patches, and its one-pixel limit (Isola et al. 2017, 3.2.2)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from translate.networks.layers import Chain, Layer, Norm, initialise, make_norm
from translate.schema import Config


class PatchGANConfig(Config):
    """PatchGAN: width 64 and 3 layers judge patches of 70×70 px (2.765 M parameters with instance norm)."""

    kind: Literal["patchgan"] = "patchgan"
    width: int = Field(64, ge=1)
    layers: int = Field(3, ge=1)  # strided layers; the patch is 16, 34, 70, 142, 286 px for 1 … 5
    norm: Norm = "instance"

    @property
    def smallest(self) -> int:
        """The smallest side it can judge: what leaves the two unstrided layers at its end one logit."""
        return 3 * 2**self.layers

    def build(self, in_channels: int) -> PatchGAN:
        network = PatchGAN(in_channels, self.width, self.layers, self.norm)
        initialise(network)
        return network


class PixelConfig(Config):
    """A discriminator of single pixels (1×1 PatchGAN): judges colour and nothing else."""

    kind: Literal["pixel"] = "pixel"
    width: int = Field(64, ge=1)
    norm: Norm = "instance"

    smallest: ClassVar[int] = 1

    def build(self, in_channels: int) -> Pixel:
        network = Pixel(in_channels, self.width, self.norm)
        initialise(network)
        return network


class PatchGAN(Chain):
    """Maps images (N, C, H, W) to logits (N, 1, h, w), one a patch."""

    def __init__(self, in_channels: int, width: int = 64, layers: int = 3, norm: Norm = "instance"):
        bias = norm != "batch"
        widths = [min(2**layer, 8) * width for layer in range(layers + 1)]
        chain = [Layer(nn.Conv2d(in_channels, width, 4, 2, 1))]
        for layer in range(1, layers + 1):
            before, after = widths[layer - 1], widths[layer]
            stride = 2 if layer < layers else 1
            chain.append(Layer(nn.Conv2d(before, after, 4, stride, 1, bias=bias), slope=0.2,
                               norm=make_norm(norm, before) if layer > 1 else None))
        chain.append(Layer(nn.Conv2d(widths[-1], 1, 4, 1, 1), slope=0.2, norm=make_norm(norm, widths[-1])))
        super().__init__(*chain)


class Pixel(Chain):
    """Maps images (N, C, H, W) to logits (N, 1, H, W), one a pixel."""

    def __init__(self, in_channels: int, width: int = 64, norm: Norm = "instance"):
        bias = norm != "batch"
        super().__init__(
            Layer(nn.Conv2d(in_channels, width, 1)),
            Layer(nn.Conv2d(width, 2 * width, 1, bias=bias), slope=0.2),
            Layer(nn.Conv2d(2 * width, 1, 1, bias=bias), slope=0.2, norm=make_norm(norm, 2 * width)))
