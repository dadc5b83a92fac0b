"""Files that hold far more than their head says, or far less; and what a process has had in memory."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from tests.conversions import noise


def false_header(folder: Path, width: int = 14_000, height: int = 14_000) -> Path:
    """A JPEG of a few bytes that says it has 196 megapixels."""
    file = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(file, "JPEG")
    content = file.getvalue()
    at = content.index(b"\xff\xc0") + 5
    path = folder / "001-false.jpg"
    path.write_bytes(content[:at] + struct.pack(">HH", height, width) + content[at + 4:])
    return path


def huge_tile(path: Path) -> None:
    """16×16 pixels in a tile of 32768×32768: 3 MB that unpack to 2 GB."""
    tifffile.imwrite(path, np.zeros((16, 16), np.uint16), tile=(16, 16), compression="zlib")
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        for name in ("TileWidth", "TileLength"):
            tag = tiff.pages[0].tags[name]
            size = 4 if tag.dtype == 4 else 2
            content[tag.valueoffset:tag.valueoffset + size] = (32768).to_bytes(size, "little")
    path.write_bytes(content)


def endless_strip(path: Path) -> None:
    """16×16 pixels whose strip unpacks to 500 MB."""
    pack = zlib.compressobj(1)
    strip = b"".join(pack.compress(bytes(10**7)) for _ in range(50)) + pack.flush()
    tifffile.imwrite(path, iter([strip]), shape=(16, 16), dtype=np.uint16, rowsperstrip=16, compression="zlib")


def lying_jpeg_tile(path: Path) -> None:
    """16×16 pixels in a tile that is a JPEG of 30000×30000, by its own header."""
    tifffile.imwrite(path, iter([false_header(path.parent, 30_000, 30_000).read_bytes()]), shape=(16, 16, 3),
                     dtype=np.uint8, tile=(16, 16), compression="jpeg", photometric="rgb")


def peak_bytes(process: object) -> int:
    """The most that a process has had in memory since the last call."""
    status = Path(f"/proc/{process}/status").read_text()
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in status.splitlines()
             if line.startswith(("VmHWM", "VmRSS"))}
    Path(f"/proc/{process}/clear_refs").write_text("5")
    return found["VmHWM"]


BOMBS = (huge_tile, endless_strip, lying_jpeg_tile)
