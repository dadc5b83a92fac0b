"""The chunks of a PNG: those that do not make its pixels are left out where they cannot be read.

A PNG is a signature and a row of chunks (PNG, third edition, section 5): four bytes of length, four letters of type,
the data, a checksum. A type that begins with a small letter is ancillary: the pixels can be decoded without it. Pillow
refuses the whole file for one such chunk that is damaged or too large, or leaves out in silence all that follow it; so
they are looked at here, before Pillow sees the file.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image

from translate.errors import ImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
END = struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))
TRANSPARENCY = b"tRNS"
SEEN = (TRANSPARENCY, b"acTL", b"fcTL", b"fdAT")  # ancillary by their letters, and a part of what one sees
CONTENTS = {b"tEXt": "text", b"zTXt": "text", b"iTXt": "text", b"iCCP": "colour profile", b"eXIf": "EXIF",
            b"pHYs": "resolution", b"tIME": "time", b"acTL": "animation", b"fcTL": "animation", b"fdAT": "animation"}


class Chunk(NamedTuple):
    """Where a chunk begins and ends in its file, its type, and, of an ancillary one, all of its bytes."""

    start: int
    stop: int
    type: bytes
    content: bytes = b""

    @property
    def is_whole(self) -> bool:
        """Whether it has all of its bytes, and the checksum that was written with them."""
        return (len(self.content) == self.stop - self.start
                and zlib.crc32(self.content[4:-4]) == struct.unpack(">I", self.content[-4:])[0])

    def __str__(self) -> str:
        return f"{CONTENTS.get(self.type, 'a private part')} ({self.type.decode('latin-1')})"


def without_bad_chunks(file: BinaryIO, path: Path) -> tuple[BinaryIO, tuple[str, ...]]:
    """Return a PNG without the ancillary chunks that cannot be read, and which these are, in words.

    The file itself, at its beginning, where there are none, and where it is no PNG. Raises `ImageError` for
    transparency that is damaged: without it, another image would be seen.
    """
    is_png = file.read(len(SIGNATURE)) == SIGNATURE
    chunks = list(_chunks(file)) if is_png else []
    ancillary = [chunk for chunk in chunks if chunk.content]
    bad = [chunk for chunk in ancillary if not chunk.is_whole]
    if any(chunk.type == TRANSPARENCY for chunk in bad):
        raise ImageError(path, "read", "its transparency (tRNS) is damaged; save it again from its source")

    # What has its checksum may still be more, or less, than Pillow takes.
    refused = _refused([chunk for chunk in ancillary if chunk.is_whole and chunk.type not in SEEN])
    reasons = ([f"left out its {chunk}, which is damaged" for chunk in bad]
               + [f"left out its {chunk}, which is too large or cannot be read" for chunk in refused])
    file.seek(0)
    if not reasons:
        return file, ()

    # All the rest of the file, in its order; its end may have gone with the last chunk.
    content, left_out = file.read(), {chunk.start for chunk in [*bad, *refused]}
    kept = b"".join(content[chunk.start:chunk.stop] for chunk in chunks if chunk.start not in left_out)
    ending = b"" if chunks[-1].type == b"IEND" else END
    return io.BytesIO(SIGNATURE + kept + ending), tuple(dict.fromkeys(reasons))


def _chunks(file: BinaryIO) -> Iterator[Chunk]:
    """Yield the chunks that follow, to the end or to what is no chunk. Only ancillary ones are read."""
    start = file.tell()
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if not name.isalpha() or length >= 1 << 31:
            return
        stop = start + 12 + length
        yield Chunk(start, stop, name, head + file.read(length + 4) if name[:1].islower() else b"")
        if name == b"IEND":
            return
        file.seek(stop)
        start = stop


def _refused(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Return the chunks that Pillow cannot read: of each by itself, or of all texts where they are too much together.
    """
    if _pillow_reads(chunks):
        return []
    refused = [chunk for chunk in chunks if not _pillow_reads([chunk])]
    if not _pillow_reads([chunk for chunk in chunks if chunk not in refused]):
        refused += [chunk for chunk in chunks if chunk not in refused and CONTENTS.get(chunk.type) == "text"]
    return refused


def _pillow_reads(chunks: Sequence[Chunk]) -> bool:
    """Try these chunks in an image of one pixel."""
    if not chunks:
        return True
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    pixel = _chunk(b"IDAT", zlib.compress(b"\0\0"))
    trial = io.BytesIO(SIGNATURE + header + b"".join(chunk.content for chunk in chunks) + pixel + END)
    try:
        with Image.open(trial, formats=("PNG",)) as image:
            # A profile that is no zlib stream is left out by Pillow without a word.
            return all(chunk.type != b"iCCP" for chunk in chunks) or bool(image.info.get("icc_profile"))
    except Exception:  # a chunk may bring up anything
        return False


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
