"""The ledgers of a folder as files: what each process calls its own, which are there, and many folded into one.

A process that adds to a ledger holds it (`flock`), and no two have one of the same name. Its plain name is taken where
the lock is told to all, which it is on a disk of this machine. On a disk that several machines share, and where
somebody else holds that name, a random part is added: host names, process numbers and containers repeat, and locks of
network disks may hold within one machine only.

Ledgers at rest are folded into a new one of another name, and only then removed. So two processes that fold at once
lose nothing, with locks or without: rows are then there twice.
"""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO

from translate import files
from translate.convert.jobs import LEDGERS, Shard

MANY = 16  # ledgers at rest that are folded into one
REST_SECONDS = 3600.0  # since a ledger's last line: its writer is gone, also where the disk's locks do not tell


class Held:
    """The ledger that a process adds to, held until it is closed."""

    def __init__(self, folder: Path, shard: Shard | None = None):
        """Take the plain name, or one that nobody else has. Raises `OSError`."""
        plain = f"{LEDGERS}-{shard.index}-of-{shard.num}" if shard else LEDGERS
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{plain}.jsonl"
        taken = None if files.is_shared(folder) else _take(self.path)
        while taken is None:
            self.path = folder / f"{plain}-{uuid.uuid4().hex[:16]}.jsonl"
            taken = _take(self.path)
        self._file = taken

        # A line that a crash has cut must not swallow the next one.
        end = self._file.seek(0, os.SEEK_END)
        if end and os.pread(self._file.fileno(), 1, end - 1) != b"\n":
            self._file.write(b"\n")
            self._file.flush()

    def close(self) -> None:
        """Let go of it; one without a line is removed."""
        with suppress(OSError):
            if not os.fstat(self._file.fileno()).st_size:
                self.path.unlink(missing_ok=True)
        self._file.close()


def _take(path: Path) -> BinaryIO | None:
    """Open a ledger and hold it; None where somebody else does. Raises `OSError`."""
    while True:
        file = files.appending(path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError:  # a disk without locks: the name is our own all the same, or is_shared has said so
            return file
        mine = os.fstat(file.fileno())
        with suppress(FileNotFoundError):
            if path.stat().st_ino == mine.st_ino and mine.st_nlink == 1:  # nobody has removed it in between
                return file
        if mine.st_nlink > 1:
            files.unshare(path)
        file.close()


def find_ledgers(folder: Path) -> list[Path]:
    """List the ledgers of a folder: no folders, pipes, or links that lead nowhere. Raises `OSError`.

    Twice, until two lists agree: a folder that is read while one ledger is replaced by another may show neither.
    """
    found: list[Path] | None = None
    while found != (found := _listed(folder)):
        pass
    return found


def _listed(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(path for entry in entries if entry.name.startswith(LEDGERS) and entry.name.endswith(".jsonl")
                          and (path := folder / entry.name).is_file())
    except (FileNotFoundError, NotADirectoryError):
        return []


def fold(folder: Path, kept_lines: Callable[[Sequence[Path]], Iterator[bytes]]) -> Path | None:
    """Fold the ledgers at rest of a folder into a new one where they are many, and return that.

    `kept_lines` yields the lines of given ledgers that still say something. Raises `OSError`.
    """
    with ExitStack() as held:
        resting = [path for path in find_ledgers(folder) if _rests(path, held)]
        if len(resting) < MANY:
            return None
        folded = folder / f"{LEDGERS}-{uuid.uuid4().hex[:16]}.jsonl"
        with files.replacing(folded) as file:
            for line in kept_lines(resting):
                file.write(line)
        for path in resting:
            path.unlink(missing_ok=True)
    return folded


def _rests(path: Path, held: ExitStack) -> bool:
    """Return whether nobody adds to a ledger any more; it is then `held`."""
    with suppress(OSError):
        if time.time() - path.stat().st_mtime > REST_SECONDS and (file := _take(path)) is not None:
            held.enter_context(file)
            return True
    return False
