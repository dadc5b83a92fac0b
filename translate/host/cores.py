"""How many processor cores this process may use: of its machine, and of the cgroups around it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from translate.host.available_memory import cgroup_folders
from translate.host.launcher import num_processes_here


def num_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may use.

    A container sees all cores of its machine, and is given the time of some of them: those count, a part of one as one.
    `root` is where /proc and cgroups are looked for.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([cores, *(math.ceil(quota) for quota in quotas(root))])


def quotas(root: Path = Path("/")) -> Iterator[float]:
    """Yield the time of how many cores every cgroup around this process is given; nothing for one without a limit.

    Of version 2 it is cpu.max, of version 1 cpu.cfs_quota_us in cpu.cfs_period_us. Source: the kernel's
    Documentation/admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst.
    """
    for folder, filesystem, _ in cgroup_folders("cpu", root):
        with suppress(OSError, ValueError):  # "max" and -1 are no limit
            names = ("cpu.max",) if filesystem == "cgroup2" else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = (int(number) for name in names for number in (folder / name).read_text().split())
            if quota > 0 and period > 0:
                yield quota / period


class CoreClock:
    """A clock of what its thread computes: it stands still while the thread waits for a core that other programs hold.

    It goes on while the thread waits for anything else, as for a disk or for other threads. It is a plain clock where
    the system does not tell, and under a CPU quota: a thread that has used it up waits just so, and will again. Started
    when it is made. `root` is where /proc and cgroups are looked for.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._is_plain = any(True for _ in quotas(root))
        self._waited, self._own, self._begin = seconds_waited(), time.thread_time(), time.perf_counter()

    def seconds(self) -> float:
        """Return the seconds since the start: no fewer than this thread has computed."""
        passed, own = time.perf_counter() - self._begin, time.thread_time() - self._own
        return max(passed - (0.0 if self._is_plain else seconds_waited() - self._waited), own)


def seconds_waited() -> float:
    """Return how long this thread, ready to compute, has waited for a core; 0 where no system tells.

    Source: the kernel's Documentation/scheduler/sched-stats.rst (/proc/<pid>/schedstat).
    """
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    return 0.0


def cores_for_each(num_processes: int = 1) -> int:
    """Return the cores for each of the processes of a launcher that share this machine, at least one.

    `num_processes` is their number where the launcher does not tell.
    """
    return max(1, num_cores() // num_processes_here(num_processes))
