"""Folders in object storage (s3://, gs://, az://, memory://), through fsspec.

What is put under its final name is whole: a local file, in one upload that the storage ends or forgets. Credentials are
the storage libraries' own matter: environment, configuration files, roles of the machine. The names of objects are
others' words: none of them becomes a path of this machine before `Store.refusal` has looked at it.
"""

from __future__ import annotations

import errno
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from translate import files
from translate.errors import DiskError, MissingExtra, NetworkError, UsageError

T = TypeVar("T")
LIBRARIES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "memory": "fsspec"}
WITH_ACCOUNT = ("az", "abfs")  # container@account.dfs.core.windows.net
TRIES, FIRST_PAUSE_SECONDS = 6, 0.5  # each pause is twice the one before: 16 s in all
# botocore would try each request again as well, so that one server that is gone would be waited for 35 times. s3fs does
# so five times, within two seconds: parts of a large upload are put again, and not all of it.
S3 = {"config_kwargs": {"retries": {"total_max_attempts": 1}}}
NAME_BYTES, PART_BYTES = 1024, 255  # of an object's name; of a file's
DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)  # no library of storage says these
NO_PLACE = (FileExistsError, IsADirectoryError, NotADirectoryError)  # for a name: a file where its folder would be
ADVICE = ("credentials come from where the storage's own library looks for them: its environment variables, its "
          "configuration files, the role of the machine")


def address(place: Path) -> str | None:
    """Return the address that was given in the place of a path; None for a path. Raises `UsageError`.

    `Path` has taken one of its two slashes.
    """
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/(?!/)(.*)", str(place), re.DOTALL)
    if found is None:
        return None
    scheme, rest = found[1].lower(), found[2]
    if scheme not in (*LIBRARIES, "file"):
        raise UsageError(f"{scheme}:// is no storage that is known; expected {', '.join(LIBRARIES)} or file")

    # A key may hold any letter, also a slash: nothing but the scheme is shown.
    first = rest.split("/")[0]
    if ":" in first or re.search(r":.*@", rest, re.DOTALL) or ("@" in first and scheme not in WITH_ACCOUNT):
        raise UsageError(f"this {scheme}:// address holds credentials, which others would read in logs", advice=ADVICE)
    return f"{scheme}://{rest}"


def local(place: Path) -> Path:
    """Return the path that a file:// address stands for; any other place as it is."""
    at = address(place)
    return Path("/" + at.removeprefix("file://").lstrip("/")) if at is not None and at.startswith("file://") else place


class Store:
    """A folder in object storage, or on this machine. Several threads may use it."""

    def __init__(self, place: Path):
        """Raises `MissingExtra` and `UsageError`."""
        self.at = (address(place) or str(place)).rstrip("/")
        self.scheme = self.at.split("://")[0] if "://" in self.at else "file"
        try:
            import fsspec

            self.files, root = fsspec.core.url_to_fs(self.at, use_listings_cache=False, skip_instance_cache=True,
                                                     **(S3 if self.scheme == "s3" else {}))
        except ImportError as error:
            raise MissingExtra(LIBRARIES.get(self.scheme, "fsspec"), "remote", f"{self.scheme}://") from error
        except Exception as error:  # each library has errors of its own
            raise UsageError(f"cannot be opened ({in_words(error)})", self.at, ADVICE) from None
        self.root, self.is_local = str(root).rstrip("/"), self.scheme == "file"

    def inside(self, other: Store) -> str | None:
        """Return the name of this folder below another; None where it does not lie there, empty for the same one."""
        if type(self.files) is not type(other.files) or not f"{self.root}/".startswith(f"{other.root}/"):
            return None
        return self.root[len(other.root) + 1:]

    def make(self) -> None:
        """Make the folder, where it is one of this machine. Raises `DiskError`."""
        if self.is_local:
            with files.as_disk_errors(Path(self.root)):
                Path(self.root).mkdir(parents=True, exist_ok=True)

    def refusal(self, name: str) -> str | None:
        """Return why nothing can be put under a name; None where something can."""
        parts = name.split("/")
        if ".." in parts or "." in parts or "\0" in name:
            return "its name leads out of the folder"
        if not self.is_local:
            longest = len(f"{self.root}/{name}".encode(errors="surrogateescape"))
            return f"its name has {longest} bytes there, and {NAME_BYTES} may be" if longest > NAME_BYTES else None
        if "" in parts:
            return "a part of its name is empty, which no folder of this machine can be"
        longest = max(len(part.encode(errors="surrogateescape")) for part in parts)
        return f"a part of its name has {longest} bytes, and {PART_BYTES} may be" if longest > PART_BYTES else None

    def sizes(self) -> Iterator[tuple[str, int]]:
        """Yield the names of all files below the folder, with their bytes.

        Of S3 a page at a time; other libraries list a folder at once. Raises `FileNotFoundError`, and what `_try` does.
        """
        if self.scheme == "s3":
            yield from self._pages("")
        else:
            yield from self._named(self._try(lambda: self.files.find(self.root, detail=True)).values())

    def starting(self, start: str) -> Iterator[tuple[str, int]]:
        """Yield what `sizes` does of the files that lie in the folder itself and whose names start so."""
        found = self._pages(start) if self.scheme == "s3" else self._named(
            self._try(lambda: self.files.ls(self.root, detail=True)))
        yield from ((name, size) for name, size in found if name.startswith(start) and "/" not in name)

    def _pages(self, start: str) -> Iterator[tuple[str, int]]:
        bucket, _, prefix = self.root.partition("/")
        words = {"Bucket": bucket, "Prefix": (f"{prefix}/" if prefix else "") + start}
        while True:
            page = self._try(lambda: self.files.call_s3("list_objects_v2", **words))
            yield from self._named({"name": f"{bucket}/{each['Key']}", "size": each["Size"], "type": "file"}
                                   for each in page.get("Contents", ()) if not each["Key"].endswith("/"))
            if not page.get("IsTruncated"):
                return
            words["ContinuationToken"] = page["NextContinuationToken"]

    def _named(self, found: Iterable[dict[str, Any]]) -> Iterator[tuple[str, int]]:
        start = f"{self.root}/"
        yield from ((each["name"].removeprefix(start), int(each["size"] or 0)) for each in found
                    if each["type"] != "directory" and each["name"].startswith(start))

    def fetch(self, name: str, here: Path) -> None:
        """Copy a file to this machine. Raises `FileNotFoundError`, `DiskError`, and what `_try` does."""
        self._try(lambda: self.files.get_file(f"{self.root}/{name}", str(here)), here)
        if not here.is_file():  # some libraries do not fetch a.png where there is also a.png/x.png
            files.remove_folder(here)
            raise IsADirectoryError(errno.EISDIR, "is also the folder of other objects")

    def put(self, here: Path, name: str) -> None:
        """Copy a file of this machine there, whole or not at all. Raises `OSError`, and what `_try` does."""
        if self.is_local:
            there = Path(self.root) / name
            files.make_folder(there.parent, Path(self.root))
            files.copy(here, there)
        else:
            self._try(lambda: self.files.put_file(str(here), f"{self.root}/{name}"))

    def remove(self, name: str) -> None:
        """Remove a file."""
        with suppress(FileNotFoundError):
            self._try(lambda: self.files.rm_file(f"{self.root}/{name}"))

    def _try(self, work: Callable[[], T], here: Path | None = None) -> T:
        """Do something with the storage, again where it is too busy or breaks off. `here` is written to meanwhile.

        Raises `FileNotFoundError`, `OSError` of `NO_PLACE`, `DiskError` where this machine's disk is full, `UsageError`
        where access is refused, `NetworkError` when it has failed for long.
        """
        for number in range(TRIES):
            try:
                return work()
            except (FileNotFoundError, *NO_PLACE):
                raise
            except Exception as error:  # each library has errors of its own
                if isinstance(error, OSError) and error.errno in DISK_IS_FULL:
                    raise DiskError.of(error, here or Path(self.root)) from error
                if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
                    raise UsageError(f"access is refused ({in_words(error)})", self.at, ADVICE) from None
                if number == TRIES - 1:
                    raise NetworkError(f"{in_words(error)}, {TRIES} times", self.at,
                                       "the same command goes on") from None
                time.sleep(FIRST_PAUSE_SECONDS * 2**number * random.uniform(0.5, 1.0))
        raise AssertionError


def in_words(error: Exception) -> str:
    """Return an error of a library in one line, without what an address may hold beside the place."""
    text = (str(error).splitlines() or [""])[0]
    text = re.sub(r"//\S*@", "//…@", re.sub(r"[?]\S+", "?…", text))
    return f"{type(error).__name__}: {text[:300]}"
