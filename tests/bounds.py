"""How far two computations of the same gradients may lie apart: from the arithmetic, whatever machine does it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from tests.steps import worst_error

# Of float64, in the unit that `Rough` has one of for every value. Sums here have up to 3,000 terms (the pixels of a
# channel), which one machine adds in a tree and another one after the other, in about √3000 = 55 roundings; and there
# are two sides that are compared.
ROUNDINGS = 2 * 55
FAULT = 1e-9  # what a test must see at least: a bound beyond it would hide one gradient scaled by 1 + FAULT
CLOSE = FAULT / 1000  # what lies closer hides nothing, whatever the arithmetic


class RoundingBound:
    """How far float64 results may lie from `expected`, which is what `step` computes, as `distance` measures it.

    A rounding is in proportion to the number format's eps, and so is what a step makes of it, however often that is
    amplified on its way. So the same step with roundings that are much larger, and known, tells what float64's do
    (Monte Carlo arithmetic: Parker 1997): to first order, as much less as they are smaller.

    `distance(found, expected) <= bound` does that step where the distance is above `CLOSE`: most are below it.
    """

    def __init__(self, expected: Mapping[str, Tensor], step: Callable[[], Mapping[str, Tensor]],
                 distance: Callable[..., float] = worst_error):
        self.expected, self.step, self.distance = expected, step, distance

    @functools.cached_property
    def value(self) -> float:
        with Rough():
            found = self.step()
        bound = ROUNDINGS * torch.finfo(torch.float64).eps / Rough.eps * self.distance(found, self.expected)
        assert bound < FAULT, f"{bound:.1e}: a step so ill-conditioned shows no fault"
        return bound

    def __ge__(self, error: float) -> bool:
        return error <= CLOSE or error <= self.value

    def __lt__(self, error: float) -> bool:
        return self.value < error

    def __repr__(self) -> str:
        return f"{self.value:.2e}"


class Rough(TorchDispatchMode):
    """While it is entered, every float64 that an operation gives is off by up to `eps` of itself, at random.

    Far more than float64 rounds, and far less than it takes to bring a value to the other side of a kink, as single
    precision does now and then.
    """

    eps = 2.0**-40
    offs = 1 + eps * (torch.rand(2**20, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1)

    def __init__(self) -> None:
        super().__init__()
        self.place = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            for value in tree_iter(result):
                # A tensor that autograd knows to be zero has no memory, and no rounding.
                if isinstance(value, Tensor) and value.dtype == torch.float64 and not value._is_zerotensor():
                    value.mul_(self._drawn(value.numel()).view(value.shape))
        return result

    def _drawn(self, number: int) -> Tensor:
        """Return the next factors: of numbers drawn once, as drawing takes longer than most of what is computed."""
        if number > len(self.offs):
            return self.offs.repeat(-(-number // len(self.offs)))[:number]
        if self.place + number > len(self.offs):
            self.place = 0
        self.place += number
        return self.offs[self.place - number:self.place]
