"""The time that a training says is left, where its stages differ in size and evaluations take long."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import cyclegan_recipe
from translate.evaluation.prices import Prices
from translate.evaluation.schedule import PIXEL_SCORED, Schedule
from translate.training import time_left
from translate.training.hours import Loading, Pace
from translate.training.time_left import TimeLeft

TRUE_SECONDS = (0.5, 8.0)  # that a step of each stage takes
PREDICTED = (0.125, 2.5)  # four times too fast, and three


def told(folder: Path, monkeypatch: pytest.MonkeyPatch, scoring_seconds: float = 0.0) -> list[tuple[float, float, int]]:
    """Train two stages of 100 steps each; return the seconds left as told, those that were, and the image's number."""
    recipe = cyclegan_recipe(folder, stages=[{"resolution": 16, "images": 100, "batch_size": 1},
                                             {"resolution": 64, "images": 100, "batch_size": 1}],
                             data={"kind": "unpaired", "folder": str(folder), "resize": 64}, every={"evaluate": 40})
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
                left.scoring_began(number)
                now[0] += scoring_seconds
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


def test_before_the_first_evaluation_it_takes_what_was_measured_of_an_image(two_stages: tuple[TimeLeft, list[float]]
                                                                            ) -> None:
    """0:02:34 were left of 81 s, as scoring was taken for a share of what steps take."""
    left, now = two_stages
    left.expect(lambda: Prices(translated=0.001, compared=0.002, patch=3.0))
    left.begin_stage(0, ONE_SECOND)
    steps(left, now, 1, 2)
    an_image, translating = 64**2 * 0.002 + 3.0, 64**2 * 0.001
    assert left.seconds(2, 2) == pytest.approx(2 * 3998 + (40 * 5 + 15) * an_image + 40 * 5 * translating)
    steps(left, now, 3, 99)
    now[0] += 2.0
    left.scoring_began(0)
    now[0] += 2 * (20 * an_image + 5 * translating)
    left.advanced(100)
    left.expect(lambda: pytest.fail("one evaluation has been measured"))
    assert left.seconds(100, 100) == pytest.approx(2 * 3900 + 2 * 39 * 5 * (an_image + translating))


def test_features_of_a_large_image_take_no_longer_than_of_nine_patches() -> None:
    prices = Prices(translated=0.0, compared=0.0, patch=2.0)
    assert [prices.seconds([side**2], 1, 0) for side in (32, 128, 256, 384, 4096)] == [2.0, 2.0, 8.0, 18.0, 18.0]


def test_where_nothing_of_scoring_is_known_its_pixels_are_a_tenth_of_those_of_steps(shared_pairs: Path,
                                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    """They are after 40, 80, 120, 160 and 200 images, of 5 images of 64 px, and the first of each stage of 10 more."""
    (with_scores,), (without,) = ([seconds for seconds, _, images in told(shared_pairs, monkeypatch, scoring)
                                   if images == 10] for scoring in (80.0, 0.0))
    a_pixel = [0.1 * 4 * predicted / side**2 for predicted, side in zip(PREDICTED, (16, 64), strict=True)]
    looked_at = [(2 * 5 + 10) * 64**2, (3 * 5 + 10) * 64**2]
    assert with_scores - without == pytest.approx(sum(each * pixels for each, pixels in zip(a_pixel, looked_at,
                                                                                           strict=True)))


def test_evaluations_are_planned_by_stage(shared_pairs: Path) -> None:
    """At each multiple of the cadence and at the end; the first of a size looks at the real images, too."""
    recipe = cyclegan_recipe(shared_pairs, stages=[{"resolution": 16, "resize": 16, "images": 100},
                                                   {"resolution": 32, "resize": 32, "images": 90}],
                             every={"evaluate": 40})
    schedule = Schedule.of(recipe, [(32, 32)], num_sources=2, num_once=3)
    assert schedule.in_words(schedule.cadence) == "at the end", "a cadence that a run never comes to is not named"
    assert schedule.in_words(schedule.cadence + 1) == f"at the end and every {schedule.cadence:,} images"
    assert schedule.areas == ((16 * 16, 32 * 32), (32 * 32,)), "in the stage's size and in their own"
    assert schedule.alike == (0, 1)
    later = (1, 3 * 2, 3)  # at 120, 160 and 190 images
    assert list(schedule.ahead(recipe, 0)) == [(0, 2 * 2, 3), later]  # at 40 and 80
    assert list(schedule.ahead(recipe, 40, {0})) == [(0, 2, 0), later]
    assert list(schedule.ahead(recipe, 40)) == [(0, 2, 3), later], "by a process that was resumed"
    assert list(schedule.ahead(recipe, 120, {0, 1})) == [(1, 2 * 2, 0)]
    assert list(schedule.ahead(recipe, 190)) == []


def test_stages_at_one_size_look_once_at_the_real_images(shared_pairs: Path) -> None:
    recipe = cyclegan_recipe(shared_pairs, stages=[{"resolution": 16, "resize": 16, "images": 100}] * 2,
                             every={"evaluate": 100})
    schedule = Schedule.of(recipe, [(16, 16)], num_sources=2, num_once=3)
    assert schedule.alike == (0, 0)
    assert list(schedule.ahead(recipe, 0)) == [(0, 2, 3), (1, 2, 0)]
    assert list(schedule.ahead(recipe, 100)) == [(1, 2, 3)], "by a process that was resumed"


def test_a_step_over_several_multiples_of_the_cadence_is_scored_once(shared_pairs: Path) -> None:
    """Batches of 100 with `every.evaluate` of 10: evaluations were counted ten times."""
    recipe = cyclegan_recipe(shared_pairs, stages=[{"resolution": 16, "resize": 16, "images": 300, "batch_size": 100},
                                                   {"resolution": 16, "resize": 16, "images": 50, "batch_size": 1}],
                             every={"evaluate": 10})
    schedule = Schedule.of(recipe, [(16, 16)], num_sources=1, num_once=0)
    assert list(schedule.ahead(recipe, 0)) == [(0, 3, 0), (1, 5, 0)]  # at 100, 200, 300; at 310 … 350
    assert list(schedule.ahead(recipe, 200)) == [(0, 1, 0), (1, 5, 0)]
    assert schedule.share == pytest.approx(PIXEL_SCORED * 8 / 350)


@pytest.fixture
def two_stages(shared_pairs: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[TimeLeft, list[float]]:
    """Two stages of 2000 steps of a second, scored at 64×64 px every 100, of which nothing has been done; and a clock.
    """
    recipe = cyclegan_recipe(shared_pairs, stages=[{"resolution": 64, "images": 2000, "batch_size": 1}] * 2,
                             data={"kind": "unpaired", "folder": str(shared_pairs), "resize": 64},
                             every={"evaluate": 100})
    now = [50.0]
    monkeypatch.setattr(time_left.time, "monotonic", lambda: now[0])
    return TimeLeft(recipe, Schedule.of(recipe, [(64, 64)], num_sources=5, num_once=15)), now


ONE_SECOND = [Pace(1.0, Loading())] * 2


def steps(left: TimeLeft, now: list[float], first: int, last: int) -> None:
    """Do steps of two seconds, which are twice as long as predicted."""
    for done in range(first, last + 1):
        now[0] += 2.0
        left.advanced(done)


def test_nothing_of_a_rollback_into_an_earlier_stage_counts_as_steps(two_stages: tuple[TimeLeft, list[float]]) -> None:
    """The images of two stages were subtracted from each other, and 15 minutes were left in place of an hour."""
    left, now = two_stages
    left.schedule = None
    left.begin_stage(0, ONE_SECOND)
    steps(left, now, 1, 2000)
    left.begin_stage(1, ONE_SECOND[1:])
    steps(left, now, 1, 100)
    left.went_back()
    now[0] += 5.0
    left.advanced(1990)
    assert left.seconds(1990, 1990) is None, "until the stage begins"
    left.begin_stage(0, ONE_SECOND)
    steps(left, now, 1991, 2000)
    left.begin_stage(1, ONE_SECOND[1:])
    steps(left, now, 1, 1)
    assert left.seconds(2001, 1) == pytest.approx(2 * 1999)


def test_an_evaluation_before_the_first_stage_of_a_resumed_run_counts(two_stages: tuple[TimeLeft, list[float]]) -> None:
    """It was forgotten, and the next one taken for the first, which looks at real images, too."""
    left, now = two_stages
    left.scoring_began(0)
    now[0] += 40.0  # 5 + 15 images: two seconds each
    left.scoring_ended()
    left.begin_stage(0, ONE_SECOND)
    now[0] += 30.0  # the start of the stage is nothing of it
    steps(left, now, 1901, 1902)
    evaluations = 10.0 * 21  # at 2000, 2100, … 4000
    assert left.seconds(1902, 1902) == pytest.approx(2 * 2098 + evaluations)
    now[0] += 2.0
    left.scoring_began(0)
    now[0] += 10.0
    left.advanced(1903)
    assert left.seconds(1903, 1903) == pytest.approx(2 * 2097 + evaluations)


def test_a_failed_evaluation_is_no_price_of_later_ones_and_no_step(two_stages: tuple[TimeLeft, list[float]]) -> None:
    left, now = two_stages
    left.begin_stage(0, ONE_SECOND)
    steps(left, now, 1, 50)
    before = left.seconds(50, 50)
    left.scoring_began(0)
    now[0] += 500.0
    left.scoring_ended(failed=True)
    steps(left, now, 51, 51)
    assert before is not None and left.seconds(51, 51) == pytest.approx(before - 2.0)
