"""One step of a training as shapes: what it takes, without computing anything.

The translator of a recipe is built on the meta device and **its own unmodified step** runs there while
`translate.networks.live_bytes` counts: weights, gradients, optimizer states, averages, images and everything autograd
keeps. Networks are built once a stage, and measured under as many plans as are asked for.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
from torch import Tensor

from translate.data import Batch
from translate.networks import memory
from translate.networks.live_bytes import LiveBytes, Work, emulated_autocast
from translate.networks.memory import MemoryPlan
from translate.networks.normalised import Path, computed_by, path_on
from translate.optimizers import Optimizers, clip_gradients, gradient_norm
from translate.precision import Format, layout_for
from translate.recipe import Stage
from translate.schema import Config
from translate.training.built import parameters_of
from translate.training.update import Update
from translate.translators import Translator, TranslatorConfig
from translate.translators.pool import ImagePool

Device = Literal["cuda", "cpu"]

OPTIMIZER_KERNELS = 8  # of a fused optimizer's step, where one kernel is for many weights, and of the gradient's norm


class Measured(NamedTuple):
    """What one step takes."""

    peak_bytes: int  # live bytes at the worst moment
    work: Work


class Networks(Config):
    """The part of a recipe that says what is trained, and how."""

    translator: TranslatorConfig
    optimizer: Optimizers


@functools.lru_cache(maxsize=64)
def step_on_meta(networks: str, channels: tuple[int, int], stage: Stage, protects: bool = False) -> StepOnMeta:
    """Return the step of `networks` (a `Networks` as JSON) for images of so many channels (A, B) in `stage`.

    `protects`: some pixels of A are to stay as they are.
    """
    return StepOnMeta(Networks.model_validate_json(networks), channels, stage, protects)


class StepOnMeta:
    """A step of one process in a stage, as shapes: not its first, so that optimizers have states."""

    def __init__(self, networks: Networks, channels: tuple[int, int], stage: Stage, protects: bool = False):
        self.stage, self.channels, self.warmup = stage, channels, networks.translator.pace.warmup
        self.protects = protects
        self.measured: dict[Any, Measured] = {}
        self.translator = build_on_meta(networks.translator, channels, stage)
        self.optimizers = {phase: getattr(networks.optimizer, phase).build(parameters_of(self.translator, phase))
                           for phase in self.translator.phases}
        self.fused = [each for phase, each in self.optimizers.items() if getattr(networks.optimizer, phase).is_fused]
        with LiveBytes("meta"):
            for phase, optimizer in self.optimizers.items():  # the first step makes the states
                for parameter in parameters_of(self.translator, phase):
                    parameter.grad = torch.empty_like(parameter)
                optimizer.step()

    def effect(self, plan: MemoryPlan, num_processes: int = 1) -> tuple[Any, ...]:
        """Return what `plan` does to these networks; equal where two plans do the same."""
        return memory.effect(plan, self.translator.networks.values(), self.translator.graphs_wait, num_processes)

    def measure(self, plan: MemoryPlan, precision: Format, device: Device, num_processes: int, is_here: bool = True
                ) -> Measured:
        """Return what the step takes under `plan`, on `device` in `precision`: on this machine's, if it `is_here`.

        It is run once for all plans that do the same. Batch norm is that of `num_processes`.
        """
        path = path_on(device, is_here)
        key = (self.effect(plan, num_processes), precision, device, path)
        if key not in self.measured:
            for network in [*self.translator.modules.values(), *self.translator.frozen.values()]:
                network.to(memory_format=layout_for(torch.device(device)))  # operations copy where layouts differ
            for network in self.translator.networks.values():
                memory.apply(plan, network, num_processes)
            with without_collections():
                self.measured[key] = self._run(plan, precision, device, path)
        return self.measured[key]

    def _run(self, plan: MemoryPlan, precision: Format, device: Device, path: Path) -> Measured:
        translator, stage, counter = self.translator, self.stage, LiveBytes("meta")
        with counter:
            # What is there before the step: weights, optimizer states, images, and the gradients of the step before.
            counter.add(tensor for module in [*translator.modules.values(), *translator.frozen.values()]
                        for tensor in module.state_dict().values())
            counter.add(value for optimizer in self.optimizers.values() for state in optimizer.state.values()
                        for value in state.values() if isinstance(value, Tensor))
            a, b = (torch.empty(stage.batch_size, num, *size, device="meta") for num, size in zip(
                self.channels, (stage.size if translator.needs_sources else (1, 1), stage.size), strict=True))
            protected = torch.empty(stage.batch_size, 1, *stage.size, device="meta") if self.protects else None
            for parameter in (each for phase in translator.phases for each in parameters_of(translator, phase)):
                # A frozen weight has no gradient; what the optimizer knows of it is kept for later.
                parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None

            # The step: step 0, where every term that is due every k steps runs, which is the worst case.
            counter.peak, counter.work = counter.live, Work()
            update = MetaUpdate(translator, self.optimizers, cast(Any, MetaAccelerator()), plan, precision,
                                stage.micro_batch, images=self.warmup)
            update.device, update.counter, update.fused = device, counter, self.fused
            with computed_by(path):
                translator.step(Batch(a, b, tuple(range(stage.batch_size)), protected=protected, other=a), update)
        return Measured(counter.peak, counter.work)


@contextmanager
def without_collections() -> Iterator[None]:
    """Keep Python's garbage collection waiting: it takes a sixth of a prediction, whose tensors hold no memory."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class MetaAccelerator:
    """What `Update` asks of Accelerate, on one process that computes nothing."""

    device: ClassVar[torch.device] = torch.device("meta")
    num_processes: ClassVar[int] = 1
    scaler: ClassVar[None] = None  # scaling a loss takes no memory


class MetaUpdate(Update):
    """An `Update` on the meta device that has the autocast of `device`, and no pools on another."""

    device: Device = "cuda"
    counter: LiveBytes
    fused: list[torch.optim.Optimizer]

    def autocast(self) -> AbstractContextManager[object]:
        if self.precision == "fp32":
            return nullcontext()
        return emulated_autocast(torch.bfloat16 if self.precision == "bf16" else torch.float16, self.device)

    def full_precision(self) -> AbstractContextManager[object]:
        return nullcontext() if self.precision == "fp32" else emulated_autocast(torch.float32, self.device)

    def outside_autocast(self) -> AbstractContextManager[object]:
        return nullcontext()  # recomputation in a backward pass restores its own, which is the emulated one

    def without_graph(self) -> AbstractContextManager[object]:
        return torch.no_grad()

    def step_optimizer(self, phase: str) -> Tensor:
        # What is fused copies nothing; of others the copies count.
        optimizer, before = self.optimizers[phase], self.counter.work
        is_fused = optimizer in self.fused
        if is_fused:
            norm = gradient_norm(optimizer)
            clip_gradients(optimizer)
        else:
            norm = super().step_optimizer(phase)

        # Where it is fused, and on a card, one kernel is for many weights, and reads and writes each number once.
        if is_fused or self.device == "cuda":
            trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            held = [*trained, *(parameter.grad for parameter in trained),
                    *(value for state in optimizer.state.values() for value in state.values())]
            moved_bytes = 2 * sum(value.nbytes for value in held if isinstance(value, Tensor))
            self.counter.work = before.plus(Work(0, moved_bytes, OPTIMIZER_KERNELS))
        return norm

    def past(self, pool: ImagePool, fakes: Tensor) -> Tensor:
        return fakes.clone() if pool.capacity else fakes


def build_on_meta(config: TranslatorConfig, channels: tuple[int, int], stage: Stage | None = None) -> Translator:
    """Build a translator of images with so many channels (A, B), as it is in `stage`, as shapes."""
    with torch.device("meta"):
        translator = config.build(*channels)
    translator.to(torch.device("meta"))
    if stage is not None:
        translator.take_shape(stage)
    return translator
