"""A conversion on a Ray cluster: paths go to workers that hold the generator, and what became of each comes back.

A worker is an actor with a GPU, or with a number of cores where the cluster has none; there are as many as fit on the
nodes that are there just now. Files are dealt out while the work goes on, the largest first, in bundles that become
smaller towards the end, so that all workers end together. What a worker was given that died goes to another one; Ray
tells that it died, and the ledger, which each worker has one of, tells the others what it had finished.

Pixels never go through Ray: every node must see the source and the output folder under the same paths.
"""

from __future__ import annotations

import heapq
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from translate.convert.converter import Converter
from translate.convert.jobs import Job
from translate.convert.ledger import Entry, Ledger
from translate.convert.saving import Options
from translate.convert.translating import Translating
from translate.convert.workers import workers_by_cores
from translate.errors import DiskError, ImageError, MissingExtra, NetworkError, TranslateError, UsageError
from translate.images.decoding import inspect

T = TypeVar("T")
CORES_FOR_EACH = 4  # of a worker, where there are no GPUs and its nodes have as many
NUM_AHEAD = 4096  # jobs whose sizes are known, of which the largest comes next
NUM_MEASURED = 64  # jobs that are measured at once
BUNDLE_PIXELS = 64_000_000  # at most, of files that are translated one after the other without asking again
IN_HAND = 2  # bundles a worker has, so that it never waits for the next
MOST_DEATHS = 3  # of workers that had one file in hand, alone: it is the file
SECONDS_TO_WAIT = 0.2  # for Ray to answer, until signals are looked at
SECONDS_BETWEEN_COUNTS = 2.0  # of what the cluster has
SECONDS_FOR_THE_FIRST = 600.0  # until a first worker is ready: loading torch from a shared disk takes long


@dataclass(frozen=True)
class Plan:
    """What a worker needs to know, besides which files."""

    make: Callable[[], Translating]
    out: Path | None  # the folder with the ledgers; None: without
    options: Options


class Worker:
    """Translates bundles of files on one node; an actor."""

    def __init__(self, plan: Plan, cores: int, on_this_node: int):
        import torch

        os.environ["LOCAL_WORLD_SIZE"] = str(on_this_node)  # each takes its part of memory and cores
        torch.set_num_threads(cores)
        self.stopped = StopFlag()
        self.warnings: list[str] = []
        ledger = Ledger(plan.out)
        if not plan.options.dry_run:
            ledger.open()
        options = replace(plan.options, workers=workers_by_cores() if plan.options.workers < 0 else
                          plan.options.workers)
        self.converter = Converter(plan.make(), ledger, options, self.warnings.append)

    def ready(self) -> None:
        """Return once the generator is there."""

    def measure(self, jobs: Sequence[Job]) -> list[int]:
        """Return the pixels of each file."""
        return [pixels_of(job) for job in jobs]

    def translate(self, jobs: Sequence[Job]) -> tuple[list[Entry], int, list[str]]:
        """Translate files until it is stopped; return what became of each, how many were of another scale, warnings."""
        before = self.converter.num_outside
        with closing(self.converter.run(jobs, self.stopped)) as entries:
            made = list(entries)
        warnings, self.warnings[:] = list(self.warnings), []
        return made, self.converter.num_outside - before, warnings

    def stop(self) -> None:
        """End after the file in hand."""
        self.stopped.asked = True


@dataclass
class StopFlag:
    """True once it is asked for."""

    asked: bool = False

    def __bool__(self) -> bool:
        return self.asked


def pixels_of(job: Job) -> int:
    """Return the pixels of a job's file by its head, at least 1."""
    if job.fault is None:
        with suppress(ImageError, MissingExtra):
            info = inspect(job.source)
            return max(1, info.height * info.width * max(1, info.frames))
    return 1


@dataclass
class Bundle:
    """Files that go to a worker together; `deaths` of workers that had them."""

    jobs: list[Job]
    pixels: int
    deaths: int = 0


@dataclass
class Handle:
    """A worker as its scheduler sees it: what it has in hand, by what Ray will answer. Not ready: it may never come."""

    actor: Any
    is_ready: bool = False
    tasks: dict[Any, Bundle | None] = field(default_factory=dict)  # None: getting ready


class RayEngine:
    """A connection to a Ray cluster, on which `run` has files translated. Use it as a context."""

    def __init__(self, address: str, cores: int | None = None):
        """Connect to `ray` (the cluster that is here, else one of this machine alone) or `ray://HOST:PORT`.

        cores   of each worker where there are no GPUs

        Raises `MissingExtra`, `UsageError` and `NetworkError`.
        """
        try:
            import ray
        except ImportError:
            raise MissingExtra("ray", "ray", "--engine ray") from None
        if address != "ray" and not address.startswith("ray://"):
            raise UsageError(f"--engine {address}: expected ray, or ray://HOST:PORT")
        self.ray: Any = ray
        self.cores = cores
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        try:
            self.ray.init(**({} if address == "ray" else {"address": address}), **options)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise NetworkError(f"no Ray cluster answers ({str(error).splitlines()[0]})", address, "start one with "
                               "ray start --head; ray://HOST:10001 is its port for clients") from error
        self.num_outside = 0

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.ray.shutdown()

    def run(self, jobs: Sequence[Job], plan: Plan, stop: object,
            warn: Callable[[str], None] = lambda line: None) -> Generator[Entry, None, None]:
        """Have files translated, and yield what became of each as it comes. Raises what a worker cannot go on from."""
        try:
            held = self.ray.put(plan)
        except Exception as error:  # pickle raises what it likes
            why = (str(error).splitlines() or [""])[0]
            raise UsageError(f"--engine ray: this model cannot be sent to other processes ({why})",
                             advice="convert without --engine, with --shard auto on each machine") from error
        scheduler = Scheduler(self, jobs, held, stop)
        warned: set[str] = set()
        try:
            for entries, num_outside, warnings in scheduler.results():
                self.num_outside += num_outside
                for line in warnings:
                    if line not in warned:
                        warn(line)
                    warned.add(line)
                yield from entries
        finally:
            scheduler.kill_workers()


class Scheduler:
    """Deals files out to workers, and hires others for those that are gone."""

    def __init__(self, engine: RayEngine, jobs: Sequence[Job], plan: Any, stop: object):
        self.engine, self.ray, self.plan, self.stop = engine, engine.ray, plan, stop
        self.unmeasured: Iterator[list[Job]] = parts_of(jobs, NUM_MEASURED)
        self.heap: list[tuple[int, int, Job]] = []  # the largest first
        self.returned: deque[Bundle] = deque()  # of workers that died
        self.pixels = 0  # of the heap
        self.num_pushed, self.num_left = 0, len(jobs)
        self.workers: list[Handle] = []
        self.measuring: dict[Any, list[Job]] = {}
        self.counted_at, self.first_at, self.was_ready, self.failed_starts = 0.0, time.monotonic(), False, 0
        # It translates one bundle at a time, and meanwhile measures files, or is told to stop.
        self.remote_worker = self.ray.remote(max_restarts=0, concurrency_groups={"beside": 1})(Worker)

    def results(self) -> Iterator[tuple[list[Entry], int, list[str]]]:
        """Yield what each bundle came to, until all files are done or, once stopped, nothing is in hand."""
        told = False
        while self.num_left:
            if self.stop and not told:
                told = True
                for worker in self.workers:
                    worker.actor.stop.options(concurrency_group="beside").remote()
            if not self.stop:
                self._add_workers()
                self._measure()
                self._deal()
            waiting = [task for worker in self.workers if worker.is_ready or not self.stop for task in worker.tasks]
            waiting += [] if self.stop else list(self.measuring)
            if not waiting:
                if self.stop:
                    return
                time.sleep(SECONDS_TO_WAIT)  # for a node
                continue
            done, _ = self.ray.wait(waiting, timeout=SECONDS_TO_WAIT)
            for task in done:
                if task in self.measuring:
                    self._take_measures(task)
                else:
                    yield from self._take(task)

    def kill_workers(self) -> None:
        """Let all workers go."""
        for worker in self.workers:
            with suppress(Exception):
                self.ray.kill(worker.actor)

    def _add_workers(self) -> None:
        """Have as many workers as fit on the nodes that are there."""
        now = time.monotonic()
        if now - self.counted_at < SECONDS_BETWEEN_COUNTS:
            return
        self.counted_at = now
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        gpus = sum(int(node.get("GPU", 0)) for node in nodes)
        largest = int(max((node.get("CPU", 0) for node in nodes), default=0))
        cores = min(self.engine.cores or CORES_FOR_EACH, largest) or 1
        places = [int(node.get("GPU", 0)) if gpus else int(node.get("CPU", 0)) // cores for node in nodes]
        share = {"num_gpus": 1} if gpus else {"num_cpus": cores}
        for _ in range(min(sum(places), self.num_left) - len(self.workers)):
            actor = self.remote_worker.options(**share).remote(self.plan, cores, max(places))
            self.workers.append(Handle(actor, tasks={actor.ready.remote(): None}))
        if not self.was_ready and now - self.first_at > SECONDS_FOR_THE_FIRST:
            raise NetworkError("no worker has started on the Ray cluster", advice="see `ray status`: its nodes need a "
                               "free GPU, or free cores, and this package")

    def _measure(self) -> None:
        """Have workers read the sizes of files that come next, beside their work."""
        ready = [worker for worker in self.workers if worker.is_ready]
        while len(self.measuring) < len(ready) and len(self.heap) + NUM_MEASURED * len(self.measuring) < NUM_AHEAD:
            jobs = next(self.unmeasured, None)
            if jobs is None:
                return
            measure = ready[len(self.measuring)].actor.measure.options(concurrency_group="beside")
            self.measuring[measure.remote(jobs)] = jobs

    def _take_measures(self, task: Any) -> None:
        jobs = self.measuring.pop(task)
        try:
            sizes = self.ray.get(task)
        except self.ray.exceptions.RayError:  # whoever translates them will tell
            sizes = [1] * len(jobs)
        for pixels, job in zip(sizes, jobs, strict=True):
            self.num_pushed += 1
            heapq.heappush(self.heap, (-pixels, self.num_pushed, job))
            self.pixels += pixels

    def _deal(self) -> None:
        """Give every worker that is ready its next bundle."""
        if self.measuring and len(self.heap) < NUM_AHEAD // 2:
            return  # the largest may be among these
        ready = [worker for worker in self.workers if worker.is_ready]
        for number in range(IN_HAND):
            for worker in ready:
                if len(worker.tasks) == number and (bundle := self._next_bundle(len(self.workers))) is not None:
                    worker.tasks[worker.actor.translate.remote(bundle.jobs)] = bundle

    def _next_bundle(self, num_workers: int) -> Bundle | None:
        """Take the largest files that are left, as many as leave enough for all others to end at the same time."""
        if self.returned:
            return self.returned.popleft()
        bundle = Bundle([], 0)
        enough = min(BUNDLE_PIXELS, self.pixels // (2 * IN_HAND * num_workers))
        while self.heap and (not bundle.jobs or bundle.pixels - self.heap[0][0] <= enough):
            pixels, _, job = heapq.heappop(self.heap)
            bundle.jobs.append(job)
            bundle.pixels -= pixels
        self.pixels -= bundle.pixels
        return bundle if bundle.jobs else None

    def _take(self, task: Any) -> Iterator[tuple[list[Entry], int, list[str]]]:
        """Take what a worker brings; where it died, its bundles go to others."""
        worker = next((worker for worker in self.workers if task in worker.tasks), None)
        if worker is None:  # it has died, and its bundles are others' by now
            return
        try:
            result = self.ray.get(task)
        except self.ray.exceptions.RayTaskError as error:  # what it raised, such as a full disk
            cause = error.cause
            raise cause if isinstance(cause, TranslateError) else DiskError(str(cause)) from error
        except self.ray.exceptions.RayError as error:
            yield from self._requeue(worker, error)
            return
        bundle = worker.tasks.pop(task)
        if bundle is None:
            worker.is_ready = self.was_ready = True
            self.failed_starts = 0
            return
        self.num_left -= len(result[0])
        yield result

    def _requeue(self, worker: Handle, error: Exception) -> Iterator[tuple[list[Entry], int, list[str]]]:
        """Give to others what a worker had that died; a file that has killed several, alone, is named."""
        self.workers.remove(worker)
        self.counted_at = 0.0
        with suppress(Exception):
            self.ray.kill(worker.actor)
        self.failed_starts += not worker.is_ready
        if self.failed_starts == MOST_DEATHS:
            why = str(error).strip().splitlines()[-1]
            raise NetworkError(f"{MOST_DEATHS} workers in a row have not started: {why}")
        for number, bundle in enumerate(filter(None, worker.tasks.values())):
            bundle.deaths += number == 0  # the others waited
            if len(bundle.jobs) == 1 and bundle.deaths >= MOST_DEATHS:
                job = bundle.jobs[0]
                self.num_left -= 1
                what = f"{MOST_DEATHS} workers have died with it in hand"
                yield [Entry.failure(job, "convert", type(error).__name__, what)], 0, []
            else:
                alone = len(bundle.jobs) == 1
                self.returned.extend(Bundle([job], 1, bundle.deaths if alone else 0) for job in bundle.jobs)


def parts_of(items: Sequence[T], num: int) -> Iterator[list[T]]:
    """Yield so many items at a time."""
    for start in range(0, len(items), num):
        yield list(items[start:start + num])
