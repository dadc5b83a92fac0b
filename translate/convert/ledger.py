"""What has become of every file of an output folder, kept beside the outputs.

`OUT/.translate-ledger.jsonl` holds one JSON object a line; the last one of a path counts:

    started   the output is about to be written; what lies under its name is ours from here on
    done      the output is complete and on the disk; `key` says what it was made from, `sha256` what was written
    failed    why: the stage (find, read, convert, write), the class of the error, its message

Processes that share a folder have a ledger each (`.translate-ledger-2-of-4.jsonl`) and read all of them. Entries
are ordered by run number (`run`), not time: each run's is one more than the highest in the ledgers it has read.
"""

from __future__ import annotations

import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from translate import files
from translate.convert.jobs import LEDGERS, Job, Shard, printable
from translate.foreign import read_lines

LEDGER = f"{LEDGERS}.jsonl"


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
    message: str | None = None
    pixels: int | None = None  # of the output
    sha256: str | None = None  # of the output: shows whether it was changed later
    strips: str | None = None  # why it was computed in strips, where nobody had asked for them
    note: str | None = None  # what of the input was left out because it cannot be read

    @classmethod
    def failure(cls, job: Job, stage: str, error: str, message: str) -> Entry:
        """Say that a file could not be translated, and why."""
        return cls(job.name, "failed", job.output_name, stage=stage, error=error, message=printable(message))

    def __str__(self) -> str:
        reason = f": {self.stage}: {self.message}" if self.status == "failed" else f" → {self.output}"
        return printable(f"{self.path}{reason}")


class Ledger:
    """All ledgers of a folder as one; entries are added to the one of this process. Without a folder, only in memory.

    Several threads may use it. Raises `DiskError`. It keeps entries as their JSON objects, by the names of `Entry`.
    """

    def __init__(self, folder: Path | None, shard: Shard | None = None):
        # What all processes of earlier runs have written.
        name = f"{LEDGERS}-{shard.index}-of-{shard.num}.jsonl" if shard else LEDGER
        self.path = None if folder is None else folder / name
        self._lock = threading.Lock()
        entries: list[dict[str, Any]] = []
        with files.as_disk_errors(self.path or Path()):
            for path in sorted(folder.glob(f"{LEDGERS}*.jsonl")) if folder is not None else ():
                entries += read_lines(path)

        # The last entry of a path counts; and what any of them has written is ours.
        entries = sorted((entry for entry in entries if isinstance(entry.get("path"), str)), key=_run)
        self.run = 1 + max(map(_run, entries), default=0)
        self._last = {entry["path"]: entry for entry in entries}
        self._outputs = {entry.get("output") for entry in entries if entry.get("status") in ("started", "done")}

    def open(self) -> None:
        """Make sure that entries can be added, before any work is done."""
        if self.path is None:
            return
        with files.as_disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file:  # a line that a crash has cut must not swallow the next one
                if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
                    file.write(b"\n")

    def key_of(self, job: Job) -> str | None:
        """Return the key of the job's output, where it is done and still there."""
        entry = self.last(job.name)
        there = entry.get("status") == "done" and entry.get("output") == job.output_name and job.output.is_file()
        return entry.get("key") if there else None

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


def _run(entry: dict[str, Any]) -> int:
    run = entry.get("run")
    return run if isinstance(run, int) else 0
