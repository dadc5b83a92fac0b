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


def packed_zeros(num: int) -> bytes:
    """`num` times 10 MB of zeros in the format of zlib; packed once, as blocks that need nothing from before them."""
    pack = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = pack.compress(bytes(10**7)) + pack.flush(zlib.Z_FULL_FLUSH)
    checksum = (num * 10**7 % 65521 << 16) | 1  # Adler-32 (RFC 1950) of so many zeros
    return b"\x78\x01" + num * block + pack.flush() + checksum.to_bytes(4, "big")


def endless_strip(path: Path) -> None:
    """16×16 pixels whose strip unpacks to 500 MB."""
    strip = packed_zeros(50)
    tifffile.imwrite(path, iter([strip]), shape=(16, 16), dtype=np.uint16, rowsperstrip=16, compression="zlib")


def endless_colours(path: Path) -> None:
    """The same with colours, which tifffile decodes: it unpacks all that there is."""
    strip = packed_zeros(50)
    tifffile.imwrite(path, iter([strip]), shape=(16, 16, 3), dtype=np.uint16, rowsperstrip=16, compression="zlib",
                     photometric="rgb")


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


def black_square(path: Path, side: int = 14_000) -> None:
    """A square of nothing, as large as images may be: 600 kB that unpack to 600 MB, and take 4 GB on the way."""
    rows = side // 100
    strip = zlib.compress(bytes(rows * side * 3), 9)
    tifffile.imwrite(path, iter([strip] * 100), shape=(side, side, 3), dtype=np.uint8, rowsperstrip=rows,
                     compression="zlib", photometric="rgb")


# The channels and bits that each says it has
BOMBS = {huge_tile: (1, 16), endless_strip: (1, 16), endless_colours: (3, 16), lying_jpeg_tile: (3, 8)}
