"""Eval mode for as long as a block of code takes, also where that block ends in an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put `network` into eval mode, and every part of it back into the mode it was in when the block ends.

    Without the way back after an error (out of memory, most likely) a training would go on with its batch norm frozen
    and its dropout off, and nobody would notice.
    """
    modes = [(part, part.training) for part in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
