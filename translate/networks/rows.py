"""Which input rows an operation needs for its output rows: what computing an image strip by strip stands on.

An image (N, C, H, W) is cut along its rows; columns stay whole. To compute rows [a, b) of an operation's output one
needs a few rows of its input: a convolution with kernel k, stride s and padding p reads, for output row i, the input
rows i·s − p … i·s − p + k − 1. What lies outside the image is padding, and padding exists **only at the image's true
borders**: a strip in the middle is surrounded by the rows of its neighbours instead.

Every operation answers the same three questions:

    out_height(height)          how many rows come out of an image of `height` rows
    need(want, height)          which input rows the output rows `want` are made of (inside the image, perhaps none)
    apply(x, want, height)      the output rows `want`, given exactly the input rows `need(want, height)`

so that `apply` over ranges that together are the whole output equals the operation on the whole image. `x` may have any
number of samples and channels, on any device, and every `apply` is differentiable.

An example: three 3×3 convolutions with padding 1, on an image of 15 rows, in three strips (`plan_strips`). Going from
the output to the input, each convolution needs one row more on either side, except where the image ends.

                            top        middle     bottom      computed twice
    rows of the output      [0, 5)     [5, 10)    [10, 15)    none
    after the second        [0, 6)     [4, 11)    [9, 15)     4 rows
    after the first         [0, 7)     [3, 12)    [8, 15)     8 rows
    read from the input     [0, 8)     [2, 13)    [7, 15)

For its five output rows the middle strip reads eleven input rows and computes nine, seven and then five rows of them.
Only one strip's rows are in memory at a time; the price is that 4 + 8 = 12 rows are computed twice (the last column).

Training in strips (`translate.networks.strips`) and exact tiled inference (`translate.tiling`) follow these rules.
`translate.networks.row_operations` makes operations from the arguments of torch's functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal, Protocol

import torch.nn.functional as F
from torch import Tensor

from translate.networks.normalised import normalised
from translate.networks.normalised.mirroring import NONE, Amounts

ColumnFunction = Callable[[Tensor], Tensor]  # what an operation does along columns and channels, for rows as they come


@dataclass(frozen=True)
class RowRange:
    """The rows start, start + 1, … stop − 1 of an image, as in Python's `range(start, stop)`."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def clipped(self, height: int) -> RowRange:
        """Return those of these rows that an image of `height` rows has; where it has none, an empty range in it."""
        start = min(max(self.start, 0), height)
        return RowRange(start, min(max(self.stop, start), height))

    def at_least_one_row(self, height: int) -> RowRange:
        """Return these rows or, if they are empty, one row nearby.

        An operation whose rows are all padding needs no row of its input, but torch takes no image without rows.
        """
        start = min(self.start, height - 1)
        return RowRange(start, max(self.stop, start + 1))

    def hull(self, other: RowRange) -> RowRange:
        """Return the smallest range that holds both."""
        return RowRange(min(self.start, other.start), max(self.stop, other.stop))

    def intersection(self, other: RowRange) -> RowRange:
        """Return the rows that are in both; an empty range where none are."""
        start = max(self.start, other.start)
        return RowRange(start, max(start, min(self.stop, other.stop)))

    def slice_of(self, x: Tensor, first: int = 0) -> Tensor:
        """Return these rows of `x` (N, C, rows, W), a view, where x's first row is row `first` of the image."""
        start, stop = self.start - first, self.stop - first
        assert 0 <= start <= stop <= x.shape[2], f"rows {self.start}–{self.stop} of {x.shape[2]} rows from {first} on"
        return x if stop - start == x.shape[2] else x[:, :, start:stop]


class Operation(Protocol):
    """The three questions that every operation answers; see the module's docstring."""

    def out_height(self, height: int) -> int: ...

    def need(self, want: RowRange, height: int) -> RowRange: ...

    def apply(self, x: Tensor, want: RowRange, height: int) -> Tensor: ...


class RowByRow:
    """Operations whose output row i depends on input row i alone."""

    def out_height(self, height: int) -> int:
        return height

    def need(self, want: RowRange, height: int) -> RowRange:
        return want


@dataclass(frozen=True)
class Pointwise(RowByRow):
    """An activation, a sum: a function that is the same for every row."""

    run: ColumnFunction

    def apply(self, x: Tensor, want: RowRange, height: int) -> Tensor:
        return self.run(x)


@dataclass(frozen=True)
class Window:
    """A convolution or a pooling: output row i reads the rows i·stride − pad_top + {0, 1, … kernel − 1}·dilation.

    `pad_top` and `pad_bottom` are the rows of padding at the image's two borders and `fill` is what they hold. `run` is
    the operation without padding along rows.
    """

    run: ColumnFunction
    kernel: int
    stride: int = 1
    dilation: int = 1
    pad_top: int = 0
    pad_bottom: int = 0
    fill: float = 0.0

    def out_height(self, height: int) -> int:
        return (height + self.pad_top + self.pad_bottom - self.dilation * (self.kernel - 1) - 1) // self.stride + 1

    def need(self, want: RowRange, height: int) -> RowRange:
        return self._reach(want).clipped(height)

    def apply(self, x: Tensor, want: RowRange, height: int) -> Tensor:
        reach, have = self._reach(want), self.need(want, height)
        top = min(max(-reach.start, 0), len(reach))
        return self.run(_pad_rows(x, top, len(reach) - top - len(have), self.fill))

    def _reach(self, want: RowRange) -> RowRange:
        """Return the input rows of `want` with those of the padding: negative ones at the top, `height` and more at the
        bottom."""
        first = want.start * self.stride - self.pad_top
        last = (want.stop - 1) * self.stride - self.pad_top + self.dilation * (self.kernel - 1)
        return RowRange(first, last + 1)


@dataclass(frozen=True)
class Transposed:
    """A transposed convolution: input row j adds to the rows j·stride − padding + {0, … kernel − 1}·dilation.

    `run` is the operation without padding and output padding along rows. Rows beyond the image's end count as
    zeros, which add nothing: so output padding needs no case of its own.
    """

    run: ColumnFunction
    kernel: int
    stride: int = 1
    dilation: int = 1
    padding: int = 0
    output_padding: int = 0

    def out_height(self, height: int) -> int:
        return (height - 1) * self.stride - 2 * self.padding + self._span + self.output_padding

    def need(self, want: RowRange, height: int) -> RowRange:
        # The first row that reaches want.start or, where that lies in a gap between two rows, the row above the gap.
        start = want.start + self.padding
        first = min(math.ceil((start + 1 - self._span) / self.stride), start // self.stride)
        last = (want.stop - 1 + self.padding) // self.stride
        return RowRange(first, last + 1).clipped(height)

    def apply(self, x: Tensor, want: RowRange, height: int) -> Tensor:
        have = self.need(want, height)
        first = have.start * self.stride - self.padding  # the first output row that `run` makes
        rows_needed = max(math.ceil((want.stop - first - self._span) / self.stride), 0) + 1  # to reach want.stop
        return want.slice_of(self.run(_pad_rows(x, 0, max(rows_needed - len(have), 0))), first)

    @property
    def _span(self) -> int:
        """How many output rows, gaps included, lie between the first and the last that an input row adds to."""
        return self.dilation * (self.kernel - 1) + 1


@dataclass(frozen=True)
class Upsampling:
    """Every input row becomes `factor` output rows: nearest-neighbour upsampling, pixel shuffle."""

    run: ColumnFunction
    factor: int

    def out_height(self, height: int) -> int:
        return height * self.factor

    def need(self, want: RowRange, height: int) -> RowRange:
        return RowRange(want.start // self.factor, math.ceil(want.stop / self.factor))

    def apply(self, x: Tensor, want: RowRange, height: int) -> Tensor:
        return want.slice_of(self.run(x), self.need(want, height).start * self.factor)


@dataclass(frozen=True)
class Pad:
    """Padding by `pad_top` and `pad_bottom` rows and `left` and `right` columns; negative amounts crop.

    `reflect` mirrors without repeating the border row (which takes more rows than it pads), `replicate` repeats it.
    """

    pad_top: int
    pad_bottom: int
    left: int = 0
    right: int = 0
    mode: Literal["constant", "reflect", "replicate"] = "constant"
    value: float = 0.0

    def out_height(self, height: int) -> int:
        return height + self.pad_top + self.pad_bottom

    def need(self, want: RowRange, height: int) -> RowRange:
        shifted = RowRange(want.start - self.pad_top, want.stop - self.pad_top)
        have = shifted.clipped(height)
        top, bottom = -shifted.start, shifted.stop - height  # rows of padding that `want` reaches at either border
        start, stop = have.start, have.stop
        if self.mode == "reflect":  # k rows of padding mirror the k rows next to the border row
            stop = max(stop, top + 1) if top > 0 else stop
            start = min(start, height - 1 - bottom) if bottom > 0 else start
        elif self.mode == "replicate":
            start, stop = min(start, height - 1), max(stop, 1)
        return RowRange(start, stop)

    def apply(self, x: Tensor, want: RowRange, height: int) -> Tensor:
        amounts = self.amounts(want, height)
        if self.mode == "reflect":
            x = normalised(x, amounts=amounts)
        elif any(amounts):
            x = F.pad(x, amounts, self.mode, self.value if self.mode == "constant" else None)
        return self.wanted_of(x, want, height)

    def amounts(self, want: RowRange, height: int) -> Amounts:
        """Return by how much to pad the rows `need(want, height)`, so that `want` are among what comes out."""
        return (self.left, self.right, max(self.pad_top - want.start, 0),
                max(want.stop - self.pad_top - height, 0))

    def wanted_of(self, padded: Tensor, want: RowRange, height: int) -> Tensor:
        """Return the rows `want` of those that come out: mirroring takes more rows than it pads."""
        at_top = want.start < self.pad_top
        return want.slice_of(padded, want.start if at_top else self.need(want, height).start + self.pad_top)


@dataclass(frozen=True)
class Composed:
    """Several operations, one after the other, as one."""

    steps: tuple[Operation, ...]

    def out_height(self, height: int) -> int:
        return self.heights(height)[-1]

    def need(self, want: RowRange, height: int) -> RowRange:
        return self._wanted(want, height)[0]

    def apply(self, x: Tensor, want: RowRange, height: int) -> Tensor:
        wanted = self._wanted(want, height)
        for step, have, rows, before in zip(self.steps, wanted, wanted[1:], self.heights(height), strict=False):
            x = step.apply(step.need(rows, before).slice_of(x, have.start), rows, before)
        return x

    def after_mirroring(self, want: RowRange, height: int) -> tuple[Amounts, ColumnFunction]:
        """Return by how much a first step that mirrors pads the rows `need(want, height)`, and all that is left to do
        then. Where another step is the first, nothing is padded and all of them are left.
        """
        first = self.steps[0]
        if not (isinstance(first, Pad) and first.mode == "reflect"):
            return NONE, lambda x: self.apply(x, want, height)
        rows, rest, padded_height = self._wanted(want, height)[1], Composed(self.steps[1:]), first.out_height(height)
        return (first.amounts(rows, height),
                lambda padded: rest.apply(first.wanted_of(padded, rows, height), want, padded_height))

    def heights(self, height: int) -> list[int]:
        """Return the number of rows before every step, and after the last."""
        return list(accumulate(self.steps, lambda before, step: step.out_height(before), initial=height))

    def _wanted(self, want: RowRange, height: int) -> list[RowRange]:
        """Return the rows wanted before every step, and after the last."""
        wanted = [want]
        for step, before in zip(reversed(self.steps), reversed(self.heights(height)[:-1]), strict=True):
            wanted.insert(0, step.need(wanted[0], before).at_least_one_row(before))
        return wanted


@dataclass(frozen=True)
class Strip:
    """One strip's rows at every position of a chain of operations: of its input, after each step, of its output.

    `rows` are what the strip computes; neighbours overlap. `owned` are a part of them, and every row at a position is
    owned by exactly one strip: whatever must happen to each row once happens there.
    """

    rows: list[RowRange]
    owned: list[RowRange]


def plan_strips(chain: Composed, height: int, num_strips: int) -> list[Strip]:
    """Cut the output of a chain into even strips and find the rows that each needs at every position before it.

    There are never more strips than rows. `height` is that of the chain's input. Strips are in order, from the top.
    """
    heights = chain.heights(height)
    num_strips = max(min(num_strips, heights[-1]), 1)
    cuts = [heights[-1] * i // num_strips for i in range(num_strips + 1)]
    computed = [RowRange(start, stop) for start, stop in pairwise(cuts)]
    strips = [Strip([rows], [rows]) for rows in computed]

    # From the output down to the input, one step after the other.
    for step, before in zip(reversed(chain.steps), reversed(heights[:-1]), strict=True):
        needed = [step.need(rows, before).at_least_one_row(before) for rows in computed]

        # A strip owns the rows from the first it needs to the first of the next strip. At a mirrored border a later
        # strip may need earlier rows: it does not own them. Rows that nobody needs (a stride larger than its kernel)
        # are owned and computed all the same, for they count in the statistics of a norm.
        starts = [0, *accumulate((rows.start for rows in needed[1:]), max), before]
        owned = [RowRange(start, stop) for start, stop in pairwise(starts)]
        computed = [own.hull(rows) for own, rows in zip(owned, needed, strict=True)]
        for strip, rows, own in zip(strips, computed, owned, strict=True):
            strip.rows.insert(0, rows)
            strip.owned.insert(0, own)
    return strips


def _pad_rows(x: Tensor, top: int, bottom: int, value: float = 0.0) -> Tensor:
    return F.pad(x, (0, 0, top, bottom), value=value) if top or bottom else x
