"""A checkpoint's tensors, read by a process that has little memory and hands on nothing but numbers.

First the file is looked at without being opened (`translate.interop.scanning`); then a forked process reads it with
torch's own reader for tensors alone (`weights_only`) and writes what it found as safetensors, which this process takes.
"""

from __future__ import annotations

import multiprocessing
import resource
import signal
import tempfile
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from translate import files
from translate.errors import CheckpointError, TranslateError
from translate.interop.scanning import ADVICE_STATE_DICT, scan
from translate.missing import no_checkpoint

READ_SECONDS = 600.0  # for a file of gigabytes on a slow disk
SPARE_BYTES = 2**30  # of address space that reading may take beside three times the file
WRAPPERS = ("state_dict", "params_ema", "netG", "G", "generator", "model", "params")  # the averaged before the raw
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile

State = dict[str, Tensor]


def read_tensors(path: Path) -> State:
    """Return the tensors of a checkpoint by their names, in float32 where they are numbers with fractions.

    Reads `.pth` and `.pt` of every torch since 0.1.10, and `.safetensors`; takes off the wrappers and prefixes that
    training programs put around a network. Raises `CheckpointError` in one line for everything else.
    """
    if not path.exists():
        raise no_checkpoint(path)
    if not path.is_file():
        raise CheckpointError("a folder; name a file in it", path)
    kind = scan(path)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tensors.safetensors"
        fault = _in_a_process(path, kind, copy)
        if fault is not None:
            raise fault
        with files.as_disk_errors(copy):
            state = safetensors.torch.load_file(copy)
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def _in_a_process(path: Path, kind: str, copy: Path) -> TranslateError | None:
    """Have another process read `path` and write its tensors to `copy`; return what it found wrong.

    It is forked, as it has torch then and needs no seconds to import it; it does nothing that uses torch's threads.
    """
    context = multiprocessing.get_context("fork")
    pipe, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_read, args=(path, kind, copy, theirs), name="checkpoint reader", daemon=True)
    process.start()
    theirs.close()
    try:
        answer = pipe.recv() if pipe.poll(READ_SECONDS) else CheckpointError(
            f"was not read within {READ_SECONDS:g} seconds", path)
    except EOFError:
        process.join(10.0)
        code = process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        answer = CheckpointError(f"the process that read it has died ({how}): it is damaged, or made to do harm", path)
    finally:
        process.kill()
        process.join(10.0)
        pipe.close()
    return answer if isinstance(answer, TranslateError) else None


def _read(path: Path, kind: str, copy: Path, pipe: Connection) -> None:
    """Read a file, and write its tensors; send None, or what is wrong with it."""
    torch.set_num_threads(1)
    size = path.stat().st_size
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() \
        if Path("/proc/self/statm").exists() else 2**40
    resource.setrlimit(resource.RLIMIT_AS, (taken + 3 * size + SPARE_BYTES,) * 2)
    try:
        loaded = safetensors.torch.load_file(path) if kind == "safetensors" else torch.load(
            path, map_location="cpu", weights_only=True)
        state = _unwrapped(loaded, path, size)
        safetensors.torch.save_file({name: tensor.detach().clone(memory_format=torch.contiguous_format)
                                     for name, tensor in state.items()}, copy)
        pipe.send(None)
    except CheckpointError as error:
        pipe.send(error)
    except (MemoryError, RecursionError):
        pipe.send(CheckpointError("asks for far more memory than its size: it is damaged, or made to do harm", path))
    except Exception as error:  # whatever torch makes of damage: its first line, which may hold escape codes
        words = str(error).strip().splitlines()[0].replace("\x1b", "")[:160] if str(error).strip() else ""
        pipe.send(CheckpointError(f"torch cannot read its tensors ({type(error).__name__}: {words})", path,
                                  ADVICE_STATE_DICT))


def _unwrapped(loaded: object, path: Path, size: int) -> State:
    """Return the one network in what was loaded, without wrappers and prefixes."""
    if isinstance(loaded, Tensor):
        raise CheckpointError("a single tensor, not the tensors of a network", path)
    for _ in range(3):  # a wrapper may stand in another
        inner = next((loaded[name] for name in WRAPPERS if isinstance(loaded.get(name), Mapping)), None) \
            if isinstance(loaded, Mapping) else None
        loaded = loaded if inner is None else inner
    if not isinstance(loaded, Mapping) or not loaded:
        raise CheckpointError(f"holds no tensors by name: {type(loaded).__name__}", path)
    if "param_groups" in loaded:
        raise CheckpointError("the state of an optimizer, not of a network", path, "the network's file lies beside it")
    networks = [str(name) for name, value in loaded.items() if isinstance(value, Mapping)]
    others = [str(name) for name, value in loaded.items() if not isinstance(value, Tensor | Mapping)]
    if networks or others:
        raise CheckpointError(f"holds more than one network's tensors: {', '.join([*networks, *others][:6])}", path,
                              "save the generator's state_dict alone")
    state = {str(name): value for name, value in loaded.items()}

    # A view may show a few numbers as if they were many: what is written would be larger than what was read.
    if sum(tensor.numel() * tensor.element_size() for tensor in state.values()) > size:
        raise CheckpointError("its tensors say that they are larger than the file", path)
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
            raise CheckpointError(f"{name} is no plain tensor ({tensor.layout}, {tensor.dtype})", path)

    for prefix in PREFIXES * 2:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state
