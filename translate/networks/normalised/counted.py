"""`translate.networks.normalised` on the meta device: each direction is one operation, for all who count.

That is `diptych::normalised_forward` and `…_backward`: a count sees what goes in and what comes out, once each, as it
does of torch's own norms, however a card computes it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from translate.networks.normalised.form import Form

_LIBRARY = torch.library.Library("diptych", "DEF")
_LIBRARY.define("normalised_forward(Tensor z, Tensor? scale, Tensor? shift, Tensor? beside, Tensor? mean, Tensor? var, "
                "int[] size, int num_found) -> (Tensor, Tensor, Tensor)")
_LIBRARY.define("normalised_backward(Tensor gradient, Tensor? z, Tensor? mean, Tensor? spread, Tensor? scale, "
                "Tensor? shift, int[] size, int num_found) -> (Tensor, Tensor, Tensor)")


def forward(form: Form, given: tuple[Tensor, Tensor] | None, z: Tensor, scale: Tensor | None, shift: Tensor | None,
            beside: Tensor | None, in_steps: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return y, and µ and r where they are found. `in_steps`: what is padded is there before, for a moment."""
    step = torch.empty_like(z) if in_steps and any(form.amounts) and form.norm != "none" else None
    num_found = form.groups * z.shape[1] if form.norm == "found" else 0
    y, mean, factor = torch.ops.diptych.normalised_forward(z, scale, shift, beside, *given or (None, None),
                                                           form.padded(z.shape), num_found)
    del step
    return (y, mean, factor) if form.norm == "found" else (y, None, None)


def backward(form: Form, given: tuple[Tensor, Tensor] | None, gradient: Tensor, z: Tensor | None, mean: Tensor | None,
             factor: Tensor | None, scale: Tensor | None, shift: Tensor | None, in_steps: bool
             ) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return dz, dγ and dβ. `in_steps`: the gradient behind padding and activation is there before, for a moment."""
    size = form.unpadded(gradient.shape)
    has_steps = in_steps and form.norm != "none" and (any(form.amounts) or form.slope is not None)
    step = gradient.new_empty(size) if has_steps else None
    num_found = form.groups * size[1] if form.norm == "found" or scale is not None else 0
    dz, d_scale, d_shift = torch.ops.diptych.normalised_backward(gradient, z, *given or (mean, factor), scale, shift,
                                                                 size, num_found)
    del step
    return (dz, None, None) if scale is None else (dz, d_scale, d_shift)


def _forward_on_meta(z: Tensor, scale: Any, shift: Any, beside: Tensor | None, mean: Any, var: Any, size: list[int],
                     num_found: int) -> tuple[Tensor, Tensor, Tensor]:
    return _made(z if beside is None else beside, z, size, num_found)


def _backward_on_meta(gradient: Tensor, z: Tensor | None, mean: Any, spread: Any, scale: Any, shift: Any,
                      size: list[int], num_found: int) -> tuple[Tensor, Tensor, Tensor]:
    return _made(gradient, gradient if z is None else z, size, num_found)


def _made(one: Tensor, other: Tensor, size: list[int], num_found: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return an image, and two numbers for each of the channels that there are sums of; those in float32 at least."""
    dtype = torch.promote_types(one.dtype, other.dtype)
    image = torch.empty(size, dtype=dtype, device="meta", memory_format=torch.channels_last)
    exact = torch.promote_types(dtype, torch.float32)
    return image, image.new_empty(num_found, dtype=exact), image.new_empty(num_found, dtype=exact)


_LIBRARY.impl("normalised_forward", _forward_on_meta, "Meta")
_LIBRARY.impl("normalised_backward", _backward_on_meta, "Meta")
