"""Processes of one training that must go the same way: what one decides, and what one raises, is heard by all.

All of them wait for each other in the operations of a step. One that left alone, by an error of its own, would leave
the others waiting for what never comes. Every process calls these functions alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from translate.errors import DoesNotFit, TranslateError
from translate.precision import is_out_of_memory

if TYPE_CHECKING:  # who only reads weights has no use for it
    from accelerate import Accelerator

Made = TypeVar("Made")


def in_any_process(here: bool, accelerator: Accelerator) -> bool:
    """Tell whether it is so in any process; all of them get the same answer."""
    if accelerator.num_processes == 1:
        return here
    flag = torch.tensor([float(here)], device=accelerator.device)
    torch.distributed.all_reduce(flag)
    return bool(flag.item())


@contextmanager
def heard_by_all(accelerator: Accelerator) -> Iterator[None]:
    """Raise in all processes an error that the block raises in one; wait for all of them at its end.

    Of several processes it is a `TranslateError` also where a library has raised something else: that might not be one
    that can be sent, and all must end in the same way. It is `DoesNotFit` where memory ran out. The process that had
    the error raises the error itself, from what caused it; the others raise a copy.
    """
    if accelerator.num_processes == 1:
        yield
        return
    fault: TranslateError | None = None
    cause: Exception | None = None
    try:
        yield
    except TranslateError as error:
        fault = error
    except Exception as error:
        cause = error
        kind = DoesNotFit if is_out_of_memory(error) else TranslateError
        fault = kind(f"{type(error).__name__}: {error}".removesuffix(": "))

    # Nearly always there is nothing to tell: one flag, and no objects, goes round.
    if in_any_process(fault is not None, accelerator):
        faults: list[Any] = [None] * accelerator.num_processes
        torch.distributed.all_gather_object(faults, fault)
        first = next(rank for rank, each in enumerate(faults) if each is not None)
        if fault is None or first != accelerator.process_index:
            raise faults[first]
        raise fault from cause or fault.__cause__


def by_main_process(decide: Callable[[], Made], accelerator: Accelerator) -> Made:
    """Return in all processes what the main one decides. An error of it is raised in all, see `heard_by_all`."""
    decided: list[Any] = [None]
    with heard_by_all(accelerator):
        if accelerator.is_main_process:
            decided = [decide()]
    if accelerator.num_processes > 1:
        torch.distributed.broadcast_object_list(decided)
    made: Made = decided[0]
    return made
