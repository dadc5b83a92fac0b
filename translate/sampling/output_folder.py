"""The folder that samples are written to: it holds one draw, which `samples.json` tells.

The record is written before the first image. So a draw that was interrupted goes on, and images of two draws are never
among each other.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from translate import files
from translate.errors import UsageError, visible
from translate.foreign import read_json
from translate.images.listing import is_aside

IMAGES, SHEET, SAMPLES = "images", "sheet.png", "samples.json"
LONGEST_NAME = 255  # bytes of a file's name
DRAWN = re.compile(r"([^/]+/)?(\d{8,}(-\d{8,}_\d{3,})?|mean_\d+|result)\.\w+")  # names that `planning` gives
ANOTHER = "name another OUT, or add --overwrite"


def class_folders(names: Sequence[str]) -> list[str]:
    """Return the folders that images of classes lie in, by the classes' names.

    They are the names, where each is that of one folder on any disk; else the numbers of all classes. Names may be
    those of a stranger's recipe: `..`, or a path from the root, would lead out of the folder.
    """
    one_each = len({name.casefold() for name in names}) == len(names)
    return list(names) if one_each and all(map(_is_folder_name, names)) else list(map(str, range(len(names))))


def _is_folder_name(name: str) -> bool:
    return bool(name) and name.isprintable() and not is_aside(name) and not {"/", "\\"} & set(name) \
        and len(name.encode()) <= LONGEST_NAME


def claim(out: Path, record: Mapping[str, Any], *, overwrite: bool) -> set[str]:
    """Make `out` the folder of the draw that a `record` tells, and return the names of its images that stay.

    overwrite   images of another draw are removed, those of this one drawn again

    Names are paths below `out/images`. Raises `UsageError` for what another draw, or a person, has put there,
    `DocumentError`, `DiskError`.
    """
    with files.as_disk_errors(out), _alone_in(out):
        images = out / IMAGES
        files.refuse_link(images)
        known, there = read_json(out / SAMPLES), _files_below(images)
        if known and all(known.get(key) == value for key, value in record.items()):
            return set() if overwrite else there

        # What is removed must be what a draw has written: others may have put their own images there.
        if not overwrite and (known or there or os.path.lexists(out / SHEET)):
            raise UsageError(f"holds another draw already, of {len(there)} images" if known else
                             "holds files already, and no samples.json says that they are of this draw", out, ANOTHER)
        strange = sorted(name for name in there if not (known and DRAWN.fullmatch(name)))
        if strange:
            raise UsageError(f"holds {len(strange)} files that no draw has written, the first {visible(strange[0])}",
                             images, "name another OUT, or move them away")
        for name in there:
            (images / name).unlink(missing_ok=True)
        files.write_json(out / SAMPLES, dict(record))
    return set()


def _files_below(images: Path) -> set[str]:
    """Return the plain files below a folder, whatever they are; what a system or a crash has left does not count."""
    return {(Path(folder) / name).relative_to(images).as_posix() for folder, _, names in os.walk(images)
            for name in names if not is_aside(name) and not (Path(folder) / name).is_symlink()}


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Make a folder, and wait until no other process of this draw looks at what it holds or removes some of it."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # not every disk of a network locks folders
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
