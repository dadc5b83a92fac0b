"""The memory plans that a run trains under: one a stage, chosen before it begins and remembered in its folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from accelerate import Accelerator

from translate.agreement import by_main_process
from translate.data.samples import Samples
from translate.errors import DoesNotFit
from translate.host.available_memory import give_back_what_will_be_freed, keep_as_glibc_does, keep_what_is_freed
from translate.networks import memory
from translate.precision import Format
from translate.recipe import Recipe
from translate.runs.folder import RunFolder
from translate.training import plan as planner
from translate.training.hours import Loading, Pace, loading_of
from translate.training.machine import resident_bytes
from translate.training.update import Update
from translate.translators import Translator

# Shares of a CPU's memory that a step fills. Above the first, what the allocator keeps might not fit beside it: blocks
# go back, though a step takes a quarter longer. Below the second, whatever is kept fits.
TIGHT, AMPLE = 1 / 2, 1 / 8


class MemoryPlans:
    """Chooses the plan of every stage, gives it to the networks, and takes a leaner one where a step has found one.

    Every process calls all methods alike; the main one chooses and writes.
    """

    def __init__(self, recipe: Recipe, home: RunFolder, accelerator: Accelerator, precision: Format,
                 gpu_memory: str | None = None):
        """Choose for a GPU of the size `gpu_memory`, such as 8GB; None: for the GPU there is."""
        self.recipe, self.home, self.accelerator = recipe, home, accelerator
        self.precision, self.gpu_memory = precision, gpu_memory
        self.choices: dict[int, planner.Choice] = {}
        self.loading: dict[int, Loading] = {}  # of each stage's images, as it was when the training began
        self.resident = resident_bytes()  # before there are networks
        self.current = memory.PLANS["split"]
        self.sets_what_is_kept = False  # of freed memory

    def choose(self, first: int) -> None:
        """Choose for every stage from number `first` on. Raises `DoesNotFit`, `UsageError`."""
        for number in range(first, len(self.recipe.stages)):
            self.choices[number] = by_main_process(partial(self._choose, number), self.accelerator)

    def apply(self, number: int, translator: Translator) -> planner.Choice:
        """Train stage `number` under its plan from now on; return the choice."""
        choice = self.choices[number]
        if choice.filled is not None:
            self.sets_what_is_kept = True
            way = (give_back_what_will_be_freed if choice.filled > TIGHT else
                   keep_what_is_freed if choice.filled < AMPLE else keep_as_glibc_does)
            way()
        self._use(choice.plan, choice.asked, number, translator)
        return choice

    def close(self) -> None:
        """Leave it to glibc again what is kept of freed memory: a program may go on after a training."""
        if self.sets_what_is_kept:
            keep_as_glibc_does()

    def paces(self, number: int, samples: Samples) -> list[Pace]:
        """Return how long an image takes in stage `number` and in each one that follows, as predicted."""
        return by_main_process(partial(self._paces, number, samples), self.accelerator)

    @contextmanager
    def minding(self, update: Update, number: int, translator: Translator) -> Iterator[None]:
        """Adopt the plan that a step of stage `number` ended with; turn its `DoesNotFit` into one that names the stage.
        """
        try:
            yield
        except DoesNotFit as error:
            raise DoesNotFit(f"{planner.describe(number, self.recipe.stages[number])}: {error}; use a smaller "
                             "resolution, micro_batch or width (`translate plan` says what fits)") from None
        if update.plan != self.current:
            self._use(update.plan, None, number, translator)

    def _choose(self, number: int) -> planner.Choice:
        before = self.home.memory_choices().get(str(number))
        return planner.choose_for_run(self.recipe, number, before, self.accelerator.device, self.precision,
                                      self.accelerator.num_processes, self.gpu_memory,
                                      held_bytes=max(resident_bytes() - self.resident, 0))

    def _paces(self, number: int, samples: Samples) -> list[Pace]:
        for later, stage in enumerate(self.recipe.stages[number:], number):
            if later not in self.loading or self.loading[later].seconds is None:
                self.loading[later] = loading_of(samples, self.recipe, stage, self.accelerator.num_processes,
                                                 self.accelerator.device)
        return [Pace(self.choices[later].seconds, self.loading[later])
                for later in range(number, len(self.recipe.stages))]

    def _use(self, plan: memory.MemoryPlan, asked: dict[str, Any] | None, number: int, translator: Translator) -> None:
        """Give the networks a plan, and remember it in the run folder, with what it was chosen for if that is new."""
        self.current = plan
        for network in translator.modules.values():
            memory.apply(plan, network, self.accelerator.num_processes)
        if self.accelerator.is_main_process:
            self.home.remember_memory(number, asked, plan)
