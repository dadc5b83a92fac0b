"""sample: images drawn from noise."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from translate.cli.console import say
from translate.cli.models import at_hand
from translate.cli.options import Device, Engine, EngineCores, Precision, Shard, shared_out
from translate.cli.progress import Display
from translate.errors import visible


def sample(
    model: Annotated[Path, typer.Argument(metavar="RUN", help="A run (or RUN/best) or a release that draws images from "
                                          "noise.")],
    out: Annotated[Path, typer.Argument(help="The folder to write to: images/, sheet.png, samples.json.")],
    num: Annotated[int | None, typer.Option("--num", "-n", help="Images; with --grid latents, with --interpolate ways.",
                                            show_default="64, or 8 rows")] = None,
    seed: Annotated[int, typer.Option(help="The same seed draws the same images.")] = 0,
    classes: Annotated[str | None, typer.Option(metavar="0,1,2", help="Draw these classes in turn, by number or name "
                                                "(one with commas in double quotes).", show_default="all")] = None,
    truncation: Annotated[float | None, typer.Option(help="Keep latents within this: less is truer and less varied, "
                                                     "such as 0.7.", show_default="as in training")] = None,
    grid: Annotated[bool, typer.Option("--grid", help="A row for each class, or value of the first code; a column for "
                                       "each latent.")] = False,
    interpolate: Annotated[int | None, typer.Option(metavar="N", help="From one sample to the next in N images.",
                                                    show_default="none")] = None,
    arithmetic: Annotated[str | None, typer.Option(metavar="SUM", help="A sum of means of samples by their numbers, "
                                                   "such as \"7,12,3 - 5,9 + 1\".", show_default="none")] = None,
    vectors: Annotated[Path | None, typer.Option(metavar="FILE", help="A vectors.npz to draw beside.",
                                                 show_default="those of the test images")] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    shard: Shard = None,
    engine: Engine = None,
    engine_cores: EngineCores = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the draw that OUT holds.")] = False,
) -> None:
    """Draw images from noise, and a sheet of them. The same seed gives the same images, in any number of processes.

    The same command goes on with a draw that was interrupted. Part 1 of a --shard writes the sheet.
    """
    from translate.sampling.drawing import draw
    from translate.sampling.planning import Wanted
    from translate.sampling.sampler import Sampler

    part, cluster = shared_out(shard, engine, engine_cores)
    rank, world = (0, 1) if part is None else (part.index - 1, part.num)
    sampler = Sampler.load(at_hand(model), device, precision)  # type: ignore[arg-type]
    for reason in sampler.release.refused:
        say(f"refused {reason}")
    growth = f" ({sampler.release.growth})" if sampler.release.growth else ""
    say(f"weights: {visible(sampler.release.weights)}{growth}")

    wanted = Wanted(num, seed, classes, truncation, grid, interpolate, arithmetic, vectors)
    with Display(f"draw with {sampler.release.name}") as display, cluster or nullcontext():
        drawn = draw(sampler, out, wanted, overwrite=overwrite, rank=rank, world=world, engine=cluster,
                     on_progress=display.count)
    for line in drawn.notes:
        say(line)
    kept = f", {drawn.num_kept} of which were there" if drawn.num_kept else ""
    sheet = f"; sheet: {visible(drawn.sheet)}" if rank == 0 else ""
    say(f"{drawn.num} images{kept}{f' of this process, of {world}' if world > 1 else ''} → {visible(out / 'images')}"
        f"{sheet}")
