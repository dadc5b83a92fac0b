"""Labelled images as a task network sees them: read, resized, cropped, and with their classes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from translate import files
from translate.adapt.result_cache import digest
from translate.data.labelled import Labelled, LabelledConfig
from translate.data.loading import Loadable, Shares, load
from translate.data.stream import drawn
from translate.data.transforms import RandomTransform, loaded, resized
from translate.images.reading import ImageConfig, read_image
from translate.images.tensors import to_tensor
from translate.recipe import Downstream

CACHED_BYTES = 2**29  # of images of one set that are kept in memory rather than read in every epoch
Change = Callable[[np.ndarray, int], np.ndarray]  # an image (H, W, C) and its number → another of the same size


class Examples:
    """Labelled images of one kind, in a fixed order.

    `image` says how they are read, and `resize` at which short side (px; None: their own). `change` is made to each as
    it is read. A label is a file, a class, or the classes themselves: (h, w, 1) of pixels, or (1,).
    """

    def __init__(self, layout: LabelledConfig, files: Sequence[Path], labels: Sequence[Path | int | np.ndarray],
                 image: ImageConfig, resize: int | None, change: Change | None = None):
        self.layout, self.files, self.labels = layout, tuple(files), tuple(labels)
        self.image, self.resize, self.change = image, resize, change
        self._kept: dict[int, np.ndarray] = {}
        self._kept_bytes = 0

    @classmethod
    def of(cls, layout: LabelledConfig, found: Labelled, image: ImageConfig, resize: int | None,
           change: Change | None = None) -> Examples:
        """Return all images of a split."""
        return cls(layout, found.files, found.labels, image, resize, change)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def digest(self) -> str:
        """Return what tells these examples from all others: what images and labels hold, and how they are read.

        Copies have the same digest. Contents are read rather than dates: a training reads them many times over, and to
        begin it anew costs far more.
        """
        labels = [files.checksum(label) if isinstance(label, Path) else
                  label.tolist() if isinstance(label, np.ndarray) else label for label in self.labels]
        read_by = self.layout.model_dump(mode="json", exclude={"card", "folder"}), self.image.model_dump(mode="json")
        parts = [list(map(files.checksum, self.files)), labels, read_by, self.resize]
        return digest(parts)

    def __add__(self, other: Examples) -> Examples:
        """Return both, read like these; the others are not changed."""
        change, num = self.change, len(self)
        both = Examples(self.layout, self.files + other.files, self.labels + other.labels, self.image, self.resize,
                        None if change is None else
                        lambda image, number: change(image, number) if number < num else image)
        if (other.image, other.resize, other.change) == (self.image, self.resize, None):  # read alike already
            both._keep({**self._kept, **{num + number: image for number, image in other._kept.items()}})
        return both

    def part(self, numbers: Sequence[int], labels: Sequence[Path | int | np.ndarray] | None = None) -> Examples:
        """Return some of them alone, with other labels where these are given."""
        some = Examples(self.layout, [self.files[number] for number in numbers],
                        labels or [self.labels[number] for number in numbers], self.image, self.resize, self.change)
        if self.change is None:  # a change may depend on the number
            some._keep({new: self._kept[number] for new, number in enumerate(numbers) if number in self._kept})
        return some

    def _keep(self, images: dict[int, np.ndarray]) -> None:
        self._kept, self._kept_bytes = images, sum(image.nbytes for image in images.values())

    def read(self, number: int) -> np.ndarray:
        """Return an image (H, W, C) as stored, after `change`, at a short side of `resize`. Raises `ImageError`."""
        if number in self._kept:
            return self._kept[number]
        image = read_image(self.files[number], self.image)
        if self.change is not None:
            image = self.change(image, number)
        image = loaded(image, self.files[number], self.resize)
        if self._kept_bytes + image.nbytes <= CACHED_BYTES:
            self._kept[number], self._kept_bytes = image, self._kept_bytes + image.nbytes
        return image

    def whole(self, number: int) -> tuple[Tensor, np.ndarray]:
        """Return an image (C, H, W) in [-1, 1], and its classes: (h, w, 1) at the size of the label map, or (1,)."""
        return to_tensor(self.read(number), self.image), self.classes(number)

    def classes(self, number: int) -> np.ndarray:
        """Return the classes of an image as int64: (h, w, 1) of its pixels, or (1,). Raises `ImageError`."""
        label = self.labels[number]
        return label.astype(np.int64) if isinstance(label, np.ndarray) else self.layout.read(label)


class TrainingExamples(Loadable):
    """The examples that one training sees, by their number: a function of the seed and of nothing else."""

    def __init__(self, examples: Examples, config: Downstream, seed: int):
        self.examples, self.config, self.seed = examples, config, seed
        self.transform = RandomTransform(config.size, config.augment)

    def files_of(self, number: int) -> str:
        index, _ = self.address(number)
        return str(self.examples.files[index])

    def address(self, number: int) -> tuple[int, int]:
        """Return (index of an example, key that its transforms are drawn from)."""
        return drawn(self.seed, "task", len(self.examples), number)

    def sample(self, number: int) -> tuple[Tensor, Tensor]:
        """Return an image (C, H, W) in [-1, 1], and its classes: (H, W), or one. Raises `ImageError`."""
        (index, key), size = self.address(number), self.config.size
        layout = self.examples.layout
        image = self.examples.read(index)
        images = [loaded(image, self.examples.files[index], None, size)]

        # Class numbers go through crop and flip as 16-bit pixels: neither computes new ones.
        classes = self.examples.classes(index)
        if layout.per_pixel:
            images.append(resized(classes.astype(np.uint16), images[0].shape[:2], labels=True))
        if images[0].shape[:2] != size or self.config.augment:
            images = self.transform(images, key)
        label = images[1][..., 0].astype(np.int64) if layout.per_pixel else classes[0]
        return to_tensor(np.ascontiguousarray(images[0]), self.examples.image), torch.as_tensor(label)

    def batches(self, workers: int) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Yield images (N, C, H, W) and classes (N, H, W) or (N,). Raises as `translate.data.loading.load` does."""
        return load(self, Shares(0, self.config.num_seen, self.config.batch_size), stacked, workers)


def stacked(samples: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return images and classes of one size as a batch."""
    images, classes = zip(*samples, strict=True)
    return torch.stack(images), torch.stack(classes)
