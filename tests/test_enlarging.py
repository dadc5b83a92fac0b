"""Images of extreme proportions: what loading makes of one is bounded, wherever images are enlarged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from translate.data import PairedConfig, UnpairedConfig
from translate.data.check import check
from translate.data.transforms import loaded
from translate.errors import DataError, ImageError
from translate.images.writing import write_image
from translate.metrics.features import patches


def line(path: Path, height: int = 1, width: int = 60_000) -> Path:
    write_image(path, np.zeros((height, width, 3), np.uint8))
    return path


@pytest.mark.parametrize(("height", "width", "resize", "crop", "becomes"), [
    (1, 60_000, 286, (1, 1), "17160000×286"), (60_000, 1, 286, (1, 1), "286×17160000"),
    (1, 60_000, None, (256, 256), "15360000×256"), (2, 9_000, 300, (512, 2), "2304000×512")])
def test_no_resize_and_no_crop_makes_an_image_larger_than_any_that_is_read(height: int, width: int, resize: int | None,
                                                                           crop: tuple[int, int], becomes: str) -> None:
    """A PNG of 60,000×1 pixels and 254 bytes asked for 14.7 GB at `resize: 286`, in every loader at once."""
    image = np.zeros((height, width, 3), np.uint8)
    with pytest.raises(ImageError, match=rf"is {width}×{height}, and would be enlarged to {becomes}, above the limit"):
        loaded(image, Path("x.png"), resize, crop)


def test_usual_images_are_enlarged_as_before() -> None:
    assert loaded(np.zeros((50, 400, 3), np.uint8), Path("x"), 100, (128, 128)).shape == (128, 1024, 3)
    assert loaded(np.zeros((1, 3000, 1), np.uint8), Path("x"), 4).shape == (4, 12_000, 1)
    assert loaded(np.zeros((9, 9, 3), np.uint8), Path("x"), None).shape == (9, 9, 3)


def test_training_scoring_and_the_check_name_the_file(tmp_path: Path) -> None:
    """`check` spoke of a mere enlargement."""
    for folder in ("trainA", "trainB", "testA", "testB"):
        (tmp_path / folder).mkdir()
        line(tmp_path / folder / "x.png")
    config = PairedConfig(folder=tmp_path, resize=286)
    samples = config.build("train", Path())
    with pytest.raises(ImageError, match=r"trainA/x\.png: read: is 60000×1, and would be enlarged"):
        samples.fitted(0, 0, 286, (256, 256))
    with pytest.raises(ImageError, match="would be enlarged"):
        config.build("test", Path()).whole(0, 286)
    unpaired = UnpairedConfig(folder=tmp_path, resize=None)
    for found in (check(config), check(unpaired, crop=(256, 256))):
        wrong = [finding for finding in found if "would be enlarged" in finding.what]
        assert len(wrong) == 4 and {finding.severity for finding in wrong} == {"error"}
        assert not any("so it is enlarged" in finding.what for finding in found)


def test_features_of_an_image_are_bounded_too() -> None:
    with pytest.raises(DataError, match="60000×1 px would be enlarged to 7680000×128 for its features"):
        patches(torch.zeros(3, 1, 60_000))
