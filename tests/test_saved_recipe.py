"""A run knows its images wherever one stands; what is given away names no place of its maker's disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

import translate
from tests.adaptation import scenes_recipe
from tests.conftest import waves, write_pairs
from tests.runs import Silent, pix2pix_recipe
from translate.errors import DataError, NoData, RunError
from translate.evaluation.scoring import evaluate_run
from translate.recipe import Recipe, load_recipe
from translate.runs.folder import RunFolder, refuse_changes
from translate.runs.recipe_paths import absolute, naming_moved_places, places_of, without_places
from translate.schema import validate
from translate.training.loop import train


def recipe_of(**data: Any) -> Recipe:
    document = pix2pix_recipe(Path("pairs")).dump()
    document["data"] |= {"resize": None} | data
    document["every"]["evaluate"] = None
    return validate(Recipe, document | {"stages": [{"resolution": 64, "images": 2}]}, "relative")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project: `pairs`, and `run`, trained there by a recipe with the relative place `pairs`."""
    project = tmp_path_factory.mktemp("project")
    write_pairs(project / "pairs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        train(recipe_of(), Path("run"), Silent())
    return project


@pytest.fixture
def project(once: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil, whose run knows where its own images are."""
    shutil.copytree(once, tmp_path / "project")
    saved = tmp_path / "project" / "run" / "recipe.yaml"
    saved.write_text(saved.read_text().replace(str(once), str(tmp_path / "project")))
    return tmp_path / "project"


def l1(run: Path) -> float:
    return evaluate_run(run, most=2).scores["l1"].value


def test_a_run_is_scored_on_its_own_images_wherever_one_stands(project: Path, tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluated from elsewhere, it was scored on another data set of the same relative name, without a word."""
    monkeypatch.chdir(project)
    at_home = l1(Path("run"))
    write_pairs(tmp_path / "elsewhere" / "pairs", lambda image: image)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert l1(project / "run") == at_home == l1(project / "run" / "release")
    monkeypatch.chdir(tmp_path)
    assert l1(project / "run") == at_home
    assert load_recipe(project / "run" / "recipe.yaml").data.folder == project / "pairs"


@pytest.mark.parametrize(("data", "fields"), [
    ({"kind": "unpaired", "folder": "x"}, ["folder"]),
    ({"kind": "unpaired", "a": "x", "b": "../y", "test_a": "z", "test_b": "w"}, ["a", "b", "test_a", "test_b"]),
    ({"kind": "labels", "folder": "x", "classes": 3}, ["folder"]),
    ({"kind": "computed", "folder": "photos/a", "test_folder": "held/photos/a"}, ["folder", "test_folder"]),
    ({"kind": "paired", "card": "facades"}, [])])
def test_every_place_of_a_recipe_is_made_absolute_and_left_out_of_a_release(
        data: dict[str, Any], fields: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kind = "cyclegan" if data["kind"] == "unpaired" else "pix2pix"
    recipe = validate(Recipe, {"name": "x", "data": data, "translator": {"kind": kind}, "stages": [{"images": 1}]}, "x")
    found = absolute(recipe)
    assert {f"data.{field}": tmp_path / data[field] for field in fields} == places_of(found)
    assert absolute(found) == found and found.data.card == recipe.data.card
    refuse_changes(recipe, found, tmp_path)
    given = without_places(recipe)
    assert str(tmp_path) not in without_places(found).dump_yaml() and given == without_places(found)
    assert validate(Recipe, yaml.safe_load(given.dump_yaml()), "again") == given, "such a recipe can be read"


def test_the_home_directory_and_the_places_of_an_adaptation_are_absolute_too(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    found = places_of(absolute(scenes_recipe(Path("~/scenes"))))
    assert set(found) == {"data.a", "data.b", "adapt.source.folder", "adapt.target.folder"}
    assert all(path.is_relative_to(tmp_path / "scenes") for path in found.values())


def test_images_that_have_moved_are_named_and_found_again_where_the_recipe_then_says(
        project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project that is copied to another disk takes its run along, and the run still names the old place."""
    monkeypatch.chdir(project)
    before = l1(Path("run"))
    moved = project.rename(tmp_path / "moved")
    monkeypatch.chdir(moved)
    saved = moved / "run" / "recipe.yaml"
    for use in (evaluate_run, lambda run: RunFolder(run).check(load_recipe(saved), resume=True)):
        with pytest.raises(NoData, match=r"run/recipe.yaml: not there any more: .*/pairs \(data.folder\); write into"):
            use(Path("run"))
    translate.load("run").convert(waves(1, (64, 64)))  # which needs none of them

    # Written into the recipe, or said when the run goes on: the same training.
    RunFolder(moved / "run").check(recipe_of(), resume=True)
    saved.write_text(saved.read_text().replace(str(tmp_path / "project"), str(moved)))
    assert l1(Path("run")) == before
    RunFolder(moved / "run").check(recipe_of(), resume=True)


def test_a_run_without_held_out_images_is_told_where_to_name_some_and_then_goes_on(tmp_path: Path) -> None:
    """It was told to name them in "the recipe": its own counts, and a resume refused what named them there."""
    for folder in ("day", "night", "test/day", "test/night", "other/day", "other/night"):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(waves(1, (24, 24))).save(tmp_path / folder / "0.png")
    sides = {"kind": "unpaired", "a": str(tmp_path / "day"), "b": str(tmp_path / "night")}

    def recipe_with(**data: str) -> Recipe:
        document = {"name": "x", "data": sides | data, "translator": {"kind": "cyclegan"}, "stages": [{"images": 1}]}
        return validate(Recipe, document, "x")

    def held_out(folder: str) -> dict[str, str]:
        return {"test_a": str(tmp_path / folder / "day"), "test_b": str(tmp_path / folder / "night")}

    bare, named = recipe_with(), recipe_with(**held_out("test"))
    with pytest.raises(DataError) as error, naming_moved_places(bare, Path("my run")):
        bare.data.build("test", tmp_path)
    assert str(error.value).endswith(f"holds no test images; expected test/day and test/night in {tmp_path}, named in "
                                     "'my run/recipe.yaml' as data.test_a and data.test_b")
    assert len(named.data.build("test", tmp_path)) == 1
    refuse_changes(bare, named, tmp_path)
    for before, now in ((named, bare), (named, recipe_with(**held_out("other")))):  # the best is of other images
        with pytest.raises(RunError, match=r"data\.test_a"):
            refuse_changes(before, now, tmp_path)


def test_images_that_a_run_is_scored_on_are_not_exchanged_though_its_recipe_only_finds_them(tmp_path: Path) -> None:
    for folder in ("train", "other"):
        (tmp_path / folder).mkdir()
        Image.fromarray(waves(1, (24, 24))).save(tmp_path / folder / "0.png")

    def recipe_with(**data: str) -> Recipe:
        document = {"name": "x", "data": {"kind": "computed", "folder": str(tmp_path)} | data,
                    "translator": {"kind": "pix2pix"}, "stages": [{"images": 1}]}
        return validate(Recipe, document, "x")

    bare = recipe_with()
    named = bare.model_copy(update={"data": bare.data.model_copy(update={"test_folder": tmp_path / "other"})})
    refuse_changes(bare, named, tmp_path)
    shutil.copytree(tmp_path / "other", tmp_path / "test")
    refuse_changes(bare, bare, tmp_path)
    with pytest.raises(RunError, match=r"data\.test_folder"):
        refuse_changes(bare, named, tmp_path)


def test_another_data_set_is_no_moved_one(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pairs(tmp_path / "elsewhere" / "pairs")
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(RunError, match=r"data.folder: '.*/project/pairs' → '.*/elsewhere/pairs'"):
        RunFolder(project / "run").check(recipe_of(), resume=True)
    (tmp_path / "link").symlink_to(project / "pairs")
    RunFolder(project / "run").check(recipe_of(folder=str(tmp_path / "link")), resume=True)


def test_a_release_that_is_given_away_names_no_place_and_says_so(project: Path, tmp_path: Path) -> None:
    """Names of users and projects went out with the weights; without them, no images lie anywhere."""
    given = shutil.copytree(project / "run" / "release", tmp_path / "given")
    for path in given.iterdir():
        assert b"/project" not in path.read_bytes() and b"pairs" not in path.read_bytes(), path.name
    assert translate.load(given).convert(waves(1, (64, 64))).shape == (64, 64, 3)
    with pytest.raises(NoData, match="given: a release does not say where the images lie"):
        evaluate_run(given)
    page = (project / "run" / "report.html").read_text()
    assert "…/pairs" in page and "/project" not in page, "nor does the page that is sent to a colleague"


@pytest.fixture
def earlier(project: Path) -> Callable[[], Path]:
    """The run as an earlier version has left it: its recipe names a relative place."""
    saved = project / "run" / "recipe.yaml"
    saved.write_text(saved.read_text().replace(str(project / "pairs"), "pairs"))
    return lambda: project / "run"


def test_a_relative_place_of_an_earlier_version_is_said(earlier: Callable[[], Path], project: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    RunFolder(earlier()).check(recipe_of(), resume=True)
    results = evaluate_run(earlier(), most=2)
    assert any(f"pairs, which here is {project / 'pairs'}" in line for line in results.notes)
