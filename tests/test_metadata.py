"""Files whose pixels are whole and whose other parts are damaged or too large: read, and what was left out is said."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from tests.conversions import Identity, last_rows, noise, release_of
from translate.convert import convert
from translate.data.check import check
from translate.data.labels import Labelling, read_labels
from translate.data.layouts import ComputedConfig
from translate.errors import ImageError
from translate.images.decoder_process import Request, read_file
from translate.images.decoding import decode, inspect
from translate.images.png_chunks import END, SIGNATURE

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
EIGHT, DEEP = noise(9, 11), noise(9, 11, dtype=np.uint16)


def chunk(name: bytes, data: bytes, damaged: bool = False) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data) ^ damaged)


def png(before: bytes = b"", after: bytes = b"", end: bytes = END, pixels: np.ndarray = EIGHT) -> bytes:
    """A PNG by the format's specification, with other chunks before and after its pixels."""
    deep = pixels.dtype == np.uint16
    rows = b"".join(b"\0" + row.astype(">u2" if deep else "u1").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16 if deep else 8, 2, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(rows)) + after + end


def jpeg(**options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(EIGHT).save(file, "JPEG", **options)
    return file.getvalue()


def without_second_segment(content: bytes, mark: bytes) -> bytes:
    at = content.index(mark, content.index(mark) + 1) - 4  # behind the marker and the length of its segment
    return content[:at] + content[at + 2 + struct.unpack(">H", content[at + 2:at + 4])[0]:]


ORIENTED = Image.Exif()
ORIENTED[0x0112] = 3
TEXT = b"Comment\0words"
ZEROS = zlib.compress(bytes(2_000_000))
BAD = {
    "a text above Pillow's limit": (png(chunk(b"zTXt", b"Comment\0\0" + ZEROS)), "text (zTXt)"),
    "XMP above Pillow's limit": (png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + ZEROS)), "text (iTXt)"),
    "a profile above Pillow's limit": (png(chunk(b"iCCP", b"p\0\0" + ZEROS)), "colour profile (iCCP)"),
    "a profile that is no zlib stream": (png(chunk(b"iCCP", b"p\0\0" + b"\7" * 50)), "colour profile (iCCP)"),
    "texts that are too many together": (png(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000))) * 70), "text"),
    "a text with a wrong checksum": (png(chunk(b"tEXt", TEXT, damaged=True)), "text (tEXt), which is damaged"),
    "a resolution with a wrong checksum": (png(chunk(b"pHYs", bytes(9), damaged=True)), "resolution (pHYs)"),
    "a resolution that is cut": (png(chunk(b"pHYs", bytes(5))), "resolution (pHYs)"),
    "a private chunk with a wrong checksum": (png(chunk(b"prVt", TEXT, damaged=True)), "private part (prVt)"),
    "EXIF behind the pixels": (png(after=chunk(b"eXIf", ORIENTED.tobytes()[6:], damaged=True)), "EXIF (eXIf)"),
    "a last text that is cut": (png(after=chunk(b"tEXt", TEXT)[:-9], end=b""), "text (tEXt), which is damaged"),
    "a text in a file of 16 bits": (png(chunk(b"tEXt", TEXT, damaged=True), pixels=DEEP), "text (tEXt)"),
    "EXIF of a JPEG": (jpeg(exif=b"Exif\0\0" + b"\7" * 40), "EXIF, which is damaged"),
    "the profile of a JPEG, a segment missing": (
        without_second_segment(jpeg(icc_profile=PROFILE + bytes(150_000)), b"ICC_PROFILE\0"), "colour profile"),
    "the profile of a JPEG": (jpeg(icc_profile=b"\7" * 500), "colour profile"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_pixel_and_cannot_be_read_is_left_out_and_said(name: str) -> None:
    """Whole photographs were refused as "no image" for a long text that their editor had put in, and lost EXIF was not
    mentioned."""
    content, what = BAD[name]
    picture = decode(content, Path("x"))
    if content.startswith(SIGNATURE):
        np.testing.assert_array_equal(picture.pixels, DEEP if "16 bits" in name else EIGHT)
    (note,) = picture.notes
    assert note.startswith("left out its") and what in note
    assert picture.exif is picture.icc is picture.dpi is None or "resolution" not in what


def test_what_can_be_read_goes_along_whole_whatever_was_left_out_beside_it() -> None:
    kept = chunk(b"iCCP", b"p\0\0" + zlib.compress(PROFILE)) + chunk(b"eXIf", ORIENTED.tobytes()[6:])
    resolution = chunk(b"pHYs", struct.pack(">IIB", 11811, 11811, 1))
    for text, notes in ((b"", 0), (chunk(b"tEXt", TEXT), 0), (chunk(b"tEXt", TEXT, damaged=True), 1)):
        picture = decode(png(kept + text, after=resolution), Path("x"))
        np.testing.assert_array_equal(picture.pixels, EIGHT[::-1, ::-1])  # as EXIF says
        assert picture.icc == PROFILE and len(picture.notes) == notes
        assert picture.dpi is not None and round(picture.dpi[0]) == 300


@pytest.mark.parametrize("content", [
    png(chunk(b"tRNS", bytes(6), damaged=True)), png().replace(b"IDAT", b"IDAT\0", 1), png()[:-30]],
    ids=["transparency", "pixels", "cut"])
def test_damage_to_what_is_seen_is_refused(content: bytes) -> None:
    with pytest.raises(ImageError):
        decode(content, Path("x"))


def test_a_conversion_and_a_check_say_which_files_and_what(tmp_path: Path) -> None:
    """A photographer's folder of 400 files had 31 failures, all of them fine in every viewer."""
    (tmp_path / "train").mkdir()
    (tmp_path / "train/big.png").write_bytes(BAD["a text above Pillow's limit"][0])
    (tmp_path / "train/deep.png").write_bytes(BAD["a resolution with a wrong checksum"][0])
    (tmp_path / "train/fine.png").write_bytes(png())
    tifffile.imwrite(tmp_path / "train/profile.tif", EIGHT, photometric="rgb", iccprofile=b"\7" * 200)
    names = {"big.png", "deep.png", "profile.tif"}

    # The ledger's entries, by rows and whole, and the summary.
    for memory in (None, "1GB"):
        out = tmp_path / f"out {memory}"
        summary = convert(tmp_path / "train", out, release_of(Identity()), workers=0, memory=memory)
        assert (summary.converted, summary.exit_code) == (4, 0) and {each.path for each in summary.noted} == names
        assert {name for name, row in last_rows(out).items() if row.get("note", "").startswith("left out")} == names
        with Image.open(out / "big.png") as image:
            np.testing.assert_array_equal(np.asarray(image), EIGHT)

    findings = [finding for finding in check(ComputedConfig(folder=tmp_path)) if "left out" in finding.what]
    assert {finding.path.name for finding in findings} == names and inspect(tmp_path / "train/big.png").bits == 8


def test_a_label_map_with_a_damaged_text_is_read_and_that_is_said(tmp_path: Path) -> None:
    numbers = np.repeat(np.arange(6, dtype=np.uint8)[:, None], 5, axis=1)
    (tmp_path / "x.png").write_bytes(png(chunk(b"tEXt", TEXT, damaged=True), pixels=np.dstack([numbers] * 3)))
    np.testing.assert_array_equal(read_labels(tmp_path / "x.png")[..., 0], numbers)
    read = read_file(Request(tmp_path / "x.png", 100, "", labels=Labelling(6)))  # as for a conversion
    assert read.picture is not None and read.picture.notes == ("left out its text (tEXt), which is damaged",)
