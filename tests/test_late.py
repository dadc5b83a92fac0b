"""Steps that are judged one step late end where steps end that are judged at once, and no host waits within them.

A GPU judges late. Here a CPU is told to: the code is the same, and its kernels take the same flags.
"""

from __future__ import annotations

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import translate.training.late
import translate.training.loop
from tests.covering import each_value, one_in
from tests.games import GAMES, game, kinds_of
from tests.runs import Silent, cyclegan_recipe, final_state, pix2pix_recipe, stabilised_recipe
from tests.steps import build, make_batch, weights
from translate.data import Batch
from translate.foreign import read_lines
from translate.networks import PatchGANConfig, ResNetConfig, memory
from translate.optimizers import SGD, Adam, RMSprop, lay_like_weights, may_be_left_out, step
from translate.recipe import Recipe, Stage
from translate.training.built import parameters_of
from translate.training.late import LateStep, judges_late
from translate.training.loop import Run, train
from translate.training.processes import Means
from translate.training.step_on_meta import MetaAccelerator, MetaUpdate, build_on_meta
from translate.training.update import NotFinite, Update
from translate.translators import CycleGANConfig
from translate.translators.cyclegan import CycleGAN

NAN = float("nan")


class Struck(Run):
    """A run in which steps 2 and 5 see an image that is not finite, and in 6 a gradient of D is not."""

    number = 0

    def step(self, stage: Stage, batch: Batch) -> Update:
        Struck.number += 1
        if Struck.number in (2, 5):
            batch.a[0, 0, 5, 6] = NAN
        weight = next(self.translator.networks["discriminator_b"].parameters())
        if Struck.number != 6:
            return super().step(stage, batch)
        handle = weight.register_hook(lambda gradient: gradient * NAN)
        update = super().step(stage, batch)
        handle.remove()
        return update


def batch_norm_recipe(data: Path, /, **changes: Any) -> Recipe:
    """A CycleGAN whose buffers move: running statistics, and the vectors of a spectral norm."""
    return cyclegan_recipe(data, translator={
        "kind": "cyclegan", "generator": {"kind": "resnet", "width": 2, "blocks": 1, "norm": "batch"}, "pool": 3,
        "ema": 0.9, "discriminator": {"kind": "patchgan", "width": 2, "layers": 1, "norm": "batch", "spectral": True},
    }, **changes)


RECIPES = {"batch norm": batch_norm_recipe, "pix2pix": pix2pix_recipe, "stabilised": stabilised_recipe}
STAGES = [{"resolution": 16, "images": 14, "batch_size": 2}]  # seven steps
EVERY = {"log": 6, "probe": 8, "sample": None, "checkpoint": 10, "evaluate": None}


def left_by(recipe: Recipe, run: Path, late: bool, monkeypatch: pytest.MonkeyPatch, kind: type[Run] = Struck) -> Any:
    """What a run leaves: all of its last checkpoint, what it recorded, and what it told of steps that are left out."""
    monkeypatch.setattr(translate.training.loop, "Run", kind)
    monkeypatch.setattr(translate.training.loop, "judges_late", lambda *arguments: late)
    monkeypatch.setattr(Struck, "number", 0)
    train(recipe, run, Silent())
    told = [(event["images"], event["message"]) for event in read_lines(run / "events.jsonl")
            if event["what"] == "skipped"]
    measured = {"images_per_second", "peak_bytes", "time"}
    recorded = [{name: value for name, value in record.items() if name not in measured}
                for record in read_lines(run / "metrics.jsonl")]
    return final_state(run), recorded, told


@pytest.mark.parametrize("name", ["batch norm", *(pytest.param(name, marks=pytest.mark.slow)
                                                  for name in RECIPES if name != "batch norm")])
def test_a_run_that_is_judged_late_ends_bit_for_bit_where_one_does_that_is_judged_at_once(
        name: str, shared_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, moments, counts of steps, running statistics, averages, pools and their chance, records, what is told:
    also where a generator's or a discriminator's phase is left out, alone and in a row."""
    recipe = RECIPES[name](shared_pairs, every=EVERY, **{"stages": STAGES} if name == "batch norm" else {})
    at_once = left_by(recipe, tmp_path / "at once", False, monkeypatch)
    assert len(at_once[2]) >= 2, at_once[2]
    assert left_by(recipe, tmp_path / "late", True, monkeypatch) == at_once


@each_value(first=["generator", "discriminator"], fault=["not finite", "out of memory"])
def test_a_generator_phase_that_fails_takes_no_fakes_of_others_from_the_pools(
        first: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does when those of the step before, or of this step's discriminators, are staged only; it is done again, or
    left out."""
    def trained(late: bool) -> Any:
        config = CycleGANConfig(generator=ResNetConfig(width=2, blocks=1), pool=3, pace={"first": first},
                                discriminator=PatchGANConfig(width=2, layers=1))
        translator, unsettled, failures, told = build(config, torch.float32), [], [], []
        optimizers = {phase: Adam().build(parameters_of(translator, phase)) for phase in translator.phases}
        train_generators = CycleGAN.train_generators

        def failing(*arguments: Any) -> Any:
            fakes = train_generators(*arguments)
            failures.append(len(failures) == 1)  # in step 1, once
            if failures[-1] and fault == "not finite":
                next(translator.generator_ab.parameters()).grad[0] = NAN
            elif failures[-1]:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return fakes

        def settle() -> None:  # as a run does
            while unsettled:
                told.append(unsettled.pop().judge())

        with monkeypatch.context() as patch:
            patch.setattr(CycleGAN, "train_generators", failing)
            for number in range(2):
                update = Update(translator, optimizers, Accelerator(cpu=True), memory.PLANS["split"], "fp32",
                                number=number, guarded=True, late=late, settle=settle)
                try:
                    translator.step(make_batch((16, 16), 2, torch.float32), update)
                except NotFinite as error:
                    told.append(str(error))
                newest = [LateStep(update)] if late else []
                settle()
                unsettled += newest
        settle()
        assert sum(failures) == 1 and any(told) == (fault == "not finite"), told
        return {name: value.tolist() for name, value in weights(translator).items()}, [
            ([image.tolist() for image in images], chance)
            for images, chance in (pool.state() for pool in translator.pools.values())]

    assert trained(late=True) == trained(late=False)


READS = {"item", "tolist", "numpy", "cpu", "nonzero", "equal", "allclose", "is_nonzero", "masked_select", "unique",
         "__bool__", "__float__", "__int__", "__index__", "__contains__"}


class Waits(TorchFunctionMode):
    """Counts what would make the host wait for a GPU: values that are read, copies that are not asynchronous."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.inside = _Inside(self.found)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if name in READS:
            self.found.append(name)
        if name in ("tensor", "as_tensor") and torch.device(kwargs.get("device") or "cpu").type != "cpu":
            self.found.append(f"{name} on a device")
        if name == "to" and not kwargs.get("non_blocking"):
            wanted = [each.device if isinstance(each, Tensor) else each
                      for each in (*args[1:], kwargs.get("device"), kwargs.get("other"))
                      if isinstance(each, str | torch.device | Tensor)]
            # Within a device nothing waits; "cpu" by name is where the host is meant, also in a test on a CPU.
            if any(each == "cpu" or torch.device(each).type != args[0].device.type for each in wanted):
                self.found.append("to")
        if name == "copy_" and not (kwargs.get("non_blocking") or args[2:]) and args[0].device != args[1].device:
            self.found.append("copy_")
        return function(*args, **kwargs)

    def __enter__(self) -> Waits:
        self.inside.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.inside.__exit__(*error)


class _Inside(TorchDispatchMode):
    """The same of what torch itself reads, as an optimizer may."""

    def __init__(self, found: list[str]):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero,
                                       torch.ops.aten.equal, torch.ops.aten.masked_select):
            self.found.append(str(function))
        return function(*args, **kwargs or {})


class Counted(Run):
    """A run that counts how often a step, with all that follows it, would wait."""

    waits: ClassVar[list[list[str]]] = []

    def step(self, stage: Stage, batch: Batch) -> Update:
        with Waits() as waits:
            update = super().step(stage, batch)
        Counted.waits.append(waits.found)
        return update

    def advance(self, num_images: int) -> None:
        with Waits() as waits:
            super().advance(num_images)
        Counted.waits[-1] += waits.found


@pytest.mark.parametrize("name", ["batch norm", pytest.param("pix2pix", marks=pytest.mark.slow)])
def test_between_two_records_a_step_waits_for_nothing_but_the_flags_of_the_step_before(
        name: str, shared_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Judged at once, each phase waits: the proof that the count sees that."""
    stages = [{"resolution": 64 if name == "pix2pix" else 16, "images": 8, "batch_size": 2}]
    every = {"log": 8, "probe": 8, "sample": None, "checkpoint": 8, "evaluate": None}
    counts = []
    for late in (True, False):
        monkeypatch.setattr(Counted, "waits", [])
        left_by(RECIPES[name](shared_pairs, stages=stages, every=every), tmp_path / str(late), late, monkeypatch,
                Counted)
        counts.append(Counted.waits[1:-1])  # the first step saves a checkpoint, the last ends with a record
    assert counts[0] == [["tolist"]] * 2, counts[0]
    assert all(counts[1]), counts[1]


class LateOnMeta(MetaUpdate):
    """An update that judges late, on shapes alone: reading a value is an error there."""

    step_optimizer = Update.step_optimizer


@pytest.mark.parametrize(("name", "kind"), one_in(40, [(name, kind) for name in GAMES for kind in kinds_of(name)]))
def test_no_translator_reads_a_value_or_waits_for_a_copy(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the fused kernel itself, which the meta device has not."""
    monkeypatch.setattr(translate.training.late, "step", lambda optimizer, is_left_out: None)
    translator = build_on_meta(game(name, kind), (3, 3))
    optimizers = {phase: Adam(clip=1.0).build(parameters_of(translator, phase)) for phase in translator.phases}
    update = LateOnMeta(translator, optimizers, cast(Any, MetaAccelerator()), memory.PLANS["split"], "fp32",
                        guarded=True, late=True)
    a, b = (torch.empty(2, 3, 32, 32, device="meta") for _ in range(2))
    kept = Means()
    with Waits() as waits:
        translator.step(Batch(a, b, (1, 2), has_unknown=True), update)
        late = LateStep(update)
        kept.add(update.losses | update.observed)
        translator.update_ema(2, 2)
    assert waits.found == [] and late.flags is not None
    with pytest.raises((NotImplementedError, RuntimeError)):  # the proof that values cannot be read
        late.judge()


class TestLeavingOut:
    def test_a_step_that_is_left_out_changes_no_weight_no_moment_and_no_count(self) -> None:
        for config in (Adam(), SGD(lr=0.1)):
            weight = nn.Parameter(torch.ones(3))
            optimizer = config.build([weight])
            weight.grad = torch.ones(3)
            step(optimizer, torch.tensor(0.0))
            before = {name: value.clone() for name, value in optimizer.state[weight].items() if value is not None}
            then = weight.detach().clone()
            weight.grad = torch.full((3,), NAN)
            step(optimizer, torch.tensor(1.0))
            assert torch.equal(weight, then) and not torch.equal(then, torch.ones(3))
            assert all(torch.equal(optimizer.state[weight][name], value) for name, value in before.items())

    @pytest.mark.parametrize("image", [0.5, NAN])
    def test_a_wasserstein_critic_is_clipped_only_after_a_step_that_counts(self, image: float) -> None:
        """Its weights begin beyond the bound."""
        translator = build(game("wasserstein", "pix2pix"), torch.float32)
        optimizers = {phase: Adam().build(parameters_of(translator, phase)) for phase in translator.phases}
        before = {name: value.clone() for name, value in weights(translator).items()}
        update = Update(translator, optimizers, Accelerator(cpu=True), memory.PLANS["split"], "fp32", guarded=True,
                        late=True)
        batch = make_batch((32, 32), 2, torch.float32)
        batch.a[0, 0, 3, 4] = image
        translator.step(batch, update)
        counts = not LateStep(update).judge()
        assert counts == (image == 0.5)
        assert all(torch.equal(value, before[name]) for name, value in weights(translator).items()) != counts
        critic = [value.abs().max() for name, value in weights(translator).items() if "discriminator" in name]
        assert (float(max(critic)) <= torch.tensor(0.01)) == counts

    def test_optimizers_without_such_a_flag_have_steps_judged_at_once(self) -> None:
        accelerator = cast(Any, SimpleNamespace(device=torch.device("cuda"), num_processes=1))
        for config, can in ((Adam(), True), (SGD(), True), (SGD(momentum=0.9), False), (RMSprop(), False)):
            optimizer = config.build([nn.Parameter(torch.ones(3))])
            assert may_be_left_out(optimizer) == can, config
            assert can or optimizer.defaults.get("fused") is None, "torch would not step many weights at once"
            assert judges_late(accelerator, {"generator": optimizer}) == can
        adam = {"generator": Adam().build([nn.Parameter(torch.ones(3))])}
        assert not judges_late(Accelerator(cpu=True), adam), "a CPU has nothing to wait for"
        accelerator.num_processes = 2
        assert not judges_late(accelerator, adam)


@pytest.mark.parametrize("config", [Adam(), SGD(lr=0.1)], ids=["adam", "sgd"])
def test_a_gradient_that_lies_otherwise_in_memory_than_its_weight_is_not_mistaken(config: Any) -> None:
    """Of the fused steps of a CPU, which torch lets read each weight's gradient from another place."""
    def trained(layout: torch.memory_format, fused: bool) -> Tensor:
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(6, 4, 3, 3))
        optimizer = config.build([weight])
        optimizer.param_groups[0]["fused"] = fused
        for _ in range(3):
            weight.grad = torch.randn(6, 4, 3, 3).contiguous(memory_format=layout)
            lay_like_weights(optimizer)
            optimizer.step()
        return weight.detach()

    expected = trained(torch.contiguous_format, fused=False)
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.testing.assert_close(trained(layout, fused=True), expected, rtol=0, atol=1e-7)


def test_under_fp16s_scaler_an_overflow_leaves_out_the_optimizer_and_a_broken_loss_the_step(
        monkeypatch: pytest.MonkeyPatch) -> None:
    """The scaler of a CPU, as in tests/test_guard.py: a gradient that overflows is no reason to end the step."""
    train_discriminators = CycleGAN.train_discriminators

    def scored(translator: CycleGAN, score: float, batch: Batch, fakes: Any, update: Update) -> None:
        train_discriminators(translator, batch, fakes, update)
        update.record("score", torch.tensor(score))

    for image, score, why, overflowed in ((0.5, 0.0, "", ["generator", "discriminator"]), (NAN, 0.0, "the loss", []),
                                          (0.5, NAN, "the loss", ["generator"])):
        translator = build(CycleGANConfig(generator=ResNetConfig(width=4, blocks=1), pool=3,
                                          discriminator=PatchGANConfig(width=4, layers=2)), torch.float32)
        translator.discriminator_a[0].conv.weight.data.mul_(100)
        accelerator = Accelerator(cpu=True)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=0.999)
        optimizers = {phase: Adam().build(parameters_of(translator, phase)) for phase in translator.phases}
        before = {name: value.clone() for name, value in weights(translator).items()}
        update = Update(translator, optimizers, accelerator, memory.PLANS["split"], "fp32", guarded=True, late=True)
        batch = make_batch((32, 32), 2, torch.float32)
        batch.a[0, 0, 3, 4] = image
        with monkeypatch.context() as patch:
            patch.setattr(CycleGAN, "train_discriminators", functools.partialmethod(scored, score))
            translator.step(batch, update)
        told = LateStep(update).judge()
        assert (why in told if why else told == "") and update.overflowed == overflowed
        assert not any(name.startswith("gradient") for name in update.observed)
        assert all(torch.equal(value, before[name]) for name, value in weights(translator).items())
        assert all(bool(pool.images) != bool(why) for pool in translator.pools.values())
        assert accelerator.scaler.get_scale() == pytest.approx(2.0**127 * 0.999**2)
