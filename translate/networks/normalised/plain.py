"""`translate.networks.normalised` in torch's own operations, for cards without Triton.

Norms are torch's kernels, which keep channels_last; of several samples with statistics of their own one is computed
after the other, as torch's instance norm of a batch would copy it to another layout and back. Padding and its gradient
are gathered of slices (`mirroring`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from translate.networks.normalised.form import Form
from translate.networks.normalised.mirroring import gathered, layout_of, mirrored

aten = torch.ops.aten


def forward(form: Form, given: tuple[Tensor, Tensor] | None, running: Any, z: Tensor, scale: Tensor | None,
            shift: Tensor | None, beside: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return y, and the µ and r that were found of z, flat; `running` statistics advance."""
    y, mean, factor = z, None, None
    if given is not None:
        y = _by_statistics(form, z, given, scale, shift)
    elif form.norm == "found":
        y, mean, factor = _by_own_statistics(form, running, z, scale, shift)
    y = _activated(y, form.slope, in_place=form.norm != "none")
    if any(form.amounts):
        y = mirrored(y, form.amounts)
    if beside is not None:
        y = y.add_(beside) if y.dtype == beside.dtype else beside + y
    return y, mean, factor


def backward(form: Form, given: tuple[Tensor, Tensor] | None, gradient: Tensor, z: Any, mean: Tensor | None,
             factor: Tensor | None, scale: Tensor | None, shift: Tensor | None
             ) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return dz, dγ and dβ; the latter two are None where there is no scale and shift."""
    g = gathered(gradient, form.amounts) if any(form.amounts) else gradient
    if form.slope is None and form.norm == "none":
        return g, None, None
    g = g.contiguous(memory_format=layout_of(z))

    # The activation's mask, from what it was given.
    statistics = given
    if mean is not None and factor is not None:
        statistics = mean, factor.pow(-2) - form.eps
    if form.slope is not None:
        y = z if statistics is None else _by_statistics(form, z, statistics, scale, shift)
        into = torch.empty_like(g) if g is gradient else g  # what is ours may be overwritten
        if form.slope:
            g = aten.leaky_relu_backward(g, y, form.slope, False, grad_input=into)
        else:
            g = aten.threshold_backward(g, y, 0, grad_input=into)
        del y
    if statistics is None:
        return g, None, None

    # The norm's own gradient.
    def of_part(g: Tensor, z: Tensor, scale: Any, mean: Any, factor: Any, var: Any) -> tuple[Tensor, ...]:
        running = (mean, var) if factor is None else (None, None)
        return aten.native_batch_norm_backward(g, z, scale, *running, mean, factor, factor is not None, form.eps,
                                               [True] * 3)

    dz, d_scale, d_shift = _in_parts(form, of_part, (g, z), (scale, statistics[0], factor, statistics[1]))
    return dz, None if scale is None else d_scale, None if shift is None else d_shift


def _by_own_statistics(form: Form, running: Any, z: Tensor, scale: Tensor | None, shift: Tensor | None
                       ) -> tuple[Tensor, ...]:
    """Return γ·(z − µ)·r + β, µ and r."""
    running_mean, running_var, share = running or (None, None, 0.0)
    if scale is None and z.device.type == "cpu" and z.dtype.itemsize == 2:
        scale = z.new_ones(form.groups * z.shape[1], dtype=torch.float32)  # else a CPU's statistics have two bytes too

    def of_part(z: Tensor, scale: Any, shift: Any) -> tuple[Tensor, ...]:
        return aten.native_batch_norm(z, scale, shift, running_mean, running_var, True, share, form.eps)

    return _in_parts(form, of_part, (z,), (scale, shift))


def _by_statistics(form: Form, z: Tensor, statistics: tuple[Tensor, Tensor], scale: Tensor | None,
                   shift: Tensor | None) -> Tensor:
    """Return γ·(z − µ)·r + β for statistics that are known."""
    def of_part(z: Tensor, mean: Any, var: Any, scale: Any, shift: Any) -> tuple[Tensor, ...]:
        return aten.native_batch_norm(z, scale, shift, mean, var, False, 0.0, form.eps)[:1]

    return _in_parts(form, of_part, (z,), (*statistics, scale, shift))[0]


def _in_parts(form: Form, function: Callable[..., tuple[Tensor, ...]], images: tuple[Tensor, ...],
              numbers: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
    """Return what a function gives for images (N, C, H, W) and flat numbers, `form.groups` of C: its first result an
    image again, the others flat.

    Where every sample has its own numbers: with all channels as those of one sample, where they lie in memory like
    that; else sample by sample.
    """
    if form.groups == 1:
        return function(*images, *numbers)
    like = images[-1]
    if all(image.is_contiguous() for image in images):
        folded = (1, form.groups * like.shape[1], *like.shape[2:])
        first, *others = function(*(image.view(folded) for image in images), *numbers)
        return first.view(like.shape), *others

    whole, gathered_numbers = torch.empty_like(like), []
    for at in range(form.groups):
        first, *others = function(*(image[at:at + 1] for image in images),
                                  *(None if each is None else each.view(form.groups, -1)[at] for each in numbers))
        whole[at:at + 1] = first
        gathered_numbers.append(others)
    return whole, *(torch.cat(each) for each in zip(*gathered_numbers, strict=True))


def _activated(x: Tensor, slope: float | None, in_place: bool) -> Tensor:
    if slope is None:
        return x
    if in_place:
        return aten.leaky_relu_(x, slope) if slope else aten.relu_(x)
    return aten.leaky_relu(x, slope) if slope else aten.relu(x)
