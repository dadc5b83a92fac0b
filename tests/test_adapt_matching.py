"""Source images made like the target before a translator sees them: which, where they lie, what they change."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.adaptation import SIDE, contents, save, stripes, stripes_recipe, write_stripes
from tests.runs import Silent
from translate.adapt import evaluate, make, prepare
from translate.adapt.kept import read_record
from translate.adapt.table_data import find_table_data
from translate.convert import Shard
from translate.errors import DataError, RecipeError, RunError
from translate.recipe import Recipe
from translate.runs.folder import load_saved


def small_target(folder: Path, **adapt: Any) -> Recipe:
    """Stripes whose target has half the source's resolution, and a recipe that matches it."""
    write_stripes(folder, 4)
    for path in (folder / "target").rglob("*.png"):
        save(path, np.asarray(Image.open(path))[::2, ::2])
    task = {"network": {"kind": "cnn", "width": 4, "downs": 1}, "resolution": SIDE, "resize": SIDE, "images": 80}
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
        seen = record["made_from"]["examples"]
        assert seen == data.matched.digest if network == "task" else seen != data.source.digest


def test_matched_images_are_made_again_where_one_or_the_source_has_changed_and_else_kept(
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


def test_a_set_that_was_made_without_matching_is_not_taken_for_one_with_it(tmp_path: Path) -> None:
    plain = small_target(tmp_path, match=None, semantic=None)
    models = [tmp_path / "out" / "translator"]
    make(plain, tmp_path / "out", Silent(), device="cpu")
    with pytest.raises(DataError, match=r"was made with adapt.match None, and the recipe says resolution"):
        evaluate(small_target(tmp_path, semantic=None), tmp_path / "out", Silent(), device="cpu")
    with pytest.raises(RunError, match="a shard makes none"):
        make(small_target(tmp_path, semantic=None), tmp_path / "out", Silent(), models=models, shard=Shard(1, 2),
             device="cpu")


@pytest.mark.parametrize("kind", ["histogram_matching", "fda", "pixel_distribution", "resolution"])
def test_every_kind_of_matching_makes_other_images_for_the_translator(kind: str, tmp_path: Path) -> None:
    recipe = small_target(tmp_path, match=kind, semantic=None)
    prepare(recipe, tmp_path / "out", Silent(), device="cpu")
    found = contents(tmp_path / "out" / "matched")
    assert found.keys() == contents(tmp_path / "source").keys()
    for name in found:
        image, source = (np.asarray(Image.open(place / name)) for place in (tmp_path / "out/matched",
                                                                           tmp_path / "source"))
        assert image.shape == source.shape and (image != source).any()


@pytest.mark.parametrize(("changes", "message"), [
    ({"every": {"evaluate": 8}}, "adapt.match: changes training images alone"),
    ({"data": {"kind": "unpaired", "a": "x", "b": "y", "image_a": {"channels": 1, "bits": 16},
               "image_b": {"channels": 1}}}, "adapt.match: knows images of 8 bits"),
    ({"data": {"kind": "unpaired", "a": "x", "b": "y", "image_a": {"channels": 1}, "image_b": {"channels": 1},
               "protect": {"folder": "m"}}}, "adapt.match: changes all pixels of A, and data has protected regions"),
])
def test_what_cannot_be_matched_is_named_before_anything_is_read(changes: dict[str, Any], message: str,
                                                                 tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        stripes_recipe(tmp_path, adapt={"match": "resolution"}, **changes)


