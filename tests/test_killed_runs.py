"""A training that was killed is in nobody's way, leaves nothing for ever, and is said to have died."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.runs import Silent, final_state, in_a_process, least_recipe, train_until
from translate import files
from translate.errors import RunError
from translate.foreign import read_lines
from translate.recipe import Recipe
from translate.report.run_contents import read_run
from translate.runs import lock
from translate.runs.folder import RunFolder
from translate.training.loop import train

NOBODY = 2**22 + 1  # no process has this number


def small(data: Path, workers: int = 0) -> Recipe:
    return least_recipe(data, stages=[{"resolution": 16, "images": 8, "batch_size": 2}], workers=workers,
                           every={"log": 2, "sample": 100, "checkpoint": 2, "evaluate": None})


def state_of(run: Path) -> str:
    return str(json.loads((run / "status.json").read_text())["state"])


def test_kills_before_there_is_a_recipe_leave_a_folder_that_a_run_may_begin_in(shared_pairs: Path,
                                                                               tmp_path: Path) -> None:
    """It could neither start ("holds files already") nor resume ("there is no run here")."""
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").touch()
    for name in (f".tmp-0123456789ab-{NOBODY}", f".tmp-0123456789ab-{NOBODY}-0123abcd"):
        (run / name).write_text("name: half a rec")
    for name in (".tmp-release", ".tmp-old-release"):
        (run / name).mkdir()
    train(small(shared_pairs), run, Silent())
    assert state_of(run) == "finished"
    assert not list(run.rglob(f"{files.TEMPORARY}*"))


def test_what_killed_trainings_left_goes_and_what_is_being_written_stays(shared_pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_until(small(shared_pairs), run, 4)
    left = [run / f".tmp-0123456789ab-{NOBODY}", run / "samples" / f".tmp-0123456789ab-{NOBODY}-0123abcd",
            run / "held_out" / f".tmp-0123456789ab-{NOBODY}", run / ".tmp-release", run / "checkpoints" / ".tmp-000009"]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.mkdir() if path.suffix == "" and "0123456789ab" not in path.name else path.write_bytes(b"half")
    written = run / f".tmp-0123456789ab-{os.getppid()}"  # as by `translate report` at this moment
    written.write_bytes(b"half")
    train(small(shared_pairs), run, Silent(), resume=True)
    assert list(run.rglob(f"{files.TEMPORARY}*")) == [written]


def test_a_release_that_was_being_replaced_is_put_back(shared_pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_until(small(shared_pairs), run, 4)
    (run / ".tmp-old-release").mkdir()
    (run / ".tmp-old-release" / "release.json").write_text("{}")
    home = RunFolder(run)
    home.claim(small(shared_pairs))
    home.close()
    assert (run / "release" / "release.json").read_text() == "{}"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_whose_process_is_gone_has_died_in_its_status_its_report_and_at_the_next_start(
        workers: int, shared_pairs: Path, tmp_path: Path) -> None:
    """Its status said for ever that it was running, and for five seconds its orphans kept everybody else out."""
    run, recipe = tmp_path / "run", small(shared_pairs, workers)
    process, seen = in_a_process(recipe.model_copy(update={"stages": (recipe.stages[0].model_copy(
        update={"images": 100_000}),)}), run)
    while seen.value < 4:
        time.sleep(0.001)
    assert read_run(run).status["state"] == "running" and state_of(run) == "running"
    with pytest.raises(RunError, match="another process is training this run"):
        RunFolder(run).claim(recipe)
    process.kill()
    process.join()
    assert state_of(run) == "running"
    home = RunFolder(run)
    home.claim(load := home.saved_recipe())
    assert "ended without a word" in home.death and load.stages[0].images == 100_000
    home.close()

    status = read_run(run).status
    assert status["state"] == "died" and "ended without a word" in status["message"] and state_of(run) == "died"
    assert "--resume --run " in status["message"]


def test_the_next_start_says_and_keeps_that_the_one_before_died(shared_pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    seen: list[int] = []

    class Watching(Silent):
        """Note what `status.json` says to whoever looks before a step is done: it said that none had been."""

        def say(self, line: str) -> None:
            super().say(line)
            if line.startswith("end: after"):
                seen.append(json.loads((run / "status.json").read_text())["images"])

    report = Watching()
    train_until(small(shared_pairs), run, 4)
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"state": "running"}))
    train(small(shared_pairs), run, report, resume=True)
    assert any("ended without a word, after 4 images or later" in line for line in report.lines) and seen == [4]
    assert [event["what"] for event in read_lines(run / "events.jsonl")].count("died") == 1
    assert "ended without a word" in (run / "report.html").read_text() and final_state(run)["images"] == "000000000008"


@pytest.mark.parametrize(("status", "expected"), [
    ({"state": "running", "host": "another"}, "running"), ({"state": "stopped"}, "stopped"),
    ({"state": "finished"}, "finished"), ({"state": "running"}, "died")])
def test_only_a_run_of_this_machine_that_says_it_runs_can_be_told_to_have_died(
        status: dict[str, str], expected: str, shared_pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    home = RunFolder(run)
    run.mkdir()
    home.claim(small(shared_pairs))
    home.close()
    (run / "status.json").write_text(json.dumps({"images": 2, "of": 8} | status))
    assert read_run(run).status["state"] == expected and state_of(run) == expected


def test_a_child_does_not_hold_its_parents_lock(tmp_path: Path) -> None:
    """Loaders outlive a killed parent by seconds."""
    held = lock.hold(tmp_path)
    assert held is not None
    child = os.fork()
    if child == 0:
        signal.pause()
    lock.let_go(held)
    time.sleep(0.05)
    again = lock.hold(tmp_path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert again is not None
    lock.let_go(again)
