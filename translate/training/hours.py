"""How long a training takes: its steps as they are predicted, or the loading of its images where that is slower."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import torch

from translate.cores import num_cores
from translate.data.loading import workers_for
from translate.data.samples import Samples
from translate.data.stream import Stream
from translate.recipe import Recipe, Stage
from translate.sizes import format_duration

GPU = torch.device("cuda")
TRIED_SAMPLES, TRIED_SECONDS = 4, 0.3  # loaded to see how long it takes: no more than either


@dataclass(frozen=True)
class Loading:
    """How long it takes to load an image of a stage, by all who do it together."""

    seconds: float | None = None  # None: not known
    is_apart: bool = True  # other processes do it while the training computes

    def beside(self, step_seconds: float) -> float:
        """Return the seconds that an image takes, of which its step takes `step_seconds`."""
        if self.seconds is None:
            return step_seconds
        return max(step_seconds, self.seconds) if self.is_apart else step_seconds + self.seconds

    def holds_up(self, step_seconds: float) -> bool:
        """Tell whether the step waits for images more than a tenth of the time."""
        return self.beside(step_seconds) > 1.1 * step_seconds


def loading_of(samples: Samples, recipe: Recipe, stage: Stage, num_processes: int = 1,
               device: torch.device = GPU) -> Loading:
    """Load a few samples of a stage and return how long it takes, by the recipe's workers of all processes.

    They are as many as there would be for the `device`, on this machine. With a cache, it is as in later epochs.
    """
    stream, taken = Stream(samples, recipe.seed, stage.size, stage.resize), list[float]()
    with suppress(Exception):  # this is only told: of what cannot be loaded the training itself tells
        while len(taken) < min(TRIED_SAMPLES, len(samples)) and sum(taken) < TRIED_SECONDS:
            if samples.loading.cache is not None:
                stream.sample(len(taken))
            begin = time.perf_counter()
            stream.sample(len(taken))
            taken.append(time.perf_counter() - begin)
    if not taken:
        return Loading()
    later = taken[1:] or taken  # the first also loads libraries
    workers = workers_for(recipe.workers, device, num_processes)
    loaders = min(max(workers, 1) * num_processes, num_cores())
    return Loading(sum(later) / len(later) / loaders, workers > 0)


def end_in_words(stages: Sequence[Stage], seconds: Sequence[float], done: int, now: datetime) -> str:
    """Return when a training ends, as predicted.

    stages   that are left, the one that begins or goes on first
    seconds  an image of each takes
    done     images of the first that have been seen
    now      when it is
    """
    each = [stage.images * an_image for stage, an_image in zip(stages, seconds, strict=True)]
    each[0] -= done * seconds[0]
    end = now + timedelta(seconds=sum(each))
    day = "today" if end.date() == now.date() else f"on {end:%Y-%m-%d}"
    of_stage = f"this stage {format_duration(each[0])}, " if len(stages) > 1 else ""
    return f"{of_stage}to the end {format_duration(sum(each))}: {day} about {end:%H:%M}"
