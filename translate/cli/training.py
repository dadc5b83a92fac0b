"""train, plan, recipes: a recipe made into a run, and what it will need before it runs."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from translate.cli import console
from translate.cli.console import as_errors_of_recipe, say, say_table
from translate.cli.options import CardMemory, OptionalRecipe, Overrides, Recipe, RecipePrecision
from translate.cli.progress import Display
from translate.cli.tables import plan_table
from translate.errors import DoesNotFit, RunError, UsageError, visible


def train(
    recipe: OptionalRecipe = None,
    run: Annotated[Path | None, typer.Option("--run", "--run-dir", show_default="runs/<name>", help="The run folder. "
                                             "Under torchrun write --run-dir: torchrun would read --run as its own "
                                             "option.")] = None,
    overrides: Overrides = None,
    precision: RecipePrecision = None,
    memory: CardMemory = None,
    start: Annotated[Path | None, typer.Option("--from", metavar="MODEL", help="Begin with the weights of a run, a "
                                               "release, or a checkpoint of another project.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run that is there.")] = False,
) -> None:
    """Train a recipe; leaves a run folder."""
    from translate.recipe import default_run, find_recipe, load_recipe
    from translate.runs.folder import RECIPE_FILE, load_saved
    from translate.training.loop import train as train_run

    # A run that is resumed knows its recipe.
    changes = [*(overrides or []), *([f"precision={precision}"] if precision else []),
               *([f"start={json.dumps(str(start), ensure_ascii=False)}"] if start else [])]
    if recipe is not None:
        file = find_recipe(recipe)
        chosen = load_recipe(file, changes)
    elif resume and run is not None:
        file = run / RECIPE_FILE
        if not file.is_file():
            raise RunError("there is no run here to resume", run)
        chosen = load_saved(run, changes)
    else:
        raise UsageError("train: name a recipe (`translate recipes` lists them), or give --resume and --run")
    folder = run or default_run(chosen)

    with Display(chosen.name) as display, as_errors_of_recipe(recipe or file):
        train_run(chosen, folder, display, resume=resume, gpu_memory=memory)
    page = folder / "report.html"
    say(f"finished: {visible(folder)}" + (f"; its report: {visible(page)}" if page.is_file() else ""))
    say(f"convert with: translate convert IN OUT --model {shlex.quote(visible(folder))}")


def plan(
    recipe: Recipe,
    memory: CardMemory = None,
    precision: RecipePrecision = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    overrides: Overrides = None,
) -> None:
    """Say what every stage will need under every memory plan, on a CUDA card, before anything runs.

    Precision auto is planned as fp16.
    """
    from translate.recipe import find_recipe, load_recipe
    from translate.training.recipe_plan import plan_for_gpu

    chosen = load_recipe(find_recipe(recipe), overrides or [])
    with Display("plan", console.err, unit="predictions") as display:
        planned = plan_for_gpu(chosen, memory, precision, display.count)
    if as_json:
        say(json.dumps(planned.as_json(), indent=2))
    else:
        say_table(plan_table(planned.stages, planned.budget, planned.precision))
        if planned.with_consistency:
            say("with the network of the consistency loss, as `translate adapt make` trains; `translate train` alone "
                "needs less: --set adapt.semantic=null")
        if planned.budget is None:
            say("add --memory 8GB to see what fits a card of that size")
    if planned.misfits:
        raise DoesNotFit("\n".join(planned.misfits))


def recipes() -> None:
    """List the shipped recipes."""
    from translate.places import shipped_recipes
    from translate.recipe import describe

    files = shipped_recipes()
    width = max(len(file.stem) for file in files)
    for file in files:
        say(f"{file.stem:<{width}}  {describe(file)}")
