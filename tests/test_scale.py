"""The scale a network was trained at goes with it: scores, samples, the probe, reports and conversion know it."""

from __future__ import annotations

import io
import json
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import translate
from tests import adaptation
from tests.commands import call
from tests.conversions import Identity, noise, release_of, tiny_release
from tests.runs import Silent, growing_recipe, train_until
from translate.adapt.making import translate_all
from translate.convert import convert
from translate.convert.python_api import Model
from translate.convert.scaling import Scaling, outside
from translate.convert.translating import Translating
from translate.data.check import check
from translate.data.labels import Labelling
from translate.data.scale import Fitting, Scale, ScaleState
from translate.data.transforms import resized
from translate.errors import UsageError
from translate.evaluation.heldout import HeldOut
from translate.evaluation.scoring import evaluate_run
from translate.foreign import read_json, read_lines
from translate.images.georeference import resized_geo
from translate.images.reading import ImageConfig
from translate.images.resampling import Resampling
from translate.images.resized import ResizedSink, resized_image
from translate.images.tensors import to_array
from translate.images.writing import write_image
from translate.networks.resnet import ResNet
from translate.networks.weights import initialise
from translate.recipe import Recipe, load_recipe
from translate.runs.checkpoint import checkpoint_at, read_progress
from translate.runs.manifest import seal
from translate.runs.release import load_release
from translate.schema import validate
from translate.training.loop import train
from translate.training.probe import Probe

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
    assert "in their own size, 64 px" in page and "a short side of 32 px (shrunk to 50% of their own size)" in page
    assert Image.open(next((stripes / "held_out").glob("*-input.jpg"))).size == (32, 32)


def test_the_scale_stands_in_the_run_and_its_release(stripes: Path) -> None:
    """Nothing in a release told at what scale its network had been trained: whoever was given it had to guess."""
    expected = Scale((32, 32), (0.5, 0.5))
    for model in (stripes, stripes / "best", stripes / "release"):
        release = load_release(model)
        assert release.scale == expected and release.fitting == Fitting(32, (32, 32))
    assert str(expected) == "a short side of 32 px (shrunk to 50% of their own size)"
    saved = json.loads((stripes / "release" / "release.json").read_text())["scales"]["b"]
    assert Scale.load(ScaleState.model_validate(saved)) == expected


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


@pytest.mark.parametrize("resize", [32, None])
def test_where_a_pixel_has_one_length_a_larger_image_is_no_other_scale(resize: int | None, stripes: Path,
                                                                       tmp_path: Path) -> None:
    """The demo's map of 2000 px, of which its tiles are cut, was said to be of another scale than they are. Of a
    network that has been shown images at half their size it is right to say it."""
    model = shutil.copytree(stripes / "release", tmp_path / "model")
    about = read_json(model / "release.json")
    if resize is None:
        about["scales"] = {side: {"sides": [64, 64], "factors": [1.0, 1.0]} for side in "ab"}
    (model / "release.json").write_text(json.dumps(about))
    recipe = (model / "recipe.yaml").read_text()
    (model / "recipe.yaml").write_text(recipe.replace("scale: by_size", "scale: fixed"))
    (model / "MANIFEST.json").unlink()
    seal(model)
    scale = load_release(model).scale
    assert bool(outside(scale, (2000, 3000))) == (resize is not None)
    assert Scaling.of("trained", "resized", scale).sides == (None if resize is None else (32, 32))


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two stages: at 32 px, and then, with a learning rate that spoils everything, at the images' own 64."""
    folder = tmp_path_factory.mktemp("staged")
    data = write_stripes(folder / "data")
    stages = [{"resolution": 32, "resize": 32, "images": 48, "batch_size": 4},
              {"resolution": 32, "resize": 64, "images": 16, "batch_size": 4, "lr": {"kind": "constant", "factor": 30}}]
    train(stripes_recipe(data, resize=None, stages=stages,
                         every={"log": 100, "sample": 16, "checkpoint": 100, "evaluate": 12}), folder / "run", Silent())
    return folder / "run"


def test_the_best_checkpoint_is_the_best_at_the_scale_of_the_last_stage(staged: Path) -> None:
    """A score at 256 px was compared with one at 1024, and a network that had never seen large images was the best."""
    records = evaluations(staged)
    first, last = [[record for record in records if record["side"] == side] for side in (32, 64)]
    assert len(first) == 4 and len(last) == 2
    assert min(record["l1"] for record in first) < 0.5 * min(record["l1"] for record in last), "they seem worse"
    best = read_progress(checkpoint_at(staged / "checkpoints", 64)).best
    assert best is not None and best.side == 64 and best.images > 48
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
    assert widths[48] == (3 * (32 + 2) + 2, 3 * (32 + 2) + 2) and widths[64] == (3 * (64 + 2) + 2, 3 * (64 + 2) + 2)


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
                            stages=[{"resolution": 64, "images": 4, "batch_size": 4}])
    train(recipe, tmp_path / "run", Silent())
    record = evaluations(tmp_path / "run")[-1]
    assert (record["side"], record["own_side"]) == (64, 32) and record["l1"] != record["own_size"]["l1"]
    assert load_release(tmp_path / "run").scale == Scale((64, 64), (2.0, 2.0))
    assert {Image.open(path).size for path in (tmp_path / "run" / "held_out").glob("*.jpg")} == {(64, 64)}


def test_a_network_that_is_still_growing_is_scored_at_the_size_it_knows(shared_pairs: Path, tmp_path: Path) -> None:
    """It was scored at a size that only later levels know, and the best of those scores meant nothing."""
    recipe = growing_recipe(shared_pairs, evaluate={"metric": "l1"},
                            every={"log": 8, "sample": None, "checkpoint": 8, "evaluate": 8},
                            stages=[{"resolution": 16, "resize": 18, "images": 8, "batch_size": 2},
                                    {"resolution": 32, "resize": 36, "images": 8, "batch_size": 2, "levels": 1}])
    train_until(recipe, tmp_path / "run", 8)
    assert [record["side"] for record in evaluations(tmp_path / "run")] == [18]
    release = load_release(tmp_path / "run")
    assert release.scale == Scale((18, 18), (0.25, 0.25)) and "0 of 1 levels" in release.growth


# -- conversion --------------------------------------------------------------------------------------------------------


def share_right(folder: Path, truths: Path) -> float:
    """The share of pixels that converted images are right about; truths of another size are brought to theirs."""
    shares = []
    for path in sorted(folder.glob("*.png")):
        made = np.asarray(Image.open(path).convert("L"))
        truth = np.asarray(Image.open(truths / path.name).convert("L").resize(made.shape[::-1], Image.Resampling.BOX))
        shares.append(((made > 127) == (truth > 127)).mean())
    return float(np.mean(shares))


def test_conversion_says_the_scale_and_warns_and_is_right_at_it(
        stripes: Path, tmp_path: Path, said: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder at its own size was translated at chance without a word."""
    test, truth = stripes.parent / "data" / "testA", stripes.parent / "data" / "testB"
    words = ("convert", test, tmp_path / "out", "--model", stripes, "--workers", 0)
    assert call(monkeypatch, *words) == 0 and share_right(tmp_path / "out", truth) < 0.5
    text = said.getvalue()
    assert "scale: trained on images with a short side of 32 px (shrunk to 50% of their own size)" in text
    assert "direction: A to B, the only one of this model" in text
    assert text.count("warning: ") == 1 and "0.png is translated with a short side of 64 px" in text
    assert "--resize trained" in text and "3 of them at another scale" in text

    # At the model's scale: every file again, as the ledger knows that they were made otherwise; in either size
    for size, side in (("resized", 32), ("input", 64)):
        said.truncate(0)
        assert call(monkeypatch, *words, "--resize", "trained", "--size", size) == 0
        assert "3 converted" in said.getvalue() and "at another scale" not in said.getvalue()
        assert "3 of them replaced outputs of another model or other settings" in said.getvalue()
        assert ("--size input brings them back" in said.getvalue()) == (size == "resized")
        assert share_right(tmp_path / "out", truth) > 0.95
        assert {Image.open(path).size for path in (tmp_path / "out").glob("*.png")} == {(side, side)}
    assert call(monkeypatch, *words, "--resize", 32, "--size", "input") == 0 and "3 done before" in said.getvalue()
    assert call(monkeypatch, *words, "--resize", "small") == 2 and "--resize small: expected trained" in said.getvalue()


def test_a_model_of_unknown_scale_says_so_only_where_it_is_asked_for_it(tmp_path: Path) -> None:
    """An earlier version's release without `resize`: nothing is made up, and what can be done is named."""
    write_image(tmp_path / "x.png", noise(20, 30))
    warned: list[str] = []
    assert convert(tmp_path / "x.png", tmp_path / "y.png", tiny_release(), workers=0, warn=warned.append).converted == 1
    assert not warned
    with pytest.raises(UsageError, match=r"not known at what scale.*such as resize 512"):
        convert(tmp_path / "x.png", tmp_path / "z.png", tiny_release(), resize="trained")
    for wrong in (0, -3, "large"):
        with pytest.raises(UsageError, match=f"resize {wrong}: expected trained, or a short side"):
            Scaling.of(wrong, "resized", None)  # type: ignore[arg-type]


def test_the_trained_range_changes_an_image_as_little_as_can_be(tmp_path: Path) -> None:
    """Native sizes were mixed, 20 to 30 px: an image within is left as it is, others are brought to its nearer end."""
    release = replace(release_of(Identity()), scale=Scale((20, 30), (1.0, 1.0)))
    (tmp_path / "in").mkdir()
    for side in (10, 25, 60):
        write_image(tmp_path / "in" / f"{side}.png", noise(side, 2 * side))
    warned: list[str] = []
    summary = convert(tmp_path / "in", tmp_path / "out", release, workers=0, resize="trained", warn=warned.append)
    assert summary.converted == 3 and not summary.outside and not warned
    assert {path.stem: Image.open(path).size for path in (tmp_path / "out").glob("*.png")} == {
        "10": (40, 20), "25": (50, 25), "60": (60, 30)}
    convert(tmp_path / "in", tmp_path / "own", release, workers=0, warn=warned.append)
    assert len(warned) == 1 and "10.png is translated with a short side of 10 px" in warned[0]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "25.png")), noise(25, 50))


@pytest.mark.parametrize(("resize", "size"), [(17, "resized"), (17, "input"), (90, "resized"), (90, "input")])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_strips_give_what_the_whole_image_gives_at_another_scale_too(resize: int, size: Any, dtype: type,
                                                                     tmp_path: Path) -> None:
    """Shrunk and enlarged, given back in either size, of pages read by rows; with alpha, profile and place on Earth."""
    bits: Any = 8 if dtype is np.uint8 else 16
    geo = (33550, "d", 3, (0.5, 0.25, 0.0), True), (33922, "d", 6, (0.0, 0.0, 0.0, 7.0, 50.0, 0.0), True)
    for number in range(2):
        tifffile.imwrite(tmp_path / "in.tif", noise(45, 64, 4, number, dtype), append=bool(number), tile=(16, 16),
                         photometric="rgb", extrasamples=["unassalpha"], resolution=(100, 100), resolutionunit=2,
                         extratags=geo, metadata=None)
    torch.manual_seed(0)
    generator = ResNet(3, 3, width=4, blocks=1)
    initialise(generator, 0.2)
    made = {}
    for memory in (None, "1GB"):
        out = tmp_path / f"{memory}.tif"
        assert convert(tmp_path / "in.tif", out, release_of(generator, 3, bits), precision="fp32", memory=memory,
                       workers=0, resize=resize, size=size).converted == 1
        made[memory] = tifffile.imread(out).astype(int)
    shape = (45, 64) if size == "input" else (resize, round(64 * resize / 45))
    assert made[None].shape == (2, *shape, 4)
    np.testing.assert_array_equal(made[None][..., 3], made["1GB"][..., 3])
    assert np.abs(made[None] - made["1GB"]).max() <= (1 if bits == 8 else 2), "sums in another order"

    # A pixel covers more of the Earth where there are fewer of them
    with tifffile.TiffFile(tmp_path / "1GB.tif") as tiff:
        tags = tiff.pages[0].tags
        assert tags[33550].value[:2] == pytest.approx((0.5 * 64 / shape[1], 0.25 * 45 / shape[0]))
        assert tags[33922].value == geo[1][3]
        assert tags["XResolution"].value[0] / tags["XResolution"].value[1] == pytest.approx(100 * shape[1] / 64, 0.01)


def test_pixels_without_data_stay_without_data_at_another_scale(tmp_path: Path) -> None:
    """One of them made numbers of its neighbours, or of itself; both ways of reading agree on which there are."""
    image = np.random.default_rng(0).uniform(-1, 1, (32, 48)).astype(np.float32)
    image[10, 20] = image[3:6, 40:] = np.nan
    tifffile.imwrite(tmp_path / "in.tif", image, tile=(16, 16))
    release = release_of(Identity(), 1, "float")
    expected = image.reshape(16, 2, 24, 2).mean((1, 3))
    for memory in (None, "1GB"):
        out = tmp_path / f"{memory}.tif"
        assert convert(tmp_path / "in.tif", out, release, memory=memory, workers=0, resize=16).converted == 1
        np.testing.assert_allclose(tifffile.imread(out), expected, rtol=0, atol=1e-6, equal_nan=True)
        assert np.isnan(expected).sum() == 1 + 2 * 4


def test_rows_with_and_without_gaps_are_of_one_kind_at_another_scale(tmp_path: Path) -> None:
    """Of a map of 8 bits, rows without gaps came as 0 to 255 and rows with some in [-1, 1], into one image."""
    image = np.random.default_rng(0).integers(40, 200, (200, 48)).astype(np.uint8)
    image[150:152, 10:20] = 0
    tifffile.imwrite(tmp_path / "in.tif", image, tile=(16, 16), extratags=[(42113, "s", 2, b"0", True)])
    gap = (image == 0).reshape(100, 2, 24, 2).any((1, 3))
    expected = image.reshape(100, 2, 24, 2).astype(float).mean((1, 3))
    for memory in (None, "1GB"):
        out = tmp_path / f"{memory}.tif"
        convert(tmp_path / "in.tif", out, release_of(Identity(), 1), memory=memory, workers=0, resize=24)
        made = tifffile.imread(out)
        assert (made[gap] == 0).all() and np.abs(made[~gap] - expected[~gap]).max() <= 0.5 + 1e-3


def test_every_place_of_a_resized_geotiff_is_where_it_was() -> None:
    """By tie points and by a matrix, of corners and of centres: pixel (column, row) of the old is on the same spot."""
    old, new = (40, 60), (10, 30)
    for kind, shift in ((1, 0.0), (2, 0.5)):
        keys = (34735, "H", 8, (1, 1, 0, 1, 1025, 0, 1, kind), True)
        tied = ((33550, "d", 3, (2.0, 3.0, 0.0), True), (33922, "d", 6, (4.0, 5.0, 0.0, 100.0, 200.0, 0.0), True), keys)
        matrix = ((34264, "d", 16, (2.0, 0.5, 0, 90.0, 0.25, -3.0, 0, 210.0, *[0.0] * 7, 1.0), True), keys)
        tags = {tag[0]: tag[3] for tag in (*resized_geo(tied, old, new), *resized_geo(matrix, old, new))}
        for column, row in ((0.0, 0.0), (31.0, 17.0)):
            x, y = ((place + shift) * ratio - shift for place, ratio in ((column, 30 / 60), (row, 10 / 40)))
            (i, j, _, east, north, _), (across, down, _) = tags[33922], tags[33550]
            assert (east + (x - i) * across, north - (y - j) * down) == pytest.approx(
                (100 + (column - 4) * 2, 200 - (row - 5) * 3))
            a, b, _, d, e, f, _, h = tags[34264][:8]
            assert (a * x + b * y + d, e * x + f * y + h) == pytest.approx(
                (2 * column + 0.5 * row + 90, 0.25 * column - 3 * row + 210))


def test_label_maps_keep_their_classes_at_another_scale(tmp_path: Path) -> None:
    """The mean of two classes is no class."""
    numbers = np.kron(np.array([[0, 3], [3, 1]], np.uint8), np.ones((10, 14), np.uint8))
    release = replace(release_of(Identity(), 4), labels=Labelling(4, None, None, False),
                      image_out=ImageConfig(channels=4))
    write_image(tmp_path / "x.png", numbers)
    assert convert(tmp_path / "x.png", tmp_path / "y.png", release, workers=0, resize=10).converted == 1
    made = np.asarray(Image.open(tmp_path / "y.png"))
    np.testing.assert_array_equal(made.argmax(2), numbers[::2, ::2])
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(numbers).long(), 4).permute(2, 0, 1).float()
    model = Model(Translating.with_release(release, precision="fp32"))
    assert torch.equal(model.convert(one_hot, resize=10).argmax(0), torch.from_numpy(numbers[::2, ::2]).long())


def test_the_python_face_takes_the_scale_as_the_command_does(stripes: Path, tmp_path: Path) -> None:
    """PIL images, arrays and tensors; and a warning, once, where the scale is another one."""
    path = stripes.parent / "data" / "testA" / "0.png"
    model, release = translate.load(stripes, precision="fp32"), load_release(stripes)
    image, array = Image.open(path), np.asarray(Image.open(path))
    assert model.scale == Scale((32, 32), (0.5, 0.5))
    with pytest.warns(UserWarning, match=r"short side of 64 px.*trained on images with a short side of 32 px") as found:
        model.convert(array), model.convert(image)
    assert len(found) == 1 and found[0].filename == __file__
    for size, side in (("resized", 32), ("input", 64)):
        convert(path, tmp_path / f"{size}.png", release, precision="fp32", workers=0, resize="trained",
                size=size)  # type: ignore[arg-type]
        written = np.asarray(Image.open(tmp_path / f"{size}.png"))
        for each in (image, array):
            made = np.asarray(model.convert(each, resize="trained", size=size))  # type: ignore[arg-type]
            assert made.shape == (side, side, 3)
            np.testing.assert_array_equal(made, written)
        tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)[None] / 127.5 - 1
        made = model.convert(tensor, resize=32, size=size)  # type: ignore[call-overload]
        assert made.shape == (1, 3, side, side)
        assert np.abs(to_array(made[0], ImageConfig()).astype(int) - written).mean() < 4


# -- before a training, and with labels --------------------------------------------------------------------------------


def test_data_check_foretells_the_scale_in_words(stripes: Path, tmp_path: Path) -> None:
    """`resize: 286` of images of 1024 px passed every check, and months later nobody knew why convert was wrong."""
    data = stripes_recipe(stripes.parent / "data").data
    (found,) = check(data, crop=(32, 32))
    assert found.severity == "note" and found.what == (
        "holds images with a short side of 64 px, and a training shows them at a short side of 32 px (shrunk to "
        "50% of their own size): the network will know that scale, and no other")
    assert found.advice is not None and "convert --resize trained" in found.advice and "resize: null" in found.advice
    assert check(data, crop=(32, 32), resize=60) == [], "what the last stage shows counts"
    own = stripes_recipe(stripes.parent / "data", resize=None).data
    assert check(own, crop=(32, 32)) == []
    enlarged = [each for each in check(own, crop=(128, 128)) if each.severity == "note"]
    assert "128 px (enlarged to 200% of their own size)" in enlarged[0].what
    assert "resize: null" not in str(enlarged[0].advice), "it is null"


def test_labelled_images_are_translated_at_the_scale_of_their_translator(tmp_path: Path,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels are carried over to images of their own size, and a translator that had seen them smaller made those."""
    monkeypatch.setattr("translate.convert.folder.workers_by_cores", lambda: 0)  # no decoder process
    recipe = adaptation.stripes_recipe(adaptation.write_stripes(tmp_path / "data", 2))
    assert recipe.adapt is not None
    source, generator, report = recipe.adapt.source.find("train", Path()), Identity(), Silent()
    release = replace(release_of(generator, 1), scale=Scale((8, 8), (0.5, 0.5)))
    made = translate_all(source, tmp_path / "staged", release, None, report, "cpu")
    assert len(made.done) == 4 and not made.failed and {shape[2:] for shape in generator.seen} == {(8, 8)}
    assert {Image.open(path).size for path in (tmp_path / "staged").rglob("*.png")} == {(16, 16)}
    assert any("at the scale that the translator was trained at, a short side of 8 px" in line for line in report.lines)
    release = replace(release, scale=Scale((16, 16), (1.0, 1.0)), fingerprint="1" * 64)
    translate_all(source, tmp_path / "own", release, None, Silent(), "cpu")
    assert {shape[2:] for shape in generator.seen[4:]} == {(16, 16)}


def test_a_probe_without_memory_for_whole_images_goes_on_with_their_middles(
        stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the guard would be blind for the rest of a training whose crops fit and whose whole images do not."""
    look = Probe.__call__

    def with_little_memory(self: Probe) -> dict[str, float]:
        if any(sample.a[0].numel() > 32 * 32 for sample in self.samples):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return look(self)

    monkeypatch.setattr(Probe, "__call__", with_little_memory)
    report = Silent()
    train(stripes_recipe(stripes.parent / "data", resize=None, stages=[{"resolution": 32, "images": 12,
                                                                        "batch_size": 4}],
                         every={"log": 4, "probe": 4, "sample": None, "checkpoint": 100, "evaluate": None}),
          tmp_path / "run", report)
    assert sum("no look at the probe at 4 images: out of memory" in line for line in report.lines) == 1
    assert [record["images"] for record in read_lines(tmp_path / "run" / "metrics.jsonl")
            if record["kind"] == "probe"] == [8, 12]


# -- resampling --------------------------------------------------------------------------------------------------------


def test_a_small_image_that_is_enlarged_is_floats_a_few_rows_at_a_time() -> None:
    """All of it stood as floats, four times over: 48 bytes a pixel in place of 6, beyond what was counted."""
    image, new = noise(10, 12), (900, 1_080)
    tracemalloc.start()
    try:
        Resampling((10, 12), new).whole(image)
        assert tracemalloc.get_traced_memory()[1] < 12 * new[0] * new[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(("old", "new"), [((72, 80), (40, 44)), ((100, 130), (50, 65)), ((30, 41), (64, 87)),
                                          ((200, 300), (7, 11)), ((37, 50), (36, 50)), ((1, 5), (3, 15))])
def test_images_are_resampled_as_training_loads_them_whole_and_by_rows(
        old: tuple[int, int], new: tuple[int, int], dtype: Any) -> None:
    """OpenCV is the reference, to within a rounding; parts of an image are exactly what they are of the whole."""
    random = np.random.default_rng(0)
    image = (random.uniform(-1, 1, (*old, 3)).astype(dtype) if dtype is np.float32
             else random.integers(0, np.iinfo(dtype).max + 1, (*old, 3), dtype))
    made = Resampling(old, new).whole(image)
    expected = cv2.resize(image, new[::-1], interpolation=cv2.INTER_AREA if new < old else cv2.INTER_CUBIC)
    if dtype is np.float32:
        np.testing.assert_allclose(made, expected.clip(-1, 1), rtol=0, atol=1e-5)
    else:
        np.testing.assert_array_equal(expected, resized(image, new))
        np.testing.assert_allclose(made.astype(int), expected.astype(int), rtol=0, atol=1)
    for start, stop in ((0, 1), (new[0] // 3, new[0] - 1 or 1), (new[0] - 1, new[0])):
        if start < stop:
            rows = Resampling(old, new).rows(lambda first, last: image[first:last], start, stop)
            np.testing.assert_array_equal(rows, made[start:stop])

    # And rows of an output that come a few at a time
    class Kept:
        def __init__(self) -> None:
            self.rows: list[torch.Tensor] = []

        def write(self, start: int, strip: torch.Tensor) -> None:
            assert start == sum(each.shape[2] for each in self.rows)
            self.rows.append(strip)

    floats = image.astype(np.float32) / (1 if dtype is np.float32 else np.iinfo(dtype).max)
    kept, tensor = Kept(), torch.from_numpy(floats).permute(2, 0, 1)[None]
    sink = ResizedSink(kept, old, new)
    for top in range(0, old[0], 7):
        sink.write(top, tensor[:, :, top:top + 7])
    assert torch.equal(torch.cat(kept.rows, dim=2)[0], resized_image(tensor[0], new))
