"""What cards use of the world's rasters: latitudes, the band of longitude that is held out, how much is land."""

from __future__ import annotations

from typing import Self

import numpy as np
import pydantic
from pydantic import Field

from translate.schema import Config

ROOM = {"train": "the band narrower or the latitudes wider",  # what gives a part of the world more pixels
        "test": "the band or the latitudes wider"}


class WorldConfig(Config):
    """What of the world is used (equirectangular, 90° N at the top, 180° W at the left), and what of it is held out."""

    band: tuple[float, float]  # longitudes held out, [west, east] in degrees
    latitudes: tuple[float, float] = (-90.0, 90.0)  # [south, north] that are used
    min_land: float = Field(default=0.0, ge=0.0, le=1.0)  # pieces with a smaller fraction of land are left out

    @pydantic.model_validator(mode="after")
    def _within_the_world(self) -> Self:
        (west, east), (south, north) = self.band, self.latitudes
        if not -180 <= west < east <= 180 or east - west >= 360:
            raise ValueError(f"band: {west} to {east}; expected [west, east] within -180 … 180, and not all of it")
        if not -90 <= south < north <= 90:
            raise ValueError(f"latitudes: {south} to {north}; expected [south, north] within -90 … 90")
        return self

    def rows(self, height: int) -> slice:
        """Return which rows of a raster of the world, `height` px, are used."""
        south, north = self.latitudes
        return slice(round((90 - north) / 180 * height), round((90 - south) / 180 * height))

    def parted(self, raster: np.ndarray) -> dict[str, np.ndarray]:
        """Part a raster of the world (H, W, …) into `train` and `test`, the band, which share no pixel.

        The rest of the world is one piece, across 180° of longitude.
        """
        height, width = raster.shape[:2]
        raster = raster[self.rows(height)]
        west, east = (round((degrees + 180) / 360 * width) for degrees in self.band)
        return {"train": np.concatenate([raster[:, east:], raster[:, :west]], axis=1), "test": raster[:, west:east]}


def land(image: np.ndarray) -> float:
    """Return the fraction of a satellite image that is not water: there, blue stands out from red and green."""
    red, green, blue = np.moveaxis(image.astype(np.int16), -1, 0)
    return float(np.mean(blue - np.maximum(red, green) <= 4))
