"""What applying a network to a whole image at once takes, found without computing anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from translate.networks.live_bytes import LiveBytes

MARGIN = 1.1  # for what lies between blocks of memory (measured: 1.0 to 1.1, and what the system's library keeps)
GLIBC_KEEPS = 64 * 2**20  # bytes: twice its largest threshold for returning a freed block to the system at once


@torch.no_grad()
def whole_bytes(generator: nn.Module, shape: Sequence[int]) -> int:
    """Return the most bytes that live at once in `generator(image)` for an image of `shape` (1, C, H, W), in float32.

    With the image and what is made of it, without the weights; on a CPU, where a convolution copies its input and its
    output into another layout. Not for another thread than the one that uses the generator. Raises what a network
    raises that cannot run without values.
    """
    weights = {name: weight.to("meta") for name, weight in [*generator.named_parameters(), *generator.named_buffers()]}
    with _LiveBytesOnCPU() as live:
        image = torch.empty(tuple(shape), device="meta")
        torch.func.functional_call(generator, weights, (image,))
    return int(live.peak * MARGIN) + GLIBC_KEEPS


class _LiveBytesOnCPU(LiveBytes):
    """Counts on the meta device, and with every convolution what it takes for itself on a CPU."""

    def __init__(self) -> None:
        super().__init__("meta")

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_dispatch__(function, types, args, kwargs)
        if function._overloadpacket == torch.ops.aten.convolution:
            is_transposed = args[6]  # it takes its input twice
            copies = [args[0], result, *([args[0]] if is_transposed else [])]
            self.peak = max(self.peak, self.live + sum(each.numel() * each.element_size() for each in copies))
        return result
