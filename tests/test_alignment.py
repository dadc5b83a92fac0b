"""How images lie on each other, in pixels: known ones are found, and what cannot be known is not claimed."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from tests.commands import call
from tests.covering import each_value
from translate.evaluation.alignment import evaluate_alignment
from translate.metrics.alignment import OF_TWO_SENSORS, Alignment, align

HEIGHT, WIDTH = 200, 240
Change = Callable[[np.ndarray], np.ndarray]
COLOURS: dict[str, Change] = {
    "same": lambda image: image,
    "inverted": lambda image: 1 - image,
    "recoloured": lambda image: np.stack([image[..., 2] ** 2, 1 - image[..., 0], np.sqrt(image[..., 1])], 2),
    "dark grey": lambda image: 0.2 + 0.4 * (1 - image.mean(2)[..., None] ** 2),
    "noisy": lambda image: image + np.random.default_rng(1).normal(0, 0.03, image.shape),
}
# Down and right in px, scale, degrees clockwise
PLACES = {"nothing": (0, 0, 1, 0), "a tenth": (0.1, 0, 1, 0), "pixels": (-2.5, 3, 1, 0), "far": (20, 14, 1, 0),
          "zoom": (0, 0, 1.01, 0), "all": (2, 1, 1.03, 1), "turned": (-5, 5, 0.97, -3)}


def scene(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Shapes of all sizes and colours, smooth inside, (H, W, 3) in [0, 1]: as photographs have them."""
    chance, image = np.random.default_rng(seed), np.full((height, width, 3), 0.5, np.float32)
    for _ in range(120):
        centre, axes = chance.integers(0, (width, height)).tolist(), chance.integers(3, 40, 2).tolist()
        cv2.ellipse(image, centre, axes, chance.uniform(0, 180), 0, 360, chance.uniform(0, 1, 3).tolist(), -1)
    return cv2.GaussianBlur(image, (0, 0), 1.2)


def moved(image: np.ndarray, down: float, right: float, scale: float, degrees: float) -> np.ndarray:
    matrix = cv2.getRotationMatrix2D(((image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2), -degrees, scale)
    matrix[:, 2] += right, down
    return cv2.warpAffine(image, matrix, image.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.clip(image, 0, 1).astype(np.float32)).movedim(-1, 0) * 2 - 1


def distance(found: Alignment, down: float, right: float, scale: float, degrees: float) -> float:
    """The root mean square distance of where a pixel lies and where it is said to lie, px."""
    assert found.shift is not None and found.scale is not None and found.rotation is not None
    points = np.stack(np.meshgrid(np.arange(WIDTH) - (WIDTH - 1) / 2, np.arange(HEIGHT) - (HEIGHT - 1) / 2), -1)

    def of(shift: tuple[float, float], scale: float, degrees: float) -> np.ndarray:
        angle = np.deg2rad(degrees)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return scale * points @ turn.T + shift

    error = of(found.shift, found.scale, found.rotation) - of((right, down), scale, degrees)
    return float(np.sqrt((error**2).sum(-1).mean()))


@each_value(share=5, colours={name: name for name in COLOURS}, place={name: name for name in PLACES})
def test_a_known_place_is_found_to_an_eighth_of_a_pixel(colours: str, place: str) -> None:
    image = scene()
    found = align(tensor(image), tensor(COLOURS[colours](moved(image, *PLACES[place]))))
    assert found.confident, found.reason
    assert distance(found, *PLACES[place]) < 0.125


def shaded(image: np.ndarray) -> np.ndarray:
    """The same seen by another sensor: grey as heights, lit from the upper left. No colour tells of it."""
    heights = image.mean(2)
    return np.clip(0.5 - 2 * (np.gradient(heights, axis=0) + np.gradient(heights, axis=1)), 0, 1)[..., None]


@pytest.mark.parametrize("down_right", [(0, 0), (3, -4), (-12.5, 7)])
def test_of_two_sensors_the_shift_is_told_and_nothing_more(down_right: tuple[float, float]) -> None:
    """Shaded edges are lines with two sides, 1.6 px from where they are in the other: that far it may be wrong."""
    image, (down, right) = scene(4), down_right
    found = align(tensor(image), tensor(shaded(moved(image, down, right, 1, 0))))
    assert found.confident and found.accuracy == OF_TWO_SENSORS and found.shift is not None
    assert np.hypot(found.shift[0] - right, found.shift[1] - down) < 1.8
    assert (found.scale, found.rotation, found.warp) == (None, None, None)
    assert not align(tensor(scene(5)), tensor(shaded(image))).confident


@pytest.mark.parametrize("amplitude", [0, 0.5, 2, 3])
def test_a_smooth_warp_is_told_from_a_shift(amplitude: float) -> None:
    image = scene(1)
    down, right = np.indices((HEIGHT, WIDTH), dtype=np.float32)
    bent = cv2.remap(image, right + amplitude * np.sin(down / 24), down + amplitude * np.sin(right / 24),
                     cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    found = align(tensor(image), tensor(COLOURS["recoloured"](bent)))
    expected = np.median(amplitude * np.hypot(np.sin(down / 24), np.sin(right / 24)))
    assert found.confident and found.warp == pytest.approx(expected, rel=0.15, abs=0.05)
    assert found.displacement is not None and found.displacement < 0.05 + 0.5 * amplitude


def periodic(right: int) -> np.ndarray:
    down, across = np.indices((HEIGHT, WIDTH))
    return ((np.sin((across - right) / 3) * np.sin(down / 3) + 1) / 2)[..., None].astype(np.float32)


@pytest.mark.parametrize(("first", "second", "reason"), [
    (np.full((HEIGHT, WIDTH, 3), 0.5), scene(), "the first image shows hardly any edges"),
    (scene(), np.full((HEIGHT, WIDTH, 3), 0.5), "the second image shows hardly any edges"),
    (periodic(0), periodic(3), "repeats itself"),
    (scene(2), scene(3), ""),
    (np.random.default_rng(0).random((HEIGHT, WIDTH, 3)), np.random.default_rng(1).random((HEIGHT, WIDTH, 3)), ""),
    (scene()[:20, :20], scene()[:20, :20], "sides below 32 px")],
    ids=["flat", "to flat", "periodic", "unrelated", "noise", "tiny"])
def test_what_cannot_be_known_is_not_claimed(first: np.ndarray, second: np.ndarray, reason: str) -> None:
    found = align(tensor(first), tensor(second))
    assert not found.confident and reason in found.reason and found.reason


def folder(place: Path, change: Change, num: int = 3) -> Path:
    place.mkdir()
    for number in range(num):
        Image.fromarray((np.clip(change(scene(number)), 0, 1) * 255).round().astype(np.uint8)).save(
            place / f"{number}.png")
    return place


def test_a_tool_that_shifts_and_zooms_is_seen(tmp_path: Path, said: io.StringIO,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    """What edit models do: 3 px and 1 %. A recoloured image that lies in its place is off by nothing."""
    source = folder(tmp_path / "in", COLOURS["same"], 2)
    steady = folder(tmp_path / "steady", COLOURS["recoloured"], 2)
    shifted = folder(tmp_path / "shifted", lambda image: moved(COLOURS["recoloured"](image), 0, 3, 1.01, 0), 2)
    assert evaluate_alignment(steady, source).scores["displacement"].value < 0.05
    assert call(monkeypatch, "evaluate", shifted, "--source", source, "--json", tmp_path / "x.json") == 0
    document = json.loads((tmp_path / "x.json").read_text())
    assert document["metrics"]["displacement"]["value"] == pytest.approx(np.hypot(3, 0.9), abs=0.15)
    assert document["metrics"]["displacement"]["floor"]["value"] < 0.05
    printed = " ".join(said.getvalue().split())
    assert "2 of 2 images that can be measured" in printed
    assert re.search(r"off by \+(2\.9|3\.0)\d px to the right, .*\+(0\.9|1\.0)\d % larger", printed)


def test_sizes_and_missing_names_are_said(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", COLOURS["same"])
    half = folder(tmp_path / "half", lambda image: cv2.resize(image, None, fx=0.5, fy=0.5,
                                                              interpolation=cv2.INTER_AREA))
    results = evaluate_alignment(half, source, most=2)
    assert results.scores["displacement"].value < 0.1
    assert any("have another size" in line for line in results.notes)
    assert any("2 of 3 pairs were measured" in line for line in results.notes)
    assert not results.missing, "what was measured is not missing"
