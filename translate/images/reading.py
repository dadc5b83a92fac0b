"""Whole images as arrays, in the channels and bits that a recipe declares: nothing is lost silently.

Whatever a file holds beyond what is declared (more bits, other channels, several frames) is refused by name. Which
library reads which file stands in `translate.images.decoding`; `translate.images.pages` reads large images by rows, and
`translate.images.tensors` makes tensors of these arrays.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import Field

from translate.errors import ImageError
from translate.images.decoding import decode, read_content
from translate.images.pictures import DTYPES, MAX_PIXELS, Bits, Picture, bits_of
from translate.schema import Config

HALF_RANGE: dict[Bits, float] = {8: 127.5, 16: 32767.5}  # samples / HALF_RANGE - 1 lie in [-1, 1]
GREY_OF_RGB = (0.299, 0.587, 0.114)  # ITU-R BT.601: the weights of red, green and blue


class ImageConfig(Config):
    """What one side of a recipe's data looks like. Samples are mapped to [-1, 1]; floats are taken as they are."""

    channels: int = Field(3, ge=1, le=4096)  # 1 grey, 3 RGB, 4 RGB and alpha, more from TIFF
    bits: Bits = 8  # a file of more bits is refused, one of fewer is widened without loss


def read_image(path: Path, config: ImageConfig, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read an upright image as (H, W, config.channels), uint8, uint16 or float32 as `config` declares.

    Raises `ImageError` for a file that cannot be read, or that holds something else than `config` declares.
    """
    return fit(decode(read_content(path), path, max_pixels), config).pixels


def fit(picture: Picture, config: ImageConfig) -> Picture:
    """Give a picture the channels and bits that a recipe declares.

    8 bits are widened to 16 (× 257, exact); integers become floats in [-1, 1]. Grey is repeated to RGB, RGB becomes
    grey; alpha becomes a channel where the recipe declares one more than the colours. Raises `ImageError` where samples
    or channels would be lost.
    """
    # Bits: wider is exact, narrower would lose samples.
    pixels, alpha = picture.pixels, picture.alpha
    if config.bits != picture.bits and picture.bits != 8 and config.bits != "float":
        raise ImageError(picture.path, "read", f"holds {bits_in_words(picture.bits)}, the recipe declares bits: "
                         f"{config.bits}; convert the file, or train with bits: {picture.bits}")
    pixels = change_bits(pixels, config.bits)

    # Channels: alpha joins the colours, grey and RGB become each other; anything else is another kind of image.
    channels = pixels.shape[2]
    if alpha is not None and config.channels == channels + 1:
        pixels, alpha = np.dstack([pixels, change_bits(alpha, config.bits)]), None
    elif (channels, config.channels) == (1, 3):
        pixels = np.repeat(pixels, 3, axis=2)
    elif (channels, config.channels) == (3, 1):
        grey = pixels @ np.array(GREY_OF_RGB, dtype=np.float32)
        pixels = (grey if config.bits == "float" else np.rint(grey)).astype(pixels.dtype)[..., None]
    elif channels != config.channels:
        raise ImageError(picture.path, "read", f"has {channels} channels, the recipe declares {config.channels}; "
                         f"convert the file, or train with channels: {channels}")
    return replace(picture, pixels=pixels, alpha=alpha)


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
