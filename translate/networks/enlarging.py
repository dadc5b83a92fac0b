"""Twice the size and a 3×3 convolution at once, on a CPU: the same numbers, to rounding, for less than half the work.

Where each pixel is repeated along rows and along columns, the nine weights of a 3×3 convolution fall on no more than
four different pixels; which of them fall together goes by whether the row and the column are even. These sums are the
weights of a transposed convolution of 4×4 with a stride of 2: 4 multiplications in the place of 9, and no image of four
times the pixels in between. Even and odd pixels see the same weights in sum, so that there is no checkerboard, as
transposed convolutions with weights of their own have (Odena et al. 2016).

Where it is not done at once, the pixels are repeated, which is equal to rounding: in a training's strips
(`translate.networks.strips`), on cards, in half precision, which would round the summed weights once more, and in
exported graphs, where the size of the example would decide.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from translate.networks.normalised import is_on_cpu
from translate.precision import convolution_dtype

LEAST_PIXELS = 512  # of a batch: with fewer, making the sums takes longer than the multiplications that they save


def enlarges_at_once(x: Tensor, conv: Any, reflect: int) -> bool:
    """Tell whether `enlarged` knows a convolution and the mirrored border before it, 3×3 with one pixel of either, and
    whether `x` (N, C, H, W) is large enough, in float32 or finer, and on a CPU, where it was measured to be worth it
    (docs/log.md)."""
    if torch.compiler.is_compiling() or not is_on_cpu(x):  # which it is while a graph is exported as well
        return False
    known = (_is_plain(conv) and conv.kernel_size == (3, 3) and conv.padding_mode == "zeros"
             and conv.stride == conv.dilation == (1, 1) and conv.groups == 1
             and (conv.padding, reflect) in (((1, 1), 0), ((0, 0), 1)))
    return (known and convolution_dtype(x) in (torch.float32, torch.float64)
            and x.shape[0] * x.shape[2] * x.shape[3] >= LEAST_PIXELS)


def _is_plain(conv: nn.Module) -> bool:
    """Tell whether calling a module is torch's convolution of its weights and nothing else: old ways of weight and
    spectral norm are hooks that make the weights."""
    hooks = (conv._forward_pre_hooks, conv._forward_hooks, conv._backward_pre_hooks, conv._backward_hooks)
    return (isinstance(conv, nn.Conv2d) and getattr(conv.forward, "__func__", None) is nn.Conv2d.forward
            and type(conv)._conv_forward is nn.Conv2d._conv_forward and not any(hooks))


def enlarged(x: Tensor, conv: nn.Conv2d, reflect: int) -> Tensor:
    """Return the convolution of `x` (N, C, H, W) with each pixel repeated twice in each direction: (N, C', 2H, 2W).

    reflect  1: the enlarged image is mirrored at its borders, 0: it is padded with zeros, as the convolution says
    """
    # Even rows, and columns: weight 0 on the pixel before, 1 and 2 on their own. Odd ones: 0 and 1 on their own, 2 on
    # the pixel after. A transposed convolution reads its weights backwards.
    padded = F.pad(conv.weight, (1, 1, 1, 1))
    of_rows = padded[..., :-1, :] + padded[..., 1:, :]
    sums = (of_rows[..., :-1] + of_rows[..., 1:]).flip(2, 3).transpose(0, 1)

    # Mirrored without its outermost pixel, an enlarged image begins with the same pixel again
    border = x if not reflect else F.pad(x, (1, 1, 1, 1), mode="replicate")
    return F.conv_transpose2d(border, sums, conv.bias, stride=2, padding=1 + 2 * reflect)
