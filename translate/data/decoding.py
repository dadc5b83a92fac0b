"""An image file's bytes made into pixels: identified by content, checked before it is decoded, never trusted.

Which library reads a file follows from what it holds, so that no sample is cut on the way:

    Pillow     everything of 8 bits; 16-bit grey TIFF and PGM
    OpenCV     16-bit PNG (Pillow cuts its colours to 8 bits), once Pillow has found the file whole: OpenCV 4 does not
               tell when half of it is missing
    tifffile   TIFF of 16 bits, of floats, or of any number of channels

Anything else (other depths, several frames, formats not on the list) is refused by name.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import tifffile
from PIL import Image, ImageCms

from translate.errors import ImageError

Bits = Literal[8, 16, "float"]
DTYPES: dict[Bits, type] = {8: np.uint8, 16: np.uint16, "float": np.float32}

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")  # Pillow would try 43, PostScript among them
MAX_PIXELS = 200_000_000  # 14 142²; 600 MB once decoded to RGB
ORIENTATION = 0x0112  # the EXIF tag
SIDEWAYS = (5, 6, 7, 8)  # its values for which the rows of the file are columns of the scene
# Pillow's own limit is one for the whole process and at first a mere warning; ours is an error, and set for each call.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True)
class ImageInfo:
    """What a file says of itself, before its pixels are decoded. Width and height are those of the upright image."""

    format: str  # as Pillow names it: PNG, JPEG, TIFF …
    mode: str  # as Pillow names it: L, RGB, CMYK …; a TIFF that only tifffile reads: its photometric name
    width: int
    height: int
    channels: int  # without alpha; a palette has 3, CMYK becomes 3
    bits: int | Literal["float"]
    frames: int  # 1 for a still image

    @property
    def size(self) -> str:
        return f"{self.width}×{self.height}"


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded image, upright, and what else its file held.

    `pixels` is (H, W, C), uint8, uint16 or float32 (then in [-1, 1]); `alpha` is (H, W) of the same type. EXIF has no
    orientation any more. Metadata that cannot be read is left out: it is no reason to lose an image.
    """

    path: Path
    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = field(default=None, repr=False)
    exif: bytes | None = field(default=None, repr=False)
    dpi: tuple[float, float] | None = None

    @property
    def bits(self) -> Bits:
        return bits_of(self.pixels)


def inspect(path: Path) -> ImageInfo:
    """Identify a file without decoding its pixels. Raises ImageError."""
    with faults_of(path, "read"), path.open("rb") as file:
        if _is_tiff(file):
            with tifffile.TiffFile(file) as tiff:
                return _tiff_info(tiff)
        with _opened(file, path) as image:
            return _pillow_info(image)


def read_content(path: Path) -> bytes:
    """The bytes of a file. Raises ImageError."""
    with faults_of(path, "read"):
        return path.read_bytes()


def decode(content: bytes, path: Path, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode the bytes of a file; `path` is for messages only. Raises ImageError."""
    with faults_of(path, "read"):
        if not content:
            raise ImageError(path, "read", "the file is empty")
        file = io.BytesIO(content)
        is_tiff = _is_tiff(file)
        if is_tiff:
            with tifffile.TiffFile(file) as tiff:
                page: Any = tiff.pages[0]
                info = _tiff_info(tiff)
                _check(info, path, max_pixels)
                if not _pillow_reads(page):
                    return _decode_tiff(page, path)
        with _opened(file, path) as image:
            if not is_tiff:
                info = _pillow_info(image)
                _check(info, path, max_pixels)
            image.load()  # also turns a TIFF upright
            deep = info.format == "PNG" and info.bits == 16
            pixels, alpha = _decode_deep_png(content, image) if deep else _decode_pillow(image, path)
            exif = _exif(image)
            orientation = exif.pop(ORIENTATION, 1) if exif else 1
            return Picture(path, rotate_upright(pixels, orientation),
                           None if alpha is None else rotate_upright(alpha, orientation),
                           # a CMYK profile was used up by the conversion to sRGB
                           icc=None if image.mode == "CMYK" else image.info.get("icc_profile"),
                           # a TIFF's tags describe the layout of that file
                           exif=None if info.format == "TIFF" else _exif_bytes(exif),
                           dpi=_dpi(image))


def rotate_upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored rows and columns (H, W, …) into the image as it was seen (EXIF 2.3, tag 0x0112, values 1 to 8)."""
    if orientation in SIDEWAYS:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array)


def bits_of(array: np.ndarray) -> Bits:
    """The depth of an array: uint8, uint16 or float32."""
    return next(bits for bits, dtype in DTYPES.items() if array.dtype == dtype)


@contextmanager
def faults_of(path: Path, stage: str) -> Iterator[None]:
    """Whatever a decoder raises (there are dozens of classes) becomes an ImageError. Running out of memory does not."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise ImageError(path, stage, reason) from error


@contextmanager
def _opened(file: BinaryIO, path: Path) -> Iterator[Image.Image]:
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise ImageError(path, "read", f"holds no image of a format we read ({', '.join(FORMATS)})") from None
    with image:
        yield image


def _pillow_info(image: Image.Image) -> ImageInfo:
    assert image.format is not None
    width, height = image.size
    # To find EXIF behind the pixels of a PNG, Pillow would decode them.
    exif = _exif(image) if image.format != "PNG" or "exif" in image.info else None
    if exif and exif.get(ORIENTATION) in SIDEWAYS:
        width, height = height, width
    grey = image.mode in ("1", "L", "LA", "I", "I;16", "I;16B", "F") or _raw_mode(image).startswith("LA")
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # an MPO is a photograph with its previews
    return ImageInfo(image.format, image.mode, width, height, 1 if grey else 3, _pillow_bits(image), frames)


def _pillow_bits(image: Image.Image) -> int | Literal["float"]:
    """The depth of the file, which Pillow's mode does not tell: it opens 16-bit colour as 8-bit RGB."""
    if image.mode == "F":
        return "float"
    if image.format == "PPM":
        arguments = _tile_arguments(image)
        largest = arguments[-1] if isinstance(arguments, tuple) else 255
        return 16 if image.mode.startswith("I") or (isinstance(largest, int) and largest > 255) else 8
    return 16 if ";16" in _raw_mode(image) and image.format == "PNG" else 32 if image.mode == "I" else 8


def _raw_mode(image: Image.Image) -> str:
    """How samples lie in the file, such as `RGB;16B`; empty where a plugin does not say."""
    arguments = _tile_arguments(image)
    mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return mode if isinstance(mode, str) else ""


def _tile_arguments(image: Image.Image) -> Any:
    tiles: Any = getattr(image, "tile", None)
    return tiles[0][3] if tiles else None


def _check(info: ImageInfo, path: Path, max_pixels: int) -> None:
    """Refuse what must not be decoded, before it is."""
    if info.width * info.height * max(1, info.channels / 4) > max_pixels:
        shown = info.size if info.channels <= 4 else f"{info.size} with {info.channels} channels"
        raise ImageError(path, "read", f"is {shown}, above the limit of {max_pixels:,} pixels; "
                         "raise max_pixels if the file is genuine")
    if info.frames > 1:
        raise ImageError(path, "read", f"holds {info.frames} frames or pages; save the one you want as a file")
    if info.bits not in DTYPES or (info.format == "PPM" and info.bits == 16 and info.channels == 3):
        raise ImageError(path, "read", f"{info.format} of {info.bits} bits and {info.channels} channels is not read; "
                         "save it as 8- or 16-bit PNG or TIFF")


def _decode_pillow(image: Image.Image, path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels (H, W, 1 or 3) and alpha (H, W) or None, whatever Pillow's mode."""
    if image.mode == "F":
        return _checked_floats(np.array(image)[..., None], path), None
    if image.mode == "I" or image.mode.startswith("I;16"):  # "I" comes from a 16-bit PGM
        return np.array(image).astype(np.uint16)[..., None], None
    if image.mode == "CMYK":
        image = _from_cmyk(image)
    grey = image.mode in ("1", "L", "LA")
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "YCbCr"):
        raise ImageError(path, "read", f"has the colour mode {image.mode}; save it as RGB")
    if not (image.has_transparency_data or image.mode == "RGBa"):
        pixels = np.array(image.convert("L" if grey else "RGB"))
        return (pixels[..., None] if grey else pixels), None
    samples = np.array(image.convert("RGBA"))  # also undoes premultiplied alpha
    return np.ascontiguousarray(samples[..., :1 if grey else 3]), np.ascontiguousarray(samples[..., 3])


def _from_cmyk(image: Image.Image) -> Image.Image:
    """To sRGB: through the file's own profile, or by the plain formula where it has none that can be read."""
    profile = image.info.get("icc_profile")
    try:
        converted = profile and ImageCms.profileToProfile(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                                                          ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        converted = None
    return converted or image.convert("RGB")


def _decode_deep_png(content: bytes, image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """A 16-bit PNG that Pillow has found whole (`image`). OpenCV gives grey as (H, W), else BGR or BGRA."""
    import cv2

    samples = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None:
        raise ValueError("OpenCV cannot decode this 16-bit PNG")
    if samples.ndim == 2:
        see_through = image.info.get("transparency")  # of colours OpenCV makes alpha itself
        alpha = None if see_through is None else np.where(samples == see_through, 0, 65535).astype(np.uint16)
        return samples[..., None], alpha
    alpha = np.ascontiguousarray(samples[..., 3]) if samples.shape[2] == 4 else None
    grey = content[25] in (0, 4)  # the colour type of the header, which always comes first: grey, grey and alpha
    return np.ascontiguousarray(samples[..., :1] if grey else samples[..., 2::-1]), alpha


def _exif(image: Image.Image) -> Any:
    try:
        return image.getexif()
    except Exception:  # a broken tag is no reason to lose an image
        return None


def _exif_bytes(exif: Any) -> bytes | None:
    try:
        return exif.tobytes() if exif else None
    except Exception:  # a tag that can be read and not be written again
        return None


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    try:
        across, down = (float(value) for value in image.info.get("dpi", ()))
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if 0 < across < 65536 and 0 < down < 65536 else None  # what every format can hold


def _is_tiff(file: BinaryIO) -> bool:
    start = file.read(4)
    file.seek(0)
    return start[:2] in (b"II", b"MM") and start[2:] in (b"*\0", b"\0*", b"+\0", b"\0+")  # all that Pillow takes


def _tiff_info(tiff: tifffile.TiffFile) -> ImageInfo:
    page: Any = tiff.pages[0]
    colours = page.samplesperpixel - (1 if _alpha_of(page) else 0)
    if page.photometric.name in ("PALETTE", "SEPARATED"):
        colours = 3
    floats = page.dtype is not None and page.dtype.kind == "f"
    width, height = page.imagewidth, page.imagelength
    orientation = page.tags.valueof(ORIENTATION, default=1)
    if orientation in SIDEWAYS:
        width, height = height, width
    pages: Any = tiff.pages
    frames = sum(not each.is_reduced for each in pages)  # smaller copies of the first page are no frames
    return ImageInfo("TIFF", page.photometric.name, width, height, colours,
                     "float" if floats else max(8, page.bitspersample), frames)


def _alpha_of(page: Any) -> bool:
    """Whether the last sample is alpha. A float image has none: its channels have no common unit."""
    return tuple(page.extrasamples) in ((1,), (2,)) and page.dtype is not None and page.dtype.kind == "u"


def _pillow_reads(page: Any) -> bool:
    """Whether Pillow reads all of this page: usual colours of at most 8 bits, or 16-bit grey."""
    colours = page.samplesperpixel - _alpha_of(page)
    photometric = page.photometric.name
    usual = {"MINISWHITE": 1, "MINISBLACK": 1, "PALETTE": 1, "RGB": 3, "YCBCR": 3, "SEPARATED": 4}.get(photometric)
    if colours != usual or page.sampleformat != 1:
        return False
    return page.bitspersample <= 8 or (page.bitspersample == 16 and photometric == "MINISBLACK" and not _alpha_of(page))


def _decode_tiff(page: Any, path: Path) -> Picture:
    photometric, compression = page.photometric.name, page.compression
    if photometric not in ("MINISBLACK", "MINISWHITE", "RGB") or page.dtype.kind not in "uf":
        raise ImageError(path, "read", f"TIFF of {page.dtype} {photometric} is not read; save it as grey or RGB")
    if tuple(page.extrasamples) == (1,) and _alpha_of(page):
        raise ImageError(path, "read", "its 16-bit colours are premultiplied by alpha; save it with plain alpha")
    try:
        samples = page.asarray()
    except (KeyError, ValueError) as error:
        if "imagecodecs" in str(error):
            raise ImageError(path, "read", f"TIFF compressed by {compression.name} at this depth needs the library "
                             "imagecodecs; install it, or save the file with deflate") from error
        raise
    if page.axes not in ("YX", "YXS", "SYX"):
        raise ImageError(path, "read", f"TIFF with the axes {page.axes} is not an image of rows and columns")
    samples = samples[..., None] if samples.ndim == 2 else samples.transpose(1, 2, 0) if page.axes == "SYX" else samples
    if samples.dtype.kind == "f":
        samples = _checked_floats(samples.astype(np.float32), path)
    if photometric == "MINISWHITE":
        samples = -samples if samples.dtype.kind == "f" else np.iinfo(samples.dtype).max - samples
    samples = rotate_upright(samples, page.tags.valueof(ORIENTATION, default=1))
    alpha = np.ascontiguousarray(samples[..., -1]) if _alpha_of(page) else None
    pixels = samples if alpha is None else np.ascontiguousarray(samples[..., :-1])
    return Picture(path, pixels, alpha, page.tags.valueof(34675))


def _checked_floats(samples: np.ndarray, path: Path) -> np.ndarray:
    low, high = float(samples.min()), float(samples.max())
    if not (low >= -1 and high <= 1):  # also true of NaN
        raise ImageError(path, "read", f"holds floats from {low:g} to {high:g}; they are to lie in [-1, 1]")
    return samples
