"""Exact training in strips: a chain of layers, forward and backward, in the memory of a few rows.

The full-resolution ends of a generator hold most of its memory and little of its compute. Here such a chain of
layers *(norm → act → pad → conv)* runs one strip of rows after another, forward and backward, and keeps nothing but
its input. The output and every gradient equal those of the plain chain: only the order of sums differs.

**Statistics as numbers.** A convolution's rows need a few neighbouring rows (`translate.networks.rows`). A norm needs
the whole image, but only through two numbers a channel: the mean µ and r = (σ² + ε)^-½ of its input z. Given those,
y = γ·(z − µ)·r + β is pointwise and the chain is local from end to end (`translate.networks.local_chain`). So cut the
chain at its norms.

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

Gradients add linearly, so each part of (1) may go down the chain on its own. The first term arrives once for each strip
that read a row, which is right. The terms (2) are of the whole image: each strip adds them only on the rows it *owns*,
so that none is counted twice. Three kinds of pass over the strips follow:

1. From the last norm to the second: down to that norm, for its dβ and dγ. The terms of later norms are known by then
   and take part. These sums cannot be had for several norms at once: each depends on the later ones' terms.
2. One pass down to the input, with the terms of every norm but the first. It yields the gradients of the input and of
   the weights, and the first norm's dβ and dγ on its way.
3. What is missing is the first norm's term, and only the layers below that norm feel it: a pass over those
   alone, from the term down. If the chain begins with a norm there are no layers below it, and the term is added
   directly.

A chain without norms, or with norms in eval mode (whose statistics are constants), runs one pass each way.

**An example:** the tail of the ResNet generator, conv₁ → norm₁ → conv₂ → norm₂ → conv₃. In every pass a strip is
computed from the input up to where its arrow ends, handed on, and forgotten.

    forward     statistics of norm₁     conv₁ →
                statistics of norm₂     conv₁ → conv₂ →
                the output              conv₁ → conv₂ → conv₃ →
    backward    1. dβ, dγ of norm₂      conv₁ → conv₂ → conv₃ → and back to norm₂
                2. all other gradients  conv₁ → conv₂ → conv₃ → and back to the input
                3. the term of norm₁    conv₁ → and back to the input

Between passes only the input and output, their gradients and two numbers a channel and norm are kept; between the
forward and the backward pass only the input and the statistics.

**Costs.** Memory: the input, the output, their gradients, and one strip at every position of the chain. Compute, for n
layers with a norm before each but the first: the layers i = 0 … n − 1 run forward n − i times, and again n − 1 times in
the backward pass (the first layer n times, for pass 3). The rows that two strips share are computed in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from translate.errors import UsageError
from translate.networks.local_chain import ChainLayer, LocalChain, Weights
from translate.networks.normalised import fields_say_all
from translate.networks.rows import Strip
from translate.precision import at_least_float32


def run_in_strips(layers: Iterable[ChainLayer], x: Tensor, num_strips: int) -> Tensor:
    """Return the output of a chain of layers for `x` (N, C, H, W), computed in `num_strips` strips of rows.

    Equals `for layer in layers: x = layer(x)` in value, dtype, gradients and running statistics, under autocast and
    on any device, and holds only `x` for the backward pass. More strips take less memory and compute more rows twice;
    there are never more strips than rows.

    Raises `UsageError` for a layer without exact strips, and where a second derivative is asked for.
    """
    layers = tuple(layers)
    if has_torch_function_unary(x):  # a lazy image: `tiling` will compute it in strips itself
        return handle_torch_function(run_in_strips, (x,), layers, x, num_strips)
    for layer in layers:
        _check(layer)
    return _InStrips.apply(layers, num_strips, x, *(weight for layer in layers for weight in Weights.of(layer)))


class _InStrips(torch.autograd.Function):
    """`run_in_strips` for autograd. The weights are arguments so that their gradients go wherever autograd wants."""

    @staticmethod
    def forward(ctx: Any, layers: tuple[ChainLayer, ...], num_strips: int, x: Tensor,
                *weights: Tensor | None) -> Tensor:
        ctx.layers, ctx.num_strips, ctx.autocast = layers, num_strips, _autocast(x.device.type)
        ctx.save_for_backward(x, *weights)
        out = None
        with ctx.autocast():
            chain = LocalChain(layers, weights, x.shape[2], num_strips)
            # One pass for each norm's statistics, then one for the output.
            ctx.statistics = chain.gather_statistics(x)
            for strip in chain.strips(len(layers)):
                y = chain.run(x, strip, len(layers))
                if out is None:  # in the layout that the layers give
                    layout = torch.channels_last if y.is_contiguous(memory_format=torch.channels_last) else None
                    size = (*y.shape[:2], chain.heights[-1], y.shape[3])
                    out = torch.empty(size, dtype=y.dtype, device=y.device, memory_format=layout)
                strip.rows[-1].slice_of(out).copy_(y)
                del y  # before the next strip is made
        assert out is not None
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True
            raise UsageError(
                "a second derivative was asked of a chain that runs in strips, which has only a first. A network "
                "under a gradient penalty cannot run in strips: give it another memory plan")

        # The chain as the forward pass left it: its statistics are numbers.
        x, *weights = ctx.saved_tensors
        with ctx.autocast():
            chain = LocalChain(ctx.layers, weights, x.shape[2], ctx.num_strips)
        chain.layers = [local.with_statistics(found)
                        for local, found in zip(chain.layers, ctx.statistics, strict=True)]

        # Of what is frozen, no gradient is found.
        _, _, wants_input, *wanted = ctx.needs_input_grad
        gradients = _Gradients(chain, x, wants_input, Weights.grouped(wanted))
        with ctx.autocast():
            gradients.find(gradient)
        return None, None, gradients.input, *gradients.of_weights(Weights.grouped(weights))


class _Gradients:
    """The backward pass over a chain: the three kinds of pass of the module's docstring, and what they yield."""

    def __init__(self, chain: LocalChain, x: Tensor, wants_input: bool, wanted: list[Weights]):
        self.chain, self.x, self.wanted = chain, x, wanted
        self.input = torch.zeros_like(x) if wants_input else None
        self.first_layer = 0 if wants_input else min(position for position, want in enumerate(wanted) if any(want))
        # The norms whose statistics pass a gradient on to something wanted: to the input, or to a layer below.
        self.norms = [position for position, local in enumerate(chain.layers)
                      if local.passes_on and (wants_input or position > self.first_layer)]
        self.sums: dict[tuple[int, str], Tensor] = {}  # over strips, by position and field of Weights
        self.known: set[int] = set()  # norms whose term (2) is known

    def find(self, gradient: Tensor) -> None:
        """Find all gradients, given that of the chain's output."""

        def from_output(strip: Strip, y: Tensor) -> Tensor:
            return strip.rows[-1].slice_of(gradient)

        def from_first_norm(strip: Strip, y: Tensor) -> Tensor:
            return self.statistics_gradient(self.norms[0], y)

        # 1. For dβ and dγ of each norm but the first, from the last one down.
        num_layers = len(self.chain.layers)
        wanted = list(self.wanted)
        for position in reversed(self.norms[1:]):
            sums_alone = [Weights(scale=at == position, shift=at == position) for at in range(num_layers)]
            self.sweep(num_layers, position, from_output, sums_alone)
            self.known.add(position)
            wanted[position] = wanted[position]._replace(scale=False, shift=False)

        # 2. Down to the input, with the first norm's dβ and dγ on the way.
        if self.norms:
            wanted[self.norms[0]] = wanted[self.norms[0]]._replace(scale=True, shift=True)
        self.sweep(num_layers, self.first_layer, from_output, wanted, self.input)

        # 3. What is missing: the first norm's term, through the layers below it.
        if self.norms:
            self.sweep(self.norms[0], self.first_layer, from_first_norm, wanted, self.input)

    def sweep(self, num_layers: int, first_layer: int, start: Callable[[Strip, Tensor], Tensor], wanted: list[Weights],
              into: Tensor | None = None) -> None:
        """Run every strip up the first `num_layers` layers, then down again to layer `first_layer`.

            start   gives the gradient that a strip goes down from: that of its output of the last of these layers, from
                    the strip and this output
            wanted  the weights, a layer each, whose gradients are added to `sums`
            into    what the gradient of the chain's input is added to; None: it is not wanted
        """
        layers = [local.following(want) for local, want in zip(self.chain.layers[:num_layers], wanted, strict=False)]
        for strip in self.chain.strips(num_layers):
            # Up: forward. Each layer has a graph of its own, so that a term can be added between two of them.
            graphs = []
            z = strip.rows[0].slice_of(self.x)
            for position, local in enumerate(layers):
                with torch.set_grad_enabled(position >= first_layer):
                    followed = position > first_layer or (position == first_layer and into is not None)
                    z = z.detach().requires_grad_(followed)
                    y = local.run(z, strip.rows[position], strip.rows[position + 1], self.chain.heights[position])
                if position >= first_layer:
                    graphs.append((z, y))
                z = y
            g: Any = start(strip, z.detach())
            del z

            # Down: backward. Add the known terms (2) of norms, on the rows that the strip owns.
            for position in reversed(range(first_layer, num_layers)):
                z, y = graphs.pop()
                g = self.descend(position, layers[position].weights, z, y, g)
                del y
                if position in self.known and g is not None:
                    own, first = strip.owned[position], strip.rows[position].start
                    own.slice_of(g, first).add_(self.statistics_gradient(position, own.slice_of(z.detach(), first)))
                del z
            if into is not None:
                strip.rows[0].slice_of(into).add_(g)

    def descend(self, position: int, weights: Weights, z: Tensor, y: Tensor, g: Tensor) -> Tensor | None:
        """Go from the gradient of a layer's output `y` to that of its input `z`, if that is followed; add up its
        weights'."""
        followed = {name: leaf for name, leaf in weights._asdict().items() if leaf is not None and leaf.requires_grad}
        inputs = [*followed.values()] + [z] * z.requires_grad
        parts = list(torch.autograd.grad(y, inputs, g))
        down = parts.pop() if z.requires_grad else None
        for name, part in zip(followed, parts, strict=True):
            so_far = self.sums.get((position, name))
            part = at_least_float32(part)
            self.sums[position, name] = part if so_far is None else so_far.add_(part)
        return down

    def statistics_gradient(self, position: int, z: Tensor) -> Tensor:
        """Return the term (2) for rows `z` of the input of a layer whose dγ and dβ are known."""
        local = self.chain.layers[position]
        assert local.statistics is not None
        d_scale, d_shift = self.sums[position, "scale"], self.sums[position, "shift"]
        return local.statistics.gradient(z, local.weights.scale, d_scale, d_shift)

    def of_weights(self, weights: list[Weights]) -> list[Tensor | None]:
        """Return the gradients of all weights in a row, in their shapes and dtypes; None for those not wanted."""
        found: list[Tensor | None] = []
        for position, (own, want) in enumerate(zip(weights, self.wanted, strict=True)):
            for name in Weights._fields:
                if not getattr(want, name):
                    found.append(None)
                    continue
                weight, total = getattr(own, name), self.sums[position, name]
                if total.numel() > weight.numel():  # γ and β serve every sample of an InstanceNorm
                    total = total.view(-1, weight.numel()).sum(0)
                found.append(total.to(weight.dtype))
        return found


def _autocast(device: str) -> Callable[[], AbstractContextManager]:
    """Return a context manager that restores the current autocast state; one that does nothing on a device without one.

    Without its cache: that would hand a low-precision weight made without a graph to those who need one.
    """
    if not torch.amp.is_autocast_available(device):
        return nullcontext
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return lambda: torch.autocast(device, dtype, enabled=enabled, cache_enabled=False)


def _check(layer: ChainLayer) -> None:
    """Raise `UsageError` for a layer that has no exact strips, and name what has none."""
    if not vars(type(layer)).get("fields_say_all", False):  # of the class itself: not inherited
        raise UsageError(f"a layer of the class {type(layer).__name__} cannot run in strips, which go by a layer's "
                         "fields and not by its code: only a class that says `fields_say_all` can",
                         advice="choose another memory plan")
    norm, conv = layer.norm, layer.conv
    if not isinstance(conv, nn.Conv2d | nn.ConvTranspose2d) or conv.padding_mode != "zeros":
        raise UsageError(f"{conv} cannot run in strips: Conv2d and ConvTranspose2d with padding_mode='zeros' can")
    tracking = isinstance(norm, nn.InstanceNorm2d) and norm.training and norm.track_running_stats
    if norm is not None and (not fields_say_all(norm) or tracking):
        raise UsageError(f"{norm} cannot run in strips: BatchNorm2d and InstanceNorm2d (without running statistics) "
                         "can; choose another memory plan, or norm: instance")
