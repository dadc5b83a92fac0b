"""What has become of every file of an output folder, kept beside the outputs.

`OUT/.translate-ledger.jsonl` holds one JSON object a line; the last one of a path counts:

    started   the output is about to be written; what lies under its name is ours from here on
    done      the output is complete and on the disk; `key` says what it was made from, `sha256` what was written
    failed    why: the stage (find, read, convert, write), the class of the error, its message

`source` and `content` say of which folder's image an output is made, so that another folder's of the same name is told
from it. What an output was last made from is asked by the output's name, and stands until that is done anew.

Processes that share a folder have a ledger each (`translate.convert.ledger_files`) and read all of them, again before
an output counts as foreign: another one may have written it meanwhile. Entries are ordered by run number (`run`), not
time: each run's is one more than the highest in the ledgers it has read. Within a run `done` outranks what another
process has begun or failed, as the output itself is looked at later: its size, its time, its content.

An output of another size or time than when it was written counts as done only where its content is still the same.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal

from translate import files
from translate.convert.jobs import LEDGERS, Job, Shard
from translate.convert.ledger_files import Held, find_ledgers, fold
from translate.convert.ledger_rows import Place, Placed, Row, Rows, kept_lines
from translate.errors import DocumentError, visible
from translate.foreign import MAX_COUNT, each_line, one_of_lines, opened, parse

LEDGER = f"{LEDGERS}.jsonl"
SECONDS_UNTIL_SEEN = 65.0  # until what another machine has written shows here: NFS keeps what it knows up to 60 s
SECONDS_BETWEEN_LOOKS = 1.0
BLOCK_BYTES = 2**14  # read of a ledger at once: the lines of files that were done one after the other
MOST_OPEN = 64  # ledgers at once

OTHERWISE_MADE = "another model or other settings"  # what outputs that are replaced were made from
CHANGED_SINCE = "images that have changed since"
MADE_BEFORE = "another model, other settings or other images (the earlier version that made them kept no note which)"


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
    source: str | None = None  # the folder of the input (`source_of`); earlier versions wrote neither this
    content: str | None = None  # nor the SHA-256 of the input
    replaces: str | None = None  # where it is made again: what its output was made from before

    @classmethod
    def failure(cls, job: Job, stage: str, error: str, message: str) -> Entry:
        """Say that a file could not be translated, and why."""
        return cls(job.name, "failed", job.output_name, stage=stage, error=error, message=message)

    def __str__(self) -> str:
        if self.status == "failed":
            return f"{visible(self.path)}: {self.stage}: {visible(self.message)}"
        return f"{visible(self.path)} → {visible(self.output)}"


def source_of(place: str) -> str:
    """Return what a ledger says of the folder that is translated: its name, and a hash by which it is told from others.

    `place`: its absolute path or its address. Outputs are published, and say no more of where they come from.
    """
    sha256 = hashlib.sha256(os.fsencode(place)).hexdigest()
    return f"{place.rstrip('/').rpartition('/')[2]} {sha256[:12]}"


class Ledger:
    """All ledgers of a folder as one; entries are added to the one of this process. Without a folder, to none.

    `source`: the folder that is translated (`source_of`); None: outputs are not told from another's. Several threads
    may use it. Raises `DiskError`.
    """

    def __init__(self, folder: Path | None, shard: Shard | None = None, source: str | None = None):
        self.source = source
        self.damaged: set[str] = set()  # the paths whose outputs were changed after they were written
        self._folder, self._shard = folder, shard
        self._shape: type[Placed] = Placed  # what each line is held to
        self._own: Held | None = None
        self._lock = threading.RLock()
        self._seen_late = SECONDS_UNTIL_SEEN if folder is not None and files.is_shared(folder) else 0.0
        self._open: dict[int, BufferedReader] = {}  # some of the ledgers, by number
        self._blocks: dict[int, tuple[int, bytes]] = {}  # what was last read of each of these, and from which byte on
        self._forget()
        self.look_again()
        self.run = min(1 + self._rows.run, MAX_COUNT)  # what is written here must be readable, whatever was read

    def _forget(self) -> None:
        self._close_all()
        self._rows, self._ends = Rows(), dict[Path, int]()  # and up to which byte each ledger was read
        self._paths: list[Path] = []  # of the ledgers, by number

    @property
    def path(self) -> Path | None:
        """The ledger that this process adds to; None before `open`."""
        return None if self._own is None else self._own.path

    @property
    def keeps(self) -> bool:
        """Whether entries are kept on a disk."""
        return self._folder is not None

    def open(self) -> None:
        """Make sure that entries can be added, before any work is done. Ledgers at rest are folded when they are many.
        """
        if self._folder is None:
            return
        with files.as_disk_errors(self._folder / LEDGER):
            self._own = Held(self._folder, self._shard)
        with files.as_disk_errors(self._folder):
            if fold(self._folder, kept_lines) is not None:
                self.look_again()

    def close(self) -> None:
        """Let go of the ledger of this process."""
        self._close_all()
        if self._own is not None:
            self._own.close()

    def look_again(self) -> None:
        """Read what has been added to the ledgers of the folder since the last time. Raises `DiskError`."""
        if self._folder is None:
            return
        with self._lock, files.as_disk_errors(self._folder):
            while True:
                paths = find_ledgers(self._folder)
                if self._ends.keys() - set(paths):  # folded into another meanwhile
                    self._forget()
                try:
                    for path in paths:
                        self._read(path)
                    return
                except FileNotFoundError:
                    continue

    def _read(self, path: Path) -> None:
        """Take in what a ledger holds beyond what was read of it. Raises `FileNotFoundError` where it is gone."""
        start = self._ends.get(path, 0)
        if path not in self._ends:
            self._paths.append(path)
            self._ends[path] = 0
        number, add = self._paths.index(path), self._rows.add
        try:
            for begins, ends, row in each_line(path, self._shape, start):
                if row is not None:
                    add(row, number, begins)
                self._ends[path] = ends
        except DocumentError:  # no file; what it is, whoever adds to it will say
            pass

    def last(self, path: str) -> dict[str, Any]:
        """Return the entry of a path that counts; empty where there is none."""
        with self._lock:
            return parse(self._line(lambda rows: rows.place_of(path)), Row) if self.last_row(path) else {}

    def last_row(self, path: str) -> Row | None:
        """Return what others rely on of the entry of a path that counts."""
        row = self._row(lambda rows: rows.place_of(path))
        return row if row is not None and row["path"] == path else None  # not another's with the same hash

    def made(self, output: str) -> Row | None:
        """Return the last entry that says an output is done, whatever was begun or has failed since."""
        row = self._row(lambda rows: rows.made(output))
        return row if row is not None and row.get("output") == output else None

    def begun(self, output: str) -> Row | None:
        """Return the last entry that says an output is about to be written, unless it was done since."""
        row = self._row(lambda rows: rows.begun(output))
        return row if row is not None and row.get("output") == output else None

    def _row(self, find: Callable[[Rows], Place | None]) -> Row | None:
        """Return what stands at the place that is found."""
        with self._lock:
            line = self._line(find)
            row: Row | None = one_of_lines(line, Row) if line else None
            if line and row is None and self._shape is Placed:
                # The line is malformed: from here on whole lines are parsed, and an earlier one counts.
                self._shape = Row
                self._forget()
                self.look_again()
                return self._row(find)
        return row

    def _line(self, find: Callable[[Rows], Place | None]) -> bytes:
        """Return the line at the place that is found; none where there is no such place."""
        with self._lock:
            while (place := find(self._rows)) is not None:
                try:
                    return self._line_at(*place)
                except (OSError, DocumentError):  # folded into another meanwhile, or no file any more
                    self.look_again()
            return b""

    def _line_at(self, ledger: int, start: int) -> bytes:
        """Return the line that stands in a ledger from a byte on. Raises `OSError`."""
        # Of the block that was last read, where it holds the whole line: lines never change.
        first, block = self._blocks.get(ledger, (0, b""))
        if first <= start and (end := block.find(b"\n", start - first)) >= 0:
            return block[start - first:end]

        if ledger not in self._open:
            if len(self._open) == MOST_OPEN:
                self._close_all()
            self._open[ledger] = opened(self._paths[ledger])
        block = os.pread(self._open[ledger].fileno(), BLOCK_BYTES, start)
        if not block:  # the name leads to a longer copy since: `files.unshare`
            self._open.pop(ledger).close()
            self._open[ledger] = opened(self._paths[ledger])
            block = os.pread(self._open[ledger].fileno(), BLOCK_BYTES, start)
        self._blocks[ledger] = start, block
        line, end_of_line, _ = block.partition(b"\n")
        if end_of_line or len(block) < BLOCK_BYTES:
            return line
        self._open[ledger].seek(start)
        return self._open[ledger].readline()

    def _close_all(self) -> None:
        for file in self._open.values():
            file.close()
        self._open, self._blocks = {}, {}

    def key_of(self, job: Job, verify: bool = False, note: bool = True) -> str | None:
        """Return the key of the job's output, where it is done and is still what was written.

        Its content is looked at where its size or time is another or it was to be replaced since, and always to
        `verify` it. What is the same gets an entry with its new time, so that it is read once; not without `note`.
        """
        made = self.made(job.output_name)
        if made is None or made["path"] != job.name:
            return None
        status, begun = self._status(job), self.begun(job.output_name) is not None
        if status is None:
            return None

        # Older versions wrote neither size nor time, and the first ones no sum. Storage has times of its own.
        size, mtime_ns = status
        same = made.get("size") == size and mtime_ns in (None, made.get("mtime_ns"))
        if not begun and (made.get("sha256") is None or (same and not verify)):
            return made.get("key")
        if self._checksum(job) != made.get("sha256"):
            if not begun:
                self.damaged.add(job.name)
            return None
        if note and not same:
            whole = parse(self._line(lambda rows: rows.made(job.output_name)), Row)
            known = Entry(**{each.name: whole[each.name] for each in fields(Entry) if each.name in whole})
            self.append(replace(known, size=size, mtime_ns=mtime_ns, message=None, replaces=None))
        return made.get("key")

    def _status(self, job: Job) -> tuple[int, int | None] | None:
        """Return (bytes, time) of the job's output; None where no file stands there."""
        try:
            status = job.output.stat()
        except OSError:
            return None
        return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None

    def _checksum(self, job: Job) -> str | None:
        return files.checksum(job.output)

    def is_foreign(self, job: Job) -> bool:
        """Return whether a file stands at the job's output name that we have not written.

        Another process may have written it meanwhile, so the ledgers are read again. Where other machines' ledgers may
        show later than what they say, a file that is not older than that is waited for.
        """
        if not os.path.lexists(job.output) or self._rows.has_written(job.output_name):
            return False
        self.look_again()
        until = time.monotonic() + self._seen_late
        while not self._rows.has_written(job.output_name):
            try:
                age = time.time() - job.output.lstat().st_mtime
            except FileNotFoundError:
                return False
            if age >= self._seen_late or time.monotonic() >= until:
                return True
            time.sleep(SECONDS_BETWEEN_LOOKS)
            self.look_again()
        return False

    def what_stands(self, job: Job) -> Row | None:
        """Return the entry of what stands at the job's output name, whichever file it was made from.

        Where it was to be replaced, and whoever did so was killed, the output itself shows whether it came to that.
        """
        if self._status(job) is None:
            return None
        made, begun = self.made(job.output_name), self.begun(job.output_name)
        if begun is None or (made is not None and self._checksum(job) == made.get("sha256")):
            return made
        return begun

    def from_elsewhere(self, job: Job, content: str | None) -> Row | None:
        """Return the entry of what stands at the job's output name where that was made from another folder's image, and
        not from one of this `content`."""
        stands = self.what_stands(job)
        if stands is None or None in (stands.get("source"), self.source) or stands.get("source") == self.source:
            return None
        return None if stands.get("content") == content else stands

    def put_meanwhile(self, job: Job, content: str | None) -> Row | None:
        """Return the same of an output that another process has put there since the ledgers were read."""
        if self.source is None or not os.path.lexists(job.output) or self.made(job.output_name) is not None:
            return None
        self.look_again()
        return self.from_elsewhere(job, content)

    def other_sources(self) -> list[str]:
        """Return the names of the folders whose outputs the last lines of ledgers are about, but for this one's name.

        A folder of the same name at another path is taken for this one, moved or mounted elsewhere.
        """
        found = dict[str, None]()
        own = (self.source or "").rpartition(" ")[0]
        with self._lock:
            for path in self._paths if self.source is not None else []:
                with suppress(OSError, DocumentError), opened(path) as file:
                    file.seek(max(0, file.seek(0, os.SEEK_END) - BLOCK_BYTES))
                    row = one_of_lines(file.read().rstrip(b"\n").rpartition(b"\n")[2], Row)
                    if row is not None and row.get("source") is not None:
                        found[str(row["source"]).rpartition(" ")[0]] = None
        return [name for name in found if name != own]

    def append(self, entry: Entry) -> None:
        """Add an entry, flushed to the disk."""
        if self._own is None:
            return
        record = {name: value for name, value in asdict(entry).items() if value is not None} | {"run": self.run}
        with self._lock, files.as_disk_errors(self._own.path):
            files.append_line(self._own.path, record)
