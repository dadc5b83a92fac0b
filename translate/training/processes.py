"""The processes of a training: Accelerate's part in it, and networks that are the same in all of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from torch import Tensor, nn

from translate.errors import UsageError
from translate.host.launcher import check_launcher
from translate.networks.statistics import has_batch_norm
from translate.precision import choose_precision
from translate.recipe import Recipe


def make_accelerator(recipe: Recipe, folder: Path) -> Accelerator:
    """Return Accelerate's part: the device, the processes, the gradient scaler of fp16, and the trackers."""
    check_launcher()

    # cpu=True makes Accelerate join torchrun's processes. Without it each process of a CPU would train alone.
    cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    state = PartialState(cpu=cpu)
    precision = choose_precision(recipe.precision, state.device)
    return Accelerator(cpu=cpu, mixed_precision="fp16" if precision == "fp16" else "no",
                       log_with=list(recipe.trackers) or None, project_dir=str(folder))


def check_shares(recipe: Recipe, num_processes: int) -> None:
    """Raise `UsageError` where a batch cannot be shared equally."""
    for number, stage in enumerate(recipe.stages):
        if stage.batch_size % num_processes:
            raise UsageError(f"stages.{number}.batch_size: {stage.batch_size} cannot be shared equally by "
                             f"{num_processes} processes; use a multiple of {num_processes}, as in --set "
                             f"stages.{number}.batch_size={num_processes}")


def prepare_for_processes(modules: dict[str, torch.nn.Module], accelerator: Accelerator) -> None:
    """Give several processes the same weights, and batch norm over the whole batch. Raises `UsageError`."""
    if accelerator.num_processes == 1:
        return
    for name, module in modules.items():
        if has_batch_norm(module):
            if accelerator.device.type != "cuda":
                raise UsageError(f"{name}: batch norm over several processes needs CUDA (SyncBatchNorm); on a CPU use "
                                 "norm: instance or none, or one process")
            torch.nn.SyncBatchNorm.convert_sync_batchnorm(module)
        module.to(accelerator.device)
        for tensor in [*module.parameters(), *module.buffers()]:
            torch.distributed.broadcast(tensor.data, src=0)


class Means:
    """Means of what steps bring, over steps and processes. Every process calls the methods alike."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[Tensor, int]] = {}  # and the number of steps that had it

    def add(self, values: dict[str, Tensor]) -> None:
        """Take in scalars on the device; not every step has all of them."""
        for name, value in values.items():
            total, steps = self.sums.get(name, (torch.zeros_like(value), 0))
            self.sums[name] = total + value, steps + 1

    def take(self, accelerator: Accelerator) -> dict[str, float]:
        """Return the means of all since the last time; empty where nothing came."""
        sums, self.sums = self.sums, {}
        if not sums:
            return {}
        means = torch.stack([total.float() / steps for total, steps in sums.values()])
        return dict(zip(sums, accelerator.reduce(means, "mean").tolist(), strict=True))


def average_gradients(networks: dict[str, nn.Module], accelerator: Accelerator) -> None:
    """Replace gradients by their means over all processes, in one flattened all-reduce."""
    if accelerator.num_processes == 1:
        return
    gradients = [parameter.grad for network in networks.values() for parameter in network.parameters()
                 if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    flat /= accelerator.num_processes
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def has_sync_batch_norm(networks: Iterable[nn.Module]) -> bool:
    """Tell whether a forward pass of these networks talks to other processes."""
    return any(isinstance(part, nn.SyncBatchNorm) for network in networks for part in network.modules())
