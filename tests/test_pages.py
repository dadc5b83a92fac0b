"""Images read and written by rows: the same pixels as whole ones, in the memory of a few rows."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import Tensor, nn

from tests.covering import each_value
from tests.pixels import RGB8, RGB16, RGB_FLOAT, SRGB, noise, seen
from translate import tiling
from translate.errors import DiskError, ImageError
from translate.images.decoding import decode, inspect
from translate.images.pages import Page, open_pages
from translate.images.pictures import Picture
from translate.images.reading import ImageConfig, read_image
from translate.images.sinks import ArraySink, writing_pages
from translate.images.tensors import to_array, to_tensor
from translate.images.tiffs import TiffRowReader
from translate.images.writing import write_image

PATH = [str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
CHILD = os.environ | {"PYTHONPATH": os.pathsep.join(PATH)}  # the environment of a child process
GEO = (  # 2 m pixels in UTM zone 32N, as a GIS would write them, and a no-data value
    (33550, "d", 3, (2.0, 2.0, 0.0), True),
    (33922, "d", 6, (0.0, 0.0, 0.0, 500_000.0, 5_300_000.0, 0.0), True),
    (34735, "H", 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32632), True),
    (42113, "s", 0, "0", True),
)


def config_of(array: np.ndarray) -> ImageConfig:
    bits = {"f": "float"}.get(array.dtype.kind, array.dtype.itemsize * 8)
    return ImageConfig(channels=array.shape[2], bits=bits, background=None)


def whole(page: Page) -> Tensor:
    return page.read(0, page.height)


def held(array: np.ndarray) -> Page:
    """A page of an 8-bit image that stands in memory."""
    return Page.of_picture(Picture(Path("x.png"), array), RGB8)


def copy_rows(page: Page, sink, step: int) -> None:
    """What an identity generator does."""
    for a in range(0, page.height, step):
        sink.write(a, page.read(a, min(page.height, a + step)))


# ---- reading by rows


LAYOUTS = {
    "tiles": {"tile": (32, 48), "compression": "zlib"},
    "plain tiles": {"tile": (32, 48)},
    "strips": {"rowsperstrip": 7, "compression": "zlib", "predictor": 2},
    "plain strips": {"rowsperstrip": 7},
    "one strip": {"rowsperstrip": 10_000, "compression": "zlib"},
    "one plain strip": {},
    "big-endian": {"byteorder": ">", "rowsperstrip": 5, "compression": "zlib"},
    "plain big-endian": {"byteorder": ">"},
    "BigTIFF": {"bigtiff": True, "tile": (16, 16), "compression": "zlib"},
}


@each_value(share=4, layout=list(LAYOUTS), samples=[
    (np.uint8, 1), (np.uint8, 3), (np.uint8, 12), (np.uint16, 1), (np.uint16, 3), (np.float32, 1), (np.float32, 5),
    (np.float16, 3), (np.float64, 3)], planar=["contig", "separate"])
def test_any_rows_of_any_layout_are_those_of_the_whole_image(tmp_path, layout, samples, planar):
    (dtype, channels), options = samples, dict(LAYOUTS[layout])
    if np.dtype(dtype).kind == "f":
        options.pop("predictor", None)
    array = noise(83, 101, channels, np.float32 if np.dtype(dtype).kind == "f" else dtype).astype(dtype)
    stored = array[..., 0] if channels == 1 else array if planar == "contig" else array.transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "x.tif", stored, photometric="rgb" if channels == 3 else "minisblack",
                     planarconfig=planar if channels > 1 else None, **options)
    expected = array.astype(np.float64)
    if np.dtype(dtype).kind == "u":
        expected = expected / (np.iinfo(dtype).max / 2) - 1
    config = config_of(array)
    draw = random.Random(0)
    intervals = [(a, a + 9) for a in range(0, 72, 6)] + [sorted(draw.sample(range(84), 2)) for _ in range(8)]
    with open_pages(tmp_path / "x.tif", config, max_pixels=101 * 83 * 3) as (page,):
        assert page.shape == (1, channels, 83, 101)
        for a, b in [*intervals, (0, 83), (82, 83)]:
            rows = page.read(a, b)
            assert rows.shape == (1, channels, b - a, 101) and rows.dtype == torch.float32
            np.testing.assert_allclose(rows[0].numpy(), expected[a:b].transpose(2, 0, 1), atol=1e-6)
    image = read_image(tmp_path / "x.tif", config)
    assert image.flags.writeable  # augmentation may work in place
    reference = to_tensor(image, config)
    with open_pages(tmp_path / "x.tif", config) as (page,):
        assert torch.equal(whole(page)[0], reference)


@pytest.mark.parametrize("options", [{"tile": (16, 16), "compression": "zlib"}, {}], ids=["tiles", "plain"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once_to_any_rows(tmp_path, orientation, options):
    stored = noise(37, 53, 4, np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", stored, photometric="rgb", extrasamples=["unassalpha"],
                     extratags=[(274, "H", 1, orientation, True)], **options)
    upright = seen(stored, orientation)
    with open_pages(tmp_path / "x.tif", RGB16) as (page,):
        assert page.shape == (1, 3, *upright.shape[:2])
        for a in range(0, page.height, 5):
            b = min(page.height, a + 7)
            np.testing.assert_array_equal(to_array(page.read(a, b)[0], RGB16), upright[a:b, :, :3])
            np.testing.assert_array_equal(page.read_alpha(a, b), upright[a:b, :, 3])


def test_alpha_is_apart_or_a_channel_as_the_recipe_declares(tmp_path):
    array = noise(20, 30, 4)
    tifffile.imwrite(tmp_path / "x.tif", array, photometric="rgb", extrasamples=["unassalpha"], rowsperstrip=3,
                     compression="zlib")
    Image.fromarray(array).save(tmp_path / "x.png")
    for name in ("x.tif", "x.png"):
        with open_pages(tmp_path / name, RGB8) as (page,):
            assert page.has_alpha
            np.testing.assert_array_equal(page.read_alpha(4, 9), array[4:9, :, 3])
        with open_pages(tmp_path / name, ImageConfig(channels=4)) as (page,):
            assert page.read_alpha(4, 9) is None
            np.testing.assert_array_equal(to_array(page.read(4, 9)[0], page.config), array[4:9])


def test_rows_are_fitted_to_the_recipe_and_refused_before_anything_is_decoded(tmp_path):
    grey = noise(20, 30, 1)
    tifffile.imwrite(tmp_path / "grey.tif", 255 - grey[..., 0], photometric="miniswhite", rowsperstrip=3,
                     compression="zlib")
    with open_pages(tmp_path / "grey.tif", RGB16) as (page,):
        np.testing.assert_array_equal(to_array(page.read(2, 8)[0], RGB16), np.repeat(grey, 3, 2)[2:8] * np.uint16(257))
    tifffile.imwrite(tmp_path / "deep.tif", noise(8, 8, 3, np.uint16), photometric="rgb")
    with (pytest.raises(ImageError, match="holds 16-bit samples, the recipe declares bits: 8"),
          open_pages(tmp_path / "deep.tif", RGB8)):
        pass
    with (pytest.raises(ImageError, match="has 3 channels, the recipe declares 5"),
          open_pages(tmp_path / "deep.tif", ImageConfig(channels=5, bits=16))):
        pass


def test_only_the_tiles_that_rows_touch_are_decoded(tmp_path):
    """A file with one broken tile gives all rows but those of that tile."""
    array = noise(96, 64, 3)
    tifffile.imwrite(tmp_path / "x.tif", array, photometric="rgb", tile=(32, 32), compression="zlib")
    with tifffile.TiffFile(tmp_path / "x.tif") as tiff:
        offset = tiff.pages[0].dataoffsets[2]  # the first of the second row of tiles
    content = bytearray((tmp_path / "x.tif").read_bytes())
    content[offset:offset + 40] = bytes(40)
    (tmp_path / "x.tif").write_bytes(content)
    with open_pages(tmp_path / "x.tif", RGB8) as (page,):
        np.testing.assert_array_equal(to_array(page.read(0, 32)[0], RGB8), array[:32])
        np.testing.assert_array_equal(to_array(page.read(64, 96)[0], RGB8), array[64:])
        with pytest.raises(ImageError, match=r"x\.tif: read: "):
            page.read(31, 33)


@pytest.mark.parametrize("orientation", [1, 3])
def test_rows_from_top_to_bottom_decode_nothing_twice(tmp_path, monkeypatch, orientation):
    tifffile.imwrite(tmp_path / "x.tif", noise(100, 64, 4), photometric="rgb", extrasamples=["unassalpha"],
                     tile=(32, 32), compression="zlib", extratags=[(274, "H", 1, orientation, True)])
    decoded: list[int] = []
    decode_segment = TiffRowReader._segment
    monkeypatch.setattr(TiffRowReader, "_segment", lambda self, index, *size: (
        decoded.append(index), decode_segment(self, index, *size))[1])
    with open_pages(tmp_path / "x.tif", RGB8) as (page,):
        for a in range(0, 100, 5):
            page.read(a, a + 5)
            if a >= 40:
                page.read_alpha(a - 40, a - 35)  # of an output that comes later than its input
    # 2 tiles of each row of them: the colours of all 4 rows, the alpha of those that the first 60 rows of pixels touch
    assert len(decoded) == 2 * 4 + 2 * (2 if orientation == 1 else 3)


@pytest.mark.parametrize("options", [{"tile": (16, 16), "compression": "zlib"}, {}], ids=["tiles", "plain"])
def test_one_thread_may_read_colours_while_another_reads_alpha(tmp_path, monkeypatch, options):
    """Both move the position of one file; here each dawdles between moving it and reading."""
    array = noise(64, 64, 4)
    tifffile.imwrite(tmp_path / "x.tif", array, photometric="rgb", extrasamples=["unassalpha"], **options)
    intervals = [(a, a + 16) for a in range(0, 64, 16)]
    seek = tifffile.FileHandle.seek
    monkeypatch.setattr(tifffile.FileHandle, "seek", lambda *arguments: (seek(*arguments), time.sleep(1e-3))[0])
    with open_pages(tmp_path / "x.tif", RGB8) as (page,), ThreadPoolExecutor(2) as threads:
        colours = threads.submit(lambda: [to_array(page.read(a, b)[0], RGB8) for a, b in intervals])
        alpha = threads.submit(lambda: [page.read_alpha(a, b) for a, b in intervals])
        for (a, b), pixels, plane in zip(intervals, colours.result(), alpha.result(), strict=True):
            np.testing.assert_array_equal(pixels, array[a:b, :, :3])
            np.testing.assert_array_equal(plane, array[a:b, :, 3])


def test_jpeg_tiles_are_read_by_rows_as_another_library_reads_them_whole(tmp_path):
    array = np.ascontiguousarray(noise(12, 9, 3).repeat(8, 0).repeat(8, 1))
    for photometric, channels in (("rgb", 3), ("minisblack", 1)):
        tifffile.imwrite(tmp_path / "x.tif", array[..., :channels].squeeze(), photometric=photometric, tile=(32, 32),
                         compression="jpeg", compressionargs={"level": 95})
        with Image.open(tmp_path / "x.tif") as image:
            expected = np.array(image).reshape(96, 72, channels)
        with open_pages(tmp_path / "x.tif", ImageConfig(channels=channels), max_pixels=72 * 32) as (page,):
            for a in range(0, 96, 13):
                rows = to_array(page.read(a, min(96, a + 20))[0], page.config)
                assert np.abs(rows.astype(int) - expected[a:a + 20]).max() <= 2


def test_pages_are_all_full_images_and_no_reduced_copies(tmp_path):
    pages = [noise(40, 50, 3, seed=seed) for seed in range(3)]
    with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
        writer.write(pages[0][::4, ::4], photometric="rgb", subfiletype=1)  # a thumbnail comes first in some files
        for each in pages:
            writer.write(each, photometric="rgb", tile=(16, 16), compression="zlib")
            writer.write(each[::2, ::2], photometric="rgb", subfiletype=1)
    with open_pages(tmp_path / "x.tif", RGB8) as found:
        assert len(found) == 3
        for page, array in zip(found, pages, strict=True):
            np.testing.assert_array_equal(to_array(whole(page)[0], RGB8), array)
    with pytest.raises(ImageError, match="holds 3 frames or pages"):
        read_image(tmp_path / "x.tif", RGB8)

    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as writer:
        writer.write(pages[0][::4, ::4], photometric="rgb", subfiletype=1)
        writer.write(pages[0], photometric="rgb")
    np.testing.assert_array_equal(read_image(tmp_path / "pyramid.tif", RGB8), pages[0])

    tifffile.imwrite(tmp_path / "thumbnail.tif", pages[0], photometric="rgb", subfiletype=1)
    tifffile.imwrite(tmp_path / "mask.tif", pages[0], photometric="rgb")
    tifffile.imwrite(tmp_path / "mask.tif", np.ones((40, 50), bool), photometric="mask", append=True, subfiletype=4)
    for name, reason in (("thumbnail.tif", "nothing but reduced pages"), ("mask.tif", "transparency mask as a page")):
        for read in (lambda path: open_pages(path, RGB8).__enter__(), lambda path: read_image(path, RGB8)):
            with pytest.raises(ImageError, match=reason):
                read(tmp_path / name)


def test_pages_that_only_pillow_reads_are_pages_as_well(tmp_path):
    colour = Image.fromarray(noise(20, 30, 3))
    palettes = [colour.quantize(8 + seed) for seed in range(3)]
    palettes[0].save(tmp_path / "x.tif", save_all=True, append_images=palettes[1:], compression="tiff_lzw")
    with open_pages(tmp_path / "x.tif", RGB8) as pages:
        for page, palette in zip(pages, palettes, strict=True):
            np.testing.assert_array_equal(to_array(whole(page)[0], RGB8), np.array(palette.convert("RGB")))
    with (pytest.raises(ImageError, match="is 30×60, above the limit of 1,799 pixels"),
          open_pages(tmp_path / "x.tif", RGB8, max_pixels=1799)):
        pass


def test_the_pixel_limit_is_for_what_has_to_be_decoded_at_once(tmp_path):
    array = noise(64, 64, 3)

    def opens(max_pixels: int, **options) -> bool:
        tifffile.imwrite(tmp_path / "x.tif", array, photometric="rgb", **options)
        try:
            with open_pages(tmp_path / "x.tif", RGB8, max_pixels) as (page,):
                np.testing.assert_array_equal(to_array(page.read(3, 60)[0], RGB8), array[3:60])
            return True
        except ImageError as error:
            assert "must be decoded at once, above the limit of" in str(error)
            return False

    assert opens(64 * 16, tile=(16, 16), compression="zlib") and not opens(1023, tile=(16, 16), compression="zlib")
    assert opens(64 * 5, rowsperstrip=5, compression="zlib") and not opens(319, rowsperstrip=5, compression="zlib")
    assert opens(4096, rowsperstrip=64, compression="zlib") and not opens(4095, rowsperstrip=64, compression="zlib")
    assert opens(1) and opens(1, rowsperstrip=4)  # not compressed: any row is where it is
    tifffile.imwrite(tmp_path / "x.tif", array, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    with (pytest.raises(ImageError, match="above the limit of 4,095 pixels"),
          open_pages(tmp_path / "x.tif", RGB8, max_pixels=4095)):
        pass
    Image.fromarray(array).save(tmp_path / "x.png")
    with (pytest.raises(ImageError, match="above the limit of 4,095 pixels"),
          open_pages(tmp_path / "x.png", RGB8, max_pixels=4095)):
        pass


@pytest.mark.parametrize("options", [{"tile": (16, 16), "compression": "zlib"}, {"rowsperstrip": 5}])
def test_a_cut_file_is_refused_when_it_is_opened(tmp_path, options):
    """And not after an hour of computing. The tags lie before the pixels here."""
    tifffile.imwrite(tmp_path / "x.tif", noise(64, 64, 3), photometric="rgb", **options)
    content = (tmp_path / "x.tif").read_bytes()
    for length in (len(content) - 1, len(content) // 2, 1000, 100, 8, 4, 0):
        (tmp_path / "x.tif").write_bytes(content[:length])
        with pytest.raises(ImageError), open_pages(tmp_path / "x.tif", RGB8):
            pass


@pytest.mark.parametrize("options", [{}, {"byteorder": ">", "bigtiff": True}])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_file_cut_between_two_pages_is_not_taken_for_one_of_fewer(tmp_path, options):
    """tifffile gives the pages that are left, and no more than logs that there were others."""
    path = tmp_path / "x.tif"
    with tifffile.TiffWriter(path, **options) as writer:
        for seed in range(4):
            writer.write(noise(20, 15, 3, seed=seed), photometric="rgb", contiguous=False, metadata=None)
    content = path.read_bytes()
    assert inspect(path).frames == 4
    for length in range(100, len(content), 40):
        path.write_bytes(content[:length])
        with pytest.raises(ImageError), open_pages(path, RGB8):
            pytest.fail(f"{length} of {len(content)} bytes are taken for a whole file")
        with suppress(ImageError):
            assert inspect(path).frames == 4


@pytest.mark.parametrize("options", [{"tile": (16, 16), "compression": "zlib", "predictor": 2}, {"rowsperstrip": 5}])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_flipped_bytes_raise_nothing_but_an_image_error(tmp_path, options):
    path = tmp_path / "x.tif"
    with tifffile.TiffWriter(path) as writer:
        for seed in range(2):
            writer.write(noise(48, 40, 3, seed=seed), photometric="rgb", extratags=GEO, iccprofile=SRGB, **options)
    content = path.read_bytes()
    draw = random.Random(2)
    outcomes = set()
    for _ in range(80):
        broken = bytearray(content)
        for _ in range(draw.choice((1, 4, 30))):
            broken[draw.randrange(min(len(broken), draw.choice((64, 512, 10**9))))] = draw.randrange(256)
        path.write_bytes(broken)
        try:
            with open_pages(path, RGB8, max_pixels=1_000_000) as pages:
                for page in pages:
                    page.read(0, min(page.height, 100))
            outcomes.add("read")
        except ImageError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_floats_beyond_the_range_are_refused_where_they_are_met(tmp_path):
    array = noise(40, 10, 3, np.float32)
    array[25, 3, 1] = 1.5
    tifffile.imwrite(tmp_path / "x.tif", array, photometric="rgb", rowsperstrip=5, compression="zlib")
    with open_pages(tmp_path / "x.tif", RGB_FLOAT) as (page,):
        page.read(0, 25)
        with pytest.raises(ImageError, match=r"holds floats, from .* floats are to lie in \[-1, 1\]"):
            page.read(20, 30)


def test_a_tile_that_was_left_out_has_no_data(tmp_path):
    """So GDAL writes sparse files. Black to a network; a page knows where, and an output has the file's value there."""
    tiles = [np.full((16, 16), 7, np.uint8), None, None, np.full((16, 16), 9, np.uint8)]
    tifffile.imwrite(tmp_path / "x.tif", iter(tiles), shape=(32, 32), dtype=np.uint8, tile=(16, 16),
                     photometric="minisblack", compression="zlib", extratags=[(42113, "s", 0, "5", True)])
    with open_pages(tmp_path / "x.tif", ImageConfig(channels=1)) as (page,):
        values, unknown = to_array(whole(page)[0], page.config)[..., 0], page.read_unknown(0, 32)
    np.testing.assert_array_equal(values[::16, ::16], [[7, 0], [0, 9]])
    np.testing.assert_array_equal(unknown[::16, ::16], [[False, True], [True, False]])
    assert page.nodata == 5


@pytest.mark.parametrize("extra", [True, False], ids=["with imagecodecs", "without"])
def test_a_compression_is_read_with_the_extra_and_else_refused_by_its_name(tmp_path, extra):
    tifffile.imwrite(tmp_path / "x.tif", array := noise(20, 30, 3, np.uint16), photometric="rgb", tile=(16, 16),
                     compression="lzw", predictor=2)
    tifffile.imwrite(tmp_path / "float.tif", floats := noise(20, 30, 3, np.float32), photometric="rgb",
                     compression="zlib", predictor=3)
    code = ("" if extra else "import sys; sys.modules['imagecodecs'] = None") + """
from pathlib import Path
from translate.images.decoding import decode
for path in (Path("x.tif"), Path("float.tif")):
    try:
        print(decode(path.read_bytes(), path).pixels.sum(dtype=float))
    except Exception as error:
        print(error)
"""
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
                           env=CHILD).stdout.splitlines()
    if extra:
        assert found == [str(each.sum(dtype=float)) for each in (array, floats)]
    else:
        assert found == [
            "x.tif: read: TIFF of 16 bits compressed by LZW with HORIZONTAL needs imagecodecs; run: pip install "
            "'diptych[formats]'; or save the file with deflate",
            "float.tif: read: TIFF of 32 bits compressed by ADOBE_DEFLATE with FLOATINGPOINT needs imagecodecs; run: "
            "pip install 'diptych[formats]'; or save the file with deflate"]


# ---- writing by rows


@each_value(share=16, samples=[
    (np.uint8, 1, False), (np.uint8, 1, True), (np.uint8, 3, False), (np.uint8, 3, True), (np.uint8, 4, False),
    (np.uint8, 12, False), (np.uint16, 1, False), (np.uint16, 3, True), (np.uint16, 12, False),
    (np.float32, 1, False), (np.float32, 3, False), (np.float32, 12, False)],
    shape=[(300, 67), (256, 64), (1, 1), (5, 1), (1, 300)])
def test_an_identity_generator_gives_back_every_sample(tmp_path, samples, shape):
    dtype, channels, alpha = samples
    array = noise(*shape, channels + alpha, dtype)
    pixels, plane = (array[..., :-1], array[..., -1]) if alpha else (array, None)
    write_image(tmp_path / "in.tif", pixels, alpha=plane)
    config = config_of(pixels)
    for number, step in enumerate((1, 7, 256, 10_000)):
        path = tmp_path / f"out{number}.tif"
        with open_pages(tmp_path / "in.tif", config) as pages, writing_pages(path, pages, config) as sinks:
            array_sink = ArraySink(pages[0], config)
            copy_rows(pages[0], array_sink, step)
            copy_rows(pages[0], sinks[0], step)
        picture = decode(path.read_bytes(), path)
        assert array_sink.array.dtype == dtype
        for result in (picture.pixels, array_sink.array):
            np.testing.assert_array_equal(result, pixels)
        if alpha:
            np.testing.assert_array_equal(picture.alpha, plane)
        else:
            assert picture.alpha is None


def test_pages_tags_and_the_size_of_offsets_go_along(tmp_path):
    arrays = [noise(40 + 10 * seed, 50, 3, np.uint16, seed=seed) for seed in range(3)]
    with tifffile.TiffWriter(tmp_path / "in.tif", bigtiff=True) as writer:
        for number, array in enumerate(arrays):
            writer.write(array, photometric="rgb", tile=(16, 16), compression="zlib", iccprofile=SRGB,
                         resolution=(300 + number, 150), resolutionunit=2, extratags=GEO if number == 1 else ())
    with (open_pages(tmp_path / "in.tif", RGB16) as pages,
          writing_pages(tmp_path / "out.tif", pages, RGB16) as sinks):
        for page, sink in zip(pages, sinks, strict=True):
            copy_rows(page, sink, 16)
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        assert tiff.is_bigtiff and len(tiff.pages) == 3
        for number, (page, array) in enumerate(zip(tiff.pages, arrays, strict=True)):
            np.testing.assert_array_equal(page.asarray(), array)
            assert page.iccprofile == SRGB
            assert page.get_resolution("inch") == pytest.approx((300 + number, 150))
            assert (page.compression.name, page.predictor.name) == ("ADOBE_DEFLATE", "HORIZONTAL")
        with tifffile.TiffFile(tmp_path / "in.tif") as before:
            assert tiff.pages[1].geotiff_tags == before.pages[1].geotiff_tags
        assert tiff.pages[1].geotiff_tags["ProjectedCSTypeGeoKey"] == 32632
        assert tiff.pages[1].nodata == 0 and "GDAL_NODATA" in tiff.pages[1].tags
        assert not tiff.pages[0].geotiff_tags and not tiff.pages[2].geotiff_tags


def test_an_output_that_may_pass_four_gigabytes_is_a_bigtiff(tmp_path, monkeypatch):
    write_image(tmp_path / "in.tif", noise(20, 20, 3))
    for limit, big in ((1199, True), (1200, False)):
        monkeypatch.setattr("translate.images.sinks.CLASSIC_TIFF_BYTES", limit)
        with open_pages(tmp_path / "in.tif", RGB8) as pages, writing_pages(tmp_path / "x.tif", pages, RGB8) as sinks:
            copy_rows(pages[0], sinks[0], 20)
        with tifffile.TiffFile(tmp_path / "x.tif") as tiff:
            assert tiff.is_bigtiff == big


def test_a_translated_page_equals_the_whole_image_translated(tmp_path):
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.InstanceNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 3, 1, 1),
                              nn.Tanh())
    tifffile.imwrite(tmp_path / "in.tif", noise(70, 60, 3), photometric="rgb", tile=(16, 16), compression="zlib")
    out = ImageConfig(channels=1, bits="float")
    with open_pages(tmp_path / "in.tif", RGB8) as pages, writing_pages(tmp_path / "out.tif", pages, out) as sinks:
        tiling.apply(generator, pages[0], settings=tiling.Settings(strip_rows=8), out=sinks[0])
    with torch.no_grad():
        expected = generator(to_tensor(read_image(tmp_path / "in.tif", RGB8), RGB8)[None])
    np.testing.assert_allclose(read_image(tmp_path / "out.tif", out)[..., 0], expected[0, 0].numpy(), atol=2e-5)


def writer_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("tiff-writer")]


@pytest.mark.parametrize("num_rows", [0, 3, 256, 300, 599])
def test_a_conversion_that_is_broken_off_leaves_the_previous_file_and_nothing_else(tmp_path, num_rows):
    path = tmp_path / "x.tif"
    path.write_bytes(b"before")
    page = held(noise(600, 300, 3))

    class Broken(Exception):
        pass

    with pytest.raises(Broken), writing_pages(path, [page, page], RGB8) as sinks:
        for a in range(num_rows):
            sinks[0].write(a, page.read(a, a + 1))
        raise Broken
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path] and not writer_threads()


def test_an_incomplete_page_is_never_renamed_into_place(tmp_path):
    page = held(noise(60, 30, 3))
    with (pytest.raises(ImageError, match=r"x\.tif: write: only 30 of 60 rows of a page were given"),
          writing_pages(tmp_path / "x.tif", [page, page], RGB8) as sinks):
        copy_rows(page, sinks[0], 60)
        sinks[1].write(0, page.read(0, 30))
    assert not list(tmp_path.iterdir()) and not writer_threads()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("at", [0, 20_000, "fsync", "replace"])
def test_a_disk_that_fails_while_a_tiff_is_written_keeps_what_was_there(tmp_path, monkeypatch, at, number):
    path = tmp_path / "x.tif"
    path.write_bytes(b"before")
    page = held(noise(900, 300, 3))

    def fail(*_arguments, **_options):
        raise OSError(number, os.strerror(number))

    class Filling:
        """A file on a disk that has room for so many bytes."""

        def __init__(self, file):
            self._file = file

        def __getattr__(self, name):
            return getattr(self._file, name)

        def write(self, content):
            return fail() if self._file.tell() + len(content) > at else self._file.write(content)

    writer = tifffile.TiffWriter
    match at:
        case "fsync":
            monkeypatch.setattr(os, "fsync", fail)
        case "replace":
            monkeypatch.setattr(Path, "replace", fail)
        case _:
            monkeypatch.setattr(tifffile, "TiffWriter", lambda file, **options: writer(Filling(file), **options))
    with (pytest.raises(DiskError, match=rf"x\.tif: {os.strerror(number)} \([\d,]+ bytes free"),
          writing_pages(path, [page], RGB8) as sinks):
        copy_rows(page, sinks[0], 10)
    monkeypatch.undo()
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path] and not writer_threads()


def test_output_that_is_not_finite_is_an_error_and_no_picture(tmp_path):
    page = held(noise(8, 8, 3))
    strip = page.read(0, 8)
    strip[0, 1, 2, 3] = float("nan")
    with pytest.raises(ImageError, match=r"convert: the generator's output is not finite"):
        ArraySink(page, RGB8).write(0, strip)
    with (pytest.raises(ImageError, match=r"convert: the generator's output is not finite"),
          writing_pages(tmp_path / "x.tif", [page], RGB8) as sinks):
        sinks[0].write(0, strip)
    assert not list(tmp_path.iterdir())


# ---- georeferenced files read whole, and memory


def test_georeference_survives_reading_and_writing_whole_files(tmp_path):
    for name, array in (("bytes.tif", noise(8, 9, 3)), ("deep.tif", noise(8, 9, 5, np.uint16))):
        tifffile.imwrite(tmp_path / name, array, photometric="rgb" if array.shape[2] == 3 else "minisblack",
                         planarconfig="contig", extratags=GEO)
        picture = decode((tmp_path / name).read_bytes(), tmp_path / name)
        write_image(tmp_path / "out.tif", picture.pixels, geo=picture.geo, dpi=(72.0, 72.0), icc=SRGB)
        with tifffile.TiffFile(tmp_path / "out.tif") as after, tifffile.TiffFile(tmp_path / name) as before:
            assert after.pages[0].geotiff_tags == before.pages[0].geotiff_tags
            assert after.pages[0].geotiff_tags["ModelTiepoint"][3:5] == [500_000, 5_300_000]
            assert after.pages[0].tags[42113].value == "0"
            np.testing.assert_array_equal(after.pages[0].asarray(), array)


def test_a_georeferenced_file_that_is_stored_turned_is_refused(tmp_path):
    """Its coordinates count the stored rows; kept on the upright image they would be wrong."""
    tifffile.imwrite(tmp_path / "x.tif", noise(8, 9, 3), photometric="rgb",
                     extratags=[*GEO, (274, "H", 1, 3, True)])
    for read in (lambda path: open_pages(path, RGB8).__enter__(), lambda path: read_image(path, RGB8)):
        with pytest.raises(ImageError, match=r"is georeferenced, .* set the tag \(274\) to 1"):
            read(tmp_path / "x.tif")


@pytest.mark.slow
@pytest.mark.parametrize("opener", ["row_readers", "decoder_process"])
def test_a_bigtiff_goes_through_in_a_fraction_of_its_size(tmp_path, opener):
    """6000×6000 colours are 108 MB, and 432 MB as floats; the process may take 64 MB more than it began with, whether
    it decodes them itself or gets them from another, which may take no more either.

    What is freed goes back at once (the threshold): what glibc would keep of it differs from run to run.
    """
    shade = (np.arange(6000) // 32).astype(np.uint8)

    def tiles():
        for top in range(0, 6000, 256):
            for left in range(0, 6000, 256):
                rows, columns = shade[top:top + 256, None], shade[None, left:left + 256]
                yield np.stack(np.broadcast_arrays(rows, columns, rows ^ columns), axis=-1)

    tifffile.imwrite(tmp_path / "in.tif", tiles(), shape=(6000, 6000, 3), dtype=np.uint8, tile=(256, 256),
                     photometric="rgb", compression="zlib", compressionargs={"level": 1}, bigtiff=True, maxworkers=1)
    code = f"from translate.images.{opener} import open_file\n" + """
import resource
from pathlib import Path
import torch
from translate.images.reading import ImageConfig
from translate.images.pages import open_pages
from translate.images.sinks import writing_pages
torch.set_num_threads(1)
before = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) * 1024
limit = before + 64_000_000
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
config = ImageConfig()
with (open_pages(Path("in.tif"), config, opening=open_file) as pages,
      writing_pages(Path("out.tif"), pages, config) as sinks):
    for a in range(0, 6000, 32):
        sinks[0].write(a, pages[0].read(a, min(6000, a + 32)))
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True,
                   env=CHILD | {"MALLOC_MMAP_THRESHOLD_": "1000000"})
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        assert tiff.is_bigtiff
        page = tiff.pages[0]
        rows = np.arange(6000) // 32
        for top in (0, 3840, 5936):
            band = TiffRowReader(page, tmp_path / "out.tif", 10**8).read(top, min(6000, top + 64)).pixels
            expected = np.broadcast_to(rows[top:top + 64, None].astype(np.uint8), band.shape[:2])
            np.testing.assert_array_equal(band[..., 0], expected)
            np.testing.assert_array_equal(band[..., 2], expected ^ shade[None])
