"""Labels of which nothing can be learnt, and truths by which nothing can be scored, are named before anything is made
of them; and what is said to be done about it helps."""

from __future__ import annotations

import io
import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.adaptation import scenes_recipe, stripes_recipe, write_scenes, write_stripes
from tests.commands import call
from tests.runs import Silent
from translate.adapt.checking import check_everything, label_findings
from translate.data.check import Finding, check
from translate.data.label_counts import LabelCounts, count_label_maps
from translate.data.labelled import check_labels
from translate.data.labelled_layouts import MasksConfig
from translate.data.labels import Labelling
from translate.data.layouts import LabelsConfig
from translate.errors import DataError
from translate.evaluation.label_maps import evaluate_labels
from translate.recipe import Recipe
from translate.runs.release import load_release
from translate.schema import validate
from translate.training.loop import train

SIDE = 24


def mask(foreground: int = 255, ground: int = 0, dtype: Any = np.uint8) -> np.ndarray:
    """A square on a ground, as most tools write masks."""
    made = np.full((SIDE, SIDE), ground, dtype)
    made[6:14, 6:14] = foreground
    return made


def write(folder: Path, *maps: np.ndarray) -> Path:
    """Label maps and images in the layouts `labels` and `masks` at once."""
    for split in ("train", "test"):
        for number, numbers in enumerate(maps):
            for place in (f"{split}_label", f"{split}/masks"):
                path = folder / place / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(numbers).save(path)
            for place in (f"{split}_img", f"{split}/images"):
                path = folder / place / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((*numbers.shape, 3), 9 * number, np.uint8)).save(path)
    return folder


def labels_recipe(folder: Path, **data: Any) -> Recipe:
    return validate(Recipe, {
        "name": "labels", "data": {"kind": "labels", "folder": str(folder), "classes": 2, "resize": None, **data},
        "translator": {"kind": "pix2pix", "generator": {"kind": "resnet", "width": 1, "blocks": 1},
                       "discriminator": {"kind": "patchgan", "width": 1, "layers": 1}},
        "stages": [{"resolution": 16, "images": 2}], "precision": "fp32", "workers": 0, "guard": None,
        "every": {"log": 2, "sample": None, "checkpoint": 2, "evaluate": None}}, "labels")


def errors(findings: list[Finding]) -> list[str]:
    return [f"{finding.what}; {finding.advice}" for finding in findings if finding.severity == "error"]


def counts_of(*maps: np.ndarray, classes: int = 2, ignore: int | None = 255) -> LabelCounts:
    labelling = Labelling(classes, ignore)
    counts = LabelCounts(labelling.names, ignore)
    for numbers in maps:
        counts.add(labelling.classes_in(numbers))
    return counts


def with_few(share: float, number: int, ground: int = 0, size: int = 1000) -> np.ndarray:
    made = np.full((size, size), ground, np.uint8)
    made.flat[:round(share * size * size)] = number
    return made


@pytest.mark.parametrize(("maps", "fault"), [
    ([mask()], "all pixels of its 1 labels that count are of one class, 0 (11.1 % of all pixels are ignored: 255)"),
    ([mask(0, 255)], "all pixels of its 1 labels that count are of one class, 0 (88.9 % of all pixels are ignored"),
    ([mask(1, 1), mask(1, 255)], "all pixels of its 2 labels that count are of one class, 1"),
    ([mask(0, 0)] * 3, "all pixels of its 3 labels that count are of one class, 0"),
    ([mask(255, 255)], "all pixels of its 1 labels are ignored (255), so that none of them counts"),
    ([with_few(0.00005, 1, 255)], "99.995 % of all pixels of its 1 labels are ignored (255), so that next to none"),
    ([with_few(0.00005, 1)], "99.995 % of all pixels of its 1 labels that count are of one class, 0"),
    ([mask(), with_few(0.0005, 1), with_few(0.1, 255)], "99.9"),  # strays of a resize between 0 and 255
])
def test_labels_that_leave_nothing_to_learn_have_a_fault(maps: list[np.ndarray], fault: str) -> None:
    """Who has masks of 0 and 255 lost a training to a network that says 0 everywhere and is always right."""
    assert fault in (counts_of(*maps).fault() or "")


@pytest.mark.parametrize("maps", [
    [mask(1)], [with_few(0.0005, 1)],  # a small lesion
    [with_few(0.02, 1, 255), with_few(0.02, 0, 255)],  # scribbles
    [mask(0, 0)] * 50 + [mask(1)], [mask(1, 255), mask(0, 255)]])
def test_rare_classes_and_few_labelled_pixels_have_none(maps: list[np.ndarray]) -> None:
    """An error would end a training that is fine."""
    assert counts_of(*maps).fault() is None


def test_what_is_rare_or_never_there_is_told() -> None:
    assert counts_of(mask(1)).warnings() == []
    assert counts_of(mask(1), classes=4).warnings() == ["holds no pixel of class 2, 3 (2 of 4 classes)"]
    (line,) = counts_of(with_few(0.002, 1)).warnings()
    assert line == "99.8 % of all pixels that count are of class 0"
    (line,) = counts_of(with_few(0.002, 0, 255), with_few(0.002, 1, 255)).warnings()
    assert line == "99.8 % of all pixels are ignored (255)"
    (line,) = counts_of(mask(1), classes=900, ignore=None).warnings()
    assert line.startswith("holds no pixel of class 2, 3, 4, 5, 6, 7, 8, 9 and 890 more (898 of 900")
    assert str(counts_of(mask(1), mask())) == "1,088 pixels of 2 of 2 classes, 64 ignored"


def test_masks_of_0_and_255_are_an_error_everywhere_before_anything_is_trained(tmp_path: Path) -> None:
    """All eight rows of an adaptation table were 100 %, and a pix2pix of labels was trained on one class."""
    folder = write(tmp_path / "data", mask(), mask())
    for found in (check(folder), check(LabelsConfig(folder=folder, classes=2))):
        (line,) = errors(found)
        assert line.startswith("label maps of train: all pixels of its 2 labels that count are of one class, 0")
        assert "write ids: {255: 1} into data in the recipe, or ignore: null" in line
    with pytest.raises(DataError, match=r"label maps: all pixels.*of one class, 0.*ids: {255: 1}"):
        train(labels_recipe(folder), tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()
    layout = MasksConfig(folder=folder, classes=2)
    with pytest.raises(DataError, match=r"of one class, 0.*ids: {255: 1} into this layout \(adapt in the recipe\)"):
        check_labels(layout, layout.find("train", tmp_path))


def test_what_is_said_to_be_done_helps(tmp_path: Path) -> None:
    """Advice that does not lead out is a dead end: it is taken here as it is written."""
    folder = write(tmp_path / "data", mask(), mask())
    (line,) = errors(check(folder))
    advised = yaml.safe_load("{" + re.search(r"ids: {.*?}", line)[0] + "}")  # type: ignore[index]
    config = LabelsConfig(folder=folder, classes=2, **advised)
    assert errors(check(config)) == []
    a = config.build("train", tmp_path).whole(0).a
    assert a[1].sum() == 64 and a[0].sum() == SIDE * SIDE - 64
    layout = MasksConfig(folder=folder, classes=2, **advised)
    counts = check_labels(layout, layout.find("train", tmp_path))
    assert counts.counted.tolist() == [2 * (SIDE * SIDE - 64), 128] and not counts.ignored
    report = Silent()
    train(labels_recipe(folder, **advised), tmp_path / "run", report)
    assert "label maps: 1,152 pixels of 2 of 2 classes" in report.lines
    assert load_release(tmp_path / "run").labels == config.labelling, "converted as it was trained"
    null = LabelsConfig(folder=folder, classes=256, ignore=None)
    assert errors(check(null)) == [] and null.build("train", tmp_path).whole(0).a[255].sum() == 64


def test_a_number_that_ids_leaves_out_stands_for_itself_unless_another_becomes_that_class(tmp_path: Path) -> None:
    folder = write(tmp_path, np.uint8([[0, 7, 8]]))
    for layout in (MasksConfig(folder=folder, classes=2, ids={7: 0, 8: 1}),
                   LabelsConfig(folder=folder, classes=2, ids={7: 0, 8: 1})):
        with pytest.raises(DataError, match="class numbers 0;"):
            if isinstance(layout, MasksConfig):
                check_labels(layout, layout.find("train", tmp_path))
            else:
                raise DataError(errors(check(layout))[0])
    kept = MasksConfig(folder=folder, classes=3, ids={7: 1, 8: 2})
    assert kept.read(folder / "train/masks/0.png").ravel().tolist() == [0, 1, 2]


@pytest.mark.parametrize("classes", [256, 300, 895])
def test_of_more_than_255_classes_none_vanishes(classes: int, tmp_path: Path) -> None:
    """Class 255 was ignored in label maps of 16 bits: a generator never saw it, and no score counted it."""
    numbers = mask(255, 254, np.uint16)
    numbers[0, 0] = classes - 1
    folder = write(tmp_path / "data", numbers)
    config = LabelsConfig(folder=folder, classes=classes)
    assert config.ignore is None and config.build("train", tmp_path).whole(0).a[255].sum() == 64 + (classes == 256)
    layout = MasksConfig(folder=folder, classes=classes)
    assert (layout.read(folder / "train/masks/0.png") == numbers[..., None]).all()
    assert check_labels(layout, layout.find("train", tmp_path)).counted[255] == 64 + (classes == 256)
    found = check(folder)
    assert errors(found) == [] and f"with {classes} classes" in found[0].what
    assert LabelsConfig(folder=folder, classes=255).ignore == 255 == MasksConfig(folder=folder, classes=2).ignore


def test_a_class_that_is_ignored_on_purpose_is_named(tmp_path: Path) -> None:
    """A run of an earlier version has ignore: 255 in its recipe whatever its classes, and goes on as it began."""
    folder = write(tmp_path, mask(255, 254, np.uint16))
    config = LabelsConfig(folder=folder, classes=300, ignore=255)
    assert not config.build("train", tmp_path).whole(0).a[255].any()
    (line,) = errors(check(config))
    assert "of one class, 254 (11.1 % of all pixels are ignored: 255)" in line


def test_a_training_looks_at_some_of_many_label_maps_and_at_all_before_it_refuses(tmp_path: Path) -> None:
    """Nine of ten label maps may well be empty, and the tenth is what is to be learnt."""
    folder = write(tmp_path, *[mask(0, 0)] * 9, mask(1))
    files = LabelsConfig(folder=folder, classes=2).build("train", tmp_path).files_a
    few = count_label_maps(Labelling(3), files, 5)
    assert few.num_labels == 10 and few.fault() is None
    Image.fromarray(mask(1)).save(files[0])
    few = count_label_maps(Labelling(3), files, 5)
    assert few.num_labels == 5 and few.warnings()[0].startswith("(of 5 of 10 label maps) holds no pixel of class 2")


# -- scores ------------------------------------------------------------------------------------------------------------


def scored(tmp_path: Path, prediction: np.ndarray, truth: np.ndarray) -> tuple[Path, Path]:
    for name, numbers in (("made", prediction), ("truth", truth)):
        (tmp_path / name).mkdir(exist_ok=True)
        Image.fromarray(numbers).save(tmp_path / name / "0.png")
    return tmp_path / "made", tmp_path / "truth"


@pytest.mark.parametrize(("prediction", "truth"), [
    (mask(0, 0), mask()), (mask(), mask()), (mask(0, 0), mask(0, 0)), (mask(1), mask(0, 255))])
def test_there_is_no_score_from_nothing(prediction: np.ndarray, truth: np.ndarray, tmp_path: Path) -> None:
    """An empty prediction had an mIoU of 1 against masks of 0 and 255."""
    made, real = scored(tmp_path, prediction, truth)
    with pytest.raises(DataError, match="all pixels of its 1 labels that count are of one class, 0"):
        evaluate_labels(made, real, 2)


def test_the_command_names_what_helps_and_scores_say_what_they_are_of(
        tmp_path: Path, said: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    made, truth = scored(tmp_path, mask(0, 0), mask())
    words = ("evaluate", made, "--against", truth, "--classes", 2)
    assert call(monkeypatch, *words) == 2
    assert "if 255 is a class, add --ids 255=1; --ignore none" in said.getvalue()
    assert call(monkeypatch, *words, "--ids", "255=1", "--json", tmp_path / "r.json") == 0
    document = json.loads((tmp_path / "r.json").read_text())
    ground = SIDE * SIDE - 64
    assert document["metrics"]["miou"]["value"] == pytest.approx(ground / SIDE / SIDE / 2)
    assert document["labels"] == {"text": "576 pixels of 2 of 2 classes", "counted": 576, "ignored": 0, "classes": 2,
                                  "present": 2, "of": "pixels", "by_class": {"0": ground, "1": 64}}
    assert "each against the real one of its name, 576 pixels of 2 of 2 classes)" in " ".join(said.getvalue().split())
    assert call(monkeypatch, *words[:-1], 256, "--ignore", "none", "--json", tmp_path / "r.json") == 0
    assert json.loads((tmp_path / "r.json").read_text())["metrics"]["miou"]["value"] == pytest.approx(
        document["metrics"]["miou"]["value"]), "classes that occur nowhere do not count"
    for options in (["--ids", "255"], ["--ids", "a=1"], ["--ignore", "x"], ["--ignore", "1"]):
        assert call(monkeypatch, *words, *options) == 2
    assert call(monkeypatch, *words[:4], "--ids", "255=1") == 2 and "add --classes N" in said.getvalue()
    assert call(monkeypatch, *words[:-1], 1) == 2


def test_classes_that_no_truth_holds_and_numbers_that_are_no_class_are_said(tmp_path: Path) -> None:
    made, truth = scored(tmp_path, mask(9), mask(1))
    results = evaluate_labels(made, truth, 3)
    assert results.missing[0].endswith("holds no pixel of class 2 (1 of 3 classes)")
    assert results.notes[0].startswith("64 pixels of ") and results.notes[0].endswith("counts as wrong")


@pytest.mark.parametrize(("prediction", "truth", "ids", "classes"), [
    (mask(1), mask(255), {255: 1}, True), (mask(1), mask(255), {0: 0, 255: 1}, True),  # a network's 0 and 1
    (mask(1, 0), mask(8, 7), {7: 0, 8: 1}, True),
    (mask(255), mask(255), {255: 1}, False), (mask(8, 7), mask(8, 7), {7: 0, 8: 1}, False)])
def test_predictions_in_class_numbers_are_read_beside_a_truth_of_others(
        tmp_path: Path, prediction: np.ndarray, truth: np.ndarray, ids: dict[int, int], classes: bool) -> None:
    """Who did as an error says, --ids 255=1, and had a network's 0 and 1 to score, could not: all were wrong."""
    made, real = scored(tmp_path, prediction, truth)
    results = evaluate_labels(made, real, 2, ids=ids)
    assert results.scores["miou"].value == 1
    assert any("are taken for classes as they are" in line for line in results.notes) == classes


@pytest.mark.parametrize(("prediction", "ids"), [
    (mask(1, 2), {255: 1}),  # a number that is no class
    (mask(1, 0), {0: 1, 255: 0}),  # --ids makes another class of one of them
    (mask(1, 255), {255: 1})])  # and of one that were ignored
def test_predictions_in_other_numbers_are_read_as_the_truth_is(tmp_path: Path, prediction: np.ndarray,
                                                               ids: dict[int, int]) -> None:
    made, real = scored(tmp_path, prediction, mask(255))
    results = evaluate_labels(made, real, 2, ids=ids)
    assert results.scores["miou"].value < 1 and "its numbers, like the truth's, are read by --ids" in \
        results.notes[-1]


def test_classes_already_are_told_from_all_predictions_together(tmp_path: Path) -> None:
    """A prediction of one class alone tells nothing of the numbers that all are in."""
    made, real = scored(tmp_path, mask(1), mask(255))
    for folder in (made, real):
        Image.fromarray(mask(255)).save(folder / "1.png")
    (line,) = evaluate_labels(made, real, 2, ids={255: 1}).notes
    assert line.startswith("64 pixels of ") and "read by --ids" in line


def test_of_many_classes_255_is_scored(tmp_path: Path) -> None:
    """It was ignored, and a prediction that had it wrong everywhere was perfect."""
    made, truth = scored(tmp_path, mask(254, 253, np.uint16), mask(255, 253, np.uint16))
    assert evaluate_labels(made, truth, 300, None).scores["pixel_accuracy"].value == pytest.approx(512 / 576)


def test_many_classes_take_little_memory(tmp_path: Path, said: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 895 classes the bootstrap drew a thousand tables of 6 MB, and of 10⁹ their names filled the machine."""
    made, truth = scored(tmp_path, mask(254, 894, np.uint16), mask(255, 894, np.uint16))
    for folder, image in ((made, mask(3, 894, np.uint16)), (truth, mask(3, 894, np.uint16))):
        Image.fromarray(image).save(folder / "1.png")
    tracemalloc.start()
    scores = evaluate_labels(made, truth, 895, None).scores
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()
    assert scores["pixel_accuracy"].value == pytest.approx(1 - 64 / 1152)
    assert call(monkeypatch, "evaluate", made, "--against", truth, "--classes", 10**9) == 2
    assert "expected 2 to 8,192" in said.getvalue()


# -- adaptation --------------------------------------------------------------------------------------------------------


def looked_at(recipe: Recipe, home: Path) -> list[str]:
    report = Silent()
    assert recipe.adapt is not None
    check_everything(recipe, recipe.adapt.source.find("train", home), home / "out", report, training=False)
    return report.lines


def test_a_class_that_the_targets_test_labels_lack_is_named_or_refused(tmp_path: Path) -> None:
    """Every row of the table was 100 %, the oracle's as well, where one class was left."""
    recipe = scenes_recipe(write_scenes(tmp_path, 3))
    lines = looked_at(recipe, tmp_path)
    assert any(re.fullmatch(r"target test labels: [\d,]+ pixels of 3 of 3 classes, \d+ ignored", line)
               for line in lines)
    assert looked_at(recipe, tmp_path) == lines, "told again where nothing is looked at again"
    for highest, expected in ((1, "holds no pixel of class disc (1 of 3 classes)"), (0, "are of one class, sky")):
        for path in (tmp_path / "target" / "test" / "masks").iterdir():
            numbers = np.array(Image.open(path))
            Image.fromarray(np.where(numbers == 255, 255, np.minimum(numbers, highest)).astype(np.uint8)).save(path)
        if highest:
            assert any(line.startswith("warning") and line.endswith(expected) for line in looked_at(recipe, tmp_path))
            assert any(expected in finding.what for finding in label_findings(recipe))
            continue
        with pytest.raises(DataError, match=expected):
            looked_at(recipe, tmp_path)
        assert any(expected in line for line in errors(label_findings(recipe)))


@pytest.mark.parametrize("place", ["source/train", "target/test", "target/train"])
def test_images_that_are_all_of_one_class_are_refused(place: str, tmp_path: Path) -> None:
    recipe = stripes_recipe(write_stripes(tmp_path, 2))
    for path in (tmp_path / place / "lying").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="all images of its 2 labels that count are of one class, upright; look at nam"):
        looked_at(recipe, tmp_path)
