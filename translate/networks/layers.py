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
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from translate.networks.enlarging import enlarged, enlarges_at_once
from translate.networks.normalised import normalised
from translate.networks.normalised.mirroring import Amounts
from translate.networks.recomputing import checkpointed
from translate.networks.strips import run_in_strips

Norm = Literal["instance", "batch", "none"]
Upsample = Literal["transposed", "resize", "bilinear"]
Downsample = Literal["strided", "blurred"]
ResNetDownsample = Literal["strided", "blurred", "antialiased"]
Keep = Literal["everything", "convolutions", "input", "strips"]
Role = Literal["head", "tail", "discriminator"]  # what memory plans tell chains apart by
Pick = Callable[[int, Tensor], Tensor]  # returns what one wants of a layer's output, given its number and the output


def make_norm(norm: Norm, channels: int) -> nn.Module | None:
    """Return the norm of the published networks: InstanceNorm without, BatchNorm with a learnt scale and shift."""
    if norm == "instance":
        return InstanceNorm(channels)
    return nn.BatchNorm2d(channels) if norm == "batch" else None


class InstanceNorm(nn.InstanceNorm2d):
    """Instance norm without learnt parameters. One sample's is its batch norm, computed without a change of layout.

    torch's `instance_norm` copies a channels_last image to another layout and back, five times as slow on a CPU, and
    gets the gradient of one sample wrong there when that arrives in channels_last.
    """

    fields_say_all = True

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 1:
            return F.batch_norm(x, None, None, training=True, eps=self.eps)
        return super().forward(x) if x.is_contiguous() else torch.cat([self(sample) for sample in x.split(1)])


class Layer(nn.Module):
    """norm → act → pad → conv: one convolution and what prepares its input.

    `translate.networks.strips` computes it from its fields and never calls it, so `fields_say_all` stands in the body
    of each class of which that is the whole truth. A subclass does not inherit it: one that computes something else is
    refused there, and would else have wrong gradients.

    Maps (N, C, H, W) to (N, C', H', W').

        conv          the convolution; zero padding is its own
        norm          of its input; None: none
        slope         of the activation: None for none, 0 for ReLU, else LeakyReLU
        reflect       so many rows and columns are mirrored at each border before the convolution
        scale_factor  every pixel is repeated so many times in each direction before padding (a resize-convolution,
                      which has no checkerboard: Odena et al. 2016); `enlarging` may do it within the convolution
        smooth        when upsampling: bilinear; when striding: low-pass first, so that nothing aliases
        downsample    low-pass and keep every second pixel, before all padding (what antialiased networks do behind the
                      activation of a convolution, which here is the next layer's)
        last          applied to the convolution's output (a generator's tanh)
    """

    fields_say_all = True

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d, *, norm: nn.Module | None = None,
                 slope: float | None = None, reflect: int = 0, scale_factor: int = 1, smooth: bool = False,
                 downsample: bool = False, last: nn.Module | None = None):
        super().__init__()
        self.norm, self.slope, self.reflect = norm, slope, reflect
        self.scale_factor, self.smooth, self.downsample = scale_factor, smooth, downsample
        self.conv: Any = conv
        self.last = last

    def forward(self, x: Tensor, keep_input: bool = False) -> Tensor:
        """Return norm → act → pad → conv → last of `x`.

        With `keep_input`, autograd holds `x` and the convolution's output and nothing between them.
        """
        x = checkpointed(self, self.to_convolution, x) if keep_input else self.to_convolution(x)
        return x if self.last is None else self.last(x)

    def features(self, x: Tensor, keep_input: bool) -> list[Tensor]:
        """Return what a distance of features compares, the layer's output last. A layer that fades in has more."""
        return [self(x, keep_input)]

    def to_convolution(self, x: Tensor) -> Tensor:
        """Return norm → act → pad → conv, without `last`."""
        mirrored = (self.reflect,) * 4
        if not (self.downsample or self.scale_factor > 1 or self.smooth):
            return self.conv(normalised(x, self.norm, self.slope, mirrored))
        x = self.activated(x)
        if self.downsample:
            x = low_passed(x, stride=2)
        if self.scale_factor == 2 and not self.smooth and enlarges_at_once(x, self.conv, self.reflect):
            return enlarged(x, self.conv, self.reflect)
        if self.scale_factor > 1:
            x = F.interpolate(x, scale_factor=self.scale_factor, mode="bilinear" if self.smooth else "nearest")
        elif self.smooth:
            x = low_passed(x)
        return self.conv(normalised(x, amounts=mirrored))

    def activated(self, x: Tensor) -> Tensor:
        """Return norm → act."""
        return normalised(x, self.norm, self.slope)


def low_passed(x: Tensor, stride: int = 1) -> Tensor:
    """Return the mean of each pixel's neighbourhood (N, C, H, W), weighted 1 : 2 : 1 along rows and along columns; with
    a stride, of every second pixel.

    Before a stride it takes away what the remaining pixels could not show: the remedy of Zhang 2019 ("Making
    convolutional networks shift-invariant again") in the order of Karras et al. 2019, section 2, filter → strided
    convolution, which needs a quarter of the multiplications. Two means of 2 × 2 pixels are that filter.
    """
    x = normalised(x, amounts=(1, 1, 1, 1))
    return F.avg_pool2d(F.avg_pool2d(x, 2, 1), 2, stride)


def downsampled_3x3(image: Tensor) -> Tensor:
    """Return an image (N, C, H, W) at half its size, each side rounded up, as pix2pixHD makes its pyramids.

    Means of the 3 × 3 pixels around every second one; at the borders, of the pixels that there are.
    """
    return F.avg_pool2d(image, 3, 2, 1, count_include_pad=False)


class Chain(nn.Sequential):
    """Layers one after the other. `role`: the full-resolution ends of a generator are its head and tail.

    A chain that is neither counts as a discriminator's, or is told what to keep by the block it stands in.
    """

    role: Role = "discriminator"
    keep: Keep = "everything"
    num_strips: int = 8  # with keep = "strips"
    strips_from: int = 0  # with keep = "strips": layers before this one run whole, keeping their inputs

    def __init__(self, *layers: nn.Module, role: Role = "discriminator"):
        super().__init__(*layers)
        self.role = role

    def forward(self, x: Tensor, num_layers: int | None = None) -> Tensor:
        """Return the output of all layers, or of the first `num_layers`."""
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

    def with_features(self, x: Tensor, pick: Pick) -> tuple[Tensor, ...]:
        """Return the output, and after it what `pick` returns for the convolution outputs of all layers but the first.

        Where a chain keeps only its input it keeps besides what was picked. It never runs in strips.
        """
        def run(x: Tensor) -> tuple[Tensor, ...]:
            picked = []
            for number, layer in enumerate(self):
                x = layer(x, keep_input=self.keep == "convolutions")
                if number:
                    picked.append(pick(number, x))
            return x, *picked

        return checkpointed(self, run, x) if self.keep in ("input", "strips") else run(x)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the convolution outputs of every layer but the last, from the first on."""
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
        return normalised(self.chain(x), self.norm, beside=x)


class Scale(nn.Module):
    """What a network does at one scale: a part that keeps everything, or only its inputs, and is computed again."""

    keep: Keep = "everything"

    def forward(self, *inputs: Tensor) -> Tensor:
        return checkpointed(self, self._run, *inputs) if self.keep == "input" else self._run(*inputs)

    def _run(self, *inputs: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} does not say what it computes")


class Level(Scale):
    """What a U-Net does at one scale on the way down or up: activate, convolve, normalise, drop out.

    Several inputs are concatenated along channels (the skip connection). That happens inside what may be recomputed, so
    that the concatenation need not be kept.
    """

    def __init__(self, layer: Layer, norm: nn.Module | None = None, dropout: nn.Module | None = None):
        super().__init__()
        self.layer, self.norm, self.dropout = layer, norm, dropout

    def _run(self, *inputs: Tensor) -> Tensor:
        convolve = self._convolve
        x = checkpointed(self.layer, convolve, *inputs) if self.keep == "convolutions" else convolve(*inputs)
        if self.layer.last is not None:
            x = self.layer.last(x)
        x = normalised(x, self.norm)
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
    feature_channels: tuple[int, ...] = ()  # of what `features` returns; none: it does not say what its encoder is

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        out = self.translate(pad_to_fit(image, self.multiple, self.smallest))
        return out if out.shape[-2:] == (height, width) else out[..., :height, :width]

    def translate(self, image: Tensor) -> Tensor:
        """Return the network's own output, for an image whose sides divide by `multiple` and reach `smallest`."""
        raise TypeError(f"{type(self).__name__} does not define translate(image)")

    def trunk_parts(self) -> list[nn.Module]:
        """Return the parts between the ends at full resolution: what is deepest, and can rest while the ends adapt."""
        return []

    def features(self, image: Tensor, pick: Pick) -> list[Tensor]:
        """Return what `pick` returns for each layer of the encoder: for the image (padded to fit), number 0, and on to
        ever deeper layers.

        Nothing behind the last of these layers is computed. Only what is picked is kept of a layer, so `pick` should
        return no more than is wanted.
        """
        raise TypeError(f"{type(self).__name__} does not say which layers are its encoder's")


def pad_to_fit(image: Tensor, multiple: int, smallest: int) -> Tensor:
    """Pad the bottom and the right of (N, C, H, W) until both sides divide by `multiple` and reach `smallest`."""
    height, width = image.shape[-2:]
    below = _missing(height, multiple, smallest)
    right = _missing(width, multiple, smallest)
    if right:
        image = _extended(image, (0, right, 0, 0), right < width)
    if below:
        image = _extended(image, (0, 0, 0, below), below < height)
    return image


def _extended(image: Tensor, amounts: Amounts, mirror: bool) -> Tensor:
    return normalised(image, amounts=amounts) if mirror else F.pad(image, amounts, mode="replicate")


def _missing(side: int, multiple: int, smallest: int) -> int:
    return max(math.ceil(side / multiple) * multiple, smallest) - side
