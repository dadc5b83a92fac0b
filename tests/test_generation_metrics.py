"""Scores of images from noise: sliced Wasserstein distance, and the modes that are found."""

from __future__ import annotations

import io
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn

from tests.commands import call
from tests.runs import Silent
from tests.test_sampling import noise_recipe
from translate.adapt.drawn import add_drawn
from translate.errors import CheckpointError, DataError, UsageError
from translate.evaluation.heldout import Evaluator
from translate.evaluation.results import Results
from translate.evaluation.scoring import evaluate_run
from translate.foreign import read_lines
from translate.metrics.modes import ClassNamer, histogram, modes, named, stacked_modes
from translate.metrics.observations import Observed, compare_sets, floor, observe, summarise, why_not
from translate.metrics.sliced_wasserstein import (
    DIRECTIONS,
    SEED,
    PyramidPatches,
    blurred,
    distance,
    laplacian_pyramid,
    sliced_wasserstein,
)
from translate.networks.task_networks import FCNConfig, save_task
from translate.report import write_comparison, write_report
from translate.runs.manifest import read_tensors
from translate.runs.progress import Progress
from translate.runs.release import write_release
from translate.sampling.sampler import Sampler
from translate.training.loop import train

CHANCE = np.random.default_rng(5)


def textures(num: int, size: tuple[int, int] = (32, 32), channels: int = 3, smooth: float = 1.0) -> list[Tensor]:
    noise = CHANCE.normal(size=(num, channels, *size))
    return list(torch.from_numpy(scipy.ndimage.gaussian_filter(noise, (0, 0, smooth, smooth))).clamp(-1, 1).float())


def test_the_distance_is_the_mean_of_scipys_along_the_directions() -> None:
    """Of descriptors with their channels standardised, which is done here by numpy."""
    x, y = torch.randn(40, 2 * 49), 2 * torch.randn(40, 2 * 49).exp()
    directions = np.random.default_rng(SEED).normal(size=(98, DIRECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    sides = []
    for each in (x, y):
        channels = each.double().numpy().reshape(40, 2, 49)
        channels = (channels - channels.mean((0, 2), keepdims=True)) / channels.std((0, 2), keepdims=True)
        sides.append(channels.reshape(40, 98) @ directions)
    expected = np.mean([scipy.stats.wasserstein_distance(sides[0][:, number], sides[1][:, number])
                        for number in range(DIRECTIONS)])
    assert distance(x, y) == pytest.approx(expected, rel=1e-5)


def test_a_pyramid_is_taken_apart_as_scipy_filters_and_put_together_gives_the_image() -> None:
    image = textures(1, (64, 80))[0].double()
    taps = np.array([1, 4, 6, 4, 1]) / 16
    expected = image.numpy()
    for axis in (1, 2):
        expected = scipy.ndimage.correlate1d(expected, taps, axis=axis, mode="mirror")
    np.testing.assert_allclose(blurred(image).numpy(), expected, atol=1e-12)
    levels = laplacian_pyramid(image)
    assert [tuple(level.shape) for level in levels] == [(3, 64, 80), (3, 32, 40), (3, 16, 20)]
    whole = levels[-1]
    for level in reversed(levels[:-1]):
        spread = torch.zeros_like(level)
        spread[:, ::2, ::2] = whole
        whole = level + 4 * blurred(spread)
    torch.testing.assert_close(whole, image)


def test_descriptors_are_patches_of_the_level_and_do_not_depend_on_other_images() -> None:
    take, image = PyramidPatches(), textures(1, (28, 28), 1)[0]
    found = take(image)
    assert list(found) == ["patches 28"] and found["patches 28"].shape == (64, 49)
    patches = {tuple(image[0, row:row + 7, column:column + 7].flatten().tolist())
               for row in range(22) for column in range(22)}
    assert {tuple(row.tolist()) for row in found["patches 28"]} <= patches
    assert all(torch.equal(*pair) for pair in zip(found.values(), take(image).values(), strict=True))
    assert take(textures(1, (15, 40))[0]) == {}


def test_the_distance_tells_scales_apart_and_equal_sets_have_none() -> None:
    """Noise in pixels changes the finest level, other large structures the coarsest."""
    take, images = PyramidPatches(), [3 * image for image in textures(40, smooth=2)]
    same = [take(image) for image in images]
    assert sliced_wasserstein(same, same) == {"patches 32": 0, "patches 16": 0}
    floor = sliced_wasserstein(same[::2], same[1::2])
    noisy = sliced_wasserstein(same[::2], [take(image + 0.3 * torch.randn_like(image)) for image in images[1::2]])
    assert noisy["patches 32"] > 1.6 * floor["patches 32"] and noisy["patches 16"] < 1.2 * floor["patches 16"]
    with pytest.raises(DataError, match="different sizes"):
        sliced_wasserstein(same, [take(image) for image in textures(2, (64, 64))])
    assert sliced_wasserstein(same, same[::-1]) == pytest.approx({"patches 32": 0, "patches 16": 0}, abs=0.01)


def test_a_set_of_the_real_distribution_is_never_said_to_be_better_than_real_images_can_be() -> None:
    """Halves have fewer images, of which these scores are larger: they are no floor of them."""
    torch.manual_seed(0)
    reals, others = ([Observed(features=PyramidPatches()(image) | {
        "inception": torch.randn(1, 4), "inception_logits": torch.randn(1, 4)}) for image in textures(24, (16, 16))]
        for _ in range(2))
    scores, halves = (compare_sets(*sides, paired=False) for sides in ((others, reals), (reals[::2], reals[1::2])))
    for name in ("sliced_wasserstein", "fid"):
        assert scores[name].value < halves[name].value and name not in floor(reals)


@pytest.mark.parametrize(("side", "channels", "said"), [(8, 3, True), (32, 4, True), (32, 3, False)])
def test_a_sliced_wasserstein_distance_that_is_missing_has_its_reason(side: int, channels: int, said: bool) -> None:
    networks = [PyramidPatches()]
    images = [observe(image, None, networks, small=None) for image in textures(2, (side, side), channels)]
    lines = why_not(summarise(images, images, paired=False), images, images, networks, paired=False)
    assert lines == ["the sliced Wasserstein distance needs grey or RGB images of one size, with sides of 16 px"] * said


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 32×32 images that was evaluated while it trained; no weights of MobileNetV2 are here."""
    folder = tmp_path_factory.mktemp("toy")
    for split, num in (("train", 8), ("test", 12)):
        for number, image in enumerate(textures(num)):
            path = folder / split / ("cats", "dogs")[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(((image + 1) * 127.5).byte().permute(1, 2, 0).numpy()).save(path)
    train(noise_recipe(folder, 32, every={"evaluate": 8}), folder / "run", Silent())
    return folder / "run"


def test_images_from_noise_are_scored_while_training_and_after_it_without_any_weights(scored: Path) -> None:
    lines = [line for line in read_lines(scored / "metrics.jsonl") if line["kind"] == "evaluation"]
    assert [line["images"] for line in lines] == [8, 16]
    assert all(line["decided_by"] == "sliced_wasserstein" and line["sliced_wasserstein"] > 0 for line in lines)
    results = evaluate_run(scored)
    last, scores = lines[-1]["sliced_wasserstein"], results.scores
    assert scores["sliced_wasserstein"].value == pytest.approx(last, rel=0.05)  # rounded to files
    table = results.as_json()["metrics"]["sliced_wasserstein"]
    assert table["better"] == "lower" and not table["baselines"] and table["floor"] is None
    write_report(scored)
    assert "sliced Wasserstein distance" in (scored / "report.html").read_text()


def test_the_sheet_of_a_training_shows_samples_of_the_recipes_seed_and_ways_between_them(scored: Path,
                                                                                        tmp_path: Path) -> None:
    sheet = np.asarray(Image.open(max((scored / "samples").glob("*.png"))))
    assert sheet.shape == (8 * 34 + 2, 8 * 34 + 2, 3)
    sampler = Sampler.load(scored, precision="fp32")
    for row, column, number in ((0, 1, 1), (5, 7, 47), (6, 0, 0), (7, 0, 2)):
        image = next(sampler.sample([number], 0))
        cell = sheet[2 + 34 * row:34 + 34 * row, 2 + 34 * column:34 + 34 * column].astype(float)
        np.testing.assert_allclose(cell, ((image + 1) * 127.5).permute(1, 2, 0).numpy(), atol=4)  # trained in bf16
    page = write_comparison([scored, Path(shutil.copytree(scored, tmp_path / "other"))], tmp_path / "page.html")
    assert page.read_text().count("samples of ") == 2


class Brightness(nn.Module):
    """Names an image (N, 1, H, W) by the tenth of the range that its mean lies in."""

    def forward(self, images: Tensor) -> Tensor:
        tenth = ((images.mean((1, 2, 3)) + 1) * 5).floor().long().clamp(0, 9)
        return nn.functional.one_hot(tenth, 10).float()


def test_stacked_digits_are_read_channel_by_channel() -> None:
    levels = torch.tensor([[4, 0, 7], [9, 9, 9], [0, 0, 1]])
    images = ((levels + 0.5) / 5 - 1)[:, :, None, None].expand(-1, -1, 4, 4)
    assert stacked_modes(Brightness(), images, 10).tolist() == [407, 999, 1]
    assert named(Brightness(), images[:, :1]).tolist() == [4, 9, 0]


def test_modes_and_their_divergence_are_scipys() -> None:
    numbers, real = CHANCE.integers(0, 12, 300), CHANCE.integers(1, 50, 20)
    counts = np.bincount(numbers, minlength=20)
    found = modes(numbers, real)
    assert found == (12, 20, pytest.approx(scipy.stats.entropy(counts, real)))
    assert modes(np.zeros(50, np.int64), np.ones(1000)).kl == pytest.approx(math.log(1000))
    assert modes(np.arange(1000), np.ones(1000)) == (1000, 1000, pytest.approx(0))
    assert histogram(np.array([2, 2, 0]), 4).tolist() == [1, 0, 2, 0]


def test_modes_of_nothing_and_beside_nothing_are_refused() -> None:
    with pytest.raises(DataError, match="one image or more"):
        modes(np.zeros(0, np.int64), np.ones(3))
    with pytest.raises(DataError, match="1 of 3 modes have no real images"):
        modes(np.zeros(2, np.int64), np.array([1, 0, 2]))
    with pytest.raises(DataError, match="class 3 of 3"):
        modes(np.array([3]), np.ones(3))


# ------------------------------------------------------------------------------------------- samples as labelled images


SHADES = ("cats/tabby", "dogs")


@pytest.fixture(scope="module")
def dark_and_bright(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that draws dark and bright images, 16×16, as it is asked. One of its classes has the name of a path."""
    folder = tmp_path_factory.mktemp("shades")
    for split, num in (("train", 40), ("test", 20)):
        (folder / split).mkdir()
        (folder / split / "metadata.jsonl").write_text("".join(
            json.dumps({"file_name": f"{number}.png", "label": SHADES[number % 2]}) + "\n" for number in range(num)))
        for number in range(num):
            path = folder / split / f"{number}.png"
            noise = CHANCE.integers(-30, 30, (16, 16, 3))
            Image.fromarray((noise + (60, 190)[number % 2]).astype(np.uint8)).save(path)

    # Weights written by hand: the class gives the shade, the latent a little of something else.
    recipe = noise_recipe(folder, 16, data={"classes": SHADES})
    translator = recipe.translator.build(2, 3)
    first, last = (layer.conv for layer in translator.generator("ab").chain)  # type: ignore[union-attr]
    with torch.no_grad():
        first.weight.copy_(torch.eye(16, 8)[:, :, None, None])
        first.bias.zero_()
        last.weight.normal_(0, 0.1)
        last.weight[:, 6], last.weight[:, 7] = -0.6, 0.6
        last.bias.zero_()
    write_release(folder / "release", recipe, translator, Progress())
    still = {"kind": "adam", "lr": 1e-12}
    recipe = noise_recipe(folder, 16, data={"classes": SHADES}, start=str(folder / "release"),
                          optimizer={"generator": still})
    train(recipe, folder / "run", Silent())
    return folder / "run"


@pytest.fixture(scope="module")
def put_to_the_test(dark_and_bright: Path) -> Results:
    results = evaluate_run(dark_and_bright)
    add_drawn(results, dark_and_bright, images=1_280)
    return results


def test_samples_of_the_class_asked_for_teach_a_network_what_real_images_teach_it(put_to_the_test: Results) -> None:
    results = put_to_the_test
    scores, floor = results.scores, results.floor
    assert floor["tstr"].value == floor["as_asked"].value > 0.9
    assert scores["as_asked"].value > 0.9 and scores["tstr"].value > 0.9 and 0.4 < scores["rarest_class"].value <= 0.5
    assert results.about["drawn"]["num"] == 40 and set(results.about["drawn"]["classes"]) == set(SHADES)
    assert {"as_asked", "rarest_class", "tstr"} <= results.as_json()["metrics"].keys()


@pytest.mark.usefixtures("put_to_the_test")
def test_a_training_counts_the_classes_of_what_it_draws(dark_and_bright: Path, tmp_path: Path) -> None:
    """By the classifier that those scores have left. Of 20 samples half are bright, until the generator is made to
    draw dark ones alone."""
    recipe = noise_recipe(dark_and_bright.parent, 16, data={"classes": SHADES}, evaluate={
        "images": 20, "classifier": str(dark_and_bright / "classifier")})
    evaluator = Evaluator(recipe, Accelerator(cpu=True), "fp32")
    translator = recipe.translator.build(2, 3)
    generator, fitting = translator.generator("ab"), recipe.fitting(recipe.stages[0])
    generator.load_state_dict(read_tensors(dark_and_bright.parent / "release" / "generator_ab.safetensors"))
    both = evaluator(translator, fitting).shown
    assert both["classes_found"].value == 2 and both["rarest_class"].value == 0.5
    with torch.no_grad():
        generator.chain[-1].conv.weight[:, 6:] = -0.6  # type: ignore[union-attr, index]
    dark = evaluator(translator, fitting).shown
    assert dark["classes_found"].value == 1 and dark["rarest_class"].value == 0

    # Pixels have classes as well, and nobody counts those
    network = FCNConfig(width=2, downs=1)
    record = save_task(tmp_path, network.build(3, 2), network, 3, 2)
    (tmp_path / "task.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="its network names pixels"):
        ClassNamer(tmp_path, 3, (16, 16), torch.device("cpu"))


def test_what_has_no_classes_cannot_be_put_to_that_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                        said: io.StringIO) -> None:
    (tmp_path / "train").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "train" / "0.png")
    train(noise_recipe(tmp_path, data={"classes": None}), tmp_path / "run", Silent())
    with pytest.raises(UsageError, match="the data of this run have no classes"):
        add_drawn(Results({}, {}), tmp_path / "run")

    # Which is said before anything is scored: the scores were lost
    monkeypatch.setattr("translate.evaluation.scoring.evaluate_run", lambda *words, **options: pytest.fail("scored"))
    assert call(monkeypatch, "evaluate", tmp_path / "run", "--tstr") == 2
    assert "the data of this run have no classes" in " ".join(said.getvalue().split())
