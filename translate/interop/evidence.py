"""Which generator or discriminator a file holds, from the names and shapes of its tensors alone.

    model.N.conv_block.*                 a ResNet (CycleGAN, pix2pix, CUT; with other numbers pix2pixHD's global one)
    model.model.1.model.*                a U-Net (pix2pix)
    modelN_1.*, modelN_2.*               pix2pixHD's local enhancers around a global generator
    model.0.weight of 4×4, net.0.weight  a PatchGAN and one of single pixels (pix2pix, CycleGAN, CUT)

What leaves no trace is assumed and said in `notes`, or refused until an option says it. What is not known is refused
with the nearest thing that it looks like.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import pydantic
import torch
from torch import Tensor, nn

from translate.interop.mapping import Layout, take_weights
from translate.networks import (
    CoarseToFineConfig,
    GeneratorConfig,
    PatchGANConfig,
    PixelConfig,
    ResNetConfig,
    UNetConfig,
)
from translate.networks.growing import extend
from translate.networks.layers import Norm, Upsample
from translate.sizes import plural

State = dict[str, Tensor]
LOAD_AND_CROP = (286, 256)  # px: the short side that pix2pix, CycleGAN and CUT load images at by default, and the crop
HD_SIDE = 512  # px: of pix2pixHD's global generator, which loads images 1024 px wide; twice that for each enhancer
OTHERS = {  # names of tensors that belong to no generator known here, and what they belong to
    r"scale\d+_layer\d+\.|layer\d+\.\d+\.weight": "a discriminator (pix2pixHD's), not a generator",
    r"net\.0\.weight": "a discriminator (PixelGAN), not a generator",
    r"mlp_\d+\.": "the projection heads of CUT (netF), not its generator",
    r"mapping\.|synthesis\.|style\.\d|to_rgb|.*\.modulation\.": "a StyleGAN, which makes images of noise",
    r"(features|classifier)\.\d+\.|layer[1-4]\.\d\.conv1": "a network that classifies images",
    r"body\.\d|conv_first\.|.*\.rdb\d": "a network for super-resolution (ESRGAN)",
    r"down_blocks\.|.*transformer_blocks|first_stage_model": "a diffusion model",
}


NO_DISCRIMINATOR = "no discriminator that is known (PatchGAN and pixel of pix2pix, CycleGAN and CUT)"
NOT_TAKEN = {  # names of tensors of discriminators that are known and cannot be had here exactly, and why
    r"scale\d+_layer\d+\.|layer\d+\.\d+\.": "pix2pixHD's discriminators, which pad by two pixels where ours pad by one",
    r".*\.filt$": "CUT's antialiased discriminator, which filters behind each convolution, and ours filters before it; "
                  "one that was trained with --no_antialias is taken",
    r".*\.weight_(orig|u|v)$|.*parametrizations": "a discriminator under spectral norm, which is not taken",
}


class NotKnown(ValueError):
    """These tensors are no network that is known here; says what they look like and what is against it."""


@dataclass(frozen=True)
class Choices:
    """What leaves no trace in a file, as its owner says it; None: nobody has said it."""

    upsample: Upsample | None = None  # how a resize-convolution enlarges
    dropout: float | None = None  # in a U-Net


NOTHING_SAID = Choices()


@dataclass(frozen=True)
class Found:
    """A generator of another project: what it is there and here, and what its file did not tell."""

    source: str  # in words
    config: GeneratorConfig
    in_channels: int
    out_channels: int
    layout: Layout
    translator: Literal["pix2pix", "cyclegan", "cut"]  # what such a generator is usually trained by
    sizes: tuple[int, int]  # px: the short side that its images are usually loaded at, and of the crops
    levels: int = 0  # enhancers around a global generator
    notes: list[str] = field(default_factory=list)

    def build(self, state: State) -> nn.Module:
        """Return our network with these weights, in eval mode. Raises `NotKnown` where they do not fit after all."""
        with torch.device("meta"):
            network = self.config.build(self.in_channels, self.out_channels)
            extend(self.config, network, self.levels, fading=False)
        try:
            self.notes.extend(take_weights(network, self.layout, state))
        except ValueError as error:
            raise NotKnown(f"looks like {self.source}, but {error}") from None
        return network.eval().requires_grad_(False)


@dataclass(frozen=True)
class FoundDiscriminator:
    """A discriminator of another project: what it is there and here."""

    source: str  # in words
    config: PatchGANConfig | PixelConfig
    in_channels: int

    def build(self, state: State) -> nn.Module:
        """Return our network with these weights. Raises `NotKnown` where they do not fit after all."""
        with torch.device("meta"):
            network = self.config.build(self.in_channels)
        try:
            take_weights(network, Layout(), state)
        except ValueError as error:
            raise NotKnown(f"looks like {self.source}, but {error}") from None
        return network


def identify_discriminator(state: State) -> FoundDiscriminator:
    """Return which discriminator these tensors are. Raises `NotKnown`."""
    for pattern, what in NOT_TAKEN.items():
        if any(re.match(pattern, name) for name in state):
            raise NotKnown(what)
    convolutions = [name for name in state if re.match(r"(model|net)\.\d+\.weight", name) and state[name].ndim == 4]
    first = state[convolutions[0]] if convolutions else torch.empty(0)
    if len(convolutions) != len([tensor for tensor in state.values() if tensor.ndim == 4]):
        raise NotKnown(NO_DISCRIMINATOR)
    try:
        if convolutions[:1] == ["net.0.weight"] and first.shape[2:] == (1, 1):
            return FoundDiscriminator("a PixelGAN of pix2pix and CycleGAN", PixelConfig(
                width=len(first), norm=_norm(state, "net.2.bias")), first.shape[1])
        if convolutions[:1] == ["model.0.weight"] and first.shape[2:] == (4, 4):
            layers = len(convolutions) - 2
            source = f"a PatchGAN of pix2pix, CycleGAN and CUT with {plural(layers, 'strided layer')}"
            return FoundDiscriminator(source, PatchGANConfig(
                width=len(first), layers=layers, norm=_norm(state, "model.2.bias")), first.shape[1])
    except pydantic.ValidationError as error:
        raise NotKnown(f"looks like a discriminator, but {error.errors()[0]['msg'].lower()}: "
                       f"{error.errors()[0]['input']!r}") from None
    raise NotKnown(NO_DISCRIMINATOR)


def identify(state: State, choices: Choices = NOTHING_SAID) -> Found:
    """Return which generator these tensors are. Raises `NotKnown`."""
    try:
        return _identify(state, choices)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise NotKnown(f"looks like a generator, but with {'.'.join(map(str, first['loc']))} {first['input']!r}: "
                       f"{first['msg']}") from None


def _identify(state: State, choices: Choices) -> Found:
    names = list(state)
    if any(re.match(r"model1_1\.\d", name) for name in names):
        return _coarse_to_fine(state, choices)
    if any(re.match(r"model\.model\.1\.model\.", name) for name in names):
        return _unet(state, choices)
    if any(re.match(r"model\.\d+\.conv_block\.", name) for name in names):
        return _resnet(state, choices)
    raise NotKnown(_nearest(state))


def _resnet(state: State, choices: Choices) -> Found:
    ends = _ends(state, "model", choices)
    last = max(_entries(state, "model"))
    out_channels = _weight(state, f"model.{last}").shape[0]
    config = ResNetConfig(**ends.config)
    about: tuple[str, Literal["pix2pix", "cyclegan", "cut"], tuple[int, int]] = (
        "a ResNet of CycleGAN and pix2pix" if config.downs == 2 else "a ResNet generator", "cyclegan", LOAD_AND_CROP)
    if ends.layout.antialiased_down or ends.layout.antialiased_up:
        about = "a ResNet of CUT", "cut", LOAD_AND_CROP
    elif config.downs == 4:
        about = "pix2pixHD's global generator", "pix2pix", (HD_SIDE, HD_SIDE)
    source, translator, sizes = about
    return Found(source, config, ends.in_channels, out_channels, ends.layout, translator, sizes, notes=ends.notes)


def _coarse_to_fine(state: State, choices: Choices) -> Found:
    ends = _ends(state, "model", choices)
    levels = max(int(match[1]) for name in state if (match := re.match(r"model(\d+)_1\.", name)))
    blocks = _blocks(state, f"model{levels}_2")
    last = max(_entries(state, f"model{levels}_2"))  # there are blocks
    out_channels = _weight(state, f"model{levels}_2.{last}").shape[0]
    if ends.config["width"] % 2**levels:
        raise NotKnown(f"looks like pix2pixHD's generator, but {ends.config['width']} channels cannot be halved "
                       f"{levels} times")
    source = f"pix2pixHD's generator with {plural(levels, 'local enhancer')}"
    side = HD_SIDE * 2**levels
    return Found(source, CoarseToFineConfig(**ends.config, fine_blocks=len(blocks)), ends.in_channels, out_channels,
                 ends.layout, "pix2pix", (side, side), levels, ends.notes)


def _unet(state: State, choices: Choices) -> Found:
    # One level inside the other: the number of their prefixes is the depth.
    downs, prefix = 1, "model.model.1.model"
    while any(name.startswith(f"{prefix}.") for name in state):
        downs, prefix = downs + 1, f"{prefix}.3.model"
    first, last = (state.get(f"model.model.{number}.weight", torch.empty(0)) for number in (0, 3))
    if first.ndim != 4 or last.ndim != 4 or first.shape[2:] != (4, 4):
        raise NotKnown("looks like a U-Net of pix2pix, but its outermost convolutions are not 4×4")
    dropout = 0.5 if choices.dropout is None else choices.dropout
    notes = [] if choices.dropout is not None else ["dropout in a U-Net leaves no trace: 0.5 is taken, as pix2pix has "
                                                    "it; it matters to training alone"]
    norm = _norm(state, "model.model.1.model.1.bias")
    return Found(f"a U-Net of pix2pix with {downs} downsamplings",
                 UNetConfig(width=first.shape[0], downs=downs, norm=norm, dropout=dropout), first.shape[1],
                 last.shape[1], Layout(biases="model.model.1.model.1.bias" in state), "pix2pix", LOAD_AND_CROP,
                 notes=notes)


@dataclass(frozen=True)
class _Ends:
    """What the ends of a ResNet say of it."""

    config: dict[str, Any]
    in_channels: int
    layout: Layout
    notes: list[str]


def _ends(state: State, prefix: str, choices: Choices) -> _Ends:
    """Read a ResNet from the convolutions before its blocks, the blocks, and the first convolution behind them."""
    look = "looks like a ResNet generator, but"
    entries, blocks = _entries(state, prefix), _blocks(state, prefix)
    first = state.get(f"{prefix}.1.weight", torch.empty(0))
    if first.ndim != 4 or first.shape[2:] != (7, 7):
        raise NotKnown(f"{look} its first convolution is no 7×7 one behind a padding")
    if blocks != list(range(blocks[0], blocks[-1] + 1)):
        raise NotKnown(f"{look} its blocks stand apart ({', '.join(map(str, blocks))})")

    # Downsamplings, with a filter of three taps behind each or none.
    convolutions = [number for number in entries if state.get(f"{prefix}.{number}.weight", torch.empty(0)).ndim == 4]
    downs = sum(number < blocks[0] for number in convolutions) - 1
    filters = [number for number in entries if f"{prefix}.{number}.filt" in state]
    down_filters, up_filters = (sum((number < blocks[0]) == before for number in filters) for before in (True, False))
    if down_filters not in (0, downs):
        raise NotKnown(f"{look} {down_filters} of its {downs} downsamplings have a filter")

    # Upsamplings: the shape tells a transposed convolution; another one must be told how its input was enlarged.
    after = [number for number in convolutions if number > blocks[-1]]
    inside = first.shape[0] * 2**downs
    up = state[f"{prefix}.{after[0]}.weight"] if after else torch.empty(0, 0, 1, 1)
    notes = ["padding in the residual blocks leaves no trace: mirrored is taken, which is their default"]
    upsample: Upsample = "transposed"
    if tuple(up.shape[:2]) == (inside // 2, inside) and up_filters:
        upsample = "bilinear"
    elif tuple(up.shape[:2]) == (inside // 2, inside):
        if choices.upsample is None:
            raise NotKnown(f"{look} it enlarges before it convolves, and how leaves no trace; say it with --upsample: "
                           "resize (nearest) or bilinear")
        if after[0] != blocks[-1] + 2:
            raise NotKnown(f"{look} it pads between enlarging and convolving, and ours pads with zeros as it convolves")
        upsample = choices.upsample
        notes.append(f"upsampling is taken as {upsample}, and its padding as zeros: neither leaves a trace")
    elif tuple(up.shape[:2]) != (inside, inside // 2):
        raise NotKnown(f"{look} behind its blocks stands a convolution of the shape {tuple(up.shape)}")

    # Dropout shifts a block's second convolution; zero padding would shift the first.
    block = f"{prefix}.{blocks[0]}.conv_block"
    dropout = f"{block}.6.weight" in state and state[f"{block}.6.weight"].ndim == 4
    if f"{block}.0.weight" in state:
        raise NotKnown(f"{look} its blocks pad with zeros, and ours mirror")
    if dropout:
        notes.append("dropout of 0.5 in the residual blocks is left out: it matters to training, and to a test.py "
                     "without --eval")
    config = {"width": first.shape[0], "blocks": len(blocks), "downs": downs, "upsample": upsample,
              "downsample": "antialiased" if down_filters else "strided",
              "norm": _norm(state, f"{prefix}.1.bias")}
    layout = Layout(bool(down_filters), bool(up_filters), dropout, f"{prefix}.1.bias" in state)
    return _Ends(config, first.shape[1], layout, notes)


def _norm(state: State, hidden_bias: str) -> Norm:
    """Return the norm: a batch norm has weights of one axis; instance norm has none, and biases before it."""
    scales = [name for name, tensor in state.items() if name.endswith(".weight") and tensor.ndim == 1]
    counted = {name.rpartition(".")[0] for name in state if name.endswith(".running_mean")}
    if scales:
        affine = [name for name in scales if name.rpartition(".")[0] not in counted]
        if affine:
            raise NotKnown(f"looks like a known generator, but {affine[0]} is the scale of an instance norm that "
                           "learns one; ours does not")
        return "batch"
    return "instance" if hidden_bias in state else "none"


def _weight(state: State, name: str) -> Tensor:
    """Return the weight of a convolution. Raises `NotKnown` where there is none."""
    weight = state.get(f"{name}.weight")
    if weight is None or weight.ndim != 4:
        raise NotKnown(f"looks like a known generator, but {name} is no convolution")
    return weight


def _entries(state: State, prefix: str) -> list[int]:
    """Return the positions of a Sequential that have tensors."""
    found = (re.match(rf"{re.escape(prefix)}\.(\d+)\.", name) for name in state)
    return sorted({int(match[1]) for match in found if match})


def _blocks(state: State, prefix: str) -> list[int]:
    """Return the positions of residual blocks in a Sequential. Raises `NotKnown` where there are none."""
    found = (re.match(rf"{re.escape(prefix)}\.(\d+)\.conv_block\.", name) for name in state)
    blocks = sorted({int(match[1]) for match in found if match})
    if not blocks:
        raise NotKnown(f"looks like a ResNet generator, but {prefix} has no residual blocks")
    return blocks


def _nearest(state: State) -> str:
    """Say what tensors look like that are no generator known here."""
    names = list(state)
    first = state.get("model.0.weight", torch.empty(0))
    if first.ndim == 4 and first.shape[2:] == (4, 4):
        return "a discriminator (PatchGAN), not a generator: those lie in files *_net_G*.pth"
    for pattern, what in OTHERS.items():
        if sum(re.match(pattern, name) is not None for name in names) * 2 >= len(names):
            return what
    kinds = _kernels(state.values())
    close = "nothing known here has such names"
    if "7×7" in kinds:
        close = "nearest is a ResNet generator, which has 7×7 convolutions as well, but there are no conv_block"
    elif "4×4" in kinds:
        close = "nearest is a U-Net, which has 4×4 convolutions as well, but these do not lie one in the other"
    return (f"{len(names)} tensors ({', '.join(names[:3])}{' …' if len(names) > 3 else ''}) of no generator that is "
            f"known; {close}")


def _kernels(tensors: Iterable[Tensor]) -> set[str]:
    return {"×".join(map(str, tensor.shape[2:])) for tensor in tensors if tensor.ndim == 4}
