"""Pairs of a data set as their files hold them: any depth, any channels, halves of one file, label maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from translate.data.labels import read_labels
from translate.data.layouts import FOLDERS_OF, LayoutConfig
from translate.errors import DataError, ImageError
from translate.images.decoding import decode, read_content
from translate.images.pictures import Picture

MOST_LABEL_PLANES = 64  # of the classes of a label map, the most frequent are looked at


@dataclass(frozen=True)
class Pair:
    """The files of a pair; `a` is `b` where one file holds both, A as its left half unless `swapped`."""

    split: str  # as the disk calls it: train, test, val
    a: Path
    b: Path
    halves: bool = False
    swapped: bool = False
    labels: bool = False  # A is a label map

    def read(self) -> tuple[Picture, Picture]:
        """Return both images, upright. Raises `ImageError`, also where they differ in size."""
        if self.halves:
            whole = decode(read_content(self.a), self.a)
            width = whole.pixels.shape[1]
            if width % 2:
                raise ImageError(self.a, "read", f"is {width} pixels wide, which cannot be cut into two equal halves")
            left, right = (columns(whole, part) for part in (slice(width // 2), slice(width // 2, None)))
            return (right, left) if self.swapped else (left, right)

        a = Picture(self.a, read_labels(self.a)) if self.labels else decode(read_content(self.a), self.a)
        b = decode(read_content(self.b), self.b)
        if a.pixels.shape[:2] != b.pixels.shape[:2]:
            (height_a, width_a), (height_b, width_b) = a.pixels.shape[:2], b.pixels.shape[:2]
            raise ImageError(self.a, "read", f"is {width_a}×{height_a}, and its partner {self.b} {width_b}×{height_b}; "
                             "make both one size")
        return a, b


def columns(picture: Picture, part: slice) -> Picture:
    """Return some columns of a picture."""
    alpha, unknown = (None if each is None else each[:, part] for each in (picture.alpha, picture.unknown))
    return replace(picture, pixels=picture.pixels[:, part], alpha=alpha, unknown=unknown)


def pairs_of(data: LayoutConfig, root: Path) -> list[Pair]:
    """Return all pairs of a data set, those to train on first; `root` is where prepared cards lie.

    Raises `DataError` for data that hold no pairs of files, and for files that do not pair.
    """
    if not data.paired:
        raise DataError("holds no pairs", data.place(root), "name the images of a pair alike in trainA and trainB; "
                        "`translate data check` lists what does not pair")
    pairs = list(_found(data, root))
    if not pairs:
        raise DataError("holds no pairs that can be off: there are none, or A is computed from B", data.place(root))
    return pairs


def _found(data: LayoutConfig, root: Path) -> Iterator[Pair]:
    for name in FOLDERS_OF["train"] + FOLDERS_OF["test"]:
        samples = data.find(name, root)
        if samples is None or samples.computed:
            continue
        for a, b in zip(samples.files_a, samples.files_b, strict=True):
            yield Pair(name, a, b, samples.halves, samples.swapped, samples.labels[0])


def as_measured(picture: Picture, labels: bool) -> Tensor:
    """Return what of a picture is compared: (C, H, W) in [-1, 1], from its darkest to its brightest value.

    Of a label map, a plane for each class. What has no data is dark.
    """
    pixels = picture.pixels
    if labels:
        numbers, counts = np.unique(pixels, return_counts=True)
        taken = numbers[np.argsort(-counts, kind="stable")[:MOST_LABEL_PLANES]]
        return torch.from_numpy(np.stack([pixels[..., 0] == number for number in taken])).float() * 2 - 1

    values = pixels.astype(np.float32)
    if picture.unknown is not None:
        values = np.where(picture.unknown[..., None], np.nan, values)
    known = np.isfinite(values)
    low, high = (float(values[known].min()), float(values[known].max())) if known.any() else (0.0, 0.0)
    scaled = (np.where(known, values, low) - low) / max(high - low, 1e-12)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1))).clamp_(0, 1) * 2 - 1
