"""Images that are not computed yet: calling a network on one records what would be done to it.

    graph = generator(LazyImage.of(source, recording))

`LazyImage` answers torch's functions in place of a tensor (`__torch_function__`), so the network is the unmodified
`nn.Module`, ours or anybody's. Each call adds a `Node` to a graph that says, row by row, what it is made of; nothing is
computed. `translate.tiling` then computes the graph in strips. An operation without a rule raises `TilingError` and
names it: nothing falls back to something inexact.

Attention and the like need all rows at once: where a network reshapes an image into a list of pixels, that image is
computed there and then (at the network's narrow waist that is little) and the network goes on with the real tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from translate.errors import UsageError
from translate.networks import rows
from translate.networks.layers import positional_dropout
from translate.networks.rows import Operation, Pad, Pointwise, Rows
from translate.networks.statistics import Moments, Statistics


class TilingError(UsageError):
    """A network does something to an image for which strips have no exact rule."""


class Source(Protocol):
    """An image that can be read by rows: a tensor in disguise, a window of a file."""

    shape: Sequence[int]  # (1, C, H, W)

    def read(self, a: int, b: int) -> Tensor:
        """Rows [a, b), (1, C, b − a, W) in [-1, 1]."""


@dataclass(eq=False)
class Node:
    """One image of the graph, (1, C, H, W): the operation that makes it, and of which images.

    An operation of several images takes them pixel by pixel. `macs` are the multiplications for one of its rows.
    """

    operation: Operation | Barrier | Read
    inputs: tuple[Node, ...]
    shape: torch.Size
    dtype: torch.dtype
    macs: float = 0.0

    @property
    def height(self) -> int:
        return self.shape[2]

    @property
    def floats(self) -> int:
        """Numbers in one row."""
        return self.shape[1] * self.shape[3]

    def need(self, want: Rows) -> Rows:
        """The rows of every input that the rows `want` are made of."""
        return self.operation.need(want, self.inputs[0].height)

    def make(self, xs: Sequence[Tensor], want: Rows) -> Tensor:
        """The rows `want`, given the rows `need(want)` of the inputs."""
        if isinstance(self.operation, Pointwise):
            return self.operation.run(*xs)
        return self.operation.apply(*xs, want, self.inputs[0].height if self.inputs else self.height)


@dataclass(frozen=True)
class Read:
    """An image that is there already: read it."""

    source: Source
    device: torch.device

    def out_rows(self, height: int) -> int:
        return height

    def need(self, want: Rows, height: int) -> Rows:
        raise AssertionError("a source is made of nothing")

    def apply(self, want: Rows, height: int) -> Tensor:
        return self.source.read(want.lo, want.hi).to(self.device)


@dataclass
class Barrier(Pointwise):
    """A norm over the whole image: one pass over its input gathers the statistics, and then it is pointwise.

    `groups` is GroupNorm's number of groups; None if every channel has its own statistics.
    """

    weight: Tensor | None
    bias: Tensor | None
    eps: float
    groups: int | None = None
    run: Callable[..., Tensor] = field(init=False)

    def close(self, moments: Moments, dtype: torch.dtype) -> None:
        """All rows have been seen."""
        mean, var = moments.mean, moments.var
        if self.groups is not None:  # channels count the same, so their mean is the group's
            means, size = mean.view(self.groups, -1), mean.numel() // self.groups
            centre = means.mean(1, keepdim=True)
            var = (var.view(self.groups, -1) + (means - centre).square()).mean(1).repeat_interleave(size)
            mean = centre.flatten().repeat_interleave(size)
        found = Statistics(mean.flatten().to(dtype), var.flatten().to(dtype), self.eps, 1, moments.count)
        self.run = lambda x: found.normalise(x, self.weight, self.bias)


@dataclass(frozen=True)
class Dropout(Pointwise):
    """Dropout by position: it has to know which rows it is given. `run(x, first_row)`."""

    def apply(self, x: Tensor, want: Rows, height: int) -> Tensor:
        return self.run(x, want.lo)
