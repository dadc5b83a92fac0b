"""What torch's functions do to images that are not computed yet, row by row.

Each rule takes the arguments of the torch function of its name, an image first, and records what the function would do:
the operation that makes any rows of its result (`translate.networks.row_operations`), the result's shape and type. A
rule that would not be exact for some arguments raises `TilingError`. Three tables at the end name all that is known:
`RULES`; `POINTWISE`, for functions of every pixel by itself; `ALL_ROWS`, for those that need the whole image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from translate.networks import row_operations
from translate.networks.dropout import positional_dropout
from translate.networks.rows import Operation, Pad, Pointwise
from translate.precision import convolution_dtype
from translate.tiling.graph import Barrier, Dropout, TilingError
from translate.tiling.recorded import RecordedImage, described, pointwise, shape_of


def _local(operation: Operation, image: RecordedImage, function: Callable[..., Tensor], *args: Any,
           **kwargs: Any) -> RecordedImage:
    """Record an operation of one image; `function`, with the other arguments, tells the shape of its result."""
    return image.then(operation, shape_of(function, (image, *args), kwargs))


def _conv2d(x: RecordedImage, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
            dilation: Any = 1, groups: int = 1) -> RecordedImage:
    shape = shape_of(F.conv2d, (x, weight, bias, stride, padding, dilation, groups), {})
    macs = shape[1] * shape[3] * weight[0].numel()
    operation = row_operations.convolution(weight, bias, stride, padding, dilation, groups)
    return x.then(operation, shape, convolution_dtype(x), macs)


def _conv_transpose2d(x: RecordedImage, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
                      output_padding: Any = 0, groups: int = 1, dilation: Any = 1) -> RecordedImage:
    shape = shape_of(F.conv_transpose2d, (x, weight, bias, stride, padding, output_padding, groups, dilation), {})
    macs = x.shape[1:].numel() * weight[0].numel() / shape[2]
    operation = row_operations.transposed_convolution(weight, bias, stride, padding, output_padding, groups, dilation)
    return x.then(operation, shape, convolution_dtype(x), macs)


def _pad(x: RecordedImage, pad: Sequence[int], mode: Any = "constant", value: float | None = None) -> RecordedImage:
    if mode not in ("constant", "reflect", "replicate") or len(pad) > 4 or (mode != "constant" and min(pad) < 0):
        raise TilingError(f"pad {tuple(pad)} with mode={mode!r} ({described([x])}): strips have no exact rule for it")
    left, right, top, bottom = (*pad, 0, 0, 0, 0)[:4]
    return _local(Pad(top, bottom, left, right, mode, value or 0.0), x, F.pad, pad, mode, value)


def _instance_norm(x: RecordedImage, running_mean: Tensor | None = None, running_var: Tensor | None = None,
                   weight: Tensor | None = None, bias: Tensor | None = None, use_input_stats: bool = True,
                   momentum: float = 0.1, eps: float = 1e-5) -> RecordedImage:
    return _batch_norm(x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


def _batch_norm(x: RecordedImage, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
                bias: Tensor | None = None, training: bool = False, momentum: float = 0.1,
                eps: float = 1e-5) -> RecordedImage:
    """Normalise by the image's own statistics in training, as one image is the whole batch; running ones stay as they
    are."""
    if training:
        return x.then(Barrier(weight, bias, eps), x.shape)
    return pointwise(F.batch_norm, (x, running_mean, running_var, weight, bias, False, 0.0, eps), {})


def _group_norm(x: RecordedImage, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
                eps: float = 1e-5) -> RecordedImage:
    return x.then(Barrier(weight, bias, eps, num_groups), x.shape)


def _relu(x: RecordedImage) -> RecordedImage:
    """Apply ReLU in place where a norm has just made the strip, so that nobody else holds it."""
    return pointwise(torch.relu_ if isinstance(x.node.operation, Barrier) else torch.relu, (x,), {})


def _dropout(x: RecordedImage, p: float = 0.5, training: bool = True) -> RecordedImage:
    """Drop by position, where torch draws; negative layer numbers never clash with `PositionalDropout`'s."""
    if not training or p == 0:
        return x
    x.recording.num_dropouts += 1
    return _positional_dropout(x, (x.recording.seed,), -x.recording.num_dropouts, p)


def _positional_dropout(x: RecordedImage, keys: tuple[int, ...], layer: int, p: float, first_row: int = 0
                        ) -> RecordedImage:
    def run(strip: Tensor, row: int) -> Tensor:
        return positional_dropout(strip, keys, layer, p, first_row + row)
    return x.then(Dropout(run), x.shape)


def _avg_pool2d(x: RecordedImage, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
                count_include_pad: bool = True, divisor_override: int | None = None) -> RecordedImage:
    arguments = (kernel_size, stride, padding, False, count_include_pad, divisor_override)
    if ceil_mode:
        raise TilingError(f"avg_pool2d with ceil_mode=True ({described([x])}): strips have no exact rule for it")
    operation = row_operations.average_pool(kernel_size, stride, padding, count_include_pad, divisor_override)
    return _local(operation, x, F.avg_pool2d, *arguments)


def _max_pool2d(x: RecordedImage, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
                ceil_mode: bool = False, return_indices: bool = False) -> RecordedImage:
    if ceil_mode or return_indices:
        raise TilingError(f"max_pool2d with ceil_mode or return_indices ({described([x])}): strips have no exact rule")
    operation = row_operations.max_pool(kernel_size, stride, padding, dilation)
    return _local(operation, x, F.max_pool2d, kernel_size, stride, padding, dilation)


def _interpolate(x: RecordedImage, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
                 align_corners: bool | None = None, recompute_scale_factor: bool | None = None,
                 antialias: bool = False) -> RecordedImage:
    # The size of the result, by a factor along rows and along columns or as it is given.
    height, width = x.shape[2:]
    scales = (scale_factor,) * 2 if isinstance(scale_factor, int | float) else tuple(scale_factor or ())
    if scales and recompute_scale_factor:
        size, scale_factor, scales = (math.floor(height * scales[0]), math.floor(width * scales[1])), None, ()
    options = {"size": size, "scale_factor": scale_factor, "mode": mode, "align_corners": align_corners}
    shape = shape_of(F.interpolate, (x,), options)

    # By whole numbers: 2.05 makes 20 rows of 10 as well, but not each of them twice.
    whole = shape[2] % height == shape[3] % width == 0 and all(by == int(by) for by in scales)
    if mode == "nearest" and whole:
        return x.then(row_operations.nearest((shape[2] // height, shape[3] // width)), shape)
    if mode == "bilinear" and not antialias:
        where = {"size": size} if scale_factor is None else {"scale": scale_factor}
        operation = row_operations.bilinear(height, **where, align_corners=bool(align_corners))
        return x.then(operation, shape)
    raise TilingError(f"interpolate from {height}×{width} to {shape[2]}×{shape[3]} with mode={mode!r}, antialias="
                      f"{antialias}: strips know bilinear, and nearest by whole numbers")


def _pixel_shuffle(x: RecordedImage, factor: int) -> RecordedImage:
    return _local(row_operations.pixel_shuffle(factor), x, F.pixel_shuffle, factor)


def _pixel_unshuffle(x: RecordedImage, factor: int) -> RecordedImage:
    return _local(row_operations.pixel_unshuffle(factor), x, F.pixel_unshuffle, factor)


def _cat(images: Sequence[Any], dim: int = 0) -> RecordedImage:
    if dim not in (1, -3):
        raise TilingError(f"cat along dimension {dim} ({described(images)}): strips can be joined along channels")
    return pointwise(lambda *strips: torch.cat(strips, 1), images, {})


def _getitem(x: RecordedImage, index: Any) -> RecordedImage:
    """Take slices with step 1 of channels, rows and columns; the latter two are cropped, as by a negative padding."""
    # One slice for each dimension.
    parts = index if isinstance(index, tuple) else (index,)
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts = parts[:at] + (slice(None),) * (5 - len(parts)) + parts[at + 1:]
    parts = (*parts, *(slice(None),) * (4 - len(parts)))
    if not all(isinstance(part, slice) and part.step in (None, 1) for part in parts) or len(parts) != 4:
        raise TilingError(f"[{index}] of an image ({described([x])}): strips know slices with step 1")

    # Channels, then rows and columns. What remains shares the memory of what it was taken of, as in torch.
    (first, last), (top, bottom), (left, right) = (
        part.indices(side)[:2] for part, side in zip(parts[1:], x.shape[1:], strict=True))
    y = x
    if (first, last) != (0, x.shape[1]):
        y = pointwise(lambda strip: strip[:, first:last], (y,), {})
    amounts = (-left, right - x.shape[3], -top, bottom - x.shape[2])
    if any(amounts):
        y = _pad(y, amounts)
    if y is not x:
        x.shares_memory = y.shares_memory = True
    return y


def _split(x: RecordedImage, size: int | Sequence[int], dim: int = 0) -> tuple[RecordedImage, ...]:
    """Split along channels."""
    if dim not in (1, -3):
        raise TilingError(f"split along dimension {dim} ({described([x])}): strips can be split along channels")
    channels = x.shape[1]
    sizes = [size] * math.ceil(channels / size) if isinstance(size, int) else size
    ends = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    return tuple(_getitem(x, (slice(None), slice(start, stop))) for start, stop in pairwise(ends))


def _chunk(x: RecordedImage, chunks: int, dim: int = 0) -> tuple[RecordedImage, ...]:
    return _split(x, math.ceil(x.shape[1] / chunks), dim)


def _run_in_strips(layers: Sequence[Any], x: RecordedImage, num_strips: int) -> RecordedImage:
    """Run a chain that trains in strips as it is: this image will be computed in strips anyway."""
    for layer in layers:
        x = layer(x)
    return x


def _to(x: RecordedImage, kind: torch.dtype | torch.device | str) -> RecordedImage:
    """Change the type; a device is ignored, for it is where the network computes."""
    if not isinstance(kind, torch.dtype):
        return x
    return x.then(Pointwise(lambda strip: strip.to(kind)), x.shape, kind)


def _same(x: RecordedImage, *args: Any, **kwargs: Any) -> RecordedImage:
    return x


def _copy(x: RecordedImage) -> RecordedImage:
    return type(x)(x.node, x.recording, x.device)


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
