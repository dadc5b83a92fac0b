"""Held-out scores: a test set goes through a translator, and what comes out is compared with the truth."""

from __future__ import annotations

import torch

from translate.data import data_root, test_pairs
from translate.metrics.reference import score
from translate.precision import Format, autocast
from translate.recipe import Recipe
from translate.translators import Translator

MOST_PAIRS = 64  # of the test set, evenly spread: enough for a curve


@torch.no_grad()
def score_held_out(recipe: Recipe, translator: Translator, device: torch.device, precision: Format) -> dict[str, float]:
    """Mean scores of A → B over the test pairs at their full size, by the averaged generator where there is one.

    For unpaired data the truth is known where the test folders pair by name. Raises `DataError` where it is not.
    """
    pairs = test_pairs(recipe.data, data_root())
    chosen = sorted({index * len(pairs) // MOST_PAIRS for index in range(MOST_PAIRS)})
    generator = translator.generator("ab")
    training = generator.training
    generator.eval()
    sums: dict[str, list[float]] = {}
    for index in chosen:
        a, b = pairs[index]
        with autocast(device, precision):
            fake = generator(a[None].to(device))
        for name, value in score(fake, b[None].to(device)).items():
            sums.setdefault(name, []).append(value)
    generator.train(training)
    return {name: sum(values) / len(values) for name, values in sums.items()}
