"""The mean and variance that a norm divides by, of an image that is seen strip by strip.

`Moments` gathers them one strip at a time, exactly; `Statistics` are what comes out: plain numbers, with which a norm
is a pointwise function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from translate.networks.normalised import normalised_by
from translate.networks.normalised.mirroring import NONE, Amounts


def has_batch_norm(network: nn.Module) -> bool:
    """Tell whether a network takes statistics over a batch."""
    return any(isinstance(part, _BatchNorm) for part in network.modules())


def hold_statistics(network: nn.Module, hold: bool) -> None:
    """Have batch norm go by its running statistics, which stay as they are, or by those of each batch."""
    for part in network.modules():
        if isinstance(part, _BatchNorm):
            part.train(not hold)


class Moments:
    """The number of values, their mean and `m2`, the sum of squared deviations from it, of every channel so far.

    Two parts are combined by the rule of Chan, Golub & LeVeque (1983, "Algorithms for computing the sample variance").
    `mean` and `m2` are (N, C, 1, 1), or (1, C, 1, 1) when gathered `over_samples` (BatchNorm). Each strip is
    centred by its own mean before squaring, so nothing cancels. One row is summed in float32 (float64 if the strip
    is), rows and strips in float64: that alone makes the statistics of a large image ten times more exact.
    """

    def __init__(self, over_samples: bool = False):
        self.rest = (0, 2) if over_samples else (2,)  # the dimensions left after the columns
        self.count = 0
        self.mean = self.m2 = torch.zeros(())

    def add(self, strip: Tensor) -> None:
        """Take in a strip (N, C, rows, W) of any floating type; one without rows changes nothing."""
        single = torch.promote_types(strip.dtype, torch.float32)
        double = single if strip.device.type == "mps" else torch.float64  # which has no float64
        count = strip[:, 0].numel() if 0 in self.rest else strip[0, 0].numel()
        if count == 0:
            return

        # Of this strip alone, centred by its own mean.
        mean = strip.mean(3, keepdim=True, dtype=single).to(double).mean(self.rest, keepdim=True)
        deviation = torch.linalg.vector_norm(strip - mean.to(single), dim=3, keepdim=True)
        m2 = deviation.to(double).square().sum(self.rest, keepdim=True)
        if self.count == 0:
            self.count, self.mean, self.m2 = count, mean, m2
            return

        # Together with what was seen before.
        total, shift = self.count + count, mean - self.mean
        self.mean = self.mean + shift * (count / total)
        self.m2 = self.m2 + m2 + shift.square() * (self.count * count / total)
        self.count = total

    @property
    def var(self) -> Tensor:
        """The population variance, as a norm divides by it."""
        return self.m2 / self.count


@dataclass(frozen=True)
class Statistics:
    """A norm's mean and variance as numbers.

    `mean` and `var` are flat: a value for each channel or, where every sample has its own (InstanceNorm, N > 1), for
    each channel of each sample, and then `samples` is N, else 1. `count` is how many values each was
    taken of; None if they are running statistics, which are constants.
    """

    mean: Tensor
    var: Tensor
    eps: float
    samples: int
    count: int | None

    @classmethod
    def running(cls, norm: Any) -> Statistics:
        """Return those that a norm in eval mode goes by."""
        return cls(norm.running_mean.clone(), norm.running_var.clone(), norm.eps, samples=1, count=None)

    @classmethod
    def of_image(cls, norm: Any, moments: Moments, dtype: torch.dtype) -> Statistics:
        """Return those gathered of the norm's input, in `dtype`.

        A BatchNorm in training takes them into its running ones, as always. Raises `ValueError`, as torch does, where
        a channel has a single value.
        """
        if moments.count < 2:
            raise ValueError(f"{norm}: expected more than one value per channel, got an image of one")
        mean, var = moments.mean.flatten().to(dtype), moments.var.flatten().to(dtype)
        batch = isinstance(norm, nn.BatchNorm2d)

        # What torch does in a training forward pass: running += momentum · (new − running), the variance unbiased.
        if batch and norm.training and norm.track_running_stats:
            norm.num_batches_tracked.add_(1)
            share = 1 / norm.num_batches_tracked if norm.momentum is None else norm.momentum
            unbiased = var * (moments.count / (moments.count - 1))
            for running, new in ((norm.running_mean, mean), (norm.running_var, unbiased)):
                running.add_((new.to(running.dtype) - running) * share)
        return cls(mean, var, norm.eps, 1 if batch else moments.mean.shape[0], moments.count)

    def normalise(self, z: Tensor, scale: Tensor | None, shift: Tensor | None, slope: float | None = None,
                  amounts: Amounts = NONE) -> Tensor:
        """Return scale·(z − µ)·r + shift in z's dtype, computed in that of the statistics; then activated and mirrored,
        as `translate.networks.normalised` says.

        Its backward yields Σg and Σ g·(z − µ)·r.
        """
        return normalised_by(self.mean, self.var, self.eps, self.samples, z, scale, shift, slope, amounts)

    def gradient(self, z: Tensor, scale: Tensor, d_scale: Tensor, d_shift: Tensor) -> Tensor:
        """Return −γ·r/N·(dβ + dγ·(z − µ)·r): the gradient that reaches `z` through its own mean and variance.

        `d_scale` and `d_shift` are dγ and dβ over the whole image; `translate.networks.strips` derives it.
        """
        assert self.count is not None, "constant statistics pass on no gradient"
        factor = -scale * (self.var + self.eps).rsqrt() / self.count
        return self.normalise(z, factor * d_scale, factor * d_shift)
