"""Work done ahead and behind: files read in other processes, outputs written in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import LifoQueue
from typing import Any, TypeVar

from translate.images import decoder_process
from translate.images.decoder_process import Answer, DecoderProcess, Request, SizeRequest

T = TypeVar("T")
R = TypeVar("R")


class Decoders:
    """Reads files: in as many other processes as it has `workers`, or, without any, in this one.

    Several threads may use it: a file waits until one of the processes is idle. The one that was used last comes first,
    so that others start only when they are needed.
    """

    def __init__(self, workers: int, seconds: float | None = None):
        """`seconds` are for one file, as of a `DecoderProcess`."""
        self._idle: LifoQueue[DecoderProcess] = LifoQueue()
        self._all = [DecoderProcess(seconds) for _ in range(workers)]
        for each in self._all:
            self._idle.put(each)

    def read(self, request: Request) -> Answer:
        """Read a file. Raises as `DecoderProcess.read` does."""
        return self._with_one(DecoderProcess.read, request) if self._all else decoder_process.read_file(request)

    def size(self, request: SizeRequest) -> int:
        """Return what a file would take in another process. Raises as `DecoderProcess.size` does."""
        return self._with_one(DecoderProcess.size, request)

    def close(self) -> None:
        """End the processes."""
        for each in self._all:
            each.close()

    def _with_one(self, ask: Callable[[DecoderProcess, R], T], request: R) -> T:
        one = self._idle.get()
        try:
            return ask(one, request)
        finally:
            self._idle.put(one)


@contextmanager
def thread_pool(num: int) -> Iterator[Executor]:
    """Yield a pool of `num` threads; of none, work is done where it is submitted.

    When the block ends early, queued work is dropped and work in hand finished.
    """
    pool = ThreadPoolExecutor(num) if num else InlineExecutor()
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


class InlineExecutor(Executor):
    """Does everything at once, in the caller's thread."""

    def submit(self, work: Callable[..., Any], /, *words: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*words, **options))
        except Exception as error:
            future.set_exception(error)
        return future


def prefetch(work: Callable[[T], R], items: Iterable[T], pool: Executor, num: int) -> Iterator[Future[R]]:
    """Yield the work on each item, in their order; it is begun on `num` items ahead of the one that is yielded."""
    begun: deque[Future[R]] = deque()
    for item in items:
        begun.append(pool.submit(work, item))
        if len(begun) > num:
            yield begun.popleft()
    yield from begun
