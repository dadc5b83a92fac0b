"""A stack of generators, each of which inverts a layer of a classifier (Stacked GAN, Huang et al. 2017, section 3).

The classifier, the encoder, makes features h of an image and a class of these. The upper generator draws features of a
class and a latent, the lower one an image of features and a latent; each has a discriminator of what it draws. Encoder,
upper generator and discriminator of features have the sizes of the authors' code for digits (`xunhuang1995/SGAN` on
GitHub). The lower generator and the discriminator of images are any of this house; theirs are convolutions as well.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor, nn

from translate.networks.latent.latents import LatentGenerator
from translate.networks.latent.mlp import Dense, MLPDiscriminator, Widths
from translate.networks.layers import Chain, Layer
from translate.networks.weights import initialise
from translate.schema import Config


class EncoderConfig(Config):
    """A classifier whose last hidden layer is the features."""

    width: int = Field(32, ge=1, le=4096)  # channels of both convolutions
    features: int = Field(256, ge=1, le=65_536)  # numbers of h

    def side_of_features(self, side: int) -> int:
        """Return the side of what its dense layer sees of an image of `side` px; 0 or less: the image is too small."""
        return ((side - 4) // 2 - 4) // 2

    def build(self, channels: int, side: int, num_classes: int) -> Encoder:
        return Encoder(channels, self.width, self.side_of_features(side), self.features, num_classes)


class Encoder(nn.Module):
    """Two 5×5 convolutions, each with ReLU and pooling, a dense layer to the features, another to the classes."""

    def __init__(self, channels: int, width: int, side: int, features: int, num_classes: int):
        super().__init__()
        self.inner = Chain(Layer(nn.Conv2d(channels, width, 5), last=nn.MaxPool2d(2)),
                           Layer(nn.Conv2d(width, width, 5), slope=0.0, last=nn.MaxPool2d(2)),
                           Layer(nn.Conv2d(width, features, side), slope=0.0, last=nn.ReLU()))
        self.outer = Chain(Layer(Dense(features, num_classes)))

    def forward(self, image: Tensor) -> Tensor:
        """Return the features (N, F, 1, 1) of images (N, C, side, side): none is below 0."""
        return self.inner(image)

    def classes(self, features: Tensor) -> Tensor:
        """Return the logits (N, classes) of features (N, F, 1, 1)."""
        return self.outer(features).flatten(1)


class FeatureGeneratorConfig(Config):
    """A perceptron that draws features of a class and a latent."""

    latent: int = Field(50, ge=1, le=65_536)  # numbers of its latent
    widths: Widths = Field((512, 512), min_length=1, max_length=16)

    def build(self, conditions: int, features: int) -> Chain:
        """Return a network (N, latent + conditions, 1, 1) → (N, features, 1, 1): batch norm and ReLU behind each hidden
        layer, ReLU at the end."""
        sizes = [self.latent + conditions, *self.widths, features]
        return initialise(Chain(*(
            Layer(Dense(before, after, bias=number == len(self.widths)), slope=0.0 if number else None,
                  norm=nn.BatchNorm2d(before) if number else None,
                  last=nn.ReLU() if number == len(self.widths) else None)
            for number, (before, after) in enumerate(pairwise(sizes)))))


class FeatureDiscriminatorConfig(Config):
    """A perceptron that judges features."""

    widths: Widths = Field((256, 256), min_length=1, max_length=16)

    def build(self, features: int) -> MLPDiscriminator:
        return MLPDiscriminator(features, self.widths)


class Stack(LatentGenerator):
    """Both generators: what the upper one draws, the lower one draws an image of.

    It is given (N, D, 1, 1): the lower generator's latent, the upper one's, and the class.
    """

    def __init__(self, upper: Chain, lower: LatentGenerator, upper_latent: int):
        super().__init__()
        self.upper, self.lower = upper, lower
        self.latent = lower.latent + upper_latent

    def forward(self, given: Tensor) -> Tensor:
        own, above = self.parts(given)
        return self.lower(torch.cat([own, self.upper(above)], dim=1))

    def parts(self, given: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the lower generator is given besides features, and all that the upper one is given."""
        return given[:, :self.lower.latent], given[:, self.lower.latent:]
