"""Two maps of the world with label maps drawn from coastlines: sea, land and ice, for domain adaptation.

Coastlines are those of GSHHG (Wessel and Smith 1996) as matplotlib's basemap carries them: polygons in degrees, with a
level: 1 the border of land and sea, 2 of a lake, 3 of an island in it, 4 of a pond on that, 5 of Antarctica's ice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from pydantic import Field

from translate.cards.archives import unpack
from translate.cards.rasters import same_size
from translate.cards.world import ROOM, WorldConfig, land
from translate.errors import DataError
from translate.images.reading import ImageConfig, read_image
from translate.images.writing import write_image

SEA, LAND, ICE, UNKNOWN = 0, 1, 2, 255
# What the polygons of a level hold. Of lakes a relief map shows few, so they are no class; nor is what lies in them.
CLASS_OF_LEVEL = {1: LAND, 5: ICE, 2: UNKNOWN}
FINER = 3  # times as fine as pixels are polygons drawn; odd, so that a pixel has a middle
SUBPIXEL_BITS = 6  # of the places of their points
Polygon = tuple[int, np.ndarray]  # its level, and its points (N, 2): longitude and latitude in degrees


class CoastsConfig(WorldConfig):
    """How to cut two maps of the whole world into crops with label maps.

    Columns of crops outside the band are the source's and the target's in turn, so that the two share no place.
    """

    kind: Literal["coasts"] = "coasts"
    input: str  # member of the archive that becomes A
    target: str  # the one that becomes B; the larger of the two is averaged down to the smaller
    coasts: str  # the polygons' points; `coasts_about` says which are whose
    coasts_about: str
    side: int = Field(96, ge=8, le=4096)  # px, of a crop

    def build(self, archives: list[Path], folder: Path, scratch: Path, limit: int,
              say: Callable[[str], None]) -> dict[str, Any]:
        """Write trainA and trainB (other places), testA and testB (the band), and their label maps in `labels`."""
        unpack(archives[0], scratch, limit, only={self.input, self.target, self.coasts, self.coasts_about})
        say("reading the maps")
        a, b = same_size(*(read_image(scratch / name, ImageConfig(channels=3)) for name in (self.input, self.target)))
        say("drawing the coasts")
        labels = drawn(polygons(scratch / self.coasts_about, scratch / self.coasts), a.shape[0], a.shape[1])
        return self.cut(a, b, labels, folder)

    def cut(self, a: np.ndarray, b: np.ndarray, labels: np.ndarray, folder: Path) -> dict[str, Any]:
        """Cut maps (H, W, 3) and labels (H, W), and return how many crops there are of each, and of which classes.

        Crops of B with too little land are left out, and those of A at the same places. Raises `DataError` where the
        band is smaller than a crop, or the rest of the world than one of A beside one of B, and where all crops of A or
        of B are left out.
        """
        counts: dict[str, Any] = {}
        shares: dict[str, np.ndarray] = {}
        parts = [self.parted(each) for each in (a, b, labels)]
        for split in ("train", "test"):
            shown = dict(zip("AB", (parts[0][split], parts[1][split]), strict=True))
            height, width = parts[2][split].shape
            least = 2 * self.side if split == "train" else self.side  # a column of A and one of B, or one of both
            if height < self.side or width < least:
                raise DataError(f"{split} has {width}×{height} px of the world; expected at least {least}×{self.side}",
                                advice=f"make side smaller, or {ROOM[split]}")
            for column, left in enumerate(range(0, width - self.side + 1, self.side)):
                for top in range(0, height - self.side + 1, self.side):
                    window = np.s_[top:top + self.side, left:left + self.side]
                    if land(shown["B"][window]) < self.min_land:
                        continue
                    letters = "AB" if split == "test" else "AB"[column % 2]
                    for letter in letters:
                        name, classes = f"{split}{letter}", parts[2][split][window]
                        _write(folder / name / f"{top:04}_{left:04}.png", shown[letter][window])
                        _write(folder / "labels" / name / f"{top:04}_{left:04}.png", classes[..., None])
                        counts[name] = counts.get(name, 0) + 1
                        shares[name] = shares.get(name, 0) + np.bincount(classes.ravel(), minlength=256)
        if missing := [name for name in ("trainA", "trainB", "testA", "testB") if name not in counts]:
            raise DataError(f"{', '.join(missing)}: no crop is at least {self.min_land:.0%} land",
                            advice="make min_land smaller")
        return counts | {"pixels": {name: {"sea": int(each[SEA]), "land": int(each[LAND]), "ice": int(each[ICE]),
                                           "unknown": int(each[UNKNOWN])} for name, each in shares.items()}}


def polygons(about: Path, points: Path) -> Iterator[Polygon]:
    """Yield the polygons of a file of points, of which another file says which are whose. Raises `DataError`."""
    content = points.read_bytes()
    for number, line in enumerate(about.read_text(encoding="ascii", errors="replace").splitlines(), 1):
        try:
            level, _, num, _, _, start, num_bytes, _ = line.split()
            found = np.frombuffer(content, "<f4", int(num_bytes) // 4, int(start)).reshape(int(num), 2)
            if len(found) < 3:
                raise ValueError(f"{len(found)} points; expected 3 or more")
            yield int(level), found
        except ValueError as error:
            raise DataError(f"line {number} says nothing of a polygon in {points.name} ({error})", about) from None


def drawn(shapes: Iterator[Polygon], height: int, width: int) -> np.ndarray:
    """Return the classes of the world's pixels, (H, W) uint8: what its polygons hold where each pixel has its middle.

    The world is equirectangular, 90° N at the top and 180° W at the left.
    """
    fine = np.full((FINER * height, FINER * width), SEA, np.uint8)
    known = [(level, points) for level, points in shapes if level in CLASS_OF_LEVEL]
    for level, points in sorted(known, key=lambda each: list(CLASS_OF_LEVEL).index(each[0])):
        across, down = (points[:, 0].astype(np.float64) + 180) / 360, (90 - points[:, 1].astype(np.float64)) / 180
        places = np.stack([across * fine.shape[1] - 0.5, down * fine.shape[0] - 0.5], 1)
        for turn in (0, 1, -1):  # some cross 180° of longitude
            moved = places + np.array([turn * fine.shape[1], 0])
            if moved[:, 0].max() >= 0 and moved[:, 0].min() <= fine.shape[1]:
                cv2.fillPoly(fine, [np.rint(moved * 2**SUBPIXEL_BITS).astype(np.int32)], CLASS_OF_LEVEL[level],
                             shift=SUBPIXEL_BITS)
    return np.ascontiguousarray(fine[FINER // 2::FINER, FINER // 2::FINER])


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, image)
