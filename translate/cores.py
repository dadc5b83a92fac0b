"""How many processor cores this process may use: of its machine, and of the cgroups around it."""

from __future__ import annotations

import math
import os
import time
from contextlib import suppress
from pathlib import Path

from translate.available_memory import cgroup_folders
from translate.launcher import num_processes_here


def num_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may use.

    A container sees all cores of its machine, and is given the time of some of them: those count, a part of one as one
    (cpu.max; of version 1 cpu.cfs_quota_us in cpu.cfs_period_us). Source: the kernel's
    Documentation/admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst. `root` is where /proc and cgroups are looked
    for.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder, filesystem, _ in cgroup_folders("cpu", root):
        with suppress(OSError, ValueError):  # "max" and -1 are no limit
            names = ("cpu.max",) if filesystem == "cgroup2" else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = (int(number) for name in names for number in (folder / name).read_text().split())
            if quota > 0 and period > 0:
                cores = min(cores, math.ceil(quota / period))
    return cores


class CoreClock:
    """A clock that stands still while this process waits for a core that other programs hold, where the system tells.

    Without that it is a plain clock. Started when it is made.
    """

    def __init__(self) -> None:
        self._waited, self._own, self._begin = seconds_waited(), time.thread_time(), time.perf_counter()

    def seconds(self) -> float:
        """Return the seconds since the start: no fewer than this thread has computed."""
        passed, own = time.perf_counter() - self._begin, time.thread_time() - self._own
        # Of a thread that stood in the queue before the start all its waiting counts, so that it may be too much
        now = seconds_waited()
        waited = max((now[thread] - before for thread, before in self._waited.items() if thread in now), default=0.0)
        return max(passed - waited, own)


def seconds_waited() -> dict[str, float]:
    """Return how long each thread of this process has waited for a core that others held; empty where no system tells.

    Source: the kernel's Documentation/scheduler/sched-stats.rst (/proc/<pid>/schedstat).
    """
    waited: dict[str, float] = {}
    for file in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError, ValueError, IndexError):
            waited[file.parent.name] = int(file.read_text().split()[1]) / 1e9
    return waited


def cores_for_each(num_processes: int = 1) -> int:
    """Return the cores for each of the processes of a launcher that share this machine, at least one.

    `num_processes` is their number where the launcher does not tell.
    """
    return max(1, num_cores() // num_processes_here(num_processes))
