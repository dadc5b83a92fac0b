"""Dropout by position: the mask is a function of the place in the image, so every way of computing meets the same one.

The mask is a hash of (sample, layer, channel, row, column) instead of a draw. The same sample meets the same mask
however often, in whatever strips and on whatever device it is computed, so recomputation and tiled execution agree with
the plain pass, and nothing has to be saved for a resume.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from translate.precision import on_device


class PositionalDropout(nn.Module):
    """Dropout of the images (N, C, H, W) whose samples `seed_dropout` has named; `layer` tells it from other dropouts.

    Keeps the scale: kept values are divided by 1 − p. Does nothing in eval mode.
    """

    def __init__(self, p: float, layer: int):
        super().__init__()
        self.p, self.layer = p, layer
        self.keys: tuple[int, ...] = (0,)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        return positional_dropout(x, self.keys, self.layer, self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}, layer={self.layer}"


def seed_dropout(networks: Iterable[nn.Module], keys: tuple[int, ...]) -> None:
    """Name the samples of the batch that is about to be computed, one integer each; a single one serves them all."""
    for network in networks:
        for module in network.modules():
            if isinstance(module, PositionalDropout):
                module.keys = keys


def positional_dropout(x: Tensor, keys: tuple[int, ...], layer: int, p: float, first_row: int = 0) -> Tensor:
    """Drop values of `x` (N, C, H, W), whose first row is `first_row` of the image; keep the scale of what remains.

    `translate.tiling` overrides it for lazy images via `__torch_function__`.
    """
    if has_torch_function_unary(x):
        return handle_torch_function(positional_dropout, (x,), x, keys, layer, p, first_row)
    mask = positional_mask(x.shape, keys, layer, p, x.device, first_row)
    return x * mask.to(x.dtype) / (1 - p)


def positional_mask(shape: torch.Size, keys: tuple[int, ...], layer: int, p: float, device: torch.device,
                    first_row: int = 0) -> Tensor:
    """Return a (N, C, H, W) boolean mask, True with probability 1 − p, for rows from `first_row` on.

    `keys` holds one integer for each sample; a single one serves them all. The mixing function is Chris Wellons'
    `lowbias32` (public domain): two rounds of xor-shift and multiply over 32 bits.
    """
    samples, channels, rows, columns = shape
    named = keys if len(keys) == samples else keys[:1] * samples
    sample = _mix(on_device([key & 0xFFFFFFFF for key in named], device) + layer * 0x9E3779B1)
    channel = _mix(sample[:, None] + torch.arange(channels, device=device))
    row = _mix(channel[:, :, None] + torch.arange(first_row, first_row + rows, device=device))
    column = _mix(row[..., None] + torch.arange(columns, device=device))
    return column >= int(p * 2**32)


def _mix(value: Tensor) -> Tensor:
    value = value & 0xFFFFFFFF
    value = ((value ^ (value >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    value = ((value ^ (value >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return value ^ (value >> 16)
