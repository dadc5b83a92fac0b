"""What a launcher such as torchrun tells each of its processes, by environment variables.

    RANK, WORLD_SIZE               which of how many it is
    LOCAL_RANK, LOCAL_WORLD_SIZE   the same among those of its machine

Job scripts have variables of these names for ends of their own: one that holds no whole number is no launcher's.
"""

from __future__ import annotations

import os

from translate.errors import UsageError, visible

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


def launched(name: str, otherwise: int) -> int:
    """Return the number that a launcher has set, of processes at least 1; `otherwise` where there is no launcher."""
    number = _number(name, os.environ.get(name, ""))
    return otherwise if number is None else number


def num_processes_here(otherwise: int = 1) -> int:
    """Return how many processes of one launcher share this machine, as it tells; `otherwise` without a launcher."""
    return launched("LOCAL_WORLD_SIZE", otherwise)


def check_launcher() -> None:
    """Raise `UsageError`, which names the variable, where one holds what no launcher sets: libraries take it as theirs.
    """
    for name in NAMES:
        value = os.environ.get(name)
        if value is not None and _number(name, value) is None:
            raise UsageError(f"{name}={visible(value)} in the environment: expected the whole number that a launcher "
                             "sets", advice=f"unset {name}, or start the processes with torchrun")


def _number(name: str, text: str) -> int | None:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 8 else None
    return None if number == 0 and name.endswith("SIZE") else number
