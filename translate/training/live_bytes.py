"""Counting the bytes a computation holds: every storage from the operation that makes it until it dies.

Exact on any device, and on the meta device without computing anything: there a step is only its shapes, and the count
is a prediction. What an operation takes and gives back internally (cuDNN's workspace), the fragmentation of an
allocator and a device's context are not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

BLOCK = 512  # bytes; CUDA's allocator hands out multiples of it
PLAIN: dict[str, Any] = {name: getattr(F, name) for name in ("conv2d", "conv_transpose2d", "pad")}


class LiveBytes(TorchDispatchMode):
    """While it is entered, counts what lives on `device` (`live`, `peak`, in bytes) and the multiplications (`flops`).

    `flops` are those of torch.utils.flop_counter: convolutions and matrix products, forward and backward.
    """

    def __init__(self, device: str):
        super().__init__()
        self.device = device
        self.live = self.peak = 0
        self.flops = 0
        self._sizes: dict[int, int] = {}  # by storage
        self._results: dict[Any, tuple[Any, Any, torch.dtype]] = {}  # by operation and what it was given

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors that were there before."""
        for tensor in tensors:
            self._add(tensor)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = self._on_meta(function, args, kwargs) if self.device == "meta" else function(*args, **kwargs)
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self._add(value)
        count = flop_registry.get(function._overloadpacket)
        if count is not None:
            self.flops += count(*args, **kwargs, out_val=result)
        return result

    def _on_meta(self, function: Any, args: Any, kwargs: Any) -> Any:
        """The result of an operation, whose shape is found once for the same arguments.

        Torch finds most shapes in Python, which took most of the time of a prediction; and a step, above all one in
        strips, comes back to the same shapes again and again. Remembered is what is one tensor with its own storage.
        """
        if torch.Tag.pointwise in function.tags and function._schema.name.endswith("_") and args[0].is_meta:
            return args[0]  # in place: nothing is new
        key = (function, _given(args), _given(tuple(sorted(kwargs.items()))))
        try:
            known = self._results.get(key)
        except TypeError:  # given something that has no hash
            return function(*args, **kwargs)
        if known is not None:
            size, stride, dtype = known
            return torch.empty_strided(size, stride, dtype=dtype, device="meta")
        result = function(*args, **kwargs)
        if isinstance(result, Tensor) and result.device.type == "meta":
            like = torch.empty_strided(result.size(), result.stride(), dtype=result.dtype, device="meta")
            given = {value.untyped_storage()._cdata for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)}
            if (result.untyped_storage()._cdata not in given and result.storage_offset() == 0
                    and result.untyped_storage().nbytes() == like.untyped_storage().nbytes()):
                self._results[key] = (result.size(), result.stride(), result.dtype)
        return result

    def _add(self, tensor: Tensor) -> None:
        if tensor.device.type != self.device:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        if size:
            self._sizes[key] = size
            weakref.finalize(storage, self._free, key).atexit = False
            self.live += size
            self.peak = max(self.peak, self.live)

    def _free(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


def _given(values: Any) -> Any:
    """What a shape depends on, as a key: of a tensor its layout, of a number also its type."""
    if isinstance(values, Tensor):
        return values.size(), values.stride(), values.dtype, values.device
    if isinstance(values, tuple | list):
        return tuple(map(_given, values))
    return type(values), values


@contextmanager
def emulated_autocast(dtype: torch.dtype, device: str) -> Iterator[None]:
    """What autocast does on `device` ("cuda" or "cpu") to the operations that matter here, for tensors on any device.

    There is no autocast for the meta device, and CUDA's switches itself off where there is no GPU. Convolutions take
    `dtype`; the low-precision copy of a weight that is trained is made once and kept until the end, as autocast does.
    On a CPU reflection and replication padding are computed in float32. Within one of float16, one of float32 is
    autocast switched off.
    """
    kept: dict[int, Tensor] = {}

    def low(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == dtype:
            return value
        if not (isinstance(value, nn.Parameter) and value.requires_grad and torch.is_grad_enabled()):
            return value.to(dtype)
        if id(value) not in kept:
            kept[id(value)] = value.to(dtype)
        return kept[id(value)]

    def in_low_precision(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *args, **kwargs: function(*map(low, args), **{name: low(value) for name, value in kwargs.items()})

    def pad(x: Tensor, size: Any, mode: str = "constant", value: float | None = None) -> Tensor:
        wide = device == "cpu" and mode in ("reflect", "replicate")
        return PLAIN["pad"](x.float() if wide else x, size, mode, value)

    outer = {name: getattr(F, name) for name in PLAIN}
    try:
        for name in ("conv2d", "conv_transpose2d"):
            setattr(F, name, in_low_precision(PLAIN[name]))
        setattr(F, "pad", pad)  # noqa: B010 (mypy minds an assignment)
        yield
    finally:
        for name, function in outer.items():
            setattr(F, name, function)
