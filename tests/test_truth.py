"""A truth exists where the recipe says so, and not where files are numbered alike: in training, `evaluate`, report."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.commands import call
from tests.conftest import waves
from tests.runs import Silent, cyclegan_recipe
from translate.data.check import check
from translate.data.layouts import UnpairedConfig
from translate.errors import DataError, RunError
from translate.evaluation.heldout import HeldOut
from translate.evaluation.label_maps import evaluate_labels
from translate.evaluation.scoring import evaluate_folder, evaluate_run
from translate.foreign import read_lines
from translate.recipe import Recipe, find_recipe, load_recipe
from translate.report.showcase import make_shown
from translate.runs.folder import refuse_changes
from translate.training.loop import train


def save(path: Path, number: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(waves(number, (24, 28))).save(path)
    return path


def write(folder: Path, name_a: str, name_b: str, test: str = "test") -> Path:
    """Two sets with nothing in common but the numbers in their names."""
    for split in ("train", test):
        for number in range(1, 4):
            save(folder / f"{split}A" / name_a.format(number), number)
            save(folder / f"{split}B" / name_b.format(number), 50 + number)
    return folder


def recipe_of(home: Path, /, **data: Any) -> Recipe:
    return cyclegan_recipe(home, data={"kind": "unpaired", "folder": str(home), "resize": None} | data,
                           stages=[{"resolution": 16, "images": 4, "batch_size": 2}],
                           every={"log": 4, "sample": None, "checkpoint": 4, "evaluate": "auto"})


ALIKE = [("horse ({}).png", "zebra ({}).png"), ("{}.png", "{}.png"), ("day1/{}.png", "day1/{}.png"),
         ("A_{}.png", "B_{}.png")]


@pytest.mark.parametrize("names", ALIKE, ids=lambda names: names[0])
@pytest.mark.parametrize("test", ["test", "val"])
def test_files_that_are_numbered_alike_are_no_pairs(names: tuple[str, str], test: str, tmp_path: Path) -> None:
    """PSNR and SSIM of horses against unrelated zebras chose which checkpoint was the best."""
    folder = write(tmp_path, *names, test)
    held_out = HeldOut(recipe_of(folder), tmp_path)
    assert not held_out.paired and held_out.pair(0)[1] is None
    (note,) = [finding.what for finding in check(recipe_of(folder).data) if "names alone" in finding.what]
    assert note.startswith("3 test images of A are named like test images of B, such as ") and "truth: true" in note
    known = HeldOut(recipe_of(folder, truth=True), tmp_path)
    assert known.paired and known.pair(0)[1] is not None
    assert not any("names alone" in finding.what for finding in check(recipe_of(folder, truth=True).data))


def test_two_folders_of_ones_own_are_no_pairs_either(tmp_path: Path) -> None:
    folder = write(tmp_path, "{}.png", "{}.png")
    sides = {"folder": None, "a": folder / "trainA", "b": folder / "trainB", "test_a": folder / "testA",
             "test_b": folder / "testB"}
    sides = {name: value and str(value) for name, value in sides.items()}
    assert HeldOut(recipe_of(folder, **sides), tmp_path).pair(0)[1] is None
    assert HeldOut(recipe_of(folder, **sides, truth=True), tmp_path).pair(0)[1] is not None


def test_a_training_its_scores_and_its_report_take_no_truth_from_names(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", "horse ({}).png", "zebra ({}).png")
    report = Silent()
    train(recipe_of(folder), tmp_path / "run", report)
    assert any("horse (1).png and zebra (1).png; names alone make no pairs" in line for line in report.lines)
    assert any(line.startswith("no held-out scores: the truth of the test images is not") for line in report.lines)
    assert not any(record["kind"] == "evaluation" for record in read_lines(tmp_path / "run" / "metrics.jsonl"))
    assert all("truth" not in shown.pictures for shown in make_shown(tmp_path / "run", recipe_of(folder)))
    results = evaluate_run(tmp_path / "run").as_json()
    assert not results["paired"] and "psnr" not in results["metrics"]
    assert any("which image is whose is not known; where test images" in line for line in results["missing"])


def test_what_the_recipe_says_of_pairs_must_be_so(tmp_path: Path) -> None:
    """Else there would be no scores, or scores of some pairs alone."""
    folder = write(tmp_path, "{}.png", "{}.png")
    save(folder / "testA" / "9.png", 9)
    recipe = recipe_of(folder, truth=True)
    with pytest.raises(DataError, match=r"data.truth says that test images are pairs, and 1 of 4 and 0 of 3.*9\.png"):
        HeldOut(recipe, tmp_path)
    (finding,) = [finding for finding in check(recipe.data) if finding.severity == "error"]
    assert finding.path.name == "9.png" and "has no partner" in finding.what
    (folder / "testA" / "9.png").unlink()
    Image.fromarray(waves(1, (24, 20))).save(folder / "testB" / "2.png")
    assert ["is 28×24, and its partner" in finding.what for finding in check(recipe.data)
            if finding.severity == "error"] == [True]


def test_the_truth_of_the_shipped_recipes_is_known_where_their_card_holds_pairs() -> None:
    for name, known in (("earth_unpaired", True), ("earth_cut", True), ("earth", True), ("monet2photo", False),
                        ("horse2zebra", False), ("digits", False)):
        assert load_recipe(find_recipe(name)).data.truth_is_known == known, name


def test_a_run_goes_on_when_its_recipe_learns_to_say_what_is_true(tmp_path: Path) -> None:
    """`translate train earth_unpaired --resume` of a run that an earlier version began."""
    before, now = recipe_of(tmp_path), recipe_of(tmp_path, truth=True)
    refuse_changes(before, now, tmp_path)
    with pytest.raises(RunError, match="resize"):
        refuse_changes(before, recipe_of(tmp_path, truth=True, resize=40), tmp_path)
    assert isinstance(now.data, UnpairedConfig)


# -- folders that any tool has made ------------------------------------------------------------------------------------


def test_names_that_are_merely_alike_are_no_pairs_unless_that_is_asked_for(tmp_path: Path) -> None:
    """`evaluate OUT --against testB` of a CycleGAN compared each zebra that was made with an unrelated one."""
    for number in range(4):
        save(tmp_path / "made" / f"horse ({number}).png", number)
        save(tmp_path / "real" / f"zebra ({number}).png", number)
    results = evaluate_folder(tmp_path / "made", tmp_path / "real")
    assert not results.about["paired"] and "l1" not in results.scores
    assert any("--truth takes horse (0).png and zebra (0).png for a pair" in line for line in results.missing)
    assert evaluate_folder(tmp_path / "made", tmp_path / "real", truth=True).scores["l1"].value == 0
    with pytest.raises(DataError, match="no name is like one of"):
        evaluate_folder(shutil.copytree(tmp_path / "made", tmp_path / "other") and save(
            tmp_path / "lone" / "x.png", 1).parent, tmp_path / "real", truth=True)


def test_sets_of_equal_names_can_be_compared_as_sets(tmp_path: Path, said: io.StringIO,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        save(tmp_path / "made" / f"{number}.png", number)
        save(tmp_path / "real" / f"{number}.png", number + 50)
    words = ("evaluate", tmp_path / "made", "--against", tmp_path / "real", "--json", tmp_path / "r.json")
    assert call(monkeypatch, *words) == 0 and json.loads((tmp_path / "r.json").read_text())["paired"]
    assert "(3 images, each against the real one of its name)" in " ".join(said.getvalue().split())
    assert call(monkeypatch, *words, "--no-truth") == 0
    assert not json.loads((tmp_path / "r.json").read_text())["paired"]
    assert "(3 images, 3 real ones)" in " ".join(said.getvalue().split())
    assert call(monkeypatch, *words, "--classes", 3, "--truth") == 2


def test_files_that_pair_with_nothing_are_named_and_the_others_scored(tmp_path: Path) -> None:
    """One picture in excess, as `make demo` leaves it among its outputs, and nothing at all was scored by pairs."""
    for number in range(5):
        save(tmp_path / "made" / f"{number}.png", number)
        save(tmp_path / "real" / f"{number}.jpg", number)
        save(tmp_path / "origin" / f"{number}.png", number + 20)
    alone = evaluate_folder(tmp_path / "made", tmp_path / "real", tmp_path / "origin")
    save(tmp_path / "made" / "demo.png", 7)
    save(tmp_path / "real" / "more.jpg", 8)
    results = evaluate_folder(tmp_path / "made", tmp_path / "real", tmp_path / "origin")
    assert results.about["paired"] and results.about["num_images"] == results.about["num_reals"] == 5
    assert {name: score.value for name, score in results.scores.items()} == {
        name: score.value for name, score in alone.scores.items()}
    assert results.baselines["identity"].keys() == alone.baselines["identity"].keys() and "l1" in alone.baselines[
        "identity"]
    said = "\n".join(results.missing)
    assert "scores of 1 in" in said and "made/demo.png" in said and "real/more.jpg" in said
    (tmp_path / "origin" / "3.png").unlink()
    missing = "\n".join(evaluate_folder(tmp_path / "made", tmp_path / "real", tmp_path / "origin").missing)
    assert "need a source of each image's name; without one in" in missing and "made/3.png" in missing


def test_a_part_of_the_truths_is_enough_and_a_few_names_by_chance_are_not(tmp_path: Path) -> None:
    for number in range(8):
        save(tmp_path / "real" / f"{number}.png", number)
    for number in (2, 3):
        save(tmp_path / "made" / f"{number}.png", number)
    results = evaluate_folder(tmp_path / "made", tmp_path / "real")
    assert results.scores["l1"].value == 0 and results.about["num_reals"] == 2
    for number in range(20, 24):
        save(tmp_path / "made" / f"{number}.png", number)
    results = evaluate_folder(tmp_path / "made", tmp_path / "real")
    assert not results.about["paired"] and results.about["num_images"] == 6
    assert any("4 of 6 have none in" in line and "made/20.png" in line for line in results.missing)


def test_label_maps_that_pair_with_nothing_are_named_and_the_others_scored(tmp_path: Path) -> None:
    for folder in ("made", "truth"):
        for number in range(3):
            path = tmp_path / folder / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(waves(number, (16, 16))[..., 0] // 128).save(path)
    (tmp_path / "made" / "1.png").rename(tmp_path / "made" / "demo.png")
    results = evaluate_labels(tmp_path / "made", tmp_path / "truth", 2)
    assert results.scores["miou"].value == 1 and results.about["num_images"] == 2
    said = "\n".join(results.missing)
    assert "made/demo.png" in said and "truth/1.png" in said
    for number, path in enumerate(sorted((tmp_path / "made").iterdir())):
        path.rename(path.with_name(f"{'xyz'[number]}.png"))
    with pytest.raises(DataError, match="none of its label maps has the name of one in"):
        evaluate_labels(tmp_path / "made", tmp_path / "truth", 2)
