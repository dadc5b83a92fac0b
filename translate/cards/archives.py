"""Unpacking archives that strangers made: only files, only below the folder given, and no more than was allowed."""

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

from translate.errors import DataError, DiskError, is_disk_fault

MAX_MEMBERS = 2_000_000
NOTHING_KEPT = "nothing of the archive was kept"
BROKEN = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, RuntimeError, NotImplementedError)


def unpack(archive: Path, folder: Path, limit: int, only: Collection[str] | None = None) -> None:
    """Write the members of a zip or tar archive into `folder`, all or those named by `only`.

    Links, devices, absolute paths, paths through `..`, a second member of the same name, and more than `limit` bytes
    in all (counted as they are written, whatever the archive declares) raise `DataError`; so does a damaged archive,
    or a name of `only` that is not there.
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
    except BROKEN as error:
        raise DataError(f"damaged ({type(error).__name__}: {error})", archive, "delete it and prepare again") from error
    except (FileExistsError, NotADirectoryError) as error:
        raise DataError(f"holds {Path(error.filename).relative_to(folder)} twice; {NOTHING_KEPT}", archive) from None
    except OSError as error:
        if is_disk_fault(error):
            raise DiskError.of(error, folder) from error
        raise DataError(error.strerror or str(error), archive) from error
    if only is not None and (missing := sorted(set(only) - found)):
        raise DataError(f"holds no {', '.join(missing)}", archive, "it may be another version of this archive")


def only_folder(folder: Path) -> Path:
    """The folder that holds what an archive is about: archives often wrap it all in one folder of their own name."""
    inside = [entry for entry in folder.iterdir() if not entry.name.startswith((".", "__MACOSX"))]
    wraps = len(inside) == 1 and inside[0].is_dir() and not inside[0].name.startswith(("train", "test", "val"))
    return only_folder(inside[0]) if wraps else folder


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """(name, content) of every file; raises `DataError` for anything that is neither a file nor a folder."""
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
                if hasattr(tarfile, "data_filter"):  # Python's own list of what is dangerous, as well: from 3.11.4 on
                    tarfile.data_filter(entry, str(archive.parent))
                content = tar.extractfile(entry)
                if content is not None:
                    yield entry.name, content
    else:
        raise DataError("neither a zip nor a tar archive", archive, "an error page may have been downloaded in its "
                        "place: delete it and prepare again")


def _accept(archive: Path, name: str, number: int, plain: bool) -> None:
    _inside(archive, name)
    if not plain:
        raise DataError(f"{name!r} is a link or a device; {NOTHING_KEPT}", archive)
    if number >= MAX_MEMBERS:
        raise DataError(f"more than {MAX_MEMBERS:,} members; {NOTHING_KEPT}", archive)


def _inside(archive: Path, name: str) -> PurePosixPath:
    """A member's path below the folder that it is unpacked into."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", name) or "\0" in name:
        raise DataError(f"{name!r} leads out of the folder it is unpacked into; {NOTHING_KEPT}", archive)
    return path
