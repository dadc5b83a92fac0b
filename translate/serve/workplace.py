"""The folder that uploads are in while they are translated. Nothing in it outlives its request or the server."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from translate import files

START, LOCK = "diptych-serve-", "in-use"


@contextmanager
def workplace() -> Iterator[Path]:
    """Yield a fresh folder, only for its owner, and remove it afterwards: also those of servers that were killed."""
    place = Path(tempfile.gettempdir())
    with files.as_disk_errors(place):
        for left in place.glob(f"{START}*"):
            with suppress(OSError), files.appending(left / LOCK) as file:  # its server holds it
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                files.remove_folder(left)
        folder = Path(tempfile.mkdtemp(prefix=START))
        lock = files.appending(folder / LOCK)
    try:
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    finally:
        files.remove_folder(folder)


@contextmanager
def one_folder(workplace: Path) -> Iterator[Path]:
    """Yield a folder for one request, and remove it afterwards."""
    folder = Path(tempfile.mkdtemp(dir=workplace))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
