"""How weights begin (normal, orthogonal), what bounds them (spectral norm), and what they take."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, TypeVar

import safetensors
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.overrides import TorchFunctionMode

from translate.errors import CheckpointError, visible

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
        elif isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.normal_(module.weight, 1.0, gain)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    return network


class _NothingToFind(TorchFunctionMode):
    """Within the block nothing is drawn, multiplied, normalised or divided, and all have their shapes: for meta."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.normal_, Tensor.div):
            return args[0]
        if func in (torch.mv, torch.vdot):
            return args[0][..., 0]
        if func is functional.normalize:
            return args[0] if kwargs.get("out") is None else kwargs["out"]
        return func(*args, **kwargs)


def spectrally_normed(network: AnyNetwork) -> AnyNetwork:
    """Divide each convolution's weights by their largest singular value from now on; returns the network.

    It is found by one power iteration in each forward pass: Miyato et al. 2018; for generators too: Zhang et al. 2019
    (SAGAN), section 3.2. On meta nothing is looked for: torch begins with fifteen iterations for each layer, of
    operations that are slow there, and imports its compiler for them.
    """
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            with _NothingToFind() if part.weight.is_meta else nullcontext():
                parametrizations.spectral_norm(part)
    return network


def bytes_of(modules: Iterable[nn.Module]) -> int:
    """Return what the weights and buffers of some networks take."""
    return sum(tensor.nbytes for module in modules for tensor in module.state_dict().values())


def refuse_other_shapes(file: Path, build: Callable[[], nn.Module]) -> None:
    """Raise `CheckpointError` where a network that `build` would return has other tensors than a safetensors file.

    It is built on meta, as shapes. Who has sent the file has sent the numbers to build the network by as well, and
    these may ask for all the memory there is: now it takes no more than the file's own tensors.
    """
    try:
        with safetensors.safe_open(file, "pt") as held:
            found = {name: tuple(held.get_slice(name).get_shape()) for name in sorted(held.keys())}
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(str(error), file) from None
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}

    # One example of what is wrong says more than a list of all
    other = [f"{name} is {found[name]} there, not {shape}" for name, shape in expected.items()
             if name in found and found[name] != shape]
    missing = [f"it has no {name}" for name in expected if name not in found]
    unknown = [f"it has {visible(name)}" for name in found if name not in expected]
    if faults := [*other, *missing, *unknown]:
        more = f", and {len(faults) - 1:,} more" if len(faults) > 1 else ""
        raise CheckpointError(f"holds the weights of another network: {faults[0]}{more}", file)
