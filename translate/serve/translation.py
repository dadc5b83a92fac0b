"""One uploaded file translated, or made visible: by the pieces of `translate.convert`, so that the bytes are the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from translate import files
from translate.convert.converter import Converter
from translate.convert.jobs import Job, Naming
from translate.convert.ledger import Entry, Ledger
from translate.convert.memory_share import MemoryShare
from translate.convert.pools import Decoders
from translate.convert.saving import Input, Options
from translate.convert.scaling import Scaling
from translate.errors import ImageError
from translate.images.decoder_process import Request, open_file
from translate.images.pictures import DTYPES, Picture
from translate.images.reading import change_bits
from translate.images.transparency import composed, is_transparent
from translate.serve.limits import Limits, Refused
from translate.serve.line import Ticket
from translate.serve.models import READ_AHEAD, Offer

SHOWN_PIXEL_BYTES = 32  # that a pixel takes on its way to a PNG: floats of three colours at the most, and copies
STATUSES = {"ImageError": 422, "TooLarge": 413, "DoesNotFit": 413}  # by the class of what went wrong


@dataclass(frozen=True)
class Made:
    """An output: the file, its key, and what is to be said of it. No file where the key was known."""

    key: str
    file: Path | None
    notes: tuple[str, ...] = ()


class Workshop:
    """Translates files, one at a time."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self.decoders = Decoders(READ_AHEAD, limits.decode_seconds)
        self._speeds: dict[tuple[str, str], float] = {}  # seconds a pixel, of each offer's newest image

    def translate(self, offer: Offer, scaling: Scaling, source: Path, stem: str, known: str | None,
                  ticket: Ticket) -> Made:
        """Translate a file into its folder; not where `known` is the key of the output. Raises `Refused`.

        `stem` is what the file is called in messages and in its output's name.
        """
        # As `convert` would: under the same suffix wherever it can be.
        suffix = Naming(offer.release.image_out).suffix(source.suffix)
        job = Job(source, stem + source.suffix, source.with_name(f"output{suffix}"), f"output{suffix}")
        options = Options(max_pixels=self.limits.pixels, workers=READ_AHEAD, decode_seconds=self.limits.decode_seconds)
        converter = Converter(replace(offer.translating, scaling=scaling), Ledger(None), options)

        # Its head says how many pixels there are, and so how long it may take.
        read = converter.read_input(job, self.decoders.read, known)
        num_pixels = 0
        if isinstance(read, Input) and read.image is not None:
            num_pixels = read.image.shape[1] * read.image.shape[2]
            speed = self._speeds.get((offer.model, offer.release.direction))
            ticket.expected = None if speed is None else speed * num_pixels
        entry = converter.translate_now(read)
        if entry.status == "failed":
            raise Refused(STATUSES.get(str(entry.error), 500), without_path(entry, source))
        if entry.status == "done" and num_pixels:
            self._speeds[offer.model, offer.release.direction] = ticket.seconds() / num_pixels

        # What a person should know of it.
        assert entry.key is not None, "what is done has a key"
        notes = [note for note in (entry.note, entry.strips and f"in strips: {entry.strips}") if note]
        if converter.num_outside:
            notes.append(f"at another scale than the model was trained at: {offer.release.scale}")
        return Made(entry.key, None if entry.status == "already" else job.output, tuple(notes))

    def show(self, source: Path, file: Path) -> None:
        """Write an image of any format as a PNG of 8 bits, as a browser can show it. Raises `Refused`, `DiskError`."""
        try:
            pixels = visible_pixels(self._first_picture(source))
        except ImageError as error:
            raise Refused(STATUSES[type(error).__name__], error.reason) from None
        with files.as_disk_errors(file):
            Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG", compress_level=1)

    def _first_picture(self, source: Path) -> Picture:
        """Decode a file, of several pages the first. Raises `Refused` where it takes too much memory."""
        room = MemoryShare.of(READ_AHEAD).for_one()
        request = Request(source, self.limits.pixels, "", max_bytes=room.bytes, pixel_bytes=SHOWN_PIXEL_BYTES)
        answer = self.decoders.read(request)
        if answer.picture is not None:
            return answer.picture
        with open_file(source, self.limits.pixels, room, self.limits.decode_seconds) as pages:
            first = pages[0].head
            _, width, channels = first.picture.pixels.shape
            row_bytes = width * (channels * first.picture.pixels.itemsize + SHOWN_PIXEL_BYTES)
            if first.held_bytes + first.read_bytes + first.height * row_bytes > room.bytes:
                raise Refused(413, "is too large to be shown in the memory there is")
            return pages[0].reader.read(0, first.height)

    def close(self) -> None:
        """End the decoders."""
        self.decoders.close()


def without_path(entry: Entry, source: Path) -> str:
    """Return why a file could not be translated, without the place where it lay here."""
    text = str(entry.message)
    for path in (source, source.with_name("output"), source.parent):
        text = text.replace(f"{path}", "the image")
    return f"{entry.stage}: {text}"


def visible_pixels(picture: Picture) -> np.ndarray:
    """Return a picture as (H, W, 1 or 3) of 8 bits: on white where it is transparent, values stretched to what shows.
    """
    pixels = picture.pixels[..., :3 if picture.pixels.shape[2] >= 3 else 1]
    if pixels.dtype not in (DTYPES[8], DTYPES[16]):
        known = pixels[np.isfinite(pixels)]
        low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
        with np.errstate(invalid="ignore"):
            pixels = np.nan_to_num((pixels.astype(np.float32) - low) / max(high - low, 1e-30) * 2 - 1, nan=-1.0)
    pixels = change_bits(pixels, 8)
    if picture.alpha is not None and picture.alpha.dtype in (DTYPES[8], DTYPES[16]):
        alpha = change_bits(picture.alpha, 8)
        if is_transparent(alpha):
            pixels = composed(pixels, alpha, "white")
    return pixels
