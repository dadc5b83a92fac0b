"""Samples loaded one by one, in this process or in workers, so that what goes wrong says which file is to blame.

torch's `DataLoader` alone hangs at an exception that cannot be pickled, ends an epoch in silence at a `StopIteration`,
and loses its workers to a signal that was sent to the whole process group, before the parent has saved anything. Of a
worker that has died it tells in the middle of whatever the main thread does, such as a step, which can then neither be
finished nor saved. `load` does none of this, and leaves no worker behind.
"""

from __future__ import annotations

import functools
import math
import multiprocessing
import os
import shutil
import signal
import threading
import time
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from translate.data.transforms import use_one_thread
from translate.errors import RECIPE_PLACEHOLDER, DataError, ImageError, TranslateError
from translate.host.cores import cores_for_each

FOR_THE_PARENT = (signal.SIGINT, signal.SIGTERM)
TIMEOUT_SECONDS = 600.0
SECONDS_TO_HEAR_OF_A_DEATH = 1.0
CHECK_ALL = f"`translate data check {RECIPE_PLACEHOLDER}` finds all files that cannot be used"
OR_SKIP = f"{CHECK_ALL}, and data.on_unreadable: skip goes on without them"
UNREADABLE_SHARE = 0.05  # of the files of a split: more of them are no accident, and the data would be others
MOST_ON_CPU, MOST_FOR_A_GPU = 2, 8  # workers of `auto`
SHARED_MEMORY = Path("/dev/shm")
WAITING_BATCHES = 2  # of each worker: what torch's loader asks for ahead
BatchType = TypeVar("BatchType")


def workers_for(asked: int | Literal["auto"], device: torch.device, num_processes: int = 1,
                batch_bytes: int = 0) -> int:
    """Return how many processes load images for each of the `num_processes` that train.

    `auto` takes the cores of each for a GPU, and half of them, two at most, where the step computes with them: none on
    a single core. Batches of `batch_bytes` wait in shared memory, of which containers often have 64 MB: where there
    would be no room, they are fewer.
    """
    if asked != "auto":
        return asked
    cores = cores_for_each(num_processes)
    if device.type == "cpu":
        return min(cores // 2, MOST_ON_CPU)
    room = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else math.inf
    fitting = room // (2 * WAITING_BATCHES * batch_bytes * num_processes) if batch_bytes else math.inf
    return int(max(1, min(cores, MOST_FOR_A_GPU, fitting)))


class Loadable(Dataset, ABC):
    """What can be loaded by number. `loader[number]` never raises, so that a worker can send what went wrong."""

    advice = CHECK_ALL  # about a file that cannot be read

    @abstractmethod
    def sample(self, number: int) -> Any:
        """Return sample `number`. May raise anything."""

    @abstractmethod
    def files_of(self, number: int) -> str:
        """Return the files that sample `number` is read from, in words."""

    def __getitem__(self, number: int) -> Any:
        """Return sample `number`, or a `Failure` that says why there is none."""
        try:
            return self.sample(number)
        except ImageError as error:
            return Failure(DataError.of(error, self.advice))
        except TranslateError as error:
            return Failure(error)
        except Exception as error:
            return Failure(DataError(f"{type(error).__name__}: {error}", self.files_of(number), CHECK_ALL))


@dataclass(frozen=True)
class Failure:
    """Why a sample could not be made; stands in its place until the parent process raises it."""

    error: TranslateError


@dataclass(frozen=True)
class Shares:
    """The sample numbers of each of this process's batches (a batch sampler)."""

    start: int
    stop: int
    batch_size: int
    rank: int = 0
    world: int = 1

    def __iter__(self) -> Iterator[range]:
        for first in range(self.start, self.stop, self.batch_size):
            share, rest = divmod(min(self.batch_size, self.stop - first), self.world)
            if rest == 0:
                yield range(first + self.rank * share, first + (self.rank + 1) * share)

    def __len__(self) -> int:
        full, rest = divmod(max(0, self.stop - self.start), self.batch_size)
        return full + (rest > 0 and rest % self.world == 0)


def load(samples: Loadable, shares: Shares, collate: Callable[[Sequence[Any]], BatchType], workers: int,
         pin_memory: bool = False, timeout: float = TIMEOUT_SECONDS) -> Generator[BatchType, None, None]:
    """Yield the batch of each share.

    samples     what is loaded, by number
    shares      which numbers make up each batch
    collate     makes a batch of its samples
    workers     how many processes load; 0: this one. They leave SIGINT and SIGTERM to the parent, so that it can save
    pin_memory  put batches into memory that a GPU can copy from without waiting
    timeout     seconds that a worker may take for a batch

    Raises `DataError` for a sample that cannot be made, naming its files, and `TranslateError` where a worker dies or
    takes longer than `timeout`. Close the iterator to end the workers early.
    """
    others = set(multiprocessing.active_children())
    loader: DataLoader = DataLoader(
        samples, batch_sampler=shares, num_workers=workers, collate_fn=functools.partial(_collated, collate),  # type: ignore[arg-type]
        prefetch_factor=WAITING_BATCHES if workers else None, timeout=timeout if workers else 0,
        pin_memory=pin_memory, worker_init_fn=_enter_worker,
        generator=torch.Generator())  # its own: else every start would draw from the generator of the training

    # Block signals while workers start: one killed before it ignores SIGTERM would hang the parent.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_PARENT)
    try:
        iterator = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    processes = set(multiprocessing.active_children()) - others

    try:
        while True:
            # Raised behind the block: an error within it would hold torch's, and with it the iterator, which then
            # could not end its workers in good order.
            lost = ""
            try:
                with DEATHS.heard():
                    batch = next(iterator, None)
            except (RuntimeError, EOFError, OSError) as error:
                if not workers:  # nobody is lost: the fault is of this process
                    raise
                lost = str(error) if isinstance(error, RuntimeError) else (
                    death_of_a_worker() or f"a worker ended while it sent a batch ({type(error).__name__})")
            if lost:
                raise lost_worker(lost)
            if batch is None:
                return
            if isinstance(batch, Failure):
                raise batch.error
            yield batch
    finally:
        # No signal may come between: Python waits at its end for workers that are left, and they ignore SIGTERM.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_PARENT)
        del iterator, loader  # ends the workers in good order
        for process in processes:
            if process.is_alive():  # one that hangs in a read: it ignores SIGTERM, and Python would wait for it
                process.kill()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Deaths:
    """Has torch tell of dead workers while a batch is waited for, and at no other time.

    torch tells from a signal handler (SIGCHLD), by a `RuntimeError`. What it has not told is asked for with the next
    batch.
    """

    def __init__(self) -> None:
        self._waiting = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Raise within the block the `RuntimeError` of a worker that dies, or has died since the last block."""
        self._take_over()
        self._waiting = True
        try:
            torch._C._error_if_any_worker_fails()
            yield
        finally:
            self._waiting = False

    def _take_over(self) -> None:
        """Stand between the signal and torch's handler, which torch installs once, with its first workers."""
        torchs = signal.getsignal(signal.SIGCHLD)
        if getattr(torchs, "__self__", None) is self or not callable(torchs):
            return
        if threading.current_thread() is threading.main_thread():
            self._torchs = torchs
            signal.signal(signal.SIGCHLD, self._hear)

    def _hear(self, number: int, frame: types.FrameType | None) -> None:
        if self._waiting:
            self._torchs(number, frame)


DEATHS = Deaths()


def check_share(unreadable: Collection[str], num_files: int, last: Path | str | None) -> None:
    """Raise `DataError` where too many of so many files cannot be read to go on without them; `last` is one of them."""
    if len(unreadable) > max(1, UNREADABLE_SHARE * num_files):
        raise DataError(f"{len(unreadable):,} of {num_files:,} files cannot be read, more than the "
                        f"{UNREADABLE_SHARE:.0%} that data.on_unreadable: skip goes on without; the last is "
                        f"{last}", "data.on_unreadable", CHECK_ALL)


def death_of_a_worker() -> str:
    """Return what torch says of a worker that has just died; wait a moment until it knows."""
    try:
        with DEATHS.heard():
            time.sleep(SECONDS_TO_HEAR_OF_A_DEATH)
    except RuntimeError as error:
        return str(error)
    return ""


def lost_worker(reason: str) -> TranslateError:
    """Return the error for workers that are lost, for the reason that torch gives."""
    return TranslateError(f"loading images: {reason.splitlines()[0].rstrip('.')}", advice="if memory or shared memory "
                          "(/dev/shm) ran out, set workers to less; if a disk is gone, see to it")


def _collated(collate: Callable[[Sequence[Any]], BatchType], samples: Sequence[Any]) -> BatchType | Failure:
    failure = next((sample for sample in samples if isinstance(sample, Failure)), None)
    return failure or collate(samples)


def _enter_worker(_: int) -> None:
    """Ignore signals to the whole group: the parent saves, and ends its workers. They also end when it dies.

    torch sees to that from the first batch on, and every five seconds: a worker whose parent had died before lived on
    for ever.
    """
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    for number in FOR_THE_PARENT:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FOR_THE_PARENT)  # what came meanwhile is ignored as well
    torch.set_num_threads(1)
    use_one_thread()


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has one"
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)
