"""Which rows an operation needs: the geometry of computing an image strip by strip.

An image (N, C, H, W) is cut along its rows; columns stay whole. To compute rows [a, b) of an operation's output one
needs a few rows of its input: a convolution with kernel k, stride s and padding p reads, for output row i, the input
rows i·s − p … i·s − p + k − 1. What lies outside the image is padding, and padding exists **only at the image's true
borders**: a strip in the middle is surrounded by the rows of its neighbours instead.

Every operation here answers the same three questions:

    out_rows(height)            how many rows come out of an image of `height` rows
    need(want, height)          which input rows the output rows `want` are made of (inside the image, perhaps none)
    apply(x, want, height)      the output rows `want`, given exactly the input rows `need(want, height)`

so that `apply` over a cover of the output equals the operation on the whole image. A chain trained in strips
(`translate.networks.strips`) and exact tiled inference (`translate.tiling`) both stand on these rules.

`x` may hold any number of samples and channels, on any device, and every `apply` is differentiable. Whatever an
operation does along columns and channels is in its `run`, a function that works on rows as they come.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Run = Callable[[Tensor], Tensor]
Pair = int | tuple[int, ...]


@dataclass(frozen=True)
class Rows:
    """The rows lo, lo + 1, … hi − 1 of an image."""

    lo: int
    hi: int

    @property
    def num(self) -> int:
        return self.hi - self.lo

    def inside(self, height: int) -> Rows:
        """What of these rows lies in an image of `height` rows; empty, and still in order, if nothing does."""
        lo = min(max(self.lo, 0), height)
        return Rows(lo, min(max(self.hi, lo), height))

    def or_one(self, height: int) -> Rows:
        """These rows or, if they are none, a row nearby: what is computed for an operation whose rows are all padding
        (an image without rows is none to torch)."""
        lo = min(self.lo, height - 1)
        return Rows(lo, max(self.hi, lo + 1))

    def joined(self, other: Rows) -> Rows:
        """The fewest rows that hold both."""
        return Rows(min(self.lo, other.lo), max(self.hi, other.hi))

    def common(self, other: Rows) -> Rows:
        """The rows that are in both; none, if none are."""
        lo = max(self.lo, other.lo)
        return Rows(lo, max(lo, min(self.hi, other.hi)))

    def of(self, x: Tensor, first: int = 0) -> Tensor:
        """These rows of `x`, a view, where x's first row is row `first` of the image."""
        lo, hi = self.lo - first, self.hi - first
        assert 0 <= lo <= hi <= x.shape[2], f"rows {self.lo}–{self.hi} are not in {x.shape[2]} rows from {first}"
        return x if hi - lo == x.shape[2] else x[:, :, lo:hi]


class Operation(Protocol):
    """What the module's docstring says an operation answers."""

    def out_rows(self, height: int) -> int: ...

    def need(self, want: Rows, height: int) -> Rows: ...

    def apply(self, x: Tensor, want: Rows, height: int) -> Tensor: ...


@dataclass(frozen=True)
class Pointwise:
    """An operation whose every row depends on the same row of its input alone, and which keeps the number of rows."""

    run: Run

    def out_rows(self, height: int) -> int:
        return height

    def need(self, want: Rows, height: int) -> Rows:
        return want

    def apply(self, x: Tensor, want: Rows, height: int) -> Tensor:
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

    def out_rows(self, height: int) -> int:
        return (height + self.above + self.below - self.dilation * (self.kernel - 1) - 1) // self.stride + 1

    def need(self, want: Rows, height: int) -> Rows:
        return self._reach(want).inside(height)

    def apply(self, x: Tensor, want: Rows, height: int) -> Tensor:
        reach, have = self._reach(want), self.need(want, height)
        above = min(max(-reach.lo, 0), reach.num)
        return self.run(_pad_rows(x, above, reach.num - above - have.num, self.fill))

    def _reach(self, want: Rows) -> Rows:
        """The input rows of `want`, those of the padding included."""
        first = want.lo * self.stride - self.above
        last = (want.hi - 1) * self.stride - self.above + self.dilation * (self.kernel - 1)
        return Rows(first, last + 1)


@dataclass(frozen=True)
class MeanInside(Window):
    """Average pooling that counts only what lies inside the image (`count_include_pad=False`)."""

    def apply(self, x: Tensor, want: Rows, height: int) -> Tensor:
        inside = torch.ones_like(x[:1, :1])
        return super().apply(x, want, height) / super().apply(inside, want, height)


@dataclass(frozen=True)
class Transposed:
    """A transposed convolution: input row j is spread over the rows j·stride − padding + {0, … kernel − 1}·dilation.

    `run` is the operation without padding and output padding along rows. Rows beyond the image's end count as
    zeros, which add nothing: so output padding needs no case of its own.
    """

    run: Run
    kernel: int
    stride: int = 1
    dilation: int = 1
    padding: int = 0
    output_padding: int = 0

    def out_rows(self, height: int) -> int:
        return (height - 1) * self.stride - 2 * self.padding + self._span + self.output_padding

    def need(self, want: Rows, height: int) -> Rows:
        first = -((self._span - 1 - want.lo - self.padding) // self.stride)  # the first row that reaches want.lo …
        first = min(first, (want.lo + self.padding) // self.stride)  # … or, in a gap between rows, the one above it
        last = (want.hi - 1 + self.padding) // self.stride
        return Rows(first, last + 1).inside(height)

    def apply(self, x: Tensor, want: Rows, height: int) -> Tensor:
        have = self.need(want, height)
        begin = have.lo * self.stride - self.padding  # the first output row that `run` makes
        enough = max(math.ceil((want.hi - begin - self._span) / self.stride), 0) + 1  # input rows that reach want.hi
        return want.of(self.run(_pad_rows(x, 0, max(enough - have.num, 0))), begin)

    @property
    def _span(self) -> int:
        return self.dilation * (self.kernel - 1) + 1


@dataclass(frozen=True)
class Enlarge:
    """Every input row becomes `factor` output rows: nearest-neighbour enlargement, pixel shuffle."""

    run: Run
    factor: int

    def out_rows(self, height: int) -> int:
        return height * self.factor

    def need(self, want: Rows, height: int) -> Rows:
        return Rows(want.lo // self.factor, math.ceil(want.hi / self.factor))

    def apply(self, x: Tensor, want: Rows, height: int) -> Tensor:
        return want.of(self.run(x), self.need(want, height).lo * self.factor)


@dataclass(frozen=True)
class Bilinear:
    """Bilinear interpolation to `rows` rows, output row i standing at place i·step of the input (`align_corners`) or at
    (i + ½)·step − ½, not below 0. Rows are mixed here; `run` does the same to columns.
    """

    run: Run
    rows: int
    step: float
    align_corners: bool

    def out_rows(self, height: int) -> int:
        return self.rows

    def need(self, want: Rows, height: int) -> Rows:
        # One more row on either side: torch places rows in single precision, perhaps just beyond a whole number.
        first, last = (math.floor(self._place(row)) for row in (want.lo, want.hi - 1))
        return Rows(min(first, height - 1) - 1, last + 3).inside(height)

    def apply(self, x: Tensor, want: Rows, height: int) -> Tensor:
        have = self.need(want, height)
        exact = torch.promote_types(x.dtype, torch.float32)
        place = self._place(torch.arange(want.lo, want.hi, dtype=exact, device=x.device)).clamp(min=0)
        upper = place.floor().clamp(have.lo, have.hi - 1)
        share = (place - upper).clamp(0, 1)[:, None]
        index = upper.long() - have.lo
        neighbour = (index + 1).clamp(max=have.num - 1)
        return self.run(torch.lerp(x[:, :, index].to(exact), x[:, :, neighbour].to(exact), share).to(x.dtype))

    def _place(self, row: Any) -> Any:  # of one row (a number) or of many (a tensor)
        return row * self.step if self.align_corners else (row + 0.5) * self.step - 0.5


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

    def out_rows(self, height: int) -> int:
        return height + self.above + self.below

    def need(self, want: Rows, height: int) -> Rows:
        shifted = Rows(want.lo - self.above, want.hi - self.above)
        lo, hi = shifted.inside(height).lo, shifted.inside(height).hi
        over, under = -shifted.lo, shifted.hi - height  # rows of padding that `want` reaches at either border
        if self.mode == "reflect":
            hi = max(hi, over + 1) if over > 0 else hi
            lo = min(lo, height - 1 - under) if under > 0 else lo
        elif self.mode == "replicate":
            hi, lo = max(hi, 1), min(lo, height - 1)
        return Rows(lo, hi)

    def apply(self, x: Tensor, want: Rows, height: int) -> Tensor:
        have = self.need(want, height)
        over, under = max(self.above - want.lo, 0), max(want.hi - self.above - height, 0)
        amounts = (self.left, self.right, over, under)
        if any(amounts):
            x = F.pad(x, amounts, self.mode, self.value if self.mode == "constant" else None)
        return want.of(x, want.lo if over else have.lo + self.above)


@dataclass(frozen=True)
class InTurn:
    """Several operations, one after the other, as one."""

    steps: tuple[Operation, ...]

    def out_rows(self, height: int) -> int:
        return self.heights(height)[-1]

    def need(self, want: Rows, height: int) -> Rows:
        return self._wanted(want, height)[0]

    def apply(self, x: Tensor, want: Rows, height: int) -> Tensor:
        wanted = self._wanted(want, height)
        for step, have, rows, before in zip(self.steps, wanted, wanted[1:], self.heights(height), strict=False):
            x = step.apply(step.need(rows, before).of(x, have.lo), rows, before)
        return x

    def heights(self, height: int) -> list[int]:
        """The number of rows before every step, and after the last."""
        heights = [height]
        for step in self.steps:
            heights.append(step.out_rows(heights[-1]))
        return heights

    def _wanted(self, want: Rows, height: int) -> list[Rows]:
        """The rows wanted before every step, and after the last."""
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

    rows: list[Rows]
    owned: list[Rows]


def plan_strips(chain: InTurn, height: int, num_strips: int) -> list[Strip]:
    """Cut the output of a chain into even strips and find the rows that each needs of every level below.

    There are never more strips than rows. `height` is that of the chain's input.
    """
    heights = chain.heights(height)
    num_strips = max(min(num_strips, heights[-1]), 1)
    cuts = [heights[-1] * i // num_strips for i in range(num_strips + 1)]
    computed = [Rows(lo, hi) for lo, hi in pairwise(cuts)]
    strips = [Strip([rows], [rows]) for rows in computed]
    for step, before in zip(reversed(chain.steps), reversed(heights[:-1]), strict=True):
        needed = [step.need(rows, before).or_one(before) for rows in computed]
        # A strip owns the rows from the first it needs to the first of the next strip. At a mirrored border a later
        # strip may need earlier rows: it does not own them. Rows that nobody needs (a stride larger than its kernel)
        # are owned and computed all the same, for they count in the statistics of a norm.
        begins = [0, *accumulate((rows.lo for rows in needed[1:]), max), before]
        owned = [Rows(lo, hi) for lo, hi in pairwise(begins)]
        computed = [Rows(min(own.lo, rows.lo), max(own.hi, rows.hi)) for own, rows in zip(owned, needed, strict=True)]
        for strip, rows, own in zip(strips, computed, owned, strict=True):
            strip.rows.insert(0, rows)
            strip.owned.insert(0, own)
    return strips


def convolution(weight: Tensor, bias: Tensor | None = None, stride: Pair = 1, padding: Pair | str = 0,
                dilation: Pair = 1, groups: int = 1) -> Window:
    """`torch.nn.functional.conv2d`, its padding `same` and `valid` included."""
    stride, dilation = pair(stride), pair(dilation)
    (above, below), (left, right) = (
        _conv_padding(padding, axis, weight.shape[2 + axis], dilation[axis]) for axis in (0, 1))

    def run(x: Tensor) -> Tensor:
        x = F.pad(x, (0, right - left)) if right > left else x  # `same` with an even kernel pads one more at the end
        return F.conv2d(x, weight, bias, stride, (0, left), dilation, groups)

    return Window(run, weight.shape[2], stride[0], dilation[0], above, below)


def transposed_convolution(weight: Tensor, bias: Tensor | None = None, stride: Pair = 1, padding: Pair = 0,
                           output_padding: Pair = 0, groups: int = 1, dilation: Pair = 1) -> Transposed:
    """`torch.nn.functional.conv_transpose2d`."""
    stride, padding, output_padding, dilation = pair(stride), pair(padding), pair(output_padding), pair(dilation)

    def run(x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, weight, bias, stride, (0, padding[1]), (0, output_padding[1]), groups, dilation)

    return Transposed(run, weight.shape[2], stride[0], dilation[0], padding[0], output_padding[0])


def average_pool(kernel: Pair, stride: Pair | None = None, padding: Pair = 0, count_include_pad: bool = True,
                 divisor_override: int | None = None) -> Window:
    """`torch.nn.functional.avg_pool2d` with `ceil_mode=False`."""
    kernel, stride, padding = pair(kernel), pair(stride or kernel), pair(padding)
    only_inside = not count_include_pad and divisor_override is None and any(padding)

    def run(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, kernel, stride, (0, padding[1]), divisor_override=divisor_override)

    kind = MeanInside if only_inside else Window
    return kind(run, kernel[0], stride[0], above=padding[0], below=padding[0])


def max_pool(kernel: Pair, stride: Pair | None = None, padding: Pair = 0, dilation: Pair = 1) -> Window:
    """`torch.nn.functional.max_pool2d` with `ceil_mode=False` and without indices."""
    kernel, stride, padding, dilation = pair(kernel), pair(stride or kernel), pair(padding), pair(dilation)

    def run(x: Tensor) -> Tensor:
        return F.max_pool2d(x, kernel, stride, (0, padding[1]), dilation)

    return Window(run, kernel[0], stride[0], dilation[0], padding[0], padding[0], fill=-math.inf)


def nearest(factor: Pair) -> Enlarge:
    """Nearest-neighbour enlargement by a whole number along rows and along columns."""
    factors = tuple(float(f) for f in pair(factor))
    return Enlarge(lambda x: F.interpolate(x, scale_factor=factors, mode="nearest"), pair(factor)[0])


def bilinear(height: int, *, size: Pair | None = None, scale: float | tuple[float, ...] = 1.0,
             align_corners: bool = False) -> Bilinear:
    """`torch.nn.functional.interpolate(mode="bilinear")` of an image of `height` rows, to a size or by a factor."""
    if size is not None:
        rows, columns = pair(size)
        step = height / rows

        def run(x: Tensor) -> Tensor:
            return F.interpolate(x, (x.shape[2], columns), mode="bilinear", align_corners=align_corners)
    else:
        factors = (scale, scale) if isinstance(scale, int | float) else tuple(scale)
        rows, step = math.floor(height * factors[0]), 1 / factors[0]

        def run(x: Tensor) -> Tensor:
            return F.interpolate(x, scale_factor=(1.0, factors[1]), mode="bilinear", align_corners=align_corners)

    if align_corners:
        step = (height - 1) / (rows - 1) if rows > 1 else 0.0
    return Bilinear(run, rows, step, align_corners)


def pixel_shuffle(factor: int) -> Enlarge:
    """`torch.nn.functional.pixel_shuffle`: (N, C·f², H, W) to (N, C, H·f, W·f)."""
    return Enlarge(lambda x: F.pixel_shuffle(x, factor), factor)


def pixel_unshuffle(factor: int) -> Window:
    """`torch.nn.functional.pixel_unshuffle`: (N, C, H·f, W·f) to (N, C·f², H, W)."""
    return Window(lambda x: F.pixel_unshuffle(x, factor), factor, factor)


def pair(value: Pair) -> tuple[int, int]:
    """An argument along rows and along columns, from one number, one in a tuple, or two."""
    numbers = (value,) if isinstance(value, int) else tuple(value)
    return (numbers[0], numbers[-1])


def _conv_padding(padding: Pair | str, axis: int, kernel: int, dilation: int) -> tuple[int, int]:
    """The padding before and behind one axis."""
    if isinstance(padding, str):
        total = dilation * (kernel - 1) if padding == "same" else 0
        return total // 2, total - total // 2
    return (pair(padding)[axis],) * 2


def _pad_rows(x: Tensor, above: int, below: int, value: float = 0.0) -> Tensor:
    return F.pad(x, (0, 0, above, below), value=value) if above or below else x
