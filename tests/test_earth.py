"""The main job on the real data that a package carries."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import Silent
from translate.cards.cards import find_card, prepare
from translate.foreign import read_lines
from translate.recipe import find_recipe, load_recipe
from translate.training.loop import train


@pytest.mark.slow
@pytest.mark.parametrize("name", ["earth", "earth_unpaired", "earth_cut"])
def test_held_out_scores_move_in_the_right_direction(name: str, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of the unpaired translators, which never see a pair: the truth is known all the same."""
    monkeypatch.setenv("DIPTYCH_DATA", str(tmp_path))
    prepare(find_card("earth"), tmp_path)
    train(load_recipe(find_recipe(name), ["every.evaluate=100"]), tmp_path / "run", Silent())
    scores = [record for record in read_lines(tmp_path / "run" / "metrics.jsonl") if record["kind"] == "evaluation"]
    first, last = scores[0], scores[-1]
    assert last["psnr"] > first["psnr"] + 1 and last["l1"] < first["l1"] and last["ssim"] > first["ssim"]
