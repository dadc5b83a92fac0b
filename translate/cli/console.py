"""Where commands print: results on one stream, errors on the other, and nothing that a terminal would act on.

Names of files and what others have written are made visible here: by `say`, by `Table`, and by the streams themselves.
"""

from __future__ import annotations

import codecs
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from translate.errors import TranslateError, visible

LEAST_TEXT = 20  # columns of a wrapped text, however narrow the terminal
SILENT_SECONDS = 1.0  # that loading PyTorch may take without a word
STILL_SECONDS = 8.0  # between the words that it is still being loaded
PLAIN_TABLE_WIDTH = 160  # columns of a table where no terminal says how many it has

out = Console(highlight=False)
err = Console(highlight=False, stderr=True)
has_spoken = threading.Event()  # a command has said something, or shows how far it is

SPELLED = {"→": "->", "…": "...", "×": "x", "±": "+/-", "∞": "inf", "−": "-", "–": "-", "—": "-", "·": "-", "≥": ">=",
           "≤": "<=", "α": "alpha", "β": "beta", "λ": "lambda", "σ": "sigma", "°": " degrees", "²": "^2"}  # in ASCII


def spelled(error: UnicodeError) -> tuple[str, int]:
    """Return what stands for letters that a stream cannot encode: our signs in ASCII, others as their numbers."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start:error.end]
    written = (SPELLED.get(each) or each.encode("ascii", "backslashreplace").decode() for each in letters)
    return "".join(written), error.end


def speak_any_encoding() -> None:
    """Let the output streams print anything, whatever their encoding: of a pipe on Windows, or of a CI log.

    One that cannot encode a sign or a name would end the command.
    """
    codecs.register_error("translate.spelled", spelled)
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="translate.spelled")


def say(text: str, console: Console | None = None) -> None:
    """Print lines on `console` (by default `out`): no markup, no wrapping, and nothing that a terminal acts on."""
    has_spoken.set()
    lines = "\n".join(map(visible, text.split("\n")))
    (console or out).print(lines, markup=False, highlight=False, soft_wrap=True)


def load_torch() -> None:
    """Import PyTorch. Lines on `err` say so until the command says something: more is loaded and looked at after it."""
    if "torch" not in sys.modules:
        has_spoken.clear()
        threading.Thread(target=say_what_loads, name="loading", daemon=True).start()
        import_module("torch")


def say_what_loads() -> None:
    """Say that PyTorch is being loaded, and now and then that it still is, until something else is said."""
    line, seconds = "loading PyTorch …", SILENT_SECONDS
    while not has_spoken.wait(seconds):
        if not out.quiet:
            err.print(line)
        line, seconds = "still loading …", STILL_SECONDS


def say_entry(name: str, text: str) -> None:
    """Print an entry of a list: on a terminal, wrapped between its words, the lines below those of `text`; else whole.
    """
    say(name + text if not out.is_terminal else textwrap.fill(
        text, max(out.width, len(name) + LEAST_TEXT), initial_indent=name, subsequent_indent=" " * len(name),
        break_long_words=False, break_on_hyphens=False))


class Table(RichTable):
    """A table whose title and cells are shown as they are: a name in them is no markup, and ends no line."""

    def __init__(self, *headers: str, title: str, **options: Any):
        super().__init__(*map(visible, headers), title=Text(visible(title), style="table.title"), **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*(Text(visible(each)) for each in cells), **options)


def say_table(table: Table) -> None:
    """Print a table, `PLAIN_TABLE_WIDTH` columns wide where there is no terminal."""
    has_spoken.set()
    plain = Console(file=out.file, highlight=False, quiet=out.quiet, width=PLAIN_TABLE_WIDTH)
    (out if out.is_terminal else plain).print(table)


@contextmanager
def as_errors_of_recipe(recipe: str | Path) -> Iterator[None]:
    """Let the advice of an error name the recipe: code that reads images does not know where its recipe came from."""
    try:
        yield
    except TranslateError as error:
        error.recipe = str(recipe)
        raise
