"""The folder that uploads are in while they are translated. Nothing in it outlives its request or the server."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from translate import files

START, LOCK = "diptych-serve-", "in-use"


@contextmanager
def workplace() -> Iterator[Path]:
    """Yield a fresh folder, only for its owner, and remove it afterwards: also those of servers that were killed.

    Raises `DiskError`.
    """
    place = Path(tempfile.gettempdir())
    with files.as_disk_errors(place):
        for left in place.glob(f"{START}*"):
            _remove_left_behind(left)
        folder, lock = _held_folder()
    try:
        with lock:
            yield folder
    finally:
        files.remove_folder(folder)


def _remove_left_behind(folder: Path) -> None:
    """Remove a folder of ours that no server holds. One of somebody else, or a link, is left alone."""
    with suppress(OSError):
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid():
            with files.appending(folder / LOCK) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                files.remove_folder(folder)


def _held_folder() -> tuple[Path, BinaryIO]:
    """Return a new folder, and its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=START))
        with suppress(FileNotFoundError):
            lock = files.appending(folder / LOCK)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (folder / LOCK).exists():  # not taken for a leftover before it was held
                return folder, lock
            lock.close()


@contextmanager
def one_folder(workplace: Path) -> Iterator[Path]:
    """Yield a folder for one request, and remove it afterwards. Raises `DiskError`."""
    with files.as_disk_errors(workplace):
        folder = Path(tempfile.mkdtemp(dir=workplace))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
