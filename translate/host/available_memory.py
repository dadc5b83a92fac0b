"""How many bytes a process may still take: what its machine has left, and what every memory cgroup around it allows.

In a container, a batch job or a systemd unit the machine's free memory says nothing. What counts is the cgroup: a
process that takes more than it allows is killed by the kernel, at once and without a word, and no allocation fails
before. Both versions of cgroups are read, where the system has mounted them (/proc/self/mountinfo), from the group that
holds the process up to the outermost one that can be seen:

    version 2    memory.max, above which the kernel kills; memory.high, above which it slows the process down to a crawl
    version 1    memory.limit_in_bytes; memory.memsw.limit_in_bytes, which bounds memory and swap together; and
                 hierarchical_memory_limit, which also tells of groups around a container that cannot be seen from it

Swap never counts as memory that is left: what stands there is a hundred times slower. Pages of files that nobody has
mapped are no use of memory: the kernel gives them back as soon as it needs them.

Source: the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst; proc_pid_mountinfo(5).
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

from translate.host.launcher import num_processes_here
from translate.sizes import format_bytes

SHARE = 0.7  # of what is left; the rest is for other programs, and for what no forecast knows of
# By the type of the mount: files with a limit, and the one that says how much of it is in use.
LIMITS = {"cgroup2": {"memory.max": "memory.current", "memory.high": "memory.current"},
          "cgroup": {"memory.limit_in_bytes": "memory.usage_in_bytes",
                     "memory.memsw.limit_in_bytes": "memory.memsw.usage_in_bytes"}}
# Lines of memory.stat (of version 1: with everything below the group): cached files, and what of them is mapped.
CACHE = {"cgroup2": ("inactive_file", "active_file", "file_mapped"),
         "cgroup": ("total_inactive_file", "total_active_file", "total_mapped_file")}
HIERARCHY_LIMIT = "hierarchical_memory_limit"  # a line of version 1's memory.stat
NO_LIMIT = 2**62  # bytes; where there is no limit, version 1 says a number above it, and version 2 "max"
# Of glibc's malloc.h: which blocks lie apart from all others, so that they go back to the system when they are freed,
# and how much that is free at the end of the others does so, too.
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1
LIES_APART_BYTES, GOES_BACK_BYTES = 2**20, 2**17
MOST_TOGETHER_BYTES, MOST_KEPT_BYTES = 2**25, 2**30  # the first is the most that every version takes
KEPT_SHARE = 1 / 8  # of what is left, and no more is kept


@dataclass(frozen=True)
class Available:
    """What may still be taken, and whose limit that is, in words for a message."""

    bytes: int
    limit_from: str

    def __str__(self) -> str:
        return f"{format_bytes(self.bytes)} ({self.limit_from})"


def available_bytes(root: Path = Path("/")) -> Available:
    """Return what this process may still take: the least that its machine and the cgroups around it have left.

    `root` is where /proc and the mounts of cgroups are looked for. What other processes take later is theirs: ask
    again before anything large, and use a part of the answer.
    """
    machine = Available(psutil.virtual_memory().available, "free memory of this machine")
    return min([machine, *cgroup_limits(root)], key=lambda each: each.bytes)


def usable_memory() -> Available:
    """Return what this process may take now: its share of what is left, as one of a launcher's on this machine."""
    left, processes = available_bytes(), num_processes_here()
    each = f", of which each of {processes} processes takes its part" if processes > 1 else ""
    return Available(int(SHARE * left.bytes / processes), f"{SHARE:.0%} of the {left}{each}")


def cgroup_limits(root: Path = Path("/")) -> Iterator[Available]:
    """Yield what is left of every limit of every memory cgroup that can be seen; nothing on systems without them."""
    for folder, filesystem, name in cgroup_folders("memory", root):
        yield from _left(folder, filesystem, name)


def cgroup_folders(controller: str, root: Path = Path("/")) -> Iterator[tuple[Path, str, str]]:
    """Yield the folder, the file system (cgroup: version 1; cgroup2) and the name of every group around this process.

    From the group that holds it up to the outermost one that can be seen, of all mounted hierarchies that have the
    controller. `root` is where /proc and the mounts are looked for.
    """
    try:
        groups, mounts = (_read(f"{root}/proc/self/{name}") for name in ("cgroup", "mountinfo"))
    except OSError:
        return
    yield from _folders(controller, root, groups, mounts)


@functools.lru_cache(maxsize=16)
def _folders(controller: str, root: Path, groups: str, mounts: str) -> list[tuple[Path, str, str]]:
    """Return what `cgroup_folders` yields, by the texts of both files: asked for every image, and seldom another one.
    """
    found = []
    in_group = [line.split(":", 2) for line in groups.splitlines()]
    for line in mounts.splitlines():
        # A mount: which part of the hierarchy is seen, where, of what type, with which controllers.
        place, _, kind = line.partition(" - ")
        seen, mounted = (PurePosixPath(_unescaped(field)) for field in place.split(" ")[3:5])
        filesystem, _, controllers = kind.split(" ", 2)
        if filesystem not in LIMITS or (filesystem == "cgroup" and controller not in controllers.split(",")):
            continue

        # The group of this process in it. What a container cannot see of its path begins at the mount.
        wanted = controller if filesystem == "cgroup" else ""
        group = next((PurePosixPath(path) for _, names, path in in_group if wanted in names.split(",")), None)
        if group is None:
            continue
        hidden = ".." in group.parts or not group.is_relative_to(seen)
        below = PurePosixPath() if hidden else group.relative_to(seen)

        # It and all groups around it.
        outermost = root / mounted.relative_to("/")
        found += [(outermost / inner, filesystem, f"/{inner}".removesuffix(".")) for inner in (below, *below.parents)]
    return found


def give_back_freed() -> None:
    """Return to the system what this process has freed: glibc keeps small blocks, and they would count as taken."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def give_back_what_will_be_freed() -> None:
    """Have this process return every large block to the system as soon as it frees it (glibc; elsewhere nothing).

    By itself glibc soon keeps blocks of up to 32 MiB, and what is kept in pieces fits nothing else: a step of 512 px
    left 200 MiB of them behind, beside which the next picture found no room.
    """
    _choose(LIES_APART_BYTES, GOES_BACK_BYTES)


def keep_what_is_freed() -> None:
    """Have this process keep what it frees, for what it takes next (glibc; elsewhere nothing).

    Of blocks of up to 32 MiB, at most an eighth of what is left and a gibibyte. A step takes what the last one has
    freed. By itself glibc has the system take it back and clear it in between, again and again: 42 MiB in each step of
    the demo's recipe, a fourteenth of its time (`tools/kept_memory.py`).
    """
    _choose(MOST_TOGETHER_BYTES, min(MOST_KEPT_BYTES, int(KEPT_SHARE * available_bytes().bytes / num_processes_here())))


def keep_as_glibc_does() -> None:
    """Undo `keep_what_is_freed` and `give_back_what_will_be_freed`, and return what is free (glibc; elsewhere nothing).

    By itself glibc raises both limits up to these as large blocks are freed, and it never does again once they are set.
    """
    _choose(MOST_TOGETHER_BYTES, 2 * MOST_TOGETHER_BYTES)
    give_back_freed()


def _choose(apart_from: int, kept: int) -> None:
    """Tell glibc from how many bytes on a block lies apart, and how many free ones behind all others it may keep."""
    choose = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if choose is not None:
        choose(M_MMAP_THRESHOLD, apart_from)
        choose(M_TRIM_THRESHOLD, kept)


def lies_in_memory(folder: Path, root: Path = Path("/")) -> bool:
    """Return whether files of a folder are kept in memory (tmpfs, as /tmp and /dev/shm of some systems), not on a disk.
    """
    try:
        lines = (root / "proc/self/mountinfo").read_text().splitlines()
        wanted = folder.resolve()
    except OSError:
        return False
    found = [(len(mounted.parts), kind.split(" ", 1)[0]) for place, _, kind in (line.partition(" - ") for line in lines)
             if wanted.is_relative_to(mounted := Path(_unescaped(place.split(" ")[4])))]
    return max(found, key=lambda each: each[0], default=(0, ""))[1] in ("tmpfs", "ramfs")


def _left(folder: Path, filesystem: str, name: str) -> Iterator[Available]:
    """Yield what is left of every limit of one group; a file that is not there, or holds no number, is no limit."""
    limits = {}
    for limit_file in LIMITS[filesystem]:
        with suppress(OSError, ValueError):
            limits[limit_file] = int(_read(f"{folder}/{limit_file}"))

    # What the kernel gives back at once is not in use; version 1 tells of limits further out in the same file.
    stat, asked = {}, {*CACHE[filesystem], HIERARCHY_LIMIT}
    if filesystem == "cgroup" or limits:
        with suppress(OSError, ValueError):
            lines = (line.partition(" ") for line in _read(f"{folder}/memory.stat").splitlines())
            stat = {line: int(number) for line, _, number in lines if line in asked}
    inactive, active, mapped = (stat.get(line, 0) for line in CACHE[filesystem])
    cache = max(inactive + active - mapped, 0)

    for limit_file, limit in limits.items():
        with suppress(OSError, ValueError):
            further_out = stat.get(HIERARCHY_LIMIT, NO_LIMIT) if limit_file == "memory.limit_in_bytes" else NO_LIMIT
            if min(limit, further_out) < NO_LIMIT:
                used = max(int(_read(f"{folder}/{LIMITS[filesystem][limit_file]}")) - cache, 0)
                yield Available(max(limit - used, 0), f"{limit_file} of the memory cgroup {name}")
                if further_out < NO_LIMIT:
                    yield Available(max(further_out - used, 0), f"{HIERARCHY_LIMIT} of the memory cgroup {name}")


def _read(path: str) -> str:
    """Return what a file of the kernel says, in half the time of `read_text`: a dozen of them are read for every image.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        parts = []
        while part := os.read(descriptor, 2**16):
            parts.append(part)
    finally:
        os.close(descriptor)
    return b"".join(parts).decode()


def _unescaped(field: str) -> str:
    """Return a field of mountinfo with its spaces, tabs, newlines and backslashes, which stand there in octal."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)
