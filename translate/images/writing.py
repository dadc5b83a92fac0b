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
from translate.files import Written, replacing
from translate.images.pictures import Bits, as_image_errors, bits_of
from translate.images.reading import ImageConfig, bits_in_words
from translate.images.tiffs import writer_options

_PILLOW_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".webp": "WEBP",
                   ".bmp": "BMP", ".ppm": "PPM", ".tif": "TIFF", ".tiff": "TIFF"}
_CHANNELS = {"PNG": (1, 2, 3, 4), "JPEG": (1, 3), "WEBP": (1, 2, 3, 4), "BMP": (1, 3), "PPM": (3,)}


def holds(suffix: str, channels: int, bits: Bits, alpha: bool = False) -> bool:
    """Return whether a file of this suffix can hold such an image."""
    name = _PILLOW_FORMATS.get(suffix.lower())
    if alpha and (channels not in (1, 3) or bits == "float"):
        return False  # the file would not say which of its channels is alpha, or what its unit is
    if name == "TIFF":
        return True
    return name is not None and channels + alpha in _CHANNELS[name] and (bits == 8 or (bits == 16 and name == "PNG"))


def suffix_for(suffix: str, config: ImageConfig) -> str:
    """Return the suffix to write under: the given one where it can hold such images, else .png, else .tif."""
    if config.file_dtype == np.int16 or config.pages is not None:  # numbers with a sign, and pages, are a TIFF's alone
        return suffix if suffix.lower() in (".tif", ".tiff") else ".tif"
    return next(each for each in (suffix, ".png", ".tif") if holds(each, config.channels, config.bits))


def write_image(path: Path, pixels: np.ndarray, *, alpha: np.ndarray | None = None, icc: bytes | None = None,
                exif: bytes | None = None, dpi: tuple[float, float] | None = None, geo: tuple[Any, ...] = (),
                quality: int | None = None, lossless: bool | None = None, paged: bool = False,
                compression: int | None = None, written: Written | None = None) -> None:
    """Write an image under the format of `path`'s suffix.

    Encoded in memory, then written beside `path` and renamed: what stood there is intact until the new file is whole
    and on the disk.

    pixels     (H, W) or (H, W, C), uint8, uint16, float32, or int16 for a TIFF
    alpha      (H, W) of the same type; dropped where the format has none
    icc        kept where it describes the channels written
    exif       left out of a TIFF of more than 8 bits or 3 colours, or with `geo`: there it would be a directory of its
               own inside the file, which tifffile does not write
    dpi        dots per inch, across and down
    geo        the tags of a GeoTIFF, kept in a TIFF
    quality    1 to 100: of a JPEG (95 unless given, always without chroma subsampling), and of a WebP
    lossless   of a WebP (PNG, TIFF, BMP and PPM lose nothing, and ignore this and `quality`):
               None     lossless unless `quality` is given
               True     lossless; `quality` is ignored
               False    lossy, at `quality` (95 unless given)
    paged      of a TIFF: each channel is a page, and there is no alpha
    compression  of a PNG or a TIFF: 0 (none) to 9 (smallest file, slowest); None: what suits the format. A TIFF with
               EXIF has Pillow's own
    written    takes down what the file is

    Raises `ImageError` for an image the format cannot hold, `DiskError` for a disk that is full or cannot be written,
    `UsageError` for a quality or compression out of its range.
    """
    # What cannot be written is refused before anything is encoded.
    if quality is not None and not 1 <= quality <= 100:
        raise UsageError(f"quality {quality}: expected 1 (smallest file) to 100 (best)")
    if compression is not None and not 0 <= compression <= 9:
        raise UsageError(f"compression {compression}: expected 0 (none) to 9 (smallest file)")
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    signed = pixels.dtype == np.int16
    channels, bits = pixels.shape[2], 16 if signed else bits_of(pixels)
    if not holds(path.suffix, channels, bits) or (signed and _PILLOW_FORMATS[path.suffix.lower()] != "TIFF"):
        raise ImageError(path, "write", f"{path.suffix or 'a name without suffix'} cannot hold {channels} channels of "
                         f"{bits_in_words(bits)}; write {suffix_for('', ImageConfig(channels=channels, bits=bits))}")

    # What the format has no place for is left out.
    if alpha is not None and (signed or not holds(path.suffix, channels, bits, alpha=True)):
        alpha = None
    everything = pixels if alpha is None else np.dstack([pixels, alpha])
    icc = profile_for(channels, icc)

    # OpenCV writes 16-bit PNGs, tifffile TIFFs, Pillow everything else, and TIFFs with EXIF: while it encodes one, no
    # other thread runs.
    name = _PILLOW_FORMATS[path.suffix.lower()]
    with as_image_errors(path, "write"):
        if name == "PNG" and bits == 16:
            content = _encode_deep_png(everything, icc, exif, dpi, compression)
        elif name == "TIFF" and paged:
            options = writer_options(1, False, pixels.dtype, icc=None, dpi=dpi, geo=geo,
                                     compression=compression)
            content = _encode_tiff(np.moveaxis(pixels, 2, 0), options)
        elif name == "TIFF" and (exif is None or bits != 8 or channels > 3 or geo):
            options = writer_options(channels, alpha is not None, pixels.dtype, icc=icc, dpi=dpi, geo=geo,
                                     compression=compression)
            content = _encode_tiff(everything if everything.shape[2] > 1 else everything[..., 0], options)
        else:
            content = _encode(name, everything, _options(name, quality, lossless, compression) | {
                key: value for key, value in (("icc_profile", icc), ("exif", exif), ("dpi", dpi)) if value is not None})
    with replacing_image(path, len(content), written) as file:
        file.write(content)


@contextmanager
def replacing_image(path: Path, needed: int | None = None, written: Written | None = None) -> Iterator[BinaryIO]:
    """Yield a file as `files.replacing` does, with the errors of `as_write_errors`."""
    with as_write_errors(path, needed), replacing(path, written) as file:
        yield file


@contextmanager
def as_write_errors(path: Path, needed: int | None = None) -> Iterator[None]:
    """Raise faults of the disk as `DiskError`, which tells the `needed` bytes, and any other `OSError` as `ImageError`.
    """
    try:
        yield
    except OSError as error:
        if is_disk_fault(error):
            raise DiskError.of(error, path, needed) from error
        raise ImageError(path, "write", error.strerror or str(error)) from error


def profile_for(channels: int, icc: bytes | None) -> bytes | None:
    """Return an ICC profile if it describes so many channels: viewers refuse or misread an image with another."""
    return icc if icc is not None and icc[16:20] == {1: b"GRAY", 3: b"RGB "}.get(channels) else None


def _options(name: str, quality: int | None, lossless: bool | None, compression: int | None) -> dict[str, Any]:
    """Return what Pillow is told about loss and compression."""
    if name == "JPEG":
        return {"quality": quality or 95, "subsampling": 0}
    if name == "WEBP" and (lossless or (lossless is None and quality is None)):
        return {"lossless": True, "exact": True}  # exact: the colour under transparent pixels is kept as well
    if name == "WEBP":
        return {"quality": quality or 95}
    if name == "PNG" and compression is not None:
        return {"compress_level": compression}
    return {"compression": "tiff_adobe_deflate"} if name == "TIFF" else {}


def _encode(name: str, pixels: np.ndarray, options: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, name, **options)
    return file.getvalue()


def _encode_tiff(pixels: np.ndarray, options: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def _encode_deep_png(pixels: np.ndarray, icc: bytes | None, exif: bytes | None,
                     dpi: tuple[float, float] | None, compression: int | None = None) -> bytes:
    """Encode 16-bit samples (H, W, 1 to 4) with OpenCV: Pillow would cut their colours to 8 bits."""
    import cv2

    # OpenCV has no grey with alpha, and keeps blue first.
    if pixels.shape[2] == 2:
        pixels = pixels[..., [0, 0, 0, 1]]
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]

    # What EXIF opens with in a JPEG is not part of it in a PNG.
    held = [(cv2.IMAGE_METADATA_ICCP, icc), (cv2.IMAGE_METADATA_EXIF, exif and exif.removeprefix(b"Exif\0\0"))]
    kinds = [kind for kind, value in held if value]
    values = [np.frombuffer(value, np.uint8) for _, value in held if value]
    level = [] if compression is None else [cv2.IMWRITE_PNG_COMPRESSION, compression]
    done, content = cv2.imencodeWithMetadata(".png", np.ascontiguousarray(pixels[..., order]), kinds, values, level)
    if not done:
        raise ValueError("OpenCV cannot encode this 16-bit PNG")
    return content.tobytes() if dpi is None else _with_resolution(content.tobytes(), dpi)


def _with_resolution(png: bytes, dpi: tuple[float, float]) -> bytes:
    """Put a chunk for the dots per metre (PNG, 11.3.4.3), which OpenCV does not write, behind a PNG's header."""
    chunk = b"pHYs" + struct.pack(">IIB", *(round(value / 0.0254) for value in dpi), 1)
    return png[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]
