"""What `adapt` refuses before anything is trained, how it ends at a signal, and its translator trained elsewhere."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.adaptation import (
    CLASSES,
    briefly,
    save,
    scene,
    scenes_recipe,
    stripes,
    stripes_recipe,
    write_scenes,
    write_stripes,
)
from tests.covering import one_in
from tests.runs import Silent
from tests.test_cli import call
from translate.adapt import evaluate, make, prepare
from translate.convert import Shard
from translate.errors import DataError, Stopped, TranslateError
from translate.files import sha256
from translate.foreign import read_lines
from translate.networks.memory import PLANS
from translate.recipe import Recipe, load_recipe
from translate.training.plan import predict, with_consistency

ROOT = Path(__file__).parent.parent


class Telling(Silent):
    """A reporter that remembers what work there was, and calls back."""

    def __init__(self, after: Callable[[str], None] = lambda work: None):
        super().__init__()
        self.work: list[str] = []
        self.after = after

    def progress(self, images: int, total: int, stage: str, losses: dict[str, float],
                 seconds_left: float | None = None, stage_number: int = 0) -> None:
        self.work.append(stage)
        self.after(stage)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path, Telling]:
    """A recipe for stripes, the folder of what `make` has made of them, and what it told."""
    recipe = briefly(stripes_recipe(write_stripes(tmp_path_factory.mktemp("stripes"), 4)))
    out, report = tmp_path_factory.mktemp("made") / "out", Telling()
    make(recipe, out, report, device="cpu")
    return recipe, out, report


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


# -- looked at before anything is trained ------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["source/train/lying/003.png", "target/train/lying/001.png",
                                   "target/test/upright/002.png"])
def test_an_image_that_cannot_be_read_is_named_before_anything_is_trained(where: str, tmp_path: Path) -> None:
    recipe = stripes_recipe(write_stripes(tmp_path, 4))
    truncate(tmp_path / where)
    with pytest.raises(DataError, match=rf"1 of 24 images cannot be read.*\n.*{where}: read: .*truncated") as caught:
        make(recipe, tmp_path / "out", Silent(), device="cpu")
    assert caught.value.exit_code == 2 and not (tmp_path / "out").exists()


def test_a_dead_link_in_the_translators_own_test_images_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    folder = write_stripes(tmp_path, 4)
    data = stripes_recipe(folder).data.model_dump(mode="json")
    save(folder / "held-b" / "0.png", stripes(1, True, True))
    (folder / "held-a").mkdir()
    (folder / "held-a" / "000[0-9]5.png").symlink_to("../images/000[0-9]5.png")
    recipe = stripes_recipe(folder, data=data | {f"test_{side}": str(folder / f"held-{side}") for side in "ab"})
    with pytest.raises(DataError, match=r"1 of 26 images cannot be read.*\n.*held-a/000\[0-9\]5.png: read: No such"):
        make(recipe, tmp_path / "out", Silent(), device="cpu")
    assert not (tmp_path / "out").exists()


def test_files_that_were_found_good_are_read_again_only_when_they_have_changed(tmp_path: Path) -> None:
    recipe = briefly(scenes_recipe(write_scenes(tmp_path, 6)))
    first, second, third = Telling(), Telling(), Telling()
    prepare(recipe, tmp_path / "out", first, device="cpu")
    assert first.work.count("reading images") == 18, "each once, though two parts of the recipe name it"
    assert first.work.count("source labels") == 6
    prepare(recipe, tmp_path / "out", second, device="cpu")
    assert not {"reading images", "source labels"} & set(second.work)
    save(tmp_path / "target" / "test" / "masks" / "001.png", scene(9, True)[1] + 3)
    with pytest.raises(DataError, match=r"target/test/masks/001.png.*unknown class numbers 3, 4, 5"):
        make(recipe, tmp_path / "out", third, device="cpu")


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda place: (place / "test" / "masks" / "001.png").unlink(), "have no partner"),
    (lambda place: save(place / "test" / "masks" / "001.png", scene(1)[1] + 3), "unknown class numbers 3, 4, 5"),
    (lambda place: save(place / "train" / "masks" / "001.png", scene(1)[1] + 3), "unknown class numbers 3, 4, 5"),
], ids=["missing test label", "unknown id", "unknown id of the oracle"])
def test_what_evaluate_would_refuse_of_the_target_is_refused_before_anything_is_trained(
        spoil: Any, message: str, tmp_path: Path) -> None:
    recipe = scenes_recipe(write_scenes(tmp_path, 3))
    spoil(tmp_path / "target")
    (tmp_path / "out" / "set").mkdir(parents=True)
    for command in (make, evaluate):
        with pytest.raises(DataError, match=message):
            command(recipe, tmp_path / "out", Silent(), device="cpu")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["set"]


def test_a_target_without_test_labels_can_be_adapted_to_and_tested_on_never(tmp_path: Path) -> None:
    recipe = scenes_recipe(write_scenes(tmp_path, 3))
    (tmp_path / "target" / "test").rename(tmp_path / "target" / "other")
    report = Silent()
    prepare(recipe, tmp_path / "out", report, device="cpu")
    assert any("will have nothing to test on" in line and "target/test/images: no such folder" in line
               for line in report.lines)
    with pytest.raises(DataError, match=r"target/test/images: no such folder.*\(adapt.target: its test labels"):
        evaluate(recipe, tmp_path / "out", Silent(), device="cpu")


def test_make_says_what_the_table_will_lack_and_which_classes_have_no_image(tmp_path: Path) -> None:
    folder = write_stripes(tmp_path, 3)
    names = [*CLASSES["names"], "aslant"]
    parts = {side: CLASSES | {"folder": str(folder / side), "names": names} for side in ("source", "target")}
    recipe = stripes_recipe(folder, adapt=parts | {"target": parts["target"] | {"train": "nowhere"}})
    report = Silent()
    prepare(recipe, tmp_path / "out", report, device="cpu")
    assert any(line.startswith("`translate adapt evaluate` will have no oracle") for line in report.lines)
    assert sum("holds no image of class aslant" in line for line in report.lines) == 2


def test_a_shard_reads_no_file_that_it_does_not_translate(made: tuple[Recipe, Path, Telling], tmp_path: Path) -> None:
    """Else each of eight machines would read everything; the last call does."""
    (recipe, out, _), report = made, Telling()
    make(recipe, tmp_path / "two", report, device="cpu", models=[out / "translator"], shard=Shard(1, 2))
    assert set(report.work) == {"translate"}


@pytest.mark.slow
def test_excluded_images_are_not_translated_and_the_table_is_made_without_them(tmp_path: Path) -> None:
    folder = write_scenes(tmp_path, 24)
    truncate(folder / "source" / "train" / "images" / "003.png")
    save(folder / "source" / "train" / "masks" / "004.png", scene(4)[1][:20])
    source = {"kind": "masks", "classes": 3, "names": ["sky", "ground", "disc"], "folder": str(folder / "source")}
    with pytest.raises(DataError, match=r"(?s)masks/004.png.*leave their images out: exclude"):
        make(scenes_recipe(folder), tmp_path / "out", Silent(), device="cpu")
    (folder / "source" / "train" / "images" / "003.png").unlink()  # the translator would train on it
    recipe = scenes_recipe(folder, adapt={"source": source | {"exclude": ["003", "00[45]"]}, "seeds": 1})
    (made,) = make(recipe, tmp_path / "out", Silent(), device="cpu")
    assert made.total == made.kept == 21
    left = {f"{number:03d}.png" for number in range(24)} - {"003.png", "004.png", "005.png"}
    for place in ("set/train/images", "set/train/masks", "translated"):
        assert {path.name for path in (tmp_path / "out" / place).glob("*.png")} == left, place
    assert evaluate(recipe, tmp_path / "out", Silent(), device="cpu")["num_source"] == 21


# -- data check --------------------------------------------------------------------------------------------------------


def test_data_check_of_a_recipe_names_all_that_is_wrong_with_its_labelled_images(
        tmp_path: Path, said: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_scenes(tmp_path, 26)
    (tmp_path / "scenes.yaml").write_text(scenes_recipe(folder).dump_yaml())
    assert call(monkeypatch, "data", "check", tmp_path / "scenes.yaml") == 0, said.getvalue()
    for number in range(23):
        (folder / "source" / "train" / "masks" / f"{number:03d}.png").unlink()
    save(folder / "target" / "train" / "masks" / "777.png", scene(1)[1])
    save(folder / "target" / "test" / "masks" / "001.png", scene(1)[1][:20])
    truncate(folder / "target" / "test" / "images" / "002.png")
    assert call(monkeypatch, "adapt", "make", tmp_path / "scenes.yaml", "--out", tmp_path / "out") == 2
    assert f"(`translate data check {tmp_path / 'scenes.yaml'}` lists all" in said.getvalue()
    assert call(monkeypatch, "data", "check", tmp_path / "scenes.yaml") == 5
    lines = said.getvalue().splitlines()
    assert sum("has no label map in" in line and line.startswith("error: ") for line in lines) == 1
    assert sum("the same of 22 more files: 001.png, 002.png" in line for line in lines) == 1
    for expected in ("target/train/masks/777.png: has no image in", "target/test/images/001.png: is 32×32 and its",
                     "target/test/images/002.png: image file is truncated", "26 errors, "):
        assert any(expected in line for line in lines), expected


# -- signals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("work", "number"), one_in(4, [
    ("task network", signal.SIGTERM), ("judge", signal.SIGINT), ("reading images", signal.SIGINT),
    ("check", signal.SIGTERM)]))
def test_a_signal_stops_make_at_the_next_step_and_the_same_call_goes_on(
        work: str, number: int, made: tuple[Recipe, Path, Telling], tmp_path: Path) -> None:
    recipe, whole, _ = made
    report = Telling(lambda stage: os.kill(os.getpid(), number) if stage == work else None)
    name = signal.Signals(number).name
    with pytest.raises(Stopped, match=rf"stopped by {name} \({work}, .*the same command goes on"):
        make(recipe, tmp_path / "out", report, device="cpu")
    assert report.work.count(work) == 1, "at the next step"
    (finished,) = make(recipe, tmp_path / "out", Silent(), device="cpu")
    assert finished.hash == sha256(whole / "set" / "manifest.jsonl")


def test_a_signal_that_comes_with_the_last_step_of_a_network_is_minded_after_it_is_saved(tmp_path: Path) -> None:
    recipe = briefly(stripes_recipe(write_stripes(tmp_path, 4)))
    steps = 2

    def ask(stage: str) -> None:
        if stage == "task network" and report.work.count(stage) == steps:
            os.kill(os.getpid(), signal.SIGTERM)

    report = Telling(ask)
    with pytest.raises(Stopped, match="stopped by a signal; everything is saved; the same command goes on"):
        make(recipe, tmp_path / "out", report, device="cpu")
    assert report.work.count("task network") == steps
    assert (tmp_path / "out" / "task" / "task.json").is_file()
    again = Telling()
    prepare(recipe, tmp_path / "out", again, device="cpu")
    assert "task network" not in again.work


def test_a_signal_stops_the_table_at_the_next_step_and_keeps_its_rows(made: tuple[Recipe, Path, Telling]) -> None:
    recipe, out, _ = made
    report = Telling(lambda stage: os.kill(os.getpid(), signal.SIGTERM) if stage.startswith("fda") else None)
    with pytest.raises(Stopped, match=r"stopped by SIGTERM \(fda, seed 0, 8 of 16\); finished rows are kept in"):
        evaluate(recipe, out, report, device="cpu")
    assert [row["row"] for row in read_lines(out / "results.jsonl")] == ["source", "histogram_matching"]
    table = evaluate(recipe, out, Silent(), device="cpu")
    assert len(table["rows"]) == 8 and len(read_lines(out / "results.jsonl")) == 8


def started(tmp_path: Path, workers: int = 0) -> subprocess.Popen[str]:
    """`adapt make` in a process group of its own, at work on a task network that would take it hours."""
    task = {"network": {"kind": "cnn", "width": 4, "downs": 1}, "resolution": 16, "images": 10_000_000}
    recipe = stripes_recipe(write_stripes(tmp_path, 4), adapt={"task": task}, workers=workers)
    (tmp_path / "stripes.yaml").write_text(recipe.dump_yaml())
    command = subprocess.Popen([sys.executable, "-m", "translate", "adapt", "make", tmp_path / "stripes.yaml", "--out",
                                tmp_path / "out", "--device", "cpu"], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, start_new_session=True)
    while not (tmp_path / "out" / "checked.json").exists() or len(children(command)) < workers:
        assert command.poll() is None
        time.sleep(0.05)
    return command


def children(command: subprocess.Popen[str]) -> list[int]:
    return [int(child) for child in Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()]


@pytest.mark.parametrize("number", [
    pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGTERM, signal.SIGINT)])
def test_the_command_ends_with_75_and_a_message(number: int, tmp_path: Path) -> None:
    command = started(tmp_path)
    command.send_signal(number)
    _, message = command.communicate(timeout=60)
    assert command.returncode == 75 and f"stopped by {signal.Signals(number).name} (task network" in message


@pytest.mark.slow
def test_a_signal_to_the_whole_group_is_for_the_command_and_not_for_its_worker(tmp_path: Path) -> None:
    """As launchers and batch systems send it; a worker that died of it would end the command with a failure."""
    command = started(tmp_path, workers=1)
    os.killpg(command.pid, signal.SIGTERM)
    _, message = command.communicate(timeout=60)
    assert command.returncode == 75 and "stopped by SIGTERM (task network" in message


@pytest.mark.slow
def test_a_worker_that_is_killed_is_named_at_once_whatever_the_command_does_just_then(tmp_path: Path) -> None:
    command = started(tmp_path, workers=1)
    (worker,) = children(command)
    os.kill(worker, signal.SIGKILL)
    _, message = command.communicate(timeout=60)
    assert command.returncode == TranslateError.exit_code and "Traceback" not in message
    assert re.search(rf"loading images: DataLoader worker.* {worker}.*set\s+workers\s+to\s+less", message, re.DOTALL)


# -- the translator on several GPUs ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_planner_counts_the_network_of_the_consistency_loss_before_it_is_trained(
        tmp_path: Path, said: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = scenes_recipe(write_scenes(tmp_path, 4), adapt={"semantic": {"weight": 1.0, "back": 1.0}})
    stage, plain = recipe.stages[0], PLANS["plain"]
    (prepared,) = prepare(recipe, tmp_path / "out", Silent(), device="cpu")
    with with_consistency(recipe) as untrained:
        before = predict(untrained, stage, plain, "fp32").peak_bytes
    assert before == predict(load_recipe(prepared), stage, plain, "fp32").peak_bytes, "as of the trained one"
    assert before > predict(recipe, stage, plain, "fp32").peak_bytes
    (tmp_path / "scenes.yaml").write_text(recipe.dump_yaml())
    assert call(monkeypatch, "plan", tmp_path / "scenes.yaml", "--gpu", "8GB") == 0
    assert "with the network of the consistency loss, as `translate adapt make` trains" in said.getvalue()


@pytest.mark.slow
def test_a_translator_that_was_prepared_and_trained_under_torchrun_is_what_make_goes_on_with(tmp_path: Path) -> None:
    """As docs/domain-adaptation.md says it, with two processes on a CPU."""
    recipe = scenes_recipe(write_scenes(tmp_path, 8), adapt={"semantic": {"weight": 1.0, "back": 0.5}})
    (file,) = prepare(recipe, tmp_path / "out", Silent(), device="cpu")
    assert file == tmp_path / "out" / "translator.yaml" and not (tmp_path / "out" / "translator").exists()
    semantic = load_recipe(file).translator.semantic  # type: ignore[union-attr]
    assert (semantic.weight, semantic.back, semantic.task) == (1.0, 0.5, tmp_path / "out" / "task")  # type: ignore[union-attr]
    launched = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
                               "-m", "translate", "train", file, "--run-dir", tmp_path / "out" / "translator"],
                              cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert launched.returncode == 0, launched.stderr
    report = Telling()
    (made,) = make(recipe, tmp_path / "out", report, device="cpu")
    assert made.kept == 8 and set(report.work) == {"translate", "judge", "check"}, "nothing of it is trained again"


def test_prepare_goes_with_nothing_that_comes_after_it(tmp_path: Path, said: io.StringIO,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stripes.yaml").write_text(stripes_recipe(write_stripes(tmp_path, 2)).dump_yaml())
    words = ("adapt", "make", tmp_path / "stripes.yaml", "--out", tmp_path / "out", "--device", "cpu", "--prepare")
    for more in (("--shard", "1/2"), ("--model", tmp_path)):
        assert call(monkeypatch, *words, *more) == 2
    assert call(monkeypatch, *words) == 0
    assert f"--run-dir {tmp_path / 'out' / 'translator'}" in said.getvalue()


def test_adapt_does_not_print_the_resolved_recipe(made: tuple[Recipe, Path, Telling]) -> None:
    _, out, report = made
    assert not any("optimizer:" in line for line in report.lines)
    assert "optimizer:" in (out / "translator" / "recipe.yaml").read_text()
