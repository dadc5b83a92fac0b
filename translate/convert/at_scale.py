"""What a conversion of many images on many machines will take: by a few of them, converted here and now."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from translate.convert.converter import Converter
from translate.convert.jobs import Job, Naming, plan_jobs
from translate.convert.ledger import Entry, Ledger
from translate.convert.saving import Options
from translate.convert.translating import Precision, Translating
from translate.errors import DataError
from translate.host.cores import num_cores
from translate.images.decoder_process import read_file
from translate.images.pictures import MAX_PIXELS
from translate.runs.release import Release
from translate.sizes import format_bytes, format_duration

NUM_TRIED = 8  # images, and one before them that is not counted: it loads libraries


@dataclass(frozen=True)
class ConversionPlan:
    """A conversion of `num_images` on `num_nodes` machines like this one, each of `cores` and `gpus`.

    Seconds and bytes are of an image, as the mean of `num_tried`: reading and writing on one core each, translating on
    a GPU or, without any, on all cores. What is read and written by rows counts as translating: it is alone meanwhile.
    `left_out` says of images that were tried and cannot be converted why.
    """

    num_images: int
    num_nodes: int
    num_tried: int
    cores: int
    gpus: int
    seconds_read: float
    seconds_translate: float
    seconds_write: float
    bytes_read: float
    bytes_written: float
    left_out: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """How long an image takes one machine: on a GPU the others are read and written meanwhile."""
        if self.gpus:
            return max(self.seconds_translate / self.gpus, self.seconds_files)
        return self.seconds_translate + self.seconds_files

    @property
    def seconds_files(self) -> float:
        """How long reading and writing an image takes all cores of a machine."""
        return (self.seconds_read + self.seconds_write) / self.cores

    @property
    def hours(self) -> float:
        """How long all of it takes."""
        return self.num_images * self.seconds / self.num_nodes / 3600

    @property
    def lines(self) -> list[str]:
        """The plan in words."""
        translating = self.seconds_translate / max(self.gpus, 1)
        parts = {"translating": translating, "reading and decoding": self.seconds_read / self.cores,
                 "encoding and writing": self.seconds_write / self.cores}
        bottleneck = max(parts, key=lambda name: parts[name])
        rate = self.num_nodes / self.seconds
        has = f"{self.gpus} GPUs and {self.cores} cores" if self.gpus else f"{self.cores} cores"
        return [
            f"{self.num_images:,} images on {self.num_nodes} machines like this one ({has}): about "
            f"{format_duration(3600 * self.hours)}, by {self.num_tried} images converted here",
            *self._left_out_lines,
            "an image, of one machine: " + ", ".join(f"{name} {1000 * each:.1f} ms" for name, each in parts.items()),
            f"read {format_bytes(self.num_images * self.bytes_read)}, written "
            f"{format_bytes(self.num_images * self.bytes_written)}: the storage has to give "
            f"{format_bytes(rate * self.bytes_read)}/s and to take {format_bytes(rate * self.bytes_written)}/s",
            f"bottleneck: {bottleneck}; a slower storage than that is one before it"]


    @property
    def _left_out_lines(self) -> list[str]:
        tried = self.num_tried + len(self.left_out)
        return [f"{len(self.left_out)} of {tried} images that were tried cannot be converted, and are not counted: "
                f"{self.left_out[0]}"] if self.left_out else []


def plan_conversion(release: Release, folder: Path, num_images: int, num_nodes: int, device: str = "auto",
                    precision: Precision = "auto") -> ConversionPlan:
    """Convert a few images of a folder into a temporary one, and return what many will take.

    Raises `DataError` where none can be converted, and what `plan_jobs` raises.
    """
    with tempfile.TemporaryDirectory(prefix="translate-") as out:
        jobs, _ = plan_jobs(folder, Path(out), Naming(release.image_out))
        tried = jobs[::max(1, len(jobs) // NUM_TRIED)][:NUM_TRIED]
        converter = Converter(Translating.with_release(release, device, precision), Ledger(None),
                              Options(max_pixels=MAX_PIXELS))
        measured(converter, tried[0])
        found = [measured(converter, job) for job in tried]
        times = [each for each in found if not isinstance(each, Entry)]
        failed = tuple(str(each) for each in found if isinstance(each, Entry))
        if not times:
            raise DataError(f"none of the {len(failed)} images that were tried can be converted: {failed[0]}", folder)
        means = [sum(column) / len(times) for column in zip(*times, strict=True)]
    on_cuda = converter.translating.device.type == "cuda"
    plan = ConversionPlan(num_images, num_nodes, len(times), num_cores(), torch.cuda.device_count() if on_cuda else 0,
                          *means)
    return replace(plan, left_out=failed)


def measured(converter: Converter, job: Job) -> Sequence[float] | Entry:
    """Return (seconds to read, to translate, to write; bytes read, written) of one file, or why it has none."""
    started = time.perf_counter()
    read = converter.read(job, read_file)
    if isinstance(read, Entry):
        return read
    was_read = time.perf_counter()
    if read.picture is None or read.image is None:  # by rows
        entry = converter.translate_now(read)
        translated = time.perf_counter()
    else:
        height, width, _ = read.picture.pixels.shape
        made = converter.translating.translate(read.image, job.source, (height, width))
        translated = time.perf_counter()
        entry = converter.saving.write(read, read.picture, lambda: made)
    written = time.perf_counter()
    if entry.status != "done":
        return entry
    size = job.output.stat().st_size
    job.output.unlink()
    return was_read - started, translated - was_read, written - translated, job.source.stat().st_size, size
