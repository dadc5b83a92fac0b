"""The processes of a training: Accelerate's part in it, and networks that are the same in all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from translate.errors import TranslateError, UsageError

Made = TypeVar("Made")


def prepare_for_processes(modules: dict[str, torch.nn.Module], accelerator: Accelerator) -> None:
    """With several processes: the same weights everywhere, and batch norm over the whole batch. Raises `UsageError`."""
    if accelerator.num_processes == 1:
        return
    for name, module in modules.items():
        if any(isinstance(part, _BatchNorm) for part in module.modules()):
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
        """The means of all since the last time; empty where nothing came."""
        sums, self.sums = self.sums, {}
        if not sums:
            return {}
        means = torch.stack([total.float() / steps for total, steps in sums.values()])
        return dict(zip(sums, accelerator.reduce(means, "mean").tolist(), strict=True))


def by_main_process(decide: Callable[[], Made], accelerator: Accelerator) -> Made:
    """What the main process decides, in all of them. A `TranslateError` of it is raised in all."""
    decided: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            decided = [decide()]
        except TranslateError as error:  # the others wait, and must hear of it
            decided = [error]
    (made,) = broadcast_object_list(decided)
    if isinstance(made, TranslateError):
        raise made
    return made


def in_any_process(here: bool, accelerator: Accelerator) -> bool:
    """Whether it is so in any process; all of them get the same answer."""
    if accelerator.num_processes == 1:
        return here
    flag = torch.tensor([float(here)], device=accelerator.device)
    torch.distributed.all_reduce(flag)
    return bool(flag.item())
