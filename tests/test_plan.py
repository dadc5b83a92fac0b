"""The planner says beforehand what a step takes: held against real steps, and the numbers this project is for."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode

from tests.commands import call
from tests.covering import each_value, one_in
from tests.games import GAMES, game
from tests.runs import UNSEEN, Silent, least_recipe, unseen_recipe
from tests.steps import build, make_batch, peak_of_step
from translate.data.protected import ProtectConfig
from translate.errors import DoesNotFit, RecipeError, UsageError
from translate.networks import DCGANDiscriminatorConfig, MLPDiscriminatorConfig, live_bytes, memory
from translate.networks.live_bytes import LiveBytes
from translate.optimizers import Optimizers
from translate.recipe import Recipe, Stage, load_recipe
from translate.schema import validate
from translate.training.built import parameters_of
from translate.training.gpus import gpu_named
from translate.training.loop import train
from translate.training.plan import (
    PLAIN_GAIN,
    USABLE,
    advise,
    budget_of,
    choose,
    plan_recipe,
    predict,
)
from translate.training.speeds import Speed, published
from translate.training.step_on_meta import Networks, StepOnMeta
from translate.training.update import Update
from translate.translators import NoiseConfig

ROOT = Path(__file__).parent.parent
GIB = 2**30
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
LARGE = [name for name in RECIPES if name.endswith("000")]
SMALL_CYCLEGAN = {"kind": "cyclegan", "generator": {"kind": "resnet", "width": 8, "blocks": 1},
                  "discriminator": {"kind": "patchgan", "width": 8, "layers": 3}, "pool": 0}
SMALL_PIX2PIX = {"kind": "pix2pix", "generator": {"kind": "unet", "width": 8, "downs": 5},
                 "discriminator": {"kind": "patchgan", "width": 8, "layers": 3, "norm": "batch"}}
SMALL_CUT = {"kind": "cut", "generator": {"kind": "resnet", "width": 8, "blocks": 2},
             "discriminator": {"kind": "patchgan", "width": 8, "layers": 3}}
SMALL_RESNET = {"kind": "pix2pix", "generator": {"kind": "resnet", "width": 8, "blocks": 1},
                "discriminator": {"kind": "patchgan", "width": 8, "layers": 3}}
BATCH_RESIZE = {"kind": "pix2pix", "discriminator": {"kind": "patchgan", "width": 8, "norm": "batch"},
                "generator": {"kind": "resnet", "width": 8, "blocks": 1, "norm": "batch", "upsample": "resize"}}


SIDE = 64  # px, of the real steps
CLOSE = 1e-4  # of a peak: two plans of one network lie hardly further apart at this size
SHORT = [{"resolution": 16, "images": 4, "batch_size": 2}, {"resolution": 24, "images": 4, "batch_size": 2}]


def recipe_of(translator: dict[str, Any], resolution: int | list[int], **changes: Any) -> Recipe:
    paired = translator["kind"] == "pix2pix"
    data = {"kind": "paired" if paired else "unpaired", "folder": "none", "resize": None}
    stage = {"resolution": resolution, "images": 8, **changes.pop("stage", {})}
    return validate(Recipe, {"name": "planned", "translator": translator, "data": data, "stages": [stage], **changes},
                    "planned")


def prediction(translator: dict[str, Any], resolution: int, plan: str, precision: Any = "fp16", device: Any = "cuda",
               ) -> Any:
    recipe = recipe_of(translator, resolution)
    return predict(recipe, recipe.stages[0], memory.PLANS[plan], precision, device)


class TestAgainstRealSteps:
    """A real step on this CPU, its live bytes counted on real tensors. One before it makes the optimizers' states."""

    @staticmethod
    def measured(translator_config: dict[str, Any], size: int, plan: memory.MemoryPlan, precision: Any) -> int:
        recipe = recipe_of(translator_config, size)
        translator = build(recipe.translator, torch.float32)
        batch = make_batch((size, size), 1, torch.float32)
        optimizers = {phase: getattr(recipe.optimizer, phase).build(parameters_of(translator, phase))
                      for phase in translator.phases}
        first = Update(translator, optimizers, Accelerator(cpu=True), memory.PLANS["split"], "fp32")
        translator.step(make_batch((32, 32), 1, torch.float32), first)
        for network in translator.networks.values():
            memory.apply(plan, network)
        with LiveBytes("cpu") as counted:
            counted.add([batch.a, batch.b])
            for module in translator.modules.values():
                counted.add(module.state_dict().values())
            for phase, optimizer in optimizers.items():
                counted.add(parameter.grad for parameter in parameters_of(translator, phase))
                counted.add(value for state in optimizer.state.values() for value in state.values() if value.ndim)
            translator.step(batch, Update(translator, optimizers, Accelerator(cpu=True), plan, precision))
        return counted.peak

    @pytest.mark.parametrize(("plan", "precision"), [
        ("replay", "fp32"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (
            ("split", "bf16"), ("strips", "fp32"), ("preact", "fp32"), ("strips_blocks", "bf16"), ("split", "fp32"),
            ("preact", "bf16"), ("replay", "bf16"), ("strips", "bf16"), ("strips_blocks", "fp32")))])
    def test_cyclegan_within_one_percent(self, plan: str, precision: str) -> None:
        found = self.measured(SMALL_CYCLEGAN, SIDE, memory.PLANS[plan], precision)
        assert prediction(SMALL_CYCLEGAN, SIDE, plan, precision, "cpu").peak_bytes == pytest.approx(found, rel=CLOSE)

    @pytest.mark.parametrize(("plan", "precision"), [
        ("blocks", "fp32"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (
            ("plain", "fp32"), ("strips_blocks", "bf16"),
            ("split", "bf16"), ("replay", "bf16"), ("strips", "bf16"), ("strips_blocks", "fp32")))])
    def test_cut_within_one_percent(self, plan: str, precision: str) -> None:
        """Its encoder is looked into at places that the host draws, also where tensors hold no data."""
        found = self.measured(SMALL_CUT, SIDE, memory.PLANS[plan], precision)
        assert prediction(SMALL_CUT, SIDE, plan, precision, "cpu").peak_bytes == pytest.approx(found, rel=CLOSE)

    @each_value(config={"unet": SMALL_PIX2PIX, "resnet": BATCH_RESIZE},
                plan_and_precision=[("plain", "fp32"), ("blocks", "bf16"), ("preact", "fp32")])
    def test_pix2pix_within_one_percent(self, config: dict[str, Any], plan_and_precision: tuple[str, str]) -> None:
        plan, precision = plan_and_precision
        found = self.measured(config, SIDE, memory.PLANS[plan], precision)
        assert prediction(config, SIDE, plan, precision, "cpu").peak_bytes == pytest.approx(found, rel=CLOSE)

    @each_value(share=4, kind=["r1", "wgan_gp"], plan=["split", "preact"], precision=["fp32", "bf16"])
    def test_with_a_penalty_within_one_percent(self, kind: str, plan: str, precision: str) -> None:
        """A wide discriminator beside a narrow generator, so that the peak is the penalty's."""
        config = {"kind": "pix2pix", "generator": {"kind": "resnet", "width": 2, "blocks": 1},
                  "discriminator": {"kind": "patchgan", "width": 16, "layers": 3}}
        without = prediction(config, SIDE, plan, precision, "cpu").peak_bytes
        config |= {"penalty": {"kind": kind, "every": 16}}
        found = self.measured(config, SIDE, memory.PLANS[plan], precision)
        predicted = prediction(config, SIDE, plan, precision, "cpu").peak_bytes
        assert predicted == pytest.approx(found, rel=CLOSE)
        assert predicted > 1.05 * without

    @pytest.mark.slow
    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    @pytest.mark.parametrize("plan", memory.PLANS)
    def test_the_published_cyclegan_within_one_percent(self, plan: str, precision: str) -> None:
        config = {"kind": "cyclegan"}
        found = self.measured(config, 256, memory.PLANS[plan], precision)
        assert prediction(config, 256, plan, precision, "cpu").peak_bytes == pytest.approx(found, rel=0.01)


def test_protected_pixels_are_counted() -> None:
    """The weights of a batch are an image of one channel, and the loss reads output and input and makes a few more."""
    recipe = recipe_of(SMALL_CYCLEGAN, 64)
    protecting = recipe.model_copy(update={"data": recipe.data.model_copy(
        update={"protect": ProtectConfig(folder=Path("masks"))})})
    copying = Speed(flops=1e18, moved_bytes=1.0, kernel_seconds=0.0, moving=1.0, of="bytes alone")
    found = [predict(each, each.stages[0], memory.PLANS["split"], "fp32", "cpu", speed=copying)
             for each in (recipe, protecting)]
    channel = 64 * 64 * 4  # bytes
    assert 8 * channel <= found[1].seconds - found[0].seconds <= 100 * channel
    assert channel <= found[1].peak_bytes - found[0].peak_bytes <= 10 * channel


def test_a_step_takes_the_same_whatever_was_measured_before_it() -> None:
    """Networks are built once for all plans, and a plan must leave nothing behind for the next."""
    plans = [memory.PLANS[name] for name in ("strips", "plain", "preact", "blocks")]
    steps = [StepOnMeta(Networks(translator=recipe_of(BATCH_RESIZE, 64).translator, optimizer=Optimizers()), (3, 3),
                        Stage(resolution=64, images=1, micro_batch=1, batch_size=2)) for _ in plans]
    alone = [step.measure(plan, "fp16", "cuda", 1) for step, plan in zip(steps, plans, strict=True)]
    assert [steps[0].measure(plan, "fp16", "cuda", 1) for plan in plans] == alone and len(set(alone)) == len(alone)


@pytest.mark.parametrize("config", [
    *(pytest.param(SMALL_CYCLEGAN | changes, marks=pytest.mark.slow) for changes in ({}, {"penalty": {"kind": "r1"}})),
    SMALL_PIX2PIX | {"discriminator": SMALL_CYCLEGAN["discriminator"], "penalty": {"kind": "r1"}}],
    ids=["cyclegan", "cyclegan r1", "pix2pix r1"])
def test_shapes_that_are_remembered_are_those_that_torch_finds(config: dict[str, Any],
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    def measured() -> tuple[int, int]:
        recipe = recipe_of(config, 64)
        step = StepOnMeta(Networks(translator=recipe.translator, optimizer=recipe.optimizer), (3, 3), recipe.stages[0])
        return step.measure(memory.PLANS["strips"], "fp16", "cuda", 1)

    remembered = measured()
    monkeypatch.setattr(live_bytes, "SHAPES", SimpleNamespace(run=live_bytes.run))
    assert measured() == remembered


def test_storages_are_counted_once_while_they_live() -> None:
    with LiveBytes("cpu") as counter:
        big = torch.zeros(1000)  # 4,000 bytes take 8 blocks of 512
        view = big[10:].view(-1, 10)
        assert counter.live == 4096
        del big
        assert counter.live == 4096, "the view still holds the storage"
        del view
        assert counter.live == 0
        torch.ones(100).add(1)
    assert (counter.live, counter.peak) == (0, 4096)


@pytest.mark.slow
def test_compute_is_what_torchs_own_counter_finds() -> None:
    recipe = recipe_of(SMALL_CYCLEGAN, 64)
    totals = []
    for plan in (memory.PLANS["strips"], memory.PLANS["split"]):
        translator, batch = build(recipe.translator, torch.float32), make_batch((64, 64), 1, torch.float32)
        for network in translator.networks.values():
            memory.apply(plan, network)
        optimizers = {phase: recipe.optimizer.generator.build(parameters_of(translator, phase))
                      for phase in translator.phases}
        with FlopCounterMode(display=False) as flops:
            translator.step(batch, Update(translator, optimizers, Accelerator(cpu=True), plan, "fp32"))
        totals.append(flops.get_total_flops())
    assert prediction(SMALL_CYCLEGAN, 64, "strips", "fp32", "cpu").compute == pytest.approx(totals[0] / totals[1])


class TestWhatThisProjectIsFor:
    """CycleGAN (ResNet-9, 64 channels, two PatchGANs), batch 1, fp16 on CUDA, identity loss on, no average."""

    @pytest.mark.parametrize(("size", "plan", "most_gib", "most_compute"), [
        (2000, "strips", 5.0, 1.17), (2000, "split", 21.5, 1.0),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (
            (2000, "strips_blocks", 2.9, 1.45), (2000, "replay", 7.1, 1.12), (4000, "strips_blocks", 9.8, 1.45),
            (2000, "preact", 12.0, 1.005)))])
    def test_cyclegan(self, size: int, plan: str, most_gib: float, most_compute: float) -> None:
        found = prediction({"kind": "cyclegan"}, size, plan)
        assert found.peak_bytes <= most_gib * GIB
        assert found.compute <= most_compute

    @pytest.mark.parametrize(("plan", "most_gib", "most_compute"), one_in(2, [
        ("split", 16.0, 1.0), ("strips", 4.7, 1.33), ("blocks", 4.2, 1.29), ("strips_blocks", 2.6, 1.58)]))
    def test_cut(self, plan: str, most_gib: float, most_compute: float) -> None:
        found = prediction({"kind": "cut"}, 2000, plan)
        assert found.peak_bytes <= most_gib * GIB
        assert found.compute <= most_compute

    def test_auto_finds_a_plan_for_cut_where_strips_take_more_memory_than_blocks(self) -> None:
        """Its one generator has no other to make room for."""
        recipe = recipe_of({"kind": "cut"}, 2000)
        found = choose(recipe, recipe.stages[0], int(4.5 * GIB), "fp16")
        assert found is not None and found.plan.name == "blocks"

    def test_the_u_net_of_pix2pix(self) -> None:
        assert prediction({"kind": "pix2pix"}, 2048, "strips").peak_bytes <= 2.2 * GIB

    def test_each_plan_of_the_ladder_takes_less_than_the_one_before(self) -> None:
        peaks = [prediction(SMALL_CYCLEGAN, 256, plan).peak_bytes for plan in memory.LADDER]
        assert peaks == sorted(peaks, reverse=True) and len(set(peaks)) == len(peaks)


@pytest.mark.parametrize("config", [pytest.param(SMALL_CYCLEGAN, id="cyclegan"),
                                    pytest.param(SMALL_CUT, id="cut", marks=pytest.mark.slow)])
def test_auto_takes_the_least_predicted_time_that_fits(config: dict[str, Any]) -> None:
    """Of the two plans that compute nothing twice it is `split`, unless `plain` gains enough for its memory.

    And plans said to do more than others do no less of anything.
    """
    recipe = recipe_of(config, 256)
    stage = recipe.stages[0]
    for gpu in ("H200", "RTX 3060"):
        speed = published(gpu_named(gpu), "fp16")
        every = {name: predict(recipe, stage, plan, "fp16", speed=speed) for name, plan in memory.PLANS.items()}
        assert choose(recipe, stage, None, "fp16", speed=speed).plan.name == "split", "how much there is is not known"
        for name in memory.PLANS:
            fitting = [each for each in every.values() if each.peak_bytes <= every[name].peak_bytes]
            found = choose(recipe, stage, every[name].peak_bytes, "fp16", speed=speed)
            assert found.peak_bytes <= every[name].peak_bytes
            worth = 1 - PLAIN_GAIN if found.plan.name == "split" else 1
            assert worth * found.seconds <= min(each.seconds for each in fitting)
        least = min(each.peak_bytes for each in every.values())
        assert choose(recipe, stage, least - 1, "fp16", speed=speed) is None
        for less, those in memory.MORE_WORK.items():
            assert all(every[less].seconds <= every[more].seconds for more in those)
            assert all(every[less].compute <= every[more].compute + 1e-9 for more in those)


def test_what_does_not_apply_is_named_as_the_plan_it_equals() -> None:
    (stage,) = plan_recipe(recipe_of(SMALL_PIX2PIX, 64), None, "fp16")
    assert {each.plan.name: each.same_as for each in stage.predictions if each.same_as} == {
        "strips_blocks": "strips"}


def test_the_advice_fits() -> None:
    recipe = recipe_of(SMALL_RESNET, 2000)
    budget = int(0.6 * prediction(SMALL_RESNET, 2000, "strips_blocks").peak_bytes)
    advice = advise(recipe, recipe.stages[0], 0, budget, "fp16")
    side = int(advice.split("resolution to ")[1].split(",")[0])
    assert 1000 < side < 2000
    assert prediction(SMALL_RESNET, side, "strips_blocks").peak_bytes <= budget


def test_where_half_the_size_could_not_be_judged_the_advice_is_the_width_and_of_levels_all_sizes_together() -> None:
    grown = SMALL_RESNET | {"discriminator": {"kind": "patchgan", "width": 8, "layers": 3, "scales": 2}}
    least = recipe_of(grown, 64).smallest_side(Stage(images=1))
    tight = recipe_of(grown, least + 1)
    assert advise(tight, tight.stages[0], 0, 1, "fp16").startswith("set the networks' width to less")
    growing = recipe_of(SMALL_RESNET, 256)
    growing = growing.model_copy(update={"stages": (growing.stages[0], growing.stages[0].model_copy(
        update={"levels": 1, "resolution": 512}))})
    leanest = predict(growing, growing.stages[1], memory.PLANS["strips_blocks"], "fp16").peak_bytes
    assert "in proportion" in advise(growing, growing.stages[1], 1, int(0.8 * leanest), "fp16")


@pytest.mark.parametrize(("config", "note"), [
    pytest.param(SMALL_CYCLEGAN, "gradients stay", marks=pytest.mark.slow),
    pytest.param(SMALL_CUT, "gradients stay", marks=pytest.mark.slow),
    (BATCH_RESIZE, "see one image at a time")], ids=["cyclegan", "cut", "batch norm"])
def test_smaller_pieces_are_advised_where_they_fit_and_for_what_they_are(config: dict[str, Any], note: str) -> None:
    pieces = recipe_of(config, 64, stage={"batch_size": 4})
    stage = pieces.stages[0]
    one = stage.model_copy(update={"micro_batch": 1})
    budget = predict(pieces, one, memory.PLANS["strips_blocks"], "fp16").peak_bytes
    assert "stages.0.micro_batch to 1 (" in (advice := advise(pieces, stage, 0, budget, "fp16"))
    assert note in advice
    assert "micro_batch to 1 (" not in advise(pieces, stage, 0, budget - 1, "fp16")
    assert "micro_batch" not in advise(pieces, stage, 0, 0, "fp16", num_processes=4), "they have one each"


@pytest.mark.parametrize("judge", one_in(2, [{"minibatch_kernels": 2}, {"minibatch_std": True}]),
                         ids=["kernels", "deviation"])
def test_no_single_sample_is_advised_to_a_discriminator_that_compares_samples(judge: dict[str, Any]) -> None:
    small = BATCH_RESIZE | {"discriminator": {"kind": "patchgan", "width": 8, "norm": "batch"} | judge}
    pieces = recipe_of(small, 64, stage={"batch_size": 4})
    one = pieces.stages[0].model_copy(update={"micro_batch": 1})
    budget = predict(pieces, one, memory.PLANS["strips_blocks"], "fp16").peak_bytes
    assert "micro_batch" not in advise(pieces, pieces.stages[0], 0, budget, "fp16")
    for config in (MLPDiscriminatorConfig, DCGANDiscriminatorConfig):
        if set(judge) <= set(config.model_fields):
            assert NoiseConfig(discriminator=config(**judge)).least_samples == 2
            assert NoiseConfig(discriminator=config()).least_samples == 1


def test_batch_norm_over_several_processes_is_planned_as_it_runs() -> None:
    """Its statistics are gathered over all of them, so its tail does not run in strips."""
    recipe = recipe_of(BATCH_RESIZE, 256)
    stage = recipe.stages[0].model_copy(update={"batch_size": 2})
    one = predict(recipe, recipe.stages[0], memory.PLANS["strips"], "fp16").peak_bytes
    assert predict(recipe, stage, memory.PLANS["strips"], "fp16", num_processes=2).peak_bytes > one


def test_a_card_is_filled_to_a_share() -> None:
    assert budget_of("8GB") == int(USABLE * 8e9)


def test_a_recipe_names_plans_and_strips_or_is_told_how() -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_of(SMALL_CYCLEGAN, 64, stage={"memory": {"plan": "strip"}})
    assert caught.value.lines == [
        "planned: stages.0.memory.plan: 'strip' is not a plan; did you mean strips? (plain, split, preact, replay, "
        "blocks, strips, strips_blocks)"]
    for wrong, named in (("strips", "strips"), (None, "strips"), ({"strips": 4}, "strips"), (8, "strips"),
                         ("replay", "replay")):
        with pytest.raises(RecipeError, match=rf"memory: .*write auto, or name a plan.*--set memory.plan={named}"):
            recipe_of(SMALL_CYCLEGAN, 64, memory=wrong)
    with pytest.raises(RecipeError, match=r"memory: plan blocks has no strips; leave out `strips: 4`"):
        recipe_of(SMALL_CYCLEGAN, 64, memory={"plan": "blocks", "strips": 4})
    recipe = recipe_of(SMALL_CYCLEGAN, 64, memory={"plan": "strips", "strips": 4})
    assert recipe.memory_of(recipe.stages[0]).resolve().num_strips == 4


@pytest.mark.parametrize("name", one_in(3, [name for name in RECIPES if name not in LARGE]))
def test_every_recipe_that_is_shipped_can_be_planned(name: str) -> None:
    """The large ones are, besides, planned as their headers say: below."""
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml")
    for stage in {(stage.size, stage.levels, stage.freeze): stage for stage in recipe.stages}.values():
        assert predict(recipe, stage, memory.PLANS["split"], "fp16").peak_bytes > 0


@pytest.mark.parametrize("name", one_in(2, list(GAMES)))
def test_every_game_can_be_planned(name: str) -> None:
    """Draws of chance, second derivatives and power iterations on tensors that hold no data."""
    assert 0 < peak_of_step(game(name, "pix2pix"), 64, memory.PLANS["split"], "fp16", "cuda") < 2**28


def test_the_command_shows_a_table_or_json_and_says_what_to_change(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(recipe_of(SMALL_CYCLEGAN, 256).dump_yaml())
    assert call(monkeypatch, "plan", file, "--gpu", "8GB") == 0
    shown = capsys.readouterr()
    assert "→ plain" in shown.out and "strips_blocks" in shown.out, "so small a step waits for kernels to start"
    assert "at the speed of the RTX 3060" in shown.out and "in all: about" in shown.out
    assert "7 of 7 predictions" in shown.err
    assert call(monkeypatch, "plan", file, "--gpu", "5MB", "--json") == 5
    told = capsys.readouterr()
    assert "stages.0.resolution" in told.err or "width" in told.err
    (stage,) = json.loads(told.out)["stages"]
    assert stage["chosen"] is None and all(not each["fits"] for each in stage["plans"])


def test_progress_names_each_prediction_before_it_is_made() -> None:
    recipe, told = recipe_of(SMALL_PIX2PIX, 64), []
    plan_recipe(recipe, None, "fp16", on_progress=lambda *where: told.append(where))
    assert told[1] == (1, 7, "stage 1, split") and told[-1] == (7, 7, "") and len(told) == 8


class TestInTraining:
    def test_the_plan_and_its_prediction_are_said_at_the_start_and_kept_for_a_resume(
            self, shared_pairs: Path, tmp_path: Path) -> None:
        recipe = least_recipe(shared_pairs, precision="fp32", stages=[SHORT[1]] * 2, every=UNSEEN)
        peaks = [predict(recipe, stage, memory.PLANS["blocks"], "fp32", "cpu").peak_bytes for stage in recipe.stages]
        card = f"{peaks[1] / USABLE / 1e6 + 0.001:.4f}MB"
        report = Silent()
        train(recipe, tmp_path / "run", report, gpu_memory=card)
        said = [line for line in report.lines if line.startswith("memory: ")]
        assert all("predicted peak" in line and "usable" in line for line in said)
        assert said[1].startswith("memory: plan blocks, the least predicted time")
        kept = json.loads((tmp_path / "run" / "memory.json").read_text())
        assert kept["1"]["plan"] == "blocks"
        again = recipe.model_copy(update={"stages": (*recipe.stages, recipe.stages[1])})
        report = Silent()
        (tmp_path / "run" / "recipe.yaml").write_text(again.dump_yaml())
        kept["2"] = kept["1"]
        (tmp_path / "run" / "memory.json").write_text(json.dumps(kept))
        train(again, tmp_path / "run", report, resume=True)
        assert any("plan blocks" in line and "as before" in line for line in report.lines), report.lines

    @pytest.mark.parametrize("last", [pytest.param(0, marks=pytest.mark.slow), 1])
    def test_a_card_that_is_too_small_for_any_stage_ends_it_before_it_begins(self, last: int, shared_pairs: Path,
                                                                             tmp_path: Path) -> None:
        """Also when only the last stage is too large, which may come after days."""
        recipe = least_recipe(shared_pairs, precision="fp32")
        stages = (recipe.stages[0].model_copy(update={"resolution": 16}),
                  recipe.stages[0].model_copy(update={"resolution": 32}))
        recipe = recipe.model_copy(update={"stages": stages})
        least = [predict(recipe, stage, memory.PLANS["strips_blocks"], "fp32", "cpu").peak_bytes for stage in stages]
        card = f"{(least[last] - 512) / USABLE / 1e6:.6f}MB"
        with pytest.raises(DoesNotFit, match=rf"stage {last + 1}, .*leanest"):
            train(recipe, tmp_path / "run", Silent(), gpu_memory=card)
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("card", ["nonsense", ""])
    def test_a_card_of_no_size_leaves_no_run_behind(self, card: str, shared_pairs: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="is not a size of memory"):
            train(least_recipe(shared_pairs), tmp_path / "run", Silent(), gpu_memory=card)
        assert not (tmp_path / "run").exists()

    def test_a_plan_that_is_named_and_does_not_fit_is_taken_with_a_warning(self, shared_pairs: Path,
                                                                           tmp_path: Path) -> None:
        report = Silent()
        recipe = unseen_recipe(shared_pairs, memory={"plan": "split"}, stages=SHORT[:1])
        train(recipe, tmp_path / "run", report, gpu_memory="0.1MB")
        assert any("warning" in line and "more than that" in line for line in report.lines)

    def test_a_picture_that_does_not_fit_is_left_out(self, shared_pairs: Path, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*arguments: Any, **named: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory.")

        monkeypatch.setattr("translate.training.logbook.sample_grid", full)
        report = Silent()
        every = {"log": 4, "sample": 4, "checkpoint": 4, "evaluate": None}
        train(least_recipe(shared_pairs, stages=SHORT[:1], every=every), tmp_path / "run", report)
        assert any("no picture" in line for line in report.lines)


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["last", "every"])
@pytest.mark.parametrize("name", one_in(4, LARGE))
def test_the_large_recipes_plan_as_their_own_headers_say(name: str, every: bool) -> None:
    """Every "4000 px strips_blocks 9.71 GiB, 1.43×" of a header, on the card named before it.

    Named again for the same card, a size is that of the next stage that has it. Quick is what the plan of the last one
    takes; that no other plan is chosen for any of them takes all their predictions.
    """
    file = ROOT / "recipes" / f"{name}.yaml"
    recipe = load_recipe(file)
    header = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert any(f"translate plan recipes/{name}.yaml --gpu" in line for line in header)
    card, promised, named_before = "", [], Counter[tuple[str, str]]()
    pattern = r"(\d+) px (\w+) ([\d.]+) GiB, ([\d.]+)×|(?:--gpu )?(\d+) ?GB:?"
    for size, plan, peak, compute, named in re.findall(pattern, "\n".join(header[1:])):
        if named:
            card = f"{named}GB"
            continue
        stage = [each for each in recipe.stages if each.size == (int(size), int(size))][named_before[card, size]]
        named_before[card, size] += 1
        promised.append((stage, card, plan, peak, compute))
    assert len(promised) >= len({stage.size for stage in recipe.stages})
    for stage, card, *numbers in promised if every else promised[-1:]:
        found = (choose(recipe, stage, budget_of(card), "fp16") if every or name == "terrain_2000" else
                 predict(recipe, stage, memory.PLANS[numbers[0]], "fp16"))
        assert found is not None and found.fits(budget_of(card))
        assert [found.plan.name, f"{found.peak_bytes / GIB:.2f}", f"{found.compute:.2f}"] == numbers


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in LARGE if name.endswith("2000")])
def test_every_stage_of_the_recipes_for_2000_px_fits_a_card_of_8_gb(name: str) -> None:
    """Those that fade a level in, too."""
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml")
    assert recipe.stages[-1].size == (2000, 2000)
    assert all(choose(recipe, stage, budget_of("8GB"), "fp16") for stage in recipe.stages)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "card", "overrides"), [
    ("maps_2000", "4GB", []), ("maps_2000", "16GB", ["stages.3.batch_size=4"]),
    ("maps_growing_2000", "16GB", ["stages.5.batch_size=4", "stages.6.batch_size=4"]), ("monet2photo_2000", "6GB", []),
    ("monet2photo_4000", "24GB", ["stages.1.memory.plan=strips", "stages.1.memory.strips=16"])])
def test_what_else_the_headers_promise_fits(name: str, card: str, overrides: list[str]) -> None:
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml", overrides)
    stage, budget = recipe.stages[-1], budget_of(card)
    named = recipe.memory_of(stage)
    if named is None:
        assert choose(recipe, stage, budget, "fp16") is not None
    else:
        assert predict(recipe, stage, named.resolve(), "fp16").peak_bytes <= budget
