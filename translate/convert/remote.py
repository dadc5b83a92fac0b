"""A conversion between folders of which at least one lies in object storage.

Files come and go through a folder on this machine, a window of them at a time: while one window is translated, the
next is fetched and the former is put. There they have numbers for names: what an object is called may be no file's
name, or that of a file which is none of ours. Objects cannot be added to, so that rows of the ledger are put in objects
of up to a megabyte: before the outputs of a window a note that these are ours, and once they are there what each was
made from.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tempfile
import uuid
from array import array
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from translate import files
from translate.convert.converter import Converter
from translate.convert.jobs import LEDGERS, Job, Jobs, Naming, folder_jobs
from translate.convert.ledger import Entry, Ledger, source_of
from translate.convert.storage import NO_PLACE, TRIES, Store, in_words
from translate.errors import DataError, DiskError, ImageError, UsageError, is_disk_fault, visible
from translate.images.listing import SUFFIXES, Names, is_aside
from translate.sizes import format_bytes

WINDOW, WINDOW_BYTES = 32, 2**30  # files that are on this machine at once, and their bytes, three times; or one larger
THREADS = 8  # that fetch, and that put
LEDGER_BYTES = 1_000_000  # of a ledger, which is put again with every window until it is as large
MOST_LEDGER_BYTES = 2**32  # of all that lie in a folder: ten million rows


class RemoteLedger(Ledger):
    """The ledgers of a folder in storage. What is added to it waits, until `take` puts it where the outputs are."""

    def __init__(self, store: Store, folder: Path, source: str):
        """Raises `DataError` where ledgers are too large, and what storage raises."""
        self.store, self.sizes = store, dict[int, int]()  # the bytes of each output by the hash of its name
        self.rows: list[dict[str, Any]] = []
        self._copies, self._fetched = folder, dict[str, tuple[int, int]]()  # the number and bytes of each ledger
        self._has_looked = False  # at ledgers, in this window
        with files.as_disk_errors(folder):
            folder.mkdir(parents=True)
        with suppress(FileNotFoundError):
            self.sizes.update((hash(name), size) for name, size in store.sizes())
        self._fetch_ledgers()
        super().__init__(folder, source=source)

    def _fetch_ledgers(self) -> None:
        """Fetch the ledgers that are new or have grown. A note that goes meanwhile is in a ledger by then."""
        for _ in range(TRIES):
            try:
                found = {name: size for name, size in self.store.starting(LEDGERS) if name.endswith(".jsonl")}
            except FileNotFoundError:
                return
            except OSError as error:
                raise DiskError.of(error, Path(self.store.root)) from error
            if sum(found.values()) > MOST_LEDGER_BYTES:
                raise DataError(f"holds ledgers ({LEDGERS}*.jsonl) of {format_bytes(sum(found.values()))}; expected "
                                f"{format_bytes(MOST_LEDGER_BYTES)} at most", self.store.at, "choose another folder")
            for name, size in found.items():
                number, known = self._fetched.get(name, (len(self._fetched), -1))
                if known != size:
                    try:
                        self.store.fetch(name, self._copies / "arriving")
                    except FileNotFoundError:
                        break
                    except OSError as error:
                        raise DiskError.of(error, Path(self.store.root)) from error
                    (self._copies / "arriving").replace(self._copies / f"{LEDGERS}-{number}.jsonl")
                    self._fetched[name] = number, size
            else:
                return

    def begin_window(self) -> None:
        """Have what other processes write looked at again, once, where it matters."""
        self._has_looked = False

    def open(self) -> None:
        """Make the folder, where it is one of this machine; rows wait in memory. Raises `DiskError`."""
        self.store.make()

    def append(self, entry: Entry) -> None:
        """Add an entry, which waits to be put."""
        with self._lock:
            self.rows.append(self.row(entry))

    def row(self, entry: Entry) -> dict[str, Any]:
        """Return an entry as a row."""
        return {name: value for name, value in asdict(entry).items() if value is not None} | {"run": self.run}

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
        """Return whether an object stood at the job's output name in the beginning that we have not written.

        Another process may have: its ledgers are looked at again, once in a window.
        """
        if hash(job.output_name) not in self.sizes or self._rows.has_written(job.output_name):
            return False
        with self._lock:
            if not self._has_looked:
                self._fetch_ledgers()
                self.look_again()
                self._has_looked = True
        return not self._rows.has_written(job.output_name)


@dataclass
class Window:
    """Files that are translated together: on their way here, or there."""

    jobs: list[Job]
    fetched: list[Future[None] | None]  # None of what has a fault already


class Remote:
    """A conversion between folders of which at least one is in storage. Use it as a context."""

    def __init__(self, source: Path, out: Path):
        """Raises `MissingExtra`, `UsageError` and `DiskError`."""
        self.source, self.out = Store(source), Store(out)
        with files.as_disk_errors(Path(tempfile.gettempdir())):
            self.here = Path(tempfile.mkdtemp(prefix="translate-"))
            for name in ("in", "out"):
                (self.here / name).mkdir()
        self.ledger_name, self.ledger_lines = "", b""
        self._names, self._sizes = list[str](), array("Q")  # of all images, in their order
        self._numbers = itertools.count()

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.here, ignore_errors=True)

    def plan(self, naming: Naming) -> tuple[Jobs, list[str]]:
        """Return the jobs of all images, and the names of what is none. Raises `DataError` and what storage raises."""
        below = self.out.inside(self.source)
        if below == "":
            raise UsageError("is the source itself; its images would be replaced", self.out.at, "choose another folder")
        if self.out.is_local and Path(self.out.root).exists() and not Path(self.out.root).is_dir():
            raise UsageError("is a file; a folder of images needs a folder to go to", self.out.root)

        # What conversions have written below the source is none of its images. A ledger marks a folder of outputs.
        found, others, folders = list[tuple[str, int]](), list[str](), set[str]()
        with suppress(FileNotFoundError):
            for name, size in self.source.sizes():
                if below is not None and name.startswith(f"{below}/"):
                    continue
                *inner, last = name.split("/")
                if inner and last.startswith(LEDGERS):
                    folders.add("/".join(inner) + "/")
                is_image = Path(last).suffix.lower() in SUFFIXES and not any(map(is_aside, (*inner, last)))
                if is_image:
                    found.append((name, size))
                else:
                    others.append(name)
        outputs = tuple(folders)
        others += [name for name, _ in found if name.startswith(outputs)]
        found = sorted(each for each in found if not each[0].startswith(outputs))
        if not found:
            raise DataError(f"holds no images ({', '.join(sorted(SUFFIXES))})", self.source.at)
        self._names, self._sizes = [name for name, _ in found], array("Q", (size for _, size in found))
        jobs = folder_jobs(Names(self._names, [], [], []), self.here / "in", self.here / "out", naming)
        self._refuse_replaced(jobs)
        return jobs, sorted(others)

    def _refuse_replaced(self, jobs: Jobs) -> None:
        """Raise `UsageError` where an output would replace an image of the source, which lies below OUT."""
        above = self.source.inside(self.out)
        if not above:
            return
        names = set(self._names)
        for job in jobs:
            if job.output_name.startswith(f"{above}/") and job.output_name[len(above) + 1:] in names:
                raise UsageError(f"the output of {visible(job.name)} would replace an image of the source",
                                 f"{self.out.at}/{job.output_name}", "choose another folder")

    def ledger(self) -> RemoteLedger:
        """Return the ledgers of the output folder."""
        place = os.path.realpath(self.source.root) if self.source.is_local else self.source.at
        return RemoteLedger(self.out, self.here / "ledgers", source_of(place))

    def run(self, jobs: Jobs, converter: Converter, look: Callable[[Sequence[Job]], object],
            stop: object) -> Generator[Entry, None, None]:
        """Translate files as `Converter.run` does; what it yields is done and there.

        `look` is shown the first files, when they are on this machine and before they are translated.
        """
        ledger = converter.ledger
        assert isinstance(ledger, RemoteLedger)
        with ThreadPoolExecutor(THREADS) as pool, ThreadPoolExecutor(1) as putting:
            windows = self._windows(jobs)
            ahead = self._fetch(windows, pool)
            put: Future[list[Entry]] | None = None
            is_first = True
            try:
                while ahead is not None:
                    now = ahead
                    ready = [self._ready(job, fetched) for job, fetched in zip(now.jobs, now.fetched, strict=True)]
                    ahead = None if stop else self._fetch(windows, pool)
                    if is_first:
                        look(ready)
                        is_first = False
                    ledger.begin_window()
                    with closing(converter.run(ready, stop)) as made:
                        entries = list(made)
                    for job in ready:
                        job.source.unlink(missing_ok=True)
                    if put is not None:
                        yield from put.result()
                    put = putting.submit(self._put, ready, entries, ledger.take(), ledger, pool)
                    if stop:
                        break
                if put is not None:
                    last, put = put, None
                    yield from last.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _windows(self, jobs: Jobs) -> Iterator[list[Job]]:
        """Yield the jobs in parts of so many files and bytes, or of one file."""
        window, held = list[Job](), 0
        for job in jobs:
            size = self._sizes[bisect_left(self._names, job.name)]
            if window and (len(window) == WINDOW or held + size > WINDOW_BYTES):
                yield window
                window, held = [], 0
            window.append(job)
            held += size
        if window:
            yield window

    def _fetch(self, windows: Iterator[list[Job]], pool: ThreadPoolExecutor) -> Window | None:
        """Begin to fetch the next window; None where all are done."""
        jobs = [self._here(job) for job in next(windows, [])]
        return Window(jobs, [None if job.fault else pool.submit(self.source.fetch, job.name, job.source)
                             for job in jobs]) if jobs else None

    def _here(self, job: Job) -> Job:
        """Return a job with the places of its files on this machine, and a fault where its output has no place."""
        number, fault = next(self._numbers), job.fault
        if fault is None and (why := self.out.refusal(job.output_name)):
            fault = ImageError(job.name, "write", why)
        return replace(job, source=self.here / "in" / f"{number}{Path(job.name).suffix}", fault=fault,
                       output=self.here / "out" / f"{number}{Path(job.output_name).suffix}")

    def _ready(self, job: Job, fetched: Future[None] | None) -> Job:
        """Wait until a file is here; that it is gone, or cannot be told from a folder, is its fault.

        Raises what else storage raises.
        """
        try:
            if fetched is not None:
                fetched.result()
        except FileNotFoundError:
            return replace(job, fault=ImageError(job.source, "read", "is no longer there"))
        except NO_PLACE as error:
            return replace(job, fault=ImageError(job.source, "read", in_words(error)))
        return job

    def _put(self, jobs: list[Job], entries: list[Entry], rows: list[dict[str, Any]], ledger: RemoteLedger,
             pool: ThreadPoolExecutor) -> list[Entry]:
        """Put the outputs of a window and then its rows; before them a note that they are ours."""
        places = {job.name: job for job in jobs}
        begun = [row for row in rows if row["status"] == "started"]
        note = f"{LEDGERS}-{uuid.uuid4().hex[:16]}-begun.jsonl"
        if begun:
            self._put_lines(note, as_lines(begun))
        putting = [pool.submit(self._put_output, entry, places[entry.path]) for entry in entries]
        put = [each.result() for each in putting]

        # What could not be put is not ours, whatever stands there. Numbers on this machine say nothing to anyone.
        lost = {now.path: ledger.row(now) for now, made in zip(put, entries, strict=True) if now is not made}
        rows = [row for row in rows if row["path"] not in lost] + list(lost.values())
        for row in rows:
            if "message" in row:
                row["message"] = self._told(row["message"], places[row["path"]])
        if rows:
            if not self.ledger_name or len(self.ledger_lines) > LEDGER_BYTES:
                self.ledger_name, self.ledger_lines = f"{LEDGERS}-{uuid.uuid4().hex[:16]}.jsonl", b""
            self.ledger_lines += as_lines(rows)
            self._put_lines(self.ledger_name, self.ledger_lines)
        if begun:
            self.out.remove(note)
        return [replace(entry, message=entry.message and self._told(entry.message, places[entry.path]))
                for entry in put]

    def _told(self, message: str, job: Job) -> str:
        """Return what is said of a job's files on this machine as said of those they stand for."""
        return (message.replace(str(job.output), f"{self.out.at}/{job.output_name}")
                .replace(str(job.source), f"{self.source.at}/{job.name}"))

    def _put_output(self, entry: Entry, job: Job) -> Entry:
        """Put the output of a job, if it was made, and return what has become of it. Raises what storage raises."""
        if entry.status != "done":
            return entry
        try:
            self.out.put(job.output, job.output_name)
        except OSError as error:
            if is_disk_fault(error):
                raise DiskError.of(error, Path(self.out.root)) from error
            return Entry.failure(job, "write", "ImageError", error.strerror or in_words(error))
        job.output.unlink()
        return entry

    def _put_lines(self, name: str, lines: bytes) -> None:
        path = self.here / name
        with files.as_disk_errors(self.here):
            path.write_bytes(lines)
        with files.as_disk_errors(Path(self.out.root)):
            self.out.put(path, name)
        path.unlink()


def as_lines(rows: list[dict[str, Any]]) -> bytes:
    """Return rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
