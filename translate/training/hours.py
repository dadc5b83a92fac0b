"""How long a training takes: its steps as they are predicted, or the loading of its images where that is slower."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import torch

from translate.data.loading import workers_for
from translate.data.samples import Samples
from translate.data.stream import Stream
from translate.errors import TranslateError
from translate.evaluation.heldout import HeldOut
from translate.evaluation.schedule import Schedule
from translate.host.cores import num_cores
from translate.metrics.features import find_mobilenet
from translate.places import data_root
from translate.recipe import Recipe, Stage
from translate.sizes import format_duration, format_speed

GPU = torch.device("cuda")
# So many samples are loaded to see how long one takes, or fewer, once those after the first have taken so many seconds.
# The first one also loads libraries, so that its time counts only where no other could be loaded.
TRIED_SAMPLES, TRIED_SECONDS = 5, 0.3
CACHED = "--set data.cache=20GB keeps what is shrunk"
FASTER_LOADING = f"More processes load with --set workers=N; {CACHED}"


@dataclass(frozen=True)
class Loading:
    """How long it takes to load an image of a stage, by all who do it together."""

    seconds: float | None = None  # None: not known
    num_workers: int = 1  # processes that do it while the training computes, at once; 0: it waits for each image
    step_cores: float = 0.0  # share of the cores that a step computes with, which loading then takes from it

    def beside(self, step_seconds: float) -> float:
        """Return the seconds that an image takes, of which its step takes `step_seconds`."""
        if self.seconds is None:
            return step_seconds
        if not self.num_workers:
            return step_seconds + self.seconds
        return max(step_seconds, self.seconds, self._on_all_cores(step_seconds))

    def _on_all_cores(self, step_seconds: float) -> float:
        """Return the seconds that all cores need for both, where a step computes with cores: on a CPU. Else 0."""
        if self.seconds is None or not self.step_cores:
            return 0.0
        return self.step_cores * step_seconds + self.seconds * self.num_workers / num_cores()

    def shares_cores(self, step_seconds: float) -> bool:
        """Tell whether the cores are what bounds both together, so that more processes would load no faster."""
        return self.num_workers > 0 and self._on_all_cores(step_seconds) >= max(step_seconds, self.seconds or 0.0)

    def holds_up(self, step_seconds: float) -> bool:
        """Tell whether the step waits for images more than a tenth of the time."""
        return self.beside(step_seconds) > 1.1 * step_seconds


@dataclass(frozen=True)
class Pace:
    """How long an image of a stage takes, as predicted."""

    step_seconds: float
    loading: Loading

    @property
    def seconds(self) -> float:
        """Of both together."""
        return self.loading.beside(self.step_seconds)

    def in_words(self) -> str:
        """Return the speed, and what holds it up."""
        speed, num = format_speed(1 / self.seconds), self.loading.num_workers
        if self.loading.seconds is None:
            return f"{speed}, loading not counted"
        if not self.loading.holds_up(self.step_seconds):
            return f"{speed}, held up by the step, not by loading images"
        advice = FASTER_LOADING
        how = f"by {num} process{'es' * (num > 1)} beside the step" if num else "before each step"
        if self.loading.shares_cores(self.step_seconds):
            how, advice = f"{how}, sharing its cores", CACHED
        return (f"{speed}, held up by loading images (decoding and resizing, {how}); steps alone would be at "
                f"{format_speed(1 / self.step_seconds)}. {advice}")


def loading_of(samples: Samples, recipe: Recipe, stage: Stage, num_processes: int = 1,
               device: torch.device = GPU) -> Loading:
    """Load a few samples of a stage and return how long it takes, by the recipe's workers of all processes.

    They are as many as there would be for the `device`, on this machine. With a cache, and where the
    set stays in memory, it is as in later epochs.
    """
    stream, taken = Stream(samples, recipe.seed, stage.size, stage.resize), list[float]()

    def seconds_of(number: int) -> float:
        begin = time.perf_counter()
        stream.sample(number)
        return time.perf_counter() - begin

    with suppress(Exception):  # this is only told: of what cannot be loaded the training itself tells
        while len(taken) < TRIED_SAMPLES and sum(taken[1:]) < TRIED_SECONDS:
            first = seconds_of(len(taken))
            is_there = samples.loading.cache is not None or stream.keeps_all()
            taken.append(seconds_of(len(taken)) if is_there else first)
    if not taken:
        return Loading()
    later = taken[1:] or taken
    workers = workers_for(recipe.workers, device, num_processes)
    loaders = min(max(workers, 1) * num_processes, num_cores())
    step_cores = min(1.0, torch.get_num_threads() * num_processes / num_cores()) if device.type == "cpu" else 0.0
    return Loading(sum(later) / len(later) / loaders, loaders if workers else 0, step_cores)


def scoring_share(recipe: Recipe) -> float | None:
    """Return what part of the time of a training's steps its evaluations take, about; None where there is nothing that
    could be scored, or it is not here."""
    if recipe.every.evaluate is None:
        return 0.0
    try:
        held_out = HeldOut(recipe, data_root(), most=recipe.evaluate.images)
    except TranslateError:
        return None
    if not held_out.paired and find_mobilenet() is None:
        return None
    return Schedule.of(recipe, held_out.shapes, len(held_out.sources), 0).share


def end_in_words(stages: Sequence[Stage], paces: Sequence[Pace], done: int, now: datetime) -> str:
    """Return how fast a training is and when it ends, as predicted.

    stages   that are left, the one that begins or goes on first
    paces    of each
    done     images of the first that have been seen
    now      when it is
    """
    each = [stage.images * pace.seconds for stage, pace in zip(stages, paces, strict=True)]
    each[0] -= done * paces[0].seconds
    end = now + timedelta(seconds=sum(each))
    day = "today" if end.date() == now.date() else f"on {end:%Y-%m-%d}"
    of_stage = f"this stage {format_duration(each[0])}, " if len(stages) > 1 else ""
    return (f"{of_stage}to the end {format_duration(sum(each))}: {day} about {end:%H:%M}; "
            f"{paces[0].in_words()}")
