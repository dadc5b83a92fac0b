"""Translating files: a folder in, the same tree and names out, interrupted and resumed as often as need be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from translate.convert.converter import Converter, choose_device, remove_leftovers
from translate.convert.jobs import plan_jobs
from translate.convert.ledger import LEDGER, Ledger, Row
from translate.data.decoding import MAX_PIXELS
from translate.precision import choose_precision
from translate.release import Release
from translate.signals import minding_signals

__all__ = ["LEDGER", "Row", "Summary", "convert"]


@dataclass
class Summary:
    """What became of all files."""

    total: int  # images found
    converted: int = 0
    already: int = 0  # done by an earlier run
    failed: list[Row] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # files that are no images by their suffix, hidden ones among them
    stopped: bool = False  # by a signal, with files left to do

    @property
    def exit_code(self) -> int:
        """0 all, 3 some, 4 none of the images are translated, 75 stopped and resumable."""
        if self.stopped:
            return 75
        if not self.failed:
            return 0
        return 3 if self.converted or self.already else 4

    def count(self, row: Row) -> None:
        self.converted += row.status == "done"
        self.already += row.status == "already"
        if row.status == "failed":
            self.failed.append(row)


def convert(source: Path, out: Path, release: Release, *, device: str = "auto",
            precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto", overwrite: bool = False,
            max_pixels: int = MAX_PIXELS, memory: str | None = None,
            on_progress: Callable[[Row, int, int], None] | None = None) -> Summary:
    """Translate an image, or every image below a folder, into `out`; go on where an earlier call was interrupted.

    A suffix is kept where its format can hold the output, else it becomes .png (.tif for floats and many channels);
    where another file claims that name, it is added to the whole name (x.gif beside x.png → x.gif.png). Outputs have
    the size of their inputs seen upright; alpha, ICC profile, EXIF and resolution go along where the format holds
    them. `source` may be a file; then `out` may be a file too, and no ledger is written.

    Files already done are left alone unless `overwrite`. A file at an output's place that this folder's ledger does not
    know is left alone as well, and reported, unless `overwrite`. `auto` computes outputs of 8 bits in the device's
    fast format, deeper ones in fp32. `memory` (such as "2GB") bounds what translating an image takes beyond the
    image itself: exact strips, somewhat slower. `on_progress(row, number, total)` is called after each file.

    A file that cannot be translated is a row of the summary. Raises `UsageError` for words that do not fit together and
    for a source without images, `DiskError` when the output disk is full or read-only: nothing more could be done.
    SIGINT and SIGTERM end the call after the file in hand.
    """
    jobs, skipped = plan_jobs(source, out, release.image_out)
    where = choose_device(device)
    if precision == "auto" and release.image_out.bits != 8:
        precision = "fp32"
    converter = Converter(release, where, choose_precision(precision, where), max_pixels, memory, overwrite,
                          Ledger(None if source.is_file() and jobs[0].output == out else out / LEDGER))
    remove_leftovers({job.output.parent for job in jobs})
    summary = Summary(len(jobs), skipped=skipped)
    with minding_signals() as stop:
        for number, job in enumerate(jobs, 1):
            if stop:
                summary.stopped = True
                break
            row = converter.run(job)
            summary.count(row)
            if on_progress is not None:
                on_progress(row, number, len(jobs))
    return summary
