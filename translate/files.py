"""Writing files so that a crash neither destroys what was there nor leaves half a file under its final name.

Every output of the toolkit is written to a temporary name in its own folder, flushed to the disk, and renamed. A
temporary name is short and hashed: file systems refuse names above 255 bytes, which a long name plus a suffix may be.
A link at any of these names is replaced or refused, and never written through.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from translate.errors import DiskError, DocumentError, visible
from translate.foreign import opened

TEMPORARY = ".tmp-"  # what every temporary name starts with
IS_LINK = "is a link, which is not written through; remove it"
SHARED_DISKS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "glusterfs",
                          "afs", "9p", "virtiofs", "ocfs2", "gfs2", "orangefs", "panfs", "wekafs", "pvfs2", "fuse"})
NUM_START_LETTERS = len(TEMPORARY) + 13  # of `temporary_start`


@dataclass
class Written:
    """What a file was when it was whole: afterwards another process may have replaced it."""

    size: int = 0
    mtime_ns: int = 0
    sha256: str = ""

    def note(self, file: BinaryIO) -> None:
        """Record size, time and hash of a file that is finished, and on the disk."""
        file.seek(0)
        self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        status = os.fstat(file.fileno())
        self.size, self.mtime_ns = status.st_size, status.st_mtime_ns


@contextmanager
def replacing(path: Path, written: Written | None = None) -> Iterator[BinaryIO]:
    """Yield a file that becomes `path`, complete and on the disk, when the block ends without an error.

    On an error, or when the process dies, whatever stood at `path` before is untouched. What became `path` is noted in
    `written`.
    """
    temporary, opened_file = _open_temporary(path)
    try:
        with opened_file as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if written is not None:
                written.note(file)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def temporary_start(path: Path) -> str:
    """Return the beginning of the temporary names of `path`; the process's number and chance follow."""
    return f"{TEMPORARY}{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]}-"


def _open_temporary(path: Path) -> tuple[Path, BinaryIO]:
    """Open a new file of a temporary name of `path`, and hold it: `remove_left_behind` leaves it alone."""
    while True:
        temporary = path.with_name(f"{temporary_start(path)}{os.getpid()}-{uuid.uuid4().hex[:8]}")
        file = temporary.open("xb+")
        fcntl.flock(file, fcntl.LOCK_EX)
        if temporary.exists():  # nobody has removed it as a leftover before it was locked
            return temporary, file
        file.close()


def remove_left_behind(temporary: Path) -> None:
    """Remove a temporary file of `replacing` where it is that of a process that was killed.

    Its name tells the number of that process. Another one may have the same number in another container or on another
    machine, so the file's lock is asked as well, which holds for all who share the disk. Raises `OSError` where
    somebody has it.
    """
    name = re.fullmatch(re.escape(TEMPORARY) + r"[0-9a-f]{12}-(\d{1,10})(-[0-9a-f]{8})?", temporary.name)
    if name is not None and (int(name[1]) == os.getpid() or not _is_running(int(name[1]))):
        with appending(temporary) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.unlink(missing_ok=True)


def _is_running(number: int) -> bool:
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def is_shared(folder: Path) -> bool:
    """Return whether a folder lies on a disk that other machines may write to as well.

    There a lock may be told to the processes of one machine only, and what another machine has written may show late.
    """
    place = Path(os.path.realpath(folder))
    kinds = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    kind = next((kinds[str(each)] for each in (place, *place.parents) if str(each) in kinds), "")
    return kind.startswith("fuse.") or kind in SHARED_DISKS


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, atomically."""
    with replacing(path) as file:
        file.write(content)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as readable JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True, allow_nan=True) + "\n").encode())


@contextmanager
def as_disk_errors(path: Path) -> Iterator[None]:
    """Raise every `OSError` of the block as a `DiskError` that names `path`; where the disk failed, the free bytes too.
    """
    try:
        yield
    except OSError as error:
        raise DiskError.of(error, path) from error


def make_folder(folder: Path, root: Path) -> None:
    """Make `folder`, which lies below `root`, and all between them. Raises `OSError` where one of those is a link.

    `root` is the place that a person has named, and may be a link; what lies in it, others may have put there.
    """
    root.mkdir(parents=True, exist_ok=True)
    for each in reversed([folder, *folder.parents][:len(folder.relative_to(root).parts)]):
        refuse_link(each)
        each.mkdir(exist_ok=True)


def refuse_link(folder: Path) -> None:
    """Raise `OSError` where there is a link in the place of a folder that is written into."""
    if folder.is_symlink():
        raise OSError(errno.ELOOP, f"{visible(folder.name)} {IS_LINK}")


def sync_folder(folder: Path) -> None:
    """Flush `folder` to the disk, without which a file that was renamed in it may not survive a crash."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exchange_folder(building: Path, final: Path) -> None:
    """Rename the finished folder `building` to `final`, in place of the folder that stood there.

    A folder cannot be replaced in one step: the old one is moved aside first and removed last, so that
    `finish_exchanges` can restore it after a crash in between.
    """
    aside = final.with_name(f"{TEMPORARY}old-{final.name}")
    remove_folder(aside)
    if os.path.lexists(final):
        final.rename(aside)
    building.rename(final)
    sync_folder(final.parent)
    remove_folder(aside)


def finish_exchanges(folder: Path) -> None:
    """Restore the folders that `exchange_folder` had moved aside in `folder` when it died before its second rename."""
    start = f"{TEMPORARY}old-"
    for aside in folder.glob(f"{start}*"):
        final = folder / aside.name.removeprefix(start)
        if not final.exists():
            aside.rename(final)
    sync_folder(folder)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex. Raises `OSError`, and `DocumentError` for a folder or a pipe."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp(path: Path) -> list[int] | None:
    """Return the size of a file and when it was written, which tell without reading it whether it is the same.

    None where there is none.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


_checksums: dict[tuple[int, int, int, int], str] = {}


def checksum(path: Path) -> str | None:
    """Return the SHA-256 of a file as it is now, in hex, or None where it cannot be read.

    Answers are kept for files whose size and time do not change: a data set of 60 GB is asked about several times.
    """
    try:
        status = path.stat()
        known = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if known not in _checksums:
            _checksums[known] = sha256(path)
        return _checksums[known]
    except (OSError, DocumentError):
        return None


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Add one record to a JSON-lines file, in a single write, flushed to the disk."""
    unshare(path)
    with appending(path) as file:
        file.write((json.dumps(record, ensure_ascii=True) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())


def appending(path: Path) -> BinaryIO:
    """Open a file to be read and added to, after making it where there is none. Raises `OSError` for a link or a pipe.

    Whoever can write into a folder could otherwise have us write through a link into a file elsewhere.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(error.errno, IS_LINK) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no plain file; remove it")
    return os.fdopen(descriptor, "ab+")


def unshare(path: Path) -> None:
    """Give `path` a file of its own where other names lead to the same one, as in snapshots made by `cp -al`.

    What is added to one name would otherwise stand under all of them. Raises `OSError`.
    """
    with suppress(FileNotFoundError):
        status = os.lstat(path)
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            copy(path, path)


def copy(there: Path, here: Path) -> None:
    """Replace `here` by a copy of the content of `there`, atomically."""
    with opened(there) as source, replacing(here) as file:
        shutil.copyfileobj(source, file)


def remove_folder(path: Path) -> None:
    """Remove a folder with all that is in it, or the link that stands in its place, as far as that is possible."""
    if path.is_symlink():
        with suppress(OSError):
            path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
