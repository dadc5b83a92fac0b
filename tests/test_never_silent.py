"""Whoever waits is told that work goes on: no command says nothing for more than ten seconds, also in a log file."""

from __future__ import annotations

import io
import json
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.commands import Command, call
from tests.runs import cyclegan_recipe, pix2pix_recipe
from translate.cli import progress
from translate.cli.progress import Display
from translate.evaluation.label_maps import evaluate_labels
from translate.recipe import Recipe
from translate.report import write_report

MOST_SECONDS = 10.0


def longest_silence(printed: Path, *words: object) -> tuple[float, float]:
    """Run a command that writes to a file; how long it said nothing at the most, and how long it took, in seconds."""
    command = Command(printed, *words)
    begin = last = time.monotonic()
    size, longest = 0, 0.0
    while command.runs():
        time.sleep(0.05)
        now, grown = time.monotonic(), printed.stat().st_size if printed.exists() else 0
        longest = max(longest, now - last)
        if grown > size:
            size, last = grown, now
    assert command.wait() == 0, printed.read_text()
    return longest, time.monotonic() - begin


def many(folder: Path, num: int, size: tuple[int, int], labels: bool = False) -> Path:
    """Images of blocks, or label maps of 19 classes."""
    draw = np.random.default_rng(num)
    for number in range(num):
        blocks = draw.integers(0, 19 if labels else 256, (size[0] // 8, size[1] // 8, *([] if labels else [3])))
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(blocks.astype(np.uint8)).resize(size[::-1], Image.Resampling.NEAREST)
        image.save(folder / f"{number}.png", compress_level=1)
    return folder


def write_scored_recipe(folder: Path, num_held_out: int, stages: dict[int, int], every: dict[str, int]) -> None:
    """`toy.yaml`: a training on crops, which scores held-out photographs of 600×800 px; and its `photos`.

    `stages`: how many images are shown in crops of which side, px.
    """
    for side in "AB":
        for split, num in (("train", 8), ("test", num_held_out)):
            many(folder / "photos" / f"{split}{side}", num, (600, 800))
    recipe = cyclegan_recipe(folder / "photos", stages=[{"resolution": side, "images": images, "batch_size": 2}
                                                        for side, images in stages.items()],
                             data={"kind": "unpaired", "folder": str(folder / "photos"), "resize": None,
                                   "truth": True},
                             translator={"kind": "cyclegan", "generator": {"kind": "resnet", "width": 12, "blocks": 2},
                                         "discriminator": {"kind": "patchgan", "width": 8, "layers": 2}},
                             every=every)
    (folder / "toy.yaml").write_text(recipe.dump_yaml())


@pytest.mark.slow
def test_no_command_is_silent_for_ten_seconds(tmp_path: Path) -> None:
    """A training of 120 small crops stood silent for five minutes: it scored images of 1600×1200."""
    a, b = many(tmp_path / "a", 40, (512, 512)), many(tmp_path / "b", 40, (512, 512))
    maps = [many(tmp_path / name, 400, (1024, 1024), labels=True) for name in ("found", "true")]
    write_scored_recipe(tmp_path, 8, {128: 60}, {"log": 10, "sample": 60, "checkpoint": 30, "evaluate": 30})
    run = tmp_path / "run"
    found = {" ".join(map(str, words[:2])): longest_silence(tmp_path / "printed.txt", *words) for words in (
        ("train", tmp_path / "toy.yaml", "--run", run),
        ("evaluate", run),
        ("convert", tmp_path / "photos" / "testA", tmp_path / "out", "--model", run),
        ("data", "check", tmp_path / "photos"),
        ("new", tmp_path / "photos", "--out", tmp_path / "new.yaml"),
        ("plan", "monet2photo_2000", "--gpu", "8GB"),
        ("evaluate", a, "--against", b, "--source", a),
        ("evaluate", maps[0], "--against", maps[1], "--classes", 19))}
    found["report"] = longest_silence(tmp_path / "printed.txt", "report", without_pictures(run, tmp_path / "bare"))
    assert max(silent for silent, _ in found.values()) <= MOST_SECONDS, json.dumps(found, indent=1)
    assert sum(took > MOST_SECONDS for _, took in found.values()) >= 3, "work that takes long"


def test_one_step_of_a_minute_is_not_silent(monkeypatch: pytest.MonkeyPatch, said: io.StringIO) -> None:
    """Lines came with images alone: between two of them a log file stood still."""
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.1)
    with Display("toy") as display:
        time.sleep(0.3)
        display.count(1, 3)
        time.sleep(0.3)
    lines = said.getvalue().splitlines()
    assert lines[0].startswith("toy; still at work, 0:00:0"), "before the first image, too"
    assert lines[-1].startswith("toy: 1 of 3 images; still at work, 0:00:0")
    time.sleep(0.3)
    assert said.getvalue().splitlines() == lines, "the work has ended"


@pytest.mark.slow
@pytest.mark.parametrize(("num_held_out", "stages", "evaluate"), [(12, {128: 400}, 40), (4, {64: 200, 256: 200}, 200)])
def test_the_time_left_is_within_a_factor_of_1_5_from_a_tenth_of_a_training_on(
        num_held_out: int, stages: dict[int, int], evaluate: int, tmp_path: Path) -> None:
    """With evaluations that take as long as the training, of which "0:00:11 left" once knew nothing; and where the
    second of two stages takes nearly all of the time.

    Told is how long it takes on a machine that goes on as it did so far. So both are held against each other in time of
    a core, of which other programs may take more or less later.
    """
    write_scored_recipe(tmp_path, num_held_out, stages,
                        {"log": 10, "sample": 200, "checkpoint": 100, "evaluate": evaluate})
    printed = tmp_path / "printed.txt"
    command = Command(printed, "train", tmp_path / "toy.yaml", "--run", tmp_path / "run")
    said: list[tuple[float, int, float]] = []  # when, how many images are done, seconds left; in time of a core
    begin, seconds = time.monotonic(), 0.0
    while command.runs():
        time.sleep(0.1)
        with suppress(OSError):
            seconds = int(Path(f"/proc/{command.pid}/schedstat").read_text().split()[0]) / 1e9 or seconds
        text = printed.read_text() if printed.exists() else ""
        for images, hours, minutes, rest in re.findall(
                r"([\d,]+) of 400 images.*?(\d+):(\d\d):(\d\d) left\b", text)[len(said):]:
            left = (int(hours) * 60 + int(minutes)) * 60 + int(rest)
            said.append((seconds, int(images.replace(",", "")), left * seconds / (time.monotonic() - begin)))
    assert command.wait() == 0
    wrong = [(images, round(left), round(seconds - when)) for when, images, left in said if images >= 40 and left >= 5
             and not 1 / 1.5 <= left / (seconds - when) <= 1.5]
    assert len(said) >= 8 and not wrong, (wrong, said)


def without_pictures(run: Path, copy: Path) -> Path:
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "held_out")
    return copy


def test_reading_label_maps_is_counted(tmp_path: Path) -> None:
    """A thousand of them were read without a word."""
    folders = [many(tmp_path / name, 3, (32, 32), labels=True) for name in ("found", "true")]
    told: list[tuple[int, int]] = []
    evaluate_labels(*folders, 19, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    told.clear()
    evaluate_labels(*folders, 20, ids={0: 19}, on_progress=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == sorted(done for done, _ in told) and told[-1] == (6, 6)


def test_a_report_counts_the_images_that_it_translates(shared_pairs: Path, tmp_path: Path,
                                                       trained: Callable[[Recipe], Path]) -> None:
    told: list[tuple[int, int]] = []
    bare = without_pictures(trained(pix2pix_recipe(shared_pairs)), tmp_path / "bare")
    write_report(bare, make=True, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(number, 4) for number in range(5)]


def test_of_one_image_no_speed_is_shown(said: object) -> None:
    with Display("one") as display:
        display.count(1, 1)
    assert said.getvalue().strip() == "one: 1 of 1 images"  # type: ignore[attr-defined]


def test_the_command_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: object) -> None:
    folders = [many(tmp_path / name, 2, (32, 32), labels=True) for name in ("found", "true")]
    assert call(monkeypatch, "evaluate", folders[0], "--against", folders[1], "--classes", 19) == 0
    assert "evaluate: 2 of 2 images" in said.getvalue()  # type: ignore[attr-defined]
