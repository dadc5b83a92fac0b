"""Regions of training images that must not change: masks stay with their images, a loss holds translations there."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.covering import each_value
from tests.steps import build, gradients, make_batch, step, worst_error
from translate.data import UnpairedConfig, batches
from translate.data.check import check
from translate.data.layouts import LabelsConfig, PairedConfig
from translate.data.protected import ProtectConfig
from translate.data.stream import Batch
from translate.errors import DataError, RecipeError
from translate.images.writing import write_image
from translate.losses import weighted_l1
from translate.networks import PatchGANConfig, ResNetConfig
from translate.recipe import Recipe
from translate.schema import validate
from translate.translators import CUTConfig, CycleGANConfig, Pix2PixConfig

GENERATOR, PATCH = ResNetConfig(width=4, blocks=1), PatchGANConfig(width=4, layers=2)
TRANSLATORS = {
    "cyclegan": CycleGANConfig(generator=GENERATOR, discriminator=PATCH, pool=0),
    "pix2pix": Pix2PixConfig(generator=GENERATOR, discriminator=PATCH),
    "cut": CUTConfig(generator=GENERATOR, discriminator=PATCH, patches=20, flip_equivariance=True)}


def blob(seed: int, height: int = 48, width: int = 60) -> np.ndarray:
    chance = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    for _ in range(6):
        top, left = chance.integers(0, (height - 8, width - 8))
        mask[top:top + chance.integers(4, 20), left:left + chance.integers(4, 20)] = 255
    return mask


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, pixels)


def folder_of(place: Path, layout: str) -> Path:
    """Images of A that are white where nothing may change, and their masks in a folder of their own."""
    for number in range(3):
        mask, other = blob(number), blob(number + 10)
        a, b = (np.repeat(each[..., None], 3, 2) for each in (mask, other))
        write(place / "masks" / ("trainA" if layout == "nested" else "") / f"{number}.png", mask[..., None])
        if layout == "halves":
            write(place / "data" / "train" / f"{number}.png", np.concatenate([a, b], 1))
        else:
            write(place / "data" / "trainA" / f"{number}.png", a)
            write(place / "data" / "trainB" / f"{number}.png", b)
    return place


@pytest.mark.parametrize(("config", "layout"), [
    (UnpairedConfig, "flat"), (UnpairedConfig, "nested"), (PairedConfig, "flat"), (PairedConfig, "halves")])
def test_a_mask_stays_with_its_image_through_crops_flips_and_sizes(config: Any, layout: str, tmp_path: Path) -> None:
    place = folder_of(tmp_path, layout)
    data = config(folder=place / "data", resize=None, augment=["flip", "flip_vertical", "rotate90"],
                  protect={"folder": place / "masks", "weight": 7})
    seen = batches(data.build("train", tmp_path), seed=0, start=0, stop=24, batch_size=4, size=(32, 32))
    for batch in seen:
        assert batch.protected is not None and batch.protected.shape == (4, 1, 32, 32)
        torch.testing.assert_close(batch.protected, 7.0 * (batch.a[:, :1] > 0))
    smaller = next(batches(data.build("train", tmp_path), seed=0, start=0, stop=2, batch_size=2, size=(20, 20),
                           resize=24))
    agree = (smaller.protected > 0) == (smaller.a[:, :1] > 0)
    assert agree.float().mean() > 0.9, "borders are between pixels"
    assert [piece.protected.shape[0] for piece in batch.micro_batches(3)] == [3, 1]


def protecting(size: tuple[int, int] = (33, 50), samples: int = 3) -> Batch:
    batch = make_batch(size, samples)
    weights = (torch.rand(samples, 1, *size, generator=torch.Generator().manual_seed(5)) > 0.7).double() * 20
    weights[1] = 0
    return Batch(batch.a, batch.b, batch.keys, protected=weights)


@functools.cache
def stepped(name: str, plan: str, micro_batch: int | None = None) -> tuple[dict[str, Tensor], Tensor]:
    translator = build(TRANSLATORS[name])
    update = step(translator, protecting(), plan, micro_batch)
    return gradients(translator), update.losses["protected"]


@each_value(share=24, name=list(TRANSLATORS), plan=["split", "preact", "replay", "blocks", "strips", "strips_blocks"])
def test_every_plan_and_micro_batch_has_the_same_gradients(name: str, plan: str) -> None:
    (expected, loss), (found, other) = stepped(name, "plain"), stepped(name, plan, 2)
    assert worst_error(found, expected) < 1e-7
    torch.testing.assert_close(other, loss)
    free = build(TRANSLATORS[name])
    step(free, make_batch((33, 50), 3), plan)
    assert worst_error(gradients(free), expected) > 1e-3, "it is felt"


@pytest.mark.parametrize("name", list(TRANSLATORS))
def test_the_loss_is_the_distance_from_the_input_where_nothing_may_change(name: str) -> None:
    """CUT translates some images mirrored: what stays is the input as it lies."""
    translator, batch = build(TRANSLATORS[name]), protecting()
    translator.pace = translator.pace.model_copy(update={"first": "generator"})
    translator.first = "generator"
    found = step(translator, batch).losses["protected"]
    with torch.no_grad():
        fake = translator.generator_ab(batch.a)  # type: ignore[operator]
        if name == "cut":
            from translate.data import draws

            flipped = draws.uniform(batch.keys, "flip", batch.a.device) < 0.5
            assert flipped.any() and not flipped.all()
            turned = translator.generator_ab(batch.a.flip(3)).flip(3)  # type: ignore[operator]
            fake = torch.where(flipped[:, None, None, None], turned, fake)
    expected = []
    for made, real, weights in zip(fake, batch.a, batch.protected, strict=True):
        inside = weights[0] > 0
        expected.append(20 * (made - real).abs().mean(0)[inside].mean() if inside.any() else torch.tensor(0.0).double())
    torch.testing.assert_close(found, torch.stack(expected).mean())
    assert weighted_l1(batch.a, batch.a, batch.protected) == 0


def test_classes_of_label_maps_are_masks_too(tmp_path: Path) -> None:
    numbers = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(numbers).save(tmp_path / "7.png")
    config = ProtectConfig(folder=tmp_path, classes=[3, 11])
    np.testing.assert_array_equal(config.read(Path("images/town/7.jpg"))[..., 0] > 0, np.isin(numbers, [3, 11]))
    fewer = ProtectConfig(folder=tmp_path, classes=[3])
    assert not np.array_equal(config.read(Path("7.jpg")), fewer.read(Path("7.jpg")))


@pytest.mark.parametrize(("break_it", "said"), [
    (lambda masks: (masks / "1.png").unlink(), "holds no mask for 1 of 3 images"),
    (lambda masks: write(masks / "1.png", blob(1, 47)[..., None]), "is 60×47 pixels, and its image"),
    (lambda masks: write(masks / "1.png", np.repeat(blob(1)[..., None], 3, 2)), "is no mask: a mask has one channel"),
    (lambda masks: write(masks / "1.tif", blob(1)[..., None]), "has the name of 1."),
], ids=["missing", "size", "colours", "two"])
def test_a_wrong_mask_is_named_before_a_training(break_it: Any, said: str, tmp_path: Path) -> None:
    place = folder_of(tmp_path, "flat")
    break_it(place / "masks")
    data = UnpairedConfig(folder=place / "data", protect={"folder": place / "masks"})
    with pytest.raises(DataError) as caught:
        data.build("train", tmp_path)
    assert said in str(caught.value) and "1." in str(caught.value)
    assert any(finding.severity == "error" and said in f"{finding.path}: {finding.what}"
               for finding in check(data, tmp_path))


def test_what_cannot_stay_is_refused_in_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing of them can stay"):
        LabelsConfig(folder=tmp_path, classes=3, protect={"folder": tmp_path})
    with pytest.raises(RecipeError, match=r"data\.protect: pixels of A with 1 channels"):
        validate(Recipe, {"name": "x", "data": {"kind": "paired", "folder": str(tmp_path), "image_a": {"channels": 1},
                                                "protect": {"folder": str(tmp_path)}},
                          "translator": {"kind": "pix2pix"},
                          "stages": [{"resolution": 256, "images": 8, "batch_size": 1}]}, "x")
