"""The time that a training says is left, where its stages differ in size and evaluations take long."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import cyclegan_recipe
from translate.evaluation.schedule import Schedule
from translate.training import time_left
from translate.training.hours import Loading, Pace
from translate.training.time_left import TimeLeft

TRUE_SECONDS = (0.5, 8.0)  # that a step of each stage takes
PREDICTED = (0.125, 2.5)  # four times too fast, and three


def told(folder: Path, monkeypatch: pytest.MonkeyPatch, scoring_seconds: float = 0.0) -> list[tuple[float, float, int]]:
    """Train two stages of 100 steps each; return the seconds left as told, those that were, and the image's number."""
    recipe = cyclegan_recipe(folder, stages=[{"resolution": 16, "images": 100, "batch_size": 1},
                                             {"resolution": 64, "images": 100, "batch_size": 1}],
                             data={"kind": "unpaired", "folder": str(folder)}, every={"evaluate": 40})
    schedule = Schedule.of(recipe, [(64, 64)], num_sources=5, num_once=10) if scoring_seconds else None
    now = [50.0]
    monkeypatch.setattr(time_left.time, "monotonic", lambda: now[0])
    left, said, images = TimeLeft(recipe, schedule), list[tuple[float, float | None, int]](), 0
    for number in range(2):
        left.begin_stage(number, [Pace(seconds, Loading()) for seconds in PREDICTED[number:]])
        for done in range(1, 101):
            images += 1
            now[0] += TRUE_SECONDS[number]
            if schedule is not None and images % 40 == 0:
                now[0] += scoring_seconds
                left.scored(scoring_seconds)
            left.advanced(done)
            said.append((now[0], left.seconds(images, done), images))
    return [(seconds, now[0] - when, number) for when, seconds, number in said if seconds is not None]


def test_it_is_right_from_the_second_step_on_where_a_later_stage_takes_most_of_the_time(
        shared_pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the mean speed it was an eighth of the truth until the last stage."""
    found = told(shared_pairs, monkeypatch)
    assert len(found) == 199 and found[0][2] == 2, "after one step nothing is known"
    assert all(1 / 1.5 <= seconds / true <= 1.5 for seconds, true, _ in found[:-1])
    assert [seconds for seconds, _, images in found if images >= 150] == pytest.approx(
        [true for _, true, images in found if images >= 150], rel=0.05, abs=1.0)


def test_evaluations_to_come_are_counted_as_the_last_one_took(shared_pairs: Path, monkeypatch: pytest.MonkeyPatch
                                                              ) -> None:
    """Each takes as long as ten steps of the last stage."""
    found = told(shared_pairs, monkeypatch, scoring_seconds=80.0)
    assert all(1 / 1.5 <= seconds / true <= 1.5 for seconds, true, images in found if 40 <= images < 200)


def test_evaluations_are_planned_by_stage(shared_pairs: Path) -> None:
    """At each multiple of the cadence and at the end; the first of a size looks at the real images, too."""
    recipe = cyclegan_recipe(shared_pairs, stages=[{"resolution": 16, "resize": 16, "images": 100},
                                                   {"resolution": 32, "resize": 32, "images": 90}],
                             every={"evaluate": 40})
    schedule = Schedule.of(recipe, [(32, 32)], num_sources=2, num_once=3)
    area = 16 * 16 + 32 * 32  # in the stage's size and in their own
    assert schedule.pixels == (2 * area, 2 * 1024) and schedule.once == (3 * area, 3 * 1024)
    later = (1, 3 * 2048 + 3 * 1024)  # at 120, 160 and 190 images
    assert list(schedule.ahead(recipe, 0)) == [(0, 4 * area + 3 * area), later]  # at 40 and 80
    assert list(schedule.ahead(recipe, 40)) == [(0, 2 * area), later]
    assert list(schedule.ahead(recipe, 120)) == [(1, 2 * 2048)]
    assert list(schedule.ahead(recipe, 190)) == []
