"""The images of one split, read and turned into tensors: one class for each way the two sides are stored."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from translate.data.hashing import stable_hash
from translate.data.image_cache import ImageCache
from translate.data.label_counts import LabelCounts, count_label_maps
from translate.data.label_planes import label_planes
from translate.data.labels import Labelling
from translate.data.protected import ProtectConfig
from translate.data.transforms import Augmentation, check_loaded, resized
from translate.errors import RECIPE_PLACEHOLDER, DataError, ImageError
from translate.images.decoding import inspect, is_jpeg
from translate.images.reading import ImageConfig, read_image
from translate.images.resampling import HeightWidth, target_shape
from translate.images.tensors import to_tensor

ComputedInput = Literal["grey", "edges"]


class Sample(NamedTuple):
    """One image of each domain, (C, H, W) in [-1, 1], and the number that names the sample (positional dropout)."""

    a: Tensor
    b: Tensor
    key: int
    protected: Tensor | None = None  # (1, H, W): how strictly each pixel of A is to stay; None: nothing is protected
    other: Tensor | None = None  # of images from noise: what another one is drawn under, which differs from a


@dataclass(frozen=True)
class Loading:
    """What the two sides look like, and how they are loaded for training."""

    image_a: ImageConfig
    image_b: ImageConfig
    resize: int | None  # short side, px
    augment: tuple[Augmentation, ...]
    skips_unreadable: bool = False  # whether another sample is taken in place of one that cannot be made
    draft: bool = False  # whether a JPEG that is shrunk far may be decoded at a half, quarter or eighth of its size
    cache: ImageCache | None = None  # where images are kept at the size that they are loaded at
    protect: ProtectConfig | None = None  # regions of A's images that are to stay as they are


@dataclass(frozen=True)
class Stored:
    """One of the images of a sample, as a file holds it.

    path    the file
    read    reads it as (H, W, C); of at least half a given (height, width), where one is given and `draft` allows it
    how     what besides the file and the size decides about its pixels, as JSON
    draft   whether it may be decoded smaller than it is: it is all that the file holds
    """

    path: Path
    read: Callable[[HeightWidth | None], np.ndarray]
    how: Any
    draft: bool = False


class Samples:
    """The images of one split, in a fixed order. `paired` when image i of A shows what image i of B shows.

    `split` says where they were found: train, test or val. `len` is the number of samples in an epoch: of unpaired
    sides, the larger.
    """

    paired: ClassVar[bool] = True
    labels: ClassVar[tuple[bool, ...]] = (False, False)  # which of the images of a sample are label maps
    halves: ClassVar[bool] = False  # whether one file holds both images of a pair
    computed: ClassVar[bool] = False  # whether A is made of B, so that they cannot be off
    swapped = False  # of halves: whether the right one is A

    def __init__(self, loading: Loading, split: str, files_a: Sequence[Path], files_b: Sequence[Path]):
        self.loading, self.split = loading, split
        self.image_a, self.image_b = loading.image_a, loading.image_b
        self.files_a, self.files_b = tuple(files_a), tuple(files_b)

    def __len__(self) -> int:
        return max(len(self.files_a), len(self.files_b))

    def counted(self) -> dict[str, object]:
        """Return how many files each side has, and a number for their names, wherever they lie."""
        return {"a": len(self.files_a), "b": len(self.files_b),
                "names": stable_hash(*(path.name for side in (self.files_a, self.files_b) for path in side))}

    @property
    def num_planes(self) -> int:
        """How many channels the two tensors of a sample have together."""
        return self.image_a.channels + self.image_b.channels

    def stored(self, index_a: int, index_b: int) -> list[Stored]:
        """Return the images of one sample, of which one crop is taken."""
        return [self.stored_image(self.files_a[index_a], self.image_a),
                self.stored_image(self.files_b[index_b], self.image_b)]

    def stored_image(self, path: Path, config: ImageConfig) -> Stored:
        """Return the image that is all of a file."""
        draft = self.loading.draft
        return Stored(path, lambda at_least: read_image(path, config, at_least=at_least), [config.identity, draft],
                      draft=draft)

    def count_labels(self, at_most: int) -> LabelCounts | None:
        """Return what label maps are of, looking at some of many (see `count_label_maps`); None where there are none.
        """
        return None

    def tensors(self, images: Sequence[np.ndarray], index: int) -> tuple[Tensor, Tensor]:
        """Return what `fitted` gave of A's image `index`, after its transforms, as (a, b): each (C, H, W) in [-1, 1].
        """
        a, b = images
        return to_tensor(a, self.image_a), to_tensor(b, self.image_b)

    def fitted(self, index_a: int, index_b: int, resize: int | None,
               crop: tuple[int, int] = (1, 1)) -> list[np.ndarray]:
        """Return the images of one sample at a short side of `resize` px, or at more where `crop` would not fit.

        Raises `ImageError`, and `DataError` for a pair of two sizes.
        """
        stored = self.stored(index_a, index_b)
        images = [self._loaded(each, resize, crop, labels) for each, labels in zip(stored, self.labels, strict=False)]
        if self.paired and len({own for _, own in images}) > 1:
            (height_a, width_a), (height_b, width_b) = (own for _, own in images)
            raise DataError(f"is {width_a}×{height_a} and {self.files_b[index_b]} {width_b}×{height_b} pixels; the "
                            "images of a pair need one size", self.files_a[index_a],
                            f"`translate data check {RECIPE_PLACEHOLDER}` lists all such pairs")
        return [image for image, _ in images]

    def protected(self, index: int, shape: HeightWidth) -> list[np.ndarray]:
        """Return the mask of A's image `index` at the size that it was fitted to, (H, W, 1) uint8, in a list; an empty
        one where nothing is protected. Raises `ImageError`, `DataError`."""
        if self.loading.protect is None:
            return []
        mask = self.loading.protect.read(self.files_a[index])
        return [resized(mask, shape, labels=True).reshape(*shape, 1)]

    def other_condition(self, index: int, key: int) -> Tensor | None:
        """Return a condition that is not that of image `index`, like A: that of an image chosen by the sample's key.

        None where nothing is drawn from noise, and where all images have one condition.
        """
        return None

    def _loaded(self, stored: Stored, resize: int | None, crop: HeightWidth,
                labels: bool) -> tuple[np.ndarray, HeightWidth]:
        """Return an image at the size that `target_shape` says, from the cache where it is there; and its own shape."""
        cache = self.loading.cache
        key = None if cache is None else cache.key(stored.path, [stored.how, resize, crop])
        if cache is not None and key is not None and (found := cache.get(key)) is not None:
            return found

        # Where it is shrunk far enough, a JPEG is decoded at a part of its size.
        own = shape_in(stored.path) if stored.draft and is_jpeg(stored.path) else None
        at_least = None if own is None else target_shape(own, resize, crop)
        image = stored.read(at_least)
        own = own or (image.shape[0], image.shape[1])

        # At its target size. What is not smaller than the file's own image is read as fast from there.
        shape = target_shape(own, resize, crop)
        check_loaded(own, shape, stored.path)
        made = resized(image, shape, labels=labels)
        if cache is not None and key is not None and math.prod(shape) < math.prod(own):
            cache.put(key, made, own)
        return made, own

    def whole(self, index: int, resize: int | None = None, crop: tuple[int, int] = (1, 1)) -> Sample:
        """Return sample `index` without crop and augmentation, at its full size or at the one that `fitted` gives it.

        Of unpaired sides, indices wrap around. Raises `ImageError`.
        """
        index_a, index_b = index % len(self.files_a), index % len(self.files_b)
        a, b = self.tensors(self.fitted(index_a, index_b, resize, crop), index_a)
        return Sample(a, b, stable_hash("whole", index))

    def shape_in(self, path: Path) -> tuple[int, int]:
        """Return the own (height, width) of the image, or of each of two, in one of the files. Raises `ImageError`."""
        return shape_in(path)


class UnpairedSamples(Samples):
    """Two sets of images that have nothing to do with each other."""

    paired = False


class AlignedSamples(Samples):
    """Files that hold both images of a pair side by side; `swapped` when the right half is A."""

    halves = True

    def __init__(self, loading: Loading, split: str, files: Sequence[Path], swapped: bool):
        super().__init__(loading, split, files, files)
        self.swapped = swapped

    def shape_in(self, path: Path) -> tuple[int, int]:
        height, width = super().shape_in(path)
        return height, max(1, width // 2)

    def stored(self, index_a: int, index_b: int) -> list[Stored]:
        path = self.files_a[index_a]

        @functools.cache
        def whole(config: ImageConfig) -> np.ndarray:
            return read_image(path, config)

        def half(config: ImageConfig, right: bool) -> Stored:
            def read(_: HeightWidth | None) -> np.ndarray:
                width = whole(config).shape[1]
                if width % 2:
                    raise ImageError(path, "read", f"{width} pixels wide, which cannot be cut into two halves of one "
                                     "size; expected a pair, A beside B")
                return whole(config)[:, width // 2:] if right else whole(config)[:, :width // 2]

            return Stored(path, read, [config.identity, "right" if right else "left"])

        return [half(self.image_a, self.swapped), half(self.image_b, not self.swapped)]


class LabelSamples(Samples):
    """Label maps (A, one-hot) and images (B)."""

    labels = (True, False)

    def __init__(self, loading: Loading, split: str, files_a: Sequence[Path], files_b: Sequence[Path],
                 labelling: Labelling):
        super().__init__(loading, split, files_a, files_b)
        self.labelling = labelling

    @property
    def num_planes(self) -> int:
        return self.labelling.channels + self.image_b.channels

    def stored(self, index_a: int, index_b: int) -> list[Stored]:
        path = self.files_a[index_a]
        return [Stored(path, lambda _: self.labelling.read(path), asdict(self.labelling)),
                self.stored_image(self.files_b[index_b], self.image_b)]

    def count_labels(self, at_most: int) -> LabelCounts:
        return count_label_maps(self.labelling, self.files_a, at_most)

    def tensors(self, images: Sequence[np.ndarray], index: int) -> tuple[Tensor, Tensor]:
        labels, b = images
        return label_planes(self.labelling, labels), to_tensor(b, self.image_b)


class ComputedSamples(Samples):
    """Photographs (B); A is computed from each after its transforms, so it always belongs to it."""

    computed = True

    def __init__(self, loading: Loading, split: str, files: Sequence[Path], kind: ComputedInput):
        super().__init__(loading, split, files, files)
        self.kind = kind

    def stored(self, index_a: int, index_b: int) -> list[Stored]:
        return [self.stored_image(self.files_b[index_b], self.image_b)]

    def tensors(self, images: Sequence[np.ndarray], index: int) -> tuple[Tensor, Tensor]:
        b = to_tensor(images[0], self.image_b)
        return COMPUTE[self.kind](b), b


def shape_in(path: Path) -> tuple[int, int]:
    """Return the (height, width) of the image in a file, by its header. Raises `ImageError`."""
    info = inspect(path)
    return info.height, info.width


def grey(photograph: Tensor) -> Tensor:
    """Return the luma (ITU-R BT.601) of a photograph: (3, H, W) in [-1, 1] → (1, H, W) in [-1, 1]."""
    from kornia.color import rgb_to_grayscale  # slow to import

    return rgb_to_grayscale(photograph[None])[0]  # weights that sum to 1 keep the range


@torch.no_grad()
def drawn_edges(photograph: Tensor) -> Tensor:
    """Return the edges (Canny 1986) of a photograph: (1 or 3, H, W) in [-1, 1] → (1, H, W), −1 on a ground of 1."""
    from kornia.filters import canny

    _, edges = canny((photograph[None] + 1) / 2)
    return 1 - 2 * edges[0]


COMPUTE: dict[ComputedInput, Callable[[Tensor], Tensor]] = {"grey": grey, "edges": drawn_edges}
