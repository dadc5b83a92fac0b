"""Files read and decoded in another process, so that one that brings its decoder down costs nobody but itself.

A decoder that crashes, is killed for its memory or hangs is replaced, and the next file goes on. Every process has a
pipe of its own: pools whose processes share one (pebble) hang when a process dies while it is sending, others
(concurrent.futures) give up all their work. A file is read whole (`DecoderProcess.read`), or kept open and read by rows
(`open_file`), of which a few megabytes go through the pipe at once.

What is imported here is what such a process needs: the fewer, the sooner it is ready. The decoding itself stands in
`translate.images.decoding` and `translate.images.row_readers`.
"""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np

from translate.errors import ImageError, TranslateError
from translate.host.available_memory import Available
from translate.images import row_readers
from translate.images.decoding import Picture, decode, inspect, read_content
from translate.images.decoding_memory import decoding_bytes
from translate.images.pictures import as_image_errors, check_enlarged, check_size, open_image
from translate.images.png_chunks import without_bad_chunks
from translate.images.resampling import scaled_shape
from translate.images.row_readers import FilePage, PageHead
from translate.images.tiffs import is_tiff, names_no_data

GAPS_ARE_KEPT = b"gaps"  # a part of the key of what names a value for "no data": earlier versions translated it
ANSWER_SECONDS = 600.0  # for one file or a piece of its rows, a slow disk included; and for a process to start
PIECE_BYTES = 4_000_000  # of rows, in one answer; while it arrives it stands three times in memory
# Unless all of `FORMATS` are there, Pillow imports what reads any of its 43 formats when it opens the first file.
PILLOW_PLUGINS = [f"PIL.{name}ImagePlugin" for name in ("Png", "Jpeg", "WebP", "Tiff", "Bmp", "Gif", "Ppm", "Avif")]
# torch's threads forbid to fork this process. The server has imported these once, and forks within milliseconds.
FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload([__name__, *PILLOW_PLUGINS])


class NoDecoder(TranslateError):
    """The process that is to decode images does not start."""


class LabelReader(Protocol):
    """What reads a label map, in whichever process it is asked to; pickled on its way there."""

    def read(self, path: Path, max_pixels: int) -> np.ndarray:
        """Read class numbers (H, W). Raises `ImageError`."""


@dataclass(frozen=True)
class Request:
    """A file to read whole. A TIFF of several pages, and with `by_rows` any other TIFF, is left to be read by rows.

    So is an image that would take more than `max_bytes`, decoding it and `pixel_bytes` for each of its pixels, or of
    those that it has once it is enlarged; of label maps, which have no such reader, nothing is read then.
    """

    path: Path
    max_pixels: int
    salt: str  # hashed with the content, it gives the file's key
    known: str | None = None  # where this is the key, nothing is decoded
    labels: LabelReader | None = None  # the file is a label map, and this reads it
    by_rows: bool = False
    max_bytes: float = math.inf
    pixel_bytes: int = 0
    sides: tuple[int, int] | None = None  # px, that the short side is brought into afterwards; None: it stays
    stacked: bool = False  # the pages of a TIFF are the channels of one image, which is read whole


@dataclass(frozen=True)
class Answer:
    """What a file holds; no picture where its key was known, or where it is to be read by rows (`num_pages`)."""

    key: str
    picture: Picture | None
    num_pages: int = 0
    content: str | None = None  # the SHA-256 of the file


@dataclass(frozen=True)
class OpenRequest:
    """A file to open and to keep open, its pages to be read by rows. The answer is a `PageHead` for each."""

    path: Path
    max_pixels: int
    room: Available | None = None


@dataclass(frozen=True)
class SizeRequest:
    """What would a file take that is read so? The answer is the bytes, by its head; 0 where it is to be read by rows.
    """

    request: Request

    @property
    def path(self) -> Path:
        return self.request.path


@dataclass(frozen=True)
class RowsRequest:
    """Rows [start, stop) of a page of the open file, by its reader for colours or alpha. The answer is a `Picture`."""

    path: Path
    page: int
    for_alpha: bool
    start: int
    stop: int


@dataclass(frozen=True)
class Head:
    """What the head of a file says of reading it as it was asked for.

    num_pages         of a TIFF whose pages are images each; else 0
    by_rows           whether it is to be read by rows, whatever it takes
    bytes_in_flight   what it takes, if its head is true, to decode it and until its output is written
    """

    num_pages: int
    by_rows: bool
    bytes_in_flight: int


def head_of(request: Request) -> Head:
    """Read the head of a file. Raises `ImageError`, also for an image that is too large or would be enlarged to it."""
    info, size = inspect(request.path), request.path.stat().st_size
    check_size(replace(info, channels=1) if request.labels else info, request.path, request.max_pixels)
    own = info.height, info.width
    shown = scaled_shape(own, request.sides)
    check_enlarged(own, shown, request.path, request.max_pixels)
    is_paged = info.format == "TIFF" and request.labels is None and not request.stacked
    num_pages = info.frames if is_paged else 0
    needed = decoding_bytes(info, size) * (info.frames if request.stacked else 1)
    return Head(num_pages, num_pages > 1 or (num_pages == 1 and request.by_rows),
                needed + max(own[0] * own[1], shown[0] * shown[1]) * request.pixel_bytes)


def read_file(request: Request) -> Answer:
    """Read and decode a file in this process. Raises `ImageError`."""
    # The key: of the content, and of what else an output depends on.
    with as_image_errors(request.path, "read"), open_image(request.path) as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        file.seek(0)
        has_gaps = request.labels is None and is_tiff(file) and names_no_data(file)
    key = hashlib.sha256(digest + request.salt.encode() + GAPS_ARE_KEPT * has_gaps).hexdigest()
    content = digest.hex()
    if key == request.known:
        return Answer(key, None, content=content)

    # The picture, unless it is to be read by rows.
    head = head_of(request)
    if head.by_rows:
        return Answer(key, None, head.num_pages, content)
    if head.bytes_in_flight > request.max_bytes:
        return Answer(key, None, 1, content)
    if request.labels is None:
        read = read_content(request.path)
        return Answer(key, decode(read, request.path, request.max_pixels, request.stacked), content=content)
    with open_image(request.path) as file:
        _, notes = without_bad_chunks(file, request.path)
    picture = Picture(request.path, request.labels.read(request.path, request.max_pixels), notes=notes)
    return Answer(key, picture, content=content)


class DecoderProcess:
    """A process that reads and decodes one file at a time, started when it is first needed."""

    def __init__(self, seconds: float | None = None) -> None:
        """`seconds` are for one file, or a piece of its rows, before it is ended; None: `ANSWER_SECONDS`."""
        self._seconds = seconds
        self._process: BaseProcess | None = None
        self._pipe: Connection
        self._lock = Lock()
        self._closed = False

    def read(self, request: Request) -> Answer:
        """Read a file as `read_file` does. Raises `ImageError`, also where the process dies of it, and `NoDecoder`."""
        with self._lock:
            if self._process is not None and not self._process.is_alive():
                self._end(self._process)  # between two files: it died of neither
            answer: Answer = self._ask(self._process or self._start(), request)
            return answer

    def size(self, request: SizeRequest) -> int:
        """Return what a file would take. Raises as `read` does."""
        with self._lock:
            size: int = self._ask(self._process or self._start(), request)
            return size

    def open(self, request: OpenRequest) -> list[PageHead]:
        """Open the file that this decoder is for from now on. Raises as `read` does."""
        with self._lock:
            heads: list[PageHead] = self._ask(self._process or self._start(), request)
            return heads

    def read_rows(self, request: RowsRequest) -> Picture:
        """Read rows of the open file. Raises `ImageError`, for every request as well after the process has died."""
        with self._lock:
            if self._process is None:
                raise ImageError(request.path, "read", "is not open any more: the process that decoded it has ended")
            picture: Picture = self._ask(self._process, request)
            return picture

    def _ask(self, process: BaseProcess, request: Request | SizeRequest | OpenRequest | RowsRequest) -> Any:
        """Send a request, and return its answer or raise its error. What hangs or dies of it is ended."""
        try:
            self._pipe.send(request)
            seconds = self._seconds or ANSWER_SECONDS
            if not self._pipe.poll(seconds):
                self._end(process)
                raise ImageError(request.path, "read", f"was not decoded within {seconds:g} seconds")
            answer = self._pipe.recv()
        except (EOFError, OSError):  # a plain OSError where it died in the middle of its answer
            raise ImageError(request.path, "read", f"the process that decoded it {self._end(process)}; the file may be "
                             "damaged, or need more memory than there is") from None
        except MemoryError:  # the rest of the answer is still in the pipe, and would be taken for the next file's
            self._end(process)
            raise
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self) -> None:
        """End the process at once, whatever it does. May be called from any thread."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()
            process.join(10.0)

    def _start(self) -> BaseProcess:
        """Start a process and wait until it is ready. Raises `NoDecoder`."""
        # Another thread may call `close` at any moment: looked at before the start, and again after it.
        if self._closed:
            raise NoDecoder("the process that decodes images has been ended")
        self._pipe, theirs = FORK_SERVER.Pipe()
        process = FORK_SERVER.Process(target=_serve, args=(theirs,), name="decoder", daemon=True)
        process.start()
        theirs.close()  # now the pipe ends with the process
        self._process = process
        if self._closed:
            process.kill()

        # Its first word says that it is ready; it has none where it cannot import what it needs.
        try:
            ready = self._pipe.poll(ANSWER_SECONDS) and self._pipe.recv()
        except (EOFError, ConnectionError):
            ready = False
        if not ready:
            raise NoDecoder(f"the process that decodes images {self._end(process)} before it was ready. A script that "
                            "converts needs `if __name__ == '__main__':` around its work; workers=0 needs no process")
        return process

    def _end(self, process: BaseProcess) -> str:
        """Kill the process unless it has ended by itself, and say in words how it ended."""
        process.join(1.0)
        exit_code = process.exitcode
        process.kill()
        process.join(10.0)
        self._pipe.close()
        self._process = None
        if exit_code is None or exit_code >= 0:
            return "hung" if exit_code is None else f"ended with exit code {exit_code}"
        return f"was ended by {signal.Signals(-exit_code).name}"


@dataclass(frozen=True)
class ProcessRowReader:
    """Reads rows of a page of the file that a decoder has open, by its reader for colours or for alpha."""

    decoder: DecoderProcess
    head: PageHead
    page: int
    for_alpha: bool

    def read(self, start: int, stop: int) -> Picture:
        """Read rows [start, stop). They arrive in pieces, of which only a few megabytes are in memory at once."""
        # Room for the rows, of the shapes that the page's head tells.
        head = self.head.picture
        pixels = np.empty((stop - start, *head.pixels.shape[1:]), head.pixels.dtype)
        alpha = None if head.alpha is None else np.empty((stop - start, *head.alpha.shape[1:]), head.alpha.dtype)
        unknown: np.ndarray | None = None  # until a piece lacks data

        # As many rows in a piece as it may hold, but one at least.
        row_bytes = math.prod(pixels.shape[1:]) * pixels.itemsize * (1 if alpha is None else 2)
        num_rows = max(1, PIECE_BYTES // row_bytes)
        for top in range(start, stop, num_rows):
            piece = slice(top - start, min(top + num_rows, stop) - start)
            picture = self.decoder.read_rows(RowsRequest(head.path, self.page, self.for_alpha, top, start + piece.stop))
            pixels[piece] = picture.pixels
            if alpha is not None:
                alpha[piece] = picture.alpha
            if picture.unknown is not None:
                unknown = np.zeros(pixels.shape[:2], bool) if unknown is None else unknown
                unknown[piece] = picture.unknown
        return Picture(head.path, pixels, alpha, nodata=head.nodata, unknown=unknown, range=head.range)


@contextmanager
def open_file(path: Path, max_pixels: int, room: Available | None = None,
              seconds: float | None = None) -> Iterator[list[FilePage]]:
    """Open a file as `row_readers.open_file` does, in a process of its own that ends with the block.

    `seconds` are for opening it and for each piece of its rows, as of a `DecoderProcess`. Raises `ImageError`, also
    where the process dies of the file, and `NoDecoder`.
    """
    with closing(DecoderProcess(seconds)) as decoder:
        heads = decoder.open(OpenRequest(path, max_pixels, room))
        yield [FilePage(head, *(ProcessRowReader(decoder, head, page, for_alpha) for for_alpha in (False, True)))
               for page, head in enumerate(heads)]


def _serve(pipe: Connection) -> None:
    """Answer requests until the other side is gone."""
    # Where memory runs out all the same, the system ends this process rather than the one that has all the work.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")

    # Signals to the whole group are for the parent, which ends us.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

    pages: list[FilePage] = []
    try:
        with ExitStack() as opened:
            pipe.send(True)
            while True:
                request = pipe.recv()
                answer: Any
                try:
                    if isinstance(request, OpenRequest):
                        opening = row_readers.open_file(request.path, request.max_pixels, request.room)
                        pages = opened.enter_context(opening)
                        answer = [page.head for page in pages]
                    elif isinstance(request, RowsRequest):
                        page = pages[request.page]
                        reader = page.alpha_reader if request.for_alpha else page.reader
                        answer = reader.read(request.start, request.stop)
                    elif isinstance(request, SizeRequest):
                        head = head_of(request.request)
                        answer = 0 if head.by_rows else head.bytes_in_flight
                    else:
                        answer = read_file(request)
                except (ImageError, MemoryError) as error:
                    answer = error
                except Exception as error:  # it may hold what no pipe carries
                    answer = ImageError(request.path, "read", f"{type(error).__name__}: {error}")

                # Nothing is kept of an answer: the next image needs its memory.
                pipe.send(answer)
                del answer
    except (EOFError, ConnectionError):
        return
