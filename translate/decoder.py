"""Files read and decoded in another process, so that one that brings its decoder down costs nobody but itself.

A decoder that crashes, is killed for its memory or hangs is replaced, and the next file goes on. Every process has a
pipe of its own: pools whose processes share one (pebble) hang when a process dies while it is sending, others
(concurrent.futures) give up all their work.

What is imported here is what such a process needs: the fewer, the sooner it is ready.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from translate.data.decoding import Picture, count_pages, decode, read_content
from translate.data.pictures import faults_of
from translate.errors import ImageError, TranslateError

SECONDS = 600.0  # for one file, a slow disk included; and for a process to start
# torch's threads forbid to fork this process. The server has imported this module once, and forks within milliseconds.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])


class NoDecoder(TranslateError):
    """The process that is to decode images does not start."""


@dataclass(frozen=True)
class Request:
    """A file to read. Its key is a hash of its content and `salt`; where it is `known`, nothing is decoded.

    A TIFF of several pages, and with `by_rows` any other TIFF, is left to be read by rows.
    """

    path: Path
    max_pixels: int
    salt: str
    known: str | None = None
    labels: tuple[int, int | None] | None = None  # a map of so many classes, and the number to ignore
    by_rows: bool = False


@dataclass(frozen=True)
class Answer:
    """What a file holds; no picture where its key was known, or where it is to be read by rows (`num_pages`)."""

    key: str
    picture: Picture | None
    num_pages: int = 0


def read(request: Request) -> Answer:
    """Read and decode a file in this process. Raises `ImageError`."""
    with faults_of(request.path, "read"), request.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    key = hashlib.sha256(digest + request.salt.encode()).hexdigest()
    if key == request.known:
        return Answer(key, None)
    num_pages = count_pages(request.path) if request.labels is None else 0
    if num_pages > 1 or (num_pages == 1 and request.by_rows):
        return Answer(key, None, num_pages)
    content = read_content(request.path)
    if request.labels is None:
        return Answer(key, decode(content, request.path, request.max_pixels))
    from translate.data.labels import read_classes

    return Answer(key, Picture(request.path, read_classes(request.path, *request.labels, request.max_pixels)))


class Decoder:
    """A process that reads and decodes one file at a time, started when it is first needed. For one thread's use."""

    def __init__(self) -> None:
        self._process: BaseProcess | None = None
        self._pipe: Connection
        self._closed = False

    def read(self, request: Request) -> Answer:
        """What `read` gives. Raises `ImageError`, also where the process dies of the file, and `NoDecoder`."""
        if self._closed:
            raise NoDecoder("the process that decodes images has been ended")
        if self._process is not None and not self._process.is_alive():
            self._end(self._process)  # between two files: it died of neither
        process = self._process or self._start()
        try:
            self._pipe.send(request)
            if not self._pipe.poll(SECONDS):
                self._end(process)
                raise ImageError(request.path, "read", f"was not decoded within {SECONDS:g} seconds")
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
        self._pipe, theirs = PROCESSES.Pipe()
        process = PROCESSES.Process(target=_serve, args=(theirs,), name="decoder", daemon=True)
        process.start()
        theirs.close()  # now the pipe ends with the process
        self._process = process
        if self._closed:
            process.kill()
        try:
            ready = self._pipe.poll(SECONDS) and self._pipe.recv()
        except (EOFError, ConnectionError):
            ready = False
        if not ready:
            raise NoDecoder(f"the process that decodes images {self._end(process)} before it was ready. A script that "
                            "converts needs `if __name__ == '__main__':` around its work; workers=0 needs no process")
        return process

    def _end(self, process: BaseProcess) -> str:
        """Make an end of the process, if it has not come to one; says which."""
        process.join(1.0)
        dead = process.exitcode
        process.kill()
        process.join(10.0)
        self._pipe.close()
        self._process = None
        if dead is None or dead >= 0:
            return "hung" if dead is None else f"ended with exit code {dead}"
        return f"was ended by {signal.Signals(-dead).name}"


def _serve(pipe: Connection) -> None:
    """Answer requests until the other side is gone. Signals to the whole group are for the parent, which ends us."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        pipe.send(True)
        while True:
            request = pipe.recv()
            answer: Answer | BaseException
            try:
                answer = read(request)
            except (ImageError, MemoryError) as error:
                answer = error
            except Exception as error:  # it may hold what no pipe carries
                answer = ImageError(request.path, "read", f"{type(error).__name__}: {error}")
            pipe.send(answer)
            del answer
    except (EOFError, ConnectionError):
        return
