"""new, train, plan, recipes: a folder made into a recipe, a recipe into a run, and what it will need before it runs."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from translate.cli import console
from translate.cli.console import as_errors_of_recipe, say, say_entry, say_table
from translate.cli.models import at_hand
from translate.cli.options import (
    KINDS_OF_DATA,
    Direction,
    EarlierGPU,
    OptionalRecipe,
    Overrides,
    PlannedGPU,
    Recipe,
    RecipePrecision,
    kind_of_data,
    one_gpu,
)
from translate.cli.progress import Display
from translate.cli.tables import plan_table
from translate.errors import DoesNotFit, UsageError, visible
from translate.missing import no_images, none_to_resume


def train(
    recipe: OptionalRecipe = None,
    run: Annotated[Path | None, typer.Option("--run", "--run-dir", show_default="runs/<name>", help="The run folder. "
                                             "Under torchrun write --run-dir: torchrun would read --run as its own "
                                             "option.")] = None,
    overrides: Overrides = None,
    precision: RecipePrecision = None,
    gpu: PlannedGPU = None,
    memory: EarlierGPU = None,
    start: Annotated[Path | None, typer.Option("--from", metavar="MODEL", help="Begin with the weights of a run, a "
                                               "release (or hf:org/name), or a checkpoint of another project.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run that is there.")] = False,
    images: Annotated[str | None, typer.Option(metavar="+N", help="With --resume: so many images more than the run's "
                                               "recipe says, such as +50_000.")] = None,
    show_recipe: Annotated[bool, typer.Option("--show-recipe", help="Print the recipe with all its defaults, as the "
                                              "run folder holds it.")] = False,
) -> None:
    """Train a recipe; leaves a run folder."""
    from translate.places import RECIPE_FILE
    from translate.recipe import default_run, find_recipe, load_recipe
    from translate.runs.extending import going_on, more_images
    from translate.runs.folder import load_saved
    from translate.runs.release import scale_of
    from translate.training.cadences import with_cadences
    from translate.training.gpus import size_and_gpu
    from translate.training.loop import train as train_run

    gpu = one_gpu(gpu, memory)

    # A run that is resumed knows its recipe.
    changes = [*(overrides or []), *([f"precision={precision}"] if precision else []),
               *([f"start={json.dumps(str(start), ensure_ascii=False)}"] if start else [])]
    if recipe is not None:
        file = find_recipe(recipe)
        chosen = load_recipe(file, changes)
    elif resume and run is not None:
        file = run / RECIPE_FILE
        if not file.is_file():
            raise none_to_resume(run)
        chosen = load_saved(run, changes)
    else:
        raise UsageError("train: name a recipe (`translate recipes` lists them), or give --resume and --run")
    folder = run or default_run(chosen)

    more = None if images is None else more_images(images)
    if more is not None and not resume:
        raise UsageError("--images adds to a run that is there", folder, "add --resume; a new run is told by --set "
                         "stages.0.images=N")
    if resume:
        chosen, what = going_on(folder, chosen, more, is_runs_own=recipe is None)
        if what:
            say(what)

    chosen = with_cadences(chosen)
    if show_recipe:
        say(chosen.dump_yaml())
    with Display(f"train {folder.name}") as display, as_errors_of_recipe(recipe or file):
        train_run(chosen, folder, display, resume=resume,
                  gpu_memory=None if gpu is None else size_and_gpu(gpu)[0])
    page = folder / "report.html"
    say(f"finished: {visible(folder)}" + (f"; its report: {visible(page)}" if page.is_file() else ""))
    quoted = shlex.quote(visible(folder))
    if chosen.translator.needs_sources:
        scale = scale_of(folder)
        options = f" {scale.convert_options}" if scale is not None and scale.convert_options else ""
        say(f"convert with: translate convert IN OUT --model {quoted}{options}")
    else:
        say(f"draw images with: translate sample {quoted} OUT; score with: translate evaluate {quoted} --images 200 "
            "for a first look")


def new(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Images to train on, in any layout that is known: "
                                           "two folders of them, trainA and trainB, A beside B, photographs …")],
    gpu: Annotated[str | None, typer.Option(help="The GPU: the size of its memory, such as 8GB, its name, such as "
                                            "\"RTX 4090\", or both, such as \"V100 16GB\".",
                                            show_default="the one there is, else 8GB")] = None,
    kind: Annotated[str | None, kind_of_data(*KINDS_OF_DATA)] = None,
    direction: Direction = "ab",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The recipe to write.",
                                             show_default="<name of the folder>.yaml, here")] = None,
) -> None:
    """Look at a folder of images and write a recipe for them: at their own size, for your GPU.

    Nothing is asked and nothing but the recipe is written; of the images only headers are read.
    """
    from translate import files

    # What needs no look at the images is refused before torch is loaded, which takes seconds.
    file = out or Path(f"{folder.absolute().resolve().name or 'mine'}.yaml")
    if file.suffix not in (".yaml", ".yml"):
        raise UsageError("a recipe is a file that ends in .yaml", file, "name one with --out")
    if file.exists():
        given = {"gpu": gpu, "kind": kind, "direction": None if direction == "ab" else direction}
        said = [word for name, value in given.items() if value is not None for word in (f"--{name}", value)]
        command = ["translate", "new", visible(folder), *said, "--out", visible(file.with_stem(f"{file.stem}-2"))]
        raise UsageError("is there already and is not overwritten", file, f"remove it, or name another: "
                         f"{shlex.join(command)}")
    if not folder.exists():
        raise no_images(folder)

    console.load_torch()
    from translate.training.first_recipe import first_recipe

    with Display("new", console.err, unit="steps") as display:
        made = first_recipe(folder, file, gpu, kind, direction, display.count)  # type: ignore[arg-type]
    with files.as_disk_errors(file):
        files.write_bytes(file, made.text.encode())
    for line in made.lines:
        say(line)
    say(f"written: {visible(file)}, a recipe for these images. Its first lines are the commands that follow, such as\n"
        f"  translate train {shlex.quote(visible(file))}")


def plan(
    recipe: Recipe,
    gpu: PlannedGPU = None,
    memory: EarlierGPU = None,
    precision: RecipePrecision = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    nodes: Annotated[int | None, typer.Option(min=1, metavar="K", help="Say what it takes on K machines, too.")] = None,
    images: Annotated[int | None, typer.Option(min=1, metavar="N", help="Of the training, with --nodes, or of the "
                                               "conversion: for so many images.",
                                               show_default="as the recipe says, or as the folder holds")] = None,
    convert: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Plan a conversion instead: of images such as "
                                                 "those of this folder, by a run or a release, which is given in the "
                                                 "place of RECIPE.")] = None,
    overrides: Overrides = None,
) -> None:
    """Say what a training will need on a GPU, before anything runs: memory and time of every stage, under each of the
    ways to save memory (memory plans).

    Nothing is trained, and no GPU is needed. Where the recipe leaves the precision to `auto`, fp16 is planned.
    """
    from translate.recipe import find_recipe, load_recipe
    from translate.training.node_hours import plan_nodes
    from translate.training.recipe_plan import hours_here, plan_for_gpu

    gpu = one_gpu(gpu, memory)
    if convert is not None:
        of_training = {"--gpu": gpu, "--precision": precision, "--json": as_json or None,
                       "--set": overrides or None}
        if given := [name for name, value in of_training.items() if value is not None]:
            raise UsageError(f"{', '.join(given)}: of the plan of a training; a conversion is tried on this machine, "
                             "as it is", advice="leave it out, or --convert")
        say_conversion(Path(recipe), convert, images, nodes or 1)
        return
    if images is not None and nodes is None:
        raise UsageError("--images of a training goes with --nodes", advice="add --nodes 1, or --convert FOLDER")
    chosen = load_recipe(find_recipe(recipe), overrides or [])
    with Display("plan", console.err, unit="predictions") as display:
        planned = plan_for_gpu(chosen, gpu, precision, display.count)
    on_nodes = None if nodes is None else plan_nodes(chosen, planned, nodes, images)
    if as_json:
        say(json.dumps(planned.as_json() | ({} if on_nodes is None else {"nodes": on_nodes.as_json()}), indent=2))
    else:
        say_table(plan_table(planned))
        for line in [*planned.times, *planned.glosses]:
            say(line)
        if planned.with_consistency:
            say("with the network of the consistency loss, as `translate adapt make` trains; `translate train` alone "
                "needs less: --set adapt.semantic=null")
        for line in planned.enlarged:
            say(f"warning: {line}")
        if planned.gpu.budget is None:
            say(f"{hours_here(chosen)}; add --gpu 8GB to see what fits a GPU of that size")
        for line in [] if on_nodes is None else on_nodes.lines:
            say(line)
    if planned.misfits:
        raise DoesNotFit("\n".join(planned.misfits))


def say_conversion(model: Path, folder: Path, num_images: int | None, num_nodes: int) -> None:
    """Print what a conversion takes on several machines."""
    from translate.convert.at_scale import plan_conversion
    from translate.images.listing import find_images
    from translate.runs.release import load_release

    release = load_release(at_hand(model))
    num = num_images or len(find_images(folder)) or 1
    for line in plan_conversion(release, folder, num, num_nodes).lines:
        say(line)


def recipes() -> None:
    """List the shipped recipes."""
    from translate.places import purpose_of, shipped_recipes

    files = shipped_recipes()
    width = max(len(file.stem) for file in files)
    for file in files:
        say_entry(f"{file.stem:<{width}}  ", purpose_of(file))
