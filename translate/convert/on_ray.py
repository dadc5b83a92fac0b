"""A conversion on a Ray cluster: paths go to workers that hold the generator, and the entry of each file comes back.

Each worker has a ledger of its own, which tells the others what it had finished.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from translate.cluster.ray_engine import RayEngine
from translate.convert.converter import Converter
from translate.convert.jobs import Job
from translate.convert.ledger import Entry, Ledger
from translate.convert.saving import Options
from translate.convert.translating import Translating
from translate.convert.workers import workers_by_cores
from translate.errors import ImageError, MissingExtra
from translate.images.decoding import inspect


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs to know, besides which files."""

    make: Callable[[], Translating]
    out: Path | None  # the folder with the ledgers; None: without
    source: str | None  # the folder that is translated, where its outputs are told from those of others
    options: Options


class Conversion:
    """What a worker does: files translated by a converter of its own."""

    def __init__(self, setup: WorkerSetup):
        self.warnings: list[str] = []
        ledger = Ledger(setup.out, source=setup.source)
        if not setup.options.dry_run:
            ledger.open()
        options = replace(setup.options, workers=workers_by_cores() if setup.options.workers < 0 else
                          setup.options.workers)
        self.converter = Converter(setup.make(), ledger, options, self.warnings.append)

    def sizes(self, jobs: Sequence[Job]) -> list[int]:
        """Return the pixels of each file."""
        return [pixels_of(job) for job in jobs]

    def do(self, jobs: Sequence[Job], stop: object) -> tuple[list[Entry], tuple[int, list[str]]]:
        """Translate files; return what became of each, and how many were of another scale, and warnings."""
        before = self.converter.num_outside
        with closing(self.converter.run(jobs, stop)) as entries:
            made = list(entries)
        warnings, self.warnings[:] = list(self.warnings), []
        return made, (self.converter.num_outside - before, warnings)


class OnRay:
    """A cluster in the place of a converter."""

    def __init__(self, engine: RayEngine, setup: WorkerSetup, warn: Callable[[str], None]):
        self.engine, self.setup, self.warn = engine, setup, warn
        self.num_outside = 0  # images translated at another scale than the model knows

    def run(self, jobs: Sequence[Job], stop: object) -> Generator[Entry, None, None]:
        """Have files translated, and yield what became of each as it comes. Raises what a worker cannot go on from."""
        warned: set[str] = set()
        with closing(self.engine.run(jobs, partial(Conversion, self.setup), stop, killer,
                                     ", and use --shard auto on each machine")) as parts:
            for entries, told in parts:
                num_outside, warnings = told or (0, [])
                self.num_outside += num_outside
                for line in warnings:
                    if line not in warned:
                        self.warn(line)
                    warned.add(line)
                yield from entries


def killer(job: Job, error: str, what: str) -> Entry:
    """Return the entry of a file with which workers have died."""
    return Entry.failure(job, "convert", error, what)


def pixels_of(job: Job) -> int:
    """Return the pixels of a job's file by its head, at least 1."""
    if job.fault is None:
        with suppress(ImageError, MissingExtra):
            info = inspect(job.source)
            return max(1, info.height * info.width * max(1, info.frames))
    return 1
