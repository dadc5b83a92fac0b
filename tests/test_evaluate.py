"""Is it good, and when to stop: held-out scores while training, the best checkpoint, and `translate evaluate`."""

from __future__ import annotations

import io
import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import torchvision
from accelerate import Accelerator, debug_launcher
from accelerate.state import AcceleratorState
from PIL import Image

from tests.cluster import Elsewhere
from tests.commands import call
from tests.conftest import waves, write_pairs
from tests.runs import (
    UNSEEN,
    Silent,
    cyclegan_recipe,
    final_state,
    least_recipe,
    pix2pix_recipe,
    train_until,
)
from translate.cards.cards import find_card, prepare
from translate.convert import convert
from translate.data.scale import OWN_SIZE
from translate.errors import DataError, ImageError, RecipeError, Stopped, TranslateError, UsageError
from translate.evaluation.folder_images import Images
from translate.evaluation.heldout import Evaluator, HeldOut, translate_whole
from translate.evaluation.label_maps import evaluate_labels
from translate.evaluation.observing import Observing
from translate.evaluation.scoring import evaluate_folder, evaluate_run
from translate.files import sha256
from translate.foreign import read_lines
from translate.metrics import features
from translate.metrics.distribution import kernel_distances
from translate.metrics.intervals import Estimate
from translate.networks import features as pretrained
from translate.places import RECIPE_FILE
from translate.recipe import Recipe, find_recipe, load_recipe
from translate.runs.checkpoint import best_checkpoint
from translate.runs.manifest import verify
from translate.runs.release import load_release
from translate.schema import validate
from translate.training.loop import train
from translate.training.processes import make_accelerator

SHOWN = 56  # px; so near to the images' own size of 72 px that they are scored in one size alone


def evaluations(run: Path) -> list[dict[str, Any]]:
    """What a run recorded of its evaluations, without how long they took."""
    return [{name: value for name, value in record.items() if name != "seconds"}
            for record in read_lines(run / "metrics.jsonl") if record["kind"] == "evaluation"]


def spoilt_recipe(data: Path, **changes: Any) -> Recipe:
    """A run that learns something in its first stage and loses it in the second, where the learning rate is absurd."""
    document = least_recipe(data).dump()
    document["optimizer"]["generator"] = {"kind": "adam", "lr": 1e-3}
    document["data"]["resize"] = SHOWN
    document["stages"] = [{"resolution": 16, "images": 12, "batch_size": 2},
                          {"resolution": 16, "images": 40, "batch_size": 2, "lr": {"kind": "constant", "factor": 1000}}]
    document |= {"every": {"log": 4, "sample": None, "checkpoint": 4, "evaluate": 4},
                 "evaluate": {"metric": "l1", "patience": 3}, "guard": None, **changes}
    return validate(Recipe, document, "spoilt")


@pytest.fixture(scope="module")
def spoilt(shared_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Silent]:
    run, report = tmp_path_factory.mktemp("spoilt") / "run", Silent()
    train(spoilt_recipe(shared_pairs), run, report)
    return run, report


def test_a_run_that_gets_worse_keeps_its_best_and_stops_with_a_reason(spoilt: tuple[Path, Silent]) -> None:
    run, report = spoilt
    records = evaluations(run)
    best = min(records, key=lambda record: record["l1"])
    assert 4 <= best["images"] <= 16 and records[-1]["l1"] > 1.2 * best["l1"], "the construction does what it says"
    assert records[-1]["images"] == best["images"] + 3 * 4, "three evaluations of patience"
    assert [record["since_best"] for record in records[-4:]] == [0, 1, 2, 3]
    low, high = best["intervals"]["l1"]
    assert low < best["l1"] < high and best["num_held_out"] == 6 and best["decided_by"] == "l1"
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["exit_code"], status["best"]["images"]) == ("finished", 0, best["images"])
    reason = f"stopped early at {best['images'] + 12} of 52 images: l1 was best at {best['images']} images"
    assert reason in status["message"] and any(reason in line for line in report.lines)
    kept = [int(path.name) for path in sorted((run / "checkpoints").iterdir())]
    assert kept == [best["images"], best["images"] + 8, best["images"] + 12], "the best beside the last two"
    assert load_release(run / "best").fingerprint == load_release(run / "release").fingerprint
    assert load_release(run / "best").fingerprint != load_release(run).fingerprint
    released = json.loads((run / "release" / "release.json").read_text())
    assert released["images"] == best["images"] and "best l1" in released["chosen"]


@pytest.mark.parametrize("at", [pytest.param(6, marks=pytest.mark.slow), 18, pytest.param(22, marks=pytest.mark.slow)])
def test_the_best_and_the_patience_survive_a_kill(at: int, spoilt: tuple[Path, Silent], shared_pairs: Path,
                                                  tmp_path: Path) -> None:
    """The resumed run is the uninterrupted one, bit for bit: state, best checkpoint and scores."""
    def kill(images: int) -> None:
        if images == at:
            os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=train, args=(
        spoilt_recipe(shared_pairs), tmp_path / "run", Silent(kill)))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "a kill after the end would prove nothing"
    train(spoilt_recipe(shared_pairs), tmp_path / "run", Silent(), resume=True)
    assert final_state(tmp_path / "run") == final_state(spoilt[0])
    assert evaluations(tmp_path / "run") == evaluations(spoilt[0])
    best, other = best_checkpoint(tmp_path / "run" / "checkpoints"), best_checkpoint(spoilt[0] / "checkpoints")
    assert best is not None and other is not None and verify(best) is None and best.name == other.name
    assert (best / "MANIFEST.json").read_text() == (other / "MANIFEST.json").read_text()


def test_a_stop_at_an_evaluation_saves_first_and_evaluates_on_resume(spoilt: tuple[Path, Silent], shared_pairs: Path,
                                                                     tmp_path: Path) -> None:
    """A batch system allows seconds; an evaluation may take longer. Nothing is lost by putting it off."""
    def signal_at(images: int) -> None:
        if images == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        train(spoilt_recipe(shared_pairs), tmp_path / "run", Silent(signal_at))
    assert [record["images"] for record in evaluations(tmp_path / "run")] == [4]
    train(spoilt_recipe(shared_pairs), tmp_path / "run", Silent(), resume=True)
    assert evaluations(tmp_path / "run") == evaluations(spoilt[0])
    assert final_state(tmp_path / "run") == final_state(spoilt[0])


def test_more_patience_takes_a_stopped_run_further(spoilt: tuple[Path, Silent], shared_pairs: Path,
                                                   tmp_path: Path) -> None:
    run = shutil.copytree(spoilt[0], tmp_path / "run")
    before = final_state(run)["images"]
    train(spoilt_recipe(shared_pairs), run, Silent(), resume=True)
    assert final_state(run)["images"] == before, "the same patience ends where it ended"
    train(spoilt_recipe(shared_pairs, evaluate={"metric": "l1", "patience": 4}), run, Silent(), resume=True)
    assert final_state(run)["images"] > before


def test_a_lost_best_checkpoint_is_named_and_another_is_found(spoilt: tuple[Path, Silent], shared_pairs: Path,
                                                              tmp_path: Path) -> None:
    run = shutil.copytree(spoilt[0], tmp_path / "run")
    best = best_checkpoint(run / "checkpoints")
    assert best is not None
    shutil.rmtree(best)
    report = Silent()
    train(spoilt_recipe(shared_pairs), run, report, resume=True)
    assert any("the best checkpoint" in line and "is lost" in line for line in report.lines)
    assert json.loads((run / "status.json").read_text())["best"]["images"] > int(best.name)


@pytest.mark.parametrize(("make", "evaluate"), [
    (pix2pix_recipe, 4), pytest.param(cyclegan_recipe, 10, marks=pytest.mark.slow)])
def test_evaluating_changes_nothing_of_the_training(make: Any, evaluate: int, shared_pairs: Path, tmp_path: Path,
                                                    trained: Callable[[Recipe], Path]) -> None:
    """With dropout, batch norm, pools and random numbers: the networks are those of a run without evaluations, and
    without pictures.
    """
    short = {"stages": [stage | {"images": 8} for stage in make(shared_pairs).dump()["stages"]]}
    without = make(shared_pairs, every=UNSEEN, **short)
    train(make(shared_pairs, every=UNSEEN | {"evaluate": evaluate, "sample": 4}, **short), tmp_path / "run", Silent())
    says_so = ("state.json", "recipe.json")  # that it has evaluated
    found, expected = ({name: entry for name, entry in final_state(run).items() if name not in says_so}
                       for run in (tmp_path / "run", trained(without)))
    assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("at", [pytest.param(8, marks=pytest.mark.slow), 14, pytest.param(18, marks=pytest.mark.slow)])
def test_an_interrupted_run_with_evaluations_and_an_average_resumes_bit_identically(at: int, shared_pairs: Path,
                                                                                    tmp_path: Path) -> None:
    recipe = cyclegan_recipe(shared_pairs, every={"log": 4, "sample": 20, "checkpoint": 4, "evaluate": 6},
                             stages=[{"resolution": 16, "images": 12, "batch_size": 2},
                                     {"resolution": 24, "images": 8, "batch_size": 2, "lr": {"kind": "linear"}}])
    train(recipe, tmp_path / "whole", Silent())
    train_until(recipe, tmp_path / "broken", at)
    train(recipe, tmp_path / "broken", Silent(), resume=True)
    assert final_state(tmp_path / "broken") == final_state(tmp_path / "whole")
    assert evaluations(tmp_path / "broken") == evaluations(tmp_path / "whole")


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a MobileNetV2 of random weights: what it sees does not matter here, that it is used does."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("root") / "features" / features.MOBILENET_FILE
    path.parent.mkdir()
    torch.save(torchvision.models.mobilenet_v2().state_dict(), path)
    return path


@pytest.fixture
def with_features(mobilenet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "MOBILENET_SHA256", sha256(mobilenet))
    monkeypatch.setenv("DIPTYCH_DATA", str(mobilenet.parent.parent))


@pytest.fixture
def unpaired(tmp_path: Path) -> Path:
    """Test folders whose names do not pair, and of two sizes of sets."""
    data = write_pairs(tmp_path / "unpaired")
    for path in (data / "testB").iterdir():
        path.rename(path.with_name(f"other{path.stem}x{path.stem}.png"))
    (data / "testA" / "5.png").unlink()
    return data


def unrelated(home: Path, **changes: Any) -> Recipe:
    """A CycleGAN of images of which no recipe says that they are pairs."""
    stages = [{"resolution": 16, "images": 4, "batch_size": 2}]
    return cyclegan_recipe(home, data={"kind": "unpaired", "folder": str(home), "resize": SHOWN},
                           **{"stages": stages} | changes)


def evaluate_once(data: Path, out: Path) -> None:
    """One evaluation of a new translator, in a process of a group."""
    AcceleratorState._reset_state(reset_partial_state=True)  # what this process was forked from had joined no group
    recipe = cyclegan_recipe(data, data={"kind": "unpaired", "folder": str(data), "resize": SHOWN, "truth": True})
    accelerator = make_accelerator(recipe, out)
    torch.manual_seed(recipe.seed)
    evaluator = Evaluator(recipe, accelerator, "fp32")
    scores = evaluator(recipe.translator.build(3, 3, recipe.seed), recipe.fitting(recipe.stages[0])).shown
    found = {name: [score.value, score.interval] for name, score in scores.items()}
    (out / f"{accelerator.process_index}.json").write_text(json.dumps(found))


def test_processes_share_an_evaluation_and_get_the_scores_of_one(shared_pairs: Path, with_features: None,
                                                                 tmp_path: Path) -> None:
    for num in (1, 2):
        (tmp_path / str(num)).mkdir()
        debug_launcher(evaluate_once, (shared_pairs, tmp_path / str(num)), num_processes=num)
    alone = (tmp_path / "1" / "0.json").read_text()
    assert {"ssim", "l1", "kernel_distance", "recall", "similarity"} <= json.loads(alone).keys()
    assert [path.read_text() for path in sorted((tmp_path / "2").iterdir())] == [alone] * 2


def fail_in_one_process(data: Path, out: Path) -> None:
    """An evaluation whose second process cannot read a test image, and then one in which it has no memory for it."""
    AcceleratorState._reset_state(reset_partial_state=True)
    recipe = cyclegan_recipe(data)
    evaluator = Evaluator(recipe, make_accelerator(recipe, out), "fp32")
    rank, read = evaluator.accelerator.process_index, evaluator.held_out.pair
    heard = []
    for fault in (ImageError("t.png", "read", "torn"), MemoryError()):
        def pair(number: int, fault: Exception = fault) -> tuple[torch.Tensor, torch.Tensor | None]:
            if rank == 1:
                raise fault
            return read(number)

        evaluator.held_out.pair = pair  # type: ignore[method-assign]
        try:
            evaluator(recipe.translator.build(3, 3, 0), OWN_SIZE)
        except TranslateError as error:
            heard.append([type(error).__name__, str(error.path), error.what, error.exit_code])
    (out / f"{rank}.json").write_text(json.dumps(heard))


def test_an_error_of_one_process_is_raised_with_its_fields_in_all(shared_pairs: Path, tmp_path: Path) -> None:
    """Also where its host memory runs out: the others would wait for its share for ever."""
    debug_launcher(fail_in_one_process, (shared_pairs, tmp_path), num_processes=2)
    expected = [["ImageError", "t.png", "read: torn", 3], ["TranslateError", "None", "out of memory", 1]]
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)] == [expected] * 2


def test_unpaired_data_are_judged_by_the_kernel_distance(unpaired: Path, with_features: None, tmp_path: Path) -> None:
    train(unrelated(unpaired, every=UNSEEN | {"evaluate": 2}), tmp_path / "run", report := Silent())
    assert not any("untouched input" in line for line in report.lines), "a distance of five images is luck"
    records = evaluations(tmp_path / "run")
    assert [record["decided_by"] for record in records] == ["kernel_distance"] * 2
    assert all("psnr" not in record and record["num_held_out"] == 5 for record in records)
    assert records[0]["intervals"]["kernel_distance"][0] <= records[0]["intervals"]["kernel_distance"][1]


def test_what_cannot_be_scored_is_said_and_only_what_was_asked_for_is_refused(
        unpaired: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("DIPTYCH_DATA", str(tmp_path / "empty"))
    report = Silent()
    train(unrelated(unpaired), tmp_path / "run", report)
    assert any("no held-out scores" in line and "translate data features" in line for line in report.lines)
    for changes, reason in (({"every": {"evaluate": 10}}, "translate data features"),
                            ({"evaluate": {"metric": "psnr"}}, "psnr needs the truth"),
                            ({"evaluate": {"patience": 2}}, "translate data features")):
        with pytest.raises(DataError, match=reason):
            train(unrelated(unpaired, **changes), tmp_path / "other", Silent())
    with pytest.raises(RecipeError, match=r"patience: counts evaluations, and every\.evaluate is null"):
        unrelated(unpaired, every={"evaluate": None}, evaluate={"patience": 2})
    with pytest.raises(RecipeError, match=r"every\.evaluate: 0 is not a number of images"):
        unrelated(unpaired, every={"evaluate": 0})


def test_a_score_that_could_never_decide_is_refused(shared_pairs: Path, unpaired: Path, with_features: None,
                                                    tmp_path: Path) -> None:
    """A training would go on to its end with no best checkpoint and a patience that never runs out."""
    with pytest.raises(DataError, match="ms_ssim needs test images with sides of 176 px, and the first has 70"):
        train(pix2pix_recipe(shared_pairs, evaluate={"metric": "ms_ssim"}), tmp_path / "run", Silent())
    for path in sorted((unpaired / "testB").iterdir())[1:]:
        path.unlink()
    with pytest.raises(DataError, match="from two test images on each side"):
        train(unrelated(unpaired, evaluate={"patience": 2}), tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()


def test_the_automatic_cadence_looks_at_one_pixel_for_twenty_trained_on(shared_pairs: Path, tmp_path: Path) -> None:
    """6 test images shown at 70×78 px beside crops of 64: 6 · 70 · 78 / 64² · 20 = 159.96 images."""
    for images, cadence in ((1000, 160), (50_000, 500)):
        recipe = pix2pix_recipe(shared_pairs, stages=[{"resolution": 64, "images": images}])
        assert Evaluator(recipe, Accelerator(cpu=True), "fp32").schedule.cadence == cadence


# -- translate evaluate ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(shared_pairs: Path, trained: Callable[[Recipe], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = cyclegan_recipe(shared_pairs, stages=[{"resolution": 16, "images": 4, "batch_size": 2}])
    return Path(shutil.copytree(trained(recipe), tmp_path_factory.mktemp("runs") / "toy"))


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    (tmp_path / "elsewhere").mkdir()
    return Elsewhere(tmp_path / "elsewhere")


def test_a_score_that_the_own_size_has_is_not_called_missing(run: Path, shared_pairs: Path, tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """MS-SSIM "needs images with sides of 176 px", of images that had them."""
    for side, number in itertools.product("AB", range(2)):
        path = tmp_path / "large" / f"test{side}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(waves(number, (176, 176))).save(path)
    copied = shutil.copytree(run, tmp_path / "run")
    saved = (copied / RECIPE_FILE).read_text()
    (copied / RECIPE_FILE).write_text(saved.replace(str(shared_pairs), str(tmp_path / "large")))
    monkeypatch.setenv("DIPTYCH_DATA", str(tmp_path))  # no networks that look at images, which take most of the time
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    results = evaluate_run(copied)
    assert results.missing and not any("MS-SSIM" in line for line in results.missing)
    assert results.notes == [f"MS-SSIM in their own size alone, 176 px: {results.own_size['ms_ssim'].value:.4g}"]


def test_a_run_scores_like_the_folder_it_is_converted_to(run: Path, shared_pairs: Path, with_features: None,
                                                         tmp_path: Path, cluster: Any,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """What any other tool made is scored by the same numbers as what we make, in its own size, of 72 px: whoever looks
    at the images.
    """
    convert(shared_pairs / "testA", tmp_path / "out", load_release(run))
    of_run = evaluate_run(run, engine=cluster).as_json()
    of_folder = evaluate_folder(tmp_path / "out", shared_pairs / "testB", shared_pairs / "testA").as_json()
    assert (of_run["side"], of_run["own_side"]) == (40, 72)
    assert {name: row["own_size"] for name, row in of_run["metrics"].items() if row["own_size"]} == {
        name: {"value": row["value"], "interval": row["interval"]} for name, row in of_folder["metrics"].items()}
    assert {"psnr", "l1", "kernel_distance", "precision"} <= of_run["metrics"].keys()
    psnr, distance = of_run["metrics"]["psnr"], of_run["metrics"]["kernel_distance"]
    assert psnr["baselines"].keys() == {"identity", "colour_transfer"} and psnr["floor"] is None
    assert distance["floor"]["value"] is not None and distance["better"] == "lower"
    monkeypatch.setenv("DIPTYCH_DATA", str(tmp_path))  # no networks that look at images, which take most of the time
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert evaluate_run(run, direction="ba").as_json()["metrics"]["psnr"] != psnr
    assert evaluate_run(run, most=2).as_json()["num_images"] == 2


def test_workers_of_a_cluster_find_the_images_of_a_card(run: Path, shared_pairs: Path, tmp_path: Path, cluster: Any,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """Where data lie is said from the folder of this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIPTYCH_DATA", "mine")
    monkeypatch.setenv("TORCH_HOME", "none")
    shutil.copytree(shared_pairs, tmp_path / "mine" / "earth")
    recipe = Path(shutil.copytree(run, tmp_path / "run")) / "recipe.yaml"
    recipe.write_text(re.sub("folder: .*", "folder: null", recipe.read_text()).replace("card: null", "card: earth"))
    assert evaluate_run(tmp_path / "run", most=2, engine=cluster).as_json()["num_images"] == 2


def test_workers_of_a_cluster_tell_what_values_they_have_seen(tmp_path: Path, cluster: Any,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told: list[tuple[int, int]] = []
    for side in ("a", "b"):
        (tmp_path / side).mkdir()
        for number in range(2):  # values of 12 bits
            tifffile.imwrite(tmp_path / side / f"{number}.tif", waves(number, (40, 40)).astype(np.uint16) * 16)
    alone, together = (evaluate_folder(Path("a"), Path("b"), engine=engine,
                                       on_progress=lambda *now: told.append(now)).as_json()
                       for engine in (None, cluster))
    assert together == alone and told[-1] == (4, 4)
    assert sum("of the range of uint16" in line for line in together["notes"]) == 2
    with pytest.raises(DataError, match="a worker of the cluster has not the networks"):
        _ = Observing(*[Images(0, Path)] * 3, paired=True, sources_paired=True, expected=("another",)).observers


def test_the_truth_itself_scores_perfectly_and_its_input_as_the_identity(shared_pairs: Path,
                                                                         with_features: None) -> None:
    truth = shared_pairs / "testB"
    found = evaluate_folder(truth, truth, shared_pairs / "testA").as_json()["metrics"]
    assert found["psnr"]["value"] is None and found["l1"]["value"] == 0 and found["precision"]["value"] == 1
    assert found["kernel_distance"]["value"] == pytest.approx(0, abs=1e-9)
    inputs = evaluate_folder(shared_pairs / "testA", truth, shared_pairs / "testA").as_json()["metrics"]
    for row in inputs.values():
        assert row["baselines"]["identity"]["value"] == pytest.approx(row["value"])
    assert inputs["l1"]["baselines"]["colour_transfer"]["value"] < inputs["l1"]["value"]


def test_folders_whose_names_do_not_pair_are_compared_as_sets(unpaired: Path, with_features: None) -> None:
    results = evaluate_folder(unpaired / "testA", unpaired / "testB", unpaired / "trainA")
    document = results.as_json()
    assert not document["paired"] and "kernel_distance" in document["metrics"] and "psnr" not in document["metrics"]
    assert (document["num_images"], document["num_reals"], document["num_sources"]) == (5, 6, 5)
    assert any("need images that pair by name" in line for line in document["missing"])


def test_a_pair_of_two_sizes_is_named(shared_pairs: Path, tmp_path: Path) -> None:
    shutil.copytree(shared_pairs / "testB", tmp_path / "out")
    Image.fromarray(waves(1, (64, 64))).save(tmp_path / "out" / "3.png")
    with pytest.raises(DataError, match=r"out.3\.png.* 64×64 px.*80×72 px.*testB.3\.png"):
        evaluate_folder(tmp_path / "out", shared_pairs / "testB")
    with pytest.raises(UsageError, match="no such folder"):
        evaluate_folder(tmp_path / "nowhere", tmp_path)


def test_grey_and_16_bit_images_are_scored_against_rgb(shared_pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "grey").mkdir()
    (tmp_path / "rgb").mkdir()
    for number in range(3):
        grey = waves(number, (40, 40))[..., 0]
        Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "grey" / f"{number}.png")
        Image.fromarray(np.repeat(grey[..., None], 3, axis=2)).save(tmp_path / "rgb" / f"{number}.png")
    assert evaluate_folder(tmp_path / "grey", tmp_path / "rgb").scores["l1"].value == pytest.approx(0, abs=1e-6)


def test_a_folder_may_mix_grey_and_rgb_and_no_other_channels(unpaired: Path, tmp_path: Path) -> None:
    """On either side, as the tools that write images decide by their content which of them are grey."""
    mixed = shutil.copytree(unpaired / "testA", tmp_path / "mixed")
    Image.open(mixed / "0.png").convert("L").save(mixed / "0.png")
    for each in (unpaired / "testB", mixed):
        found = evaluate_folder(mixed, each, mixed).as_json()["metrics"]
        assert found["similarity"]["baselines"].keys() == {"identity", "colour_transfer"}
    tifffile.imwrite(mixed / "1.tif", np.zeros((72, 80, 5), np.uint8), planarconfig="contig")
    with pytest.raises(DataError, match=r"1\.tif: has 5 channels, and .*0\.png has 3"):
        evaluate_folder(mixed, unpaired / "testB")


def test_scores_that_these_images_cannot_have_are_named(shared_pairs: Path, with_features: None,
                                                        tmp_path: Path) -> None:
    """One image is no set, small images have no MS-SSIM, and no network knows five channels."""
    (tmp_path / "one").mkdir()
    shutil.copy(shared_pairs / "testA" / "0.png", tmp_path / "one" / "other.png")
    missing = evaluate_folder(tmp_path / "one", shared_pairs / "testB").missing
    assert any("takes two images of each, and there are 1 and 6" in line for line in missing)
    missing = evaluate_folder(shared_pairs / "testA", shared_pairs / "testB").missing
    assert "MS-SSIM needs images with sides of 176 px" in missing and not any("two images" in line for line in missing)
    (tmp_path / "many").mkdir()
    for number in range(3):
        tifffile.imwrite(tmp_path / "many" / f"{number}.tif", np.zeros((72, 80, 5), np.uint8), planarconfig="contig")
    results = evaluate_folder(tmp_path / "many", tmp_path / "many")
    assert "l1" in results.scores and any("need grey or RGB images" in line for line in results.missing)


def test_the_command_shows_a_table_and_leaves_results(run: Path, shared_pairs: Path, tmp_path: Path, said: io.StringIO,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("DIPTYCH_DATA", str(tmp_path))
    assert call(monkeypatch, "evaluate", run) == 0
    for words in ("PSNR (dB)", "higher", "identity", "colour transfer", "translate data features", "LPIPS needs"):
        assert words in said.getvalue()
    document = json.loads((run / "results.json").read_text())
    assert document["metrics"]["psnr"]["interval"] and document["made_by"]["torch"] == torch.__version__
    assert call(monkeypatch, "evaluate", run / "best") == 0 and (run / "best-results.json").is_file()
    words = ("evaluate", shared_pairs / "testA", "--against", shared_pairs / "testB")
    assert call(monkeypatch, *words, "--json", tmp_path / "r.json") == 0
    assert json.loads((tmp_path / "r.json").read_text())["num_sources"] == 0
    said.truncate(0)
    said.seek(0)
    assert call(monkeypatch, *words, "--json", "-") == 0
    printed = said.getvalue()
    assert json.loads(printed[printed.index("{"):])["paired"]
    assert call(monkeypatch, "evaluate", shared_pairs / "testA") == 2
    assert "add --against FOLDER" in said.getvalue()
    assert call(monkeypatch, "evaluate", run, "--against", shared_pairs) == 2


def test_label_maps_are_scored_by_class(tmp_path: Path, said: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, shift in (("predicted", 3), ("truth", 0)):
        (tmp_path / folder).mkdir()
        for number in range(3):
            labels = np.roll(waves(number, (32, 32))[..., 0] // 64, shift, axis=1)
            Image.fromarray(labels).save(tmp_path / folder / f"{number}.png")
    words = ("evaluate", tmp_path / "predicted", "--against", tmp_path / "truth", "--classes")
    assert call(monkeypatch, *words, 4) == 0
    assert "mIoU" in said.getvalue() and "per-class accuracy" in said.getvalue()
    assert call(monkeypatch, *words, 2) == 3 and "the recipe's are 0 … 1" in said.getvalue()
    assert call(monkeypatch, *words, 4, "--images", 2) == 2 and "leave --source and --images out" in said.getvalue()
    same = evaluate_labels(tmp_path / "truth", tmp_path / "truth", 4).scores
    assert [score.value for score in same.values()] == [1, 1, 1]


# -- on real data ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_kernel_distance_orders_real_good_half_trained_and_untrained(tmp_path: Path,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """On the earth, by MobileNetV2's real features: its distance falls as a training gets on."""
    monkeypatch.setenv("DIPTYCH_DATA", str(tmp_path))
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path))
    features.fetch_mobilenet()
    data = split_in_halves(prepare(find_card("earth"), tmp_path), tmp_path / "halves")
    changes = ["data.card=null", f"data.folder={data}", "stages.0.images=1200", "stages.1.images=4",
               "every.evaluate=null", "translator.ema=0.99", "every.checkpoint=400", "keep_checkpoints=9"]
    recipe = load_recipe(find_recipe("earth"), changes)
    train(recipe, tmp_path / "good", Silent())
    (tmp_path / "half" / "checkpoints").mkdir(parents=True)
    shutil.copy(tmp_path / "good" / "recipe.yaml", tmp_path / "half")
    shutil.copytree(tmp_path / "good" / "checkpoints" / "000000000400", tmp_path / "half" / "checkpoints" / "400")
    torch.manual_seed(0)
    generators = {"good": load_release(tmp_path / "good").generator, "half": load_release(tmp_path / "half").generator,
                  "untrained": recipe.translator.build(3, 3).generator("ab").eval()}
    held_out, network = HeldOut(recipe, tmp_path), features.available()[0][0]
    reals = [network(held_out.real(number))["mobilenet"] for number in range(len(held_out.reals))]
    resampled = {"real": kernel_distances(reals[::2], reals[1::2])}
    for name, generator in generators.items():
        fakes = [network(translate_whole(generator, held_out.source(number), torch.device("cpu"), "fp32"))["mobilenet"]
                 for number in range(len(held_out.sources))]
        resampled[name] = kernel_distances(fakes, reals, paired=True)
    shown = {name: Estimate.of(values[0], values[1:]) for name, values in resampled.items()}
    for better, worse in itertools.pairwise(resampled):
        difference = resampled[worse] - resampled[better]
        low = Estimate.of(difference[0], difference[1:]).low
        assert low is not None and low > 0, f"{better} < {worse}: {', '.join(f'{n} {e}' for n, e in shown.items())}"


def split_in_halves(earth: Path, folder: Path) -> Path:
    """Every second training tile is held out as well: eleven test tiles say too little about a distribution."""
    for side in "AB":
        for split in ("train", "test"):
            (folder / f"{split}{side}").mkdir(parents=True)
        for number, path in enumerate(sorted((earth / f"train{side}").iterdir())):
            shutil.copy(path, folder / f"{'test' if number % 2 else 'train'}{side}")
        for path in (earth / f"test{side}").iterdir():
            shutil.copy(path, folder / f"test{side}")
    return folder
