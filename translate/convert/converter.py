"""Files translated in their order: decoded ahead by other processes, encoded and written behind in threads.

A key is a hash of the input's content, the generator's fingerprint and the options that change an output, so that
nothing made from an older model, image or option is ever taken for done.
"""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from translate import files
from translate.convert.jobs import FileFormat, Job
from translate.convert.ledger import Ledger, Row
from translate.convert.translating import Translating
from translate.errors import DiskError, DoesNotFit, ImageError, is_disk_fault
from translate.images import decoder
from translate.images.decoder import Answer, Decoder, NoDecoder, Request
from translate.images.decoding import Picture
from translate.images.pages import Page, open_pages, page_of
from translate.images.reading import change_bits, fit, to_array
from translate.images.sinks import ArraySink, writing_pages
from translate.images.windows import open_rows
from translate.images.writing import write_image
from translate.precision import is_out_of_memory

T = TypeVar("T")
R = TypeVar("R")
OUTPUT_VERSION = 1  # raise it when the same input, model and options begin to give other files


@dataclass(frozen=True)
class Options:
    """What a person may choose about reading and writing files."""

    overwrite: bool = False
    max_pixels: int = 0
    format: FileFormat | None = None
    quality: int | None = None
    workers: int = 0
    dry_run: bool = False


@dataclass(frozen=True, eq=False)
class Reading:
    """A file that has been read: the output's key, its picture, and what the generator is shown of it (C, H, W).

    No image where it is to be translated by rows, no picture either where it is also to be read by rows.
    """

    job: Job
    key: str
    picture: Picture | None = None
    image: Tensor | None = None


class Converter:
    """Translates files with one generator under one set of options."""

    def __init__(self, translating: Translating, ledger: Ledger, options: Options):
        self.translating, self.ledger, self.options = translating, ledger, options
        self.salt = json.dumps([translating.release.fingerprint, translating.precision, options.format,
                                options.quality, OUTPUT_VERSION])

    def run(self, jobs: Iterable[Job], stop: object) -> Generator[Row, None, None]:
        """Translate files; gives a row for each, in their order. What cannot be translated is a row as well.

        While one image is with the generator, `workers` others are read ahead and as many written behind. Once
        `stop` is true no further one is begun. Raises `DiskError`, and `NoDecoder` where no process can be started.
        """
        workers = self.options.workers
        rows: deque[Future[Row]] = deque()
        with threads(workers) as readers, decoding(workers) as read, threads(workers) as writers:
            for reading in ahead(lambda job: self.read(job, read), jobs, readers, workers):
                while not stop and not reading.done():
                    wait([reading], timeout=0.2)  # a decoder that hangs must not hold up a stop
                if stop:
                    break
                rows.append(self._go_on(reading.result(), writers))
                while rows and (rows[0].done() or len(rows) > workers + 1):
                    yield rows.popleft().result()
            while rows:
                yield rows.popleft().result()

    def read(self, job: Job, read: Callable[[Request], Answer]) -> Reading | Row:
        """Read a file, unless its output is there already."""
        try:
            if job.fault is not None:
                raise job.fault
            known = None if self.options.overwrite else self.ledger.key_of(job)
            if not self.options.overwrite and os.path.lexists(job.output) and not self.ledger.owns(job):
                whose = " and is not from a conversion into this folder" if self.ledger.path else ""
                raise ImageError(job.output, "write", f"{job.output} exists{whose}; remove it, or use --overwrite")
            labels = self.translating.release.labels
            by_rows = self.translating.memory is not None and labels is None
            answer = read(Request(job.source, self.options.max_pixels, self.salt, known, labels, by_rows))
            if answer.num_pages:
                return Reading(job, answer.key)
            if answer.picture is None:
                return Row(job.name, "already", job.output_name, answer.key)
            if by_rows:
                return Reading(job, answer.key, fit(answer.picture, self.translating.release.image_in))
            return Reading(job, answer.key, *self.translating.show(answer.picture))
        except NoDecoder:
            raise
        except Exception as error:
            return failure(job, error)

    def _go_on(self, reading: Reading | Row, writers: Executor) -> Future[Row]:
        """Translate what has been read, and give it to the writers."""
        if isinstance(reading, Row):
            return writers.submit(self.record, reading)
        try:
            if self.options.dry_run:
                return writers.submit(self.record, self._foretell(reading))
            if reading.picture is None:
                return writers.submit(self.record, self._translate_pages(reading))
            if reading.image is None:
                made: Tensor | np.ndarray = self._by_rows(page_of(reading.picture, self.translating.release.image_in))
            else:
                made = self.translating.translate(reading.image, reading.job.source)
        except (DiskError, NoDecoder):
            raise
        except Exception as error:  # the next file may well be fine, and the row says what this one did
            return writers.submit(self.record, failure(reading.job, error))
        return writers.submit(self.write, reading, made)

    def _foretell(self, reading: Reading) -> Row:
        """What would become of a file: of pages that are read by rows nobody has looked at more than their number."""
        if reading.picture is None:
            with self._pages(reading.job):
                pass
        return Row(reading.job.name, "todo", reading.job.output_name, reading.key)

    @contextmanager
    def _pages(self, job: Job) -> Iterator[list[Page]]:
        """The pages of a TIFF, if they can be read and its output can hold them. Raises `ImageError`, `NoDecoder`."""
        opening = decoder.open_rows if self.options.workers else open_rows
        with open_pages(job.source, self.translating.release.image_in, self.options.max_pixels, opening) as pages:
            if len(pages) > 1 and not holds_pages(job.output):
                raise ImageError(job.source, "write", f"holds {len(pages)} pages, which {job.output.suffix} cannot; "
                                 "leave --format out, or take tif")
            yield pages

    def _by_rows(self, page: Page) -> np.ndarray:
        sink = ArraySink(page, self.translating.release.image_out)
        self.translating.translate_rows(page, sink)
        return sink.array

    def _translate_pages(self, reading: Reading) -> Row:
        """Translate the pages of a TIFF, which are read and, into a TIFF, written by rows."""
        job, image_out = reading.job, self.translating.release.image_out
        self.ledger.append(Row(job.name, "started", job.output_name, reading.key))
        make_folder(job.output.parent)
        with self._pages(job) as pages:
            if holds_pages(job.output):
                with writing_pages(job.output, pages, image_out) as sinks:
                    for page, sink in zip(pages, sinks, strict=True):
                        self.translating.translate_rows(page, sink)
            else:
                (page,) = pages
                alpha = page.read_alpha(0, page.height)
                write_image(job.output, self._by_rows(page), icc=page.icc, exif=page.exif, dpi=page.dpi, geo=page.geo,
                            alpha=None if alpha is None else change_bits(alpha, image_out.bits),
                            quality=self.options.quality)
        pixels = sum(page.height * page.width for page in pages)
        return Row(job.name, "done", job.output_name, reading.key, pixels=pixels, sha256=files.sha256(job.output))

    def write(self, reading: Reading, made: Tensor | np.ndarray) -> Row:
        """Write an output, (C, H, W) in [-1, 1] or (H, W, C) as files hold it, and both of its rows.

        Raises `DiskError`.
        """
        job, picture, image_out = reading.job, reading.picture, self.translating.release.image_out
        assert picture is not None, "pages are written as they are translated"
        self.ledger.append(Row(job.name, "started", job.output_name, reading.key))
        try:
            make_folder(job.output.parent)
            pixels = made if isinstance(made, np.ndarray) else to_array(made, image_out)
            write_image(job.output, pixels, icc=picture.icc, exif=picture.exif, dpi=picture.dpi, geo=picture.geo,
                        alpha=None if picture.alpha is None else change_bits(picture.alpha, image_out.bits),
                        quality=self.options.quality)
            digest = files.sha256(job.output)
        except DiskError:
            raise
        except Exception as error:
            return self.record(failure(job, error))
        num_pixels = pixels.shape[0] * pixels.shape[1]
        return self.record(Row(job.name, "done", job.output_name, reading.key, pixels=num_pixels, sha256=digest))

    def record(self, row: Row) -> Row:
        """Put a row into the ledger, unless it says nothing new. Raises `DiskError`."""
        if row.status != "already" and not self.options.dry_run:
            self.ledger.append(row)
        return row


@contextmanager
def decoding(workers: int) -> Iterator[Callable[[Request], Answer]]:
    """How to read a file: in one of as many processes, or, without any, in this one. They end with the block."""
    if workers == 0:
        yield decoder.read
        return
    decoders = [Decoder() for _ in range(workers)]
    idle: SimpleQueue[Decoder] = SimpleQueue()
    for each in decoders:
        idle.put(each)

    def read(request: Request) -> Answer:
        one = idle.get()
        try:
            return one.read(request)
        finally:
            idle.put(one)

    try:
        yield read
    finally:
        for each in decoders:
            each.close()


@contextmanager
def threads(num: int) -> Iterator[Executor]:
    """As many threads, or none: then work is done where it is submitted. When the block ends early, queued work is
    dropped and work in hand finished."""
    with ExitStack() as stack:
        pool = ThreadPoolExecutor(num) if num else Here()
        stack.callback(pool.shutdown, cancel_futures=True)
        yield pool


class Here(Executor):
    """Does everything at once, in the caller's thread."""

    def submit(self, work: Callable[..., Any], /, *words: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*words, **options))
        except Exception as error:
            future.set_exception(error)
        return future


def ahead(work: Callable[[T], R], items: Iterable[T], pool: Executor, num: int) -> Iterator[Future[R]]:
    """The work on each item, in their order; on `num` items it is begun ahead of the one that is given."""
    begun: deque[Future[R]] = deque()
    for item in items:
        begun.append(pool.submit(work, item))
        if len(begun) > num:
            yield begun.popleft()
    yield from begun


def failure(job: Job, error: Exception) -> Row:
    """The row of a file that could not be translated."""
    if isinstance(error, ImageError):
        return Row.failure(job, error.stage, "ImageError", error.reason)
    if is_out_of_memory(error):
        error = DoesNotFit("the image needs more memory than there is; set --memory (such as 2GB), or use "
                           "another device")
    return Row.failure(job, "convert", type(error).__name__, str(error))


def holds_pages(path: Path) -> bool:
    """Whether a file of this suffix can hold several images, and be written by rows."""
    return path.suffix.lower() in (".tif", ".tiff")


def make_folder(folder: Path) -> None:
    """Make a folder for outputs. Raises `DiskError` where the disk is to blame, else `ImageError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if is_disk_fault(error):
            raise DiskError.of(error, folder) from error
        raise ImageError(folder, "write", f"{folder}: {error.strerror}") from error


def remove_leftovers(jobs: Iterable[Job]) -> None:
    """Delete the temporary files of outputs of ours that killed processes left behind.

    Their names end in the process's number. Those of other shards' outputs stay: they may be another machine's, where
    other processes run.
    """
    starts = {(job.output.parent, files.temporary_start(job.output)) for job in jobs}
    for folder in {folder for folder, _ in starts}:
        with suppress(OSError):
            for path in folder.glob(f"{files.TEMPORARY}*"):
                name = re.fullmatch(r"(.+-)(\d{1,10})", path.name)
                if (name and (folder, name[1]) in starts
                        and (int(name[2]) == os.getpid() or not _is_running(int(name[2])))):
                    path.unlink(missing_ok=True)


def _is_running(number: int) -> bool:
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
