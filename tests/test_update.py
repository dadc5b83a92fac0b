"""Split backward gives the gradients of the joint loss, and a phase leaves nothing behind that it should not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from translate.data import Batch
from translate.losses import LeastSquares, NonSaturating
from translate.networks import PatchGANConfig, PixelConfig, ResNetConfig, UNetConfig, memory
from translate.optimizers import SGD
from translate.translators import CycleGANConfig, Pix2PixConfig, Translator
from translate.update import Update

RESNET = ResNetConfig(width=4, blocks=2)
UNET = UNetConfig(width=4, downs=5, norm="instance")
PATCH = PatchGANConfig(width=4, layers=2)
PLANS = list(memory.PLANS)

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
    "resnet-lsgan": Pix2PixConfig(generator=RESNET, discriminator=PATCH, objective=LeastSquares()),
}


def make_batch(size: tuple[int, int], samples: int = 2, dtype: torch.dtype = torch.float64) -> Batch:
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.rand(samples, 3, *size, generator=generator, dtype=dtype) * 2 - 1 for _ in range(2))
    return Batch(a, b, tuple(range(40, 40 + samples)))


def build(config: Any, dtype: torch.dtype = torch.float64) -> Translator:
    """A translator at ten times the published initial weights, so that no gradient is near zero."""
    torch.manual_seed(0)
    translator = config.build(3, 3, 0)
    translator.to(torch.device("cpu"), dtype)
    with torch.no_grad():
        for network in translator.networks.values():
            for parameter in network.parameters():
                parameter.mul_(10.0 if parameter.ndim == 4 else 1.0)
    return translator


def step(translator: Translator, batch: Batch, plan: str = "split", micro_batch: int | None = None) -> Update:
    """One step with SGD at a learning rate too small to move the weights: the gradients stay to be looked at."""
    optimizers = {phase: SGD(lr=1e-30).build(parameter for network in networks.values()
                                             for parameter in network.parameters())
                  for phase, networks in translator.phases.items()}
    for network in translator.networks.values():
        memory.apply(memory.PLANS[plan], network)
    update = Update(translator, optimizers, Accelerator(cpu=True), memory.PLANS[plan], "fp32", micro_batch)
    translator.step(batch, update)
    return update


def gradients(translator: Translator) -> dict[str, Tensor]:
    return {f"{name}.{parameter}": value.grad for name, network in translator.networks.items()
            for parameter, value in network.named_parameters()}


def worst_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest error of any gradient, relative to that gradient's own largest value (or to the network's).

    A bias in front of a norm has an exact gradient of zero, and what is found is rounding: hence the floor.
    """
    size = {name: value.abs().max().item() for name, value in expected.items()}
    network = {name: max(size[other] for other in size if other.split(".")[0] == name.split(".")[0]) for name in size}
    return max((found[name] - value).abs().max().item() / max(size[name], 1e-3 * network[name])
               for name, value in expected.items())


def cyclegan_reference(translator: Any, batch: Batch) -> dict[str, Tensor]:
    """Equation 3 of the paper as one sum and one backward pass, written without any of the machinery."""
    ab, ba, judge_a, judge_b = (copy.deepcopy(network) for network in (
        translator.generator_ab, translator.generator_ba, translator.discriminator_a, translator.discriminator_b))
    w, a, b = translator.weights, batch.a, batch.b
    fake_b = ab(a)
    fake_a = ba(b)
    loss = w.adversarial * (((judge_b(fake_b) - 1) ** 2).mean() + ((judge_a(fake_a) - 1) ** 2).mean())
    loss = loss + w.cycle * (F.l1_loss(ba(fake_b), a) + F.l1_loss(ab(fake_a), b))
    if w.identity:
        loss = loss + w.identity * (F.l1_loss(ba(a), a) + F.l1_loss(ab(b), b))
    found = torch.autograd.grad(loss, [*ab.parameters(), *ba.parameters()])
    judged = sum(0.5 * (((judge(real) - 1) ** 2).mean() + (judge(fake.detach()) ** 2).mean())
                 for judge, real, fake in ((judge_a, a, fake_a), (judge_b, b, fake_b)))
    found += torch.autograd.grad(judged, [*judge_a.parameters(), *judge_b.parameters()])
    names = [f"{name}.{parameter}" for name, network in (
        ("generator_ab", ab), ("generator_ba", ba), ("discriminator_a", judge_a), ("discriminator_b", judge_b))
        for parameter, _ in network.named_parameters()]
    return dict(zip(names, found, strict=True))


def pix2pix_reference(translator: Any, batch: Batch) -> dict[str, Tensor]:
    """Equation 4 of the paper as one sum and one backward pass."""
    generator, judge = copy.deepcopy(translator.generator_ab), copy.deepcopy(translator.discriminator_b)
    a, b, w = batch.a, batch.b, translator.weights
    fake = generator(a)
    logits = judge(torch.cat([a, fake], 1))
    log_loss = isinstance(translator.objective, NonSaturating)
    fooled = F.binary_cross_entropy_with_logits if log_loss else F.mse_loss
    loss = w.adversarial * fooled(logits, torch.ones_like(logits)) + w.l1 * F.l1_loss(fake, b)
    found = torch.autograd.grad(loss, list(generator.parameters()))
    real, judged = judge(torch.cat([a, b], 1)), judge(torch.cat([a, fake.detach()], 1))
    loss = 0.5 * (fooled(real, torch.ones_like(real)) + fooled(judged, torch.zeros_like(judged)))
    found += torch.autograd.grad(loss, list(judge.parameters()))
    names = [f"generator_ab.{name}" for name, _ in generator.named_parameters()]
    names += [f"discriminator_b.{name}" for name, _ in judge.named_parameters()]
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("size", [(64, 64), (33, 50)], ids=["square", "odd"])
@pytest.mark.parametrize("name", CYCLEGANS)
def test_cyclegan_gradients_equal_one_joint_backward_pass(name: str, size: tuple[int, int], plan: str) -> None:
    translator, batch = build(CYCLEGANS[name]), make_batch(size)
    from translate.networks.layers import seed_dropout

    seed_dropout(translator.networks.values(), batch.keys)
    expected = cyclegan_reference(translator, batch)
    step(translator, batch, plan)
    assert worst_error(gradients(translator), expected) <= 1e-12


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("size", [(64, 64), (33, 50)], ids=["square", "odd"])
@pytest.mark.parametrize("name", PIX2PIXS)
def test_pix2pix_gradients_equal_one_joint_backward_pass(name: str, size: tuple[int, int], plan: str) -> None:
    translator, batch = build(PIX2PIXS[name]), make_batch(size)
    from translate.networks.layers import seed_dropout

    seed_dropout(translator.networks.values(), batch.keys)
    expected = pix2pix_reference(translator, batch)
    step(translator, batch, plan)
    assert worst_error(gradients(translator), expected) <= 1e-12


@pytest.mark.parametrize("config", [CYCLEGANS["resnet"], PIX2PIXS["unet"]], ids=["cyclegan", "pix2pix"])
@pytest.mark.parametrize("plan", PLANS)
def test_micro_batches_give_the_gradients_of_the_whole_batch(config: Any, plan: str) -> None:
    batch = make_batch((32, 32), samples=3)
    whole, pieces = build(config), build(config)
    losses = step(whole, batch, plan).losses
    split = step(pieces, batch, plan, micro_batch=2).losses
    assert worst_error(gradients(pieces), gradients(whole)) <= 1e-12
    for name, loss in losses.items():
        torch.testing.assert_close(split[name], loss)


@pytest.mark.parametrize("plan", PLANS)
def test_recomputation_advances_batch_norm_statistics_once(plan: str) -> None:
    """A checkpointed forward pass runs twice: the running statistics must not notice."""
    config = Pix2PixConfig(generator=UNetConfig(width=4, downs=5, dropout=0.0),
                           discriminator=PatchGANConfig(width=4, layers=2, norm="batch"))
    translator, batch = build(config), make_batch((64, 64))
    plain = copy.deepcopy(translator.generator_ab)
    plain(batch.a)
    step(translator, batch, plan)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(translator.generator_ab.get_buffer(name), buffer, rtol=1e-12, atol=1e-12, msg=name)


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


@pytest.mark.parametrize("plan", PLANS)
def test_a_bfloat16_step_points_where_the_float32_step_does(plan: str) -> None:
    batch = make_batch((64, 64), dtype=torch.float32)
    directions = []
    for precision in ("fp32", "bf16"):
        translator = build(CYCLEGANS["resnet"], torch.float32)
        for network in translator.networks.values():
            memory.apply(memory.PLANS[plan], network)
        optimizers = {phase: SGD(lr=1e-30).build(parameter for network in networks.values()
                                                 for parameter in network.parameters())
                      for phase, networks in translator.phases.items()}
        translator.step(batch, Update(translator, optimizers, Accelerator(cpu=True), memory.PLANS[plan], precision))
        directions.append(torch.cat([gradient.flatten() for gradient in gradients(translator).values()]))
    assert F.cosine_similarity(*directions, dim=0).item() > 0.95


def test_a_pools_exchanges_count_when_the_phase_has_ended_and_not_before() -> None:
    translator = build(CYCLEGANS["resnet"].model_copy(update={"pool": 3}))
    batch = make_batch((32, 32))
    step(translator, batch)
    assert len(translator.pools["pool_b"].images) == 2

    class Broken(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            raise RuntimeError("broken")

    translator.discriminator_b = Broken()
    with pytest.raises(RuntimeError, match="broken"):
        step(translator, batch)
    assert len(translator.pools["pool_a"].images) == 2
