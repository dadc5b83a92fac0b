"""Networks that grow: a trained network becomes one for images of twice the size (Karras et al. 2018, section 3).

A level is a layer down from the new size and, in a generator, a layer up to it. The network inside keeps seeing the
scale it knows. While a level fades in, a network has both ends, and with s (2×2 means), e (each pixel four times) and
the share α of the new level

    a generator        G(x) = (1 − α) · e(old exit(h)) + α · new exit(h)      of the features h inside, made from
                       (1 − α) · old entry(s(x)) + α · new entry(x)
    a discriminator    (1 − α) · old entry(s(x)) + α · new entry(x), and then as before

so that at α = 0 a grown generator is e ∘ old G ∘ s and a grown discriminator is old D ∘ s: exactly, for images whose
sides divide by the grown network's `multiple` (others are padded first, and what is made up then differs). s ∘ e is the
identity, so this also holds for chains (a cycle there and back, the discriminator of a fake). At α = 1 the old ends do
nothing; `drop_faded` takes them out.

To make a network growable: derive its config from `Growable`, which asks for `grow(network)`, and give the network
what `Grown` says. A growable generator says by `level_problems` which stages of a recipe it refuses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from translate.errors import Mistake
from translate.networks.layers import Chain, Layer
from translate.schema import Config


class LevelStage(Protocol):
    """What a stage of a recipe says about the levels of the networks; `translate.recipe.Stage` is one."""

    @property
    def levels(self) -> int:
        """Outer levels that the networks have gained, each for images of twice the size."""

    @property
    def fade(self) -> bool:
        """Whether the newest fades in over the stage's images, and takes the place of what was there at its end."""

    @property
    def freeze(self) -> bool | Literal["trunk"]:
        """Whether of the generators the newest level is trained alone, or all but the trunk."""

    @property
    def hold_statistics(self) -> bool:
        """Whether the generators' batch norm goes by its running statistics, which stay as they are."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images, px."""


class Growable(Config, ABC):
    """The config of a network that can gain outer levels."""

    grows: ClassVar[bool] = True  # configs of networks that cannot gain levels, which are not `Growable`, say False
    fades: ClassVar[bool] = True  # whether a level can be faded in; else it is there at once

    kind: str

    @abstractmethod
    def grow(self, network: Any) -> None:
        """Add one outer level to `network`, which this built, with weights as fresh as those of `build`; fading in,
        where it can, until `drop_faded`."""

    def level_problems(self, stages: Sequence[LevelStage], begun: bool = False) -> Iterator[Mistake]:
        """Yield what is wrong with the levels of a recipe's stages for a generator of this kind; see `level_problems`.
        """
        yield from level_problems(stages, unfading=None if self.fades else f"generator.kind: {self.kind}", begun=begun)


class Grown(Protocol):
    """A network that such a config has built."""

    levels: int  # how many it has gained

    def newest(self) -> list[nn.Module]:
        """Return the modules of the level that was gained last; none before."""

    def drop_faded(self) -> None:
        """Take out what the newest level has replaced; does nothing where none is fading in."""


def level_problems(stages: Sequence[LevelStage], *, unable: str | None = None, unfading: str | None = None,
                   begun: bool = False, enlarging: bool = True) -> Iterator[Mistake]:
    """Yield what is wrong with the levels of a recipe's stages.

        unable     the choice in the recipe that rules out levels altogether; None: there may be some
        unfading   the choice in the recipe whose levels cannot be faded in; None: they can
        begun      the training begins with a network that is there, so that its first stage may fade a level in
        enlarging  a level is for images of twice the size
    """
    before, size = None, 0  # the levels of the stage before, and its shorter side in px
    for number, stage in enumerate(stages):
        here = f"stages.{number}"

        # One level at a time, for about twice the size.
        if stage.levels and unable is not None:
            yield Mistake(f"{here}.levels", f"{unable} cannot gain levels", "leave them out")
        elif before is not None and stage.levels not in (before, before + 1):
            yield Mistake(f"{here}.levels", f"{stage.levels} after {before}", "a stage has as many as the one before, "
                          f"or one more: use {before} or {before + 1}")
        elif stage.fade and (not (begun and stage.levels) if before is None else stage.levels != before + 1):
            yield Mistake(f"{here}.fade", "there is nothing to fade in, as this stage has no more levels than the one "
                          "before", "raise its levels, or leave fade out")
        elif stage.fade and unfading is not None:
            yield Mistake(f"{here}.fade", f"the levels of {unfading} do not fade in",
                          "leave fade out, and train the level alone at first (freeze: true)")
        elif enlarging and before is not None and stage.levels == before + 1 and min(stage.size) < 1.5 * size:
            yield Mistake(f"{here}.resolution", f"{min(stage.size)} px is too small for one level more than the stage "
                          f"before, of {size} px", f"a level is for twice the size, use about {2 * size}")
        if stage.freeze is True and not stage.levels:
            yield Mistake(f"{here}.freeze", "there is no level to train alone", "set levels, or leave freeze out")

        # After a jump the next stage is measured by what this one should be.
        before = stage.levels if before is None else min(stage.levels, before + 1)
        size = min(stage.size)


def add_level(config: Growable, network: nn.Module) -> None:
    """Grow by one level, on the network's device and in its number format; what was fading in is there from now on."""
    like = next(network.parameters())
    cast(Grown, network).drop_faded()
    with torch.device(like.device):
        config.grow(network)
    network.to(dtype=like.dtype)


def extend(config: Growable, network: nn.Module, levels: int, fading: bool) -> None:
    """Grow a network to so many levels, the newest of them fading in or there for good."""
    grown = cast(Grown, network)
    while grown.levels < levels:
        add_level(config, network)
    if not fading:
        grown.drop_faded()


def fade_in(network: nn.Module, alpha: float) -> None:
    """Set the share of the level that is fading in, from 0 to 1, where there is one."""
    for part in network.modules():
        if isinstance(part, Fading):
            part.alpha = alpha


def outer_width(width: int) -> int:
    """Return the channels of a level around one of `width`: half, for four times the pixels; but 16 are kept."""
    return max(width // 2, min(width, 16))


def downsampled_2x2(image: Tensor, round_up: bool = False) -> Tensor:
    """Return an image (N, C, H, W) at half its size: means of 2×2 pixels, or of those there are where an odd side is
    rounded up."""
    return F.avg_pool2d(image, 2, ceil_mode=round_up)


def upsampled(image: Tensor) -> Tensor:
    """Return an image (N, C, H, W) at twice its size: each pixel four times."""
    return F.interpolate(image, scale_factor=2, mode="nearest")


class Fading(nn.Module):
    """A place where a network changes from what it had to its newest level.

    `alpha` is the share of the newest level: a number on the host, a function of the images seen, no part of the
    weights.
    """

    alpha: float = 0.0

    def mix(self, old: Tensor, new: Tensor) -> Tensor:
        """Return (1 − α) · old + α · new, in the number format of `new`."""
        return torch.lerp(old.to(new.dtype), new, self.alpha)


class FadingEntry(Fading):
    """Stands in the place of a chain's first layer: mixes it, of the image at half the size, with the layers that
    replace it."""

    def __init__(self, old: Layer, new: Iterable[Layer]):
        super().__init__()
        self.old, self.new = old, nn.ModuleList(new)

    def forward(self, image: Tensor, keep_input: bool = False) -> Tensor:
        *_, y = self.outputs(image, keep_input)
        return y

    def outputs(self, image: Tensor, keep_input: bool) -> list[Tensor]:
        """Return the outputs of the layers that replace the first; the last one's mixed with what was there."""
        found, y = [], image
        for layer in self.new:
            y = layer(y, keep_input)
            found.append(y)
        return [*found[:-1], self.mix(self.old(downsampled_2x2(image), keep_input), y)]

    def features(self, image: Tensor, keep_input: bool) -> list[Tensor]:
        """Return the same as features: outputs that had no counterpart before are multiplied by α."""
        *fresh, last = self.outputs(image, keep_input)
        return [*(self.alpha * found for found in fresh), last]


class FadingExit(Fading):
    """Stands behind a generator's layers: mixes its last layer, upsampled, with the layers that replace it."""

    def __init__(self, old: Chain, new: Chain):
        super().__init__()
        self.old, self.new = old, new

    def forward(self, features: Tensor) -> Tensor:
        return self.mix(upsampled(self.old(features)), self.new(features))


class FadingLevel(Fading):
    """The outermost level that a U-Net had before: `down` from the image at half the size, `up` to one of that size."""

    def __init__(self, down: nn.Module, up: nn.Module):
        super().__init__()
        self.down, self.up = down, up

    def enter(self, image: Tensor, new: Tensor) -> Tensor:
        """Mix what the old level makes of the image with the `new` features of the same scale."""
        return self.mix(self.down(downsampled_2x2(image)), new)

    def leave(self, skip: Tensor, features: Tensor) -> Tensor:
        """Return the old level's image at the full size, to be mixed with the new one."""
        return upsampled(self.up(skip, features))
