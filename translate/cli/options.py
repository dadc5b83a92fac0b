"""The arguments and options that several commands take, each declared once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from translate.errors import UsageError


def one_of(*allowed: str) -> Callable[[typer.CallbackParam, str | None], str | None]:
    """Return a check of an option's value, which raises `UsageError` for a word that is not allowed."""
    def check(option: typer.CallbackParam, value: str | None) -> str | None:
        if value is not None and value not in allowed:
            raise UsageError(f"{option.opts[0]} {value}: expected one of {', '.join(allowed)}")
        return value

    return check


_recipe = typer.Argument(help="A recipe file, or the name of a shipped one.")
_precision_words = one_of("auto", "fp32", "bf16", "fp16")

Recipe = Annotated[str, _recipe]
OptionalRecipe = Annotated[str | None, _recipe]
AdaptRecipe = Annotated[str, typer.Argument(help="A recipe with `adapt`: a file, or the name of a shipped one.")]
Overrides = Annotated[list[str] | None, typer.Option(
    "--set", metavar="A.B=C", help="Change a field of the recipe; repeatable.")]
CardMemory = Annotated[str | None, typer.Option(
    "--memory", help="The size of the GPU to plan for, such as 8GB.", show_default="the one there is")]
PlannedGPU = Annotated[str | None, typer.Option(
    "--gpu", help="The GPU to plan for: its name, such as \"RTX 4090\", or the size of its memory.",
    show_default="the one there is")]
RecipePrecision = Annotated[str | None, typer.Option(
    "--precision", help="auto, fp32, bf16 or fp16.", show_default="the recipe's", callback=_precision_words)]
Precision = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.", callback=_precision_words)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")]
Direction = Annotated[str, typer.Option(help="ab (A to B) or ba: which way a run translates.",
                                        callback=one_of("ab", "ba"))]
Shard = Annotated[str | None, typer.Option(
    metavar="I/N|auto", help="Translate only part I of N, such as 1/4; auto: as Slurm, Kubernetes or MPI says. "
    "torchrun shards automatically.")]
AdaptFolder = Annotated[Path | None, typer.Option(
    "--out", metavar="OUT", help="The folder of the adaptation.", show_default="runs/<name>-adapt")]
