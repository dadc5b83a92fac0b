"""The lines of a folder's ledgers: what each must hold, where those stand that count, and which a fold keeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, Required

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from translate.foreign import SHA256, Count, each_line, opened

Place = tuple[int, int]  # of a line: the number of the ledger, and its first byte


class Placed(TypedDict, total=False):
    """The fields that decide whether a line counts: the only ones parsed where all lines are read."""

    __pydantic_config__ = ConfigDict(extra="ignore", strict=True)  # type: ignore[misc]

    path: Required[str]
    status: Required[Literal["started", "done", "failed"]]
    output: str | None
    run: Count


class Row(Placed, total=False):
    """A line of a ledger. One that is none is left out: what it was about is translated again."""

    key: str | None
    pixels: Count | None
    sha256: SHA256 | None
    size: Count | None
    mtime_ns: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None
    note: str | None
    source: str | None
    content: SHA256 | None


class Rows:
    """Where the lines stand that count: of each path the last, of each output the last that is done, and what was begun
    since. A million take 110 MB, as the lines stay on the disk.

    A place is one integer, from its lowest bit: 1 bit, whether the line says that the output called as its input is
    done; 40 bits, the line's first byte; 24 bits, the number of the ledger; 1 bit, whether it is done; the run + 1.
    The last two rank it.
    """

    def __init__(self) -> None:
        self.run = 0  # the highest
        self._paths: dict[int, int] = {}  # the places, by the hash of the path
        self._made: dict[int, int] = {}  # by the hash of the output, where the line is not the one in `_paths`
        self._begun: dict[int, int] = {}  # by the hash of the output, where it ranks higher than what is made

    def add(self, row: Placed, ledger: int, start: int) -> None:
        """Take in the row that stands in that ledger from that byte on."""
        path, status, output, run = row["path"], row["status"], row.get("output"), row.get("run", 0)
        if run > self.run:
            self.run = run
        done = status == "done"
        name, own = hash(path), done and output == path
        place = (run + 1 << 1 | done) << 65 | ledger << 41 | start << 1 | own

        # The last line of the path. What it takes the place of may still say what the output was made from.
        known = self._paths.get(name, 0)
        if place >> 65 >= known >> 65:
            self._paths[name] = place
            if known & 1 and not own:
                self._keep(name, known)
        elif own:
            self._keep(name, place)

        if output is None or status == "failed":
            return
        target = name if output == path else hash(output)
        if not done:
            if place > self._last_made(target):
                self._begun[target] = max(place, self._begun.get(target, 0))
            return
        if not own:
            self._keep(target, place)
        elif self._made.get(target, place) < place:
            del self._made[target]
        if self._begun.get(target, place) < place:
            del self._begun[target]

    def _keep(self, target: int, place: int) -> None:
        if place >> 65 >= self._made.get(target, 0) >> 65:
            self._made[target] = place

    def _last_made(self, target: int) -> int:
        own = self._paths.get(target, 0)
        return max(own if own & 1 else 0, self._made.get(target, 0))

    def place_of(self, path: str) -> Place | None:
        """Return the place of the entry of a path that counts, or of one with the same hash."""
        return _unpacked(self._paths.get(hash(path), 0))

    def made(self, output: str) -> Place | None:
        """Return the place of the last entry that says this output, or one with the same hash, is done."""
        return _unpacked(self._last_made(hash(output)))

    def begun(self, output: str) -> Place | None:
        """Return the place of the last entry that says this output is about to be written, unless it was done since."""
        return _unpacked(self._begun.get(hash(output), 0))

    def has_written(self, output: str) -> bool:
        """Return whether any of them has written this output: it is ours."""
        return hash(output) in self._begun or self._last_made(hash(output)) > 0

    def keep(self, row: Placed, place: Place) -> bool:
        """Return whether a row at its place still says something."""
        output = row.get("output")
        return place == self.place_of(row["path"]) or (output is not None
                                                       and place in (self.made(output), self.begun(output)))


def _unpacked(place: int) -> Place | None:
    return (place >> 41 & 0xFFFFFF, place >> 1 & 0xFFFFFFFFFF) if place else None


def kept_lines(ledgers: Sequence[Path]) -> Iterator[bytes]:
    """Yield the lines of some ledgers that still say something."""
    rows = Rows()
    for number, path in enumerate(ledgers):
        for start, _, row in each_line(path, Row):
            if row is not None:
                rows.add(row, number, start)
    for number, path in enumerate(ledgers):
        with opened(path) as file:
            for start, end, row in each_line(path, Row):
                if row is not None and rows.keep(row, (number, start)):
                    file.seek(start)
                    yield file.read(end - start)
