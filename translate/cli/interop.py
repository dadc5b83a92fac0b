"""import, export, export-pth: generators of other projects in, and ours out to them and to any runtime."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from translate.cli.console import say
from translate.cli.models import at_hand
from translate.cli.options import Direction, one_of
from translate.errors import visible
from translate.sizes import format_bytes


def import_checkpoint(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A generator's .pth, .pt or .safetensors, such as "
                                         "latest_net_G.pth of pix2pix, CycleGAN, CUT or pix2pixHD.")],
    to: Annotated[Path | None, typer.Option(metavar="RELEASE", help="The folder to write.",
                                            show_default="models/<name>")] = None,
    direction: Direction = "ab",
    back: Annotated[Path | None, typer.Option(metavar="FILE", help="The generator for the other direction: G_B of a "
                                              "CycleGAN, where FILE is G_A.")] = None,
    discriminator: Annotated[Path | None, typer.Option(metavar="FILE", help="The discriminator that judges what FILE "
                                                       "makes, for training on: latest_net_D.pth, or D_A for G_A.")
                             ] = None,
    back_discriminator: Annotated[Path | None, typer.Option(metavar="FILE", help="The same of --back: D_B.")] = None,
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
                              Training(load_size, crop_size, labels, instances, data),
                              discriminator, back_discriminator)
    for way, source in imported.sources.items():
        say(f"{way[0].upper()} → {way[1].upper()}: {visible(source['file'])} is {visible(source['is'])}")
    for name, source in imported.discriminators.items():
        say(f"{name}: {visible(source['file'])} is {visible(source['is'])}")
    for note in imported.assumed:
        say(f"assumed: {visible(note)}")
    say(f"release: {visible(imported.folder)}")
    way = "" if "ab" in imported.sources else " --direction ba"
    say(f"convert with: translate convert IN OUT --model {shlex.quote(visible(imported.folder))}{way}")


def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A run (or RUN/best), a release, or hf:org/name.")],
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="The file to write.")],
    pixels: Annotated[str, typer.Option(help="What goes in and comes out: signed (float, N C H W in [-1, 1]), unit "
                                        "(the same in [0, 1]: chaiNNer), uint8 or uint16 (N H W C, as image files).",
                                        callback=one_of("signed", "unit", "uint8", "uint16"))] = "signed",
    half: Annotated[bool, typer.Option("--half", help="Weights and convolutions in float16: half the size.")] = False,
    direction: Direction = "ab",
) -> None:
    """Write a generator as an ONNX file that takes images of any size, compared with the original before it is kept."""
    from translate.interop.onnx_graph import export_onnx
    from translate.runs.release import load_release

    exported = export_onnx(load_release(at_hand(model), direction), file, pixels, half)  # type: ignore[arg-type]
    for check in exported.checks:
        near = "equal" if check.psnr is None else f"{check.psnr:.0f} dB"
        say(f"compared: {' × '.join(map(str, check.shape))} (images, height, width): {near}, largest difference "
            f"{check.largest:.2g}")
    say(f"{visible(exported.file)}: {format_bytes(exported.num_bytes)}, for images of any size; give it whole images, "
        f"no tiles. {visible(exported.report)} holds these figures")


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
