"""On a CPU a plan must fit what the machine and its cgroups have left: who takes too much is killed, without a word."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from tests.conftest import write_pairs
from tests.memory_cgroup import enter, memory_cgroup
from tests.runs import cyclegan_recipe
from translate.errors import DoesNotFit
from translate.host.available_memory import Available
from translate.networks import memory
from translate.recipe import Recipe
from translate.report.run_contents import read_run
from translate.runs.folder import RunFolder
from translate.training import memory_plans
from translate.training import plan as planner
from translate.training.memory_plans import MemoryPlans
from translate.training.plan import PROCESS_BYTES, USABLE, WORKER_BYTES, predict

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
        """Have so much left for tensors, of one process without workers."""
        monkeypatch.setattr(planner, "available_bytes",
                            lambda: Available(int(num_bytes + PROCESS_BYTES), "memory.max of the memory cgroup /job"))

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
        assert ("usable (memory.max of the memory cgroup /job; 128.0 MiB of it kept for more than tensors)"
                in leaner.line)

    def test_what_a_step_fills_is_of_the_machine_also_where_a_size_is_given(
            self, peaks: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
        """With --gpu 80GB a step of most of the memory seemed to fill a hundredth, and all that was freed was kept."""
        self.left(monkeypatch, 1.25 * peaks["split"] / USABLE)
        for more in ({}, {"gpu_memory": "80GB"}):
            assert self.choose(**more).filled == pytest.approx(0.8, rel=1e-3)

    def test_every_stage_says_what_is_kept_of_freed_memory_and_the_end_undoes_it(
            self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A stage between the limits kept as the one before did, and so did a program after its training."""
        told: list[str] = []  # what each way does is tested in tests/test_available_memory.py
        for way in ("give_back_what_will_be_freed", "keep_what_is_freed", "keep_as_glibc_does"):
            monkeypatch.setattr(memory_plans, way, partial(told.append, way))
        plans = MemoryPlans(self.RECIPE, RunFolder(tmp_path), Accelerator(cpu=True), "fp32")
        plans.choices = dict(enumerate(
            planner.Choice(memory.PLANS["split"], {"memory": "auto", "card": None}, "", 1, 1.0, filled)
            for filled in (0.9, 0.01, 0.3)))
        translator = self.RECIPE.translator.build(3, 3)
        for number in (0, 1, 2, 1):
            plans.apply(number, translator)
        plans.close()
        assert told == ["give_back_what_will_be_freed", "keep_what_is_freed", "keep_as_glibc_does",
                        "keep_what_is_freed", "keep_as_glibc_does"]

    def test_processes_that_load_images_have_their_part(self, peaks: dict[str, int],
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
        loaded = self.RECIPE.model_copy(update={"workers": 2})
        self.left(monkeypatch, peaks["split"] / USABLE + 2.1 * WORKER_BYTES)
        assert self.choose(recipe=loaded).plan.name == "split"
        self.left(monkeypatch, peaks["split"] / USABLE + 1.9 * WORKER_BYTES)
        assert self.choose(recipe=loaded).plan.name != "split"

    def test_where_nothing_fits_a_training_is_refused_unless_its_plan_is_named(
            self, peaks: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
        """It was begun with a warning, and killed in its first step."""
        self.left(monkeypatch, 1.01 * peaks["strips_blocks"] / USABLE)
        assert self.choose().plan.in_strips
        for left in (0.99 * peaks["strips_blocks"] / USABLE, -PROCESS_BYTES):
            self.left(monkeypatch, left)
            with pytest.raises(DoesNotFit, match=r"memory.max of the memory cgroup /job.*leanest.*set .*memory\.plan"):
                self.choose()
        named = self.RECIPE.model_copy(update={"memory": memory.MemoryConfig(plan="split")})
        assert "warning" in self.choose(recipe=named).line, "whoever names a plan gets it"

    def test_its_processes_share_what_there_is_and_what_they_hold_is_counted_once(
            self, peaks: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
        stage = self.RECIPE.stages[0].model_copy(update={"batch_size": 2})
        shared = self.RECIPE.model_copy(update={"stages": (stage,)})
        self.left(monkeypatch, 1.5 * peaks["split"] / USABLE + PROCESS_BYTES)
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

    @pytest.mark.slow  # steps of 512 px, in processes that begin with nothing: what a forked one copies would count
    def test_a_training_in_a_cgroup_that_split_is_too_large_for_ends(self, tmp_path: Path) -> None:
        """For real: under a plan that is named it is killed there, and under `auto` it is not."""
        write_pairs(tmp_path / "pairs")
        code = ("import sys; from pathlib import Path; from tests.runs import Silent, train; import translate.recipe;"
                "print(*(line.split()[1] for line in open('/proc/self/status') if line.startswith('RssAnon')));"
                "train(translate.recipe.load_recipe(Path(sys.argv[1])), Path(sys.argv[2]), Silent())")

        def start(plan: str, before: Any = None) -> subprocess.CompletedProcess[str]:
            return subprocess.run([sys.executable, "-c", code, tmp_path / f"{plan}.yaml", tmp_path / plan], text=True,
                                  cwd=Path(__file__).parent.parent, capture_output=True, preexec_fn=before)

        libraries = int(start("nothing").stdout) * 1024
        for plan in ("split", "auto"):
            changes = {"memory": "auto" if plan == "auto" else {"plan": plan}, "guard": None, "precision": "fp32",
                       "translator": SMALL | {"generator": {"kind": "resnet", "width": 24, "blocks": 1}},
                       "stages": [{"resolution": 512, "resize": 512, "images": 2}], "every": {"evaluate": None}}
            recipe = cyclegan_recipe(tmp_path / "pairs", **changes)
            (tmp_path / f"{plan}.yaml").write_text(recipe.dump_yaml())
            too_large = predict(recipe, recipe.stages[0], memory.PLANS["split"], "fp32", "cpu").peak_bytes
            with memory_cgroup(libraries + int(0.9 * too_large)) as group:
                if group is None:
                    pytest.skip("no memory cgroup can be made here")
                ended = start(plan, partial(enter, group))
            assert ended.returncode == (-signal.SIGKILL if plan == "split" else 0), ended.stderr
        assert json.loads((tmp_path / "auto/status.json").read_text())["state"] == "finished"
        assert read_run(tmp_path / "split").status["state"] == "died"
