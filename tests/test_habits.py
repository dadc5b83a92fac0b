"""What people type and how their folders look from habit: of other tools, other shells, other systems."""

from __future__ import annotations

import io
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
from PIL import Image

from tests.commands import call
from tests.conftest import waves
from tests.runs import pix2pix_recipe
from translate.cli.app import app
from translate.convert.jobs import Naming, plan_jobs
from translate.data.check import Finding, check
from translate.data.layout import LayoutConfig
from translate.data.layouts import DataConfig
from translate.data.pairing import list_images
from translate.errors import DataError, RunError, TranslateError, UsageError
from translate.images.listing import OF_SYSTEMS, list_folder
from translate.images.reading import ImageConfig
from translate.runs.folder import death_of, refuse_changes
from translate.runs.release import load_release


def save(path: Path, number: int = 0, size: tuple[int, int] = (20, 24)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(waves(number, size)).save(path)
    return path


def config_of(**fields: Any) -> LayoutConfig:
    return pydantic.TypeAdapter(DataConfig).validate_python(fields)


# -- words -------------------------------------------------------------------------------------------------------------


def commands() -> list[list[str]]:
    """Every command there is, in words."""
    groups = [([], app), *(([group.name], group.typer_instance) for group in app.registered_groups)]
    named = [[*words, each.name or each.callback.__name__.replace("_", "-")]  # type: ignore[union-attr]
             for words, group in groups for each in group.registered_commands]
    return [[], *([group.name or ""] for group in app.registered_groups), *named]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_helps_with_h(words: list[str], capsys: pytest.CaptureFixture[str],
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, *words, "-h") == 0
    assert "Usage:" in capsys.readouterr().out


def test_a_tilde_that_no_shell_expands_is_the_home_directory(tmp_path: Path, said: io.StringIO,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """`--run=~/x` made a folder called `~`, and days later the run was not where it was looked for."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    save(tmp_path / "home" / "photos" / "0.png")
    assert call(monkeypatch, "data", "check", "~/photos") == 0
    assert call(monkeypatch, "train", "--resume", "--run=~/x") == 2
    assert f"{tmp_path}/home/x: there is no run here to resume" in said.getvalue()
    assert call(monkeypatch, "convert", "~/photos/*.png", "~/out", "--model=~/m") == 2
    assert f"{tmp_path}/home/m: no such folder" in said.getvalue()
    assert call(monkeypatch, "compare", "~/a", "~/b", "--out=~/c.html") == 2
    assert f"{tmp_path}/home/a: no such folder" in said.getvalue()
    assert call(monkeypatch, "plan", "~/x.yaml") == 2 and f"{tmp_path}/home/x.yaml" in said.getvalue()
    assert call(monkeypatch, "report", "x", "--out=~nobody-of-this-name/r.html") == 2
    assert "nobody of this name has a home directory" in said.getvalue()
    assert not list((tmp_path / "here").iterdir())


AWKWARD = "a run; of 'mine' & $HOME"


def words_behind(text: str, command: str) -> list[str]:
    """The words of a command that a message prints, as a shell would take them."""
    return shlex.split(re.sub(r"[`\n].*", "", text[text.index(command):], flags=re.S))


def test_commands_that_are_printed_can_be_pasted_into_a_shell(
        shared_pairs: Path, tmp_path: Path, said: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blank in the name of a folder, and the next command was about two other ones."""
    folder = tmp_path / AWKWARD
    recipe = pix2pix_recipe(shared_pairs, every={"log": 2, "sample": None, "checkpoint": 2, "evaluate": None},
                            stages=[{"resolution": 64, "images": 2, "batch_size": 2}])
    folder.mkdir()
    (folder / "my recipe.yaml").write_text(recipe.dump_yaml())
    assert call(monkeypatch, "train", folder / "my recipe.yaml", "--run", folder / "run") == 0
    printed = said.getvalue()
    assert words_behind(printed, "translate convert IN")[-2:] == ["--model", str(folder / "run")]

    # Advice of errors, each with a folder or a recipe in it.
    with pytest.raises(RunError) as caught:
        refuse_changes(recipe, pix2pix_recipe(shared_pairs, seed=5), folder / "run")
    assert words_behind(str(caught.value), "translate train")[-2:] == ["--run", str(folder / "run")]
    with pytest.raises(UsageError) as missing:
        load_release(folder / "run" / "best")
    assert shlex.split(str(missing.value).rpartition("use ")[2]) == ["--model", str(folder / "run")]
    assert words_behind(death_of(folder / "run", {"images": 4}), "translate train")[-1] == str(folder / "run")
    error = TranslateError("x", None, "run: translate data check {recipe}")
    error.recipe = str(folder / "my recipe.yaml")
    assert words_behind(str(error), "translate data check")[-1] == str(folder / "my recipe.yaml")


# -- folders of other systems ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted({*OF_SYSTEMS, "@eaDir", "$RECYCLE.BIN", "System Volume Information",
                                         ".@__thumb", ".Trash-1000"}))
def test_what_systems_put_into_folders_is_no_image(name: str, tmp_path: Path) -> None:
    """Synology's thumbnails, some 200 px wide, were trained on, and converted as if they were photographs."""
    save(tmp_path / "0.png")
    save(tmp_path / "deep" / name / "0.png" / "SYNOPHOTO_THUMB_XL.jpg")
    save(tmp_path / name / "1.jpg")
    assert list_images(tmp_path) == [tmp_path / "0.png"]
    assert list_folder(tmp_path).others == sorted([tmp_path / name, tmp_path / "deep" / name])
    jobs, skipped = plan_jobs(tmp_path, tmp_path / "out", Naming(ImageConfig()))
    assert [job.name for job in jobs] == ["0.png"] and sorted(skipped) == sorted([name, f"deep/{name}"])


def test_a_folder_of_ones_own_is_no_system_folder(tmp_path: Path) -> None:
    for name in ("eaDir", "thumbs", "recycle", "@me"):
        save(tmp_path / name / "0.png")
    assert len(list_images(tmp_path)) == 4


# -- layouts of other tools --------------------------------------------------------------------------------------------


WAYS = {"A/train": "{side}/{split}", "train/A": "{split}/{side}", "trainA": "{split}{side}"}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("kind", ["unpaired", "paired", "labels"])
def test_two_sides_are_found_however_their_folders_are_nested(way: str, kind: str, tmp_path: Path) -> None:
    """`A/train`, as pix2pix's own script wants it, was taken for photographs, and its test images were trained on."""
    for number, (split, side) in enumerate((split, side) for split in ("train", "test") for side in "AB"):
        name = {"A": "label", "B": "img"}[side] if kind == "labels" else side
        name = f"_{name}" if kind == "labels" and "/" not in way else name
        for index in range(2):
            path = tmp_path / way.format(side=name, split=split) / f"{index + (side == 'A' and kind == 'unpaired')}.png"
            save(path, 10 * number + index)
            if kind == "labels" and side == "A":
                Image.fromarray(np.repeat(np.uint8([0, 1]), 12)[None].repeat(20, axis=0)).save(path)
    first, *others = check(tmp_path)
    assert first.what.startswith(f"read as kind: {kind}, ")
    assert [finding for finding in others if finding.severity == "error"] == []
    config = config_of(kind=kind, folder=tmp_path, **({"classes": 2} if kind == "labels" else {}))
    for split in ("train", "test"):
        samples = config.build(split, tmp_path)  # type: ignore[arg-type]
        assert len(samples) == 2 and all(split in str(path.relative_to(tmp_path))
                                         for path in (*samples.files_a, *samples.files_b))


def test_one_side_alone_is_named_in_either_way(tmp_path: Path) -> None:
    save(tmp_path / "A" / "train" / "0.png")
    with pytest.raises(DataError, match=r"B/train: no such folder, and A/train is there; both are needed"):
        config_of(kind="unpaired", folder=tmp_path).build("train", tmp_path)


def test_files_with_a_beside_b_are_found_below_a_folder_called_a(tmp_path: Path) -> None:
    save(tmp_path / "train" / "A" / "0.png", size=(20, 40))
    assert len(config_of(kind="paired", folder=tmp_path).build("train", tmp_path)) == 1


@pytest.mark.parametrize(("files", "expected"), [
    (["day/train/0.png", "day/test/1.png", "night/train/5.png", "night/test/6.png"], "kind: unpaired"),
    (["day/train/0.png", "night/train/0.png"], "kind: paired"),
    (["A/0.png", "B/1.png"], "kind: unpaired"), (["a/0.png", "b/0.png"], "kind: paired"),
    (["photos/train/0.png", "photos/test/1.png"], "has splits further down alone, in "),
    (["x/y/train/0.png", "x/z/1.png", "w/0.png"], "has splits further down alone, in "),
    (["photos/2024/0.png", "photos/2025/0.png"], "kind: computed")])
def test_domains_of_other_names_are_recognised_or_refused(files: list[str], expected: str, tmp_path: Path) -> None:
    for number, name in enumerate(files):
        save(tmp_path / name, number)
    first = check(tmp_path)[0]
    assert expected in first.what
    if "/test/" in "".join(files) and "unpaired" in expected:
        assert not any("no test images" in finding.what for finding in check(tmp_path))


# -- the same picture twice --------------------------------------------------------------------------------------------


def same(findings: list[Finding]) -> list[str]:
    return [finding.what for finding in findings if "as well: " in finding.what]


def write(folder: Path) -> Path:
    for number, name in enumerate(("trainA/0", "trainA/1", "trainB/0", "trainB/1", "testA/5", "testB/5")):
        save(folder / f"{name}.png", number)
    return folder


def copy(path: Path, target: Path) -> None:
    shutil.copy(path, target)


def as_bmp(path: Path, target: Path) -> None:
    Image.open(path).save(target.with_suffix(".bmp"))


def recompressed(path: Path, target: Path) -> None:
    Image.open(path).save(target, compress_level=1, optimize=False)


def linked(path: Path, target: Path) -> None:
    target.symlink_to(path)


@pytest.mark.parametrize("how", [copy, as_bmp, recompressed, linked])
@pytest.mark.parametrize(("here", "there", "line"), [
    ("trainA/0.png", "testA/7.png", "1 of 2 test images of A are trained on as well: "),
    ("trainB/1.png", "valB/7.png", "1 of 2 test images of B are trained on as well: "),
    ("trainA/1.png", "trainB/7.png", "1 of 3 images of A are images of B as well: ")])
def test_the_same_picture_is_found_in_training_and_test_and_on_both_sides(
        how: Any, here: str, there: str, line: str, tmp_path: Path) -> None:
    """Scores of images that were trained on: nothing said that a copy had slipped in, under another name or format."""
    write(tmp_path)
    (tmp_path / there).parent.mkdir(exist_ok=True)
    how(tmp_path / here, tmp_path / there)
    if there.startswith("val"):
        save(tmp_path / "valA" / "9.png", 9)
    (found,) = same(check(config_of(kind="unpaired", folder=tmp_path)))
    assert found.startswith(line) and here in found and there[:-4] in found


def test_pictures_that_differ_by_a_pixel_or_are_of_one_colour_are_not_the_same(tmp_path: Path) -> None:
    write(tmp_path)
    pixels = np.array(Image.open(tmp_path / "trainA" / "0.png"))
    pixels[3, 3, 0] ^= 1
    Image.fromarray(pixels).save(tmp_path / "testA" / "6.png")
    for name in ("trainA/black", "testA/black", "trainB/black"):
        Image.new("RGB", (24, 20)).save(tmp_path / f"{name}.png")
    assert same(check(config_of(kind="unpaired", folder=tmp_path))) == []


def test_of_many_copies_some_are_named_and_all_are_counted(tmp_path: Path) -> None:
    for number in range(9):
        save(tmp_path / "train" / f"{number}.png", number)
    shutil.copytree(tmp_path / "train", tmp_path / "test")
    (found,) = same(check(config_of(kind="computed", folder=tmp_path)))
    assert found.startswith("9 of 9 test images of B") and found.endswith("; …") and found.count(" is ") == 5
