"""Small networks: the members of both unions, and weights for which everything matters."""

from __future__ import annotations

import typing

from torch import nn

from translate.networks import (
    AutoencoderConfig,
    CoarseToFineConfig,
    DiscriminatorConfig,
    GeneratorConfig,
    PatchGANConfig,
    PixelConfig,
    ResNetConfig,
    UNetConfig,
)

SMALL: dict[type, dict[str, object]] = {
    ResNetConfig: {"width": 4, "blocks": 2}, UNetConfig: {"width": 4, "downs": 6},
    PatchGANConfig: {"width": 4, "layers": 2}, PixelConfig: {"width": 4},
    AutoencoderConfig: {"width": 4, "downs": 2},
    CoarseToFineConfig: {"width": 4, "blocks": 2, "downs": 2, "fine_blocks": 1},
}


def members(union: object) -> list[type]:
    """The config classes of a registry union."""
    return list(typing.get_args(typing.get_args(union)[0]))


GENERATORS, DISCRIMINATORS = members(GeneratorConfig), members(DiscriminatorConfig)


def randomise(network: nn.Module) -> nn.Module:
    """Float64, with weights large enough for every statistic and every bias to matter."""
    for module in network.modules():
        if getattr(module, "weight", None) is not None:
            nn.init.normal_(module.weight, std=0.3)
        if getattr(module, "bias", None) is not None:
            nn.init.normal_(module.bias)
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return network.double()
