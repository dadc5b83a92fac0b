"""Small crops of one map of the world, to be drawn from noise, with a band of longitude held out for testing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from translate.cards.archives import unpack
from translate.cards.world import ROOM, WorldConfig, land
from translate.errors import DataError
from translate.images.reading import ImageConfig, read_image
from translate.images.writing import write_image


class CropsConfig(WorldConfig):
    """How to cut a raster of the whole world into crops."""

    kind: Literal["crops"] = "crops"
    raster: str  # member of the archive
    side: int = Field(64, ge=8, le=4096)  # px, of a crop
    step: int = Field(32, ge=1, le=4096)  # px from one crop to the next; less than `side`: they overlap

    def build(self, archives: list[Path], folder: Path, scratch: Path, limit: int,
              say: Callable[[str], None]) -> dict[str, Any]:
        """Write train and test (the band); returns how many crops each has, and how many were left out."""
        unpack(archives[0], scratch, limit, only={self.raster})
        say("reading the raster")
        return self.cut(read_image(scratch / self.raster, ImageConfig(channels=3)), folder)

    def cut(self, raster: np.ndarray, folder: Path) -> dict[str, Any]:
        """Cut a raster of the world (H, W, 3), which is parted into train and test before it is cut.

        Raises `DataError` where a part of it is smaller than a crop.
        """
        counts: dict[str, Any] = {}
        for split, part in self.parted(raster).items():
            if min(part.shape[:2]) < self.side:
                size = f"{part.shape[1]}×{part.shape[0]}"
                raise DataError(f"{split} has {size} px of the world, and a crop is {self.side}",
                                advice=f"make side smaller, or {ROOM[split]}")
            counts[split] = counts[f"{split}_left_out"] = 0
            for top in range(0, part.shape[0] - self.side + 1, self.step):
                for left in range(0, part.shape[1] - self.side + 1, self.step):
                    crop = part[top:top + self.side, left:left + self.side]
                    if land(crop) < self.min_land:
                        counts[f"{split}_left_out"] += 1
                        continue
                    counts[split] += 1
                    path = folder / split / f"{top:05}_{left:05}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_image(path, crop)
        return counts
