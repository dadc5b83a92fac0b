"""Work done ahead and behind: files read in other processes, outputs written in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from queue import SimpleQueue
from typing import Any, TypeVar

from translate.images import decoder_process
from translate.images.decoder_process import Answer, DecoderProcess, Request

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def decoder_pool(workers: int) -> Iterator[Callable[[Request], Answer]]:
    """Yield a function that reads a file: in one of `workers` processes, or, without any, in this one.

    The processes end with the block.
    """
    if workers == 0:
        yield decoder_process.read_file
        return

    # A file waits until one of the processes is idle.
    idle: SimpleQueue[DecoderProcess] = SimpleQueue()

    def read(request: Request) -> Answer:
        one = idle.get()
        try:
            return one.read(request)
        finally:
            idle.put(one)

    with ExitStack() as stack:
        for _ in range(workers):
            idle.put(stack.enter_context(closing(DecoderProcess())))
        yield read


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
