"""Files translated in their order: decoded ahead by other processes, encoded and written behind in threads.

A key is a hash of the input's content, the generator's fingerprint and the options that change an output's pixels, so
that nothing made from an older model, image or option is ever taken for done. How well a PNG or TIFF is compressed
changes none.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
from torch import Tensor

from translate import files
from translate.convert.jobs import Job
from translate.convert.label_rows import LabelRows
from translate.convert.ledger import CHANGED_SINCE, MADE_BEFORE, OTHERWISE_MADE, Entry, Ledger
from translate.convert.memory_share import MemoryShare, encoded_bytes, pixel_bytes, sample_bytes
from translate.convert.pools import Decoders, InlineExecutor, prefetch, thread_pool
from translate.convert.saving import Input, Options, Saving, failure, holds_pages, made_elsewhere
from translate.convert.scaling import outside
from translate.convert.translating import Translating, Way
from translate.convert.workers import that_fit
from translate.data.scale import AS_TRAINED
from translate.errors import DiskError, DoesNotFit, ImageError, TooLarge, TranslateError, visible
from translate.host.available_memory import give_back_freed
from translate.images import decoder_process, row_readers
from translate.images.decoder_process import Answer, NoDecoder, Request
from translate.images.pages import OpenFile, Page, open_pages
from translate.images.pictures import Picture
from translate.images.resampling import HeightWidth
from translate.images.sinks import ArraySink, writing_pages
from translate.sizes import format_bytes

OUTPUT_VERSION = 1  # raise it when the same input, model and options begin to give other files
MASK_BYTES = 1  # a pixel


ShownAndGiven = tuple[Page | LabelRows, Page | LabelRows]  # as it is translated, and of the size that is given back


class Converter:
    """Translates files with one generator under one set of options."""

    def __init__(self, translating: Translating, ledger: Ledger, options: Options,
                 warn: Callable[[str], None] = lambda line: None):
        """`warn` is called with what a person should know while files are translated: each line once."""
        self.share = MemoryShare.of(options.workers, on_cuda=translating.device.type == "cuda")
        self.translating = replace(translating, room=lambda: self.share.for_one())  # as it is by then
        self.ledger, self.options = ledger, options
        self.image_in, self.image_out = translating.release.image_in, translating.release.image_out
        self.saving = Saving(ledger, options, self.image_in, self.image_out)
        self.salt = json.dumps([translating.release.fingerprint, translating.precision, options.format,
                                options.quality, OUTPUT_VERSION, *translating.scaling.key])
        self.warn = warn
        self.num_outside = 0  # images translated at another scale than the model knows

    def run(self, jobs: Sequence[Job], stop: object) -> Generator[Entry, None, None]:
        """Translate files, and yield what became of each, in their order. What cannot be translated is an entry too.

        While one image is with the generator, `workers` others are read ahead and as many written behind: fewer where
        these would find no room in memory. Once `stop` is true no further one is begun. Raises `DiskError`, and
        `NoDecoder` where no process can be started.
        """
        entries: deque[Future[Entry]] = deque()
        with closing(Decoders(self.options.workers, self.options.decode_seconds)) as decoders:
            workers = self._workers_that_fit(jobs, decoders)

            # Readers may wait for decoders for ever, and their pool for them: so the decoders are closed before it.
            with thread_pool(workers) as readers, closing(decoders), thread_pool(workers) as writers:
                for reading in prefetch(lambda job: self.read(job, decoders.read), jobs, readers, workers):
                    # Wait for the file, but not for ever: a decoder that hangs must not hold up a stop.
                    while not stop and not reading.done():
                        wait([reading], timeout=0.2)
                    if stop:
                        break

                    # What is read only now is alone in memory, but for small images that are read ahead.
                    now = reading.result()
                    while entries and isinstance(now, Input) and now.picture is None:
                        yield entries.popleft().result()

                    # Translate it, and tell of the files that have been written meanwhile.
                    entries.append(self._translate(now, writers))
                    while entries and (entries[0].done() or len(entries) > workers + 1):
                        yield entries.popleft().result()
                while entries:
                    yield entries.popleft().result()

    def _workers_that_fit(self, jobs: Sequence[Job], decoders: Decoders) -> int:
        """Return how many workers there is room for, and say so where these are not all."""
        fitting = that_fit(self.options.workers, jobs, decoders,
                           lambda job: self._request(job, None, self._are_by_rows, math.inf), self.share)
        if fitting.reason:
            self.warn(fitting.reason)
        self.share = self.share.shared_by(fitting.number)
        return fitting.number

    def read(self, job: Job, read: Callable[[Request], Answer]) -> Input | Entry:
        """Read a file with `read`, unless its output is there already or may not be written.

        Raises `TranslateError` where the ledgers, or what they are asked about, cannot be read: nothing is known of
        any file then.
        """
        try:
            # What stands at the output's place is replaced only where it is ours, or with `overwrite`.
            if job.fault is not None:
                raise job.fault
            options = self.options
            if not options.overwrite and self.ledger.is_foreign(job):
                whose = " and is not from a conversion into this folder" if self.ledger.keeps else ""
                raise ImageError(job.output, "write", f"{visible(job.output)} exists{whose}; remove it, or use "
                                 "--overwrite")
            known = None if options.overwrite else self.ledger.key_of(job, options.verify, note=not options.dry_run)
        except Exception as error:
            if isinstance(error, TranslateError) and not isinstance(error, ImageError):
                raise
            return failure(job, error)
        made = self.read_input(job, read, known)
        return made if options.overwrite or isinstance(made, Entry) else self._replacing(made)

    def _replacing(self, read: Input) -> Input | Entry:
        """Return what was read with what its output replaces; the entry of a failure where that is not to be replaced:
        the output of another folder's file of the same name. Raises `DiskError`."""
        job, ledger = read.job, self.ledger
        if ledger.what_stands(job) is None:
            return read
        elsewhere = ledger.from_elsewhere(job, read.content)
        if elsewhere is not None:
            return failure(job, made_elsewhere(job, elsewhere))
        made = ledger.made(job.output_name)
        if made is None or made.get("key") == read.key:
            return read
        if "content" not in made:
            return replace(read, replaces=MADE_BEFORE)
        return replace(read, replaces=OTHERWISE_MADE if made["content"] == read.content else CHANGED_SINCE)

    def read_input(self, job: Job, read: Callable[[Request], Answer], known: str | None) -> Input | Entry:
        """Read a file with `read`; where `known` is the key of its output, it is one that is there `already`."""
        try:
            # Within a memory, images are translated by rows. What is large waits for its turn.
            answer = read(self._request(job, known, self._are_by_rows, self.share.for_each))

            # Pages of a TIFF are opened when it is their turn; a picture is made ready for the generator now.
            if answer.num_pages:
                return Input(job, answer.key, content=answer.content)
            if answer.picture is None:
                return Entry(job.name, "already", job.output_name, answer.key)
            protection = self.options.protection
            composing = None if protection is None else protection.in_memory(job, answer.picture, read,
                                                                              self.options.max_pixels)
            if self._are_by_rows:
                page = Page.of_picture(answer.picture, self.image_in)  # what it cannot be is refused here
                return Input(job, answer.key, replace(answer.picture, notes=page.notes), composing=composing,
                             content=answer.content)
            return Input(job, answer.key, *self.translating.prepare(answer.picture), composing, answer.content)
        except NoDecoder:
            raise
        except Exception as error:
            return failure(job, error)

    def translate_now(self, read: Input | Entry) -> Entry:
        """Translate what has been read, write its output, and return its entry. Raises `DiskError` and `NoDecoder`."""
        return self._translate(read, InlineExecutor()).result()

    @property
    def _are_by_rows(self) -> bool:
        """Whether images are translated by rows, whatever they take."""
        return self.translating.memory is not None and self.translating.release.labels is None

    def _request(self, job: Job, known: str | None, by_rows: bool, max_bytes: float) -> Request:
        later = pixel_bytes(self.image_in, self.translating.num_planes, self.image_out)
        salt, protection = self.salt, self.options.protection
        if protection is not None:
            salt += json.dumps(protection.key(job))
            later += sample_bytes(self.image_in) + MASK_BYTES
        return Request(job.source, self.options.max_pixels, salt, known, self.translating.release.labels, by_rows,
                       max_bytes, later, self.translating.scaling.sides, self.image_in.pages is not None)

    def _translate(self, read: Input | Entry, writers: Executor) -> Future[Entry]:
        """Translate what has been read, and give it to the writers."""
        if isinstance(read, Entry):
            return writers.submit(self.saving.record, read)
        try:
            if self.options.dry_run:
                return writers.submit(self.saving.record, self._foretell(read))
            if read.picture is None:
                return writers.submit(self.saving.record, self._translate_pages(read))
            picture, made, strips = self._translate_picture(read)
        except (DiskError, NoDecoder):
            raise
        except Exception as error:  # the next file may well be fine, and the entry says what this one did
            return writers.submit(self.saving.record, failure(read.job, error))
        return writers.submit(self.saving.write, read, picture, made, strips)

    def _translate_picture(self, read: Input) -> tuple[Picture, Callable[[], Tensor] | np.ndarray, str | None]:
        """Translate what stands in memory.

        Returns what the output has besides its pixels, these or what waits for them, and why in strips.
        """
        picture = read.picture
        assert picture is not None, "pages are translated elsewhere"
        if read.image is not None:
            self._note_scale(read.job, (read.image.shape[1], read.image.shape[2]))
            way = self.translating.way(read.image.shape[1], read.image.shape[2])
            shape = picture.pixels.shape[0], picture.pixels.shape[1]
            return picture, self.translating.begin(read.image, read.job.source, shape, way), way.reason
        shown, given_back = self.translating.scaling.page(Page.of_picture(picture, self.image_in))
        self._note_scale(read.job, (shown.height, shown.width))
        about = replace(picture, alpha=given_back.read_alpha(0, given_back.height), dpi=given_back.dpi,
                        geo=given_back.geo, unknown=given_back.read_unknown(0, given_back.height))
        way = self.translating.way(shown.height, shown.width)
        return about, self._by_rows(shown, given_back, way), way.reason

    def _note_scale(self, job: Job, *shapes: HeightWidth) -> None:
        """Count a file whose images are translated in shapes beyond the model's scale; warn of the first."""
        fault = next(filter(None, (outside(self.translating.release.scale, shape) for shape in shapes)), "")
        if fault and not self.num_outside:
            self.warn(f"{visible(job.name)} {fault}; {AS_TRAINED} translates at that scale, and brings outputs back "
                      "to the input's size")
        self.num_outside += bool(fault)

    def _foretell(self, read: Input) -> Entry:
        """Say what would become of a file. Pages to be read by rows are opened: so far only their number is known."""
        if read.picture is None:
            with self._pages(read.job) as pages:
                self._note_scale(read.job, *((shown.height, shown.width) for shown, _ in pages))
                for page in pages:
                    self._way(read.job, page, pages)  # raises where there is none
            return foretold(read)
        if read.image is not None:
            shape = read.image.shape[1], read.image.shape[2]
        else:
            shape = self.translating.scaling.shape_of((read.picture.pixels.shape[0], read.picture.pixels.shape[1]))
        self._note_scale(read.job, shape)
        self.translating.way(*shape)  # raises where there is none
        return foretold(read)

    @contextmanager
    def _pages(self, job: Job) -> Iterator[Sequence[ShownAndGiven]]:
        """Open the pages of a file, each as it is translated and of the size that is given back.

        A label map, and pages that are channels, are read whole. Raises `ImageError`, also where there is no memory to
        decode them or no output that holds them; and `NoDecoder`.
        """
        give_back_freed()
        room, labels, scaling = self.share.for_one(), self.translating.release.labels, self.translating.scaling
        if labels is not None or self.image_in.pages is not None:
            with closing(Decoders(min(self.options.workers, 1), self.options.decode_seconds)) as decoders:
                picture = decoders.read(self._request(job, None, False, room.bytes)).picture
            if picture is None:
                raise TooLarge(job.source, "read", "takes more to decode and to write than may be taken: "
                                 f"{format_bytes(room.bytes)}, {room.limit_from}")
            if labels is None:
                yield [scaling.page(Page.of_picture(picture, self.image_in))]
            else:
                shown, given_back = (LabelRows(each, labels) for each in scaling.picture(picture, labels=True))
                yield [(shown, given_back)]
            return

        apart: OpenFile = partial(decoder_process.open_file, seconds=self.options.decode_seconds)
        opening = apart if self.options.workers else row_readers.open_file
        with open_pages(job.source, self.image_in, self.options.max_pixels, opening, room) as pages:
            if len(pages) > 1 and not holds_pages(job.output):
                raise ImageError(job.source, "write", f"holds {len(pages)} pages, which {job.output.suffix} cannot; "
                                 "leave --format out, or take tif")
            yield [scaling.page(page, self.options.max_pixels) for page in pages]

    def _way(self, job: Job, page: ShownAndGiven, pages: Sequence[ShownAndGiven]) -> Way:
        """Choose how to compute one of the open pages. Raises `DoesNotFit`, also where its output cannot be encoded."""
        # What the file takes where it is decoded, and, of an output that is encoded whole, its samples.
        shown, given_back = page
        num_pixels = given_back.height * given_back.width
        made = num_pixels * sample_bytes(self.image_out)
        beside = sum(each.held_bytes for each, _ in pages) + max(each.read_bytes for each, _ in pages)
        if not self._writes_rows(job, pages):
            needed, room = beside + num_pixels * encoded_bytes(self.image_out), self.share.for_one()
            if needed > room.bytes:
                raise DoesNotFit(f"encoding {given_back.height}×{given_back.width} pixels as {job.output.suffix} takes "
                                 f"{format_bytes(needed)}, and {format_bytes(room.bytes)} may be taken: "
                                 f"{room.limit_from}", advice="free memory, or save the input as a TIFF in tiles: "
                                 "it is read and written by rows")
            beside += made
        read = shown.height * shown.width * sample_bytes(self.image_in)
        return self.translating.way(shown.height, shown.width, beside, 2 * (made + read))

    def _writes_rows(self, job: Job, pages: Sequence[ShownAndGiven]) -> bool:
        """Whether the output is a TIFF that is written by rows."""
        is_labels = any(isinstance(given_back, LabelRows) for _, given_back in pages)
        return holds_pages(job.output) and self.image_out.pages is None and not is_labels

    def _by_rows(self, shown: Page | LabelRows, given_back: Page | LabelRows, way: Way) -> np.ndarray:
        """Translate a page by rows, into an array as files hold it."""
        sink = ArraySink(given_back, self.image_out)
        self.translating.translate_rows(shown, sink, (given_back.height, given_back.width), way)
        return sink.array

    def _translate_pages(self, read: Input) -> Entry:
        """Translate the pages of a file, which are read and, into a TIFF, written by rows."""
        job = read.job
        reasons: set[str | None] = set()
        notes: list[str] = []
        self.saving.begin(read)
        with self.saving.composing_by_rows(job) as composing, self._pages(job) as pages:
            self._note_scale(job, *((shown.height, shown.width) for shown, _ in pages))
            given_back = [page for _, page in pages]

            # A TIFF takes the rows of each page as they are made.
            if self._writes_rows(job, pages):
                written = files.Written()
                with writing_pages(job.output, [page for page in given_back if isinstance(page, Page)],
                                   self.image_out, self.options.compression, written) as sinks:
                    for (shown, page), sink in zip(pages, sinks, strict=True):
                        sink.compose = composing
                        way = self._way(job, (shown, page), pages)
                        self.translating.translate_rows(shown, sink, (page.height, page.width), way)
                        notes.extend(sink.notes)
                        reasons.add(way.reason)

            # Other formats hold one page, which is encoded whole.
            else:
                ((shown, page),) = pages
                way = self._way(job, (shown, page), pages)
                said, written = self.saving.save(job, self._by_rows(shown, page, way), page,
                                                 page.read_alpha(0, page.height), page.read_unknown(0, page.height),
                                                 composing)
                notes.extend(said)
                reasons.add(way.reason)

        num_pixels = sum(page.height * page.width for page in given_back)
        notes = [*(note for page in given_back for note in page.notes), *notes]
        return self.saving.done(read, written, num_pixels, notes, "; ".join(sorted(filter(None, reasons))) or None)


def foretold(read: Input) -> Entry:
    """Return the entry of what would be translated."""
    return Entry(read.job.name, "todo", read.job.output_name, read.key, replaces=read.replaces)
