"""A checkpoint is whole or not there, and never costs the one before it."""

from __future__ import annotations

import errno
import json
import math
import multiprocessing
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator, debug_launcher
from accelerate.state import AcceleratorState

from tests.covering import one_in
from tests.runs import UNSEEN, Silent, cyclegan_recipe, final_state, least_recipe, train_until, unseen_recipe
from translate import files
from translate.errors import CheckpointError, DiskError
from translate.foreign import read_lines
from translate.recipe import Recipe
from translate.runs.checkpoint import RunState, newest_checkpoint, read_progress, save_checkpoint
from translate.runs.folder import RunFolder
from translate.runs.manifest import seal, verify
from translate.runs.progress import Best, Progress
from translate.training.loop import Run, train
from translate.training.processes import make_accelerator


@pytest.fixture(scope="module")
def begun(shared_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """A run with a checkpoint of four images, once for all tests that go on with a copy of it."""
    recipe, folder = cyclegan_recipe(shared_pairs, guard=None, every=UNSEEN), tmp_path_factory.mktemp("begun") / "run"
    train_until(recipe, folder, 4)
    return recipe, folder


@pytest.fixture
def run(begun: tuple[Recipe, Path], tmp_path: Path) -> Run:
    """A run of six images, with a checkpoint of four."""
    recipe, folder = begun
    shutil.copytree(folder, tmp_path / "run")
    held = Run(recipe, RunFolder(tmp_path / "run"), make_accelerator(recipe, tmp_path / "run"), Silent())
    held.restore()
    held.progress.images += 2
    return held


def save(run: Run) -> Path:
    return save_checkpoint(run.folder / "checkpoints", run.state, 2)


def failing_at(call: int, function: Callable[..., Any]) -> tuple[Callable[..., Any], list[int]]:
    """`function`, with its call number `call` failing as on a full disk."""
    calls: list[int] = []

    def wrapped(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) - 1 == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        return function(*arguments, **named)

    return wrapped, calls


@pytest.mark.parametrize(("owner", "name"), one_in(3, [
    (os, "fsync"), (Path, "replace"), (Path, "rename"), (Path, "mkdir"), (Path, "open")]),
    ids=lambda value: getattr(value, "__name__", value))
def test_a_fault_at_any_call_of_the_writer_costs_no_checkpoint(owner: Any, name: str, run: Run,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """Every open, fsync, replace, rename and mkdir of a save fails in turn."""
    before, _ = newest_checkpoint(run.folder / "checkpoints")
    assert before is not None and verify(before) is None
    call = 0
    while True:
        wrapped, calls = failing_at(call, getattr(owner, name))
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, wrapped)
            try:
                save(run)
            except DiskError as error:
                assert "bytes needed" in str(error) and "bytes free" in str(error)
        if len(calls) <= call:
            break  # the fault came after the last call: this save went through
        newest, refused = newest_checkpoint(run.folder / "checkpoints")
        assert newest is not None and not refused
        assert verify(before) is None, f"call {call} of {name} cost the checkpoint before"
        call += 1
    assert call >= 1, f"{name} is not called at all: the test would prove nothing"
    assert sorted(path.name for path in (run.folder / "checkpoints").iterdir()) == ["000000000004", "000000000006"]


def test_a_disk_that_fills_up_in_the_middle_of_a_file_costs_no_checkpoint(run: Run) -> None:
    """For real: the process may write only so many bytes a file, so that each file is cut somewhere in its middle."""
    def limited(limit: int, answers: Any) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            save(run)
        except DiskError as error:
            answers.put(str(error))
        else:
            answers.put("saved")

    sizes = sorted(entry["size"] for entry in final_state(run.folder).values() if isinstance(entry, dict))
    context = multiprocessing.get_context("fork")
    for limit in (sizes[0] // 2, sizes[len(sizes) // 2] // 2, sizes[-1] - 1):
        answers = context.Queue()
        process = context.Process(target=limited, args=(limit, answers))
        process.start()
        assert "File too large" in answers.get(timeout=60)
        process.join()
        newest, refused = newest_checkpoint(run.folder / "checkpoints")
        assert newest is not None and newest.name == "000000000004" and not refused


SMALL_DISKS = [(0, 1_000), (1, 1_000), (0, 10_000)]  # whose files have how many bytes at most: rank0, rank1, a network


def save_onto_small_disks(data: Path, folder: Path) -> None:
    """What each process of two hears where one of them can write no file to its end."""
    AcceleratorState._reset_state(reset_partial_state=True)
    recipe, accelerator, heard = least_recipe(data), Accelerator(cpu=True), []
    run = RunState(Progress(), recipe.translator.build(3, 3), {}, accelerator, recipe)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for rank, limit in SMALL_DISKS:
        if rank == accelerator.process_index:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            save_checkpoint(folder / "checkpoints", run, 2)
        except DiskError as error:
            heard.append(error.what)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if accelerator.is_main_process:
            assert not [*(folder / "checkpoints").iterdir()]
    save_checkpoint(folder / "checkpoints", run, 2)
    (folder / f"{accelerator.process_index}.json").write_text(json.dumps(heard))


def test_a_process_that_cannot_write_its_part_is_heard_by_all(shared_pairs: Path, tmp_path: Path) -> None:
    """It removed the folder that the others still wrote into, and left them waiting."""
    debug_launcher(save_onto_small_disks, (shared_pairs, tmp_path), num_processes=2)
    heard = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert heard == [["File too large"] * 3] * 2
    saved = tmp_path / "checkpoints" / "000000000000"
    assert verify(saved) is None
    own, network = (saved / f"{name}.safetensors" for name in ("rank1", "generator_ab"))
    assert own.stat().st_size < SMALL_DISKS[2][1] < network.stat().st_size


@pytest.mark.parametrize("damage", ["cut", "flipped", "missing", "no manifest", "traversal"])
def test_a_damaged_checkpoint_does_not_verify_and_says_what_is_wrong(damage: str, run: Run) -> None:
    path = save(run)
    file, manifest = path / "optimizer_generator.safetensors", path / "MANIFEST.json"
    content = file.read_bytes()
    if damage == "cut":
        file.write_bytes(content[:-10])
    elif damage == "flipped":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "missing":
        file.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text(json.dumps({"../../recipe.yaml": {"size": 1, "sha256": ""}}))
    fault = verify(path)
    assert fault is not None and ("MANIFEST" in fault or "optimizer_generator" in fault or "recipe.yaml" in fault)
    newest, refused = newest_checkpoint(run.folder / "checkpoints")
    assert newest is not None and newest.name == "000000000004"
    assert len(refused) == 1 and str(path) in refused[0]


NONSENSE: list[tuple[str, dict[str, Any]]] = [
    ("state.json", {"groups": {}}), ("state.json", {"groups": {"generator": [1], "discriminator": []}}),
    ("state.json", {"groups": {"generator": [{}], "discriminator": [{"params": [99]}]}}),
    ("state.json", {"machine": []}), ("state.json", {"num_processes": "1"}), ("state.json", {"progress": None}),
    ("state.json", {"progress": {"images": 4, "stage": 7, "stage_images": 0}}),
    ("state.json", {"progress": {"images": -4, "stage": 0, "stage_images": 0}}), ("rank0.json", {"pool_a": []}),
    ("rank0.json", {"pool_a": [3, [1, 2], None]}), ("rank0.json", {"pool_a": "x"}),
    ("rank0.json", {"pool_a": [3, ["x"] * 625, None]})]


def test_a_checkpoint_that_was_sealed_with_another_content_is_refused(run: Run) -> None:
    """A manifest tells that nothing has changed since, not that nobody wrote nonsense: a resume ended in a traceback.
    """
    newest, _ = newest_checkpoint(run.folder / "checkpoints")
    assert newest is not None
    for file, changes in NONSENSE:
        sound = (newest / file).read_text()
        (newest / file).write_text(json.dumps(json.loads(sound) | changes))
        seal(newest)
        with pytest.raises(CheckpointError):
            run.load(newest)
        (newest / file).write_text(sound)
    seal(newest)
    run.load(newest)


def test_a_checkpoint_that_is_a_link_is_removed_and_what_it_leads_to_is_not(run: Run, tmp_path: Path) -> None:
    """The manifest of a folder elsewhere was removed with the link to it."""
    newest, _ = newest_checkpoint(run.folder / "checkpoints")
    assert newest is not None
    precious = newest.rename(tmp_path / "precious")
    newest.symlink_to(precious)
    for _ in range(3):
        run.progress.images += 2
        save(run)
    assert not newest.is_symlink() and verify(precious) is None


def test_a_checkpoint_holds_no_pickle(run: Run) -> None:
    """Nothing in it can run code: tensors in safetensors, everything else JSON."""
    path = save(run)
    for file in path.iterdir():
        if file.suffix == ".json":
            json.loads(file.read_text())
            continue
        assert file.suffix == ".safetensors"
        header = int.from_bytes(file.read_bytes()[:8], "little")
        json.loads(file.read_bytes()[8:8 + header])


def test_checkpoints_are_kept_as_many_as_the_recipe_says(shared_pairs: Path, tmp_path: Path) -> None:
    recipe = unseen_recipe(shared_pairs, keep_checkpoints=3, every=UNSEEN | {"checkpoint": 2})
    train(recipe, tmp_path / "run", Silent())
    assert [path.name for path in sorted((tmp_path / "run" / "checkpoints").iterdir())] == [
        "000000000008", "000000000010", "000000000012"]


@pytest.mark.parametrize("left_out", ["images", "stage", "stage_images"])
def test_a_checkpoint_that_does_not_say_where_the_run_stood_is_no_run_of_no_images(left_out: str, run: Run) -> None:
    path = save(run)
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(state | {"progress": state["progress"] | {"of a newer version": 1}}))
    assert read_progress(path).images == run.progress.images
    del state["progress"][left_out]
    (path / "state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match=f"progress.{left_out}: is missing"):
        read_progress(path)


def test_a_name_that_progress_does_not_have_cannot_be_assigned() -> None:
    """It would have been written into checkpoints, and what was meant would not."""
    with pytest.raises(ValueError, match="imagse"):
        Progress().imagse = 3


@pytest.mark.parametrize("value", [1e31, -1e31, math.inf, math.nan, None])
def test_a_score_that_no_checkpoint_can_hold_counts_for_nothing(value: float | None) -> None:
    progress = Progress()
    assert not progress.compare("l1", value, 4, 64, 64, higher_is_better=True) and progress.best is None
    assert progress.compare("l1", -1e30, 4, 64, 64, higher_is_better=True)
    assert not progress.compare("l1", value, 4, 64, 64, higher_is_better=True) and progress.since_best == 1
    saved = Progress()
    saved.load(json.loads(json.dumps(progress.dump())))
    assert saved == progress


def test_what_was_the_best_at_the_healthy_checkpoint_is_kept_with_it(run: Run) -> None:
    """A rollback discards what was better since then: without it there would be no best checkpoint at all."""
    for images, best, clear in ((6, 6, 6), (8, 6, 8), (10, 10, 8), (12, 10, 8), (14, 10, 8)):
        run.progress.images, run.progress.healthy_at = images, clear
        run.progress.best = Best(images=best, metric="l1", value=1 / best, num_images=4)
        save(run)
    assert [int(path.name) for path in sorted((run.folder / "checkpoints").iterdir())] == [6, 8, 10, 12, 14]


def test_what_a_resume_refused_never_crowds_out_what_it_saves(shared_pairs: Path, tmp_path: Path) -> None:
    """Checkpoints of 8 and 12 images are damaged and the run goes on from 4: the new ones have lower numbers."""
    train_until(cyclegan_recipe(shared_pairs, keep_checkpoints=3, every=UNSEEN, guard=None), tmp_path / "run", 12)
    for name in ("000000000008", "000000000012"):
        (tmp_path / "run" / "checkpoints" / name / "MANIFEST.json").write_text("{}x")
    recipe = cyclegan_recipe(shared_pairs, every=UNSEEN | {"checkpoint": 2}, guard=None)
    held = Run(recipe, RunFolder(tmp_path / "run"), make_accelerator(recipe, tmp_path / "run"), Silent())
    held.restore()
    assert held.progress.images == 4
    held.progress.images = 6
    save(held)
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == [
        "000000000004", "000000000006"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)  # the longest name there is: a temporary name must not be longer
    files.write_bytes(path, b"before")
    try:
        with files.replacing(path) as file:
            file.write(b"half of what")
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


def test_lines_that_a_crash_cut_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    files.append_line(path, {"images": 1})
    with path.open("ab") as file:
        file.write(b'{"images": 2')
    assert read_lines(path) == [{"images": 1}]
