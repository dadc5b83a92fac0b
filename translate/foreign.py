"""JSON that others may have written: the one place that reads it, and trusts nothing of it.

Run folders, releases, ledgers and adapted sets are copied, edited, cut off by a crash, and sent by strangers. What is
read from them is bounded in size and depth and held to a schema: a field that the reading code relies on is there and
of its type, or the file is refused by name. Fields that a schema does not know, as of a newer version, go along.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any

import pydantic

from translate.errors import DocumentError, visible
from translate.mistakes import shown

MAX_BYTES = 2**26  # of a document
MAX_LINE_BYTES = 2**22  # of one line of JSON lines, of which a file may have any number
CUT_LINE = b"!\n"  # which is no JSON
MAX_DEPTH = 20  # lists and objects inside each other

Document = dict[str, Any]
MAX_COUNT = 2**53
MAX_NUMBER = 1e30
Count = Annotated[int, pydantic.Field(ge=0, le=MAX_COUNT)]
Number = Annotated[float, pydantic.Field(ge=-MAX_NUMBER, le=MAX_NUMBER, allow_inf_nan=False)]
SHA256 = Annotated[str, pydantic.Field(pattern=r"^[0-9a-f]{64}$")]


class Shape(pydantic.BaseModel):
    """The fields of a document that somebody relies on. Others are let through."""

    model_config = pydantic.ConfigDict(extra="allow", strict=True)


@dataclass(frozen=True)
class Lines:
    """The records of a JSON-lines file, and in words what of it could not be read; empty for nothing.

    end   how many bytes there are up to the end of the last whole line
    """

    records: list[Document] = field(default_factory=list)
    fault: str = ""
    end: int = 0


def read_json(path: Path, shape: Any = Document, missing: Document | None = None) -> Document:
    """Return what a JSON file holds, as far as `shape` (a type, such as a `Shape`) allows it.

    Where there is no such file, return `missing`, an empty document unless given. Raises `DocumentError`, which names
    the file, for anything that is not such a document.
    """
    try:
        with opened(path) as file:
            text = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {} if missing is None else missing
    except OSError as error:
        raise DocumentError(error.strerror or str(error), path) from None
    if len(text) > MAX_BYTES:
        raise DocumentError(f"has more than the {MAX_BYTES:,} bytes that are read", path)
    try:
        return parse(text, shape)
    except ValueError as error:
        raise DocumentError(str(error), path) from None


def read_lines(path: Path, shape: Any = Document) -> list[Document]:
    """Return the records of a JSON-lines file, as `examine_lines` does, without what cannot be read.

    Raises `DocumentError` where the disk does not give what it holds.
    """
    try:
        return examine_lines(path, shape).records
    except OSError as error:
        raise DocumentError(error.strerror or str(error), path) from None


def examine_lines(path: Path, shape: Any = Document, start: int = 0) -> Lines:
    """Return the records of a JSON-lines file that `shape` allows, from byte `start` on; none where there is no file.

    A last line without an end, which a crash has cut, is left out without a word; any other that cannot be read is
    counted. Raises `OSError` where the disk does not give what it holds.
    """
    records: list[Document] = []
    damaged: list[int] = []
    end = start
    try:
        with opened(path) as file:
            file.seek(start)
            for number, line in enumerate(_lines(file), 1):
                end = file.tell() if line.endswith(b"\n") else end
                try:
                    if line.strip():
                        records.append(parse(line, shape))
                except ValueError:
                    if line.endswith(b"\n"):
                        damaged.append(number)
    except (FileNotFoundError, NotADirectoryError):
        return Lines()
    except DocumentError as error:
        return Lines(fault=error.what)
    more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
    fault = f"line {damaged[0]}{more} cannot be read and {'are' if more else 'is'} left out" if damaged else ""
    return Lines(records, fault, end)


def each_line(path: Path, shape: Any, start: int = 0) -> Iterator[tuple[int, int, Any]]:
    """Yield (where it starts, where it ends, what it says) of each whole line of a JSON-lines file from `start` on.

    What cannot be read says None. Several times as fast as `examine_lines`, for files of millions of lines. Raises
    `OSError`, also where there is no file, and `DocumentError` for what is none.
    """
    validate = _adapter(shape).validator.validate_json
    with opened(path) as file:
        file.seek(start)
        for line in _lines(file):
            if not line.endswith(b"\n"):
                return
            end = start + len(line) if len(line) > len(CUT_LINE) else file.tell()
            try:
                yield start, end, validate(line)
            except pydantic.ValidationError:
                if line.strip():
                    yield start, end, one_of_lines(line, shape)
            start = end


def one_of_lines(line: bytes, shape: Any) -> Any:
    """Return what a line of JSON says, in the form of a shape that ignores other fields; None where it is none."""
    adapter = _adapter(shape)
    try:
        return adapter.validator.validate_json(line)
    except pydantic.ValidationError:
        pass
    try:  # names that are no text stand as halves of a letter, which that parser does not take
        return adapter.validate_python(parse(line, shape))
    except ValueError:
        return None


def parse(text: bytes, shape: Any = Document) -> Document:
    """Return the object that a JSON text holds. Raises `ValueError`, which says what is wrong with it, in words."""
    try:
        document = json.loads(text)
    except RecursionError:
        raise ValueError(f"is nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:
        raise ValueError(f"is not JSON ({error})") from None
    if not isinstance(document, dict):
        raise ValueError(f"holds {shown(document)}, and an object was expected")
    if _is_deeper(document, MAX_DEPTH):
        raise ValueError(f"is nested deeper than {MAX_DEPTH}")
    hold_to(shape, document)
    return document


def hold_to(shape: Any, document: Document) -> None:
    """Raise `ValueError`, which names the first field that is wrong, unless a document is as `shape` says."""
    try:
        _adapter(shape).validate_python(document, strict=True)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        what = "is missing" if first["type"] == "missing" else f"{shown(first['input'])}: {first['msg'].lower()}"
        raise ValueError(f"{visible(where[:60])}: {what}") from None


def opened(path: Path) -> BufferedReader:
    """Open a file to be read, without waiting for the other end of a pipe. Raises `DocumentError` for what is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ELOOP):  # a socket, a device without a driver; links in a circle
            raise DocumentError("is no plain file", path) from None
        raise
    if not stat.S_ISREG(mode := os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DocumentError("is a folder, and a file was expected" if stat.S_ISDIR(mode) else "is no plain file", path)
    return open(path, "rb", opener=lambda *_: descriptor)  # which knows its name


def _lines(file: BufferedReader) -> Iterator[bytes]:
    """Yield the lines of a file with their ends; `CUT_LINE` in place of one that is too long."""
    for line in iter(functools.partial(file.readline, MAX_LINE_BYTES), b""):
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            while rest := file.readline(MAX_LINE_BYTES):
                if rest.endswith(b"\n"):
                    break
            line = CUT_LINE
        yield line


def _is_deeper(value: Any, levels: int) -> bool:
    """Return whether a value holds more than `levels` of lists and objects inside each other."""
    if not isinstance(value, dict | list):
        return False
    return levels == 0 or any(_is_deeper(each, levels - 1) for each in (
        value.values() if isinstance(value, dict) else value) if isinstance(each, dict | list))


@functools.cache
def _adapter(shape: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(shape)
