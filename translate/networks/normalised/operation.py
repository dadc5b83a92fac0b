"""norm → act → pad of an image as one operation, for modules and for given statistics, and its place in autograd."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from translate.networks.normalised import counted, fused, plain
from translate.networks.normalised.form import Form
from translate.networks.normalised.mirroring import NONE, Amounts, gathered
from translate.networks.normalised.paths import Path, path_of


def normalised(z: Tensor, norm: nn.Module | None = None, slope: float | None = None, amounts: Amounts = NONE,
               beside: Tensor | None = None) -> Tensor:
    """Return norm → act → pad of an image (N, C, H, W).

        norm      any module; None: none. Instance norms and BatchNorm2d are computed here, others by themselves
        slope     of the activation: None for none, 0 for ReLU, else LeakyReLU
        amounts   columns and rows that are mirrored at the left, right, top and bottom
        beside    what is added in the end (N, C, H, W): a residual block's input; without activation and padding
    """
    path = path_of(z)
    if path == "eager":
        return _eagerly(z, norm, slope, amounts, beside)
    if norm is not None and not _is_known(norm):
        z, norm = norm(z), None
    if norm is None and not any(amounts):
        return _added(_activated(z, slope, in_place=False), beside)

    # As nn.BatchNorm2d does: running statistics advance in training and are gone by in eval mode.
    given, running = None, None
    form = Form("none", slope=slope, amounts=amounts)
    if norm is not None:
        module: Any = norm
        of_samples = isinstance(norm, nn.InstanceNorm2d)
        if not norm.training and module.running_mean is not None:
            given = module.running_mean, module.running_var
        elif norm.training and module.track_running_stats:
            module.num_batches_tracked.add_(1)
            share = 1 / module.num_batches_tracked.item() if module.momentum is None else module.momentum
            running = module.running_mean, module.running_var, share
        form = Form("found" if given is None else "given", len(z) if of_samples else 1, module.eps, slope, amounts)
        if given is None and z.numel() == form.groups * z.shape[1]:
            raise ValueError(f"{norm}: expected more than one value per channel, got input of size {tuple(z.shape)}")
    scale, shift = getattr(norm, "weight", None), getattr(norm, "bias", None)
    if form.groups > 1:  # they serve every sample
        scale, shift = (None if weight is None else weight.repeat(form.groups) for weight in (scale, shift))
    return _Normalised.apply(path, form, given, running, z, scale, shift, beside)


def normalised_by(mean: Tensor, var: Tensor, eps: float, groups: int, z: Tensor, scale: Tensor | None,
                  shift: Tensor | None, slope: float | None = None, amounts: Amounts = NONE) -> Tensor:
    """Return norm → act → pad of z (N, C, H, W) for statistics that are numbers, flat: `groups` of C.

    Scale and shift are as many, or None. Computed in the statistics' dtype, returned in z's.
    """
    form = Form("given", groups, eps, slope, amounts)
    path = path_of(z)
    if path == "eager":
        return _formula(form, (mean, var), z, scale, shift)
    return _Normalised.apply(path, form, (mean, var), None, z, scale, shift, None)


class _Normalised(torch.autograd.Function):
    """The operation for autograd, on one of the two paths that are not eager."""

    @staticmethod
    def forward(ctx: Any, path: Path, form: Form, given: tuple[Tensor, Tensor] | None, running: Any, z: Tensor,
                scale: Tensor | None, shift: Tensor | None, beside: Tensor | None) -> Tensor:
        form.check(z.shape)
        if z.is_meta:
            y, mean, factor = counted.forward(form, given, z, scale, shift, beside, path == "plain")
        else:
            y, mean, factor = _way(path).forward(form, given, running, z, scale, shift, beside)
        ctx.path, ctx.form, ctx.given = path, form, given
        ctx.save_for_backward(None if form.norm == "none" and form.slope is None else z, mean, factor, scale, shift)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        z, mean, factor, scale, shift = ctx.saved_tensors
        wants_z, wants_scale, wants_shift, wants_beside = ctx.needs_input_grad[4:]
        found: tuple[Tensor | None, ...] = (None, None, None)
        if torch.is_grad_enabled():  # create_graph=True: what follows must be differentiable itself
            found = _derived(ctx.form, ctx.given, z, scale, shift, gradient)
        elif gradient.is_meta:
            found = counted.backward(ctx.form, ctx.given, gradient, z, mean, factor, scale, shift, ctx.path == "plain")
        elif wants_z or wants_scale or wants_shift:
            found = _way(ctx.path).backward(ctx.form, ctx.given, gradient, z, mean, factor, scale, shift)
        return None, None, None, None, *found, gradient if wants_beside else None


def _derived(form: Form, given: tuple[Tensor, Tensor] | None, z: Tensor | None, scale: Tensor | None,
             shift: Tensor | None, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients of z, scale and shift as functions of these and of `gradient`."""
    if z is None:  # padding alone, which is linear
        return gathered(gradient, form.amounts), None, None
    inputs = (z, scale, shift)
    followed = [value for value in inputs if value is not None and value.requires_grad]
    found = iter(torch.autograd.grad(_formula(form, given, *inputs), followed, gradient, create_graph=True))
    return tuple(next(found) if value is not None and value.requires_grad else None for value in inputs)


def _way(path: Path) -> Any:
    return plain if path == "plain" else fused


def fields_say_all(norm: nn.Module) -> bool:
    """Tell whether a norm is an instance norm or BatchNorm2d that computes nothing but what its fields say.

    That is one of torch's own, or of a class that says `fields_say_all` in its body. Others may compute what they like.
    """
    kind = type(norm)
    return kind in (nn.InstanceNorm2d, nn.BatchNorm2d) or (
        isinstance(norm, nn.InstanceNorm2d | nn.BatchNorm2d) and "fields_say_all" in vars(kind))


def _is_known(norm: nn.Module) -> bool:
    return fields_say_all(norm) and not (isinstance(norm, nn.InstanceNorm2d) and norm.track_running_stats)


def _eagerly(z: Tensor, norm: nn.Module | None, slope: float | None, amounts: Amounts, beside: Tensor | None) -> Tensor:
    """Return norm → act → pad, one after the other; in place where a norm has just made the tensor, so that nobody else
    holds it."""
    y = _activated(z if norm is None else norm(z), slope, in_place=isinstance(norm, _NormBase))
    return _added(F.pad(y, amounts, mode="reflect") if any(amounts) else y, beside)


def _formula(form: Form, given: tuple[Tensor, Tensor] | None, z: Tensor, scale: Tensor | None, shift: Tensor | None
             ) -> Tensor:
    """Return the same of the operation's own arguments, differentiable as often as one likes."""
    y, (samples, channels, *sides) = z, z.shape
    if form.norm != "none":
        # Each sample's channels as further channels of one sample; a norm in eval mode goes by given statistics.
        folded = z.reshape(1, samples * channels, *sides) if form.groups > 1 else z
        mean, var = given or (None, None)
        y = F.batch_norm(folded, mean, var, scale, shift, given is None, 0.0, form.eps)
    y = _activated(y, form.slope, in_place=form.norm != "none").reshape(z.shape)
    return F.pad(y, form.amounts, mode="reflect") if any(form.amounts) else y


def _activated(x: Tensor, slope: float | None, in_place: bool) -> Tensor:
    if slope is None:
        return x
    return F.leaky_relu(x, slope, inplace=in_place) if slope else F.relu(x, inplace=in_place)


def _added(y: Tensor, beside: Tensor | None) -> Tensor:
    return y if beside is None else beside + y
