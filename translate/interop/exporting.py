"""A generator of ours as a checkpoint that the code of pix2pix and CycleGAN, CUT or pix2pixHD loads."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from translate import files
from translate.errors import UsageError
from translate.interop.mapping import Layout, give_weights
from translate.networks.coarse_to_fine import CoarseToFine, CoarseToFineConfig
from translate.networks.growing import Grown
from translate.networks.resnet import ResNetConfig
from translate.networks.unet import UNetConfig
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
    project, options, layout = _theirs(config, network, model)
    try:
        state = give_weights(network, layout)
    except ValueError as error:
        raise UsageError(str(error), model) from None
    content = io.BytesIO()
    torch.save(state, content)
    with files.as_disk_errors(file):
        files.write_bytes(file, content.getvalue())
    return Exported(file, project, options)


def _theirs(config: object, network: nn.Module, model: Path) -> tuple[str, str, Layout]:
    """Return whose code has such a generator, with which options, and how it numbers its parts.

    Raises `UsageError` for a generator that none of them has.
    """
    def refuse(what: str) -> UsageError:
        return UsageError(f"{what}, and the code of pix2pix, CycleGAN, CUT and pix2pixHD has no such generator", model)

    config = cast(ResNetConfig | UNetConfig | CoarseToFineConfig, config)
    for option in ("attention", "spectral"):
        if getattr(config, option):
            raise refuse(f"its generator has {option}: true")
    options = f"--ngf {config.width} --norm {config.norm}"

    # pix2pix: depths of 7 and 8 have names there, others are one line in its code.
    if isinstance(config, UNetConfig):
        if (config.upsample, config.downsample) != ("transposed", "strided") or cast(Grown, network).levels:
            raise refuse("its U-Net has another upsampling, downsampling or added levels")
        return "pix2pix", f"--netG unet_{2**config.downs} {options}", Layout(biases=config.norm == "instance")

    # pix2pixHD: biases everywhere; the width is that of the outermost enhancer.
    if isinstance(config, CoarseToFineConfig) or config.downs == 4:
        if (config.upsample, config.downsample) != ("transposed", "strided") or config.norm == "none":
            raise refuse("its generator has another upsampling or downsampling, or no norm")
        levels = cast(CoarseToFine, network).levels
        if levels and not isinstance(config, CoarseToFineConfig):
            raise refuse(f"its ResNet has {levels} added levels")
        kind = f"--netG {'local' if levels else 'global'} --ngf {config.width // 2**levels} --norm {config.norm}"
        local = f" --n_local_enhancers {levels} --n_blocks_local {config.fine_blocks}" if isinstance(
            config, CoarseToFineConfig) and levels else ""
        return ("pix2pixHD", f"{kind} --n_downsample_global {config.downs} --n_blocks_global {config.blocks}{local}",
                Layout(biases=True))

    # CycleGAN and CUT: what is antialiased there is so unless they are told otherwise.
    if config.upsample not in ("transposed", "bilinear") or config.downsample not in ("strided", "antialiased") \
            or config.downs != 2 or cast(Grown, network).levels:
        raise refuse(f"its ResNet has upsample: {config.upsample}, downsample: {config.downsample}, downs: "
                     f"{config.downs}, added levels: {cast(Grown, network).levels}")
    down, up = config.downsample == "antialiased", config.upsample == "bilinear"
    plain = f"{' --no_antialias' * (not down)}{' --no_antialias_up' * (not up)}" if down or up else ""
    return ("CUT" if down or up else "pix2pix and CycleGAN",
            f"--netG resnet_{config.blocks}blocks {options} --no_dropout{plain}",
            Layout(down, up, biases=config.norm == "instance"))
