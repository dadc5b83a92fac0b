"""What is kept of the images that are compared, by this process or by the workers of a cluster: the same of each.

An image is looked at by itself, so that it does not matter who does it and in which order. Pixels stay where they are
read; features, scores and small copies come back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from copy import copy
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor

from translate.cluster.ray_engine import RayEngine
from translate.data.check_pixels import PixelCount
from translate.errors import DataError, TranslateError, visible
from translate.evaluation.folder_images import Images
from translate.metrics import diversity, features, perceptual
from translate.metrics.baselines import ColourTransfer, identity
from translate.metrics.features import FeatureNetwork
from translate.metrics.observations import Observed, observe

PIXELS = 1_000_000  # of an image, as far as its worker's next one is concerned: sizes are not looked up
Side = Literal["reals", "images", "sources"]
Item = tuple[Side, int]  # an image


@dataclass(frozen=True)
class Observers:
    """What images are looked at with on this machine, and a line for each that is missing."""

    networks: list[FeatureNetwork]
    lpips: perceptual.LPIPS | None
    missing: list[str]

    @classmethod
    def here(cls, *, paired: bool, beside: Sequence[FeatureNetwork] = ()) -> Observers:
        """Load all whose weights are there; `paired`: also what compares an image with its truth."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        networks, missing = features.available(device)
        lpips: perceptual.LPIPS | str | None = perceptual.available(device) if paired else None
        if isinstance(lpips, str):
            missing, lpips = [lpips, *missing], None
        return cls([*networks, *beside], lpips, missing)

    @property
    def titles(self) -> tuple[str, ...]:
        """What they are, in words."""
        return *(network.title for network in self.networks), *["LPIPS"] * (self.lpips is not None)


@dataclass
class Observing:
    """Looks at the images of three sides; also the task of a worker.

    paired          real i is the truth of image i
    sources_paired  image i was made from source i
    beside          what sets are compared by, whatever is on this machine
    transfer        the colours of the real images, for the baselines; None: sources are not looked at yet
    expected        what images have to be looked at with; None: whatever is there
    """

    images: Images
    reals: Images
    sources: Images | None
    paired: bool
    sources_paired: bool
    beside: tuple[FeatureNetwork, ...] = ()
    transfer: ColourTransfer | None = None
    expected: tuple[str, ...] | None = None

    @cached_property
    def observers(self) -> Observers:
        """What is there. Raises `DataError` where it is not what is expected."""
        found = Observers.here(paired=self.paired, beside=self.beside)
        if self.expected is not None and found.titles != self.expected:
            raise DataError(f"a worker of the cluster has not the networks that scores are computed by here: "
                            f"{', '.join(found.titles) or 'none'} in place of {', '.join(self.expected) or 'none'}",
                            advice="have all nodes see the same weights: " + "; ".join(found.missing))
        return found

    def real(self, number: int) -> tuple[tuple[Tensor, Tensor], Observed]:
        """Return the moments of a real image's colours, and what is kept of it."""
        real = self.reals.read(number)
        networks = self.observers.networks
        return ColourTransfer.moments(real), observe(real, None, networks, small=diversity.THUMBNAIL_SIDE)

    def image(self, number: int) -> Observed:
        """Return what is kept of an image. Raises `DataError` that names it where it cannot be compared."""
        image, truth = self.images.read(number), self.reals.read(number) if self.paired else None
        try:
            return self._seen(image, truth)
        except DataError as error:
            path = self.images.paths[number] if self.images.paths else f"image {number}"
            known = self.paired and self.reals.paths
            its_truth = f"its truth is {visible(self.reals.paths[number])}" if known else None
            raise DataError(error.what, path, error.advice or its_truth) from None

    def source(self, number: int) -> tuple[Observed, Observed] | None:
        """Return what is kept of a source as it is, and in the real images' colours: of the two baselines.

        None where it has not the channels of the real images, or not the size of its truth.
        """
        assert self.sources is not None and self.transfer is not None
        truth = self.reals.read(number) if self.paired and self.sources_paired else None
        plain = identity(self.sources.read(number), len(self.transfer.mean))
        if plain is None or (truth is not None and truth.shape != plain.shape):
            return None
        return self._seen(plain, truth), self._seen(self.transfer(plain), truth)

    def _seen(self, image: Tensor, truth: Tensor | None) -> Observed:
        return observe(image, truth, self.observers.networks, small=diversity.THUMBNAIL_SIDE,
                       lpips=self.observers.lpips)

    @property
    def values(self) -> dict[Side, PixelCount]:
        """What values have been seen in the files of each side that has files."""
        sides: dict[Side, Images | None] = {"reals": self.reals, "images": self.images, "sources": self.sources}
        return {side: of.values for side, of in sides.items() if of is not None and of.values is not None}

    def sizes(self, items: Sequence[Item]) -> list[int]:
        """Return the work of each image: as if all were alike."""
        return [PIXELS] * len(items)

    def do(self, items: Sequence[Item], stop: object = False) -> tuple[list[tuple[Item, Any]], dict[Side, PixelCount]]:
        """Look at images; return what is kept of each, and what values this process has seen of each side so far."""
        look: dict[Side, Callable[[int], Any]] = {"reals": self.real, "images": self.image, "sources": self.source}
        found = []
        for side, number in items:
            if stop:
                break
            found.append(((side, number), look[side](number)))
        return found, self.values


def look_at(task: Observing, items: Sequence[Item], engine: RayEngine | None,
            on_progress: Callable[[int], object]) -> dict[Item, Any]:
    """Return what is kept of images, whoever looks at them; `on_progress` is told of how many there is something.

    Raises `DataError` that names the image that cannot be compared, and what reading one raises.
    """
    found: dict[Item, Any] = {}
    if engine is None:
        for item in items:
            found.update(task.do([item])[0])
            on_progress(len(found))
        return found

    # What values there are in a folder, its process says to a person.
    with closing(engine.run(items, partial(copy, task), False, deadly)) as parts:
        for seen, values in parts:
            found.update(seen)
            for side, count in (values or {}).items():
                if side in task.values:
                    task.values[side].add(count)
            on_progress(len(found))
    return found


def deadly(item: Item, error: str, what: str) -> None:
    """Raise `TranslateError`: scores without an image with which workers die would be others."""
    raise TranslateError(f"image {item[1]} of the {item[0]}: {what} ({error})")
