"""Scores are said so that a person can read them: a number alone does not tell a failure from a success."""

from __future__ import annotations

import pytest

from translate.evaluation.in_words import ENOUGH_FOR_SHARES, scores_in_words, shown_metrics, too_few_in_words, verdict
from translate.metrics.intervals import Estimate


@pytest.mark.parametrize(("metric", "value", "untouched", "floor", "said"), [
    ("kernel_distance", 0.30, 0.28, 0.02, "no better than the untouched input (0.28)"),
    ("kernel_distance", 0.15, 0.28, 0.02, "50% of the way from the untouched input (0.28) to real images (0.02)"),
    ("kernel_distance", 0.01, 0.28, 0.02, "better than the untouched input (0.28), and as near as real images are"),
    ("kernel_distance", 0.15, 0.28, None, "better than the untouched input (0.28)"),
    ("kernel_distance", 0.01, 0.02, 0.03, "better than the untouched input (0.02)"),  # as real as real ones
    ("ssim", 0.4, 0.5, None, "no better than the untouched input (0.5)"),
    ("ssim", 0.75, 0.5, None, "50% of the way from the untouched input (0.5) to the truth (1)"),
    ("l1", 0.1, 0.4, None, "75% of the way from the untouched input (0.4) to the truth (0)"),
    ("psnr", 20.0, 15.0, None, "better than the untouched input (15)"),
    ("psnr", 15.0, 20.0, None, "no better than the untouched input (20)"),
])
def test_a_score_is_told_by_what_the_untouched_input_and_real_images_score(
        metric: str, value: float, untouched: float, floor: float | None, said: str) -> None:
    """`kernel_distance 0.3042; the best so far` was said of a dark green failure."""
    real = {} if floor is None else {metric: Estimate(floor)}
    found = verdict(metric, {metric: Estimate(value)}, {metric: Estimate(untouched)}, real)
    assert found.startswith(said) and (found == said or "real images are" in said)


def test_nothing_is_said_where_there_is_nothing_to_compare_with() -> None:
    assert verdict("ssim", {"ssim": Estimate(0.5)}, {}, {}) == verdict("ssim", {}, {"ssim": Estimate(0.5)}, {}) == ""


def test_few_images_are_called_rough_and_have_no_shares() -> None:
    """Precision 0 [0, 0] of five images says nothing of the network."""
    scores = {"kernel_distance": Estimate(0.3, 0.2, 0.4), "ssim": Estimate(0.5), "precision": Estimate(0.0, 0.0, 0.0)}
    assert scores_in_words(scores, 5) == "kernel_distance ↓ 0.3 [0.2, 0.4], ssim ↑ 0.5 (5 images: rough)"
    assert scores_in_words(scores, ENOUGH_FOR_SHARES).endswith("ssim ↑ 0.5, precision ↑ 0 [0, 0]")
    results = {"num_images": 4, "num_reals": 60, "metrics": dict.fromkeys(scores)}
    assert shown_metrics(results) == ["kernel_distance", "ssim"] and too_few_in_words(results).startswith("4 images: ")
    assert too_few_in_words(results | {"num_images": 10}) == ""
