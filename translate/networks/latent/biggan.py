"""BigGAN's networks: residual blocks, norms that a latent and a class steer, a discriminator that projects on classes.

Brock et al. 2019, appendix B; sizes as in the authors' PyTorch code, which are 70.4 M and 88.0 M parameters at 128 px
and width 96. Attention is that of this house (`translate.networks.attention`), which has a few more.

A latent is cut into as many pieces as there are blocks, and one: the first begins the image, and each other one goes,
with the embedded class, into the norms of its block (skip-z). Classes reach them as one-hot conditions through one
embedding without a bias, which is what an embedding of their numbers is; so vectors may take their place.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import pydantic
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from translate.networks.attention import Attention
from translate.networks.growing import downsampled_2x2, upsampled
from translate.networks.latent.latents import LatentConfig, LatentGenerator, WholeConfig, WholeDiscriminator
from translate.networks.layers import Scale
from translate.networks.weights import Initialisation, prepared

BigGANSide = Literal[32, 64, 128, 256]
SMALLEST = 4  # px that an image begins with
# Channels between the blocks, as multiples of the width, from the first block's input to the last one's output
GENERATOR_WIDTHS: dict[BigGANSide, tuple[int, ...]] = {
    32: (4, 4, 4, 4), 64: (16, 16, 8, 4, 2), 128: (16, 16, 8, 4, 2, 1), 256: (16, 16, 8, 8, 4, 2, 1)}
DISCRIMINATOR_WIDTHS: dict[BigGANSide, tuple[int, ...]] = {
    32: (4, 4, 4, 4), 64: (1, 2, 4, 8, 16), 128: (1, 2, 4, 8, 16, 16), 256: (1, 2, 4, 8, 8, 16, 16)}
NUM_UNSTRIDED = {32: 2, 64: 1, 128: 1, 256: 1}  # of D's last blocks, which keep the size
AttentionSide = Literal[16, 32, 64, None]


class BigGANConfig(LatentConfig):
    """BigGAN's generator: 70.4 M parameters at 128 px, width 96, with 1000 classes."""

    kind: Literal["biggan"] = "biggan"
    side: BigGANSide = 128
    latent: int = Field(120, ge=7, le=65_536)  # cut into as many pieces as there are blocks and one more
    width: int = Field(96, ge=1, le=1024)
    shared: int = Field(128, ge=1, le=65_536)  # numbers of an embedded condition, which all norms share
    attention: AttentionSide = 64  # px at which it stands; null: none
    spectral: bool = True  # spectral norm (Miyato et al. 2018): each layer's largest singular value is one
    init: Initialisation = "orthogonal"

    def build(self, conditions: int, channels: int) -> BigGAN:
        widths = [self.width * times for times in GENERATOR_WIDTHS[self.side]]
        return prepared(BigGAN(self.latent, conditions, channels, widths, self.shared, self.attention), self.init,
                        self.spectral)

    @property
    def has_batch_norm(self) -> bool:
        return True

    def side_at(self, levels: int) -> int:
        return self.side

    @pydantic.model_validator(mode="after")
    def _attention_stands(self) -> BigGANConfig:
        check_attention(self.attention, self.side, "its images reach")
        return self


class BigGANDiscriminatorConfig(WholeConfig):
    """BigGAN's discriminator: 88.0 M parameters at 128 px, width 96, with 1000 classes."""

    kind: Literal["biggan"] = "biggan"
    side: BigGANSide = 128
    width: int = Field(96, ge=1, le=1024)
    attention: AttentionSide = 64  # px at which it stands; null: none
    norm: Literal["none"] = "none"
    spectral: bool = True
    init: Initialisation = "orthogonal"

    def build(self, channels: int, conditions: int = 0) -> BigGANDiscriminator:
        widths = [self.width * times for times in DISCRIMINATOR_WIDTHS[self.side]]
        network = BigGANDiscriminator(channels, conditions, widths, self.side, NUM_UNSTRIDED[self.side], self.attention)
        return prepared(network, self.init, self.spectral)

    @pydantic.model_validator(mode="after")
    def _attention_stands(self) -> BigGANDiscriminatorConfig:
        check_attention(self.attention, self.side // 2, "its features begin at")
        return self


def check_attention(at: int | None, largest: int, what: str) -> None:
    """Raise `ValueError` for attention at a size that a network does not have."""
    if at is not None and at > largest:
        raise ValueError(f"attention: {at} px, and {what} {largest} px; use {largest} or less, or null")


class SteeredNorm(nn.Module):
    """Batch norm whose scale and shift are linear in what steers it: (N, C, H, W) and (N, S, 1, 1) to (N, C, H, W).

    Class-conditional batch norm (Dumoulin et al. 2017; de Vries et al. 2017) of an embedding and a piece of the latent.
    """

    def __init__(self, channels: int, steering: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.scale, self.shift = (nn.Conv2d(steering, channels, 1, bias=False) for _ in range(2))

    def forward(self, x: Tensor, steering: Tensor) -> Tensor:
        return self.norm(x) * (1 + self.scale(steering)) + self.shift(steering)


class BlockUp(Scale):
    """norm → ReLU → enlarge → conv → norm → ReLU → conv, beside an enlarged 1×1 convolution of the input."""

    def __init__(self, before: int, after: int, steering: int):
        super().__init__()
        self.norms = nn.ModuleList([SteeredNorm(before, steering), SteeredNorm(after, steering)])
        self.convs = nn.ModuleList([nn.Conv2d(before, after, 3, 1, 1), nn.Conv2d(after, after, 3, 1, 1)])
        self.beside = nn.Conv2d(before, after, 1)

    def _run(self, *inputs: Tensor) -> Tensor:
        x, steering = inputs
        y = self.convs[0](upsampled(F.relu(self.norms[0](x, steering))))
        return self.convs[1](F.relu(self.norms[1](y, steering))) + upsampled(self.beside(x))


class BlockDown(Scale):
    """ReLU → conv → ReLU → conv → means of 2×2, beside the same means of a 1×1 convolution of the input.

    `first`: the image enters without ReLU. `halves`: it halves the sides.
    """

    def __init__(self, before: int, after: int, first: bool, halves: bool):
        super().__init__()
        self.first, self.halves = first, halves
        self.convs = nn.ModuleList([nn.Conv2d(before, after, 3, 1, 1), nn.Conv2d(after, after, 3, 1, 1)])
        self.beside = nn.Conv2d(before, after, 1) if before != after or halves else nn.Identity()

    def _run(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        y = self.convs[1](F.relu(self.convs[0](x if self.first else F.relu(x))))
        y = y + self.beside(x)  # means and sums may change places
        return downsampled_2x2(y) if self.halves else y


class BigGAN(LatentGenerator):
    """From the latent's first piece to 4×4, blocks that double the sides, and a convolution to an image.

    Its pieces are of one length, but the first, which has what remains besides.
    """

    def __init__(self, latent: int, conditions: int, channels: int, widths: list[int], shared: int,
                 attention: int | None):
        super().__init__()
        num_blocks = len(widths) - 1
        piece = latent // (num_blocks + 1)
        self.latent, self.sizes = latent, [latent - num_blocks * piece, *[piece] * num_blocks]
        self.embedding = nn.Conv2d(conditions, shared, 1, bias=False) if conditions else None
        steering = piece + (shared if conditions else 0)

        self.dense = nn.Conv2d(self.sizes[0], widths[0] * SMALLEST**2, 1)
        self.blocks = nn.ModuleList(BlockUp(before, after, steering) for before, after in pairwise(widths))
        sides = [SMALLEST * 2**number for number in range(1, num_blocks + 1)]
        self.attention = nn.ModuleDict({
            str(number): Attention(widths[number + 1]) for number, side in enumerate(sides) if side == attention})
        self.norm = nn.BatchNorm2d(widths[-1])
        self.to_image = nn.Conv2d(widths[-1], channels, 3, 1, 1)

    def forward(self, given: Tensor) -> Tensor:
        pieces, condition = given[:, :self.latent].split(self.sizes, 1), given[:, self.latent:]
        embedded = [] if self.embedding is None else [self.embedding(condition)]
        y = self.dense(pieces[0]).view(len(given), -1, SMALLEST, SMALLEST)
        for number, block in enumerate(self.blocks):
            y = block(y, torch.cat([pieces[number + 1], *embedded], dim=1))
            if str(number) in self.attention:
                y = self.attention[str(number)](y)
        return torch.tanh(self.to_image(F.relu(self.norm(y))))


class BigGANDiscriminator(WholeDiscriminator):
    """Blocks that halve the sides; the sum over all places gives a logit, and its product with the embedded condition
    adds to it (a projection discriminator, Miyato and Koyama 2018)."""

    def __init__(self, channels: int, conditions: int, widths: list[int], side: int, num_unstrided: int,
                 attention: int | None):
        super().__init__()
        self.hidden_size, num_halving = widths[-1], len(widths) - num_unstrided
        self.blocks = nn.ModuleList(
            BlockDown(before, after, first=number == 0, halves=number < num_halving)
            for number, (before, after) in enumerate(pairwise([channels, *widths])))
        self.attention = nn.ModuleDict({
            str(number): Attention(widths[number]) for number in range(num_halving)
            if side // 2**(number + 1) == attention})
        self.last = nn.Conv2d(widths[-1], 1, 1)
        self.embedding = nn.Conv2d(conditions, widths[-1], 1, bias=False) if conditions else None

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        features = self.hidden(image, condition)[:, :, None, None]
        logits = self.last(features)
        if self.embedding is None:
            return logits
        return logits + (self.embedding(condition.to(features.dtype)) * features).sum(1, keepdim=True)

    def hidden(self, image: Tensor, condition: Tensor) -> Tensor:
        for number, block in enumerate(self.blocks):
            image = block(image)
            if str(number) in self.attention:
                image = self.attention[str(number)](image)
        return F.relu(image).sum((2, 3))
