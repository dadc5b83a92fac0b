"""Everything that can go wrong for a user, as one hierarchy of exceptions.

    TranslateError                 exit 1   an internal failure; anything not listed here
    ├── UsageError                 exit 2   a command was called with words that do not fit together
    │   ├── RecipeError                     a recipe or a card has mistakes (all of them)
    │   ├── DataError                       a data set, card or folder is not what the recipe says
    │   │   └── NoData                      a folder or a split is missing or empty
    │   ├── RunError                        a run folder exists, is missing, or belongs to another recipe
    │   ├── DocumentError                   a JSON file is damaged, or holds something else than was written there
    │   └── MissingExtra                    an optional library is not installed
    ├── ImageError                 exit 3   one image file cannot be read or written
    │   └── TooLarge                        it would take more memory than it may
    ├── CheckpointError            exit 4   no checkpoint or release could be read and verified
    ├── DoesNotFit                 exit 5   the work does not fit into the memory that was allowed
    ├── Collapsed                  exit 6   a training is lost, and going back has not helped
    ├── DiskError                  exit 74  the disk is full or cannot be written
    ├── NetworkError               exit 74  a server cannot be reached, or has broken off
    └── Stopped                    exit 75  a signal asked us to stop; the work can be resumed

Without an exception, `translate data check` exits with 5 where it has found errors, and `convert` as
`translate.convert.Summary.exit_code` says.

An error is a value: `what` is wrong, the `path` it is about, and `advice` on what to do. Text is made of it in one
place, by `str`, and the command line prints that; nobody else takes the text apart. A user's mistake is one of these; a
programmer's is an `assert`. The command line turns the class into its exit code (`sysexits.h` where a number exists
there).
"""

from __future__ import annotations

import errno
import shlex
import shutil
import unicodedata
from pathlib import Path
from typing import Any, NamedTuple

# Letters that turn the direction of text
TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
RECIPE_PLACEHOLDER = "{recipe}"  # in an advice: stands for the name of the recipe, which only the command line knows


class TranslateError(Exception):
    """The root of the hierarchy: catch this to catch everything the toolkit says on purpose.

    Every error can be pickled with its fields: loader workers and processes send them to each other.
    """

    exit_code = 1
    saved: str | None = None  # what is kept of the work, and how it goes on once the fault is gone; after the fault
    recipe = "RECIPE"  # shown where the advice holds `RECIPE_PLACEHOLDER`; the command line sets it to the real name

    def __init__(self, what: str, path: Path | str | None = None, advice: str | None = None):
        """
        what: the fault, in words: what arrived, and what was expected.
        path: the file or folder that it is about; as text, a field of a recipe, a package, an address.
        advice: what to do. `RECIPE_PLACEHOLDER` in it is shown as the recipe's name, as a shell takes it.
        """
        super().__init__(what)
        self.what, self.path, self.advice = what, path, advice

    def __str__(self) -> str:
        advice = self.advice and self.advice.replace(RECIPE_PLACEHOLDER, shlex.quote(self.recipe))
        return _sentence(self.path, self.what, advice)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the fields and not the arguments of the constructor, which each class has of its own."""
        return _without_fields, (type(self),), self.__dict__ | {"args": self.args}


def visible(name: object) -> str:
    """Return a name as a line of text can show it.

    Files may be called anything. What ends a line, moves the cursor, turns the direction of text, or is no text at all
    stands as its number: a name that was printed as it is could erase a line, or forge one.
    """
    text = str(name)
    return text if text.isprintable() else "".join(
        letter.encode("unicode_escape").decode() if _is_invisible(letter) else letter for letter in text)


def _is_invisible(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp", "Cn") or letter in TURNING


def _without_fields(kind: type[TranslateError]) -> TranslateError:
    return kind.__new__(kind)


def _sentence(path: Path | str | None, what: str, advice: str | None) -> str:
    """Return `path: what; advice`; the advice is on a line of its own where one of the two takes several lines."""
    text = f"{visible(path)}: {what}" if path else what
    return text if advice is None else text + ("\n" if "\n" in what + advice else "; ") + advice


class UsageError(TranslateError):
    """The words of a command, or of a call, do not fit together."""

    exit_code = 2


class Mistake(NamedTuple):
    """What is wrong with one field of a recipe or a card."""

    path: str  # of the field, as in `stages.0.images`; empty for the document as a whole
    what: str
    advice: str | None = None
    source: Path | str | None = None  # what to edit: a file, or an option such as `--set stages.0.images`

    def __str__(self) -> str:
        return _sentence(self.place, self.what, self.advice)

    @property
    def place(self) -> str:
        """The source and the field in it; the field once, where the source is an override of this very field."""
        source = str(self.source or "")
        return source if source.endswith(f" {self.path}") else ": ".join(filter(None, (source, self.path)))


class RecipeError(UsageError):
    """A recipe or a card has mistakes; `mistakes` holds every one of them, `lines` says each in words.

    `path`, `what` and `advice` are those of a single mistake; of several, `what` holds all lines.
    """

    def __init__(self, *mistakes: Mistake):
        self.mistakes = mistakes
        if len(mistakes) == 1:
            super().__init__(mistakes[0].what, mistakes[0].place, mistakes[0].advice)
        else:
            super().__init__("\n".join(self.lines))

    @property
    def lines(self) -> list[str]:
        return [str(mistake) for mistake in self.mistakes]


class DataError(UsageError):
    """A data set, a card or a folder is not what the recipe says it is."""

    @classmethod
    def of(cls, error: TranslateError, advice: str | None = None) -> DataError:
        """Return the fault of another error as one of this class, with its own advice where no other is given."""
        return cls(error.what, error.path, advice or error.advice)


class NoData(DataError):
    """A folder or a split of images is missing or empty.

    A class of its own, because some data are optional: their absence is no fault, and damaged ones are.
    """


class RunError(UsageError):
    """A run folder exists already, is missing, or belongs to another recipe."""


class DocumentError(UsageError):
    """A JSON file is damaged, or holds something else than what is written there."""


class MissingExtra(UsageError):
    """An optional library is not installed; names the extra that brings it."""

    def __init__(self, library: str, extra: str, purpose: str):
        super().__init__(f"{purpose} needs {library}", advice=f"run: pip install 'diptych[{extra}]'")


class ImageError(TranslateError):
    """One image file cannot be read or written.

    `stage` is where it failed (`find`, `read`, `convert`, `write`), so that a ledger can say more than "failed".
    """

    exit_code = 3
    path: Path

    def __init__(self, path: Path | str, stage: str, reason: str):
        super().__init__(f"{stage}: {reason}", Path(path))
        self.stage, self.reason = stage, reason


class TooLarge(ImageError):
    """One image, decoded or enlarged, would take more memory than it may. It may be sound all the same."""


class CheckpointError(TranslateError):
    """No checkpoint or release could be read and verified."""

    exit_code = 4


class DoesNotFit(TranslateError):
    """The work does not fit into the memory that was allowed."""

    exit_code = 5


class Collapsed(TranslateError):
    """A training is lost: the guard has seen a sign of it that lasts, and going back has not helped."""

    exit_code = 6


class NetworkError(TranslateError):
    """A server cannot be reached, or has broken off. What has arrived is kept."""

    exit_code = 74


class DiskError(TranslateError):
    """The disk is full or cannot be written. What stood there before is intact."""

    exit_code = 74

    @classmethod
    def of(cls, error: OSError, path: Path, needed: int | None = None) -> DiskError:
        """Return the error of the operating system.

        Where the disk itself failed, with the free bytes, and the `needed` ones where they are known.
        """
        if not is_disk_fault(error):
            return cls(error.strerror or str(error), path)
        try:
            free = f"{shutil.disk_usage(path if path.is_dir() else path.parent).free:,} bytes free"
        except OSError:
            free = "free space unknown"
        wants = "" if needed is None else f"{needed:,} bytes needed, "
        return cls(f"{error.strerror or error} ({wants}{free})", path)


class Stopped(TranslateError):
    """A signal asked us to stop. Everything finished is saved and the work can be resumed."""

    exit_code = 75


def is_disk_fault(error: BaseException) -> bool:
    """Tell whether the disk itself failed (full, over quota, read-only, I/O): then every other file fails as well."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
