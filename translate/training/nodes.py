"""The processes of a training on several nodes: which of them is gone when the others can no longer reach it.

A collective operation that fails names a socket at best. So every process tells a store that it lives, once a second,
and, where it ends with an error, why. The first process keeps the store.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch.distributed import TCPStore

from translate.errors import NetworkError, TranslateError

BEAT_SECONDS = 1.0
SILENT_SECONDS = 4.0  # after which a process counts as gone, once an operation has failed
ANSWER_SECONDS = 10.0  # for the store


@contextmanager
def naming_the_lost(accelerator: Accelerator) -> Iterator[None]:
    """Raise `NetworkError`, which names the processes that are gone, where others cannot go on in the block.

    An error of one process is raised in it as it is, and named by the others.
    """
    if accelerator.num_processes == 1:
        yield
        return
    roll = Roll(accelerator)
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

    def __init__(self, accelerator: Accelerator):
        self.rank, self.num = accelerator.process_index, accelerator.num_processes
        self.names = gather_object([socket.gethostname()])
        address = os.environ.get("MASTER_ADDR", "127.0.0.1")
        first = self.rank == 0
        seconds = timedelta(seconds=ANSWER_SECONDS)
        kept = TCPStore(address, 0, is_master=True, wait_for_workers=False, timeout=seconds) if first else None
        (port,) = broadcast_object_list([kept.port if kept is not None else None])
        self.kept = kept  # a thread of its own has another connection
        self.store, self.asked = (TCPStore(address, port, is_master=False, timeout=seconds) for _ in range(2))
        self.ended = threading.Event()
        self.store.set(f"beat{self.rank}", "0")
        threading.Thread(target=self._beat, name="roll", daemon=True).start()
        accelerator.wait_for_everyone()

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
                time.sleep(SILENT_SECONDS)  # the others still ask
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
