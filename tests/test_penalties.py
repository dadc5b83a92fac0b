"""Penalties agree with their closed forms, with an independent second derivative, and with the theory of toy games."""

from __future__ import annotations

import copy
import typing
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils import parametrizations

from tests.covering import each_value
from tests.runs import cyclegan_recipe
from tests.steps import build, gradients, make_batch, step, worst_error
from translate.errors import RecipeError
from translate.losses import R1, R2, Orthogonal, Penalty, R1AndR2, WassersteinGP, non_orthogonality
from translate.networks import PatchGANConfig, ResNetConfig, UNetConfig, memory
from translate.networks.discriminators import Discriminator
from translate.networks.layers import InstanceNorm
from translate.training.update import Update
from translate.translators import CUTConfig, CycleGANConfig, Pix2PixConfig

PENALTIES = typing.get_args(typing.get_args(Penalty)[0])
SLOPES = [WassersteinGP, R1, R2, R1AndR2]
GENERATOR = ResNetConfig(width=4, blocks=1)


class Quadratic(nn.Module):
    """D(x) = c‖x‖²/2, with the gradient c·x. One logit an image."""

    def __init__(self, c: float):
        super().__init__()
        self.c = nn.Parameter(torch.tensor(c, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.c * x.flatten(1).square().sum(1, keepdim=True) / 2


class TestClosedForms:
    real = torch.tensor([[3.0, 4.0], [0.0, 2.0]], dtype=torch.float64)  # norms 5 and 2
    fake = torch.tensor([[-3.0, -4.0], [0.0, 0.0]], dtype=torch.float64)  # norms 5 and 0
    mix = torch.tensor([0.75, 0.5], dtype=torch.float64)  # x̂ = (1.5, 2) and (0, 1), norms 2.5 and 1

    @pytest.mark.parametrize(("penalty", "value", "by_c"), [
        (R1(), 0.5 * 0.5**2 * (25 + 4) / 2, 0.5 * (25 + 4) / 2),
        (R2(), 0.5 * 0.5**2 * 25 / 2, 0.5 * 25 / 2),
        (R1AndR2(), 0.5 * 0.5**2 * (25 + 4 + 25) / 2, 0.5 * (25 + 4 + 25) / 2),
        (WassersteinGP(), ((0.5 * 2.5 - 1)**2 + (0.5 * 1 - 1)**2) / 2, (0.25 * 2.5 - 0.5 * 1)),
    ], ids=["r1", "r2", "r1_r2", "wgan_gp"])
    def test_a_quadratic_critic(self, penalty: Any, value: float, by_c: float) -> None:
        """The penalty itself and its derivative by c = ½, both worked out by hand."""
        critic = Quadratic(0.5)
        loss = penalty(Discriminator("discriminator_b", critic), self.real, self.fake, self.mix)
        assert loss.item() == pytest.approx(value, abs=1e-12)
        loss.backward()
        assert critic.c.grad.item() == pytest.approx(by_c, abs=1e-12)

    def test_a_flat_critic_gets_no_infinite_gradient(self) -> None:
        """The derivative of a square root at zero, which a critic at its initial zero would meet."""
        for penalty in (WassersteinGP(), R1(), R2()):
            critic = Quadratic(0.0)
            penalty(Discriminator("discriminator_b", critic), self.real, self.fake, self.mix).backward()
            assert critic.c.grad.isfinite()

    def test_patches_that_do_not_overlap_count_as_the_mean_of_their_own_slopes(self) -> None:
        """A linear critic of single pixels has the slope ‖w‖ everywhere, at any resolution."""
        critic = nn.Conv2d(3, 1, 1).double()
        squared = critic.weight.detach().square().sum().item()
        for size in (1, 4, 9):
            images = torch.randn(2, 3, size, size, dtype=torch.float64)
            cost = R1()(Discriminator("discriminator_b", critic), images, images, torch.rand(2))
            assert cost.item() == pytest.approx(squared / 2)

    def test_orthogonal_rows_cost_nothing_whatever_their_length_and_parallel_ones_do(self) -> None:
        layer = nn.Conv2d(2, 2, 1, bias=False).double()
        for rows, cost in [([[2.0, 0.0], [0.0, 5.0]], 0.0), ([[1.0, 0.0], [3.0, 0.0]], 2 * 3.0**2)]:
            with torch.no_grad():
                layer.weight.copy_(torch.tensor(rows)[:, :, None, None])
            found = Orthogonal()(Discriminator("discriminator_b", layer), self.real, self.fake, self.mix)
            assert found.item() == pytest.approx(cost)

    def test_rows_are_those_of_output_channels_also_where_torch_stores_them_the_other_way_round(self) -> None:
        """And what is frozen costs nothing; under a spectral norm it is the stored weights that are held apart."""
        down, up = nn.Conv2d(2, 3, 2, bias=False), nn.ConvTranspose2d(2, 3, 2, bias=False)
        with torch.no_grad():
            up.weight.copy_(down.weight.transpose(0, 1))
        matrix = down.weight.detach().reshape(3, -1)
        expected = sum((matrix[i] @ matrix[j]).square() for i in range(3) for j in range(3) if i != j)
        frozen = nn.Conv2d(2, 3, 2).requires_grad_(False)
        for layer in (down, up, nn.Sequential(down, frozen), parametrizations.spectral_norm(copy.deepcopy(down))):
            torch.testing.assert_close(non_orthogonality(layer), expected)

    def test_a_matrix_of_more_rows_than_columns_costs_the_same_without_their_products(self) -> None:
        """Those of a dense layer to 24,576 numbers took 2.4 GB, and an optimizer's step several times that."""
        tall = nn.Conv2d(3, 40, 1).double()
        rows = tall.weight.detach().flatten(1)
        expected = sum((rows[i] @ rows[j]).square() for i in range(40) for j in range(40) if i != j)
        torch.testing.assert_close(non_orthogonality(tall), expected)


class PlainNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
        return (x - mean) / (variance + 1e-5).sqrt()


def reference_gradients(discriminator: nn.Module, penalty: Any, judged: Tensor, given: Tensor) -> dict[str, Tensor]:
    """The penalty's gradient by torch.func: D per sample as a pure function, with norms written out, nothing in place.

    `judged` are the images at which the slope is taken, `given` what the discriminator sees beside them.
    """
    plain: Any = copy.deepcopy(discriminator)
    plain.keep = "everything"
    for layer in plain:
        if isinstance(layer.norm, InstanceNorm):
            layer.norm = PlainNorm()

    def mean_penalty(weights: dict[str, Tensor]) -> Tensor:
        def logits(image: Tensor, beside: Tensor) -> Tensor:
            return functional_call(plain, weights, torch.cat([beside, image])[None])

        def own(image: Tensor, beside: Tensor) -> Tensor:
            by_image = grad(lambda x: logits(x, beside).sum())(image)
            squared = by_image.square().sum() / logits(image, beside).numel()
            return (squared.sqrt() - 1).square() if isinstance(penalty, WassersteinGP) else squared / 2

        return penalty.weight * vmap(own)(judged, given).mean()

    return grad(mean_penalty)({name: value.detach().contiguous() for name, value in plain.named_parameters()})


@each_value(share=2, penalty={penalty.kind: penalty for penalty in (R1(), R2(), WassersteinGP())},
            norm=["instance", "none"], samples=[1, 3])
def test_the_second_derivative_in_a_step_is_that_of_torchs_function_transforms(
        penalty: Any, norm: Any, samples: int) -> None:
    """All in float64, in the memory layout of a training, under the plan that recomputes the discriminator."""
    config = Pix2PixConfig(generator=GENERATOR, discriminator=PatchGANConfig(width=4, layers=2, norm=norm))
    batch = make_batch((33, 50), samples)
    with_penalty, without = (build(config.model_copy(update={"penalty": each})) for each in (penalty, None))
    update = step(with_penalty, batch, "preact")
    step(without, batch, "preact")
    with torch.no_grad():
        fake = without.generator_ab(batch.a)
    update.keys = batch.keys
    mix = update.uniform("penalty_b").view(-1, 1, 1, 1)
    at = {"r1": batch.b, "r2": fake, "wgan_gp": mix * batch.b + (1 - mix) * fake}[penalty.kind]
    expected = reference_gradients(without.discriminator_b, penalty, at, batch.a)
    added = {name: value - gradients(without)[name] for name, value in gradients(with_penalty).items()
             if name.startswith("discriminator_b")}
    assert worst_error(added, {f"discriminator_b.{name}": value for name, value in expected.items()}) <= 1e-9


@pytest.mark.parametrize("kind", [penalty.model_fields["kind"].default for penalty in PENALTIES])
def test_a_lazy_penalty_comes_every_k_steps_and_counts_k_times(kind: str) -> None:
    """Over k steps it adds up to what it would have been, and between them the step is the plain one."""
    config = Pix2PixConfig(generator=GENERATOR, discriminator=PatchGANConfig(width=4, layers=2))
    batch, found = make_batch((32, 32)), {}
    for every, number in [(1, 0), (4, 0), (4, 1), (4, 3), (4, 4), (0, 0)]:
        penalty = {"kind": kind, "every": every} if every else None
        translator = build(Pix2PixConfig.model_validate(config.model_dump() | {"penalty": penalty}))
        update = step(translator, batch, number=number)
        assert ("penalty_b" in update.losses) == (every > 0 and number % every == 0)
        found[every, number] = torch.cat([gradient.flatten() for name, gradient in gradients(translator).items()
                                          if name.startswith("discriminator")])
    none = found[0, 0]
    assert torch.equal(found[4, 1], none) and torch.equal(found[4, 3], none) and torch.equal(found[4, 4], found[4, 0])
    torch.testing.assert_close(found[4, 0] - none, 4 * (found[1, 0] - none), rtol=1e-8, atol=1e-10)
    assert (found[1, 0] - none).abs().max() > 1e-6


@each_value(share=3, config={
    "cyclegan": CycleGANConfig(generator=GENERATOR, pool=0, discriminator=PatchGANConfig(width=4, layers=1)),
    "pix2pix": Pix2PixConfig(generator=UNetConfig(width=4, downs=4), discriminator=PatchGANConfig(width=4, layers=1)),
    "cut": CUTConfig(generator=GENERATOR, patches=8, discriminator=PatchGANConfig(width=4, layers=1))},
    plan_and_pieces=[("plain", None), ("split", 1), ("strips", 2)])
def test_the_filters_of_all_generators_are_held_apart_once_a_step_and_those_of_nothing_else(
        config: Any, plan_and_pieces: tuple[str, int | None]) -> None:
    """β times the gradient of the textbook formula, of all channels' rows, whatever the micro-batches."""
    batch, found, (plan, micro_batch) = make_batch((33, 50), 2), {}, plan_and_pieces
    for beta in (0.0, 0.3):
        translator = build(config.model_copy(update={"orthogonal": beta}))
        update = step(translator, batch, plan, micro_batch=micro_batch)
        found[beta] = gradients(translator)
    total = torch.zeros((), dtype=torch.float64)
    for name, network in translator.networks.items():
        for part in network.modules():
            if name.startswith("generator") and isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
                axis = 1 if isinstance(part, nn.ConvTranspose2d) else 0
                rows = part.weight.movedim(axis, 0).reshape(part.weight.shape[axis], -1)
                total = total + ((rows @ rows.T) * (1 - torch.eye(len(rows)))).square().sum()
    weights = {f"{name}.{key}": value for name, network in translator.networks.items()
               for key, value in network.named_parameters()}
    expected = dict(zip(weights, torch.autograd.grad(0.3 * total, list(weights.values()), allow_unused=True),
                        strict=True))
    torch.testing.assert_close(update.losses["orthogonal"], 0.3 * total.detach())
    for name, value in expected.items():
        added = found[0.3][name] - found[0.0][name]
        torch.testing.assert_close(added, torch.zeros_like(added) if value is None else value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("plan", ["split", "preact"])
@pytest.mark.parametrize("penalty", [R1(), WassersteinGP()], ids=lambda penalty: penalty.kind)
def test_a_penalty_is_computed_in_float32_under_bfloat16(penalty: Any, plan: Any) -> None:
    """Both derivatives, and what a memory plan computes again for them."""
    found = {}
    for precision in ("fp32", "bf16"):
        config = Pix2PixConfig(generator=GENERATOR, discriminator=PatchGANConfig(width=4, layers=2))
        translator, batch = build(config, torch.float32), make_batch((32, 32), dtype=torch.float32)
        discriminator = translator.discriminator_b
        memory.apply(memory.PLANS[plan], discriminator)
        update = Update(translator, {}, Accelerator(cpu=True), memory.PLANS[plan], precision)
        with update.autocast():
            for a, b in update.micro_batches(batch):
                update.penalise(penalty, translator.conditional(update, a), b, -b)
        found[precision] = [parameter.grad for parameter in discriminator.parameters()
                            if parameter.grad is not None]
    for low, full in zip(found["bf16"], found["fp32"], strict=True):
        assert torch.equal(low, full)


@pytest.mark.parametrize("penalty", [R1(), WassersteinGP()], ids=lambda penalty: penalty.kind)
def test_a_gradient_scaler_scales_a_penalty_as_it_does_every_loss(penalty: Any) -> None:
    """What fp16 does: the loss is scaled and the slope within it is not. A power of two leaves no rounding."""
    found = {}
    for scale in (1.0, 1024.0):
        translator = build(Pix2PixConfig(generator=GENERATOR, discriminator=PatchGANConfig(width=4, layers=2)))
        accelerator = Accelerator(cpu=True)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        update = Update(translator, {}, accelerator, memory.PLANS["split"], "fp32")
        for a, b in update.micro_batches(make_batch((32, 32))):
            update.penalise(penalty, translator.conditional(update, a), b, -b)
        found[scale] = [parameter.grad for parameter in translator.discriminator_b.parameters()
                        if parameter.grad is not None]
    assert found[1.0]
    for scaled, plain in zip(found[1024.0], found[1.0], strict=True):
        assert torch.equal(scaled, 1024 * plain)


def test_a_slope_penalty_and_batch_norm_are_refused_together(tmp_path: Any) -> None:
    translator = {"kind": "cyclegan", "discriminator": {"kind": "patchgan", "layers": 1, "norm": "batch"}}
    with pytest.raises(RecipeError, match=r"translator.penalty.kind: r1 .* set translator.discriminator.norm"):
        cyclegan_recipe(tmp_path, translator=translator | {"penalty": {"kind": "r1"}})
    cyclegan_recipe(tmp_path, translator=translator | {"penalty": {"kind": "orthogonal"}})
