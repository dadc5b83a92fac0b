"""What the tests of a training step share: a translator, a batch, one step, and the gradients it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from translate.data import Batch
from translate.networks import memory
from translate.networks.live_bytes import LiveBytes
from translate.networks.memory import MemoryPlan
from translate.optimizers import SGD, Optimizers
from translate.precision import Format
from translate.recipe import Stage
from translate.training.step_on_meta import Networks, StepOnMeta
from translate.training.update import Update
from translate.translators import Translator

LR = 0.003  # moves a discriminator so far that a generator which plays against it has other gradients


def make_batch(size: tuple[int, int], samples: int = 2, dtype: torch.dtype = torch.float64) -> Batch:
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.rand(samples, 3, *size, generator=generator, dtype=dtype) * 2 - 1 for _ in range(2))
    return Batch(a, b, tuple(range(40, 40 + samples)))


def peak_of_step(config: Any, size: int, plan: MemoryPlan, precision: Any, device: Any) -> int:
    """The predicted peak of a step of one sample of size × size px, three channels each, Adam; bytes."""
    networks = Networks(translator=config, optimizer=Optimizers())
    return StepOnMeta(networks, (3, 3), Stage(resolution=size, images=1)).measure(plan, precision, device, 1).peak_bytes


def peak_of_real_step(config: Any, batch: Batch, plan: MemoryPlan, stages: Sequence[Stage],
                      precision: Format = "fp32") -> int:
    """The bytes alive at the worst moment of a step of the last stage, after a step of each: on a CPU, Adam."""
    translator: Translator = config.build(batch.a.shape[1], batch.b.shape[1], 0)
    translator.to(torch.device("cpu"))
    optimizers = {phase: getattr(Optimizers(), phase).build(
        parameter for network in parts.values() for parameter in network.parameters())
        for phase, parts in translator.phases.items()}
    for network in translator.networks.values():
        memory.apply(plan, network)

    def play() -> None:
        translator.step(batch, Update(translator, optimizers, Accelerator(cpu=True), plan, precision))

    for stage in stages:
        translator.take_shape(stage)
        play()
    with LiveBytes("cpu") as counter:
        counter.add(tensor for module in translator.modules.values() for tensor in module.state_dict().values())
        counter.add(value for optimizer in optimizers.values() for state in optimizer.state.values()
                    for value in state.values() if isinstance(value, Tensor))
        counter.add(parameter.grad for network in translator.networks.values() for parameter in network.parameters()
                    if parameter.grad is not None)
        counter.add([batch.a, batch.b])
        counter.peak = counter.live
        play()
    return counter.peak


def build(config: Any, dtype: torch.dtype = torch.float64) -> Translator:
    """A translator whose gradients are all worth comparing, see `strengthen`."""
    torch.manual_seed(0)
    translator: Translator = config.build(3, 3, 0)
    translator.to(torch.device("cpu"), dtype)
    return strengthen(translator)


def strengthen(translator: Translator) -> Translator:
    """Ten times the published initial weights, so that no gradient is near zero.

    The γ of attention is 0 at first, and then the only gradient of attention: here it is ½. What registers pairs has no
    norms, and would move all pixels off the image: its last layer alone is strengthened, to about a pixel.
    """
    with torch.no_grad():
        for name, network in translator.networks.items():
            if name == "registration":
                network.last.weight.mul_(300.0)
                continue
            for parameter in network.parameters():
                parameter.mul_(10.0 if parameter.ndim == 4 else 1.0)
                if parameter.ndim == 0:
                    parameter.fill_(0.5)
    return translator


def step(translator: Translator, batch: Batch, plan: str | memory.MemoryPlan = "split", micro_batch: int | None = None,
         accelerator: Accelerator | None = None, number: int = 0, images: int = 0, lr: float = 1e-30) -> Update:
    """One step with SGD at a learning rate too small to move the weights: the gradients stay to be looked at.

    With a larger `lr` the gradients of whoever moves second are those against what the first has become.
    """
    optimizers = {phase: SGD(lr=lr).build(parameter for network in networks.values()
                                             for parameter in network.parameters())
                  for phase, networks in translator.phases.items()}
    chosen = memory.PLANS[plan] if isinstance(plan, str) else plan
    for network in translator.networks.values():
        memory.apply(chosen, network)
    update = Update(translator, optimizers, accelerator or Accelerator(cpu=True), chosen, "fp32", micro_batch, number,
                    images)
    translator.step(batch, update)
    return update


def gradients(translator: Translator) -> dict[str, Tensor]:
    return {f"{name}.{parameter}": value.grad for name, network in translator.networks.items()
            for parameter, value in network.named_parameters()}


def known(translator: Translator) -> dict[str, Tensor]:
    """The gradients of what is trained: a frozen network has none."""
    return {name: gradient for name, gradient in gradients(translator).items() if gradient is not None}


def worst_error(found: dict[str, Tensor], expected: dict[str, Tensor], floor: float = 1e-3) -> float:
    """The largest error of any gradient, relative to that gradient's own largest value (or to the network's).

    A bias in front of a norm has an exact gradient of zero, and what is found is rounding: hence the floor, a part of
    the network's.
    """
    size = {name: value.abs().max().item() for name, value in expected.items()}
    network = {name: max(size[other] for other in size if other.split(".")[0] == name.split(".")[0]) for name in size}
    return max((found[name] - value).abs().max().item() / max(size[name], floor * network[name])
               for name, value in expected.items())


def weights(translator: Translator) -> dict[str, Tensor]:
    return {f"{name}.{parameter}": value.detach() for name, network in translator.networks.items()
            for parameter, value in network.named_parameters()}
