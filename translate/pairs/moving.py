"""An image brought onto its partner by OpenCV, and the part of it that has a source."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import cv2
import numpy as np

from translate.errors import ImageError
from translate.images.georeference import geo_from
from translate.images.pictures import Picture
from translate.metrics.alignment import Alignment

Model = Literal["shift", "similarity", "flow"]

LARGEST_SIDE = 32_766  # px, of what OpenCV's `remap` takes
REACH = 2  # px that cubic interpolation reads around a place
FLOW_SIGMA = 4.0  # px, of the Gaussian over a flow: what it finds between edges is a guess
Part = tuple[slice, slice]  # rows and columns


def sources(found: Alignment, flow: np.ndarray | None, model: Model, shape: tuple[int, int]) -> np.ndarray:
    """Return where each pixel of an image of `shape` (height, width) is to come from: (H, W, 2), right and down, px.

    found, flow   how what is moved lies on the image, and where each of its pixels is (`align_pixels`)
    model         what of it is undone; only a shift where nothing more is known
    """
    height, width = shape
    down, right = np.indices(shape, dtype=np.float32)
    places = np.stack([right, down], -1)
    assert found.shift is not None
    if model == "flow" and flow is not None:
        return places + cv2.GaussianBlur(flow, (0, 0), FLOW_SIGMA)
    shift = np.array(found.shift, np.float32)
    if model == "shift" or found.scale is None or found.rotation is None:
        return places + shift

    # About the middle, as it was measured
    angle, middle = math.radians(found.rotation), np.array([(width - 1) / 2, (height - 1) / 2], np.float32)
    turn = found.scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return ((places - middle) @ turn.T.astype(np.float32) + middle + shift).astype(np.float32)


def moved(picture: Picture, places: np.ndarray, nearest: bool) -> tuple[Picture, np.ndarray]:
    """Return a picture whose pixels come from `places` (H, W, 2), and which of them (H, W) lie in it.

    Cubic, or the `nearest` pixel for class numbers. A pixel that would be mixed with one without data has none. Where
    on Earth it lies is not said any more. Raises `ImageError` for too large a one.
    """
    height, width = picture.pixels.shape[:2]
    if max(height, width) > LARGEST_SIDE:
        raise ImageError(picture.path, "move", f"is {width}×{height} pixels, and OpenCV moves images of at most "
                         f"{LARGEST_SIDE:,} px a side; cut it, or leave it out")
    inside = ((places >= 0) & (places <= np.array([width - 1, height - 1]))).all(-1)
    method = cv2.INTER_NEAREST if nearest else cv2.INTER_CUBIC

    def brought(channel: np.ndarray) -> np.ndarray:
        made = _remapped(np.ascontiguousarray(channel), places, method, cv2.BORDER_REFLECT)
        if channel.dtype.kind == "f":  # integers are clamped by their type, and overshoot as little
            np.clip(made, np.nanmin(channel), np.nanmax(channel), out=made)
        return made

    pixels = np.stack([brought(picture.pixels[..., each]) for each in range(picture.pixels.shape[2])], -1)
    alpha = None if picture.alpha is None else brought(picture.alpha)
    unknown = picture.unknown
    if unknown is not None:
        near = cv2.dilate(unknown.astype(np.uint8), np.ones((2 * REACH + 1,) * 2, np.uint8))
        unknown = _remapped(near, places, cv2.INTER_NEAREST, cv2.BORDER_REPLICATE) > 0
    return replace(picture, pixels=pixels, alpha=alpha, unknown=unknown, geo=()), np.asarray(inside)


def _remapped(channel: np.ndarray, places: np.ndarray, method: int, border: int) -> np.ndarray:
    made: np.ndarray = cv2.remap(channel, places, None, method, borderMode=border)  # type: ignore[call-overload]
    return made


def valid_part(inside: np.ndarray) -> Part:
    """Return rows and columns of a rectangle in which all of `inside` (H, W) is true, as large as one finds it simply.

    The side with the largest share of pixels outside is taken away until none is left.
    """
    top, bottom, left, right = 0, inside.shape[0], 0, inside.shape[1]
    while top < bottom and left < right:
        part = inside[top:bottom, left:right]
        shares = [1 - each.mean() for each in (part[0], part[-1], part[:, 0], part[:, -1])]
        worst = int(np.argmax(shares))
        if shares[worst] == 0:
            break
        top, bottom = top + (worst == 0), bottom - (worst == 1)
        left, right = left + (worst == 2), right - (worst == 3)
    return slice(top, bottom), slice(left, right)


def cropped(picture: Picture, part: Part) -> Picture:
    """Return a part of a picture, which lies where it lay on Earth."""
    alpha, unknown = (None if each is None else each[part] for each in (picture.alpha, picture.unknown))
    return replace(picture, pixels=picture.pixels[part], alpha=alpha, unknown=unknown,
                   geo=geo_from(picture.geo, part[0].start, part[1].start))
