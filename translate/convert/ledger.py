"""What has become of every file of an output folder, kept beside the outputs.

`OUT/.translate-ledger.jsonl` holds one JSON object a line; the last one of a path counts:

    started   the output is about to be written; what lies under its name is ours from here on
    done      the output is complete and on the disk; `key` says what it was made from, `sha256` what was written
    failed    why: the stage (find, read, convert, write), the class of the error, its message

Processes that share a folder have a ledger each (`.translate-ledger-2-of-4.jsonl`) and read all of them. Which row is
the last one, no clock decides: every run counts one more than any it has read of (`run`).
"""

from __future__ import annotations

import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from translate import files
from translate.convert.jobs import LEDGERS, Job, Shard, printable
from translate.errors import DiskError

LEDGER = f"{LEDGERS}.jsonl"


@dataclass(frozen=True)
class Row:
    """What became of one file. `path` and `output` are below the folders given.

    `already`: done by an earlier run; `todo`: would be translated, were this no dry run.
    """

    path: str
    status: Literal["started", "done", "already", "failed", "todo"]
    output: str | None = None
    key: str | None = None
    stage: str | None = None
    error: str | None = None  # the class of what was raised
    message: str | None = None
    pixels: int | None = None  # of the output
    sha256: str | None = None  # of the output, by which a later change of it can be told

    @classmethod
    def failure(cls, job: Job, stage: str, error: str, message: str) -> Row:
        return cls(job.name, "failed", job.output_name, stage=stage, error=error, message=printable(message))

    def __str__(self) -> str:
        reason = f": {self.stage}: {self.message}" if self.status == "failed" else f" → {self.output}"
        return printable(f"{self.path}{reason}")


class Ledger:
    """All ledgers of a folder as one; rows are added to the one of this process. Without a folder, only in memory.

    Several threads may use it. Raises `DiskError`.
    """

    def __init__(self, folder: Path | None, shard: Shard | None = None):
        name = f"{LEDGERS}-{shard.index}-of-{shard.num}.jsonl" if shard else LEDGER
        self.path = None if folder is None else folder / name
        self._lock = threading.Lock()
        rows: list[dict[str, Any]] = []
        try:
            for path in sorted(folder.glob(f"{LEDGERS}*.jsonl")) if folder is not None else ():
                rows += files.read_lines(path)
        except OSError as error:
            raise DiskError.of(error, self.path or Path()) from error
        rows = sorted((row for row in rows if isinstance(row.get("path"), str)), key=_run)
        self.run = 1 + max(map(_run, rows), default=0)
        self._last = {row["path"]: row for row in rows}
        self._outputs = {row.get("output") for row in rows if row.get("status") in ("started", "done")}

    def open(self) -> None:
        """Make sure that rows can be added, before any work is done."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file:  # a line that a crash has cut must not swallow the next one
                if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
                    file.write(b"\n")
        except OSError as error:
            raise DiskError.of(error, self.path) from error

    def key_of(self, job: Job) -> str | None:
        """What the job's output was made from, where it is done and still there."""
        row = self.last(job.name)
        there = row.get("status") == "done" and row.get("output") == job.output_name and job.output.is_file()
        return row.get("key") if there else None

    def last(self, path: str) -> dict[str, Any]:
        """The row that counts of a path, by the names of `Row`; empty where there is none."""
        return self._last.get(path, {})

    def owns(self, job: Job) -> bool:
        """Whether a file under the job's output name is one that we wrote."""
        return job.output_name in self._outputs

    def append(self, row: Row) -> None:
        """Add a row, flushed to the disk."""
        record = {name: value for name, value in asdict(row).items() if value is not None} | {"run": self.run}
        with self._lock:
            self._last[row.path] = record
            if row.status != "failed":
                self._outputs.add(row.output)
            if self.path is None:
                return
            try:
                files.append_line(self.path, record)
            except OSError as error:
                raise DiskError.of(error, self.path) from error


def _run(row: dict[str, Any]) -> int:
    run = row.get("run")
    return run if isinstance(run, int) else 0
