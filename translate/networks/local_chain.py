"""A chain of layers whose norms go by known numbers, so that a strip of its output needs only a strip of its input.

A norm is what makes a layer global: its mean and variance are of the whole image. Once these two are plain numbers
(`Statistics`), the norm is pointwise, and the layer *(norm → activate → pad → conv)* needs the rows that its
convolution reaches (`translate.networks.rows`) and nothing else. `translate.networks.strips` runs such chains forward
and backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from translate.networks.normalised import normalised
from translate.networks.row_operations import average_pool, convolution, nearest, transposed_convolution
from translate.networks.rows import Composed, Operation, Pad, RowRange, Strip, plan_strips
from translate.networks.statistics import Moments, Statistics
from translate.precision import convolution_dtype


class ChainLayer(Protocol):
    """What is used of a `translate.networks.layers.Layer`: norm → activate → downsample → upsample and smooth → reflect
    → conv → last. `last` must be pointwise. A class whose objects compute just this says so: `fields_say_all`.
    """

    norm: Any
    slope: float | None
    scale_factor: int
    smooth: bool
    downsample: bool
    reflect: int
    conv: Any
    last: Any


class Weights(NamedTuple):
    """The tensors of a layer: its convolution's weight and bias, its norm's scale γ and shift β (or flags for each)."""

    weight: Any = None
    bias: Any = None
    scale: Any = None
    shift: Any = None

    @classmethod
    def of(cls, layer: ChainLayer) -> Weights:
        """Read them as they are now: a parametrised weight (spectral norm) is made once, here, and differentiated
        outside."""
        norm = layer.norm
        return cls(layer.conv.weight, layer.conv.bias, getattr(norm, "weight", None), getattr(norm, "bias", None))

    @classmethod
    def grouped(cls, flat: Sequence[Any]) -> list[Weights]:
        """Return one `Weights` for each layer from the arguments of all layers in a row."""
        size = len(cls._fields)
        return [cls(*flat[i:i + size]) for i in range(0, len(flat), size)]


@dataclass(frozen=True)
class LocalLayer:
    """A layer whose statistics are numbers, so that a strip of its output needs only a strip of its input.

    Its `weights` are detached from autograd's graph; once there are statistics, scale and shift have their shape.
    """

    layer: ChainLayer
    weights: Weights
    statistics: Statistics | None = None

    @property
    def passes_on(self) -> bool:
        """Whether a gradient goes through the statistics: those of this image, not running ones."""
        return self.statistics is not None and self.statistics.count is not None

    def run(self, z: Tensor, have: RowRange, want: RowRange, height: int) -> Tensor:
        """Return the output rows `want` from `z`, the rows `have` of an input of `height` rows."""
        geometry = geometry_of(self.layer, self.weights)
        z = geometry.need(want, height).slice_of(z, have.start)

        # Mirrored padding that comes first is part of the norm's operation.
        amounts, rest = geometry.after_mirroring(want, height)
        slope, scale, shift = self.layer.slope, self.weights.scale, self.weights.shift
        if self.statistics is None:
            x = normalised(z, None, slope, amounts)
        else:
            x = self.statistics.normalise(z, scale, shift, slope, amounts)
        x = rest(x)
        return x if self.layer.last is None else self.layer.last(x)

    def with_statistics(self, found: Statistics | None) -> LocalLayer:
        """Return the same layer with its norm's statistics, if it has a norm; γ = 1 and β = 0 where it learns none."""
        if found is None:
            return self
        _, _, scale, shift = self.weights
        scale = torch.ones_like(found.mean) if scale is None else scale.to(found.mean.dtype).repeat(found.samples)
        shift = torch.zeros_like(found.mean) if shift is None else shift.to(found.mean.dtype).repeat(found.samples)
        return replace(self, statistics=found, weights=self.weights._replace(scale=scale, shift=shift))

    def following(self, wanted: Weights) -> LocalLayer:
        """Return the same layer with detached weights, of which autograd follows the wanted ones and no other."""
        return replace(self, weights=Weights(*(
            None if weight is None else weight.detach().requires_grad_(bool(want))
            for weight, want in zip(self.weights, wanted, strict=True))))

    def in_format_of_convolutions(self) -> LocalLayer:
        """Return the same layer with its convolution's weights in the format it computes in: autocast would convert
        them anew for each strip."""
        weight, bias = (None if each is None else each.to(convolution_dtype(each)) for each in self.weights[:2])
        return replace(self, weights=self.weights._replace(weight=weight, bias=bias))


class LocalChain:
    """A chain while it is computed: its layers, with the statistics known so far.

    `height` is the number of rows of the chain's input; `weights` are those of all layers in a row (`Weights`).
    """

    def __init__(self, layers: Sequence[ChainLayer], weights: Sequence[Tensor | None], height: int, num_strips: int):
        grouped = Weights.grouped([None if weight is None else weight.detach() for weight in weights])
        self.layers = [LocalLayer(layer, own).in_format_of_convolutions()
                       for layer, own in zip(layers, grouped, strict=True)]
        self.geometry = Composed(tuple(geometry_of(layer, own) for layer, own in zip(layers, grouped, strict=True)))
        self.heights = self.geometry.heights(height)
        self.num_strips = num_strips

    def strips(self, num_layers: int) -> list[Strip]:
        """Plan the strips of the first `num_layers` layers."""
        return plan_strips(Composed(self.geometry.steps[:num_layers]), self.heights[0], self.num_strips)

    def run(self, x: Tensor, strip: Strip, num_layers: int) -> Tensor:
        """Return the strip's rows of the output of the first `num_layers` layers, for the chain's whole input `x`."""
        y = strip.rows[0].slice_of(x)
        for position, local in enumerate(self.layers[:num_layers]):
            y = local.run(y, strip.rows[position], strip.rows[position + 1], self.heights[position])
        return y

    def gather_statistics(self, x: Tensor) -> list[Statistics | None]:
        """Find every norm's statistics, from the first norm to the last, and advance the running ones."""
        for position, local in enumerate(self.layers):
            norm = local.layer.norm
            if norm is None:
                continue

            # Gather them in one pass over the strips, through the layers before, whose statistics are known by now.
            if norm.training or norm.running_mean is None:
                moments = Moments(over_samples=isinstance(norm, nn.BatchNorm2d))
                for strip in self.strips(position):
                    moments.add(self.run(x, strip, position))
                found = Statistics.of_image(norm, moments, torch.promote_types(x.dtype, torch.float32))
            else:
                found = Statistics.running(norm)
            self.layers[position] = local.with_statistics(found)
        return [local.statistics for local in self.layers]


def geometry_of(layer: ChainLayer, weights: Weights) -> Composed:
    """Return all of a layer but what is pointwise, as operations on rows."""
    steps: list[Operation] = []
    if layer.downsample:
        steps += [Pad(1, 1, 1, 1, mode="reflect"), average_pool(2, 1), average_pool(2, 2)]
    if layer.scale_factor > 1:
        steps.append(nearest(layer.scale_factor))
    if layer.smooth:  # bilinear upsampling by two is nearest-neighbour upsampling and this filter
        steps += [Pad(1, 1, 1, 1, mode="reflect"), average_pool(2, 1), average_pool(2, 1)]
    if layer.reflect:
        steps.append(Pad(*(layer.reflect,) * 4, mode="reflect"))
    conv, own = layer.conv, (weights.weight, weights.bias, layer.conv.stride, layer.conv.padding)
    if isinstance(conv, nn.ConvTranspose2d):
        steps.append(transposed_convolution(*own, conv.output_padding, conv.groups, conv.dilation))
    else:
        steps.append(convolution(*own, conv.dilation, conv.groups))
    return Composed(tuple(steps))
