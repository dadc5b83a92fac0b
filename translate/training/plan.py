"""The planner: what a training will need, before it runs.

A prediction builds the recipe's translator on the meta device and runs **its own unmodified step** there while
`translate.training.live_bytes` counts: weights, gradients, optimizer state, averages, images and everything autograd
keeps. Nothing is computed, so 4000×4000 takes seconds on any machine. Not counted: what cuDNN takes for its work, what
the allocator loses to fragmentation, and the device's own context; `USABLE` leaves room for them.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from translate.data import Batch
from translate.errors import DoesNotFit
from translate.networks import memory
from translate.networks.memory import LADDER, PLANS, MemoryConfig, Plan
from translate.networks.tasks import save_shapes
from translate.optimizers import Optimizers
from translate.precision import Format
from translate.recipe import Recipe, Stage
from translate.schema import Config
from translate.sizes import amount, num_bytes
from translate.training.live_bytes import KnownShapes, LiveBytes, emulated_autocast
from translate.training.update import Update
from translate.translators import Translator, TranslatorConfig
from translate.translators.pool import ImagePool

Device = Literal["cuda", "cpu"]

USABLE = 0.8  # the share of a card that predictions may fill: enough where it was measured, docs/benchmarks-recipes.md


@dataclass(frozen=True)
class Prediction:
    """What one stage needs under one memory plan."""

    plan: Plan
    peak_bytes: int  # live bytes at the worst moment of a step
    compute: float  # convolutions' multiplications relative to those of the plans that compute nothing twice
    same_as: str | None = None  # an earlier plan that does the same to these networks

    def __str__(self) -> str:
        return f"memory plan {self.plan}: predicted peak {amount(self.peak_bytes)}, {self.compute:.2f}× compute"


@dataclass(frozen=True)
class StagePlan:
    """All predictions for one stage, and the plan that a training will take."""

    number: int
    stage: Stage
    predictions: list[Prediction]
    chosen: Prediction | None  # None: nothing fits
    advice: str  # what to change, where something does not fit

    def as_json(self, budget: int | None) -> dict[str, Any]:
        return {"stage": self.number + 1, "resolution": list(self.stage.size), "batch_size": self.stage.batch_size,
                "micro_batch": self.stage.micro_batch, "chosen": self.chosen.plan.name if self.chosen else None,
                "advice": self.advice, "plans": [{
                    "plan": each.plan.name, "strips": each.plan.num_strips if each.plan.in_strips else None,
                    "peak_bytes": each.peak_bytes, "compute": round(each.compute, 4), "same_as": each.same_as,
                    "fits": None if budget is None else each.peak_bytes <= budget,
                    "missing_bytes": None if budget is None else max(each.peak_bytes - budget, 0),
                } for each in self.predictions]}


def plan_recipe(recipe: Recipe, budget: int | None, precision: Format, device: Device = "cuda") -> list[StagePlan]:
    """Predictions for every stage under every plan. `budget` is in bytes; None: as much as it takes."""
    return [_plan_stage(recipe, number, budget, precision, device) for number in range(len(recipe.stages))]


@contextmanager
def with_consistency(recipe: Recipe) -> Iterator[Recipe]:
    """The recipe as `translate adapt make` trains it: with the network of the consistency loss, which is not trained
    yet. A prediction needs its shapes alone. A recipe without `adapt.semantic` stays as it is."""
    if recipe.adapt is None or recipe.adapt.semantic is None:
        yield recipe
        return
    with tempfile.TemporaryDirectory() as folder:
        save_shapes(Path(folder), recipe.adapt.task.network, recipe.data.channels_a, recipe.adapt.source.num_classes)
        yield recipe.with_consistency(Path(folder), recipe.seed)


def predict(recipe: Recipe, stage: Stage, plan: Plan, precision: Format, device: Device = "cuda",
            num_processes: int = 1) -> Prediction:
    """The peak and the compute of a step of `stage` under `plan`, for one of `num_processes` equal processes."""
    networks = recipe.model_dump_json(include={"translator", "optimizer"})
    channels = (recipe.data.channels_a, recipe.data.channels_b)
    own = Stage(images=1, batch_size=stage.batch_size // num_processes,  # what a prediction depends on
                **stage.model_dump(include={"resolution", "micro_batch", "levels", "fade", "freeze"}))
    return _predict(networks, channels, own, plan, precision, device, num_processes)


def predict_step(config: TranslatorConfig, size: int, plan: Plan, precision: Format, device: Device) -> Prediction:
    """The same for a translator without a recipe: one sample of size × size px, three channels each, Adam."""
    networks = _Networks(translator=config, optimizer=Optimizers()).model_dump_json()
    return _predict(networks, (3, 3), Stage(resolution=size, images=1), plan, precision, device)


def choose(recipe: Recipe, stage: Stage, budget: int | None, precision: Format, device: Device = "cuda",
           num_processes: int = 1) -> Prediction | None:
    """The plan of the least compute whose prediction fits into `budget` bytes; None when none does."""
    def fits(name: memory.PlanName) -> Prediction | None:
        prediction = predict(recipe, stage, PLANS[name], precision, device, num_processes)
        return prediction if budget is None or prediction.peak_bytes <= budget else None

    # The ladder is in the order of compute; `plain` computes no less than `split`.
    first = next(filter(None, map(fits, LADDER[1:])), None)
    if first is not None and not first.plan.in_strips:
        return first
    return least_compute(filter(None, (first, fits("blocks"))))


def least_compute(predictions: Iterable[Prediction]) -> Prediction | None:
    """The first of those that compute least; None of none."""
    return min(predictions, key=lambda each: each.compute, default=None)


@dataclass(frozen=True)
class Choice:
    """The memory plan a training takes for a stage, what it was chosen by, and a line that says what it needs."""

    plan: Plan
    asked: dict[str, Any]
    line: str
    peak_bytes: int  # as predicted


def choose_for_run(recipe: Recipe, number: int, before: dict[str, Any] | None, device: torch.device,
                   precision: Format, num_processes: int = 1, card: str | None = None) -> Choice:
    """The memory plan of stage `number`.

    It is that of `before` (what the run folder remembers), if the recipe still asks for the same and `card` (the size
    given by --memory) is no other than it was; else the recipe's; else, under `memory: auto`, the least compute that
    fits: into `card`, or into the card there is. Without either that is `split`. Raises `DoesNotFit` where `auto` finds
    nothing that fits into `card`, `UsageError` for a `card` that is no size.
    """
    stage, named = recipe.stages[number], recipe.memory_of(recipe.stages[number])
    kind: Device = "cpu" if device.type == "cpu" else "cuda"
    budget = budget_of(card) if card is not None else usable_bytes(device) if device.type == "cuda" else None
    asked = {"memory": named.model_dump() if named else "auto", "card": card}
    as_before = ""
    if before and before["asked"]["memory"] == asked["memory"] and card in (None, before["asked"]["card"]):
        asked, as_before = before["asked"], ", as before"
        plan = MemoryConfig(plan=before["plan"], strips=before["strips"]).resolve()
        found = predict(recipe, stage, plan, precision, kind, num_processes)
    elif named:
        found = predict(recipe, stage, named.resolve(), precision, kind, num_processes)
    else:
        fitting = choose(recipe, stage, budget, precision, kind, num_processes)
        found = fitting or predict(recipe, stage, PLANS[LADDER[-1]], precision, kind, num_processes)
        if fitting is None and card is not None:
            raise DoesNotFit(f"{describe(number, stage)}: needs {amount(found.peak_bytes)} of {amount(budget or 0)} "
                             "usable even under the leanest memory plan; "
                             f"{advise(recipe, stage, number, budget or 0, precision, kind, num_processes)}")
    line = f"{found}{as_before}"
    if budget is not None:
        line += f" of {amount(budget)} usable"
        if found.peak_bytes > budget:
            line += f" (warning: {amount(found.peak_bytes - budget)} more than that)"
    return Choice(found.plan, asked, line, found.peak_bytes)


def describe(number: int, stage: Stage) -> str:
    """A stage in words."""
    height, width = stage.size
    return f"stage {number + 1}, {height}×{width} px, batch {stage.micro_batch or stage.batch_size}"


def usable_bytes(device: torch.device) -> int:
    """What a training may fill of a card: a share of what is free now, and of what this process holds of it."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(USABLE * (free + torch.cuda.memory_reserved(device)))


def budget_of(memory_size: str) -> int:
    """The bytes that predictions may fill on a card of a given size, such as 8GB. Raises `UsageError`."""
    return int(USABLE * num_bytes(memory_size))


def advise(recipe: Recipe, stage: Stage, number: int, budget: int, precision: Format, device: Device = "cuda",
           num_processes: int = 1) -> str:
    """What to change in a stage that fits under no plan: smaller pieces, or the largest square that does."""
    field, leanest = f"stages.{number}", PLANS[LADDER[-1]]

    def peak(each: Stage) -> int:
        return predict(recipe, each, leanest, precision, device, num_processes).peak_bytes

    if (stage.micro_batch or stage.batch_size // num_processes) > 1:
        stage = stage.model_copy(update={"micro_batch": 1})
        if peak(stage) <= budget:
            note = (" (its batch norms then see one image at a time)" if has_batch_norm(recipe) else
                    " (the gradients stay those of the whole batch)")
            return f"set {field}.micro_batch to 1{note}"
    smaller_networks = "set the networks' width to less: most of it is weights"
    multiple = 2**(getattr(recipe.translator.generator, "downs", 4) + stage.levels)
    half = stage.model_copy(update={"resolution": max(min(stage.size) // 2 // multiple, 1) * multiple})
    if min(half.size) < recipe.smallest_side(stage):
        return smaller_networks
    small, large = peak(half), peak(stage)
    area, small_area = stage.size[0] * stage.size[1], half.size[0] * half.size[1]
    per_pixel = max(large - small, 1) / max(area - small_area, 1)  # the peak is a line over the number of pixels
    fitting = max(small_area + (budget - small) / per_pixel, 0) ** 0.5
    side = int(fitting) // multiple * multiple
    pieces = f"{field}.micro_batch to 1 and " if stage.micro_batch == 1 and stage.batch_size > 1 else ""
    if side < max(recipe.smallest_side(stage), 64):
        return smaller_networks
    grows = any(other.levels != stage.levels for other in recipe.stages)
    others = " (and the others in proportion: each level is for twice the size)" if grows else ""
    return f"set {pieces}{field}.resolution to {side}{others}, or the networks' width to less"


def has_batch_norm(recipe: Recipe) -> bool:
    """Whether a network of the recipe takes statistics over a batch."""
    translator = build_on_meta(recipe.translator, (recipe.data.channels_a, recipe.data.channels_b))
    return any(isinstance(part, _BatchNorm) for network in translator.networks.values() for part in network.modules())


def _plan_stage(recipe: Recipe, number: int, budget: int | None, precision: Format, device: Device) -> StagePlan:
    stage = recipe.stages[number]
    named = recipe.memory_of(stage)
    plans = {name: named.resolve() if named and named.plan == name else plan for name, plan in PLANS.items()}
    predictions: list[Prediction] = []
    effects: dict[Any, str] = {}
    translator = build_on_meta(recipe.translator, (recipe.data.channels_a, recipe.data.channels_b), stage)
    for plan in plans.values():
        found = predict(recipe, stage, plan, precision, device)
        does = memory.effect(plan, translator.networks.values(), translator.replays)
        first = effects.setdefault(does, plan.name)
        predictions.append(Prediction(plan, found.peak_bytes, found.compute, first if first != plan.name else None))
    by_name = {each.plan.name: each for each in predictions}
    fitting = least_compute(by_name[name] for name in (*LADDER[1:], "blocks")
                            if budget is None or by_name[name].peak_bytes <= budget)
    if named is None:
        chosen = fitting
    else:
        chosen = by_name[named.plan] if budget is None or by_name[named.plan].peak_bytes <= budget else None
    advice = ""
    if chosen is None and fitting:
        advice = f"plan {named.plan if named else ''} does not fit and {fitting.plan} does: set memory to auto"
    elif chosen is None and budget is not None:
        advice = advise(recipe, stage, number, budget, precision, device)
    return StagePlan(number, stage, predictions, chosen, advice)


def build_on_meta(config: TranslatorConfig, channels: tuple[int, int], stage: Stage | None = None) -> Translator:
    """A translator of images with so many channels (A, B), as it is in `stage`, as shapes."""
    with torch.device("meta"):
        translator = config.build(*channels)
    translator.to(torch.device("meta"))
    if stage is not None:
        translator.enter(stage)
    return translator


class _Networks(Config):
    """The part of a recipe that says what is trained, and how."""

    translator: TranslatorConfig
    optimizer: Optimizers


def _predict(networks: str, channels: tuple[int, int], stage: Stage, plan: Plan, precision: Format, device: Device,
             num_processes: int = 1) -> Prediction:
    step = _step_on_meta(networks, channels, stage)
    (peak_bytes, flops), (_, least_flops) = (
        step.measure(each, precision, device, num_processes) for each in (plan, PLANS["split"]))
    return Prediction(plan, peak_bytes, flops / least_flops)


@functools.lru_cache(maxsize=64)
def _step_on_meta(networks: str, channels: tuple[int, int], stage: Stage) -> StepOnMeta:
    """`networks` is a `_Networks` as JSON, and `stage` that of one process."""
    return StepOnMeta(_Networks.model_validate_json(networks), channels, stage)


class StepOnMeta:
    """The second step of a stage as shapes, to be measured under any plan."""

    def __init__(self, config: _Networks, channels: tuple[int, int], stage: Stage):
        self.stage, self.channels, self.warmup = stage, channels, config.translator.pace.warmup
        self.shapes = KnownShapes()
        self.measured: dict[Any, tuple[int, int]] = {}
        self.translator = build_on_meta(config.translator, channels, stage)
        self.optimizers = {phase: getattr(config.optimizer, phase).build(parameters_of(self.translator, phase))
                           for phase in self.translator.phases}
        with LiveBytes("meta", self.shapes):
            for phase, optimizer in self.optimizers.items():  # the first step makes the state
                for parameter in parameters_of(self.translator, phase):
                    parameter.grad = torch.empty_like(parameter)
                optimizer.step()
                optimizer.register_step_pre_hook(_take_one_of_each_shape)
                optimizer.register_step_post_hook(_take_all)

    def effect(self, plan: Plan, num_processes: int = 1) -> tuple[Any, ...]:
        """Return what `plan` does to these networks; equal where two plans do the same."""
        return memory.effect(plan, self.translator.networks.values(), self.translator.replays, num_processes)

    def measure(self, plan: Plan, precision: Format, device: Device, num_processes: int) -> tuple[int, int]:
        """Return (peak in bytes, floating-point operations) of the step under `plan`."""
        key = (self.effect(plan, num_processes), precision, device)
        if key not in self.measured:
            self.measured[key] = self._run(plan, precision, device, num_processes)
        return self.measured[key]

    def _run(self, plan: Plan, precision: Format, device: Device, num_processes: int) -> tuple[int, int]:
        translator, stage = self.translator, self.stage
        for network in translator.networks.values():
            memory.apply(plan, network, num_processes)
        counter = LiveBytes("meta", self.shapes)
        with counter:
            # What is there before the step: weights, optimizer states, images, and the gradients of the step before.
            counter.add(tensor for module in [*translator.modules.values(), *translator.frozen.values()]
                        for tensor in module.state_dict().values())
            counter.add(value for optimizer in self.optimizers.values() for state in optimizer.state.values()
                        for value in state.values() if isinstance(value, Tensor))
            a, b = (torch.empty(stage.batch_size, num, *stage.size, device="meta") for num in self.channels)
            for parameter in (each for phase in translator.phases for each in parameters_of(translator, phase)):
                # A frozen weight has none; what the optimizer knows of it is kept for later.
                parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None

            counter.peak, counter.flops = counter.live, 0
            update = MetaUpdate(translator, self.optimizers, cast(Any, MetaAccelerator()), plan, precision,
                                stage.micro_batch, images=self.warmup)  # number 0: all that comes every k steps is due
            update.device = device
            translator.step(Batch(a, b, tuple(range(stage.batch_size))), update)
        return counter.peak, counter.flops


def _take_one_of_each_shape(optimizer: torch.optim.Optimizer, *step: Any) -> None:
    """Step one weight of each shape, which stands for all: they are stepped in place, one after the other."""
    for group in optimizer.param_groups:
        by_shape = {(each.shape, each.dtype): each for each in group["params"] if each.grad is not None}
        group["all"], group["params"] = group["params"], list(by_shape.values())


def _take_all(optimizer: torch.optim.Optimizer, *step: Any) -> None:
    for group in optimizer.param_groups:
        group["params"] = group.pop("all")


def parameters_of(translator: Translator, phase: str) -> Iterator[torch.nn.Parameter]:
    """What a phase trains."""
    return (parameter for network in translator.phases[phase].values() for parameter in network.parameters())


class MetaAccelerator:
    """What `Update` asks of Accelerate, on one process that computes nothing."""

    device: ClassVar[torch.device] = torch.device("meta")
    num_processes: ClassVar[int] = 1
    scaler: ClassVar[None] = None  # scaling a loss takes no memory


class MetaUpdate(Update):
    """An `Update` on the meta device that has the autocast of `device`, and no pools on another."""

    device: Device = "cuda"

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

    def past(self, pool: ImagePool, fakes: Tensor) -> Tensor:
        return fakes.clone() if pool.capacity else fakes
