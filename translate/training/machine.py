"""The machine that a training runs on: what it is, and how much of its memory has been taken."""

from __future__ import annotations

import os
import platform
import resource
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import accelerate
import psutil
import torch


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return what a person asks for who compares two runs: {machine, device, cores, system, diptych, torch, …}."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {"device": f"{device.type}: {name}", "cores": os.cpu_count(), "machine": platform.machine(),
            "system": f"{platform.system()} {platform.release()}", "python": platform.python_version(),
            "diptych": version("diptych"), "torch": torch.__version__, "accelerate": accelerate.__version__}


def processor() -> str:
    """Return the name of the CPU where the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def take_peak_bytes(device: torch.device) -> int:
    """Return the most bytes that tensors took on a CUDA device since the last call; elsewhere, the process ever."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident_bytes() -> int:
    """Return how many bytes of memory this process holds now."""
    return int(psutil.Process().memory_info().rss)
