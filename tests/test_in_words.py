"""Scores are said so that a person can read them: a number alone does not tell a failure from a success."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import translate.translators
from translate.evaluation.in_words import (
    ENOUGH_FOR_SHARES,
    below_zero,
    scores_in_words,
    shown_metrics,
    too_few_in_words,
    verdict,
)
from translate.losses.in_words import LOSSES, losses_in_words, without_side
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
    assert scores_in_words(scores, 5) == "kernel distance ↓ 0.3 [0.2, 0.4], SSIM ↑ 0.5 (5 images: rough)"
    assert scores_in_words(scores, ENOUGH_FOR_SHARES).endswith("SSIM ↑ 0.5, precision ↑ 0 [0, 0]")
    results = {"num_images": 4, "num_reals": 60, "metrics": dict.fromkeys(scores)}
    assert shown_metrics(results) == ["kernel_distance", "ssim"] and too_few_in_words(results).startswith("4 images: ")
    assert too_few_in_words(results | {"num_images": 10}) == ""


def test_a_distance_below_zero_is_explained_wherever_it_stands() -> None:
    """`3.12 [-0.01291, 12.51]` was shown of a distance, without a word."""
    def document(name: str = "kernel_distance", value: float = 0.1, low: float = 0.05, floor: float = 0.1) -> dict:
        score = {"value": value, "interval": [low, 0.2]}
        return {"metrics": {name: {**score, "floor": {"value": floor, "interval": None}, "own_size": None,
                                   "baselines": {"identity": {"value": None, "interval": None}}}}}

    assert not below_zero(document()) and not below_zero(document("psnr", low=-1.0))
    assert below_zero(document(low=-0.01)) and below_zero(document(value=-0.01)) and below_zero(document(floor=-0.01))


def test_every_loss_that_a_translator_records_is_said_in_words() -> None:
    source = "".join(path.read_text() for path in Path(translate.translators.__file__).parent.glob("*.py"))
    recorded = set(re.findall(r'update\.backward\(f?"([a-z0-9_]+)', source))
    names = {without_side(name).rstrip("_") for name in recorded} | {"discriminator"}
    assert len(names) >= 14 and names == set(LOSSES)
    assert losses_in_words(["cycle_ab", "cycle_ba", "l1"]) == [f"cycle: {LOSSES['cycle']}", f"l1: {LOSSES['l1']}"]
    assert losses_in_words(["entropy_h"]) == [f"entropy: {LOSSES['entropy']}", "…_h: of features, …_b: of images"]
