"""Cards of images that are drawn from noise: digits as they are, three as one image, and crops of the world."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.test_digits import mnist_package
from translate.cards.cards import Card, find_card, prepare
from translate.cards.crops import CropsConfig
from translate.errors import DataError
from translate.files import sha256


def card_of(name: str, npm: Path, **make: int) -> Card:
    """The shipped card, of a package that lies here."""
    document = find_card(name).model_dump(mode="json")
    document["source"]["sha256"] = sha256(npm)
    document["make"] |= make
    return Card.model_validate(document)


def test_digits_lie_as_they_are_and_the_last_of_each_are_held_out(tmp_path: Path) -> None:
    npm = mnist_package(tmp_path / "mnist-1.1.0.tgz", 5)
    made = prepare(card_of("mnist", npm, test=2), tmp_path / "data", file=npm)
    assert len(list(made.glob("train/*/*.png"))) == 30 and len(list(made.glob("test/*/*.png"))) == 20
    image = np.asarray(Image.open(made / "test/7/00004.png"))
    expected = np.zeros((28, 28), np.uint8)
    expected[8:18, 6:17] = 255
    np.testing.assert_array_equal(image, expected)
    with pytest.raises(DataError, match="holds 5 of digit 0, and the last 5 are test images"):
        prepare(card_of("mnist", npm, test=5), tmp_path / "other", file=npm)


def test_stacked_digits_are_the_three_of_their_names_and_test_digits_are_in_no_training_image(tmp_path: Path) -> None:
    npm = mnist_package(tmp_path / "mnist-1.1.0.tgz", 5)
    made = prepare(card_of("stacked_digits", npm, test=2, train_images=40, test_images=20), tmp_path / "data", file=npm)
    assert len(list(made.glob("train/*.png"))) == 40 and len(list(made.glob("test/*.png"))) == 20
    digits = set()
    for path in made.glob("*/*.png"):
        image = np.asarray(Image.open(path))
        for plane, digit in enumerate(map(int, path.stem[-3:])):
            rows, columns = np.nonzero(image[..., plane])
            number = rows.min() - 4  # as the package places them
            assert len(set(columns)) == digit + 4 and (number >= 3) == (path.parent.name == "test")
            digits.add(digit)
    assert len(digits) == 10


def test_crops_of_the_world_hold_the_band_out_and_leave_the_sea_out(tmp_path: Path) -> None:
    """Every pixel says where it is; those of the band are in test crops alone."""
    rows, columns = np.mgrid[:90, :180]
    world = np.stack([rows + 100, columns + 60, np.zeros_like(rows)], axis=-1).astype(np.uint8)
    world[:, :20, :2] = 0  # the sea: blue stands out
    world[:, :20, 2] = 200
    config = CropsConfig(raster="x", side=16, step=8, band=(0, 60), latitudes=(-80, 80), min_land=0.9)
    counts = config.cut(world, tmp_path)
    assert counts["train"] and counts["train_left_out"] and counts["test"] and not counts["test_left_out"]
    for split in ("train", "test"):
        paths = sorted((tmp_path / split).glob("*.png"))
        assert len(paths) == counts[split]
        for path in paths:
            crop = np.asarray(Image.open(path)).astype(int)
            inside = (crop[..., 1] >= 60 + 90) & (crop[..., 1] < 60 + 120)
            land = crop[..., 2] == 0
            assert crop.shape == (16, 16, 3) and land.mean() >= 0.9
            assert (inside[land] == (split == "test")).all()
    for side, split, wider in ((64, "test", "the band or"), (100, "train", "the band narrower or")):
        with pytest.raises(DataError, match=f"^{split} has .* and a crop is {side}") as error:
            config.model_copy(update={"side": side}).cut(world, tmp_path / "large")
        assert error.value.advice == f"make side smaller, or {wider} the latitudes wider"
