"""All commands, in the order in which `--help` lists them, and `main`, which runs one.

A command parses its words, calls the wing that does the work, and prints what comes back. Its module imports nothing
heavy before it is called, so that `translate --help` needs no torch.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from translate.cli import (
    adapting,
    console,
    converting,
    datasets,
    evaluating,
    interop,
    publishing,
    sampling,
    serving,
    training,
)
from translate.cli.existence import refuse_missing
from translate.errors import Stopped, TranslateError, UsageError
from translate.host.launcher import launched
from translate.host.signals import ending_once_stopped

# Before torch is imported, and by the program alone: who imports the package keeps the environment that it has.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads would spin on the cores the loaders need


class Command(TyperCommand):
    """A command that takes `~` for the home directory in every path: no shell does in `--run=~/x` and in quotes."""

    def invoke(self, ctx: Any) -> Any:
        ctx.params = {name: at_home(value) for name, value in ctx.params.items()}
        return super().invoke(ctx)


class TorchCommand(Command):
    """A command that needs PyTorch: where that takes long to load, as after a start of the machine, a line says so."""

    def invoke(self, ctx: Any) -> Any:
        # What costs nothing to know is said first.
        words, inside = [ctx.info_name], ctx.parent
        while inside is not None and inside.parent is not None:
            words, inside = [inside.info_name, *words], inside.parent
        if not ctx.args:  # surplus arguments are refused by the command itself, which knows what they may be
            refuse_missing(" ".join(words), {name: at_home(value) for name, value in ctx.params.items()})
        console.load_torch()
        return super().invoke(ctx)


def at_home(value: Any) -> Any:
    """Return the value of an argument or option, the paths in it without `~`. Raises `UsageError` for no user."""
    if isinstance(value, list | tuple):
        return type(value)(at_home(each) for each in value)
    if isinstance(value, Path) or (isinstance(value, str) and value.startswith("~/")):
        try:
            return type(value)(Path(value).expanduser())
        except RuntimeError:
            raise UsageError("nobody of this name has a home directory here", value, "write ./ before a file that is "
                             "called so") from None
    return value


app = typer.Typer(no_args_is_help=True, add_completion=False,
                  context_settings={"help_option_names": ["-h", "--help"]})  # which all commands take over
app.command(cls=Command)(training.new)  # it loads PyTorch when what is asked for can be done
app.command(cls=TorchCommand)(training.train)
app.command(cls=TorchCommand, context_settings={"allow_extra_args": True})(converting.convert)  # an unquoted glob
app.command(cls=TorchCommand)(sampling.sample)
app.command(cls=TorchCommand)(serving.serve)
app.command(cls=TorchCommand)(evaluating.evaluate)
app.command(cls=TorchCommand)(evaluating.report)
app.command(cls=TorchCommand)(evaluating.compare)
app.command(cls=TorchCommand)(training.plan)
app.command(cls=Command)(training.recipes)
app.command("import", cls=TorchCommand)(interop.import_checkpoint)
app.command(cls=TorchCommand)(interop.export)
app.command("export-pth", cls=TorchCommand)(interop.export_pth)
app.command(cls=TorchCommand)(publishing.publish)

data = typer.Typer(no_args_is_help=True, help="Data sets: list the cards, prepare one, check a folder, align "
                   "pairs.")
data.command("list", cls=TorchCommand)(datasets.list_cards)
data.command("prepare", cls=TorchCommand)(datasets.prepare_card)
data.command("features", cls=TorchCommand)(datasets.prepare_features)
data.command("check", cls=TorchCommand)(datasets.check)
data.command("align", cls=TorchCommand)(datasets.align)
app.add_typer(data, name="data")

adapt = typer.Typer(no_args_is_help=True, help="Domain adaptation: make labelled images that look like a target, and "
                    "see whether training on them helps.")
adapt.command("make", cls=TorchCommand)(adapting.make)
adapt.command("evaluate", cls=TorchCommand)(adapting.evaluate)
app.add_typer(adapt, name="adapt")


@app.callback()
def root(version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False) -> None:
    """High-resolution image translation that fits your GPU."""
    if version:
        from translate import __version__

        console.say(f"diptych {__version__}")
        raise typer.Exit


@functools.cache
def command_line() -> Any:
    """Return all commands with their arguments; reading them from the signatures of the functions takes 0.1 s."""
    return typer.main.get_command(app)


def main() -> None:
    """Run the command that was typed; turn an error of ours into its message and exit code."""
    console.speak_any_encoding()
    console.out.quiet = launched("RANK", 0) > 0  # of the processes a launcher starts, only the first speaks
    try:
        with ending_once_stopped():
            command_line()()
    except Stopped as stop:  # as it was asked to
        console.say(str(stop), console.err)
        sys.exit(stop.exit_code)
    except TranslateError as error:
        console.say(f"error: {error}", console.err)
        if error.saved is not None:
            console.say(error.saved, console.err)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        console.say(f"error: {error.filename}: {error.strerror}", console.err)  # of any path that was typed
        sys.exit(UsageError.exit_code)
