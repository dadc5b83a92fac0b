"""How many images a conversion reads ahead and writes behind: one for each core, fewer where memory is short."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from translate.convert.jobs import Job
from translate.convert.memory_share import MemoryShare
from translate.convert.pools import Decoders
from translate.errors import ImageError, visible
from translate.host.cores import cores_for_each
from translate.images.decoder_process import Request, SizeRequest
from translate.sizes import format_bytes

MOST_WORKERS = 16  # of `auto`: as many write more than any disk takes and any card gives
NUM_LOOKED_AT = 8  # images whose heads are read, to tell what those of a folder take


def workers_by_cores() -> int:
    """Return one for each core that this process may use; none on a single one."""
    cores = cores_for_each()
    return 0 if cores == 1 else min(cores, MOST_WORKERS)


@dataclass(frozen=True)
class Workers:
    """How many there are, and why not as many as were asked for."""

    number: int
    reason: str = ""


def that_fit(asked: int, jobs: Sequence[Job], decoders: Decoders, request: Callable[[Job], Request],
             share: MemoryShare) -> Workers:
    """Return as many of the `asked` workers as images in flight find room for: an image beyond its part goes alone.

    The largest of a few of the `jobs` counts, by their heads; `request` is what would be asked of the reader of each.
    Raises `NoDecoder`.
    """
    if asked < 2 or not jobs:
        return Workers(asked)
    largest, path = 0, jobs[0].source
    for job in jobs[::max(1, len(jobs) // NUM_LOOKED_AT)][:NUM_LOOKED_AT]:
        with suppress(ImageError):  # its turn will tell
            largest, path = max((largest, path), (decoders.size(SizeRequest(request(job))), job.source))
    number = next((each for each in range(asked, 1, -1) if largest <= share.shared_by(each).for_each), 1)
    if number == asked:
        return Workers(asked)
    return Workers(number, f"workers: {number} in place of {asked}, as {visible(path.name)} takes "
                   f"{format_bytes(largest)} on its way, and all images on theirs may take "
                   f"{format_bytes(share.in_flight)} ({share.total.limit_from})")
