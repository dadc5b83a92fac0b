"""What has become of all files of a conversion, in numbers and in the entries that a person wants to hear of."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from translate.convert.ledger import Entry


@dataclass
class Summary:
    """What became of all files, or of all of a shard's."""

    total: int  # images found
    converted: int = 0
    already: int = 0  # done by an earlier run
    todo: int = 0  # would be converted, were this no dry run
    failed: list[Entry] = field(default_factory=list)
    noted: list[Entry] = field(default_factory=list)  # done, and something of the input had to be left out
    in_strips: list[Entry] = field(default_factory=list)  # done in strips, as there was no memory for all at once
    skipped: list[str] = field(default_factory=list)  # files that are no images by their suffix, hidden ones among them
    replaced: Counter[str] = field(default_factory=Counter)  # outputs made again, by what the former were made from
    outside: int = 0  # translated at another scale than the model knows, by more than a third
    resized: bool = False  # outputs have another size than their inputs
    stopped: bool = False  # by a signal, with files left to do

    @property
    def exit_code(self) -> int:
        """0: all, 3: some, 4: none of the images are translated; 75: stopped, and can be resumed."""
        if self.stopped:
            return 75
        if not self.failed:
            return 0
        return 3 if self.converted or self.already or self.todo else 4

    @property
    def num_seen(self) -> int:
        return self.converted + self.already + self.todo + len(self.failed)

    def count(self, entry: Entry) -> None:
        """Add what became of one file."""
        self.converted += entry.status == "done"
        self.already += entry.status == "already"
        self.todo += entry.status == "todo"
        if entry.status == "failed":
            self.failed.append(entry)
        if entry.note is not None:
            self.noted.append(entry)
        if entry.strips is not None:
            self.in_strips.append(entry)
        if entry.replaces is not None:
            self.replaced[entry.replaces] += 1

    def add(self, other: Summary) -> None:
        """Add what another process has done."""
        for name in ("total", "converted", "already", "todo", "outside"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.failed, self.skipped = self.failed + other.failed, self.skipped + other.skipped
        self.noted, self.in_strips = self.noted + other.noted, self.in_strips + other.in_strips
        self.replaced += other.replaced
        self.resized |= other.resized
        self.stopped |= other.stopped
