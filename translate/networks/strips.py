"""Exact training in strips: a chain of layers, forward and backward, in the memory of a few rows.

The full-resolution ends of a generator hold most of its memory and little of its compute. Here such a chain of
layers *(norm → act → pad → conv)* runs one strip of rows after another, forward and backward, and keeps nothing but
its input. The output and every gradient equal those of the plain chain: only the order of sums differs.

**Statistics as numbers.** A convolution's rows need a few neighbouring rows (`translate.networks.rows`). A norm needs
the whole image, but only through two numbers a channel: the mean µ and r = (σ² + ε)^-½ of its input z. Given those,
y = γ·(z − µ)·r + β is pointwise and the chain is local from end to end. So cut the chain at its norms.

*Forward.* From the first norm to the last, one pass over the strips gathers µ and σ² of z, every earlier statistic
being a number by then. One more pass makes the output.

*Backward.* Let g be the gradient that reaches y from the layers above. Seen as a function of the three arguments z, µ
and r, the norm gives

    dz_local = γ·r·g        dL/dµ = −γ·r·Σg        dL/dr = γ·Σ g·(z − µ)

where Σ runs over the N values that µ was taken of. But µ and r are functions of z, µ = Σz/N and
r = (Σ(z − µ)²/N + ε)^-½, so ∂µ/∂z = 1/N and ∂r/∂z = −r³·(z − µ)/N, and the whole gradient is

    dz = dz_local + dL/dµ/N − dL/dr·r³·(z − µ)/N.                                              (1)

With dβ = Σg and dγ = Σ g·(z − µ)·r, which are the gradients of the norm's own shift and scale, the last two terms are

    −γ·r/N · (dβ + dγ·(z − µ)·r),                                                              (2)

itself a normalisation of z. All that one strip must know of the others is therefore dβ and dγ: two numbers a channel.

Gradients add linearly, so each part of (1) may go down the chain on its own and rows in the overlap of two strips
simply receive two contributions. Only the terms (2) are not shared out by the strips' outputs: a strip adds them
on the rows it *owns*, so that every row gets them once. Three kinds of pass over the strips follow:

1. From the last norm to the second: down to that norm, for its dβ and dγ. The terms of later norms are known by then
   and take part. These sums cannot be had for several norms at once: each depends on the later ones' terms.
2. One pass down to the input, with the terms of every norm but the first. It yields the gradients of the input and of
   the weights, and the first norm's dβ and dγ on its way.
3. What is missing is the first norm's term, and only the layers below that norm feel it: a pass over those
   alone, from the term down. It is no pass through layers at all when the chain begins with a norm.

A chain without norms, or with norms in eval mode (whose statistics are constants), runs one pass each way.

**Costs.** Memory: the input, the output, their gradients, and one strip of every level. Compute, for n layers with a
norm before each but the first: the layers i = 0 … n − 1 run forward n − i times, and again n − 1 times in the
backward pass (the first layer n times, for pass 3). `overlap` says how many rows are computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from translate.errors import UsageError
from translate.networks import rows
from translate.networks.rows import InTurn, Operation, Rows, Strip, plan_strips
from translate.networks.statistics import Moments, Statistics


class ChainLayer(Protocol):
    """What strips use of a `translate.networks.layers.Layer`: norm → activate → enlarge and smooth → reflect → conv →
    last. `last` must be pointwise.
    """

    norm: Any
    enlarge: int
    smooth: bool
    reflect: int
    conv: Any
    last: Any

    def activate(self, x: Tensor) -> Tensor: ...


def run_in_strips(layers: Iterable[ChainLayer], x: Tensor, num_strips: int) -> Tensor:
    """The output of a chain of layers for `x` (N, C, H, W), computed in `num_strips` strips of rows.

    Equals `for layer in layers: x = layer(x)` in value, dtype, gradients and running statistics, under autocast and
    on any device, and holds only `x` for the backward pass. More strips take less memory and compute more rows twice;
    there are never more strips than rows. A second derivative is refused.
    """
    layers = tuple(layers)
    if has_torch_function_unary(x):  # an image that is not computed yet (`translate.tiling`), and in strips anyway
        return handle_torch_function(run_in_strips, (x,), layers, x, num_strips)
    for layer in layers:
        _check(layer)
    return _InStrips.apply(layers, num_strips, x, *(weight for layer in layers for weight in Weights.of(layer)))


def overlap(layers: Iterable[ChainLayer], height: int, num_strips: int) -> list[int]:
    """How many rows are computed more than once: of the input, after the first layer, … after the last (none).

    `height` is the number of rows of the chain's input.
    """
    chain = InTurn(tuple(_geometry(layer, Weights.of(layer)) for layer in layers))
    strips = plan_strips(chain, height, num_strips)
    return [sum(strip.rows[level].num for strip in strips) - whole
            for level, whole in enumerate(chain.heights(height))]


class Weights(NamedTuple):
    """The tensors of a layer: its convolution's weight and bias, its norm's scale γ and shift β (or flags for each)."""

    weight: Any = None
    bias: Any = None
    scale: Any = None
    shift: Any = None

    @classmethod
    def of(cls, layer: ChainLayer) -> Weights:
        """As they are now: a parametrised weight (spectral norm) is made once, here, and differentiated outside."""
        norm = layer.norm
        return cls(layer.conv.weight, layer.conv.bias, getattr(norm, "weight", None), getattr(norm, "bias", None))

    @classmethod
    def grouped(cls, flat: Sequence[Any]) -> list[Weights]:
        """One `Weights` for each layer from the arguments of all layers in a row."""
        size = len(cls._fields)
        return [cls(*flat[i:i + size]) for i in range(0, len(flat), size)]


@dataclass(frozen=True)
class LocalLayer:
    """A layer whose statistics are numbers, so that a strip of its output needs only a strip of its input.

    Its `weights` are apart from autograd's graph; once there are statistics, scale and shift have their shape.
    """

    layer: ChainLayer
    weights: Weights
    statistics: Statistics | None = None

    @property
    def passes_on(self) -> bool:
        """Whether a gradient goes through the statistics."""
        return self.statistics is not None and self.statistics.count is not None

    def run(self, z: Tensor, have: Rows, want: Rows, height: int) -> Tensor:
        """The output rows `want` from `z`, the rows `have` of an input of `height` rows."""
        geometry = _geometry(self.layer, self.weights)
        z = geometry.need(want, height).of(z, have.lo)
        x = z if self.statistics is None else self.statistics.normalise(z, self.weights.scale, self.weights.shift)
        x = self.layer.activate(x).reshape(z.shape)
        x = geometry.apply(x, want, height)
        return x if self.layer.last is None else self.layer.last(x)

    def with_statistics(self, found: Statistics | None) -> LocalLayer:
        """The same layer with its norm's statistics, if it has a norm; γ = 1 and β = 0 where the norm learns none."""
        if found is None:
            return self
        _, _, scale, shift = self.weights
        scale = torch.ones_like(found.mean) if scale is None else scale.to(found.mean.dtype).repeat(found.samples)
        shift = torch.zeros_like(found.mean) if shift is None else shift.to(found.mean.dtype).repeat(found.samples)
        return replace(self, statistics=found, weights=self.weights._replace(scale=scale, shift=shift))

    def following(self, wanted: Weights) -> LocalLayer:
        """The same layer on leaves of its own, of which autograd follows the wanted ones and no other."""
        return replace(self, weights=Weights(*(
            None if weight is None else weight.detach().requires_grad_(bool(want))
            for weight, want in zip(self.weights, wanted, strict=True))))


class LocalChain:
    """The layers of a chain in the middle of the work, with the statistics that are known so far."""

    def __init__(self, layers: Sequence[ChainLayer], weights: Sequence[Tensor | None], height: int, num_strips: int):
        grouped = Weights.grouped([None if weight is None else weight.detach() for weight in weights])
        self.layers = [LocalLayer(layer, own) for layer, own in zip(layers, grouped, strict=True)]
        self.geometry = InTurn(tuple(_geometry(layer, own) for layer, own in zip(layers, grouped, strict=True)))
        self.heights = self.geometry.heights(height)
        self.num_strips = num_strips

    def strips(self, top: int) -> list[Strip]:
        """The strips of the first `top` layers."""
        return plan_strips(InTurn(self.geometry.steps[:top]), self.heights[0], self.num_strips)

    def run(self, z: Tensor, strip: Strip, top: int) -> Tensor:
        """The strip's rows of the output of the first `top` layers, for the chain's input `z`."""
        x = strip.rows[0].of(z)
        for level, local in enumerate(self.layers[:top]):
            x = local.run(x, strip.rows[level], strip.rows[level + 1], self.heights[level])
        return x

    def gather(self, z: Tensor) -> list[Statistics | None]:
        """Find every norm's statistics, from the first norm to the last, and advance the running ones."""
        for level, local in enumerate(self.layers):
            norm = local.layer.norm
            if norm is None:
                continue
            if norm.training or norm.running_mean is None:
                moments = Moments(over_samples=isinstance(norm, nn.BatchNorm2d))
                for strip in self.strips(level):
                    moments.add(self.run(z, strip, level))
                found = Statistics.of_image(norm, moments, torch.promote_types(z.dtype, torch.float32))
            else:
                found = Statistics.running(norm)
            self.layers[level] = local.with_statistics(found)
        return [local.statistics for local in self.layers]


class _InStrips(torch.autograd.Function):
    """`run_in_strips` for autograd. The weights are arguments so that their gradients go wherever autograd wants."""

    @staticmethod
    def forward(ctx: Any, layers: tuple[ChainLayer, ...], num_strips: int, z: Tensor,
                *weights: Tensor | None) -> Tensor:
        ctx.layers, ctx.num_strips, ctx.autocast = layers, num_strips, _autocast(z.device.type)
        ctx.save_for_backward(z, *weights)
        chain = LocalChain(layers, weights, z.shape[2], num_strips)
        out = None
        with ctx.autocast():
            ctx.statistics = chain.gather(z)
            for strip in chain.strips(len(layers)):
                y = chain.run(z, strip, len(layers))
                if out is None:
                    layout = torch.channels_last if y.is_contiguous(memory_format=torch.channels_last) else None
                    size = (*y.shape[:2], chain.heights[-1], y.shape[3])
                    out = torch.empty(size, dtype=y.dtype, device=y.device, memory_format=layout)
                strip.rows[-1].of(out).copy_(y)
                del y  # before the next strip is made
        assert out is not None
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True
            raise UsageError(
                "a second derivative was asked of a chain that runs in strips, which has only a first. A network "
                "under a gradient penalty cannot run in strips: give it another memory plan")
        z, *weights = ctx.saved_tensors
        chain = LocalChain(ctx.layers, weights, z.shape[2], ctx.num_strips)
        chain.layers = [local.with_statistics(found)
                        for local, found in zip(chain.layers, ctx.statistics, strict=True)]
        _, _, wants_input, *wanted = ctx.needs_input_grad
        gradients = _Gradients(chain, z, wants_input, Weights.grouped(wanted))
        with ctx.autocast():
            gradients.gather(gradient)
        return None, None, gradients.input, *gradients.of_weights(Weights.grouped(weights))


class _Gradients:
    """The backward pass over a chain: the three kinds of pass of the module's docstring, and what they yield."""

    def __init__(self, chain: LocalChain, z: Tensor, wants_input: bool, wanted: list[Weights]):
        self.chain, self.z, self.wanted = chain, z, wanted
        self.input = torch.zeros_like(z) if wants_input else None
        self.first = 0 if wants_input else min(level for level, want in enumerate(wanted) if any(want))
        # The norms whose statistics pass a gradient on to something wanted: to the input, or to a layer below.
        self.norms = [level for level, local in enumerate(chain.layers)
                      if local.passes_on and (wants_input or level > self.first)]
        self.sums: dict[tuple[int, str], Tensor] = {}  # over strips, by level and field of Weights
        self.known: set[int] = set()  # norms whose term (2) is known

    def gather(self, gradient: Tensor) -> None:
        """Find all gradients, given that of the chain's output."""

        def from_output(strip: Strip, y: Tensor) -> Tensor:
            return strip.rows[-1].of(gradient)

        def from_term(strip: Strip, y: Tensor) -> Tensor:
            return self.term(self.norms[0], y)

        top = len(self.chain.layers)
        wanted = list(self.wanted)
        for level in reversed(self.norms[1:]):
            sums_alone = [Weights(scale=at == level, shift=at == level) for at in range(top)]
            self.sweep(top, level, from_output, sums_alone)
            self.known.add(level)
            wanted[level] = wanted[level]._replace(scale=False, shift=False)
        if self.norms:
            wanted[self.norms[0]] = wanted[self.norms[0]]._replace(scale=True, shift=True)
        self.sweep(top, self.first, from_output, wanted, self.input)
        if self.norms:
            self.sweep(self.norms[0], self.first, from_term, wanted, self.input)

    def sweep(self, top: int, bottom: int, seed: Callable[[Strip, Tensor], Tensor], wanted: list[Weights],
              into: Tensor | None = None) -> None:
        """For every strip: up the first `top` layers, then down again to layer `bottom`.

        `seed` gives the gradient of the top rows. The gradients of the `wanted` weights are added to `sums`, those of
        the chain's input to `into`.
        """
        layers = [local.following(want) for local, want in zip(self.chain.layers[:top], wanted, strict=False)]
        for strip in self.chain.strips(top):
            graphs = []
            z = strip.rows[0].of(self.z)
            for level, local in enumerate(layers):
                with torch.set_grad_enabled(level >= bottom):
                    z = z.detach().requires_grad_(level > bottom or (level == bottom and into is not None))
                    y = local.run(z, strip.rows[level], strip.rows[level + 1], self.chain.heights[level])
                if level >= bottom:
                    graphs.append((z, y))
                z = y
            g: Any = seed(strip, z.detach())
            del z
            for level in reversed(range(bottom, top)):
                z, y = graphs.pop()
                g = self.descend(level, layers[level].weights, z, y, g)
                del y
                if level in self.known and g is not None:
                    own, first = strip.owned[level], strip.rows[level].lo
                    own.of(g, first).add_(self.term(level, own.of(z.detach(), first)))
                del z
            if into is not None:
                strip.rows[0].of(into).add_(g)

    def descend(self, level: int, weights: Weights, z: Tensor, y: Tensor, g: Tensor) -> Tensor | None:
        """From the gradient of a layer's output `y` to that of its input `z`, if that is followed, and its weights'."""
        followed = {name: leaf for name, leaf in weights._asdict().items() if leaf is not None and leaf.requires_grad}
        inputs = [*followed.values()] + [z] * z.requires_grad
        parts = list(torch.autograd.grad(y, inputs, g))
        down = parts.pop() if z.requires_grad else None
        for name, part in zip(followed, parts, strict=True):
            so_far = self.sums.get((level, name))
            part = part.to(torch.promote_types(part.dtype, torch.float32))
            self.sums[level, name] = part if so_far is None else so_far.add_(part)
        return down

    def term(self, level: int, z: Tensor) -> Tensor:
        """Equation (2) for rows of the input of a layer whose dγ and dβ are known."""
        local = self.chain.layers[level]
        assert local.statistics is not None
        return local.statistics.term(z, local.weights.scale, self.sums[level, "scale"], self.sums[level, "shift"])

    def of_weights(self, weights: list[Weights]) -> list[Tensor | None]:
        """The gradients of all weights in a row, in their shapes and dtypes; None for those not wanted."""
        found: list[Tensor | None] = []
        for level, (own, want) in enumerate(zip(weights, self.wanted, strict=True)):
            for name in Weights._fields:
                if not getattr(want, name):
                    found.append(None)
                    continue
                weight, total = getattr(own, name), self.sums[level, name]
                if total.numel() > weight.numel():  # γ and β serve every sample of an InstanceNorm
                    total = total.view(-1, weight.numel()).sum(0)
                found.append(total.to(weight.dtype))
        return found


def _geometry(layer: ChainLayer, weights: Weights) -> InTurn:
    """All of a layer but what is pointwise, as operations on rows."""
    steps: list[Operation] = []
    if layer.enlarge > 1:
        steps.append(rows.nearest(layer.enlarge))
    if layer.smooth:  # bilinear enlargement by two is nearest-neighbour enlargement and this filter
        steps += [rows.Pad(1, 1, 1, 1, mode="reflect"), rows.average_pool(2, 1), rows.average_pool(2, 1)]
    if layer.reflect:
        steps.append(rows.Pad(*(layer.reflect,) * 4, mode="reflect"))
    conv, own = layer.conv, (weights.weight, weights.bias, layer.conv.stride, layer.conv.padding)
    if isinstance(conv, nn.ConvTranspose2d):
        steps.append(rows.transposed_convolution(*own, conv.output_padding, conv.groups, conv.dilation))
    else:
        steps.append(rows.convolution(*own, conv.dilation, conv.groups))
    return InTurn(tuple(steps))


def _autocast(device: str) -> Callable[[], AbstractContextManager]:
    """The autocast state of now, to be entered again; nothing where a device has none (meta).

    Without its cache: that would hand a low-precision weight made without a graph to those who need one.
    """
    if not torch.amp.is_autocast_available(device):
        return nullcontext
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return lambda: torch.autocast(device, dtype, enabled=enabled, cache_enabled=False)


def _check(layer: ChainLayer) -> None:
    """Refuse by name what has no exact strips."""
    norm, conv = layer.norm, layer.conv
    if not isinstance(conv, nn.Conv2d | nn.ConvTranspose2d) or conv.padding_mode != "zeros":
        raise UsageError(f"{conv} cannot run in strips: Conv2d and ConvTranspose2d with padding_mode='zeros' can")
    tracking = isinstance(norm, nn.InstanceNorm2d) and norm.training and norm.track_running_stats
    if norm is not None and (not isinstance(norm, nn.BatchNorm2d | nn.InstanceNorm2d) or tracking):
        raise UsageError(f"{norm} cannot run in strips: BatchNorm2d and InstanceNorm2d (without running statistics) "
                         "can; choose another memory plan, or norm: instance")
