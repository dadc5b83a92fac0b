"""Files translated one after the other, by one generator under one set of options.

A key is a hash of the input's content, the generator's fingerprint and the options that change an output, so that
nothing made from an older model, image or option is ever taken for done.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from translate import files, tiling
from translate.convert.jobs import Job
from translate.convert.ledger import Ledger, Row
from translate.data.decoding import Picture, decode, read_content
from translate.data.images import change_bits, fit, to_array, to_tensor, write_image
from translate.data.labels import one_hot, read_classes
from translate.errors import DiskError, DoesNotFit, ImageError, UsageError, is_disk_fault
from translate.precision import Format, autocast
from translate.release import Release

OUTPUT_VERSION = 1  # raise it when the same input, model and options begin to give other files


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
