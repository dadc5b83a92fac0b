"""Outputs written, and what became of every file noted in the ledger."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from translate import files
from translate.convert.jobs import FileFormat, Job, Jobs
from translate.convert.label_rows import LabelRows
from translate.convert.ledger import Entry, Ledger
from translate.convert.ledger_files import REST_SECONDS
from translate.convert.ledger_rows import Row
from translate.convert.protecting import Composing, Protection, composed
from translate.errors import DiskError, DoesNotFit, ImageError, is_disk_fault, visible
from translate.images.pages import Page
from translate.images.pictures import Picture
from translate.images.reading import ImageConfig, change_bits, under_alpha
from translate.images.sinks import gaps_untold
from translate.images.tensors import to_file
from translate.images.values import NoData
from translate.images.writing import holds, write_image
from translate.precision import is_out_of_memory


@dataclass(frozen=True)
class Options:
    """What a person may choose about reading and writing files."""

    overwrite: bool = False
    max_pixels: int = 0
    format: FileFormat | None = None
    quality: int | None = None
    compression: int | None = None  # of PNG and TIFF: 0 to 9
    workers: int = 0
    dry_run: bool = False
    verify: bool = False
    protection: Protection | None = None  # regions that stay as they are in the input
    decode_seconds: float | None = None  # for a file or a piece of its rows; None: as of a `DecoderProcess`


@dataclass(frozen=True, eq=False)
class Input:
    """A file that has been read, and what its output will be made from.

    picture   None where the file is to be read when it is its turn, and alone: pages, and what is large
    image     what the generator is shown of the picture, (C, H, W); None where it is to be translated by rows
    composing puts protected samples of the file into the output; None where nothing is protected, or without picture
    content   the SHA-256 of the file
    replaces  what the output that stands there was made from, where that is another image, model or setting
    """

    job: Job
    key: str  # of the output
    picture: Picture | None = None
    image: Tensor | None = None
    composing: Composing | None = None
    content: str | None = None
    replaces: str | None = None


@dataclass(frozen=True)
class Saving:
    """Writes outputs under one set of options; several threads may use it."""

    ledger: Ledger
    options: Options
    image_in: ImageConfig
    image_out: ImageConfig

    def write(self, read: Input, picture: Picture, made: Callable[[], Tensor] | np.ndarray,
              strips: str | None = None) -> Entry:
        """Write the output of a picture, and both of its entries.

        `made` is (H, W, C) as files hold it, or a function that waits for (C, H, W) in [-1, 1]. Raises `DiskError`.
        """
        try:
            pixels = made if isinstance(made, np.ndarray) else to_file(made(), self.image_out)
            self.begin(read)
            notes, written = self.save(read.job, pixels, picture, picture.alpha, picture.unknown,
                                       read.composing)
            entry = self.done(read, written, pixels.shape[0] * pixels.shape[1], (*picture.notes, *notes), strips)
        except DiskError:
            raise
        except Exception as error:
            entry = failure(read.job, error)
        return self.record(entry)

    def begin(self, read: Input) -> None:
        """Log that the output is about to be written, and make its folder.

        Raises `ImageError` where another process has put the output of another folder's image there meanwhile.
        """
        meanwhile = None if self.options.overwrite else self.ledger.put_meanwhile(read.job, read.content)
        if meanwhile is not None:
            raise made_elsewhere(read.job, meanwhile)
        self.ledger.append(Entry(read.job.name, "started", read.job.output_name, source=self.ledger.source,
                                 content=read.content))
        make_folder(read.job)

    def save(self, job: Job, pixels: np.ndarray, source: Picture | Page | LabelRows, alpha: np.ndarray | None,
              unknown: np.ndarray | None, composing: Composing | None) -> tuple[tuple[str, ...], files.Written]:
        """Write an output that is encoded whole, with the alpha, the metadata and the gaps of its source.

        `composing` puts in what is protected. Returns what is to be said of it, and what was written.
        """
        alpha = None if alpha is None else change_bits(alpha, self.image_out.bits)
        if alpha is not None and holds(job.output.suffix, self.image_out.channels, self.image_out.bits, alpha=True):
            pixels = under_alpha(pixels, alpha, self.image_in, self.image_out)
        geo, notes = source.geo, tuple[str, ...]()
        if source.nodata is not None or unknown is not None:
            nodata = NoData.of_output(self.image_out.file_dtype, source.nodata, self.image_out.value_range)
            pixels, geo = nodata.put(pixels, unknown), nodata.tags(geo)
            if unknown is not None and not (nodata.told and holds_pages(job.output)):
                notes = (gaps_untold(nodata.value, job.output),)
        if composing is not None:
            pixels = composed(composing, pixels)
        write_image(job.output, pixels, icc=source.icc, exif=source.exif, dpi=source.dpi, geo=geo, alpha=alpha,
                    quality=self.options.quality, compression=self.options.compression,
                    paged=self.image_out.pages is not None, written=(written := files.Written()))
        return notes, written

    def composing_by_rows(self, job: Job) -> AbstractContextManager[Composing | None]:
        """Open what puts protected samples of a file that is read by rows into its output; None where none are."""
        if self.options.protection is None:
            return nullcontext()
        return self.options.protection.by_rows(job, self.options.max_pixels, self.options.workers,
                                               self.options.decode_seconds)

    def done(self, read: Input, written: files.Written, num_pixels: int, notes: Iterable[str],
             strips: str | None) -> Entry:
        """Return the entry of an output that is complete and on the disk."""
        damaged = read.job.name in self.ledger.damaged
        return Entry(read.job.name, "done", read.job.output_name, read.key, pixels=num_pixels,
                     sha256=written.sha256, size=written.size, mtime_ns=written.mtime_ns,
                     message="was changed after it was made, and is made again" if damaged else None,
                     note="; ".join(dict.fromkeys(notes)) or None, strips=strips,
                     source=self.ledger.source, content=read.content, replaces=read.replaces)

    def record(self, entry: Entry) -> Entry:
        """Put an entry into the ledger, unless it says nothing new. Raises `DiskError`."""
        if entry.status != "already" and not self.options.dry_run:
            self.ledger.append(entry)
        return entry


def failure(job: Job, error: Exception) -> Entry:
    """Return the entry of a file that could not be translated."""
    if isinstance(error, ImageError):
        return Entry.failure(job, error.stage, type(error).__name__, error.reason)
    if is_out_of_memory(error):
        error = DoesNotFit("the image needs more memory than there is; set --memory (such as 2GB), or use "
                           "another device")
    return Entry.failure(job, "convert", type(error).__name__, str(error))


def made_elsewhere(job: Job, row: Row) -> ImageError:
    """Return the error of an image whose output would replace that of another folder's, which `row` is about."""
    other = f"{str(row.get('source')).rpartition(' ')[0]}/{row['path']}"
    return ImageError(job.output, "write", f"{visible(job.output)} was made from another image, {visible(other)}, of a "
                      "folder elsewhere; choose another folder for the outputs, or use --overwrite (also where that "
                      "folder was moved, and the image has changed since)")


def holds_pages(path: Path) -> bool:
    """Return whether a file of this suffix can hold several images, and be written by rows."""
    return path.suffix.lower() in (".tif", ".tiff")


def make_folder(job: Job) -> None:
    """Make the folder of an output, through no link below the folder of all of them.

    Raises `DiskError` where the disk is to blame, else `ImageError`.
    """
    folder = job.output.parent
    try:
        files.make_folder(folder, job.out)
    except OSError as error:
        if is_disk_fault(error):
            raise DiskError.of(error, folder) from error
        raise ImageError(folder, "write", f"{visible(folder)}: {error.strerror}") from error


def remove_leftovers(jobs: Jobs) -> None:
    """Delete the temporary files of outputs of ours that killed processes left behind.

    Those of other shards' outputs stay, and on a disk that machines share what is not old: whether another machine
    writes it, neither its process's number nor a lock tells for certain.
    """
    before = time.time() - REST_SECONDS if files.is_shared(jobs.out) else math.inf
    found = [(folder, name) for folder in jobs.folders for name in _temporary_names(jobs.out / folder)]
    if not found:
        return
    starts = {(str(Path(job.output_name).parent), files.temporary_start(job.output)) for job in jobs}
    for folder, name in found:
        if (folder or ".", name[:files.NUM_START_LETTERS]) in starts:
            with suppress(OSError):  # somebody writes it
                if (path := jobs.out / folder / name).stat().st_mtime < before:
                    files.remove_left_behind(path)


def _temporary_names(folder: Path) -> list[str]:
    with suppress(OSError), os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.name.startswith(files.TEMPORARY)]
    return []
