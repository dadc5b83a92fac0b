"""Nodes on this machine: agents of torchrun that find each other on loopback, in process groups that can be killed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent


class Node:
    """An agent of torchrun with one process."""

    def __init__(self, number: int, num: int, port: int, printed: Path, *words: object):
        self.printed = printed
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", f"--nnodes={num}", f"--node_rank={number}",
             "--nproc_per_node=1", "--master_addr=127.0.0.1", f"--master_port={port}", "-m", *map(str, words)],
            cwd=ROOT, env=environment, stdout=printed.open("w"), stderr=subprocess.STDOUT, start_new_session=True)

    def kill(self) -> None:
        """Kill the agent and its process at once, as a power cut does."""
        agent = psutil.Process(self.process.pid)
        for each in [agent, *agent.children(recursive=True)]:
            each.kill()

    def wait(self, seconds: float) -> int:
        """Return its exit code; it is killed where it has none after `seconds`."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"runs after {seconds} s, and has printed {self.printed.read_text()}") from None


def start_nodes(num: int, folder: Path, *words: object) -> list[Node]:
    """Start a command on so many nodes, each with one process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    return [Node(number, num, port, folder / f"node{number}.log", *words) for number in range(num)]
