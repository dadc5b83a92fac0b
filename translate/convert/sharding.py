"""Several processes over one folder, started by torchrun or accelerate launch: the part of each, and one summary.

A launcher ends all processes as soon as one ends with an error, and a conversion with a broken file in it does. So they
wait for each other, and end alike.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from torch import distributed

from translate.convert import Summary
from translate.convert.jobs import Shard
from translate.errors import UsageError


def choose_shard(asked: str | None) -> Shard | None:
    """Return the part that was asked for (such as 2/4), else that of this process among a launcher's, if it has one.

    Raises `UsageError` for a part that is none, and where both are given.
    """
    num = int(os.environ.get("WORLD_SIZE", "1"))
    if asked is not None and num > 1:
        raise UsageError(f"--shard {asked}: the {num} processes of the launcher share the files by themselves; leave "
                         "it out")
    if asked is not None:
        return Shard.parse(asked)
    return Shard(int(os.environ["RANK"]) + 1, num) if num > 1 else None


def add_up(summary: Summary) -> Summary:
    """Wait for all processes of a launcher, and return what they have done together.

    One that a signal has stopped does not wait and returns its own summary: the others may be gone.
    """
    if summary.stopped or not distributed.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        return summary
    distributed.init_process_group("gloo", timeout=timedelta(days=30))
    try:
        parts: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(parts, summary)
    finally:
        distributed.destroy_process_group()
    whole = Summary(0)
    for part in parts:
        whole.add(part)
    return whole
