"""What a phase changes before its end, so that one that fails can be undone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from translate.translators import Translator


class BeforePhase:
    """The buffers of all networks and the random states as they were before a phase.

    Optimizers, pools and the gradient scaler change only at a phase's end; buffers and random state are all there is to
    restore, besides the gradients and what the pools have staged.
    """

    def __init__(self, translator: Translator, device: torch.device):
        self.translator, self.device = translator, device
        self.buffers = [(buffer, buffer.clone()) for network in translator.networks.values()
                        for buffer in network.buffers()]
        self.random = torch.get_rng_state()
        self.random_cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self) -> None:
        """Restore them, and make the pools forget the exchanges they have staged."""
        for pool in self.translator.pools.values():
            pool.undo()
        with torch.no_grad():
            for buffer, value in self.buffers:
                buffer.copy_(value)
        torch.set_rng_state(self.random)
        if self.random_cuda is not None:
            torch.cuda.set_rng_state(self.random_cuda, self.device)


@contextmanager
def leaving_no_trace(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Restore after the block what forward passes in it advance: running statistics, the vectors of a spectral norm."""
    held = [(buffer, buffer.clone()) for network in networks for buffer in network.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in held:
                buffer.copy_(value)


@contextmanager
def frozen(networks: Iterator[nn.Module]) -> Iterator[None]:
    """Compute no gradient for these networks' parameters within the block."""
    held = [parameter for network in networks for parameter in network.parameters() if parameter.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)
