"""The image pool: past fakes a discriminator is shown again, so that it does not forget (Shrivastava et al. 2017).

CycleGAN keeps 50. Pools live in ordinary memory as 8-bit images: at 2000×2000 two pools of 50 would take 4.8 GB of
float32 on the card and in every checkpoint, and take 1.2 GB so. What is replayed is what was stored.
"""

from __future__ import annotations

import itertools
import random

import torch
from torch import Tensor

from translate.precision import sent

Mark = tuple[dict[int, Tensor], tuple]  # what is staged, and the chance that is drawn from next


class ImagePool:
    """`capacity` past fakes. Changes are staged until `commit`, so that a phase which failed can be undone."""

    def __init__(self, capacity: int, seed: int):
        self.capacity = capacity
        self.images: list[Tensor] = []  # each (C, H, W) uint8 on the CPU
        self.random = random.Random(seed)
        self._staged: dict[int, Tensor] = {}

    def exchange(self, fakes: Tensor, waits: bool = True) -> Tensor:
        """Show `fakes` (N, C, H, W) to the pool; get back as many, each with even chance itself or a past one.

        While the pool is not full every fake is kept and returned unchanged. If not `waits`, what is kept may still be
        on its way from the device, and must have arrived before `commit` is called.
        """
        if self.capacity == 0:
            return fakes
        return torch.stack([self._exchange_one(fake, waits) for fake in fakes])

    def commit(self) -> None:
        """Make the staged exchanges final."""
        for slot in sorted(self._staged):
            staged = self._staged[slot]
            self.images[slot:slot + 1] = [staged.clone() if staged.is_pinned() else staged]
        self._staged = {}

    def mark(self) -> Mark:
        """Return what `undo` goes back to: the exchanges that are staged by now. It is void after a commit."""
        return dict(self._staged), self.random.getstate()

    def undo(self, mark: Mark) -> None:
        """Forget the exchanges since a mark, and the chances they drew."""
        self._staged, chance = dict(mark[0]), mark[1]
        self.random.setstate(chance)

    def _exchange_one(self, fake: Tensor, waits: bool) -> Tensor:
        filled = max(len(self.images), max(self._staged, default=-1) + 1)
        if filled < self.capacity:
            self._staged[filled] = to_bytes(fake, waits)
            return fake
        if self.random.random() < 0.5:
            return fake
        slot = self.random.randrange(self.capacity)
        past = self._staged[slot] if slot in self._staged else self.images[slot]
        if past.shape != fake.shape:  # stored at an earlier stage's resolution: it has nothing to teach any more
            self._staged[slot] = to_bytes(fake, waits)
            return fake
        self._staged[slot] = to_bytes(fake, waits)
        return from_bytes(past, fake)

    def state(self) -> tuple[list[Tensor], list[object]]:
        """Return the stored images and the random state, for a checkpoint."""
        version, internal, gauss = self.random.getstate()
        return self.images, [version, list(internal), gauss]

    def load(self, images: list[Tensor], random_state: list) -> None:
        """Continue from what `state` returned."""
        version, internal, gauss = random_state
        self.random.setstate((version, tuple(internal), gauss))
        self.images, self._staged = list(images), {}


def dealt(pools: list[tuple[list[Tensor], list]], rank: int, num_processes: int,
          capacity: int) -> tuple[list[Tensor], list]:
    """Return the pool of process `rank` of `num_processes`, of images that the `pools` of other processes held.

    Every image comes to one process, as far as its `capacity` reaches. No two processes draw the same chances.
    """
    images = [image for slot in itertools.zip_longest(*(held for held, _ in pools)) for image in slot
              if image is not None]
    version, internal, gauss = pools[rank % len(pools)][1]
    chance = random.Random()
    chance.setstate((version, tuple(internal), gauss))
    chance.seed(chance.getrandbits(64) + rank)
    version, own, gauss = chance.getstate()
    return images[rank::num_processes][:capacity], [version, list(own), gauss]


def to_bytes(image: Tensor, waits: bool = True) -> Tensor:
    """Return an image in [-1, 1] as bytes, 0 … 255, on the CPU; if not `waits`, before they have come from a GPU."""
    levels = image.detach().float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.to("cpu", non_blocking=not waits)


def from_bytes(stored: Tensor, like: Tensor) -> Tensor:
    """Return bytes as an image in [-1, 1], with the device and dtype of `like`."""
    return sent(stored, like.device).to(like.dtype).div(127.5).sub(1)
