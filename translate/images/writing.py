"""Image files written: whole or not at all, with nothing lost silently.

Raises `ImageError` where a format cannot hold what it is given, `DiskError` where the disk fails.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
from PIL import Image

from translate.errors import DiskError, ImageError, UsageError, is_disk_fault
from translate.files import replacing
from translate.images.pictures import Bits, bits_of, faults_of
from translate.images.reading import ImageConfig, depth
from translate.images.tiffs import layout

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
