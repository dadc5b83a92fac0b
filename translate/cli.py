"""The command line. The only place that prints, and the only one that ends the process."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from translate.errors import TranslateError, UsageError

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="High-resolution image translation that fits your GPU.")
data_app = typer.Typer(no_args_is_help=True, help="Data sets: list the cards, prepare one, check a folder.")
app.add_typer(data_app, name="data")

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def main() -> None:
    """Run a command; turn an error of ours into its message and exit code."""
    try:
        app()
    except TranslateError as error:
        err.print(f"error: {error}", markup=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        err.print("stopped")
        sys.exit(75)


@app.command()
def train(
    recipe: Annotated[Optional[str], typer.Argument(help="A recipe file, or the name of a shipped one.")] = None,
    run: Annotated[Optional[Path], typer.Option(help="The run folder; runs/<name> by default.")] = None,
    overrides: Annotated[Optional[list[str]], typer.Option("--set", help="a.b=c, as often as needed.")] = None,
    precision: Annotated[Optional[str], typer.Option(help="auto, fp32, bf16 or fp16.")] = None,
    resume: Annotated[bool, typer.Option(help="Continue the run that is there.")] = False,
) -> None:
    """Train a recipe; leave a run folder."""
    from translate.recipe import default_run, find_recipe, load_recipe

    words = [*(overrides or []), *([f"precision={precision}"] if precision else [])]
    if recipe is not None:
        file = find_recipe(recipe)
    elif resume and run is not None:
        file = run / "recipe.yaml"
    else:
        raise UsageError("which recipe? Name one (`translate recipes` lists them), or give --resume and --run")
    chosen = load_recipe(file, words)
    folder = run or default_run(chosen)

    from translate.progress import Display
    from translate.train import train as run_training

    main_process = int(os.environ.get("RANK", "0")) == 0
    with Display(out if main_process else Console(quiet=True), chosen.name) as display:
        display.say(chosen.dump_yaml())
        run_training(chosen, folder, display, resume=resume)
        display.say(f"finished: {folder}\nconvert with: translate convert IN OUT --model {folder}")


@app.command()
def recipes() -> None:
    """List the shipped recipes."""
    from translate.recipe import describe, shipped_recipes

    files = shipped_recipes()
    width = max(len(file.stem) for file in files)
    for file in files:
        out.print(f"{file.stem:<{width}}  {describe(file)}", markup=False, soft_wrap=True)
