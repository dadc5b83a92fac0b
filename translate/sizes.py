"""Numbers as text for people: sizes of memory (read from what they write, too), speeds, durations, counts."""

from __future__ import annotations

import re

from translate.errors import UsageError

UNIT_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}  # of 1000 or 1024


def num_bytes(size: int | str) -> int:
    """Return the bytes (1 or more) that `size` means: a number of bytes, or text such as 800MB, 4GB (10⁹), 4GiB (2³⁰).

    Raises `UsageError` for anything else, also for text without a unit: a plain 2 may be meant as bytes or gigabytes.
    """
    found = re.fullmatch(r"\s*(\d{1,15}(?:\.\d+)?)\s*([kmgt])(i?)b?\s*", str(size), re.IGNORECASE | re.ASCII)
    if isinstance(size, int):
        number = size
    else:
        number = int(float(found[1]) * (1024 if found[3] else 1000) ** UNIT_POWERS[found[2].lower()]) if found else 0
    if number > 0:
        return number
    raise UsageError(f"{size!r} is not a size of memory; write it as 800MB, 4GB or 4GiB")


def plural(number: int, what: str) -> str:
    """Return a number with what it counts: 1 image, 2 images."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def format_bytes(size: float) -> str:
    """Return bytes as text, in KiB, MiB or GiB."""
    if 0 < size < 2**20:
        return f"{max(size / 2**10, 1):.0f} KiB"
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def format_speed(per_second: float, unit: str = "images") -> str:
    """Return a speed as text: `2.5 images/s`, or `4.0 s/image` where that is less than one a second."""
    if 0 < per_second < 1:
        return f"{1 / per_second:.1f} s/{unit.removesuffix('s')}"
    return f"{per_second:.1f} {unit}/s"


def format_duration(seconds: float) -> str:
    """Return a time as text, in the unit that suits it: `3.2 s`, `40 s`, `12 min`, `3.4 h`, `2.1 days`."""
    for unit, length, most in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48)):
        if seconds < most * length:
            amount = seconds / length
            return f"{amount:.1f} {unit}" if unit != "min" and amount < 9.95 else f"{amount:.0f} {unit}"
    days = seconds / 86400
    return f"{days:.1f} days" if days < 9.95 else f"{days:,.0f} days"
