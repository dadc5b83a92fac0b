"""StackGAN: an image from a sentence in two stages, a sketch and what sharpens it (Zhang et al. 2017, section 3).

Stage I draws a small image of a latent and an embedding of a text. Stage II, one level of the recipe's stages, looks at
that image, encodes it to a quarter of its sides, joins the embedding again, and draws one of four times the sides. Each
has a discriminator of its own; in a stage with `freeze: true` the second is trained alone, as published.

What is joined is no embedding as it is, but a draw from N(μ, σ²) of both linear in it (conditioning augmentation,
section 3.2), whose divergence from N(0, 1), `divergence`, is a loss of the generator: so nearby texts draw nearby
images. The ε of that draw is part of what a sample draws: `num_drawn` numbers, the latent and an ε for each stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from translate.errors import Mistake
from translate.networks.growing import Growable, LevelStage
from translate.networks.latent.latents import LatentConfig, LatentGenerator, WholeConfig, WholeDiscriminator
from translate.networks.layers import Block, Chain, Layer, Norm, make_norm
from translate.networks.weights import Initialisation, initialise, prepared
from translate.precision import at_least_float32

SMALLEST = 4  # px that an image begins with, and that a discriminator ends at (M_d)
STAGE_FACTOR = 4  # of the second stage's sides to the first's
WIDEST = 8  # times a discriminator's width, of its last layers
StackGANSide = Literal[16, 32, 64]


def side_of(side: int, levels: int) -> int:
    """Return the side of images after so many levels, in px."""
    return side * STAGE_FACTOR**levels


class StackGANConfig(LatentConfig, Growable):
    """StackGAN's generators; at 64 px and width 96 those of the authors' code, and 256 px with one level."""

    kind: Literal["stackgan"] = "stackgan"
    side: StackGANSide = 64  # px of the first stage
    distribution: Literal["normal"] = "normal"
    width: int = Field(96, ge=4, le=4096)  # channels before the first stage's image; doubled towards the dense layer
    embedding: int = Field(128, ge=1, le=65_536)  # N_g: numbers of an augmented condition
    blocks: int = Field(4, ge=0, le=64)  # residual ones of the second stage
    init: Initialisation = "normal"

    grows: ClassVar[bool] = True
    fades: ClassVar[bool] = False
    needs_conditions: ClassVar[bool] = True

    @property
    def num_drawn(self) -> int:
        return self.latent + 2 * self.embedding

    def build(self, conditions: int, channels: int) -> StackGAN:
        return prepared(StackGAN(self, conditions, channels), self.init, spectral=False)

    def grow(self, network: StackGAN) -> None:
        network.grow(self.width, self.blocks)
        for part in network.newest():
            initialise(part, init=self.init)

    @property
    def has_batch_norm(self) -> bool:
        return True

    def side_at(self, levels: int) -> int:
        return side_of(self.side, levels)

    def level_problems(self, stages: Sequence[LevelStage], begun: bool = False) -> Iterator[Mistake]:
        yield from super().level_problems(stages, begun)
        for number, stage in enumerate(stages):
            if stage.levels > 1:
                yield Mistake(f"stages.{number}.levels", f"{stage.levels}, and a StackGAN has two stages", "use 1")


class StackGANDiscriminatorConfig(WholeConfig, Growable):
    """StackGAN's discriminators, which see the embedding of a text where an image is 4×4."""

    kind: Literal["stackgan"] = "stackgan"
    side: StackGANSide = 64
    width: int = Field(96, ge=1, le=4096)  # channels of the first layer; doubled by each that follows, to eight times
    embedding: int = Field(128, ge=1, le=65_536)  # N_d: numbers of a condition as D sees it
    norm: Norm = "batch"
    init: Initialisation = "normal"

    grows: ClassVar[bool] = True
    fades: ClassVar[bool] = False

    def build(self, channels: int, conditions: int = 0) -> StackGANDiscriminator:
        network = StackGANDiscriminator(channels, conditions, self.side, self.width, self.embedding, self.norm)
        return prepared(network, self.init, spectral=False)

    def grow(self, network: StackGANDiscriminator) -> None:
        network.grow()
        initialise(network, init=self.init)

    def side_at(self, levels: int) -> int:
        return side_of(self.side, levels)


class Augmentation(nn.Module):
    """Conditioning augmentation: a condition (N, K, 1, 1) and ε (N, E, 1, 1) to ĉ = μ + σ·ε (N, E, 1, 1)."""

    def __init__(self, conditions: int, embedding: int):
        super().__init__()
        self.dense = nn.Conv2d(conditions, 2 * embedding, 1)

    def forward(self, condition: Tensor, noise: Tensor) -> Tensor:
        mean, log_variance = self.dense(condition).chunk(2, dim=1)
        return mean + (log_variance / 2).exp() * noise

    def divergence(self, condition: Tensor) -> Tensor:
        """Return D_KL(N(μ, σ²) ‖ N(0, 1)), the mean over samples, a scalar (eq. 2)."""
        mean, log_variance = at_least_float32(self.dense(condition)).chunk(2, dim=1)
        return (mean.square() + log_variance.exp() - 1 - log_variance).sum((1, 2, 3)).mean() / 2


class StackGAN(LatentGenerator):
    """The first stage, and with a level the second behind it. Their images have a tanh."""

    levels = 0

    def __init__(self, config: StackGANConfig, conditions: int, channels: int):
        super().__init__()
        self.latent, self.embedding, self.channels = config.num_drawn, config.embedding, channels
        self.sizes = [config.latent, config.embedding, config.embedding, conditions]
        self.conditions = conditions
        self.augmentation = Augmentation(conditions, config.embedding)
        num_doublings = (config.side // SMALLEST).bit_length() - 1
        widths = [config.width * 2**level for level in reversed(range(num_doublings + 1))]
        dense = nn.ConvTranspose2d(config.latent + config.embedding, widths[0], SMALLEST, bias=False)
        self.sketch = Chain(Layer(dense), *upsampling(widths, channels))
        self.second: SecondStage | None = None

    def forward(self, given: Tensor) -> Tensor:
        latent, noise, other_noise, condition = given.split(self.sizes, 1)
        image = self.sketch(torch.cat([latent, self.augmentation(condition, noise)], dim=1))
        return image if self.second is None else self.second(image, condition, other_noise)

    def divergence(self, given: Tensor) -> Tensor:
        """Return that of the newest stage's augmented conditions, a scalar."""
        augmentation = self.augmentation if self.second is None else self.second.augmentation
        return augmentation.divergence(given[:, self.latent:])

    def grow(self, width: int, blocks: int) -> None:
        """Add the second stage."""
        self.second = SecondStage(self.conditions, self.embedding, self.channels, width, blocks)
        self.levels += 1

    def drop_faded(self) -> None:
        """Do nothing: the second stage needs the first."""

    def newest(self) -> list[nn.Module]:
        """Return the second stage; nothing before."""
        return [] if self.second is None else [self.second]


class SecondStage(nn.Module):
    """Encodes an image to a quarter of its sides, joins a condition, and draws one of four times its sides."""

    def __init__(self, conditions: int, embedding: int, channels: int, width: int, blocks: int):
        super().__init__()
        self.augmentation = Augmentation(conditions, embedding)
        most = 4 * width
        self.encoder = Chain(Layer(nn.Conv2d(channels, width, 3, 1, 1)),
                             Layer(nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False), slope=0.0),
                             Layer(nn.Conv2d(2 * width, most, 4, 2, 1, bias=False), norm=nn.BatchNorm2d(2 * width),
                                   slope=0.0))
        self.norm = nn.BatchNorm2d(most)
        self.join = Chain(Layer(nn.Conv2d(most + embedding, most, 3, 1, 1, bias=False)))
        self.blocks = nn.Sequential(*(Block(Chain(
            Layer(nn.Conv2d(most, most, 3, 1, 1, bias=False), norm=nn.BatchNorm2d(most), slope=0.0),
            Layer(nn.Conv2d(most, most, 3, 1, 1, bias=False), norm=nn.BatchNorm2d(most), slope=0.0)), norm=None)
            for _ in range(blocks)))
        self.draw = Chain(*upsampling([most, most // 2, most // 4, most // 8, most // 16], channels))

    def forward(self, image: Tensor, condition: Tensor, noise: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.encoder(image)))
        joined = self.augmentation(condition, noise).expand(-1, -1, *features.shape[2:])
        return self.draw(self.blocks(self.join(torch.cat([features, joined], dim=1))))


def upsampling(widths: Sequence[int], channels: int) -> Iterator[Layer]:
    """Yield norm → ReLU → enlarge → conv for each of the widths but the first, and a layer to an image."""
    for before, after in pairwise(widths):
        yield Layer(nn.Conv2d(before, after, 3, 1, 1, bias=False), norm=nn.BatchNorm2d(before), slope=0.0,
                    scale_factor=2)
    yield Layer(nn.Conv2d(widths[-1], channels, 3, 1, 1), norm=nn.BatchNorm2d(widths[-1]), slope=0.0, last=nn.Tanh())


class StackGANDiscriminator(WholeDiscriminator):
    """Strided convolutions to 4×4, the condition joined there, a convolution and a dense layer to a logit.

    A level takes another one in its place, for the second stage's images.
    """

    levels = 0

    def __init__(self, channels: int, conditions: int, side: int, width: int, embedding: int, norm: Norm):
        super().__init__()
        self.channels, self.side, self.width, self.norm = channels, side, width, norm
        self.embed = nn.Conv2d(conditions, embedding, 1) if conditions else None
        self.embedding = embedding if conditions else 0
        self.hidden_size = WIDEST * width * SMALLEST**2
        self.judge = self.judging()

    @property
    def num_halvings(self) -> int:
        return (side_of(self.side, self.levels) // SMALLEST).bit_length() - 1

    def judging(self) -> nn.ModuleList:
        """Return the layers to 4×4, and those from there on, for images of this level."""
        # The last is as wide at every level, so that heads on it keep their size
        widths = [*(min(2**level, WIDEST) * self.width for level in range(self.num_halvings - 1)), WIDEST * self.width]
        bias = self.norm != "batch"
        down = Chain(*(Layer(nn.Conv2d(before, after, 4, 2, 1, bias=bias or number == 0), slope=0.2 if number else None,
                             norm=make_norm(self.norm, before) if number > 1 else None)
                       for number, (before, after) in enumerate(pairwise([self.channels, *widths]))))
        last = widths[-1]
        return nn.ModuleList([down, Chain(
            Layer(nn.Conv2d(last + self.embedding, last, 3, 1, 1, bias=bias), slope=0.2),
            Layer(nn.Conv2d(last, 1, SMALLEST), norm=make_norm(self.norm, last), slope=0.2))])

    def joined(self, image: Tensor, condition: Tensor) -> Tensor:
        """Return the features of an image at 4×4, and behind them its condition, embedded."""
        features = self.judge[0](image)
        if self.embed is None:
            return features
        return torch.cat([features, self.embed(condition.to(image.dtype)).expand(-1, -1, SMALLEST, SMALLEST)], dim=1)

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        return self.judge[1](self.joined(image, condition))

    def hidden(self, image: Tensor, condition: Tensor) -> Tensor:
        first, last = cast(tuple[Layer, Layer], tuple(cast(Chain, self.judge[1])))
        return last.activated(first(self.joined(image, condition))).flatten(1)

    def grow(self) -> None:
        """Judge images of four times the sides from now on, anew."""
        self.levels += 1
        self.judge = self.judging()

    def drop_faded(self) -> None:
        """Do nothing: what was before is gone at once."""

    def newest(self) -> list[nn.Module]:
        """Return what judges the second stage; nothing before."""
        return [self.judge] if self.levels else []
