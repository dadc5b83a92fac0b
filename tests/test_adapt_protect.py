"""`adapt make` keeps what must not change in labelled images, and an image of which one pixel did is in no set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.adaptation import scenes_recipe, write_scenes
from tests.runs import Silent
from translate.adapt import make
from translate.adapt.protection import violations
from translate.convert.protecting import Composing
from translate.data.protected import ProtectConfig
from translate.errors import DataError
from translate.foreign import read_lines
from translate.recipe import Recipe

DISC = 2  # the class of the source's label maps that must not change


def protecting(folder: Path, **changes: Any) -> Recipe:
    recipe = scenes_recipe(folder, stages=[{"resolution": 24, "images": 4, "batch_size": 4}],
                           adapt={"semantic": None, "reject": None})
    data = recipe.data.model_copy(update={"protect": ProtectConfig(folder=folder / "source/train/masks",
                                                                   classes=(DISC,))})
    return recipe.model_copy(update={"data": data})


@pytest.mark.slow
def test_protected_classes_stay_and_a_changed_pixel_is_counted_and_rejected(tmp_path: Path,
                                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_scenes(tmp_path / "data", 6)
    home = folder / "out"
    (made,) = make(protecting(folder), home, Silent(), device="cpu")
    assert (made.kept, made.rejected) == (6, 0)
    assert json.loads((home / "preservation.json").read_text())["protected"] == {"images": 0, "pixels": 0}
    for path in sorted((folder / "source/train/images").iterdir()):
        before, after, labels = (np.asarray(Image.open(each)) for each in (
            path, home / "set/train/images" / path.name, folder / "source/train/masks" / path.name))
        assert (before == after)[labels == DISC].all() and (before != after)[labels != DISC].any()

    # A converter that gets one pixel of one image wrong: the image is not in the set
    compose, victim = Composing.__call__, "003.png"

    def wrong(self: Composing, start: int, rows: np.ndarray) -> np.ndarray:
        made = compose(self, start, rows)
        if self.mask_path.name == victim:
            row, column = np.argwhere(self._kept(0, len(rows)) > 0)[0]
            made[row, column, 1] ^= 1
        return made

    monkeypatch.setattr(Composing, "__call__", wrong)
    report = Silent()
    (again,) = make(protecting(folder), folder / "again", report, models=[home / "translator"], device="cpu")
    assert (again.kept, again.rejected) == (5, 1)
    assert json.loads((folder / "again/preservation.json").read_text())["protected"] == {"images": 1, "pixels": 1}
    assert any("1 protected pixels of 1 images have changed" in line and victim in line for line in report.lines)
    rows = {Path(row["from"]).name: row["status"] for row in read_lines(folder / "again/set/manifest.jsonl")}
    assert rows[victim] == "rejected" and not (folder / "again/set/train/images" / victim).exists()


def test_violations_are_counted_pixel_by_pixel(tmp_path: Path) -> None:
    pixels, mask = np.zeros((6, 8, 3), np.uint8), np.zeros((6, 8), np.uint8)
    mask[1:4, 2:5] = 255
    changed = pixels.copy()
    changed[1, 2, 0], changed[3, 4], changed[0, 0] = 1, 9, 200
    for name, each in (("masks/x", mask), ("in/x", pixels), ("out/x", changed), ("small/x", pixels[:5])):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(each).save(tmp_path / f"{name}.png")
    protect = ProtectConfig(folder=tmp_path / "masks")
    assert violations(protect, tmp_path / "in/x.png", tmp_path / "out/x.png") == 2, "the third may change"
    assert violations(protect, tmp_path / "in/x.png", tmp_path / "in/x.png") == 0
    assert violations(protect, tmp_path / "in/x.png", tmp_path / "small/x.png") == 9


def test_masks_are_looked_at_before_anything_is_trained(tmp_path: Path) -> None:
    folder = write_scenes(tmp_path / "data", 4)
    (folder / "masks").mkdir()
    recipe = protecting(folder)
    data = recipe.data.model_copy(update={"protect": ProtectConfig(folder=folder / "masks")})
    with pytest.raises(DataError, match="holds no mask for 4 of 4 images"):
        make(recipe.model_copy(update={"data": data}), folder / "out", Silent(), device="cpu")
    assert not (folder / "out").exists()
