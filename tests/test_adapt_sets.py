"""A set is whole and belongs to its recipe and source, or is refused; what the judge cannot tell, the report says."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

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
from tests.commands import call
from tests.covering import one_in
from tests.runs import Interrupted, Silent
from translate.adapt import MadeSet, evaluate, make
from translate.adapt.preservation import Opinion, summarise, warnings_of
from translate.adapt.table import key_of
from translate.adapt.table_data import find_table_data
from translate.cli.tables import preservation_table
from translate.convert import LEDGER
from translate.errors import DataError, RunError
from translate.foreign import read_lines
from translate.images.reading import ImageConfig
from translate.recipe import Recipe
from translate.schema import validate

Made = tuple[Path, Recipe, Path, MadeSet]
BLIND = {"network": {"kind": "cnn", "width": 4, "downs": 1}, "resolution": SIDE, "images": 8, "batch_size": 8,
         "lr": 1e-9}


def brief_stripes(folder: Path, **changes: Any) -> Recipe:
    return briefly(stripes_recipe(folder, **changes))


def brief_scenes(folder: Path, **changes: Any) -> Recipe:
    return briefly(scenes_recipe(folder, **changes))


class Once(dict[str, Path]):
    """Stripes and scenes with what `make` has made of them, each when it is first asked for."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __missing__(self, name: str) -> Path:
        write, recipe, num = {"stripes": (write_stripes, brief_stripes, 10),  # one of each class is held out
                              "scenes": (write_scenes, brief_scenes, 6)}[name]
        self[name] = write(self.folder / name, num)
        make(recipe(self[name]), self[name] / "out", Silent(), device="cpu")

        # The same images with a set by the translator that is there, for tests that spoil their own copy.
        by_model = self.folder / f"{name} by a model"
        shutil.copytree(self[name], by_model, ignore=lambda _, names: {"out"} & set(names))
        make(recipe(by_model), by_model / "out", Silent(), models=[self[name] / "out" / "translator"], device="cpu")
        return self[name]


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return Once(tmp_path_factory.mktemp("once"))


def copied(once: Path, folder: Path, recipe: Callable[..., Recipe]) -> tuple[Recipe, Path]:
    """A copy of the images to spoil, and of a set of them by the translator that is there: with its hard links."""
    subprocess.run(["cp", "-a", f"{once} by a model", folder], check=True)
    return recipe(folder), folder / "out"


def changed(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with other settings of `adapt`; those of its task network under their own names."""
    document = recipe.dump()
    task = {name: changes.pop(name) for name in ("images", "lr") if name in changes}
    document["adapt"] |= changes | {"task": document["adapt"]["task"] | task}
    return validate(Recipe, document, recipe.name)


# -- a judge that knows nothing ----------------------------------------------------------------------------------------


def test_a_judge_that_knows_nothing_is_said_to_know_nothing_wherever_its_report_is_shown(
        once: dict[str, Path], tmp_path: Path, said: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = stripes_recipe(write_stripes(tmp_path, 10), adapt={"task": BLIND, "semantic": None, "seeds": 1})
    (tmp_path / "stripes.yaml").write_text(recipe.dump_yaml())
    words = (tmp_path / "stripes.yaml", "--out", tmp_path / "out", "--device", "cpu")
    assert call(monkeypatch, "adapt", "make", *words, "--model", once["stripes"] / "out" / "translator") == 0
    report = json.loads((tmp_path / "out" / "preservation.json").read_text())
    (line,) = report["warnings"]
    assert line.endswith("of untranslated images: this check says little; train it longer (adapt.task.images)")
    assert report["all"]["wrong_untranslated"] > 0.25 and report["unsure"]
    assert f"warning: {line}" in said.getvalue() and f"- {line}" in (tmp_path / "out/set/README.md").read_text()
    assert call(monkeypatch, "adapt", "evaluate", *words) == 0
    assert line in (tmp_path / "out" / "table.html").read_text()


@pytest.mark.slow
def test_a_judge_that_knows_the_source_is_believed(tmp_path: Path) -> None:
    (made,) = make(stripes_recipe(write_stripes(tmp_path, 20)), tmp_path / "out", Silent(), device="cpu")
    report = made.report
    assert report["warnings"] == [] and report["unsure"] == [] and report["all"]["wrong_untranslated"] <= 0.25


def counts(*numbers: int) -> np.ndarray:
    return np.array(numbers)


def test_a_class_without_a_held_out_image_is_unknown_and_neither_flagged_nor_cleared() -> None:
    """All change; only the first class has a control."""
    seen = [Opinion(each, 0 * each, each, each) for each in (counts(1, 0, 0), counts(0, 1, 0))]
    report = summarise([*seen, *seen], [True, False, False, False], ["a", "b", "never there"])
    assert report["flagged"] == ["a"] and report["unknown"] == ["b"] and report["unsure"] == []
    (line,) = warnings_of(report, "images", False)
    assert line.startswith("of b no images were kept from the judge's training: how often it is wrong") \
        and "cannot be flagged" in line
    marks = list(map(str, preservation_table(report | {"of": "images"}, "").columns[0].cells))
    assert marks == ["a !", "b ?", "never there", "all"]


def test_one_class_that_the_judge_does_not_know_is_named_though_it_knows_the_others() -> None:
    known, wrong = Opinion(counts(90, 0), counts(2, 0), counts(2, 0), counts(0, 0)), Opinion(
        counts(0, 10), counts(0, 8), counts(0, 8), counts(0, 0))
    report = summarise([known, wrong], [True, True], ["sky", "pole"], [True, False])
    lines = warnings_of(report, "pixels", True)
    assert report["unsure"] == ["pole"] and "more than 25 % of untranslated pixels of pole" in lines[0]
    assert report["classes"]["sky"]["num_kept"] == 90 and report["lost"] == ["pole"]
    assert lines[1] == "nothing is left of pole: all of it was rejected (adapt.reject)"


# -- a set that is damaged is put together again -----------------------------------------------------------------------


def in_place(path: Path, old: bytes = b"IDAT") -> None:
    """Change a byte of a file, not its name: all of its hard links change."""
    with path.open("r+b") as file:
        file.seek(path.read_bytes().index(old) + 6)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 255]))


@pytest.mark.parametrize("spoil", one_in(8, [
    lambda out: (out / "set/train/images/003.png").unlink(),
    lambda out: in_place(out / "set/train/images/003.png"),
    lambda out: in_place(out / "translated/003.png"),
    lambda out: save(out / "set/train/masks/003.png", scene(99)[1]),
    lambda out: (out / "set/train/masks/003.png").unlink(),
    lambda out: shutil.copyfile(out / "set/train/images/003.png", out / "set/train/images/x.png"),
    lambda out: (out / "set/manifest.jsonl").write_text("{}\n"),
    lambda out: shutil.rmtree(out / "set"),
]), ids=["image deleted", "image edited in place", "translation edited in place", "label rewritten", "label deleted",
        "image added", "manifest broken", "set deleted"])
def test_a_damaged_set_is_noticed_and_made_whole(spoil: Callable[[Path], None], once: dict[str, Path],
                                                 tmp_path: Path) -> None:
    """In-place edits of a set go through its hard links into the staged translations, which are made again."""
    recipe, out = copied(once["scenes"], tmp_path / "scenes", brief_scenes)
    card = out / "set" / "README.md"  # quotes the recipe, which says where the images lie
    card.write_text(card.read_text().replace(f"{once['scenes']} by a model", str(tmp_path / "scenes")))
    before = contents(out / "set")
    assert (out / "set/train/images/003.png").samefile(out / "translated/003.png")
    spoil(out)
    assert contents(out / "set") != before
    report = Silent()
    make(recipe, out, report, models=[once["scenes"] / "out" / "translator"], device="cpu")
    assert contents(out / "set") == before
    assert any("put together again" in line for line in report.lines)


def test_the_metadata_of_an_imagefolder_is_covered_by_the_manifest(once: dict[str, Path], tmp_path: Path) -> None:
    write_stripes(tmp_path, 2)
    write_image_folder(tmp_path / "hf")
    layout = {"kind": "imagefolder", "folder": str(tmp_path / "hf"), "names": CLASSES["names"]}
    recipe, models = brief_stripes(tmp_path, adapt={"source": layout}), [once["stripes"] / "out" / "translator"]
    make(recipe, tmp_path / "out", Silent(), models=models, device="cpu")
    metadata = tmp_path / "out/set/train/metadata.jsonl"
    before = metadata.read_bytes()
    assert {row["label_sha256"] for row in read_lines(tmp_path / "out/set/manifest.jsonl")} == {
        hashlib.sha256(before).hexdigest()}
    metadata.write_bytes(before.replace(b"upright", b"lying", 1))
    with pytest.raises(DataError, match=r"metadata.jsonl is missing, or is not the one"):
        evaluate(recipe, tmp_path / "out", Silent(), device="cpu")
    make(recipe, tmp_path / "out", Silent(), models=models, device="cpu")
    assert metadata.read_bytes() == before


def test_the_ledger_of_a_conversion_knows_what_was_written(once: dict[str, Path]) -> None:
    staged = once["scenes"] / "out" / "translated"
    done = [row for row in read_lines(staged / LEDGER) if row["status"] == "done"]
    assert len(done) == 6
    for row in done:
        assert hashlib.sha256((staged / row["output"]).read_bytes()).hexdigest() == row["sha256"]


# -- what a table is refused for before it trains ----------------------------------------------------------------------


@pytest.mark.parametrize(("spoil", "message"), one_in(2, [
    (lambda place: [(place / f"source/train/{each}/003.png").unlink() for each in ("images", "masks")],
     "003.png is not there any more"),
    (lambda place: [save(place / f"source/train/{each}/new.png", scene(1)[number])
                    for number, each in enumerate(("images", "masks"))], "new.png is new"),
    (lambda place: save(place / "source/train/images/003.png", scene(98)[0]), "003.png is not the image that it was"),
    (lambda place: save(place / "source/train/masks/003.png", scene(98)[1]), "003.png is not the label map that it"),
    (lambda place: save(place / "out/set/train/masks/003.png", scene(98)[1]), "masks/003.png is missing, or is not"),
    (lambda place: (place / "out/set/train/images/003.png").unlink(), "images/003.png is missing, or is not"),
    (lambda place: (place / "out/set/manifest.jsonl").write_text("\n"), "manifest.jsonl is missing, or is not"),
]), ids=["source image gone", "source image new", "source image rewritten", "source label rewritten",
        "label of the set rewritten", "image of the set gone", "manifest broken"])
def test_a_set_that_is_not_whole_or_not_of_this_source_is_refused_by_name(
        spoil: Callable[[Path], None], message: str, once: dict[str, Path], tmp_path: Path) -> None:
    recipe, out = copied(once["scenes"], tmp_path / "scenes", brief_scenes)
    spoil(tmp_path / "scenes")
    with pytest.raises(DataError, match=f"{out}/set: .*{message}.*; run again: translate adapt make RECIPE"):
        evaluate(recipe, out, Silent(), device="cpu")
    assert not (out / "results.jsonl").exists(), "nothing was trained"


def test_a_source_image_that_was_given_another_class_is_refused(tmp_path: Path, once: dict[str, Path]) -> None:
    """In the only layout where an image keeps its name and its content with it."""
    write_stripes(tmp_path, 2)
    write_image_folder(tmp_path / "hf")
    layout = {"kind": "imagefolder", "folder": str(tmp_path / "hf"), "names": CLASSES["names"]}
    recipe = brief_stripes(tmp_path, adapt={"source": layout})
    make(recipe, tmp_path / "out", Silent(), models=[once["stripes"] / "out" / "translator"], device="cpu")
    metadata = tmp_path / "hf/train/metadata.jsonl"
    metadata.write_bytes(metadata.read_bytes().replace(b"upright", b"lying", 1))
    with pytest.raises(DataError, match=r"deep/0.png was of class upright and is now of lying; run again"):
        evaluate(recipe, tmp_path / "out", Silent(), device="cpu")


def test_a_set_of_another_recipe_is_refused(once: dict[str, Path]) -> None:
    recipe, out = brief_stripes(once["stripes"]), once["stripes"] / "out"
    with pytest.raises(DataError, match=r"made with adapt.reject None, and the recipe says 0.5; run again"):
        evaluate(changed(recipe, reject=0.5), out, Silent(), device="cpu")
    with pytest.raises(RunError, match=r"translator.semantic.weight: 1.0 → 3.0"):
        evaluate(changed(recipe, semantic={"weight": 3.0}), out, Silent(), device="cpu")
    longer = recipe.model_copy(update={"stages": 2 * recipe.stages})
    with pytest.raises(DataError, match="its translator is not finished under this recipe; run again"):
        evaluate(longer, out, Silent(), device="cpu")


@pytest.mark.slow
def test_the_table_takes_the_sets_of_the_last_make_and_says_how_many(tmp_path: Path) -> None:
    """Not what else begins with their name, and no set of an earlier call."""
    recipe, out = brief_stripes(write_stripes(tmp_path, 6)), tmp_path / "out"
    two = changed(recipe, variants=2)
    make(two, out, Silent(), device="cpu")
    (out / "settings").mkdir()
    assert len(find_table_data(two, out).translated) == 2
    make(recipe, out, Silent(), device="cpu")
    assert (out / "set-2").is_dir() and len(find_table_data(recipe, out).translated) == 1
    report = Silent()
    table = evaluate(two, out, report, device="cpu")
    assert table["num_sets"] == 1 and table["sets"] == ["set"] and table["variants"] == 2
    assert "trained on set (1 of 2 in adapt.variants)" in report.lines
    assert any(line.startswith("sets: 1 of 2 (adapt.variants)") for line in table["missing"])


@pytest.mark.parametrize("split", ["test", "train"])
def test_target_labels_of_which_nothing_counts_are_refused(split: str, once: dict[str, Path], tmp_path: Path) -> None:
    recipe, out = copied(once["scenes"], tmp_path / "scenes", brief_scenes)
    for path in (tmp_path / "scenes" / "target" / split / "masks").iterdir():
        save(path, np.full((32, 32), 255, np.uint8))
    with pytest.raises(DataError, match="target: all pixels of its 6 labels are ignored"):
        evaluate(recipe, out, Silent(), device="cpu")
    assert not (out / "results.jsonl").exists()


def test_source_labels_of_which_nothing_counts_are_refused(tmp_path: Path) -> None:
    recipe = brief_scenes(write_scenes(tmp_path, 3))
    for path in (tmp_path / "source" / "train" / "masks").iterdir():
        save(path, np.full((32, 32), 255, np.uint8))
    with pytest.raises(DataError, match="source: all pixels of its 3 labels are ignored"):
        make(recipe, tmp_path / "out", Silent(), device="cpu")


def test_a_table_says_what_it_was_tested_on_and_what_not(once: dict[str, Path], tmp_path: Path) -> None:
    """Scores of two classes stood there as if they were of all three."""
    recipe, out = copied(once["scenes"], tmp_path / "scenes", brief_scenes)
    for path in (tmp_path / "scenes" / "target" / "test" / "masks").iterdir():
        save(path, np.where(scene(int(path.stem) + 1000, True)[1] == 0, 0, 1).astype(np.uint8))
    data = find_table_data(recipe, out)
    assert data.missing == ("target test labels: holds no pixel of class disc (1 of 3 classes); no score of the table "
                            "says anything about it",)
    assert str(data.tested) == "6,144 pixels of 2 of 3 classes"


def test_one_unreadable_source_image_does_not_cost_the_table(once: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "stripes"
    shutil.copytree(once["stripes"], folder)
    recipe = brief_stripes(folder)
    broken = folder / "source/train/lying/003.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (made,) = make(recipe, folder / "new", Silent(), models=[once["stripes"] / "out/translator"], device="cpu")
    assert made.failed == 1
    report = Silent()
    table = evaluate(recipe, folder / "new", report, device="cpu")
    assert table["num_source"] == 19 and "source" in table["rows"]
    assert any("1 could not be read" in line and "train/lying/003.png" in line for line in report.lines)


# -- results that belong to something else -----------------------------------------------------------------------------


def test_a_result_is_taken_for_done_only_while_all_it_was_made_from_is_as_it_was(once: dict[str, Path],
                                                                               tmp_path: Path) -> None:
    recipe, out = copied(once["stripes"], tmp_path / "stripes", brief_stripes)

    def keys(recipe: Recipe = recipe) -> dict[str, str]:
        data = find_table_data(recipe, out)
        return {row: key_of(recipe, out, data, row, 0) for row in ("source", "fda", "translated", "oracle")}

    before = keys()
    for path in (tmp_path / "stripes").rglob("*/train/*/*.png"):
        os.utime(path)
    assert keys() == before, "dates do not matter"
    for path in (tmp_path / "stripes" / "target" / "train").rglob("000.png"):
        save(path, stripes(77, True))
    after = keys()
    assert {row for row in before if after[row] != before[row]} == {"fda", "oracle"}


def test_images_that_are_read_in_another_way_have_other_results(once: dict[str, Path], tmp_path: Path) -> None:
    """Of a set by a named model, which the recipe's `data` does not bind."""
    recipe, out = brief_stripes(once["stripes"]), tmp_path / "out"
    make(recipe, out, Silent(), models=[once["stripes"] / "out" / "translator"], device="cpu")
    rows = ("source", "resolution", "translated", "oracle")
    keys = []
    for channels in ((1, 1), (3, 3)):
        data = recipe.data.model_copy(update={f"image_{side}": ImageConfig(channels=number)
                                              for side, number in zip("ab", channels, strict=True)})
        other = recipe.model_copy(update={"data": data})
        data = find_table_data(other, out)
        keys.append({row: key_of(other, out, data, row, 0) for row in rows})
    assert all(keys[0][row] != keys[1][row] for row in rows)


# -- one translator, one task network ----------------------------------------------------------------------------------


class Breaking(Silent):
    """Breaks off without a goodbye once a translator has seen so many images."""

    def progress(self, images: int, total: int, stage: str, losses: dict[str, float], *_: Any) -> None:
        if losses and images >= 4:
            raise Interrupted


def test_a_translator_that_was_begun_keeps_its_task_network_whatever_the_recipe_says_now(
        once: dict[str, Path], tmp_path: Path) -> None:
    recipe, out = brief_stripes(once["stripes"]), tmp_path / "out"
    with pytest.raises(Interrupted):
        make(recipe, out, Breaking(), device="cpu")
    assert json.loads((out / "translator" / "status.json").read_text())["state"] != "finished"
    other, report = changed(recipe, lr=0.02), Silent()
    (made,) = make(other, out, report, device="cpu")
    whole = once["stripes"] / "out"
    assert made.report["fingerprint"] == json.loads((whole / "preservation.json").read_text())["fingerprint"]
    assert contents(out / "task") == contents(whole / "task"), "one network from the first step to the last"
    (line,) = (line for line in report.lines if "adapt.task.lr: 0.01 → 0.02" in line)
    assert f"- {line}" in (out / "set" / "README.md").read_text(), "and the card says whose settings these are"
    assert contents(out / "judge") != contents(whole / "judge"), "the judge is another"


@pytest.mark.parametrize("spoil", [pytest.param(lambda task: shutil.rmtree(task), marks=pytest.mark.slow),
                                   lambda task: in_place(task / "task.safetensors", b"}")], ids=["gone", "changed"])
def test_a_translator_does_not_go_on_with_another_task_network(spoil: Callable[[Path], None], once: dict[str, Path],
                                                               tmp_path: Path) -> None:
    recipe, out = brief_stripes(once["stripes"]), tmp_path / "out"
    with pytest.raises(Interrupted):
        make(recipe, out, Breaking(), device="cpu")
    spoil(out / "task")
    with pytest.raises(RunError, match=r"out/task: is not the task network that .*out/translator began with"):
        make(recipe, out, Silent(), device="cpu")
    shutil.rmtree(out / "translator")
    make(recipe, out, Silent(), device="cpu")


def test_sources_that_were_only_touched_train_nothing_again(once: dict[str, Path]) -> None:
    out = once["stripes"] / "out"
    before = {file: file.stat().st_mtime_ns for file in (out / "judge/task.json", out / "task/task.json",
                                                         out / "set/manifest.jsonl")}
    for path in (once["stripes"] / "source").rglob("*.png"):
        os.utime(path)
    make(brief_stripes(once["stripes"]), out, Silent(), device="cpu")
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_a_folder_with_records_of_an_earlier_version_is_taken_as_it_is(once: dict[str, Path], tmp_path: Path) -> None:
    """They called `made_from` otherwise in two of four files. Nothing is looked at, trained or put together again."""
    recipe, out = brief_stripes(once["stripes"]), tmp_path / "out"
    shutil.copytree(once["stripes"] / "out", out)
    for file, name in (("checked.json", "digest"), ("task/task.json", "about"), ("judge/task.json", "about"),
                       ("consistency.json", "about")):
        record = json.loads((out / file).read_text())
        (out / file).write_text(json.dumps(record | {name: record.pop("made_from")}))
    before = contents(out)
    moved = {"translator/recipe.yaml"}  # names the task network where it lies now

    class Telling(Silent):
        work: ClassVar[set[str]] = set()

        def progress(self, images: int, total: int, stage: str, losses: dict[str, float],
                     seconds_left: float | None = None, stage_number: int = 0) -> None:
            self.work.add(stage)

    make(recipe, out, Telling(), device="cpu")
    after = contents(out)
    assert Telling.work == {"translate"}
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == moved
    assert len(find_table_data(recipe, out).translated) == 1


@pytest.mark.parametrize("finished", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_folder_that_was_moved_goes_on_where_it_was(finished: bool, once: dict[str, Path], tmp_path: Path) -> None:
    recipe = brief_stripes(once["stripes"])
    if finished:
        make(recipe, tmp_path / "here", Silent(), device="cpu")
    else:
        with pytest.raises(Interrupted):
            make(recipe, tmp_path / "here", Breaking(), device="cpu")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    shutil.rmtree(tmp_path / "here")
    (made,) = make(recipe, tmp_path / "there", Silent(), device="cpu")
    assert made.report["fingerprint"] == json.loads((once["stripes"] / "out/preservation.json").read_text())[
        "fingerprint"]
    assert len(find_table_data(recipe, tmp_path / "there").translated) == 1


def test_what_is_refused_is_not_advised_to_go_on_by_another_command(once: dict[str, Path]) -> None:
    recipe = changed(brief_stripes(once["stripes"]), semantic={"weight": 3.0})
    with pytest.raises(RunError, match=r"translator.semantic.weight: 1.0 → 3.0") as raised:
        make(recipe, once["stripes"] / "out", Silent(), device="cpu")
    assert "translate train" not in str(raised.value) and "--out" in str(raised.value)


# -- what was rejected -------------------------------------------------------------------------------------------------


def test_a_set_of_which_nothing_is_left_is_an_error_of_make_and_no_set_for_the_table(once: dict[str, Path],
                                                                                   tmp_path: Path) -> None:
    recipe, out = copied(once["scenes"], tmp_path / "scenes", brief_scenes)
    strict = changed(recipe, reject=1e-9, images=80)  # so that the judge has opinions
    for _ in range(2):
        with pytest.raises(DataError, match=r"out/set: nothing is left of it: of 6 images 0 failed and 6 were "
                                            r"rejected.*adapt.reject"):
            make(strict, out, Silent(), models=[once["scenes"] / "out" / "translator"], device="cpu")
    report = json.loads((out / "preservation.json").read_text())
    assert report["counts"] == {"kept": 0, "rejected": 6, "failed": 0} and report["lost"] == ["sky", "ground", "disc"]
    with pytest.raises(DataError, match="set: nothing was left of it when it was made last"):
        evaluate(strict, out, Silent(), device="cpu")


@pytest.mark.slow
def test_what_is_kept_of_each_class_is_counted_and_shown(tmp_path: Path, said: io.StringIO,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained translator makes all stripes alike: one of the two classes is lost to a judge that is right."""
    recipe = stripes_recipe(write_stripes(tmp_path, 20), adapt={"reject": 0.5, "seeds": 1})
    (tmp_path / "stripes.yaml").write_text(recipe.dump_yaml())
    words = (tmp_path / "stripes.yaml", "--out", tmp_path / "out", "--device", "cpu")
    assert call(monkeypatch, "adapt", "make", *words) == 0
    report = json.loads((tmp_path / "out" / "preservation.json").read_text())
    rows = [row for row in read_lines(tmp_path / "out/set/manifest.jsonl") if row["status"] == "kept"]
    for name, row in report["classes"].items():
        assert row["num_kept"] == sum(each["class"] == name for each in rows)
    assert report["all"]["num_kept"] == len(rows) < 40 and report["lost"]
    assert f"nothing is left of {report['lost'][0]}" in said.getvalue() and "kept" in said.getvalue()
    assert call(monkeypatch, "adapt", "evaluate", *words) == 0
    page = (tmp_path / "out" / "table.html").read_text()
    assert f"{len(rows)} kept, {40 - len(rows)} rejected, 0 failed" in page and "trained on real images" not in page
