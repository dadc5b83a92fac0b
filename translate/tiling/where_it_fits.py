"""Applying a network at once where that fits into the memory that is left, and else in strips, with the same output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from translate import tiling
from translate.errors import DoesNotFit
from translate.host.available_memory import Available, give_back_freed, usable_memory
from translate.sizes import format_bytes

# No generator takes more bytes for a pixel of an image at once (ResNet-9 of the published width takes 900): where even
# so many fit, nothing needs to be forecast. An image is padded to what its network takes at least.
MOST_BYTES_PER_PIXEL, LEAST_SIDE = 16_384, 256


class Lacking(NamedTuple):
    """Why an image is not computed at once: the bytes that would take, and what there is."""

    whole_bytes: int
    room: Available

    def __str__(self) -> str:
        return (f"at once it would take {format_bytes(self.whole_bytes)}, and {format_bytes(self.room.bytes)} may be "
                f"taken: {self.room.limit_from}")


def lacking(generator: nn.Module, shape: Sequence[int], room: Callable[[], Available] = usable_memory, beside: int = 0,
            beside_whole: int = 0) -> Lacking | None:
    """Return why an image of `shape` (1, C, H, W) cannot be computed at once on a CPU; None where it can.

    room           what may be taken now
    beside         bytes of other forms of the image
    beside_whole   more of them, where it is computed at once
    """
    left, (height, width) = room(), shape[2:]
    if max(height, LEAST_SIDE) * max(width, LEAST_SIDE) * MOST_BYTES_PER_PIXEL + beside <= left.bytes:
        return None
    give_back_freed()
    left = room()
    try:
        whole = tiling.whole_bytes(generator, shape) + beside + beside_whole
    except Exception:  # a network that cannot run without values tells nothing of what it takes
        return None
    return None if whole <= left.bytes else Lacking(whole, left)


@torch.no_grad()
def apply_where_it_fits(generator: nn.Module, image: Tensor) -> Tensor:
    """Return `generator(image)` for an image (1, C, H, W), on a CPU in strips where it would be killed at once.

    On CUDA a lack of memory is an error, and kills nobody. Raises `DoesNotFit` where it does not fit in strips either.
    """
    why = None if image.device.type == "cuda" else lacking(generator, image.shape)
    if why is None:
        fake: Tensor = generator(image)
        return fake
    try:
        return tiling.apply(generator, image, memory=max(why.room.bytes, 1))
    except tiling.TilingError as error:
        raise DoesNotFit(f"{why}; and it cannot be computed in strips: {error}") from error
