"""The batches of a training: what one process meets while it loads its share, all processes hear of, between two steps.

So a file that cannot be read, workers that are lost, and a signal that comes while a batch is waited for, end no
process alone: all of them can save what they have before the training ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Literal

from accelerate import Accelerator
from accelerate.utils import gather_object

from translate.agreement import in_any_process
from translate.data import Batch, batches
from translate.data.loading import check_share, workers_for
from translate.data.samples import Samples
from translate.errors import Stopped, TranslateError
from translate.host.signals import StopAsked, StopRequest
from translate.recipe import Stage
from translate.runs.folder import resume_command

FLOAT_BYTES = 4


class Supply:
    """Fetches batches, and counts the files that others were taken for. Every process calls all methods alike."""

    def __init__(self, samples: Samples, workers: int | Literal["auto"], accelerator: Accelerator,
                 tell: Callable[[str], None]):
        """Load `samples` by so many workers for each process. `tell` is told of each file that cannot be read, once."""
        self.samples, self.workers, self.accelerator, self.tell = samples, workers, accelerator, tell
        self.num_files = len({*samples.files_a, *samples.files_b})
        self.unreadable: set[str] = set()
        self.stop = StopRequest()
        self.is_stopping = False  # whether a signal has asked any process to stop, as far as `next` has heard

    def stream(self, stage: Stage, seed: int, start: int, num_images: int) -> Generator[Batch, None, None]:
        """Return this process's share of the next `num_images` images of a stage, `start` being the first of the run.

        `seed` is what the order of the data and all chance of its samples is drawn from.
        """
        accelerator, channels = self.accelerator, self.samples.num_planes
        batch_bytes = stage.batch_size // accelerator.num_processes * math.prod(stage.size) * channels * FLOAT_BYTES
        return batches(self.samples, seed=seed, start=start, stop=start + num_images, batch_size=stage.batch_size,
                       rank=accelerator.process_index, world=accelerator.num_processes,
                       workers=workers_for(self.workers, accelerator.device, accelerator.num_processes, batch_bytes),
                       size=stage.size, resize=stage.resize, pin_memory=accelerator.device.type == "cuda")

    def next(self, stream: Iterator[Batch]) -> Batch | None:
        """Return the next batch; None where the stream ends, or a signal asks to stop before it is there.

        Raises `TranslateError` in all processes where one of them cannot have its share, and `DataError` where too many
        files cannot be read.
        """
        batch: Batch | None = None

        def fetch() -> None:
            nonlocal batch
            with self.stop.ending_waits():
                batch = next(stream, None)

        self.together(fetch, lambda: [] if batch is None else [
            error for error in batch.unreadable if place_of(error) not in self.unreadable])
        return None if self.is_stopping else batch

    def together(self, read: Callable[[], object], unreadable: Callable[[], list[TranslateError]] = list) -> None:
        """Call `read` in all processes; raise in all of them the `TranslateError` of one.

        `unreadable` tells what `read` could not read and did without.
        """
        fault: TranslateError | None = None
        try:
            read()
        except StopAsked:
            pass
        except TranslateError as error:
            fault = error

        # Nearly always there is nothing to tell: one flag, and no objects, goes round.
        new = unreadable()
        if not in_any_process(fault is not None or bool(new) or bool(self.stop), self.accelerator):
            return
        told = gather_object([(fault, new, bool(self.stop))])
        self.is_stopping = self.is_stopping or any(stopping for _, _, stopping in told)
        fault = next((fault for fault, _, _ in told if fault is not None), None)
        if fault is not None:
            raise fault
        for errors in (errors for _, errors, _ in told):
            for each in errors:
                self._count(each)

    def stopped(self, num_images: int, run: Path) -> Stopped:
        """Return the error that ends a run, which is saved, after a signal."""
        return Stopped(f"stopped by {self.stop.name} at {num_images:,} images; everything is saved. "
                       f"Continue with: {resume_command(run, self.accelerator.num_processes)}")

    def _count(self, error: TranslateError) -> None:
        """Count a file that cannot be read. Raises `DataError` where there are too many."""
        if place_of(error) in self.unreadable:
            return
        self.unreadable.add(place_of(error))
        self.tell(f"another image is taken for one that cannot be read ({len(self.unreadable):,} of "
                  f"{self.num_files:,} files so far): {place_of(error)}: {error.what}")
        check_share(self.unreadable, self.num_files, place_of(error))


def place_of(error: TranslateError) -> str:
    """Return the file that an error is about."""
    return str(error.path)
