"""What has become of every file of an output folder, kept beside the outputs.

`OUT/.translate-ledger.jsonl` holds one JSON object a line; the last one of a path counts:

    started   the output is about to be written; what lies under its name is ours from here on
    done      the output is complete and on the disk; `key` says what it was made from, `sha256` what was written
    failed    why: the stage (find, read, convert, write), the class of the error, its message

Processes that share a folder have a ledger each (`.translate-ledger-2-of-4.jsonl`) and read all of them, again before
an output counts as foreign: another one may have written it meanwhile. Entries are ordered by run number (`run`), not
time: each run's is one more than the highest in the ledgers it has read.

An output of another size or time than when it was written counts as done only where its content is still the same.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from translate import files
from translate.convert.jobs import LEDGERS, Job, Shard
from translate.errors import visible
from translate.foreign import SHA256, Count, Shape, examine_lines

LEDGER = f"{LEDGERS}.jsonl"


class Row(Shape):
    """A line of a ledger. One that is none is left out: what it was about is translated again."""

    path: str
    status: Literal["started", "done", "failed"]
    output: str | None = None
    key: str | None = None
    pixels: Count | None = None
    sha256: SHA256 | None = None
    size: Count | None = None
    mtime_ns: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    note: str | None = None
    run: Count = 0


@dataclass(frozen=True)
class Entry:
    """What became of one file: a line of the ledger. `path` and `output` are below the folders given.

    `already` (done by an earlier run) and `todo` (would be translated, were this no dry run) are only told, never kept.
    """

    path: str
    status: Literal["started", "done", "already", "failed", "todo"]
    output: str | None = None
    key: str | None = None
    stage: str | None = None
    error: str | None = None  # the class of what was raised
    message: str | None = None  # why it failed, or what is to be said although it is done
    pixels: int | None = None  # of the output
    sha256: str | None = None  # of the output: shows whether it was changed later
    strips: str | None = None  # why it was computed in strips, where nobody had asked for them
    size: int | None = None  # of the output, in bytes, and
    mtime_ns: int | None = None  # when it was written: where both are the same, it is not read again
    note: str | None = None  # what of the input was left out because it cannot be read

    @classmethod
    def failure(cls, job: Job, stage: str, error: str, message: str) -> Entry:
        """Say that a file could not be translated, and why."""
        return cls(job.name, "failed", job.output_name, stage=stage, error=error, message=message)

    def __str__(self) -> str:
        if self.status == "failed":
            return f"{visible(self.path)}: {self.stage}: {visible(self.message)}"
        return f"{visible(self.path)} → {visible(self.output)}"


class Ledger:
    """All ledgers of a folder as one; entries are added to the one of this process. Without a folder, only in memory.

    Several threads may use it. Raises `DiskError`. It keeps entries as their JSON objects, by the names of `Entry`.
    """

    def __init__(self, folder: Path | None, shard: Shard | None = None):
        # What all processes of earlier runs have written.
        name = f"{LEDGERS}-{shard.index}-of-{shard.num}.jsonl" if shard else LEDGER
        self.path = None if folder is None else folder / name
        self.damaged: set[str] = set()  # the paths whose outputs were changed after they were written
        self._folder = folder
        self._read: dict[Path, int] = {}  # up to which byte each ledger was read
        self._last: dict[str, dict[str, Any]] = {}  # the entry of each path that counts
        self._outputs: set[str | None] = set()  # what any of them has written: it is ours
        self._lock = threading.Lock()
        self.run = 0
        self.look_again()
        self.run = 1 + max((entry.get("run", 0) for entry in self._last.values()), default=0)

    def look_again(self) -> None:
        """Read what has been added to the ledgers of the folder since the last time. Raises `DiskError`."""
        if self._folder is None:
            return
        with self._lock, files.as_disk_errors(self._folder):
            for path in sorted(self._folder.glob(f"{LEDGERS}*.jsonl")):
                lines = examine_lines(path, Row, self._read.get(path, 0))
                self._read[path] = lines.end
                self._take(lines.records)

    def _take(self, entries: Iterable[dict[str, Any]]) -> None:
        """Let the last entry of a path count: by run, and within a run by the order of the lines."""
        for entry in entries:
            if entry.get("run", 0) >= self._last.get(entry["path"], {}).get("run", 0):
                self._last[entry["path"]] = entry
            if entry["status"] != "failed":
                self._outputs.add(entry.get("output"))

    def open(self) -> None:
        """Make sure that entries can be added, before any work is done."""
        if self.path is None:
            return
        with files.as_disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            files.unshare(self.path)
            with files.appending(self.path) as file:  # a line that a crash has cut must not swallow the next one
                if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
                    file.write(b"\n")

    def key_of(self, job: Job, verify: bool = False, note: bool = True) -> str | None:
        """Return the key of the job's output, where it is done and is still what was written.

        Its content is looked at where its size or time is another, and always to `verify` it. What turns out to be the
        same gets an entry with its new time, so that it is read once; not without `note`.
        """
        entry = self.last(job.name)
        if entry.get("status") != "done" or entry.get("output") != job.output_name:
            return None
        try:
            status = job.output.stat()
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None

        # Older versions wrote neither size nor time, and the first ones no sum.
        key: str | None = entry.get("key")
        same = (entry.get("size"), entry.get("mtime_ns")) == (status.st_size, status.st_mtime_ns)
        if "sha256" not in entry or (same and not verify):
            return key
        if files.checksum(job.output) != entry["sha256"]:
            self.damaged.add(job.name)
            return None
        if note and not same:
            known = Entry(**{each.name: entry[each.name] for each in fields(Entry) if each.name in entry})
            self.append(replace(known, size=status.st_size, mtime_ns=status.st_mtime_ns, message=None))
        return key

    def last(self, path: str) -> dict[str, Any]:
        """Return the entry of a path that counts; empty where there is none."""
        return self._last.get(path, {})

    def owns(self, job: Job) -> bool:
        """Return whether a file under the job's output name is one that we wrote."""
        return job.output_name in self._outputs

    def append(self, entry: Entry) -> None:
        """Add an entry, flushed to the disk."""
        record = {name: value for name, value in asdict(entry).items() if value is not None} | {"run": self.run}
        with self._lock:
            self._last[entry.path] = record
            if entry.status != "failed":
                self._outputs.add(entry.output)
            if self.path is None:
                return
            with files.as_disk_errors(self.path):
                files.append_line(self.path, record)
