"""Counting what a computation holds and does: every storage from its operation until it dies, and all work.

Exact on any device, and on the meta device without computing anything: there a step is only its shapes, and the count
is a prediction. What an operation takes and gives back internally (cuDNN's workspace), the fragmentation of an
allocator and a device's context are not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from translate.precision import convolving_in

BLOCK_BYTES = 512  # CUDA's allocator hands out multiples of it
PLAIN: dict[str, Any] = {name: getattr(F, name) for name in ("conv2d", "conv_transpose2d", "linear", "pad")}

Layout = tuple[torch.Size, tuple[int, ...], torch.dtype]
Kind = Literal["view", "in place", "overwriting", "new"]
OVERWRITING = {"zero_", "fill_", "copy_", "normal_", "uniform_"}  # in place, and do not read what was there
EMPTY = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view"}  # touch no memory


class Work(NamedTuple):
    """What operations ask of a device: three numbers, from which its speed makes a time."""

    flops: int = 0  # of convolutions and matrix products, forward and backward, as torch.utils.flop_counter counts
    moved_bytes: int = 0  # read and written by all other operations
    kernels: int = 0  # started: operations that are no views

    def plus(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.moved_bytes + other.moved_bytes, self.kernels + other.kernels)


NOTHING = Work()


class LiveBytes(TorchDispatchMode):
    """While it is entered, counts what lives on `device` (`live`, `peak`, in bytes) and the `work` done."""

    def __init__(self, device: str):
        super().__init__()
        self.device = device
        self.live = self.peak = 0
        self.flops = self.moved_bytes = self.kernels = 0
        self._run = SHAPES.run if device == "meta" else run
        self._living: dict[int, _Storage] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and torch's guard against it takes longer than an operation

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors that were there before."""
        for tensor in tensors:
            self._add(tensor)

    @property
    def work(self) -> Work:
        """What has been done so far; may be set."""
        return Work(self.flops, self.moved_bytes, self.kernels)

    @work.setter
    def work(self, work: Work) -> None:
        self.flops, self.moved_bytes, self.kernels = work

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result, (flops, moved_bytes, kernels) = self._run(function, args, kwargs or {})
        self.flops += flops
        self.moved_bytes += moved_bytes
        self.kernels += kernels
        if isinstance(result, Tensor):
            self._add(result)
        elif isinstance(result, tuple | list):
            for tensor in _tensors(result):
                self._add(tensor)
        return result

    def _add(self, tensor: Tensor) -> None:
        if tensor.device.type != self.device:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._living:
            return
        size = -(-storage.nbytes() // BLOCK_BYTES) * BLOCK_BYTES
        if size:
            self._living[key] = _Storage(storage, self._free, key, size)
            self.live += size
            self.peak = max(self.peak, self.live)

    def _free(self, dead: _Storage) -> None:
        del self._living[dead.key]
        self.live -= dead.size


class _Storage(weakref.ref[Any]):
    """A storage that is counted as long as it lives."""

    __slots__ = ("key", "size")

    def __new__(cls, storage: Any, free: Callable[[_Storage], None], key: int, size: int) -> _Storage:
        return super().__new__(cls, storage, free)

    def __init__(self, storage: Any, free: Callable[[_Storage], None], key: int, size: int):
        super().__init__(storage, free)  # type: ignore[call-arg]
        self.key, self.size = key, size


class KnownShapes:
    """What operations on the meta device give, found once for the same arguments.

    Torch finds most shapes in Python, which is most of the time of a prediction; and a step, above all one in strips,
    comes back to the same shapes again and again, under every memory plan. Known are results that are tensors with
    storages of their own, and the work that they take.
    """

    capacity = 50_000  # results, in about 50 MB; then all are forgotten

    def __init__(self) -> None:
        self._operations: dict[Any, tuple[Kind, dict[Any, tuple[Any, Work]]]] = {}
        self._num_known = 0

    def run(self, function: Any, args: Any, kwargs: Any) -> tuple[Any, Work]:
        """Return the result of an operation on the meta device, and its work."""
        operation = self._operations.get(function)
        if operation is None:
            operation = self._operations[function] = (_kind(function), {})
        kind, known = operation
        if kind == "view":
            return function(*args, **kwargs), NOTHING
        if kind != "new" and args[0].is_meta:
            return args[0], _work_in_place(kind, args)

        # Anything else makes tensors, in a layout that depends on the arguments' alone.
        key = (_given(args), _given(tuple(kwargs.items()))) if kwargs else _given(args)
        try:
            found = known.get(key)
        except TypeError:  # given something that has no hash
            return run(function, args, kwargs)
        if found is not None:
            layouts, work = found
            return _made(layouts), work
        result, work = run(function, args, kwargs)
        layouts = _layouts(result, args, tuple(kwargs.values()))
        if layouts is not None:
            self._remember(known, key, (layouts, work))
        return result, work

    def _remember(self, known: dict[Any, tuple[Any, Work]], key: Any, found: tuple[Any, Work]) -> None:
        if self._num_known >= self.capacity:
            self._num_known = 0
            for _, others in self._operations.values():
                others.clear()
        known[key] = found
        self._num_known += 1


SHAPES = KnownShapes()  # of all predictions of this process


def _kind(function: Any) -> Kind:
    """Whether an operation gives a part of its first argument, that argument itself, or something new."""
    if function.is_view:
        return "view"
    schema = function._schema
    written = [argument.name for argument in schema.arguments
               if argument.alias_info is not None and argument.alias_info.is_write]
    first_alone = written == [schema.arguments[0].name] and isinstance(schema.arguments[0].type, torch.TensorType)
    returned = schema.name.endswith("_") and len(schema.returns) == 1 and torch.Tag.inplace_view not in function.tags
    if not (first_alone and returned):
        return "new"
    return "overwriting" if _name(function) in OVERWRITING else "in place"


def run(function: Any, args: Any, kwargs: Any) -> tuple[Any, Work]:
    """Return the result of an operation, and its work."""
    result = function(*args, **kwargs)
    count = flop_registry.get(function._overloadpacket)
    if count is not None:
        # A backward pass runs a kernel for each gradient.
        num_made = sum(isinstance(value, Tensor) for value in result) if isinstance(result, tuple) else 1
        return result, Work(count(*args, **kwargs, out_val=result), 0, num_made)
    kind = _kind(function)
    if kind == "view" or _name(function) in EMPTY:
        return result, NOTHING
    if kind != "new":
        return result, _work_in_place(kind, args)
    made = list(_tensors(result))
    if not made and not function._schema.is_mutable:
        return result, NOTHING  # what types two tensors promote to, and the like
    given = _tensors((args, tuple(kwargs.values())))
    return result, Work(0, sum(tensor.nbytes for tensor in [*made, *given]), 1)


def _name(function: Any) -> str:
    return str(function._overloadpacket.__name__)


def _work_in_place(kind: Kind, args: Any) -> Work:
    """Return the work of an operation that writes its first argument."""
    moved = sum(value.nbytes for value in args if isinstance(value, Tensor))
    return Work(0, moved if kind == "overwriting" else moved + args[0].nbytes, 1)


def _tensors(values: Any) -> Iterator[Tensor]:
    """Yield the tensors in tuples and lists, one within another: what operations take and give."""
    for value in values if isinstance(values, tuple | list) else (values,):
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)


def _given(values: Any) -> Any:
    """Return what a shape depends on, as a key: of a tensor its layout, of a number also its type."""
    found: list[Any] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append((value.size(), value.stride(), value.dtype, value.device))
        elif isinstance(value, tuple | list):
            found.append(_given(value))
        else:
            found.append((type(value), value))
    return tuple(found)


def _layouts(result: Any, *given: Any) -> Any:
    """Return the layout of a tensor on the meta device, or those of several.

    None where there is no tensor, or where one shares its storage with another or with a tensor that was given.
    """
    results = result if isinstance(result, tuple | list) else [result]
    if all(value is None for value in results):
        return None
    storages = {tensor.untyped_storage()._cdata for tensor in _tensors(given)}
    layouts: list[Layout | None] = []
    for value in results:
        if value is None:
            layouts.append(None)
            continue
        if not isinstance(value, Tensor) or not value.is_meta:
            return None
        layout, storage = (value.size(), value.stride(), value.dtype), value.untyped_storage()
        if storage._cdata in storages or storage.nbytes() != _made(layout).untyped_storage().nbytes():
            return None
        storages.add(storage._cdata)
        layouts.append(layout)
    return layouts[0] if results is not result else type(result)(layouts)


def _made(layouts: Any) -> Any:
    """Return tensors in these layouts."""
    if layouts is None:
        return None
    if isinstance(layouts, tuple) and isinstance(layouts[0], torch.Size):
        size, stride, dtype = layouts
        return torch.empty_strided(size, stride, dtype=dtype, device="meta")
    return type(layouts)(map(_made, layouts))


@contextmanager
def emulated_autocast(dtype: torch.dtype, device: str) -> Iterator[None]:
    """Do what autocast does on `device` ("cuda" or "cpu") to the operations that matter here, on any device's tensors.

    There is no autocast for the meta device, and CUDA's switches itself off where there is no GPU. Convolutions and
    dense layers take `dtype`; the low-precision copy of a weight that is trained is made once and kept until the end,
    as autocast does. On a CPU reflection and replication padding are computed in float32. Nested: float32 inside
    float16 acts as autocast(enabled=False).
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
        in_float32 = device == "cpu" and mode in ("reflect", "replicate")
        return PLAIN["pad"](x.float() if in_float32 else x, size, mode, value)

    outer = {name: getattr(F, name) for name in PLAIN}
    try:
        for name in ("conv2d", "conv_transpose2d", "linear"):
            setattr(F, name, in_low_precision(PLAIN[name]))
        setattr(F, "pad", pad)  # noqa: B010 (mypy minds an assignment)
        with convolving_in(dtype):
            yield
    finally:
        for name, function in outer.items():
            setattr(F, name, function)
