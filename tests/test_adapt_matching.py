"""Source images made like the target before a translator sees them: which, where they lie, what they change."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.adaptation import SIDE, contents, save, stripes, stripes_recipe, write_stripes
from tests.runs import Interrupted, Silent
from translate.adapt import evaluate, make, train_rows
from translate.adapt.matching import matched_source
from translate.adapt.preservation import is_held_out
from translate.adapt.result_cache import read_record
from translate.adapt.table import TITLES, key_of
from translate.adapt.table_data import find_table_data
from translate.adapt.task_training import Watch
from translate.convert import Shard
from translate.errors import DataError, RecipeError, RunError
from translate.foreign import read_lines
from translate.recipe import Recipe
from translate.runs.folder import load_saved


def small_target(folder: Path, **adapt: Any) -> Recipe:
    """Stripes whose target has half the source's resolution, and a recipe that matches it."""
    write_stripes(folder, 4)
    for path in (folder / "target").rglob("*.png"):
        save(path, np.asarray(Image.open(path))[::2, ::2])
    task = {"network": {"kind": "cnn", "width": 4, "downs": 1}, "resolution": SIDE, "resize": SIDE, "images": 16}
    return stripes_recipe(folder, data={
        "kind": "unpaired", "a": str(folder / "source/train"), "b": str(folder / "target/train"), "resize": SIDE,
        "augment": [], "image_a": {"channels": 1}, "image_b": {"channels": 1}},
        adapt={"task": task, "match": "resolution", **adapt})


@pytest.fixture(scope="module")
def matched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe]:
    folder = tmp_path_factory.mktemp("matched")
    recipe = small_target(folder)
    make(recipe, folder / "out", Silent(), device="cpu")
    return folder, recipe


def test_translator_judge_and_loss_see_matched_images_and_the_set_names_the_source(
        matched: tuple[Path, Recipe]) -> None:
    folder, recipe = matched
    source = sorted((folder / "source").rglob("*.png"))
    assert len(source) == 8
    for path in source:
        name = path.relative_to(folder / "source")
        small = cv2.resize(np.asarray(Image.open(path)), (SIDE // 2, SIDE // 2), interpolation=cv2.INTER_AREA)
        large = cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        np.testing.assert_array_equal(np.asarray(Image.open(folder / "out" / "matched" / name)), large)
        assert Image.open(folder / "out" / "set" / name).size == (SIDE, SIDE)
    assert load_saved(folder / "out" / "translator").data.a == (folder / "out" / "matched").resolve()  # type: ignore[union-attr]
    data = find_table_data(recipe, folder / "out")
    assert all("/out/matched/" in str(path) for path in data.matched.files)
    assert all("/source/train/" in str(path) for path in data.source.files)
    for network in ("judge", "task"):
        record = read_record(folder / "out" / network / "task.json")
        assert record is not None
        trained_on = data.matched if network == "task" else data.matched.part(
            [number for number, path in enumerate(data.matched.files)
             if not is_held_out(path.relative_to(folder / "out/matched/train").as_posix())])
        assert record["made_from"]["examples"] == trained_on.digest


def test_matched_images_are_kept_in_a_folder_that_was_moved_and_one_that_was_spoilt_is_made_again(
        matched: tuple[Path, Recipe], tmp_path: Path) -> None:
    folder, recipe = matched
    shutil.copytree(folder / "out", tmp_path / "moved")  # OUT may be moved: nothing is trained again
    before = contents(tmp_path / "moved")
    (made,) = make(recipe, tmp_path / "moved", Silent(), device="cpu")
    after = contents(tmp_path / "moved")
    assert {name for name in before if "recipe" not in name and before[name] != after.get(name)} == set()
    spoilt = tmp_path / "moved" / "matched" / "train" / "lying" / "001.png"
    save(spoilt, stripes(5, True))
    (again,) = make(recipe, tmp_path / "moved", Silent(), device="cpu")
    assert spoilt.read_bytes() == before["matched/train/lying/001.png"] and again.hash == made.hash


def match(recipe: Recipe, out: Path, watch: Watch = lambda done, total: None) -> dict[str, bytes]:
    """Match the source of a recipe; what lies in OUT/matched afterwards."""
    assert recipe.adapt is not None
    matched_source(recipe, recipe.adapt.source.find("train", out), out, watch)
    return contents(out / "matched")


@pytest.mark.parametrize("what", ["source", "target", "setting"])
def test_matched_images_are_made_again_where_source_target_or_setting_has_changed(what: str, tmp_path: Path) -> None:
    recipe = small_target(tmp_path, match="pixel_distribution")
    before = match(recipe, tmp_path / "out")
    if what == "setting":
        recipe = small_target(tmp_path, match="histogram_matching")
    else:
        for path in (tmp_path / what / "train").rglob("*.png"):
            save(path, np.asarray(Image.open(path)) // 2)
    after = match(recipe, tmp_path / "out")
    assert after == match(recipe, tmp_path / "new") and after.keys() == before.keys()
    assert all(after[name] != before[name] for name in before)


def test_an_interrupted_matching_goes_on_with_what_is_there(tmp_path: Path) -> None:
    recipe, seen = small_target(tmp_path), []

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise Interrupted

    with pytest.raises(Interrupted):
        match(recipe, tmp_path / "out", stop)
    there = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "matched").rglob("*.png")}
    found = match(recipe, tmp_path / "out", lambda done, total: seen.append(done))
    assert len(there) == 5 and all(path.stat().st_mtime_ns == time for path, time in there.items())
    assert found == match(recipe, tmp_path / "new") and len(found) == seen[-1] == 8


def test_an_image_that_cannot_be_read_ends_no_matching_and_the_converter_names_it(
        matched: tuple[Path, Recipe], tmp_path: Path) -> None:
    models = [matched[0] / "out" / "translator"]
    recipe = small_target(tmp_path, semantic=None)
    broken = tmp_path / "source/train/lying/003.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (made,) = make(recipe, tmp_path / "out", Silent(), models=models, device="cpu")
    (row,) = (row for row in read_lines(made.folder / "manifest.jsonl") if row["status"] == "failed")
    assert (row["from"], row["stage"], made.kept) == ("train/lying/003.png", "read", 7)
    assert len(find_table_data(recipe, tmp_path / "out").matched) == 7


def test_results_that_depend_on_matched_images_belong_to_them_and_a_shard_of_the_table_makes_none(
        matched: tuple[Path, Recipe], tmp_path: Path) -> None:
    folder, recipe = matched
    shutil.copytree(folder / "out", tmp_path / "out")
    data = find_table_data(recipe, tmp_path / "out")
    before, after = ({row: key_of(recipe, tmp_path / "out", each, row, 0) for row in TITLES}
                     for each in (data, replace(data, matched=data.source)))
    assert {row for row in TITLES if before[row] != after[row]} == {"source", "translated_and_source", "oracle"}
    shutil.rmtree(tmp_path / "out" / "matched")
    with pytest.raises(RunError, match="a shard makes none"):
        train_rows(recipe, tmp_path / "out", Silent(), shard=Shard(1, 2), device="cpu")


def test_a_set_that_was_made_without_matching_is_not_taken_for_one_with_it(
        matched: tuple[Path, Recipe], tmp_path: Path) -> None:
    plain = small_target(tmp_path, match=None, semantic=None)
    models = [matched[0] / "out" / "translator"]
    make(plain, tmp_path / "out", Silent(), models=models, device="cpu")
    with pytest.raises(DataError, match=r"was made with adapt.match None, and the recipe says resolution"):
        evaluate(small_target(tmp_path, semantic=None), tmp_path / "out", Silent(), device="cpu")
    with pytest.raises(RunError, match="a shard makes none"):
        make(small_target(tmp_path, semantic=None), tmp_path / "out", Silent(), models=models, shard=Shard(1, 2),
             device="cpu")


@pytest.mark.parametrize("kind", ["histogram_matching", "pixel_distribution"])
def test_matching_of_grey_values_brings_their_means_nearer_to_the_targets(kind: str, tmp_path: Path) -> None:
    """The target is darker by 40. What resolution makes is compared above; FDA leaves the mean of 16 px as it was."""
    found = match(small_target(tmp_path, match=kind), tmp_path / "out")
    assert found.keys() == contents(tmp_path / "source").keys()

    def means(folder: Path) -> np.ndarray:
        return np.array([np.asarray(Image.open(path)).mean() for path in sorted(folder.rglob("*.png"))])

    target = means(tmp_path / "target" / "train").mean()
    before, after = (abs(means(folder) - target).mean() for folder in (tmp_path / "source", tmp_path / "out/matched"))
    assert after < before / 2


@pytest.mark.parametrize(("changes", "message"), [
    ({"every": {"evaluate": 8}}, "adapt.match: changes training images alone"),
    ({"data": {"kind": "unpaired", "a": "x", "b": "y", "image_a": {"channels": 1, "bits": 16},
               "image_b": {"channels": 1}}}, "adapt.match: knows images of 8 bits"),
    ({"data": {"kind": "unpaired", "a": "x", "b": "y", "image_a": {"channels": 1},
               "image_b": {"channels": 1, "bits": 16}}}, "image_a and image_b have 8 and 16 bits"),
    ({"data": {"kind": "unpaired", "a": "x", "b": "y", "image_a": {"channels": 1}, "image_b": {"channels": 1},
               "protect": {"folder": "m"}}}, "adapt.match: changes all pixels of A, and data has protected regions"),
])
def test_what_cannot_be_matched_is_named_before_anything_is_read(changes: dict[str, Any], message: str,
                                                                 tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        stripes_recipe(tmp_path, adapt={"match": "resolution"}, **changes)


