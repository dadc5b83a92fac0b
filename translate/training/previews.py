"""Fakes that the discriminators see before it is the generators' turn, kept with their graphs until then.

Where the discriminators move first, a step would translate the same images twice: without a graph for them, and with
one for the generators, whose weights have not changed in between. A kept fake serves both, as in pix2pix's public code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from translate.training.undo import Buffers, held_buffers, restore_buffers


class Previews:
    """The fakes of one step, at most one a generator, and its generators as they were before it."""

    def __init__(self) -> None:
        self._fakes: dict[nn.Module, Tensor] = {}
        self._buffers: dict[nn.Module, Buffers] = {}
        self._trained: dict[nn.Module, list[nn.Parameter]] = {}
        self.may_keep = False

    @contextmanager
    def within(self, generators: Iterable[nn.Module], may_keep: bool) -> Iterator[None]:
        """Keep what is made within the block, if that `may_keep`. What is not kept leaves no trace in the buffers.

        Traces are what `held_buffers` copies.
        """
        for generator in generators:
            self._buffers[generator] = held_buffers([generator])
            self._trained[generator] = [each for each in generator.parameters() if each.requires_grad]
        self.may_keep = may_keep
        try:
            yield
        finally:
            self.may_keep = False
            for generator in self._buffers.keys() - self._fakes.keys():
                restore_buffers(self._buffers.pop(generator))

    @contextmanager
    def graph_of(self, generator: nn.Module) -> Iterator[None]:
        """Compute gradients for the parameters of a generator that is frozen, as it is not its turn."""
        for parameter in self._trained[generator]:
            parameter.requires_grad_(True)
        try:
            with torch.enable_grad():
                yield
        finally:
            for parameter in self._trained[generator]:
                parameter.requires_grad_(False)

    def keep(self, generator: nn.Module, fake: Tensor) -> None:
        self._fakes[generator] = fake

    def take(self, generator: nn.Module) -> Tensor | None:
        """Return what was kept of a generator, for the one time it can be backpropagated; None: nothing was."""
        return self._fakes.pop(generator, None)

    def undo(self) -> None:
        """Forget what was kept, for the rest of the step, and bring its generators back to before it."""
        self.may_keep = False
        self._fakes.clear()
        for buffers in self._buffers.values():
            restore_buffers(buffers)
