"""Gradient checkpointing: a part of a network holds only its inputs, and is computed again in the backward pass.

Chen et al. 2016 ("Training deep nets with sublinear memory cost"). The checkpoints of a run are another thing, in
`translate.runs`. A forward pass may change buffers (running statistics, the vectors of a spectral norm); when it is
repeated, it starts where the first one did and changes nothing: a step that recomputes equals one that does not.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

Made = TypeVar("Made", Tensor, tuple[Tensor, ...])
StartingPoint = list[tuple[nn.Module, dict[str, Tensor | None]]]


def checkpointed(module: nn.Module, function: Callable[..., Made], *inputs: Tensor) -> Made:
    """Run `function` (a part of `module`) keeping only its inputs; the backward pass runs it again.

    Where the last operation is a convolution, that one is not run again: autograd stops as soon as it has back what
    it needs. Dropout is positional, so no random state has to be kept.
    """
    if not torch.is_grad_enabled():
        return function(*inputs)
    start = starting_point(module)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False,
                      context_fn=lambda: (nullcontext(), recomputing(start)))


def starting_point(network: nn.Module) -> StartingPoint:
    """Copy the buffers a forward pass starts from and may advance: running statistics, the vectors of a spectral norm.

    BatchNorm in training gives the same result whatever its statistics are, so these are not copied.
    """
    return [(module, {name: value if value is None or isinstance(module, _BatchNorm) else value.clone()
                      for name, value in module._buffers.items()})
            for module in network.modules() if module.training and module._buffers]


class recomputing:
    """While a forward pass is repeated for its gradient: it starts where the first one did, and advances nothing.

    May be entered again: a second derivative repeats the pass twice.
    """

    def __init__(self, start: StartingPoint):
        self.start = start
        self.held: StartingPoint = []

    def __enter__(self) -> None:
        self.held = [(module, dict(module._buffers)) for module, _ in self.start]
        for module, buffers in self.start:
            module._buffers.update({name: None if value is None else value.clone() for name, value in buffers.items()})

    def __exit__(self, *error: object) -> None:
        for module, buffers in self.held:
            module._buffers.update(buffers)
        self.held = []
