"""What each process of a run has of its own in a checkpoint: its image pools, and its random states.

It lies there as `rank<k>.safetensors` and `rank<k>.json`. Another number of processes than wrote it takes it over as
well: all images are dealt out again, and whoever is new draws chances of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from translate import files
from translate.foreign import read_json
from translate.runs.manifest import read_tensors, write_tensors
from translate.translators import Translator
from translate.translators.pool import dealt


def write_own(folder: Path, translator: Translator, rank: int) -> None:
    """Write what process `rank` has of its own into the checkpoint that is being made in `folder`."""
    state = {"random_cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["random_cuda"] = torch.cuda.get_rng_state()
    pool_random: dict[str, list[object]] = {}
    for name, pool in translator.pools.items():
        images, pool_random[name] = pool.state()
        state |= {f"{name}.{slot}": image for slot, image in enumerate(images)}
    write_tensors(folder / f"rank{rank}.safetensors", state)
    files.write_json(folder / f"rank{rank}.json", pool_random)


def restore_own(path: Path, translator: Translator, rank: int, num_processes: int, written_by: int) -> None:
    """Give process `rank` of `num_processes` its part of a checkpoint that `written_by` processes wrote."""
    as_then = num_processes == written_by
    held = [(read_tensors(path / f"rank{each}.safetensors"), read_json(path / f"rank{each}.json", dict[str, list[Any]]))
            for each in ([rank] if as_then else range(written_by))]
    for name, pool in translator.pools.items():
        pools = [(_images(tensors, name), random_states[name]) for tensors, random_states in held]
        pool.load(*(pools[0] if as_then else dealt(pools, rank, num_processes, pool.capacity)))

    own, _ = held[rank % len(held)]
    torch.set_rng_state(own["random_cpu"])
    if "random_cuda" in own and torch.cuda.is_available():
        torch.cuda.set_rng_state(own["random_cuda"])


def other_processes(then: int, now: int, translator: Translator) -> str:
    """Say what another number of processes changes."""
    pools = "the images of all pools are dealt out again, and " if translator.pools else ""
    return f"processes: {then} then, {now} now ({pools}gradients are summed in another order)"


def _images(tensors: dict[str, Tensor], name: str) -> list[Tensor]:
    """Return the images of a pool in the order of its slots."""
    slots = sorted((key for key in tensors if key.startswith(f"{name}.")), key=lambda key: int(key.split(".")[1]))
    return [tensors[key] for key in slots]
