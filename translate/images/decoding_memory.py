"""What decoding an image takes: told by its head before it is decoded, and never more, whatever the file holds.

Two things may go wrong. An honest image may be larger than what is left of the memory: `decoding_bytes` says so in
time. And a file may hold far more than its head says (a strip of 16×16 pixels that unpacks to gigabytes, a picture
inside a tile that has a size of its own): no library bounds all of that, so `at_most` bounds the process. All that
decodes whole images does both (`bounded`), in a conversion as in a training.
"""

from __future__ import annotations

import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from translate.errors import ImageError, TooLarge
from translate.host.available_memory import Available, available_bytes
from translate.images.pictures import ImageInfo
from translate.sizes import format_bytes

# How many bytes the decoders hold at once for every byte of a decoded sample: Pillow keeps colours in four bytes, and
# copies them while it converts them and hands them over; OpenCV and tifffile copy samples as well.
COPIES = 7
GREY_MODES = ("1", "L", "I;16", "I;16B")  # of Pillow, which keeps them in the bytes of their samples
_ONE_AT_A_TIME = threading.RLock()
ASKED_FROM_BYTES = 250_000_000  # an image that takes less is decoded without asking what is left
SPARE_BYTES = 200_000_000  # what the libraries may take for themselves, over what an image should need


def decoding_bytes(info: ImageInfo, file_bytes: int) -> int:
    """Return what decoding a file takes at most, the file and the decoded image included, if its head is true."""
    sample_bytes = {8: 1, 16: 2}.get(info.bits, 4) if isinstance(info.bits, int) else 4
    samples = 1 if info.mode in GREY_MODES else max(info.channels, 3)
    return file_bytes + COPIES * (info.width * info.height * samples * sample_bytes + info.segment_bytes)


def check_memory(info: ImageInfo, file_bytes: int, path: Path, room: Available | None) -> None:
    """Raise `TooLarge`, before an image is decoded, where that would take more than there is `room` for."""
    needed = decoding_bytes(info, file_bytes)
    if room is not None and needed > room.bytes:
        raise TooLarge(path, "read", f"is {info.size}; decoding it takes {format_bytes(needed)}, and "
                         f"{format_bytes(room.bytes)} may be taken ({room.limit_from}); free memory, or save it as a "
                         "TIFF in tiles, which is read by rows")


@contextmanager
def bounded(info: ImageInfo, file_bytes: int, path: Path) -> Iterator[None]:
    """Let a block decode a file with what this takes by its head and no more. Raises `ImageError`.

    So also where that is more than there is: the system would kill this process, or another one.
    """
    needed = decoding_bytes(info, file_bytes)
    if needed > ASKED_FROM_BYTES:
        check_memory(info, file_bytes, path, available_bytes())
    with at_most(needed, path):
        yield


@contextmanager
def at_most(num_bytes: int, path: Path) -> Iterator[None]:
    """Let this process take `num_bytes`, and what its libraries may need, beyond what it has; else `ImageError`.

    For a block that decodes `path`. Linux only; elsewhere nothing is bounded.
    """
    if sys.platform != "linux":
        yield
        return

    # RLIMIT_DATA is for all that a process allocates; an allocation beyond it fails. One thread at a time:
    # each puts back the limit that it has found.
    with _ONE_AT_A_TIME:
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = allocated_bytes() + num_bytes + SPARE_BYTES
        is_tighter = soft == resource.RLIM_INFINITY or limit < soft
        if is_tighter:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
        try:
            yield
        except MemoryError as error:
            if not is_tighter:
                raise
            raise ImageError(path, "read", f"takes more than {format_bytes(num_bytes + SPARE_BYTES)} to decode, far "
                             "more than an image of its size should: it is damaged, or made to do harm") from error
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def allocated_bytes() -> int:
    """Return what this process has allocated by now, touched or not, as RLIMIT_DATA counts it (Linux)."""
    with open("/proc/self/status", "rb", buffering=0) as file:  # noqa: PTH123 (it is read for every image)
        status = file.readall()
    return int(status.partition(b"\nVmData:")[2].split(maxsplit=1)[0]) * 1024
