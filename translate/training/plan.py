"""The planner: what a training will need, before it runs, and which memory plan it takes.

A prediction is the peak of a step that is run as shapes (`translate.training.step_on_meta`), and the time that its work
takes a device of a known speed (`translate.training.speeds`), so 4000×4000 takes a second on any machine. Not counted:
what cuDNN takes for its work, what the allocator loses to fragmentation, and the device's own context; `USABLE` leaves
room for them, and on a CPU `PROCESS_BYTES` and `WORKER_BYTES` as well.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from translate.data.loading import workers_for
from translate.errors import DoesNotFit
from translate.host.available_memory import available_bytes
from translate.host.launcher import num_processes_here
from translate.networks.memory import LADDER, MORE_WORK, PLANS, MemoryConfig, MemoryPlan, PlanName
from translate.networks.statistics import has_batch_norm
from translate.networks.task_networks import save_shapes
from translate.networks.weights import bytes_of
from translate.precision import Format
from translate.recipe import Recipe, Stage
from translate.sizes import format_bytes, format_speed, num_bytes
from translate.training.hours import Loading
from translate.training.speeds import Speed, assumed, measured
from translate.training.step_on_meta import Device, Networks, StepOnMeta, step_on_meta

OnProgress = Callable[[int, int, str], object]  # told how many predictions are made, of how many, and what comes next

USABLE = 0.8  # the share of a GPU that predictions may fill: enough where it was measured, docs/benchmarks-recipes.md
PLAIN_GAIN = 0.05  # of the time: less is not worth the several times as much memory that plan `plain` takes
# What processes take on a CPU besides tensors of a step (docs/memory.md): one that trains, and each that loads images.
PROCESS_BYTES, WORKER_BYTES = 128 * 2**20, 64 * 2**20


@dataclass(frozen=True)
class Prediction:
    """What one stage needs under one memory plan."""

    plan: MemoryPlan
    peak_bytes: int  # live bytes at the worst moment of a step
    compute: float  # convolutions' multiplications relative to those of the plans that compute nothing twice
    seconds: float  # an image
    same_as: str | None = None  # an earlier plan that does the same to these networks

    def fits(self, budget: int | None) -> bool:
        """Tell whether it fits into `budget` bytes; None: whatever it takes."""
        return budget is None or self.peak_bytes <= budget


@dataclass(frozen=True)
class StagePlan:
    """All predictions for one stage, and the plan that a training will take."""

    number: int
    stage: Stage
    predictions: list[Prediction]
    chosen: Prediction | None  # None: nothing fits
    advice: str  # what to change, where something does not fit

    def hours(self, prediction: Prediction, loading: Loading) -> float:
        """Return how long the stage takes under a plan, beside the loading of its images."""
        return self.stage.images * loading.beside(prediction.seconds) / 3600

    def as_json(self, budget: int | None, loading: Loading) -> dict[str, Any]:
        return {"stage": self.number + 1, "resolution": list(self.stage.size), "batch_size": self.stage.batch_size,
                "micro_batch": self.stage.micro_batch, "chosen": self.chosen.plan.name if self.chosen else None,
                "hours": self.hours(self.chosen, loading) if self.chosen else None,
                "loading_seconds_an_image": loading.seconds,
                "advice": self.advice, "plans": [{
                    "plan": each.plan.name, "strips": each.plan.num_strips if each.plan.in_strips else None,
                    "peak_bytes": each.peak_bytes, "compute": round(each.compute, 4), "same_as": each.same_as,
                    "seconds_an_image": each.seconds, "hours": self.hours(each, loading),
                    "fits": None if budget is None else each.peak_bytes <= budget,
                    "missing_bytes": None if budget is None else max(each.peak_bytes - budget, 0),
                } for each in self.predictions]}


def plan_recipe(recipe: Recipe, budget: int | None, precision: Format, device: Device = "cuda",
                on_progress: OnProgress = lambda done, total, what: None, speed: Speed | None = None
                ) -> list[StagePlan]:
    """Predict every stage under every plan.

    recipe       what is to be trained
    budget       bytes that predictions may fill, which decide what is chosen; None: as much as it takes
    precision    of the training
    device       whose autocast it has
    on_progress  told before each prediction, and at the end
    speed        of the device that trains; None: one is assumed, as in `choose`
    """
    total = len(recipe.stages) * len(PLANS)
    stages = [_plan_stage(recipe, number, budget, precision, device, on_progress, speed)
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


def refuse_what_has_no_room(recipe: Recipe) -> None:
    """Raise `DoesNotFit` for networks whose weights alone are more than this process may take.

    Building them would take all that there is, until the process is killed.
    """
    translator = _step_of(recipe, recipe.stages[0]).translator
    needed, left = bytes_of([*translator.modules.values(), *translator.frozen.values()]), available_bytes()
    if needed > left.bytes:
        raise DoesNotFit(f"the weights of these networks alone take {format_bytes(needed)}, and there are {left}",
                         advice="use a smaller width, or fewer blocks")


def predict(recipe: Recipe, stage: Stage, plan: MemoryPlan, precision: Format, device: Device = "cuda",
            num_processes: int = 1, speed: Speed | None = None) -> Prediction:
    """Predict a step of `stage` under `plan`, for one of `num_processes` equal processes of this `speed`.

    Without a speed one is assumed, see `translate.training.speeds.assumed`.
    """
    step = _step_of(recipe, stage, num_processes)
    return _predict(step, plan, precision, device, num_processes, speed or assumed(device, precision))


def choose(recipe: Recipe, stage: Stage, budget: int | None, precision: Format, device: Device = "cuda",
           num_processes: int = 1, speed: Speed | None = None) -> Prediction | None:
    """Return the prediction of the least time that fits into `budget` bytes; None when none does.

    Without a speed one is assumed: that of a GPU of which no more than such a budget could be used.
    """
    speed = speed or assumed(device, precision, None if budget is None else int(budget / USABLE))
    return least_time(lambda name: predict(recipe, stage, PLANS[name], precision, device, num_processes, speed),
                      budget, may_be_plain=device == "cuda" and budget is not None)


def least_time(predicted: Callable[[PlanName], Prediction], budget: int | None, may_be_plain: bool
               ) -> Prediction | None:
    """Return, of the plans that `memory: auto` may take, the prediction of the least time that fits into `budget`.

    predicted     is asked for no more plans than it takes to know
    budget        bytes; None: whatever it takes
    may_be_plain  whether `plain` may be taken as well, where its gain is worth its memory

    None when none fits.
    """
    # Plans that only do more than another cannot be quicker: where that fits, they need no prediction.
    fitting: list[Prediction] = []
    for name in MORE_WORK:
        if not any(name in MORE_WORK[each.plan.name] for each in fitting):
            found = predicted(name)
            fitting += [found] if found.fits(budget) else []
    least = min(fitting, key=lambda each: each.seconds, default=None)

    # `plain` computes nothing twice, as `split`, and starts fewer kernels.
    if least is not None and least.plan.name == "split" and may_be_plain:
        plain = predicted("plain")
        if plain.fits(budget) and plain.seconds < (1 - PLAIN_GAIN) * least.seconds:
            return plain
    return least


@dataclass(frozen=True)
class Choice:
    """The memory plan a training takes for a stage, what it was chosen for, and a line that says what it needs."""

    plan: MemoryPlan
    asked: dict[str, Any]  # what the recipe and --gpu asked for: the choice holds as long as they ask for the same
    line: str
    peak_bytes: int  # as predicted
    seconds: float  # an image, as predicted
    filled: float | None  # what share of a CPU's room a step fills, as predicted, whatever --gpu says; None: no CPU


def choose_for_run(recipe: Recipe, number: int, before: dict[str, Any] | None, device: torch.device,
                   precision: Format, num_processes: int = 1, gpu_memory: str | None = None,
                   held_bytes: int = 0, speed: Speed | None = None) -> Choice:
    """Choose the memory plan of stage `number`. The first of these that applies:

    1. the plan in the run folder (`before`), if the recipe's memory and --gpu are unchanged
    2. the plan that the recipe names
    3. under `memory: auto`, the one of the least predicted time that fits into `gpu_memory` or into what the GPU, or
       on a CPU the machine and the cgroups around this process, have left

    On a CPU a plan of the run folder that `auto` chose must still fit: a process that takes too much is killed there.
    So `auto` gives up there where not even the leanest plan fits.

    before         what the run folder remembers of the stage; None: nothing
    device         what trains
    precision      of the training
    num_processes  that share the stage's batch equally
    gpu_memory     the size given by --gpu, such as 8GB
    held_bytes     what of the prediction this process already holds
    speed          of the device; None: as it was measured on this machine

    Raises `DoesNotFit` where `auto` finds nothing that fits into `gpu_memory`, or on a CPU into what is left;
    `UsageError` for a `gpu_memory` that is no size.
    """
    # What is asked for, and how much there is.
    stage, named = recipe.stages[number], recipe.memory_of(recipe.stages[number])
    kind: Device = "cpu" if device.type == "cpu" else "cuda"
    room, room_from = None, ""
    if device.type == "cpu":
        room, room_from = usable_by_process(
            num_processes, held_bytes, workers_for(recipe.workers, device, num_processes))
    budget, limit_from = room, room_from
    if gpu_memory is not None:
        budget, limit_from = budget_of(gpu_memory), ""
    elif device.type == "cuda":
        budget = usable_bytes(device)
    asked = {"memory": named.model_dump() if named else "auto", "card": gpu_memory}
    speed = speed or measured(device, precision)

    # The three cases of the docstring.
    how, kept = "", None
    if before and before["asked"]["memory"] == asked["memory"] and gpu_memory in (None, before["asked"]["card"]):
        plan = MemoryConfig(plan=before["plan"], strips=before["strips"]).resolve()
        kept = predict(recipe, stage, plan, precision, kind, num_processes, speed)
    must_fit = kind == "cpu" and named is None and limit_from
    if before and kept and (kept.fits(budget) or not must_fit or before["asked"]["card"]):
        found, asked, how = kept, before["asked"], ", as before"
    elif named:
        found, how = predict(recipe, stage, named.resolve(), precision, kind, num_processes, speed), ", as named"
    else:
        fitting = choose(recipe, stage, budget, precision, kind, num_processes, speed)
        found = fitting or predict(recipe, stage, PLANS[LADDER[-1]], precision, kind, num_processes, speed)
        how = ", the least predicted time of those that fit" if fitting else ", the leanest"
        otherwise = "; a plan that the recipe names (memory.plan) is taken all the same" if must_fit else ""
        if fitting is None and (gpu_memory is not None or must_fit):
            raise DoesNotFit(f"{describe(number, stage)}: needs {format_bytes(found.peak_bytes)} of "
                             f"{format_bytes(budget or 0)} usable{limit_from} even under the leanest memory plan; "
                             f"{advise(recipe, stage, number, budget or 0, precision, kind, num_processes)}{otherwise}")

    # The line that a person reads.
    line = f"plan {found.plan}{how}: predicted peak of a step {format_bytes(found.peak_bytes)}"
    if budget is not None:
        line += f" of {format_bytes(budget)} usable{limit_from}"
        if not found.fits(budget):
            line += f" (warning: {format_bytes(found.peak_bytes - budget)} more than that)"
    line += f"; steps alone at {format_speed(1 / found.seconds)}, as predicted ({speed.of})"
    filled = None if room is None else found.peak_bytes / max(room, 1)
    return Choice(found.plan, asked, line, found.peak_bytes, found.seconds, filled)


def describe(number: int, stage: Stage) -> str:
    """Return a stage in words."""
    height, width = stage.size
    return f"stage {number + 1}, {height}×{width} px, batch {stage.micro_batch or stage.batch_size}"


def usable_bytes(device: torch.device) -> int:
    """Return what a training may fill of a GPU: a share of what is free now, and of what this process holds of it."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(USABLE * (free + torch.cuda.memory_reserved(device)))


def usable_by_process(num_processes: int, held_bytes: int, num_workers: int) -> tuple[int, str]:
    """Return what tensors of a training on a CPU may fill of its machine and its cgroups, and in words what limits it.

    Its processes share that. Each holds `held_bytes` of it already, needs room besides for all that is no tensor, and
    has `num_workers` that load images.
    """
    left, besides = available_bytes(), PROCESS_BYTES + num_workers * WORKER_BYTES
    room = max(left.bytes / num_processes_here(num_processes) + held_bytes - besides, 0)
    return int(USABLE * room), f" ({left.limit_from}; {format_bytes(besides)} of it kept for more than tensors)"


def budget_of(memory_size: str) -> int:
    """Return the bytes that predictions may fill on a GPU of a given size, such as 8GB. Raises `UsageError`."""
    return int(USABLE * num_bytes(memory_size))


def advise(recipe: Recipe, stage: Stage, number: int, budget: int, precision: Format, device: Device = "cuda",
           num_processes: int = 1) -> str:
    """Say what to change in a stage that fits under no plan: the micro-batch, the resolution or the networks' width."""
    field, leanest = f"stages.{number}", PLANS[LADDER[-1]]

    def peak(each: Stage) -> int:
        step = _step_of(recipe, each, num_processes)
        return step.measure(leanest, precision, device, num_processes, is_here=False).peak_bytes

    # One image at a time, where that is enough.
    if (stage.micro_batch or stage.batch_size // num_processes) > 1 >= recipe.translator.least_samples:
        stage = stage.model_copy(update={"micro_batch": 1})
        if peak(stage) <= budget:
            networks = _step_of(recipe, recipe.stages[0]).translator.networks.values()
            note = (" (its batch norms then see one image at a time)" if any(map(has_batch_norm, networks)) else
                    " (the gradients stay those of the whole batch)")
            return f"set {field}.micro_batch to 1{note}"

    # The peak grows linearly with the pixels: a line through two sizes, this one and half of it, tells which side fits.
    smaller_networks = "set the networks' width to less: most of it is weights"
    if not recipe.translator.needs_sources:  # from noise, the generator says the size of an image
        return "set the networks' width to less, or draw smaller images"
    multiple = 2**(getattr(recipe.translator.generator, "downs", 4) + stage.levels)
    half = stage.model_copy(update={"resolution": max(min(stage.size) // 2 // multiple, 1) * multiple})
    if min(half.size) < recipe.smallest_side(stage):
        return smaller_networks
    small, large = peak(half), peak(stage)
    area, small_area = stage.size[0] * stage.size[1], half.size[0] * half.size[1]
    per_pixel = max(large - small, 1) / max(area - small_area, 1)
    fitting = max(small_area + (budget - small) / per_pixel, 0) ** 0.5
    side = int(fitting) // multiple * multiple

    # Say it, with the micro-batch that was assumed.
    pieces = f"{field}.micro_batch to 1 and " if stage.micro_batch == 1 and stage.batch_size > 1 else ""
    if side < max(recipe.smallest_side(stage), 64):
        return smaller_networks
    grows = any(other.levels != stage.levels for other in recipe.stages)
    others = " (and the others in proportion: each level is for twice the size)" if grows else ""
    return f"set {pieces}{field}.resolution to {side}{others}, or the networks' width to less"


def _plan_stage(recipe: Recipe, number: int, budget: int | None, precision: Format, device: Device,
                on_progress: OnProgress, speed: Speed | None) -> StagePlan:
    stage = recipe.stages[number]
    named = recipe.memory_of(stage)
    speed = speed or assumed(device, precision, None if budget is None else int(budget / USABLE))

    # Predict every plan, in as many strips as the recipe says; where several do the same, name the first of them.
    step, predictions, first_with = _step_of(recipe, stage), list[Prediction](), dict[Any, str]()
    for plan in (named.resolve() if named and named.plan == name else plan for name, plan in PLANS.items()):
        on_progress(number * len(PLANS) + len(predictions), len(recipe.stages) * len(PLANS),
                    f"stage {number + 1}, {plan}")
        found = predict(recipe, stage, plan, precision, device, speed=speed)
        first = first_with.setdefault(step.effect(plan), plan.name)
        predictions.append(replace(found, same_as=first if first != plan.name else None))

    # A training takes the plan that the recipe names or, under `auto`, the one of the least time; if it fits.
    by_name = {each.plan.name: each for each in predictions}
    fitting = least_time(by_name.__getitem__, budget, may_be_plain=device == "cuda")
    wanted = by_name[named.plan] if named else fitting
    chosen = wanted if wanted and wanted.fits(budget) else None

    # If it does not, say what to do.
    advice = ""
    if chosen is None and fitting:
        advice = f"plan {named.plan if named else ''} does not fit and {fitting.plan} does: set memory to auto"
    elif chosen is None and budget is not None:
        advice = advise(recipe, stage, number, budget, precision, device)
    return StagePlan(number, stage, predictions, chosen, advice)


def _step_of(recipe: Recipe, stage: Stage, num_processes: int = 1) -> StepOnMeta:
    """Return the step of `stage` in one of `num_processes` equal processes."""
    networks = Networks(translator=recipe.translator, optimizer=recipe.optimizer).model_dump_json()
    return step_on_meta(networks, (recipe.data.channels_a, recipe.data.channels_b), Stage(
        images=1, batch_size=stage.batch_size // num_processes,  # and the other fields that a prediction depends on
        **stage.model_dump(include={"resolution", "micro_batch", "levels", "fade", "freeze", "hold_statistics"})),
        recipe.data.protects)


def _predict(step: StepOnMeta, plan: MemoryPlan, precision: Format, device: Device, num_processes: int, speed: Speed
             ) -> Prediction:
    found = step.measure(plan, precision, device, num_processes, speed.is_measured)
    least = step.measure(PLANS["split"], precision, device, num_processes, speed.is_measured)
    num_images = step.stage.batch_size * num_processes
    return Prediction(plan, found.peak_bytes, found.work.flops / least.work.flops,
                      speed.seconds(found.work) / num_images)
