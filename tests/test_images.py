"""Reading and writing image files: what is in them survives, or they are refused by name."""

from __future__ import annotations

import errno
import io
import os
import random
import stat
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageOps, features

from tests.pixels import RGB8, RGB16, RGB_FLOAT, SRGB, noise, seen
from translate import files
from translate.errors import DiskError, ImageError, UsageError
from translate.images.decoding import Picture, decode, inspect
from translate.images.listing import find_images, list_folder
from translate.images.pictures import DTYPES
from translate.images.reading import HALF_RANGE, ImageConfig, change_bits, fit, read_image
from translate.images.tensors import to_array, to_tensor
from translate.images.writing import suffix_for, write_image


def smooth(height: int, width: int, channels: int = 3) -> np.ndarray:
    """An image that survives JPEG."""
    rows, columns = np.mgrid[:height, :width]
    planes = [rows * (200 / height) + 20, columns * (200 / width) + 20, (rows + columns) * 80 / (height + width) + 60]
    return np.rint(np.stack(planes[:channels], axis=-1)).astype(np.uint8)


def read(path: Path) -> Picture:
    return decode(path.read_bytes(), path)


def png16(colour_type: int, samples: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """A 16-bit PNG written by the format's specification, independently of every library used here."""
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, data) for name, data in (
        (b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")))


# ---- round trips


@pytest.mark.parametrize("bits", [8, 16, "float"])
def test_every_value_of_a_depth_survives_the_way_through_the_network_s_range(bits):
    if bits == "float":
        array = np.linspace(-1, 1, 999, dtype=np.float32).reshape(-1, 1, 1)
    else:
        array = np.arange(2**bits).astype(np.uint8 if bits == 8 else np.uint16).reshape(-1, 1, 1)
    config = ImageConfig(channels=1, bits=bits)
    tensor = to_tensor(array, config)
    assert tensor.dtype == torch.float32 and tensor.shape == (1, len(array), 1)
    assert tensor.min() == -1 and tensor.max() == 1
    if bits != "float":
        exact = array[:, 0, 0].astype(np.float64) / HALF_RANGE[bits] - 1
        assert np.abs(tensor[0, :, 0].numpy() - exact).max() < 1e-7
    back = to_array(tensor, config)
    assert back.dtype == array.dtype and (back == array).all()


def test_values_beyond_the_range_are_clamped_and_not_wrapped_around():
    config = ImageConfig(channels=1)
    assert to_array(torch.tensor([[[-7.0, 1.004, 9.0]]]), config).ravel().tolist() == [0, 255, 255]


@pytest.mark.parametrize(("suffix", "dtype", "channels", "alpha"), [
    *((suffix, np.uint8, channels, alpha) for suffix in (".png", ".tif", ".TIFF") for channels in (1, 3)
      for alpha in (False, True)),
    (".webp", np.uint8, 3, False), (".webp", np.uint8, 3, True), (".bmp", np.uint8, 1, False),
    (".bmp", np.uint8, 3, False), (".ppm", np.uint8, 3, False),
    (".png", np.uint16, 1, False), (".png", np.uint16, 1, True), (".png", np.uint16, 3, False),
    (".png", np.uint16, 3, True), (".PNG", np.uint16, 3, False),
    (".tif", np.uint16, 1, False), (".tif", np.uint16, 3, False), (".tif", np.uint16, 3, True),
    (".tif", np.uint16, 1, True), (".tif", np.float32, 1, False), (".tif", np.float32, 3, False),
    (".tif", np.uint8, 12, False), (".tif", np.uint16, 12, False), (".tif", np.float32, 5, False),
])
def test_lossless_formats_give_back_what_was_written(tmp_path, suffix, dtype, channels, alpha):
    pixels = noise(7, 5, channels, dtype)
    plane = noise(7, 5, 1, dtype, seed=1)[..., 0] if alpha else None
    if alpha:
        plane[:3] = 0  # the colour under transparent pixels is kept too
    path = tmp_path / f"x{suffix}"
    write_image(path, pixels, alpha=plane)
    picture = read(path)
    if (suffix, dtype, channels, alpha) == (".png", np.uint16, 1, True):  # OpenCV writes grey with alpha as RGBA
        pixels = np.repeat(pixels, 3, axis=2)
    assert picture.pixels.dtype == dtype
    np.testing.assert_array_equal(picture.pixels, pixels)
    if alpha:
        np.testing.assert_array_equal(picture.alpha, plane)
    else:
        assert picture.alpha is None
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_recipe_may_declare_alpha_as_one_of_its_channels(tmp_path, suffix, channels):
    pixels = noise(4, 6, channels)
    write_image(tmp_path / f"x{suffix}", pixels)
    np.testing.assert_array_equal(read_image(tmp_path / f"x{suffix}", ImageConfig(channels=channels)), pixels)


def test_jpeg_is_written_at_high_quality_with_full_resolution_colour(tmp_path):
    pixels = smooth(64, 48)
    write_image(tmp_path / "x.jpg", pixels)
    assert np.abs(read(tmp_path / "x.jpg").pixels.astype(int) - pixels).max() <= 4
    with Image.open(tmp_path / "x.jpg") as image:
        assert [component[1:3] for component in image.layer] == [(1, 1)] * 3


def test_profile_exif_and_resolution_are_kept(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "A camera"  # Make
    for suffix in (".jpg", ".png", ".webp", ".tif"):
        path = tmp_path / f"x{suffix}"
        write_image(path, smooth(8, 8), icc=SRGB, exif=exif.tobytes(), dpi=(300.0, 300.0))
        picture = read(path)
        assert picture.icc == SRGB, suffix
        with Image.open(path) as image:
            assert image.getexif()[0x010F] == "A camera", suffix
        if suffix != ".webp":  # WebP has no field for it
            assert picture.dpi == pytest.approx((300, 300), abs=0.1), suffix
    write_image(tmp_path / "deep.png", noise(8, 8, 3, np.uint16), icc=SRGB, exif=exif.tobytes(), dpi=(300.0, 150.0))
    deep = read(tmp_path / "deep.png")
    assert deep.icc == SRGB and deep.dpi == pytest.approx((300, 150), abs=0.1)
    with Image.open(tmp_path / "deep.png") as image:
        assert image.getexif()[0x010F] == "A camera"


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_no_resolution_is_made_up(tmp_path, suffix):
    """Pillow reads a TIFF that gives none as of 1 dot per inch: 50 metres wide in a document."""
    Image.fromarray(noise(8, 8, 3)).save(tmp_path / f"x{suffix}")
    assert read(tmp_path / f"x{suffix}").dpi == (pytest.approx((96, 96), abs=0.1) if suffix == ".bmp" else None)


def test_a_profile_is_left_out_where_it_describes_other_channels(tmp_path):
    """An RGB profile on a grey image makes viewers refuse or misread it."""
    write_image(tmp_path / "x.png", smooth(8, 8, 1), icc=SRGB)
    assert read(tmp_path / "x.png").icc is None


@pytest.mark.parametrize(("suffix", "bits", "channels"), [
    *((suffix, 8, channels) for suffix in (".png", ".tif", ".webp", ".bmp", ".ppm") for channels in (1, 3, 4, 12)),
    *((suffix, bits, channels) for suffix in (".png", ".tif") for bits in (16, "float") for channels in (1, 3, 4, 12))])
def test_an_identity_generator_changes_no_sample_of_a_lossless_format(tmp_path, suffix, bits, channels):
    """At every depth, under the suffix that the converter would choose."""
    config = ImageConfig(channels=channels, bits=bits)
    pixels = noise(31, 17, channels, DTYPES[bits])
    source, output = (tmp_path / f"{name}{suffix_for(suffix, config)}" for name in ("in", "out"))
    write_image(source, pixels)
    first = read_image(source, config)
    np.testing.assert_array_equal(first, pixels)
    write_image(output, to_array(to_tensor(first, config), config))
    np.testing.assert_array_equal(read_image(output, config), pixels)


def test_quality_makes_lossy_files_smaller_and_leaves_lossless_ones_alone(tmp_path):
    pixels = noise(64, 64, 3) // 4 + smooth(64, 64) // 2

    def size(suffix: str, **options) -> int:
        write_image(tmp_path / f"x{suffix}", pixels, **options)
        return (tmp_path / f"x{suffix}").stat().st_size

    def loses(suffix: str, **options) -> bool:
        size(suffix, **options)
        return bool((read(tmp_path / f"x{suffix}").pixels != pixels).any())

    assert size(".jpg", quality=20) < size(".jpg", quality=80) < size(".jpg") == size(".jpg", quality=95)
    assert size(".webp", quality=20) < size(".webp", quality=80) == size(".webp", quality=80, lossless=False)
    assert size(".webp", lossless=False) == size(".webp", quality=95) < size(".webp")
    assert loses(".webp", quality=100) and loses(".webp", lossless=False)
    assert not loses(".webp") and not loses(".webp", quality=5, lossless=True)
    for suffix in (".png", ".tif", ".bmp", ".ppm"):
        assert size(suffix, quality=5, lossless=False) == size(suffix) and not loses(suffix, quality=5)
    for quality in (0, 101):
        with pytest.raises(UsageError, match=f"quality {quality}: expected 1"):
            write_image(tmp_path / "x.jpg", pixels, quality=quality)


def test_a_wide_gamut_jpeg_keeps_its_profile_and_its_samples(tmp_path):
    """Converting to sRGB would clip its colours; the profile says what the samples mean."""
    wide = bytearray(SRGB)  # an RGB profile that is not sRGB: its red primary lies elsewhere
    at = int.from_bytes(wide[(entry := wide.index(b"rXYZ")) + 4:entry + 8], "big")
    wide[at + 8:at + 12] = struct.pack(">i", round(0.515 * 65536))
    Image.fromarray(smooth(32, 32)).save(tmp_path / "in.jpg", quality=95, icc_profile=bytes(wide))
    picture = read(tmp_path / "in.jpg")
    with Image.open(tmp_path / "in.jpg") as image:
        np.testing.assert_array_equal(picture.pixels, np.array(image))
    for name in ("out.jpg", "out.png", "out.tif", "out.webp"):
        write_image(tmp_path / name, picture.pixels, icc=picture.icc)
        assert read(tmp_path / name).icc == bytes(wide) != SRGB, name


# ---- reading every kind


def test_16_bit_rgb_is_read_from_png_and_tiff_of_every_compression_alike(tmp_path):
    samples = noise(20, 30, 3, np.uint16)
    (tmp_path / "x.png").write_bytes(png16(2, samples))
    for compression in (None, "zlib", "lzw", "zstd", "packbits", "lzma"):
        tifffile.imwrite(tmp_path / f"{compression}.tif", samples, photometric="rgb", compression=compression)
    for path in tmp_path.iterdir():
        np.testing.assert_array_equal(read_image(path, RGB16), samples, str(path))
        np.testing.assert_array_equal(read_image(path, RGB_FLOAT), samples.astype(np.float32) / 32767.5 - 1)


@pytest.mark.parametrize("suffix", [".avif", ".heic"])
def test_avif_and_heic_are_read_upright_with_alpha_and_profile(tmp_path, suffix):
    import pillow_heif

    pillow_heif.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "A camera"
    stored = np.dstack([smooth(40, 64), smooth(40, 64, 1)])
    path = tmp_path / f"x{suffix}"
    quality = {".avif": {"quality": 100, "subsampling": "4:4:4"}, ".heic": {"quality": -1, "chroma": "444"}}[suffix]
    Image.fromarray(stored).save(path, exif=exif.tobytes(), icc_profile=SRGB, **quality)
    picture = read(path)
    expected = seen(stored, 6)
    assert np.abs(np.dstack([picture.pixels, picture.alpha]).astype(int) - expected).max() <= 4
    assert picture.icc == SRGB
    again = Image.Exif()
    again.load(picture.exif)
    assert again.get(0x0112, 1) == 1 and again[0x010F] == "A camera"
    info = inspect(path)
    assert (info.width, info.height, info.channels, info.bits, info.frames) == (40, 64, 3, 8, 1)
    assert path in find_images(tmp_path) and suffix_for(suffix, RGB8) == ".png"


def test_avif_and_heic_of_more_bits_or_frames_are_refused_by_name(tmp_path):
    """Pillow would cut 10 bits to 8 without a word."""
    import imagecodecs
    import pillow_heif

    deep = np.full((48, 64, 3), 700, np.uint16)
    (tmp_path / "deep.avif").write_bytes(imagecodecs.avif_encode(deep, bitspersample=10))
    pillow_heif.from_bytes("RGB;16", (64, 48), deep.tobytes()).save(tmp_path / "deep.heic")
    still = Image.fromarray(smooth(48, 64))
    still.save(tmp_path / "two.avif", save_all=True, append_images=[still])
    two = pillow_heif.from_pillow(still)
    two.add_from_pillow(still)
    two.save(tmp_path / "two.heic")
    for name, reason in (("deep.avif", "AVIF of 10 bits and 3 channels is not read"), ("two.avif", "holds 2 frames"),
                         ("deep.heic", "HEIF of 10 bits and 3 channels is not read"), ("two.heic", "holds 2 frames")):
        with pytest.raises(ImageError, match=reason):
            read(tmp_path / name)


def test_heic_and_avif_without_their_libraries_are_refused_saying_which(tmp_path, monkeypatch):
    import pillow_heif

    pillow_heif.from_pillow(Image.fromarray(smooth(16, 16))).save(tmp_path / "x.heic")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for function in (read, inspect):
        with pytest.raises(ImageError, match=r"reading HEIC needs pillow-heif; run: pip install 'diptych\[formats\]'"):
            function(tmp_path / "x.heic")
    Image.fromarray(smooth(16, 16)).save(tmp_path / "x.avif")
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(ImageError, match="is an AVIF, for which this Pillow was not built"):
        read(tmp_path / "x.avif")


def test_decoding_starts_without_torch():
    """It is done in processes of its own, so that a file that crashes a decoder costs one file.

    And so does every other module of `images`, a new one as well, but those that make tensors.
    """
    make_tensors = {"tensors", "pages", "sinks", "resized"}
    root = Path(__file__).parent.parent
    names = {path.stem for path in (root / "translate/images").glob("*.py")} - {"__init__"}
    assert make_tensors < names
    code = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(f"translate.images.{name}")
    print(name, *sorted({"torch", "albumentations", "cv2"} & sys.modules.keys()))
"""
    told = subprocess.run([sys.executable, "-c", code, *sorted(names - make_tensors)], cwd=root, capture_output=True,
                          text=True, check=True).stdout
    assert told.splitlines() == sorted(names - make_tensors)


def test_16_bits_are_not_cut_to_8(tmp_path):
    """Pillow opens 16-bit colour as 8-bit RGB without a word. The files here come from no library under test."""
    for colour_type, channels, has_alpha in ((0, 1, False), (2, 3, False), (4, 1, True), (6, 3, True)):
        samples = noise(6, 5, channels + has_alpha, np.uint16)
        picture = decode(png16(colour_type, samples), tmp_path / "x.png")
        np.testing.assert_array_equal(picture.pixels, samples[..., :channels])
        if has_alpha:
            np.testing.assert_array_equal(picture.alpha, samples[..., -1])
        assert len(np.unique(picture.pixels % 257)) > 1  # more than 8 bits of it
        path = tmp_path / "x.png"
        path.write_bytes(png16(colour_type, samples))
        info = inspect(path)
        assert (info.bits, info.channels, info.width, info.height) == (16, channels, 5, 6)


def test_a_transparent_colour_of_a_16_bit_png_becomes_alpha(tmp_path):
    for colour_type, channels in ((0, 1), (2, 3)):
        samples = noise(4, 5, channels, np.uint16)
        key = struct.pack(f">{channels}H", *samples[1, 2])
        picture = decode(png16(colour_type, samples, (b"tRNS", key)), tmp_path / "x.png")
        np.testing.assert_array_equal(picture.pixels, samples)
        expected = np.full((4, 5), 65535)
        expected[1, 2] = 0
        np.testing.assert_array_equal(picture.alpha, expected)


def test_16_bit_grey_is_read_from_png_tiff_and_pgm(tmp_path):
    samples = noise(5, 4, 1, np.uint16)
    (tmp_path / "x.pgm").write_bytes(b"P5 4 5 65535\n" + samples.astype(">u2").tobytes())
    Image.fromarray(samples[..., 0]).save(tmp_path / "x.tif", compression="tiff_lzw")
    Image.fromarray(samples[..., 0]).save(tmp_path / "x.png")
    for suffix in (".pgm", ".tif", ".png"):
        np.testing.assert_array_equal(read(tmp_path / f"x{suffix}").pixels, samples)
        assert inspect(tmp_path / f"x{suffix}").bits == 16


def test_a_depth_that_a_recipe_did_not_declare_is_refused_with_advice(tmp_path):
    write_image(tmp_path / "deep.png", noise(4, 4, 3, np.uint16))
    with pytest.raises(ImageError, match=r"deep\.png: read: holds 16-bit samples, the recipe declares bits: 8; "):
        read_image(tmp_path / "deep.png", RGB8)
    write_image(tmp_path / "float.tif", noise(4, 4, 3, np.float32))
    with pytest.raises(ImageError, match="holds floats, the recipe declares bits: 16"):
        read_image(tmp_path / "float.tif", RGB16)
    tifffile.imwrite(tmp_path / "wide.tif", noise(4, 4, 3, np.float32) * 3, photometric="rgb")
    with pytest.raises(ImageError, match=r"floats, from -2.* lie in \[-1, 1\]"):
        read_image(tmp_path / "wide.tif", RGB_FLOAT)
    tifffile.imwrite(tmp_path / "int32.tif", np.zeros((4, 4), np.int32))
    with pytest.raises(ImageError, match="more than 16 bits"):
        read_image(tmp_path / "int32.tif", RGB16)
    (tmp_path / "deep.ppm").write_bytes(b"P6 1 1 65535\n" + bytes(6))
    with pytest.raises(ImageError, match="PPM of 16 bits and 3 channels is not read; save it as"):
        read(tmp_path / "deep.ppm")


def test_fewer_bits_than_declared_are_widened_without_loss(tmp_path):
    pixels = noise(4, 4, 3)
    write_image(tmp_path / "x.png", pixels)
    wide = read_image(tmp_path / "x.png", RGB16)
    assert wide.dtype == np.uint16
    np.testing.assert_array_equal(change_bits(wide, 8), pixels)
    # The same image in the network's range, whatever the recipe declares.
    for config in (RGB16, RGB_FLOAT):
        tensor = to_tensor(read_image(tmp_path / "x.png", config), config)
        assert torch.allclose(tensor, to_tensor(pixels, RGB8), atol=1e-6)


def test_grey_and_colour_become_each_other_as_declared(tmp_path):
    write_image(tmp_path / "colour.png", pixels := noise(6, 6, 3))
    write_image(tmp_path / "grey.png", grey := noise(6, 6, 1))
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png", RGB8), np.repeat(grey, 3, axis=2))
    luma = np.array(Image.fromarray(pixels).convert("L")).astype(int)
    assert np.abs(read_image(tmp_path / "colour.png", ImageConfig(channels=1))[..., 0] - luma).max() <= 1
    with pytest.raises(ImageError, match="has 3 channels, the recipe declares 5"):
        read_image(tmp_path / "colour.png", ImageConfig(channels=5))


def test_palette_bilevel_alpha_and_cmyk_are_read_as_a_viewer_shows_them(tmp_path):
    colour = Image.fromarray(smooth(16, 16))
    palette = colour.quantize(16)
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read(tmp_path / "palette.png").pixels, np.array(palette.convert("RGB")))
    palette.save(tmp_path / "transparent.png", transparency=3)
    picture = read(tmp_path / "transparent.png")
    np.testing.assert_array_equal(picture.alpha, np.where(np.array(palette) == 3, 0, 255))
    np.testing.assert_array_equal(picture.pixels, np.array(palette.convert("RGB")))
    palette.save(tmp_path / "palette.gif")
    np.testing.assert_array_equal(read(tmp_path / "palette.gif").pixels, np.array(palette.convert("RGB")))

    bilevel = colour.convert("1")
    for name in ("bilevel.png", "bilevel.tif", "bilevel.pbm", "bilevel.bmp"):
        bilevel.save(tmp_path / name)
        expected = np.array(bilevel) * np.uint8(255)
        np.testing.assert_array_equal(read_image(tmp_path / name, RGB8), np.dstack([expected] * 3))

    samples = noise(9, 9, 2)
    Image.fromarray(samples).save(tmp_path / "la.png")
    picture = read(tmp_path / "la.png")
    np.testing.assert_array_equal(picture.pixels[..., 0], samples[..., 0])
    np.testing.assert_array_equal(picture.alpha, samples[..., 1])

    cmyk = colour.convert("CMYK")
    for name in ("cmyk.jpg", "cmyk.tif"):
        cmyk.save(tmp_path / name, **({"quality": 95} if name.endswith("jpg") else {}))
        assert np.abs(read(tmp_path / name).pixels.astype(int) - np.array(colour)).max() <= 12, name
        assert (inspect(tmp_path / name).channels, inspect(tmp_path / name).bits) == (3, 8)


def cmyk_profile() -> bytes:
    """An ICC profile (version 2, CMYK to Lab by a table) by which all inks are grey ones of equal weight."""
    identity = bytes(range(256))
    nodes = bytes(value for node in range(16) for value in (255 - 255 * node.bit_count() // 4, 128, 128))
    matrix = struct.pack(">9i", *(65536 if index % 4 == 0 else 0 for index in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + identity * 4 + nodes + identity * 3
    size = 128 + 4 + 12 + len(table)
    header = struct.pack(">I4sI4s4s4s12x4s28xiii", size, b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp",
                         63190, 65536, 54061)
    return header.ljust(128, b"\0") + struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table


def test_cmyk_is_read_through_its_own_profile_which_is_not_given_on(tmp_path):
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    cyan.save(tmp_path / "plain.tif")
    cyan.save(tmp_path / "broken.tif", icc_profile=b"no profile")
    cyan.save(tmp_path / "own.tif", icc_profile=cmyk_profile())
    assert read(tmp_path / "plain.tif").pixels[0, 0].tolist() == [0, 255, 255]
    assert read(tmp_path / "broken.tif").pixels[0, 0].tolist() == [0, 255, 255]
    picture = read(tmp_path / "own.tif")
    red, green, blue = picture.pixels[0, 0].astype(int)
    assert max(red, green, blue) - min(red, green, blue) <= 3 and 150 < green < 220  # L* = 75
    assert picture.icc is None  # a CMYK profile on RGB pixels


def test_a_deep_tiff_that_counts_from_white_is_turned_over(tmp_path):
    pixels = noise(5, 4, 1, np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", 65535 - pixels[..., 0], photometric="miniswhite")
    np.testing.assert_array_equal(read(tmp_path / "x.tif").pixels, pixels)


def test_a_tiff_of_many_channels_is_read_whole_from_both_layouts(tmp_path):
    pixels = noise(6, 5, 12, np.uint16)
    tifffile.imwrite(tmp_path / "contig.tif", pixels, photometric="minisblack", planarconfig="contig")
    tifffile.imwrite(tmp_path / "separate.tif", pixels.transpose(2, 0, 1), photometric="minisblack",
                     planarconfig="separate")
    for name in ("contig.tif", "separate.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name, ImageConfig(channels=12, bits=16)), pixels)
    bytes_ = noise(6, 5, 12)
    tifffile.imwrite(tmp_path / "bytes.tif", bytes_, photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(read_image(tmp_path / "bytes.tif", ImageConfig(channels=12)), bytes_)


def test_several_frames_are_refused_rather_than_lost(tmp_path):
    frames = [Image.fromarray(noise(8, 8, 3, seed=seed)) for seed in range(3)]
    for name in ("x.gif", "x.webp", "x.png", "x.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(ImageError, match="holds 3 frames or pages; save the one you want"):
            read(tmp_path / name)
        assert inspect(tmp_path / name).frames == 3


# ---- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once_at_every_depth(tmp_path, orientation):
    stored = noise(3, 5, 4)
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "A camera"
    for name in ("x.png", "x.webp", "x.tif"):
        Image.fromarray(stored).save(tmp_path / name, exif=exif, **({"lossless": True, "exact": True}
                                                                    if name == "x.webp" else {}))
        picture = read(tmp_path / name)
        np.testing.assert_array_equal(np.dstack([picture.pixels, picture.alpha]), seen(stored, orientation), name)
        info = inspect(tmp_path / name)
        assert (info.height, info.width) == picture.pixels.shape[:2], name
        if picture.exif:
            again = Image.Exif()
            again.load(picture.exif)
            assert 0x0112 not in again and again[0x010F] == "A camera"
    Image.fromarray(smooth(24, 40)).save(tmp_path / "x.jpg", exif=exif, quality=95)
    with Image.open(tmp_path / "x.jpg") as image:
        np.testing.assert_array_equal(read(tmp_path / "x.jpg").pixels, np.array(ImageOps.exif_transpose(image)))
    deep = noise(3, 5, 3, np.uint16)
    (tmp_path / "deep.png").write_bytes(png16(2, deep, (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))))
    np.testing.assert_array_equal(read(tmp_path / "deep.png").pixels, seen(deep, orientation))
    tifffile.imwrite(tmp_path / "deep.tif", deep, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    np.testing.assert_array_equal(read(tmp_path / "deep.tif").pixels, seen(deep, orientation))


# ---- hostile files


def test_an_image_above_the_pixel_limit_is_refused_before_it_is_decoded(tmp_path):
    """A PNG of 20 kB may claim a gigapixel. Decoding this one would need a gigabyte."""
    path = tmp_path / "bomb.png"
    huge = zlib.compressobj(9)
    rows = b"".join(huge.compress(bytes(40_001)) for _ in range(100)) + huge.flush()
    header = struct.pack(">IIBBBBB", 40_000, 26_000, 8, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    path.write_bytes(content)
    assert inspect(path).size == "40000×26000"  # Pillow's own limit is out of the way: the caller's counts
    with pytest.raises(ImageError, match=r"is 40000×26000, above the limit of 200,000,000 pixels; raise the limit"):
        read_image(path, RGB8)
    write_image(tmp_path / "small.png", smooth(10, 10))
    with pytest.raises(ImageError, match="above the limit of 99 pixels"):
        read_image(tmp_path / "small.png", RGB8, max_pixels=99)
    assert read_image(tmp_path / "small.png", RGB8, max_pixels=100).shape == (10, 10, 3)


@pytest.mark.parametrize("name", ["EPS", "ICO", "PDF", "TGA", "SGI", "PCX", "text"])
def test_a_format_that_is_not_on_the_list_is_refused_whatever_its_name_says(tmp_path, name):
    path = tmp_path / "liar.png"
    if name == "text":
        path.write_text("<svg/>")
    else:
        file = io.BytesIO()
        Image.fromarray(smooth(16, 16)).save(file, name)
        path.write_bytes(file.getvalue())
    for function in (lambda: read_image(path, RGB8), lambda: inspect(path)):
        with pytest.raises(ImageError, match=r"liar\.png: read: holds no image of a format we read \(PNG, JPEG"):
            function()


def test_content_decides_and_not_the_suffix(tmp_path):
    Image.fromarray(smooth(16, 16)).save(tmp_path / "photo.png", "JPEG")
    assert inspect(tmp_path / "photo.png").format == "JPEG"
    assert read_image(tmp_path / "photo.png", RGB8).shape == (16, 16, 3)


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp", "x.tif", "x.bmp", "x.ppm", "deep.png", "deep.tif"])
def test_a_truncated_file_is_an_error_at_every_length(tmp_path, name):
    """OpenCV returns the upper half of such a JPEG without an error."""
    path = tmp_path / name
    write_image(path, noise(40, 40, 3, np.uint16 if name.startswith("deep") else np.uint8))
    whole = path.read_bytes()
    for length in sorted({0, 1, 3, 8, 20, *random.Random(0).sample(range(len(whole) * 9 // 10), 25)}):
        path.write_bytes(whole[:length])
        with pytest.raises(ImageError):
            read(path)


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp", "x.tif", "x.gif", "deep.png", "deep.tif", "many.tif"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_flipped_bytes_raise_nothing_but_an_image_error(tmp_path, name):
    path = tmp_path / name
    if name == "x.gif":
        Image.fromarray(noise(16, 16, 3)).save(path)
    else:
        write_image(path, noise(16, 16, 7 if name == "many.tif" else 3,
                                np.uint16 if name.startswith("deep") else np.uint8), icc=SRGB)
    whole = path.read_bytes()
    draw = random.Random(1)
    outcomes = set()
    for _ in range(60):
        broken = bytearray(whole)
        for _ in range(draw.choice((1, 4, 30))):
            broken[draw.randrange(min(len(broken), draw.choice((64, 512, 10**9))))] = draw.randrange(256)
        try:
            decode(bytes(broken), path, max_pixels=1_000_000)
            outcomes.add("read")
        except ImageError:
            outcomes.add("refused")
    assert "refused" in outcomes


def test_missing_empty_and_unreadable_files_say_so(tmp_path):
    with pytest.raises(ImageError, match="No such file"):
        read_image(tmp_path / "none.png", RGB8)
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageError, match="the file is empty"):
        read_image(tmp_path / "empty.png", RGB8)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ImageError, match="is a folder, and a file was expected"):
        read_image(tmp_path / "folder.png", RGB8)


# ---- finding


def test_images_are_found_nested_in_any_case_sorted_and_through_loops_of_links(tmp_path):
    for name in ("b.JPG", "a/z.png", "a/deep/é.Tif", "notes.txt", ".hidden.png", ".cache/x.png", "a/.tmp-0-1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a/loop").symlink_to(tmp_path)
    (tmp_path / "aa").symlink_to(tmp_path / "a")  # sorts before nothing, and must not take a's files away from a
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "self.png").symlink_to("self.png")
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "o.webp").touch()
    (tmp_path / "linked").symlink_to(outside)
    listing = list_folder(tmp_path)
    found = [str(path.relative_to(tmp_path)) for path in listing.images]
    assert found == ["a/deep/é.Tif", "a/z.png", "b.JPG", "gone.png", "linked/o.webp", "self.png"]
    others = [str(path.relative_to(tmp_path)) for path in listing.others]
    assert others == [".cache", ".hidden.png", "notes.txt", "pipe.png"]
    assert find_images(tmp_path) == listing.images
    assert [str(path.relative_to(tmp_path)) for path in list_folder(tmp_path, skip=tmp_path / "a").images] == [
        "b.JPG", "gone.png", "linked/o.webp", "self.png"]


# ---- writing


def test_the_suffix_is_kept_where_the_format_can_hold_the_image():
    grey, deep, floats, many = (ImageConfig(channels=1), RGB16, RGB_FLOAT, ImageConfig(channels=12))
    kept = {".JPG": RGB8, ".webp": RGB8, ".bmp": grey, ".png": deep, ".tiff": floats, ".TIF": many}
    assert all(suffix_for(suffix, config) == suffix for suffix, config in kept.items())
    assert [suffix_for(".gif", RGB8), suffix_for(".pgm", RGB8), suffix_for(".jpg", deep)] == [".png"] * 3
    assert [suffix_for(".jpg", floats), suffix_for(".png", many)] == [".tif"] * 2


def test_an_image_that_a_format_cannot_hold_is_refused_with_the_suffix_that_can(tmp_path):
    with pytest.raises(ImageError, match=r"\.jpg cannot hold 3 channels of 16-bit samples; write \.png"):
        write_image(tmp_path / "x.jpg", noise(2, 2, 3, np.uint16))
    with pytest.raises(ImageError, match=r"\.png cannot hold 12 channels of 8-bit samples; write \.tif"):
        write_image(tmp_path / "x.png", noise(2, 2, 12))
    with pytest.raises(ImageError, match="a name without suffix cannot hold"):
        write_image(tmp_path / "x", noise(2, 2, 3))
    with pytest.raises(ImageError, match="write: "):  # what the encoder itself says
        write_image(tmp_path / "x.webp", np.zeros((1, 20_000, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 64 kB where one can be mounted, else none (the fault is injected instead)."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True)
    try:
        yield place
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", place], check=True)


def test_a_full_disk_keeps_what_was_there(small_disk, monkeypatch):
    path = small_disk / "x.png"
    write_image(path, smooth(20, 20))
    before = path.read_bytes()
    if not os.path.ismount(small_disk):
        monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    large = noise(300, 300, 3)
    with pytest.raises(DiskError, match=r"x\.png: No space left on device \([\d,]+ bytes needed, [\d,]+ bytes free"):
        write_image(path, large)
    assert path.read_bytes() == before and [each.name for each in small_disk.iterdir()] == ["x.png"]


def failing(number: int):
    def fail(*_arguments, **_options):
        raise OSError(number, os.strerror(number))
    return fail


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_any_call_of_the_writer_may_fail_and_the_previous_file_stays(tmp_path, monkeypatch, call, number):
    path = tmp_path / "x.png"
    write_image(path, smooth(20, 20))
    before = path.read_bytes()

    class HalfWritten(io.FileIO):
        def write(self, content):
            super().write(bytes(content)[: len(content) // 2])
            raise OSError(number, os.strerror(number))

    def opened(self: Path, mode: str):
        return HalfWritten(self, mode)

    match call:
        case "open":
            monkeypatch.setattr(Path, "open", failing(number))
        case "write":
            monkeypatch.setattr(Path, "open", opened)
        case "fsync":
            monkeypatch.setattr(os, "fsync", failing(number))
        case "replace":
            monkeypatch.setattr(Path, "replace", failing(number))
    with pytest.raises(DiskError, match=r"x\.png"):
        write_image(path, noise(20, 20, 3))
    monkeypatch.undo()
    assert path.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == ["x.png"]


def test_a_written_file_has_the_usual_permissions(tmp_path):
    write_image(tmp_path / "x.png", smooth(4, 4))
    files.write_bytes(tmp_path / "y", b"")
    assert stat.S_IMODE((tmp_path / "x.png").stat().st_mode) == stat.S_IMODE((tmp_path / "y").stat().st_mode) != 0o600


def test_colours_are_not_swapped_on_the_way_through_opencv(tmp_path):
    """OpenCV keeps blue first. Another reader must see red in the first channel."""
    red = np.zeros((2, 2, 3), np.uint16)
    red[..., 0] = 65535
    write_image(tmp_path / "x.png", red)
    with Image.open(tmp_path / "x.png") as image:
        assert image.convert("RGB").getpixel((0, 0)) == (255, 0, 0)
    assert cv2.imdecode(np.frombuffer((tmp_path / "x.png").read_bytes(), np.uint8), -1)[0, 0].tolist() == [0, 0, 65535]


def test_fit_takes_alpha_apart_or_along_as_declared():
    picture = Picture(Path("x.png"), noise(3, 3, 3), alpha=noise(3, 3, 1)[..., 0])
    assert fit(picture, RGB8).alpha is not None
    joined = fit(picture, ImageConfig(channels=4, bits=16))
    assert joined.alpha is None and joined.pixels.shape == (3, 3, 4) and joined.pixels.dtype == np.uint16
