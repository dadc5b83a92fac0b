"""Everything that can go wrong for a user, as one family of exceptions.

    TranslateError                 exit 1   an internal failure; anything not listed here
    ├── UsageError                 exit 2   a command was called with words that do not fit together
    │   ├── RecipeError                     a recipe has mistakes (all of them, one a line)
    │   ├── DataError                       a data set, card or folder is not what the recipe says
    │   │   └── NoData                      there is no such folder or split, or it is empty
    │   ├── RunError                        a run folder exists, is missing, or belongs to another recipe
    │   └── MissingExtra                    an optional library is not installed
    ├── ImageError                 exit 3   one image file cannot be read or written
    ├── CheckpointError            exit 4   no checkpoint or release could be read and verified
    ├── DoesNotFit                 exit 5   the work does not fit into the memory that was allowed
    ├── Collapsed                  exit 6   a training is lost, and going back has not helped
    ├── DiskError                  exit 74  the disk is full or cannot be written
    └── Stopped                    exit 75  a signal asked us to stop; the work can be resumed

A message says what arrived, where, and what to do. A user's mistake is one of these; a programmer's is an
`assert`. The command line turns the class into its exit code (`sysexits.h` where a number exists there).
"""

from __future__ import annotations

import errno
import shutil
from pathlib import Path


class TranslateError(Exception):
    """The root of the family: catch this to catch everything the toolkit says on purpose."""

    exit_code = 1


class UsageError(TranslateError):
    """The words of a command, or of a call, do not fit together."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe has mistakes; `lines` holds every one of them."""

    def __init__(self, lines: list[str]):
        self.lines = list(lines)
        super().__init__("\n".join(self.lines))


class DataError(UsageError):
    """A data set, a card or a folder is not what the recipe says it is."""


class NoData(DataError):
    """There is no such folder or split, or nothing in it: nobody has said anything wrong of it yet."""


class RunError(UsageError):
    """A run folder exists already, is missing, or belongs to another recipe."""


class MissingExtra(UsageError):
    """An optional library is not installed; names the extra that brings it."""

    def __init__(self, library: str, extra: str, purpose: str):
        super().__init__(f"{purpose} needs {library}: pip install 'diptych[{extra}]'")


class ImageError(TranslateError):
    """One image file cannot be read or written.

    `stage` is where it failed (`find`, `read`, `convert`, `write`), so that a ledger can say more than "failed".
    """

    exit_code = 3

    def __init__(self, path: Path | str, stage: str, reason: str):
        self.path, self.stage, self.reason = Path(path), stage, reason
        super().__init__(f"{path}: {stage}: {reason}")

    def __reduce__(self) -> tuple[type[ImageError], tuple[Path, str, str]]:
        """Rebuilt from its three parts when a loader's worker sends it to the parent."""
        return type(self), (self.path, self.stage, self.reason)


class CheckpointError(TranslateError):
    """No checkpoint or release could be read and verified."""

    exit_code = 4


class DoesNotFit(TranslateError):
    """The work does not fit into the memory that was allowed."""

    exit_code = 5


class Collapsed(TranslateError):
    """A training is lost: the guard has seen a sign of it that lasts, and going back has not helped."""

    exit_code = 6


class DiskError(TranslateError):
    """The disk is full or cannot be written. What stood there before is intact."""

    exit_code = 74

    @classmethod
    def of(cls, error: OSError, path: Path, needed: int | None = None) -> DiskError:
        """Say path, needed and free bytes: what a person needs in order to make room."""
        try:
            free = f"{shutil.disk_usage(path if path.is_dir() else path.parent).free:,} bytes free"
        except OSError:
            free = "free space unknown"
        wants = "" if needed is None else f"{needed:,} bytes needed, "
        return cls(f"{path}: {error.strerror or error} ({wants}{free})")


class Stopped(TranslateError):
    """A signal asked us to stop. Everything finished is saved and the work can be resumed."""

    exit_code = 75


def is_disk_fault(error: BaseException) -> bool:
    """True for errors of the disk itself (full, quota, read-only, I/O), which no other file will escape."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
