"""What docs/lectures.md says of digits from noise: a shipped recipe, trained in full on real digits, and a classifier
that the test trains and that has seen none of what it judges."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import Silent
from tools.lectures_trained import classes_of, digits_classifier
from translate.cards.cards import find_card, prepare
from translate.recipe import find_recipe, load_recipe
from translate.sampling.sampler import Sampler
from translate.training.loop import train


@pytest.mark.slow
def test_a_classifier_of_real_digits_finds_all_ten_in_what_a_recipe_draws(tmp_path: Path,
                                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """At least 98 % of real test digits are known to it; of each digit there are samples enough, and most are as asked.
    """
    monkeypatch.setenv("DIPTYCH_DATA", str(tmp_path))
    classifier, accuracy = digits_classifier(prepare(find_card("mnist"), tmp_path), 28)
    assert accuracy >= 0.98
    train(load_recipe(find_recipe("cgan_mnist"), ["workers=0"]), tmp_path / "run", Silent())
    said = classes_of(Sampler.load(tmp_path / "run"), classifier, 2_000, None)
    assert min(said["shares"]) >= 0.05 and said["as asked"] >= 0.9
