"""Who trains a run: one process at a time holds the lock of its folder, and others can tell whether one does."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from translate import files
from translate.errors import DocumentError
from translate.foreign import opened

LOCK = ".lock"
SECONDS_OF_A_LOOK = 0.3  # for which somebody may hold a lock who merely looks whether a run is trained

_held: set[BinaryIO] = set()


def hold(run: Path) -> BinaryIO | None:
    """Hold the lock of a run until `let_go`, or the end of this process; None where another process holds it.

    Raises `OSError`.
    """
    lock, deadline = files.appending(run / LOCK), time.monotonic() + SECONDS_OF_A_LOOK
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                lock.close()
                return None
            time.sleep(SECONDS_OF_A_LOOK / 10)
        else:
            _held.add(lock)
            return lock


def let_go(lock: BinaryIO) -> None:
    """Let other processes in again."""
    _held.discard(lock)
    lock.close()


@contextmanager
def while_free(run: Path) -> Iterator[bool]:
    """Yield whether no process trains a run; none begins to within the block."""
    try:
        lock = opened(run / LOCK)
    except (OSError, DocumentError):  # nobody ever did, in this copy of it
        yield True
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def _drop_all() -> None:
    """Close all locks in a forked process: a loader that outlives its parent must not keep the run from others."""
    for lock in _held:
        lock.close()
    _held.clear()


os.register_at_fork(after_in_child=_drop_all)
