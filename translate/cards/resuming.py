"""Downloading one file over HTTP, going on where an interrupted download ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import requests

from translate.errors import DataError, DiskError, is_disk_fault

SECONDS_BETWEEN_LINES = 2.0
TIMEOUT = 60.0  # seconds without a byte
PIECE = 1 << 14  # bytes written at once; a connection that breaks takes a part of one with it
PARTIAL_CONTENT = 206

Say = Callable[[str], None]


def download(url: str, target: Path, say: Say) -> Path:
    """Download `url` into the file `target`, unless that is there, and return it.

    What has arrived lies beside it, `<target>.part`, until all has; so a file of the name `target` is complete. An
    interrupted download goes on behind the last byte, where the server says that its file is still the same one
    (RFC 9110, section 13.1.5); else it begins anew.

    Raises `DataError` saying why nothing more came, with what has come kept; `DiskError`.
    """
    part = target.with_name(f"{target.name}.part")
    if target.exists():
        return target
    try:
        _go_on(url, part, say)
        part.rename(target)
    except OSError as error:  # requests' errors are OSErrors, too
        if is_disk_fault(error):
            raise DiskError.of(error, target.parent) from error
        raise DataError(f"{url} could not be downloaded: {error}") from error
    _version_of(part).unlink(missing_ok=True)
    return target


def _go_on(url: str, part: Path, say: Say) -> None:
    """Add to the file `part` what of `url` it does not hold. Raises `OSError`."""
    # Ask for the rest of what the server called by this tag or date, or for all of anything else.
    version = _version_of(part)
    asked: dict[str, str] = {"Accept-Encoding": "identity"}  # bytes as they are stored, so that they can be counted
    if part.exists() and version.exists():
        asked |= {"Range": f"bytes={part.stat().st_size}-", "If-Range": version.read_text(encoding="utf-8")}
    with requests.get(url, headers=asked, stream=True, timeout=TIMEOUT) as answer:
        goes_on = answer.status_code == PARTIAL_CONTENT
        done = part.stat().st_size if goes_on else 0
        if answer.status_code == requests.codes.requested_range_not_satisfiable or (
                goes_on and not answer.headers.get("Content-Range", "").startswith(f"bytes {done}-")):
            part.unlink()
            return _go_on(url, part, say)
        answer.raise_for_status()
        total = done + int(answer.headers.get("Content-Length", 0))
        if goes_on:
            say(f"{part.stem}: going on after {done / 1e6:,.0f} MB")

        # A weak tag or no tag at all does not promise the same bytes: there, the next try begins anew.
        tag = answer.headers.get("ETag", "")
        version.unlink(missing_ok=True)
        if name := tag if tag.startswith('"') else answer.headers.get("Last-Modified", ""):
            version.write_text(name, encoding="utf-8")

        last = time.monotonic()
        with part.open("ab" if goes_on else "wb") as file:
            for piece in answer.iter_content(PIECE):
                done += file.write(piece)
                if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
                    last = time.monotonic()
                    say(f"{part.stem}: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB")
        if done < total:
            raise requests.ConnectionError(f"the connection ended after {done:,} of {total:,} bytes")
    return None


def _version_of(part: Path) -> Path:
    """Return the file that notes which version of its file the server has begun to send."""
    return part.with_name(f"{part.name}.version")
