"""Translating an image of any size, exactly, in bounded memory: in strips of rows; no tiles, no seams.

    fake = tiling.apply(generator, image, memory="2GB")

The output equals the whole image's: the same computation is executed strip by strip, with the statistics of every norm
gathered over the whole image first. The network is called once on an image that is not computed yet
(`tiling.lazy`); what it does becomes a graph, and a schedule (`tiling.graph`) says which rows to compute when. Here the
schedule is executed, or, for a forecast, only added up.

A tile of an image, translated alone, differs from the same place of the whole: its norms have other statistics and its
borders other neighbours. Strips have neither fault, at the price of more than one pass over the image.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from translate.available_memory import lies_in_memory
from translate.errors import DoesNotFit, UsageError
from translate.networks.dropout import seed_dropout
from translate.networks.recomputing import recomputing, starting_point
from translate.networks.rows import RowRange
from translate.networks.statistics import Moments
from translate.sizes import num_bytes
from translate.tiling.bands import Place, Settings, WaitingBytes, band
from translate.tiling.graph import Barrier, Node, Schedule, Source, TensorSource, TilingError, nodes_of
from translate.tiling.lazy import LazyImage
from translate.tiling.recorded import Recording
from translate.tiling.whole import GLIBC_KEEPS, whole_bytes

STRIP_ROWS = (256, 128, 64, 32, 16, 8)  # heights of strips that are tried, of the output
WAITING_ELSEWHERE = 1.2  # time of a translation whose rows wait outside the device's memory, relative to one inside
USABLE_DISK = 0.9  # share of the free disk that waiting rows may take

__all__ = ["Forecast", "Settings", "Sink", "Source", "TilingError", "apply", "forecast", "whole_bytes"]


class Sink(Protocol):
    """Where the output goes, strip by strip from top to bottom."""

    def write(self, a: int, strip: Tensor) -> None:
        """Take rows [a, a + strip.shape[2]), (1, C', rows, W) in [-1, 1]."""


@dataclass(frozen=True)
class Forecast:
    """What applying a generator will take."""

    peak_bytes: int  # of the device's memory, beyond the network's, the source's and the output's own
    disk_bytes: int
    compute: float  # relative to the whole image at once
    settings: Settings
    waiting_bytes: int = 0  # of the peak: rows that wait for later passes, however thin the strips


@torch.no_grad()
def apply(generator: nn.Module, source: Tensor | Source, *, memory: int | str | None = None,
          settings: Settings | None = None, out: Sink | None = None, seed: int = 0) -> Tensor | None:
    """Translate an image as `generator(image)` would; returns it as a tensor (1, C', H, W).

        source     a tensor (1, C, H, W) in [-1, 1], or a `Source`
        memory     bytes, or text such as "2GB": the bound of what this takes beyond the network, the source and the
                   output, from which settings are derived; None: rows are kept in the device's memory
        settings   how to cut the image and where to keep rows, instead of `memory`
        out        where to write the output strip by strip; nothing is returned then
        seed       names the image to dropout, for a generator that is in training mode

    Computes where the generator's weights are and under the caller's autocast. Running statistics are left alone.

    Raises `TilingError` for an operation without an exact rule, `DoesNotFit` where no settings keep to `memory`,
    `DiskError` when the disk is full.
    """
    image = TensorSource(source) if isinstance(source, Tensor) else source
    weight = next(generator.parameters(), torch.empty(0))
    job = _Job(weight.device, memory, settings)

    # Call the network, which records a graph; what needs all rows at once is computed on the way, and stays in memory.
    def compute(node: Node) -> Tensor:
        whole = _Whole(node.height)
        job.execute(node, whole)
        job.held += whole.image.nbytes
        return whole.image

    seed_dropout([generator], (seed,))
    lazy = _record(generator, LazyImage.of(image, Recording(compute, seed), job.device, weight.dtype), generator)

    # Compute the graph. The output is a tensor already if the last operation needed all rows at once.
    whole = _Whole(lazy.shape[2])
    sink = whole if out is None else out
    if isinstance(lazy, Tensor):
        sink.write(0, lazy)
    else:
        job.execute(lazy.node, sink)
    return whole.image if out is None else None


@torch.no_grad()
def forecast(generator: nn.Module, shape: Sequence[int], *, memory: int | str | None = None,
             settings: Settings | None = None) -> Forecast:
    """Return what `apply` would take for an image of `shape` (1, C, H, W). Nothing is computed.

    Raises `DoesNotFit` where `memory` is too little for any settings, `TilingError` as `apply` does.
    """
    weight = next(generator.parameters(), torch.empty(0))
    job = _Job(weight.device, memory, settings)

    # As in `apply`, on the meta device: one part for whatever needs all rows at once, and one for the output.
    parts: list[tuple[Node, Forecast]] = []

    def add_up(node: Node) -> Tensor:
        found = job.add_up(node)
        parts.append((node, replace(found, peak_bytes=found.peak_bytes + job.held)))
        job.held += node.height * node.row_bytes
        return torch.empty(node.shape, dtype=node.dtype, device="meta")

    empty = TensorSource(torch.empty(tuple(shape), device="meta"))
    image = LazyImage.of(empty, Recording(add_up), job.device, weight.dtype)
    weights = {name: weight.to("meta") for name, weight in [*generator.named_parameters(), *generator.named_buffers()]}
    lazy = _record(lambda image: torch.func.functional_call(generator, weights, (image,)), image, generator)
    if isinstance(lazy, LazyImage):
        add_up(lazy.node)

    # All parts together: the work of every one, and the memory and settings of the heaviest.
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

    def add_up(self, output: Node) -> Forecast:
        return _forecast(output, self.settings or self._choose(output), self.device)

    def _choose(self, output: Node) -> Settings:
        """Return the settings that take the least computation among those that fit. Raises `DoesNotFit`."""
        if self.memory is None:
            return Settings()

        # The choices: up to how many numbers per output pixel images are kept for later passes, and where they wait.
        allowed = num_bytes(self.memory) - self.held
        free = 0 if lies_in_memory(Path(tempfile.gettempdir())) else shutil.disk_usage(tempfile.gettempdir()).free
        pixels = output.height * output.shape[3]
        limits = {node.floats * node.height / pixels for node in Schedule(output, 1, math.inf).kept} | {0.0}
        beside: Place = "disk" if self.device.type == "cpu" else "host"
        prices: dict[Place, float] = {"device": 1.0, beside: WAITING_ELSEWHERE}
        choices = sorted((Schedule(output, 1, kept_floats).macs * price, -kept_floats, place)
                         for kept_floats in limits for place, price in prices.items())

        # Try the cheapest first, and of each the highest strips that fit.
        least, hopeless = math.inf, False
        for _, negative, place in choices:
            for strip_rows in STRIP_ROWS:
                found = _forecast(output, Settings(min(strip_rows, output.height), -negative, place), self.device)
                if found.disk_bytes > USABLE_DISK * free:
                    break
                least = min(least, found.peak_bytes)
                if found.peak_bytes <= allowed:
                    return found.settings
                if found.waiting_bytes > allowed:  # however thin the strips
                    break
                hopeless = strip_rows == STRIP_ROWS[-1] and found.peak_bytes - found.waiting_bytes > allowed
            if hopeless:  # the thinnest strip is too much, wherever rows wait
                break

        needed, given = least + self.held, num_bytes(self.memory)
        raise DoesNotFit(f"translating {output.height}×{output.shape[3]} pixels needs {needed / 1e6:,.0f} MB of memory "
                         f"at the least, with {free / 1e6:,.0f} MB of disk free in {tempfile.gettempdir()} (TMPDIR "
                         f"names another place), and {given / 1e6:,.0f} MB are allowed", advice="allow more")


def _record(generator: Callable[[Any], Any], image: LazyImage, network: nn.Module) -> LazyImage | Tensor:
    """Call a network on a lazy image; its running statistics stay as they are.

    Raises `UsageError` for an image of another shape than (1, C, H, W), `TilingError` for a result of another kind.
    """
    if len(image.shape) != 4 or image.shape[0] != 1:
        raise UsageError(f"expected an image (1, C, H, W) to translate in strips, got {tuple(image.shape)}")
    with recomputing(starting_point(network)):
        result = generator(image)
    if not isinstance(result, LazyImage | Tensor) or len(result.shape) != 4:
        raise TilingError(f"the network returns {type(result).__name__}; strips need one image (1, C, H, W)")
    return result


def _execute(output: Node, settings: Settings, device: torch.device, sink: Sink) -> None:
    """Compute a graph's output into `sink`, as its schedule says."""
    schedule = Schedule(output, settings.strip_rows, settings.kept_floats)
    bands = {node: band(node, schedule, settings, device) for node in schedule.banded}

    def strip_of(node: Node, want: RowRange) -> Tensor:
        """Return rows of a node: from its band, or made of the rows of others."""
        if node not in bands:
            return made(node, want)
        strip = bands[node].get(want)
        return strip if settings.dtype is None else strip.to(node.dtype)

    def made(node: Node, want: RowRange) -> Tensor:
        """Compute rows of a node on the device."""
        if node.is_source:
            return node.make((), want)
        need, strips = node.need(want), []
        for source in node.inputs:
            have = need.at_least_one_row(source.height)
            strips.append(need.slice_of(strip_of(source, have).to(device), have.start))
        return node.make(strips, want)

    # The statistics of the pass that is under way are in `moments`.
    moments = Moments()
    for kind, node, rows in schedule.actions():
        if kind == "make":
            bands[node].add(rows, made(node, rows))
        elif kind == "gather":
            strip = strip_of(node, rows).to(device)
            exact = torch.promote_types(strip.dtype, torch.float32)
            moments.add(strip)
            del strip
        elif kind == "close":
            assert isinstance(node.operation, Barrier)
            node.operation.close(moments, exact)
            moments = Moments()
        elif kind == "emit":
            sink.write(rows.start, strip_of(node, rows))
        else:
            bands[node].drop(rows.start)


def _forecast(output: Node, settings: Settings, device: torch.device) -> Forecast:
    """Go through the same schedule as `_execute`, adding up bytes instead of computing."""
    schedule = Schedule(output, settings.strip_rows, settings.kept_floats)
    bands = {node: WaitingBytes(node, schedule, settings, device) for node in schedule.banded}
    peak = waiting = disk = 0

    def transient(node: Node, want: RowRange, making: bool) -> tuple[int, int]:
        """Return the most bytes there are while rows of a node are computed, and the bytes of the result."""
        size = len(want) * node.row_bytes
        if node in bands and not making:
            return (0, 0) if bands[node].has_in_one(want) else (size, size)

        # Inputs are computed one after the other, and held until the rows themselves are.
        most = held = 0
        for source in node.inputs:
            need = node.need(want).at_least_one_row(source.height)
            meanwhile, result = transient(source, need, False)
            most, held = max(most, held + meanwhile), held + result
        return max(most, held + size + _scratch(node, want, device)), size

    # At every action: what waits in bands, and what is held while rows are computed.
    for kind, node, rows in schedule.actions():
        if kind == "drop":
            bands[node].drop(rows.start)
        elif kind != "close":
            most, size = transient(node, rows, kind == "make")
            beside = size if kind == "gather" else 0  # the strip less its mean
            peak = max(peak, sum(each.bytes for each in bands.values()) + most + beside)
        if kind == "make":
            bands[node].add(rows)
            waiting = max(waiting, sum(each.bytes for each in bands.values() if each.waits))
            disk = max(disk, sum(each.disk_bytes for each in bands.values()))
    if device.type == "cpu":
        peak += GLIBC_KEEPS

    once = sum(node.macs * node.height for node in schedule.order)
    return Forecast(peak, disk, schedule.macs / once if once else 1.0, settings, waiting)


def _scratch(node: Node, want: RowRange, device: torch.device) -> int:
    """Return the bytes a convolution takes beside its input and output: on a CPU, a copy of both in another layout."""
    if not node.macs or device.type != "cpu":
        return 0
    return len(want) * node.row_bytes + len(node.need(want)) * node.inputs[0].row_bytes
