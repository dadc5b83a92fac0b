"""Readers and writers of a conversion: as many as there are cores and room in memory, and no output depends on them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from tests.conversions import Identity, fill, noise, release_of, tiny_release, tree
from translate.cli.converting import number_or_auto
from translate.convert import convert, saving
from translate.convert.memory_share import MemoryShare
from translate.convert.workers import MOST_WORKERS, workers_by_cores
from translate.data import loading
from translate.errors import UsageError
from translate.host import available_memory, cores
from translate.host.available_memory import Available
from translate.images.decoding import decode
from translate.images.writing import write_image

MB = 10**6
MOUNTS = {2: "29 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
          1: "33 31 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct"}


def machine(root: Path, version: int, **files: str) -> Path:
    """A tree with what a kernel shows a process in the cgroup /job; in names of files two underscores are a dot."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text(MOUNTS[version] + "\n")
    (root / "proc/self/cgroup").write_text({1: "3:cpu,cpuacct:/job\n", 2: "0::/job\n"}[version])
    folder = root / {1: "sys/fs/cgroup/cpu/job", 2: "sys/fs/cgroup/job"}[version]
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")
    return root


@pytest.mark.parametrize(("version", "files", "expected"), [
    (2, {"cpu__max": "200000 100000"}, 2), (2, {"cpu__max": "250000 100000"}, 3), (2, {"cpu__max": "max 100000"}, 8),
    (2, {"cpu__max": "50000 100000"}, 1), (2, {"cpu__max": "1600000 100000"}, 8), (2, {}, 8),
    (1, {"cpu__cfs_quota_us": "300000", "cpu__cfs_period_us": "100000"}, 3),
    (1, {"cpu__cfs_quota_us": "-1", "cpu__cfs_period_us": "100000"}, 8)])
def test_a_container_has_the_cores_that_it_is_given_the_time_of(version: int, files: dict[str, str], expected: int,
                                                                tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """It sees all of its machine's; so many processes would wait for each other."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert cores.num_cores(machine(tmp_path, version, **files)) == expected
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {5})
    assert cores.num_cores(tmp_path) == 1


def test_auto_is_one_for_each_core_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for num_cores, processes in ((1, 1), (2, 1), (2, 2), (8, 2), (8, 3), (64, 1), (64, 8)):
        monkeypatch.setattr(cores, "num_cores", lambda num_cores=num_cores: num_cores)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        found.append(workers_by_cores())
        assert found[-1] * processes <= num_cores
    assert found == [0, 2, 0, 4, 2, MOST_WORKERS, 8]


def test_loaders_of_all_processes_are_no_more_than_the_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two, as it was for everybody, waited for each other in a container of one core, and left 62 of 64 idle."""
    cpu, gpu, found = torch.device("cpu"), torch.device("cuda"), []
    monkeypatch.setattr(loading, "SHARED_MEMORY", tmp_path / "none")
    for num_cores, processes in ((1, 1), (2, 1), (4, 1), (4, 2), (4, 4), (64, 1), (64, 4)):
        monkeypatch.setattr(cores, "num_cores", lambda num_cores=num_cores: num_cores)
        found.append(tuple(loading.workers_for("auto", device, processes) for device in (cpu, gpu)))
        assert max(found[-1]) * processes <= num_cores
    assert found == [(0, 1), (1, 2), (2, 4), (1, 2), (0, 1), (2, 8), (2, 8)]
    assert loading.workers_for(3, cpu, 2) == 3  # who names a number gets it

    # Batches wait in shared memory; a container has 64 MB of it unless it asks for more.
    monkeypatch.setattr(loading, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=64 * MB))
    assert [loading.workers_for("auto", gpu, 1, num_bytes) for num_bytes in (MB, 4 * MB, 100 * MB)] == [8, 4, 1]


# -- memory ------------------------------------------------------------------------------------------------------------


def test_fewer_images_are_in_flight_where_memory_is_short_which_is_said_once(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More workers made the part of each smaller than an image, and all went through alone: slower than with one."""
    fill(tmp_path / "in", 3, 400, 400)
    convert(tmp_path / "in", tmp_path / "alone", release_of(Identity()), workers=0)
    said: dict[int, list[str]] = {}
    for left in (2_000 * MB, 450 * MB):
        monkeypatch.setattr(available_memory, "available_bytes", lambda left=left: Available(left, "a test's memory"))
        out, said[left] = tmp_path / str(left), []
        summary = convert(tmp_path / "in", out, release_of(Identity()), workers=3, warn=said[left].append)
        assert summary.converted == 3 and tree(out) == tree(tmp_path / "alone")
    assert said[2_000 * MB] == []
    (line,) = said[450 * MB]
    assert line.startswith("workers: 2 in place of 3, as 00") and "a test's memory" in line


@pytest.mark.parametrize("on_cuda", [False, True])
@pytest.mark.parametrize("workers", [0, 1, 2, 16])
def test_all_images_on_their_way_take_no_more_than_the_share(workers: int, on_cuda: bool) -> None:
    """Those in flight beside the one that is translated or, where that takes other memory, beside one that is alone."""
    share = MemoryShare.of(workers, on_cuda=on_cuda)
    in_flight = share.for_each * (workers + 1 if on_cuda and workers else share.num_in_flight)
    assert share.num_in_flight >= 2 * workers + 1 and share.for_each * share.num_in_flight <= share.in_flight + 1
    if workers:
        assert in_flight + share.alone <= share.total.bytes * 1.06


# -- what comes out ----------------------------------------------------------------------------------------------------


def test_files_are_bit_identical_whatever_the_number_of_workers(tmp_path: Path) -> None:
    """Of random sizes and formats, with files among them that cannot be read, and some done before."""
    draw = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for number in range(14):
        suffix = draw.choice([".png", ".jpg", ".tif", ".webp"])
        write_image(tmp_path / "in" / f"{number:02d}{suffix}", noise(*draw.integers(8, 40, 2), seed=number))
    (tmp_path / "in/broken.png").write_bytes(b"no image")
    found = []
    for workers in (0, 1, 4):
        order: list[tuple[str, str]] = []
        out = tmp_path / str(workers)
        for only in (["03.png", "05.jpg", "broken.png"], None):
            convert(tmp_path / "in", out, tiny_release(), workers=workers, only=only, compression=1,
                    on_progress=lambda entry, *_: order.append((entry.path, entry.status)))  # noqa: B023 (called here)
        found.append((tree(out), order))
    assert all(each == found[0] for each in found) and len(found[0][0]) == 14


def test_as_many_outputs_are_written_at_once_as_there_are_workers(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One writer compressed for half a second what the generator had made in 30 ms."""
    real, together = saving.write_image, threading.Barrier(3)

    def write(*words: object, **options: object) -> None:
        together.wait(timeout=60)  # until two others write as well
        real(*words, **options)  # type: ignore[arg-type]

    fill(tmp_path / "in", 6)
    monkeypatch.setattr(saving, "write_image", write)
    assert convert(tmp_path / "in", tmp_path / "out", release_of(Identity()), workers=3).converted == 6


def longest_wait(work: Callable[[], object]) -> float:
    """The longest time for which no other thread could run, as a share of all of it."""
    turns, done = [time.perf_counter()], threading.Event()

    def turn() -> None:
        while not done.is_set():
            turns.append(time.perf_counter())
            time.sleep(0.001)

    other = threading.Thread(target=turn)
    other.start()
    work()
    done.set()
    other.join()
    return float(np.diff([*turns, time.perf_counter()]).max() / (time.perf_counter() - turns[0]))


@pytest.mark.parametrize(("suffix", "dtype"), [(".png", np.uint8), (".png", np.uint16), (".tif", np.uint8),
                                               (".tif", np.uint16), (".webp", np.uint8)])
def test_other_threads_run_while_an_image_is_compressed(suffix: str, dtype: type, tmp_path: Path) -> None:
    """Writers of 8-bit TIFFs waited for each other: Pillow holds Python's lock while libtiff compresses."""
    pixels = noise(1200, 1000, dtype=dtype) // 16
    assert longest_wait(lambda: write_image(tmp_path / f"x{suffix}", pixels)) < 0.5


def test_compression_changes_the_size_of_files_and_no_pixel(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    smooth = np.add.outer(np.arange(90), np.arange(80))[..., None].repeat(3, axis=2)
    write_image(tmp_path / "in/a.png", smooth.astype(np.uint8), alpha=noise(90, 80, 1)[..., 0])
    write_image(tmp_path / "in/b.tif", smooth.astype(np.uint8))
    Image.fromarray(smooth.astype(np.uint8)[..., 0]).convert("RGB").save(tmp_path / "in/c.jpg")
    sizes, pixels = [], []
    for level in (0, 1, 9):
        out = tmp_path / f"out{level}"
        assert convert(tmp_path / "in", out, release_of(Identity()), workers=0, compression=level).converted == 3
        sizes.append([(out / name).stat().st_size for name in ("a.png", "b.tif", "c.jpg")])
        pixels.append([decode((out / name).read_bytes(), out / name) for name in ("a.png", "b.tif")])
        # No pixel depends on it: what is done under another level is done.
        assert convert(tmp_path / "in", out, release_of(Identity()), workers=0).already == 3
    assert all(sizes[0][i] > sizes[1][i] > sizes[2][i] for i in (0, 1)) and len({each[2] for each in sizes}) == 1
    for other in pixels[1:]:
        for one, two in zip(pixels[0], other, strict=True):
            np.testing.assert_array_equal(one.pixels, two.pixels)
            assert (one.alpha is None) == (two.alpha is None)

    # Deep images and rows as well.
    for name, dtype in (("x.png", np.uint16), ("x.tif", np.uint16), ("y.tif", np.float32)):
        found = []
        for level in (0, 9):
            write_image(tmp_path / name, smooth.astype(dtype), compression=level)
            found.append((tmp_path / name).stat().st_size)
        assert found[0] > 2 * found[1]
    found = []
    for level in (0, 9):
        convert(tmp_path / "in/b.tif", tmp_path / f"{level}.tif", release_of(Identity()), workers=0, memory="1GB",
                compression=level)
        found.append((tmp_path / f"{level}.tif").stat().st_size)
        np.testing.assert_array_equal(tifffile.imread(tmp_path / f"{level}.tif"), smooth.astype(np.uint8))
    assert found[0] > 2 * found[1]


def test_the_command_takes_auto_or_a_number_of_workers() -> None:
    assert [number_or_auto(text) for text in ("auto", "0", "12")] == [None, 0, 12]
    for text in ("many", "-1", "1.5", "", "1000"):
        with pytest.raises(UsageError, match=f"--workers {text}: expected auto, or a number"):
            number_or_auto(text)


@pytest.mark.parametrize(("options", "words"), [
    ({"compression": 10}, "expected 0 .* to 9"), ({"compression": -1}, "expected 0 .* to 9"),
    ({"compression": 3, "file_format": "jpg"}, "is of png and tif"), ({"workers": -1}, "expected 0 or more")])
def test_a_compression_that_means_nothing_is_refused(options: dict[str, object], words: str, tmp_path: Path) -> None:
    fill(tmp_path / "in", 1)
    with pytest.raises(UsageError, match=words):
        convert(tmp_path / "in", tmp_path / "out", release_of(Identity()), **options)  # type: ignore[arg-type]
