"""Mirrored padding as a gather, and its adjoint as one: both keep an image's layout in memory, and give the same bits
every time.

torch's own on a card does neither: it copies a channels_last image to another layout, and its backward pass adds to
the mirrored pixels with atomic operations, in whatever order these come. Few operations, as each is a kernel to launch.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

Amounts = tuple[int, int, int, int]  # columns at the left and right, rows at the top and bottom; as in F.pad
NONE: Amounts = (0, 0, 0, 0)


def layout_of(x: Tensor) -> torch.memory_format:
    """Return channels_last for an image (N, C, H, W) whose channels lie side by side, else torch's usual layout."""
    return torch.channels_last if x.stride(1) == 1 and x.shape[1] > 1 else torch.contiguous_format


def mirrored(x: Tensor, amounts: Amounts) -> Tensor:
    """Return an image (N, C, H, W) with rows and columns mirrored at its borders, without repeating the border itself.

    What `F.pad(x, amounts, mode="reflect")` returns; each amount is less than the side it mirrors.
    """
    left, right, top, bottom = amounts
    height, width = x.shape[2:]
    rows, columns = _places(height, top, bottom, x.device)[:, None], _places(width, left, right, x.device)
    if layout_of(x) == torch.contiguous_format:
        return x[:, :, rows, columns]
    return x.permute(0, 2, 3, 1)[:, rows, columns].permute(0, 3, 1, 2)


def gathered(gradient: Tensor, amounts: Amounts) -> Tensor:
    """Return the gradient of an image, given that of what `mirrored` made of it: each pixel's sum over its places."""
    left, right, top, bottom = amounts
    height, width = gradient.shape[2] - top - bottom, gradient.shape[3] - left - right
    columns = gradient.narrow(3, left, width)
    inner = columns.narrow(2, top, height).clone(memory_format=layout_of(gradient))
    for padding, places in _margins(height, top, bottom, gradient.device):
        inner = inner.index_add_(2, places, columns.index_select(2, padding))

    # The columns of the margins, which have corners: rows first, as above.
    for padding, places in _margins(width, left, right, gradient.device):
        margin = gradient.index_select(3, padding)
        side = margin.narrow(2, top, height).clone()
        for above, rows in _margins(height, top, bottom, gradient.device):
            side = side.index_add_(2, rows, margin.index_select(2, above))
        inner = inner.index_add_(3, places, side)
    return inner


def _places(side: int, before: int, after: int, device: torch.device) -> Tensor:
    """Return where each row (or column) of a padded image comes from."""
    return _numbers(side, before, after, device)[0]


def _margins(side: int, before: int, after: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Return which rows of a padded image are padding, and which row of the image each is mirrored from.

    Both margins together, unless a row is mirrored in both: in one addition each row occurs once, and then the order of
    the additions does not matter.
    """
    _, padding, mirrored_from = _numbers(side, before, after, device)
    if before + after <= side - 2:
        return [(padding, mirrored_from)] if before or after else []
    return [*zip(padding.split([before, after]), mirrored_from.split([before, after]), strict=True)]


def _numbers(side: int, before: int, after: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the places of all rows of a padded image, the numbers of those that are padding, and the places of these.
    """
    make = _made if device.type == "meta" else _kept  # what is counted must not depend on what was counted before
    return make(side, before, after, device)


@torch.inference_mode(False)  # what is kept serves training too
def _made(side: int, before: int, after: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    start, end = torch.arange(before, device=device), torch.arange(after, device=device)
    places = torch.cat([before - start, torch.arange(side, device=device), side - 2 - end])
    padding = torch.cat([start, before + side + end])
    return places, padding, places[padding]


_kept = functools.lru_cache(maxsize=512)(_made)
