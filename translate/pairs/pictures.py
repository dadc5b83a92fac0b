"""The worst pairs of a data set, to be looked at: A, B, and both in a checkerboard, where lines break if B is off."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from translate import files
from translate.errors import TranslateError, visible
from translate.pairs.measuring import Measured, in_words
from translate.pairs.pair_files import as_measured

SIDE = 384  # px, of each picture's longer side at most
SQUARES = 8  # of the checkerboard, along the shorter side
TEXT = 16  # px, of a line
BACKGROUND = 32  # grey


def write_sheet(path: Path, shown: Sequence[Measured]) -> int:
    """Write a JPEG with a row for each pair, and none without pairs; return how many it shows. Raises `DiskError`."""
    rows = [row for each in shown for row in [_row(each)] if row is not None]
    if not rows:
        return 0
    width = max(row.width for row in rows)
    sheet = Image.new("RGB", (width, sum(row.height for row in rows)), (BACKGROUND,) * 3)
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    encoded = io.BytesIO()
    sheet.save(encoded, "JPEG", quality=92)
    with files.as_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(path, encoded.getvalue())
    return len(rows)


def _row(measured: Measured) -> Image.Image | None:
    """Return a pair under a line that says how it is off; None where it cannot be read any more."""
    try:
        a, b = measured.pair.read()
    except TranslateError:
        return None
    one, other = (_seen(as_measured(picture, labels).numpy()) for picture, labels in (
        (a, measured.pair.labels), (b, False)))
    height, width = one.shape[:2]
    square = max(1, min(height, width) // SQUARES)
    down, right = np.indices((height, width)) // square
    board = np.where(((down + right) % 2 == 0)[..., None], one, other)

    row = Image.new("RGB", (3 * width, height + TEXT), (BACKGROUND,) * 3)
    ImageDraw.Draw(row).text((4, 2), visible(f"{measured.pair.a.name}: {in_words(measured.found)}").replace(
        "°", " degrees"), (255, 255, 255))
    for number, image in enumerate((one, other, board)):
        row.paste(Image.fromarray(image), (number * width, TEXT))
    return row


def _seen(image: np.ndarray) -> np.ndarray:
    """Return (C, H, W) in [-1, 1] as colours (H, W, 3): three channels as they are, others as a grey image."""
    colours = image if len(image) == 3 else np.repeat((image * np.linspace(1, 0.2, len(image))[:, None, None]).mean(
        0, keepdims=True), 3, 0)
    colours = ((colours - colours.min()) / max(float(np.ptp(colours)), 1e-9) * 255).round().astype(np.uint8)
    factor = min(1.0, SIDE / max(image.shape[1:]))
    size = max(1, round(image.shape[2] * factor)), max(1, round(image.shape[1] * factor))
    return np.asarray(cv2.resize(colours.transpose(1, 2, 0), size, interpolation=cv2.INTER_AREA))
