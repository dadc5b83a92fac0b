"""Sizes of memory in words: read as people write them, and written as they read them."""

from __future__ import annotations

import re

from translate.errors import UsageError

POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}


def num_bytes(size: int | str) -> int:
    """Bytes, more than none, from a number of them, or from text such as 800MB, 4GB (10⁹) or 4GiB (2³⁰).

    Text without a unit means nothing: 2 is as likely meant for gigabytes. Raises `UsageError`.
    """
    found = re.fullmatch(r"\s*(\d{1,15}(?:\.\d+)?)\s*([kmgt])(i?)b?\s*", str(size), re.IGNORECASE | re.ASCII)
    if isinstance(size, int):
        number = size
    else:
        number = int(float(found[1]) * (1024 if found[3] else 1000) ** POWERS[found[2].lower()]) if found else 0
    if number > 0:
        return number
    raise UsageError(f"{size!r} is not a size of memory; write it as 800MB, 4GB or 4GiB")


def amount(num_bytes: float) -> str:
    """Bytes as a person reads them."""
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"
