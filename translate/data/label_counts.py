"""How many pixels of label maps, or how many labelled images, are of each class: nothing is learnt or scored of none.

Masks of 0 and 255 are the usual trap. Where 255 is ignored, all that counts is of class 0; a network that always says
0 is then right everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np

from translate.data.labels import Labelling
from translate.errors import ImageError

NEARLY_ALL = 0.9999  # share of a class, or of what is ignored, that leaves nothing to learn or to score
NEARLY_ALL_BESIDE_IGNORED = 0.999  # the same of a class, where more is ignored than is of all other classes
MOST = 0.99  # share that a person is told of
MAX_MAPS_BEFORE_TRAINING = 200  # label maps that a training looks at before it begins, evenly spread
NUM_CLASSES_NAMED = 8


class LabelCounts:
    """What labels are of: pixels for each class, or images, and how much of them is ignored.

    names    of the classes, in the order of their numbers
    ignored_number    what is ignored; None: nothing is
    of       what is counted
    """

    def __init__(self, names: Sequence[str], ignored_number: int | None, of: Literal["pixel", "image"] = "pixel"):
        self.names, self.ignored_number, self.of = tuple(names), ignored_number, of
        self.counted = np.zeros(len(self.names), np.int64)
        self.ignored = self.num_labels = 0
        self.num_files: int | None = None  # of how many files those are, where not all were looked at

    def add(self, numbers: np.ndarray) -> None:
        """Count the class numbers of one label, of any shape; what is no class is ignored."""
        classes = len(self.names)
        inside = numbers[(numbers >= 0) & (numbers < classes)].astype(np.int64, copy=False)
        self.counted += np.bincount(inside, minlength=classes)
        self.ignored += numbers.size - inside.size
        self.num_labels += 1

    @property
    def total(self) -> int:
        """How many pixels or images are of a class."""
        return int(self.counted.sum())

    @property
    def present(self) -> list[int]:
        """The classes that occur."""
        return np.flatnonzero(self.counted).tolist()

    @property
    def absent(self) -> list[int]:
        """The classes that do not."""
        return np.flatnonzero(self.counted == 0).tolist()

    @property
    def remedy(self) -> dict[int | None, int]:
        """What `ids` most likely has to say: what is ignored is the class of which there is least."""
        return {self.ignored_number: int(self.counted.argmin()) if self.total else min(1, len(self.names) - 1)}

    def fault(self) -> str | None:
        """Return, in words, why nothing could be learnt from these labels, or scored by them; None where it could."""
        everything = self.total + self.ignored
        if not everything:
            return None

        # All of it, or nearly, is ignored.
        labels = f"its {self.num_labels} labels"
        if self.ignored >= NEARLY_ALL * everything:
            return f"{self._share(self.ignored, everything)} of {labels} are ignored ({self.ignored_number}), so " \
                   f"that {'none' if not self.total else 'next to none'} of them counts"

        # All of what counts is of one class. A class for each image leaves no room for "nearly".
        most = int(self.counted.argmax())
        others = self.total - int(self.counted[most])
        limit = NEARLY_ALL_BESIDE_IGNORED if self.ignored > others else NEARLY_ALL
        if others and (self.of == "image" or self.counted[most] < limit * self.total):
            return None
        beside = f" ({self._share(self.ignored, everything)} are ignored: {self.ignored_number})" * bool(self.ignored)
        return f"{self._share(int(self.counted[most]), self.total)} of {labels} that count are of one class, " \
               f"{self.names[most]}{beside}"

    def advice(self, where: str) -> str:
        """Return what to do about labels that have a `fault`; `where` is the part of a recipe that says how to read
        them."""
        if self.of == "image":
            return f"look at names and folders of {where}"
        if not self.ignored:
            return f"look at the label maps, and at classes and ids of {where}"
        return (f"if {self.ignored_number} is a class, write ids: {self.remedy} into {where}, or ignore: null where "
                "the numbers in the files are the classes")

    def warnings(self) -> list[str]:
        """Return a line on the classes that do not occur, and on one that is most of everything."""
        lines = []
        if self.absent:
            named = ", ".join(self.names[number] for number in self.absent[:NUM_CLASSES_NAMED])
            more = f" and {len(self.absent) - NUM_CLASSES_NAMED} more" * (len(self.absent) > NUM_CLASSES_NAMED)
            lines.append(f"{self._where()}holds no {self.of} of class {named}{more} ({len(self.absent)} of "
                         f"{len(self.names)} classes)")
        everything, most = self.total + self.ignored, int(self.counted.max(initial=0))
        for part, whole, what in ((self.ignored, everything, f"are ignored ({self.ignored_number})"),
                                  (most, self.total, f"that count are of class {self.names[self.counted.argmax()]}")):
            if self.of == "pixel" and part >= MOST * whole > 0:
                lines.append(f"{self._where()}{self._share(part, whole)} {what}")
        return lines

    def __str__(self) -> str:
        """Return what was counted, as in `12,288 pixels of 2 of 3 classes, 300 ignored`."""
        ignored = f", {self.ignored:,} ignored" if self.ignored else ""
        return f"{self.total:,} {self.of}s of {len(self.present)} of {len(self.names)} classes{ignored}"

    def as_json(self) -> dict[str, object]:
        """Return what results keep: the same in text and in numbers."""
        return {"text": str(self), "counted": self.total, "ignored": self.ignored, "classes": len(self.names),
                "present": len(self.present), "of": f"{self.of}s",
                "by_class": {self.names[number]: int(self.counted[number]) for number in self.present}}

    def _share(self, part: int, whole: int) -> str:
        """Return a share in words, which is not rounded to everything."""
        per_cent = 100 * part / whole
        return f"all {self.of}s" if part == whole else f"{min(per_cent, 99.999):.{5 if per_cent > 90 else 3}g} % of " \
                                                       f"all {self.of}s"

    def _where(self) -> str:
        return "" if self.num_files is None else f"(of {self.num_labels} of {self.num_files:,} label maps) "


def count_label_maps(labelling: Labelling, files: Sequence[Path], at_most: int | None = None) -> LabelCounts:
    """Count the pixels of label maps; where there are more than `at_most`, of that many, evenly spread.

    What seems to leave nothing to learn is counted to the end. Maps that cannot be read do not count: whoever trains
    on them says so.
    """
    if at_most is None or len(files) <= at_most:
        return _counted(labelling, files)
    found = _counted(labelling, [files[number * len(files) // at_most] for number in range(at_most)])
    if found.fault() is not None:
        return _counted(labelling, files)
    found.num_files = len(files)
    return found


def _counted(labelling: Labelling, files: Iterable[Path]) -> LabelCounts:
    counts = LabelCounts(labelling.names, labelling.ignore)
    for path in files:
        with suppress(ImageError):
            counts.add(labelling.classes_in(labelling.read(path)))
    return counts
