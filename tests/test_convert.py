"""Folder conversion: every file accounted for, nothing lost by any interruption, nothing stale taken for done."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from torch import Tensor

from tests.conversions import (
    FORK,
    Identity,
    convert_in_child,
    convert_in_little_memory,
    fill,
    last_rows,
    noise,
    processes_of,
    release_of,
    tiny_release,
    tree,
)
from translate import files
from translate.convert import LEDGER, Entry, convert
from translate.convert.converter import Converter
from translate.errors import DataError, DiskError, ImageError, UsageError
from translate.foreign import read_lines
from translate.images import decoder_process
from translate.images.decoding import decode
from translate.images.reading import ImageConfig
from translate.images.writing import write_image


def numbered(folder: Path, number: int) -> None:
    """001.png, 002.png, …"""
    folder.mkdir()
    for index in range(1, number + 1):
        write_image(folder / f"{index:03d}.png", noise(9, 8, seed=index))


def num_done(out: Path) -> int:
    return sum(row["status"] == "done" for row in last_rows(out).values())


# ---- what comes out


def test_a_tree_of_images_comes_out_with_the_same_names_and_sizes(tmp_path):
    fill(tmp_path / "in", 5)
    (tmp_path / "in/deep/er").mkdir(parents=True)
    write_image(tmp_path / "in/wide.jpg", noise(9, 31))
    write_image(tmp_path / "in/deep/er/X.WEBP", noise(5, 6))
    summary = convert(tmp_path / "in", tmp_path / "out", tiny_release())
    assert (summary.exit_code, summary.total, summary.converted, summary.failed) == (0, 7, 7, [])
    before, after = tree(tmp_path / "in"), tree(tmp_path / "out")
    assert before.keys() == after.keys()
    for name in before:
        with Image.open(tmp_path / "in" / name) as image, Image.open(tmp_path / "out" / name) as translated:
            assert (image.size, image.format) == (translated.size, translated.format)
        assert before[name] != after[name]


@pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), (16, np.uint16)])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_identity_generator_loses_nothing(tmp_path, bits, dtype, channels):
    """Pixels and alpha, at sizes that need padding and below the generator's smallest."""
    (tmp_path / "in").mkdir()
    expected = {}
    for number, size in enumerate(((1, 1), (3, 200), (17, 10), (40, 40))):
        for suffix in (".png", ".tif"):
            pixels, alpha = noise(*size, channels, number, dtype), noise(*size, 1, 99, dtype)[..., 0]
            write_image(tmp_path / "in" / f"{number}{suffix}", pixels)
            expected[f"{number}{suffix}"] = (pixels, None)
            if channels == 3:
                write_image(tmp_path / "in" / f"{number}-alpha{suffix}", pixels, alpha=alpha)
                expected[f"{number}-alpha{suffix}"] = (pixels, alpha)
    summary = convert(tmp_path / "in", tmp_path / "out", release_of(Identity(), channels, bits))
    assert summary.exit_code == 0
    for name, (pixels, alpha) in expected.items():
        path = tmp_path / "out" / name
        picture = decode(path.read_bytes(), path)
        np.testing.assert_array_equal(picture.pixels, pixels)
        np.testing.assert_array_equal(picture.alpha, alpha)


def test_profile_and_camera_data_go_along_and_the_image_is_turned_once(tmp_path):
    (tmp_path / "in").mkdir()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = noise(6, 9)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112], exif[0x010F] = orientation, "A camera"
        Image.fromarray(pixels).save(tmp_path / "in" / f"{orientation}.png", exif=exif, icc_profile=profile,
                                     dpi=(300, 300))
    assert convert(tmp_path / "in", tmp_path / "out", release_of(Identity())).exit_code == 0
    turned = {1: pixels, 2: np.fliplr(pixels), 3: np.rot90(pixels, 2), 4: np.flipud(pixels),
              5: pixels.transpose(1, 0, 2), 6: np.rot90(pixels, -1), 7: np.rot90(pixels, 2).transpose(1, 0, 2),
              8: np.rot90(pixels)}
    for orientation, expected in turned.items():
        with Image.open(tmp_path / "out" / f"{orientation}.png") as image:
            np.testing.assert_array_equal(np.array(image), expected)
            assert 0x0112 not in image.getexif() and image.getexif()[0x010F] == "A camera"
            assert image.info["icc_profile"] == profile and image.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_a_suffix_changes_only_where_its_format_cannot_hold_the_output(tmp_path):
    (tmp_path / "in").mkdir()
    for seed, name in enumerate(("x.gif", "x.jpg", "x.png", "y.gif", "z.PBM")):
        image = Image.fromarray(noise(8, 8, seed=seed)).convert("1" if name == "z.PBM" else "RGB")
        image.save(tmp_path / "in" / name)
    summary = convert(tmp_path / "in", tmp_path / "out", release_of(Identity()))
    assert summary.exit_code == 0
    assert set(tree(tmp_path / "out")) == {"x.gif.png", "x.jpg", "x.png", "y.png", "z.png"}
    assert len(set(tree(tmp_path / "out").values())) == 5
    floats = convert(tmp_path / "in", tmp_path / "floats", release_of(Identity(), bits="float"))
    assert floats.exit_code == 0
    assert set(tree(tmp_path / "floats")) == {"x.tif", "x.jpg.tif", "x.png.tif", "y.tif", "z.tif"}


def test_a_single_file_goes_to_a_file_or_into_a_folder(tmp_path):
    write_image(tmp_path / "a.png", noise(8, 8))
    assert convert(tmp_path / "a.png", tmp_path / "b.webp", release_of(Identity())).exit_code == 0
    assert convert(tmp_path / "a.png", tmp_path / "folder", release_of(Identity())).exit_code == 0
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} == {
        "a.png", "b.webp", "folder", "folder/a.png", f"folder/{LEDGER}"}  # no ledger among a user's own files
    again = convert(tmp_path / "a.png", tmp_path / "b.webp", release_of(Identity()))
    assert again.exit_code == 4 and "exists; remove it, or use --overwrite" in str(again.failed[0])
    assert convert(tmp_path / "a.png", tmp_path / "b.webp", release_of(Identity()), overwrite=True).exit_code == 0
    with pytest.raises(UsageError, match=r"c\.gif: cannot hold the output .*; write \.png"):
        convert(tmp_path / "a.png", tmp_path / "c.gif", release_of(Identity()))


# ---- a hostile folder


def hostile_folder(folder: Path) -> set[str]:
    """The awkward files that folders of photographs hold; returns the images that cannot be translated."""
    folder.mkdir()
    colour = Image.fromarray(np.tile(np.arange(0, 240, 4, dtype=np.uint8)[:, None, None], (1, 50, 3)))
    colour.convert("CMYK").save(folder / "cmyk.jpg")
    colour.quantize(8).save(folder / "palette.png")
    colour.quantize(8).save(folder / "transparent.gif", transparency=2)
    colour.convert("LA").save(folder / "la.png")
    colour.convert("RGBA").save(folder / "rgba.png")
    colour.convert("RGBA").save(folder / "rgba.webp")
    colour.convert("1").save(folder / "bilevel.tif")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        colour.save(folder / f"exif{orientation}.jpg", exif=exif)
    colour.save(folder / "whole.jpg")
    content = (folder / "whole.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(content[: len(content) * 2 // 3])
    colour.save(folder / "whole.png")
    content = (folder / "whole.png").read_bytes()
    (folder / "truncated.png").write_bytes(content[:-30])
    (folder / "zero.png").touch()
    colour.save(folder / "jpeg_inside.png", "JPEG")
    (folder / "text_inside.png").write_text("no image")
    colour.save(folder / "postscript_inside.jpg", "EPS")
    (folder / "readme.txt").write_text("not an image")
    colour.resize((1, 1)).save(folder / "one.png")
    colour.resize((2000, 3)).save(folder / "wide.png")
    colour.resize((3, 2000)).save(folder / "tall.jpg")
    colour.save(folder / "Ünïcode 画像 🎨.png")
    colour.save(folder / ("n" * 251 + ".png"))
    colour.save(folder / ("é" * 125 + "x.gif"))  # 255 bytes too, and written under another suffix
    for name in ("twin.jpg", "twin.png", "twin.gif", "twin.PNG"):
        colour.save(folder / name)
    (folder / "inner").mkdir()
    (folder / "inner/loop").symlink_to(folder)
    (folder / "inner/self.png").symlink_to("self.png")
    (folder / "inner/gone.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(folder / "pipe.png")
    write_image(folder / "deep.png", noise(8, 8, 3, dtype=np.uint16))
    colour.save(folder / "animated.gif", save_all=True, append_images=[colour.rotate(90)])
    return {"truncated.jpg", "truncated.png", "zero.png", "text_inside.png", "postscript_inside.jpg",
            "inner/self.png", "inner/gone.jpg", "deep.png", "animated.gif"}


def test_every_file_of_a_hostile_folder_is_translated_or_named_with_a_reason(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    cannot = hostile_folder(source)
    everything = {str(path.relative_to(source)) for path in source.rglob("*") if not path.is_dir()}
    before = {path.name: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    summary = convert(source, out, tiny_release())
    rows = last_rows(out)
    assert rows.keys() | set(summary.skipped) == everything
    assert set(summary.skipped) == {"readme.txt", "pipe.png"}
    failed = {row.path: row for row in summary.failed}
    assert failed.keys() == {name for name, row in rows.items() if row["status"] == "failed"} == cannot
    assert (summary.exit_code, summary.total, summary.converted) == (3, len(rows), len(rows) - len(cannot))
    assert all(row.stage == "read" and row.error == "ImageError" and row.message for row in summary.failed)
    assert "16-bit samples" in failed["deep.png"].message and "2 frames" in failed["animated.gif"].message
    assert "is empty" in failed["zero.png"].message

    outputs = {row["output"] for row in rows.values() if row["status"] == "done"}
    assert set(tree(out)) == outputs and len(outputs) == summary.converted
    assert {"twin.jpg", "twin.png", "twin.PNG", "twin.gif.png"} <= outputs
    for name, row in rows.items():
        if row["status"] == "done":
            given, made = decode((source / name).read_bytes(), source / name), decode(
                (out / row["output"]).read_bytes(), out / row["output"])
            assert made.pixels.shape == (*given.pixels.shape[:2], 3), name
            if given.alpha is not None:
                np.testing.assert_array_equal(made.alpha, given.alpha)
    assert {path.name: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before


def test_names_that_are_no_text_are_translated_and_can_be_printed(tmp_path):
    source = os.fsencode(tmp_path / "in") + b"/caf\xe9.png"
    (tmp_path / "in").mkdir()
    Image.fromarray(noise(8, 8)).save(path := Path(os.fsdecode(source)))
    (tmp_path / "in" / os.fsdecode(b"broken\xff.png")).write_bytes(b"no image")
    summary = convert(tmp_path / "in", tmp_path / "out", release_of(Identity()))
    assert (summary.converted, len(summary.failed)) == (1, 1)
    assert (tmp_path / "out" / path.name).is_file()
    assert str(summary.failed[0]).encode().startswith(b"broken\\udcff.png: read: holds no image")
    assert convert(tmp_path / "in", tmp_path / "out", release_of(Identity())).already == 1


def test_an_image_that_needs_more_memory_than_there_is_costs_only_itself(tmp_path):
    fill(tmp_path / "in", 3)
    Image.new("L", (8_000, 6_000)).save(tmp_path / "in/001-huge.png")  # 144 MB as RGB, 576 MB as floats
    child = FORK.Process(target=convert_in_little_memory, args=(tmp_path / "in", tmp_path / "out"))
    child.start()
    child.join(120)
    assert child.exitcode == 3
    rows = last_rows(tmp_path / "out")
    assert {name: row["status"] for name, row in rows.items()} == {
        "000.png": "done", "001-huge.png": "failed", "002.png": "done", "inner/001.png": "done"}
    assert rows["001-huge.png"]["error"] == "DoesNotFit" and "more memory" in rows["001-huge.png"]["message"]


def test_an_output_that_is_not_finite_is_never_written(tmp_path):
    class Broken(Identity):
        def translate(self, image: Tensor) -> Tensor:
            return image * float("nan")

    fill(tmp_path / "in", 1)
    summary = convert(tmp_path / "in", tmp_path / "out", release_of(Broken()))
    assert summary.exit_code == 4 and "not finite" in str(summary.failed[0]) and tree(tmp_path / "out") == {}


def test_whatever_a_generator_raises_is_a_row(tmp_path):
    class Picky(Identity):
        def translate(self, image: Tensor) -> Tensor:
            if image.shape[-1] > 24:
                raise ZeroDivisionError("no")
            return image

    fill(tmp_path / "in", 2)
    write_image(tmp_path / "in/wide.png", noise(8, 30))
    summary = convert(tmp_path / "in", tmp_path / "out", release_of(Picky()))
    assert (summary.exit_code, summary.converted) == (3, 2)
    assert (summary.failed[0].path, summary.failed[0].stage, summary.failed[0].error) == (
        "wide.png", "convert", "ZeroDivisionError")


def test_the_pixel_limit_is_the_caller_s(tmp_path):
    fill(tmp_path / "in", 1, 20, 20)
    summary = convert(tmp_path / "in", tmp_path / "out", release_of(Identity()), max_pixels=399)
    assert summary.exit_code == 4 and "above the limit of 399 pixels" in str(summary.failed[0])
    assert convert(tmp_path / "in", tmp_path / "out", release_of(Identity()), max_pixels=400).exit_code == 0


# ---- what must not be touched


def test_outputs_inside_the_source_are_not_translated_again(tmp_path):
    fill(tmp_path / "in", 4)
    for _ in range(2):
        summary = convert(tmp_path / "in", tmp_path / "in/out", release_of(Identity()))
        assert (summary.total, summary.exit_code) == (4, 0)
    assert len(tree(tmp_path / "in/out")) == 4


def test_what_conversions_have_written_into_the_source_is_no_source(tmp_path):
    fill(tmp_path / "in", 3)
    assert convert(tmp_path / "in", tmp_path / "in/first", tiny_release()).total == 3
    again = convert(tmp_path / "in", tmp_path / "in/second", tiny_release())
    assert again.total == 3 and "first/000.png" in again.skipped
    assert convert(tmp_path / "in/first", tmp_path / "out", tiny_release()).total == 3, "asked for, it is"


def test_a_source_is_never_replaced(tmp_path):
    fill(tmp_path / "photos/photos", 4)
    before = tree(tmp_path)
    with pytest.raises(UsageError, match="is the source itself"):
        convert(tmp_path / "photos", tmp_path / "photos", release_of(Identity()), overwrite=True)
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    with pytest.raises(UsageError, match="is the source itself"):
        convert(tmp_path / "photos", tmp_path / "link", release_of(Identity()), overwrite=True)
    fill(tmp_path / "photos/photos/photos", 1)
    before = tree(tmp_path)
    with pytest.raises(UsageError, match="would replace an image of the source"):  # photos/photos/000.png is one
        convert(tmp_path / "photos/photos", tmp_path / "photos", release_of(Identity()), overwrite=True)
    with pytest.raises(UsageError, match="would replace an image of the source"):
        convert(tmp_path / "photos/photos/000.png", tmp_path / "photos/photos", release_of(Identity()), overwrite=True)
    assert tree(tmp_path) == before


def test_files_that_were_there_before_are_kept_unless_overwrite_is_asked_for(tmp_path):
    fill(tmp_path / "in", 3)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/000.png").write_text("precious")
    (tmp_path / "out/.tmp-notes-999999999").write_text("precious too")
    for _ in range(2):
        summary = convert(tmp_path / "in", tmp_path / "out", release_of(Identity()))
        assert summary.exit_code == 3 and [row.path for row in summary.failed] == ["000.png"]
        assert "--overwrite" in str(summary.failed[0])
        assert (tmp_path / "out/000.png").read_text() == "precious"
    assert convert(tmp_path / "in", tmp_path / "out", release_of(Identity()), overwrite=True).converted == 3
    assert (tmp_path / "out/000.png").read_bytes() != b"precious"
    assert (tmp_path / "out/.tmp-notes-999999999").read_text() == "precious too"


def test_words_that_do_not_fit_together_are_refused(tmp_path):
    fill(tmp_path / "in", 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    release = release_of(Identity())
    for source, out, words in (("none", "out", "no such file or folder"), ("empty", "out", r"holds no images \(\.avif"),
                               ("in", "file", "a folder of images needs a folder")):
        with pytest.raises(UsageError, match=words):
            convert(tmp_path / source, tmp_path / out, release)
    assert issubclass(DataError, UsageError) and not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="fp16 does nothing on a CPU"):
        convert(tmp_path / "in", tmp_path / "out", release, device="cpu", precision="fp16")
    with pytest.raises(UsageError, match="precision: fp64 is not a number format; expected auto, fp32"):
        convert(tmp_path / "in", tmp_path / "out", release, precision="fp64")  # type: ignore[arg-type]
    for max_pixels in (0, -5):
        with pytest.raises(UsageError, match=f"max_pixels {max_pixels}: expected 1 or more"):
            convert(tmp_path / "in", tmp_path / "out", release, max_pixels=max_pixels)
    for device, words in (("tpu", "is not a device of this machine"), ("tpu9", "Invalid device string")):
        with pytest.raises(UsageError, match=f"device {device}: {words}.*; expected auto"):
            convert(tmp_path / "in", tmp_path / "out", release, device=device)


# ---- resuming


def test_a_second_run_translates_only_what_is_missing_or_changed(tmp_path):
    fill(tmp_path / "in", 6)
    (tmp_path / "in/broken.png").write_text("no image")
    first = Identity()
    assert convert(tmp_path / "in", tmp_path / "out", release_of(first)).exit_code == 3
    assert len(first.seen) == 6

    (tmp_path / "out/000.png").unlink()
    write_image(tmp_path / "in/002.png", noise(30, 7))
    shutil.copy(tmp_path / "in/003.png", tmp_path / "in/new.png")
    write_image(tmp_path / "in/broken.png", noise(9, 9))  # mended
    os.utime(tmp_path / "in/005.png", (0, 0))  # touched, and the same
    second = Identity()
    summary = convert(tmp_path / "in", tmp_path / "out", release_of(second))
    assert (summary.exit_code, summary.converted, summary.already) == (0, 4, 4)
    assert len(second.seen) == 4
    assert tree(tmp_path / "out").keys() == tree(tmp_path / "in").keys()
    with Image.open(tmp_path / "out/002.png") as image:
        assert image.size == (7, 30)


def test_a_changed_model_or_option_is_never_taken_for_done(tmp_path):
    fill(tmp_path / "in", 3)

    def num_translated(fingerprint: str, **options) -> int:
        generator = Identity()
        summary = convert(tmp_path / "in", tmp_path / "out", release_of(generator, fingerprint=fingerprint), **options)
        assert summary.exit_code == 0 and summary.converted + summary.already == 3
        return len(generator.seen)

    assert num_translated("one", precision="fp32") == 3
    assert num_translated("one", precision="fp32") == 0
    assert num_translated("two", precision="fp32") == 3
    assert num_translated("two", precision="bf16") == 3
    assert num_translated("two", precision="bf16", max_pixels=10_000) == 0  # changes no output
    assert num_translated("two", precision="bf16", overwrite=True) == 3
    assert num_translated("one", precision="fp32") == 3  # an older row of the same key is not the last one


def test_a_deeper_output_of_the_same_name_is_made_anew(tmp_path):
    fill(tmp_path / "in", 1)
    release = release_of(Identity())
    assert convert(tmp_path / "in", tmp_path / "out", release).converted == 1
    deep = replace(release, image_out=ImageConfig(bits=16), fingerprint="another")  # a fingerprint covers the configs
    assert convert(tmp_path / "in", tmp_path / "out", deep).converted == 1
    assert decode((tmp_path / "out/000.png").read_bytes(), Path("x")).pixels.dtype == np.uint16


def test_a_ledger_cut_by_a_crash_is_read_and_continued(tmp_path):
    fill(tmp_path / "in", 4)
    convert(tmp_path / "in", tmp_path / "out", release_of(Identity()))
    ledger = tmp_path / "out" / LEDGER
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])  # the last `done` never reached the disk
    summary = convert(tmp_path / "in", tmp_path / "out", release_of(Identity()))
    assert (summary.converted, summary.already, summary.exit_code) == (1, 3, 0)
    assert len(read_lines(ledger)) == len(lines) - 1 + 2  # the cut line has swallowed none of the new ones
    assert convert(tmp_path / "in", tmp_path / "out", release_of(Identity())).already == 4
    ledger.write_bytes(b"\xff\x00garbage\n[1]\n{}\n" + ledger.read_bytes())
    assert convert(tmp_path / "in", tmp_path / "out", release_of(Identity())).already == 4


def test_an_output_is_on_the_disk_before_the_ledger_says_so(tmp_path, monkeypatch):
    fill(tmp_path / "in", 3)
    order = []
    append, sync = files.append_line, files.sync_folder

    def appending(path, record):
        if record["status"] == "done":
            assert (tmp_path / "out" / record["output"]).is_file()
        order.append(record["status"])
        append(path, record)

    monkeypatch.setattr(files, "append_line", appending)
    monkeypatch.setattr(files, "sync_folder", lambda folder: (order.append("renamed"), sync(folder)))
    convert(tmp_path / "in", tmp_path / "out", release_of(Identity()), workers=1)
    assert order == ["started", "renamed", "done"] * 3


# ---- signals and kills


def test_a_signal_ends_the_run_after_the_file_in_hand(tmp_path):
    fill(tmp_path / "in", 5)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for number, done in ((signal.SIGTERM, 2), (signal.SIGINT, 4)):
        class Interrupting(Identity):
            def translate(self, image: Tensor) -> Tensor:
                if len(self.seen) == 1:
                    os.kill(os.getpid(), number)  # noqa: B023 (called in this round of the loop)
                return super().translate(image)

        summary = convert(tmp_path / "in", tmp_path / "out", release_of(Interrupting()))
        assert (summary.stopped, summary.exit_code, summary.converted) == (True, 75, 2)
        assert len(tree(tmp_path / "out")) == num_done(tmp_path / "out") == done
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert convert(tmp_path / "in", tmp_path / "out", release_of(Identity())).converted == 1


class Watcher(threading.Thread):
    """Reads every final name of a folder again and again; `half` holds those that were ever not whole."""

    def __init__(self, out: Path):
        super().__init__(daemon=True)
        self.out, self.half, self.num_reads, self.ended = out, set[str](), 0, threading.Event()

    def run(self) -> None:
        whole: dict[str, int] = {}
        while not self.ended.is_set():
            for path in self.out.rglob("*.png"):
                if path.name.startswith(files.TEMPORARY):
                    continue
                status = path.stat()
                if whole.get(str(path)) == (status.st_mtime_ns, status.st_size):  # read before
                    continue
                try:
                    decode(path.read_bytes(), path)
                    whole[str(path)] = (status.st_mtime_ns, status.st_size)
                except ImageError:
                    self.half.add(path.name)
                self.num_reads += 1

    def stop(self) -> None:
        self.ended.set()
        self.join()


def interrupt_until_done(source: Path, out: Path, draw: random.Random, wanted: int, workers: int,
                         number: int = signal.SIGKILL) -> list[int]:
    """Start conversions and end each after some files; the exit codes. Each ended run is seen to have made progress."""
    codes: list[int] = []
    while True:
        before = num_done(out)
        target = before + draw.randint(1, 2)
        child = FORK.Process(target=convert_in_child, args=(source, out, workers))
        child.start()
        give_up = time.monotonic() + 120
        while child.is_alive() and (len(codes) >= wanted or num_done(out) < target):
            assert time.monotonic() < give_up, "no progress"
            time.sleep(0.001)
        if child.is_alive():
            time.sleep(draw.random() * 0.02)
        if child.is_alive() and len(codes) < wanted:
            assert num_done(out) > before
            os.kill(child.pid, number)
        child.join()
        codes.append(child.exitcode)
        if child.exitcode == 0:
            return codes


def check_kills(tmp_path: Path, num_files: int, num_kills: int, workers: int) -> int:
    """Returns how many outputs the watcher has read."""
    source, out = tmp_path / "in", tmp_path / "out"
    fill(source, num_files, 96, 96)
    expected = convert(source, tmp_path / "expected", tiny_release())
    assert expected.exit_code == 0
    watcher = Watcher(out)
    watcher.start()
    codes = interrupt_until_done(source, out, random.Random(num_kills), num_kills, workers)
    watcher.stop()
    assert codes == [-signal.SIGKILL] * num_kills + [0]
    assert watcher.half == set() and watcher.num_reads >= num_files // 2
    assert tree(out) == tree(tmp_path / "expected")  # nor does any temporary file remain
    assert num_done(out) == num_files
    return watcher.num_reads


def test_kills_at_random_instants_lose_nothing_and_leave_no_half_file(tmp_path):
    check_kills(tmp_path, num_files=16, num_kills=4, workers=0)


@pytest.mark.slow
def test_a_hundred_kills_of_a_conversion_of_500_files(tmp_path, record_property):
    """Some three files a life on a busy machine, where fewer would be done before the last kill."""
    record_property("outputs read by the watcher", check_kills(tmp_path, num_files=500, num_kills=100, workers=1))


def test_the_watcher_sees_the_half_files_of_a_careless_writer(tmp_path):
    """Else the test above could not fail."""
    fill(tmp_path / "in", 6, 96, 96)
    watcher = Watcher(tmp_path / "out")
    watcher.start()
    child = FORK.Process(target=convert_in_child, args=(tmp_path / "in", tmp_path / "out", 0, True))
    child.start()
    child.join()
    watcher.stop()
    assert child.exitcode == 0 and watcher.half


@pytest.mark.slow
def test_sigterm_from_outside_ends_with_75_and_resumes(tmp_path):
    fill(tmp_path / "in", 12, 96, 96)
    codes = interrupt_until_done(tmp_path / "in", tmp_path / "out", random.Random(0), 1, 1, signal.SIGTERM)
    assert codes == [75, 0] and num_done(tmp_path / "out") == 12


def test_a_second_ctrl_c_more_than_a_second_later_ends_the_run_at_once(tmp_path):
    class Stubborn(Identity):
        def translate(self, image: Tensor) -> Tensor:
            if len(self.seen) == 1:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)  # a terminal and a launcher both pass it on: the same request
                time.sleep(1.1)
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(60)
            return super().translate(image)

    fill(tmp_path / "in", 4)
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "in", tmp_path / "out", release_of(Stubborn()), workers=1)
    assert time.monotonic() - begin < 30 and not multiprocessing.active_children()
    assert len(tree(tmp_path / "out")) == num_done(tmp_path / "out") == 1
    assert convert(tmp_path / "in", tmp_path / "out", release_of(Identity())).converted == 3


# ---- reading ahead, writing behind


def test_the_number_of_workers_changes_no_output_and_no_order(tmp_path):
    hostile_folder(tmp_path / "in")
    made, told = [], []
    for workers in (0, 1, 3):
        rows: list[tuple[str, str]] = []
        summary = convert(tmp_path / "in", tmp_path / str(workers), tiny_release(), workers=workers,
                          on_progress=lambda row, *_, rows=rows: rows.append((row.path, row.status)))
        assert summary.exit_code == 3 and not multiprocessing.active_children()
        made.append(tree(tmp_path / str(workers)))
        told.append(rows)
    assert made[0] and made[0] == made[1] == made[2] and told[0] == told[1] == told[2]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_only_as_many_images_as_workers_wait_for_the_generator(tmp_path, monkeypatch, workers):
    """A thousand images decoded ahead would fill the memory."""
    begun = []
    read = Converter.read
    monkeypatch.setattr(Converter, "read", lambda self, job, how: (begun.append(job), read(self, job, how))[1])
    waiting = []

    class Counting(Identity):
        def translate(self, image: Tensor) -> Tensor:
            time.sleep(0.02)  # the decoders are faster
            waiting.append(len(begun) - len(self.seen) - 1)
            return super().translate(image)

    fill(tmp_path / "in", 12)
    assert convert(tmp_path / "in", tmp_path / "out", release_of(Counting()), workers=workers).converted == 12
    assert max(waiting) == workers


ENDLESS = 2**40  # bytes, and none of them on the disk: a file that is read for minutes


def decoders_that_wait(folder: Path, then: Callable[[], None]) -> Identity:
    """A generator that, with the first image, makes the third a file that takes for ever to read, and with the second,
    calls `then` while a decoder waits for that."""
    class Waiting(Identity):
        def translate(self, image: Tensor) -> Tensor:
            made = super().translate(image)
            if len(self.seen) == 1:
                os.truncate(folder / "003.png", ENDLESS)
            elif len(self.seen) == 2:
                time.sleep(0.5)
                then()
            return made

    return Waiting()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_decoder_that_dies_costs_one_file(tmp_path, number):
    """Of an out-of-memory killer, or of a bug in its library: the next file is decoded by another one."""
    numbered(tmp_path / "in", 6)

    def kill() -> None:
        (child,) = multiprocessing.active_children()
        os.kill(child.pid, number)

    generator = decoders_that_wait(tmp_path / "in", kill)
    summary = convert(tmp_path / "in", tmp_path / "out", release_of(generator), workers=1)
    assert (summary.exit_code, summary.converted, [row.path for row in summary.failed]) == (3, 5, ["003.png"])
    row = last_rows(tmp_path / "out")["003.png"]
    assert row["stage"] == "read" and f"was ended by {signal.Signals(number).name}" in row["message"]


@pytest.mark.slow
def test_a_decoder_that_hangs_costs_one_file(tmp_path, monkeypatch):
    numbered(tmp_path / "in", 4)

    class Waiting(Identity):
        def translate(self, image: Tensor) -> Tensor:
            if not self.seen:
                os.truncate(tmp_path / "in/003.png", ENDLESS)
                monkeypatch.setattr(decoder_process, "ANSWER_SECONDS", 3.0)  # enough for another process to start
            return super().translate(image)

    summary = convert(tmp_path / "in", tmp_path / "out", release_of(Waiting()), workers=1)
    assert (summary.converted, [row.path for row in summary.failed]) == (3, ["003.png"])
    assert "was not decoded within 3 seconds" in summary.failed[0].message and not multiprocessing.active_children()


def test_a_stop_does_not_wait_for_a_decoder_that_hangs(tmp_path):
    numbered(tmp_path / "in", 4)

    def stop_later() -> None:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()

    begin = time.monotonic()
    generator = decoders_that_wait(tmp_path / "in", stop_later)
    summary = convert(tmp_path / "in", tmp_path / "out", release_of(generator), workers=1)
    assert (summary.exit_code, summary.converted) == (75, 2) and time.monotonic() - begin < 60
    assert num_done(tmp_path / "out") == 2 and not multiprocessing.active_children()


@pytest.mark.slow  # the same of pages is quick (test_convert_pages.py)
def test_decoders_end_with_a_process_that_is_killed(tmp_path):
    """Nothing is left running that nobody knows of, and the next run has the same outputs."""
    fill(tmp_path / "in", 40, 96, 96)
    child = FORK.Process(target=convert_in_child, args=(tmp_path / "in", tmp_path / "out", 2))
    child.start()
    while num_done(tmp_path / "out") < 2:
        time.sleep(0.01)
    with_pipes = processes_of(child.pid)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    give_up = time.monotonic() + 30
    while any(Path(f"/proc/{number}").exists() for number in with_pipes):
        assert time.monotonic() < give_up, "a decoder lives on"
        time.sleep(0.05)
    assert len(with_pipes) >= 4  # itself, the server that forks decoders, and two of them
    summary = convert(tmp_path / "in", tmp_path / "out", tiny_release())
    assert summary.exit_code == 0 and 2 <= summary.already < 40
    assert convert(tmp_path / "in", tmp_path / "expected", tiny_release(), workers=0).exit_code == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "expected")


# ---- disks


@pytest.fixture
def disk(tmp_path) -> Iterator[Callable[[str], bool]]:
    """`disk(options)` mounts, or remounts, a small file system at tmp_path/disk; False where that is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> bool:
        words = ["mount", "-t", "tmpfs", "-o", f"{'remount,' if os.path.ismount(place) else ''}{options}", "tmpfs"]
        return subprocess.run([*words, place], capture_output=True).returncode == 0

    yield mount
    if os.path.ismount(place):
        subprocess.run(["umount", place], check=True)


def test_a_read_only_output_stops_the_run_before_any_work(tmp_path, disk, record_property):
    """A real read-only mount where one is allowed (root), else a folder without write permission."""
    fill(tmp_path / "in", 3)
    mounted = disk("ro,size=1m")
    record_property("output", "read-only tmpfs" if mounted else "chmod 0555")
    if not mounted:
        (tmp_path / "disk").chmod(0o555)
    generator = Identity()
    with pytest.raises(DiskError, match=r"disk/\.translate-ledger\.jsonl: (Read-only|Permission)") as raised:
        convert(tmp_path / "in", tmp_path / "disk", release_of(generator))
    assert raised.value.exit_code == 74 and generator.seen == []


def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(tmp_path, disk, monkeypatch):
    fill(tmp_path / "in", 8, 100, 100)  # 30 kB each
    mounted = disk("size=128k")
    if not mounted:
        calls = iter(range(100))
        sync = os.fsync
        monkeypatch.setattr(os, "fsync", lambda number: sync(number) if next(calls) < 10 else full())
    out = tmp_path / "disk"
    with pytest.raises(DiskError, match=r"\.png: No space left on device \([\d,]+ bytes needed, [\d,]+ bytes free\)"):
        convert(tmp_path / "in", out, release_of(Identity()))
    monkeypatch.undo()
    finished = tree(out)
    assert 0 < len(finished) < 8 and all(tree(tmp_path / "in").keys() >= {name} for name in finished)
    for name in finished:
        np.testing.assert_array_equal(decode((out / name).read_bytes(), out / name).pixels,
                                      decode((tmp_path / "in" / name).read_bytes(), out / name).pixels)
    if mounted:
        assert disk("size=8m")
    summary = convert(tmp_path / "in", out, release_of(Identity()))
    assert summary.exit_code == 0 and summary.already == len(finished) and len(tree(out)) == 8


def full() -> None:
    raise OSError(28, os.strerror(28))


def test_progress_is_told_after_every_file(tmp_path):
    fill(tmp_path / "in", 3)
    (tmp_path / "in/broken.png").touch()
    told = []

    def hear(row: Entry, number: int, total: int) -> None:
        told.append((row.path, row.status, number, total))

    summary = convert(tmp_path / "in", tmp_path / "out", release_of(Identity()), on_progress=hear)
    assert told == [("000.png", "done", 1, 4), ("002.png", "done", 2, 4), ("broken.png", "failed", 3, 4),
                    ("inner/001.png", "done", 4, 4)]
    assert json.loads((tmp_path / "out" / LEDGER).read_text().splitlines()[-1])["status"] == "done"
    assert summary.total == 4
