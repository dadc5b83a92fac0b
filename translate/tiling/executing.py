"""A recorded graph computed strip by strip, as its schedule says; what that takes, and how it takes the least."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from translate.errors import DoesNotFit
from translate.host.available_memory import lies_in_memory
from translate.networks.rows import RowRange
from translate.networks.statistics import Moments
from translate.tiling.bands import Place, Settings, WaitingBytes, band
from translate.tiling.graph import Barrier, Node, Schedule
from translate.tiling.whole import GLIBC_KEEPS

STRIP_ROWS = (256, 128, 64, 32, 16, 8)  # heights of strips that are tried, of the output
WAITING_ELSEWHERE = 1.2  # time of a translation whose rows wait outside the device's memory, relative to one inside
USABLE_DISK = 0.9  # share of the free disk that waiting rows may take


class Sink(Protocol):
    """Where the output goes, strip by strip from top to bottom."""

    def write(self, start: int, strip: Tensor) -> None:
        """Take rows [start, start + strip.shape[2]), (1, C', rows, W) in [-1, 1]."""


@dataclass(frozen=True)
class Forecast:
    """What applying a generator will take."""

    peak_bytes: int  # of the device's memory, beyond the network's, the source's and the output's own
    disk_bytes: int
    compute: float  # relative to the whole image at once
    settings: Settings
    waiting_bytes: int = 0  # of the peak: rows that wait for later passes, however thin the strips


def execute(output: Node, settings: Settings, device: torch.device, sink: Sink) -> None:
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
            moments.add(strip_of(node, rows).to(device))
        elif kind == "close":
            assert isinstance(node.operation, Barrier)
            node.operation.close(moments, torch.promote_types(node.inputs[0].dtype, torch.float32))
            moments = Moments()
        elif kind == "emit":
            sink.write(rows.start, strip_of(node, rows))
        else:
            bands[node].drop(rows.start)


def predict(output: Node, settings: Settings, device: torch.device) -> Forecast:
    """Go through the same schedule as `execute`, adding up bytes instead of computing."""
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


def cheapest_that_fits(output: Node, device: torch.device, memory: int, held: int) -> Settings:
    """Return the settings that take the least computation of those that keep to `memory` bytes, `held` of them taken.

    Raises `DoesNotFit`.
    """
    # The choices: up to how many numbers per output pixel images are kept for later passes, and where they wait.
    allowed = memory - held
    free = 0 if lies_in_memory(Path(tempfile.gettempdir())) else shutil.disk_usage(tempfile.gettempdir()).free
    pixels = output.height * output.shape[3]
    limits = {node.floats * node.height / pixels for node in Schedule(output, 1, math.inf).kept} | {0.0}
    beside: Place = "disk" if device.type == "cpu" else "host"
    prices: dict[Place, float] = {"device": 1.0, beside: WAITING_ELSEWHERE}
    choices = sorted((Schedule(output, 1, kept_floats).macs * price, -kept_floats, place)
                     for kept_floats in limits for place, price in prices.items())

    def forecasts() -> Iterator[Forecast]:
        """Yield what can be tried: the cheapest choice first, and of each the highest strips."""
        for _, negative, place in choices:
            for strip_rows in STRIP_ROWS:
                found = predict(output, Settings(min(strip_rows, output.height), -negative, place), device)
                if found.disk_bytes > USABLE_DISK * free:
                    break
                yield found
                if found.waiting_bytes > allowed:  # however thin the strips
                    break
            else:
                if found.peak_bytes - found.waiting_bytes > allowed:  # the thinnest strip, wherever rows wait
                    return

    least = math.inf
    for found in forecasts():
        if found.peak_bytes <= allowed:
            return found.settings
        least = min(least, found.peak_bytes)
    raise DoesNotFit(f"translating {output.height}×{output.shape[3]} pixels needs {(least + held) / 1e6:,.0f} MB of "
                     f"memory at the least, with {free / 1e6:,.0f} MB of disk free in {tempfile.gettempdir()} (TMPDIR "
                     f"names another place), and {memory / 1e6:,.0f} MB are allowed", advice="allow more")
