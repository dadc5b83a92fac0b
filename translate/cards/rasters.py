"""Cutting aligned rasters of the world into pairs of tiles, with a band of longitude held out for testing."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from translate.cards.archives import unpack
from translate.cards.world import ROOM, WorldConfig, land
from translate.data.transforms import resized
from translate.errors import DataError
from translate.images.reading import ImageConfig, read_image
from translate.images.writing import write_image

COMPRESSION = 3  # zlib's level: tiles of relief are as small as at its default of 6, and written twice as fast


class RastersConfig(WorldConfig):
    """How to cut two rasters of the whole world into tiles."""

    kind: Literal["rasters"] = "rasters"
    input: str  # member of the first archive that becomes A; with `input_tiles`, the folder of its tiles
    # [rows, columns] of the tiles that the input comes in, named as Marble does: row/row_column.jpg, six digits each
    input_tiles: tuple[Annotated[int, Field(ge=1, le=1024)], Annotated[int, Field(ge=1, le=1024)]] | None = None
    input_channels: Literal[1, 3] = 3  # of A's images; 1: grey
    target: str  # member of the last archive that becomes B; the larger of the two is averaged down to the smaller
    tile: int = Field(default=384, ge=8, le=65_536)  # px, of a side

    def build(self, archives: list[Path], folder: Path, scratch: Path, limit: int,
              say: Callable[[str], None]) -> dict[str, Any]:
        """Write trainA, trainB, testA, testB (tiles) and largeA, largeB (the held-out band: its northern half and its
        southern half).

        `archives` holds one archive with both rasters, or one for each; `limit` is the most bytes that each may unpack
        to.
        """
        say("reading the rasters")
        num_columns = 1 if self.input_tiles is None else self.input_tiles[1]
        unpack(archives[0], scratch / "A", limit, only=self.input_members)
        unpack(archives[-1], scratch / "B", limit, only={self.target})
        raster_a = mosaic([read_image(scratch / "A" / name, ImageConfig(channels=self.input_channels))
                           for name in self.input_members], num_columns)
        raster_b = read_image(scratch / "B" / self.target, ImageConfig(channels=3))
        return self.cut(raster_a, raster_b, folder, say)

    @property
    def input_members(self) -> list[str]:
        """The members of the archive that make up the input, row by row."""
        if self.input_tiles is None:
            return [self.input]
        rows, columns = self.input_tiles
        return [f"{self.input}/{row:06}/{row:06}_{column:06}.jpg" for row in range(rows) for column in range(columns)]

    def cut(self, raster_a: np.ndarray, raster_b: np.ndarray, folder: Path,
            say: Callable[[str], None]) -> dict[str, Any]:
        """Cut two rasters of the world (H, W, C and H, W, 3), and return how many tiles were written and left out.

        The world is parted into train and test before either is cut. Tiles of a piece overlap a little, so that they
        cover all of it.
        """
        raster_a, raster_b = same_size(raster_a, raster_b)
        parts_a, parts_b = self.parted(raster_a), self.parted(raster_b)

        counts: dict[str, Any] = {}
        for split in ("test", "train"):
            a, b = parts_a[split], parts_b[split]
            counts[split], counts[f"{split}_left_out"] = self._write_tiles(split, a, b, folder)
            say(f"{split}: {counts[split]} tiles of {self.tile} px, and {counts[f'{split}_left_out']} left out with "
                f"less than {self.min_land:.0%} land")

        # Keep the band whole as well, in two large images.
        height = raster_a.shape[0]
        equator = round(height / 2) - self.rows(height).start
        for letter, band in (("A", parts_a["test"]), ("B", parts_b["test"])):
            for name, half in (("north", band[:max(equator, 0)]), ("south", band[max(equator, 0):])):
                if half.size:
                    _write(folder / f"large{letter}" / f"{name}.png", half)
        return counts

    def _write_tiles(self, split: str, a: np.ndarray, b: np.ndarray, folder: Path) -> tuple[int, int]:
        """Cut a piece of the world into tiles; returns how many were written and left out. Raises `DataError`."""
        if min(a.shape[:2]) < self.tile:
            raise DataError(f"{split} has {a.shape[1]}×{a.shape[0]} px of the world, and a tile is {self.tile}",
                            advice=f"make tile smaller, or {ROOM[split]}")
        written = left_out = 0
        for row, top in enumerate(starts(a.shape[0], self.tile)):
            for column, left in enumerate(starts(a.shape[1], self.tile)):
                window = np.s_[top:top + self.tile, left:left + self.tile]
                if land(b[window]) < self.min_land:
                    left_out += 1
                    continue
                written += 1
                for letter, raster in (("A", a), ("B", b)):
                    _write(folder / f"{split}{letter}" / f"{row:02}_{column:02}.png", raster[window])
        return written, left_out


def mosaic(tiles: list[np.ndarray], num_columns: int) -> np.ndarray:
    """Return tiles (H, W, C), row by row, as one image. Raises `DataError` where their sizes leave gaps."""
    rows = [tiles[first:first + num_columns] for first in range(0, len(tiles), num_columns)]
    if len({tile.shape for tile in tiles}) > 1:
        raise DataError(f"tiles of {tiles[0].shape[1]}×{tiles[0].shape[0]} px and of other sizes make no raster")
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def same_size(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two rasters of one area, both at the resolution of the coarser one. Raises `DataError` for two areas."""
    if a.shape[0] * b.shape[1] != a.shape[1] * b.shape[0]:
        raise DataError(f"rasters of {a.shape[1]}×{a.shape[0]} and {b.shape[1]}×{b.shape[0]} px do not show one area")
    shape = min(a.shape[:2], b.shape[:2])
    return resized(a, shape), resized(b, shape)


def starts(length: int, tile: int) -> list[int]:
    """Return where tiles begin: as few as cover `length`, evenly spread."""
    num = math.ceil(length / tile)
    return [round(i * (length - tile) / max(1, num - 1)) for i in range(num)]


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, image, compression=COMPRESSION)
