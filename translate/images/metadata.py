"""What a file says besides its pixels: EXIF, colour profile, resolution. What cannot be read is left out, and told."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from PIL import Image

from translate.images.pictures import ORIENTATION_TAG, usable_dpi

EXIF_START = b"Exif\0\0"
PROFILE_MARK = b"ICC_PROFILE\0"  # of a JPEG's segments
DAMAGED_PROFILE = "left out its colour profile, which is damaged"
PROFILE_SIGNATURE = slice(36, 40)  # ICC.1:2022, 7.2.11: `acsp`


class Metadata(NamedTuple):
    """EXIF (without an orientation), ICC profile and dots per inch, as a `Picture` has them.

    `orientation` is what turns the stored pixels upright (EXIF 2.3, tag 0x0112); `notes` tells what was left out.
    """

    icc: bytes | None
    exif: bytes | None
    orientation: int
    dpi: tuple[float, float] | None
    notes: tuple[str, ...]


def metadata_of(image: Image.Image, content: bytes) -> Metadata:
    """Return what an image that Pillow has loaded from `content` says besides its pixels."""
    notes = []
    exif = exif_of(image)
    if not exif and not _is_empty_exif(image.info.get("exif")):
        notes.append("left out its EXIF, which is damaged: whether it should be turned is not known")
    orientation = exif.pop(ORIENTATION_TAG, 1) if exif else 1
    held = exif_bytes(exif)
    if exif and held is None:
        notes.append("left out its EXIF, which cannot be written again")

    # Of a JPEG, Pillow leaves out a profile of which a segment is missing. That of a CMYK file is used up.
    profile, more = checked_profile(image.info.get("icc_profile"))
    if profile is None and image.format in ("JPEG", "MPO") and PROFILE_MARK in content:
        more = (DAMAGED_PROFILE,)
    return Metadata(None if image.mode == "CMYK" else profile, held, orientation, _dpi(image), (*notes, *more))


def checked_profile(icc: bytes | None) -> tuple[bytes | None, tuple[str, ...]]:
    """Return an ICC profile, or None with a note where it is none by its signature."""
    if icc and icc[PROFILE_SIGNATURE] != b"acsp":
        return None, (DAMAGED_PROFILE,)
    return icc or None, ()


def exif_of(image: Image.Image) -> Any:
    """Return the EXIF of an image, or None where it cannot be read."""
    try:
        return image.getexif()
    except Exception:  # a broken tag is no reason to lose an image
        return None


def exif_bytes(exif: Any) -> bytes | None:
    """Return EXIF as files hold it, or None where there is nothing or it cannot be written."""
    try:
        return exif.tobytes() if exif else None
    except Exception:  # a tag that can be read and not be written again
        return None


def _is_empty_exif(content: bytes | None) -> bool:
    """Tell whether there is no EXIF, or one that is whole and holds no tags."""
    if not content:
        return True
    directory = content.removeprefix(EXIF_START)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(directory[:4])
    if order is None or len(directory) < 8:
        return False
    (start,) = struct.unpack(f"{order}I", directory[4:8])
    return not any(directory[start:start + 2]) and len(directory) >= start + 2


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    try:
        across, down = (float(value) for value in image.info.get("dpi", ()))
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return usable_dpi(across, down)
