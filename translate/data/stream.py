"""The stream of training samples, a pure function of (seed, image number), and the held-out samples beside it.

Image number k = 0, 1, 2, … counts over the whole run. In a set of n images it belongs to epoch k // n, and is image
permutation(seed, epoch)[k % n]; what is drawn for it is hashed from (seed, epoch, index). So there is no loader state
to save, a run resumes anywhere, and the number of worker processes changes nothing. Unpaired sides have an epoch and a
permutation each: the smaller one begins anew, in another order, whenever it is exhausted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from translate.data.hashing import stable_hash
from translate.data.layout import LayoutConfig
from translate.data.layouts import SidesConfig
from translate.data.loading import CHECK_ALL, OR_SKIP, TIMEOUT_SECONDS, Loadable, Shares, load
from translate.data.pairing import pair_files
from translate.data.samples import Sample, Samples
from translate.data.scale import Fitting
from translate.data.transforms import RandomTransform, middle
from translate.errors import DataError, ImageError, TranslateError, UsageError, visible
from translate.host.available_memory import available_bytes
from translate.images.tensors import unknown_pixels

# Bytes of images that each process which loads keeps, at most, and what share of the memory that is left when it begins
KEPT_BYTES, KEPT_SHARE = 96 * 2**20, 1 / 50
MOST_UNREADABLE_IN_A_ROW = 20  # then it is no single file that cannot be read
TRUTH_ADVICE = "where test images of one name are pairs, write truth: true into data in the recipe"


class Drawn(NamedTuple):
    """A sample, and why others could not be made, in whose place it stands."""

    sample: Sample
    unreadable: tuple[TranslateError, ...]


@dataclass(frozen=True)
class Batch:
    """N samples: a (N, C_a, H, W) and b (N, C_b, H, W), float32 in [-1, 1], and the key of each sample.

    Of images that are drawn from noise, a is what each is drawn under, (N, C_a, 1, 1) (`translate.data.conditioned`).

    `has_unknown`: some pixels have no data (`translate.images.tensors.UNKNOWN`).
    `protected`: how strictly each pixel of a is to stay as it is, (N, 1, H, W); None: nothing is protected.
    `other`: of images that are drawn from noise, a condition like `a` that is not the sample's, a function of its key
    alone; None where there is none.
    """

    a: Tensor
    b: Tensor
    keys: tuple[int, ...]
    has_unknown: bool = False
    protected: Tensor | None = None
    other: Tensor | None = None
    unreadable: tuple[TranslateError, ...] = ()  # why samples could not be made, in whose place others are here

    def __len__(self) -> int:
        return len(self.keys)

    def micro_batches(self, largest: int | None) -> list[Batch]:
        """Return the same samples in pieces of at most `largest` (None: all in one), which share its memory."""
        step = largest or len(self)
        pieces = [slice(start, start + step) for start in range(0, len(self), step)]
        return [replace(self._changed(itemgetter(piece)), keys=self.keys[piece], unreadable=()) for piece in pieces]

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device; from pinned memory the copy does not wait."""
        return replace(self._changed(lambda tensor: tensor.to(device, non_blocking=True)), unreadable=())

    def pin_memory(self) -> Batch:
        """Return the batch in pinned memory: the loader calls this, so that `to` need not wait."""
        return self._changed(lambda tensor: tensor.pin_memory())

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with every tensor of it changed."""
        protected, other = (None if tensor is None else change(tensor) for tensor in (self.protected, self.other))
        return replace(self, a=change(self.a), b=change(self.b), protected=protected, other=other)

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Batch:
        """Return samples of one size as a batch."""
        masks = [sample.protected for sample in samples if sample.protected is not None]
        others = [sample.other for sample in samples if sample.other is not None]
        return cls(torch.stack([sample.a for sample in samples]), torch.stack([sample.b for sample in samples]),
                   tuple(sample.key for sample in samples),
                   any(bool(unknown_pixels(image).any()) for sample in samples for image in (sample.a, sample.b)),
                   torch.stack(masks) if masks else None, other=torch.stack(others) if others else None)

    @classmethod
    def drawn(cls, drawn: Sequence[Drawn]) -> Batch:
        """Return what a stream has drawn as a batch."""
        return replace(cls.of([sample for sample, _ in drawn]), unreadable=sum((errors for _, errors in drawn), ()))


def batches(samples: Samples, *, seed: int, start: int, stop: int, batch_size: int, size: tuple[int, int],
            resize: int | None = None, rank: int = 0, world: int = 1, workers: int = 0,
            pin_memory: bool = False, timeout: float = TIMEOUT_SECONDS) -> Generator[Batch, None, None]:
    """Yield the batches of this process for images `start` … `stop` − 1 of the run.

    seed         what the order of the images, and all chance of their transforms, is drawn from
    batch_size   images of a global batch, of which process `rank` of `world` gets its contiguous share
    size         the crop (height, width), px
    resize       the short side that images are loaded at, px (None: as the data's config says; more where the crop
                 would not fit)
    workers, pin_memory, timeout    see `translate.data.loading.load`, as for what is raised

    A last batch that `stop` cuts short is given where it can be shared equally, and otherwise left out: fewer than
    `batch_size` images of the stage are then not trained on.
    """
    if batch_size % world:
        raise UsageError(f"batch_size {batch_size} cannot be shared equally by {world} processes; use a multiple of "
                         f"{world}")
    return load(Stream(samples, seed, size, resize), Shares(start, stop, batch_size, rank, world), Batch.drawn, workers,
                pin_memory, timeout)


class Stream(Loadable):
    """Every sample of a run, by its number.

    Pairs stay in the memory of the process that has loaded them, as they are before their crops, as far as there is
    room and no cache is asked for: those of a small set are decoded once by each process, and a file that changes
    meanwhile is not read again.
    """

    advice = OR_SKIP

    def __init__(self, samples: Samples, seed: int, size: tuple[int, int], resize: int | None = None):
        self.samples, self.seed, self.size = samples, seed, size
        self.resize = samples.loading.resize if resize is None else resize
        self.transform = RandomTransform(size, samples.loading.augment)
        self._kept: dict[int, list[np.ndarray]] = {}  # by the number of the pair
        keeps = samples.paired and samples.loading.cache is None
        self._room = min(KEPT_BYTES, int(KEPT_SHARE * available_bytes().bytes)) if keeps else 0

    def files_of(self, number: int) -> str:
        index_a, index_b, *_ = self.address(number)
        return f"{self.samples.files_a[index_a]} and {self.samples.files_b[index_b]}"

    def sample(self, number: int) -> Drawn:
        """Return sample `number`, or another one for files that cannot be read, where the data's config says so.

        Which one is a function of the number and of the files that can be read. Raises `ImageError` or `DataError`.
        """
        unreadable: list[TranslateError] = []
        while True:
            seed = stable_hash(self.seed, "instead", len(unreadable)) if unreadable else self.seed
            try:
                return Drawn(self._made(number, seed), tuple(unreadable))
            except (ImageError, DataError) as error:
                unreadable.append(error)
                if not self.samples.loading.skips_unreadable or len(unreadable) == MOST_UNREADABLE_IN_A_ROW:
                    raise

    def _made(self, number: int, seed: int) -> Sample:
        """Return sample `number` of the stream that belongs to `seed`."""
        index_a, index_b, key_a, key_b = self.address(number, seed)
        images = self._fitted(index_a, index_b)
        mask = self.samples.protected(index_a, images[0].shape[:2])
        if self.samples.paired:
            images, mask = split_at(self.transform([*images, *mask], key_a), len(images))
        else:
            a, b = images
            (a, *mask), (b,) = self.transform([a, *mask], key_a), self.transform([b], key_b)
            images = [a, b]
        return Sample(*self.samples.tensors(images, index_a), key_a, self._weights(mask),
                      self.samples.other_condition(index_a, key_a))

    def _fitted(self, index_a: int, index_b: int) -> list[np.ndarray]:
        """Return the images of one sample at the size that crops are taken of."""
        if (kept := self._kept.get(index_a)) is not None:
            return kept
        images = self.samples.fitted(index_a, index_b, self.resize, self.size)
        if (num_bytes := sum(image.nbytes for image in images)) <= self._room:
            self._room -= num_bytes
            self._kept[index_a] = images
        return images

    def keeps_all(self) -> bool:
        """Return whether every pair has room in memory, if none is larger than those that were loaded so far."""
        sizes = [sum(image.nbytes for image in images) for images in self._kept.values()]
        return bool(sizes) and len(self.samples) * max(sizes) <= self._room + sum(sizes)

    def _weights(self, mask: list[np.ndarray]) -> Tensor | None:
        """Return a mask (H, W, 1) as how strictly each pixel is to stay: (1, H, W) float32."""
        protect = self.samples.loading.protect
        if protect is None:
            return None
        return torch.from_numpy(np.ascontiguousarray(mask[0].transpose(2, 0, 1))).gt(0) * float(protect.weight)

    def address(self, number: int, seed: int | None = None) -> tuple[int, int, int, int]:
        """Return (index in A, index in B, key of A, key of B) of sample `number`, whose own key is that of A.

        `seed` is that of another stream of the same images; None: this one's.
        """
        seed = self.seed if seed is None else seed
        num_a, num_b = len(self.samples.files_a), len(self.samples.files_b)
        if self.samples.paired:
            index, key = drawn(seed, "pair", num_a, number)
            return index, index, key, key
        index_a, key_a = drawn(seed, "a", num_a, number)
        index_b, key_b = drawn(seed, "b", num_b, number)
        return index_a, index_b, key_a, key_b


def split_at(items: list[np.ndarray], number: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the first so many items, and the others."""
    return items[:number], items[number:]


def drawn(seed: int, side: str, num_images: int, number: int) -> tuple[int, int]:
    """Return which of the images of a side comes as `number`, and the key that its transforms are drawn from."""
    epoch, position = divmod(number, num_images)
    index = int(permutation(stable_hash(seed, side, epoch), num_images)[position])
    return index, stable_hash(seed, side, epoch, index)


@functools.lru_cache(maxsize=4)
def permutation(seed: int, num: int) -> np.ndarray:
    """Return 0 … num − 1 in an order that depends on `seed` alone.

    They are sorted by raw numbers of a bit generator, whose stream NumPy promises never to change;
    `Generator.permutation` may change with any release.
    """
    return np.argsort(np.random.Philox(seed).random_raw(num), kind="stable")


def held_out(config: LayoutConfig, root: Path, num: int, fitting: Fitting,
             most_pixels: int | None = None) -> list[Sample]:
    """Return the first `num` samples of the test split (of train where there is none), whole, as `fitting` shows them.

    Of an image with more than `most_pixels` pixels the middle is taken, of its proportions and so many pixels. The
    samples are the same on every call: for pictures that show how a training goes on. Raises `DataError`.
    """
    samples = None
    for name in ("test", "val", "train"):
        samples = samples or config.find(name, root)
    samples = samples or config.build("train", root)  # says what is missing

    # No transform is drawn for them: they have a key that names each alone.
    chosen: list[Sample] = []
    for index in range(len(samples)):
        if len(chosen) == num:
            break
        try:
            index_a = index % len(samples.files_a)
            images = samples.fitted(index_a, index % len(samples.files_b), fitting.resize, fitting.crop)
        except ImageError as error:
            if samples.loading.skips_unreadable and (chosen or index < len(samples) - 1):
                continue
            raise DataError.of(error, CHECK_ALL) from None
        a, b = samples.tensors([middle(image, most_pixels) for image in images], index_a)
        chosen.append(Sample(a, b, stable_hash("held out", index)))
    return chosen


class Pairs(Sequence[tuple[Tensor, Tensor]]):
    """The test pairs at their full size: item i is (a, b), each (C, H, W) in [-1, 1], or raises `ImageError`."""

    def __init__(self, samples: Samples):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        a, b, *_ = self.samples.whole(range(len(self))[index])
        return a, b


def test_pairs(config: LayoutConfig, root: Path) -> Pairs:
    """Return test inputs with their truth, which of unpaired data is known where the recipe says so (`truth: true`).

    Raises `DataError` where there is no test split, no truth, or a test image without a partner of its name.
    """
    samples = config.build("test", root)
    if not config.truth_is_known:
        raise DataError("the truth of its test images is not known", config.place(root), TRUTH_ADVICE)
    return Pairs(samples if samples.paired else paired_by_name(config, samples, root))


def paired_by_name(config: LayoutConfig, samples: Samples, root: Path) -> Samples:
    """Return the images of a split of unpaired data as pairs of one name. Raises `DataError` where they do not pair."""
    assert isinstance(config, SidesConfig)
    folders = config.sides(samples.split, root)
    assert folders is not None, "the split was found"
    try:
        return Samples(samples.loading, samples.split, *pair_files(folders[0], samples.files_a,
                                                                   folders[1], samples.files_b))
    except DataError as error:
        raise DataError(f"data.truth says that test images are pairs, and {error.what}", error.path,
                        error.advice) from None


def hint_at_truth(config: LayoutConfig, root: Path) -> str:
    """Return a line on test images that all pair by name where no recipe says that they are pairs; else nothing."""
    if config.truth_is_known or not isinstance(config, SidesConfig):
        return ""
    with suppress(DataError):
        pairs = paired_by_name(config, config.build("test", root), root)
        a, b = (visible(files[0].name) for files in (pairs.files_a, pairs.files_b))
        alike = a if a == b else f"{a} and {b}"
        return (f"{len(pairs)} test images of A are named like test images of B, such as {alike}; names alone make no "
                f"pairs, so no image is taken for the truth of another; {TRUTH_ADVICE}")
    return ""
