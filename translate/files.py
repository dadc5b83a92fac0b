"""Writing files so that nothing finished is ever lost and no half file is seen under a final name.

Every output of the toolkit is written to a temporary name in its own folder, flushed to the disk, and renamed. A
temporary name is short and hashed: a 255-byte name plus a suffix would be refused by the file system.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from translate.errors import DiskError

TEMPORARY = ".tmp-"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that becomes `path`, complete and on the disk, when the block ends without an error.

    On an error, or when the process dies, whatever stood at `path` before is untouched.
    """
    temporary = path.with_name(f"{temporary_start(path)}{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def temporary_start(path: Path) -> str:
    """How the temporary names of `path` start; the number of the process that writes it follows."""
    return f"{TEMPORARY}{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]}-"


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, atomically."""
    with replacing(path) as file:
        file.write(content)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as readable JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True, allow_nan=True) + "\n").encode())


@contextmanager
def naming_disk_faults(path: Path) -> Iterator[None]:
    """Turn the errors of the disk into `DiskError`s that name `path` and the free bytes."""
    try:
        yield
    except OSError as error:
        raise DiskError.of(error, path) from error


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable (a rename is only on the disk when its folder is)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exchange_folder(building: Path, final: Path) -> None:
    """Rename a finished folder to `final`; what stood there is moved aside first and removed last."""
    aside = final.with_name(f"{TEMPORARY}old-{final.name}")
    shutil.rmtree(aside, ignore_errors=True)
    if final.exists():
        final.rename(aside)
    building.rename(final)
    sync_folder(final.parent)
    shutil.rmtree(aside, ignore_errors=True)


def finish_exchanges(folder: Path) -> None:
    """Put back what an `exchange_folder` in `folder` had moved aside when its process died between its two renames."""
    start = f"{TEMPORARY}old-"
    for aside in folder.glob(f"{start}*"):
        final = folder / aside.name.removeprefix(start)
        if not final.exists():
            aside.rename(final)
    sync_folder(folder)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_checksums: dict[tuple[int, int, int, int], str] = {}


def checksum(path: Path) -> str | None:
    """The SHA-256 of a file as it is now; None where it cannot be read.

    A process reads a file once for as long as it stays as it is, under all of its names: sets of 60 GB are looked at
    from several sides.
    """
    try:
        status = path.stat()
        known = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if known not in _checksums:
            _checksums[known] = sha256(path)
        return _checksums[known]
    except OSError:
        return None


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Add one record to a JSON-lines file, in a single write, flushed to the disk."""
    with path.open("ab") as file:
        file.write((json.dumps(record, ensure_ascii=True) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file. A last line that was cut by a crash is left out."""
    records = []
    if path.exists():
        for line in path.read_bytes().split(b"\n"):
            with suppress(ValueError):
                record = json.loads(line) if line.strip() else None
                if isinstance(record, dict):
                    records.append(record)
    return records
