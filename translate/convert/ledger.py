"""What has become of every file of an output folder, kept beside the outputs.

`OUT/.translate-ledger.jsonl` holds one JSON object a line; the last one of a path counts:

    started   the file is being translated; what lies under its output name is ours from here on
    done      the output is complete and on the disk; `key` says what it was made from
    failed    why: the stage (find, read, convert, write), the class of the error, its message
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from translate import files
from translate.convert.jobs import Job, printable
from translate.errors import DiskError

LEDGER = ".translate-ledger.jsonl"


@dataclass(frozen=True)
class Row:
    """What became of one file. `path` and `output` are below the folders given; `already`: done by an earlier run."""

    path: str
    status: Literal["started", "done", "already", "failed"]
    output: str | None = None
    key: str | None = None
    stage: str | None = None
    error: str | None = None  # the class of what was raised
    message: str | None = None

    @classmethod
    def failure(cls, job: Job, stage: str, error: str, message: str) -> Row:
        return cls(job.name, "failed", job.output_name, stage=stage, error=error, message=printable(message))

    def __str__(self) -> str:
        reason = f": {self.stage}: {self.message}" if self.status == "failed" else f" → {self.output}"
        return printable(f"{self.path}{reason}")


class Ledger:
    """What has become of every file of an output folder, kept in `path`; without a path, only in memory."""

    def __init__(self, path: Path | None):
        self.path = path
        try:
            rows = files.read_lines(path) if path is not None else []
        except OSError as error:
            raise DiskError.of(error, path or Path()) from error
        self._last = {row["path"]: row for row in rows if isinstance(row.get("path"), str)}
        self._outputs = {row.get("output") for row in rows if row.get("status") in ("started", "done")}
        self._opened = False

    def is_done(self, job: Job, key: str) -> bool:
        """Whether this very output was made from what `key` says, and is still there."""
        row = self._last.get(job.name, {})
        return (row.get("status") == "done" and row.get("key") == key and row.get("output") == job.output_name
                and job.output.is_file())

    def owns(self, job: Job) -> bool:
        """Whether a file under the job's output name is one that we wrote."""
        return job.output_name in self._outputs

    def append(self, row: Row) -> None:
        """Add a row, flushed to the disk. Raises `DiskError`."""
        record = {name: value for name, value in asdict(row).items() if value is not None}
        self._last[row.path] = record
        if row.status != "failed":
            self._outputs.add(row.output)
        if self.path is None:
            return
        try:
            if not self._opened:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._end_cut_line(self.path)
                self._opened = True
            files.append_line(self.path, record)
        except OSError as error:
            raise DiskError.of(error, self.path) from error

    @staticmethod
    def _end_cut_line(path: Path) -> None:
        """A line that a crash has cut must not swallow the next one."""
        if path.exists() and path.stat().st_size:
            with path.open("rb+") as file:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
