"""Work on a Ray cluster: items, such as the paths of images, go to workers, and what became of each comes back.

What is done with an item is a `Task`, which every worker makes for itself on its node. Pixels never go through Ray:
every node must see the folders under the same paths.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from translate.cluster.scheduling import Scheduler
from translate.errors import MissingExtra, NetworkError, UsageError
from translate.places import data_root


class Task(Protocol):
    """What a worker does with items."""

    def sizes(self, items: Sequence[Any], /) -> list[int]:
        """Return how much work each item is, in pixels, at least 1."""

    def do(self, items: Sequence[Any], stop: object, /) -> tuple[list[Any], Any]:
        """Do the items in their order until `stop` is true.

        Returns a result for each that is done, and what else is to be told of them together.
        """


class Worker:
    """Does what it is given on one node, with data from where the driver has them; an actor."""

    def __init__(self, make: Callable[[], Task], cores: int, on_this_node: int, data: str):
        import torch

        os.environ["LOCAL_WORLD_SIZE"] = str(on_this_node)  # each takes its part of memory and cores
        os.environ["DIPTYCH_DATA"] = data
        torch.set_num_threads(cores)
        self.stopped = StopFlag()
        self.task = make()

    def ready(self) -> None:
        """Return once the task is there, with its networks."""

    def sizes(self, items: Sequence[Any]) -> list[int]:
        """Return how much work each item is."""
        return self.task.sizes(items)

    def do(self, items: Sequence[Any]) -> tuple[list[Any], Any]:
        """Do items until it is stopped, and return what the task does."""
        return self.task.do(items, self.stopped)

    def stop(self) -> None:
        """End after the item in hand."""
        self.stopped.asked = True


@dataclass
class StopFlag:
    """True once it is asked for."""

    asked: bool = False

    def __bool__(self) -> bool:
        return self.asked


class RayEngine:
    """A Ray cluster, on which `run` has work done. Used as a context, it is connected."""

    def __init__(self, address: str, cores: int | None = None):
        """
        address   `ray` (the cluster that is here, else one of this machine alone) or `ray://HOST:PORT`
        cores     of each worker where there are no GPUs

        Raises `UsageError` and `MissingExtra`.
        """
        if address != "ray" and not address.startswith("ray://"):
            raise UsageError(f"--engine {address}: expected ray, or ray://HOST:PORT")
        try:
            import ray
        except ImportError:
            raise MissingExtra("ray", "ray", "--engine ray") from None
        self.ray: Any = ray
        self.address, self.cores = address, cores

    def __enter__(self) -> RayEngine:
        """Connect. Raises `NetworkError`."""
        where = {} if self.address == "ray" else {"address": self.address}
        minding = signal.getsignal(signal.SIGTERM)
        try:
            self.ray.init(**where, log_to_driver=False, logging_level="error")
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise NetworkError(f"no Ray cluster answers ({str(error).splitlines()[0]})", self.address, "start one with "
                               "ray start --head; ray://HOST:10001 is its port for clients") from error
        finally:
            if callable(minding):  # Ray has put its own in the place of a handler that lets work be saved
                with suppress(ValueError):  # not the main thread, where Ray has done nothing
                    signal.signal(signal.SIGTERM, minding)
        return self

    def __exit__(self, *_: object) -> None:
        self.ray.shutdown()

    def run(self, items: Sequence[Any], make: Callable[[], Task], stop: object,
            lost: Callable[[Any, str, str], Any], otherwise: str = "") -> Generator[tuple[list[Any], Any], None, None]:
        """Have items done, and yield what `Task.do` returns of some of them, as it comes.

        make       makes the task, on every worker
        stop       once it is true, workers end after the item in hand
        lost       returns the result of an item with which several workers have died, by the error's class and words
        otherwise  what else shares the work out, said after the advice to leave --engine out

        Raises what a worker cannot go on from, and `UsageError` where the task cannot be sent.
        """
        try:
            held = self.ray.put(make)
        except Exception as error:  # pickle raises what it likes
            why = (str(error).splitlines() or [""])[0]
            raise UsageError(f"--engine ray: this model cannot be sent to other processes ({why})",
                             advice=f"leave --engine out{otherwise}") from error
        scheduler = Scheduler(self.ray, Worker, held, self.cores, str(data_root().absolute()), items, stop, lost)
        try:
            yield from scheduler.results()
        finally:
            scheduler.kill_workers()
