"""The arguments and options that several commands take, each declared once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from translate.errors import UsageError

if TYPE_CHECKING:
    from translate.cluster.ray_engine import RayEngine
    from translate.convert import Shard as Part


def one_of(*allowed: str) -> Callable[[typer.CallbackParam, str | None], str | None]:
    """Return a check of an option's value, which raises `UsageError` for a word that is not allowed."""
    def check(option: typer.CallbackParam, value: str | None) -> str | None:
        if value is not None and value not in allowed:
            raise UsageError(f"{option.opts[0]} {value}: expected one of {', '.join(allowed)}")
        return value

    return check


KINDS_OF_DATA = {
    "unpaired": "two sets of images that have nothing to do with each other",
    "paired": "images of A and B that show the same, by their names or side by side in one file",
    "labels": "label maps and images of the same names",
    "computed": "photographs alone, whose grey copies or edges go in",
    "images": "photographs alone, to draw others like them from noise"}


def kind_of_data(*kinds: str) -> Any:
    """Return the option that says which of some kinds of data a folder holds, each explained."""
    said = "; ".join(f"{kind}: {KINDS_OF_DATA[kind]}" for kind in kinds)
    return typer.Option("--kind", help=f"What the folder holds. {said}.", show_default="what it seems to hold",
                        callback=one_of(*kinds))


_recipe = typer.Argument(help="A recipe file, or the name of a shipped one.")
_precision_words = one_of("auto", "fp32", "bf16", "fp16")

Recipe = Annotated[str, _recipe]
OptionalRecipe = Annotated[str | None, _recipe]
AdaptRecipe = Annotated[str, typer.Argument(help="A recipe with `adapt`: a file, or the name of a shipped one.")]
Overrides = Annotated[list[str] | None, typer.Option(
    "--set", metavar="A.B=C", help="Change a field of the recipe; repeatable.")]
PlannedGPU = Annotated[str | None, typer.Option(
    "--gpu", help="The GPU to plan for: the size of its memory, such as 8GB, its name, such as \"RTX 4090\", or both, "
    "such as \"V100 16GB\". --memory is an earlier spelling.", show_default="the one there is")]
EarlierGPU = Annotated[str | None, typer.Option("--memory", hidden=True)]
RecipePrecision = Annotated[str | None, typer.Option(
    "--precision", help="auto, fp32, bf16 or fp16.", show_default="the recipe's", callback=_precision_words)]
Precision = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.", callback=_precision_words)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")]
Direction = Annotated[str, typer.Option(help="ab (A to B) or ba: which way a run translates.",
                                        callback=one_of("ab", "ba"))]
Shard = Annotated[str | None, typer.Option(
    metavar="I/N|auto", help="Make only part I of N of the images, such as 1/4; auto: as Slurm, Kubernetes or MPI "
    "says. torchrun shards automatically.")]
Engine = Annotated[str | None, typer.Option(
    metavar="ray[://HOST:PORT]", help="Have a Ray cluster do the work; all nodes see the folders under these paths.")]
EngineCores = Annotated[int | None, typer.Option(
    help="Cores of each of the cluster's workers, where it has no GPUs.", show_default="4")]
AdaptFolder = Annotated[Path | None, typer.Option(
    "--out", metavar="OUT", help="The folder of the adaptation.", show_default="runs/<name>-adapt")]


def one_gpu(gpu: str | None, earlier: str | None) -> str | None:
    """Return the GPU that `--gpu` says, or its earlier spelling `--memory`. Raises `UsageError` where both do."""
    if gpu is not None and earlier is not None:
        raise UsageError(f"--gpu {gpu} --memory {earlier}: two spellings of one option",
                         advice="give --gpu alone, which takes a name with a size: --gpu \"V100 16GB\"")
    return earlier if gpu is None else gpu


def shared_out(shard: str | None, engine: str | None, engine_cores: int | None) -> tuple[Part | None, RayEngine | None]:
    """Return which part of the work this process does, or the cluster that does it, by what three options say.

    Raises `UsageError` where they do not fit together, and `MissingExtra`.
    """
    from translate.cluster.ray_engine import RayEngine
    from translate.convert.sharding import choose_shard

    if engine is not None and shard is not None:
        raise UsageError("--engine and --shard both deal the work out; take one of them")
    if engine_cores is not None and (engine is None or engine_cores < 1):
        raise UsageError(f"--engine-cores {engine_cores}: expected 1 or more, with --engine")
    part = choose_shard(shard)
    if engine is not None and part is not None:
        raise UsageError(f"--engine: a launcher has started {part.num} processes, which share the work already",
                         advice="start one process")
    return part, None if engine is None else RayEngine(engine, engine_cores)
