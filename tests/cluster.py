"""A cluster of this process alone, for tests of what workers do."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from translate.cluster.ray_engine import Task, Worker


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
        with contextlib.chdir(self.folder):
            worker = Worker(pickle.loads(pickle.dumps(make)), torch.get_num_threads(), 1)
            for start in reversed(range(0, len(items), self.num_at_once)):
                some = list(items[start:start + self.num_at_once])
                assert min(worker.sizes(some)) >= 1
                self.done += some
                yield worker.do(some)
