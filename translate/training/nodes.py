"""The processes of a training on several nodes: which of them is gone when the others can no longer reach it.

A collective operation that fails names a socket at best. So every process tells a store that it lives, once a second,
and, where it ends with an error, why. It is the store by which they have found each other: a node can reach no other
port of the first one for certain.
"""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.distributed import PrefixStore, Store
from torch.distributed.distributed_c10d import _get_default_store

from translate.errors import NetworkError, TranslateError

BEAT_SECONDS = 1.0
SILENT_SECONDS = 4.0  # after which a process counts as gone, once an operation has failed
ANSWER_SECONDS = 10.0  # for the store
_numbers = itertools.count()  # of the blocks in a process, each of which has keys of its own; all count alike


@contextmanager
def naming_the_lost(accelerator: Accelerator) -> Iterator[None]:
    """Raise `NetworkError`, which names the processes that are gone, where others cannot go on in the block.

    An error of one process is raised in it as it is, and named by the others. Where not every process has the store,
    nobody is named.
    """
    roll = None if accelerator.num_processes == 1 else Roll.call(accelerator)
    if roll is None:
        yield
        return
    try:
        yield
    except TranslateError as error:
        roll.tell(str(error))
        raise
    except RuntimeError as error:  # what collectives raise; torch has no class for all of it
        lost = roll.find_lost()
        if not lost:
            roll.tell(f"{type(error).__name__}: {error}")
            raise
        raise NetworkError("; ".join(lost), advice="the run goes on from its newest checkpoint with --resume, with any "
                           "number of processes that shares its batches equally") from error
    finally:
        roll.close()


class Roll:
    """Which processes there are, and which of them live."""

    def __init__(self, rank: int, names: list[str], store: Store, asked: Store):
        """`names` of all processes' machines; a thread has `store` of its own, as one that waits keeps others out."""
        self.rank, self.num, self.names = rank, len(names), names
        self.store, self.asked = store, asked
        self.ended = threading.Event()
        self.beating = threading.Thread(target=self._beat, name="roll", daemon=True)
        self.beating.start()

    @classmethod
    def call(cls, accelerator: Accelerator) -> Roll | None:
        """Have every process say that it lives; None where one of them cannot. All processes call this."""
        rank = accelerator.process_index
        prefix = f"roll{next(_numbers)}"
        stores: list[Store] = []
        with suppress(RuntimeError, ValueError):  # a kind of store that has no copies, or no connection more
            made = [PrefixStore(prefix, _get_default_store().clone()) for _ in range(2)]
            for each in made:
                each.set_timeout(timedelta(seconds=ANSWER_SECONDS))
            made[0].set(f"beat{rank}", "0")
            stores.extend(made)
        found = gather_object([(socket.gethostname(), bool(stores))])
        if not all(has_store for _, has_store in found):
            return None
        return cls(rank, [name for name, _ in found], *stores)

    def _beat(self) -> None:
        number = 0
        while not self.ended.wait(BEAT_SECONDS):
            number += 1
            try:
                self.store.set(f"beat{self.rank}", str(number))
            except RuntimeError:  # the first process is gone; whoever waits for it will say so
                return

    def tell(self, why: str) -> None:
        """Tell the others why this process ends."""
        try:
            self.asked.set(f"end{self.rank}", why[:1000])
        except RuntimeError:
            return

    def find_lost(self) -> list[str]:
        """Return in words which other processes are gone, and which have ended, and why."""
        self.tell("")  # this one has merely heard of it
        try:
            before = self._beats()
            time.sleep(SILENT_SECONDS)
            after = self._beats()
            said = {rank: self.asked.get(f"end{rank}").decode() for rank in range(self.num)
                    if self.asked.check([f"end{rank}"])}
        except RuntimeError:
            return [self._gone(0)]
        finally:
            if self.rank == 0:
                time.sleep(SILENT_SECONDS)  # the others still ask, and it may keep the store
        words = [f"{self._name(rank)} has ended: {why}" for rank, why in said.items() if why and rank != self.rank]
        return words + [self._gone(rank) for rank in range(self.num)
                        if rank != self.rank and rank not in said and before[rank] == after[rank]]

    def _beats(self) -> list[bytes]:
        return [self.asked.get(f"beat{rank}") for rank in range(self.num)]

    def _name(self, rank: int) -> str:
        return f"process {rank} of {self.num}, on {self.names[rank]},"

    def _gone(self, rank: int) -> str:
        return f"{self._name(rank)} is gone, with its node or alone"

    def close(self) -> None:
        """Say no more that this process lives."""
        self.ended.set()
        self.beating.join(ANSWER_SECONDS)  # a thread that is asking the store when the interpreter ends aborts it
