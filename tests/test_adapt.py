"""Adapted sets carry their labels over byte for byte, account for every image, and are put to a test that can fail."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import Tensor, nn
from torchmetrics.classification import MulticlassJaccardIndex

from tests.adaptation import (
    CLASSES,
    SIDE,
    briefly,
    contents,
    save,
    scene,
    scenes_recipe,
    stripes,
    stripes_recipe,
    write_image_folder,
    write_scenes,
    write_stripes,
)
from tests.cluster import Elsewhere
from tests.commands import call
from tests.runs import Silent
from translate.adapt import MadeSet, evaluate, make
from translate.adapt.examples import Examples, TrainingExamples
from translate.adapt.preservation import compare_opinions, is_held_out, summarise
from translate.adapt.table import RowName, examples_for, tabulate, wrong_about_labels
from translate.adapt.table_data import find_table_data
from translate.adapt.task_training import confusions, train_task
from translate.convert import Shard
from translate.data.hashing import stable_hash
from translate.data.labelled import check_labels
from translate.data.labelled_layouts import ClassesConfig, ImageFolderConfig, MasksConfig
from translate.errors import DataError, RecipeError, RunError
from translate.foreign import read_lines
from translate.images.reading import ImageConfig
from translate.metrics.segmentation import LabelScores, class_ious, totals
from translate.networks.task_networks import CNNConfig
from translate.recipe import Recipe

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe, Path, MadeSet]:
    """Scenes with label maps, their recipe, and what `make` has made of them."""
    folder = write_scenes(tmp_path_factory.mktemp("scenes"), 12)
    recipe = briefly(scenes_recipe(folder))
    return folder, recipe, folder / "out", make(recipe, folder / "out", Silent(), device="cpu")[0]


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe, Path, MadeSet]:
    """The same of stripes in folders of classes."""
    folder = write_stripes(tmp_path_factory.mktemp("stripes"), 12)
    recipe = stripes_recipe(folder)
    return folder, recipe, folder / "out", make(recipe, folder / "out", Silent(), device="cpu")[0]


# -- what a set is -----------------------------------------------------------------------------------------------------


def test_label_maps_are_byte_identical_and_names_and_sizes_stay(scenes: tuple[Path, Recipe, Path, MadeSet]) -> None:
    folder, recipe, _, made = scenes
    source, adapted = contents(folder / "source"), contents(made.folder)
    masks = {name for name in source if "/masks/" in name}
    assert len(masks) == 12 and all(adapted[name] == source[name] for name in masks)
    assert adapted.keys() == source.keys() | {"README.md", "manifest.jsonl"}
    assert all(adapted[name] != source[name] for name in source.keys() - masks), "images are translated"
    assert recipe.adapt is not None
    layout = recipe.adapt.source.model_copy(update={"folder": made.folder})
    check_labels(layout, layout.find("train", folder))  # the same layout reads it


def test_the_lines_of_an_imagefolder_are_carried_over_as_they_are(
        lines: tuple[Path, Recipe, Path, MadeSet], tmp_path: Path) -> None:
    write_stripes(tmp_path, 3)
    write_image_folder(tmp_path / "hf")
    layout = {"kind": "imagefolder", "folder": str(tmp_path / "hf"), "names": CLASSES["names"]}
    recipe = briefly(stripes_recipe(tmp_path, adapt={"source": layout}))
    (made,) = make(recipe, tmp_path / "out", Silent(), models=[lines[2] / "translator"], device="cpu")
    before = tmp_path / "hf" / "train" / "metadata.jsonl"
    assert (made.folder / "train" / "metadata.jsonl").read_bytes() == before.read_bytes()
    found = ImageFolderConfig(folder=made.folder, names=("upright", "lying")).find("train", tmp_path)
    assert found.labels == (0, 1, 0, 1, 0, 1)


def test_rejected_images_take_their_lines_with_them_and_leave_the_others_alone(
        lines: tuple[Path, Recipe, Path, MadeSet], tmp_path: Path) -> None:
    write_stripes(tmp_path, 3)
    write_image_folder(tmp_path / "hf", 12)
    layout = {"kind": "imagefolder", "folder": str(tmp_path / "hf"), "names": CLASSES["names"]}
    recipe = stripes_recipe(tmp_path, adapt={"source": layout, "reject": 0.5})
    (made,) = make(recipe, tmp_path / "out", Silent(), models=[lines[2] / "translator"], device="cpu")
    assert 0 < made.rejected < 12, "an untrained translator makes all stripes alike"
    rows = read_lines(made.folder / "manifest.jsonl")
    rejected = {row["from"] for row in rows if row["status"] == "rejected"}
    lines = (tmp_path / "hf" / "train" / "metadata.jsonl").read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if f"train/{json.loads(line)['file_name']}" not in rejected]
    assert (made.folder / "train" / "metadata.jsonl").read_bytes() == b"".join(kept) and len(rejected) == made.rejected
    assert all(row["changed"] == (row["from"] in rejected) for row in rows)
    assert len(ImageFolderConfig(folder=made.folder, names=("upright", "lying")).find("train", tmp_path)) == made.kept


def test_every_source_image_has_a_row_that_says_what_became_of_it(scenes: tuple[Path, Recipe, Path, MadeSet]) -> None:
    folder, _, _, made = scenes
    rows = read_lines(made.folder / "manifest.jsonl")
    images = sorted((folder / "source" / "train" / "images").iterdir())
    assert [row["from"] for row in rows] == [f"train/images/{path.name}" for path in images]
    for row in rows:
        for file, digest in ((row["image"], row["sha256"]), (row["label"], row["label_sha256"])):
            assert hashlib.sha256((made.folder / file).read_bytes()).hexdigest() == digest
    assert hashlib.sha256((made.folder / "manifest.jsonl").read_bytes()).hexdigest() == made.hash
    card = (made.folder / "README.md").read_text()
    assert "scenes" in card and "kind: masks" in card and "Licence of the source" in card


def test_an_image_that_cannot_be_translated_is_accounted_for_and_its_label_left_out(
        lines: tuple[Path, Recipe, Path, MadeSet], tmp_path: Path) -> None:
    broken = write_stripes(tmp_path, 4) / "source" / "train" / "lying" / "003.png"
    recipe = briefly(stripes_recipe(tmp_path))
    make(recipe, tmp_path / "out", Silent(), models=[lines[2] / "translator"], device="cpu")

    class Breaking(Silent):
        def say(self, line: str) -> None:
            if line.startswith("set 1: weights"):  # all has been looked at; now the disk goes
                broken.write_bytes(broken.read_bytes()[:60])

    (made,) = make(recipe, tmp_path / "out", Breaking(), models=[lines[2] / "translator"], device="cpu")
    assert (made.kept, made.rejected, made.failed, made.total) == (7, 0, 1, 8)
    (row,) = (row for row in read_lines(made.folder / "manifest.jsonl") if row["status"] == "failed")
    assert row["from"] == "train/lying/003.png" and "read" in row["message"]
    assert not (made.folder / "train" / "lying" / "003.png").exists()


def test_each_variant_is_a_set_of_its_own_translator(tmp_path: Path) -> None:
    recipe = briefly(stripes_recipe(write_stripes(tmp_path, 4)), variants=2, semantic=None)
    first, second = make(recipe, tmp_path / "out", Silent(), device="cpu")
    assert (first.folder.name, second.folder.name) == ("set", "set-2") and first.hash != second.hash
    one, two = contents(first.folder), contents(second.folder)
    assert one.keys() == two.keys() and one["train/lying/000.png"] != two["train/lying/000.png"]


def test_a_label_that_was_put_right_is_in_the_set_though_nothing_else_has_changed(
        scenes: tuple[Path, Recipe, Path, MadeSet], tmp_path: Path) -> None:
    """That of an image which the judge was not trained on: no network changes with it."""
    recipe, name = briefly(scenes_recipe(write_scenes(tmp_path, 3))), "021.png"
    assert is_held_out(name)
    for kind in ("images", "masks"):
        place = tmp_path / "source" / "train" / kind
        (place / "002.png").rename(place / name)
    (made,) = make(recipe, tmp_path / "out", Silent(), models=[scenes[2] / "translator"], device="cpu")
    label = tmp_path / "source" / "train" / "masks" / name
    save(label, np.flipud(scene(1)[1]))
    (again,) = make(recipe, tmp_path / "out", Silent(), models=[scenes[2] / "translator"], device="cpu")
    assert (again.folder / "train" / "masks" / name).read_bytes() == label.read_bytes() and again.hash != made.hash


def test_a_recipe_that_gains_a_stage_trains_its_translator_on(tmp_path: Path) -> None:
    recipe = briefly(stripes_recipe(write_stripes(tmp_path, 4)), semantic=None)
    (first,) = make(recipe, tmp_path / "out", Silent(), device="cpu")
    (longer,) = make(recipe.model_copy(update={"stages": 2 * recipe.stages}), tmp_path / "out", Silent(), device="cpu")
    assert json.loads((tmp_path / "out" / "translator" / "status.json").read_text())["images"] == 16
    assert longer.hash != first.hash


def test_models_that_are_named_are_taken_and_none_is_trained(lines: tuple[Path, Recipe, Path, MadeSet],
                                                             tmp_path: Path) -> None:
    _, recipe, out, made = lines
    (again,) = make(recipe, tmp_path / "out", Silent(), models=[out / "translator" / "release"], device="cpu")
    assert again.hash == made.hash and not (tmp_path / "out" / "translator").exists()


# -- interrupted, and shared -------------------------------------------------------------------------------------------


def start(recipe: Recipe, out: Path) -> tuple[Any, Any]:
    """Make in a forked process; returns it, and the number of calls its reporter has had."""
    context = multiprocessing.get_context("fork")
    told = context.Value("i", 0)

    class Counting(Silent):
        def progress(self, *_: Any, **__: Any) -> None:
            told.value += 1
            time.sleep(0.005)

    process = context.Process(target=lambda: make(recipe, out, Counting(), device="cpu"))
    process.start()
    return process, told


def check_kills(recipe: Recipe, out: Path, expected: MadeSet, num_kills: int) -> int:
    """Kill `make` again and again, each time after it has said something; returns how many kills met it at work."""
    chance, kills = random.Random(num_kills), 0
    for _ in range(num_kills):
        process, told = start(recipe, out)
        steps = chance.randrange(1, 40)
        while process.is_alive() and told.value < steps:
            time.sleep(0.002)
        if process.is_alive():
            assert told.value > 0
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        if (out / "set" / "manifest.jsonl").exists():  # whatever stands under this name is whole
            for row in read_lines(out / "set" / "manifest.jsonl"):
                assert hashlib.sha256((out / "set" / row["image"]).read_bytes()).hexdigest() == row["sha256"]
    (made,) = make(recipe, out, Silent(), device="cpu")
    assert made.hash == expected.hash
    assert contents(made.folder) == contents(expected.folder)
    return kills


@pytest.mark.slow
def test_a_set_that_was_killed_while_it_was_made_is_in_the_end_the_same(
        scenes: tuple[Path, Recipe, Path, MadeSet], tmp_path: Path) -> None:
    _, recipe, _, made = scenes
    assert check_kills(recipe, tmp_path / "out", made, 6) >= 4


@pytest.mark.slow
def test_fifty_kills_of_a_set_change_nothing_of_it(tmp_path: Path, record_property: Any) -> None:
    recipe = scenes_recipe(write_scenes(tmp_path, 60))
    (made,) = make(recipe, tmp_path / "whole", Silent(), device="cpu")
    record_property("kills at work, of 50", check_kills(recipe, tmp_path / "killed", made, 50))


def test_shards_and_a_cluster_make_what_one_process_makes(lines: tuple[Path, Recipe, Path, MadeSet], tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    _, recipe, out, made = lines
    models = [out / "translator"]
    for index in (2, 1):
        assert make(recipe, tmp_path / "out", Silent(), models=models, shard=Shard(index, 3), device="cpu") == []
    assert not (tmp_path / "out" / "set").exists()
    there = len(list((tmp_path / "out" / "translated").rglob("*.png")))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    (tmp_path / "elsewhere").mkdir()
    cluster: Any = Elsewhere(tmp_path / "elsewhere", 100)
    (whole,) = make(recipe, tmp_path / "out", Silent(), models=models, engine=cluster, device="cpu")
    assert whole.hash == made.hash and 0 < there < len(cluster.done) == whole.total


def test_a_shard_does_not_train(tmp_path: Path) -> None:
    recipe = stripes_recipe(write_stripes(tmp_path, 2))
    with pytest.raises(RunError, match="the translator is not trained yet, and a shard does not train"):
        make(recipe, tmp_path / "out", Silent(), shard=Shard(1, 2), device="cpu")


def test_another_threshold_makes_another_set_of_the_same_translations(
        lines: tuple[Path, Recipe, Path, MadeSet]) -> None:
    """And nothing made before is mistaken for it."""
    _, recipe, out, made = lines
    assert recipe.adapt is not None
    ledger = (out / "translated" / ".translate-ledger.jsonl").read_bytes()
    strict = recipe.model_copy(update={"adapt": recipe.adapt.model_copy(update={"reject": 0.5})})
    (other,) = make(strict, out, Silent(), device="cpu")
    assert other.rejected > 0 and other.hash != made.hash
    assert (out / "translated" / ".translate-ledger.jsonl").read_bytes() == ledger
    (again,) = make(recipe, out, Silent(), device="cpu")
    assert again.hash == made.hash


# -- what is refused before any training -------------------------------------------------------------------------------


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda place: (place / "masks" / "001.png").unlink(), "have no partner"),
    (lambda place: save(place / "masks" / "999.png", scene(1)[1]), "have no partner"),
    (lambda place: save(place / "masks" / "001.png", scene(1)[1][:, :30]), "they need one size"),
    (lambda place: save(place / "masks" / "001.png", scene(1)[1] + 3), "unknown class numbers 3, 4, 5"),
], ids=["missing label", "extra label", "other size", "unknown id"])
def test_labels_that_do_not_fit_are_named_before_anything_is_trained(spoil: Any, message: str, tmp_path: Path) -> None:
    recipe = scenes_recipe(write_scenes(tmp_path, 3))
    spoil(tmp_path / "source" / "train")
    with pytest.raises(DataError, match=message):
        make(recipe, tmp_path / "out", Silent(), device="cpu")
    assert not (tmp_path / "out").exists()


def test_names_that_could_not_stay_are_refused(tmp_path: Path) -> None:
    recipe = stripes_recipe(write_stripes(tmp_path, 2))
    save(tmp_path / "source" / "train" / "lying" / "x.gif", stripes(1, False))
    with pytest.raises(DataError, match=r"x.gif: .gif cannot hold a translation"):
        make(recipe, tmp_path / "out", Silent(), device="cpu")


def test_a_recipe_that_says_nothing_of_adaptation_is_told_so(tmp_path: Path) -> None:
    recipe = stripes_recipe(write_stripes(tmp_path, 2)).model_copy(update={"adapt": None})
    with pytest.raises(RecipeError, match="stripes: adapt: missing"):
        make(recipe, tmp_path / "out", Silent(), device="cpu")


@pytest.mark.parametrize(("changes", "message"), [
    ({"task": {"network": {"kind": "fcn"}}}, "task.network: fcn names every pixel"),
    ({"target": {"kind": "masks", "folder": "x", "classes": 2}}, "one has label maps and the other a class"),
    ({"target": {"kind": "classes", "folder": "x", "names": ["a", "b", "c"]}}, "2 and 3 classes"),
])
def test_parts_of_an_adaptation_that_do_not_fit_are_named(changes: dict[str, Any], message: str,
                                                          tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        stripes_recipe(tmp_path, adapt=changes)


# -- do the labels still hold? -----------------------------------------------------------------------------------------


class Transposing(nn.Module):
    """The failure at its worst: every upright stripe lies, every lying one is upright, and all look real."""

    def forward(self, images: Tensor) -> Tensor:
        return images.transpose(-1, -2)


def opinions_of(tmp_path: Path, generator: nn.Module) -> dict[str, Any]:
    """The report of a judge, trained on half of some stripes, about what a generator makes of all of them."""
    folder = write_stripes(tmp_path, 24)
    recipe = stripes_recipe(folder)
    assert recipe.adapt is not None
    layout = recipe.adapt.source
    found, grey = layout.find("train", folder), ImageConfig(channels=1)
    before = Examples.of(layout, found, grey, None)
    held = [number % 2 == 0 for number in range(len(before))]
    judge = train_task(recipe.adapt.task, before.part([n for n, out in enumerate(held) if not out]), 3, CPU)
    for path in found.files:
        image = torch.from_numpy(np.array(Image.open(path)))[None, None]
        save(folder / "made" / path.relative_to(found.images), generator(image)[0, 0].numpy())
    after = Examples(layout, [folder / "made" / path.relative_to(found.images) for path in found.files], found.labels,
                     grey, None)
    return summarise(list(compare_opinions(judge, before, after, CPU)), held, layout.class_names)


def test_a_translator_that_exchanges_classes_is_flagged_and_one_that_does_not_is_not(tmp_path: Path) -> None:
    report = opinions_of(tmp_path / "swapped", Transposing())
    assert report["flagged"] == ["upright", "lying"]
    assert report["all"]["changed"] > 0.9 and report["all"]["wrong_translated"] > 0.9
    assert report["all"]["wrong_untranslated"] < 0.1, "the control, of images the judge has not seen"
    assert report["all"]["num"] == 48 and report["all"]["num_held_out"] == 24
    plain = opinions_of(tmp_path / "plain", nn.Identity())
    assert plain["flagged"] == [] and plain["all"]["changed"] == 0


def test_opinions_about_pixels_are_counted_by_class_without_ignored_ones(tmp_path: Path) -> None:
    """Against a count written down pixel by pixel."""
    folder = write_scenes(tmp_path, 4)
    layout = MasksConfig(folder=folder / "source", classes=3)
    found, colour = layout.find("train", folder), ImageConfig(channels=3)
    other = MasksConfig(folder=folder / "target", classes=3).find("train", folder)
    torch.manual_seed(0)
    judge = nn.Conv2d(3, 3, 3, padding=1)
    before, after = Examples.of(layout, found, colour, None), Examples(layout, other.files, found.labels, colour, None)
    opinions = list(compare_opinions(judge, before, after, CPU))
    for number, opinion in enumerate(opinions):
        (image, truth), (translated, _) = before.whole(number), after.whole(number)
        first, second = (judge(each[None]).argmax(1)[0].numpy() for each in (image, translated))
        for label in range(3):
            pixels = [(int(first[row, column]), int(second[row, column])) for row in range(32) for column in range(32)
                      if truth[row, column, 0] == label]
            assert opinion.counted[label] == len(pixels)
            assert opinion.changed[label] == sum(one != two for one, two in pixels)
            assert opinion.wrong_before[label] == sum(one != label for one, _ in pixels)
            assert opinion.wrong_after[label] == sum(two != label for _, two in pixels)
    report = summarise(opinions, [False] * 4, layout.class_names)
    assert report["all"]["wrong_untranslated"] is None, "a share of nothing"


# -- the table ---------------------------------------------------------------------------------------------------------


def test_the_table_has_every_row_tested_on_real_target_labels(scenes: tuple[Path, Recipe, Path, MadeSet]) -> None:
    _, recipe, out, _ = scenes
    table = evaluate(recipe, out, Silent(), device="cpu")
    assert list(table["rows"]) == ["source", "histogram_matching", "fda", "pixel_distribution", "resolution",
                                   "translated", "translated_and_source", "oracle"]
    assert table["metric"] == "mIoU" and table["num_test"] == 12 and table["missing"] == []
    assert table["wrong_about_labels"].keys() == {"source", "oracle"}
    assert set(table["rows"]["oracle"]["class_ious"]) <= {"sky", "ground", "disc"}
    page = (out / "table.html").read_text()
    assert "resolution matching" in page and "wrong untranslated (control)" in page and "data:image/jpeg" in page
    before = (out / "results.jsonl").read_bytes()
    again = evaluate(recipe, out, Silent(), device="cpu")
    assert (out / "results.jsonl").read_bytes() == before and again["rows"] == table["rows"], "nothing is trained twice"
    assert json.loads((out / "table.json").read_text())["rows"].keys() == table["rows"].keys()


def test_without_target_training_labels_there_is_no_oracle_and_the_table_says_so(
        lines: tuple[Path, Recipe, Path, MadeSet]) -> None:
    _, recipe, out, _ = lines
    assert recipe.adapt is not None
    changed = briefly(recipe, target=recipe.adapt.target.model_copy(update={"train": "nowhere"}))
    table = evaluate(changed, out, Silent(), device="cpu")
    assert "oracle" not in table["rows"] and table["missing"][0].startswith("no oracle")
    assert table["rows"]["translated"]["gap_from_source"] is None
    assert table["rows"]["translated"]["value"]["half"] is None, "one seed has no interval"


def test_target_labels_that_cannot_be_used_are_named_before_the_table_trains(tmp_path: Path) -> None:
    """Those of the oracle too: it is not trained on what is left of them."""
    recipe = scenes_recipe(write_scenes(tmp_path, 3))
    place = tmp_path / "target" / "train" / "masks" / "001.png"
    save(place, scene(1)[1] + 3)
    (tmp_path / "out" / "set").mkdir(parents=True)
    with pytest.raises(DataError, match="unknown class numbers 3, 4, 5"):
        evaluate(recipe, tmp_path / "out", Silent(), device="cpu")


def test_the_control_is_of_the_images_that_the_set_has_kept(lines: tuple[Path, Recipe, Path, MadeSet]) -> None:
    """Of a set that is its own source, less some: no network can tell the two apart."""
    _, recipe, out, _ = lines
    data = find_table_data(recipe, out)
    kept = replace(data, translated=[data.source.part(range(5, 16))], places=[data.images])
    torch.manual_seed(2)
    network = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 2))
    found = wrong_about_labels(network, kept, 0, CPU)
    assert found["untranslated"] == found["translated"] and 0.1 < found["translated"] < 0.9


def test_a_table_before_a_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no adapted set yet; run: translate adapt make"):
        evaluate(stripes_recipe(write_stripes(tmp_path, 2)), tmp_path / "out", Silent(), device="cpu")


def test_miou_is_that_of_an_independent_confusion_matrix_with_ignored_pixels(tmp_path: Path) -> None:
    """Counted pixel by pixel, and by torchmetrics."""
    folder = write_scenes(tmp_path, 6)
    layout = MasksConfig(folder=folder / "target", classes=3)
    examples = Examples.of(layout, layout.find("train", folder), ImageConfig(channels=3), None)
    torch.manual_seed(1)
    network = nn.Conv2d(3, 3, 5, padding=2)
    found = confusions(network, examples, CPU)
    counted = np.zeros((3, 3), int)
    metric = MulticlassJaccardIndex(3, average="none", ignore_index=255)
    for number in range(len(examples)):
        image, truth = examples.whole(number)
        prediction = network(image[None]).argmax(1)[0]
        metric.update(prediction[None], torch.from_numpy(truth[None, ..., 0]))
        for row in range(32):
            for column in range(32):
                if truth[row, column, 0] != 255:
                    counted[truth[row, column, 0], int(prediction[row, column])] += 1
    whole = np.sum(found, axis=0)
    assert (whole[:, :3] == counted).all() and whole[:, 3].sum() == 0
    np.testing.assert_allclose(class_ious(whole), metric.compute().numpy(), rtol=1e-6)
    expected = np.mean([counted[k, k] / (counted[k].sum() + counted[:, k].sum() - counted[k, k]) for k in range(3)])
    np.testing.assert_allclose(np.nanmean(class_ious(whole)), expected)
    assert LabelScores(3).summarise([totals(each) for each in found])["miou"].value == pytest.approx(expected)


def test_the_numbers_of_a_table_are_means_t_intervals_paired_differences_and_parts_of_the_gap() -> None:
    """Of accuracies that are given, against scipy's own paired test and the arithmetic written out."""
    accuracies: dict[RowName, list[float]] = {
        "source": [0.50, 0.56, 0.44, 0.52], "fda": [0.60, 0.58, 0.62, 0.64], "resolution": [0.80, 0.82, 0.79, 0.83],
        "translated": [0.84, 0.85, 0.84, 0.88], "oracle": [0.98, 0.97, 0.99, 0.98]}
    results: dict[RowName, list[dict[str, Any]]] = {
        row: [{"confusion": [[round(1000 * value), 1000 - round(1000 * value), 0], [0, 0, 0]]} for value in values]
        for row, values in accuracies.items()}
    table = tabulate(results, ["a", "b"], per_pixel=False)
    assert table["strongest_classical"] == "resolution" and table["metric"] == "accuracy"
    row = table["rows"]["translated"]
    difference = stats.ttest_rel(accuracies["translated"], accuracies["resolution"]).confidence_interval(0.95)
    over = row["over_classical"]
    np.testing.assert_allclose([over["mean"] - over["half"], over["mean"] + over["half"]], [difference.low,
                                                                                           difference.high])
    alone = stats.ttest_1samp(accuracies["translated"], 0).confidence_interval(0.95)
    np.testing.assert_allclose(row["value"]["mean"] + row["value"]["half"], alone.high)
    mean = {name: np.mean(values) for name, values in accuracies.items()}
    np.testing.assert_allclose(row["gap_from_source"], (mean["translated"] - mean["source"]) / (
        mean["oracle"] - mean["source"]))
    np.testing.assert_allclose(row["gap_from_classical"], (mean["translated"] - mean["resolution"]) / (
        mean["oracle"] - mean["resolution"]))
    assert table["rows"]["source"]["over_source"] is None and table["rows"]["resolution"]["over_classical"] is None


def test_every_row_is_trained_on_what_its_name_says(lines: tuple[Path, Recipe, Path, MadeSet]) -> None:
    _, recipe, out, made = lines
    data = find_table_data(recipe, out)
    images = {row: examples_for(data, row, 0, data.translated[0]) for row in (
        "source", "histogram_matching", "fda", "pixel_distribution", "resolution", "translated",
        "translated_and_source", "oracle")}
    source = images["source"].read(0)
    assert images["translated"].files[0].is_relative_to(made.folder)
    assert images["translated_and_source"].files == images["translated"].files + images["source"].files
    assert all("target/train" in str(path) for path in images["oracle"].files)
    for row in ("histogram_matching", "fda", "pixel_distribution"):
        changed = images[row].read(0)
        assert changed.shape == source.shape and changed.dtype == source.dtype and (changed != source).any(), row
        other = examples_for(data, row, 1, data.translated[0]).read(0)  # type: ignore[arg-type]
        assert (other != changed).any(), "another seed draws other target images"
    for row in ("histogram_matching", "pixel_distribution"):
        key = stable_hash(row, 0, 0)
        like = np.array(Image.open(data.likes.files[key % len(data.likes)])).astype(float)
        changed = images[row].read(0).astype(float)
        assert abs(changed.mean() - like.mean()) < 6, f"{row}: as dark as a target image, and not darker"
        assert abs(changed.std() - like.std()) < 6, f"{row}: and of its contrast"
    assert (images["resolution"].read(0) == source).all(), "these have one resolution"


def test_resolution_matching_keeps_no_more_than_the_targets_pixels_say(
        lines: tuple[Path, Recipe, Path, MadeSet], tmp_path: Path) -> None:
    """A source image shrunk to 8 px by averages and enlarged again, as the target's images are."""
    folder = write_stripes(tmp_path, 2)
    for path in (folder / "target").rglob("*.png"):
        save(path, stripes(1, True)[:8, :8])
    recipe = briefly(stripes_recipe(folder, data={
        "kind": "unpaired", "a": str(folder / "source/train"), "b": str(folder / "target/train"), "resize": SIDE,
        "augment": [], "image_a": {"channels": 1}, "image_b": {"channels": 1}},
        adapt={"task": {"network": {"kind": "cnn", "width": 4, "downs": 1}, "resolution": SIDE, "resize": SIDE}}))
    make(recipe, tmp_path / "out", Silent(), models=[lines[2] / "translator"], device="cpu")
    data = find_table_data(recipe, tmp_path / "out")
    found = examples_for(data, "resolution", 0, data.translated[0]).read(0)
    source = examples_for(data, "source", 0, data.translated[0]).read(0)[..., 0]
    small = cv2.resize(source, (8, 8), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(small, source.reshape(8, 2, 8, 2).mean((1, 3)), atol=0.51)
    np.testing.assert_array_equal(found[..., 0], cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC))
    assert np.abs(found[..., 0].astype(float) - source).mean() > 5


# -- training a task network -------------------------------------------------------------------------------------------


def test_a_task_network_is_a_function_of_its_seed_and_of_nothing_else(
        lines: tuple[Path, Recipe, Path, MadeSet]) -> None:
    folder, recipe = lines[0], briefly(lines[1])
    assert recipe.adapt is not None
    found = recipe.adapt.source.find("train", folder)
    examples = Examples.of(recipe.adapt.source, found, ImageConfig(channels=1), None)

    def weights(seed: int, workers: int = 0) -> Tensor:
        torch.rand(seed + 1)  # what was drawn before does not matter
        network = train_task(recipe.adapt.task, examples, seed, CPU, workers)  # type: ignore[union-attr]
        return torch.cat([parameter.flatten() for parameter in network.parameters()])

    first = weights(0)
    assert torch.equal(first, weights(0)) and torch.equal(first, weights(0, workers=1))
    assert not torch.equal(first, weights(1))


def test_an_image_left_for_a_last_batch_of_its_own_ends_no_training(lines: tuple[Path, Recipe, Path, MadeSet]) -> None:
    """Pooled to one pixel, it is a single value a channel for batch norm, which torch refuses."""
    folder, recipe, _, _ = lines
    assert recipe.adapt is not None
    examples = Examples.of(recipe.adapt.source, recipe.adapt.source.find("train", folder), ImageConfig(channels=1), 8)
    task = recipe.adapt.task.model_copy(update={"network": CNNConfig(width=2, downs=3), "resolution": 8, "resize": 8,
                                                "images": 9, "batch_size": 4})
    told: list[tuple[int, int]] = []
    train_task(task, examples, 0, CPU, watch=lambda done, total: told.append((done, total)))
    assert told == [(4, 8), (8, 8)]


@pytest.mark.parametrize("workers", [0, 1])
def test_whatever_goes_wrong_with_an_example_is_an_error_that_names_its_file(
        workers: int, lines: tuple[Path, Recipe, Path, MadeSet]) -> None:
    folder, recipe, _, _ = lines
    assert recipe.adapt is not None

    def unpicklable(image: np.ndarray, number: int) -> np.ndarray:
        class LocalError(Exception):
            pass

        raise LocalError("cannot be pickled")

    found = recipe.adapt.source.find("train", folder)
    examples = Examples.of(recipe.adapt.source, found, ImageConfig(channels=1), None, unpicklable)
    with pytest.raises(DataError, match=r"source/train/\w+/\d+.png: LocalError: cannot be pickled"):
        train_task(recipe.adapt.task, examples, 0, CPU, workers)


def test_labels_are_cropped_and_flipped_with_their_images(tmp_path: Path) -> None:
    """Label maps that say what the image's red channel says, pixel by pixel."""
    for number in range(4):
        image, labels = scene(number)
        image[..., 0] = labels
        save(tmp_path / "train" / "images" / f"{number}.png", image)
        save(tmp_path / "train" / "masks" / f"{number}.png", labels)
    recipe = scenes_recipe(tmp_path)
    assert recipe.adapt is not None
    layout = MasksConfig(folder=tmp_path, classes=3)
    task = recipe.adapt.task.model_copy(update={"augment": ("flip", "flip_vertical", "rotate90"), "images": 24})
    examples = Examples.of(layout, layout.find("train", tmp_path), ImageConfig(channels=3), None)
    crops = set()
    for number in range(24):
        image, label = TrainingExamples(examples, task, 0).sample(number)
        assert torch.equal(((image[0] + 1) * 127.5).round().long(), label) and label.shape == (24, 24)
        crops.add(label.numpy().tobytes())
    assert len(crops) > 12


OPTIONS: dict[str, Any] = {
    "resolution": 12, "resize": 24, "images": 24, "batch_size": 4, "lr": 0.1, "weight_decay": 0.5, "augment": ["flip"],
    "network": {"kind": "cnn", "width": 8, "downs": 1}}


def test_every_option_of_an_adaptation_changes_what_comes_of_it(lines: tuple[Path, Recipe, Path, MadeSet]) -> None:
    """Else it would be a dead one. Those of the layouts are tried in test_labelled.py, those of the loss in
    test_semantic.py; reject, variants and seeds above."""
    folder, recipe = lines[0], briefly(lines[1])
    assert recipe.adapt is not None and set(OPTIONS) == set(type(recipe.adapt.task).model_fields)
    grey, found = ImageConfig(channels=1), recipe.adapt.source.find("train", folder)

    def trained(**changes: Any) -> tuple[float, ...]:
        task = stripes_recipe(folder, adapt={"task": recipe.adapt.task.model_dump() | changes}).adapt.task  # type: ignore
        examples = Examples.of(recipe.adapt.source, found, grey, task.resize)  # type: ignore[union-attr]
        return tuple(torch.cat([each.flatten() for each in train_task(task, examples, 0, CPU).parameters()]).tolist())

    before = trained()
    for option, value in OPTIONS.items():
        assert trained(**{option: value}) != before, option
    other = ClassesConfig(folder=folder / "source", names=("lying", "upright"))
    assert other.find("train", folder).labels != found.labels


# -- the command line, and the whole path ------------------------------------------------------------------------------


def test_the_commands_make_a_set_and_show_the_table(tmp_path: Path, said: io.StringIO,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = briefly(stripes_recipe(write_stripes(tmp_path, 4)), seeds=2)
    (tmp_path / "stripes.yaml").write_text(recipe.dump_yaml())
    words = (tmp_path / "stripes.yaml", "--out", tmp_path / "out", "--device", "cpu")
    assert call(monkeypatch, "adapt", "evaluate", *words) == 2
    assert call(monkeypatch, "adapt", "make", *words) == 0
    printed = said.getvalue()
    assert "8 kept, 0 rejected, 0 failed, of 8 images" in printed and "wrong untranslated" in printed
    assert call(monkeypatch, "adapt", "evaluate", *words, "--set", "adapt.seeds=1") == 0
    assert "translated + source" in said.getvalue() and "oracle (target labels)" in said.getvalue()
    monkeypatch.setenv("DIPTYCH_RUNS", str(tmp_path / "runs"))
    assert call(monkeypatch, "adapt", "make", "monet2photo") == 2 and "adapt: missing" in said.getvalue()


@pytest.mark.slow
def test_the_segmentation_case_runs_from_translation_to_the_table(tmp_path: Path, record_property: Any) -> None:
    """Rendered scenes of 32 px: the target's colours are exchanged, darker and noisy. What is learnt from translations
    must tell the target's scenes apart better than what is learnt from the source alone."""
    folder = write_scenes(tmp_path, 60)
    recipe = scenes_recipe(
        folder, translator={"kind": "cyclegan", "generator": {"kind": "resnet", "width": 8, "blocks": 1}, "pool": 20,
                            "discriminator": {"kind": "patchgan", "width": 12, "layers": 1},
                            "weights": {"identity": 0.0}},
        stages=[{"resolution": 24, "images": 2400, "batch_size": 4}],
        adapt={"task": {"network": {"kind": "fcn", "width": 8, "downs": 2}, "resolution": 32, "images": 1600,
                        "batch_size": 8, "lr": 0.005, "augment": ["flip"]}, "seeds": 2,
               "semantic": {"weight": 1.0, "back": 0.0}})
    (made,) = make(recipe, tmp_path / "out", Silent(), device="cpu")
    assert made.kept == 60
    table = evaluate(recipe, tmp_path / "out", Silent(), device="cpu")
    for name, row in table["rows"].items():
        record_property(name, row["value"])
    rows = table["rows"]
    assert rows["oracle"]["value"]["mean"] > 0.8
    assert rows["translated"]["value"]["mean"] > rows["source"]["value"]["mean"]
