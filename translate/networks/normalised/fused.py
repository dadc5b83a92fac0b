"""`translate.networks.normalised` by Triton's kernels (`kernels`), for cards of compute capability 8.0 or more.

`spread` is what a norm divides by: the factor r where statistics are found of z, the variance σ² where they are given.
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from translate.networks.normalised.form import Form

BLOCK_PIXELS, BLOCK_CHANNELS = 64, 64  # of a tile: 4,096 numbers, 32 for each thread of four warps
SPAN_PIXELS = 2048  # that one program sums, unless there would be more spans than MOST_SPANS
MOST_SPANS = 256  # one program then sums all of them


def works_on(device: torch.device) -> bool:
    """Tell whether Triton's kernels run on a device: they are compiled there, which takes a C compiler among others."""
    z = torch.ones(1, 1, 2, 2, device=device)
    try:
        forward(Form(slope=0.0, amounts=(1, 1, 1, 1)), None, None, z, None, None, None)
    except Exception as error:  # of whatever kind: what is missing may be a program, a header, a library
        warnings.warn("Triton is here, but its kernels do not run, so norms, activations and padding are computed by "
                      f"torch's own, more slowly: {str(error).strip().splitlines()[:1]}", stacklevel=2)
        return False
    return True


def forward(form: Form, given: tuple[Tensor, Tensor] | None, running: Any, z: Tensor, scale: Tensor | None,
            shift: Tensor | None, beside: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return y, in channels_last, and the µ and r that were found of z, flat; `running` statistics advance."""
    z = z.contiguous(memory_format=torch.channels_last)
    mean, spread = given or (None, None)
    y = _empty(z, form.padded(z.shape), z.dtype if beside is None else torch.promote_types(z.dtype, beside.dtype))
    with _on_device_of(z):
        if form.norm == "found":
            mean, spread = _moments(form, z, running)
        if y.numel():
            _apply(form, z, y, beside, mean, spread, scale, shift)
    return (y, mean, spread) if form.norm == "found" else (y, None, None)


def backward(form: Form, given: tuple[Tensor, Tensor] | None, gradient: Tensor, z: Any, mean: Tensor | None,
             factor: Tensor | None, scale: Tensor | None, shift: Tensor | None
             ) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return dz, in channels_last, and dγ and dβ, None where there is no scale and shift."""
    size = form.unpadded(gradient.shape)
    mean, spread = given or (mean, factor)
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    z = gradient if z is None else z.contiguous(memory_format=torch.channels_last)
    d_scale = d_shift = None
    dz = _empty(z, size, z.dtype)
    with _on_device_of(z):
        if form.norm == "found" or scale is not None:
            d_shift, d_scale = _sums(form, gradient, z, mean, spread, scale, shift, size)
        if dz.numel():
            _write_gradient(form, gradient, z, dz, mean, spread, scale, shift, d_shift, d_scale)
    return (dz, None, None) if scale is None else (dz, d_scale, d_shift)


def _on_device_of(z: Tensor) -> AbstractContextManager[object]:
    """Return a context: Triton launches kernels on the card that is torch's current one, wherever tensors lie."""
    return torch.cuda.device(z.device) if z.is_cuda else nullcontext()


def _moments(form: Form, z: Tensor, running: Any) -> tuple[Tensor, Tensor]:
    """Return µ and r of each group's channels."""
    from translate.networks.normalised import kernels

    samples, channels, height, width = z.shape
    pixels = samples * height * width // form.groups
    span, num_spans = _spans(pixels)
    parts = z.new_empty((2, form.groups, num_spans, channels), dtype=_exact(z))
    found = z.new_empty((2, form.groups * channels), dtype=_exact(z))
    block = _channels_block(channels)
    kernels.moments[(num_spans, -(-channels // block), form.groups)](
        z, parts[0], parts[1], channels, pixels, span, num_spans, ACC=_acc(z), BLOCK_P=BLOCK_PIXELS, BLOCK_C=block)

    running_mean, running_var, share = running or (found, found, 0.0)
    kernels.finished_moments[(-(-channels // 16), form.groups)](
        parts[0], parts[1], found[0], found[1], running_mean, running_var, share, form.eps, channels, pixels, span,
        num_spans, RUNNING=running is not None, ACC=_acc(z), BLOCK_S=_power_of_two(num_spans), BLOCK_C=16)
    return found[0], found[1]


def _apply(form: Form, z: Tensor, y: Tensor, beside: Tensor | None, mean: Tensor | None, spread: Tensor | None,
           scale: Tensor | None, shift: Tensor | None) -> None:
    from translate.networks.normalised import kernels

    samples, channels, height, width = z.shape
    padded_height, padded_width = y.shape[2:]
    left, _, top, _ = form.amounts
    if beside is not None:
        beside = beside.contiguous(memory_format=torch.channels_last)
    block = _channels_block(channels)
    kernels.applied[(-(-padded_height * padded_width // BLOCK_PIXELS), -(-channels // block), samples)](
        z, y, _or(beside, z), _or(mean, z), _or(spread, z), _or(scale, z), _or(shift, z), form.eps, form.slope or 0.0,
        channels, height, width, padded_height, padded_width, left, top, int(form.groups > 1), **_choices(form, scale),
        BESIDE=beside is not None, ACC=_acc(z), BLOCK_P=BLOCK_PIXELS, BLOCK_C=block)


def _sums(form: Form, gradient: Tensor, z: Tensor, mean: Any, spread: Any, scale: Tensor | None, shift: Tensor | None,
          size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return Σg and Σ g·(z − µ)·r of each group's channels."""
    from translate.networks.normalised import kernels

    samples, channels, height, width = size
    span, num_spans = _spans(height * width)
    parts = z.new_empty((2, samples, num_spans, channels), dtype=_exact(z))
    found = z.new_empty((2, form.groups * channels), dtype=_exact(z))
    block = _channels_block(channels)
    kernels.sums[(num_spans, -(-channels // block), samples)](
        gradient, z, mean, spread, _or(scale, z), _or(shift, z), parts[0], parts[1], form.eps, form.slope or 0.0,
        channels, span, num_spans, height, width, *form.amounts, int(form.groups > 1),
        **_without_norm(_choices(form, scale)), PADDED=any(form.amounts), ACC=_acc(z), BLOCK_P=BLOCK_PIXELS,
        BLOCK_C=block)
    kernels.finished_sums[(-(-channels // 16), form.groups)](
        parts[0], parts[1], found[0], found[1], channels, num_spans * samples // form.groups, ACC=_acc(z), BLOCK_S=64,
        BLOCK_C=16)
    return found[0], found[1]


def _write_gradient(form: Form, gradient: Tensor, z: Tensor, dz: Tensor, mean: Tensor | None, spread: Tensor | None,
                    scale: Tensor | None, shift: Tensor | None, d_shift: Tensor | None, d_scale: Tensor | None) -> None:
    from translate.networks.normalised import kernels

    samples, channels, height, width = dz.shape
    pixels = samples * height * width // form.groups
    block = _channels_block(channels)
    kernels.gradient[(-(-height * width // BLOCK_PIXELS), -(-channels // block), samples)](
        gradient, z, dz, _or(mean, z), _or(spread, z), _or(scale, z), _or(shift, z), _or(d_shift, z), _or(d_scale, z),
        form.eps, form.slope or 0.0, channels, pixels, height, width, *form.amounts, int(form.groups > 1),
        **_choices(form, scale), PADDED=any(form.amounts), ACC=_acc(z), BLOCK_P=BLOCK_PIXELS, BLOCK_C=block)


def _choices(form: Form, scale: Tensor | None) -> dict[str, bool]:
    """Return what a kernel is compiled for."""
    return {"NORM": form.norm != "none", "GIVEN": form.norm == "given", "SCALED": scale is not None,
            "SLOPED": form.slope is not None}


def _without_norm(choices: dict[str, bool]) -> dict[str, bool]:
    return {name: chosen for name, chosen in choices.items() if name != "NORM"}


def _or(tensor: Tensor | None, instead: Tensor) -> Tensor:
    """Return a tensor, or one that a kernel is given in its place and does not read."""
    return instead if tensor is None else tensor


def _spans(pixels: int) -> tuple[int, int]:
    """Return how many pixels a span has, and how many spans there are; none is empty."""
    span = max(SPAN_PIXELS, -(-pixels // MOST_SPANS))
    span = -(-span // BLOCK_PIXELS) * BLOCK_PIXELS
    return span, -(-pixels // span)


def _channels_block(channels: int) -> int:
    return min(_power_of_two(channels), BLOCK_CHANNELS)


def _power_of_two(number: int) -> int:
    """Return the smallest power of two that is at least `number`."""
    return 1 << (number - 1).bit_length()


def _exact(z: Tensor) -> torch.dtype:
    return torch.promote_types(z.dtype, torch.float32)


def _acc(z: Tensor) -> Any:
    """Return in which format a kernel computes."""
    import triton.language as tl

    return tl.float64 if z.dtype == torch.float64 else tl.float32


def _empty(like: Tensor, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(size, dtype=dtype, device=like.device, memory_format=torch.channels_last)
