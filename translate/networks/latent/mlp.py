"""Perceptrons that draw and judge small images (Goodfellow et al. 2014; sizes as in the lectures' code).

A dense layer is written as a 1×1 convolution of an image of one pixel, so that it is a `Layer` as all others: memory
plans, spectral norm and orthogonal regularisation know it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from translate.networks.discriminators import MinibatchDiscrimination
from translate.networks.latent.latents import ChainDiscriminator, LatentConfig, LatentGenerator, WholeConfig
from translate.networks.layers import Chain, Layer, Norm, make_norm
from translate.networks.weights import spectrally_normed

Widths = tuple[Annotated[int, Field(ge=1, le=65_536)], ...]


class Dense(nn.Conv2d):
    """A 1×1 convolution of images of one pixel, (N, C, 1, 1) to (N, C', 1, 1), computed as the matrix product it is.

    On a CPU that takes a third of the time that oneDNN's convolution does.
    """

    def __init__(self, before: int, after: int, bias: bool = True):
        super().__init__(before, after, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None]


class MLPConfig(LatentConfig):
    """A perceptron z → 128 → 256 → 512 → 1024 → image, ReLU and tanh."""

    kind: Literal["mlp"] = "mlp"
    side: int = Field(28, ge=4, le=256)
    widths: Widths = Field((128, 256, 512, 1024), min_length=1, max_length=16)
    norm: Literal["batch", "none"] = "none"  # of all hidden layers but the first; batch: more varied images

    def build(self, conditions: int, channels: int) -> MLP:
        return MLP(self.latent, conditions, channels, self.side, self.widths, self.norm)

    @property
    def joins_classes(self) -> bool:
        return True

    @property
    def least_samples(self) -> int:
        return 2 if self.norm == "batch" else 1

    @property
    def has_batch_norm(self) -> bool:
        return self.norm == "batch" and len(self.widths) > 1

    def side_at(self, levels: int) -> int:
        return self.side


class MLP(LatentGenerator):
    """A perceptron from a latent and its conditions, joined, to all values of an image."""

    def __init__(self, latent: int, conditions: int, channels: int, side: int, widths: Widths, norm: Norm = "none"):
        super().__init__()
        self.latent, self.shape = latent, (channels, side, side)
        sizes = [latent + conditions, *widths, channels * side * side]
        self.chain = Chain(*(
            Layer(Dense(before, after), slope=0.0 if number else None,
                  norm=make_norm(norm, before) if number > 1 else None,
                  last=nn.Tanh() if number == len(widths) else None)
            for number, (before, after) in enumerate(pairwise(sizes))))

    def forward(self, given: Tensor) -> Tensor:
        return self.chain(given).view(-1, *self.shape)


class MLPDiscriminatorConfig(WholeConfig):
    """A perceptron image → 512 → 256 → 128 → logit, LeakyReLU."""

    kind: Literal["mlp"] = "mlp"
    side: int = Field(28, ge=4, le=256)
    widths: Widths = Field((512, 256, 128), min_length=1, max_length=16)
    norm: Literal["none"] = "none"
    minibatch_kernels: int = Field(0, ge=0, le=1024)  # kernels that show it how near a sample is to others; 0: none
    spectral: bool = False  # spectral norm (Miyato et al. 2018): each layer's largest singular value is one

    @property
    def least_samples(self) -> int:
        return 2 if self.minibatch_kernels else 1

    def build(self, channels: int, conditions: int = 0) -> MLPDiscriminator:
        network = MLPDiscriminator(channels * self.side**2 + conditions, self.widths, self.minibatch_kernels)
        return spectrally_normed(network) if self.spectral else network

    @property
    def joins_classes(self) -> bool:
        return not self.spectral


class MLPDiscriminator(ChainDiscriminator):
    """A perceptron from all values of an image, and its condition behind them, to a logit."""

    def __init__(self, size: int, widths: Widths, minibatch_kernels: int = 0):
        super().__init__()
        self.hidden_size = widths[-1] + minibatch_kernels
        compare = MinibatchDiscrimination(widths[-1], minibatch_kernels) if minibatch_kernels else None
        self.chain = Chain(*(Layer(Dense(before, after), slope=0.2 if number else None)
                             for number, (before, after) in enumerate(pairwise([size, *widths]))),
                           Layer(Dense(self.hidden_size, 1), norm=compare, slope=0.2))

    def entered(self, image: Tensor, condition: Tensor) -> Tensor:
        return torch.cat([image.flatten(1)[:, :, None, None], condition.to(image.dtype)], dim=1)
