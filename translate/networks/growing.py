"""Outer levels: a trained network becomes one for images of twice the size (Karras et al. 2018, section 3).

A level is a layer down from the new size and, in a generator, a layer up to it. The network inside keeps seeing the
scale it knows. While a level fades in, a network has both ends, and with s (2×2 means), e (each pixel four times) and
the share α of the new level

    a generator        G(x) = (1 − α) · e(old exit(h)) + α · new exit(h)      of the features h inside, made from
                       (1 − α) · old entry(s(x)) + α · new entry(x)
    a discriminator    (1 − α) · old entry(s(x)) + α · new entry(x), and then as before

so that at α = 0 a grown generator is e ∘ old G ∘ s and a grown discriminator is old D ∘ s: exactly, for images whose
sides divide by the grown network's `multiple` (others are padded first, and what is made up then differs). As s ∘ e
changes nothing, so are all chains of them: a cycle there and back, a discriminator of a fake. At α = 1 the old ends
do nothing; `settle` lets go of them.

What can grow answers the following, and its config has `grow(network)`, which adds one level with weights as fresh as
those of `build`:

    levels       how many it has gained
    newest()     the modules of the level that was gained last; none before
    settle()     from now on the newest level alone; nothing happens where none is fading in
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from translate.networks.layers import Chain, Layer


@runtime_checkable
class Growable(Protocol):
    """The config of a network that can gain outer levels."""

    fades: ClassVar[bool]  # whether a level can be faded in; else it is there at once

    def grow(self, network: Any) -> None:
        """Add one outer level to `network`, which this built: fading in, where it can, until it is settled."""


class Grown(Protocol):
    """A network that such a config has built."""

    levels: int

    def newest(self) -> list[nn.Module]: ...

    def settle(self) -> None: ...


def add_level(config: Growable, network: nn.Module) -> None:
    """Grow by one level, after what was fading in has settled; where the network is, and in its number format."""
    like = next(network.parameters())
    cast(Grown, network).settle()
    with torch.device(like.device):
        config.grow(network)
    network.to(dtype=like.dtype)


def extend(config: Growable, network: nn.Module, levels: int, fading: bool) -> None:
    """Bring a network to so many levels, the newest of them fading in or there for good."""
    grown = cast(Grown, network)
    while grown.levels < levels:
        add_level(config, network)
    if not fading:
        grown.settle()


def fade_in(network: nn.Module, alpha: float) -> None:
    """Set the share of the level that is fading in, from 0 to 1, where there is one."""
    for part in network.modules():
        if isinstance(part, Fading):
            part.alpha = alpha


def outer_width(width: int) -> int:
    """The channels of a level around one of `width`: half of them, as there are four times the pixels; 16 are kept."""
    return max(width // 2, min(width, 16))


def shrunk(image: Tensor, round_up: bool = False) -> Tensor:
    """Half the size: means of 2×2 pixels, or of those there are where an odd side is rounded up."""
    return F.avg_pool2d(image, 2, ceil_mode=round_up)


def enlarged(image: Tensor) -> Tensor:
    """Twice the size: each pixel four times."""
    return F.interpolate(image, scale_factor=2, mode="nearest")


class Fading(nn.Module):
    """A place where a network changes from what it had to its newest level. `alpha` is the share of the latter.

    It is a number on the host, a function of the images seen, and no part of the weights.
    """

    alpha: float = 0.0

    def mix(self, old: Tensor, new: Tensor) -> Tensor:
        return torch.lerp(old.to(new.dtype), new, self.alpha)


class FadingEntry(Fading):
    """In the place of a chain's first layer: it, of the image at half the size, and the layers that come instead."""

    def __init__(self, old: Layer, new: Iterable[Layer]):
        super().__init__()
        self.old, self.new = old, nn.ModuleList(new)

    def forward(self, image: Tensor, keep_input: bool = False) -> Tensor:
        *_, y = self.outputs(image, keep_input)
        return y

    def outputs(self, image: Tensor, keep_input: bool) -> list[Tensor]:
        """What the layers give that come instead; of the last, mixed with what was there."""
        found, y = [], image
        for layer in self.new:
            y = layer(y, keep_input)
            found.append(y)
        return [*found[:-1], self.mix(self.old(shrunk(image), keep_input), y)]

    def features(self, image: Tensor, keep_input: bool) -> list[Tensor]:
        """The same as the features they will be: those that nothing was there for count as their share."""
        *fresh, last = self.outputs(image, keep_input)
        return [*(self.alpha * found for found in fresh), last]


class FadingExit(Fading):
    """The last layer of a generator, enlarged, and the layers that come instead."""

    def __init__(self, old: Chain, new: Chain):
        super().__init__()
        self.old, self.new = old, new

    def forward(self, features: Tensor) -> Tensor:
        return self.mix(enlarged(self.old(features)), self.new(features))


class FadingLevel(Fading):
    """The outermost level that a U-Net had: `down` from the image at half the size, `up` to one at half the size."""

    def __init__(self, down: nn.Module, up: nn.Module):
        super().__init__()
        self.down, self.up = down, up

    def enter(self, image: Tensor, new: Tensor) -> Tensor:
        return self.mix(self.down(shrunk(image)), new)

    def leave(self, skip: Tensor, features: Tensor) -> Tensor:
        return enlarged(self.up(skip, features))
