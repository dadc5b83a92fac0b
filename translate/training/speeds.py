"""How fast a device is, in three numbers, and how long a step's work takes by them.

A step's work is counted as it is run as shapes (`translate.networks.live_bytes.Work`): multiplications of
convolutions, bytes that all else reads and writes, kernels. Its time is multiplications / rate + bytes × `MOVING` /
bandwidth + kernels × the time of one.

The numbers are measured where there is a device to measure, in half a second, and kept in the user's cache; for GPUs
that are not here they are those of the table in `translate.training.gpus`. docs/planning.md says how near the times
come.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from translate import files
from translate.errors import TranslateError
from translate.foreign import Shape, read_json
from translate.host.cores import CoreClock
from translate.networks.live_bytes import LiveBytes, Work
from translate.networks.normalised import FUSED_FROM, path_of
from translate.places import cache_folder
from translate.precision import Format, autocast, is_out_of_memory
from translate.sizes import plural
from translate.training.gpus import BANDWIDTH_REACHED, GPU, like_one_of
from translate.training.machine import processor

CACHE_FILE = "speeds.json"
MEASURED_BY = "own clock"  # part of the keys in it: numbers that earlier versions measured otherwise are not taken
# So many times as long as a copy of the same bytes takes what is no convolution: passes and changes of layout that no
# count sees. Apart: with an operation for each norm, activation and padding; measured steps of an H200 say 3.7, those
# of a CPU 3 (tools/seconds.py). Together: with one operation for all three, as on CUDA, which reads twice or thrice
# what is counted once; no step of it has been measured. Cards that have torch's own kernels (`translate.networks.
# normalised`, "plain") count as apart: as many kernels, one after the other.
MOVING: dict[Literal["apart", "together"], float] = {"apart": 3.5, "together": 2.0}
# On a GPU of the table. A kernel starts in a fifth of that, but Python is between two; measured steps say 67e-6.
KERNEL_SECONDS = 50e-6
ROUNDS = 8  # of a measurement, of which the fastest counts: whatever else the machine does meets some of them alone


@dataclass(frozen=True)
class Speed:
    """What a device does in a second, in one number format."""

    flops: float  # of convolutions
    moved_bytes: float
    kernel_seconds: float  # from the start of a kernel to that of the next
    moving: float  # times as long as a copy takes what is no convolution
    of: str  # whose numbers these are, and whence, in words
    is_measured: bool = False

    def floor(self, work: Work) -> float:
        """Return the seconds that a step cannot do without: those of its multiplications and its bytes."""
        return work.flops / self.flops + work.moved_bytes / self.moved_bytes

    def seconds(self, work: Work) -> float:
        """Return the seconds that a step is predicted to take."""
        return (work.flops / self.flops + self.moving * work.moved_bytes / self.moved_bytes
                + work.kernels * self.kernel_seconds)


def published(gpu: GPU, precision: Format) -> Speed:
    """Return the speed of a GPU by the table. Raises `UsageError` for a format that it has not."""
    moving = MOVING["together" if gpu.capability >= FUSED_FROM else "apart"]
    return Speed(gpu.peak(precision) * 1e12 * gpu.reached, gpu.bandwidth * 1e12 * BANDWIDTH_REACHED, KERNEL_SECONDS,
                 moving, f"{gpu.name}, by its published numbers")


def assumed(kind: Literal["cuda", "cpu"], precision: Format, memory_bytes: int | None = None) -> Speed:
    """Return the speed of a device of which only the kind is known, and of a GPU perhaps the size of its memory."""
    if kind == "cpu":
        return Speed(60e9, 15e9, 25e-6, MOVING["apart"], "one thread of a CPU, assumed")
    return published(like_one_of(memory_bytes or 0, precision), precision)


def measured(device: torch.device, precision: Format) -> Speed:
    """Return the speed of a device of this machine, as it was measured now or at an earlier time.

    Where it cannot be measured, as a GPU that has no memory left, that of one of the table.
    """
    kind: Literal["cuda", "cpu"] = "cpu" if device.type == "cpu" else "cuda"
    name = processor() if kind == "cpu" else (
        torch.cuda.get_device_name(device) if device.type == "cuda" else device.type)
    threads = f", {plural(torch.get_num_threads(), 'thread')}" * (kind == "cpu")
    key = f"{name}{threads}, torch {torch.__version__}, {precision}, {MEASURED_BY}"
    found = _numbers(key, device, precision)
    if found is None:
        size = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0
        return assumed(kind, precision, size)
    moving = MOVING["together" if path_of(torch.empty(0, device=device)) == "fused" else "apart"]
    return Speed(found.flops, found.moved_bytes, found.kernel_seconds, moving, f"{name}{threads}, measured", True)


Rate = Annotated[float, Field(gt=1e3, lt=1e20, allow_inf_nan=False)]


class Numbers(Shape):
    """What the cache keeps of a device."""

    flops: Rate
    moved_bytes: Rate
    kernel_seconds: Annotated[float, Field(gt=1e-9, lt=1, allow_inf_nan=False)]


@functools.lru_cache(maxsize=16)
def _numbers(key: str, device: torch.device, precision: Format) -> Numbers | None:
    """Return the numbers of a device from the cache, else measured and put there; None where that is impossible."""
    # A cache that cannot be read is not there, and one of another schema is written anew.
    kept: dict[str, Numbers] = {}
    place = cache_folder() / CACHE_FILE
    with suppress(TranslateError, OSError):
        kept = {name: Numbers.model_validate(each) for name, each in read_json(place, dict[str, Numbers]).items()}
    if key in kept:
        return kept[key]
    try:
        with torch.random.fork_rng(devices=[]):  # a training's chance is not touched
            found = measure(device, precision)
        if device.type == "cuda":  # nor its memory, and what is recorded of it
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    with suppress(TranslateError, OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(place, {name: each.model_dump() for name, each in (kept | {key: found}).items()})
    return found


def measure(device: torch.device, precision: Format) -> Numbers:
    """Measure a device: a convolution, a copy, and a network so small that starting its kernels is all it takes."""
    on_cpu = device.type == "cpu"

    # A convolution of a residual block, forward and backward: three times its multiplications.
    channels, side, times = (64, 64, 1) if on_cpu else (256, 256, 4)
    layer = nn.Conv2d(channels, channels, 3, padding=1).to(device).to(memory_format=torch.channels_last)
    image = torch.randn(1, channels, side, side).to(device, memory_format=torch.channels_last).requires_grad_()
    flops = 3 * 2 * 9 * channels**2 * side**2 * times

    def convolve() -> None:
        for _ in range(times):
            with autocast(device, precision):
                made = layer(image)
            made.backward(made.detach())

    # A copy of more than caches hold.
    source = torch.zeros((8 if on_cpu else 64) * 2**20, device=device)
    target = torch.zeros_like(source)

    # Layers of a few numbers, as networks are made of them.
    small = nn.Sequential(*(part for _ in range(8) for part in (
        nn.ReflectionPad2d(1), nn.Conv2d(4, 4, 3), nn.InstanceNorm2d(4), nn.ReLU()))).to(device)
    dot = torch.randn(1, 4, 8, 8).to(device)

    def start_kernels() -> None:
        small(dot).sum().backward()

    with LiveBytes(device.type) as counter:
        start_kernels()
    return Numbers(flops=flops / _seconds(convolve, device),
                   moved_bytes=2 * source.nbytes / _seconds(lambda: target.copy_(source), device),
                   kernel_seconds=_seconds(start_kernels, device) / counter.work.kernels)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the fastest of several times, after one that does not count.

    On a CPU without those for which this thread waited for a core that other programs held: these may be gone later.
    """
    taken = []
    for _ in range(1 + ROUNDS):
        clock, begin = CoreClock(), time.perf_counter()
        work()
        if device.type == "cpu":
            taken.append(clock.seconds())
        else:
            torch.accelerator.synchronize(device)
            taken.append(time.perf_counter() - begin)
    return min(taken[1:])
