"""The scale a network was trained at goes with it: scores, samples, the probe, reports and conversion know it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.runs import Silent, growing_recipe, train_until
from translate.data.scale import Fitting, Scale
from translate.evaluation.heldout import HeldOut
from translate.evaluation.scoring import evaluate_run
from translate.foreign import read_json, read_lines
from translate.recipe import Recipe, load_recipe
from translate.runs.checkpoint import checkpoint_at, read_progress
from translate.runs.manifest import seal
from translate.runs.release import load_release
from translate.schema import validate
from translate.training.loop import train

PERIODS = (8, 4)  # px, of the stripes that mean white and black, in images of 64 px


def write_stripes(folder: Path, side: int = 64, num_train: int = 12, num_test: int = 3, width: int | None = None,
                  blocks: int = 4) -> Path:
    """Pairs in whose A the period of stripes says whether B is white or black, in some parts of an image.

    At half the size the one period becomes the other: so a network that knows one scale is wrong at the other.
    """
    for split, count in (("train", num_train), ("test", num_test)):
        for number in range(count):
            random = np.random.default_rng(number + 1000 * (split == "test"))
            part = (side // blocks, (width or side) // blocks)
            white = np.kron(random.integers(0, 2, (blocks, blocks)), np.ones(part, int)) == 1
            columns = np.indices(white.shape)[1]
            one, other = (((columns + random.integers(0, 16)) // (period // 2)) % 2 for period in PERIODS)
            for name, image in (("A", np.where(white, one, other) * 160 + 48), ("B", white * 255)):
                path = folder / f"{split}{name}" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image.astype(np.uint8)).convert("RGB").save(path)
    return folder


def stripes_recipe(folder: Path, resize: int | None = 32, **changes: Any) -> Recipe:
    """Learns in 100 images what stripes mean at the scale that it is shown."""
    return validate(Recipe, {
        "name": "stripes", "data": {"kind": "paired", "folder": str(folder), "resize": resize}, "guard": None,
        "workers": 0,
        "translator": {"kind": "pix2pix", "generator": {"kind": "resnet", "width": 8, "blocks": 0},
                       "discriminator": {"kind": "patchgan", "width": 4, "layers": 1}, "weights": {"l1": 100.0}},
        "optimizer": {"generator": {"kind": "adam", "lr": 3e-3}, "discriminator": {"kind": "adam", "lr": 2e-4}},
        "stages": [{"resolution": 32, "images": 100, "batch_size": 4}],
        "every": {"log": 100, "sample": 100, "checkpoint": 100, "evaluate": 52}, "evaluate": {"metric": "l1"},
        **changes}, "stripes")


def right(run: Path, fitting: Fitting) -> float:
    """The share of the held-out pixels that a run's generator is right about, of images shown as `fitting` says."""
    release = load_release(run)
    held_out = HeldOut(load_recipe(run / "recipe.yaml"), Path()).shown(fitting)
    shares = []
    for number in range(len(held_out.sources)):
        source, truth = held_out.pair(number)
        assert truth is not None
        with torch.no_grad():
            shares.append(((release.generator(source[None])[0] > 0) == (truth > 0)).float().mean().item())
    return float(np.mean(shares))


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on stripes of 64 px that were shown at 32; its data lie beside it."""
    folder = tmp_path_factory.mktemp("stripes")
    train(stripes_recipe(write_stripes(folder / "data")), folder / "run", Silent())
    return folder / "run"


def evaluations(run: Path) -> list[dict[str, Any]]:
    return [record for record in read_lines(run / "metrics.jsonl") if record["kind"] == "evaluation"]


def test_held_out_scores_are_at_the_training_scale_and_those_of_the_own_size_stand_beside_them(stripes: Path) -> None:
    """A user whose `resize` halved the images was told a score of chance, of a network that was right everywhere."""
    assert right(stripes, Fitting(32)) > 0.95 and right(stripes, Fitting()) < 0.5, "the construction does what it says"
    for record in evaluations(stripes):
        assert (record["side"], record["own_side"]) == (32, 64)
        assert record["l1"] < 0.2 < 1 < record["own_size"]["l1"] and record["own_size"]["ssim"] < 0.1 < record["ssim"]

    # `translate evaluate` says the same, and so does the report
    document = evaluate_run(stripes).as_json()
    assert (document["side"], document["own_side"]) == (32, 64)
    l1 = document["metrics"]["l1"]
    assert l1["value"] == pytest.approx(evaluations(stripes)[-1]["l1"], abs=0.02) and l1["own_size"]["value"] > 1
    assert l1["baselines"]["identity"]["value"] > l1["value"]
    page = (stripes / "report.html").read_text()
    assert "in their own size, 64 px" in page and "a short side of 32 px, 0.5 of their own size" in page
    assert Image.open(next((stripes / "held_out").glob("*-input.jpg"))).size == (32, 32)


def test_the_scale_stands_in_the_run_and_its_release(stripes: Path) -> None:
    """Nothing in a release told at what scale its network had been trained: whoever was given it had to guess."""
    expected = Scale((32, 32), (0.5, 0.5))
    for model in (stripes, stripes / "best", stripes / "release"):
        release = load_release(model)
        assert release.scale == expected and release.fitting == Fitting(32, (32, 32))
    assert str(expected) == "a short side of 32 px, 0.5 of their own size"
    assert Scale.load(json.loads((stripes / "release" / "release.json").read_text())["scales"]["b"]) == expected


def test_runs_and_releases_that_do_not_say_their_scale_have_it_from_their_recipe(stripes: Path, tmp_path: Path) -> None:
    """Those of earlier versions: `resize` gives it away. Without it nothing is known, and nothing is made up."""
    old = shutil.copytree(stripes / "release", tmp_path / "old")
    about = {name: value for name, value in read_json(old / "release.json").items() if name != "scales"}
    (old / "release.json").write_text(json.dumps(about))
    (old / "MANIFEST.json").unlink()
    seal(old)
    assert load_release(old).scale == Scale((32, 32))
    recipe = (old / "recipe.yaml").read_text()
    (old / "recipe.yaml").write_text(recipe.replace("  resize: 32\n", "  resize: null\n"))
    (old / "MANIFEST.json").unlink()
    seal(old)
    assert load_release(old).scale is None and load_release(old).fitting == Fitting(None, (32, 32))


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two stages: at 32 px, and then, with a learning rate that spoils everything, at the images' own 64."""
    folder = tmp_path_factory.mktemp("staged")
    data = write_stripes(folder / "data")
    stages = [{"resolution": 32, "resize": 32, "images": 100, "batch_size": 4},
              {"resolution": 32, "resize": 64, "images": 16, "batch_size": 4, "lr": {"kind": "constant", "factor": 30}}]
    train(stripes_recipe(data, resize=None, stages=stages,
                         every={"log": 100, "sample": 8, "checkpoint": 100, "evaluate": 12}), folder / "run", Silent())
    return folder / "run"


def test_the_best_checkpoint_is_the_best_at_the_scale_of_the_last_stage(staged: Path) -> None:
    """A score at 256 px was compared with one at 1024, and a network that had never seen large images was the best."""
    records = evaluations(staged)
    first, last = [[record for record in records if record["side"] == side] for side in (32, 64)]
    assert len(first) == 8 and len(last) == 2
    assert min(record["l1"] for record in first) < 0.5 * min(record["l1"] for record in last), "they seem worse"
    best = read_progress(checkpoint_at(staged / "checkpoints", 116)).best
    assert best is not None and best.side == 64 and best.images > 100
    assert best.value == min(record["l1"] for record in last)
    assert first[-1]["best"]["side"] == 32 and first[-1]["own_size"] and not last[0]["own_size"]
    assert "32, 64 px" in (staged / "report.html").read_text()

    # What is shown, and what is known, are of the last stage
    release = load_release(staged)
    assert release.scale == Scale((64, 64), (1.0, 1.0)) and "their own size" in str(release.scale)
    sizes = {Image.open(path).size for path in (staged / "held_out").glob("*.jpg")}
    assert sizes == {(64, 64)} and read_json(staged / "held_out" / "index.json")["side"] == 64


def test_samples_and_the_probe_show_whole_images_as_the_stage_does(staged: Path, tmp_path: Path) -> None:
    """Crops were shown: of an image of 64 px shown at 32, a grid had all; of one at its own size, a quarter."""
    widths = {int(path.stem): Image.open(path).size for path in (staged / "samples").glob("*.png")}
    assert widths[96] == (3 * (32 + 2) + 2, 3 * (32 + 2) + 2) and widths[116] == (3 * (64 + 2) + 2, 3 * (64 + 2) + 2)


def test_images_of_many_sizes_stand_in_one_grid_and_are_probed(tmp_path: Path) -> None:
    """Mixed native sizes: all held-out images were cut to the crop, so that nobody saw one as a whole."""
    data = write_stripes(tmp_path / "data", 64)
    for number, (side, width) in enumerate(((40, 40), (48, 96), (96, 48))):
        for name in "AB":
            path = data / f"test{name}" / f"{number}.png"
            Image.open(path).resize((width, side)).save(path)
    recipe = stripes_recipe(data, resize=None,
                            stages=[{"resolution": 32, "images": 4, "batch_size": 4}], guard={},
                            every={"probe": 4, "evaluate": 4, "sample": 4})
    train(recipe, tmp_path / "run", Silent())
    assert Image.open(tmp_path / "run" / "samples" / "000000000004.png").size == (3 * (96 + 2) + 2, 3 * (96 + 2) + 2)
    (probed,) = [record for record in read_lines(tmp_path / "run" / "metrics.jsonl") if record["kind"] == "probe"]
    assert {"diversity_ab", "error_ab", "change_ab"} <= probed.keys()
    assert evaluations(tmp_path / "run")[0]["own_size"] == {}, "they are shown at their own size"
    assert load_release(tmp_path / "run").scale == Scale((64, 64), (1.0, 1.0))


def test_small_images_that_are_enlarged_are_scored_enlarged(tmp_path: Path) -> None:
    """A crop larger than the images enlarges them in training; scores and conversion showed them as they are."""
    data = write_stripes(tmp_path / "data", 32, blocks=2)
    recipe = stripes_recipe(data, resize=None,
                            stages=[{"resolution": 64, "images": 100, "batch_size": 4}])
    train(recipe, tmp_path / "run", Silent())
    record = evaluations(tmp_path / "run")[-1]
    assert (record["side"], record["own_side"]) == (64, 32) and record["l1"] < record["own_size"]["l1"]
    assert load_release(tmp_path / "run").scale == Scale((64, 64), (2.0, 2.0))
    assert right(tmp_path / "run", Fitting(64)) > 0.9 > right(tmp_path / "run", Fitting())


def test_a_network_that_is_still_growing_is_scored_at_the_size_it_knows(shared_pairs: Path, tmp_path: Path) -> None:
    """It was scored at a size that only later levels know, and the best of those scores meant nothing."""
    recipe = growing_recipe(shared_pairs, evaluate={"metric": "l1"},
                            every={"log": 4, "sample": 8, "checkpoint": 4, "evaluate": 4},
                            stages=[{"resolution": 16, "resize": 18, "images": 8, "batch_size": 2},
                                    {"resolution": 32, "resize": 36, "images": 8, "batch_size": 2, "levels": 1}])
    train_until(recipe, tmp_path / "run", 8)
    assert [record["side"] for record in evaluations(tmp_path / "run")] == [18, 18]
    release = load_release(tmp_path / "run")
    assert release.scale == Scale((18, 18), (0.25, 0.25)) and "0 of 1 levels" in release.growth
