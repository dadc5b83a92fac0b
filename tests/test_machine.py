"""What a run says of its machine is what the system says."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from translate.training.machine import describe_machine, take_peak_bytes


def test_the_peak_of_a_process_is_the_systems() -> None:
    """In bytes: `getrusage` counts in KiB on Linux."""
    grown = torch.ones(50_000_000)  # 200 MB that were not there before
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found and abs(take_peak_bytes(torch.device("cpu")) - int(found[1]) * 1024) < 4 * 2**20
    assert grown.nbytes < take_peak_bytes(torch.device("cpu"))


def test_a_machine_is_described_by_its_device_and_versions() -> None:
    found = describe_machine(torch.device("cpu"))
    assert found["device"].startswith("cpu: ") and len(found["device"]) > 5 and found["torch"] == torch.__version__
