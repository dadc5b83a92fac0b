"""The same picture where it must not be: in the images that are trained on and those held out, or on both sides.

Pictures are the same where files are read into the same pixels: copies, whatever they are called, and in whatever
lossless format. Pictures of one colour are no copies of each other. Of each picture a digest is kept, and nothing else.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np

from translate.errors import visible

NUM_NAMED = 5
Place = tuple[bool, str, Path]  # whether it is held out, the side, the file


class Pictures:
    """The pictures of a data set by what they show: each with its split and side (a, b, or both in one file)."""

    def __init__(self, held_out: Collection[str]):
        self.held_out = held_out  # names of splits
        self._places: dict[bytes, list[Place]] = defaultdict(list)
        self._num: dict[tuple[bool, str], int] = defaultdict(int)

    def add(self, split: str, side: str, path: Path, pixels: np.ndarray) -> None:
        """Note the pixels (H, W, C) of a file."""
        place = split in self.held_out, side, path
        self._num[place[:2]] += 1
        if (pixels != pixels[:1, :1]).any():
            digest = hashlib.blake2b(repr((pixels.shape, pixels.dtype)).encode(), digest_size=16)
            digest.update(np.ascontiguousarray(pixels).data)
            self._places[digest.digest()].append(place)

    def faults(self) -> Iterator[tuple[str, str]]:
        """Yield (what, advice) about held-out pictures that are trained on as well, and about those on both sides."""
        for side, title in (("a", "of A"), ("b", "of B"), ("both", "(A beside B)")):
            same = self._same(lambda place, side=side: place[:2] == (True, side),  # type: ignore[misc]
                              lambda place, side=side: place[:2] == (False, side))  # type: ignore[misc]
            if same:
                yield (f"{len(same)} of {self._num[True, side]} test images {title} are trained on as well: "
                       f"{_named(same)}", "remove them from one of the two: scores of what was trained on say nothing "
                       "about other images")
        if same := self._same(lambda place: place[1] == "a", lambda place: place[1] == "b"):
            num = self._num[False, "a"] + self._num[True, "a"]
            yield (f"{len(same)} of {num} images of A are images of B as well: {_named(same)}",
                   "remove them from one of the two, unless nothing about them is to be changed")

    def _same(self, one: Callable[[Place], bool], other: Callable[[Place], bool]) -> dict[Path, Path]:
        """Return the files at places of the one kind that show what one at a place of the other kind shows."""
        found: dict[Path, Path] = {}
        for places in self._places.values():
            others = [place[2] for place in places if other(place)]
            found |= {place[2]: others[0] for place in places if others and one(place)}
        return found


def _named(same: dict[Path, Path]) -> str:
    named = [f"{visible(path)} is {visible(other)}" for path, other in list(same.items())[:NUM_NAMED]]
    return "; ".join(named) + "; …" * (len(same) > NUM_NAMED)
