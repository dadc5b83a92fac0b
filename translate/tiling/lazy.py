"""Images that are not computed yet: calling a network on one records what is to be done to it.

    graph = generator(LazyImage.of(source, …)).node

`LazyImage` answers torch's functions in place of a tensor (`__torch_function__`), so the network is the unmodified
`nn.Module`, ours or anybody's. Every call adds a `Node` to a graph that says, row by row, what it is made of, by the
rules of `tiling.rules`; nothing is computed. `translate.tiling` then computes the graph in strips. An operation without
a rule raises `TilingError` and names it: nothing falls back to something inexact.

Attention and its like need all rows at once: where a network reshapes an image into a list of pixels, that image is
computed there and then (at the network's bottleneck that is little) and the network goes on with the real tensor.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from translate.tiling.graph import TilingError
from translate.tiling.recorded import RecordedImage, computed, described, pointwise
from translate.tiling.rules import ALL_ROWS, POINTWISE, RULES


class LazyImage(RecordedImage):
    """An image (1, C, H, W) that a network may be called on as if it were a tensor."""

    ndim = 4
    requires_grad = is_cuda = is_nested = is_sparse = is_quantized = False
    layout = torch.strided

    def __len__(self) -> int:
        return self.shape[0]

    def dim(self) -> int:
        return 4

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func.__name__, func, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        """Return a method of tensors: the function of the same name."""
        if name.startswith("_") or not callable(getattr(Tensor, name, None)):
            raise AttributeError(name)
        return lambda *args, **kwargs: _call(name, getattr(Tensor, name), (self, *args), kwargs)

    def __neg__(self) -> LazyImage:
        return pointwise(operator.neg, (self,), {})

    def __getitem__(self, index: Any) -> LazyImage:
        return _call("getitem", None, (self, index), {})


def _operators(function: Callable[..., Tensor]) -> tuple[Callable[..., LazyImage], ...]:
    """Return x ∘ y, y ∘ x and x ∘= y."""
    def forward(self: LazyImage, *others: Any) -> LazyImage:
        return pointwise(function, (self, *others), {})

    def backward(self: LazyImage, other: Any) -> LazyImage:
        return pointwise(function, (other, self), {})

    def in_place(self: LazyImage, other: Any) -> LazyImage:
        return _replaced(self, forward(self, other), function.__name__)

    return forward, backward, in_place


for _name in ("add", "sub", "mul", "truediv", "pow"):
    for _prefix, _method in zip(("", "r", "i"), _operators(getattr(operator, _name)), strict=True):
        setattr(LazyImage, f"__{_prefix}{_name}__", _method)


def _refused(name: str) -> Callable[..., LazyImage]:
    """Return an operator that is refused: Python's own answer to == would be False, to `if x` True, for all images."""
    return lambda self, *others: _call(name, None, (self, *others), {})


for _name in ("eq", "ne", "lt", "le", "gt", "ge", "floordiv", "mod", "and", "or", "xor", "invert", "bool", "iter"):
    setattr(LazyImage, f"__{_name}__", _refused(_name))


def _call(name: str, function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Record a call of a torch function on at least one lazy image.

    Raises `TilingError` for a function without a rule.
    """
    # relu_(x) and relu(x, inplace=True) do what relu(x) does, and then give its result to whoever holds x.
    plain = name.removesuffix("_")
    in_place = plain != name or bool(kwargs.get("inplace", False))
    kwargs = {key: value for key, value in kwargs.items() if key not in ("inplace", "out")}

    if plain in POINTWISE:
        result = pointwise(POINTWISE[plain], args, kwargs)
    elif plain in RULES:
        result = RULES[plain](*args, **kwargs)
    elif plain in ALL_ROWS:
        return function(*computed(args), **computed(kwargs))
    else:
        raise TilingError(f"{name} ({described(args)}): strips have no exact rule for this operation")
    return _replaced(args[0], result, name) if in_place else result


def _replaced(image: LazyImage, result: LazyImage, name: str) -> LazyImage:
    """Do what an in-place operation does: whoever holds the image now holds the result."""
    if image.shares_memory:
        raise TilingError(f"{name} ({described([image])}): changes a slice of an image in place; use a copy of it")
    image.node = result.node
    return image
