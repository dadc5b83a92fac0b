"""A memory cgroup of its own for a test's child: the kernel kills what takes more than it allows."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")


@contextmanager
def memory_cgroup(limit_bytes: int) -> Iterator[Path | None]:
    """Yield the folder of a new cgroup that allows so many bytes, swap included; None where none can be made.

    Version 1: inside the group of this process. Version 2, where only groups without processes have others inside:
    beside all of them.
    """
    group, limits = _place()
    try:
        if group is None:
            raise OSError("no memory controller")
        group.mkdir()
    except OSError:
        yield None
        return
    try:
        for name, value in limits:
            (group / name).write_text(str(limit_bytes if value is None else value))
        yield group
    finally:
        for _ in range(100):  # until the last process that a child has started is gone
            with suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.1)


def enter(group: Path) -> None:
    """Put this process, and all that it starts from now on, into a cgroup."""
    (group / "cgroup.procs").write_text(str(os.getpid()))


def _place() -> tuple[Path | None, list[tuple[str, int | None]]]:
    """Return where the group is to be, and its limits in the order in which they can be set (None: the limit)."""
    name = f"diptych-test-{os.getpid()}"
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    own = next((path for _, controllers, path in lines if "memory" in controllers.split(",")), None)
    if own is not None:
        limits: list[tuple[str, int | None]] = [("memory.limit_in_bytes", None), ("memory.memsw.limit_in_bytes", None)]
        folder = MOUNT / "memory" / own.removeprefix("/")
        return folder / name, [each for each in limits if (folder / each[0]).exists()]
    if "memory" in (MOUNT / "cgroup.subtree_control").read_text().split():
        return MOUNT / name, [("memory.max", None), ("memory.swap.max", 0)]
    return None, []
