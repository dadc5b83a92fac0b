"""On a CPU a plan must fit what the machine and its cgroups have left: who takes too much is killed, without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.runs import cyclegan_recipe
from translate.available_memory import Available
from translate.networks import memory
from translate.recipe import Recipe
from translate.training import plan as planner
from translate.training.plan import USABLE, predict

SMALL = {"kind": "cyclegan", "generator": {"kind": "resnet", "width": 8, "blocks": 1},
         "discriminator": {"kind": "patchgan", "width": 8, "layers": 3}, "pool": 0}


class TestOnACPU:
    """A training in a container took `split`, was killed in its first step, and its status said for ever: running."""

    RECIPE = cyclegan_recipe(Path("none"), translator=SMALL, stages=[{"resolution": 256, "resize": 256, "images": 8}])

    @pytest.fixture
    def peaks(self) -> dict[str, int]:
        return {name: predict(self.RECIPE, self.RECIPE.stages[0], memory.PLANS[name], "fp32", "cpu").peak_bytes
                for name in ("split", "preact", "replay", "strips_blocks")}

    @staticmethod
    def left(monkeypatch: pytest.MonkeyPatch, num_bytes: float) -> None:
        monkeypatch.setattr(planner, "available_bytes",
                            lambda: Available(int(num_bytes), "memory.max of the memory cgroup /job"))

    def choose(self, before: Any = None, num_processes: int = 1, recipe: Recipe | None = None, **more: Any
               ) -> planner.Choice:
        return planner.choose_for_run(recipe or self.RECIPE, 0, before, torch.device("cpu"), "fp32", num_processes,
                                      **more)

    def test_auto_fits_what_the_container_allows(self, peaks: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
        self.left(monkeypatch, 1.01 * peaks["split"] / USABLE)
        assert self.choose().plan.name == "split"
        self.left(monkeypatch, 0.99 * peaks["split"] / USABLE)
        leaner = self.choose()
        assert leaner.plan.name != "split" and leaner.peak_bytes < 0.99 * peaks["split"]
        assert "usable (memory.max of the memory cgroup /job)" in leaner.line

    def test_where_nothing_fits_the_leanest_is_taken_with_a_warning(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left(monkeypatch, 1e6)
        choice = self.choose()
        assert choice.plan.name == "strips_blocks" and "warning" in choice.line and "more than that" in choice.line

    def test_its_processes_share_what_there_is_and_what_they_hold_is_counted_once(
            self, peaks: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
        stage = self.RECIPE.stages[0].model_copy(update={"batch_size": 2})
        shared = self.RECIPE.model_copy(update={"stages": (stage,)})
        self.left(monkeypatch, 1.5 * peaks["split"] / USABLE)
        assert self.choose().plan.name == "split"
        assert self.choose(num_processes=2, recipe=shared).plan.name != "split"
        self.left(monkeypatch, 0.6 * peaks["split"] / USABLE)
        assert self.choose(held_bytes=int(0.5 * peaks["split"] / USABLE)).plan.name == "split"

    def test_a_resume_in_a_smaller_container_chooses_anew_and_else_keeps_its_plan(
            self, peaks: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
        before = {"asked": {"memory": "auto", "card": None}, "plan": "split", "strips": None}
        self.left(monkeypatch, 0.99 * peaks["split"] / USABLE)
        assert self.choose(before).plan.name != "split"
        named = {"asked": {"memory": "auto", "card": "8GB"}, "plan": "split", "strips": None}
        assert self.choose(named).plan.name == "split", "whoever gave a size knows what there is"
        lean = before | {"plan": "preact"}
        self.left(monkeypatch, 10 * peaks["split"] / USABLE)
        assert self.choose(lean).plan.name == "preact" and "as before" in self.choose(lean).line
