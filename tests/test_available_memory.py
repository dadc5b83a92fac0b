"""What a process may still take: of the machine, and of the cgroups around it in every form that systems give them."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.memory_cgroup import memory_cgroup
from translate.host.available_memory import (
    Available,
    available_bytes,
    cgroup_limits,
    give_back_freed,
    give_back_what_will_be_freed,
    keep_as_glibc_does,
    keep_what_is_freed,
    lies_in_memory,
)

GB = 10**9
UNLIMITED = 9223372036854771712  # what version 1 says where there is no limit
V2_MOUNT = "29 23 0:26 {root} {at} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNT = "35 31 0:32 {root} {at} rw,relatime shared:9 master:1 - cgroup cgroup rw,memory"
OTHERS = ["22 1 8:1 / / rw - ext4 /dev/sda1 rw", "36 31 0:33 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct"]


class FakeSystem:
    """A tree with the files that a kernel shows a process."""

    def __init__(self, root: Path):
        self.root, self.mounts, self.groups = root, list(OTHERS), ["3:cpu,cpuacct:/elsewhere"]

    def mount(self, line: str, at: str = "/sys/fs/cgroup", root: str = "/") -> None:
        self.mounts.append(line.format(root=root, at=at.replace(" ", "\\040")))

    def write(self, folder: str, **files: int | str) -> None:
        """Files of a cgroup; in their names here two underscores stand for a dot."""
        place = self.root / folder.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (place / name.replace("__", ".")).write_text(f"{content}\n")

    def limits(self) -> dict[str, int]:
        """What is left, by whose limit it is."""
        self.write("proc/self", cgroup="\n".join(self.groups), mountinfo="\n".join(self.mounts))
        return {each.limit_from: each.bytes for each in cgroup_limits(self.root)}

    def least(self) -> Available:
        self.limits()
        return available_bytes(self.root)


@pytest.fixture
def system(tmp_path: Path) -> FakeSystem:
    return FakeSystem(tmp_path)


def test_without_cgroups_it_is_what_the_machine_has_left(tmp_path: Path) -> None:
    """Windows, macOS, and a Linux that has mounted none."""
    found = available_bytes(tmp_path)
    assert found.limit_from == "free memory of this machine"
    assert found.bytes == pytest.approx(psutil.virtual_memory().available, rel=0.3)


def test_a_container_of_2_gb_on_a_machine_of_23_has_what_is_left_of_2(system: FakeSystem) -> None:
    """An honest image of 36 megapixels ended a conversion there: it was computed as if all of the machine were ours."""
    system.mount(V2_MOUNT)
    system.groups.append("0::/")
    system.write("/sys/fs/cgroup", memory__max=2 * GB, memory__high="max", memory__current=GB // 2)
    assert system.least() == Available(2 * GB - GB // 2, "memory.max of the memory cgroup /")


def test_above_memory_high_nothing_is_killed_but_all_stands_still(system: FakeSystem) -> None:
    system.mount(V2_MOUNT)
    system.groups.append("0::/job")
    system.write("/sys/fs/cgroup/job", memory__max=2 * GB, memory__high=GB, memory__current=300)
    assert system.least() == Available(GB - 300, "memory.high of the memory cgroup /job")


@pytest.mark.parametrize("tightest", ["", "/machine.slice", "/machine.slice/job", "/machine.slice/job/step"])
def test_of_nested_groups_the_tightest_counts(system: FakeSystem, tightest: str) -> None:
    """A batch system limits the job and not its step, systemd the slice and not its service."""
    system.mount(V2_MOUNT)
    system.groups.append("0::/machine.slice/job/step")
    for folder in ("", "/machine.slice", "/machine.slice/job", "/machine.slice/job/step"):
        limit = GB if folder == tightest else 3 * GB
        system.write(f"/sys/fs/cgroup{folder}", memory__max=limit, memory__current=len(folder))
    assert system.least() == Available(GB - len(tightest), f"memory.max of the memory cgroup {tightest or '/'}")


def test_version_1_has_files_of_other_names(system: FakeSystem) -> None:
    system.mount(V1_MOUNT, "/sys/fs/cgroup/memory")
    system.groups.append("4:memory:/user/job")
    system.write("/sys/fs/cgroup/memory/user/job", memory__limit_in_bytes=GB, memory__usage_in_bytes=400)
    system.write("/sys/fs/cgroup/memory", memory__limit_in_bytes=UNLIMITED, memory__usage_in_bytes=10**10)
    assert system.least() == Available(GB - 400, "memory.limit_in_bytes of the memory cgroup /user/job")


def test_memory_and_swap_together_may_be_nearer_to_their_limit(system: FakeSystem) -> None:
    """What was swapped out counts there: 1.5 GB are free of memory, and 0.1 GB of both."""
    system.mount(V1_MOUNT, "/sys/fs/cgroup/memory")
    system.groups.append("4:memory:/")
    system.write("/sys/fs/cgroup/memory", memory__limit_in_bytes=2 * GB, memory__usage_in_bytes=GB // 2,
                 memory__memsw__limit_in_bytes=3 * GB, memory__memsw__usage_in_bytes=29 * GB // 10)
    assert system.least() == Available(GB // 10, "memory.memsw.limit_in_bytes of the memory cgroup /")


def test_a_limit_around_a_container_that_it_cannot_see_is_told_by_version_1(system: FakeSystem) -> None:
    system.mount(V1_MOUNT, "/sys/fs/cgroup/memory", root="/pod/box")
    system.groups.append("4:memory:/pod/box")
    system.write("/sys/fs/cgroup/memory", memory__limit_in_bytes=UNLIMITED, memory__usage_in_bytes=100,
                 memory__stat=f"cache 7\nhierarchical_memory_limit {GB}")
    assert system.least() == Available(GB - 100, "hierarchical_memory_limit of the memory cgroup /")


@pytest.mark.parametrize(("line", "group", "files"), [
    (V2_MOUNT, "0::{}", {"memory__max": GB, "memory__current": 0}),
    (V1_MOUNT, "4:memory:{}", {"memory__limit_in_bytes": GB, "memory__usage_in_bytes": 0})], ids=["v2", "v1"])
@pytest.mark.parametrize(("root", "path", "folder"), [
    ("/docker/ab12", "/docker/ab12", ""),  # the host's path, and a mount of this part alone
    ("/docker/ab12", "/docker/ab12/inner", "/inner"),
    ("/", "/../../elsewhere", ""),  # entered from outside of the namespace
    ("/docker/ab12", "/docker/cd34", "")])
def test_a_container_sees_a_part_of_the_hierarchy(system: FakeSystem, line: str, group: str, files: dict[str, int],
                                                  root: str, path: str, folder: str) -> None:
    system.mount(line, "/sys/fs/cgroup", root)
    system.groups.append(group.format(path))
    system.write(f"/sys/fs/cgroup{folder}", **files)
    assert system.least().bytes == GB


def test_both_versions_at_once_are_both_read(system: FakeSystem) -> None:
    """As systemd's hybrid: the controller of memory is version 1's, and version 2 only names groups."""
    system.mount(V2_MOUNT, "/sys/fs/cgroup/unified")
    system.mount(V1_MOUNT, "/sys/fs/cgroup/memory")
    system.groups += ["4:memory:/job", "0::/job"]
    system.write("/sys/fs/cgroup/memory/job", memory__limit_in_bytes=GB, memory__usage_in_bytes=1)
    system.write("/sys/fs/cgroup/unified/job", cgroup__procs=1)
    assert system.limits() == {"memory.limit_in_bytes of the memory cgroup /job": GB - 1}


def test_pages_of_files_that_nobody_has_mapped_are_not_in_use(system: FakeSystem) -> None:
    """After an hour of reading images a container's memory is full of them, and none of it is taken."""
    system.mount(V2_MOUNT)
    system.groups.append("0::/")
    system.write("/sys/fs/cgroup", memory__max=GB, memory__current=GB - 10,
                 memory__stat="anon 1\ninactive_file 500000000\nactive_file 300000000\nfile_mapped 100000000")
    assert system.least().bytes == 700_000_010


def test_more_in_use_than_allowed_leaves_nothing(system: FakeSystem) -> None:
    """As where a limit was lowered later."""
    system.mount(V2_MOUNT)
    system.groups.append("0::/")
    system.write("/sys/fs/cgroup", memory__max=GB, memory__current=2 * GB)
    assert system.least().bytes == 0


def test_no_limit_and_what_cannot_be_read_are_no_limits(system: FakeSystem) -> None:
    system.mount(V2_MOUNT, "/a mount with spaces")
    system.groups.append("0::/job")
    system.write("/a mount with spaces/job", memory__max="max", memory__high="", memory__current=5)
    system.write("/a mount with spaces", memory__max=GB, memory__current="?", memory__stat="nonsense")
    assert system.limits() == {}
    system.write("/a mount with spaces", memory__current=5)
    assert system.limits() == {"memory.max of the memory cgroup /": GB - 5}


@pytest.mark.parametrize(("mounted", "kind", "expected"), [
    ("/", "ext4", False), ("/tmp", "tmpfs", True), ("/tmp", "xfs", False), ("/tmp/a", "tmpfs", False),
    ("/tm", "tmpfs", False), ("/", "ramfs", True)])
def test_a_folder_for_temporary_files_may_lie_in_memory(system: FakeSystem, mounted: str, kind: str,
                                                        expected: bool) -> None:
    """Rows that wait on such a disk took the memory that they were to save."""
    system.mounts = [f"22 1 8:1 / / rw - {kind if mounted == '/' else 'ext4'} /dev/sda1 rw",
                     f"40 22 0:9 / {mounted} rw - {kind} x rw"]
    system.limits()
    assert lies_in_memory(Path("/tmp/b"), system.root) == expected


def test_a_limit_says_in_words_whose_it_is() -> None:
    assert str(Available(3 * 2**29, "memory.max of the memory cgroup /job")) == (
        "1.50 GiB (memory.max of the memory cgroup /job)")


def test_the_limit_that_the_kernel_sets_is_the_one_that_is_read() -> None:
    with memory_cgroup(300_000_000) as group:
        if group is None:
            pytest.skip("this machine lets no memory cgroup be made")
        code = ("import sys; from pathlib import Path; from tests.memory_cgroup import enter; enter(Path(sys.argv[1]));"
                "from translate.host.available_memory import available_bytes; found = available_bytes();"
                "taken = bytearray(100_000_000); later = available_bytes();"
                "print(found.bytes, later.bytes, found.limit_from)")
        printed = subprocess.run([sys.executable, "-c", code, str(group)], capture_output=True, text=True, check=True,
                                 cwd=Path(__file__).parent.parent).stdout
    before, after, whose = printed.split(" ", 2)
    assert 200_000_000 < int(before) < 300_000_000 and str(group.name) in whose
    assert 90_000_000 < int(before) - int(after) < 130_000_000


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="is about glibc")
@pytest.mark.parametrize("claim", ["large_blocks_go_back_to_the_system_when_they_are_freed",
                                   "what_is_kept_is_taken_again_without_a_page_fault"])
def test_of_freed_memory_as_much_is_kept_as_is_told(claim: str) -> None:
    """In a process of its own: what other tests have freed would be taken first, and what is told is for good."""
    code = f"from tests.test_available_memory import {claim} as holds; holds()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


def large_blocks_go_back_to_the_system_when_they_are_freed() -> None:
    """Of a training in a container freed blocks counted as taken, and it was killed far below what it needed."""
    give_back_what_will_be_freed()
    np.ones(30 * 2**20, np.uint8)  # by itself glibc would keep blocks up to this size from now on
    give_back_freed()
    before, blocks = taken_bytes(), [np.ones(8 * 2**20, np.uint8) for _ in range(12)]
    assert taken_bytes() > before + 90 * 2**20
    del blocks[:-1]  # what is above them all stays
    assert taken_bytes() < before + 20 * 2**20


def what_is_kept_is_taken_again_without_a_page_fault() -> None:
    """A step took what the last one had freed, and the system cleared it in between: 7 % of the step's time."""
    give_back_what_will_be_freed()
    faults_of_a_step()
    given_back = faults_of_a_step()  # how many depends on how large the system's pages are
    keep_what_is_freed()
    faults_of_a_step()
    kept = faults_of_a_step()
    assert 4 * kept < given_back
    for way in (give_back_what_will_be_freed, keep_as_glibc_does):
        keep_what_is_freed()
        faults_of_a_step()
        way()
        faults_of_a_step()
        assert faults_of_a_step() > given_back / 2


def faults_of_a_step() -> int:
    """Return the page faults of taking 100 MiB and freeing them."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [b"1" * (20 * 2**20) for _ in range(5)]  # numpy asks for large pages
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def taken_bytes() -> int:
    return psutil.Process().memory_info().rss
