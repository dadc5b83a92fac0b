"""Split backward gives the gradients of the joint loss, and a phase leaves nothing behind that it should not."""

from __future__ import annotations

import functools
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator, debug_launcher
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.bounds import RoundingBound
from tests.covering import each_value
from tests.steps import LR, build, gradients, make_batch, step, weights, worst_error
from tests.textbook import cut_reference, cyclegan_reference, pix2pix_reference
from translate.errors import DoesNotFit
from translate.losses import LeastSquares
from translate.networks import PatchGANConfig, PixelConfig, ResNetConfig, UNetConfig, memory
from translate.networks.dropout import seed_dropout
from translate.networks.live_bytes import LiveBytes
from translate.optimizers import SGD
from translate.precision import is_out_of_memory
from translate.training.update import Update
from translate.translators import CUTConfig, CycleGANConfig, Pix2PixConfig, Translator

RESNET = ResNetConfig(width=4, blocks=2)
UNET = UNetConfig(width=4, downs=5, norm="instance")
PATCH = PatchGANConfig(width=4, layers=2)
PLANS = ["plain", "split", "replay"]  # what Update itself does; tests/test_memory.py has all plans

CYCLEGANS = {
    "resnet": CycleGANConfig(generator=RESNET, discriminator=PATCH, pool=0),
    "resnet-resize-no-identity": CycleGANConfig(generator=ResNetConfig(width=4, blocks=1, upsample="resize"),
                                                discriminator=PixelConfig(width=4), pool=0,
                                                weights={"identity": 0.0}),
    "unet-batch-dropout": CycleGANConfig(generator=UNetConfig(width=4, downs=6), discriminator=PATCH, pool=0),
}
PIX2PIXS = {
    "unet": Pix2PixConfig(generator=UNET, discriminator=PATCH),
    "unet-batch-dropout": Pix2PixConfig(generator=UNetConfig(width=4, downs=6),
                                        discriminator=PatchGANConfig(width=4, layers=2, norm="batch")),
    "ssim": Pix2PixConfig(generator=UNET, discriminator=PATCH, weights={"ssim": 100.0}),
    "resnet-lsgan": Pix2PixConfig(generator=RESNET, discriminator=PATCH, objective=LeastSquares()),
}

CUTS = {
    "resnet": CUTConfig(generator=RESNET, discriminator=PATCH, patches=20),
    "resnet-flipped-no-identity": CUTConfig(generator=ResNetConfig(width=4, blocks=5, norm="none"),
                                            discriminator=PATCH, patches=20, weights={"nce": 10.0, "identity": 0.0},
                                            flip_equivariance=True),
    "unet-batch-dropout": CUTConfig(generator=UNetConfig(width=4, downs=6), discriminator=PATCH, patches=20),
}


CONFIGS = {f"{kind}-{name}": config for kind, configs in (("cyclegan", CYCLEGANS), ("pix2pix", PIX2PIXS), ("cut", CUTS))
           for name, config in configs.items()}
REFERENCES = {"cyclegan": cyclegan_reference, "pix2pix": pix2pix_reference, "cut": cut_reference}


@functools.cache
def joint_step(name: str, size: tuple[int, int]) -> tuple[dict[str, Tensor], RoundingBound]:
    """The gradients of one joint backward pass, from the independent reference of tests/textbook.py, and their bound.
    """
    def joint() -> dict[str, Tensor]:
        translator, batch = build(CONFIGS[name]), make_batch(size)
        seed_dropout(translator.networks.values(), batch.keys)
        return REFERENCES[CONFIGS[name].kind](translator, batch, LR)

    expected = joint()
    return expected, RoundingBound(expected, joint)


@each_value(share=12, name=list(CONFIGS), size={"square": (32, 32), "odd": (33, 50)}, plan=PLANS)
def test_gradients_equal_one_joint_backward_pass(name: str, size: tuple[int, int], plan: str) -> None:
    translator = build(CONFIGS[name])
    step(translator, make_batch(size), plan, lr=LR)
    expected, bound = joint_step(name, size)
    assert worst_error(gradients(translator), expected) <= bound


@each_value(share=3, name=["cyclegan-resnet", "pix2pix-unet", "cut-resnet-flipped-no-identity"], plan=PLANS)
def test_micro_batches_give_the_gradients_of_the_whole_batch(name: str, plan: str) -> None:
    def stepped(micro_batch: int | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        translator = build(CONFIGS[name])
        losses = step(translator, make_batch((32, 32), samples=3), plan, micro_batch).losses
        return gradients(translator), losses

    expected, losses = stepped()
    found, split = stepped(micro_batch=2)
    assert worst_error(found, expected) <= RoundingBound(expected, lambda: stepped()[0])
    for loss, value in losses.items():
        torch.testing.assert_close(split[loss], value)


def test_a_phase_trains_its_own_networks_and_no_others() -> None:
    translator, batch = build(CYCLEGANS["resnet"]), make_batch((32, 32))
    before = {name: [parameter.clone() for parameter in network.parameters()]
              for name, network in translator.networks.items()}
    optimizers = {"generator": SGD(lr=1e-3).build(parameter for network in translator.phases["generator"].values()
                                                  for parameter in network.parameters())}
    update = Update(translator, optimizers, Accelerator(cpu=True), memory.PLANS["split"], "fp32")
    update.phase("generator", translator.train_generators, batch)
    for name, network in translator.networks.items():
        moved = any(not torch.equal(old, new) for old, new in zip(before[name], network.parameters(), strict=True))
        assert moved == name.startswith("generator"), name
        assert all(parameter.requires_grad for parameter in network.parameters())
        if name.startswith("discriminator"):
            assert all(parameter.grad is None for parameter in network.parameters())


def test_the_cut_is_in_float32_under_autocast() -> None:
    """The sum of several scaled half-precision gradients could overflow."""
    translator, batch = build(CYCLEGANS["resnet"], torch.float32), make_batch((32, 32), dtype=torch.float32)
    update = Update(translator, {}, Accelerator(cpu=True), memory.PLANS["split"], "bf16")
    with update.autocast(), update.fake(translator.generator_ab, batch.a) as fake:
        assert fake.dtype == torch.float32 and fake.is_leaf and fake.requires_grad
        assert translator.generator_ba(fake).dtype == torch.bfloat16


def test_a_pools_exchanges_count_when_the_phase_has_ended_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    translator = build(CYCLEGANS["resnet"].model_copy(update={"pool": 3}))
    batch = make_batch((32, 32))
    step(translator, batch)
    assert len(translator.pools["pool_b"].images) == 2

    def judge(*arguments: Any) -> None:  # is given fakes from the pool
        raise RuntimeError("broken")

    monkeypatch.setattr(translator, "tell_apart", judge)
    with pytest.raises(RuntimeError, match="broken"):
        step(translator, batch)
    assert len(translator.pools["pool_a"].images) == 2


class Scaled:
    """An accelerator of one process with fp16's gradient scaler, which torch also has for CPUs."""

    device, num_processes = torch.device("cpu"), 1

    def __init__(self, scale: float):
        self.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)


def scaled_step(plan: str, scale: float, num_steps: int = 1) -> tuple[Translator, Scaled]:
    config = CycleGANConfig(generator=ResNetConfig(width=8, blocks=2), discriminator=PATCH, pool=0)
    translator, accelerator = build(config, torch.float32), Scaled(scale)
    for network in translator.networks.values():
        memory.apply(memory.PLANS[plan], network)
    optimizers = {phase: SGD(lr=1e-2).build(parameter for network in networks.values()
                                            for parameter in network.parameters())
                  for phase, networks in translator.phases.items()}
    for _ in range(num_steps):
        update = Update(translator, optimizers, accelerator, memory.PLANS[plan], "fp16")  # type: ignore[arg-type]
        translator.step(make_batch((25, 34), 1, torch.float32), update)
    return translator, accelerator


class TestScaling:
    """fp16, which a CPU emulates: slow, and enough to see gradients scaled and unscaled."""

    @pytest.mark.parametrize("plan", PLANS[1:])
    def test_every_plan_is_as_near_to_single_precision_as_the_plain_step(self, plan: str) -> None:
        def moved(translator: Translator) -> Tensor:
            return torch.cat([(value - begun[name]).flatten() for name, value in weights(translator).items()])

        begun = {name: value.clone() for name, value in weights(scaled_step("plain", 1.0, 0)[0]).items()}
        exact = build(CycleGANConfig(generator=ResNetConfig(width=8, blocks=2), discriminator=PATCH, pool=0),
                      torch.float32)
        optimizers = {phase: SGD(lr=1e-2).build(parameter for network in networks.values()
                                                for parameter in network.parameters())
                      for phase, networks in exact.phases.items()}
        exact.step(make_batch((25, 34), 1, torch.float32),
                   Update(exact, optimizers, Accelerator(cpu=True), memory.PLANS["plain"], "fp32"))
        truth = moved(exact)
        errors = [((moved(scaled_step(each, 2.0**6)[0]) - truth).norm() / truth.norm()).item()
                  for each in ("plain", plan)]
        assert errors[0] < 0.2 and errors[1] <= 1.2 * errors[0]

    @pytest.mark.parametrize("plan", ["plain", "split", "strips"])
    def test_a_step_that_overflows_is_left_out_and_the_scale_halved(self, plan: str) -> None:
        begun = weights(scaled_step(plan, 1.0, 0)[0])
        translator, accelerator = scaled_step(plan, 2.0**40)
        assert accelerator.scaler.get_scale() == 2.0**38, "once a phase"
        assert all(torch.equal(value, begun[name]) for name, value in weights(translator).items())


class Budget(TorchDispatchMode):
    """Raises what CUDA raises as soon as the live bytes would exceed `limit`; counts from what was there before."""

    def __init__(self, limit: float):
        super().__init__()
        self.limit, self.counter, self.failures = limit, LiveBytes("cpu"), 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = self.counter.__torch_dispatch__(function, types, args, kwargs)
        if self.counter.live > self.limit:
            self.failures += 1
            raise torch.OutOfMemoryError(f"CUDA out of memory. {self.counter.live} bytes")
        return result


def peak_of(config: Any, plan: str, size: tuple[int, int]) -> int:
    translator, batch = build(config), make_batch(size, 1)
    with Budget(float("inf")) as budget:
        step(translator, batch, plan)
    return budget.counter.peak


def step_within(config: Any, plan: str, size: tuple[int, int], limit: float) -> tuple[Translator, Update]:
    """A real step (SGD that moves the weights) from `plan` on, in a machine with so many bytes."""
    translator, batch = build(config), make_batch(size, 1)
    translator_optimizers = {phase: SGD(lr=1e-2).build(parameter for network in networks.values()
                                                       for parameter in network.parameters())
                             for phase, networks in translator.phases.items()}
    for network in translator.networks.values():
        memory.apply(memory.PLANS[plan], network)
    update = Update(translator, translator_optimizers, Accelerator(cpu=True), memory.PLANS[plan], "fp32")
    with Budget(limit):
        translator.step(batch, update)
    return translator, update


LADDER_SIZE = (64, 72)
LADDER_CONFIG = CycleGANConfig(generator=ResNetConfig(width=4, blocks=6), discriminator=PATCH, pool=2)
SHORT_SIZE = (32, 36)  # for what does not depend on how far apart the plans' peaks are
SHORT_CONFIG = CycleGANConfig(generator=ResNetConfig(width=4, blocks=1), discriminator=PATCH, pool=2)


@functools.cache
def ladder_peaks() -> dict[str, int]:
    return {plan: peak_of(LADDER_CONFIG, plan, LADDER_SIZE) for plan in memory.LADDER}


class TestOutOfMemory:
    @pytest.mark.slow
    @pytest.mark.parametrize("settled", [
        plan if plan == "replay" else pytest.param(plan, marks=pytest.mark.slow) for plan in memory.LADDER])
    def test_any_budget_settles_on_the_first_plan_that_fits_and_ends_with_its_weights(self, settled: str) -> None:
        """The generators' phase is the one that runs out, the first of the step: the rest is equal bit for bit."""
        peaks = ladder_peaks()
        steps = list(peaks.values())
        assert all(more > 1.01 * less for more, less in pairwise(steps)), peaks
        found, update = step_within(LADDER_CONFIG, "plain", LADDER_SIZE, peaks[settled] * 1.001)
        assert update.plan.name == settled
        assert len(update.notes) == memory.LADDER.index(settled)
        assert all("out of memory in the generator phase" in note for note in update.notes)
        begun, begun_update = step_within(LADDER_CONFIG, settled, LADDER_SIZE, float("inf"))
        for name, weight in weights(begun).items():
            assert torch.equal(weights(found)[name], weight), name
        assert update.losses.keys() == begun_update.losses.keys()
        for name, loss in begun_update.losses.items():
            assert torch.equal(update.losses[name], loss), name

    def test_when_even_the_leanest_fails_it_says_so(self) -> None:
        one_image = 3 * SHORT_SIZE[0] * SHORT_SIZE[1] * 8  # bytes; the leanest step needs some twenty at once
        with pytest.raises(DoesNotFit, match="generator phase runs out of memory under strips_blocks"):
            step_within(SHORT_CONFIG, "strips", SHORT_SIZE, 12 * one_image)

    @pytest.mark.parametrize("config", [
        pytest.param(CycleGANConfig(generator=UNetConfig(width=4, downs=5), pool=1,
                                    discriminator=PatchGANConfig(width=4, norm="batch")), marks=pytest.mark.slow),
        Pix2PixConfig(generator=UNetConfig(width=4, downs=5, norm="instance"),
                      discriminator=PatchGANConfig(width=4, norm="batch")),
        pytest.param(CUTConfig(generator=UNetConfig(width=4, downs=5),
                               discriminator=PatchGANConfig(width=4, norm="batch")), marks=pytest.mark.slow),
        CycleGANConfig(generator=ResNetConfig(width=4, blocks=1), pool=2,
                       discriminator=PatchGANConfig(width=4, layers=1), objective={"kind": "vanilla", "flips": 0.4},
                       penalty={"kind": "wgan_gp"})], ids=["cyclegan", "pix2pix", "cut", "with chance and a penalty"])
    def test_a_later_phase_is_undone_without_a_trace(self, config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """The discriminators run out once, after all their work: buffers, losses, pool and chance are as if not."""
        def three_steps(fails: bool) -> tuple[Translator, Update, Tensor]:
            """The third may fail: the pool is full by then, and draws."""
            translator, num_notes = build(config), 0
            kind = type(translator)
            train = kind.train_discriminators
            left = [False, False, fails]

            def once(self: Any, *arguments: Any) -> None:
                train(self, *arguments)
                torch.rand(3)
                if left.pop(0) if left else False:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

            with monkeypatch.context() as patch:
                patch.setattr(kind, "train_discriminators", once)
                torch.manual_seed(7)
                for _ in range(3):
                    update = step(translator, make_batch((32, 32), 1), "preact")
                    num_notes += len(update.notes)
            assert num_notes == fails
            return translator, update, torch.rand(1)

        failed, failed_update, failed_chance = three_steps(True)
        whole, update, chance = three_steps(False)
        assert torch.equal(failed_chance, chance)
        bound = RoundingBound(gradients(whole), lambda: gradients(three_steps(False)[0]))
        assert worst_error(gradients(failed), gradients(whole)) <= bound
        for name, loss in update.losses.items():
            torch.testing.assert_close(failed_update.losses[name], loss, rtol=1e-10, atol=0)
        for name, network in whole.networks.items():
            for buffer, value in network.named_buffers():
                torch.testing.assert_close(failed.networks[name].get_buffer(buffer), value, rtol=1e-10, atol=1e-12)
        for name, pool in whole.pools.items():
            assert failed.pools[name].random.getstate() == pool.random.getstate()
            assert len(failed.pools[name].images) == len(pool.images)

    @pytest.mark.slow
    def test_weights_after_a_later_redo_are_those_of_a_run_that_began_with_that_plan(self) -> None:
        translator, batch = build(SHORT_CONFIG), make_batch(SHORT_SIZE, 1)
        reference, _ = step_within(SHORT_CONFIG, "strips", SHORT_SIZE, float("inf"))
        judge, left = translator.tell_apart, [True]

        def once(*arguments: Any) -> None:
            judge(*arguments)
            if left:
                left.pop()
                raise torch.OutOfMemoryError("CUDA out of memory.")

        translator.tell_apart = once
        optimizers = {phase: SGD(lr=1e-2).build(parameter for network in networks.values()
                                                for parameter in network.parameters())
                      for phase, networks in translator.phases.items()}
        update = Update(translator, optimizers, Accelerator(cpu=True), memory.PLANS["replay"], "fp32")
        for network in translator.networks.values():
            memory.apply(memory.PLANS["replay"], network)
        translator.step(batch, update)
        assert update.plan.name == "strips"
        for name, weight in weights(reference).items():
            torch.testing.assert_close(weights(translator)[name], weight, rtol=1e-10, atol=1e-12)

    def test_other_errors_are_not_taken_for_running_out_of_memory(self) -> None:
        translator = build(LADDER_CONFIG)
        translator.phases["discriminator"]["discriminator_b"] = nn.Conv2d(1, 1, 1)
        with pytest.raises(RuntimeError, match="same"):
            step(translator, make_batch((32, 32)))

    def test_torchs_own_word_for_a_full_computer_is_known(self) -> None:
        with pytest.raises(RuntimeError) as caught:
            torch.empty(10**14)
        assert is_out_of_memory(caught.value)

    @pytest.mark.parametrize("error", [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), MemoryError(),
        RuntimeError("CUDA error: out of memory"), RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), RuntimeError("std::bad_alloc"),
        RuntimeError("could not create a primitive")])
    def test_so_are_those_of_devices_and_libraries(self, error: BaseException) -> None:
        assert is_out_of_memory(error)
        assert not is_out_of_memory(RuntimeError("expected 3 channels"))
        assert not is_out_of_memory(ValueError(str(error)))

    def test_running_out_of_memory_in_the_optimizer_is_named_as_one_that_cannot_be_undone(
            self, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*arguments: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory.")

        monkeypatch.setattr(Update, "step_optimizer", full)
        with pytest.raises(DoesNotFit, match=r"optimizer's step of the generator phase.*cannot be undone"):
            step(build(LADDER_CONFIG), make_batch((32, 32), 1))

    @pytest.mark.slow
    @pytest.mark.parametrize("short", [0, 1])
    def test_when_one_of_two_processes_runs_out_both_redo_the_phase(self, short: int, tmp_path: Path) -> None:
        ladder_peaks()  # once, before there are two
        debug_launcher(one_of_two_runs_out, (short, str(tmp_path)), num_processes=2)
        found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
        assert [each["plan"] for each in found] == ["strips", "strips"]
        assert "another process" in found[1 - short]["notes"][0] and "CUDA out of memory" in found[short]["notes"][0]

        def alone() -> dict[str, Tensor]:
            translator = build(LADDER_CONFIG)
            step(translator, make_batch(LADDER_SIZE, 2), "strips")
            return gradients(translator)

        expected = alone()
        bound = RoundingBound(expected, alone)
        for each in found:
            assert worst_error(each["gradients"], expected) <= bound


def one_of_two_runs_out(short: int, folder: str) -> None:
    """A process with too little memory for `replay`, and one with plenty."""
    AcceleratorState._reset_state(reset_partial_state=True)  # what this fork inherited
    accelerator = Accelerator(cpu=True)
    rank = accelerator.process_index
    peaks = ladder_peaks()
    translator, own = build(LADDER_CONFIG), make_batch(LADDER_SIZE, 2).micro_batches(1)[rank]
    with Budget((peaks["strips"] + peaks["replay"]) / 2 if rank == short else float("inf")):
        update = step(translator, own, "replay", accelerator=accelerator)
    torch.save({"plan": update.plan.name, "notes": update.notes, "gradients": gradients(translator)},
               Path(folder) / f"{rank}.pt")
