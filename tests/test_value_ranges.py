"""Values that are no colours: a part of what their type holds, numbers with a sign, and pixels without data."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydantic
import pytest
import tifffile
import torch
from PIL import Image

from tests.commands import call
from tests.conversions import Identity, last_rows, release_of
from tests.covering import one_in
from tests.runs import Silent
from tests.steps import build, gradients, make_batch, step, worst_error
from tests.test_semantic import NETWORKS, write_task
from tests.test_semantic import cyclegan as consistent
from translate.convert import convert
from translate.convert.python_api import Model
from translate.convert.translating import Translating
from translate.data import Batch
from translate.data.check import check
from translate.data.headers import look_at
from translate.data.layouts import PairedConfig
from translate.data.stream import Stream
from translate.errors import ImageError, UsageError
from translate.evaluation.folder_images import FolderImages, doubts
from translate.evaluation.scoring import evaluate_folder, evaluate_run
from translate.images.reading import ImageConfig, read_image
from translate.images.tensors import UNKNOWN, hide_unknown, to_tensor, unknown_pixels
from translate.metrics.reference import gradient_error, score
from translate.metrics.structural_similarity import ssim
from translate.networks import PatchGANConfig, ResNetConfig, memory
from translate.recipe import Recipe
from translate.runs.release import load_release
from translate.schema import validate
from translate.training.loop import train
from translate.translators import CUTConfig, CycleGANConfig, Pix2PixConfig

NODATA = 42113
HEIGHTS = np.linspace(-400, 8800, 24 * 20).astype(np.int16).reshape(24, 20)


def gdal(value: str) -> list[tuple[Any, ...]]:
    return [(NODATA, "s", len(value) + 1, value, True)]


def values(dtype: type, low: float, high: float, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).random((24, 20))
    return (low + drawn * (high - low)).astype(dtype)


# ---- a range


@pytest.mark.parametrize(("dtype", "name", "fields"), [
    (np.uint16, "x.png", {"bits": 16, "range": (0, 4095)}), (np.uint16, "x.tif", {"bits": 16, "range": (1000, 1255)}),
    (np.int16, "x.tif", {"bits": 16, "range": (-400, 8800)}), (np.float32, "x.tif", {"bits": "float", "range": (0, 1)}),
    (np.float32, "x.tif", {"bits": "float", "range": (250, 320)}), (np.uint8, "x.png", {"range": (10, 30)}),
    (np.int16, "x.tif", {"bits": 16, "window": (40, 400)}),
], ids=str)
@pytest.mark.parametrize("memory", [None, "1GB"])
def test_a_range_of_values_fills_what_a_network_sees_and_is_undone_in_conversion(
        tmp_path: Path, dtype: type, name: str, fields: dict[str, Any], memory: str | None) -> None:
    """Scans of 12 bits in files of 16 used 6 % of a network's range, and heights were refused with advice that
    contradicted itself."""
    config = ImageConfig(channels=1, **fields)
    low, high = config.value_range
    array = values(dtype, low, high)
    (tmp_path / "in").mkdir()
    if name.endswith("png"):
        cv2.imwrite(str(tmp_path / "in" / name), array)
    else:
        tifffile.imwrite(tmp_path / "in" / name, array)
    seen = to_tensor(read_image(tmp_path / "in" / name, config), config)[0].numpy()
    expected = (array.astype(np.float64) - low) / (high - low) * 2 - 1
    assert np.abs(seen - expected).max() < 1e-6 and seen.min() >= -1 and seen.max() <= 1

    release = replace(release_of(Identity(), 1), image_in=config, image_out=config)
    assert convert(tmp_path / "in", tmp_path / "out", release, workers=0, memory=memory).exit_code == 0
    made = tifffile.imread(tmp_path / "out" / name) if name.endswith("tif") else cv2.imread(
        str(tmp_path / "out" / name), cv2.IMREAD_UNCHANGED)
    assert made.dtype == dtype
    np.testing.assert_allclose(made, array, rtol=0, atol=1e-5 * (high - low) if dtype == np.float32 else 0)
    if dtype == np.uint16:  # in memory it is the same
        np.testing.assert_array_equal(Model(Translating.with_release(release, "cpu")).convert(array), array)


def test_values_outside_become_the_ends_and_the_check_counts_them(tmp_path: Path) -> None:
    for side, array in (("A", np.array([[-900, -400, 8800, 9000]], np.int16).repeat(4, 0)), ("B", HEIGHTS[:4, :4])):
        (tmp_path / f"train{side}").mkdir()
        tifffile.imwrite(tmp_path / f"train{side}/0.tif", array)
    image = ImageConfig(channels=1, bits=16, range=(-400, 8800))
    assert read_image(tmp_path / "trainA/0.tif", image)[0, :, 0].tolist() == [-1, -1, 1, 1]
    findings = check(PairedConfig(folder=tmp_path, image_a=image, image_b=image))
    found = [each for each in findings if "outside" in each.what]
    assert len(found) == 1 and "1 of 1 images of data.image_a" in found[0].what and "-900 to 9000" in found[0].what


@pytest.mark.parametrize(("dtype", "low", "high", "bits", "words", "advice"), [
    (np.uint16, 0, 4095, 16, "6%", "[0, 4095]"), (np.uint16, 200, 1023, 16, "1%", "[0, 1023]"),
    (np.float32, 0, 1, "float", "50%", "[0, 1]"), (np.uint8, 0, 1.99, 8, "0%", "[0, 1]"),
    (np.uint16, 0, 65535, 16, "", ""), (np.float32, -1, 1, "float", "", ""), (np.uint8, 20, 90, 8, "", ""),
])
def test_the_check_says_when_a_part_of_the_range_is_used(tmp_path: Path, dtype: type, low: float, high: float,
                                                         bits: Any, words: str, advice: str) -> None:
    """Nothing told that 12-bit scans were all but black to the network."""
    for side in "AB":
        (tmp_path / f"train{side}").mkdir()
        for number in range(2):
            array = values(dtype, low, high, number)
            array.flat[:2] = low, high
            tifffile.imwrite(tmp_path / f"train{side}/{number}.tif", array)
    image = ImageConfig(channels=1, bits=bits)
    findings = check(PairedConfig(folder=tmp_path, image_a=image, image_b=image))
    found = [each for each in findings if "lie between" in each.what]
    assert len(found) == (2 if words else 0)
    for each, side in zip(found, "ab", strict=False):
        assert words in each.what and f"data.image_{side}.range: {advice}" in (each.advice or "")


@pytest.mark.parametrize(("array", "words"), [
    (HEIGHTS, ["16-bit numbers with a sign, from -400 to 8800", "range: [low, high]"]),
    (values(np.float32, 200, 300), ["floats, from 2", "range: [low, high]"]),
    (values(np.uint32, 0, 70000), ["numbers of more than 16 bits", "range: [low, high]"]),
    (values(np.float64, -5, 5), ["floats, from -", "range"]), (values(np.int32, 0, 1), ["more than 16 bits"]),
    (np.full((4, 4), 7, np.uint64), ["64 bits", "8- or 16-bit"])])
def test_what_has_no_range_of_its_own_is_refused_with_the_remedy(tmp_path: Path, array: np.ndarray,
                                                                 words: list[str]) -> None:
    """"16-bit int16 … save it as 8 or 16 bits"; "floats from nan to nan"."""
    tifffile.imwrite(tmp_path / "x.tif", array)
    with pytest.raises(ImageError) as error:
        read_image(tmp_path / "x.tif", ImageConfig(channels=1, bits="float"))
    assert all(word in str(error.value) for word in words) and "nan" not in str(error.value)


@pytest.mark.parametrize(("fields", "words"), [
    ({"range": (5, 5)}, "lower value first"), ({"range": (0, 300)}, "does not fit samples of 8 bits; use bits: 16"),
    ({"range": (-9, 65535), "bits": 16}, "does not fit"), ({"range": (0, 1), "window": (1, 1)}, "give one")])
def test_a_range_that_means_nothing_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=words):
        ImageConfig(**fields)


# ---- pixels without data


def holes(kind: str) -> tuple[np.ndarray, np.ndarray, dict[str, Any], ImageConfig]:
    """An array, where it has no data, how tifffile writes it, and what a recipe says of it."""
    gap = np.zeros((24, 20), bool)
    gap[3:9, 5:11] = True
    if kind == "int16":
        return np.where(gap, -32768, HEIGHTS), gap, {"extratags": gdal("-32768")}, ImageConfig(
            channels=1, bits=16, range=(-400, 8800))
    if kind == "NaN":
        return np.where(gap, np.nan, values(np.float32, 0, 1)).astype(np.float32), gap, {}, ImageConfig(
            channels=1, bits="float", range=(0, 1))
    if kind == "float":
        return np.where(gap, -9999, values(np.float32, 0, 1)).astype(np.float32), gap, {"extratags": gdal("-9999")}, \
            ImageConfig(channels=1, bits="float", range=(0, 1))
    if kind == "float64":
        lowest = np.finfo(np.float64).min
        return np.where(gap, lowest, values(np.float64, 0, 1)), gap, {"extratags": gdal(repr(float(lowest)))}, \
            ImageConfig(channels=1, bits="float", range=(0, 1))
    colours = np.random.default_rng(0).integers(1, 256, (24, 20, 3)).astype(np.uint8)
    return np.where(gap[..., None], 0, colours).astype(np.uint8), gap, {
        "extratags": gdal("0"), "photometric": "rgb"}, ImageConfig()


@pytest.mark.parametrize("kind", ["int16", "NaN", "float", "float64", "rgb"])
@pytest.mark.parametrize("memory", [None, "1GB"])
def test_what_has_no_data_is_read_as_such_and_carried_through_a_conversion(tmp_path: Path, kind: str,
                                                                           memory: str | None) -> None:
    """Elevation models with gaps were refused, or their −9999 was translated as if it were a depth below the sea."""
    array, gap, options, config = holes(kind)
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in/x.tif", array, **options)
    read = read_image(tmp_path / "in/x.tif", config)
    np.testing.assert_array_equal(np.isnan(read).any(2), gap)
    tensor = to_tensor(read, config)
    assert (tensor[:, gap] == UNKNOWN).all() and (unknown_pixels(tensor)[0].numpy() == gap).all()

    release = replace(release_of(Identity(), config.channels), image_in=config, image_out=config)
    convert(tmp_path / "in", tmp_path / "out", release, workers=0, memory=memory)
    with tifffile.TiffFile(tmp_path / "out/x.tif") as tiff:
        made, tag = tiff.asarray(), tiff.pages[0].tags.get(NODATA)
    np.testing.assert_allclose(made[~gap], array[~gap], rtol=0, atol=1e-6)
    if kind == "float64":  # outputs are float32, which do not hold the value
        assert np.isnan(made[gap]).all() and np.isnan(float(tag.value))
    else:
        np.testing.assert_array_equal(made[gap], array[gap])
    assert made.dtype == (np.float32 if kind == "float64" else array.dtype)
    assert (tag is None) == ("extratags" not in options)
    if tag is not None and kind != "float64":
        assert float(tag.value) == float(options["extratags"][0][3])

    # In a type that cannot hold the value, another; where a format has no word for it, the ledger does.
    eight = replace(release, image_out=ImageConfig(channels=config.channels))
    convert(tmp_path / "in", tmp_path / "eight", eight, workers=0, memory=memory)
    with tifffile.TiffFile(tmp_path / "eight/x.tif") as tiff:
        made, tag = tiff.asarray().reshape(24, 20, -1), tiff.pages[0].tags.get(NODATA)
    assert (made[gap] == 0).all()
    if kind == "NaN":  # the input has no value for it, and all of the output's mean something: only the ledger tells
        assert tag is None and "without data are 0" in last_rows(tmp_path / "eight")["x.tif"]["note"]
    else:
        assert float(tag.value) == 0 and not (made[~gap] == 0).all(1).any()
        assert "note" not in last_rows(tmp_path / "eight")["x.tif"]
    convert(tmp_path / "in", tmp_path / "png", eight, workers=0, memory=memory, file_format="png")
    assert "without data are 0" in last_rows(tmp_path / "png")["x.tif"]["note"]


@pytest.mark.parametrize("memory", [None, "1GB"])
def test_what_has_no_gaps_gets_no_word_for_them(tmp_path: Path, memory: str | None) -> None:
    """Black is black, and not a hole in a map, in an output of floats that are all known."""
    array = values(np.float32, -1, 1)
    array[:4] = -1
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in/x.tif", array)
    release = replace(release_of(Identity(), 1, "float"), image_out=ImageConfig(channels=1))
    convert(tmp_path / "in", tmp_path / "out", release, workers=0, memory=memory)
    with tifffile.TiffFile(tmp_path / "out/x.tif") as tiff:
        assert NODATA not in tiff.pages[0].tags and (tiff.asarray()[:4] == 0).all()


def recipe(folder: Path, image: ImageConfig, kind: str = "pix2pix", **more: Any) -> Recipe:
    side = image.model_dump(mode="json")
    return validate(Recipe, {
        "name": "holes", "workers": 0,
        "data": {"kind": "paired", "folder": str(folder), "resize": None, "image_a": side, "image_b": side},
        "translator": {"kind": kind, "generator": {"kind": "resnet", "width": 4, "blocks": 1},
                       "discriminator": {"kind": "patchgan", "width": 4, "layers": 1}},
        "stages": [{"resolution": 16, "images": 2}], "every": {"sample": None, "evaluate": 2}, **more}, "holes")


def test_a_first_recipe_takes_all_of_the_range_of_numbers_with_a_sign(tmp_path: Path) -> None:
    """What lies below the sea became the sea: the range that was written for elevations began at 0."""
    for side, array in (("a", HEIGHTS), ("b", HEIGHTS + 400)):
        (tmp_path / side).mkdir()
        tifffile.imwrite(tmp_path / side / "x.tif", array)
    a, b = look_at(PairedConfig(a=tmp_path / "a", b=tmp_path / "b").build("train", tmp_path))
    assert a.image == {"channels": 1, "bits": 16, "range": [-400, 8800]}
    assert b.image == {"channels": 1, "bits": 16, "range": [0, 16383]} and (HEIGHTS + 400).dtype == np.int16


def test_training_and_scoring_leave_out_what_has_no_data(tmp_path: Path) -> None:
    """From files to scores, whose numbers are finite and of the pixels that are known; the release keeps the range."""
    array, gap, options, config = holes("float")
    for split in ("trainA", "trainB", "testA", "testB"):
        (tmp_path / split).mkdir()
        for number in range(2):
            tifffile.imwrite(tmp_path / split / f"{number}.tif", array, **options)
    train(recipe(tmp_path, config), tmp_path / "run", Silent())
    assert load_release(tmp_path / "run").image_in.value_range == (0, 1)
    scores = evaluate_run(tmp_path / "run").scores
    assert all(np.isfinite(scores[name].value) for name in ("l1", "psnr", "ssim"))

    samples = recipe(tmp_path, config).data.build("train", Path())
    whole = samples.whole(0)
    assert (unknown_pixels(whole.a)[0].numpy() == gap).all()
    assert Batch.of([whole]).has_unknown and Batch.of([whole]).micro_batches(1)[0].has_unknown
    halved = samples.whole(0, resize=10)  # what was averaged with a gap is not known either
    assert unknown_pixels(halved.a).float().mean() >= gap.mean() and halved.a[~unknown_pixels(halved.a)].min() >= -1
    drawn = [Stream(samples, 0, (16, 16)).sample(number) for number in range(2)]
    assert Batch.drawn(drawn).has_unknown and drawn[0].sample.a.shape == (1, 16, 16)


PATCH = PatchGANConfig(width=4, layers=2)
TRANSLATORS = {
    "pix2pix": Pix2PixConfig(generator=ResNetConfig(width=4, blocks=1), discriminator=PATCH, weights={"features": 1.0}),
    "cyclegan": CycleGANConfig(generator=ResNetConfig(width=4, blocks=1), discriminator=PATCH, pool=0),
    "cut": CUTConfig(generator=ResNetConfig(width=4, blocks=1), discriminator=PATCH, patches=20),
}


def with_gaps(batch: Batch) -> Batch:
    a, b = batch.a.clone(), batch.b.clone()
    a[0, :, 2:9, 3:12], b[1, :, 10:, :9] = UNKNOWN, UNKNOWN
    return Batch(a, b, batch.keys, has_unknown=True)


@pytest.mark.parametrize(("name", "plan"), one_in(5, [
    *((name, plan) for name in ("pix2pix", "cyclegan") for plan in memory.PLANS), ("cut", "replay"),
    ("cut", "strips_blocks")]))
def test_gaps_give_the_same_gradients_under_every_memory_plan(name: str, plan: str) -> None:
    batch, expected = with_gaps(make_batch((24, 24))), build(TRANSLATORS[name])
    step(expected, batch, "plain")
    found = build(TRANSLATORS[name])
    step(found, batch, plan, micro_batch=1 if plan == "split" else None)
    assert worst_error(gradients(found), gradients(expected)) < 1e-9


@pytest.mark.parametrize("name", ["cnn", "fcn"])
def test_an_opinion_about_an_image_with_gaps_is_an_opinion(tmp_path: Path, name: str) -> None:
    """A task network names images or pixels, and what it says has other sizes than the image."""
    translator = build(consistent(write_task(tmp_path, NETWORKS[name])))
    losses = step(translator, with_gaps(make_batch((24, 24)))).losses
    assert all(torch.isfinite(loss) for loss in losses.values()) and losses["semantic_ab"] < 50


def test_what_is_not_known_has_no_part_in_losses() -> None:
    """Whatever a truth holds where the input has no data, and whatever a generator makes in the gaps of either."""
    hidden, other = (with_gaps(make_batch((24, 24))) for _ in range(2))
    other.b[0, :, 2:9, 3:12] = 0.5
    losses = [step(build(TRANSLATORS["pix2pix"]), each).losses["l1"] for each in (hidden, other)]
    assert losses[0] == losses[1]

    # L1 of the rest alone: by hand.
    made = torch.rand(2, 3, 24, 24, dtype=torch.float64, requires_grad=True)
    shown = hide_unknown(made, hidden.a, hidden.b)
    loss = (shown - hidden.b).abs().mean()
    known = ~(unknown_pixels(hidden.a) | unknown_pixels(hidden.b)).expand_as(made)
    assert abs(loss - ((made - hidden.b).abs() * known).mean()) < 1e-12
    (gradient,) = torch.autograd.grad(loss, made)
    assert (gradient[~known] == 0).all() and (gradient[known] != 0).all()


def two_folders(tmp_path: Path, name: str, scale: float, low: float, dtype: type) -> tuple[Path, Path]:
    """The same two images of noise in each call, one for each folder, as `low` + `scale` × their 8 bits."""
    for side, seed in (("made", 0), ("real", 1)):
        pixels = np.random.default_rng(seed).integers(0, 256, (24, 20, 3))
        pixels.flat[:2] = 0, 255
        (tmp_path / name / side).mkdir(parents=True)
        tifffile.imwrite(tmp_path / name / side / "0.tif", (low + scale * pixels).astype(dtype), photometric="rgb")
    return tmp_path / name / "made", tmp_path / name / "real"


def test_folders_whose_values_fill_a_part_of_their_type_are_scored_by_their_range(
        tmp_path: Path, said: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """11 bits in files of 16 had a PSNR of 39.5 without a word; the same pixels in 8 bits have 9.4."""
    eight, eleven, signed = (two_folders(tmp_path, *each) for each in (
        ("eight", 1, 0, np.uint8), ("eleven", 8, 0, np.uint16), ("signed", 4, -200, np.int16)))
    plain, by_range = evaluate_folder(*eleven), evaluate_folder(*eleven, low_high=(0, 2040))
    pixels = [tifffile.imread(folder / "0.tif").astype(float) for folder in eight]
    assert by_range.scores["psnr"].value == pytest.approx(10 * np.log10(255**2 / np.mean(np.subtract(*pixels)**2)))
    assert plain.scores["psnr"].value > by_range.scores["psnr"].value + 25
    found = [line for line in plain.notes if line.startswith("the values of")]
    assert len(found) == 2 and all("lie between 0 and 2040: 3% of the range of uint16 (0 to 65535)" in line and
                                   "add --range 0,2047" in line for line in found)
    assert not by_range.notes

    # Numbers with a sign; one folder alone in few values; values outside; a type that cannot hold the range
    def read(folder: Path, low_high: tuple[float, float] | None = None) -> FolderImages:
        images = FolderImages([folder / "0.tif"], None, low_high)
        seen.append(images.images.read(0))
        return images

    seen: list[torch.Tensor] = []
    assert not list(doubts({eight[0]: read(eight[0]), signed[0]: read(signed[0], (-200, 820))}))
    torch.testing.assert_close(*seen)
    (line,) = doubts({eleven[0]: read(eleven[0]), eight[1]: read(eight[1])})
    assert str(eleven[0]) in line and "store both in the same values" in line
    (line,) = doubts({eleven[0]: read(eleven[0], (0, 999))})
    assert "1 of 1 images have some outside of --range" in line and "from 0 to 2040" in line
    with pytest.raises(ImageError, match=r"holds uint8 samples, which cannot reach from 0 to 4095 \(--range\)"):
        read(eight[0], (0, 4095))

    # The command
    words = ("evaluate", signed[0], "--against", signed[1])
    assert call(monkeypatch, *words) == 3 and "in all folders: --range LOW,HIGH" in " ".join(said.getvalue().split())
    assert "recipe" not in said.getvalue(), "nobody who scores a folder has one"
    assert call(monkeypatch, *words, "--range", "-200,820") == 0
    assert "values from -200 to 820" in " ".join(said.getvalue().split())
    for wrong in ("5", "a,b", "7,7", "0,inf", "1,2,3"):
        assert call(monkeypatch, *words, "--range", wrong) == 2 and "expected two numbers" in said.getvalue()
    assert call(monkeypatch, *words, "--range", "0,1", "--classes", 2) == 2


def test_scores_are_of_the_pixels_that_are_known() -> None:
    """A map that is half gap is not twice as good: as if the gap had been cut off."""
    generator = torch.Generator().manual_seed(0)
    image, truth = (torch.rand(1, 3, 40, 60, generator=generator) * 2 - 1 for _ in range(2))
    gapped = truth.clone()
    gapped[..., 30:] = UNKNOWN
    found, expected = score(image, gapped), score(image[..., :30], truth[..., :30])
    for name in ("psnr", "l1"):
        assert abs(found[name] - expected[name]) < 1e-5
    assert abs(found["gradient_error"] - gradient_error(image[..., :30], truth[..., :30])) < 1e-5
    assert abs(found["ssim"] - ssim(image, truth)) < 0.05 and "ms_ssim" not in found
    gapped[:] = UNKNOWN
    assert score(image, gapped) == {}


def test_signed_outputs_are_refused_where_nothing_holds_them(tmp_path: Path) -> None:
    config = ImageConfig(channels=1, bits=16, range=(-400, 8800))
    release = replace(release_of(Identity(), 1), image_in=config, image_out=config)
    tifffile.imwrite(tmp_path / "x.tif", HEIGHTS)
    with pytest.raises(UsageError, match="take tif"):
        convert(tmp_path / "x.tif", tmp_path / "out", release, workers=0, file_format="png")
    with pytest.raises(UsageError, match="with a sign"):
        Model(Translating.with_release(release, "cpu")).convert(Image.new("L", (9, 9)))
