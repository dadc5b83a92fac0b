"""Conversion within the memory that is left: nothing is killed, and what fits nowhere costs only itself."""

from __future__ import annotations

import io
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from tests.bombs import BOMBS, false_header, huge_tile, peak_bytes
from tests.commands import call, forget_fork_server
from tests.conversions import FORK, Identity, fill, last_rows, noise, release_of, tiny_release
from tests.covering import each_value
from tests.live_bytes import LiveBytes
from tests.memory_cgroup import enter, memory_cgroup
from tests.networks import members
from translate import tiling
from translate.convert import convert
from translate.convert.converter import Converter
from translate.convert.jobs import Job
from translate.convert.label_rows import LabelRows
from translate.convert.ledger import Ledger
from translate.convert.saving import Input, Options
from translate.convert.translating import Translating
from translate.data.label_planes import label_planes
from translate.data.labels import Labelling
from translate.errors import DoesNotFit, ImageError, TooLarge
from translate.host import available_memory
from translate.host.available_memory import Available
from translate.images.decoder_process import DecoderProcess, Request, head_of, read_file
from translate.images.decoding import decode, inspect
from translate.images.decoding_memory import at_most, decoding_bytes
from translate.images.pictures import Picture
from translate.images.writing import write_image
from translate.networks import GeneratorConfig
from translate.networks.resnet import ResNet
from translate.networks.weights import initialise
from translate.runs.release import Release

MB = 10**6


def photographs(folder: Path, side: int) -> None:
    """Small images, in the middle of them a large one, and one whose header lies."""
    fill(folder, 3, 40, 30)
    write_image(folder / "000-large.png", np.tile(noise(side // 10, side // 10, seed=9), (10, 10, 1)))
    false_header(folder)


def convert_in_cgroup(group: Path, source: Path, out: Path, workers: int) -> None:
    forget_fork_server()
    release = tiny_release()
    enter(group)
    sys.exit(convert(source, out, release, precision="fp32", workers=workers).exit_code)


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch):
    """`left(bytes)`: so much is left of the memory from now on."""
    def set_to(num_bytes: int) -> None:
        monkeypatch.setattr(available_memory, "available_bytes", lambda: Available(num_bytes, "a test's memory"))
    return set_to


# ---- in a memory cgroup, where the kernel kills


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "limit", "side"), [(0, 450 * MB, 1800), (1, 900 * MB, 2800)])
def test_a_large_image_in_a_small_container_costs_no_file(tmp_path: Path, workers: int, limit: int, side: int) -> None:
    """It ended the conversion, silently, and every rerun at the same file: an honest 6000×6000 PNG in 2 GB, a JPEG of
    40 kB with a false header in 23 GB."""
    photographs(tmp_path / "in", side)
    with memory_cgroup(limit) as group:
        if group is None:
            pytest.skip("this machine lets no memory cgroup be made")
        child = FORK.Process(target=convert_in_cgroup, args=(group, tmp_path / "in", tmp_path / "out", workers))
        child.start()
        child.join(120)
        assert child.exitcode == 3
    rows = last_rows(tmp_path / "out")
    assert {name: row["status"] for name, row in rows.items()} == {
        "000.png": "done", "000-large.png": "done", "001-false.jpg": "failed", "inner/001.png": "done",
        "002.png": "done"}
    assert "at once it would take" in rows["000-large.png"]["strips"] and "cgroup" in rows["000-large.png"]["strips"]
    assert "is 14000×14000; decoding it takes" in rows["001-false.jpg"]["message"]
    assert all("strips" not in row for name, row in rows.items() if name != "000-large.png")

    # Where there is memory to spare, nothing is done again, and the output is the same.
    plenty = {"precision": "fp32", "workers": 0}
    (tmp_path / "in" / "001-false.jpg").unlink()  # its 196 megapixels would be translated now
    assert convert(tmp_path / "in", tmp_path / "out", tiny_release(), **plenty).already == 4
    convert(tmp_path / "in" / "000-large.png", tmp_path / "whole.png", tiny_release(), **plenty)
    made, whole = (decode(path.read_bytes(), path).pixels.astype(int)
                   for path in (tmp_path / "out" / "000-large.png", tmp_path / "whole.png"))
    assert np.abs(made - whole).max() <= 1 and (made != whole).mean() < 1e-3


# ---- what is chosen for an image


def wider_release() -> Release:
    """One for which 200 pixels a side take so much that strips are worth it."""
    torch.manual_seed(0)
    generator = ResNet(3, 3, width=24, blocks=1)
    initialise(generator, 0.2)
    return release_of(generator)


def translating(**options: object) -> Translating:
    return Translating.with_release(wider_release(), precision="fp32", **options)  # type: ignore[arg-type]


def test_at_once_where_it_fits_in_strips_where_not_and_then_says_why(left) -> None:
    one = translating()
    needed = tiling.whole_bytes(one.release.generator, (1, 3, 1500, 1500))
    left(int(1.1 * needed / available_memory.SHARE))
    assert one.way(1500, 1500) == one.way(40, 30) and one.way(1500, 1500).strips is None
    left(int(0.9 * needed / available_memory.SHARE))
    way = one.way(1500, 1500)
    assert way.strips is not None and "at once it would take" in way.reason and "a test's memory" in way.reason
    assert one.way(40, 30).strips is None
    assert translating(memory="1GB").way(40, 30).reason is None  # asked for
    assert one.way(1400, 1400).strips is None and one.way(1400, 1400, beside=needed // 2).strips is not None


def test_strips_that_nobody_asked_for_are_exact(left) -> None:
    image = torch.rand(3, 300, 200) * 2 - 1
    whole = translating().translate(image, Path("x"), (300, 200))
    left(120 * MB)
    one = translating()
    assert one.way(300, 200).strips is not None
    error = (one.translate(image, Path("x"), (300, 200)) - whole).square().mean().sqrt()
    assert 20 * np.log10(2 / float(error)) >= 120


def test_what_fits_nowhere_says_whose_limit_it_is(left) -> None:
    left(20 * MB)
    with pytest.raises(DoesNotFit, match=r"1000×1000 pixels needs .* may be taken: 70% of the .* \(a test's memory\)"):
        translating().way(1000, 1000)


def test_a_launchers_processes_share_what_is_left(left, monkeypatch: pytest.MonkeyPatch) -> None:
    left(1000 * MB)
    assert available_memory.usable_memory().bytes == 700 * MB
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert available_memory.usable_memory().bytes == 175 * MB


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_every_way_through_the_converter_gives_the_same_files(tmp_path: Path, left, workers: int) -> None:
    """Of PNGs, of TIFFs by rows and as a whole, read ahead or alone."""
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in" / "a.png", noise(200, 180, seed=1), alpha=noise(200, 180, 1, seed=2)[..., 0])
    write_image(tmp_path / "in" / "b.jpg", noise(190, 200, seed=3))
    tifffile.imwrite(tmp_path / "in" / "c.tif", noise(200, 200, seed=4), photometric="rgb", tile=(64, 64))
    with tifffile.TiffWriter(tmp_path / "in" / "d.tif") as writer:
        for seed in (5, 6):
            writer.write(noise(130, 130, seed=seed), photometric="rgb", contiguous=False, metadata=None)
    found = []
    for number, num_bytes in enumerate((10**10, 145 * MB)):
        left(num_bytes)
        out = tmp_path / str(number)
        assert convert(tmp_path / "in", out, wider_release(), precision="fp32", workers=workers).exit_code == 0
        found.append({name: row.get("strips") is not None for name, row in last_rows(out).items()})
        for name in found[0]:
            a, b = (tifffile.imread(each / name) if name[0] in "cd" else np.asarray(Image.open(each / name))
                    for each in (tmp_path / "0", out))
            assert np.abs(a.astype(int) - b).max() <= (8 if name == "b.jpg" else 1), name
    assert not any(found[0].values()) and found[1]["a.png"] and found[1]["c.tif"]


def test_a_label_map_by_rows_is_the_whole_one() -> None:
    """Planes of 35 classes take 140 bytes a pixel, as whole images of floats."""
    labels = Labelling(classes=5, edges=True)
    numbers = np.random.default_rng(0).integers(0, 5, (23, 17, 1), np.uint8)
    rows = LabelRows(Picture(Path("x.png"), numbers), labels)
    whole = label_planes(labels, numbers)
    for start, stop in ((0, 23), (0, 1), (5, 9), (22, 23), (4, 4)):
        assert torch.equal(rows.read(start, stop)[0], whole[:, start:stop])


@pytest.mark.parametrize("config", members(GeneratorConfig), ids=lambda config: config.__name__)
def test_the_forecast_of_a_whole_image_covers_what_lives_and_not_much_more(config: type) -> None:
    generator = config(width=8).build(3, 3).eval()
    image = torch.zeros(1, 3, 512, 384)
    with torch.no_grad(), LiveBytes([*generator.parameters()]) as counter:
        generator(image)
    forecast = (tiling.whole_bytes(generator, image.shape) - tiling.whole.GLIBC_KEEPS) / tiling.whole.MARGIN
    assert counter.peak + image.nbytes <= forecast <= 3 * counter.peak + image.nbytes


def test_the_command_says_that_images_went_in_strips(tmp_path: Path, left, said: io.StringIO,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "in", 2, 200, 200)
    left(145 * MB)
    monkeypatch.setattr("translate.runs.release.load_release", lambda *_: wider_release())
    code = call(monkeypatch, "convert", tmp_path / "in", tmp_path / "out", "--model", tmp_path, "--workers", 0)
    assert code == 0 and "in strips, which give the same output: 000.png: at once it would take" in said.getvalue()
    assert "(1 more images as well" in said.getvalue() and "2 converted" in said.getvalue()


# ---- decoding


@each_value(share=4, make=list(BOMBS), by_rows=[False, True])
def test_a_file_takes_no_more_than_its_size_needs(tmp_path: Path, make, by_rows: bool) -> None:
    """A TIFF of 16×16 pixels and 3 MB took 2 GB, in the decoder's process and with `--workers 0`."""
    make(path := tmp_path / "x.tif")
    channels, bits = BOMBS[make]
    release = release_of(Identity(), channels, bits)  # type: ignore[arg-type]
    before = peak_bytes("self")
    summary = convert(path, tmp_path / "out", release, workers=0, memory="500MB" if by_rows else None)
    assert peak_bytes("self") - before < 300 * MB
    assert [row.stage for row in summary.failed] in ([], ["read"])
    assert summary.converted + len(summary.failed) == 1
    if make is huge_tile:
        assert "tiles of 32768×32768, above the limit" in summary.failed[0].message


def test_what_is_allocated_beyond_the_bound_is_an_error_and_later_there_is_no_bound(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="far more than an image of its size should"), at_most(10 * MB, tmp_path):
        np.zeros(300 * MB, np.uint8)
    with at_most(10 * MB, tmp_path):
        np.zeros(100 * MB, np.uint8)
    np.zeros(300 * MB, np.uint8)


def test_threads_that_decode_at_once_leave_no_bound_behind(tmp_path: Path) -> None:
    """Each put back what the other had set, and a later allocation of 300 MB failed, in whatever it was for."""
    before = resource.getrlimit(resource.RLIMIT_DATA)

    def decode_a_while(seconds: float) -> None:
        with at_most(10 * MB, tmp_path):
            time.sleep(seconds)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(decode_a_while, (0.03, 0.01, 0.02)))
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def saved(folder: Path) -> list[Path]:
    """Images of 1.5 megapixels in every way of decoding."""
    colour = Image.fromarray(np.tile(noise(150, 100), (10, 10, 1)))
    palette, fast = colour.quantize(16), {"compress_level": 1}
    for name, image, options in (
            ("rgb.png", colour, fast), ("rgba.png", colour.convert("RGBA"), fast),
            ("grey.png", colour.convert("L"), fast), ("la.png", colour.convert("LA"), fast),
            ("palette.png", palette, {}), ("plain.jpg", colour, {}),
            ("progressive.jpg", colour, {"progressive": True}), ("cmyk.jpg", colour.convert("CMYK"), {}),
            ("lossy.webp", colour, {"method": 0}), ("x.gif", palette, {}), ("rgb.tif", colour, {}),
            ("x.avif", colour, {"speed": 10})):
        image.save(folder / name, **options)
    write_image(folder / "deep.png", np.tile(noise(150, 100, dtype=np.uint16), (10, 10, 1)))
    tifffile.imwrite(folder / "deep.tif", np.tile(noise(150, 100, dtype=np.uint16), (10, 10, 1)), photometric="rgb",
                     compression="zlib", predictor=True)
    return sorted(folder.iterdir())


def test_decoding_takes_no_more_than_is_foretold_from_the_head(tmp_path: Path) -> None:
    paths, decoder, over = saved(tmp_path), DecoderProcess(), {}
    decoder.read(Request(paths[0], 10**7, ""))
    for path in paths:
        number = decoder._process.pid  # type: ignore[union-attr]
        peak_bytes(number)
        before = peak_bytes(number)
        decoder.read(Request(path, 10**7, ""))
        taken, foretold = peak_bytes(number) - before, decoding_bytes(inspect(path), path.stat().st_size)
        if taken > foretold + 10 * MB:  # the library of a format is loaded with its first image
            over[path.name] = f"{taken / MB:.0f} MB, and {foretold / MB:.0f} were foretold"
    decoder.close()
    assert not over


def test_an_image_that_is_too_large_to_be_read_ahead_waits_for_its_turn(tmp_path: Path) -> None:
    write_image(tmp_path / "x.png", noise(100, 100))
    asked = Request(tmp_path / "x.png", 10**6, "")
    whole = read_file(asked)
    for field, value in (("max_bytes", 100_000), ("pixel_bytes", 10**6)):
        waits = read_file(Request(**vars(asked) | {"max_bytes": 10**8, field: value}))
        assert (waits.key, waits.picture, waits.num_pages) == (whole.key, None, 1)


def test_an_image_that_is_to_be_enlarged_counts_as_large_as_it_becomes(tmp_path: Path) -> None:
    """--resize 8000 on a folder of small images enlarged 16 of them at once, unasked, and was killed for its memory."""
    write_image(tmp_path / "x.png", noise(10, 12))
    for sides, becomes in ((None, 120), ((90, 90), 90 * 108), ((5, 5), 120), ((20, 99), 20 * 24)):
        asked = Request(tmp_path / "x.png", 10**4, "", pixel_bytes=1_000, sides=sides)
        decoding = head_of(replace(asked, pixel_bytes=0)).bytes_in_flight
        assert head_of(asked).bytes_in_flight - decoding == becomes * 1_000
        fits = read_file(replace(asked, max_bytes=decoding + becomes * 1_000))
        waits = read_file(replace(asked, max_bytes=decoding + becomes * 1_000 - 1))
        assert fits.picture is not None and (waits.picture, waits.num_pages) == (None, 1)
    with pytest.raises(TooLarge, match=r"is 12×10, and would be enlarged to 120×100, above the limit of 10,000"):
        read_file(replace(asked, sides=(100, 100)))


def test_an_image_that_would_be_enlarged_beyond_the_limit_is_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    fill(tmp_path / "in", 2, 20, 30)
    write_image(tmp_path / "in" / "a.png", noise(4, 60))
    summary = convert(tmp_path / "in", tmp_path / "out", release_of(Identity()), resize=40, max_pixels=10_000,
                      workers=0)
    (entry,) = summary.failed
    assert summary.converted == 2 and entry.path == "a.png" and entry.error == "TooLarge"
    assert "would be enlarged to 600×40" in str(entry.message)


def test_the_seconds_for_decoding_are_kept_where_a_file_is_read_by_rows(tmp_path: Path) -> None:
    """What is read by rows had ten minutes for each piece, in a server that gives two to a file."""
    tifffile.imwrite(tmp_path / "x.tif", noise(16, 16), photometric="rgb", tile=(16, 16))
    options = Options(max_pixels=10**4, workers=1, decode_seconds=1e-6)
    converter = Converter(Translating.with_release(release_of(Identity()), "cpu"), Ledger(None), options)
    job = Job(tmp_path / "x.tif", "x.tif", tmp_path / "out.tif", "out.tif")
    entry = converter.translate_now(Input(job, "key"))
    assert entry.status == "failed" and "was not decoded within 1e-06 seconds" in str(entry.message)
