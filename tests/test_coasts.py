"""Label maps drawn from coastlines, and the crops of two maps that they belong to."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from translate.cards.coasts import ICE, LAND, SEA, UNKNOWN, CoastsConfig, drawn, polygons
from translate.cards.world import land
from translate.errors import DataError
from translate.images.reading import ImageConfig, read_image

HEIGHT, WIDTH = 90, 180  # px: two degrees each
NAMES = ("trainA", "trainB", "testA", "testB")


def star(longitude: float, latitude: float, radius: float, seed: int) -> np.ndarray:
    """A jagged outline around a place, (N, 2) in degrees."""
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    reach = radius * np.random.default_rng(seed).uniform(0.6, 1.0, angles.shape)
    return np.stack([longitude + reach * np.cos(angles), latitude + reach * np.sin(angles)], 1).astype("<f4")


def inside(points: np.ndarray, longitude: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    """Which places lie in a polygon, by the number of its edges to the east of them."""
    (x, y), (to_x, to_y) = points.astype(np.float64).T, np.roll(points, -1, 0).astype(np.float64).T
    crosses = (y > latitude[..., None]) != (to_y > latitude[..., None])
    where = x + (latitude[..., None] - y) * (to_x - x) / np.where(to_y == y, 1, to_y - y)
    return np.asarray((crosses & (where > longitude[..., None])).sum(-1) % 2 == 1)


def test_a_pixel_is_of_the_class_in_which_its_middle_lies() -> None:
    """Also across 180° of longitude; a lake is no class, whichever polygon comes first."""
    latitude, longitude = np.meshgrid(89 - 2.0 * np.arange(HEIGHT), -179 + 2.0 * np.arange(WIDTH), indexing="ij")
    island, lake, across, ice = star(20, 30, 40, 0), star(18, 32, 12, 1), star(178, -10, 25, 2), star(-90, -60, 25, 3)
    found = drawn(iter([(2, lake), (1, island), (1, across), (3, star(18, 32, 4, 4)), (5, ice)]), HEIGHT, WIDTH)

    expected = np.full((HEIGHT, WIDTH), SEA)
    for shape, number in ((island, LAND), (across, LAND), (ice, ICE), (lake, UNKNOWN)):
        for turn in (0, 360):
            expected[inside(shape, longitude + turn, latitude)] = number
    wrong = found != expected
    assert {SEA, LAND, ICE, UNKNOWN} == set(np.unique(found).tolist()) and (found[:, 0] == LAND).any()
    assert wrong.mean() < 0.004, "a sixth of a pixel is drawn too much at borders; half of one off would be 0.01"


def test_source_and_target_share_no_place_and_labels_lie_under_their_images(tmp_path: Path) -> None:
    config = CoastsConfig(input="a", target="b", coasts="c", coasts_about="d", side=15, band=(0, 60))
    place = np.arange(HEIGHT * WIDTH)
    a = np.stack([place % 256, place // 256, place * 0], -1).reshape(HEIGHT, WIDTH, 3).astype(np.uint8)
    b, labels = np.full_like(a, 255) - a, (place % 3).reshape(HEIGHT, WIDTH).astype(np.uint8)
    counts = config.cut(a, b, labels, tmp_path)

    places = {}
    for name in NAMES:
        paths = sorted((tmp_path / name).iterdir())
        assert len(paths) == counts[name] > 0
        numbers = []
        for path in paths:
            image = read_image(path, ImageConfig(channels=3)).astype(int)
            image = 255 - image if name.endswith("B") else image
            numbers.append(image[..., 0] + 256 * image[..., 1])
            stored = read_image(tmp_path / "labels" / name / path.name, ImageConfig(channels=1))[..., 0]
            np.testing.assert_array_equal(stored, numbers[-1] % 3)
        places[name] = set(np.concatenate(numbers, None).tolist())
    assert not places["trainA"] & places["trainB"] and places["testA"] == places["testB"]
    assert not (places["trainA"] | places["trainB"]) & places["testA"]
    assert sum(counts["pixels"]["trainA"].values()) == counts["trainA"] * 225


@pytest.mark.parametrize(("side", "band", "refused"), [
    (46, (0, 100), None), (45, (0, 180), None), (46, (0, 180), "train has 90×90 px .* at least 92×46"),
    (46, (0, 90), "test has 45×90 px .* at least 46×46"), (91, (0, 180), "train has 90×90 px .* at least 182×91")])
def test_a_part_of_the_world_holds_a_crop_of_each_domain_or_is_refused(side: int, band: tuple[float, float],
                                                                       refused: str | None, tmp_path: Path) -> None:
    """A and B share the columns of train, and are cut of the same places of test."""
    config = CoastsConfig(input="a", target="b", coasts="c", coasts_about="d", side=side, band=band)
    shown, labels = np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.zeros((HEIGHT, WIDTH), np.uint8)
    with nullcontext() if refused is None else pytest.raises(DataError, match=refused):
        assert min(config.cut(shown, shown, labels, tmp_path)[name] for name in NAMES) > 0


def test_crops_with_less_land_than_the_card_asks_for_are_left_out(tmp_path: Path) -> None:
    """By the colours of B, which alone tell water: of A the crops of the same places."""
    config = CoastsConfig(input="a", target="b", coasts="c", coasts_about="d", side=15, band=(0, 60), min_land=0.4)
    water = np.random.default_rng(0).random((HEIGHT // 15, WIDTH // 15)).repeat(15, 0).repeat(15, 1)
    rows = np.arange(HEIGHT)[:, None] % 15 / 15
    b = np.where((rows < water)[..., None], (0, 0, 200), (100, 100, 100)).astype(np.uint8)
    counts = config.cut(255 - b, b, np.zeros((HEIGHT, WIDTH), np.uint8), tmp_path)
    images = {name: [read_image(path, ImageConfig(channels=3)) for path in (tmp_path / name).iterdir()]
              for name in NAMES}
    least = [min(land(image if name.endswith("B") else 255 - image) for image in images[name]) for name in NAMES]
    assert min(least) >= 0.4 and {name: len(each) for name, each in images.items()} == {
        name: counts[name] for name in NAMES}
    all_of_them = config.model_copy(update={"min_land": 0.0}).cut(
        255 - b, b, np.zeros((HEIGHT, WIDTH), np.uint8), tmp_path / "all")
    assert all(counts[name] < all_of_them[name] for name in NAMES)


def test_folders_that_would_hold_no_crop_are_named(tmp_path: Path) -> None:
    """Where B shows water everywhere but in the column that becomes train's first, which is A's."""
    config = CoastsConfig(input="a", target="b", coasts="c", coasts_about="d", side=30, band=(0, 60), min_land=0.5)
    b = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    b[..., 2] = 200
    b[:, 120:150] = 100  # the band ends at 120
    with pytest.raises(DataError, match=r"^trainB, testA, testB: no crop is at least 50% land") as error:
        config.cut(b, b, np.zeros((HEIGHT, WIDTH), np.uint8), tmp_path)
    assert error.value.advice == "make min_land smaller"


@pytest.mark.parametrize("line", ["1 2.0 9 0 0 0 72 x", "1 2.0 3 0 0 0 24", "1 2.0 3 0 0 -8 24 x", "? 2.0 3 0 0 0 24 x",
                                  "1 2.0 0 0 0 0 0 x", "1 2.0 2 0 0 0 16 x"])
def test_a_line_that_names_no_points_is_an_error_that_names_it(line: str, tmp_path: Path) -> None:
    (tmp_path / "points").write_bytes(star(0, 0, 5, 0)[:3].tobytes())
    (tmp_path / "about").write_text(f"1 2.0 3 0 0 0 24 good\n{line}\n")
    with pytest.raises(DataError, match="line 2 says nothing"):
        list(polygons(tmp_path / "about", tmp_path / "points"))
