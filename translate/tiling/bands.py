"""Bands: the rows of an image that have been made and wait to be read, in memory or on disk, and what they take there.

Rows are added to a band as they are made, read by those that need them, and dropped. There are three kinds: for rows
that are read in the pass that makes them (`Band`), and for rows that wait longer, in memory (`KeptBand`) and on disk
(`DiskBand`). Longer wait those that later passes read; and in one pass, a U-Net's skips, for which the way down and up
again is far, where there is another place to wait than the device's memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from translate.errors import DiskError, is_disk_fault
from translate.networks.rows import RowRange
from translate.tiling.graph import Node, Schedule

Place = Literal["device", "host", "disk"]


@dataclass(frozen=True)
class Settings:
    """How an image is cut and where rows wait that are read again later. All but `dtype` leave the output exact."""

    strip_rows: int = 32  # of the output
    kept_floats: float = 32.0  # images with more numbers per output pixel than this are computed again, not kept
    place: Place = "device"  # disk: where Python's `tempfile` puts files
    dtype: torch.dtype | None = None  # waiting rows in float16 (90 dB) or bfloat16 (72 dB) take half the memory


class Band:
    """Rows of one image that wait to be read in this pass, in the strips they were made in."""

    def __init__(self) -> None:
        self.strips: deque[tuple[RowRange, Tensor]] = deque()

    def add(self, rows: RowRange, strip: Tensor) -> None:
        self.strips.append((rows, strip))

    def get(self, want: RowRange) -> Tensor:
        return _joined([want.intersection(rows).slice_of(strip, rows.start) for rows, strip in self.strips
                        if want.intersection(rows)])

    def drop(self, first: int) -> None:
        while self.strips and self.strips[0][0].stop <= first:
            self.strips.popleft()


class KeptBand:
    """Rows that wait for later passes, in large blocks: memory given back in small pieces stays with the process."""

    def __init__(self, node: Node, device: torch.device, dtype: torch.dtype):
        self.node, self.device, self.dtype = node, device, dtype
        self.block_rows = rows_of_block(node, dtype)
        self.blocks: dict[int, Tensor] = {}

    def add(self, rows: RowRange, strip: Tensor) -> None:
        for number, block in self._blocks(rows):
            if number not in self.blocks:
                size = (1, self.node.shape[1], len(block), self.node.shape[3])
                self.blocks[number] = torch.empty(size, dtype=self.dtype, device=self.device)
            common = rows.intersection(block)
            common.slice_of(self.blocks[number], block.start).copy_(common.slice_of(strip, rows.start))

    def get(self, want: RowRange) -> Tensor:
        return _joined([want.intersection(block).slice_of(self.blocks[number], block.start)
                        for number, block in self._blocks(want)])

    def drop(self, first: int) -> None:
        for number, block in self._blocks(RowRange(0, self.node.height)):
            if block.stop <= first:
                self.blocks.pop(number, None)

    def _blocks(self, rows: RowRange) -> Iterator[tuple[int, RowRange]]:
        """Yield the blocks that hold some of these rows: their numbers, and which rows they hold."""
        for number in range(rows.start // self.block_rows, math.ceil(rows.stop / self.block_rows)):
            yield number, RowRange(number * self.block_rows, min((number + 1) * self.block_rows, self.node.height))


class DiskBand:
    """Rows that wait on disk: in a file without a name, which the system takes back even from a process that is killed.

    Raises `DiskError` when the disk is full.
    """

    def __init__(self, node: Node, dtype: torch.dtype):
        self.dtype, self.size = dtype, (node.shape[1], node.shape[3])
        self.row_bytes = node.floats * dtype.itemsize
        self.dropped = 0
        with _disk_faults():
            self.file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115, it lives as long as the band

    def add(self, rows: RowRange, strip: Tensor) -> None:
        self.dropped = min(self.dropped, rows.start)  # a later pass may make them again
        content = strip[0].transpose(0, 1).to("cpu", self.dtype).contiguous()
        self._transfer(os.pwrite, content, rows.start)

    def get(self, want: RowRange) -> Tensor:
        content = torch.empty((len(want), *self.size), dtype=self.dtype)
        self._transfer(lambda descriptor, left, at: os.preadv(descriptor, [left], at), content, want.start)
        return content.transpose(0, 1)[None]

    def drop(self, first: int) -> None:
        _give_back(self.file.fileno(), self.dropped * self.row_bytes, (first - self.dropped) * self.row_bytes)
        self.dropped = first

    def _transfer(self, call: Callable[[int, memoryview, int], int], content: Tensor, row: int) -> None:
        """Write or read all of a tensor's bytes, in as many calls as the system needs (one transfers at most 2 GB)."""
        left, at = content.view(torch.uint8).numpy().reshape(-1).data, row * self.row_bytes
        with _disk_faults():
            while left:
                done = call(self.file.fileno(), left, at)
                left, at = left[done:], at + done


@contextlib.contextmanager
def _disk_faults() -> Iterator[None]:
    """Raise what the disk cannot do as `DiskError`, with the folder for temporary files."""
    try:
        yield
    except OSError as error:
        raise DiskError.of(error, Path(tempfile.gettempdir())) if is_disk_fault(error) else error from error


def _give_back(descriptor: int, offset: int, length: int) -> None:
    """Return a part of a file to the disk (Linux's hole punching); other systems get it back with the whole file."""
    fallocate = getattr(ctypes.CDLL(None), "fallocate", None) if os.name == "posix" else None
    if fallocate is not None and length > 0:
        punch_hole, keep_size = 2, 1
        fallocate(descriptor, punch_hole | keep_size, ctypes.c_int64(offset), ctypes.c_int64(length))


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def rows_of_block(node: Node, dtype: torch.dtype) -> int:
    """Return how many rows a block of 40 MB holds: glibc gives blocks above 32 MiB back as soon as they are free."""
    return max(math.ceil(40e6 / (node.floats * dtype.itemsize)), 1)


def band(node: Node, schedule: Schedule, settings: Settings, device: torch.device) -> Band | KeptBand | DiskBand:
    """Return the band for a node's rows; `device` is where the network computes."""
    if not waits(node, schedule, settings):
        return Band()
    dtype = settings.dtype or node.dtype
    if settings.place == "disk":
        return DiskBand(node, dtype)
    return KeptBand(node, torch.device("cpu") if settings.place == "host" else device, dtype)


def waits(node: Node, schedule: Schedule, settings: Settings) -> bool:
    """Whether rows of a node wait longer than for the next step: for another pass than the one that makes them, or,
    where they need not wait in the device's memory, for what was made of them at a lower resolution, as skips do."""
    if node in schedule.kept and schedule.last_read[node] > schedule.made_in[node]:
        return True
    return settings.place != "device" and not node.is_source and schedule.is_skip(node)


class WaitingBytes:
    """Counts a band's bytes without storing rows (for forecasts): those in the device's memory, and those on disk."""

    def __init__(self, node: Node, schedule: Schedule, settings: Settings, device: torch.device):
        self.node, self.waits = node, waits(node, schedule, settings)
        dtype = (settings.dtype or node.dtype) if self.waits else node.dtype
        row_bytes = node.floats * dtype.itemsize
        on_disk = self.waits and settings.place == "disk"
        elsewhere = on_disk or (self.waits and settings.place == "host" and device.type != "cpu")
        self.row_bytes, self.disk_row_bytes = 0 if elsewhere else row_bytes, row_bytes if on_disk else 0
        self.copies = elsewhere or dtype != node.dtype  # reading makes a tensor of its own
        self.block_rows = rows_of_block(node, dtype) if self.waits else 0
        self.strips: deque[RowRange] = deque()
        self.num_rows = 0

    @property
    def bytes(self) -> int:
        return self.num_rows * self.row_bytes

    @property
    def disk_bytes(self) -> int:
        return self.num_rows * self.disk_row_bytes

    def add(self, rows: RowRange) -> None:
        if self.block_rows == 0:
            self.strips.append(rows)
        elif not self.strips or rows.stop > self.strips[-1].stop:  # as many blocks as hold them
            first = self.strips[-1].stop if self.strips else 0
            for start in range(first, rows.stop, self.block_rows):
                self.strips.append(RowRange(start, min(start + self.block_rows, self.node.height)))
        self.num_rows = sum(map(len, self.strips))

    def drop(self, first: int) -> None:
        while self.strips and self.strips[0].stop <= first:
            self.strips.popleft()
        self.num_rows = sum(map(len, self.strips))

    def has_in_one(self, want: RowRange) -> bool:
        """Whether reading rows takes no copy of them."""
        return not self.copies and any(rows.start <= want.start and want.stop <= rows.stop for rows in self.strips)
