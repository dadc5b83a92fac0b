"""Where commands print: results on one stream, errors on the other, lines as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from translate.errors import TranslateError

PLAIN_TABLE_WIDTH = 160  # columns of a table where no terminal says how many it has

out = Console(highlight=False)
err = Console(highlight=False, stderr=True)


def say(line: str, console: Console | None = None) -> None:
    """Print a line on `console` (by default `out`): no markup, no wrapping, undecodable file names made printable."""
    printable = line.encode("utf-8", "backslashreplace").decode()
    (console or out).print(printable, markup=False, highlight=False, soft_wrap=True)


def say_table(table: Table) -> None:
    """Print a table, `PLAIN_TABLE_WIDTH` columns wide where there is no terminal."""
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
