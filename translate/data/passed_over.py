"""Files beside images that are read by nothing here: how many there are of each ending, and what to do about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from translate.images.listing import is_aside, list_folder
from translate.sizes import plural

# What cameras call the values of their sensors, in lower case; most of them are TIFF within
RAW = frozenset({".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq", ".kdc", ".mef",
                 ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw",
                 ".x3f"})
NUM_ENDINGS = 5  # that are named each
READ_BESIDE = frozenset({"metadata.jsonl", "vectors.npz"})  # with what images are drawn under


@dataclass(frozen=True)
class PassedOver:
    """How many files that are no images have each ending, in lower case, the most frequent first."""

    endings: Mapping[str, int]

    @classmethod
    def below(cls, *folders: Path) -> Self:
        """Count the files below some folders, without hidden ones and those of systems."""
        others = {path for folder in folders for path in list_folder(folder).others
                  if not is_aside(path.name) and path.name not in READ_BESIDE}
        counts = Counter(path.suffix.lower() for path in others)
        return cls(dict(sorted(counts.items(), key=lambda item: (-item[1], not item[0], item[0]))))

    def __bool__(self) -> bool:
        return bool(self.endings)

    def __str__(self) -> str:
        """Say it, such as: 3 .nef files; or: 4 other files (3 .nef, 1 without an ending)."""
        counted = [(number, ending or "without an ending") for ending, number in self.endings.items()]
        if len(counted) == 1 and "" not in self.endings:
            return plural(counted[0][0], f"{counted[0][1]} file")
        listed = [f"{number} {ending}" for number, ending in counted[:NUM_ENDINGS]]
        more = [f"{sum(number for number, _ in counted[NUM_ENDINGS:])} of others"] * (len(counted) > NUM_ENDINGS)
        return f"{plural(sum(self.endings.values()), 'other file')} ({', '.join(listed + more)})"

    @property
    def in_words(self) -> str:
        """What a line on a folder says of them."""
        return f"passed over: {self}" + (f"; {self.advice}" if self.advice else "")

    @property
    def advice(self) -> str | None:
        """What to do about raw files of cameras; None where there are none."""
        return "raw files of cameras are not read: export them as JPEG or TIFF" if RAW & set(self.endings) else None
