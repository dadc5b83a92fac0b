"""The guard sees each failure, by hand-made numbers and in real trainings, leaves healthy ones alone, loses nothing."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator, debug_launcher
from torch import nn

import translate.training.loop
from tests.collapsing import train_and_collapse
from tests.covering import one_in
from tests.networks import members
from tests.runs import Silent, cyclegan_recipe, final_state, least_recipe, pix2pix_recipe, train_until
from tests.steps import build, make_batch, step, weights
from tools.guard_zoo import PERSISTENT, RESNET, TRANSIENT, TRANSLATORS, broken, recipe_of
from translate.cards.cards import find_card, prepare
from translate.data import Batch, Sample
from translate.errors import Collapsed, RunError
from translate.foreign import read_lines
from translate.losses import (
    Began,
    Hinge,
    LeastSquares,
    NonSaturating,
    Objective,
    RelativisticAverage,
    Vanilla,
    Wasserstein,
)
from translate.networks import PatchGANConfig, ResNetConfig, UNetConfig, memory
from translate.optimizers import SGD
from translate.recipe import GuardConfig, Recipe, Stage
from translate.runs.checkpoint import newest_checkpoint
from translate.training.guard import OVERFLOW_LIMIT, Guard, Trouble
from translate.training.loop import Run, train
from translate.training.probe import Probe
from translate.training.update import NotFinite, Update
from translate.translators import CycleGANConfig, Pix2PixConfig

ROOT = Path(__file__).parent.parent
NAN = float("nan")


# -- what is observed --------------------------------------------------------------------------------------------------


class TestVerdicts:
    """What objectives say of logits, against what stands in their papers, written out."""

    real, fake = torch.tensor([[2.0, -1.0]]), torch.tensor([[-3.0, 0.5]])

    PROBABILITIES = ((1 / (1 + math.exp(-2)) + 1 / (1 + math.e)) / 2,  # of the logits above
                     (1 / (1 + math.exp(3)) + 1 / (1 + math.exp(-0.5))) / 2)
    CASES = (
        (Vanilla(), *PROBABILITIES, 0.5),
        (NonSaturating(), *PROBABILITIES, 0.5),
        (LeastSquares(), 0.5, -1.25, 0.5),  # 2 > ½ and −1 is not; −3 < ½ and ½ is not
        (Hinge(), 0.5, -1.25, 0.5),
        (Wasserstein(), 0.5, -1.25, 0.5),  # the middle of both means is −0.375
        (Began(), 0.5, -1.25, 0.5),  # errors: real is right below −0.375, fake above
        (RelativisticAverage(), sum(1 / (1 + math.exp(-(x + 1.25))) for x in (2, -1)) / 2,
         sum(1 / (1 + math.exp(-(x - 0.5))) for x in (-3, 0.5)) / 2, 0.75))

    def test_every_objective_is_among_the_cases(self) -> None:
        assert {type(objective) for objective, *_ in self.CASES} == set(members(Objective))

    @pytest.mark.parametrize(("objective", "real_score", "fake_score", "right"), CASES,
                             ids=lambda value: getattr(value, "kind", ""))
    def test_they_are_in_the_objectives_own_terms(self, objective: Any, real_score: float, fake_score: float,
                                                  right: float) -> None:
        verdict = objective.verdict(self.real, self.fake)
        assert verdict.real.item() == pytest.approx(real_score, rel=1e-5)
        assert verdict.fake.item() == pytest.approx(fake_score, rel=1e-5)
        assert verdict.right.item() == pytest.approx(right)

    @pytest.mark.parametrize("objective", [member() for member in members(Objective)], ids=lambda each: each.kind)
    def test_a_discriminator_that_is_right_or_wrong_about_everything_is_told_apart(self, objective: Any) -> None:
        high, low = torch.full((2, 3), 4.0) + torch.rand(2, 3), torch.full((2, 3), -4.0) + torch.rand(2, 3)
        good, bad = (low, high) if objective.reconstructs else (high, low)  # errors are low for what D takes for real
        assert objective.verdict(good, bad).right == 1 and objective.verdict(bad, good).right == 0
        assert objective.verdict(good, bad).spread > 0.1
        same = torch.ones(2, 3)
        assert objective.verdict(same, same).spread == 0


def test_what_is_observed_is_the_same_in_micro_batches_and_under_every_plan() -> None:
    found = {}
    for plan, micro_batch in (("split", None), ("split", 1), ("plain", None), ("strips_blocks", 1)):
        update = step(build(CycleGANConfig(generator=ResNetConfig(width=2, blocks=1),
                                           discriminator=PatchGANConfig(width=2, layers=2), pool=0)),
                      make_batch((32, 32)), plan, micro_batch)
        found[plan, micro_batch] = update.observed
    whole = found["split", None]
    assert whole.keys() == {f"{what}_{side}" for what in ("real", "fake", "right", "spread") for side in "ab"} | {
        "gradient_generator", "gradient_discriminator"}
    for observed in found.values():
        for name, value in whole.items():
            if not name.startswith("spread"):  # within a piece it varies less
                torch.testing.assert_close(observed[name], value, rtol=1e-6, atol=1e-8)


def test_the_norm_of_a_gradient_is_that_of_the_whole_phase_before_it_is_clipped() -> None:
    translator = build(Pix2PixConfig(generator=UNetConfig(width=4, downs=5, norm="instance"),
                                     discriminator=PatchGANConfig(width=4, layers=2)))
    update = step(translator, make_batch((32, 32)))
    for phase, networks in translator.phases.items():
        values = [parameter.grad.flatten() for network in networks.values() for parameter in network.parameters()]
        torch.testing.assert_close(update.observed[f"gradient_{phase}"], torch.cat(values).norm())


class Painter(nn.Module):
    """A generator that is a function."""

    def __init__(self, paint: Any):
        super().__init__()
        self.paint, self.seen = paint, []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.seen.append(self.training)
        return self.paint(image)


def look(paint: Any, paired: bool = True, back: Any = None, reals: torch.Tensor | None = None) -> dict[str, float]:
    config = (Pix2PixConfig if back is None else CycleGANConfig)(generator=ResNetConfig(width=2, blocks=0))
    translator = config.build(3, 3)
    generators: dict[str, nn.Module] = {"generator_ab": Painter(paint)}
    if back is not None:
        generators["generator_ba"] = Painter(back)
    translator.phases["generator"] = generators
    batch = make_batch((24, 40), 4, torch.float32)
    seen = [Sample(*each) for each in zip(batch.a, batch.b if reals is None else reals, batch.keys, strict=True)]
    found = Probe(seen, translator, paired, torch.device("cpu"), "fp32")()
    assert not any(any(each.seen) for each in generators.values()), "it looks in eval mode"
    assert all(each.training for each in generators.values())
    return found


class TestProbe:
    def test_outputs_that_are_all_the_same_have_no_diversity(self) -> None:
        assert look(lambda image: torch.full_like(image, 0.3))["diversity_ab"] == 0
        assert look(lambda image: -image)["diversity_ab"] >= 1
        noise = look(lambda image: 0.3 + 0.001 * torch.randn_like(image))
        assert noise["diversity_ab"] < 0.02, "noise is no diversity"

    def test_the_error_is_one_for_the_mean_colour_and_none_for_the_truth(self) -> None:
        b = make_batch((24, 40), 4, torch.float32).b
        assert look(lambda image: b.mean((0, 2, 3), keepdim=True).expand_as(image))["error_ab"] == pytest.approx(1)
        truths = iter(b.split(1))
        assert look(lambda image: next(truths))["error_ab"] == 0
        there_and_back = look(lambda image: image.flip(3), False, lambda image: image.flip(3))
        assert there_and_back["error_ab"] == there_and_back["error_ba"] == 0

    def test_a_copy_changes_nothing_and_the_ends_of_the_range_are_saturation(self) -> None:
        copy = look(lambda image: image)
        assert copy["change_ab"] == 0 and copy["saturation_ab"] == pytest.approx(0, abs=0.01)
        sign = look(torch.sign)
        assert sign["saturation_ab"] == pytest.approx(1) and sign["change_ab"] > 0.3

    def test_images_that_are_black_and_white_by_nature_say_nothing_about_saturation(self) -> None:
        """Masks with soft edges: a good generator, whose edges are harder, would have been taken for a broken one."""
        masks = make_batch((24, 40), 4, torch.float32).b.sign()
        masks[:, :, :, ::20] *= 0.5  # a twentieth of the values are edges
        found = look(lambda image: image.sign(), reals=masks)
        assert "saturation_ab" not in found and "diversity_ab" in found


# -- signs -------------------------------------------------------------------------------------------------------------


def guard(objective: Any = LeastSquares, **config: Any) -> Guard:
    return Guard(GuardConfig(**({"patience": 100} | config)), objective.sure_scores, Accelerator(cpu=True))


PROBED = {"diversity_ab": 0.7, "error_ab": 0.5, "saturation_ab": 0.01, "change_ab": 0.8}
OBSERVED = {"real_b": 0.7, "fake_b": 0.3, "right_b": 0.8, "spread_b": 0.3, "gradient_generator": 10.0,
            "gradient_discriminator": 1.0}
SIGNS = {  # what the probe and the game show of each
    "constant": ({"diversity_ab": 0.001}, {}), "saturated": ({"saturation_ab": 0.97}, {}),
    "copy": ({"change_ab": 0.001}, {}), "lost": ({"error_ab": 1.5}, {}), "not_finite": ({"error_ab": NAN}, {}),
    "blind": ({}, {"spread_b": 0.0, "right_b": 0.5, "real_b": 0.5, "fake_b": 0.5}),
    "won": ({}, {"real_b": 0.995, "fake_b": 0.004, "right_b": 1.0}),
    "fooled": ({}, {"real_b": 0.1, "fake_b": 0.9, "right_b": 0.001}),
    "vanished": ({}, {"gradient_generator": 1e-9}), "exploded": ({}, {"gradient_discriminator": 1e5})}


def watch(sign: str, healthy_looks: int, looks: int, **config: Any) -> tuple[int, Trouble] | None:
    """When after the first look that shows the sign, in images, the guard does something about it, and for what."""
    watching = guard(**config)
    probed, observed = SIGNS[sign]
    for number in range(1, healthy_looks + looks + 1):
        ill = number > healthy_looks
        trouble = watching.look(20 * number, PROBED | (probed if ill else {}), OBSERVED | (observed if ill else {}))
        if trouble:
            assert ill
            return 20 * (number - healthy_looks), trouble
    return None


class TestSigns:
    @pytest.mark.parametrize("sign", SIGNS)
    def test_each_is_seen_when_it_has_lasted_and_not_before(self, sign: str) -> None:
        seen = watch(sign, 10, 40)
        assert seen is not None
        images, trouble = seen
        assert trouble.sign == sign and trouble.since == 200, "healthy at 200 images"
        assert images == (500 if sign == "won" else 100)
        assert ("generator" in str(trouble) or "discriminator" in str(trouble)) and "200 images" in str(trouble)

    @pytest.mark.parametrize("sign", sorted(SIGNS.keys() - {"lost", "exploded", "vanished"}))
    def test_what_is_there_from_the_beginning_gets_five_times_as_long(self, sign: str) -> None:
        """A fresh generator with batch norm is constant in eval mode until its running statistics have been learnt."""
        seen = watch(sign, 0, 40)
        assert seen is not None and seen[0] == 500

    @pytest.mark.parametrize("sign", SIGNS)
    def test_one_that_is_ignored_means_nothing(self, sign: str) -> None:
        assert watch(sign, 10, 60, ignore=(sign,)) is None

    @pytest.mark.parametrize("sign", SIGNS)
    def test_one_that_goes_away_in_between_begins_anew(self, sign: str) -> None:
        watching = guard()
        probed, observed = SIGNS[sign]
        for number in range(1, 200):
            ill = number > 10 and number % 4
            assert watching.look(20 * number, PROBED | (probed if ill else {}),
                                  OBSERVED | (observed if ill else {})) is None
            assert (watching.state.clear == 20 * number) == (not ill)

    def test_patience_is_in_images(self) -> None:
        for patience in (60, 200):
            seen = watch("constant", 10, 40, patience=patience)
            assert seen is not None and seen[0] == patience

    @pytest.mark.parametrize("objective", [Wasserstein, Began])
    def test_a_critic_may_be_right_and_beganss_errors_may_be_any_way_round(self, objective: Any) -> None:
        for sign in ("won", "fooled"):
            watching = Guard(GuardConfig(patience=20), objective.sure_scores, Accelerator(cpu=True))
            assert not any(watching.look(20 * number, PROBED, OBSERVED | SIGNS[sign][1]) for number in range(1, 60))

    def test_a_generator_that_was_never_good_is_not_lost(self) -> None:
        watching = guard()
        assert not any(watching.look(20 * number, PROBED | {"error_ab": 2.0 + number % 3}, OBSERVED)
                       for number in range(1, 60))

    def test_what_it_remembers_is_json_and_it_goes_on_as_if_nothing_had_been(self) -> None:
        one, other = guard(), guard()
        for number in range(1, 40):
            probed, observed = SIGNS["constant"] if number > 34 else ({}, {})
            for watching in (one, other):
                watching.note({"real_b": torch.tensor(0.1 * number)}, overflowed=False)
            packed = json.loads(json.dumps(other.pack()))
            other = guard()
            other.unpack(packed)
            found = [watching.look(20 * number, PROBED | probed, OBSERVED | observed) for watching in (one, other)]
            assert found[0] == found[1] and (found[0] is not None) == (number == 39)
            assert json.dumps(one.pack()) == json.dumps(other.pack())
        assert one.window.take(one.accelerator) == other.window.take(other.accelerator)

    def test_too_many_steps_in_a_row_are_no_accident(self) -> None:
        watching = guard(skips=3)
        for overflowed, why, limit in ((False, "not finite: the loss l1", 3), (True, "", OVERFLOW_LIMIT)):
            for number in range(limit + 1):
                assert watching.too_many_skipped() is None, number
                watching.note({}, overflowed, why)
            assert watching.too_many_skipped() is not None
            watching.note({}, overflowed=False)
            assert watching.too_many_skipped() is None


# -- numbers that are not finite ---------------------------------------------------------------------------------------


def optimizers_of(translator: Any) -> dict[str, torch.optim.Optimizer]:
    return {phase: SGD(lr=1e-2).build(parameter for network in networks.values() for parameter in network.parameters())
            for phase, networks in translator.phases.items()}


def state_of(translator: Any) -> dict[str, torch.Tensor]:
    return {f"{name}.{key}": value.clone() for name, network in translator.modules.items()
            for key, value in network.state_dict().items()}


@pytest.mark.parametrize("where", ["input", "weight", "gradient", "loss", "gradient of D"])
def test_nothing_that_is_not_finite_reaches_weights_buffers_or_pools(where: str) -> None:
    translator = build(CycleGANConfig(
        generator=ResNetConfig(width=4, blocks=1, norm="batch"), pool=3,
        discriminator=PatchGANConfig(width=4, layers=2, norm="batch", spectral=True)), torch.float32)
    batch = make_batch((32, 32), 2, torch.float32)
    network = translator.discriminator_b if where == "gradient of D" else translator.generator_ab
    first = next(network.parameters())
    if where == "input":
        batch.a[0, 0, 3, 4] = NAN
    elif where == "weight":
        first.data[0] = NAN
    elif where.startswith("gradient"):
        first.register_hook(lambda gradient: gradient * NAN)
    else:
        translator.weights = translator.weights.model_copy(update={"cycle": float("inf")})
    optimizers = optimizers_of(translator)
    before = state_of(translator)
    update = Update(translator, optimizers, Accelerator(cpu=True), memory.PLANS["split"], "fp32", guarded=True)
    with pytest.raises(NotFinite) as caught:
        translator.step(batch, update)
    named = {"input": "the loss", "weight": "the weights of generator_ab", "loss": "the loss cycle_ab",
             "gradient": "the gradient of generator_ab.", "gradient of D": "the gradient of discriminator_b."}[where]
    assert named in str(caught.value)
    for key, value in state_of(translator).items():
        if where != "gradient of D":
            torch.testing.assert_close(value, before[key], rtol=0, atol=0, equal_nan=True, msg=key)
        elif key in weights(translator) and key.startswith("discriminator"):  # the generators' phase was over
            assert torch.equal(value, before[key]), key
        assert value.isfinite().all() or where == "weight", key
    assert all(not pool.images and not pool._staged for pool in translator.pools.values())


def test_without_the_guard_they_do() -> None:
    """The proof that the test above can fail."""
    translator = build(CycleGANConfig(generator=ResNetConfig(width=4, blocks=1, norm="batch"), pool=3,
                                      discriminator=PatchGANConfig(width=4, layers=2)), torch.float32)
    batch = make_batch((32, 32), 2, torch.float32)
    batch.a[0, 0, 3, 4] = NAN
    step(translator, batch)
    assert not all(value.isfinite().all() for value in state_of(translator).values())


def test_a_gradient_that_overflows_fp16_is_the_scalers_business() -> None:
    """It leaves the step out and halves its scale; the losses are finite, and nothing is undone."""
    translator = build(CycleGANConfig(generator=ResNetConfig(width=4, blocks=1), pool=3,
                                      discriminator=PatchGANConfig(width=4, layers=2)), torch.float32)
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=0.999)
    translator.discriminator_a[0].conv.weight.data.mul_(100)
    before = {name: value.clone() for name, value in weights(translator).items()}
    optimizers = optimizers_of(translator)
    update = Update(translator, optimizers, accelerator, memory.PLANS["split"], "fp32", guarded=True)
    translator.step(make_batch((32, 32), 2, torch.float32), update)
    assert update.overflowed == ["generator", "discriminator"], update.observed
    assert not any(name.startswith("gradient") for name in update.observed)
    assert accelerator.scaler.get_scale() == pytest.approx(2.0**127 * 0.999**2)
    assert all(torch.equal(value, before[name]) for name, value in weights(translator).items())
    assert all(pool.images for pool in translator.pools.values())


# -- whole runs --------------------------------------------------------------------------------------------------------

EVERY = {"log": 4, "probe": 4, "sample": None, "checkpoint": 4, "evaluate": None}
STAGES = [{"resolution": 16, "images": 40, "batch_size": 2}]
UP_TO_20 = [{"resolution": 16, "images": 20, "batch_size": 2}]
UP_TO_32 = [{"resolution": 16, "images": 32, "batch_size": 2}]


def guarded_recipe(data: Path, **changes: Any) -> Recipe:
    return least_recipe(data, **({"every": EVERY, "guard": {"patience": 8, "skips": 3}, "stages": STAGES} | changes))


class Broken(Run):
    """A run whose generator gives the same whatever goes in, before so many steps from 20 images on."""

    left = 0

    def step(self, stage: Stage, batch: Batch) -> Update:
        if self.progress.images >= 20 and Broken.left:
            Broken.left -= 1
            with torch.no_grad():
                for parameter in self.translator.networks["generator_ab"].parameters():
                    parameter.zero_()
        return super().step(stage, batch)


def break_steps(monkeypatch: pytest.MonkeyPatch, num_steps: int) -> None:
    monkeypatch.setattr(translate.training.loop, "Run", Broken)
    monkeypatch.setattr(Broken, "left", num_steps)


def told(run: Path, what: str) -> list[dict[str, Any]]:
    return [event for event in read_lines(run / "events.jsonl") if event["what"] == what]


def test_diagnostics_are_logged_with_the_losses_and_shown_in_the_report(shared_pairs: Path, tmp_path: Path) -> None:
    """And the progress line stays with the losses."""
    shown: list[dict[str, float]] = []
    report = Silent()
    report.progress = lambda images, total, stage, losses, *_: shown.append(losses)  # type: ignore[method-assign]
    stages = [{"resolution": 16, "images": 8, "batch_size": 2}]
    for guard_config in ({}, None):
        run = tmp_path / str(guard_config)
        train(cyclegan_recipe(shared_pairs, every=EVERY, guard=guard_config, stages=stages), run, report)
        records = read_lines(run / "metrics.jsonl")
        losses, game, probes = ([record for record in records if record["kind"] == kind]
                                for kind in ("train", "game", "probe"))
        assert [record["images"] for record in game] == [record["images"] for record in losses] == [4, 8]
        assert [record["images"] for record in probes] == [4, 8]
        assert {f"{what}_{side}" for what in ("real", "fake", "right", "spread") for side in "ab"} < game[0].keys()
        assert all(record[f"gradient_{phase}"] > 0 for record in game for phase in ("generator", "discriminator"))
        assert {f"{what}_{direction}" for what in ("diversity", "error", "saturation", "change")
                for direction in ("ab", "ba")} < probes[0].keys()
        page = (run / "report.html").read_text()
        for title in ("How the game stands", "discriminator a: real and fake", "gradient of the generators",
                      "diversity of the probe&#39;s outputs", "how often discriminators are right"):
            assert title in page, title
    assert shown[-1].keys() == losses[-1].keys() - {"images", "kind", "stage", "lr", "images_per_second", "peak_bytes"}


@pytest.mark.parametrize("make", one_in(2, [pix2pix_recipe, cyclegan_recipe]))
def test_looking_changes_nothing(make: Any, shared_pairs: Path, tmp_path: Path) -> None:
    """The same weights with the guard and its looks, and without."""
    found = []
    for guard_config, probe in (({}, 4), (None, 1000)):
        run = tmp_path / str(probe)
        short = {"stages": [{"resolution": 64 if make is pix2pix_recipe else 16, "images": 8, "batch_size": 2}]}
        train(make(shared_pairs, every=EVERY | {"probe": probe}, guard=guard_config, **short), run, Silent())
        found.append({name: entry for name, entry in final_state(run).items() if "rator" in name or "rank" in name})
    assert found[0] == found[1]


def test_a_collapse_that_passes_is_rolled_back_and_the_run_goes_on_with_other_data(
        shared_pairs: Path, tmp_path: Path, trained: Callable[[Recipe], Path],
        monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = guarded_recipe(shared_pairs, stages=UP_TO_32)
    whole = trained(recipe)
    break_steps(monkeypatch, 4)
    run, report = tmp_path / "run", Silent()
    shown: list[tuple[int, dict[str, float]]] = []
    report.progress = lambda images, total, stage, losses, *_: shown.append((images, losses))  # type: ignore[method-assign]
    train(recipe, run, report)
    assert [losses for (before, _), (images, losses) in pairwise(shown) if images < before] == [{}]
    (collapse,), (rollback,) = told(run, "collapse"), told(run, "rollback")
    assert "constant: generator_ab" in collapse["message"] and collapse["images"] == 28
    assert rollback["images"] == 20 and "rollback 1 of 3" in rollback["message"]
    assert any("constant: generator_ab" in line for line in report.lines)
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["rollbacks"], status["images"]) == ("finished", 1, 32)
    assert [record["images"] for record in read_lines(run / "metrics.jsonl") if record["kind"] == "train"] == list(
        range(4, 33, 4)), "what was undone is recorded once"
    assert "back to the healthy checkpoint at 20 images" in (run / "report.html").read_text()
    assert final_state(run)["generator_ab.safetensors"] != final_state(whole)["generator_ab.safetensors"], "other data"


@pytest.mark.slow
@pytest.mark.parametrize("at", [22, pytest.param(26, marks=pytest.mark.slow)])
def test_a_run_that_was_rolled_back_resumes_bit_identically(at: int, shared_pairs: Path, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken off right after the rollback, and later: its count, and with it the seed of the data, are kept."""
    found = []
    for name in ("broken", "whole"):
        break_steps(monkeypatch, 4)
        run = tmp_path / name
        if name == "broken":
            train_after_rollback(guarded_recipe(shared_pairs), run, at)
        train(guarded_recipe(shared_pairs), run, Silent(), resume=name == "broken")
        found.append(final_state(run))
        assert json.loads((run / "status.json").read_text())["rollbacks"] == 1
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_kill_while_a_rollback_replaces_the_only_checkpoint_costs_nothing(
        shared_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All newer ones are gone by then, and the healthy one has another name for an instant."""
    break_steps(monkeypatch, 4)
    run, report, rename = tmp_path / "run", Silent(), Path.rename

    def killed(path: Path, target: Path) -> Path:
        if list(path.parent.glob(".tmp-old-*")):
            raise KeyError("killed")
        return rename(path, target)

    with monkeypatch.context() as until_the_kill, pytest.raises(KeyError, match="killed"):
        until_the_kill.setattr(Path, "rename", killed)
        train(guarded_recipe(shared_pairs), run, Silent())
    assert newest_checkpoint(run / "checkpoints") == (None, []), "the construction does what it says"
    train(guarded_recipe(shared_pairs), run, report, resume=True)
    assert any("resumed at 20 images" in line for line in report.lines)
    assert not list((run / "checkpoints").glob(".tmp-*"))


def train_after_rollback(recipe: Recipe, folder: Path, images: int) -> None:
    """Train until so many images are seen for the second time, and break off without any goodbye."""
    times: list[int] = []

    def stop(seen: int) -> None:
        times.append(seen)
        if seen >= images and any(later < earlier for earlier, later in pairwise(times)):
            raise KeyError("stopped by the test")

    with pytest.raises(KeyError, match="stopped by the test"):
        train(recipe, folder, Silent(stop))


def test_one_that_does_not_pass_ends_within_the_bound_and_names_its_cause(
        shared_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_steps(monkeypatch, 10_000)
    run = tmp_path / "run"
    with pytest.raises(Collapsed, match=r"given up at 28 images, 2 rollbacks have not helped\. constant: generator_ab "
                                        r"gives .* since 20 images\. docs/training\.md"):
        train(guarded_recipe(shared_pairs, guard={"patience": 8, "rollbacks": 2}), run, Silent())
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["exit_code"], status["rollbacks"]) == ("failed", 6, 2)
    assert [len(told(run, what)) for what in ("collapse", "rollback")] == [3, 2]
    assert "given up at 28 images" in (run / "report.html").read_text()
    newest, _ = newest_checkpoint(run / "checkpoints")
    assert newest is not None and not (run / "release").exists()


def test_before_there_is_a_checkpoint_it_goes_back_to_the_beginning(
        shared_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_steps(monkeypatch, 4)
    train_after_rollback(guarded_recipe(shared_pairs, every=EVERY | {"checkpoint": 1000}), tmp_path / "run", 2)
    (rollback,) = told(tmp_path / "run", "rollback")
    assert rollback["images"] == 0


@pytest.mark.slow
def test_it_goes_back_over_the_border_of_a_stage(shared_pairs: Path, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    break_steps(monkeypatch, 4)
    stages = [{"resolution": 16, "images": 22, "batch_size": 2}, {"resolution": 20, "images": 18, "batch_size": 2}]
    report, left = Silent(), list[tuple[int, bool]]()
    monkeypatch.setattr(report, "progress", lambda images, total, stage, losses, seconds_left, stage_number:
                        left.append((images, seconds_left is not None)))
    train(guarded_recipe(shared_pairs, stages=stages), tmp_path / "run", report)
    (rollback,) = told(tmp_path / "run", "rollback")
    assert rollback["images"] == 20
    assert [is_told for images, is_told in left if images == 20] == [True, False], "no time left where it went back to"
    assert [event["stage"] for event in told(tmp_path / "run", "stage")] == [0, 1, 0, 1]
    assert final_state(tmp_path / "run")["images"] == f"{40:012d}"


def test_the_healthy_checkpoint_is_kept_for_as_long_as_there_is_a_sign(
        shared_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two newer ones would crowd it out."""
    break_steps(monkeypatch, 10_000)
    with pytest.raises(Collapsed):
        train(guarded_recipe(shared_pairs, guard={"patience": 16, "rollbacks": 0}), tmp_path / "run", Silent())
    assert [int(path.name) for path in sorted((tmp_path / "run" / "checkpoints").iterdir())] == [20, 28, 32]


class Blinded(Run):
    """A run that gets images that are not finite in the steps whose numbers are in `at`."""

    at: tuple[int, ...] = ()
    number = 0

    def step(self, stage: Stage, batch: Batch) -> Update:
        Blinded.number += 1
        if Blinded.number in self.at:
            batch.a[0, 0, 5, 6] = NAN
        return super().step(stage, batch)


def blind_steps(monkeypatch: pytest.MonkeyPatch, *at: int) -> None:
    monkeypatch.setattr(translate.training.loop, "Run", Blinded)
    monkeypatch.setattr(Blinded, "at", at)
    monkeypatch.setattr(Blinded, "number", 0)


def test_a_step_whose_numbers_are_not_finite_is_left_out(shared_pairs: Path, tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on behind it, in its learning rate and its data too."""
    blind_steps(monkeypatch, 3, 4, 9)
    run = tmp_path / "run"
    train(guarded_recipe(shared_pairs, stages=UP_TO_20), run, Silent())
    skipped = told(run, "skipped")
    assert [event["images"] for event in skipped] == [4, 6, 16]
    assert "the loss" in skipped[0]["message"] and "number 1 of this run" in skipped[0]["message"]
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["skipped_steps"], status["rollbacks"]) == ("finished", 3, 0)
    assert "number 3 of this run" in (run / "report.html").read_text()


def test_more_of_them_in_a_row_than_may_be_end_the_run(shared_pairs: Path, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    blind_steps(monkeypatch, *range(5, 100))
    with pytest.raises(Collapsed, match=r"not_finite: 4 steps in a row were left out, the last for: discriminator"):
        train(guarded_recipe(shared_pairs), tmp_path / "run", Silent())
    assert len(told(tmp_path / "run", "rollback")) == 3


def test_a_weight_that_is_not_finite_is_healed_from_the_checkpoint(shared_pairs: Path, tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    struck: list[int] = []

    class Struck(Run):
        def step(self, stage: Stage, batch: Batch) -> Update:
            if self.progress.images == 18 and not struck:
                struck.append(1)
                next(self.translator.networks["generator_ab"].parameters()).data[0] = NAN
            return super().step(stage, batch)

    monkeypatch.setattr(translate.training.loop, "Run", Struck)
    train(guarded_recipe(shared_pairs, stages=UP_TO_32), tmp_path / "run", Silent())
    (rollback,) = told(tmp_path / "run", "rollback")
    assert rollback["images"] == 16 and "the weights of generator_ab" in told(tmp_path / "run", "skipped")[0]["message"]
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "finished"


@pytest.mark.parametrize("option", one_in(6, list(GuardConfig.model_fields)))
def test_every_option_of_the_guard_changes_what_it_does(option: str, shared_pairs: Path, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen in when, and how often, a training that stays constant is told of, or one whose images are not finite."""
    value = {"patience": 12, "rollbacks": 1, "ignore": ["constant"], "skips": 5}[option]
    found = []
    for changed in ({}, {option: value}):
        if option == "skips":
            blind_steps(monkeypatch, *range(5, 100))
        else:
            break_steps(monkeypatch, 10_000)
        run = tmp_path / f"{option} {len(changed)}"
        with suppress(Collapsed):
            train(guarded_recipe(shared_pairs, guard={"patience": 8, "skips": 3, "rollbacks": 0} | changed), run,
                  Silent())
        found.append([event["images"] for event in told(run, "collapse")])
    assert found == [[28] if option != "skips" else [16], {"patience": [32], "rollbacks": [28, 28], "ignore": [],
                                                           "skips": [20]}[option]]


@pytest.mark.slow
def test_while_the_discriminators_warm_up_alone_nothing_is_a_sign(shared_pairs: Path, tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    break_steps(monkeypatch, 10_000)
    recipe = guarded_recipe(shared_pairs).dump()
    for warmup, alarms in ((40, []), (24, [32])):
        recipe["translator"]["pace"]["warmup"] = warmup
        with suppress(Collapsed):
            train(guarded_recipe(shared_pairs, translator=recipe["translator"], guard={"patience": 8, "rollbacks": 0}),
                  tmp_path / str(warmup), Silent())
        assert [event["images"] for event in told(tmp_path / str(warmup), "collapse")] == alarms


@pytest.mark.slow
def test_without_a_guard_nobody_watches(shared_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_steps(monkeypatch, 10_000)
    train(guarded_recipe(shared_pairs, guard=None), tmp_path / "run", Silent())
    assert not told(tmp_path / "run", "collapse")
    assert [int(path.name) for path in sorted((tmp_path / "run" / "checkpoints").iterdir())] == [36, 40]


@pytest.mark.parametrize("name", one_in(6, ["NaN weight", "constant output", "identity copy", "saturated output",
                                            "dead discriminator", "NaN running statistics"]))
def test_failures_of_the_zoo_are_seen_and_named_in_small(name: str, shared_pairs: Path, tmp_path: Path) -> None:
    failure = PERSISTENT[name]
    translator = TRANSLATORS["pix2pix lsgan"]
    if "statistics" not in name:
        translator = translator | {"generator": RESNET}  # batch norm's have to be learnt first: hundreds of images
    recipe = recipe_of(shared_pairs, translator, 0, images=60, every=EVERY,
                       guard={"patience": 8, "skips": 3, "rollbacks": 0})
    with broken(failure, onset=20), pytest.raises(Collapsed):
        train(recipe, tmp_path / "run", Silent())
    (collapse,) = told(tmp_path / "run", "collapse")
    assert collapse["message"].split(": ")[1] in failure.signs and 20 < collapse["images"] <= 32


@pytest.mark.slow
def test_the_zoo_shows_every_failure_and_no_healthy_training_alarms(tmp_path: Path) -> None:
    """The table of docs/training.md, made again."""
    prepare(find_card("earth"), tmp_path)
    ran = subprocess.run([sys.executable, "tools/guard_zoo.py", "--data", str(tmp_path / "earth")], cwd=ROOT,
                         capture_output=True, text=True, check=True)
    assert f"recall: {len(PERSISTENT)} of {len(PERSISTENT)}" in ran.stdout, ran.stdout
    assert "| 0 false alarms |" in ran.stdout, ran.stdout
    worst = [float(found) for found in re.findall(r"\| ([+-]\d+\.\d)%", ran.stdout)]
    assert len(worst) >= len(TRANSIENT) and max(worst) <= 10 and "GIVEN UP" not in ran.stdout, ran.stdout


def test_a_resume_may_change_the_guard_and_take_it_from_there(shared_pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_until(guarded_recipe(shared_pairs, guard=None, stages=UP_TO_20), run, 10)
    train(guarded_recipe(shared_pairs, stages=UP_TO_20), run, Silent(), resume=True)
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    with pytest.raises(RunError, match="seed"):
        train(guarded_recipe(shared_pairs, seed=2, stages=UP_TO_20), run, Silent(), resume=True)


@pytest.mark.slow
def test_two_processes_see_and_do_the_same(shared_pairs: Path, tmp_path: Path) -> None:
    """One of them gets images that are not finite, later the generator of both collapses: they skip and go back
    together, and end with the same weights."""
    recipe = guarded_recipe(shared_pairs)
    run = tmp_path / "run"
    debug_launcher(train_and_collapse, (recipe, run), num_processes=2)
    assert told(run, "skipped") and len(told(run, "collapse")) == len(told(run, "rollback")) == 1
    one, two = (torch.load(tmp_path / "run" / f"{rank}.pt") for rank in range(2))
    assert one["rollbacks"] == two["rollbacks"] == 1 and one["seed"] == two["seed"]
    for name, value in one["weights"].items():
        assert torch.equal(value, two["weights"][name]), name
