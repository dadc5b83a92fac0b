"""The graph of what a network does to an image, and the order in which its rows are computed.

Every node says, row by row, what it is made of, as `translate.networks.rows` does; besides the operations of that
module there are three here: reading a source, a norm over the whole image, and dropout. `tiling.lazy` records a
graph and `translate.tiling` computes it, as a `Schedule` tells:

- A norm is a **barrier**: it needs its statistics, so one pass over all rows of its input comes before anything behind
  it is computed. The last pass is over the output.
- Within a pass all nodes advance together, a strip at a time, and each keeps a **band**: the rows that a later node
  still has to read. Readers behind a barrier have not started, so the rows they need stay in the band: the bottleneck
  of a network is kept for later passes without a rule of its own.
- Nodes with more numbers per pixel of the output than `kept_floats` are not kept for later passes but computed again in
  each: images with many channels at full resolution, whose computation costs little.

An example: conv₁ → norm → conv₂, in strips. The first pass makes the rows of conv₁'s output, strip by strip, gathers
the norm's statistics from them, and keeps them if they are small enough. The second pass reads them (or makes them
again), a few rows more than a strip of the output, normalises and convolves them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from translate.errors import UsageError
from translate.networks.rows import Operation, Pad, Pointwise, RowByRow, RowRange
from translate.networks.statistics import Moments, Statistics


class TilingError(UsageError):
    """A network does something to an image for which strips have no exact rule."""


class Source(Protocol):
    """An image that is read by rows: a tensor (`TensorSource`), a window of a file."""

    @property
    def shape(self) -> Sequence[int]:
        """(1, C, H, W)"""

    def read(self, start: int, stop: int) -> Tensor:
        """Return rows [start, stop) as a tensor (1, C, stop − start, W) in [-1, 1]."""


@dataclass(frozen=True)
class TensorSource:
    """A tensor (1, C, H, W) as a source."""

    tensor: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.tensor.shape

    def read(self, start: int, stop: int) -> Tensor:
        return self.tensor[:, :, start:stop]


@dataclass(frozen=True)
class Read:
    """What makes the rows of a source: they are read, and made of no others."""

    source: Source
    device: torch.device

    def rows(self, want: RowRange) -> Tensor:
        return self.source.read(want.start, want.stop).to(self.device)


class Barrier(RowByRow):
    """A norm over the whole image: one pass over its input gathers the statistics; from then on it is pointwise.

    `groups` is the number of GroupNorm's groups; None if every channel has its own statistics.
    """

    def __init__(self, weight: Tensor | None, bias: Tensor | None, eps: float, groups: int | None = None):
        self.weight, self.bias, self.eps, self.groups = weight, bias, eps, groups
        self.statistics: Statistics | None = None

    def apply(self, x: Tensor, want: RowRange, height: int) -> Tensor:
        assert self.statistics is not None, "a norm was applied before its input had been seen"
        return self.statistics.normalise(x, self.weight, self.bias)

    def close(self, moments: Moments, dtype: torch.dtype) -> None:
        """Take the statistics of the whole input, all of which has been gathered by now; they are used in `dtype`."""
        mean, var = moments.mean.flatten(), moments.var.flatten()
        if self.groups is not None:  # the channels of a group have equally many values each
            means = mean.view(self.groups, -1)
            centre, size = means.mean(1, keepdim=True), means.shape[1]
            var = (var.view(self.groups, -1) + (means - centre).square()).mean(1).repeat_interleave(size)
            mean = centre.flatten().repeat_interleave(size)
        self.statistics = Statistics(mean.to(dtype), var.to(dtype), self.eps, 1, moments.count)


@dataclass(frozen=True)
class Dropout(RowByRow):
    """Dropout by position, which has to know the rows it is given: `run(x, first_row)`."""

    run: Callable[[Tensor, int], Tensor]

    def apply(self, x: Tensor, want: RowRange, height: int) -> Tensor:
        return self.run(x, want.start)


@dataclass(eq=False, frozen=True)
class Node:
    """One image (1, C, H, W) of the graph: the operation that makes it, and of which images.

    Only a `Pointwise` operation has several inputs. `macs` are the multiplications it takes to make one row.
    """

    operation: Operation | Read
    inputs: tuple[Node, ...]
    shape: torch.Size
    dtype: torch.dtype
    macs: float = 0.0

    @property
    def height(self) -> int:
        return self.shape[2]

    @property
    def floats(self) -> int:
        """How many numbers a row has, over all channels."""
        return self.shape[1] * self.shape[3]

    @property
    def row_bytes(self) -> int:
        return self.floats * self.dtype.itemsize

    @property
    def is_source(self) -> bool:
        return isinstance(self.operation, Read)

    @property
    def is_cheap(self) -> bool:
        """Whether its rows are computed wherever they are wanted, and never kept."""
        return isinstance(self.operation, RowByRow | Pad)

    def need(self, want: RowRange) -> RowRange:
        """Return the rows of every input that the rows `want` are made of."""
        assert not isinstance(self.operation, Read)
        return self.operation.need(want, self.inputs[0].height)

    def make(self, xs: Sequence[Tensor], want: RowRange) -> Tensor:
        """Compute the rows `want`, given the rows `need(want)` of each input."""
        if isinstance(self.operation, Read):
            return self.operation.rows(want)
        if isinstance(self.operation, Pointwise):
            return self.operation.run(*xs)
        return self.operation.apply(xs[0], want, self.inputs[0].height)


class Action(NamedTuple):
    """One step of a schedule.

        make    compute the rows of a node and add them to its band
        drop    forget the rows of a node before rows.start
        gather  compute the rows of a node and gather them for the statistics of the barrier behind it
        close   give the barrier (`node`) its statistics: everything has been gathered
        emit    compute the rows of the output
    """

    kind: Literal["make", "drop", "gather", "close", "emit"]
    node: Node
    rows: RowRange


@dataclass
class Pass:
    """All rows of `target`, `strip_rows` at a time, for the statistics of `barrier` or, without one, as the output.

    `until` names the nodes that are computed on the way, and up to which row.
    """

    target: Node
    barrier: Node | None
    until: dict[Node, int]
    strip_rows: int = 1


class Schedule:
    """In which order the rows of a graph are computed, and when they may be forgotten.

    `strip_rows` are the output's rows of one strip; other passes take strips of as many numbers. A node is kept for
    later passes if it has at most `kept_floats` numbers per pixel of the output.
    """

    def __init__(self, output: Node, strip_rows: int, kept_floats: float):
        self.output = output
        self.order = nodes_of(output)

        # Nodes with a band: those that are not cheap, and sums that are used twice: recomputing a sum would recompute
        # everything before it.
        uses = [node for user in self.order for node in user.inputs]
        self.banded = [node for node in self.order if not node.is_cheap or (
            len(node.inputs) > 1 and uses.count(node) > 1)]
        self._has_band = set(self.banded)

        # Of these, the ones that are small enough to wait for later passes.
        pixels = output.height * output.shape[3]
        self.kept = {node for node in self.banded
                     if not node.is_source and node.floats * node.height <= kept_floats * pixels}

        # Who reads whose rows, in which pass, and in which pass they are made first.
        self.readers: dict[Node, list[Node]] = {node: [] for node in self.banded}
        for node in self.banded:
            for feeder in self.feeders(node, RowRange(0, node.height)):
                self.readers[feeder].append(node)
        self.passes = self._plan_passes()
        self.last_read = {node: max((i for i, each in enumerate(self.passes) if self._reads(each, node)), default=-1)
                          for node in self.banded}
        self.made_in = {node: next((i for i, each in enumerate(self.passes) if node in each.until), -1)
                        for node in self.banded}

        # Strips of all passes hold as many numbers as those of the last.
        strip_floats = strip_rows * self._widest(self.passes[-1])
        for each in self.passes:
            each.strip_rows = max(min(int(strip_floats / self._widest(each)), each.target.height), 1)

    @property
    def macs(self) -> float:
        """All multiplications, those that are done again included."""
        return sum(node.macs * rows for each in self.passes for node, rows in each.until.items())

    def is_skip(self, node: Node) -> bool:
        """Whether a node is read again after its image was halved: a residual addition reads it a few rows later."""
        first, last = (self.banded.index(each) for each in (node, max(self.readers[node], default=node,
                                                                      key=self.banded.index)))
        return any(2 * between.height <= node.height for between in self.banded[first:last])

    def band_rows(self, node: Node, want: RowRange) -> dict[Node, RowRange]:
        """Return the rows of bands that the rows `want` of a node are made of: its own, if it has a band."""
        return {node: want} if node in self._has_band else self.feeders(node, want)

    def feeders(self, node: Node, want: RowRange) -> dict[Node, RowRange]:
        """Return the rows of other nodes' bands that the rows `want` of a node are made of."""
        found: dict[Node, RowRange] = {}
        for source in node.inputs:
            for feeder, rows in self.band_rows(source, node.need(want).at_least_one_row(source.height)).items():
                found[feeder] = rows.hull(found.get(feeder, rows))
        return found

    def actions(self) -> Iterator[Action]:
        """Yield everything there is to do, one action after the other."""
        made = dict.fromkeys(self.banded, 0)
        dropped = dict.fromkeys(self.banded, 0)
        for number, each in enumerate(self.passes):
            height = each.target.height
            for first in range(0, height, each.strip_rows):
                # Make what the next strip of the target is made of, from the source on, and use it.
                want = RowRange(first, min(first + each.strip_rows, height))
                goals = self._goals(each, want, made)
                for node in self.banded:
                    if goals.get(node, 0) > made[node]:
                        yield Action("make", node, RowRange(made[node], goals[node]))
                        made[node] = goals[node]
                yield Action("emit" if each.barrier is None else "gather", each.target, want)

                # Drop the rows that nothing will read again.
                left = self.band_rows(each.target, RowRange(want.stop, height)) if want.stop < height else {}
                for node in self.banded:
                    if made[node] == dropped[node]:
                        continue
                    needed = self._first_needed(node, number, made, left)
                    if dropped[node] < needed:
                        dropped[node] = min(needed, made[node])
                        yield Action("drop", node, RowRange(dropped[node], made[node]))

            # The pass is over: its barrier has its statistics, and only what is kept stays.
            if each.barrier is not None:
                yield Action("close", each.barrier, RowRange(0, height))
            for node in each.until:
                if node not in self.kept:
                    yield Action("drop", node, RowRange(node.height, node.height))
                    made[node] = dropped[node] = 0  # a later pass computes them again

    def _plan_passes(self) -> list[Pass]:
        """Return one pass for each barrier, in the order of the graph, and the one that makes the output."""
        barriers = [node for node in self.order if isinstance(node.operation, Barrier)]
        made = dict.fromkeys(self.banded, 0)
        passes = []
        for barrier in [*barriers, None]:
            target = self.output if barrier is None else barrier.inputs[0]
            goals = self._goals(Pass(target, barrier, {}), RowRange(0, target.height), made)
            until = {node: goals[node] for node in self.banded if goals.get(node, 0) > made[node]}
            passes.append(Pass(target, barrier, until))
            made |= {node: rows for node, rows in until.items() if node in self.kept}
        return passes

    def _goals(self, each: Pass, want: RowRange, made: dict[Node, int]) -> dict[Node, int]:
        """Return up to which row every band must be computed for rows of the pass's target, if `made` is there."""
        goals = {node: rows.stop for node, rows in self.band_rows(each.target, want).items()}
        for node in reversed(self.banded):
            if goals.get(node, 0) > made[node]:
                for feeder, rows in self.feeders(node, RowRange(made[node], goals[node])).items():
                    goals[feeder] = max(goals.get(feeder, 0), rows.stop)
        return goals

    def _first_needed(self, node: Node, number: int, made: dict[Node, int], left: dict[Node, RowRange]) -> int:
        """Return the first row of a band that is read again; `left` is what the pass's target still has to read."""
        if node in self.kept and self.last_read[node] > number:
            return 0
        each = self.passes[number]
        first = left[node].start if node in left else node.height
        for reader in self.readers[node]:
            if made[reader] < each.until.get(reader, 0):
                first = min(first, self.feeders(reader, RowRange(made[reader], each.until[reader]))[node].start)
        return first

    def _reads(self, each: Pass, node: Node) -> bool:
        """Whether a pass reads rows of a node's band."""
        return node in self.band_rows(each.target, RowRange(0, each.target.height)) or any(
            reader in each.until for reader in self.readers[node])

    def _widest(self, each: Pass) -> float:
        """Return the numbers in a row of the target, or in the rows of another node that go with it: the larger."""
        return max(node.floats * node.height / each.target.height for node in (each.target, *each.until))


def nodes_of(output: Node) -> list[Node]:
    """Return every node of a graph, each after those it is made of."""
    order: dict[Node, None] = {}
    stack = [output]
    while stack:
        missing = [node for node in stack[-1].inputs if node not in order]
        if missing:
            stack += missing
        else:
            order[stack.pop()] = None
    return list(order)
