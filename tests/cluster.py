"""Clusters of this process alone, for tests of what workers do, and of what the engine makes of their answers."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from translate.cluster.ray_engine import RayEngine, Task, Worker
from translate.places import data_root


class Elsewhere:
    """Does the work of a cluster in this process, in a folder of its own, a few items at a time and the last first.

    The task comes as it would over a network. Set LOCAL_WORLD_SIZE before: a worker changes it.
    """

    def __init__(self, folder: Path, num_at_once: int = 3):
        self.folder, self.num_at_once = folder, num_at_once
        self.done: list[Any] = []

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was connected."""

    def run(self, items: Sequence[Any], make: Callable[[], Task], *_: object) -> Iterator[tuple[list[Any], Any]]:
        data = str(data_root().absolute())
        with contextlib.chdir(self.folder):
            worker = Worker(pickle.loads(pickle.dumps(make)), torch.get_num_threads(), 1, data)
            for start in reversed(range(0, len(items), self.num_at_once)):
                some = list(items[start:start + self.num_at_once])
                assert min(worker.sizes(some)) >= 1
                self.done += some
                yield worker.do(some)


class RayError(Exception):
    """Stands for what Ray raises."""


class RayTaskError(RayError):
    """Stands for what Ray raises where a worker has raised `cause`."""

    def __init__(self, cause: Exception):
        super().__init__(str(cause))
        self.cause = cause


class Remote:
    """A class or method of a worker: its `remote` calls it at once, in the folder of the worker."""

    def __init__(self, call: Callable[..., Any], folder: Path):
        self.call, self.folder = call, folder

    def options(self, **_: Any) -> Remote:
        return self

    def remote(self, *args: Any) -> Any:
        """Return a worker, or the future that `RayHere.get` reads."""
        with contextlib.chdir(self.folder):
            if isinstance(self.call, type):
                return Actor(self.call(*args), self.folder)
            try:
                return Future(self.call(*args))
            except Exception as error:
                return Future(error=RayTaskError(pickle.loads(pickle.dumps(error))))


class Actor:
    """A worker as its handle shows it."""

    def __init__(self, worker: Any, folder: Path):
        self.worker, self.folder = worker, folder

    def __getattr__(self, name: str) -> Remote:
        return Remote(getattr(self.worker, name), self.folder)


class Future:
    """What a call has come to."""

    def __init__(self, value: Any = None, error: RayTaskError | None = None):
        self.value, self.error = value, error


class RayHere:
    """What the engine uses of Ray, with one worker that stands in `folder`. Set what a worker changes before:
    LOCAL_WORLD_SIZE and DIPTYCH_DATA.
    """

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, folder: Path):
        self.folder = folder

    def engine(self) -> RayEngine:
        """Return an engine that is connected."""
        engine = object.__new__(RayEngine)  # to make one needs the library
        engine.ray, engine.cores = self, torch.get_num_threads()
        return engine

    def put(self, value: Any) -> Any:
        return pickle.loads(pickle.dumps(value))

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": torch.get_num_threads()}}]

    def remote(self, **_: Any) -> Callable[[type], Remote]:
        return lambda worker: Remote(worker, self.folder)

    def wait(self, futures: list[Future], timeout: float) -> tuple[list[Future], list[Future]]:
        return futures, []

    def get(self, future: Future) -> Any:
        if future.error is not None:
            raise future.error
        return future.value

    def kill(self, actor: Actor) -> None:
        """It lives in this process."""
