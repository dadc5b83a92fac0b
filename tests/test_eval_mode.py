"""Looking at what the networks of a training make leaves them as they were, also where the memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.runs import UNSEEN, Silent, final_state, pix2pix_recipe
from translate.networks.eval_mode import evaluating
from translate.recipe import Recipe
from translate.training import loop

NEVER = 1000  # images: more than a run here sees
LOOKS: dict[str, tuple[dict[str, Any], str]] = {  # the cadence that brings a look at 4 images, and what is said of it
    "sample grid": ({"sample": 4, "probe": NEVER, "evaluate": None}, "no picture at 4 images"),
    "probe": ({"sample": NEVER, "probe": 4, "evaluate": None}, "no look at the probe at 4 images"),
    "evaluation": ({"sample": NEVER, "probe": NEVER, "evaluate": 4}, "no scores at 4 images"),
}


def modes(networks: dict[str, nn.Module]) -> dict[str, list[bool]]:
    """Of every network, whether each of its parts is in training mode."""
    return {name: [part.training for part in network.modules()] for name, network in networks.items()}


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_that_runs_out_of_memory_changes_nothing_of_the_training(
        look: str, shared_pairs: Path, tmp_path: Path, trained: Callable[[Recipe], Path],
        monkeypatch: pytest.MonkeyPatch) -> None:
    """The generator, with batch norm and dropout, fails in its forward: every network's mode is as it was, and the run
    ends with the weights of one that had memory enough."""
    cadence, words = LOOKS[look]
    recipe = pix2pix_recipe(shared_pairs, every={"log": 4, "checkpoint": 4} | cadence, evaluate={"images": 2})
    whole = trained(pix2pix_recipe(shared_pairs, every=UNSEEN | {"probe": NEVER}))  # no look changes anything
    runs: list[loop.Run] = []

    class Watched(loop.Run):
        def __init__(self, *arguments: Any):
            super().__init__(*arguments)
            runs.append(self)
            innermost = [part for part in self.translator.networks["generator_ab"].modules()
                         if isinstance(part, nn.Conv2d)][-1]
            innermost.register_forward_hook(fail_once)

    failures: list[nn.Module] = []

    def fail_once(part: nn.Module, images: Any, output: Any) -> None:
        if not part.training and found and not failures:  # and not what is measured before the first step
            failures.append(part)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    found: list[dict[str, list[bool]]] = []
    report = Silent(lambda images: found.append(modes(runs[0].translator.modules)))
    monkeypatch.setattr(loop, "Run", Watched)
    loop.train(recipe, tmp_path / "short", report)

    assert failures and any(words in line for line in report.lines), "the construction does what it says"
    assert len(found) == 6 and all(each == found[0] for each in found)
    assert all(found[0]["generator_ab"]) and all(found[0]["discriminator_b"])
    states = [final_state(run) for run in (whole, tmp_path / "short")]
    for state in states:
        del state["state.json"], state["recipe.json"]  # which know how often it was looked at
    assert states[0] == states[1]


def test_parts_that_were_in_different_modes_are_so_again() -> None:
    """Also of a network inside of which something stays in eval mode, such as a norm with its statistics held."""
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sequential(nn.BatchNorm2d(1).eval(), nn.Dropout()))
    before = modes({"network": network})
    with pytest.raises(MemoryError), evaluating(network):
        assert not any(part.training for part in network.modules())
        raise MemoryError
    assert modes({"network": network}) == before
