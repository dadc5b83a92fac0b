"""Translating an image of any size, exactly, in bounded memory.

    fake = tiling.apply(generator, image, memory="2GB")

The output equals the whole image's: the same computation is merely executed in strips of rows, with the statistics of
every norm gathered over the whole image first. The network is called once on an image that is not computed yet
(`tiling.lazy`); what it does becomes a graph, and a schedule (`tiling.graph`) says which rows to compute when. Here the
schedule is executed, or, for a forecast, only added up.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from translate.errors import DoesNotFit, UsageError
from translate.networks.layers import recomputing, seed_dropout, starting_point
from translate.networks.rows import Rows
from translate.networks.statistics import Moments
from translate.sizes import num_bytes
from translate.tiling.bands import Place, Settings, WaitingBytes, band
from translate.tiling.graph import Barrier, Held, Node, Schedule, Source, TilingError, nodes_of
from translate.tiling.lazy import LazyImage, Recording

__all__ = ["Forecast", "Settings", "Sink", "Source", "TilingError", "apply", "forecast"]


class Sink(Protocol):
    """Where the output goes, strip by strip from top to bottom."""

    def write(self, a: int, strip: Tensor) -> None:
        """Take rows [a, a + strip.shape[2]), (1, C', rows, W) in [-1, 1]."""


@dataclass(frozen=True)
class Forecast:
    """What applying a generator will take.

    Bytes of the device's memory, beyond the network's, the source's and the output's own; bytes on the disk;
    computation relative to the whole image at once.
    """

    peak_bytes: int
    disk_bytes: int
    compute: float
    settings: Settings
    waiting_bytes: int = 0  # of the peak: rows that wait for later passes, however thin the strips

    @property
    def strip_rows(self) -> int:
        return self.settings.strip_rows


@torch.no_grad()
def apply(generator: nn.Module, source: Tensor | Source, *, memory: int | str | None = None,
          settings: Settings | None = None, out: Sink | None = None, seed: int = 0) -> Tensor | None:
    """Translate an image, a tensor (1, C, H, W) in [-1, 1] or a `Source`, as `generator(image)` would.

    With `out` the output is written there strip by strip and nothing is returned, else it is a tensor (1, C', H, W).
    `memory` (bytes, or text such as "2GB") bounds what this takes beyond the network, the source and the output;
    settings are derived from it, and `DoesNotFit` is raised where none would do. Without either, rows are kept in the
    device's memory. `seed` names the image to dropout, for a generator that is in training mode.

    Computes where the generator's weights are and under the caller's autocast. Running statistics are left alone.
    Raises `TilingError` for an operation without an exact rule, `DiskError` when the disk is full.
    """
    image = Held(source) if isinstance(source, Tensor) else source
    weight = next(generator.parameters(), torch.empty(0))
    job = _Job(weight.device, memory, settings)

    def compute(node: Node) -> Tensor:
        whole = _Whole(node.height)
        job.execute(node, whole)
        job.held += whole.image.nbytes
        return whole.image

    seed_dropout([generator], (seed,))
    lazy = _record(generator, LazyImage.of(image, Recording(compute, seed), job.device, weight.dtype), generator)
    whole = _Whole(lazy.shape[2])
    sink = whole if out is None else out
    if isinstance(lazy, Tensor):  # the network's last step needed all rows at once
        sink.write(0, lazy)
    else:
        job.execute(lazy.node, sink)
    return whole.image if out is None else None


@torch.no_grad()
def forecast(generator: nn.Module, shape: Sequence[int], *, memory: int | str | None = None,
             settings: Settings | None = None) -> Forecast:
    """What `apply` would take for an image of `shape` (1, C, H, W). Nothing is computed.

    Raises `DoesNotFit` where `memory` is too little for any settings, `TilingError` as `apply` does.
    """
    weight = next(generator.parameters(), torch.empty(0))
    job = _Job(weight.device, memory, settings)
    parts: list[tuple[Node, Forecast]] = []

    def weigh(node: Node) -> Tensor:
        found = job.weigh(node)
        parts.append((node, replace(found, peak_bytes=found.peak_bytes + job.held)))
        job.held += node.height * node.row_bytes
        return torch.empty(node.shape, dtype=node.dtype, device="meta")

    empty = Held(torch.empty(tuple(shape), device="meta"))
    image = LazyImage.of(empty, Recording(weigh), job.device, weight.dtype)
    weights = {name: weight.to("meta") for name, weight in [*generator.named_parameters(), *generator.named_buffers()]}
    lazy = _record(lambda image: torch.func.functional_call(generator, weights, (image,)), image, generator)
    if isinstance(lazy, LazyImage):
        weigh(lazy.node)
    once = sum({node: node.macs * node.height for last, _ in parts for node in nodes_of(last)}.values())
    done = sum(Schedule(node, 1, found.settings.kept_floats).macs for node, found in parts)
    heaviest = max((found for _, found in parts), key=lambda found: found.peak_bytes)
    return replace(heaviest, compute=done / once if once else 1.0,
                   disk_bytes=max(found.disk_bytes for _, found in parts))


class _Whole:
    """The output as one tensor."""

    def __init__(self, height: int):
        self.height = height
        self.image = torch.empty(0)

    def write(self, a: int, strip: Tensor) -> None:
        if a == 0:
            self.image = strip.new_empty((*strip.shape[:2], self.height, strip.shape[3]))
        self.image[:, :, a:a + strip.shape[2]] = strip


@dataclass
class _Job:
    """One image to translate: where, and in how much memory. `held` is what has been taken for good by now."""

    device: torch.device
    memory: int | str | None
    settings: Settings | None
    held: int = 0

    def execute(self, output: Node, sink: Sink) -> None:
        _execute(output, self.settings or self._choose(output), self.device, sink)

    def weigh(self, output: Node) -> Forecast:
        return _weighed(output, self.settings or self._choose(output), self.device)

    def _choose(self, output: Node) -> Settings:
        """The settings that take the least computation among those that fit."""
        if self.memory is None:
            return Settings()
        limit = num_bytes(self.memory) - self.held
        free = shutil.disk_usage(tempfile.gettempdir()).free
        pixels = output.height * output.shape[3]
        widths = {node.floats * node.height / pixels for node in Schedule(output, 1, math.inf).kept} | {0.0}
        beside: Place = "disk" if self.device.type == "cpu" else "host"
        prices: dict[Place, float] = {"device": 1.0, beside: 1.2}  # in time, of waiting there
        choices = sorted((Schedule(output, 1, width).macs * price, -width, place)
                         for width in widths for place, price in prices.items())
        least, too_thin = math.inf, False
        for _, width, place in choices:
            for strip_rows in (256, 128, 64, 32, 16, 8):
                found = _weighed(output, Settings(min(strip_rows, output.height), -width, place), self.device)
                if found.disk_bytes > 0.9 * free:
                    break
                least = min(least, found.peak_bytes)
                if found.peak_bytes <= limit:
                    return found.settings
                if found.waiting_bytes > limit:  # however thin the strips
                    break
                too_thin = strip_rows == 8 and found.peak_bytes - found.waiting_bytes > limit
            if too_thin:  # one strip is too much, wherever rows wait
                break
        size, needed, allowed = f"{output.height}×{output.shape[3]}", least + self.held, num_bytes(self.memory)
        raise DoesNotFit(f"translating {size} pixels needs {needed / 1e6:,.0f} MB of memory at the least, with "
                         f"{free / 1e6:,.0f} MB free in {tempfile.gettempdir()} (TMPDIR names another place), and "
                         f"{allowed / 1e6:,.0f} MB are allowed; allow more")


def _record(generator: Callable[[Any], Any], image: LazyImage, network: nn.Module) -> LazyImage | Tensor:
    """Call a network on a lazy image; its running statistics stay as they are."""
    if len(image.shape) != 4 or image.shape[0] != 1:
        raise UsageError(f"expected an image (1, C, H, W) to translate in strips, got {tuple(image.shape)}")
    with recomputing(starting_point(network)):
        result = generator(image)
    if not isinstance(result, LazyImage | Tensor) or len(result.shape) != 4:
        raise TilingError(f"the network returns {type(result).__name__}; strips need one image (1, C, H, W)")
    return result


def _execute(output: Node, settings: Settings, device: torch.device, sink: Sink) -> None:
    """Compute a graph's output into `sink`."""
    schedule = Schedule(output, settings.strip_rows, settings.kept_floats)
    bands = {node: band(node, schedule, settings, device) for node in schedule.banded}

    def rows_of(node: Node, want: Rows) -> Tensor:
        if node not in bands:
            return made(node, want)
        strip = bands[node].get(want)
        return strip if settings.dtype is None else strip.to(node.dtype)

    def made(node: Node, want: Rows) -> Tensor:
        if node.is_source:
            return node.make((), want)
        need, strips = node.need(want), []
        for source in node.inputs:
            have = need.or_one(source.height)
            strips.append(need.of(rows_of(source, have).to(device), have.lo))
        return node.make(strips, want)

    moments = Moments()
    for kind, node, rows in schedule.actions():
        if kind == "make":
            bands[node].add(rows, made(node, rows))
        elif kind == "see":
            strip = rows_of(node, rows).to(device)
            exact = torch.promote_types(strip.dtype, torch.float32)
            moments.add(strip)
            del strip
        elif kind == "close":
            assert isinstance(node.operation, Barrier)
            node.operation.close(moments, exact)
            moments = Moments()
        elif kind == "emit":
            sink.write(rows.lo, rows_of(node, rows))
        else:
            bands[node].drop(rows.lo)


def _weighed(output: Node, settings: Settings, device: torch.device) -> Forecast:
    """Go through the same schedule, adding up bytes."""
    schedule = Schedule(output, settings.strip_rows, settings.kept_floats)
    scales = {node: WaitingBytes(node, schedule, settings, device) for node in schedule.banded}
    peak = waiting = disk = 0

    def transient(node: Node, want: Rows, making: bool) -> tuple[int, int]:
        """The most bytes while rows of a node are computed, and the bytes of the result."""
        size = want.num * node.row_bytes
        if node in scales and not making:
            return (0, 0) if scales[node].has_in_one(want) else (size, size)
        most = held = 0
        for source in node.inputs:
            need = node.need(want).or_one(source.height)
            meanwhile, result = transient(source, need, False)
            most, held = max(most, held + meanwhile), held + result
        return max(most, held + size + _scratch(node, want, device)), size

    for kind, node, rows in schedule.actions():
        if kind == "drop":
            scales[node].drop(rows.lo)
        elif kind != "close":
            most, size = transient(node, rows, kind == "make")
            beside = size if kind == "see" else 0  # the strip less its mean
            peak = max(peak, sum(scale.bytes for scale in scales.values()) + most + beside)
        if kind == "make":
            scales[node].add(rows)
            waiting = max(waiting, sum(scale.bytes for scale in scales.values() if scale.waits))
            disk = max(disk, sum(scale.disk_bytes for scale in scales.values()))
    if device.type == "cpu":
        peak += 64 * 2**20  # freed memory that glibc keeps: twice its largest threshold for returning a block at once
    once = sum(node.macs * node.height for node in schedule.order)
    return Forecast(peak, disk, schedule.macs / once if once else 1.0, settings, waiting)


def _scratch(node: Node, want: Rows, device: torch.device) -> int:
    """What a convolution takes beside its input and output: on a CPU, a copy of both in another layout."""
    if not node.macs or device.type != "cpu":
        return 0
    return want.num * node.row_bytes + node.need(want).num * node.inputs[0].row_bytes
