"""Which input rows an operation needs for its output rows: what computing an image strip by strip stands on.

An image (N, C, H, W) is cut along its rows; columns stay whole. To compute rows [a, b) of an operation's output one
needs a few rows of its input: a convolution with kernel k, stride s and padding p reads, for output row i, the input
rows i·s − p … i·s − p + k − 1. What lies outside the image is padding, and padding exists **only at the image's true
borders**: a strip in the middle is surrounded by the rows of its neighbours instead.

Every operation answers the same three questions:

    out_height(height)          how many rows come out of an image of `height` rows
    need(want, height)          which input rows the output rows `want` are made of (inside the image, perhaps none)
    apply(x, want, height)      the output rows `want`, given exactly the input rows `need(want, height)`

so that `apply` over a cover of the output equals the operation on the whole image. `x` may have any number of samples
and channels, on any device, and every `apply` is differentiable.

An example: three 3×3 convolutions with padding 1, on an image of 12 rows, in three strips (`plan_strips`). Going from
the output to the input, each convolution needs one row more on either side, except where the image ends.

                            top      middle    bottom     computed more than once
    rows of the output      0–4      4–8       8–12       none
    after the second        0–5      3–9       7–12       4 rows
    after the first         0–6      2–10      6–12       8 rows
    read from the input     0–7      1–11      5–12

For its four output rows the middle strip reads ten input rows and computes eight, six and then four rows of them. Only
one strip's rows are in memory at a time; the price is that the twelve rows between strips are computed again.

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

Run = Callable[[Tensor], Tensor]  # what an operation does along columns and channels, for rows as they come


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

    def or_one(self, height: int) -> RowRange:
        """Return these rows or, where they are none, one row nearby.

        An operation whose rows are all padding needs no row of its input, but torch knows no image without rows.
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
    """What the module's docstring says an operation answers."""

    def out_height(self, height: int) -> int: ...

    def need(self, want: RowRange, height: int) -> RowRange: ...

    def apply(self, x: Tensor, want: RowRange, height: int) -> Tensor: ...


class RowByRow:
    """What keeps the number of rows, each of which depends on the same row of the input alone."""

    def out_height(self, height: int) -> int:
        return height

    def need(self, want: RowRange, height: int) -> RowRange:
        return want


@dataclass(frozen=True)
class Pointwise(RowByRow):
    """An activation, a sum: a function that is the same for every row."""

    run: Run

    def apply(self, x: Tensor, want: RowRange, height: int) -> Tensor:
        return self.run(x)


@dataclass(frozen=True)
class Window:
    """A convolution or a pooling: output row i reads the rows i·stride − above + {0, 1, … kernel − 1}·dilation.

    `above` and `below` are the rows of padding at the image's two borders and `fill` is what they hold. `run` is the
    operation without padding along rows.
    """

    run: Run
    kernel: int
    stride: int = 1
    dilation: int = 1
    above: int = 0
    below: int = 0
    fill: float = 0.0

    def out_height(self, height: int) -> int:
        return (height + self.above + self.below - self.dilation * (self.kernel - 1) - 1) // self.stride + 1

    def need(self, want: RowRange, height: int) -> RowRange:
        return self._reach(want).clipped(height)

    def apply(self, x: Tensor, want: RowRange, height: int) -> Tensor:
        reach, have = self._reach(want), self.need(want, height)
        above = min(max(-reach.start, 0), len(reach))
        return self.run(_pad_rows(x, above, len(reach) - above - len(have), self.fill))

    def _reach(self, want: RowRange) -> RowRange:
        """Return the input rows of `want`, those of the padding included: negative above, `height` and more below."""
        first = want.start * self.stride - self.above
        last = (want.stop - 1) * self.stride - self.above + self.dilation * (self.kernel - 1)
        return RowRange(first, last + 1)


@dataclass(frozen=True)
class Transposed:
    """A transposed convolution: input row j adds to the rows j·stride − padding + {0, … kernel − 1}·dilation.

    `run` is the operation without padding and output padding along rows. Rows beyond the image's end count as
    zeros, which add nothing: so output padding needs no case of its own.
    """

    run: Run
    kernel: int
    stride: int = 1
    dilation: int = 1
    padding: int = 0
    output_padding: int = 0

    def out_height(self, height: int) -> int:
        return (height - 1) * self.stride - 2 * self.padding + self._span + self.output_padding

    def need(self, want: RowRange, height: int) -> RowRange:
        # The first row that reaches want.start or, where that lies in a gap between two rows, the row above the gap.
        first = min(-((self._span - 1 - want.start - self.padding) // self.stride),
                    (want.start + self.padding) // self.stride)
        last = (want.stop - 1 + self.padding) // self.stride
        return RowRange(first, last + 1).clipped(height)

    def apply(self, x: Tensor, want: RowRange, height: int) -> Tensor:
        have = self.need(want, height)
        first = have.start * self.stride - self.padding  # the first output row that `run` makes
        enough = max(math.ceil((want.stop - first - self._span) / self.stride), 0) + 1  # input rows to reach want.stop
        return want.slice_of(self.run(_pad_rows(x, 0, max(enough - len(have), 0))), first)

    @property
    def _span(self) -> int:
        """How many output rows, gaps included, lie between the first and the last that an input row adds to."""
        return self.dilation * (self.kernel - 1) + 1


@dataclass(frozen=True)
class Upsampling:
    """Every input row becomes `factor` output rows: nearest-neighbour upsampling, pixel shuffle."""

    run: Run
    factor: int

    def out_height(self, height: int) -> int:
        return height * self.factor

    def need(self, want: RowRange, height: int) -> RowRange:
        return RowRange(want.start // self.factor, math.ceil(want.stop / self.factor))

    def apply(self, x: Tensor, want: RowRange, height: int) -> Tensor:
        return want.slice_of(self.run(x), self.need(want, height).start * self.factor)


@dataclass(frozen=True)
class Pad:
    """Padding by `above` and `below` rows and `left` and `right` columns; negative amounts crop.

    `reflect` mirrors without repeating the border row (which takes more rows than it pads), `replicate` repeats it.
    """

    above: int
    below: int
    left: int = 0
    right: int = 0
    mode: Literal["constant", "reflect", "replicate"] = "constant"
    value: float = 0.0

    def out_height(self, height: int) -> int:
        return height + self.above + self.below

    def need(self, want: RowRange, height: int) -> RowRange:
        shifted = RowRange(want.start - self.above, want.stop - self.above)
        have = shifted.clipped(height)
        over, under = -shifted.start, shifted.stop - height  # rows of padding that `want` reaches at either border
        start, stop = have.start, have.stop
        if self.mode == "reflect":
            stop = max(stop, over + 1) if over > 0 else stop
            start = min(start, height - 1 - under) if under > 0 else start
        elif self.mode == "replicate":
            start, stop = min(start, height - 1), max(stop, 1)
        return RowRange(start, stop)

    def apply(self, x: Tensor, want: RowRange, height: int) -> Tensor:
        have = self.need(want, height)
        over, under = max(self.above - want.start, 0), max(want.stop - self.above - height, 0)
        amounts = (self.left, self.right, over, under)
        if any(amounts):
            x = F.pad(x, amounts, self.mode, self.value if self.mode == "constant" else None)
        return want.slice_of(x, want.start if over else have.start + self.above)


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

    def heights(self, height: int) -> list[int]:
        """Return the number of rows before every step, and after the last."""
        return list(accumulate(self.steps, lambda before, step: step.out_height(before), initial=height))

    def _wanted(self, want: RowRange, height: int) -> list[RowRange]:
        """Return the rows wanted before every step, and after the last."""
        wanted = [want]
        for step, before in zip(reversed(self.steps), reversed(self.heights(height)[:-1]), strict=True):
            wanted.insert(0, step.need(wanted[0], before).or_one(before))
        return wanted


@dataclass(frozen=True)
class Strip:
    """One strip's rows of every level of a chain of operations: of its input, after each step, of its output.

    `rows` are what the strip computes; neighbours overlap. `owned` are a part of them, and every row of a level is
    owned by exactly one strip: whatever must happen to each row once happens there.
    """

    rows: list[RowRange]
    owned: list[RowRange]


def plan_strips(chain: Composed, height: int, num_strips: int) -> list[Strip]:
    """Cut the output of a chain into even strips and find the rows that each needs of every level below.

    There are never more strips than rows. `height` is that of the chain's input. Strips are in order, from the top.
    """
    heights = chain.heights(height)
    num_strips = max(min(num_strips, heights[-1]), 1)
    cuts = [heights[-1] * i // num_strips for i in range(num_strips + 1)]
    computed = [RowRange(start, stop) for start, stop in pairwise(cuts)]
    strips = [Strip([rows], [rows]) for rows in computed]

    # From the output down to the input, one level after the other.
    for step, before in zip(reversed(chain.steps), reversed(heights[:-1]), strict=True):
        needed = [step.need(rows, before).or_one(before) for rows in computed]

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


def _pad_rows(x: Tensor, above: int, below: int, value: float = 0.0) -> Tensor:
    return F.pad(x, (0, 0, above, below), value=value) if above or below else x
