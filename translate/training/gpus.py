"""GPUs by name: what their makers publish of them, and the share of it that a training has been seen or is thought to
reach."""

from __future__ import annotations

import difflib
import re
from typing import NamedTuple

from translate.errors import UsageError
from translate.precision import Format
from translate.sizes import num_bytes


class GPU(NamedTuple):
    """One of the table."""

    name: str
    memory_gb: int  # the most that it is sold with
    fp16: float  # TFLOP/s of dense matrix products, summed in float32
    bf16: float | None  # None: it has no bf16
    fp32: float  # as torch computes convolutions: in TF32 where there is such a thing
    bandwidth: float  # TB/s to its memory
    reached: float  # the share of these TFLOP/s that convolutions reach
    capability: tuple[int, int]  # CUDA's number of what it can do

    def peak(self, precision: Format) -> float:
        """Return the TFLOP/s that are published for a number format. Raises `UsageError` for one that it has not."""
        peak = {"fp16": self.fp16, "bf16": self.bf16, "fp32": self.fp32}[precision]
        if peak is None:
            raise UsageError(f"{self.name} has no {precision}", "precision", "use fp16 or fp32")
        return peak


# Published: NVIDIA's data sheets of V100 (SXM2), T4, A100 (SXM, 80 GB), H100 (SXM) and H200; the white paper of Ada for
# the RTX 4090; for the RTX 3060 (12 GB) tensor cores × clock as in the white paper of GA102. `reached`: the H200's is
# what docs/benchmarks.md was judged by; all others are guesses, higher for smaller GPUs, which are easier to keep busy.
GPUS = (
    GPU("RTX 3060", 12, 25.5, 25.5, 12.7, 0.360, 0.8, (8, 6)),
    GPU("V100", 32, 125, None, 15.7, 0.900, 0.6, (7, 0)),
    GPU("T4", 16, 65, None, 8.1, 0.320, 0.4, (7, 5)),
    GPU("RTX 4090", 24, 165, 165, 82.6, 1.008, 0.6, (8, 9)),
    GPU("A100", 80, 312, 312, 156, 2.039, 0.5, (8, 0)),
    GPU("H100", 80, 989, 989, 495, 3.35, 0.45, (9, 0)),
    GPU("H200", 141, 989, 989, 495, 4.8, 0.45, (9, 0)),
)
BANDWIDTH_REACHED = 0.9


def gpu_named(name: str) -> GPU:
    """Return the GPU that somebody means by a name such as "RTX 4090", "rtx4090" or "NVIDIA GeForce RTX 4090".

    Raises `UsageError`, which lists the names that are known.
    """
    by_name = {_plain(gpu.name): gpu for gpu in GPUS}
    found = by_name.get(_plain(name))
    if found is None:
        close = difflib.get_close_matches(_plain(name), by_name, 1)
        hint = f"; did you mean {by_name[close[0]].name}?" if close else ""
        if re.fullmatch(r"\s*\d+(?:\.\d+)?\s*", name):
            hint = f"; did you mean {name.strip()}GB?"
        known = ", ".join(gpu.name for gpu in GPUS)
        raise UsageError(f"{name!r} is no GPU that is known{hint} Known are {known}"
                         if hint else f"{name!r} is no GPU that is known: {known}",
                         advice="for another one give its memory, such as 8GB, or plan on the machine that has it")
    return found


def size_and_gpu(gpu: str) -> tuple[str, GPU | None]:
    """Return the size of a GPU's memory, such as 24GB, and the GPU, of what `--gpu` says: a name, a size, or both.

    A name alone has the most memory that the GPU is sold with; "V100 16GB" is one with less. Raises `UsageError` for
    what is none of these, and for more memory than that.
    """
    if re.match(r"\s*[\d.]+\s*(?:[kmgt]i?b|[kmg]i?)\s*$", gpu, re.IGNORECASE):  # 3060 Ti is a name
        num_bytes(gpu)
        return gpu, None
    both = re.fullmatch(r"(.*\S)[\s-]+([\d.]+\s*gi?b?)\s*", gpu, re.IGNORECASE)
    found = gpu_named(both[1] if both else gpu)
    if both and num_bytes(both[2]) > num_bytes(f"{found.memory_gb}GiB"):
        raise UsageError(f"{gpu!r}: no {found.name} has so much memory; the largest has {found.memory_gb}GB")
    return both[2] if both else f"{found.memory_gb}GB", found


def like_one_of(memory_bytes: int, precision: Format) -> GPU:
    """Return the GPU that one of so much memory is taken to be where no name is given: the smallest that has as much.

    Of several that are sold with as much it is the first of the table; the largest where none has so much. What is sold
    as 24 GB may be 24 GiB, as drivers count.
    """
    able = [gpu for gpu in GPUS if precision != "bf16" or gpu.bf16]
    large = [gpu for gpu in able if gpu.memory_gb * 2**30 >= memory_bytes] or [able[-1]]
    return min(large, key=lambda gpu: gpu.memory_gb)


def _plain(name: str) -> str:
    return re.sub(r"nvidia|geforce|tesla|[\s_-]", "", name.casefold())
