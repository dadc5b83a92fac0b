"""The state of a run on the disk: written whole or not at all, verified when read, and nothing in it runs code.

A checkpoint is a folder: tensors in safetensors files, everything else in `state.json`, and a `MANIFEST.json` with the
size and SHA-256 of every file, written last. The folder is built under a temporary name, flushed and renamed; only then
are older ones removed. A folder whose manifest does not verify is never loaded, and is named.

Each process writes its own `rank<k>.safetensors` (image pools, random states) into the same folder, so all processes
must see the same file system.
"""

from __future__ import annotations

import json
import math
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from accelerate import Accelerator
from torch import Tensor

from translate import files
from translate.errors import CheckpointError, DiskError, is_disk_fault
from translate.translators import Translator

MANIFEST = "MANIFEST.json"
STATE = "state.json"


@dataclass(frozen=True)
class Best:
    """The checkpoint at `images` has the best `metric` of all that were evaluated, on `num_images` held-out images."""

    images: int
    metric: str
    value: float
    num_images: int


@dataclass
class Progress:
    """Where a run stands. `images` counts all images, `stage_images` those of the current stage."""

    images: int = 0
    stage: int = 0
    stage_images: int = 0
    evaluated: int = 0  # `images` at the last evaluation
    best: Best | None = None
    since_best: int = 0  # evaluations that were not better
    rollbacks: int = 0  # how often the run has gone back to a healthy checkpoint; each time its data are others
    clear: int | None = None  # `images` at the last look of the guard that showed no sign; None: it needs no way back
    guard: dict[str, Any] = field(default_factory=dict)  # what the guard remembers

    def compare(self, metric: str, value: float | None, num_images: int, higher_is_better: bool) -> bool:
        """Note a new best, or that there was none; whether this is one. What was measured otherwise does not count."""
        if self.best is not None and (self.best.metric, self.best.num_images) != (metric, num_images):
            self.best = None
        sign = 1 if higher_is_better else -1
        if value is not None and not math.isnan(value) and (self.best is None or sign * value > sign * self.best.value):
            self.best, self.since_best = Best(self.images, metric, value, num_images), 0
            return True
        self.since_best += self.best is not None
        return False

    def why_stop(self, patience: int | None, num_images: int) -> str:
        """Why a run of `num_images` is to end now, where `patience` evaluations have brought no better one; else ''."""
        if patience is None or self.best is None or self.since_best < patience:
            return ""
        return (f"stopped early at {self.images:,} of {num_images:,} images: {self.best.metric} was best at "
                f"{self.best.images:,} images ({self.best.value:.5g}), and no better in the {self.since_best} "
                f"evaluations since (evaluate.patience: {patience}); a resume with more patience goes on")

    def load(self, saved: dict[str, Any]) -> None:
        """Take what a checkpoint says; one of an older version says less."""
        self.__dict__.update(saved)
        self.best = Best(**saved["best"]) if saved.get("best") else None


@dataclass
class RunState:
    """The parts of a run that change while it trains, and that a checkpoint therefore holds."""

    progress: Progress
    translator: Translator
    optimizers: dict[str, torch.optim.Optimizer]
    accelerator: Accelerator


def save_checkpoint(folder: Path, run: RunState, keep: int) -> Path:
    """Write the run's state to `folder`/<images>; keep the newest `keep` checkpoints, the best, the newest that the
    guard calls healthy, and the best that this one knows. Every process calls this.

    Raises `DiskError` when the disk is full; all earlier checkpoints are then intact.
    """
    final = checkpoint_at(folder, run.progress.images)
    building = folder / f"{files.TEMPORARY}{final.name}"
    accelerator = run.accelerator
    try:
        if accelerator.is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            for stale in folder.glob(f"{files.TEMPORARY}*"):  # of a process that was killed while it wrote
                shutil.rmtree(stale, ignore_errors=True)
            building.mkdir()
        accelerator.wait_for_everyone()
        pool_images, pool_random = _pool_state(run.translator)
        _write_tensors(building / f"rank{accelerator.process_index}.safetensors", pool_images | _random_state())
        files.write_json(building / f"rank{accelerator.process_index}.json", pool_random)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            _write_shared_state(building, run)
            seal(building)
            _publish(building, final)
            _rotate(folder, final, keep, run.progress)
    except OSError as error:
        shutil.rmtree(building, ignore_errors=True)
        raise DiskError.of(error, final, _bytes_needed(run) if is_disk_fault(error) else None) from error
    accelerator.wait_for_everyone()
    return final


def restore_checkpoint(path: Path, run: RunState) -> list[str]:
    """Load a verified checkpoint into the run, in place. Returns what differs between then and now, for a warning.

    The networks have the shape of its stage by then (`read_progress`, `Translator.enter`).
    """
    state = json.loads((path / STATE).read_text())
    processes = run.accelerator.num_processes
    if state["num_processes"] != processes:
        raise CheckpointError(f"{path}: was written by {state['num_processes']} processes and there are {processes}; "
                              "resume with as many (each has its own image pools)")
    for name, module in run.translator.modules.items():
        try:
            module.load_state_dict(read_tensors(path / f"{name}.safetensors"))
        except RuntimeError as error:
            raise CheckpointError(f"{path}/{name}.safetensors: not the network of this recipe: {error}") from None
    for phase, optimizer in run.optimizers.items():
        _load_optimizer(optimizer, read_tensors(path / f"optimizer_{phase}.safetensors"), state["groups"][phase])
    if run.accelerator.scaler is not None and state["scaler"]:
        run.accelerator.scaler.load_state_dict(state["scaler"])
    rank = run.accelerator.process_index
    own = read_tensors(path / f"rank{rank}.safetensors")
    pool_random = json.loads((path / f"rank{rank}.json").read_text())
    for name, pool in run.translator.pools.items():
        slots = sorted((key for key in own if key.startswith(f"{name}.")), key=lambda key: int(key.split(".")[1]))
        pool.load([own[key] for key in slots], pool_random[name])
    torch.set_rng_state(own["random_cpu"])
    if "random_cuda" in own and torch.cuda.is_available():
        torch.cuda.set_rng_state(own["random_cuda"])
    run.progress.load(state["progress"])
    return [f"{what}: {state['machine'][what]} then, {now} now" for what, now in machine().items()
            if state["machine"].get(what) != now]


def read_progress(path: Path) -> Progress:
    """Where the run of a verified checkpoint stood."""
    progress = Progress()
    progress.load(json.loads((path / STATE).read_text())["progress"])
    return progress


def checkpoint_at(folder: Path, images: int) -> Path:
    """Where the checkpoint of a run that has seen `images` images lies."""
    return folder / f"{images:012d}"


def best_checkpoint(folder: Path) -> Path | None:
    """The best checkpoint, as the newest one that verifies names it; None where no evaluation has named any."""
    newest, _ = newest_checkpoint(folder)
    best = json.loads((newest / STATE).read_text())["progress"].get("best") if newest is not None else None
    return checkpoint_at(folder, best["images"]) if best else None


def put_back(folder: Path) -> None:
    """Before a resume: what a rollback was about to replace, and a kill left under another name, is there again."""
    if folder.is_dir():
        with files.naming_disk_faults(folder):
            files.finish_exchanges(folder)


def newest_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that verifies, and why each newer one was refused."""
    refused: list[str] = []
    for path in reversed(_paths(folder)):
        fault = verify(path)
        if fault is None:
            return path, refused
        refused.append(f"{path}: {fault}")
    return None, refused


def verify(path: Path) -> str | None:
    """What is wrong with a checkpoint or release folder; None when its manifest matches every file."""
    try:
        manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text())
        for name, entry in manifest.items():
            file = path / name
            if Path(name).name != name:
                return f"{name!r} in the manifest is not the name of a file in this folder"
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != entry["size"]:
                return f"{name} has {file.stat().st_size:,} bytes, not {entry['size']:,}"
            if files.sha256(file) != entry["sha256"]:
                return f"{name} does not have the checksum it was written with"
    except FileNotFoundError:
        return f"there is no {MANIFEST}: it was not finished"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    return None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; raises `CheckpointError` naming the file."""
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: {error}") from None


def read_networks(checkpoint: Path, translator: Translator) -> None:
    """Put the networks of a checkpoint into a translator whose training has ended."""
    for name, module in translator.modules.items():
        module.load_state_dict(read_tensors(checkpoint / f"{name}.safetensors"))


def write_network(folder: Path, name: str, network: torch.nn.Module) -> None:
    """A network's weights and buffers as `<name>.safetensors`."""
    _write_tensors(folder / f"{name}.safetensors", dict(network.state_dict()))


def seal(folder: Path) -> None:
    """Write the manifest of everything in `folder`; from then on `verify` accepts it."""
    names = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)
    files.write_json(folder / MANIFEST, {name: {"size": (folder / name).stat().st_size,
                                                "sha256": files.sha256(folder / name)} for name in names})


def machine() -> dict[str, str | int]:
    """What decides whether a CPU run repeats bit for bit."""
    return {"torch": torch.__version__, "threads": torch.get_num_threads(),
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none"}


def _write_shared_state(folder: Path, run: RunState) -> None:
    groups = {}
    for name, module in run.translator.modules.items():
        write_network(folder, name, module)
    for phase, optimizer in run.optimizers.items():
        tensors, groups[phase] = _optimizer_state(optimizer)
        _write_tensors(folder / f"optimizer_{phase}.safetensors", tensors)
    scaler = run.accelerator.scaler
    files.write_json(folder / STATE, {
        "progress": asdict(run.progress), "groups": groups, "machine": machine(),
        "scaler": scaler.state_dict() if scaler is not None else None,
        "num_processes": run.accelerator.num_processes})


def _optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    state = optimizer.state_dict()
    tensors = {f"{index}.{key}": torch.as_tensor(value) for index, values in state["state"].items()
               for key, value in values.items() if value is not None}
    return tensors, state["param_groups"]


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], groups: list[dict[str, Any]]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for parameter, values in optimizer.state.items():  # as they were: in the memory layout of their parameter
        for key, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value).detach()


def _pool_state(translator: Translator) -> tuple[dict[str, Tensor], dict[str, list[object]]]:
    images: dict[str, Tensor] = {}
    states: dict[str, list[object]] = {}
    for name, pool in translator.pools.items():
        held, states[name] = pool.state()
        images |= {f"{name}.{slot}": image for slot, image in enumerate(held)}
    return images, states


def _random_state() -> dict[str, Tensor]:
    state = {"random_cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["random_cuda"] = torch.cuda.get_rng_state()
    return state


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    files.write_bytes(path, safetensors.torch.save(plain))


def _publish(building: Path, final: Path) -> None:
    """Rename into place. One that stands there already was refused by the resume that led here: it makes room."""
    files.exchange_folder(building, final)


def healthy_checkpoint(folder: Path, clear: int) -> Path | None:
    """The newest checkpoint that verifies of those that were written at `clear` images or before."""
    for path in reversed(_paths(folder)):
        if int(path.name) <= clear and verify(path) is None:
            return path
    return None


def discard_after(path: Path) -> None:
    """Remove all checkpoints that are newer than the one at `path`."""
    for other in _paths(path.parent):
        if other.name > path.name:
            _remove(other)


def _rotate(folder: Path, newest: Path, keep: int, progress: Progress) -> None:
    """Remove all but the last `keep`, the best, the newest healthy one and what was the best then. Later ones were
    refused by the resume that led here."""
    paths = _paths(folder)
    whole = [path for path in paths if path.name <= newest.name and (path / MANIFEST).is_file()]
    kept = whole[-keep:]
    if progress.best is not None:
        kept.append(checkpoint_at(folder, progress.best.images))
    if progress.clear is not None:
        for healthy in [path for path in whole if int(path.name) <= progress.clear][-1:]:
            kept.append(healthy)
            with suppress(OSError, ValueError, KeyError):  # it may have rotted; then there is no way back to it
                if (best := read_progress(healthy).best) is not None:  # a rollback discards what was better since
                    kept.append(checkpoint_at(folder, best.images))
    for path in paths:
        if path not in kept:
            _remove(path)


def _paths(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[0-9]*") if path.is_dir())


def _remove(path: Path) -> None:
    (path / MANIFEST).unlink(missing_ok=True)  # first, so that a half-removed one is not taken for a whole
    shutil.rmtree(path, ignore_errors=True)


def _bytes_needed(run: RunState) -> int:
    weights = sum(tensor.nbytes for module in run.translator.modules.values()
                  for tensor in module.state_dict().values())
    moments = sum(value.nbytes for optimizer in run.optimizers.values() for values in optimizer.state.values()
                  for value in values.values() if isinstance(value, Tensor))
    pools = sum(image.nbytes for pool in run.translator.pools.values() for image in pool.images)
    return weights + moments + pools
