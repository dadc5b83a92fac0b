"""The state of a run on the disk: written whole or not at all, verified when read, and nothing in it runs code.

A checkpoint is a folder, `checkpoints/<images>`: tensors in safetensors files, everything else in `state.json`, and a
manifest with the size and SHA-256 of every file, written last (`translate.runs.manifest`). The folder is built under a
temporary name, flushed and renamed; only then are older ones removed. One that does not verify is refused by name.

Each process writes its own `rank<k>.safetensors` (image pools, random states) into the same folder, so all processes
must see the same file system.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from translate import files
from translate.agreement import heard_by_all
from translate.errors import (
    CheckpointError,
    DiskError,
    DocumentError,
    RecipeError,
    TranslateError,
    is_disk_fault,
    visible,
)
from translate.foreign import Count, Shape, read_json
from translate.recipe import Recipe
from translate.runs.manifest import MANIFEST, read_network, read_tensors, seal, verify, write_network, write_tensors
from translate.runs.own_state import other_processes, restore_own, write_own
from translate.runs.progress import Progress, SavedProgress
from translate.runs.recipe_paths import absolute
from translate.schema import validate
from translate.translators import Translator

if TYPE_CHECKING:  # who only reads weights has no use for it
    from accelerate import Accelerator

STATE, RECIPE = "state.json", "recipe.json"


class State(Shape):
    """What a checkpoint's `state.json` holds."""

    progress: SavedProgress
    groups: dict[str, list[dict[str, Any]]]
    machine: dict[str, Any]
    scaler: dict[str, Any] | None
    num_processes: Count


@dataclass
class RunState:
    """The parts of a run that change while it trains, and that a checkpoint therefore holds."""

    progress: Progress
    translator: Translator
    optimizers: dict[str, torch.optim.Optimizer]
    accelerator: Accelerator
    recipe: Recipe  # by which it is trained: a checkpoint of another one is told by it


def save_checkpoint(folder: Path, run: RunState, keep: int) -> Path:
    """Write the run's state to `folder`/<images>, then remove old checkpoints. Every process calls this.

    Kept are the newest `keep`, the best, the newest that the guard calls healthy, and the best as of that healthy one.
    Returns the path. Raises `DiskError` when the disk is full; all earlier checkpoints are then intact.
    """
    final = checkpoint_at(folder, run.progress.images)
    building = folder / f"{files.TEMPORARY}{final.name}"
    is_main = run.accelerator.is_main_process
    try:
        # A fresh folder, and nothing left of a process that was killed while it wrote
        with _writing(final, run):
            if is_main:
                files.make_folder(folder, folder.parent)
                for stale in folder.glob(f"{files.TEMPORARY}*"):
                    files.remove_folder(stale)
                building.mkdir()

        # What differs between processes
        with _writing(final, run):
            write_own(building, run.translator, run.accelerator.process_index)

        # What all have alike; then the folder is complete and takes its name. A folder of that name is replaced: a
        # resume refused it, or a rollback rewrites it.
        with _writing(final, run):
            if is_main:
                _write_shared_state(building, run)
                seal(building)
                files.exchange_folder(building, final)
                _rotate(folder, final, keep, run.progress)
    except TranslateError:
        if is_main:  # all have heard of it, and none writes any more
            shutil.rmtree(building, ignore_errors=True)
        raise
    return final


@contextmanager
def _writing(final: Path, run: RunState) -> Iterator[None]:
    """Raise in all processes, as a `DiskError` about `final`, what keeps one from writing its part in the block."""
    with heard_by_all(run.accelerator):
        try:
            yield
        except OSError as error:
            raise DiskError.of(error, final, _bytes_needed(run) if is_disk_fault(error) else None) from error


def restore_checkpoint(path: Path, run: RunState) -> list[str]:
    """Load a verified checkpoint into the run, in place. Returns what differs between then and now, for a warning.

    The networks must have the shape of its stage already (`read_progress`, `Translator.enter`). Where another number of
    processes wrote it, the images of all their pools are dealt out again. Raises `CheckpointError` for other networks.
    """
    with _as_checkpoint_errors(path):
        return _restore(path, read_json(path / STATE, State), run)


def _restore(path: Path, state: dict[str, Any], run: RunState) -> list[str]:
    read_networks(path, run.translator)
    for phase, optimizer in run.optimizers.items():
        _load_optimizer(optimizer, read_tensors(path / f"optimizer_{phase}.safetensors"), state["groups"][phase])
    if run.accelerator.scaler is not None and state["scaler"]:
        run.accelerator.scaler.load_state_dict(state["scaler"])

    then, now = state["num_processes"], run.accelerator.num_processes
    restore_own(path, run.translator, run.accelerator.process_index, now, then)

    # Where the run stood, and what is not as it was
    run.progress.load(state["progress"])
    return [*([] if then == now else [other_processes(then, now, run.translator)]),
            *(f"{what}: {state['machine'][what]} then, {value} now" for what, value in machine().items()
              if state["machine"].get(what) != value)]


def read_progress(path: Path, num_stages: int | None = None) -> Progress:
    """Read where the run of a verified checkpoint stood, in one of `num_stages` where that is known.

    Raises `CheckpointError`.
    """
    progress = Progress()
    with _as_checkpoint_errors(path):
        progress.load(read_json(path / STATE, State)["progress"])
    if num_stages is not None and progress.stage >= num_stages:
        raise CheckpointError(f"is of stage {progress.stage + 1}, and the recipe has {num_stages}", path)
    return progress


@contextmanager
def _as_checkpoint_errors(path: Path) -> Iterator[None]:
    """Raise what a checkpoint's content makes the block raise as `CheckpointError`.

    Its manifest tells that nothing has changed since it was sealed, and not that this version has sealed it.
    """
    try:
        yield
    except DocumentError as error:
        raise CheckpointError(error.what, error.path) from None
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        what = f"does not hold the state of such a run ({type(error).__name__}: {error})"
        raise CheckpointError(what, path) from None


def read_recipe(path: Path) -> Recipe | None:
    """Read the recipe that a verified checkpoint was trained by; None where its version did not keep that.

    Raises `CheckpointError` for one that this version does not understand.
    """
    with _as_checkpoint_errors(path):
        document = read_json(path / RECIPE)
    try:
        return validate(Recipe, document, str(path / RECIPE)) if document else None
    except RecipeError as error:
        raise CheckpointError(str(error)) from None


def read_networks(path: Path, translator: Translator) -> None:
    """Load the networks of a verified checkpoint into a translator. Raises `CheckpointError`."""
    for name, network in translator.modules.items():
        read_network(path, name, network)


def checkpoint_at(folder: Path, images: int) -> Path:
    """Return where in `folder` the checkpoint of a run that has seen `images` images lies."""
    return folder / f"{images:012d}"


def newest_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint that verifies, and why each newer one was refused."""
    refused: list[str] = []
    for path in reversed(_paths(folder)):
        fault = verify(path)
        if fault is None:
            return path, refused
        refused.append(f"{visible(path)}: {fault}")
    return None, refused


def best_checkpoint(folder: Path) -> Path | None:
    """Return the best checkpoint, as the newest that verifies names it; None where no evaluation has named any."""
    newest, _ = newest_checkpoint(folder)
    best = read_progress(newest).best if newest is not None else None
    return checkpoint_at(folder, best.images) if best is not None else None


def healthy_checkpoint(folder: Path, healthy_at: int) -> Path | None:
    """Return the newest checkpoint that verifies of those that were written at `healthy_at` images or before."""
    for path in reversed(_paths(folder)):
        if int(path.name) <= healthy_at and verify(path) is None:
            return path
    return None


def discard_after(path: Path) -> None:
    """Remove all checkpoints that are newer than the one at `path`."""
    for other in _paths(path.parent):
        if other.name > path.name:
            _remove(other)


def finish_replacements(folder: Path) -> None:
    """Restore, before a resume, a checkpoint that a killed process had moved aside in order to replace it."""
    if folder.is_dir():
        with files.as_disk_errors(folder):
            files.finish_exchanges(folder)


def machine() -> dict[str, str | int]:
    """Return what decides whether a CPU run repeats bit for bit."""
    return {"torch": torch.__version__, "threads": torch.get_num_threads(),
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none"}


def _write_shared_state(folder: Path, run: RunState) -> None:
    """Write what all processes have alike: networks, optimizers, progress, and the machine."""
    groups = {}
    for name, module in run.translator.modules.items():
        write_network(folder, name, module)
    for phase, optimizer in run.optimizers.items():
        tensors, groups[phase] = _optimizer_state(optimizer)
        write_tensors(folder / f"optimizer_{phase}.safetensors", tensors)
    scaler = run.accelerator.scaler
    files.write_json(folder / RECIPE, absolute(run.recipe).dump())
    files.write_json(folder / STATE, {
        "progress": run.progress.dump(), "groups": groups, "machine": machine(),
        "scaler": scaler.state_dict() if scaler is not None else None,
        "num_processes": run.accelerator.num_processes})


def _optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Return an optimizer's tensors, as <index of the parameter>.<key>, and its groups, which JSON can hold."""
    state = optimizer.state_dict()
    tensors = {f"{index}.{key}": torch.as_tensor(value) for index, values in state["state"].items()
               for key, value in values.items() if value is not None}
    return tensors, state["param_groups"]


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], groups: list[dict[str, Any]]) -> None:
    """Take over what `_optimizer_state` returned, each tensor in the memory layout of its parameter as it was.

    Whether a step is fused is this machine's own affair, and not that of the one that saved it.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    groups = [group | {key: own[key] for key in ("fused",) if key in own}
              for group, own in zip(groups, optimizer.param_groups, strict=True)]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value).detach()


def _rotate(folder: Path, newest: Path, keep: int, progress: Progress) -> None:
    """Remove the checkpoints that nobody needs any more, and those after `newest`, which a resume refused."""
    paths = _paths(folder)
    whole = [path for path in paths if path.name <= newest.name and (path / MANIFEST).is_file()]
    kept = whole[-keep:]
    if progress.best is not None:
        kept.append(checkpoint_at(folder, progress.best.images))

    # The guard's way back, and what was the best there: a rollback discards whatever was better since. A healthy
    # checkpoint that has rotted is no way back, and its best is not needed.
    if progress.healthy_at is not None:
        for healthy in [path for path in whole if int(path.name) <= progress.healthy_at][-1:]:
            kept.append(healthy)
            with suppress(CheckpointError):
                if (best := read_progress(healthy).best) is not None:
                    kept.append(checkpoint_at(folder, best.images))

    for path in paths:
        if path not in kept:
            _remove(path)


def _paths(folder: Path) -> list[Path]:
    """Return all that may be checkpoints, from the oldest to the newest. What has another name is not ours."""
    return sorted(path for path in folder.glob("[0-9]*") if re.fullmatch(r"\d{12,15}", path.name) and path.is_dir())


def _remove(path: Path) -> None:
    if not path.is_symlink():
        (path / MANIFEST).unlink(missing_ok=True)  # first: a checkpoint that is half removed must not verify
    files.remove_folder(path)


def _bytes_needed(run: RunState) -> int:
    """Return about how many bytes a checkpoint of this run takes."""
    weights = sum(tensor.nbytes for module in run.translator.modules.values()
                  for tensor in module.state_dict().values())
    moments = sum(value.nbytes for optimizer in run.optimizers.values() for values in optimizer.state.values()
                  for value in values.values() if isinstance(value, Tensor))
    pools = sum(image.nbytes for pool in run.translator.pools.values() for image in pool.images)
    return weights + moments + pools
