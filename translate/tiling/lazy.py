"""Images that are not computed yet: calling a network on one records what is to be done to it.

    graph = generator(LazyImage.of(source, …)).node

`LazyImage` answers torch's functions in place of a tensor (`__torch_function__`), so the network is the unmodified
`nn.Module`, ours or anybody's. Every call adds a `Node` to a graph that says, row by row, what it is made of; nothing
is computed. `translate.tiling` then computes the graph in strips. An operation without a rule raises `TilingError` and
names it: nothing falls back to something inexact.

Attention and its like need all rows at once: where a network reshapes an image into a list of pixels, that image is
computed there and then (at the network's narrow waist that is little) and the network goes on with the real tensor.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from translate.networks import rows
from translate.networks.layers import positional_dropout
from translate.networks.rows import Operation, Pad, Pointwise
from translate.tiling.graph import Barrier, Dropout, Held, Node, Read, Source, TilingError


@dataclass
class Recording:
    """What the images of one call of a network share.

    `compute` makes the tensor (1, C, H, W) of a node, for what needs all rows at once. `seed` names the sample to
    torch's own dropout, which becomes one by position, so that every strip meets the same mask.
    """

    compute: Callable[[Node], Tensor]
    seed: int = 0
    num_dropouts: int = 0


class LazyImage:
    """An image (1, C, H, W) that is known by its shape alone. In-place operations give it another `node`."""

    ndim = 4
    requires_grad = is_cuda = is_nested = is_sparse = is_quantized = False
    layout = torch.strided

    def __init__(self, node: Node, recording: Recording, device: torch.device):
        self.node, self.recording, self.device = node, recording, device
        self.shares_memory = False  # with a slice of itself, or with what it is a slice of

    @classmethod
    def of(cls, source: Source, recording: Recording, device: torch.device, dtype: torch.dtype) -> LazyImage:
        node = Node(Read(source, device), (), torch.Size(source.shape), dtype)
        return cls(node, recording, device)

    @property
    def shape(self) -> torch.Size:
        return self.node.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.node.dtype

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
        """A method of tensors: the function of the same name."""
        if name.startswith("_") or not callable(getattr(Tensor, name, None)):
            raise AttributeError(name)
        return lambda *args, **kwargs: _call(name, getattr(Tensor, name), (self, *args), kwargs)

    def __neg__(self) -> LazyImage:
        return _pointwise(operator.neg, (self,), {})

    def __getitem__(self, index: Any) -> LazyImage:
        return _call("getitem", None, (self, index), {})


def _operators(function: Callable[..., Tensor]) -> tuple[Callable[..., LazyImage], ...]:
    """x ∘ y, y ∘ x and x ∘= y."""
    def forward(self: LazyImage, *others: Any) -> LazyImage:
        return _pointwise(function, (self, *others), {})

    def backward(self: LazyImage, other: Any) -> LazyImage:
        return _pointwise(function, (other, self), {})

    def in_place(self: LazyImage, other: Any) -> LazyImage:
        return _replaced(self, forward(self, other), function.__name__)

    return forward, backward, in_place


for _name in ("add", "sub", "mul", "truediv", "pow"):
    for _prefix, _method in zip(("", "r", "i"), _operators(getattr(operator, _name)), strict=True):
        setattr(LazyImage, f"__{_prefix}{_name}__", _method)


def _refused(name: str) -> Callable[..., LazyImage]:
    """An operator without a rule. Python's own answer to == would be False, and to `if x` True, of any image."""
    return lambda self, *others: _call(name, None, (self, *others), {})


for _name in ("eq", "ne", "lt", "le", "gt", "ge", "floordiv", "mod", "and", "or", "xor", "invert", "bool", "iter"):
    setattr(LazyImage, f"__{_name}__", _refused(_name))


def _call(name: str, function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Record a call of a torch function on at least one lazy image."""
    plain = name.removesuffix("_")
    in_place = plain != name or bool(kwargs.get("inplace", False))
    kwargs = {key: value for key, value in kwargs.items() if key not in ("inplace", "out")}
    if plain in POINTWISE:
        result = _pointwise(POINTWISE[plain], args, kwargs)
    elif plain in RULES:
        result = RULES[plain](*args, **kwargs)
    elif plain in ALL_ROWS:
        return function(*_computed(args), **_computed(kwargs))
    else:
        raise TilingError(f"{name} ({_described(args)}): strips have no exact rule for this operation")
    return _replaced(args[0], result, name) if in_place else result


def _replaced(image: LazyImage, result: LazyImage, name: str) -> LazyImage:
    """What an in-place operation does: whoever holds the image now holds the result."""
    if image.shares_memory:
        raise TilingError(f"{name} ({_described([image])}): changes a slice of an image in place; use a copy of it")
    image.node = result.node
    return image


def _pointwise(function: Callable[..., Tensor], args: Sequence[Any], kwargs: dict[str, Any]) -> LazyImage:
    """A function of every pixel by itself, of one or more images of the same size and any constants."""
    first = next(arg for arg in args if isinstance(arg, LazyImage))
    height = first.shape[2]
    images: list[Node] = []
    recipe: list[int | None] = []  # for every argument, which of the images it is
    for arg in args:
        whole = isinstance(arg, Tensor) and arg.ndim >= 2 and arg.shape[-2] == height > 1
        if whole:
            arg = arg.reshape((1,) * (4 - arg.ndim) + arg.shape)
        node = _node_of(arg, first) if whole else arg.node if isinstance(arg, LazyImage) else None
        recipe.append(None if node is None else len(images))
        images += [] if node is None else [node]
    if any(node.height != height or node.shape[3] not in (1, first.shape[3]) for node in images):
        raise TilingError(f"{function.__name__} of images of {_described(args)}: strips need images of one size")

    def run(*xs: Tensor) -> Tensor:
        return function(*(arg if at is None else xs[at] for arg, at in zip(args, recipe, strict=True)), **kwargs)

    dtype = images[0].dtype
    for node in images[1:]:
        dtype = torch.promote_types(dtype, node.dtype)
    return _image(first, Pointwise(run), images, _shape(function, args, kwargs), dtype)


def _local(operation: Operation, image: LazyImage, function: Callable[..., Tensor], *args: Any,
           **kwargs: Any) -> LazyImage:
    """An operation of one image, with a rule for its rows; `function` tells the shape."""
    return _image(image, operation, [image.node], _shape(function, (image, *args), kwargs))


def _image(like: LazyImage, operation: Operation, inputs: Sequence[Node], shape: torch.Size,
           dtype: torch.dtype | None = None, macs: float = 0.0) -> LazyImage:
    node = Node(operation, tuple(inputs), shape, dtype or inputs[0].dtype, macs)
    return LazyImage(node, like.recording, like.device)


def _shape(function: Callable[..., Tensor], args: Sequence[Any], kwargs: dict[str, Any]) -> torch.Size:
    """The shape of a result, from torch itself: computed on the meta device, where tensors have no values."""
    def empty(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(empty(item) for item in value)
        if isinstance(value, Tensor) and not value.is_floating_point():
            return value.to("meta")
        return torch.empty(value.shape, device="meta") if isinstance(value, LazyImage | Tensor) else value
    with torch.autocast("cpu", enabled=False):
        return function(*empty(tuple(args)), **{key: empty(value) for key, value in kwargs.items()}).shape


def _computed(value: Any) -> Any:
    """The same arguments with every lazy image computed. It stays so: whoever uses it later finds the tensor."""
    if isinstance(value, LazyImage):
        done = value.node.operation
        if isinstance(done, Read) and isinstance(done.source, Held):
            return done.source.tensor
        tensor = value.recording.compute(value.node)
        value.node = _node_of(tensor, value)
        return tensor
    if isinstance(value, list | tuple):
        return type(value)(_computed(item) for item in value)
    return {key: _computed(item) for key, item in value.items()} if isinstance(value, dict) else value


def _node_of(tensor: Tensor, like: LazyImage) -> Node:
    return Node(Read(Held(tensor), like.device), (), tensor.shape, tensor.dtype)


def _described(args: Any) -> str:
    shapes = ["×".join(map(str, arg.shape)) for arg in args if isinstance(arg, LazyImage | Tensor)]
    return ", ".join(shapes) or "…"


# The rules. Each takes the arguments of the torch function of its name.


def _conv2d(x: LazyImage, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
            dilation: Any = 1, groups: int = 1) -> LazyImage:
    shape = _shape(F.conv2d, (x, weight, bias, stride, padding, dilation, groups), {})
    macs = shape[1] * shape[3] * weight[0].numel()
    operation = rows.convolution(weight, bias, stride, padding, dilation, groups)
    return _image(x, operation, [x.node], shape, _convolved(x), macs)


def _conv_transpose2d(x: LazyImage, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
                      output_padding: Any = 0, groups: int = 1, dilation: Any = 1) -> LazyImage:
    shape = _shape(F.conv_transpose2d, (x, weight, bias, stride, padding, output_padding, groups, dilation), {})
    macs = x.shape[1:].numel() * weight[0].numel() / shape[2]
    operation = rows.transposed_convolution(weight, bias, stride, padding, output_padding, groups, dilation)
    return _image(x, operation, [x.node], shape, _convolved(x), macs)


def _convolved(x: LazyImage) -> torch.dtype:
    """The type that a convolution gives: autocast's, where that is on."""
    kind = x.device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if on else x.dtype


def _pad(x: LazyImage, pad: Sequence[int], mode: Any = "constant", value: float | None = None) -> LazyImage:
    if mode not in ("constant", "reflect", "replicate") or len(pad) > 4 or (mode != "constant" and min(pad) < 0):
        raise TilingError(f"pad {tuple(pad)} with mode={mode!r} ({_described([x])}): strips have no exact rule for it")
    left, right, above, below = (*pad, 0, 0, 0, 0)[:4]
    return _local(Pad(above, below, left, right, mode, value or 0.0), x, F.pad, pad, mode, value)


def _instance_norm(x: LazyImage, running_mean: Tensor | None = None, running_var: Tensor | None = None,
                   weight: Tensor | None = None, bias: Tensor | None = None, use_input_stats: bool = True,
                   momentum: float = 0.1, eps: float = 1e-5) -> LazyImage:
    return _batch_norm(x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


def _batch_norm(x: LazyImage, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
                bias: Tensor | None = None, training: bool = False, momentum: float = 0.1,
                eps: float = 1e-5) -> LazyImage:
    """One image is the whole batch, so in training a batch norm is an instance norm. Running ones are left alone."""
    if training:
        return _image(x, Barrier(weight, bias, eps), [x.node], x.shape)
    return _pointwise(F.batch_norm, (x, running_mean, running_var, weight, bias, False, 0.0, eps), {})


def _group_norm(x: LazyImage, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
                eps: float = 1e-5) -> LazyImage:
    return _image(x, Barrier(weight, bias, eps, num_groups), [x.node], x.shape)


def _relu(x: LazyImage) -> LazyImage:
    """In place where a norm has just made the strip, so that nobody else holds it."""
    return _pointwise(torch.relu_ if isinstance(x.node.operation, Barrier) else torch.relu, (x,), {})


def _dropout(x: LazyImage, p: float = 0.5, training: bool = True) -> LazyImage:
    if not training or p == 0:
        return x
    x.recording.num_dropouts += 1
    return _positional_dropout(x, (x.recording.seed,), -x.recording.num_dropouts, p)


def _positional_dropout(x: LazyImage, keys: tuple[int, ...], layer: int, p: float, first_row: int = 0) -> LazyImage:
    def run(strip: Tensor, row: int) -> Tensor:
        return positional_dropout(strip, keys, layer, p, first_row + row)
    return _image(x, Dropout(run), [x.node], x.shape)


def _avg_pool2d(x: LazyImage, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
                count_include_pad: bool = True, divisor_override: int | None = None) -> LazyImage:
    arguments = (kernel_size, stride, padding, False, count_include_pad, divisor_override)
    if ceil_mode:
        raise TilingError(f"avg_pool2d with ceil_mode=True ({_described([x])}): strips have no exact rule for it")
    operation = rows.average_pool(kernel_size, stride, padding, count_include_pad, divisor_override)
    return _local(operation, x, F.avg_pool2d, *arguments)


def _max_pool2d(x: LazyImage, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
                ceil_mode: bool = False, return_indices: bool = False) -> LazyImage:
    if ceil_mode or return_indices:
        raise TilingError(f"max_pool2d with ceil_mode or return_indices ({_described([x])}): strips have no exact rule")
    operation = rows.max_pool(kernel_size, stride, padding, dilation)
    return _local(operation, x, F.max_pool2d, kernel_size, stride, padding, dilation)


def _interpolate(x: LazyImage, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
                 align_corners: bool | None = None, recompute_scale_factor: bool | None = None,
                 antialias: bool = False) -> LazyImage:
    height, width = x.shape[2:]
    scales = (scale_factor,) * 2 if isinstance(scale_factor, int | float) else tuple(scale_factor or ())
    if scales and recompute_scale_factor:
        size, scale_factor, scales = (math.floor(height * scales[0]), math.floor(width * scales[1])), None, ()
    options = {"size": size, "scale_factor": scale_factor, "mode": mode, "align_corners": align_corners}
    shape = _shape(F.interpolate, (x,), options)
    whole = shape[2] % height == shape[3] % width == 0 and all(by == int(by) for by in scales)
    if mode == "nearest" and whole:  # 2.05 makes 20 rows of 10 as well, but not each of them twice
        return _image(x, rows.nearest((shape[2] // height, shape[3] // width)), [x.node], shape)
    if mode == "bilinear" and not antialias:
        where = {"size": size} if scale_factor is None else {"scale": scale_factor}
        operation = rows.bilinear(height, **where, align_corners=bool(align_corners))
        return _image(x, operation, [x.node], shape)
    raise TilingError(f"interpolate from {height}×{width} to {shape[2]}×{shape[3]} with mode={mode!r}, antialias="
                      f"{antialias}: strips know bilinear, and nearest by whole numbers")


def _pixel_shuffle(x: LazyImage, factor: int) -> LazyImage:
    return _local(rows.pixel_shuffle(factor), x, F.pixel_shuffle, factor)


def _pixel_unshuffle(x: LazyImage, factor: int) -> LazyImage:
    return _local(rows.pixel_unshuffle(factor), x, F.pixel_unshuffle, factor)


def _cat(images: Sequence[Any], dim: int = 0) -> LazyImage:
    if dim not in (1, -3):
        raise TilingError(f"cat along dimension {dim} ({_described(images)}): strips can be joined along channels")
    return _pointwise(lambda *strips: torch.cat(strips, 1), images, {})


def _getitem(x: LazyImage, index: Any) -> LazyImage:
    """A slice with step 1 of channels, rows, columns."""
    parts = index if isinstance(index, tuple) else (index,)
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts = parts[:at] + (slice(None),) * (5 - len(parts)) + parts[at + 1:]
    parts = (*parts, *(slice(None),) * (4 - len(parts)))
    if not all(isinstance(part, slice) and part.step in (None, 1) for part in parts) or len(parts) != 4:
        raise TilingError(f"[{index}] of an image ({_described([x])}): strips know slices with step 1")
    (first, last), (top, bottom), (left, right) = (
        part.indices(side)[:2] for part, side in zip(parts[1:], x.shape[1:], strict=True))
    y = x
    if (first, last) != (0, x.shape[1]):
        y = _pointwise(lambda strip: strip[:, first:last], (y,), {})
    amounts = (-left, right - x.shape[3], -top, bottom - x.shape[2])
    if any(amounts):
        y = _pad(y, amounts)
    if y is not x:
        x.shares_memory = y.shares_memory = True
    return y


def _split(x: LazyImage, size: int | Sequence[int], dim: int = 0) -> tuple[LazyImage, ...]:
    """Along channels."""
    if dim not in (1, -3):
        raise TilingError(f"split along dimension {dim} ({_described([x])}): strips can be split along channels")
    channels = x.shape[1]
    sizes = [size] * math.ceil(channels / size) if isinstance(size, int) else size
    ends = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    return tuple(x[:, a:b] for a, b in pairwise(ends))


def _chunk(x: LazyImage, chunks: int, dim: int = 0) -> tuple[LazyImage, ...]:
    return _split(x, math.ceil(x.shape[1] / chunks), dim)


def _run_in_strips(layers: Sequence[Any], x: LazyImage, num_strips: int) -> LazyImage:
    """A chain that trains in strips: this image will be computed in strips anyway."""
    for layer in layers:
        x = layer(x)
    return x


def _to(x: LazyImage, kind: torch.dtype | torch.device | str) -> LazyImage:
    """To another type; the device is where the network computes."""
    if not isinstance(kind, torch.dtype):
        return x
    return _image(x, Pointwise(lambda strip: strip.to(kind)), [x.node], x.shape, kind)


def _same(x: LazyImage, *args: Any, **kwargs: Any) -> LazyImage:
    return x


def _copy(x: LazyImage) -> LazyImage:
    return LazyImage(x.node, x.recording, x.device)


RULES: dict[str, Callable[..., Any]] = {
    "conv2d": _conv2d, "conv_transpose2d": _conv_transpose2d, "pad": _pad, "instance_norm": _instance_norm,
    "batch_norm": _batch_norm, "group_norm": _group_norm, "relu": _relu, "dropout": _dropout,
    "positional_dropout": _positional_dropout, "avg_pool2d": _avg_pool2d, "max_pool2d": _max_pool2d,
    "interpolate": _interpolate, "pixel_shuffle": _pixel_shuffle, "pixel_unshuffle": _pixel_unshuffle, "cat": _cat,
    "concat": _cat, "getitem": _getitem, "split": _split, "chunk": _chunk, "run_in_strips": _run_in_strips,
    "contiguous": _same, "detach": _same, "clone": _copy, "to": _to, "float": lambda x: _to(x, torch.float32),
}
POINTWISE: dict[str, Callable[..., Tensor]] = {
    name: getattr(torch, name, None) or getattr(F, name) for name in (
        "abs", "add", "celu", "clamp", "clamp_max", "clamp_min", "div", "elu", "exp", "gelu", "hardsigmoid",
        "hardswish", "hardtanh", "leaky_relu", "lerp", "log", "logsigmoid", "maximum", "minimum", "mish", "mul", "neg",
        "pow", "prelu", "relu6", "rsub", "selu", "sigmoid", "sign", "silu", "sin", "softplus", "softsign", "sqrt",
        "square", "sub", "tanh", "true_divide")}
ALL_ROWS = frozenset(("flatten", "permute", "reshape", "transpose", "unflatten", "view"))
