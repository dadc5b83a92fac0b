"""Devices and number formats: what `auto` chooses, and which formats a device cannot compute in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from translate.errors import UsageError
from translate.host.launcher import launched

Format = Literal["fp32", "bf16", "fp16"]


def choose_precision(asked: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device) -> Format:
    """Return the number format that a device trains and translates in.

    `auto` is bf16 on CUDA cards from Ampere on and on CPUs that compute in it (AMX or AVX512-BF16), fp16 on older
    cards, and fp32 on all other devices.

    Raises `UsageError` for an unknown format, for bf16 on older cards, and for fp16 on a CPU, where autocast would
    compute in fp32 without saying so.
    """
    if asked not in ("auto", "fp32", "bf16", "fp16"):
        raise UsageError(f"{asked} is not a number format; expected auto, fp32, bf16 or fp16", "precision")
    if asked == "fp16" and device.type == "cpu":
        raise UsageError("fp16 does nothing on a CPU", "precision", "use bf16, fp32 or auto")
    if asked == "bf16" and device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        raise UsageError(f"{torch.cuda.get_device_name(device)} has no bf16", "precision", "use fp16, fp32 or auto")
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    return "bf16" if device.type == "cpu" and _computes_in_bf16() else "fp32"


def layout_for(device: torch.device) -> torch.memory_format:
    """Return how weights, and with them what is made of images, lie in a device's memory: channels_last, or torch's
    usual layout.

    Cards compute convolutions in channels_last, and processors with AVX512 all else: a step takes 0.9 times as long. On
    one with AVX2 it takes 1.3 times as long (CycleGAN; 1.05 times, pix2pix), as its strided convolutions do 2.6 times.
    Numbers of `tools/layouts.py`, in docs/log.md.
    """
    is_slow = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    return torch.contiguous_format if is_slow else torch.channels_last


def autocast(device: torch.device, precision: Format) -> AbstractContextManager[object]:
    """Return a context: convolutions in `precision`, sensitive operations in fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


class HasFormat(Protocol):
    """A tensor, or what stands for one."""

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...


_emulated: list[torch.dtype] = []  # by `convolving_in`, the innermost last


def convolution_dtype(x: HasFormat) -> torch.dtype:
    """Return the format that a convolution of `x` is computed in: autocast's, where that is on."""
    if _emulated:
        return _emulated[-1]
    kind = x.device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if on else x.dtype


@contextmanager
def convolving_in(dtype: torch.dtype) -> Iterator[None]:
    """Have `convolution_dtype` say so within the block, for who emulates autocast."""
    _emulated.append(dtype)
    try:
        yield
    finally:
        _emulated.pop()


# What errors say where memory ran out: torch's allocators, CUDA, its libraries (which allocate by themselves), C++ and
# oneDNN.
OUT_OF_MEMORY_WORDS = ("out of memory", "DefaultCPUAllocator: ", "CUDNN_STATUS_ALLOC_FAILED",
                       "CUBLAS_STATUS_ALLOC_FAILED", "std::bad_alloc", "could not create a primitive")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an allocation failed, by the class of the error or by its words."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY_WORDS))


def _computes_in_bf16() -> bool:
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # private, and the only names there are
    return any(hasattr(torch.cpu, name) and getattr(torch.cpu, name)() for name in names)


def choose_device(asked: str) -> torch.device:
    """Return the torch device called `asked`: auto, cpu, cuda, cuda:1 …

    `auto` is CUDA where there is a card, and each of a launcher's processes takes one of its own; otherwise the CPU.
    Raises `UsageError` for a device that this machine does not have.
    """
    if asked == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", launched("LOCAL_RANK", 0) % torch.cuda.device_count())
    try:
        device = torch.device(asked)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        if reason.startswith("Expected one of"):  # torch lists every kind of device that was ever made
            reason = "is not a device of this machine"
        raise UsageError(reason, f"device {asked}", "expected auto, cpu, cuda, cuda:1 …") from None
    return device


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of ordinary memory on a device, without waiting for what that is doing.

    A GPU copies from memory that is not pinned only when all that it was asked before is done, and the host waits.
    """
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def on_device(values: Sequence[Any], device: torch.device) -> Tensor:
    """Return numbers, or nested sequences of them, on a device, without waiting as `torch.tensor` would."""
    return sent(torch.tensor(values), device)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return a tensor in float32, or as it is where it is finer: means over thousands of half-precision values lose
    their small differences."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
