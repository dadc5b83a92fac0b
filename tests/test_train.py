"""A run does what its recipe says, and repeats bit for bit however often it was interrupted."""

from __future__ import annotations

import errno
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from accelerate import Accelerator, debug_launcher
from accelerate.state import AcceleratorState
from PIL import Image
from torch.multiprocessing import ProcessRaisedException
from torch.nn.functional import pad
from torchvision.utils import make_grid

from tests import three_steps
from tests.commands import Command
from tests.covering import one_in
from tests.runs import (
    ROOT,
    UNSEEN,
    Interrupted,
    Silent,
    cut_recipe,
    cyclegan_recipe,
    final_state,
    in_a_process,
    pix2pix_recipe,
    stabilised_recipe,
    train_until,
    unseen_recipe,
)
from translate import files
from translate.agreement import by_main_process
from translate.data import Sample
from translate.errors import CheckpointError, DataError, DiskError, ImageError, RunError, TranslateError, UsageError
from translate.foreign import read_lines
from translate.networks.eval_mode import evaluating
from translate.recipe import Recipe
from translate.runs.checkpoint import newest_checkpoint
from translate.runs.folder import RunFolder
from translate.runs.records import sample_grid, to_rgb
from translate.runs.release import load_release
from translate.training.loop import train
from translate.training.processes import check_shares
from translate.translators.pool import ImagePool

Trained = Callable[[Recipe], Path]


def finished(recipe: Any, folder: Path) -> Path:
    train(recipe, folder, Silent())
    return folder


def test_a_run_leaves_what_it_promises(shared_pairs: Path, tmp_path: Path) -> None:
    run = finished(cyclegan_recipe(shared_pairs, every={"log": 4, "sample": 20, "checkpoint": 4, "evaluate": 12}),
                   tmp_path / "run")
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    best = json.loads((run / "status.json").read_text())["best"]["images"]
    assert {int(path.name) for path in (run / "checkpoints").iterdir()} == {16, 20, best}
    records = read_lines(run / "metrics.jsonl")
    assert [record["images"] for record in records if record["kind"] == "train"] == list(range(4, 21, 4))
    assert {"adversarial_ab", "cycle_ba", "identity_ab", "discriminator_a", "lr"} <= records[0].keys()
    scores = [record for record in records if record["kind"] == "evaluation"]
    assert [record["images"] for record in scores] == [12, 20] and all("psnr" in record for record in scores)
    with Image.open(run / "samples" / "000000000020.png") as grid:
        assert grid.size == (4 * (44 + 2) + 2, 4 * (40 + 2) + 2)  # a, a → b, b, b → a of four held-out images, whole
    for direction in ("ab", "ba"):
        from_run, given_away = load_release(run, direction), load_release(run / "release", direction)
        assert from_run.fingerprint == given_away.fingerprint
        torch.testing.assert_close(from_run.generator.state_dict(), given_away.generator.state_dict())


def test_the_learning_rate_follows_its_schedule(shared_pairs: Path, tmp_path: Path) -> None:
    """Constant in the first stage, then linear to zero over the images of the second."""
    stages = [{"resolution": 16, "images": 12, "batch_size": 2},
              {"resolution": 20, "images": 8, "batch_size": 2, "lr": {"kind": "linear"}}]
    run = finished(unseen_recipe(shared_pairs, stages=stages, every=UNSEEN | {"log": 2, "checkpoint": 20}),
                   tmp_path / "run")
    rates = {record["images"]: record["lr"] for record in read_lines(run / "metrics.jsonl") if "lr" in record}
    assert rates[12] == 2e-4
    assert rates[14] == 2e-4  # the first step of the second stage begins at its start
    assert rates[18] == pytest.approx(2e-4 * (1 - 4 / 8))
    assert rates[20] == pytest.approx(2e-4 * (1 - 6 / 8))


@pytest.mark.parametrize("make", [
    pix2pix_recipe, *(pytest.param(make, marks=pytest.mark.slow) for make in (cyclegan_recipe, cut_recipe))])
def test_two_runs_of_one_recipe_are_bit_identical(make: Any, shared_pairs: Path, tmp_path: Path,
                                                  trained: Trained) -> None:
    recipe = make(shared_pairs, every=UNSEEN)
    assert final_state(finished(recipe, tmp_path / "run")) == final_state(trained(recipe))
    other = finished(make(shared_pairs, every=UNSEEN, seed=1), tmp_path / "other")
    assert final_state(other) != final_state(trained(recipe))


@pytest.mark.parametrize(("make", "at"), [
    pytest.param(make, at, marks=() if at == quick else pytest.mark.slow)
    for make, quick in ((cyclegan_recipe, 6), (pix2pix_recipe, None), (cut_recipe, None), (stabilised_recipe, 10))
    for at in (6, 10)])
def test_an_interrupted_run_resumes_bit_identically(make: Any, at: int, shared_pairs: Path, tmp_path: Path,
                                                    trained: Trained) -> None:
    recipe = make(shared_pairs, every=UNSEEN)  # looks change nothing, says test_evaluate
    train_until(recipe, tmp_path / "broken", at)
    train(recipe, tmp_path / "broken", Silent(), resume=True)
    assert final_state(tmp_path / "broken") == final_state(trained(recipe))
    lines = [(record["images"], record["kind"]) for record in read_lines(tmp_path / "broken" / "metrics.jsonl")]
    assert len(lines) == len(set(lines)), "what was repeated is recorded once"


MUTANTS = {
    "pool randomness": (ImagePool, "load",
                        lambda load: lambda self, images, state: load(self, images, self.state()[1])),
    "pool images": (ImagePool, "load", lambda load: lambda self, images, state: load(self, [], state)),
    "averages": (torch.nn.Module, "load_state_dict", lambda load: lambda self, state: (
        None if not next(self.parameters()).requires_grad else load(self, state))),
    "optimizer": (torch.optim.Adam, "load_state_dict", lambda load: lambda self, state: None),
    "torch randomness": (torch, "set_rng_state", lambda load: lambda state: None),
}


@pytest.fixture(scope="module")
def stopped_at_10(shared_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that ended in the middle of its first stage, once for all tests that go on with a copy of it."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    train_until(cyclegan_recipe(shared_pairs, every=UNSEEN), run, 10)
    return run


@pytest.mark.parametrize("forgotten", one_in(5, list(MUTANTS)))
def test_a_restore_that_forgets_something_is_caught(forgotten: str, shared_pairs: Path, tmp_path: Path,
                                                    stopped_at_10: Path, trained: Trained,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof that the comparison above can fail: each mutant of the restore ends in another state."""
    recipe = cyclegan_recipe(shared_pairs, every=UNSEEN)
    whole = final_state(trained(recipe))
    shutil.copytree(stopped_at_10, tmp_path / "run")
    owner, name, mutate = MUTANTS[forgotten]
    torch.manual_seed(12345)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, mutate(getattr(owner, name)))
        if forgotten == "torch randomness":  # the run seeds it too, before it restores
            patch.setattr(torch, "manual_seed", lambda seed: None)
        train(recipe, tmp_path / "run", Silent(), resume=True)
    assert final_state(tmp_path / "run") != whole


def killed_runs(recipe: Any, folder: Path, num_kills: int, seed: int) -> int:
    """Kill a run at random instants, each after it has got on, until it ends or `num_kills` is reached.

    Returns the number of kills. After each, the newest checkpoint that the run had reported must be there.
    """
    draw = random.Random(seed)
    reached = 0
    for kill in range(num_kills):
        process, seen = in_a_process(recipe, folder)
        while process.is_alive() and seen.value <= reached:
            time.sleep(0.001)
        if not process.is_alive():
            process.join()
            assert process.exitcode == 0
            return kill
        assert seen.value > reached, "a kill before any progress would prove nothing"
        time.sleep(draw.random() * 0.15)
        process.kill()
        process.join()
        status = json.loads((folder / "status.json").read_text())
        newest, refused = newest_checkpoint(folder / "checkpoints")
        held = int(newest.name) if newest else 0
        assert held >= status["images"] and not refused, f"checkpoint of {status['images']} images lost: {refused}"
        reached = held
    train(recipe, folder, Silent(), resume=True)
    return num_kills


@pytest.mark.slow
def test_a_run_killed_at_random_instants_loses_nothing(shared_pairs: Path, tmp_path: Path) -> None:
    recipe = cyclegan_recipe(shared_pairs, stages=[{"resolution": 16, "images": 60, "batch_size": 2}])
    assert killed_runs(recipe, tmp_path / "killed", 3, seed=0) >= 2
    assert final_state(tmp_path / "killed") == final_state(finished(recipe, tmp_path / "whole"))


@pytest.mark.slow
def test_two_hundred_kills_lose_nothing(shared_pairs: Path, tmp_path: Path) -> None:
    recipe = cyclegan_recipe(shared_pairs, stages=[{"resolution": 16, "images": 600, "batch_size": 2}])
    whole = final_state(finished(recipe, tmp_path / "whole"))
    kills = number = 0
    while kills < 200:
        kills += killed_runs(recipe, tmp_path / f"killed{number}", 200 - kills, seed=number)
        assert final_state(tmp_path / f"killed{number}") == whole
        number += 1


@pytest.mark.parametrize(("number", "to_group"), [
    pytest.param(signal.SIGINT, False, id="int-process"),
    pytest.param(signal.SIGTERM, True, id="term-group"),
    pytest.param(signal.SIGTERM, False, id="term-process", marks=pytest.mark.slow),
    pytest.param(signal.SIGINT, True, id="int-group", marks=pytest.mark.slow)])
def test_a_signal_saves_and_exits_75(number: signal.Signals, to_group: bool, shared_pairs: Path,
                                     tmp_path: Path) -> None:
    """Also when the whole group gets it, twice: a batch system signals a launcher and its children, which pass it on.

    The loaders must outlive the save.
    """
    recipe = cyclegan_recipe(shared_pairs, workers=2 if to_group else 0,
                             stages=[{"resolution": 16, "images": 100_000, "batch_size": 2}],
                             every={"log": 2, "sample": 100_000, "checkpoint": 100_000})
    (tmp_path / "toy.yaml").write_text(recipe.dump_yaml())
    run = tmp_path / "run"
    words = ("train", tmp_path / "toy.yaml", "--run", run)
    command = Command(tmp_path / "printed", *words)
    deadline = time.monotonic() + 60
    while not (run / "metrics.jsonl").exists() and command.runs() and time.monotonic() < deadline:
        time.sleep(0.01)
    command.send(number, to_group)
    if to_group:
        time.sleep(0.03)
        command.send(number, to_group)
    assert command.wait() == 75, command.printed.read_text()
    assert f"translate train --resume --run {run}" in command.printed.read_text()
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("stopped", 75) and status["images"] > 0
    newest, _ = newest_checkpoint(run / "checkpoints")
    assert newest is not None and int(newest.name) == status["images"]


def test_what_a_start_that_failed_has_left_is_in_nobodys_way(shared_pairs: Path, tmp_path: Path) -> None:
    """A rotten image, found with the first batch, ends a training that has saved nothing."""
    home = tmp_path / "pairs"
    shutil.copytree(shared_pairs, home)
    for path in (home / "trainA").iterdir():
        path.write_bytes(b"no image")
    recipe = unseen_recipe(home)
    with pytest.raises(DataError, match="no image"):
        train(recipe, tmp_path / "run", Silent())
    assert (tmp_path / "run" / "status.json").is_file()
    shutil.rmtree(home)
    shutil.copytree(shared_pairs, home)
    train(recipe, tmp_path / "run", Silent())
    with pytest.raises(RunError, match="is a file; a run needs a folder"):
        train(recipe, tmp_path / "run" / "recipe.yaml", Silent())


def test_a_run_is_never_overwritten(shared_pairs: Path, tmp_path: Path, trained: Trained) -> None:
    recipe = unseen_recipe(shared_pairs)
    run = Path(shutil.copytree(trained(recipe), tmp_path / "run"))
    before = final_state(run)
    with pytest.raises(RunError, match="--resume"):
        train(recipe, run, Silent())
    with pytest.raises(RunError, match="no run here"):
        train(recipe, tmp_path / "nothing", Silent(), resume=True)
    assert final_state(run) == before and not (tmp_path / "nothing").exists()


def test_resuming_with_a_changed_recipe_lists_the_changes(shared_pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_until(unseen_recipe(shared_pairs), run, 6)
    changed = unseen_recipe(shared_pairs, seed=5)
    with pytest.raises(RunError, match="seed: 0 → 5"):
        train(changed, run, Silent(), resume=True)


def test_a_run_can_be_extended_by_a_stage_and_by_cadence(shared_pairs: Path, tmp_path: Path, trained: Trained) -> None:
    recipe = unseen_recipe(shared_pairs)
    run = Path(shutil.copytree(trained(recipe), tmp_path / "run"))
    stages = [*recipe.dump()["stages"], {"resolution": 16, "images": 4, "batch_size": 2}]
    train(unseen_recipe(shared_pairs, stages=stages, every=UNSEEN | {"log": 2}), run, Silent(), resume=True)
    assert final_state(run)["images"] == "000000000016"


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(shared_pairs: Path, tmp_path: Path,
                                                                  trained: Trained) -> None:
    recipe = unseen_recipe(shared_pairs)
    run = tmp_path / "run"
    train_until(recipe, run, 10)
    newest = sorted((run / "checkpoints").iterdir())[-1]
    file = newest / "generator_ab.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    report = Silent()
    train(recipe, run, report, resume=True)
    assert any(newest.name in line and "generator_ab.safetensors" in line for line in report.lines if "refused" in line)
    assert final_state(run) == final_state(trained(recipe))


def test_when_no_checkpoint_verifies_the_run_says_so_and_starts_nothing(shared_pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_until(unseen_recipe(shared_pairs), run, 6)
    for manifest in (run / "checkpoints").glob("*/MANIFEST.json"):
        manifest.write_text("{")
    with pytest.raises(CheckpointError, match="none of its"):
        train(unseen_recipe(shared_pairs), run, Silent(), resume=True)


def test_an_average_keeps_its_memory_when_the_batch_size_changes(shared_pairs: Path, tmp_path: Path) -> None:
    """`ema` is the share kept per image, and less at first: two images in one step weigh as two steps of one."""
    from translate.translators import CycleGANConfig

    translators = [CycleGANConfig(generator={"kind": "resnet", "width": 2, "blocks": 0}, ema=0.9).build(3, 3)
                   for _ in range(2)]
    one, two = (translator.ema_generators["generator_ab"] for translator in translators)
    two.load_state_dict(one.state_dict())
    translators[1].generator_ab.load_state_dict(translators[0].generator_ab.state_dict())
    for translator in translators:
        with torch.no_grad():
            for parameter in translator.generator_ab.parameters():
                parameter.add_(1.0)
    translators[0].update_ema(1, 3), translators[0].update_ema(1, 4), translators[1].update_ema(2, 3)
    for average, other in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(average, other)


def test_an_average_holds_the_running_statistics_that_fit_its_weights() -> None:
    """Those of the newest weights would not: they are averaged like the weights."""
    from translate.translators import CycleGANConfig

    translator = CycleGANConfig(generator={"kind": "resnet", "width": 2, "blocks": 0, "norm": "batch"}, ema=0.75,
                                weights={"identity": 0}).build(3, 3)
    translator.generator_ab.norm.running_mean.fill_(8.0)
    translator.update_ema(1, 100)
    assert translator.ema_generators["generator_ab"].norm.running_mean.tolist() == pytest.approx([2.0] * 8)


def test_the_average_of_a_short_training_has_nothing_of_the_first_weights() -> None:
    """After t images it keeps min(ema, (1 + t) / (10 + t)) of itself: written out, for a weight of t, from a million.
    """
    from translate.translators import CycleGANConfig

    translator = CycleGANConfig(generator={"kind": "resnet", "width": 1, "blocks": 0}, ema=0.9).build(1, 1)
    weight, average = (next(network.parameters()).data for network in (
        translator.generator_ab, translator.ema_generators["generator_ab"]))
    average.fill_(1e6)
    expected = 1e6
    for image in range(120):
        weight.fill_(image)
        translator.update_ema(1, image)
        expected += (image - expected) * (1 - min(0.9, (1 + image) / (10 + image)))
    assert average.flatten()[0].item() == pytest.approx(expected, rel=1e-5)
    assert expected == pytest.approx(119 - 9, abs=1)


def train_anew(recipe: Recipe, folder: Path) -> None:
    """A training in one of several forks."""
    AcceleratorState._reset_state(reset_partial_state=True)  # what this fork inherited
    train(recipe, folder, Silent())


def in_forks(recipe: Recipe, folder: Path) -> None:
    debug_launcher(train_anew, (recipe, folder), num_processes=2)


def under_torchrun(recipe: Recipe, folder: Path) -> None:
    folder.with_suffix(".yaml").write_text(recipe.dump_yaml())
    launched = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         "-m", "translate", "train", folder.with_suffix(".yaml"), "--run-dir", folder],
        cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert launched.returncode == 0, launched.stderr


def decide_badly(folder: Path) -> None:
    """What each process of two hears where the main one fails."""
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator, heard = Accelerator(cpu=True), []
    unsendable = cv2.error("no codec")
    unsendable.of = lambda: None  # type: ignore[attr-defined]
    torn = ImageError("x.png", "read", "torn")
    torn.__cause__ = OSError("end of file")
    for fault in (torn, unsendable, MemoryError(), RuntimeError("out of memory")):
        def decide(fault: Exception = fault) -> None:
            assert accelerator.is_main_process
            raise fault

        try:
            by_main_process(decide, accelerator)
        except TranslateError as error:
            heard.append(f"{type(error).__name__} {error.what}")
            if accelerator.is_main_process:  # it shows where the error came from, and the error of another library
                assert (error is fault is torn and isinstance(error.__cause__, OSError)) or error.__cause__ is fault
    heard.append(by_main_process(lambda: "and it goes on", accelerator))
    (folder / f"{accelerator.process_index}.json").write_text(json.dumps(heard))


class TestProcesses:
    """Several processes over gloo: in forks, which need not import anything, and under torchrun."""

    def test_whatever_the_main_one_raises_is_heard_by_all(self, tmp_path: Path) -> None:
        """The others waited for its answer, for ever."""
        debug_launcher(decide_badly, (tmp_path,), num_processes=2)
        heard = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
        assert heard == [["ImageError read: torn", "TranslateError error: no codec", "DoesNotFit MemoryError",
                          "DoesNotFit RuntimeError: out of memory", "and it goes on"]] * 2

    def test_two_processes_train_as_one(self, shared_pairs: Path, tmp_path: Path) -> None:
        """The same parameters after three steps with the same global batch, in float64 with SGD."""
        debug_launcher(three_steps.all_translators, (shared_pairs, tmp_path / "two"), num_processes=2)
        for kind in three_steps.RECIPES:
            three_steps.main(kind, shared_pairs, tmp_path / "one" / kind)
            one, two, other = (torch.load(tmp_path / folder / kind / f"{rank}.pt")
                               for folder, rank in (("one", 0), ("two", 0), ("two", 1)))
            for name, value in one["after"].items():
                if name.endswith("weight"):  # a bias in front of a norm has no gradient
                    assert not torch.equal(value, one["before"][name]), f"{kind}: {name} was not trained at all"
                torch.testing.assert_close(two["after"][name], value, rtol=1e-10, atol=1e-10)
                assert torch.equal(two["after"][name], other["after"][name]), f"{kind}: processes have drifted apart"

    def test_a_batch_that_cannot_be_shared_is_refused_before_there_is_a_run(self, shared_pairs: Path,
                                                                            tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"stages\.1\.batch_size: 2 cannot be shared equally by 4 processes; use a "
                                             r"multiple of 4, as in --set stages\.1\.batch_size=4"):
            recipe = cyclegan_recipe(shared_pairs)
            first = recipe.stages[0].model_copy(update={"batch_size": 4})
            check_shares(recipe.model_copy(update={"stages": (first, recipe.stages[1])}), 4)

    @pytest.mark.parametrize("launched", [in_forks, pytest.param(under_torchrun, marks=pytest.mark.slow)])
    def test_a_recipe_trains_in_two_processes_and_resumes_in_one(self, launched: Callable[[Recipe, Path], None],
                                                                 shared_pairs: Path, tmp_path: Path) -> None:
        recipe = cyclegan_recipe(shared_pairs, every={"log": 2, "sample": 4, "checkpoint": 4}, stages=[
            {"resolution": 16, "images": 2, "batch_size": 2},
            {"resolution": 24, "images": 2, "batch_size": 2, "lr": {"kind": "linear"}}])
        launched(recipe, tmp_path / "run")
        assert final_state(tmp_path / "run")["images"] == "000000000004"
        assert {"rank0.safetensors", "rank1.safetensors"} <= final_state(tmp_path / "run").keys()
        kept = {path.name.split("-")[1] for path in (tmp_path / "run" / "held_out").glob("*-*.jpg")}
        assert {"input.jpg", "output.jpg"} <= kept and len(list((tmp_path / "run" / "held_out").glob("*-output*"))) == 4
        assert (tmp_path / "run" / "report.html").is_file()
        report = Silent()
        train(recipe, tmp_path / "run", report, resume=True)
        assert any("processes: 2 then, 1 now" in line for line in report.lines)

    def test_batch_norm_over_processes_on_a_cpu_is_a_named_error(self, shared_pairs: Path, tmp_path: Path) -> None:
        with pytest.raises(ProcessRaisedException, match="generator_ab: batch norm over several processes needs CUDA"):
            debug_launcher(train_anew, (pix2pix_recipe(shared_pairs), tmp_path / "run"), num_processes=2)


def test_a_mistake_in_the_data_leaves_no_folder_in_the_way(shared_pairs: Path, tmp_path: Path) -> None:
    """Whoever prepares the data and gives the same command again must not be told that the run exists."""
    recipe = pix2pix_recipe(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no such folder"):
        train(recipe, tmp_path / "run", Silent())
    unpaired = cyclegan_recipe(shared_pairs, every={"evaluate": 10})
    alone = shared_pairs.parent / "no-test"
    for side in "AB":
        shutil.copytree(shared_pairs / f"train{side}", alone / f"train{side}", dirs_exist_ok=True)
    with pytest.raises(DataError, match="no test images"):
        train(cyclegan_recipe(alone, every=unpaired.dump()["every"]), tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()


def test_a_rotten_test_image_costs_its_scores_and_not_the_run(shared_pairs: Path, tmp_path: Path) -> None:
    data = shutil.copytree(shared_pairs, tmp_path / "pairs")
    (data / "testB" / "5.png").write_bytes(b"rotten")
    report = Silent()
    train(unseen_recipe(data, every=UNSEEN | {"evaluate": 6}), tmp_path / "run", report)
    assert any("no scores at 6 images" in line and "5.png" in line for line in report.lines)
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "finished"


def test_a_run_belongs_to_one_process_at_a_time(shared_pairs: Path, tmp_path: Path) -> None:
    """A requeued job beside a dying one must not mix its files with those of the other."""
    recipe = unseen_recipe(shared_pairs)
    train_until(recipe, tmp_path / "run", 6)
    holder = RunFolder(tmp_path / "run")
    holder.claim(recipe)
    with pytest.raises(RunError, match="another process is training this run"):
        train(recipe, tmp_path / "run", Silent(), resume=True)
    holder.close()
    train(recipe, tmp_path / "run", Silent(), resume=True)


@pytest.mark.slow
def test_the_losses_of_a_resumed_run_are_those_of_an_uninterrupted_one(shared_pairs: Path, tmp_path: Path) -> None:
    recipe = cyclegan_recipe(shared_pairs, every={"log": 10, "sample": 40, "checkpoint": 4},
                             stages=[{"resolution": 16, "images": 20, "batch_size": 2}])
    train_until(recipe, tmp_path / "broken", 14)
    train(recipe, tmp_path / "broken", Silent(), resume=True)
    finished(recipe, tmp_path / "whole")
    measured = ("images_per_second", "seconds", "peak_bytes")
    broken, whole = ([{name: value for name, value in record.items() if name not in measured}
                      for record in read_lines(tmp_path / name / "metrics.jsonl")] for name in ("broken", "whole"))
    assert broken == whole


def test_samples_of_label_maps_show_every_class() -> None:
    labels = torch.eye(5)[None, :, :, None].expand(1, 5, 5, 2)  # row i is of class i
    shown = to_rgb(labels, labels=True)
    assert shown.shape == (1, 3, 5, 2) and shown[0, 0, :, 0].tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]


def test_a_sample_grid_is_that_of_torchvision_in_bytes() -> None:
    """In floats, and three times over, it took more than the step of a small network."""
    recipe, sizes = cyclegan_recipe(Path("none")), [(16, 20), (24, 16), (20, 20)]
    translator = recipe.translator.build(3, 3)
    samples = [Sample(*torch.empty(2, 3, *size).uniform_(-1.1, 1.1), key) for key, size in enumerate(sizes)]
    cells = []
    for sample in samples:
        with torch.no_grad(), evaluating(translator.generator("ab")), evaluating(translator.generator("ba")):
            made = [translator.generator("ab")(sample.a[None])[0], translator.generator("ba")(sample.b[None])[0]]
        for image in (sample.a, made[0], sample.b, made[1]):
            rest = [(24 - image.shape[1]), (20 - image.shape[2])]
            cells.append(pad(image, (rest[1] // 2, rest[1] - rest[1] // 2, rest[0] // 2, rest[0] - rest[0] // 2),
                             value=1.0))
    wanted = make_grid(torch.stack(cells), nrow=4, padding=2, pad_value=1.0)
    grid = sample_grid(translator, samples, torch.device("cpu"))
    assert torch.equal(grid, wanted.add(1).div(2).clamp(0, 1).mul(255).byte().permute(1, 2, 0))


def test_a_disk_that_fills_up_ends_with_74(shared_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where what fails is not a checkpoint, but the line of a log."""
    def full(path: Path, record: dict[str, Any]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "append_line", full)
    with pytest.raises(DiskError, match=r"No space left on device .* bytes free"):
        train(unseen_recipe(shared_pairs), tmp_path / "run", Silent())
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 74)


def test_fp16_on_a_cpu_is_refused_with_a_reason(shared_pairs: Path, tmp_path: Path) -> None:
    """Autocast would quietly compute in fp32."""
    with pytest.raises(UsageError, match="fp16 does nothing on a CPU"):
        train(pix2pix_recipe(shared_pairs, precision="fp16"), tmp_path / "run", Silent())


def test_interrupted_is_not_swallowed(shared_pairs: Path, tmp_path: Path) -> None:
    """A fault of the caller's own reporter ends the run as failed, and says so in its status."""
    def fail(images: int) -> None:
        raise Interrupted("by the test")

    with pytest.raises(Interrupted):
        train(unseen_recipe(shared_pairs), tmp_path / "run", Silent(fail))
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["state"] == "failed" and "by the test" in status["message"]
