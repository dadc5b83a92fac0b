"""Several processes over one folder, started by a launcher, an array of jobs or by hand: the part of each, and one sum.

A launcher ends all processes as soon as one ends with an error, and a conversion with a broken file in it does. So they
wait for each other, and end alike.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from torch import distributed

from translate.convert.jobs import Shard
from translate.convert.summary import Summary
from translate.errors import UsageError
from translate.host.launcher import launched


@dataclass(frozen=True)
class Variables:
    """The environment variables by which somebody tells a process which of how many it is, from `first` on."""

    who: str
    index: str
    num: str
    first: str = ""  # the variable that holds the lowest index; none: 0
    step: str = ""  # and by how much it grows from one to the next; none: 1
    without_num: str = ""  # what to do where the number is not told

    def read(self, environment: Mapping[str, str]) -> tuple[int, int] | None:
        """Return (which one, from 0; of how many), None where it tells nothing. Raises `UsageError`."""
        if self.index not in environment:
            return None
        said = {name: environment[name] for name in (self.index, self.num, self.first, self.step)
                if name in environment}
        words = ", ".join(f"{name}={value}" for name, value in said.items())
        if self.num not in said:
            raise UsageError(f"--shard auto: {self.who} says {words}, and {self.num} is not set",
                             advice=self.without_num or "give the part yourself: --shard I/N")
        values = {name: int(value) for name, value in said.items()
                  if value.isascii() and value.isdigit() and len(value) < 8}
        if len(values) == len(said):
            above, step = values[self.index] - values.get(self.first, 0), values.get(self.step, 1)
            if step > 0 and above % step == 0 and 0 <= above // step < values[self.num]:
                return above // step, values[self.num]
        raise UsageError(f"--shard auto: {self.who} says {words}, of which no part can be told",
                         advice="give the part yourself: --shard I/N")


# Of the processes of one job the first that speaks; then which of several jobs that is.
PROCESSES = [
    Variables("torchrun", "RANK", "WORLD_SIZE"),
    Variables("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    Variables("MVAPICH", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    Variables("MPI (PMI)", "PMI_RANK", "PMI_SIZE"),
    Variables("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")]  # whose second one a batch script alone does not have
JOBS = [
    Variables("a Slurm array", "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN",
              "SLURM_ARRAY_TASK_STEP"),
    Variables("a Kubernetes job", "JOB_COMPLETION_INDEX", "JOB_COMPLETIONS",
              without_num="add an environment variable JOB_COMPLETIONS to its containers, with the value of the job's "
              "`completions`: Kubernetes tells a container its index alone")]


def choose_shard(asked: str | None) -> Shard | None:
    """Return the part that was asked for (such as 2/4, or `auto`), else that of this process among a launcher's.

    Raises `UsageError` for a part that is none, and where both are given.
    """
    if asked == "auto":
        return shard_of(os.environ)
    # Job scripts set WORLD_SIZE for programs of their own; a launcher's process has a RANK too
    rank = launched("RANK", -1)
    num = launched("WORLD_SIZE", 1) if rank >= 0 else 1
    if asked is not None and num > 1:
        raise UsageError(f"--shard {asked}: the {num} processes of the launcher share the files by themselves; leave "
                         "it out")
    if asked is not None:
        return Shard.parse(asked)
    return Shard(rank + 1, num) if num > 1 else None


def shard_of(environment: Mapping[str, str]) -> Shard:
    """Return the part of a process that a launcher, an array of jobs, or both tell which one it is.

    Raises `UsageError`, which names the variables, where nobody does or what they hold makes no sense.
    """
    batch_script = "SLURM_STEP_NUM_TASKS" not in environment  # the processes that its job could have are not there
    asked = [each for each in PROCESSES if not (each.index == "SLURM_PROCID" and batch_script)]
    process = next((found for each in asked if (found := each.read(environment)) is not None), None)
    job = next((found for each in JOBS if (found := each.read(environment)) is not None), None)
    if process is None and job is None:
        names = ", ".join(each.index for each in [*PROCESSES, *JOBS])
        raise UsageError(f"--shard auto: nobody says which part this process is; none of {names} is set",
                         advice="give the part yourself: --shard I/N")
    (which, num), (which_job, num_jobs) = process or (0, 1), job or (0, 1)
    return Shard(which_job * num + which + 1, num_jobs * num)


def add_up(summary: Summary) -> Summary:
    """Wait for all processes of a launcher, and return what they have done together.

    One that a signal has stopped does not wait and returns its own summary: the others may be gone.
    """
    if summary.stopped or not distributed.is_torchelastic_launched() or launched("WORLD_SIZE", 1) == 1:
        return summary
    distributed.init_process_group("gloo", timeout=timedelta(days=30))
    try:
        parts: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(parts, summary)
    finally:
        distributed.destroy_process_group()
    whole = Summary(0)
    for part in parts:
        whole.add(part)
    return whole
