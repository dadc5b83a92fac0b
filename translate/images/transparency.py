"""Transparent images: shown to a network on a background, as a viewer shows them, and made transparent again.

Under transparent pixels a file keeps colours that nobody sees, and that differ from one program to the next. A network
that is shown them learns them. Alpha and colours are arrays of one type, their full range standing for 0 to 1.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from translate.images.pictures import Bits, bits_of

GREY_OF_RGB = (0.299, 0.587, 0.114)  # ITU-R BT.601: the weights of red, green and blue
NAMED = {"white": (255, 255, 255), "black": (0, 0, 0)}
Level = Annotated[int, Field(ge=0, le=255)]
Background = Literal["white", "black"] | tuple[Level, Level, Level]  # red, green and blue of 8 bits


def is_transparent(alpha: np.ndarray | None) -> bool:
    """Tell whether anything shines through."""
    return alpha is not None and bool((alpha != opaque(bits_of(alpha))).any())


def opaque(bits: Bits) -> float:
    """Return the alpha of what nothing shines through."""
    return {8: 255, 16: 65535, "float": 1.0}[bits]


def composed(pixels: np.ndarray, alpha: np.ndarray, background: Background) -> np.ndarray:
    """Return what is seen of colours (H, W, C) under alpha (H, W), both of one type, on a background; rounded to
    nearest."""
    behind = _samples(background, pixels)
    if pixels.dtype == np.float32:
        share = (alpha[..., None] + 1) / 2
        return (pixels * share + behind * (1 - share)).astype(np.float32)
    full = np.uint32(opaque(bits_of(pixels)))
    shares = alpha[..., None].astype(np.uint32)  # 65535² and half of 65535 still fit
    return ((pixels * shares + behind * (full - shares) + full // 2) // full).astype(pixels.dtype)


def taken_off(pixels: np.ndarray, alpha: np.ndarray, background: Background) -> np.ndarray:
    """Return the colours that under `alpha` are seen as `pixels`, where there are any: the way back from `composed`.

    Of what is not seen at all the colours stay as they are.
    """
    if not is_transparent(alpha):
        return pixels
    full = opaque(bits_of(pixels))
    share = alpha[..., None].astype(np.float32) / full
    behind = _samples(background, pixels).astype(np.float32)
    colours = (pixels - behind * (1 - share)) / np.where(share > 0, share, 1)
    return np.where(share > 0, np.rint(colours.clip(0, full)), pixels).astype(pixels.dtype)


def hidden_colours(pixels: np.ndarray, alpha: np.ndarray | None) -> set[tuple[float, ...]]:
    """Return the colours of pixels (H, W, C) that nobody sees at all; two of them stand for more."""
    if alpha is None:
        return set()
    hidden = pixels[alpha == (-1 if alpha.dtype == np.float32 else 0)]
    if not len(hidden):
        return set()
    other = hidden[(hidden != hidden[0]).any(axis=1)]
    return {tuple(each.tolist()) for each in (hidden[0], *other[:1])}


def _samples(background: Background, like: np.ndarray) -> np.ndarray:
    """Return a background (C,) in the channels and the type of an image. Of any number but three it is grey."""
    colour = np.array(NAMED[background] if isinstance(background, str) else background, dtype=np.float32)
    if like.shape[2] != 3:
        colour = np.full(like.shape[2], colour @ np.array(GREY_OF_RGB, dtype=np.float32), dtype=np.float32)
    if like.dtype == np.float32:
        return colour / np.float32(127.5) - 1
    return np.rint(colour * (opaque(bits_of(like)) / 255)).astype(np.uint32)
