"""Generators and discriminators. These unions are the registry: a new network is a file and one name here.

`layers.py` has the parts they are built from; `rows.py`, `strips.py` and `memory.py` how they fit into memory.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from translate.networks.autoencoder import AutoencoderConfig
from translate.networks.coarse_to_fine import CoarseToFineConfig
from translate.networks.discriminators import PatchGANConfig, PixelConfig
from translate.networks.heads import ProjectionHeads
from translate.networks.resnet import ResNetConfig
from translate.networks.unet import UNetConfig

GeneratorConfig = Annotated[ResNetConfig | UNetConfig | CoarseToFineConfig, Field(discriminator="kind")]
EncodingConfig = Annotated[ResNetConfig | UNetConfig, Field(discriminator="kind")]  # generators that show `features`
DiscriminatorConfig = Annotated[PatchGANConfig | PixelConfig | AutoencoderConfig, Field(discriminator="kind")]

__all__ = ["AutoencoderConfig", "CoarseToFineConfig", "DiscriminatorConfig", "EncodingConfig", "GeneratorConfig",
           "PatchGANConfig", "PixelConfig", "ProjectionHeads", "ResNetConfig", "UNetConfig"]
