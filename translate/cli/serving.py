"""serve: a page in the browser, and an HTTP endpoint."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from translate.cli.console import err, say
from translate.cli.models import at_hand
from translate.cli.options import Device, Precision
from translate.errors import MissingExtra, visible

TOKEN = "DIPTYCH_TOKEN"


def serve(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="Runs or releases: their folders, or "
                                                 "hf:org/name on the Hub. All directions are offered.")],
    host: Annotated[str, typer.Option(help="The address to listen at. One that other machines reach has a token: what "
                                      f"{TOKEN} holds, else a new one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    name: Annotated[list[str] | None, typer.Option(help="A name that this server is asked for by, besides its address; "
                                                   "repeatable.", show_default="this machine's")] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    memory: Annotated[str | None, typer.Option(help="Memory limit for translating one image, as of convert.",
                                               show_default="a share of what is left")] = None,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Refuse images with more pixels.",
                                                   show_default="200,000,000")] = None,
    max_upload: Annotated[str, typer.Option(help="Refuse larger files.")] = "256MiB",
    queue: Annotated[int, typer.Option(min=1, help="Images in hand at once: uploaded, waiting, translated, sent. One "
                                       "more is told to come again.")] = 16,
) -> None:
    """Translate in the browser: a page where one drops an image, and an HTTP endpoint for programs."""
    for library in ("starlette", "uvicorn", "python_multipart"):
        if find_spec(library) is None:
            raise MissingExtra(library, "serve", "translate serve")

    from translate.images.pictures import MAX_PIXELS
    from translate.runs.release import Release
    from translate.serve.limits import Limits
    from translate.serve.models import Models
    from translate.serve.server import Place, serve
    from translate.sizes import num_bytes

    # The place first: that it cannot be had is said before models are loaded. No child inherits the token.
    limits = Limits(num_bytes(max_upload), MAX_PIXELS if max_pixels is None else max_pixels, queue)
    place = Place.open(host, port, name or (), os.environ.pop(TOKEN, None))

    def loaded(name: str, release: Release) -> None:
        for reason in release.refused:
            say(f"refused {reason}")
        known = f", trained on images with {release.scale}" if release.scale else ""
        say(f"{visible(name)} ({release.direction}): {visible(release.weights)}{known}")

    offered = Models.load([at_hand(model) for model in models], device, precision, memory,  # type: ignore[arg-type]
                          loaded)
    say(f"open {place.address} (Ctrl+C ends the server)")
    if not place.is_local:
        say("other machines can reach it, and nothing on the way is encrypted: put a server with TLS in front of it "
            "where others can listen", err)
    serve(offered, place, limits, say)
    say("ended, after what was in hand")
