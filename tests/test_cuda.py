"""What only a GPU can show: `make cuda`. Nothing else depends on one."""

from __future__ import annotations

import functools
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from tests.conversions import noise, release_of, tree
from tests.runs import Silent, cyclegan_recipe, final_state, growing_cyclegan_recipe, train_until
from tests.steps import peak_of_step, strengthen
from translate import tiling
from translate.convert import convert
from translate.data import Batch
from translate.images.reading import read_image
from translate.images.writing import write_image
from translate.losses.structural import structural_distance
from translate.networks import PatchGANConfig, ResNetConfig, UNetConfig, memory
from translate.networks.layers import InstanceNorm
from translate.networks.normalised import computed_by, normalised, path_on_card
from translate.optimizers import SGD, Adam
from translate.precision import Format
from translate.recipe import Recipe
from translate.runs.checkpoint import save_checkpoint
from translate.runs.folder import RunFolder
from translate.runs.release import load_release
from translate.tiling import Settings
from translate.training.built import parameters_of
from translate.training.loop import Run, train
from translate.training.processes import make_accelerator
from translate.training.update import Update
from translate.translators import CUTConfig, CycleGANConfig, Pix2PixConfig, Translator

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]

CUDA = torch.device("cuda")
PATCH = PatchGANConfig(width=16)
CONFIGS = {
    "cyclegan": CycleGANConfig(generator=ResNetConfig(width=16, blocks=3), discriminator=PATCH, pool=0),
    "pix2pix": Pix2PixConfig(generator=UNetConfig(width=16, downs=6, norm="instance"), discriminator=PATCH),
    "cut": CUTConfig(generator=ResNetConfig(width=16, blocks=6), discriminator=PATCH),
}
LOW: tuple[Format, ...] = ("fp16", "bf16")


def accelerator_for(precision: str) -> Accelerator:
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(mixed_precision="fp16" if precision == "fp16" else "no")


def batch_of(size: int, samples: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.rand(samples, 3, size, size, generator=generator) * 2 - 1 for _ in range(2))
    return Batch(a.to(CUDA), b.to(CUDA), tuple(range(samples)))


def stepped(config: Any, plan: str, precision: Format, size: int = 256) -> Tensor:
    """All gradients of one step, in a row, in the scale of the losses."""
    torch.manual_seed(0)
    translator: Translator = config.build(3, 3, 0)
    strengthen(translator)
    translator.to(CUDA)
    for network in translator.networks.values():
        memory.apply(memory.PLANS[plan], network)
    optimizers = {phase: SGD(lr=1e-30).build(parameters_of(translator, phase)) for phase in translator.phases}
    accelerator = accelerator_for(precision)
    if accelerator.scaler is not None:  # whose first scale, 65536, would have the first steps left out
        accelerator.scaler = torch.amp.GradScaler("cuda", init_scale=128.0)
    update = Update(translator, optimizers, accelerator, memory.PLANS[plan], precision)
    translator.step(batch_of(size), update)
    assert not update.notes and not update.overflowed
    return torch.cat([parameter.grad.flatten().double() for phase in translator.phases
                      for parameter in parameters_of(translator, phase)])


@functools.cache
def textbook(name: str, precision: Format) -> Tensor:
    return stepped(CONFIGS[name], "plain", precision)


@pytest.fixture(autouse=True)
def exact_convolutions() -> Iterator[None]:
    """No TF32 in what is called fp32 here, and nothing of the last test in memory."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
    gc.collect()
    torch.cuda.empty_cache()


@pytest.mark.parametrize("plan", [plan for plan in memory.PLANS if plan != "plain"])
@pytest.mark.parametrize("precision", LOW)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_in_half_precision_is_as_exact_under_every_plan_as_the_textbook_step(
        name: str, precision: Format, plan: str) -> None:
    """Against the textbook step in float32; strips sum in another order, and keep their sums in float32."""
    exact, plain = textbook(name, "fp32"), textbook(name, precision)
    found = stepped(CONFIGS[name], plan, precision)
    assert F.cosine_similarity(found, exact, dim=0).item() > 0.9
    assert (found - exact).norm() <= 1.3 * (plain - exact).norm()


@pytest.mark.parametrize("plan", [plan for plan in memory.PLANS if plan != "plain"])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_plan_gives_the_gradients_of_the_textbook_step_in_float32(name: str, plan: str) -> None:
    """As far as float32 goes: where strips round otherwise, the L1 of a pixel may change its sign."""
    exact, found = textbook(name, "fp32"), stepped(CONFIGS[name], plan, "fp32")
    assert (found - exact).norm() <= 1e-2 * exact.norm()


@contextmanager
def card_of(size: int) -> Iterator[None]:
    """torch may not take more than so many bytes of the card meanwhile."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(size / torch.cuda.get_device_properties(CUDA).total_memory)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize("plan", memory.PLANS)
@pytest.mark.parametrize("config", [CycleGANConfig(pool=0), Pix2PixConfig()], ids=lambda config: config.kind)
def test_what_torch_allocates_in_a_step_is_what_was_predicted(config: Any, plan: str) -> None:
    """The second step's peak, at the published widths: what is not predicted, cuDNN's own memory, is little beside."""
    predicted = peak_of_step(config, 512, memory.PLANS[plan], "fp16", "cuda")
    translator: Translator = config.build(3, 3, 0)
    translator.to(CUDA)
    for network in translator.networks.values():
        memory.apply(memory.PLANS[plan], network)
    optimizers = {phase: Adam().build(parameters_of(translator, phase)) for phase in translator.phases}
    accelerator, batch = accelerator_for("fp16"), batch_of(512)
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        translator.step(batch, Update(translator, optimizers, accelerator, memory.PLANS[plan], "fp16"))
    peak = torch.cuda.max_memory_allocated()
    assert 0.95 * predicted <= peak <= 1.1 * predicted, f"{peak / predicted:.3f} of what was predicted"


def test_a_phase_that_runs_out_of_the_cards_memory_is_done_again_under_a_leaner_plan() -> None:
    """With torch's real errors, and to the same gradients as if the leaner plan had been asked for."""
    config = CONFIGS["cyclegan"]
    needs = {plan: peak_of_step(config, 1024, memory.PLANS[plan], "fp32", "cuda")
             for plan in ("plain", "split", "preact")}
    translator: Translator = config.build(3, 3, 0)
    strengthen(translator)
    translator.to(CUDA)
    batch = batch_of(1024)
    optimizers = {phase: SGD(lr=1e-30).build(parameters_of(translator, phase)) for phase in translator.phases}
    update = Update(translator, optimizers, accelerator_for("fp32"), memory.PLANS["plain"], "fp32")
    with card_of((needs["split"] + needs["plain"]) // 2):
        translator.step(batch, update)
    assert len(update.notes) == 1 and update.plan.name == "split", update.notes
    found = torch.cat([parameter.grad.flatten().double() for phase in translator.phases
                       for parameter in parameters_of(translator, phase)])
    expected = stepped(config, "split", "fp32", 1024)
    assert (found - expected).norm() <= 1e-2 * expected.norm()


def fp16_recipe(data: Path, **changes: Any) -> Recipe:
    return cyclegan_recipe(data, precision="fp16", **changes)


@pytest.mark.parametrize("recipe_of", [fp16_recipe, lambda data: growing_cyclegan_recipe(data, precision="fp16")],
                         ids=["cyclegan", "growing"])
def test_a_training_in_fp16_goes_on_where_it_was_interrupted(recipe_of: Any, shared_pairs: Path, tmp_path: Path
                                                             ) -> None:
    """What a checkpoint holds is what the resumed run has, the gradient scaler too, to the last bit: saved again, it is
    the same checkpoint. What comes after cuDNN does not promise to repeat."""
    AcceleratorState._reset_state(reset_partial_state=True)
    recipe, folder = recipe_of(shared_pairs), tmp_path / "run"
    train_until(recipe, folder, 16)
    before = final_state(folder)
    held = Run(recipe, RunFolder(folder), make_accelerator(recipe, folder), Silent())
    held.restore()
    scaler = held.accelerator.scaler
    assert scaler is not None and scaler.state_dict() != torch.amp.GradScaler("cuda").state_dict(), "nothing to lose"
    again = tmp_path / "again" / "checkpoints"
    again.mkdir(parents=True)
    save_checkpoint(again, held.state, 2)
    assert final_state(again.parent) == before
    train(recipe, folder, report := Silent(), resume=True)
    assert any("resumed at 16 images" in line for line in report.lines)
    output = load_release(folder / "release").generator(torch.rand(1, 3, 64, 64) * 2 - 1)
    assert output.isfinite().all()


@pytest.mark.parametrize("name", ["cyclegan", "pix2pix"])
def test_strips_on_the_card_give_the_whole_images_output(name: str) -> None:
    torch.manual_seed(0)
    translator: Translator = CONFIGS[name].build(3, 3, 0)
    strengthen(translator)
    generator = translator.generator("ab").double().to(CUDA).eval()
    image = batch_of(320).a.double()[:, :, :300]
    with torch.no_grad():
        truth = generator(image)
    for settings in (Settings(7, 0.0), Settings(64, float("inf"))):
        found = tiling.apply(generator, image, settings=settings)
        assert (found.to(CUDA) - truth).abs().max() <= 1e-10 * truth.abs().max()


def test_a_folder_converted_on_the_card_is_that_of_the_cpu(shared_pairs: Path, tmp_path: Path) -> None:
    """In fp32, whole and in strips: at most one step of 8 bits apart."""
    AcceleratorState._reset_state(reset_partial_state=True)
    train(cyclegan_recipe(shared_pairs), tmp_path / "run", Silent())
    source = shared_pairs / "testA"
    for out, device, limit in (("cpu", "cpu", None), ("whole", "cuda", None), ("strips", "cuda", "200MB")):
        convert(source, tmp_path / out, load_release(tmp_path / "run"), device=device, precision="fp32", memory=limit)
    config = load_release(tmp_path / "run").image_out
    for path in sorted(source.iterdir()):
        truth, *others = (read_image(tmp_path / out / path.name, config).astype(np.int32)
                          for out in ("cpu", "whole", "strips"))
        assert all(np.abs(truth - other).max() <= 1 for other in others)


def test_images_on_their_way_to_the_card_and_back_are_those_that_are_waited_for(tmp_path: Path) -> None:
    """Copies go in streams of their own while the card computes: none may be read before it is there, nor its memory
    be taken for another image."""
    torch.manual_seed(0)
    release, draw = release_of(ResNetConfig(width=16, blocks=2).build(3, 3)), np.random.default_rng(0)
    for number in range(48):
        height, width = (64 + 64 * int(side) for side in draw.integers(0, 8, 2))
        (tmp_path / "in").mkdir(exist_ok=True)
        write_image(tmp_path / "in" / f"{number:02d}.png", noise(height, width, seed=number), compression=1)
    for workers in (0, 1, 6):
        summary = convert(tmp_path / "in", tmp_path / str(workers), release, device="cuda", precision="fp32",
                          workers=workers, compression=1)
        assert summary.converted == 48 and tree(tmp_path / str(workers)) == tree(tmp_path / "0")


@pytest.mark.parametrize("path", ["plain", "fused"])
def test_norm_activation_and_padding_on_a_card_are_exact_and_the_same_every_time(path: Any) -> None:
    """Against float64, which torch computes one after the other; in channels_last all along."""
    if path == "fused" and path_on_card(0) != "fused":
        pytest.skip("this card has no Triton")
    norm = InstanceNorm(40)

    def computed(path: Any, z: Tensor) -> tuple[Tensor, Tensor]:
        z = z.clone(memory_format=torch.preserve_format).requires_grad_()
        with computed_by(path):
            y = normalised(z, norm, 0.0, (3, 3, 3, 3))
            arriving = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(z.device, z.dtype)
            return y.detach(), torch.autograd.grad(y, z, arriving)[0]

    z = torch.randn(2, 40, 131, 97, generator=torch.Generator().manual_seed(0)) * 2 + 3
    z = z.to(CUDA, memory_format=torch.channels_last)
    exact = computed("eager", z.double())
    for dtype, most in ((torch.float32, 1e-5), (torch.float16, 2e-3)):
        found, again = computed(path, z.to(dtype)), computed(path, z.to(dtype))
        for one, same, true in zip(found, again, exact, strict=True):
            assert torch.equal(one, same) and one.is_contiguous(memory_format=torch.channels_last)
            assert (one.double() - true).norm() <= most * true.norm()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_ssim_of_flat_images_is_exact_on_a_card_also_where_convolutions_multiply_in_tf32(
        layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against float64. A variance of 1e-6 is a difference of two means near 1, beside C2 = 9e-4: TF32's 10 bits round
    them by 5e-4, float32's 23 by 6e-8."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    chance = torch.Generator().manual_seed(0)
    exact = [(0.95 + 1e-3 * torch.randn(2, 3, 96, 131, generator=chance)).double() for _ in range(2)]

    def computed(image: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        image.requires_grad_()
        found = structural_distance(image, truth)
        return found.detach(), torch.autograd.grad(found, image)[0]

    expected = computed(*exact)
    found = computed(*(each.detach().float().to(CUDA, memory_format=layout) for each in exact))
    assert abs(found[0].item() - expected[0].item()) <= 1e-4
    assert (found[1].cpu().double() - expected[1]).norm() <= 0.01 * expected[1].norm()


@pytest.mark.parametrize("plan", ["split", "preact", "strips"])
def test_a_step_done_twice_has_the_same_bits(plan: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's mirrored padding added its gradients in any order."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    assert torch.equal(stepped(CONFIGS["cyclegan"], plan, "fp16"), stepped(CONFIGS["cyclegan"], plan, "fp16"))
