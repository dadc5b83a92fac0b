"""Unpacking untrusted archives: plain files alone, below the given folder alone, and within a limit of bytes."""

from __future__ import annotations

import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from translate.errors import DataError, DiskError, is_disk_fault, visible

MAX_MEMBERS = 2_000_000
MAX_DEPTH = 64  # folders inside each other: what lies deeper than some 1,000 cannot even be removed in the usual way
NOTHING_KEPT = "nothing of the archive was kept"
# What zipfile and tarfile raise for a damaged archive.
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, RuntimeError, NotImplementedError)


def unpack(archive: Path, folder: Path, limit: int, only: Collection[str] | None = None) -> None:
    """Write the members of a zip or tar archive into `folder`, all of them or those that `only` names.

    Raises `DataError` for links, devices, absolute paths, paths through `..`, a second member of the same name, more
    than `limit` bytes in all (counted as they are written, whatever the archive declares), a damaged archive, and a
    name of `only` that is not in it. Raises `DiskError` where the disk is full.
    """
    written, found = 0, set()
    try:
        for name, stream in _members(archive):
            if only is not None and name not in only:
                continue
            found.add(name)
            target = folder / _inside(archive, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with stream, target.open("xb") as file:
                while piece := stream.read(1 << 20):
                    written += len(piece)
                    if written > limit:
                        raise DataError(f"unpacks to more than the {limit:,} bytes its card allows; {NOTHING_KEPT}",
                                        archive)
                    file.write(piece)

    # Say of every fault what was wrong with the archive, or with the disk.
    except DAMAGE as error:
        raise DataError(f"damaged ({type(error).__name__}: {error})", archive, "delete it and prepare again") from error
    except (FileExistsError, NotADirectoryError) as error:
        name = visible(Path(error.filename).relative_to(folder))
        raise DataError(f"holds {name} twice; {NOTHING_KEPT}", archive) from None
    except OSError as error:
        if is_disk_fault(error):
            raise DiskError.of(error, folder) from error
        raise DataError(error.strerror or str(error), archive) from error

    if only is not None and (missing := sorted(set(only) - found)):
        raise DataError(f"holds no {', '.join(map(visible, missing))}", archive, "it may be another version of this "
                        "archive")


def only_folder(folder: Path) -> Path:
    """Return the folder that holds the data: archives often wrap everything in one folder of their own name."""
    inside = [entry for entry in folder.iterdir() if not entry.name.startswith((".", "__MACOSX"))]
    wraps = len(inside) == 1 and inside[0].is_dir() and not inside[0].name.startswith(("train", "test", "val"))
    return only_folder(inside[0]) if wraps else folder


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield (name, content) of every file. Raises `DataError` for members that are neither files nor folders."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            for number, member in enumerate(file.infolist()):
                kind = stat.S_IFMT(member.external_attr >> 16)
                _accept(archive, member.filename, number, kind in (0, stat.S_IFREG, stat.S_IFDIR))
                if not member.is_dir():
                    yield member.filename, file.open(member)
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tar:
            for number, entry in enumerate(tar):
                _accept(archive, entry.name, number, entry.isfile() or entry.isdir())
                if hasattr(tarfile, "data_filter"):  # Python's own checks as well, which it has from 3.11.4 on
                    tarfile.data_filter(entry, str(archive.parent))
                content = tar.extractfile(entry)
                if content is not None:
                    yield entry.name, content
    else:
        raise DataError("neither a zip nor a tar archive", archive, "an error page may have been downloaded in its "
                        "place: delete it and prepare again")


def _accept(archive: Path, name: str, number: int, plain: bool) -> None:
    """Raise `DataError` for a member that is not `plain` (a file or a folder), leads elsewhere, or is one too many."""
    if len(_inside(archive, name).parts) > MAX_DEPTH:
        raise DataError(f"{name[:60]!r}… lies in more than {MAX_DEPTH} folders; {NOTHING_KEPT}", archive)
    if not plain:
        raise DataError(f"{name!r} is a link or a device; {NOTHING_KEPT}", archive)
    if number >= MAX_MEMBERS:
        raise DataError(f"more than {MAX_MEMBERS:,} members; {NOTHING_KEPT}", archive)


def _inside(archive: Path, name: str) -> PurePosixPath:
    """Return a member's path below the folder that it is unpacked into. Raises `DataError` where it leads out of it."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", name) or "\0" in name:
        raise DataError(f"{name!r} leads out of the folder it is unpacked into; {NOTHING_KEPT}", archive)
    return path
