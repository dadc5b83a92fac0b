"""A cache: a result is reused while its inputs are unchanged.

Beside everything that was made stands its record, a JSON file that is written last. Its `made_from` says what the thing
was made from, and is compared with what it would be made from now; the rest is what is to be known of it later:

    checked.json        labels and images that were found good
    task.json           a task network (in judge/ and in task/, and in classifier/ of a run from noise)
    matched.json        source images that were made to look like the target without a translator
    preservation.json   an adapted set, and what the judge says of it

Three other things tell for themselves whether they are reused: translations by the ledger of the converter, translators
by their run folders (`translate.adapt.translators`), rows of the table by what they were trained on
(`translate.adapt.table`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from translate import files
from translate.errors import DocumentError
from translate.foreign import SHA256, Count, Document, Shape, hold_to, read_json

MADE_FROM = "made_from"
CALLED_BEFORE = ("digest", "about")  # what `made_from` is called in checked.json and task.json of earlier versions
Record = dict[str, Any]


class TaskRecord(Shape):
    """What others read of `task.json` and `consistency.json`."""

    sha256: SHA256
    made_from: dict[str, Any]


class ClassRecord(Shape):
    """What a `SetRecord` says of a class, or of all of them."""

    num: Count
    num_kept: Count
    num_held_out: Count
    changed: float | None
    changed_held_out: float | None
    wrong_untranslated: float | None
    wrong_translated: float | None


class SetRecord(Shape):
    """What others read of `preservation.json`."""

    hash: SHA256 | None
    counts: dict[Literal["kept", "rejected", "failed"], Count]
    warnings: list[str]
    sets: Annotated[int, Field(ge=1, le=10_000)] = 1  # older versions wrote none
    trained_here: bool = True
    reject: float | None
    match: str | None = None
    of: str
    classes: dict[str, ClassRecord]
    all: ClassRecord
    flagged: list[str]
    unsure: list[str]
    unknown: list[str]
    kernel_distance: dict[Literal["untranslated", "translated"], float] | None


def cached(path: Path, made_from: Any, make: Callable[[], Record],
           is_whole: Callable[[Record], bool] = lambda record: True, shape: Any = Document) -> Record:
    """Return the record of something that is made from `made_from`, after making it where that is needed.

    path       where the record lies
    made_from  all that the thing depends on, as JSON has it: of much, its `digest`
    make       makes it, and returns what its record is to say
    is_whole   whether the thing is still as its record says
    shape      what its record is to look like; of another one, it is made again

    Raises what `make` raises, and `DiskError`.
    """
    try:
        record = read_record(path, shape)
    except DocumentError:
        record = None
    if record is None or record[MADE_FROM] != made_from or not is_whole(record):
        record = make() | {MADE_FROM: made_from}
        write_record(path, record)
    return record


def refuse_linked_folders(home: Path) -> None:
    """Raise `DiskError` where a link to a folder lies among the folders that results are written into."""
    for each in sorted(home.iterdir()) if home.is_dir() else ():
        if each.is_dir():
            with files.as_disk_errors(each):
                files.refuse_link(each)


def read_record(path: Path, shape: Any = Document) -> Record | None:
    """Return a record, also one of an earlier version; None where there is none. Raises `DocumentError`."""
    record = read_json(path)
    if not record:
        return None
    for name in CALLED_BEFORE:
        if name in record:
            record[MADE_FROM] = record.pop(name)
    try:
        hold_to(shape, record)
    except ValueError as error:
        raise DocumentError(str(error), path) from None
    return record if MADE_FROM in record else None


def write_record(path: Path, record: Record) -> None:
    """Replace a record, atomically. Raises `DiskError`."""
    with files.as_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, record)


def digest(parts: Any) -> str:
    """Return the SHA-256, in hex, of what JSON writes of `parts`."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def first_changed(expected: Iterable[tuple[Path, str | None]]) -> Path | None:
    """Return the first file that is missing or has another SHA-256 than the one beside it; None where all are whole."""
    return next((path for path, sha256 in expected if files.checksum(path) != sha256), None)


def stamp(path: Path) -> list[Any]:
    """Return what tells whether a file is the same without reading it; of one that is not there, its name alone."""
    return [str(path), *(files.stamp(path) or ())]
