"""The planner: what a training will need, before it runs, and which memory plan it takes.

A prediction is the peak of a step that is run as shapes (`translate.training.step_on_meta`), so 4000×4000 takes a
second on any machine. Not counted: what cuDNN takes for its work, what the allocator loses to fragmentation, and the
device's own context; `USABLE` leaves room for them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from translate.errors import DoesNotFit
from translate.networks import memory
from translate.networks.memory import LADDER, PLANS, MemoryConfig, Plan
from translate.networks.tasks import save_shapes
from translate.optimizers import Optimizers
from translate.precision import Format
from translate.recipe import Recipe, Stage
from translate.sizes import format_bytes, num_bytes
from translate.training.step_on_meta import Device, Networks, StepOnMeta, step_on_meta
from translate.translators import TranslatorConfig

OnProgress = Callable[[int, int, str], object]  # told how many predictions are made, of how many, and what comes next

USABLE = 0.8  # the share of a card that predictions may fill: enough where it was measured, docs/benchmarks-recipes.md


@dataclass(frozen=True)
class Prediction:
    """What one stage needs under one memory plan."""

    plan: Plan
    peak_bytes: int  # live bytes at the worst moment of a step
    compute: float  # convolutions' multiplications relative to those of the plans that compute nothing twice
    same_as: str | None = None  # an earlier plan that does the same to these networks

    def __str__(self) -> str:
        return f"memory plan {self.plan}: predicted peak {format_bytes(self.peak_bytes)}, {self.compute:.2f}× compute"


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


def plan_recipe(recipe: Recipe, budget: int | None, precision: Format, device: Device = "cuda",
                on_progress: OnProgress = lambda done, total, what: None) -> list[StagePlan]:
    """Predict every stage under every plan.

    recipe       what is to be trained
    budget       bytes that predictions may fill, which decide what is chosen; None: as much as it takes
    precision    of the training
    device       whose autocast it has
    on_progress  told before each prediction, and at the end
    """
    total = len(recipe.stages) * len(PLANS)
    stages = [_plan_stage(recipe, number, budget, precision, device, on_progress)
              for number in range(len(recipe.stages))]
    on_progress(total, total, "")
    return stages


@contextmanager
def with_consistency(recipe: Recipe) -> Iterator[Recipe]:
    """Yield the recipe as `translate adapt make` trains it: with the network of the consistency loss.

    That is not trained yet, and a prediction needs its shapes alone. Without `adapt.semantic` the recipe is as it is.
    """
    if recipe.adapt is None or recipe.adapt.semantic is None:
        yield recipe
        return
    with tempfile.TemporaryDirectory() as folder:
        save_shapes(Path(folder), recipe.adapt.task.network, recipe.data.channels_a, recipe.adapt.source.num_classes)
        yield recipe.with_consistency(Path(folder), recipe.seed)


def predict(recipe: Recipe, stage: Stage, plan: Plan, precision: Format, device: Device = "cuda",
            num_processes: int = 1) -> Prediction:
    """Predict a step of `stage` under `plan`, for one of `num_processes` equal processes."""
    return _predict(_step_of(recipe, stage, num_processes), plan, precision, device, num_processes)


def predict_step(config: TranslatorConfig, size: int, plan: Plan, precision: Format, device: Device) -> Prediction:
    """Predict a step without a recipe: one sample of size × size px, three channels each, Adam."""
    step = _step(config, Optimizers(), (3, 3), Stage(resolution=size, images=1))
    return _predict(step, plan, precision, device)


def choose(recipe: Recipe, stage: Stage, budget: int | None, precision: Format, device: Device = "cuda",
           num_processes: int = 1) -> Prediction | None:
    """Return the prediction of least compute that fits into `budget` bytes; None when none does.

    No more plans are predicted than it takes to know.
    """
    def fits(name: memory.PlanName) -> Prediction | None:
        prediction = predict(recipe, stage, PLANS[name], precision, device, num_processes)
        return prediction if budget is None or prediction.peak_bytes <= budget else None

    # The ladder is in the order of compute; `plain` computes no less than `split`.
    first = next(filter(None, map(fits, LADDER[1:])), None)
    if first is not None and not first.plan.in_strips:
        return first
    return least_compute(filter(None, (first, fits("blocks"))))


def least_compute(predictions: Iterable[Prediction]) -> Prediction | None:
    """Return the first of those that compute least; None of none."""
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
    """Choose the memory plan of stage `number`.

    It is that of `before`, if the recipe still asks for the same and `card` is no other than it was; else the recipe's;
    else, under `memory: auto`, the least compute that fits: into `card`, or into the card there is. Without either that
    is `split`.

    before         what the run folder remembers of the stage; None: nothing
    device         what trains: only on CUDA is there a card to fit into
    precision      of the training
    num_processes  that share the stage's batch equally
    card           the size given by --memory, such as 8GB

    Raises `DoesNotFit` where `auto` finds nothing that fits into `card`, `UsageError` for a `card` that is no size.
    """
    # What is asked for, and how much there is.
    stage, named = recipe.stages[number], recipe.memory_of(recipe.stages[number])
    kind: Device = "cpu" if device.type == "cpu" else "cuda"
    budget = budget_of(card) if card is not None else usable_bytes(device) if device.type == "cuda" else None
    asked = {"memory": named.model_dump() if named else "auto", "card": card}

    # As before, or as the recipe says, or what fits.
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
            raise DoesNotFit(f"{describe(number, stage)}: needs {format_bytes(found.peak_bytes)} of "
                             f"{format_bytes(budget or 0)} usable even under the leanest memory plan; "
                             f"{advise(recipe, stage, number, budget or 0, precision, kind, num_processes)}")

    # The line that a person reads.
    line = f"{found}{as_before}"
    if budget is not None:
        line += f" of {format_bytes(budget)} usable"
        if found.peak_bytes > budget:
            line += f" (warning: {format_bytes(found.peak_bytes - budget)} more than that)"
    return Choice(found.plan, asked, line, found.peak_bytes)


def describe(number: int, stage: Stage) -> str:
    """Return a stage in words."""
    height, width = stage.size
    return f"stage {number + 1}, {height}×{width} px, batch {stage.micro_batch or stage.batch_size}"


def usable_bytes(device: torch.device) -> int:
    """Return what a training may fill of a card: a share of what is free now, and of what this process holds of it."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(USABLE * (free + torch.cuda.memory_reserved(device)))


def budget_of(memory_size: str) -> int:
    """Return the bytes that predictions may fill on a card of a given size, such as 8GB. Raises `UsageError`."""
    return int(USABLE * num_bytes(memory_size))


def advise(recipe: Recipe, stage: Stage, number: int, budget: int, precision: Format, device: Device = "cuda",
           num_processes: int = 1) -> str:
    """Say what to change in a stage that fits under no plan: smaller pieces, or the largest square that does."""
    field, leanest = f"stages.{number}", PLANS[LADDER[-1]]

    def peak(each: Stage) -> int:
        return predict(recipe, each, leanest, precision, device, num_processes).peak_bytes

    # One image at a time, where that is enough.
    if (stage.micro_batch or stage.batch_size // num_processes) > 1:
        stage = stage.model_copy(update={"micro_batch": 1})
        if peak(stage) <= budget:
            note = (" (its batch norms then see one image at a time)" if has_batch_norm(recipe) else
                    " (the gradients stay those of the whole batch)")
            return f"set {field}.micro_batch to 1{note}"

    # The peak is a line over the number of pixels, which two sizes tell: this one and half of it.
    smaller_networks = "set the networks' width to less: most of it is weights"
    multiple = 2**(getattr(recipe.translator.generator, "downs", 4) + stage.levels)
    half = stage.model_copy(update={"resolution": max(min(stage.size) // 2 // multiple, 1) * multiple})
    if min(half.size) < recipe.smallest_side(stage):
        return smaller_networks
    small, large = peak(half), peak(stage)
    area, small_area = stage.size[0] * stage.size[1], half.size[0] * half.size[1]
    per_pixel = max(large - small, 1) / max(area - small_area, 1)
    fitting = max(small_area + (budget - small) / per_pixel, 0) ** 0.5
    side = int(fitting) // multiple * multiple

    # In words.
    pieces = f"{field}.micro_batch to 1 and " if stage.micro_batch == 1 and stage.batch_size > 1 else ""
    if side < max(recipe.smallest_side(stage), 64):
        return smaller_networks
    grows = any(other.levels != stage.levels for other in recipe.stages)
    others = " (and the others in proportion: each level is for twice the size)" if grows else ""
    return f"set {pieces}{field}.resolution to {side}{others}, or the networks' width to less"


def has_batch_norm(recipe: Recipe) -> bool:
    """Whether a network of the recipe takes statistics over a batch."""
    networks = _step_of(recipe, recipe.stages[0]).translator.networks.values()
    return any(isinstance(part, _BatchNorm) for network in networks for part in network.modules())


def _plan_stage(recipe: Recipe, number: int, budget: int | None, precision: Format, device: Device,
                on_progress: OnProgress) -> StagePlan:
    stage = recipe.stages[number]
    named = recipe.memory_of(stage)

    # Every plan, as many strips as the recipe says; of those that do the same the first gives the others its name.
    step, predictions, first_with = _step_of(recipe, stage), list[Prediction](), dict[Any, str]()
    for plan in (named.resolve() if named and named.plan == name else plan for name, plan in PLANS.items()):
        on_progress(number * len(PLANS) + len(predictions), len(recipe.stages) * len(PLANS),
                    f"stage {number + 1}, {plan}")
        found = predict(recipe, stage, plan, precision, device)
        first = first_with.setdefault(step.effect(plan), plan.name)
        predictions.append(Prediction(plan, found.peak_bytes, found.compute, first if first != plan.name else None))

    # The plan that the recipe names, where it fits; under `auto` the least compute that does.
    by_name = {each.plan.name: each for each in predictions}
    fitting = least_compute(by_name[name] for name in (*LADDER[1:], "blocks")
                            if budget is None or by_name[name].peak_bytes <= budget)
    chosen = fitting
    if named is not None:
        chosen = by_name[named.plan] if budget is None or by_name[named.plan].peak_bytes <= budget else None

    # What to do where it does not.
    advice = ""
    if chosen is None and fitting:
        advice = f"plan {named.plan if named else ''} does not fit and {fitting.plan} does: set memory to auto"
    elif chosen is None and budget is not None:
        advice = advise(recipe, stage, number, budget, precision, device)
    return StagePlan(number, stage, predictions, chosen, advice)


def _step_of(recipe: Recipe, stage: Stage, num_processes: int = 1) -> StepOnMeta:
    """Return the step of `stage` in one of `num_processes` equal processes."""
    return _step(recipe.translator, recipe.optimizer, (recipe.data.channels_a, recipe.data.channels_b), Stage(
        images=1, batch_size=stage.batch_size // num_processes,  # and besides what a prediction depends on
        **stage.model_dump(include={"resolution", "micro_batch", "levels", "fade", "freeze"})))


def _step(translator: TranslatorConfig, optimizer: Optimizers, channels: tuple[int, int], stage: Stage) -> StepOnMeta:
    return step_on_meta(Networks(translator=translator, optimizer=optimizer).model_dump_json(), channels, stage)


def _predict(step: StepOnMeta, plan: Plan, precision: Format, device: Device, num_processes: int = 1) -> Prediction:
    peak_bytes, flops = step.measure(plan, precision, device, num_processes)
    _, least_flops = step.measure(PLANS["split"], precision, device, num_processes)
    return Prediction(plan, peak_bytes, flops / least_flops)
