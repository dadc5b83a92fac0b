"""Regions that must not change: outputs get the input's own samples wherever a mask says so.

For each image there is a mask of its name and size in another folder, of one channel: 0 is free, any other value
protected. What is composed are samples as files hold them, at the very end and row by row, so a protected pixel is the
input's to the byte at every depth, with any number of channels, however the image was computed. Formats that lose
something on the way to the disk are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from translate import files
from translate.convert.jobs import Job
from translate.convert.scaling import Scaling
from translate.data.labels import read_labels
from translate.data.pairing import list_images, named, names_of
from translate.data.protected import UPRIGHT
from translate.errors import DataError, ImageError, UsageError, visible
from translate.images import decoder_process, row_readers
from translate.images.decoder_process import Answer, Request
from translate.images.decoding import inspect
from translate.images.pages import OpenFile
from translate.images.pictures import Picture
from translate.images.row_readers import FilePage
from translate.runs.release import Release

LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif")
ROWS_AT_ONCE = 512  # of an output that stands whole in memory


@dataclass(frozen=True)
class Protection:
    """Which regions of which images must not change.

    folder    masks, by the names of the images below the source, with any suffix
    masks     each by the name of its image below the source, without suffix
    feather   px from the border of a region inwards, over which the translation fades into the input; 0: none. Only
              further inside is a pixel the input's
    classes   the masks are label maps, and these their classes that are protected; None: they are masks
    """

    folder: Path
    masks: dict[str, Path]
    feather: float = 0.0
    classes: tuple[int, ...] | None = None

    @classmethod
    def of(cls, folder: Path, feather: float) -> Protection:
        """Find the masks in a folder. Raises `UsageError` for a feather that means nothing, `DataError`."""
        if not (feather >= 0 and math.isfinite(feather)):
            raise UsageError(f"feather {feather}: expected 0 or more pixels")
        if not folder.is_dir():
            raise DataError("no such folder; expected a mask for each image in it", folder)

        # A name is an image's; two masks of one name would leave open which is meant.
        by_name = named(folder, list_images(folder))
        if clash := next((paths for paths in by_name.values() if len(paths) > 1), None):
            raise DataError(f"has the name of {clash[0].name}, and masks are found by name", clash[1],
                            "remove or rename one of them")
        return cls(folder, {name: paths[0] for name, paths in by_name.items()}, feather)

    def absolute(self) -> Protection:
        """Return the same for processes that stand in other folders."""
        return replace(self, folder=self.folder.absolute(),
                       masks={name: mask.absolute() for name, mask in self.masks.items()})

    def check(self, jobs: Sequence[Job]) -> None:
        """Raise `DataError`, which names them, for images without a mask, or with one of another size or kind.

        By names and headers alone: nothing has been translated by then.
        """
        missing = [job.source for job in jobs if job.fault is None and self._mask(job) is None]
        if missing:
            raise DataError(f"holds no mask for {len(missing)} of {len(jobs)} images: {names_of(missing)}", self.folder,
                            "a mask has the name of its image; an empty one (all 0) protects nothing")
        if lossy := [job.output for job in jobs if job.fault is None and job.output.suffix.lower() in LOSSY]:
            raise UsageError(f"{lossy[0].suffix} does not keep pixels: {names_of(lossy)}", advice="add --format png")
        for job in jobs:
            mask = self._mask(job)
            if mask is None:
                continue
            try:
                shown = inspect(mask)
            except ImageError as error:
                raise DataError.of(error) from None
            if self.classes is None and (shown.channels != 1 or shown.alpha or shown.bits == "float"):
                raise DataError(f"is no mask: a mask has one channel of whole numbers, and this is {shown.mode}", mask,
                                "save it as grey, 0 where an image may change")
            try:
                own = inspect(job.source)
            except ImageError:  # one that cannot be read, or is not here yet, fails when it is its turn
                continue
            if (own.width, own.height) != (shown.width, shown.height):
                raise DataError(f"is {shown.size} pixels, and its image {visible(job.source)} {own.size}", mask,
                                UPRIGHT)

    def key(self, job: Job) -> list[object]:
        """Return what an output depends on beside its image, as JSON."""
        mask = self._mask(job)
        return ["protect", None if mask is None else files.checksum(mask), self.feather, self.classes]

    def _mask(self, job: Job) -> Path | None:
        return self.masks.get(Path(job.name).with_suffix("").as_posix())

    def in_memory(self, job: Job, image: Picture, read: Callable[[Request], Answer], max_pixels: int) -> Composing:
        """Return what protects an image that stands in memory as its file holds it.

        Its mask is read with `read`: the process that has decoded the image is there already. Raises `ImageError`.
        """
        mask = self._mask(job)
        assert mask is not None, "checked before"
        if self.classes is not None:
            return self._composing(job, [FilePage.of_picture(image)], mask, [self._of_classes(mask)])
        answer = read(Request(mask, max_pixels, ""))
        if answer.picture is None:
            raise _not_of_one_page(job, 1, answer.num_pages)
        return self._composing(job, [FilePage.of_picture(image)], mask, [FilePage.of_picture(answer.picture)])

    @contextmanager
    def by_rows(self, job: Job, max_pixels: int, workers: int, seconds: float | None) -> Iterator[Composing]:
        """Open an image and its mask, both to be read by rows: with `workers`, by processes of their own that may take
        so many seconds for an answer. Raises `ImageError`."""
        mask = self._mask(job)
        assert mask is not None, "checked before"
        opening: OpenFile = partial(decoder_process.open_file, seconds=seconds) if workers else row_readers.open_file
        with opening(job.source, max_pixels, None) as pages, self._opened(mask, opening, max_pixels) as masks:
            yield self._composing(job, pages, mask, masks)

    @contextmanager
    def _opened(self, mask: Path, opening: OpenFile, max_pixels: int) -> Iterator[list[FilePage]]:
        """Open a mask, or what the classes of a label map make one."""
        if self.classes is not None:
            yield [self._of_classes(mask)]
            return
        with opening(mask, max_pixels, None) as masks:
            yield masks

    def _of_classes(self, labels: Path) -> FilePage:
        """Return the mask that the classes of a label map make."""
        protected = np.isin(read_labels(labels), self.classes or ())
        return FilePage.of_picture(Picture(labels, np.where(protected, np.uint8(255), np.uint8(0))))

    def _composing(self, job: Job, pages: Sequence[FilePage], mask: Path, masks: Sequence[FilePage]) -> Composing:
        """Return what puts the samples of an image into its output. Raises `ImageError` where the mask is not its."""
        if len(pages) > 1 or len(masks) > 1:
            raise _not_of_one_page(job, len(pages), len(masks))
        sizes = [(each.head.picture.pixels.shape[1], each.head.height) for each in (pages[0], masks[0])]
        if sizes[0] != sizes[1]:
            raise ImageError(mask, "read", f"is {sizes[1][0]}×{sizes[1][1]} pixels, and its image {sizes[0][0]}×"
                             f"{sizes[0][1]}")
        return Composing(pages[0], masks[0], mask, self.feather)


def refuse_unkept(release: Release, scaling: Scaling, quality: int | None) -> None:
    """Raise `UsageError` for a model or words under which no pixel could be kept."""
    shown, made = release.image_in, release.image_out
    if release.labels is not None or (shown.channels, shown.bits) != (made.channels, made.bits):
        what = "label maps" if release.labels is not None else f"{shown.channels} channels, bits: {shown.bits}"
        raise UsageError(f"protect: this model makes {made.channels} channels, bits: {made.bits}, of {what}: no "
                         "sample of an input can stand in its output")
    if shown.pages is not None:
        raise UsageError("protect: this model takes the pages of a file for channels, and a mask is of one page")
    if scaling.sides is not None and scaling.give_back != "input":
        raise UsageError("protect: outputs of another size have no pixel of their input; add --size input, or "
                         "leave --resize out")
    if quality is not None:
        raise UsageError(f"protect: quality {quality} makes files that lose something; leave it out")


def protected_by(mask: Any, image: Picture, pixels: np.ndarray) -> np.ndarray:
    """Return an output (H, W, C) as files hold it, with the samples of its image where a mask (H, W) is not 0.

    The mask is an array or a PIL image of whole numbers or truth values. Raises `UsageError` for another size or kind,
    and `ImageError` for samples of another type or number of channels.
    """
    numbers = np.asarray(mask)
    if numbers.shape != pixels.shape[:2] or numbers.dtype.kind not in "bui":
        raise UsageError(f"protect: got a mask {numbers.shape} of {numbers.dtype}; expected {pixels.shape[:2]} of "
                         f"whole numbers or truth values, 0 where the image may change: {UPRIGHT}")
    shown = Picture(Path("mask"), (numbers != 0).astype(np.uint8)[..., None])
    return composed(Composing(FilePage.of_picture(image), FilePage.of_picture(shown), shown.path, 0.0), pixels)


def _not_of_one_page(job: Job, num_pages: int, num_masks: int) -> ImageError:
    return ImageError(job.source, "convert", f"holds {num_pages} pages and its mask {num_masks}: regions of images of "
                      "one page can be protected")


class Composing:
    """Puts samples of an input into the rows of its output."""

    def __init__(self, image: FilePage, mask: FilePage, mask_path: Path, feather: float):
        self.image, self.mask, self.mask_path, self.feather = image, mask, mask_path, feather
        self.height = mask.head.height
        self.values: set[float] = set()  # that stand for "protected" in the mask: one

    def __call__(self, start: int, rows: np.ndarray) -> np.ndarray:
        """Return rows (rows, W, C) of an output as files hold them, from row `start` on, with what is protected.

        Raises `ImageError` where the samples of the input are of another type or number of channels.
        """
        kept = self._kept(start, start + len(rows))
        if not kept.any():
            return rows
        own = self._own(start, start + len(rows), rows)

        # The input's own sample where nothing fades, to the byte
        whole = kept >= 1
        made = np.where(whole[..., None], own, rows)
        fading = (kept > 0) & ~whole
        if fading.any():
            share = kept[fading][:, None].astype(np.float64)
            mixed = share * own[fading] + (1 - share) * rows[fading]
            made[fading] = mixed if rows.dtype.kind == "f" else np.rint(mixed)
        return made

    def _own(self, start: int, stop: int, rows: np.ndarray) -> np.ndarray:
        """Return samples of the input like those of an output."""
        read = self.image.reader.read(start, stop)
        own = samples_as(read, rows.dtype, rows.shape[2])
        if own is None:
            raise ImageError(read.path, "convert", f"holds {read.pixels.shape[2]} channels of {read.pixels.dtype}, and "
                             f"its output {rows.shape[2]} of {rows.dtype}: none of its samples can stand there")
        return own

    def _kept(self, start: int, stop: int) -> np.ndarray:
        """Return how much of rows [start, stop) is the input's: (rows, W), from 0 to 1."""
        # What is further away than the feather reaches tells nothing.
        reach = math.ceil(self.feather) + 1 if self.feather else 0
        first, last = max(start - reach, 0), min(stop + reach, self.height)
        numbers = self.mask.reader.read(first, last).pixels
        found = np.unique(numbers)
        self.values |= {float(value) for value in found[found != 0]}
        if numbers.shape[2] != 1 or len(self.values) > 1:
            raise ImageError(self.mask_path, "read", "is no mask: it has more values than 0 and one other, as one "
                             "saved with loss or with soft borders has")
        protected, part = numbers[..., 0] != 0, slice(start - first, stop - first)
        if not self.feather or not protected[part].any():
            return protected[part].astype(np.float32)

        # 0 at the first free pixel, 1 from `feather` px inside on
        inwards = cv2.distanceTransform(protected.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[part]
        return np.clip(inwards / (self.feather + 1), 0, 1).astype(np.float32)


def composed(composing: Composing, pixels: np.ndarray) -> np.ndarray:
    """Return an output (H, W, C) that stands in memory with what is protected of its input."""
    return np.concatenate([composing(start, pixels[start:start + ROWS_AT_ONCE])
                           for start in range(0, len(pixels), ROWS_AT_ONCE)])


def samples_as(image: Picture, dtype: np.dtype[Any], channels: int) -> np.ndarray | None:
    """Return the samples of an image as an output of such samples holds them, (H, W, channels).

    Grey is repeated to colours, alpha may be a channel. None where its samples cannot stand there.
    """
    own = image.pixels
    if own.dtype == dtype and own.shape[2] + 1 == channels and image.alpha is not None:
        own = np.dstack([own, image.alpha])
    if own.shape[2] == 1 and channels == 3:
        own = np.repeat(own, 3, axis=2)
    return own if own.dtype == dtype and own.shape[2] == channels else None


def num_changed(before: Picture, after: Picture, protected: np.ndarray) -> int:
    """Return of how many `protected` pixels (H, W) an output has not the samples of its input.

    NaN equals NaN, and an image without alpha is opaque. All of them count where the two cannot be compared.
    """
    own = samples_as(before, after.pixels.dtype, after.pixels.shape[2])
    if own is None or own.shape != after.pixels.shape:
        return int(protected.sum())
    same = (own == after.pixels) | ((own != own) & (after.pixels != after.pixels))
    changed = ~same.all(axis=2)
    is_alpha_a_channel = before.alpha is not None and own.shape[2] == before.pixels.shape[2] + 1
    if not is_alpha_a_channel:
        changed |= opacity(before) != opacity(after)
    return int(np.count_nonzero(changed & protected))


def opacity(image: Picture) -> np.ndarray:
    """Return how opaque an image is, from 0 to 1: (H, W), or () where it is everywhere."""
    if image.alpha is None:
        return np.ones(())
    return image.alpha / (np.iinfo(image.alpha.dtype).max if image.alpha.dtype.kind == "u" else 1.0)
