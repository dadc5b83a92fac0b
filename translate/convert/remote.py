"""Inputs and outputs that lie in object storage (s3://, gs://, az://, memory://), through fsspec.

Files come and go through a folder on this machine, a window of them at a time: while one window is translated, the
next is fetched and the former is put. What is put under its final name is whole: a local file, in one upload that the
storage ends or forgets. Objects cannot be added to, so that rows of the ledger are put in objects of up to a megabyte:
before the outputs of a window a note that these are ours, and once they are there what each was made from.

Credentials are the storage libraries' own matter: environment, configuration files, roles of the machine.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from translate import files
from translate.convert.converter import Converter
from translate.convert.jobs import LEDGERS, Job, Jobs, Naming, folder_jobs
from translate.convert.ledger import Entry, Ledger
from translate.errors import DataError, ImageError, MissingExtra, NetworkError, UsageError
from translate.images.listing import SUFFIXES, Names, is_aside

T = TypeVar("T")
LIBRARIES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "memory": "fsspec"}
WINDOW = 32  # files that are on this machine at once, three times
THREADS = 8  # that fetch, and that put
TRIES, FIRST_PAUSE_SECONDS = 7, 0.5  # each pause is twice the one before: half a minute in all
LEDGER_BYTES = 1_000_000  # of a ledger, which is put again with every window until it is as large
ADVICE = ("credentials come from where the storage's own library looks for them: its environment variables, its "
          "configuration files, the role of the machine")


def address(place: Path) -> str | None:
    """Return the address that was given in the place of a path; None for a path. Raises `UsageError`.

    `Path` has taken one of its two slashes.
    """
    found = re.match(r"([a-z][a-z0-9+.-]+):/(?!/)(.*)", str(place), re.DOTALL)
    if found is None:
        return None
    scheme, rest = found[1], found[2]
    if scheme not in (*LIBRARIES, "file"):
        raise UsageError(f"{scheme}:// is no storage that is known; expected {', '.join(LIBRARIES)} or file")
    if "@" in rest.split("/")[0]:  # shown without what stands before it
        raise UsageError(f"{scheme}://…@{rest.split('@', 1)[1]} holds credentials, which others would read in logs",
                         advice=ADVICE)
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
        scheme = self.at.split("://")[0] if "://" in self.at else "file"
        library = LIBRARIES.get(scheme, "fsspec")
        try:
            import fsspec

            self.files, root = fsspec.core.url_to_fs(self.at, use_listings_cache=False, skip_instance_cache=True)
        except (ImportError, ValueError) as error:
            raise MissingExtra(library, "remote", f"{scheme}://") from error
        self.root, self.is_local = str(root).rstrip("/"), scheme == "file"
        self.scheme = scheme

    def sizes(self) -> Iterator[tuple[str, int]]:
        """Yield the names of all files below the folder, with their bytes.

        Of S3 a page at a time; other libraries list a folder at once.
        """
        if self.scheme != "s3":
            found = self._try(lambda: self.files.find(self.root, detail=True))
            yield from ((self._name(path), int(about["size"] or 0)) for path, about in found.items())
            return
        bucket, _, prefix = self.root.partition("/")
        words = {"Bucket": bucket, "Prefix": f"{prefix}/" if prefix else ""}
        while True:
            page = self._try(lambda: self.files.call_s3("list_objects_v2", **words))
            yield from ((self._name(f"{bucket}/{each['Key']}"), int(each["Size"])) for each in page.get("Contents", ())
                        if not each["Key"].endswith("/"))
            if not page.get("IsTruncated"):
                return
            words["ContinuationToken"] = page["NextContinuationToken"]

    def _name(self, path: str) -> str:
        return path.removeprefix(self.root).lstrip("/")

    def fetch(self, name: str, here: Path) -> None:
        """Copy a file to this machine. Raises `FileNotFoundError`, and what `_try` does."""
        here.parent.mkdir(parents=True, exist_ok=True)
        self._try(lambda: self.files.get_file(f"{self.root}/{name}", str(here)))

    def put(self, here: Path, name: str) -> None:
        """Copy a file of this machine there, whole or not at all. Raises what `_try` does."""
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

    def _try(self, work: Callable[[], T]) -> T:
        """Do something with the storage, again where it is too busy or breaks off.

        Raises `FileNotFoundError`, `UsageError` where access is refused, `NetworkError` when it has failed for long.
        """
        for number in range(TRIES):
            try:
                return work()
            except FileNotFoundError:
                raise
            except Exception as error:  # each library has errors of its own
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
    text = re.sub(r"//[^/@ ]+@", "//…@", re.sub(r"[?]\S+", "?…", text))
    return f"{type(error).__name__}: {text[:300]}"


class RemoteLedger(Ledger):
    """The ledgers of a folder in storage. What is added to it waits, until `take` puts it where the outputs are."""

    def __init__(self, store: Store, folder: Path):
        self.store, self.sizes, self._fetched = store, dict[int, int](), dict[str, int]()
        self.rows: list[dict[str, Any]] = []
        folder.mkdir(parents=True)
        self._copies = folder
        self.look_at_outputs()
        super().__init__(folder)

    def look_at_outputs(self) -> None:
        """List what lies there: the bytes of each output by the hash of its name, and ledgers, which are fetched."""
        with suppress(FileNotFoundError):
            for name, size in self.store.sizes():
                if name.startswith(LEDGERS) and name.endswith(".jsonl"):
                    if self._fetched.get(name) != size:
                        self.store.fetch(name, self._copies / name)
                        self._fetched[name] = size
                else:
                    self.sizes[hash(name)] = size

    def open(self) -> None:
        """Nothing is opened: rows wait in memory."""

    def append(self, entry: Entry) -> None:
        """Add an entry, which waits to be put."""
        with self._lock:
            self.rows.append({name: value for name, value in asdict(entry).items() if value is not None} |
                             {"run": self.run})

    def take(self) -> list[dict[str, Any]]:
        """Return the rows that wait, for whoever puts them."""
        with self._lock:
            rows, self.rows = self.rows, []
        return rows

    def _status(self, job: Job) -> tuple[int, int | None] | None:
        size = self.sizes.get(hash(job.output_name))
        return None if size is None else (size, None)

    def _checksum(self, job: Job) -> str | None:
        with tempfile.TemporaryDirectory() as folder, suppress(FileNotFoundError):
            self.store.fetch(job.output_name, Path(folder) / "output")
            return files.sha256(Path(folder) / "output")
        return None

    def is_foreign(self, job: Job) -> bool:
        """Return whether an object stands at the job's output name that we have not written."""
        if hash(job.output_name) not in self.sizes or self._rows.has_written(job.output_name):
            return False
        self.look_at_outputs()
        self.look_again()
        return not self._rows.has_written(job.output_name)


@dataclass
class Window:
    """Files that are translated together: on their way here, or there."""

    jobs: list[Job]
    fetched: list[Future[None]]


class Remote:
    """A conversion between folders of which at least one is in storage. Use it as a context."""

    def __init__(self, source: Path, out: Path):
        """Raises `MissingExtra` and `UsageError`."""
        self.source, self.out = Store(source), Store(out)
        self.here = Path(tempfile.mkdtemp(prefix="translate-"))
        self.ledger_name, self.ledger_lines = "", b""

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.here, ignore_errors=True)

    def plan(self, naming: Naming) -> tuple[Jobs, list[str]]:
        """Return the jobs of all images, and the names of what is none. Raises `DataError` and what storage raises."""
        names = Names([], [], [], [])
        try:
            for name, _ in self.source.sizes():
                aside = any(map(is_aside, name.split("/")))
                is_image = not aside and Path(name).suffix.lower() in SUFFIXES
                (names.images if is_image else names.others).append(name)
        except FileNotFoundError:
            pass
        if not names.images:
            raise DataError(f"holds no images ({', '.join(sorted(SUFFIXES))})", self.source.at)
        if self.source.at == self.out.at:
            raise UsageError("is the source itself; its images would be replaced", self.out.at, "choose another folder")
        names.images.sort()
        return folder_jobs(names, self.here / "in", self.here / "out", naming), sorted(names.others)

    def ledger(self) -> RemoteLedger:
        """Return the ledgers of the output folder."""
        return RemoteLedger(self.out, self.here / "ledgers")

    def run(self, jobs: Jobs, converter: Converter, stop: object) -> Generator[Entry, None, None]:
        """Translate files as `Converter.run` does; what it yields is done and there."""
        with ThreadPoolExecutor(THREADS) as pool, ThreadPoolExecutor(1) as putting:
            starts = list(range(0, len(jobs), WINDOW))
            ahead = self._fetch(jobs[:WINDOW], pool) if starts else None
            put: Future[list[Entry]] | None = None
            try:
                for start in starts:
                    now, following = ahead, jobs[start + WINDOW:start + 2 * WINDOW]
                    assert now is not None
                    ready = [self._ready(job, fetched) for job, fetched in zip(now.jobs, now.fetched, strict=True)]
                    ahead = self._fetch(following, pool) if following and not stop else None
                    with closing(converter.run(ready, stop)) as made:
                        entries = list(made)
                    for job in ready:
                        job.source.unlink(missing_ok=True)
                    if put is not None:
                        yield from put.result()
                    put = putting.submit(self._put, entries, self._rows(converter), pool)
                    if stop:
                        break
                if put is not None:
                    last, put = put, None
                    yield from last.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _rows(self, converter: Converter) -> list[dict[str, Any]]:
        assert isinstance(converter.ledger, RemoteLedger)
        return converter.ledger.take()

    def _fetch(self, jobs: Sequence[Job], pool: ThreadPoolExecutor) -> Window:
        return Window(list(jobs), [pool.submit(self.source.fetch, job.name, job.source) for job in jobs])

    def _ready(self, job: Job, fetched: Future[None]) -> Job:
        """Wait until a file is here. Raises what storage raises, but for a file that is gone: that is its fault."""
        try:
            fetched.result()
        except FileNotFoundError:
            return replace(job, fault=ImageError(job.source, "read", "is no longer there"))
        return job

    def _put(self, entries: list[Entry], rows: list[dict[str, Any]], pool: ThreadPoolExecutor) -> list[Entry]:
        """Put the outputs of a window and then its rows; before them a note that they are ours."""
        begun = [row for row in rows if row["status"] == "started"]
        note = f"{LEDGERS}-{uuid.uuid4().hex[:16]}-begun.jsonl"
        if begun:
            self._put_lines(note, as_lines(begun))
        outputs = [entry.output for entry in entries if entry.status == "done" and entry.output is not None]
        for each in [pool.submit(self._put_output, name) for name in outputs]:
            each.result()
        if rows:
            if not self.ledger_name or len(self.ledger_lines) > LEDGER_BYTES:
                self.ledger_name, self.ledger_lines = f"{LEDGERS}-{uuid.uuid4().hex[:16]}.jsonl", b""
            self.ledger_lines += as_lines(rows)
            self._put_lines(self.ledger_name, self.ledger_lines)
        if begun:
            self.out.remove(note)
        return entries

    def _put_output(self, name: str) -> None:
        self.out.put(self.here / "out" / name, name)
        (self.here / "out" / name).unlink()

    def _put_lines(self, name: str, lines: bytes) -> None:
        path = self.here / name
        path.write_bytes(lines)
        self.out.put(path, name)
        path.unlink()


def as_lines(rows: list[dict[str, Any]]) -> bytes:
    """Return rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
