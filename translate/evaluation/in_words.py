"""Scores of held-out images as a person reads them: which way is better, how rough they are, what they amount to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from translate.metrics.intervals import Estimate
from translate.metrics.observations import MEASURES
from translate.sizes import plural

ENOUGH_FOR_SHARES = 50  # images; precision and recall of fewer are mostly 0 or 1, whatever they show
NEED_MANY = ("precision", "recall")
UNBIASED = ("kernel_distance", "kid")
ENOUGH_FOR_ANY = 10  # images; scores of fewer are those of these images, and of no network
NO_BETTER = 0.02  # of the way from the untouched input to real images
BELOW_ZERO = "a distance below 0 is about 0: the estimate is unbiased, and may fall on either side of the truth"
# What a score is at best, where that is known without looking; of the others real images tell (their floor)
PERFECT = {"ssim": 1.0, "ms_ssim": 1.0, "l1": 0.0, "gradient_error": 0.0}


def scores_in_words(scores: Mapping[str, Estimate], num_images: int) -> str:
    """Say scores of so many images in one line, with arrows that tell which way is better, and their intervals."""
    few = num_images < ENOUGH_FOR_SHARES
    said = ", ".join(f"{MEASURES[name].name} {'↑' if MEASURES[name].better == 'higher' else '↓'} {score}"
                     for name, score in scores.items() if not (few and name in NEED_MANY))
    return f"{said} ({plural(num_images, 'image')}: rough)" if few else said


def shown_metrics(document: Mapping[str, Any]) -> list[str]:
    """Return the names of those scores of a `results.json` that its number of images allows to be shown."""
    few = min(document["num_images"], document["num_reals"]) < ENOUGH_FOR_SHARES
    return [name for name in document["metrics"] if not (few and name in NEED_MANY)]


def too_few_in_words(document: Mapping[str, Any]) -> str:
    """Say that scores of a `results.json` are of too few images to mean anything; nothing where they are not."""
    num = document["num_images"]
    few = num < ENOUGH_FOR_ANY and document["num_reals"] > 0  # where an image lies on its source is known of each alone
    return f"{plural(num, 'image')}: too few for these scores to mean anything" if few else ""


def below_zero(document: Mapping[str, Any]) -> bool:
    """Tell whether a distance of a `results.json`, or an end of its interval, is below 0 (see `BELOW_ZERO`)."""
    rows = [document["metrics"][name] for name in UNBIASED if name in document["metrics"]]
    scores = [score for row in rows for score in (row, row.get("own_size"), row["floor"], *row["baselines"].values())]
    return any(min([score["value"] or 0.0, *(score["interval"] or [])]) < 0 for score in scores if score)


def verdict(metric: str, scores: Mapping[str, Estimate], untouched: Mapping[str, Estimate],
            floor: Mapping[str, Estimate]) -> str:
    """Say what a score amounts to, beside that of the untouched input; nothing where that is not known.

    scores, untouched   of the translations, and of what they were made from
    floor               of real images against real ones
    """
    if metric not in scores or metric not in untouched:
        return ""
    value, before = scores[metric].value, untouched[metric].value
    best = PERFECT.get(metric, floor[metric].value if metric in floor else None)
    higher = MEASURES[metric].better == "higher"
    gained = value - before if higher else before - value
    possible = None if best is None else best - before if higher else before - best

    of_input = f"the untouched input ({before:.4g})"
    if gained <= NO_BETTER * max(possible or 0.0, 0.0):
        return f"no better than {of_input}"
    if possible is None or possible <= 0 or best is None:
        return f"better than {of_input}"
    if gained >= possible:
        return f"better than {of_input}, and as near as real images are to each other ({best:.4g})"
    end = "the truth" if metric in PERFECT else "real images"
    return f"{gained / possible:.0%} of the way from {of_input} to {end} ({best:.4g})"
