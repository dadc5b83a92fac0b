"""Pairs that are off by pixels: said before a training, and mended in a copy that loses nothing."""

from __future__ import annotations

import io
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.commands import call
from tests.test_alignment import moved, scene, tensor
from translate.cli.progress import Display
from translate.data.labels import read_labels
from translate.errors import DataError, ImageError, TranslateError, UsageError
from translate.foreign import read_lines
from translate.images.decoding import decode, read_content
from translate.images.pictures import Picture
from translate.metrics.alignment import Alignment, align
from translate.pairs import measuring
from translate.pairs.correcting import LEDGER, align_pairs
from translate.pairs.measuring import Measured, measure, misregistration
from translate.pairs.moving import moved as shift_of
from translate.pairs.pair_files import Pair

HEIGHT, WIDTH = 120, 150
OFF = [(3.0, -2.0), (-1.5, 4.0), (0.0, 0.0)]  # down and right, px: each pair in its own way


def as_bytes(image: np.ndarray) -> np.ndarray:
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8)


def recoloured(image: np.ndarray) -> np.ndarray:
    return np.stack([image[..., 2] ** 2, 1 - image[..., 0], np.sqrt(np.clip(image[..., 1], 0, 1))], 2)


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels if pixels.shape[2] > 1 else pixels[..., 0], photometric="minisblack",
                         planarconfig="contig" if pixels.shape[2] > 1 else None)
    else:
        cv2.imwrite(str(path), pixels[..., ::-1])


def pairs(folder: Path, off: list[tuple[float, float]] = OFF, suffix: str = ".png",
          stored: Callable[[np.ndarray], np.ndarray] = as_bytes) -> Path:
    """A folder of pairs in other colours, each off by so many pixels."""
    for number, (down, right) in enumerate(off):
        image = scene(number, HEIGHT, WIDTH)
        write(folder / "trainA" / f"{number}{suffix}", stored(image))
        write(folder / "trainB" / f"{number}{suffix}", stored(recoloured(moved(image, down, right, 1, 0))))
    return folder


def bytes_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def distance(folder: Path, name: str) -> float:
    """How far the images of a pair are off, px; they are of one size."""
    a, b = (decode(read_content(folder / side / name), folder).pixels[..., :3].astype(float) for side in (
        "trainA", "trainB"))
    a, b = ((each - each.min()) / (each.max() - each.min()) for each in (a, b))
    found = align(tensor(a), tensor(b))
    assert found.confident and found.displacement is not None, found.reason
    return found.displacement


@pytest.mark.parametrize(("off", "line"), [
    (OFF, "a training will blur: pairs are off by"),
    ([(2.0, 3.0)] * 3, "outputs will be shifted: all pairs are off alike, by 3.0 px to the right and 2.0 px down"),
    ([(0.0, 0.0)] * 3, "no blur is to be expected")], ids=["each", "alike", "none"])
def test_the_check_says_what_a_training_makes_of_pairs_that_are_off(
        off: list[tuple[float, float]], line: str, tmp_path: Path, said: io.StringIO,
        monkeypatch: pytest.MonkeyPatch) -> None:
    """And names and shows the worst; measuring takes a minute, and what was known before is said before."""
    told_before = []

    def measured_later(*words: Any) -> Any:
        told_before.append(said.getvalue())
        return measure(*words)

    monkeypatch.setattr(measuring, "measure", measured_later)
    assert call(monkeypatch, "data", "check", pairs(tmp_path / "in", off), "--picture", tmp_path / "worst.jpg") == 0
    printed = " ".join(said.getvalue().split())
    assert line in printed and "holds no test images" in told_before[0]
    assert ("1.png: its partner 1.png lies 4.0 px to the right and 1.5 px up" in printed) == (off == OFF)
    assert Image.open(tmp_path / "worst.jpg").height == 3 * (HEIGHT + 16)
    assert "worst.jpg: shows the 3 pairs that are off the furthest" in printed


def test_a_corrected_copy_lies_in_place_and_the_originals_are_untouched(
        tmp_path: Path, said: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = pairs(tmp_path / "in"), tmp_path / "out"
    before = bytes_below(source)
    assert call(monkeypatch, "data", "align", source, out) == 0
    assert bytes_below(source) == before
    assert "2 of 3 pairs moved, 1 lie in place" in " ".join(said.getvalue().split())
    for number, (down, right) in enumerate(OFF):
        assert distance(out, f"{number}.png") < 0.1
        kept = Image.open(out / "trainA" / f"{number}.png").size
        assert kept == (WIDTH - np.ceil(abs(right)), HEIGHT - np.ceil(abs(down))), "as much as has no source"
    assert [row["what"] for row in read_lines(out / LEDGER)] == ["moved", "moved", "in place"]
    assert (out / "trainB" / "2.png").read_bytes() == before["trainB/2.png"]

    # Again: nothing is written. One that was changed since is made again.
    written = bytes_below(out)
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    write(source / "trainB" / "2.png", as_bytes(recoloured(moved(scene(2, HEIGHT, WIDTH), 2, 2, 1, 0))))
    (out / "trainA" / "0.png").unlink()
    assert align_pairs(source, out, "shift").already == 1
    assert {path.name for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp} == {"0.png", "2.png"}
    assert bytes_below(out)["trainA/0.png"] == written["trainA/0.png"]


def test_a_copy_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path, said: io.StringIO,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 1:
            raise Killed

    source = pairs(tmp_path / "in", OFF[1:])
    with pytest.raises(Killed):
        align_pairs(source, tmp_path / "out", "shift", on_progress=stop)
    with (tmp_path / "out" / LEDGER).open("a") as ledger:
        ledger.write('{"pair": "trainA/1.png", "key')  # as a crash has left it
    assert align_pairs(source, tmp_path / "out", "shift").already == 1
    assert align_pairs(source, tmp_path / "out", "shift").already == 2
    align_pairs(source, tmp_path / "whole", "shift")

    # By a signal: it says so
    monkeypatch.setattr(Display, "count", lambda *_: signal.raise_signal(signal.SIGINT))
    assert call(monkeypatch, "data", "align", source, tmp_path / "signalled") == 75
    assert said.getvalue().endswith("stopped by a signal; the same command goes on\n")

    # Stopped before its first line: the folder is still known as one of ours
    (tmp_path / "out" / LEDGER).write_text("")
    assert align_pairs(source, tmp_path / "out", "shift").moved == 1
    images = [{name: content for name, content in bytes_below(tmp_path / each).items() if name != LEDGER}
              for each in ("out", "whole")]
    assert images[0] == images[1]


def deep(image: np.ndarray) -> np.ndarray:
    return (np.clip(np.dstack([image, image.mean(2), image[..., 0] / 2]), 0, 1) * 60_000).astype(np.uint16)


def floats(image: np.ndarray) -> np.ndarray:
    values = (image[..., :1] * 2000 - 500).astype(np.float32)
    values[:9, :12] = np.nan
    return values


@pytest.mark.parametrize(("stored", "suffix", "dtype"), [
    (deep, ".tif", np.uint16), (floats, ".tif", np.float32), (as_bytes, ".jpg", np.uint8)],
    ids=["5 channels of 16 bits", "floats with gaps", "jpeg"])
@pytest.mark.parametrize("edges", ["crop", "mark"])
def test_every_depth_keeps_its_format(stored: Callable[[np.ndarray], np.ndarray], suffix: str, dtype: type, edges: str,
                                      tmp_path: Path) -> None:
    """Where pixels cannot be marked as without data, it is said and nothing is made up."""
    source = pairs(tmp_path / "in", OFF[:1], suffix, stored)
    done = align_pairs(source, tmp_path / "out", "shift", edges=edges)  # type: ignore[arg-type]
    if edges == "mark" and dtype != np.float32:
        assert (done.exit_code, done.moved) == (4, 0) and "take --edges crop" in done.failed[0]
        return
    assert done.moved == 1 and done.after[0] < 0.15
    made = decode(read_content(tmp_path / "out" / "trainB" / f"0{suffix}"), tmp_path)
    given = decode(read_content(source / "trainB" / f"0{suffix}"), tmp_path)
    assert made.pixels.dtype == dtype and made.pixels.shape[2] == given.pixels.shape[2]
    if edges == "mark":
        assert made.unknown is not None and made.pixels.shape == given.pixels.shape
        assert made.unknown[-3:].all() and made.unknown[:, :2].all(), "what has no source is marked"
        assert np.nanmax(made.pixels) <= np.nanmax(given.pixels), "no value is mixed with no data"


@pytest.mark.parametrize("tagged", ["trainA", "trainB"])
def test_a_corrected_geotiff_shows_every_place_where_it_was(tagged: str, tmp_path: Path) -> None:
    """A, which stays, gives its place to both; B, which is moved, knows its own, and still shows the same there."""
    source = pairs(tmp_path / "in", OFF[:1], ".tif")
    size, west, north = 10.0, 500_000.0, 5_300_000.0
    geo = (33550, "d", 3, (size, size, 0.0), True), (33922, "d", 6, (0.0, 0.0, 0.0, west, north, 0.0), True)
    given = tifffile.imread(source / tagged / "0.tif")
    tifffile.imwrite(source / tagged / "0.tif", given, photometric="rgb", extratags=geo, metadata=None)
    assert align_pairs(source, tmp_path / "out", "shift").moved == 1

    places = {}
    for side in ("trainA", "trainB"):
        with tifffile.TiffFile(tmp_path / "out" / side / "0.tif") as file:
            made = file.pages[0].asarray()
            places[side] = file.pages[0].tags.valueof(33922)
        assert (places[side] is None) == (tagged == "trainB" and side == "trainA")
    assert tagged == "trainB" or places["trainA"] == places["trainB"]
    column, row, _, x, y, _ = places["trainB"]
    left, top = ((x - west) / size - column, (north - y) / size - row)  # of the copy's first pixel in the original

    # What lies there in the original, found without tags
    if tagged == "trainA":
        made = tifffile.imread(tmp_path / "out" / "trainA" / "0.tif")
        np.testing.assert_array_equal(made, given[round(top):, round(left):][:made.shape[0], :made.shape[1]])
        assert (top, left) == (round(top), round(left)) and made.shape != given.shape
    else:
        inner = made[20:-20, 20:-20]
        found = cv2.minMaxLoc(cv2.matchTemplate(given, inner, cv2.TM_SQDIFF))[2]
        assert abs(found[0] - 20 - left) < 0.6 and abs(found[1] - 20 - top) < 0.6


@pytest.mark.parametrize("placed", [("trainA", "trainB"), ("trainB",)])
def test_a_moved_geotiff_keeps_what_gdal_says_of_its_values(placed: tuple[str, ...], tmp_path: Path) -> None:
    """And its place, beside a partner that tells GDAL's things and in what coordinates places are given, but no place;
    no value becomes that for no data."""
    keys = (34735, "H", 8, (1, 1, 0, 1, 1024, 0, 1, 1), True)
    source = pairs(tmp_path / "in", OFF[:1], ".tif", lambda image: as_bytes(image)[..., :1])
    place = (33550, "d", 3, (10.0, 10.0, 0.0), True), (33922, "d", 6, (0.0, 0.0, 0.0, 5e5, 53e5, 0.0), True)
    own = {"trainA": {42112: "<GDALMetadata>A</GDALMetadata>", 42113: "99"},
           "trainB": {42112: "<GDALMetadata>B</GDALMetadata>", 42113: "100"}}
    for side, tags in own.items():
        given = tifffile.imread(source / side / "0.tif")
        given[given == int(tags[42113])] += 1
        tifffile.imwrite(source / side / "0.tif", given, photometric="minisblack", metadata=None, extratags=[
            keys, *(place if side in placed else ()), *((code, "s", 0, text, True) for code, text in tags.items())])
    assert align_pairs(source, tmp_path / "out", "shift").moved == 1

    for side, tags in own.items():
        with tifffile.TiffFile(tmp_path / "out" / side / "0.tif") as file:
            found = file.pages[0].tags
            assert {code: found.valueof(code) for code in tags} == tags
            assert (found.valueof(33922) is not None) == (side in placed)
            assert int(tags[42113]) not in file.pages[0].asarray()


@pytest.mark.parametrize("edges", ["crop", "mark"])
def test_what_cannot_be_written_leaves_no_half_of_a_pair(edges: str, tmp_path: Path) -> None:
    """And is counted once: whole numbers of 32 bits would become floats, and a PNG cannot mark what has no data."""
    stored: Callable[[np.ndarray], np.ndarray] = as_bytes
    suffix = ".png"
    if edges == "crop":
        stored, suffix = (lambda image: (image[..., :1] * 4e9).astype(np.uint32)), ".tif"
    done = align_pairs(pairs(tmp_path / "in", OFF[1:], suffix, stored), tmp_path / "out", "shift", edges=edges)  # type: ignore[arg-type]
    assert (done.moved, done.in_place, len(done.failed), done.exit_code) == (0, 1, 1, 3)
    assert sorted(name for name in bytes_below(tmp_path / "out") if name != LEDGER) == [
        f"trainA/1{suffix}", f"trainB/1{suffix}"]


def test_images_of_any_proportions_are_an_answer(tmp_path: Path) -> None:
    """A strip that would be measured at 2 px was an error of OpenCV, and so was one of more px than it counts."""
    strip = np.repeat(as_bytes(scene(0, 40, 300)), 110, 1)
    for side in ("trainA", "trainB"):
        write(tmp_path / "in" / side / "0.png", strip)
    assert not align(tensor(strip / 255), tensor(strip / 255)).confident
    assert align_pairs(tmp_path / "in", tmp_path / "out", "shift").unsure == 1
    with pytest.raises(ImageError, match="at most 32,766 px a side"):
        shift_of(Picture(Path("x.png"), strip), np.zeros((*strip.shape[:2], 2), np.float32), False)


@pytest.mark.parametrize(("num", "severity", "line"), [
    (16, "warning", "in none of 16 measured pairs (of 20 in all) are A and B seen to show the same thing"),
    (2, "note", "2 measured pairs (of 20 in all): how A and B lie on each other cannot be told")])
def test_pairs_that_are_no_pairs_are_warned_of(num: int, severity: str, line: str, tmp_path: Path) -> None:
    """It was a note, "cannot be told of any of 0 of 16 measured pairs"."""
    unknown = align(tensor(scene(0, 64, 64)), tensor(scene(1, 64, 64)))
    assert not unknown.confident
    pair = Pair("train", Path("a.png"), Path("b.png"))
    (finding,) = misregistration([Measured(pair, unknown, 1.0)] * num, 20, tmp_path)
    assert finding.severity == severity and finding.what.startswith(line)
    assert ("--kind unpaired" in (finding.advice or "")) == (severity == "warning")
    known = Measured(pair, align(tensor(scene(0, 64, 64)), tensor(scene(0, 64, 64))), 1.0)
    *_, clear = misregistration([known] * 3, 20, tmp_path)
    assert "of these no blur is to be expected" in clear.what and "of 17 pairs nothing is known" in clear.what
    labels = Measured(replace(pair, labels=True), unknown, 1.0)
    assert [found.severity for found in misregistration([labels] * num, 20, tmp_path)] == ["note"]


def test_one_uncertain_pair_does_not_silence_the_others(tmp_path: Path) -> None:
    def measured(down: float, accuracy: float) -> Measured:
        return Measured(Pair("train", Path("a.png"), Path("b.png")), Alignment(
            (0.0, down), 1.0, 0.0, abs(down), 0.0, True, "", accuracy), 1.0)

    said = misregistration([measured(down, 0.1) for down in (-0.9, 0.9, 0.8, -0.8)] + [measured(0, 1.0)], 5, tmp_path)
    assert any("a training will blur" in finding.what for finding in said)
    said = misregistration([measured(down, 0.1) for down in (0.0, 0.02, 0.01, 21.0)], 4, tmp_path)
    assert [finding.what for finding in said if "data align" in (finding.advice or "")] == [
        "1 of 4 pairs is off by more than 2 px"]
    assert not any("no blur" in finding.what or "larger" in finding.what for finding in said)


def test_halves_of_one_file_and_zooms(tmp_path: Path) -> None:
    image = scene(0, WIDTH, WIDTH)
    both = np.concatenate([image, recoloured(moved(image, 1, 2, 1.03, 1))], 1)
    write(tmp_path / "in" / "train" / "x.png", as_bytes(both))
    done = align_pairs(tmp_path / "in", tmp_path / "out", "similarity")
    assert done.moved == 1 and done.after[0] < 0.15 < done.before[0]
    made = np.asarray(Image.open(tmp_path / "out" / "train" / "x.png"))
    top, left, bottom, right = read_lines(tmp_path / "out" / LEDGER)[0]["part"]
    np.testing.assert_array_equal(made[:, :right - left], as_bytes(both)[top:bottom, left:right], "A is not resampled")


def test_a_bent_pair_is_straightened(tmp_path: Path) -> None:
    image = scene(1, HEIGHT, WIDTH)
    down, right = np.indices((HEIGHT, WIDTH), dtype=np.float32)
    bent = cv2.remap(image, right + 3 * np.sin(down / 24), down + 2 * np.sin(right / 24), cv2.INTER_CUBIC,
                     borderMode=cv2.BORDER_REFLECT)
    write(tmp_path / "in" / "trainA" / "0.png", as_bytes(image))
    write(tmp_path / "in" / "trainB" / "0.png", as_bytes(bent))
    done = align_pairs(tmp_path / "in", tmp_path / "out", "flow")
    assert done.before[0] > 2 and done.after[0] < 0.4


@pytest.mark.parametrize("move", ["a", "b"])
def test_label_maps_keep_their_numbers_and_palette(move: str, tmp_path: Path) -> None:
    """A class that is no class is never made up; which side moves, the user says."""
    numbers = np.zeros((HEIGHT, WIDTH), np.uint8)
    chance = np.random.default_rng(0)
    for _ in range(30):
        centre, axes = chance.integers(0, (WIDTH, HEIGHT)).tolist(), chance.integers(6, 30, 2).tolist()
        cv2.ellipse(numbers, centre, axes, 0, 0, 360, int(chance.choice([3, 7, 11])), -1)
    labels = Image.fromarray(numbers)
    labels.putpalette(list(range(256)) * 3)
    colours = chance.integers(0, 255, (256, 3), np.uint8)
    for each in ("train_label", "train_img"):
        (tmp_path / "in" / each).mkdir(parents=True)
    labels.save(tmp_path / "in" / "train_label" / "0.png")
    write(tmp_path / "in" / "train_img" / "0.png", as_bytes(moved(colours[numbers] / 255.0, 3, -4, 1, 0)))
    done = align_pairs(tmp_path / "in", tmp_path / "out", "shift", move=move)  # type: ignore[arg-type]
    assert done.moved == 1 and done.after[0] < 1
    path = tmp_path / "out" / "train_label" / "0.png"
    assert set(np.unique(read_labels(path))) == {0, 3, 7, 11}
    made = Image.open(path)
    assert made.mode == "P" and made.getpalette() == labels.getpalette()


def test_what_cannot_be_told_is_copied_and_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for side, seed in (("trainA", 1), ("trainB", 2)):
        write(source / side / "unrelated.png", as_bytes(scene(seed, HEIGHT, WIDTH)))
        write(source / side / "sizes.png", as_bytes(scene(3, HEIGHT + seed, WIDTH)))
    done = align_pairs(source, tmp_path / "out", "shift")
    assert (done.unsure, done.exit_code) == (1, 3) and "sizes.png" in done.failed[0] and "121" in done.failed[0]
    assert (tmp_path / "out/trainB/unrelated.png").read_bytes() == (source / "trainB/unrelated.png").read_bytes()


def test_originals_and_other_files_cannot_be_written_over(tmp_path: Path) -> None:
    source = pairs(tmp_path / "in", OFF[:1])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("mine")
    for out in (source, source / "out", tmp_path, tmp_path / "other"):
        with pytest.raises(UsageError, match="folder of its own"):
            align_pairs(source, out, "shift")
    with pytest.raises(TranslateError, match="no pairs"):
        (source / "trainB" / "0.png").rename(source / "trainB" / "elsewhere.png")
        write(source / "trainA" / "1.png", as_bytes(scene(4, HEIGHT, WIDTH)))
        align_pairs(source, tmp_path / "out", "shift")


def beside_each_other(path: Path, number: int, down: float, right: float) -> None:
    """A pair in one file, off by so many pixels."""
    image = scene(number, HEIGHT, WIDTH)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(as_bytes(np.concatenate([image, recoloured(moved(image, down, right, 1, 0))], 1))).save(path)


def test_two_pairs_of_one_name_and_two_suffixes_are_both_corrected_and_nothing_old_stays(tmp_path: Path) -> None:
    """A GIF becomes a PNG once it is moved, beside a PNG of its name; as long as it lies well its file is copied."""
    train, made = tmp_path / "in" / "train", tmp_path / "out" / "train"
    beside_each_other(train / "x.png", 0, 3, -2)
    beside_each_other(train / "x.gif", 1, 0, 0)
    assert align_pairs(tmp_path / "in", tmp_path / "out", "shift", kind="paired").moved == 1
    png = (made / "x.png").read_bytes()
    assert (made / "x.gif").read_bytes() == (train / "x.gif").read_bytes()

    beside_each_other(train / "x.gif", 1, -2, 4)
    done = align_pairs(tmp_path / "in", tmp_path / "out", "shift", kind="paired")
    assert (done.moved, done.already) == (1, 1)
    assert sorted(path.name for path in made.iterdir()) == ["x.gif.png", "x.png"]
    assert (made / "x.png").read_bytes() == png
    assert align_pairs(tmp_path / "in", tmp_path / "out", "shift", kind="paired").already == 2

    # What an earlier version has made: one file for both
    (made / "x.gif.png").rename(made / "x.png")
    with (tmp_path / "out" / LEDGER).open("r+") as ledger:
        text = ledger.read().replace("x.gif.png", "x.png")
        ledger.seek(0)
        ledger.write(text)
        ledger.truncate()
    align_pairs(tmp_path / "in", tmp_path / "out", "shift", kind="paired")
    align_pairs(tmp_path / "in", tmp_path / "out", "shift", kind="paired")
    assert sorted(path.name for path in made.iterdir()) == ["x.gif.png", "x.png"]
    assert (made / "x.png").read_bytes() == png

    beside_each_other(train / "x.gif.bmp", 2, 0, 0)
    with pytest.raises(DataError, match=r"may have the name of that of x\.gif\.bmp"):
        align_pairs(tmp_path / "in", tmp_path / "out", "shift", kind="paired")


def test_no_line_of_a_ledger_has_a_file_outside_removed(tmp_path: Path) -> None:
    source, out = pairs(tmp_path / "in", OFF[2:]), tmp_path / "out"
    align_pairs(source, out, "shift")
    (tmp_path / "mine.png").touch()
    ledger = out / LEDGER
    older = '"outputs": {"../mine.png": [1, 2], "old.png": [1, 2], '
    ledger.write_text(ledger.read_text().replace('"outputs": {', older))
    (out / "old.png").touch()
    align_pairs(source, out, "shift")
    assert (tmp_path / "mine.png").exists() and not (out / "old.png").exists()
