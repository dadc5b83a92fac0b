"""Translating files: a folder in, the same tree and names out, interrupted and resumed as often as need be.

`OUT/.translate-ledger.jsonl` holds one JSON object a line; the last one of a path counts:

    started   the file is being translated; what lies under its output name is ours from here on
    done      the output is complete and on the disk; `key` says what it was made from
    failed    why: the stage (find, read, convert, write), the class of the error, its message

A key is a hash of the input's content, the generator's fingerprint and the options that change an output, so that
nothing made from an older model, image or option is ever taken for done. Files are done one after the other.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from translate import files, tiling
from translate.data.decoding import MAX_PIXELS, Picture, decode, read_content
from translate.data.images import (
    SUFFIXES,
    ImageConfig,
    change_bits,
    fit,
    list_folder,
    suffix_for,
    to_array,
    to_tensor,
    write_image,
)
from translate.data.labels import one_hot, read_classes
from translate.errors import DataError, DiskError, DoesNotFit, ImageError, UsageError, is_disk_fault
from translate.precision import Format, autocast, choose_precision
from translate.release import Release
from translate.signals import minding_signals

LEDGER = ".translate-ledger.jsonl"
OUTPUT_VERSION = 1  # raise it when the same input, model and options begin to give other files


@dataclass(frozen=True)
class Row:
    """What became of one file. `path` and `output` are below the folders given; `already`: done by an earlier run."""

    path: str
    status: Literal["started", "done", "already", "failed"]
    output: str | None = None
    key: str | None = None
    stage: str | None = None
    error: str | None = None  # the class of what was raised
    message: str | None = None

    @classmethod
    def failure(cls, job: Job, stage: str, error: str, message: str) -> Row:
        return cls(job.name, "failed", job.output_name, stage=stage, error=error, message=printable(message))

    def __str__(self) -> str:
        reason = f": {self.stage}: {self.message}" if self.status == "failed" else f" → {self.output}"
        return printable(f"{self.path}{reason}")


@dataclass
class Summary:
    """What became of all files."""

    total: int  # images found
    converted: int = 0
    already: int = 0  # done by an earlier run
    failed: list[Row] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # files that are no images by their suffix, hidden ones among them
    stopped: bool = False  # by a signal, with files left to do

    @property
    def exit_code(self) -> int:
        """0 all, 3 some, 4 none of the images are translated, 75 stopped and resumable."""
        if self.stopped:
            return 75
        if not self.failed:
            return 0
        return 3 if self.converted or self.already else 4

    def count(self, row: Row) -> None:
        self.converted += row.status == "done"
        self.already += row.status == "already"
        if row.status == "failed":
            self.failed.append(row)


@dataclass(frozen=True)
class Job:
    """One file to translate."""

    source: Path
    name: str  # below the source folder
    output: Path
    output_name: str  # below the output folder
    fault: ImageError | None = None  # known before it is opened


@torch.inference_mode()
def translate_image(generator: nn.Module, image: Tensor, device: torch.device, precision: Format,
                    memory: str | None = None) -> Tensor:
    """(C, H, W) in [-1, 1] → (C', H, W) float32 in [-1, 1], on the CPU.

    The whole image at once, or, with `memory` (such as "2GB"), in strips that need no more and give the same output.
    """
    with autocast(device, precision):
        whole = image[None].to(device)
        fake = generator(whole) if memory is None else tiling.apply(generator, whole, memory=memory)
        assert fake is not None, "without a sink the output is returned"
        return fake[0].to("cpu", torch.float32)


def convert(source: Path, out: Path, release: Release, *, device: str = "auto",
            precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto", overwrite: bool = False,
            max_pixels: int = MAX_PIXELS, memory: str | None = None,
            on_progress: Callable[[Row, int, int], None] | None = None) -> Summary:
    """Translate an image, or every image below a folder, into `out`; go on where an earlier call was interrupted.

    A suffix is kept where its format can hold the output, else it becomes .png (.tif for floats and many channels);
    where another file claims that name, it is added to the whole name (x.gif beside x.png → x.gif.png). Outputs have
    the size of their inputs seen upright; alpha, ICC profile, EXIF and resolution go along where the format holds
    them. `source` may be a file; then `out` may be a file too, and no ledger is written.

    Files already done are left alone unless `overwrite`. A file at an output's place that this folder's ledger does not
    know is left alone as well, and reported, unless `overwrite`. `auto` computes outputs of 8 bits in the device's
    fast format, deeper ones in fp32. `memory` (such as "2GB") bounds what translating an image takes beyond the
    image itself: exact strips, somewhat slower. `on_progress(row, number, total)` is called after each file.

    A file that cannot be translated is a row of the summary. Raises `UsageError` for words that do not fit together and
    for a source without images, `DiskError` when the output disk is full or read-only: nothing more could be done.
    SIGINT and SIGTERM end the call after the file in hand.
    """
    jobs, skipped = plan_jobs(source, out, release.image_out)
    where = choose_device(device)
    if precision == "auto" and release.image_out.bits != 8:
        precision = "fp32"
    converter = Converter(release, where, choose_precision(precision, where), max_pixels, memory, overwrite,
                          Ledger(None if source.is_file() and jobs[0].output == out else out / LEDGER))
    remove_leftovers({job.output.parent for job in jobs})
    summary = Summary(len(jobs), skipped=skipped)
    with minding_signals() as stop:
        for number, job in enumerate(jobs, 1):
            if stop:
                summary.stopped = True
                break
            row = converter.run(job)
            summary.count(row)
            if on_progress is not None:
                on_progress(row, number, len(jobs))
    return summary


class Converter:
    """Translates one file after the other with one generator and one set of options."""

    def __init__(self, release: Release, device: torch.device, precision: Format, max_pixels: int,
                 memory: str | None, overwrite: bool, ledger: Ledger):
        self.release, self.device, self.precision, self.max_pixels = release, device, precision, max_pixels
        self.memory, self.overwrite, self.ledger = memory, overwrite, ledger
        release.generator.to(device)

    def run(self, job: Job) -> Row:
        """Translate one file; an error is a row. Raises `DiskError`."""
        try:
            row = self._translate(job)
        except DiskError:
            raise
        except ImageError as error:
            row = Row.failure(job, error.stage, "ImageError", error.reason)
        except Exception as error:  # the next file may well be fine, and the row says what this one did
            if is_out_of_memory(error):
                error = DoesNotFit("the image needs more memory than there is; use another device or a smaller image")
            row = Row.failure(job, "convert", type(error).__name__, str(error))
        if row.status != "already":
            self.ledger.append(row)
        return row

    def _translate(self, job: Job) -> Row:
        if job.fault is not None:
            raise job.fault
        content = read_content(job.source)
        key = self.key(content)
        if not self.overwrite:
            if self.ledger.is_done(job, key):
                return Row(job.name, "already", job.output_name, key)
            if os.path.lexists(job.output) and not self.ledger.owns(job):
                raise ImageError(job.output, "write", f"{job.output} exists and is not from a conversion into this "
                                 "folder; remove it, or use --overwrite")
        self.ledger.append(Row(job.name, "started", job.output_name, key))
        image_out = self.release.image_out
        picture, image = self.read(content, job.source)
        fake = translate_image(self.release.generator, image, self.device, self.precision, self.memory)
        if not torch.isfinite(fake).all():
            raise ImageError(job.source, "convert", "the generator's output is not finite; try precision fp32")
        make_folder(job.output.parent)
        write_image(job.output, to_array(fake, image_out),
                    alpha=None if picture.alpha is None else change_bits(picture.alpha, image_out.bits),
                    icc=picture.icc, exif=picture.exif, dpi=picture.dpi)
        return Row(job.name, "done", job.output_name, key)

    def read(self, content: bytes, path: Path) -> tuple[Picture, Tensor]:
        """The picture in a file, and what the generator is shown of it: (C, H, W) in [-1, 1]. Raises `ImageError`."""
        labels = self.release.labels
        if labels is not None:
            numbers = read_classes(path, labels.classes, labels.ignore, self.max_pixels)
            return Picture(path, numbers), one_hot(numbers, labels.classes, labels.ignore)
        picture = fit(decode(content, path, self.max_pixels), self.release.image_in)
        return picture, to_tensor(picture.pixels, self.release.image_in)

    def key(self, content: bytes) -> str:
        """What an output is made from: content, model, options."""
        parts = [hashlib.sha256(content).hexdigest(), self.release.fingerprint, self.precision, OUTPUT_VERSION]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class Ledger:
    """What has become of every file of an output folder, kept in `path`; without a path, only in memory."""

    def __init__(self, path: Path | None):
        self.path = path
        try:
            rows = files.read_lines(path) if path is not None else []
        except OSError as error:
            raise DiskError.of(error, path or Path()) from error
        self._last = {row["path"]: row for row in rows if isinstance(row.get("path"), str)}
        self._outputs = {row.get("output") for row in rows if row.get("status") in ("started", "done")}
        self._opened = False

    def is_done(self, job: Job, key: str) -> bool:
        """Whether this very output was made from what `key` says, and is still there."""
        row = self._last.get(job.name, {})
        return (row.get("status") == "done" and row.get("key") == key and row.get("output") == job.output_name
                and job.output.is_file())

    def owns(self, job: Job) -> bool:
        """Whether a file under the job's output name is one that we wrote."""
        return job.output_name in self._outputs

    def append(self, row: Row) -> None:
        """Add a row, flushed to the disk. Raises `DiskError`."""
        record = {name: value for name, value in asdict(row).items() if value is not None}
        self._last[row.path] = record
        if row.status != "failed":
            self._outputs.add(row.output)
        if self.path is None:
            return
        try:
            if not self._opened:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._end_cut_line(self.path)
                self._opened = True
            files.append_line(self.path, record)
        except OSError as error:
            raise DiskError.of(error, self.path) from error

    @staticmethod
    def _end_cut_line(path: Path) -> None:
        """A line that a crash has cut must not swallow the next one."""
        if path.exists() and path.stat().st_size:
            with path.open("rb+") as file:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")


def plan_jobs(source: Path, out: Path, config: ImageConfig) -> tuple[list[Job], list[str]]:
    """Which file becomes which, decided by names alone, and the files that are no images.

    Raises `UsageError` when there is nothing to do or an output would replace a source.
    """
    if source.is_file():
        jobs, skipped = [_single_job(source, out, config)], list[str]()
    elif source.is_dir():
        if out.exists() and not out.is_dir():
            raise UsageError(f"{out}: is a file; a folder of images needs a folder to go to")
        if out.is_dir() and out.samefile(source):
            raise UsageError(f"{out}: is the source itself; its images would be replaced. Choose another folder")
        jobs, skipped = _folder_jobs(source, out, config)
    else:
        raise DataError(f"{source}: no such file or folder")
    sources = {path for job in jobs for path in (_place(job.source), Path(os.path.realpath(job.source)))}
    replaced = next((job for job in jobs if _place(job.output) in sources), None)
    if replaced is not None:
        raise UsageError(printable(f"{replaced.output}: the output of {replaced.source} would replace an image of the "
                                   "source; choose another folder"))
    return jobs, skipped


def _single_job(source: Path, out: Path, config: ImageConfig) -> Job:
    suffix = out.suffix.lower()
    if suffix in SUFFIXES and not out.is_dir():
        if suffix_for(suffix, config) != suffix:
            raise UsageError(f"{out}: cannot hold the output ({config.channels} channels, bits: {config.bits}); "
                             f"write {suffix_for(suffix, config)}")
        return Job(source, source.name, out, out.name)
    name = Path(source.name).with_suffix(suffix_for(source.suffix, config))
    return Job(source, source.name, out / name, str(name))


def _folder_jobs(source: Path, out: Path, config: ImageConfig) -> tuple[list[Job], list[str]]:
    listing = list_folder(source, skip=out)
    names = [path.relative_to(source) for path in listing.images]
    claimed = {name for name in names if suffix_for(name.suffix, config) == name.suffix}
    jobs = [_job(fault.path, source, out, fault.path.relative_to(source), fault) for fault in listing.faults]
    for path, name in zip(listing.images, names, strict=True):
        output, fault = name, None
        if name not in claimed:
            suffix = suffix_for(name.suffix, config)
            wishes = [name.with_suffix(suffix), name.with_name(name.name + suffix)]
            free = [wish for wish in wishes if wish not in claimed]
            output = free[0] if free else wishes[-1]
            if not free:
                fault = ImageError(path, "find", f"its output {output} is also that of another file; rename one")
            claimed.add(output)
        jobs.append(_job(path, source, out, output, fault))
    if not jobs:
        raise DataError(f"{source}: holds no images ({', '.join(sorted(SUFFIXES))})")
    return jobs, [str(path.relative_to(source)) for path in listing.others]


def _job(path: Path, source: Path, out: Path, output: Path, fault: ImageError | None) -> Job:
    return Job(path, str(path.relative_to(source)), out / output, str(output), fault)


def _place(path: Path) -> Path:
    """Where a name lies, whatever it is a link to: what a rename to it would replace."""
    return Path(os.path.realpath(path.parent)) / path.name


def choose_device(asked: str) -> torch.device:
    """`auto` is CUDA where there is one. Raises `UsageError` for a device that is not there."""
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {asked}: {str(error).splitlines()[0]}") from None
    return device


def is_out_of_memory(error: BaseException) -> bool:
    """True for every way in which torch and NumPy say that memory is used up."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in (
        "not enough memory", "can't allocate memory", "Cannot allocate memory"))


def make_folder(folder: Path) -> None:
    """Make a folder for outputs. Raises `DiskError` where the disk is to blame, else `ImageError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if is_disk_fault(error):
            raise DiskError.of(error, folder) from error
        raise ImageError(folder, "write", f"{folder}: {error.strerror}") from error


def remove_leftovers(folders: set[Path]) -> None:
    """Delete the temporary files of processes that were killed. Their names end in the process's number."""
    for folder in folders:
        with suppress(OSError):
            for path in folder.glob(f"{files.TEMPORARY}*"):
                name = re.fullmatch(re.escape(files.TEMPORARY) + r"[0-9a-f]{12}-(\d{1,10})", path.name)
                if name and (int(name[1]) == os.getpid() or not _is_running(int(name[1]))):
                    path.unlink(missing_ok=True)


def _is_running(number: int) -> bool:
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def printable(text: str) -> str:
    """File names may hold bytes that are no text; a terminal refuses them."""
    return text.encode("utf-8", "backslashreplace").decode()
