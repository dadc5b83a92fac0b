"""`check` finds before a training what would stop it, or teach it something wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
from PIL import Image

from translate.cli.datasets import finding_lines
from translate.data.check import Finding, check, recognise
from translate.data.headers import seen
from translate.data.layout import LayoutConfig
from translate.data.layouts import DataConfig
from translate.errors import TranslateError

RGB = np.zeros((20, 30, 3), np.uint8)
HALVES = np.repeat(np.uint8([0, 1]), 15)[None].repeat(20, axis=0)  # a label map of two classes


def save(path: Path, array: np.ndarray = RGB, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path)
    return path


def config_of(**fields: Any) -> LayoutConfig:
    return pydantic.TypeAdapter(DataConfig).validate_python({"resize": None} | fields)


def said(findings: list[Finding]) -> dict[str, tuple[str, str]]:
    """Findings by the name of their file; each file has at most one in these tests."""
    assert len({finding.path for finding in findings}) == len(findings), findings
    return {finding.path.name: (finding.severity, finding.what) for finding in findings}


def test_a_summary_counts_as_looked_at_also_the_files_without_a_header(tmp_path: Path) -> None:
    """It said 13 of 15 looked at and 2 not readable, beside three errors: the third failed in its pixels."""
    save(tmp_path / "trainB" / "0.png")
    save(tmp_path / "trainA" / "0.png")
    (tmp_path / "trainA" / "1.png").write_bytes(b"no image")
    config = recognise(tmp_path)
    assert config is not None
    line = next(seen(config, Path()))
    assert line.startswith("train A: 2 images, 30×20 px") and "; 1 without a header that can be read, such as" in line


def faults(*words: Any, **options: Any) -> list[Finding]:
    """What `check` finds, but for notes: most data sets of these tests have no test images, or images of two sizes."""
    return [finding for finding in check(*words, **options) if finding.severity != "note"]


@pytest.mark.parametrize(("files", "kind"), [
    (["trainA/0.png", "trainA/1.png", "trainB/5.png"], "unpaired"),
    (["trainA/0.png", "trainB/0.png", "trainA/1.png", "trainB/1.png"], "paired"),
    (["train_label/0.png", "train_img/0.png"], "labels"),
    (["train/0.png", "val/1.png"], "computed"),
    (["x/0.png"], "computed"),
])
def test_a_bare_folder_is_recognised_and_said_first(files: list[str], kind: str, tmp_path: Path) -> None:
    for name in files:
        save(tmp_path / name, HALVES if "label" in name else RGB)
    first = check(tmp_path)[0]
    assert first.severity == "note" and f"kind: {kind}" in first.what and faults(tmp_path) == []
    assert recognise(tmp_path) is not None


def test_files_twice_as_wide_as_high_are_taken_for_pairs(tmp_path: Path) -> None:
    save(tmp_path / "train" / "0.png", np.zeros((20, 40, 3), np.uint8))
    assert "files with A beside B" in check(tmp_path)[0].what


def test_a_folder_without_images_is_an_error_that_says_what_is_known(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        (finding,) = check(folder)
        assert finding.severity == "error" and "trainA and trainB" in finding.advice


def test_the_number_of_classes_is_guessed_from_the_label_maps(tmp_path: Path) -> None:
    save(tmp_path / "train_label" / "0.png", np.array([[0, 7, 1, 2, 3, 4, 5, 6, 255]], np.uint8))
    save(tmp_path / "train_img" / "0.png", np.zeros((1, 9, 3), np.uint8))
    assert "with 8 classes" in check(tmp_path)[0].what and faults(tmp_path) == []


def test_every_unusable_file_is_found_and_no_other(tmp_path: Path) -> None:
    for side in "AB":
        save(tmp_path / f"train{side}" / "good.png")
    a = tmp_path / "trainA"
    cut = save(a / "cut.png", np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
    cut.write_bytes(cut.read_bytes()[:cut.stat().st_size // 2])
    (a / "empty.jpg").touch()
    (a / "text.png").write_text("not an image")
    save(a / "deep.png", np.full((20, 30), 40_000, np.uint16))
    save(a / "grey.png", RGB[..., 0])
    save(a / "cmyk.jpg", RGB, "CMYK")
    save(a / "palette.png", RGB, "P")  # colours in full, as few as they are
    save(a / "tiny.png", np.zeros((20, 12, 3), np.uint8))
    found = said(faults(config_of(kind="unpaired", folder=tmp_path), crop=(16, 16)))
    assert {name: severity for name, (severity, _) in found.items()} == {
        "cut.png": "error", "empty.jpg": "error", "text.png": "error", "deep.png": "error",
        "cmyk.jpg": "warning", "tiny.png": "warning"}
    assert "the file is empty" in found["empty.jpg"][1] and "holds no image" in found["text.png"][1]
    assert "16-bit" in found["deep.png"][1]
    assert "is 12×20, smaller than the crop of 16×16" in found["tiny.png"][1]


def test_a_grey_image_among_colour_needs_nothing_done(tmp_path: Path) -> None:
    save(tmp_path / "trainA" / "0.png")
    save(tmp_path / "trainB" / "1.png", RGB[..., 0])
    (note,) = (finding for finding in check(tmp_path) if finding.path.name == "1.png")
    assert note.severity == "note" and "read as a colour image" in note.what and "nothing need be done" in note.advice
    read = config_of(kind="unpaired", folder=tmp_path).build("train", tmp_path).whole(0).b
    assert read.shape[0] == 3 and (read == read[:1]).all()


@pytest.mark.parametrize(("files", "said_of_it"), [
    (["x/0.NEF", "x/1.nef", "2.nef"], "holds no images that are read, but 3 .nef files"),
    (["trainA/0.png", "trainB/1.png", "trainA/0.nef", "trainB/a.MP4", "notes", ".hidden"],
     "passed over: 3 other files (1 .mp4, 1 .nef, 1 without an ending)"),
], ids=["alone", "among images"])
def test_raw_files_and_others_are_counted_and_a_way_out_is_said(files: list[str], said_of_it: str,
                                                                tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save(tmp_path / name) if name.endswith("png") else (tmp_path / name).touch()
    (finding,) = (each for each in check(tmp_path) if each.what == said_of_it)
    assert finding.path == tmp_path and finding.advice == (
        "raw files of cameras are not read: export them as JPEG or TIFF")


def test_what_is_said_of_both_sides_names_the_folder_of_both(tmp_path: Path) -> None:
    save(tmp_path / "day" / "0.png")
    save(tmp_path / "night light" / "1.png", np.zeros((40, 40, 3), np.uint8))
    notes = {finding.what: finding.path for finding in check(tmp_path)}
    assert next(path for what, path in notes.items() if "A and B together" in what) == tmp_path
    assert next(path for what, path in notes.items() if "no test images" in what) == tmp_path


def test_fewer_bits_than_declared_are_a_warning(tmp_path: Path) -> None:
    for side in "AB":
        save(tmp_path / f"train{side}" / f"{side}.png")
    found = faults(config_of(kind="unpaired", folder=tmp_path, image_b={"bits": 16}))
    assert said(found) == {"B.png": ("warning", "has 8 bits a sample; the recipe declares 16")}


def test_other_channels_than_declared_are_a_warning(tmp_path: Path) -> None:
    for side in "AB":
        save(tmp_path / f"train{side}" / f"{side}.png")
    found = faults(config_of(kind="unpaired", folder=tmp_path, image_b={"channels": 1}))
    assert said(found) == {"B.png": ("warning", "has 3 channels (RGB); the recipe declares 1")}


def test_all_unpaired_names_clashes_and_sizes_are_listed(tmp_path: Path) -> None:
    for name in ("a/0.png", "b/0.png", "a/1.png", "a/2.png", "b/3.png", "a/4.png", "a/4.bmp", "b/4.png"):
        save(tmp_path / name)
    save(tmp_path / "a" / "5.png")
    save(tmp_path / "b" / "5.png", np.zeros((20, 31, 3), np.uint8))
    findings = faults(config_of(kind="paired", a=tmp_path / "a", b=tmp_path / "b"))
    found = {(finding.path.parent.name, finding.path.name): finding.what for finding in findings}
    assert set(found) == {("a", "1.png"), ("a", "2.png"), ("b", "3.png"), ("a", "4.png"), ("a", "5.png")}
    assert "has no partner" in found["a", "1.png"] and "has the name of 4.bmp" in found["a", "4.png"]
    assert "is 30×20, and its partner" in found["a", "5.png"] and "31×20" in found["a", "5.png"]
    assert all(finding.severity == "error" for finding in findings)


def test_a_folder_that_lacks_some_partners_is_probably_meant_as_pairs(tmp_path: Path) -> None:
    """Read as unpaired, it would train on what its owner believes to be pairs, and nothing would say so."""
    for name in ("A/0", "B/0", "A/1", "B/1", "A/2", "B/x"):
        save(tmp_path / f"train{name}.png")
    first, *others = faults(tmp_path)
    assert first.path == tmp_path and "2 names of trainA are in trainB too, and 2 have no partner" in first.what
    assert said(others) == {"2.png": ("warning", "has no partner in trainB"),
                            "x.png": ("warning", "has no partner in trainA")}
    assert faults(config_of(kind="unpaired", folder=tmp_path)) == []  # a recipe has said how it is meant
    for name in ("A/3", "A/4"):
        save(tmp_path / f"train{name}.png")
    assert faults(tmp_path) == []  # less than half: names that agree by chance


def test_sizes_that_differ_are_noted_where_there_are_no_pairs(tmp_path: Path) -> None:
    for name, shape in (("trainA/0", (20, 30)), ("trainA/1", (20, 30)), ("trainB/5", (20, 30)), ("testA/0", (20, 30)),
                        ("testB/6", (20, 30))):
        save(tmp_path / f"{name}.png", np.zeros((*shape, 3), np.uint8))
    config = config_of(kind="unpaired", folder=tmp_path)
    assert check(config) == []
    save(tmp_path / "testB" / "6.png", np.zeros((40, 40, 3), np.uint8))
    (note,) = check(config)
    assert note.severity == "note" and note.what == "holds images of 2 sizes, A and B together, from 30×20 to 40×40"
    assert "at their own sizes" in note.advice
    resized = check(config_of(kind="unpaired", folder=tmp_path, resize=24))[0]
    assert "a short side of 24 px" in resized.advice


@pytest.mark.parametrize("needed", [False, True])
def test_a_set_without_test_images_is_an_error_only_where_they_are_needed(needed: bool, tmp_path: Path) -> None:
    save(tmp_path / "0.png")
    (finding,) = check(config_of(kind="computed", folder=tmp_path), needs_test_images=needed)
    assert finding.severity == ("error" if needed else "note") and finding.what.startswith("holds no test images")
    assert "test_folder in the recipe" in finding.advice


def test_labels_are_held_against_the_classes_and_the_test_split_is_checked_too(tmp_path: Path) -> None:
    for split, numbers in (("train", [0, 1, 2, 255]), ("test", [0, 9, 2, 1])):
        save(tmp_path / f"{split}_label" / f"{split}.png", np.array([numbers], np.uint8))
        save(tmp_path / f"{split}_img" / f"{split}.png", np.zeros((1, 4, 3), np.uint8))
    found = said(faults(config_of(kind="labels", folder=tmp_path, classes=3)))
    assert found == {"test.png": ("error", "class numbers 9; the recipe's are 0 … 2, ignored 255")}


def test_aligned_files_are_measured_by_their_halves(tmp_path: Path) -> None:
    save(tmp_path / "train" / "odd.png", np.zeros((20, 41, 3), np.uint8))
    save(tmp_path / "train" / "small.png", np.zeros((20, 30, 3), np.uint8))
    save(tmp_path / "train" / "good.png", np.zeros((20, 40, 3), np.uint8))
    found = said(faults(config_of(kind="paired", folder=tmp_path), crop=(20, 20)))
    assert {name: severity for name, (severity, _) in found.items()} == {"odd.png": "error", "small.png": "warning"}


def test_missing_folders_and_cards_are_findings_not_crashes(tmp_path: Path) -> None:
    (finding,) = check(config_of(kind="unpaired", card="monet2photo"), tmp_path)
    assert finding.severity == "error" and finding.advice == "run: translate data prepare monet2photo"
    save(tmp_path / "trainA" / "0.png")
    (finding,) = faults(config_of(kind="unpaired", folder=tmp_path))
    assert finding.path == tmp_path / "trainB" and finding.what.startswith("no such folder")


def test_a_thousand_files_with_one_fault_are_two_lines(tmp_path: Path) -> None:
    """Whoever reads a line for each overlooks the one other fault among them."""
    for number in range(6):
        save(tmp_path / "trainA" / f"{number}.jpg", RGB, "CMYK" if number else "RGB")
        save(tmp_path / "trainB" / f"{number}.png", np.zeros((20, 31 + number, 3), np.uint8))
    lines = list(finding_lines([each for each in check(tmp_path) if each.severity != "note"]))
    assert [line.partition(":")[0] for line in lines] == [
        "error", "    the same, with other numbers, of 5 more files", "warning", "    the same of 4 more files"]
    assert "0.jpg: is 30×20, and its partner" in lines[0]
    assert "1.jpg: is CMYK" in lines[2] and lines[3].endswith(": 2.jpg, 3.jpg …")


def test_progress_counts_every_file(tmp_path: Path) -> None:
    for name in ("trainA/0.png", "trainB/0.png", "testA/0.png", "testB/0.png"):
        save(tmp_path / name)
    told: list[tuple[int, int]] = []
    assert check(config_of(kind="paired", folder=tmp_path), progress=lambda *counts: told.append(counts)) == []
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("fields", [{"kind": "unpaired"}, {"kind": "paired"}, {"kind": "labels", "classes": 2},
                                    {"kind": "computed"}])
def test_what_check_accepts_trains_and_what_it_calls_an_error_does_not(fields: dict[str, Any], tmp_path: Path) -> None:
    """The check and the loader must agree, or one of them is useless."""
    names = {"unpaired": ("trainA", "trainB"), "paired": ("trainA", "trainB"), "labels": ("train_label", "train_img"),
             "computed": ("train", "train")}[fields["kind"]]
    save(tmp_path / names[0] / "0.png", HALVES if fields["kind"] == "labels" else RGB)
    save(tmp_path / names[1] / "0.png")
    config = config_of(**fields, folder=tmp_path)
    assert faults(config) == []
    config.build("train", tmp_path).whole(0)
    for name in names:
        file = tmp_path / name / "0.png"
        whole = file.read_bytes()
        file.write_bytes(whole[:len(whole) // 2])
        assert [finding.severity for finding in faults(config)] == ["error"]
        with pytest.raises(TranslateError):
            config.build("train", tmp_path).whole(0)
        file.write_bytes(whole)
