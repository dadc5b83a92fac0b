"""Labelled images as a task network sees them: read, resized, cropped, and with their classes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from translate import files
from translate.data.labelled import Labelled, LabelledConfig
from translate.data.stream import permutation
from translate.data.transforms import RandomTransform, resized, stable_hash, target_shape, use_one_thread
from translate.errors import DataError, TranslateError
from translate.images.reading import ImageConfig, read_image
from translate.images.tensors import to_tensor
from translate.recipe import Downstream

CACHED_BYTES = 2**29  # of images of one set that are kept in memory rather than read in every epoch
Change = Callable[[np.ndarray, int], np.ndarray]  # an image (H, W, C) and its number → another of the same size


class Examples:
    """Labelled images of one kind, in a fixed order. `change` is made to each as it is read."""

    def __init__(self, layout: LabelledConfig, files: Sequence[Path], labels: Sequence[Path | int],
                 image: ImageConfig, resize: int | None, change: Change | None = None):
        self.layout, self.files, self.labels = layout, tuple(files), tuple(labels)
        self.image, self.resize, self.change = image, resize, change
        self._kept: dict[int, np.ndarray] = {}
        self._kept_bytes = 0

    @classmethod
    def of(cls, layout: LabelledConfig, found: Labelled, image: ImageConfig, resize: int | None,
           change: Change | None = None) -> Examples:
        """All images of a split."""
        return cls(layout, found.files, found.labels, image, resize, change)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def digest(self) -> str:
        """Another one where an image or a label is another, or is read in another way; not where they were copied.

        Contents are read rather than dates: a training reads them many times over, and begun anew it costs far more.
        """
        labels = [files.checksum(label) if isinstance(label, Path) else label for label in self.labels]
        read_by = self.layout.model_dump(mode="json", exclude={"card", "folder"}), self.image.model_dump(mode="json")
        parts = [list(map(files.checksum, self.files)), labels, read_by, self.resize]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def __add__(self, other: Examples) -> Examples:
        """Both, read alike."""
        return Examples(self.layout, self.files + other.files, self.labels + other.labels, self.image, self.resize)

    def part(self, numbers: Sequence[int]) -> Examples:
        """Only some of them."""
        return Examples(self.layout, [self.files[number] for number in numbers],
                        [self.labels[number] for number in numbers], self.image, self.resize, self.change)

    def read(self, number: int) -> np.ndarray:
        """(H, W, C) as stored, changed, at the short side of `resize`. Raises `ImageError`."""
        if number in self._kept:
            return self._kept[number]
        image = read_image(self.files[number], self.image)
        if self.change is not None:
            image = self.change(image, number)
        image = resized(image, target_shape(image.shape[:2], self.resize))
        if self._kept_bytes + image.nbytes <= CACHED_BYTES:
            self._kept[number], self._kept_bytes = image, self._kept_bytes + image.nbytes
        return image

    def whole(self, number: int) -> tuple[Tensor, np.ndarray]:
        """(C, H, W) in [-1, 1], and its classes: (h, w, 1) at the size of the label map, or (1,)."""
        return to_tensor(self.read(number), self.image), self.layout.read(self.labels[number])


def refuse_all_ignored(layout: LabelledConfig, found: Labelled) -> None:
    """Raise `DataError` where no pixel of any label counts: nothing could be learnt from such labels, or tested."""
    if layout.per_pixel and not any((layout.read(label) != getattr(layout, "ignore", None)).any()
                                    for label in found.labels):
        raise DataError(f"{found.folder}: all pixels of its {len(found)} labels are ignored, so that none of them "
                        "counts; look at ids, classes and ignore of this layout (adapt in the recipe)")


class Draws(Dataset):
    """The examples that one training sees, by their number: a function of the seed and of nothing else."""

    def __init__(self, examples: Examples, config: Downstream, seed: int):
        self.examples, self.config, self.seed = examples, config, seed
        self.transform = RandomTransform(config.size, config.augment)

    def __len__(self) -> int:
        return self.config.images

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor] | str:
        """An image (C, H, W), and its classes: (H, W) or a number. What goes wrong is returned: see `data.stream`."""
        try:
            return self.draw(number)
        except TranslateError as error:
            return str(error)

    def draw(self, number: int) -> tuple[Tensor, Tensor]:
        epoch, position = divmod(number, len(self.examples))
        index = int(permutation(stable_hash(self.seed, "task", epoch), len(self.examples))[position])
        image, size = self.examples.read(index), self.config.size
        images = [resized(image, target_shape(image.shape[:2], None, size))]
        classes = self.examples.layout.read(self.examples.labels[index])
        if self.examples.layout.per_pixel:
            # Class numbers go through crop and flip as 16-bit pixels: neither computes new ones.
            images.append(resized(classes.astype(np.uint16), images[0].shape[:2], labels=True))
        if images[0].shape[:2] != size or self.config.augment:
            images = self.transform(images, stable_hash(self.seed, "task", epoch, index))
        label = images[1][..., 0].astype(np.int64) if self.examples.layout.per_pixel else classes[0]
        return to_tensor(np.ascontiguousarray(images[0]), self.examples.image), torch.as_tensor(label)

    def batches(self, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(N, C, H, W) and (N, H, W) or (N,). Raises `TranslateError` for an example that cannot be read."""
        loader: DataLoader = DataLoader(self, self.config.batch_size, num_workers=workers, collate_fn=list,
                                        worker_init_fn=lambda _: use_one_thread(), timeout=600 if workers else 0)
        for batch in loader:
            faults = [each for each in batch if isinstance(each, str)]
            if faults:
                raise TranslateError(faults[0])
            images, labels = zip(*batch, strict=True)
            yield torch.stack(images), torch.stack(labels)
