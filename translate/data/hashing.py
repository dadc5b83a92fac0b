"""Hashes that name samples and seed their chance: the same in every process, on every machine."""

from __future__ import annotations

import hashlib


def stable_hash(*parts: int | str) -> int:
    """Return 63 bits that depend on `parts` alone, in every process and every version of Python (unlike `hash`)."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
