"""Heads on a discriminator's hidden features: what they recognise of an image beside real or fake."""

from __future__ import annotations

from torch import Tensor, nn

from translate.networks.layers import Chain, Layer
from translate.networks.weights import initialise

HEAD_WIDTH = 128


class RecognitionHead(nn.Module):
    """Maps hidden features (N, F) to numbers (N, num): a dense layer of 128, batch norm, LeakyReLU and a dense layer.

    InfoGAN's Q is such a head (Chen et al. 2016, appendix C.1), and CAN's classifier of styles.
    """

    def __init__(self, hidden_size: int, num: int):
        super().__init__()
        self.chain = initialise(Chain(Layer(nn.Conv2d(hidden_size, HEAD_WIDTH, 1)),
                                      Layer(nn.Conv2d(HEAD_WIDTH, num, 1), norm=nn.BatchNorm2d(HEAD_WIDTH),
                                            slope=0.1)))

    def forward(self, hidden: Tensor) -> Tensor:
        return self.chain(hidden[:, :, None, None]).flatten(1)
