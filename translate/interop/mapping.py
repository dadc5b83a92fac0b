"""Which weights of ours are which of another project's: the places of every convolution, and the norm behind it.

In our networks a norm belongs to the layer it stands before, in theirs it follows a convolution; the order of
convolutions is the same. `places` walks a network of ours and yields, for each convolution, both sides' parts; whoever
reads or writes a file follows it. The numbers are positions in their `nn.Sequential`s, activations and padding counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from translate.networks.coarse_to_fine import CoarseToFine
from translate.networks.discriminators import PatchGAN, Pixel
from translate.networks.layers import Block, Layer
from translate.networks.resnet import ResNet
from translate.networks.unet import UNet

DOWN_TAPS, UP_TAPS = (1.0, 2.0, 1.0), (1.0, 3.0, 3.0, 1.0)  # CUT's filters along an axis, before they are normalised


@dataclass(frozen=True)
class Layout:
    """How the parts of a generator are numbered in a file, as far as the network itself does not say it."""

    antialiased_down: bool = False  # a filter follows each downsampling convolution and its activation (CUT)
    antialiased_up: bool = False  # a filter that doubles the size stands before each upsampling convolution (CUT)
    dropout: bool = False  # stands in each residual block, so that its second convolution is one further
    biases: bool = True  # convolutions before a norm have biases


@dataclass(frozen=True)
class Place:
    """A convolution of ours and the norm behind it; the names of both in the file."""

    conv: nn.Conv2d | nn.ConvTranspose2d
    norm: nn.Module | None  # None: no norm belongs here
    conv_name: str
    norm_name: str
    makes_image: bool = False  # the last of all, which always has a bias


@dataclass(frozen=True)
class Filter:
    """A filter without learnt weights that the file holds: `taps` along each axis, for so many channels."""

    name: str
    channels: int
    taps: Sequence[float]
    gain: float = 1.0

    def weights(self) -> Tensor:
        """Return it as the file holds it, (channels, 1, taps, taps)."""
        taps = torch.tensor(self.taps)
        square = torch.outer(taps, taps)
        return (self.gain * square / square.sum()).expand(self.channels, 1, -1, -1).contiguous()


def places(network: nn.Module, layout: Layout) -> Iterator[Place | Filter]:
    """Yield all convolutions and filters of a generator or discriminator, in the order of the file."""
    if isinstance(network, UNet):
        yield from _of_unet(network)
    elif isinstance(network, PatchGAN | Pixel):
        yield from _of_discriminator(network)
    elif isinstance(network, ResNet):
        numbers = _Numbers("model")
        yield from _of_head(network, numbers, layout)
        yield from _of_rest(network, numbers, layout)
    else:
        whole = cast(CoarseToFine, network)
        numbers = _Numbers("model")
        yield from _of_head(whole.coarse, numbers, layout)
        yield from _of_rest(whole.coarse, numbers, layout)
        for number, fine in enumerate(whole.fine, 1):
            yield from _of_head(cast(ResNet, fine), _Numbers(f"model{number}_1"), layout)
            yield from _of_rest(cast(ResNet, fine), _Numbers(f"model{number}_2"), layout)


class _Numbers:
    """Hands out the positions in a Sequential, one after the other."""

    def __init__(self, prefix: str):
        self.prefix, self.at = prefix, 0

    def skip(self, num: int) -> None:
        """Leave out parts that have no weights."""
        self.at += num

    def take(self, suffix: str = "") -> str:
        """Return the name of the next part."""
        self.at += 1
        return f"{self.prefix}.{self.at - 1}{suffix}"


def _of_head(network: ResNet, numbers: _Numbers, layout: Layout) -> Iterator[Place | Filter]:
    layers = cast(list[Layer], list(network.head))
    norms = [*(layer.norm for layer in layers[1:]), network.norm]
    for number, (layer, norm) in enumerate(zip(layers, norms, strict=True)):
        numbers.skip(number == 0)  # the padding before the first
        yield Place(layer.conv, norm, numbers.take(), numbers.take())
        numbers.skip(1)  # ReLU
        if number and layout.antialiased_down:
            yield Filter(numbers.take(".filt"), layer.conv.out_channels, DOWN_TAPS)


def _of_rest(network: ResNet, numbers: _Numbers, layout: Layout) -> Iterator[Place | Filter]:
    # The trunk: padding, convolution, norm, ReLU, perhaps dropout, and once more.
    for block in cast(Sequence[Block], network.trunk):
        first, second = cast(list[Layer], list(block.chain))
        inside, at = numbers.take(".conv_block"), 5 + layout.dropout
        yield Place(first.conv, second.norm, f"{inside}.1", f"{inside}.2")
        yield Place(second.conv, block.norm, f"{inside}.{at}", f"{inside}.{at + 1}")

    # Up; where a generator stands inside another its last convolution is gone.
    layers = cast(list[Layer], list(network.tail))
    for layer, after in pairwise(layers):
        if layout.antialiased_up:
            yield Filter(numbers.take(".filt"), layer.conv.in_channels, UP_TAPS, gain=4.0)
        else:
            numbers.skip(layer.scale_factor > 1)  # what enlarges, and has no weights
        yield Place(layer.conv, after.norm, numbers.take(), numbers.take())
        numbers.skip(1)
    if not isinstance(layers[-1].conv, nn.Identity):
        numbers.skip(1)
        yield Place(layers[-1].conv, None, numbers.take(), "", makes_image=True)


def _of_unet(network: UNet) -> Iterator[Place]:
    # Each level holds the next one inside: all the way down, and then up again.
    prefix, last, up_places = "model.model", len(network.down) - 1, []
    for number, (down, up) in enumerate(zip(cast(Any, network.down), cast(Any, network.up), strict=True)):
        if number == 0:  # convolution, what is inside, ReLU, convolution
            yield Place(down.layer.conv, None, f"{prefix}.0", "")
            up_places.append(Place(up.layer.conv, None, f"{prefix}.3", "", makes_image=True))
            prefix = f"{prefix}.1.model"
        elif number < last:  # LeakyReLU, convolution, norm, what is inside, ReLU, convolution, norm
            yield Place(down.layer.conv, down.norm, f"{prefix}.1", f"{prefix}.2")
            up_places.append(Place(up.layer.conv, up.norm, f"{prefix}.5", f"{prefix}.6"))
            prefix = f"{prefix}.3.model"
        else:  # LeakyReLU, convolution, ReLU, convolution, norm
            yield Place(down.layer.conv, None, f"{prefix}.1", "")
            up_places.append(Place(up.layer.conv, up.norm, f"{prefix}.3", f"{prefix}.4"))
    yield from reversed(up_places)


def _of_discriminator(network: PatchGAN | Pixel) -> Iterator[Place]:
    # Convolution, norm, LeakyReLU and so on; no norm behind the first, and nothing behind the last.
    numbers = _Numbers("net" if isinstance(network, Pixel) else "model")
    layers = cast(list[Layer], list(network))
    for number, (layer, after) in enumerate(pairwise(layers)):
        conv_name = numbers.take()
        yield Place(layer.conv, after.norm, conv_name, numbers.take() if number else "")
        numbers.skip(1)
    yield Place(layers[-1].conv, None, numbers.take(), "")


def take_weights(network: nn.Module, layout: Layout, state: dict[str, Tensor]) -> list[str]:
    """Fill `network`, which was built on the meta device, with the tensors of a file.

    Returns what had to be changed on the way, in words. Raises `ValueError` for tensors that have no place, have
    another shape, or are missing.
    """
    # Every name and every shape first: a network of another kind is never filled in part.
    pairs, notes = list(places(network, layout)), []
    left = set(state)
    for pair in pairs:
        for name, shape in _expected(pair, state):
            if name not in state:
                raise ValueError(f"{name} is missing")
            if state[name].shape != shape:
                raise ValueError(f"{name} has the shape {tuple(state[name].shape)}, not {tuple(shape)}")
            left.discard(name)
        if isinstance(pair, Place):
            left -= {f"{pair.norm_name}.num_batches_tracked"}
            old = {f"{pair.norm_name}.running_mean", f"{pair.norm_name}.running_var"} & left
            if old and not isinstance(pair.norm, nn.BatchNorm2d):
                left -= old
                notes = ["running statistics of instance norms, as torch wrote before 0.4, are left out: nobody used "
                         "them"]
    if left:
        raise ValueError(f"{', '.join(sorted(left)[:4])}{' …' if len(left) > 4 else ''} have no place in it")
    if any(not state[name].isfinite().all() for name in state if state[name].is_floating_point()):
        raise ValueError("some of its weights are not finite numbers")

    # Then the numbers.
    network.to_empty(device="cpu")
    with torch.no_grad():
        for pair in pairs:
            if isinstance(pair, Place):
                _fill(pair, state)
            elif not torch.allclose(state[pair.name], pair.weights(), atol=1e-3):
                raise ValueError(f"{pair.name} is another filter than {' '.join(f'{tap:g}' for tap in pair.taps)}")
    return notes


def _expected(pair: Place | Filter, state: dict[str, Tensor]) -> Iterator[tuple[str, torch.Size]]:
    """Yield the names that a file must have for a place, and those that it may have and has; with their shapes."""
    if isinstance(pair, Filter):
        taps = len(pair.taps)
        yield pair.name, torch.Size((pair.channels, 1, taps, taps))
        return
    yield f"{pair.conv_name}.weight", pair.conv.weight.shape
    if f"{pair.conv_name}.bias" in state:
        yield f"{pair.conv_name}.bias", torch.Size((pair.conv.out_channels,))
    if isinstance(pair.norm, nn.BatchNorm2d):
        for part in ("weight", "bias", "running_mean", "running_var"):
            yield f"{pair.norm_name}.{part}", torch.Size((pair.conv.out_channels,))


def _fill(place: Place, state: dict[str, Tensor]) -> None:
    """Copy one convolution and its norm. A bias that only theirs has moves into the norm's mean."""
    conv, norm, bias = place.conv, place.norm, state.get(f"{place.conv_name}.bias")
    conv.weight.copy_(state[f"{place.conv_name}.weight"])
    if conv.bias is not None:
        conv.bias.copy_(torch.zeros(()) if bias is None else bias)
    if isinstance(norm, nn.BatchNorm2d):
        for part in ("weight", "bias", "running_mean", "running_var"):
            getattr(norm, part).copy_(state[f"{place.norm_name}.{part}"])
        counted = state.get(f"{place.norm_name}.num_batches_tracked", torch.tensor(0))  # none before torch 0.4.1
        cast(Tensor, norm.num_batches_tracked).copy_(counted)
    if conv.bias is None and bias is not None:
        if not isinstance(norm, nn.BatchNorm2d):
            raise ValueError(f"{place.conv_name}.bias has no place in it")
        norm.running_mean.sub_(bias)  # type: ignore[union-attr]


def give_weights(network: nn.Module, layout: Layout) -> dict[str, Tensor]:
    """Return the tensors of `network` under the names of a file, in its order: what `take_weights` reads back.

    Raises `ValueError` for a bias that has no place there.
    """
    state: dict[str, Tensor] = {}
    for pair in places(network, layout):
        if isinstance(pair, Filter):
            state[pair.name] = pair.weights()
            continue
        conv, norm = pair.conv, pair.norm
        state[f"{pair.conv_name}.weight"] = conv.weight
        if layout.biases or pair.makes_image:
            state[f"{pair.conv_name}.bias"] = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias
        elif conv.bias is not None and conv.bias.any():
            raise ValueError(f"{pair.conv_name} has a bias, and theirs has none without a norm")
        if isinstance(norm, nn.BatchNorm2d):
            for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                state[f"{pair.norm_name}.{part}"] = getattr(norm, part)
    return {name: tensor.detach().clone() for name, tensor in state.items()}
