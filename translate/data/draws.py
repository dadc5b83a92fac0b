"""Random numbers for a step, seeded per sample: they depend on the sample and on what they are for, on nothing else.

A sample's key is a function of (seed, epoch, image), so a step stays a function of the run's state: it draws the same
numbers when it is undone for want of memory and done again, after a resume, in micro-batches, and in any number of
processes. Nothing is taken from torch's global generators.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from translate.data.hashing import stable_hash
from translate.precision import on_device


def uniform(keys: Sequence[int], name: str, device: torch.device) -> Tensor:
    """Draw one number in [0, 1) for each sample: float32 (N,)."""
    return on_device([(stable_hash(key, name) >> 39) / 2**24 for key in keys], device)


def normal(keys: Sequence[int], name: str, like: Tensor) -> Tensor:
    """Draw standard normal noise with the shape, dtype and device of `like` (N, …), each sample's from its key."""
    noise = torch.empty_like(like)
    for sample, key in zip(noise, keys, strict=True):
        chance = None if like.is_meta else torch.Generator(like.device).manual_seed(stable_hash(key, name))
        # Drawn in the plain order of memory, and not in place: a draw must not depend on how a batch lies in memory.
        sample.copy_(torch.randn(sample.shape, generator=chance, dtype=like.dtype, device=like.device))
    return noise


def places(keys: Sequence[int], name: str, num: int, size: tuple[int, int], device: torch.device) -> Tensor:
    """Draw `num` different places in a map of `size` (height, width) for each sample, as rows and columns: (2, N, num).

    Where the map has no more than that, all of its places are drawn, in some order. They are drawn on the host, so no
    device waits.
    """
    height, width = size
    drawn = [random.Random(stable_hash(key, name)).sample(range(height * width), min(num, height * width))
             for key in keys]
    rows, columns = ([[index // width for index in each] for each in drawn],
                     [[index % width for index in each] for each in drawn])
    return on_device([rows, columns], device)
