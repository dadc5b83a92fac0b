"""Unpacking untrusted archives: plain files alone, below the given folder alone, and within a limit of bytes."""

from __future__ import annotations

import importlib
import io
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

DEBIAN_MAGIC, DEBIAN_HEADER = b"!<arch>\n", 60  # bytes: how an ar archive begins, and each of its members
MAX_MEMBERS = 2_000_000
MAX_DEPTH = 64  # folders inside each other: what lies deeper than some 1,000 cannot even be removed in the usual way
NOTHING_KEPT = "nothing of the archive was kept"
# What zipfile and tarfile raise for a damaged archive.
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, RuntimeError, NotImplementedError)


def unpack(archive: Path, folder: Path, limit: int, only: Collection[str] | None = None) -> None:
    """Write the members of a zip or tar archive, or of a package of Debian, into `folder`: all, or those that `only`
    names.

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
            yield from _members_of_tar(archive, tar)
    else:
        with archive.open("rb") as file:
            yield from _members_of_tar(archive, _data_of_debian(archive, file))


def _members_of_tar(archive: Path, tar: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
    for number, entry in enumerate(tar):
        _accept(archive, entry.name, number, entry.isfile() or entry.isdir())
        if hasattr(tarfile, "data_filter"):  # Python's own checks as well, which it has from 3.11.4 on
            tarfile.data_filter(entry, str(archive.parent))
        content = tar.extractfile(entry)
        if content is not None:
            yield entry.name.removeprefix("./"), content


def _data_of_debian(archive: Path, file: IO[bytes]) -> tarfile.TarFile:
    """Return the files of a package of Debian (deb(5)): the tar archive `data.tar.*` that stands in an ar archive.

    `file` is the open archive. Raises `DataError` for anything else, and for a compression that this Python lacks.
    """
    if file.read(len(DEBIAN_MAGIC)) != DEBIAN_MAGIC:
        raise DataError("neither a zip nor a tar archive nor a package of Debian", archive, "an error page may have "
                        "been downloaded in its place: delete it and prepare again")
    while len(header := file.read(DEBIAN_HEADER)) == DEBIAN_HEADER:
        name, size = header[:16].decode("ascii", "replace").rstrip(" /"), header[48:58].decode("ascii", "replace")
        if not size.strip().isdecimal():
            break
        if name.startswith("data.tar"):
            data: IO[bytes] = io.BytesIO(file.read(int(size)))
            if name.endswith(".zst"):  # which Python's tarfile knows from 3.14 on
                return tarfile.open(fileobj=_zstandard(archive, data), mode="r|")
            return tarfile.open(fileobj=data)
        file.seek(int(size) + int(size) % 2, 1)  # members begin at even places
    raise DataError("a package of Debian without data, or a damaged one", archive, "delete it and prepare again")


def _zstandard(archive: Path, file: IO[bytes]) -> IO[bytes]:
    """Return what a file compressed by Zstandard holds. Raises `DataError` where nothing here can read it."""
    for module in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(module).ZstdFile(file)
        except ImportError:
            continue
    raise DataError("compressed by Zstandard, which this Python cannot read", archive,
                    "pip install backports.zstd, or use Python 3.14")


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
