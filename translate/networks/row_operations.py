"""Torch's functions as operations on rows: from their arguments to the rules of `translate.networks.rows`.

Each function here takes the arguments of the torch function that its docstring names, except the image, and returns
the operation that computes any rows of that function's output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from translate.networks.rows import ColumnFunction, RowRange, Transposed, Upsampling, Window
from translate.precision import at_least_float32

Pair = int | tuple[int, ...]  # an argument along rows and along columns: one number for both, or one each


@dataclass(frozen=True)
class MeanInside(Window):
    """Average pooling that counts only what lies inside the image (`count_include_pad=False`)."""

    def apply(self, x: Tensor, want: RowRange, height: int) -> Tensor:
        inside = torch.ones_like(x[:1, :1])
        return super().apply(x, want, height) / super().apply(inside, want, height)


@dataclass(frozen=True)
class Bilinear:
    """Bilinear interpolation to `height` rows: output row i lies at place i·step of the input (`align_corners`) or at
    (i + ½)·step − ½, not below 0. Rows are mixed here; `run` does the same to columns.
    """

    run: ColumnFunction
    height: int
    step: float
    align_corners: bool

    def out_height(self, height: int) -> int:
        return self.height

    def need(self, want: RowRange, height: int) -> RowRange:
        # One more row on either side: torch places rows in single precision, perhaps just beyond a whole number.
        first, last = (math.floor(self._place(row)) for row in (want.start, want.stop - 1))
        return RowRange(min(first, height - 1) - 1, last + 3).clipped(height)

    def apply(self, x: Tensor, want: RowRange, height: int) -> Tensor:
        have, exact = self.need(want, height), at_least_float32(x)

        # Each output row is a mix of the input row above its place and the next one.
        rows = torch.arange(want.start, want.stop, dtype=exact.dtype, device=x.device)
        place = self._place(rows).clamp(min=0)
        upper = place.floor().clamp(have.start, have.stop - 1)
        share = (place - upper).clamp(0, 1)[:, None]
        index = upper.long() - have.start
        neighbour = (index + 1).clamp(max=len(have) - 1)

        return self.run(torch.lerp(exact[:, :, index], exact[:, :, neighbour], share).to(x.dtype))

    def _place(self, row: Any) -> Any:
        """Return the place in the input of one output row (a number) or of many (a tensor)."""
        return row * self.step if self.align_corners else (row + 0.5) * self.step - 0.5


def convolution(weight: Tensor, bias: Tensor | None = None, stride: Pair = 1, padding: Pair | str = 0,
                dilation: Pair = 1, groups: int = 1) -> Window:
    """Return `torch.nn.functional.conv2d`, its padding `same` and `valid` included."""
    stride, dilation = pair(stride), pair(dilation)
    (top, bottom), (left, right) = (
        _conv_padding(padding, axis, weight.shape[2 + axis], dilation[axis]) for axis in (0, 1))

    def run(x: Tensor) -> Tensor:
        x = F.pad(x, (0, right - left)) if right > left else x  # `same` with an even kernel pads one more at the end
        return F.conv2d(x, weight, bias, stride, (0, left), dilation, groups)

    return Window(run, weight.shape[2], stride[0], dilation[0], top, bottom)


def transposed_convolution(weight: Tensor, bias: Tensor | None = None, stride: Pair = 1, padding: Pair = 0,
                           output_padding: Pair = 0, groups: int = 1, dilation: Pair = 1) -> Transposed:
    """Return `torch.nn.functional.conv_transpose2d`."""
    stride, padding, output_padding, dilation = pair(stride), pair(padding), pair(output_padding), pair(dilation)

    def run(x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, weight, bias, stride, (0, padding[1]), (0, output_padding[1]), groups, dilation)

    return Transposed(run, weight.shape[2], stride[0], dilation[0], padding[0], output_padding[0])


def average_pool(kernel: Pair, stride: Pair | None = None, padding: Pair = 0, count_include_pad: bool = True,
                 divisor_override: int | None = None) -> Window:
    """Return `torch.nn.functional.avg_pool2d` with `ceil_mode=False`."""
    kernel, stride, padding = pair(kernel), pair(stride or kernel), pair(padding)
    only_inside = not count_include_pad and divisor_override is None and any(padding)

    def run(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, kernel, stride, (0, padding[1]), divisor_override=divisor_override)

    kind = MeanInside if only_inside else Window
    return kind(run, kernel[0], stride[0], pad_top=padding[0], pad_bottom=padding[0])


def max_pool(kernel: Pair, stride: Pair | None = None, padding: Pair = 0, dilation: Pair = 1) -> Window:
    """Return `torch.nn.functional.max_pool2d` with `ceil_mode=False` and without indices."""
    kernel, stride, padding, dilation = pair(kernel), pair(stride or kernel), pair(padding), pair(dilation)

    def run(x: Tensor) -> Tensor:
        return F.max_pool2d(x, kernel, stride, (0, padding[1]), dilation)

    return Window(run, kernel[0], stride[0], dilation[0], padding[0], padding[0], fill=-math.inf)


def nearest(factor: Pair) -> Upsampling:
    """Return `torch.nn.functional.interpolate(mode="nearest")` by a whole number along rows and along columns."""
    factors = tuple(float(f) for f in pair(factor))
    return Upsampling(lambda x: F.interpolate(x, scale_factor=factors, mode="nearest"), pair(factor)[0])


def bilinear(height: int, *, size: Pair | None = None, scale: float | tuple[float, ...] = 1.0,
             align_corners: bool = False) -> Bilinear:
    """Return `torch.nn.functional.interpolate(mode="bilinear")` of an image of `height` rows, to a size or by a factor.

    As in torch, the step from row to row is the ratio of the sizes where a size is given, and else 1 / factor.
    """
    if size is not None:
        out_height, columns = pair(size)
        step = height / out_height

        def run(x: Tensor) -> Tensor:
            return F.interpolate(x, (x.shape[2], columns), mode="bilinear", align_corners=align_corners)
    else:
        factors = (scale, scale) if isinstance(scale, int | float) else tuple(scale)
        out_height, step = math.floor(height * factors[0]), 1 / factors[0]

        def run(x: Tensor) -> Tensor:
            return F.interpolate(x, scale_factor=(1.0, factors[1]), mode="bilinear", align_corners=align_corners)

    if align_corners:
        step = (height - 1) / (out_height - 1) if out_height > 1 else 0.0
    return Bilinear(run, out_height, step, align_corners)


def pixel_shuffle(factor: int) -> Upsampling:
    """Return `torch.nn.functional.pixel_shuffle`: (N, C·f², H, W) to (N, C, H·f, W·f)."""
    return Upsampling(lambda x: F.pixel_shuffle(x, factor), factor)


def pixel_unshuffle(factor: int) -> Window:
    """Return `torch.nn.functional.pixel_unshuffle`: (N, C, H·f, W·f) to (N, C·f², H, W)."""
    return Window(lambda x: F.pixel_unshuffle(x, factor), factor, factor)


def pair(value: Pair) -> tuple[int, int]:
    """Return an argument along rows and along columns, from one number, one in a tuple, or two."""
    numbers = (value,) if isinstance(value, int) else tuple(value)
    return (numbers[0], numbers[-1])


def _conv_padding(padding: Pair | str, axis: int, kernel: int, dilation: int) -> tuple[int, int]:
    """Return the padding before and behind one axis."""
    if isinstance(padding, str):
        total = dilation * (kernel - 1) if padding == "same" else 0
        return total // 2, total - total // 2
    return (pair(padding)[axis],) * 2
