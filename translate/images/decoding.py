"""An image file's bytes made into pixels: identified by content, checked before it is decoded, never trusted.

What is here runs in whichever process calls it; `translate.images.decoder_process` runs it in a process of its own.
Which library reads a file follows from what it holds, so that no sample is cut on the way:

    Pillow       everything of 8 bits; 16-bit grey TIFF and PGM
    pillow-heif  HEIC (the extra `formats`)
    OpenCV       16-bit PNG (Pillow cuts its colours to 8 bits), once Pillow has found the file whole: OpenCV 4 does not
                 tell when half of it is missing
    pydicom      DICOM (the extra `dicom`; `translate.images.dicoms`)
    tifffile     TIFF of 16 bits, of floats, or of any number of channels (`translate.images.tiffs`)

Anything else (other depths, several frames, formats not on the list) is refused by name.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import tifffile
from PIL import Image, ImageCms, features

from translate.errors import ImageError, MissingExtra
from translate.images.decoding_memory import bounded
from translate.images.dicoms import MARK, decode_dicom, dicom_info, is_dicom
from translate.images.metadata import checked_profile, exif_of, metadata_of
from translate.images.pictures import (
    MAX_PIXELS,
    ORIENTATION_TAG,
    PILLOW_LIMIT,
    SIDEWAYS_ORIENTATIONS,
    ImageInfo,
    Picture,
    as_image_errors,
    check_kind,
    check_size,
    open_image,
    rotate_upright,
)
from translate.images.png_chunks import without_bad_chunks
from translate.images.tiffs import (
    TiffRowReader,
    check_segments,
    full_pages,
    geo_tags,
    has_alpha,
    is_tiff,
    page_info,
    resolution_of,
)
from translate.images.values import nodata_in, unknown_in

JPEG_START = b"\xff\xd8\xff"  # ITU-T T.81, B.1.1.3: the start of the image, and of its first segment
DRAFT_SPARE = 2  # so many times the wanted pixels a side are decoded at least: resizing makes a mean of them
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF")  # Pillow would try 43, PostScript among them
# The brands of files whose images are coded as in a video of the kinds HEVC, as single images or as sequences.
HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})


def inspect(path: Path) -> ImageInfo:
    """Return what a file says of itself, without decoding its pixels. Raises `ImageError`."""
    with as_image_errors(path, "read"), open_image(path) as file:
        if not os.fstat(file.fileno()).st_size:
            raise ImageError(path, "read", "the file is empty")
        if is_tiff(file):
            with tifffile.TiffFile(file) as tiff:
                pages = full_pages(tiff, path)
                return page_info(pages[0], len(pages))
        if is_dicom(file.read(MARK.stop)):
            return dicom_info(read_content(path), path)
        file.seek(0)
        readable, _ = without_bad_chunks(file, path)
        with _opened(readable, path) as image:
            return pillow_info(image, readable)


def is_jpeg(path: Path) -> bool:
    """Return whether a file begins as a JPEG does. Raises `ImageError` for what cannot be read."""
    with as_image_errors(path, "read"), open_image(path) as file:
        return file.read(len(JPEG_START)) == JPEG_START


def read_content(path: Path) -> bytes:
    """Return the bytes of a file. Raises `ImageError`."""
    with as_image_errors(path, "read"), open_image(path) as file:
        return file.read()


def decode(content: bytes, path: Path, max_pixels: int = MAX_PIXELS, stacked: bool = False,
           at_least: tuple[int, int] | None = None) -> Picture:
    """Decode the bytes of a file that holds one image; `path` is for messages only.

    `translate.images.pages` reads a TIFF of several pages, and one that is too large to stand in memory; `stacked`
    takes its pages as the channels of one image. A JPEG of which `at_least` a (height, width) is wanted may come out at
    a half, a quarter or an eighth of its size, but with twice as many pixels a side: it is made from fewer waves, and
    shrunk further it differs little from the whole one.

    Raises `ImageError` for bytes that are no such image, and for one of more than `max_pixels`.
    """
    with as_image_errors(path, "read"):
        if not content:
            raise ImageError(path, "read", "the file is empty")

        # A TIFF is tifffile's to identify; which of the libraries decodes it, its page decides.
        file = io.BytesIO(content)
        if is_tiff(file):
            with tifffile.TiffFile(file) as tiff:
                pages = full_pages(tiff, path)
                if stacked and len(pages) > 1:
                    return _stacked(pages, file, path, max_pixels)
                _check_still(len(pages), path)
                return decode_page(pages[0], file, path, max_pixels)

        if is_dicom(content):
            with bounded(dicom_info(content, path), len(content), path):
                return decode_dicom(content, path, max_pixels)

        # Anything else is Pillow's. Only what has passed the checks of size and kind is decoded.
        readable, notes = without_bad_chunks(file, path)
        with _opened(readable, path) as image:
            info = pillow_info(image, readable)
            check_size(info, path, max_pixels)
            _check_still(info.frames, path)
            check_kind(info, path)
            if at_least is not None and info.format == "JPEG":
                turned = orientation_in(image) in SIDEWAYS_ORIENTATIONS
                _draft(image, at_least[::-1] if turned else at_least)
            with bounded(info, len(content), path):
                picture = _decode_opened(image, info, readable, content, path)
            return replace(picture, notes=(*notes, *picture.notes))


def _draft(image: Image.Image, at_least: tuple[int, int]) -> None:
    """Have a JPEG decoded at a part of its size, of which `at_least` a (height, width) as it is stored is wanted.

    Only at a part that its sides are multiples of: else the last pixels would stand for less of the image than others.
    """
    width, height = image.size
    for part in (8, 4, 2):
        remains = min(height / (DRAFT_SPARE * at_least[0]), width / (DRAFT_SPARE * at_least[1]))
        if remains >= part and width % part == height % part == 0:
            image.draft(None, (width // part, height // part))
            return


def _decode_opened(image: Image.Image, info: ImageInfo, file: BinaryIO, content: bytes, path: Path) -> Picture:
    """Decode what Pillow has opened, `file`: the `content` of one that may have been mended."""
    image.load()
    about = metadata_of(image, content)
    if info.format == "PNG" and info.bits == 16:
        file.seek(0)
        pixels, alpha = _decode_deep_png(file.read(), image)
    else:
        pixels, alpha = _decode_pillow(image, path)

    # Turned upright once: the EXIF that goes along has no orientation any more.
    return Picture(path, rotate_upright(pixels, about.orientation),
                   None if alpha is None else rotate_upright(alpha, about.orientation),
                   icc=about.icc, exif=about.exif, dpi=about.dpi, notes=about.notes)


def decode_page(page: Any, file: BinaryIO, path: Path, max_pixels: int) -> Picture:
    """Decode the whole of one page (tifffile's) of a TIFF, `file`. Raises `ImageError` as `decode` does."""
    info = page_info(page)
    check_size(info, path, max_pixels)
    check_segments(page, path, max_pixels)
    check_kind(info, path)
    with bounded(info, page.parent.filehandle.size, path):
        return _page_whole(page, file, path, max_pixels)


def _page_whole(page: Any, file: BinaryIO, path: Path, max_pixels: int) -> Picture:
    if not pillow_reads(page):
        return TiffRowReader(page, path, max_pixels).whole()
    geo = geo_tags(page, path)
    with _opened(file, path) as image:
        image.seek(page.index)
        image.load()  # also turns it upright
        icc, notes = checked_profile(image.info.get("icc_profile"))
        pixels, alpha = _decode_pillow(image, path)
        # A TIFF's EXIF describes its own layout: dropped. Without a resolution, Pillow says 1 dot per inch.
        return Picture(path, pixels, alpha, icc=None if image.mode == "CMYK" else icc, dpi=resolution_of(page), geo=geo,
                       notes=notes, nodata=nodata_in(geo), unknown=unknown_in(pixels, nodata_in(geo)))


def _stacked(pages: Sequence[Any], file: BinaryIO, path: Path, max_pixels: int) -> Picture:
    """Decode the pages of a TIFF as the channels of one image. Raises `ImageError` where they are not alike."""
    # More than four channels count as more pixels, before any is decoded.
    infos = [page_info(page) for page in pages]
    check_size(replace(infos[0], channels=sum(info.channels for info in infos)), path, max_pixels)
    pictures = [decode_page(page, file, path, max_pixels) for page in pages]
    kinds = {(picture.pixels.shape[:2], picture.pixels.dtype.name) for picture in pictures}
    if len(kinds) > 1 or any(picture.alpha is not None for picture in pictures):
        raise ImageError(path, "read", "its pages are to be channels, and are not of one size and type, without alpha: "
                         + ", ".join(f"{width}×{height} {name}" for (height, width), name in sorted(kinds)))
    gaps = [picture.unknown for picture in pictures if picture.unknown is not None]
    return replace(pictures[0], pixels=np.dstack([picture.pixels for picture in pictures]),
                   unknown=np.logical_or.reduce(gaps) if gaps else None)


def _check_still(num_frames: int, path: Path) -> None:
    """Raise `ImageError` for a file of several images."""
    if num_frames > 1:
        raise ImageError(path, "read", f"holds {num_frames} frames or pages; save the one you want as a file, or "
                         "take the pages of a TIFF as channels (pages: channels of this side in the recipe)")


@contextmanager
def _opened(file: BinaryIO, path: Path) -> Iterator[Image.Image]:
    """Yield a file as Pillow identifies it by its content. Raises `ImageError` for a format that is not read here."""
    # HEIC and AVIF need libraries that may not be there: the message names them.
    file.seek(0)
    brands = _brands(file)
    is_heic = not HEIC_BRANDS.isdisjoint(brands)
    if is_heic:
        try:
            import pillow_heif
        except ImportError:
            raise ImageError(path, "read", str(MissingExtra("pillow-heif", "formats", "reading HEIC"))) from None
        pillow_heif.register_heif_opener()
    elif b"avif" in brands and not features.check("avif"):
        raise ImageError(path, "read", "is an AVIF, for which this Pillow was not built; install Pillow from its wheel")

    # Pillow tries no format but those on the list.
    with PILLOW_LIMIT.lifted():
        try:
            image = Image.open(file, formats=("HEIF",) if is_heic else FORMATS)
        except Image.UnidentifiedImageError:
            known = f"{', '.join(FORMATS)}, HEIC"
            raise ImageError(path, "read", f"holds no image of a format we read ({known}), or is cut off") from None
        with image:
            yield image


def _brands(file: BinaryIO) -> set[bytes]:
    """Return the brands in the file type box of an ISO media file (ISO/IEC 14496-12, 4.3); none for any other file.

    The file is left at its beginning.
    """
    start = file.read(256)
    file.seek(0)
    if start[4:8] != b"ftyp":
        return set()
    box = start[8:min(int.from_bytes(start[:4], "big"), 256)]
    return {box[:4], *(box[at:at + 4] for at in range(8, len(box), 4))}


def pillow_info(image: Image.Image, file: BinaryIO) -> ImageInfo:
    """Return what a file that Pillow has opened says of itself."""
    assert image.format is not None
    width, height = image.size
    orientation = orientation_in(image)
    if orientation in SIDEWAYS_ORIENTATIONS:
        width, height = height, width
    grey = image.mode in ("1", "L", "LA", "I", "I;16", "I;16B", "F") or raw_mode(image).startswith("LA")
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # an MPO is a photograph with its previews
    return ImageInfo(image.format, image.mode, width, height, 1 if grey else 3, pillow_bits(image, file), frames,
                     alpha=image.has_transparency_data, turned=orientation in range(2, 9))


def orientation_in(image: Image.Image) -> int:
    """Return how an image that Pillow has opened is turned, as EXIF says it."""
    # To find EXIF behind the pixels of a PNG, Pillow would decode them.
    exif = exif_of(image) if image.format != "PNG" or "exif" in image.info else None
    return exif.get(ORIENTATION_TAG, 1) if exif else 1


def pillow_bits(image: Image.Image, file: BinaryIO) -> int | Literal["float"]:
    """Return the depth of the file, which Pillow's mode does not tell: it opens 16-bit colour as 8-bit RGB."""
    if image.mode == "F":
        return "float"
    if image.format == "PPM":
        arguments = _tile_arguments(image)
        largest = arguments[-1] if isinstance(arguments, tuple) else 255
        return 16 if image.mode.startswith("I") or (isinstance(largest, int) and largest > 255) else 8
    if image.format == "HEIF":
        return int(image.info["bit_depth"])
    if image.format == "AVIF":
        return _avif_bits(file)
    return 16 if ";16" in raw_mode(image) and image.format == "PNG" else 32 if image.mode == "I" else 8


def _avif_bits(file: BinaryIO) -> int:
    """Return the depth that the coder's configuration box states (AV1 in ISOBMFF, 2.3.3): Pillow does not tell it."""
    file.seek(0)
    box = file.read(1 << 16).partition(b"av1C")[2]
    high, twelve = (bool(len(box) > 2 and box[2] & bit) for bit in (0x40, 0x20))
    return 12 if high and twelve else 10 if high else 8


def raw_mode(image: Image.Image) -> str:
    """Return how samples lie in the file, such as `RGB;16B`; empty where a plugin does not say."""
    arguments = _tile_arguments(image)
    mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return mode if isinstance(mode, str) else ""


def _tile_arguments(image: Image.Image) -> Any:
    tiles: Any = getattr(image, "tile", None)
    return tiles[0][3] if tiles else None


def _decode_pillow(image: Image.Image, path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Return pixels (H, W, 1 or 3) and alpha (H, W) or None, whatever Pillow's mode."""
    # Grey of more than 8 bits, which has no alpha.
    if image.mode == "F":
        return np.array(image)[..., None], None
    if image.mode == "I" or image.mode.startswith("I;16"):  # "I" comes from a 16-bit PGM
        return np.array(image).astype(np.uint16)[..., None], None

    # Everything else becomes 8-bit grey or RGB, with alpha where a colour, a palette entry or a channel is transparent.
    if image.mode == "CMYK":
        image = _from_cmyk(image)
    grey = image.mode in ("1", "L", "LA")
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "YCbCr"):
        raise ImageError(path, "read", f"has the colour mode {image.mode}; save it as RGB")
    if not (image.has_transparency_data or image.mode == "RGBa"):
        mode = "L" if grey else "RGB"
        pixels = np.array(image if image.mode == mode else image.convert(mode))
        return (pixels[..., None] if grey else pixels), None
    samples = np.array(image.convert("RGBA"))  # also undoes premultiplied alpha
    return np.ascontiguousarray(samples[..., :1 if grey else 3]), np.ascontiguousarray(samples[..., 3])


def _from_cmyk(image: Image.Image) -> Image.Image:
    """Convert to sRGB: through the file's own profile, or by Pillow's formula where it has none that can be read."""
    profile = image.info.get("icc_profile")
    try:
        converted = profile and ImageCms.profileToProfile(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                                                          ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        converted = None
    return converted or image.convert("RGB")


def _decode_deep_png(content: bytes, image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """Return pixels and alpha of a 16-bit PNG that Pillow has found whole (`image`).

    OpenCV gives grey as (H, W), else BGR or BGRA (H, W, 3 or 4).
    """
    import cv2

    samples = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None:
        raise ValueError("OpenCV cannot decode this 16-bit PNG")
    if samples.ndim == 2:
        clear = image.info.get("transparency")  # the grey that is transparent; for a colour OpenCV makes alpha itself
        alpha = None if clear is None else np.where(samples == clear, 0, 65535).astype(np.uint16)
        return samples[..., None], alpha
    alpha = np.ascontiguousarray(samples[..., 3]) if samples.shape[2] == 4 else None
    grey = content[25] in (0, 4)  # the colour type of the header, which always comes first: grey, grey and alpha
    return np.ascontiguousarray(samples[..., :1] if grey else samples[..., 2::-1]), alpha


def pillow_reads(page: Any) -> bool:
    """Return whether Pillow reads all of this page: usual colours of at most 8 bits, or 16-bit grey."""
    colours = page.samplesperpixel - has_alpha(page)
    photometric = page.photometric.name
    usual = {"MINISWHITE": 1, "MINISBLACK": 1, "PALETTE": 1, "RGB": 3, "YCBCR": 3, "SEPARATED": 4}.get(photometric)
    if colours != usual or page.sampleformat != 1:
        return False
    return page.bitspersample <= 8 or (page.bitspersample == 16 and photometric == "MINISBLACK" and not has_alpha(page))
