"""JSON that others have written, in run folders, releases and adapted sets: read as far as it is what it should be, and
else refused by name."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.adaptation import stripes_recipe
from translate import foreign
from translate.adapt.assembling import damage, manifest_hash
from translate.adapt.result_cache import SetRecord, TaskRecord, cached, read_record
from translate.adapt.table import Result
from translate.adapt.table_data import find_sets
from translate.adapt.translators import is_finished
from translate.data.labelled import Labelled
from translate.errors import CheckpointError, DataError, DocumentError, TranslateError
from translate.foreign import Count, Shape, examine_lines, read_json, read_lines
from translate.networks.task_networks import RECORD, CNNConfig, load_task, save_task
from translate.report import write_comparison, write_report
from translate.runs.checkpoint import read_progress
from translate.runs.folder import RunFolder
from translate.runs.manifest import MANIFEST, seal, verify
from translate.runs.release import load_release

ROOT = Path(__file__).parent.parent
EARLIER = Path(__file__).parent / "data" / "run-b2bf1ce"
HOSTILE = {  # contents of any JSON file that a program left
    "empty": b"", "half": b'{"state": "run', "a list": b"[1, 2]", "null": b"null", "a number": b"7",
    "brackets": b"[" * 100_000, "objects": b'{"a":' * 500 + b"1" + b"}" * 500,
    "twenty-one": b'{"a": ' + b"[" * 20 + b"]" * 20 + b"}", "no text": b"\xff\xfe\x00\xd8",
    "a long number": b'{"images": ' + b"9" * 5000 + b"}",
    "other fields": b'{"state": 5, "images": "x", "names": 7, "0": [], "metrics": 3, "progress": 1}'}
VALUES: list[Any] = [None, -1, 10**30, "x", [], {}, True, 1e308, [[1]], {"a": 1}]


class Example(Shape):
    """What these tests read."""

    images: Count
    name: str = ""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EARLIER / "run", tmp_path / "run"))


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EARLIER / "release", tmp_path / "release"))


def put(path: Path, what: str) -> None:
    """Put something into the place of a file."""
    path.unlink(missing_ok=True)
    if what == "a folder":
        path.mkdir()
    elif what == "a pipe":
        os.mkfifo(path)
    elif what == "a loop of links":
        path.symlink_to(path.name)
    else:
        path.write_bytes(HOSTILE[what])


ANYTHING = [*HOSTILE, "a folder", "a pipe", "a loop of links"]


def mutants(document: Any, tries: int = 2) -> Iterator[Any]:
    """Documents with one leaf or branch changed each, to values of other types and sizes in turn."""
    def paths(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        entries = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
        for key, inner in entries:
            yield (*path, key)
            yield from paths(inner, (*path, key))

    for number, path in enumerate(paths(document, ())):
        for value in (VALUES[number % len(VALUES)], VALUES[(3 * number + 4) % len(VALUES)])[:tries]:
            changed = copy.deepcopy(document)
            place = changed
            for step in path[:-1]:
                place = place[step]
            place[path[-1]] = value
            yield changed


@pytest.mark.parametrize("what", ANYTHING)
def test_a_document_is_what_its_shape_says_or_is_refused_by_name(what: str, tmp_path: Path) -> None:
    """Nested brackets ended a command in a RecursionError, a pipe was waited for until somebody ended the command."""
    path = tmp_path / "status.json"
    put(path, what)
    with pytest.raises(DocumentError) as caught:
        read_json(path, Example)
    assert caught.value.path == path and "\n" not in caught.value.what and len(caught.value.what) < 200


def test_what_a_shape_does_not_know_goes_along(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"images": 3, "later": {"deep": [1]}, "name": "\\udc8e"}')
    assert read_json(tmp_path / "a.json", Example) == {"images": 3, "later": {"deep": [1]}, "name": "\udc8e"}
    assert read_json(tmp_path / "none.json", Example) == {} and read_lines(tmp_path / "none.jsonl", Example) == []


def test_a_document_beyond_any_that_is_written_is_not_read_into_memory(tmp_path: Path,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "MAX_BYTES", 100)
    monkeypatch.setattr(foreign, "MAX_LINE_BYTES", 100)
    (tmp_path / "a").write_text('{"images": 1, "name": "' + "x" * 100 + '"}\n{"images": 2}\n')
    with pytest.raises(DocumentError, match="has more than the 100 bytes"):
        read_json(tmp_path / "a", Example)
    lines = examine_lines(tmp_path / "a", Example)
    assert lines.records == [{"images": 2}] and lines.fault == "line 1 cannot be read and is left out"


def test_lines_that_cannot_be_read_are_counted_and_a_last_one_that_a_crash_cut_is_not(tmp_path: Path) -> None:
    """Damaged lines in the middle of metrics.jsonl vanished from reports without a word."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"images": 1}\n\n[1]\n{"images": "x"}\n' + b"[" * 5000 + b'\n{"images": 2}\n{"images": 3')
    lines = examine_lines(path, Example)
    assert [record["images"] for record in lines.records] == [1, 2]
    assert lines.fault == "line 3 and 2 more cannot be read and are left out"
    path.unlink(), path.mkdir()
    assert examine_lines(path).fault == "is a folder, and a file was expected"


def test_json_is_read_in_one_place() -> None:
    """Each reader of its own forgot another hostile form."""
    for path in sorted((ROOT / "translate").rglob("*.py")):
        assert not re.search(r"json\.loads?\(|from json import", path.read_text()) or path.name == "foreign.py", path


# -- a run folder ------------------------------------------------------------------------------------------------------

PARTS = ["status.json", "memory.json", "metrics.jsonl", "events.jsonl", "held_out/index.json", "results.json"]


@pytest.mark.parametrize("what", ANYTHING)
def test_a_report_shows_what_can_be_read_and_names_the_rest(what: str, run: Path) -> None:
    """`translate report` of a run whose status.json was cut off ended in a traceback, and so did `compare`."""
    other = Path(shutil.copytree(run, run.parent / "other"))
    for name in PARTS:
        put(run / name, what)
    for page in (write_report(run), write_comparison([run, other], run.parent / "page.html")):
        text = page.read_text()
        for name in PARTS:
            if what in HOSTILE and name.endswith("jsonl"):
                continue  # without an end of line it is what a crash has cut
            assert f"left out of this page: {name}: " in text, name


def test_a_report_survives_any_change_of_a_field(run: Path) -> None:
    """Valid JSON of another shape, as by another version or by hand: numbers that are text, lists, negative, huge."""
    psnr = {"title": "PSNR", "better": "higher", "value": 1.0, "interval": [1, 2], "floor": None, "baselines": {}}
    results = {"num_images": 1, "num_reals": 1, "weights": "7", "missing": ["x"], "made_by": {"date": "d"},
               "metrics": {"psnr": psnr}}
    for name, document in (("status.json", None), ("memory.json", None), ("held_out/index.json", None),
                           ("results.json", results)):
        sound = document or json.loads((run / name).read_text())
        for each in mutants(sound, tries=1):
            (run / name).write_text(json.dumps(each))
            write_report(run)
        (run / name).write_text(json.dumps(sound))

    # Lines last: with them, every page above would take longer to write
    for name in ("metrics.jsonl", "events.jsonl"):
        lines = [json.loads(line) for line in (run / name).read_text().splitlines()]
        kinds = {line.get("kind", line.get("what")): line for line in lines}
        (run / name).write_text("".join(json.dumps(each) + "\n" for line in kinds.values()
                                        for each in (line, *mutants(line))))
    page = write_report(run).read_text()
    assert "<h2>Losses</h2>" in page and "left out" in page


def test_pictures_that_are_none_are_named_and_the_others_shown(run: Path) -> None:
    samples = run / "samples"
    (samples / "notes.png").write_bytes(b"x"), (samples / "000000000030.png").write_bytes(b"no image")
    (samples / "000000000031.png").mkdir(), os.mkfifo(samples / "000000000032.png")
    (run / "held_out" / "000000-input.jpg").write_bytes(b"GIF89a no jpeg")
    text = write_report(run).read_text()
    for name in ("samples/000000000030.png", "samples/000000000031.png", "samples/000000000032.png",
                 "held_out/000000-input.jpg"):
        assert f"left out of this page: {name}: " in text
    assert "samples after 20 images" in text and "input of 1.png" in text and "notes" not in text


def test_a_memory_plan_that_cannot_be_read_is_chosen_anew(run: Path) -> None:
    magic = {"0": {"asked": {"memory": "auto", "card": None}, "plan": "magic", "strips": 4}}
    for each in (*HOSTILE.values(), json.dumps(magic).encode()):
        (run / "memory.json").write_bytes(each)
        assert RunFolder(run).memory_choices() == {}


# -- releases and checkpoints ------------------------------------------------------------------------------------------


def rewritten(release: Path, **changes: Any) -> Path:
    """A release whose release.json says something else, sealed as its writer would have."""
    about = json.loads((release / "release.json").read_text()) | changes
    (release / "release.json").write_text(json.dumps(about))
    seal(release)
    return release


@pytest.mark.parametrize(("changes", "fault"), [
    ({"diptych": "99.0.0"}, "was written by Diptych 99.0.0, and this is .*; update it"),
    ({"diptych": "0.2"}, "was written by Diptych 0.2, "), ({"diptych": 7}, "diptych: 7: "),
    ({"diptych": "newest"}, "diptych: 'newest': "),
    ({"directions": ["ab"]}, "names the directions ab, and there are weights of ab, ba"),
    ({"directions": []}, "names the directions none"), ({"directions": "ab"}, "directions: 'ab': "),
    ({"directions": ["ab", "up"]}, "directions.1: 'up': "), ({"directions": None}, "directions: null: "),
    ({"stage": 9}, "of stage 10, which its recipe.yaml does not have"), ({"stage": -1}, "stage: -1: "),
    ({"stage": "1"}, "stage: '1': "), ({"stage": 10**30}, "stage: "), ({"stage_images": 10**9}, "does not have"),
    ({"stage_images": [[[]]]}, "stage_images: ")])
def test_a_release_that_says_what_it_is_not_is_refused(changes: dict[str, Any], fault: str, release: Path) -> None:
    """A newer version's release was converted with without a word, and a stage that its recipe has not was a traceback.
    """
    with pytest.raises(CheckpointError, match=fault):
        load_release(rewritten(release, **changes))


def test_what_a_later_version_adds_to_a_release_is_no_fault(release: Path) -> None:
    assert load_release(rewritten(release, scale={"sides": [1, 2]})).name == "toy"


@pytest.mark.parametrize("what", ANYTHING)
@pytest.mark.parametrize("name", ["release.json", MANIFEST])
def test_a_release_with_anything_in_the_place_of_its_json_is_refused(name: str, what: str, release: Path) -> None:
    put(release / name, what)
    if name != MANIFEST and what in HOSTILE:
        seal(release)
    with pytest.raises(TranslateError):
        load_release(release)


@pytest.mark.parametrize("manifest", [
    {}, {"README.md": None}, {"..": {"size": 0, "sha256": "0" * 64}}, {"": {"size": 0, "sha256": "0" * 64}},
    {"a\0": {"size": 0, "sha256": "0" * 64}}, {"recipe.yaml": {"size": 1}}, {"recipe.yaml": [1]}])
def test_a_manifest_that_seals_nothing_verifies_nothing(manifest: dict[str, Any], release: Path) -> None:
    """A manifest of `{}` made any weights a release that verifies."""
    (release / MANIFEST).write_text(json.dumps(manifest))
    assert verify(release) is not None


def test_what_a_manifest_does_not_name_is_not_read(release: Path) -> None:
    """Averaged weights that somebody adds would be taken in the place of the sealed ones."""
    assert verify(release) is None
    (release / "LICENSE").write_text("what people add")
    assert verify(release) is None
    shutil.copy(release / "generator_ab.safetensors", release / "ema_generator_ab.safetensors")
    assert verify(release) == f"ema_generator_ab.safetensors is not in the {MANIFEST}"


@pytest.mark.parametrize("what", HOSTILE)
def test_a_checkpoint_that_was_sealed_with_another_state_is_refused(what: str, run: Path) -> None:
    newest = run / "checkpoints" / "000000000028"
    put(newest / "state.json", what)
    seal(newest)
    with pytest.raises(CheckpointError):
        read_progress(newest)


def test_a_checkpoint_sets_no_attribute_but_those_of_progress(run: Path) -> None:
    newest = run / "checkpoints" / "000000000028"
    state = json.loads((newest / "state.json").read_text())
    state["progress"] |= {"load": 3, "later": 4}
    (newest / "state.json").write_text(json.dumps(state))
    progress = read_progress(newest)
    assert callable(progress.load) and not hasattr(progress, "later") and progress.images == 28


# -- adapted sets ------------------------------------------------------------------------------------------------------

CLASS = {"num": 1, "num_kept": 1, "num_held_out": 0, "changed": 0.0, "changed_held_out": None,
         "wrong_untranslated": None, "wrong_translated": None}
PRESERVATION = {"hash": "0" * 64, "counts": {"kept": 1, "rejected": 0, "failed": 0}, "warnings": [], "sets": 1,
                "trained_here": True, "reject": None, "of": "images", "classes": {"a": CLASS}, "all": CLASS,
                "flagged": [], "unsure": [], "unknown": [], "kernel_distance": None, "made_from": "x"}


@pytest.mark.parametrize(("name", "shape", "sound"), [
    ("preservation.json", SetRecord, PRESERVATION),
    ("consistency.json", TaskRecord, {"sha256": "0" * 64, "made_from": {"training": {}}})])
def test_a_record_of_an_adaptation_is_what_it_should_be_or_is_named(name: str, shape: Any, sound: dict[str, Any],
                                                                    tmp_path: Path) -> None:
    """`adapt evaluate` ended in a traceback on a preservation.json that another program had touched."""
    path = tmp_path / name
    path.write_text(json.dumps(sound))
    assert read_record(path, shape) == sound
    for what in set(ANYTHING):
        put(path, what)
        with pytest.raises(DocumentError):
            read_record(path, shape)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for each in mutants(sound):
        path.write_text(json.dumps(each))
        try:
            record = read_record(path, shape)
        except DocumentError as error:
            assert error.path == path
        else:
            assert record is None or record["made_from"] is not None


def test_a_record_that_cannot_be_read_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "checked.json"
    for content in HOSTILE.values():
        path.write_bytes(content)
        assert cached(path, "x", lambda: {"images": 3})["images"] == 3
        assert cached(path, "x", lambda: pytest.fail("it is there"))["images"] == 3


def test_a_task_folder_that_names_another_network_is_refused(tmp_path: Path) -> None:
    config = CNNConfig(width=2, downs=1)
    record = save_task(tmp_path, config.build(3, 2), config, 3, 2)
    for changes in ({"network": {"kind": "cnn", "width": 10**9}}, {"network": {"kind": "fcn", "width": 2}},
                    {"network": {"width": "x"}}, {"network": []}, {"classes": 5}, {"sha256": "../../x"},
                    {"channels": "3"}):
        (tmp_path / RECORD).write_text(json.dumps(record | changes))
        with pytest.raises(CheckpointError):
            load_task(tmp_path, 3)


@pytest.mark.parametrize("what", ANYTHING)
def test_an_evaluation_of_adapted_sets_names_what_is_none_of_theirs(what: str, tmp_path: Path) -> None:
    """`translate adapt evaluate` on a folder that another program, or a crash, has left something in."""
    recipe, home = stripes_recipe(tmp_path), tmp_path / "home"
    home.mkdir()
    put(home / "preservation.json", what)
    with pytest.raises(DataError, match=r"preservation.json: .*; run again: translate adapt make"):
        find_sets(recipe, home, Labelled(tmp_path, tmp_path, (), ()))
    translator = home / "translator"
    translator.mkdir()
    put(translator / "status.json", what)
    assert not is_finished(translator, recipe)

    # A manifest whose hash was noted after it was damaged, and lines of another table's results
    folder = home / "set"
    folder.mkdir()
    put(folder / "manifest.jsonl", what)
    assert damage(folder, recipe.adapt.source, manifest_hash(folder))  # type: ignore[union-attr]
    put(home / "results.jsonl", what)
    assert read_lines(home / "results.jsonl", Result) == []


# -- data sets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ANYTHING)
def test_a_record_of_a_card_or_of_downloads_is_named(what: str, tmp_path: Path) -> None:
    from translate.cards.cards import read_record as read_card_record
    from translate.cards.download import LOCK, pins

    put(tmp_path / LOCK, what)
    with pytest.raises(DataError, match="restore it, or delete it"):
        pins(tmp_path)
    if what not in ("other fields", "a long number"):
        put(tmp_path / "card.json", what)
        with pytest.raises(DataError, match="delete the folder"):
            read_card_record(tmp_path)
