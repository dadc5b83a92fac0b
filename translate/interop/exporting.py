"""A generator of ours as a checkpoint that the code of pix2pix and CycleGAN, CUT or pix2pixHD loads."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from translate import files
from translate.errors import UsageError
from translate.interop.mapping import Layout, give_weights
from translate.networks.coarse_to_fine import CoarseToFine, CoarseToFineConfig
from translate.networks.resnet import ResNet, ResNetConfig
from translate.networks.unet import UNet, UNetConfig
from translate.runs.folder import load_saved
from translate.runs.release import find_weights, load_release
from translate.translators import Direction

FILE = Path("latest_net_G.pth")  # what their test scripts look for, in checkpoints/<name>


@dataclass(frozen=True)
class Exported:
    """A file for another project, and how its code is told what is in it."""

    file: Path
    project: str
    options: str  # of its command line


def export_pth(model: Path, to: Path | None = None, direction: Direction = "ab") -> Exported:
    """Write the generator of a run or a release as `to`, which must not exist (None: latest_net_G.pth, here).

    What `translate.interop.importing` makes of that file has the very same weights. Raises `UsageError` for a generator
    that their code has none of, and `DiskError`.
    """
    file = FILE if to is None else to
    if file.exists():
        raise UsageError("exists already", file, "name another file with --to")
    config = load_saved(find_weights(model).folder).translator.generator
    network = load_release(model, direction).generator
    try:
        theirs = _theirs(config, network)
        state = give_weights(network, theirs.layout)
    except ValueError as error:
        raise UsageError(f"{error}; the code of pix2pix, CycleGAN, CUT and pix2pixHD has no such generator", model
                         ) from None
    content = io.BytesIO()
    torch.save(state, content)
    with files.as_disk_errors(file):
        files.write_bytes(file, content.getvalue())
    return Exported(file, theirs.project, theirs.options)


class NoneOfTheirs(ValueError):
    """Their code has no such generator; says what is against it."""


@dataclass(frozen=True)
class Theirs:
    """Whose code has a generator, with which options, and how it numbers its parts."""

    project: str
    options: str
    layout: Layout


def _theirs(config: Any, network: nn.Module) -> Theirs:
    """Return whose code has such a generator. Raises `NoneOfTheirs`."""
    for option in ("attention", "spectral"):
        if getattr(config, option):
            raise NoneOfTheirs(f"its generator has {option}: true")
    return next(theirs for network_class, theirs in PROJECTS.items() if isinstance(network, network_class))(
        config, network)


def _of_pix2pix(config: UNetConfig, network: UNet) -> Theirs:
    """Depths of 7 and 8 have names in their code, others are one line in it."""
    if (config.upsample, config.downsample, config.image_skip) != ("transposed", "strided", 0) or network.levels:
        raise NoneOfTheirs("its U-Net has another upsampling, downsampling, image_skip or added levels")
    return Theirs("pix2pix", f"--netG unet_{2**config.downs} --ngf {config.width} --norm {config.norm}",
                  Layout(biases=config.norm == "instance"))


def _of_hd(config: ResNetConfig | CoarseToFineConfig, levels: int, local: str) -> Theirs:
    """Biases everywhere; their width is that of the outermost enhancer."""
    if (config.upsample, config.downsample) != ("transposed", "strided") or config.norm == "none":
        raise NoneOfTheirs("its generator has another upsampling or downsampling, or no norm")
    options = (f"--netG {'local' if levels else 'global'} --ngf {config.width // 2**levels} --norm {config.norm} "
               f"--n_downsample_global {config.downs} --n_blocks_global {config.blocks}{local}")
    return Theirs("pix2pixHD", options, Layout(biases=True))


def _of_hd_enhanced(config: CoarseToFineConfig, network: CoarseToFine) -> Theirs:
    local = f" --n_local_enhancers {network.levels} --n_blocks_local {config.fine_blocks}"
    return _of_hd(config, network.levels, local if network.levels else "")


def _of_resnets(config: ResNetConfig, network: ResNet) -> Theirs:
    """CycleGAN and CUT, whose networks are antialiased unless they are told otherwise; with four downsamplings HD."""
    if network.levels:
        raise NoneOfTheirs(f"its ResNet has {network.levels} added levels")
    if config.downs == 4:
        return _of_hd(config, 0, "")
    down, up = config.downsample == "antialiased", config.upsample == "bilinear"
    if config.downs != 2 or not (up or config.upsample == "transposed") or not (down or config.downsample == "strided"):
        raise NoneOfTheirs(f"its ResNet has upsample: {config.upsample}, downsample: {config.downsample} and "
                           f"downs: {config.downs}")
    options = f"--netG resnet_{config.blocks}blocks --ngf {config.width} --norm {config.norm} --no_dropout"
    if down or up:
        options += " --no_antialias" * (not down) + " --no_antialias_up" * (not up)
    return Theirs("CUT" if down or up else "pix2pix and CycleGAN", options,
                  Layout(down, up, biases=config.norm == "instance"))


PROJECTS: dict[type[nn.Module], Callable[[Any, Any], Theirs]] = {
    UNet: _of_pix2pix, CoarseToFine: _of_hd_enhanced, ResNet: _of_resnets}
