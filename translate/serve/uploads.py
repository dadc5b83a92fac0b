"""A body of a form read into a file: no more bytes, parts or seconds than allowed, and nothing of it as a path."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from translate.images.listing import SUFFIXES
from translate.serve.limits import Limits, Refused
from translate.serve.line import Line
from translate.sizes import format_bytes

FILE_FIELD = "image"
FIELD_BYTES, NUM_PARTS = 1_000, 12  # of a value that is no file; of a form
HEADER_BYTES = 4_096  # of a header of a part; the parser has a limit only in newer versions
FORM_BYTES = 64_000  # of a body, besides the file
LOOK_SECONDS = 0.5  # between two looks at whether the server is about to end


@dataclass
class Form:
    """What a form held: its values, and what the file was called, where there was one."""

    values: dict[str, str] = field(default_factory=dict)
    filename: str | None = None

    @property
    def suffix(self) -> str:
        """The suffix of the file, if it is one of an image; nothing else of its name is ever part of a path."""
        suffix = Path(self.filename or "").suffix
        return suffix if suffix.lower() in SUFFIXES else ""

    @property
    def stem(self) -> str:
        """The file's name without folders and suffix, for the name of what is made of it."""
        name = (self.filename or "").replace("\\", "/").rpartition("/")[2]
        return Path("".join(letter for letter in name if letter.isprintable())[:200]).stem or "image"


class _Reader:
    """Takes what the parser finds: the file's bytes go to `file`, all else is small."""

    def __init__(self, file: BinaryIO):
        self.form, self.is_whole = Form(), False
        self._file, self._num_parts = file, 0
        self._header = self._value = b""
        self._name = ""
        self._content = b""
        self._is_file = False

    def on_part_begin(self) -> None:
        self._num_parts += 1
        if self._num_parts > NUM_PARTS:
            raise Refused(400, f"the form has more than {NUM_PARTS} parts")
        self._name, self._content, self._is_file = "", b"", False

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._check_header()

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._check_header()

    def _check_header(self) -> None:
        if len(self._header) + len(self._value) > HEADER_BYTES:
            raise Refused(400, f"a header of the form has more than {HEADER_BYTES} bytes")

    def on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            options = parse_options_header(self._value.decode("latin-1"))[1]
            self._name = options.get(b"name", b"").decode("utf-8", "replace")
            if self._name == FILE_FIELD:
                if self.form.filename is not None:
                    raise Refused(400, "the form holds several images; send each on its own")
                self.form.filename = options.get(b"filename", b"").decode("utf-8", "replace")
                self._is_file = True
        self._header = self._value = b""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._file.write(data[start:end])
            return
        self._content += data[start:end]
        if len(self._content) > FIELD_BYTES:
            raise Refused(400, f"{self._name[:40]!r}: expected a short text; the image is the file {FILE_FIELD!r}")

    def on_part_end(self) -> None:
        if not self._is_file:
            self.form.values[self._name] = self._content.decode("utf-8", "replace")

    def on_end(self) -> None:
        self.is_whole = True


async def read_form(request: Request, file: BinaryIO, limits: Limits, line: Line) -> Form:
    """Read a form with an image into `file`. Raises `Refused`, and `ClientDisconnect`."""
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise Refused(415, f"expected a form (multipart/form-data) with the file {FILE_FIELD!r}")
    reader = _Reader(file)
    callbacks: Any = {name: getattr(reader, name) for name in dir(reader) if name.startswith("on_")}
    try:
        parser = MultipartParser(options[b"boundary"], callbacks)
        async for piece in _pieces(request, limits, line):
            parser.write(piece)
        parser.finalize()
    except FormParserError:
        raise Refused(400, "the body is no form that can be read") from None
    if not reader.is_whole or reader.form.filename is None:
        raise Refused(400, f"the form holds no file {FILE_FIELD!r}, or was cut off")
    file.flush()
    return reader.form


async def _pieces(request: Request, limits: Limits, line: Line) -> AsyncIterator[bytes]:
    """Yield a body as it arrives, as long as it keeps to the limits."""
    most = limits.upload_bytes + FORM_BYTES
    too_large = Refused(413, f"the image is larger than {format_bytes(limits.upload_bytes)}")
    length = request.headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit() and len(length) < 20) or int(length) > most:
        raise too_large
    total, end = 0, time.monotonic() + limits.upload_seconds
    while True:
        # The next piece; meanwhile the server may be asked to end.
        waiting = asyncio.ensure_future(request.receive())
        idle = time.monotonic() + limits.idle_seconds
        try:
            while not waiting.done():
                await asyncio.wait([waiting], timeout=max(min(LOOK_SECONDS, idle - time.monotonic()), 0.01))
                line.check()
                if time.monotonic() > min(idle, end) and not waiting.done():
                    raise Refused(408, "the image arrived too slowly")
        finally:
            waiting.cancel()

        message = waiting.result()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        total += len(message.get("body", b""))
        if total > most:
            raise too_large
        if time.monotonic() > end:
            raise Refused(408, "the image arrived too slowly")
        request.state.is_read = not message.get("more_body", False)
        yield message.get("body", b"")
        if request.state.is_read:
            return


async def drain(request: Request, seconds: float) -> bool:
    """Read on a little after a refusal, so that the answer is seen by who still sends. Returns whether all was read."""
    end = time.monotonic() + seconds
    while not getattr(request.state, "is_read", False):
        try:
            message = await asyncio.wait_for(request.receive(), max(end - time.monotonic(), 0.0))
        except TimeoutError:
            return False
        if message["type"] == "http.disconnect":
            return False
        request.state.is_read = not message.get("more_body", False)
    return True
