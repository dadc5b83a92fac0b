"""How weights begin (normal, orthogonal), what bounds them (spectral norm), and what they take."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrizations

from translate.errors import CheckpointError

MOST_COMPRESSION = 4  # float32 stored as 8 bits
Initialisation = Literal["normal", "orthogonal"]
AnyNetwork = TypeVar("AnyNetwork", bound=nn.Module)


def prepared(network: AnyNetwork, init: Initialisation, spectral: bool) -> AnyNetwork:
    """Return a network with its first weights, and with the bound on them that its recipe asks for."""
    initialise(network, init=init)
    return spectrally_normed(network) if spectral else network


def initialise(network: AnyNetwork, gain: float = 0.02, init: Initialisation = "normal") -> AnyNetwork:
    """Give every convolution and BatchNorm its first weights; returns the network.

    `normal` is the published initialisation: N(0, gain) for convolutions, N(1, gain) for BatchNorm, zero biases
    (Radford et al. 2016, section 3; used by pix2pix and CycleGAN alike). `orthogonal` makes the rows of every
    convolution's matrix orthonormal instead (Saxe et al. 2014; in BigGAN: Brock et al. 2019, section 3): images
    neither fade nor grow on their way through many layers, also without norms. On meta, where there are no numbers,
    nothing is done: to draw them there torch would import its compiler, for seconds.
    """
    for module in network.modules():
        if any(weight.is_meta for weight in module.parameters(recurse=False)):
            continue
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            if init == "orthogonal":
                nn.init.orthogonal_(module.weight)
            else:
                nn.init.normal_(module.weight, 0.0, gain)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, gain)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    return network


def spectrally_normed(network: AnyNetwork) -> AnyNetwork:
    """Divide each convolution's weights by their largest singular value from now on; returns the network.

    It is found by one power iteration in each forward pass: Miyato et al. 2018; for generators too: Zhang et al. 2019
    (SAGAN), section 3.2.
    """
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            parametrizations.spectral_norm(part)
    return network


def bytes_of(modules: Iterable[nn.Module]) -> int:
    """Return what the weights and buffers of some networks take."""
    return sum(tensor.nbytes for module in modules for tensor in module.state_dict().values())


def refuse_larger(file: Path, build: Callable[[], nn.Module]) -> None:
    """Raise `CheckpointError` where a network that `build` would return has far more weights than the file holds.

    Who has sent the file has sent the numbers to build the network by, and these may ask for all the memory there is.
    """
    with torch.device("meta"):
        needed = bytes_of([build()])
    if needed > MOST_COMPRESSION * file.stat().st_size:
        raise CheckpointError(f"not the weights of this network, which take {needed:,} bytes", file)
