"""The parts every network is built from: a layer *(norm → act → pad → conv)*, chains of them, residual blocks.

Networks are written in this pre-activation form because it puts the cuts where memory wants them: between two layers
stands a raw convolution output, and everything else a layer makes can be computed again from it. A `Chain` or `Block`
says by its `keep` what it holds for the backward pass:

    everything   what autograd holds by itself
    convolutions only the convolution outputs; norm, activation and padding are computed again (they cost little)
    input        only its own input; all of it is computed again
    strips       (a Chain) only an input too, and what follows is computed strip by strip: `translate.networks.strips`

`translate.networks.memory` sets `keep` from a recipe's memory plan. Gradients are equal under all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, Literal, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.overrides import handle_torch_function, has_torch_function_unary
from torch.utils.checkpoint import checkpoint

from translate.networks.strips import run_in_strips

Made = TypeVar("Made", Tensor, tuple[Tensor, ...])
Norm = Literal["instance", "batch", "none"]
Upsample = Literal["transposed", "resize", "bilinear"]
Downsample = Literal["strided", "blurred"]
Keep = Literal["everything", "convolutions", "input", "strips"]
Role = Literal["head", "tail", "judge"]  # what memory plans tell chains apart by
Look = Callable[[int, Tensor], Tensor]  # takes from a layer's output, given its number, what one wants of it


def make_norm(norm: Norm, channels: int) -> nn.Module | None:
    """The norm of the published networks: InstanceNorm without, BatchNorm with a learnt scale and shift."""
    if norm == "instance":
        return InstanceNorm(channels)
    return nn.BatchNorm2d(channels) if norm == "batch" else None


class InstanceNorm(nn.InstanceNorm2d):
    """Instance norm without learnt parameters. One sample's is its batch norm, computed without a change of layout.

    torch's `instance_norm` copies a channels_last image of one sample to another layout, and on a CPU gets its gradient
    wrong when that arrives in channels_last.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, training=True, eps=self.eps) if len(x) == 1 else super().forward(x)


class Layer(nn.Module):
    """norm → act → pad → conv: one convolution and what prepares its input.

    Maps (N, C, H, W) to (N, C', H', W'). `slope` is the activation: None for none, 0 for ReLU, else LeakyReLU.
    `reflect` rows and columns are mirrored at each border before the convolution; zero padding is the convolution's
    own. `enlarge` repeats every pixel so many times in each direction before padding (a resize-convolution, which has
    no checkerboard: Odena et al. 2016). With `smooth` what is enlarged (twice) is bilinear instead, and what is not is
    low-pass filtered before it is convolved with a stride, so that nothing aliases. `last` is applied to the
    convolution's output (a generator's tanh).
    """

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, *, norm: nn.Module | None = None,
                 slope: float | None = None, reflect: int = 0, enlarge: int = 1, smooth: bool = False,
                 last: nn.Module | None = None):
        super().__init__()
        self.norm, self.slope, self.reflect, self.enlarge, self.smooth = norm, slope, reflect, enlarge, smooth
        self.conv: Any = conv
        self.last = last

    def forward(self, x: Tensor, keep_input: bool = False) -> Tensor:
        """With `keep_input`, autograd holds `x` and the convolution's output and nothing between them."""
        x = checkpointed(self, self.to_convolution, x) if keep_input else self.to_convolution(x)
        return x if self.last is None else self.last(x)

    def features(self, x: Tensor, keep_input: bool) -> list[Tensor]:
        """What a distance of features looks at, its output last. A layer that fades in has more than one."""
        return [self(x, keep_input)]

    def to_convolution(self, x: Tensor) -> Tensor:
        """norm → act → pad → conv, without `last`."""
        x = self.activated(x)
        if self.enlarge > 1:
            x = F.interpolate(x, scale_factor=self.enlarge, mode="bilinear" if self.smooth else "nearest")
        elif self.smooth:
            x = low_passed(x)
        if self.reflect:
            x = F.pad(x, (self.reflect,) * 4, mode="reflect")
        return self.conv(x)

    def activated(self, x: Tensor) -> Tensor:
        """norm → act."""
        return self.activate(x if self.norm is None else self.norm(x))

    def activate(self, x: Tensor) -> Tensor:
        """ReLU or LeakyReLU; in place where a norm has just made the tensor, so that nobody else holds it."""
        if self.slope is None:
            return x
        ours = isinstance(self.norm, _NormBase)
        return F.leaky_relu(x, self.slope, inplace=ours) if self.slope else F.relu(x, inplace=ours)


def low_passed(x: Tensor) -> Tensor:
    """Each pixel becomes the mean of its neighbourhood, weighted 1 : 2 : 1 along rows and along columns.

    Before a stride it takes away what the remaining pixels could not show: the remedy of Zhang 2019 ("Making
    convolutional networks shift-invariant again") in the order of Karras et al. 2019, section 2, filter → strided
    convolution, which needs a quarter of the multiplications. Two means of 2 × 2 pixels are that filter.
    """
    x = F.pad(x, (1, 1, 1, 1), mode="reflect")
    return F.avg_pool2d(F.avg_pool2d(x, 2, 1), 2, 1)


def halved(image: Tensor) -> Tensor:
    """An image (N, C, H, W) at half its size, each side rounded up: means of the 3 × 3 pixels around every second one.

    As pix2pixHD makes its pyramids; at the borders it is the mean of the pixels that there are.
    """
    return F.avg_pool2d(image, 3, 2, 1, count_include_pad=False)


class Chain(nn.Sequential):
    """Layers one after the other. `role`: the full-resolution ends of a generator are its head and tail."""

    role: Role = "judge"
    keep: Keep = "everything"
    num_strips: int = 8  # with keep = "strips"
    strips_from: int = 0  # with keep = "strips": layers before this one run whole, keeping their inputs

    def __init__(self, *layers: nn.Module, role: Role = "judge"):
        super().__init__(*layers)
        self.role = role

    def forward(self, x: Tensor, num_layers: int | None = None) -> Tensor:
        """The output of all layers, or of the first `num_layers`."""
        layers = cast(list[Layer], list(self)[:num_layers])
        if self.keep == "strips":
            for whole in layers[:self.strips_from]:
                x = whole(x, keep_input=True)
            rest = layers[self.strips_from:]
            return run_in_strips(rest, x, self.num_strips) if rest else x
        if self.keep == "input":
            return checkpointed(self, nn.Sequential(*layers), x)
        for layer in layers:
            x = layer(x, keep_input=self.keep == "convolutions")
        return x

    def looked_at(self, x: Tensor, look: Look) -> tuple[Tensor, ...]:
        """The output, and after it what `look` takes of the convolution outputs of all layers but the first.

        Where a chain keeps only its input it keeps besides what was taken. It never runs in strips.
        """
        def run(x: Tensor) -> tuple[Tensor, ...]:
            taken = []
            for number, layer in enumerate(self):
                x = layer(x, keep_input=self.keep == "convolutions")
                if number:
                    taken.append(look(number, x))
            return x, *taken

        return checkpointed(self, run, x) if self.keep in ("input", "strips") else run(x)

    def features(self, x: Tensor) -> list[Tensor]:
        """The convolution outputs of every layer but the last, as they are on the way through the chain."""
        found: list[Tensor] = []
        for layer in cast(list[Layer], list(self)[:-1]):
            found += layer.features(x, keep_input=self.keep == "convolutions")
            x = found[-1]
        return found


class Block(nn.Module):
    """A residual block, x + norm(chain(x)): the trunk of the ResNet generator (Johnson et al. 2016)."""

    keep: Keep = "everything"

    def __init__(self, chain: Chain, norm: nn.Module | None):
        super().__init__()
        self.chain, self.norm = chain, norm

    def forward(self, x: Tensor) -> Tensor:
        return checkpointed(self, self._run, x) if self.keep == "input" else self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        y = self.chain(x)
        return x + (y if self.norm is None else self.norm(y))


class Level(nn.Module):
    """What a U-Net does at one scale on the way down or up: activate, convolve, normalise, drop out."""

    keep: Keep = "everything"

    def __init__(self, layer: Layer, norm: nn.Module | None = None, dropout: nn.Module | None = None):
        super().__init__()
        self.layer, self.norm, self.dropout = layer, norm, dropout

    def forward(self, *inputs: Tensor) -> Tensor:
        """Several inputs are concatenated along channels (the skip connection) inside what may be recomputed."""
        return checkpointed(self, self._run, *inputs) if self.keep == "input" else self._run(*inputs)

    def _run(self, *inputs: Tensor) -> Tensor:
        convolve = self._convolve
        x = checkpointed(self.layer, convolve, *inputs) if self.keep == "convolutions" else convolve(*inputs)
        if self.layer.last is not None:
            x = self.layer.last(x)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.dropout is None else self.dropout(x)

    def _convolve(self, *inputs: Tensor) -> Tensor:
        return self.layer.to_convolution(inputs[0] if len(inputs) == 1 else torch.cat(inputs, dim=1))


class Generator(nn.Module):
    """An image-to-image network that takes any size and gives the same size back.

    A subclass states `multiple` (its sides must divide by it) and `smallest` (its smallest side) and translates
    images that fit; `forward` pads at the bottom and the right (mirrored, or replicated where the image is too small
    to mirror) and crops back, alike in training and in inference. Images are (N, C, H, W) in [-1, 1].
    """

    multiple: int
    smallest: int
    feature_channels: tuple[int, ...] = ()  # of what `features` shows; none: what is its encoder is not said

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        out = self.translate(pad_to_fit(image, self.multiple, self.smallest))
        return out if out.shape[-2:] == (height, width) else out[..., :height, :width]

    def translate(self, image: Tensor) -> Tensor:
        """The network itself, for an image whose sides divide by `multiple` and reach `smallest`."""
        raise TypeError(f"{type(self).__name__} does not define translate(image)")

    def features(self, image: Tensor, look: Look) -> list[Tensor]:
        """What `look` takes of each layer of the encoder: of the image (padded to fit), number 0, and ever deeper.

        Nothing behind the last of these layers is computed. What is looked at need not be kept, so `look` should take
        no more than is wanted.
        """
        raise TypeError(f"{type(self).__name__} does not say which layers are its encoder's")


def pad_to_fit(image: Tensor, multiple: int, smallest: int) -> Tensor:
    """Pad the bottom and the right until both sides divide by `multiple` and reach `smallest`."""
    height, width = image.shape[-2:]
    below = _missing(height, multiple, smallest)
    right = _missing(width, multiple, smallest)
    if right:
        image = F.pad(image, (0, right, 0, 0), mode="reflect" if right < width else "replicate")
    if below:
        image = F.pad(image, (0, 0, 0, below), mode="reflect" if below < height else "replicate")
    return image


def _missing(side: int, multiple: int, smallest: int) -> int:
    return max(math.ceil(side / multiple) * multiple, smallest) - side


class PositionalDropout(nn.Module):
    """Dropout whose mask is a hash of (sample, layer, channel, row, column) instead of a draw.

    The same sample meets the same mask however often, in whatever strips and on whatever device it is computed, so
    recomputation and tiled execution agree with the plain pass. `seed_dropout` names the samples of a batch; nothing
    has to be saved for a resume. Keeps the scale: kept values are divided by 1 − p.
    """

    def __init__(self, p: float, layer: int):
        super().__init__()
        self.p, self.layer = p, layer
        self.keys: tuple[int, ...] = (0,)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        return positional_dropout(x, self.keys, self.layer, self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}, layer={self.layer}"


def positional_dropout(x: Tensor, keys: tuple[int, ...], layer: int, p: float, first_row: int = 0) -> Tensor:
    """Drop values of `x` (N, C, H, W), whose first row is `first_row` of the image; keep the scale of what remains.

    `translate.tiling` gives it another meaning for images that are not computed yet, as torch's functions allow.
    """
    if has_torch_function_unary(x):
        return handle_torch_function(positional_dropout, (x,), x, keys, layer, p, first_row)
    mask = positional_mask(x.shape, keys, layer, p, x.device, first_row)
    return x * mask.to(x.dtype) / (1 - p)


def positional_mask(shape: torch.Size, keys: tuple[int, ...], layer: int, p: float, device: torch.device,
                    first_row: int = 0) -> Tensor:
    """A (N, C, H, W) boolean mask, True with probability 1 − p, for rows from `first_row` on.

    `keys` holds one integer for each sample; a single one serves them all. The mixing function is Chris Wellons'
    `lowbias32` (public domain): two rounds of xor-shift and multiply over 32 bits.
    """
    samples, channels, rows, columns = shape
    named = keys if len(keys) == samples else keys[:1] * samples
    sample = _mix(torch.tensor([key & 0xFFFFFFFF for key in named], device=device) + layer * 0x9E3779B1)
    channel = _mix(sample[:, None] + torch.arange(channels, device=device))
    row = _mix(channel[:, :, None] + torch.arange(first_row, first_row + rows, device=device))
    column = _mix(row[..., None] + torch.arange(columns, device=device))
    return column >= int(p * 2**32)


def _mix(value: Tensor) -> Tensor:
    value = value & 0xFFFFFFFF
    value = ((value ^ (value >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    value = ((value ^ (value >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return value ^ (value >> 16)


def seed_dropout(networks: Iterable[nn.Module], keys: tuple[int, ...]) -> None:
    """Name the samples of the batch that is about to be computed, one integer each."""
    for network in networks:
        for module in network.modules():
            if isinstance(module, PositionalDropout):
                module.keys = keys


def checkpointed(module: nn.Module, function: Callable[..., Made], *inputs: Tensor) -> Made:
    """Run `function` (a part of `module`) keeping only its inputs; the backward pass runs it again.

    Where the last operation is a convolution, that one is not run again: autograd stops as soon as it has back what
    it needs. Dropout is positional, so no random state has to be kept.
    """
    if not torch.is_grad_enabled():
        return function(*inputs)
    start = starting_point(module)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False,
                      context_fn=lambda: (nullcontext(), recomputing(start)))


StartingPoint = list[tuple[nn.Module, dict[str, Tensor | None]]]


def starting_point(network: nn.Module) -> StartingPoint:
    """The buffers a forward pass starts from and may advance: running statistics, the vectors of a spectral norm.

    BatchNorm in training gives the same result whatever its statistics are, so these are not copied.
    """
    return [(module, {name: value if value is None or isinstance(module, _BatchNorm) else value.clone()
                      for name, value in module._buffers.items()})
            for module in network.modules() if module.training and module._buffers]


class recomputing:
    """While a forward pass is repeated for its gradient: it starts where the first one did, and advances nothing.

    May be entered again: a second derivative repeats the pass twice.
    """

    def __init__(self, start: StartingPoint):
        self.start = start
        self.held: StartingPoint = []

    def __enter__(self) -> None:
        self.held = [(module, dict(module._buffers)) for module, _ in self.start]
        for module, buffers in self.start:
            module._buffers.update({name: None if value is None else value.clone() for name, value in buffers.items()})

    def __exit__(self, *error: object) -> None:
        for module, buffers in self.held:
            module._buffers.update(buffers)
        self.held = []
