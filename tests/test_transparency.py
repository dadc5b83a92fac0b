"""Transparent images: what nobody sees is not trained on, scored or converted, and alpha comes back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import translate
from tests.conversions import Identity, last_rows, noise, release_of
from tests.runs import Silent
from translate.convert import convert
from translate.convert.python_api import Model
from translate.convert.translating import Translating
from translate.data.check import Finding, check
from translate.data.layouts import PairedConfig
from translate.evaluation.scoring import evaluate_folder
from translate.images.decoding import decode
from translate.images.pictures import Picture
from translate.images.reading import ImageConfig, fit, read_image
from translate.images.transparency import composed, taken_off
from translate.images.writing import write_image
from translate.recipe import Recipe, load_recipe
from translate.runs.folder import RunFolder, continued
from translate.runs.manifest import seal
from translate.runs.release import load_release
from translate.schema import validate
from translate.training.loop import train

BACKGROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0), (10, 200, 90): (10, 200, 90)}


def with_hole(path: Path, hidden: tuple[int, ...], seed: int = 0) -> None:
    """A picture whose border is transparent, over a colour that nobody sees."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels, alpha = noise(24, 24, seed=seed), np.zeros((24, 24), np.uint8)
    alpha[6:18, 6:18] = 255
    write_image(path, np.where(alpha[..., None] > 0, pixels, np.array(hidden, np.uint8)), alpha=alpha)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """The same pictures twice, with other hidden colours in every second one."""
    for split in ("trainA", "trainB", "testA", "testB"):
        for number in range(4):
            hidden = (0, 255, 0) if split.endswith("A") and number % 2 else (0, 0, 0)
            with_hole(tmp_path / "pairs" / split / f"{number}.png", hidden, number)
    return tmp_path / "pairs"


def seen_on(pixels: np.ndarray, alpha: np.ndarray, colour: tuple[int, ...], full: float) -> np.ndarray:
    """Porter and Duff's `over`, in float64."""
    share = alpha[..., None].astype(np.float64) / full
    return pixels.astype(np.float64) * share + np.array(colour) * full / 255 * (1 - share)


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_is_shown_is_what_a_viewer_shows_to_half_a_step(background: Any, dtype: type) -> None:
    pixels, alpha = noise(40, 30, dtype=dtype), noise(40, 30, 1, seed=1, dtype=dtype)[..., 0]
    expected = seen_on(pixels, alpha, BACKGROUNDS[background], np.iinfo(dtype).max)
    shown = composed(pixels, alpha, background)
    assert shown.dtype == dtype and np.abs(shown - expected).max() <= 0.5 + 1e-6
    unit = composed((pixels / np.iinfo(dtype).max * 2 - 1).astype(np.float32),
                    (alpha / np.iinfo(dtype).max * 2 - 1).astype(np.float32), background)
    assert np.abs((unit + 1) / 2 * np.iinfo(dtype).max - expected).max() < np.iinfo(dtype).max * 1e-6
    again = composed(taken_off(shown, alpha, background), alpha, background)  # the way back
    assert np.abs(again.astype(int) - shown).max() <= 1


def test_grey_and_more_channels_get_the_background_in_grey(tmp_path: Path) -> None:
    clear = np.zeros((2, 2), np.uint8)
    for channels, config in ((1, ImageConfig(channels=3)), (3, ImageConfig(channels=1)), (5, ImageConfig(channels=5))):
        picture = fit(Picture(Path("x"), noise(2, 2, channels), clear), config)
        assert (picture.pixels == 255).all() and picture.pixels.shape[2] == config.channels
    for channels in (1, 3):  # where a recipe wants colours, also grey files are seen on one
        red = fit(Picture(Path("x"), noise(2, 2, channels), clear), ImageConfig(channels=3, background=(255, 0, 0)))
        assert (red.pixels == (255, 0, 0)).all()
    kept = fit(Picture(Path("x"), noise(2, 2), clear), ImageConfig(channels=4))  # alpha as a channel
    np.testing.assert_array_equal(kept.pixels[..., :3], noise(2, 2))


def test_training_and_scoring_see_no_hidden_colours(pairs: Path) -> None:
    """Icons exported by two programs: black under one's transparency, green under the other's. The network learnt
    green frames, which no viewer had ever shown."""
    for background, same in (("white", True), ("black", True), (None, False)):
        image = ImageConfig(background=background)
        config = PairedConfig(folder=pairs, image_a=image, image_b=image, resize=None)
        for split in ("train", "test"):
            a, b, *_ = config.build(split, Path()).whole(1)
            assert torch.equal(a, b) is same
        if same:
            assert (a[:, 0, 0] == (1 if background == "white" else -1)).all()

    results = evaluate_folder(pairs / "testA", pairs / "testB")
    assert results.scores["l1"].value == 0


def test_a_palette_colour_or_an_entry_that_is_transparent_counts_as_alpha(tmp_path: Path) -> None:
    indices = (np.arange(36, dtype=np.uint8) % 3).reshape(6, 6)
    palette = Image.fromarray(indices)
    palette.putpalette([0, 255, 0, 10, 20, 30, 200, 100, 0])
    palette.save(tmp_path / "entry.png", transparency=0)
    palette.save(tmp_path / "entry.gif", transparency=0)
    colours = np.array([[255, 255, 255], [10, 20, 30], [200, 100, 0]], np.uint8)[indices]
    Image.fromarray(np.where(indices[..., None] == 0, np.array([0, 255, 0], np.uint8), colours)).save(
        tmp_path / "key.png", transparency=(0, 255, 0))
    for name in ("entry.png", "entry.gif", "key.png"):
        np.testing.assert_array_equal(read_image(tmp_path / name, ImageConfig()), colours)


@pytest.mark.parametrize(("background", "severity", "words"), [
    ("white", "note", ["2 of", "shown on white", "differ", "(0, 255, 0) in 1.png"]),
    (None, "warning", ["2 of", "are trained on", "differ", "(0, 255, 0) in 1.png"])])
def test_the_check_counts_transparent_images_and_says_where_hidden_colours_differ(
        tmp_path: Path, background: Any, severity: str, words: list[str]) -> None:
    for side in "AB":
        (tmp_path / f"train{side}").mkdir()
        for number in range(4):
            write_image(tmp_path / f"train{side}/{number}.png", noise(24, 24, seed=number))
    with_hole(tmp_path / "trainA/0.png", (0, 0, 0))
    with_hole(tmp_path / "trainA/1.png", (0, 255, 0))
    image = ImageConfig(background=background)
    config = PairedConfig(folder=tmp_path, image_a=image, image_b=image)
    (found,) = [each for each in check(config) if "transparent" in each.what]
    assert isinstance(found, Finding) and found.severity == severity and all(word in found.what for word in words)
    assert "data.image_a.background" in (found.advice or "")


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.webp"])
@pytest.mark.parametrize("memory", [None, "1GB"])
def test_a_conversion_shows_the_background_and_gives_alpha_back(tmp_path: Path, name: str, memory: str | None) -> None:
    """Whole and by rows. Seen on white, the output is what was made of the input as it is seen on white."""
    pixels, alpha = noise(24, 24), noise(24, 24, 1, seed=1)[..., 0]
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in" / name, pixels, alpha=alpha)
    release = release_of(Identity(), background="white")
    assert convert(tmp_path / "in", tmp_path / "out", release, workers=0, memory=memory).exit_code == 0
    made = decode((tmp_path / "out" / name).read_bytes(), tmp_path / name)
    np.testing.assert_array_equal(made.alpha, alpha)
    shown, expected = composed(made.pixels, alpha, "white"), composed(pixels, alpha, "white")
    assert np.abs(shown.astype(int) - expected).max() <= 1
    assert "on white" in last_rows(tmp_path / "out")[name]["note"]

    # Where the format keeps no alpha, what is seen.
    convert(tmp_path / "in", tmp_path / "jpg", release, workers=0, memory=memory, file_format="jpg", quality=100)
    made = decode((tmp_path / "jpg/x.jpg").read_bytes(), tmp_path / "x.jpg")
    assert made.alpha is None and np.abs(made.pixels[alpha == 0].astype(int) - 255).mean() < 40

    # Without a background everything is as the file has it.
    plain = replace(release, image_in=ImageConfig(background=None), image_out=ImageConfig(background=None))
    convert(tmp_path / "in", tmp_path / "plain", plain, workers=0, memory=memory)
    made = decode((tmp_path / "plain" / name).read_bytes(), tmp_path / name)
    np.testing.assert_array_equal(made.pixels, pixels)


def test_the_python_face_does_what_the_command_does(tmp_path: Path) -> None:
    with_hole(tmp_path / "in/x.png", (0, 255, 0))
    release = release_of(Identity(), background="white")
    convert(tmp_path / "in", tmp_path / "out", release, workers=0)
    with Image.open(tmp_path / "in/x.png") as image, Image.open(tmp_path / "out/x.png") as expected:
        made = Model(Translating.with_release(release, "cpu")).convert(image)
        np.testing.assert_array_equal(np.asarray(made), np.asarray(expected))


def recipe(pairs: Path, **data: Any) -> Recipe:
    return validate(Recipe, {
        "name": "alpha", "data": {"kind": "paired", "folder": str(pairs), "resize": None, **data}, "workers": 0,
        "translator": {"kind": "pix2pix", "generator": {"kind": "resnet", "width": 4, "blocks": 1},
                       "discriminator": {"kind": "patchgan", "width": 4, "layers": 1}},
        "stages": [{"resolution": 16, "images": 2}], "every": {"sample": None, "evaluate": None}}, "alpha")


def test_a_run_and_a_release_keep_their_background_and_older_ones_what_they_did(
        pairs: Path, trained: Callable[[Recipe], Path], tmp_path: Path) -> None:
    """A release of an earlier version, which showed hidden colours, still does; so does a run that is resumed."""
    run = tmp_path / "run"
    shutil.copytree(trained(recipe(pairs, image_a={"background": "black"})), run)
    assert load_release(run).image_in.background == "black" and load_release(run).image_out.background == "white"
    assert ImageConfig(background=None).identity == {"channels": 3, "bits": 8}  # as fingerprints had it before
    assert translate.load(run).image_in == load_release(run).image_in

    # As an earlier version saved it, which kept no recipe in checkpoints: the same recipe goes on in it.
    document = yaml.safe_load((run / "recipe.yaml").read_text())
    for side in ("image_a", "image_b"):
        del document["data"][side]["background"]
    (run / "recipe.yaml").write_text(yaml.safe_dump(document))
    for checkpoint in (run / "checkpoints").iterdir():
        (checkpoint / "recipe.json").unlink()
        seal(checkpoint)
    assert load_release(run).image_in.background is None
    assert continued(RunFolder(run).saved_recipe(), recipe(pairs)).data.loading.image_a.background is None
    longer = recipe(pairs).model_copy(update={"stages": (recipe(pairs).stages[0].model_copy(update={"images": 3}),)})
    train(longer, run, Silent(), resume=True)
    assert load_recipe(run / "recipe.yaml").data.image_b.background is None
