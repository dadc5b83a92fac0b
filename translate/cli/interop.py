"""import, export-pth: generators of other projects in, and ours out to them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from translate.cli.console import say
from translate.cli.models import at_hand
from translate.cli.options import Direction, one_of
from translate.errors import visible


def import_checkpoint(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A generator's .pth, .pt or .safetensors, such as "
                                         "latest_net_G.pth of pix2pix, CycleGAN, CUT or pix2pixHD.")],
    to: Annotated[Path | None, typer.Option(metavar="RELEASE", help="The folder to write.",
                                            show_default="models/<name>")] = None,
    direction: Direction = "ab",
    back: Annotated[Path | None, typer.Option(metavar="FILE", help="The generator for the other direction: G_B of a "
                                              "CycleGAN, where FILE is G_A.")] = None,
    data: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where its images lie (trainA, trainB, …), to "
                                              "evaluate it and to train on.")] = None,
    load_size: Annotated[int | None, typer.Option(min=1, help="Short side that its training loaded images at, px.",
                                                  show_default="usual there")] = None,
    crop_size: Annotated[int | None, typer.Option(min=1, help="Side of its crops, px.",
                                                  show_default="usual there")] = None,
    labels: Annotated[int | None, typer.Option(min=2, help="Label maps of so many classes go in (pix2pixHD: "
                                               "--label_nc).")] = None,
    instances: Annotated[int | None, typer.Option(min=2, help="Numbers of label maps from here on are class × this + "
                                                  "instance (Cityscapes: 1000).")] = None,
    upsample: Annotated[str | None, typer.Option(help="How a resize-convolution of a fork enlarges: resize (nearest) "
                                                 "or bilinear.", callback=one_of("resize", "bilinear"))] = None,
    dropout: Annotated[float | None, typer.Option(min=0, max=0.99, help="Of a U-Net, for training on.",
                                                  show_default="0.5")] = None,
) -> None:
    """Make a release of a checkpoint of another project. Nothing in the file is run."""
    from translate.interop.evidence import Choices
    from translate.interop.importing import Training, import_release

    imported = import_release(file, to, direction, back,  # type: ignore[arg-type]
                              Choices(upsample, dropout),  # type: ignore[arg-type]
                              Training(load_size, crop_size, labels, instances, data))
    for way, source in imported.sources.items():
        say(f"{way[0].upper()} → {way[1].upper()}: {visible(source['file'])} is {visible(source['is'])}")
    for note in imported.assumed:
        say(f"assumed: {visible(note)}")
    say(f"release: {visible(imported.folder)}")
    way = "" if "ab" in imported.sources else " --direction ba"
    say(f"convert with: translate convert IN OUT --model {shlex.quote(visible(imported.folder))}{way}")


def export_pth(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A run (or RUN/best), a release, or "
                                          "hf:org/name.")],
    to: Annotated[Path | None, typer.Option(metavar="FILE", help="The file to write.",
                                            show_default="latest_net_G.pth")] = None,
    direction: Direction = "ab",
) -> None:
    """Write a generator as a checkpoint that the code of pix2pix, CycleGAN, CUT or pix2pixHD loads."""
    from translate.interop.exporting import export_pth as export

    exported = export(at_hand(model), to, direction)  # type: ignore[arg-type]
    say(f"{visible(exported.file)}: for the code of {exported.project}, with {exported.options}")
