"""Which worker of a Ray cluster does what next.

A worker is an actor with a GPU, or with a number of cores where the cluster has none; there are as many as fit on the
nodes that are there just now. Items are dealt out while the work goes on, the largest first, in bundles that become
smaller towards the end, so that all workers end together. What a worker was given that died goes to another one, of
which Ray tells.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from translate.errors import DiskError, NetworkError

CORES_FOR_EACH = 4  # of a worker, where there are no GPUs and its nodes have as many
NUM_AHEAD = 4096  # items whose sizes are known, of which the largest comes next
NUM_MEASURED = 64  # items that are measured at once
BUNDLE_PIXELS, BUNDLE_ITEMS = 64_000_000, 1024  # at most, that are done one after the other without asking again
IN_HAND = 2  # bundles a worker has, so that it never waits for the next
MOST_DEATHS = 3  # of workers that had one item in hand, alone: it is the item
SECONDS_TO_WAIT = 0.2  # for Ray to answer, until signals are looked at
SECONDS_BETWEEN_COUNTS = 2.0  # of what the cluster has
SECONDS_FOR_THE_FIRST = 600.0  # until a first worker is ready: loading torch from a shared disk takes long


@dataclass
class Bundle:
    """Items that go to a worker together; `deaths` of workers that had them."""

    items: list[Any]
    pixels: int
    deaths: int = 0


@dataclass
class Handle:
    """A worker as its scheduler sees it: what it has in hand, by what Ray will answer. Not ready: it may never come."""

    actor: Any
    is_ready: bool = False
    tasks: dict[Any, Bundle | None] = field(default_factory=dict)  # None: getting ready


class Scheduler:
    """Deals items out to workers, and hires others for those that are gone."""

    def __init__(self, ray: Any, worker: type, make: Any, cores: int | None, data: str, items: Sequence[Any],
                 stop: object, lost: Callable[[Any, str, str], Any]):
        """
        ray      the library, connected
        worker   the class of the actors, `translate.cluster.ray_engine.Worker`
        make     what they make their task by, as an object of Ray
        cores    of each worker where there are no GPUs; None: `CORES_FOR_EACH`
        data     the folder of prepared data sets, on every node

        For the others see `RayEngine.run`.
        """
        self.ray, self.make, self.cores, self.data, self.stop, self.lost = ray, make, cores, data, stop, lost
        self.unmeasured: Iterator[list[Any]] = parts_of(items, NUM_MEASURED)
        self.heap: list[tuple[int, int, Any]] = []  # the largest first
        self.returned: deque[Bundle] = deque()  # of workers that died
        self.pixels = 0  # of the heap
        self.num_pushed, self.num_left = 0, len(items)
        self.workers: list[Handle] = []
        self.measuring: dict[Any, list[Any]] = {}
        self.counted_at, self.first_at, self.was_ready, self.failed_starts = 0.0, time.monotonic(), False, 0
        # It does one bundle at a time, and meanwhile measures items, or is told to stop.
        self.remote_worker = self.ray.remote(max_restarts=0, concurrency_groups={"beside": 1})(worker)

    def results(self) -> Iterator[tuple[list[Any], Any]]:
        """Yield what each bundle came to, until all items are done or, once stopped, nothing is in hand."""
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
        cores = min(self.cores or CORES_FOR_EACH, largest) or 1
        places = [int(node.get("GPU", 0)) if gpus else int(node.get("CPU", 0)) // cores for node in nodes]
        share = {"num_gpus": 1} if gpus else {"num_cpus": cores}
        for _ in range(min(sum(places), self.num_left) - len(self.workers)):
            actor = self.remote_worker.options(**share).remote(self.make, cores, max(places), self.data)
            self.workers.append(Handle(actor, tasks={actor.ready.remote(): None}))
        if not self.was_ready and now - self.first_at > SECONDS_FOR_THE_FIRST:
            raise NetworkError("no worker has started on the Ray cluster", advice="see `ray status`: its nodes need a "
                               "free GPU, or free cores, and this package")

    def _measure(self) -> None:
        """Have workers find the sizes of items that come next, beside their work."""
        ready = [worker for worker in self.workers if worker.is_ready]
        while len(self.measuring) < len(ready) and len(self.heap) + NUM_MEASURED * len(self.measuring) < NUM_AHEAD:
            items = next(self.unmeasured, None)
            if items is None:
                return
            sizes = ready[len(self.measuring)].actor.sizes.options(concurrency_group="beside")
            self.measuring[sizes.remote(items)] = items

    def _take_measures(self, task: Any) -> None:
        items = self.measuring.pop(task)
        try:
            sizes = self.ray.get(task)
        except self.ray.exceptions.RayError:  # whoever does them will tell
            sizes = [1] * len(items)
        for pixels, item in zip(sizes, items, strict=True):
            self.num_pushed += 1
            heapq.heappush(self.heap, (-pixels, self.num_pushed, item))
            self.pixels += pixels

    def _deal(self) -> None:
        """Give every worker that is ready its next bundle."""
        if self.measuring and len(self.heap) < NUM_AHEAD // 2:
            return  # the largest may be among these
        ready = [worker for worker in self.workers if worker.is_ready]
        for number in range(IN_HAND):
            for worker in ready:
                if len(worker.tasks) == number and (bundle := self._next_bundle(len(self.workers))) is not None:
                    worker.tasks[worker.actor.do.remote(bundle.items)] = bundle

    def _next_bundle(self, num_workers: int) -> Bundle | None:
        """Take the largest items that are left, as many as leave enough for all others to end at the same time."""
        if self.returned:
            return self.returned.popleft()
        bundle = Bundle([], 0)
        enough = min(BUNDLE_PIXELS, self.pixels // (2 * IN_HAND * num_workers))
        while self.heap and len(bundle.items) < BUNDLE_ITEMS and (
                not bundle.items or bundle.pixels - self.heap[0][0] <= enough):
            pixels, _, item = heapq.heappop(self.heap)
            bundle.items.append(item)
            bundle.pixels -= pixels
        self.pixels -= bundle.pixels
        return bundle if bundle.items else None

    def _take(self, task: Any) -> Iterator[tuple[list[Any], Any]]:
        """Take what a worker brings; where it died, its bundles go to others."""
        worker = next((worker for worker in self.workers if task in worker.tasks), None)
        if worker is None:  # it has died, and its bundles are others' by now
            return
        try:
            result = self.ray.get(task)
        except self.ray.exceptions.RayTaskError as error:  # what it raised, such as a full disk
            cause = error.cause
            raise DiskError(str(cause)) if isinstance(cause, OSError) else cause from error
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

    def _requeue(self, worker: Handle, error: Exception) -> Iterator[tuple[list[Any], Any]]:
        """Give to others what a worker had that died; an item that has killed several, alone, is lost."""
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
            if len(bundle.items) == 1 and bundle.deaths >= MOST_DEATHS:
                self.num_left -= 1
                what = f"{MOST_DEATHS} workers have died with it in hand"
                yield [self.lost(bundle.items[0], type(error).__name__, what)], None
            else:
                alone = len(bundle.items) == 1
                self.returned.extend(Bundle([item], 1, bundle.deaths if alone else 0) for item in bundle.items)


def parts_of(items: Sequence[Any], num: int) -> Iterator[list[Any]]:
    """Yield so many items at a time."""
    for start in range(0, len(items), num):
        yield list(items[start:start + num])
