"""All commands, in the order in which `--help` lists them, and `main`, which runs one.

A command parses its words, calls the wing that does the work, and prints what comes back. Its module imports nothing
heavy before it is called, so that `translate --help` needs no torch.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from translate.cli import adapting, console, converting, datasets, evaluating, interop, training
from translate.errors import TranslateError

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # importing it would ask the network for a newer version
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads would spin on the cores the loaders need

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(training.train)
app.command(context_settings={"allow_extra_args": True})(converting.convert)  # the command says why there are too many
app.command()(evaluating.evaluate)
app.command()(evaluating.report)
app.command()(evaluating.compare)
app.command()(training.plan)
app.command()(training.recipes)
app.command("import")(interop.import_checkpoint)

data = typer.Typer(no_args_is_help=True, help="Data sets: list the cards, prepare one, check a folder.")
data.command("list")(datasets.list_cards)
data.command("prepare")(datasets.prepare_card)
data.command("features")(datasets.prepare_features)
data.command("check")(datasets.check)
app.add_typer(data, name="data")

adapt = typer.Typer(no_args_is_help=True, help="Domain adaptation: make labelled images that look like a target, and "
                    "see whether training on them helps.")
adapt.command("make")(adapting.make)
adapt.command("evaluate")(adapting.evaluate)
app.add_typer(adapt, name="adapt")


@app.callback()
def root(version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False) -> None:
    """High-resolution image translation that fits your GPU."""
    if version:
        from translate import __version__

        console.say(f"diptych {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command that was typed; turn an error of ours into its message and exit code."""
    console.speak_any_encoding()
    console.out.quiet = os.environ.get("RANK", "0") != "0"  # of the processes a launcher starts, only the first speaks
    try:
        app()
    except TranslateError as error:
        console.say(f"error: {error}", console.err)
        sys.exit(error.exit_code)
