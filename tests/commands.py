"""Commands, run in this process or in forks of it; what this process prints is the fixture `said` of conftest.py."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest

from translate import cli


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Run a command in this process; its exit code."""
    monkeypatch.setattr("sys.argv", ["translate", *map(str, words)])
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.raises(SystemExit) as ended:
        cli.main()
    for number, handler in before.items():  # a command that was stopped gives none back, as its process ends
        signal.signal(number, handler)
    return int(ended.value.code or 0)


def forget_fork_server() -> None:
    """Have a fork start a server of its own for decoders: that of the test's process is no child of it."""
    forkserver._forkserver._forkserver_pid = None


class Command:
    """A command in a process group of its own, which writes what it prints to a file.

    It is forked from the test, and has its modules: an interpreter of its own would import torch for seconds.
    """

    def __init__(self, printed: Path, *words: object, **environment: str):
        def work() -> None:
            from accelerate.state import AcceleratorState

            os.setsid()
            os.environ.update(environment)
            AcceleratorState._reset_state(reset_partial_state=True)  # what this fork inherited
            forget_fork_server()
            with printed.open("w") as file:
                sys.stdout = sys.stderr = file
                sys.argv = ["translate", *map(str, words)]
                cli.main()

        self.printed = printed
        self._process = multiprocessing.get_context("fork").Process(target=work)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def runs(self) -> bool:
        return self._process.is_alive()

    def children(self) -> list[int]:
        """The numbers of the processes it has started itself."""
        number = self._process.pid
        return [int(child) for child in Path(f"/proc/{number}/task/{number}/children").read_text().split()]

    def send(self, number: signal.Signals, to_group: bool = False) -> None:
        assert self._process.pid is not None
        (os.killpg if to_group else os.kill)(self._process.pid, number)

    def wait(self, seconds: float = 60.0) -> int:
        """Its exit code; it is killed where it has none after `seconds`."""
        self._process.join(seconds)
        if self.runs():
            self._process.kill()
            raise AssertionError(f"it runs after {seconds} s, and has printed {self.printed.read_text()}")
        return int(self._process.exitcode or 0)


def launch(folder: Path, *words: object, num: int = 2) -> list[Command]:
    """A command in processes that know of each other as torchrun's do: when one fails the others are ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": str(num), "LOCAL_WORLD_SIZE": str(num), "MASTER_ADDR": "127.0.0.1",
             "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
    launched = [Command(folder / f"{rank}.txt", *words, RANK=str(rank), LOCAL_RANK=str(rank), **place)
                for rank in range(num)]
    while any(command.runs() for command in launched):
        if any(not command.runs() and command.wait() for command in launched):
            for command in launched:
                if command.runs():
                    command.send(signal.SIGTERM)
            break
        time.sleep(0.01)
    for command in launched:
        command.wait()
    return launched
