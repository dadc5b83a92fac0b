"""Whole images as arrays, in the channels and bits that a recipe declares: nothing is lost silently.

Whatever a file holds beyond what is declared (more bits, other channels, several frames) is refused by name. Which
library reads which file stands in `translate.images.decoding`; `translate.images.pages` reads large images by rows, and
`translate.images.tensors` makes tensors of these arrays.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic
from pydantic import Field

from translate.errors import ImageError
from translate.images.decoding import decode, read_content
from translate.images.pictures import DTYPES, MAX_PIXELS, Bits, Picture, bits_of
from translate.images.transparency import GREY_OF_RGB, Background, composed, is_transparent, taken_off
from translate.images.values import to_unit
from translate.schema import Config

HALF_RANGE: dict[Bits, float] = {8: 127.5, 16: 32767.5}  # samples / HALF_RANGE - 1 lie in [-1, 1]
LIMITS: dict[Bits, tuple[tuple[float, float], ...]] = {  # of what output files can hold
    8: ((0, 255),), 16: ((0, 65535), (-32768, 32767)), "float": ((-math.inf, math.inf),)}

RANGE_ADVICE = "say in the recipe which of them are black and white (range: [low, high] of this side); without a " \
               "range, floats are to lie in [-1, 1]"


class ImageConfig(Config):
    """What one side of a recipe's data looks like. Samples are mapped to [-1, 1]; floats are taken as they are."""

    channels: int = Field(3, ge=1, le=4096)  # 1 grey, 3 RGB, 4 RGB and alpha, more from TIFF
    bits: Bits = 8  # a file of more bits is refused, one of fewer is widened without loss
    # what transparent images are shown on: white, black or [red, green, blue] of 8 bits; null: the colours that the
    # file keeps under its transparency, which nobody sees, are taken as they are
    background: Background | None = "white"
    # the values of files that stand for -1 and 1, where they fill a part of what their type holds: [0, 4095] for 12
    # bits in files of 16, [-200, 800] for Hounsfield units; outputs are written in them. null: all of the type
    range: tuple[float, float] | None = None
    window: tuple[float, float] | None = None  # the same as its centre and its width

    pages: Literal["channels"] | None = None  # the pages of a TIFF are the channels of one image; null: images each

    @property
    def value_range(self) -> tuple[float, float] | None:
        """The values of files that stand for -1 and 1; None: all of their type."""
        if self.window is None:
            return self.range
        centre, width = self.window
        return centre - width / 2, centre + width / 2

    @property
    def file_dtype(self) -> np.dtype:
        """The type of the samples of an output file."""
        signed = self.value_range is not None and self.value_range[0] < 0 and self.bits == 16
        return np.dtype(np.int16 if signed else DTYPES[self.bits])

    @pydantic.model_validator(mode="after")
    def _values_fit(self) -> ImageConfig:
        if self.range is not None and self.window is not None:
            raise ValueError("range and window: they say the same; give one")
        if self.value_range is None:
            return self
        low, high = self.value_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"range: from {low:g} to {high:g}; expected [low, high], the lower value first")
        if not any(least <= low and high <= most for least, most in LIMITS[self.bits]):
            raise ValueError(f"range: from {low:g} to {high:g} does not fit samples of {self.bits} bits; use bits: 16 "
                             "for whole numbers from 0 to 65535 or from -32768 to 32767, else bits: float")
        return self

    @property
    def identity(self) -> dict[str, Any]:
        """What distinguishes images by this config; as before there were fields that may be null, where they are."""
        return {name: value for name, value in self.model_dump(mode="json").items() if value is not None}


def read_image(path: Path, config: ImageConfig, max_pixels: int = MAX_PIXELS,
               at_least: tuple[int, int] | None = None) -> np.ndarray:
    """Read an upright image as (H, W, config.channels), uint8, uint16 or float32 as `config` declares.

    It is float32 in [-1, 1] where the recipe names a range of values, and where pixels have no data: they are NaN.
    Of a JPEG, `at_least` twice this (height, width) is decoded, where it is given: see `decode`. Raises `ImageError`
    for a file that cannot be read, or that holds something else than `config` declares.
    """
    return fit(decode(read_content(path), path, max_pixels, config.pages is not None, at_least), config).pixels


def fit(picture: Picture, config: ImageConfig, range_advice: str = RANGE_ADVICE) -> Picture:
    """Give a picture the channels and bits that a recipe declares.

    8 bits are widened to 16 (× 257, exact); integers become floats in [-1, 1]. Grey is repeated to RGB, RGB becomes
    grey. Alpha becomes a channel where the recipe declares one more than the colours, and else is what shows them on
    the background; it stays beside them. Raises `ImageError` where samples or channels would be lost, with
    `range_advice` where nothing says which values are black and white.
    """
    # Values: a range of them, or all of their type. Of those, wider is exact and narrower would lose samples.
    alpha, values = picture.alpha, config.value_range or picture.range
    pixels = to_unit(picture.pixels, values) if values is not None else \
        _of_whole_type(picture, config, range_advice)

    # What has no data is not known: NaN, which no change below makes a number.
    if picture.unknown is not None:
        pixels = np.where(picture.unknown[..., None], np.float32(np.nan), change_bits(pixels, "float"))
    bits = bits_of(pixels)

    # Alpha joins the colours, or they are seen on the background.
    channels = pixels.shape[2]
    if alpha is not None and config.channels == channels + 1:
        return replace(picture, pixels=np.dstack([pixels, change_bits(alpha, bits)]), alpha=None)
    if (channels, config.channels) == (1, 3):  # before it is seen on colours
        pixels, channels = np.repeat(pixels, 3, axis=2), 3
    if alpha is not None and config.background is not None and is_transparent(alpha):
        pixels = composed(pixels, change_bits(alpha, bits), config.background)
        picture = replace(picture, notes=(*picture.notes, shown_on(config.background)))

    # RGB becomes grey; anything else is another kind of image.
    if (channels, config.channels) == (3, 1):
        grey = pixels @ np.array(GREY_OF_RGB, dtype=np.float32)
        pixels = (grey if bits == "float" else np.rint(grey)).astype(pixels.dtype)[..., None]
    elif channels != config.channels:
        raise ImageError(picture.path, "read", f"has {channels} channels, the recipe declares {config.channels}; "
                         f"convert the file, or train with channels: {channels}")
    return replace(picture, pixels=pixels, alpha=alpha)


def _of_whole_type(picture: Picture, config: ImageConfig, range_advice: str) -> np.ndarray:
    """Return pixels whose type's whole range is colours, in the bits of `config`. Raises `ImageError` for others."""
    pixels = picture.pixels
    if pixels.dtype in (np.uint8, np.uint16):
        bits = bits_of(pixels)
        if bits == 16 and config.bits == 8:
            raise ImageError(picture.path, "read", "holds 16-bit samples, the recipe declares bits: 8; convert the "
                             "file, or train with bits: 16")
        return change_bits(pixels, config.bits)

    # Floats are colours in [-1, 1]; any other number is one of something else.
    known = pixels if picture.unknown is None else pixels[~picture.unknown]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    if pixels.dtype != np.float32 or not (low >= -1 and high <= 1):
        kind = "floats" if pixels.dtype == np.float32 else "16-bit numbers with a sign" if pixels.dtype == np.int16 \
            else "numbers of more than 16 bits"
        found = f", from {low:g} to {high:g}" if known.size else ""
        raise ImageError(picture.path, "read", f"holds {kind}{found}; {range_advice}")
    if config.bits != "float":
        raise ImageError(picture.path, "read", f"holds floats, the recipe declares bits: {config.bits}; convert the "
                         "file, or train with bits: float")
    return pixels.astype(np.float32, copy=False)


def shown_on(background: Background) -> str:
    """Say on what a transparent image was shown, for the ledger."""
    return f"shown on {background} where it is transparent"


def under_alpha(pixels: np.ndarray, alpha: np.ndarray, shown: ImageConfig, made: ImageConfig) -> np.ndarray:
    """Return the colours of an output, so that it looks under the `alpha` of its input as the network made it.

    The input was `shown` on its background, and what was `made` of it has one, which shines through again. Where
    either has none, an output goes with the alpha as it is. Both arrays are of the depth of `made`.
    """
    if shown.background is None or made.background is None or made.value_range is not None:
        return pixels  # values are no colours that something shines through
    return taken_off(pixels, alpha, made.background)


def change_bits(array: np.ndarray, bits: Bits) -> np.ndarray:
    """Map the full range of one depth onto that of another (255 ↔ 65535 ↔ 1.0, 0 ↔ 0 ↔ -1.0), rounding to nearest."""
    have = bits_of(array)
    if have == bits:
        return array
    if (have, bits) == (8, 16):
        return array.astype(np.uint16) * 257
    unit = array if have == "float" else array.astype(np.float32) / HALF_RANGE[have] - 1
    return unit if bits == "float" else np.rint((np.clip(unit, -1, 1) + 1) * HALF_RANGE[bits]).astype(DTYPES[bits])


def bits_in_words(bits: Bits) -> str:
    """Name samples of a depth, for messages."""
    return "floats" if bits == "float" else f"{bits}-bit samples"
