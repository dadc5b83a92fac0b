"""Generators and discriminators. These unions are the registry: a new network is a file and one name here.

Who calls whom:

    a network    resnet, unet, coarse_to_fine, discriminators, autoencoder → layers, attention, dropout, weights;
                 projection_heads for CUT; growing for those that gain levels. Each file holds a config and its network
    from noise   latent/, one file a family: generators of a latent, and discriminators of whole images → layers
    its speed    layers, strips → normalised: norm, activation and padding as one operation, by what a device does best
    its memory   memory sets what each part of layers keeps → recomputing (gradient checkpointing) and strips
    strips       layers → strips → local_chain → statistics, row_operations → rows
    of pairs     registration, for pix2pix: how far the images of a pair are off
    of others    features (ImageNet networks), task_networks (classifiers and segmentation networks
                 of domain adaptation)

`translate.tiling` applies a network by the same rules of rows, and eval_mode puts it into eval mode for a while.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from translate.networks.autoencoder import AutoencoderConfig
from translate.networks.coarse_to_fine import CoarseToFineConfig
from translate.networks.discriminators import PatchGANConfig, PixelConfig
from translate.networks.latent.began import BEGANConfig
from translate.networks.latent.biggan import BigGANConfig, BigGANDiscriminatorConfig
from translate.networks.latent.dcgan import DCGANConfig, DCGANDiscriminatorConfig
from translate.networks.latent.mlp import MLPConfig, MLPDiscriminatorConfig
from translate.networks.latent.pggan import PGGANConfig, PGGANDiscriminatorConfig
from translate.networks.latent.stackgan import StackGANConfig, StackGANDiscriminatorConfig
from translate.networks.projection_heads import ProjectionHeads
from translate.networks.registration import RegistrationConfig
from translate.networks.resnet import ResNetConfig
from translate.networks.unet import UNetConfig

GeneratorConfig = Annotated[ResNetConfig | UNetConfig | CoarseToFineConfig, Field(discriminator="kind")]
EncodingConfig = Annotated[ResNetConfig | UNetConfig, Field(discriminator="kind")]  # generators that show `features`
DiscriminatorConfig = Annotated[PatchGANConfig | PixelConfig | AutoencoderConfig, Field(discriminator="kind")]
# From noise: generators, and discriminators that judge an image as a whole, or else by its patches
LatentGeneratorConfig = Annotated[MLPConfig | DCGANConfig | BEGANConfig | PGGANConfig | BigGANConfig |
                                  StackGANConfig,
                                  Field(discriminator="kind")]
WholeDiscriminatorConfig = Annotated[
    MLPDiscriminatorConfig | DCGANDiscriminatorConfig | PGGANDiscriminatorConfig | BigGANDiscriminatorConfig |
    StackGANDiscriminatorConfig | PatchGANConfig | AutoencoderConfig,
    Field(discriminator="kind")]

__all__ = ["AutoencoderConfig", "BEGANConfig", "BigGANConfig", "BigGANDiscriminatorConfig", "CoarseToFineConfig",
           "DCGANConfig", "DCGANDiscriminatorConfig", "DiscriminatorConfig",
           "EncodingConfig", "GeneratorConfig", "LatentGeneratorConfig", "MLPConfig", "MLPDiscriminatorConfig",
           "PGGANConfig", "PGGANDiscriminatorConfig", "PatchGANConfig", "PixelConfig", "ProjectionHeads",
           "RegistrationConfig", "ResNetConfig", "StackGANConfig", "StackGANDiscriminatorConfig", "UNetConfig",
           "WholeDiscriminatorConfig"]
