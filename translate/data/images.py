"""Images as arrays and tensors, and written to files: nothing lost silently, nothing half written.

A recipe declares channels and bits for each side of its data. Whatever a file holds beyond that (more bits, other
channels, several frames) is refused by name; see `translate.data.decoding` for what is read, and by which library, and
`translate.data.pages` for images that are read and written by rows.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from translate.data.decoding import decode, read_content
from translate.data.pictures import DTYPES, MAX_PIXELS, Bits, Picture, bits_of, faults_of
from translate.data.tiffs import layout
from translate.errors import DiskError, ImageError, UsageError, is_disk_fault
from translate.files import TEMPORARY, replacing
from translate.schema import Config

# What an image file may be called, in lower case. What it is, its content tells.
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm",
                      ".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif", ".hif"})
HALF_RANGE: dict[Bits, float] = {8: 127.5, 16: 32767.5}


class ImageConfig(Config):
    """What one side of a recipe's data looks like. Samples are mapped to [-1, 1]; floats are taken as they are."""

    channels: int = Field(3, ge=1)  # 1 grey, 3 RGB, 4 RGB and alpha, more from TIFF
    bits: Bits = 8  # a file of more bits is refused, one of fewer is widened without loss


@dataclass(frozen=True)
class Listing:
    """What lies in a folder, each part sorted: images by their suffix, everything else, folders that cannot be read."""

    images: list[Path]
    others: list[Path]
    faults: list[ImageError]


def find_images(folder: Path) -> list[Path]:
    """The images below `folder`, nested, by suffix in any case, sorted. Raises ImageError for an unreadable folder."""
    listing = list_folder(folder)
    if listing.faults:
        raise listing.faults[0]
    return listing.images


def list_folder(folder: Path, skip: Path | None = None) -> Listing:
    """Everything below `folder`, except below `skip`.

    Linked folders are entered, once each and after all real ones, so that a loop of links ends and a link never
    changes the names of what lies inside `folder` anyway. A link that leads nowhere counts as a file: whoever opens it
    will say so. Hidden files and folders, pipes and devices are never images.
    """
    files: list[Path] = []
    others: list[Path] = []
    faults: list[ImageError] = []
    seen = {_identity(skip)} if skip is not None and skip.is_dir() else set()
    folders: list[Path] = [folder]
    links: list[Path] = []
    while folders or links:
        here = folders.pop() if folders else links.pop(0)
        try:
            if _identity(here) in seen:
                continue
            seen.add(_identity(here))
            for entry in sorted(here.iterdir()):
                if entry.name.startswith("."):
                    if not entry.name.startswith(TEMPORARY):  # left behind by a killed process of ours
                        others.append(entry)
                elif entry.is_dir():
                    (links if entry.is_symlink() else folders).append(entry)
                elif entry.suffix.lower() in SUFFIXES and (entry.is_file() or not entry.exists()):
                    files.append(entry)
                else:
                    others.append(entry)
        except OSError as error:
            faults.append(ImageError(here, "find", error.strerror or str(error)))
    return Listing(sorted(files), sorted(others), faults)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def read_image(path: Path, config: ImageConfig, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """An upright image as (H, W, config.channels) uint8, uint16 or float32, as `config` declares. Raises ImageError."""
    return fit(decode(read_content(path), path, max_pixels), config).pixels


def fit(picture: Picture, config: ImageConfig) -> Picture:
    """Give a picture the channels and bits a recipe declares. Raises ImageError where that would lose something.

    8 bits are widened to 16 (× 257, exact); integers become floats in [-1, 1]. Grey is repeated to RGB, RGB becomes
    grey by ITU-R BT.601; alpha becomes a channel where the recipe declares one more than the colours.
    """
    pixels, alpha = picture.pixels, picture.alpha
    if config.bits != picture.bits and picture.bits != 8 and config.bits != "float":
        raise ImageError(picture.path, "read", f"holds {depth(picture.bits)}, the recipe declares bits: "
                         f"{config.bits}; convert the file, or train with bits: {picture.bits}")
    pixels = change_bits(pixels, config.bits)
    channels = pixels.shape[2]
    if alpha is not None and config.channels == channels + 1:
        pixels, alpha = np.dstack([pixels, change_bits(alpha, config.bits)]), None
    elif (channels, config.channels) == (1, 3):
        pixels = np.repeat(pixels, 3, axis=2)
    elif (channels, config.channels) == (3, 1):
        grey = pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
        pixels = (grey if config.bits == "float" else np.rint(grey)).astype(pixels.dtype)[..., None]
    elif channels != config.channels:
        raise ImageError(picture.path, "read", f"has {channels} channels, the recipe declares {config.channels}")
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


def to_tensor(array: np.ndarray, config: ImageConfig) -> Tensor:
    """(H, W, C) as `read_image` gives it → (C, H, W) float32 in [-1, 1]."""
    assert array.dtype == DTYPES[config.bits], f"{array.dtype} is not of {config.bits} bits"
    tensor = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1), dtype=np.float32))
    return tensor if config.bits == "float" else tensor / HALF_RANGE[config.bits] - 1


def to_array(tensor: Tensor, config: ImageConfig) -> np.ndarray:
    """(C, H, W) in [-1, 1] → (H, W, C) of the declared depth, clamped and rounded to nearest."""
    tensor = tensor.detach().to("cpu", torch.float32).clamp(-1, 1).permute(1, 2, 0)
    if config.bits != "float":
        tensor = ((tensor + 1) * HALF_RANGE[config.bits]).round()
    return np.ascontiguousarray(tensor.numpy().astype(DTYPES[config.bits]))


_PILLOW_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".webp": "WEBP",
                   ".bmp": "BMP", ".ppm": "PPM", ".tif": "TIFF", ".tiff": "TIFF"}
_CHANNELS = {"PNG": (1, 2, 3, 4), "JPEG": (1, 3), "WEBP": (1, 2, 3, 4), "BMP": (1, 3), "PPM": (3,)}


def holds(suffix: str, channels: int, bits: Bits, alpha: bool = False) -> bool:
    """Whether a file of this suffix can hold such an image."""
    name = _PILLOW_FORMATS.get(suffix.lower())
    if alpha and (channels not in (1, 3) or bits == "float"):
        return False  # the file would not say which of its channels is alpha, or what its unit is
    if name == "TIFF":
        return True
    return name is not None and channels + alpha in _CHANNELS[name] and (bits == 8 or (bits == 16 and name == "PNG"))


def suffix_for(suffix: str, config: ImageConfig) -> str:
    """The suffix to write under: the given one where it can hold such images, else .png, else .tif."""
    return next(each for each in (suffix, ".png", ".tif") if holds(each, config.channels, config.bits))


def write_image(path: Path, pixels: np.ndarray, *, alpha: np.ndarray | None = None, icc: bytes | None = None,
                exif: bytes | None = None, dpi: tuple[float, float] | None = None, geo: tuple[Any, ...] = (),
                quality: int | None = None, lossless: bool | None = None) -> None:
    """Write (H, W) or (H, W, C) uint8, uint16 or float32 under the format of `path`'s suffix.

    Encoded in memory, then written beside `path` and renamed: what stood there is intact until the new file is whole
    and on the disk. Alpha is dropped where the format has none; an ICC profile is kept where it describes the
    channels written; the tags of a GeoTIFF (`geo`) are kept in a TIFF. A TIFF of more than 8 bits or 3 colours, or
    with `geo`, is written without EXIF, a directory of its own inside the file, which tifffile does not write.

    `quality` (1 to 100) is that of a JPEG, 95 unless given, always without chroma subsampling; and of a WebP, which is
    written without loss unless a quality is given or `lossless` is false (then 95). With `lossless` a WebP has no
    quality. PNG, TIFF, BMP and PPM lose nothing and ignore both.

    Raises ImageError for an image the format cannot hold, DiskError for a disk that is full or cannot be written,
    UsageError for a quality that is none.
    """
    if quality is not None and not 1 <= quality <= 100:
        raise UsageError(f"quality {quality}: expected 1 (smallest file) to 100 (best)")
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    channels, bits = pixels.shape[2], bits_of(pixels)
    if not holds(path.suffix, channels, bits):
        raise ImageError(path, "write", f"{path.suffix or 'a name without suffix'} cannot hold {channels} channels of "
                         f"{depth(bits)}; write {suffix_for('', ImageConfig(channels=channels, bits=bits))}")
    if alpha is not None and not holds(path.suffix, channels, bits, alpha=True):
        alpha = None
    everything = pixels if alpha is None else np.dstack([pixels, alpha])
    icc = profile_for(channels, icc)
    name = _PILLOW_FORMATS[path.suffix.lower()]
    with faults_of(path, "write"):
        if name == "PNG" and bits == 16:
            content = _encode_deep_png(everything, icc, exif, dpi)
        elif name == "TIFF" and (bits != 8 or channels > 3 or geo):
            content = _encode_tiff(everything, layout(channels, alpha is not None, pixels.dtype, icc=icc, dpi=dpi,
                                                      geo=geo))
        else:
            content = _encode(name, everything, _lossy(name, quality, lossless) | {
                key: value for key, value in (("icc_profile", icc), ("exif", exif), ("dpi", dpi)) if value is not None})
    with replacing_image(path, len(content)) as file:
        file.write(content)


@contextmanager
def replacing_image(path: Path, needed: int | None = None) -> Iterator[BinaryIO]:
    """`files.replacing`, with the faults of the disk as DiskError (`needed`: bytes), any other as ImageError."""
    try:
        with replacing(path) as file:
            yield file
    except OSError as error:
        if is_disk_fault(error):
            raise DiskError.of(error, path, needed) from error
        raise ImageError(path, "write", error.strerror or str(error)) from error


def profile_for(channels: int, icc: bytes | None) -> bytes | None:
    """An ICC profile, if it describes so many channels: viewers refuse or misread an image with another."""
    return icc if icc is not None and icc[16:20] == {1: b"GRAY", 3: b"RGB "}.get(channels) else None


def _lossy(name: str, quality: int | None, lossless: bool | None) -> dict[str, Any]:
    """What Pillow is told about loss."""
    if name == "JPEG":
        return {"quality": quality or 95, "subsampling": 0}
    if name == "WEBP" and (lossless or (lossless is None and quality is None)):
        return {"lossless": True, "exact": True}  # exact: the colour under transparent pixels is kept as well
    if name == "WEBP":
        return {"quality": quality or 95}
    return {"compression": "tiff_adobe_deflate"} if name == "TIFF" else {}


def _encode(name: str, pixels: np.ndarray, options: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, name, **options)
    return file.getvalue()


def _encode_tiff(pixels: np.ndarray, options: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels if pixels.shape[2] > 1 else pixels[..., 0], **options)
    return file.getvalue()


def _encode_deep_png(pixels: np.ndarray, icc: bytes | None, exif: bytes | None,
                     dpi: tuple[float, float] | None) -> bytes:
    import cv2

    if pixels.shape[2] == 2:  # OpenCV has no grey with alpha
        pixels = pixels[..., [0, 0, 0, 1]]
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
    # What EXIF opens with in a JPEG is not part of it in a PNG.
    held = [(cv2.IMAGE_METADATA_ICCP, icc), (cv2.IMAGE_METADATA_EXIF, exif and exif.removeprefix(b"Exif\0\0"))]
    kinds = [kind for kind, value in held if value]
    values = [np.frombuffer(value, np.uint8) for _, value in held if value]
    done, content = cv2.imencodeWithMetadata(".png", np.ascontiguousarray(pixels[..., order]), kinds, values)
    if not done:
        raise ValueError("OpenCV cannot encode this 16-bit PNG")
    return content.tobytes() if dpi is None else _with_resolution(content.tobytes(), dpi)


def _with_resolution(png: bytes, dpi: tuple[float, float]) -> bytes:
    """A PNG with a chunk for its dots per metre (PNG, 11.3.4.3), which OpenCV does not write, behind the header."""
    chunk = b"pHYs" + struct.pack(">IIB", *(round(value / 0.0254) for value in dpi), 1)
    return png[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]


def depth(bits: Bits) -> str:
    return "floats" if bits == "float" else f"{bits}-bit samples"
