"""The stream of training samples, a pure function of (seed, image number), and the held-out samples beside it.

Image number k = 0, 1, 2, … counts over the whole run. In a set of n images it belongs to epoch k // n, and is image
permutation(seed, epoch)[k % n]; what is drawn for it is hashed from (seed, epoch, index). So there is no loader state
to save, a run resumes anywhere, and the number of worker processes changes nothing. Unpaired sides have an epoch and a
permutation each: the smaller one begins anew, in another order, whenever it is exhausted.
"""

from __future__ import annotations

import functools
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from translate.data.folders import LayoutConfig, SidesConfig
from translate.data.pairing import pair_files
from translate.data.samples import Sample, Samples
from translate.data.transforms import RandomTransform, centre_crop, stable_hash, use_one_thread
from translate.errors import RECIPE, DataError, ImageError, TranslateError, UsageError

FOR_THE_PARENT = (signal.SIGINT, signal.SIGTERM)
CHECK_ALL = f"`translate data check {RECIPE}` finds all files that cannot be used"


@dataclass(frozen=True)
class Batch:
    """N samples: a (N, C_a, H, W) and b (N, C_b, H, W), float32 in [-1, 1], and the key of each sample."""

    a: Tensor
    b: Tensor
    keys: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.keys)

    def micro_batches(self, largest: int | None) -> list[Batch]:
        """The same samples in pieces of at most `largest` (None: all in one). They share its memory."""
        step = largest or len(self)
        return [Batch(self.a[i:i + step], self.b[i:i + step], self.keys[i:i + step])
                for i in range(0, len(self), step)]

    def to(self, device: torch.device | str) -> Batch:
        """The batch on a device; from pinned memory the copy does not wait."""
        return Batch(self.a.to(device, non_blocking=True), self.b.to(device, non_blocking=True), self.keys)

    def pin_memory(self) -> Batch:
        """Called by the loader, so that `to` need not wait."""
        return Batch(self.a.pin_memory(), self.b.pin_memory(), self.keys)

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Batch:
        """Samples of one size as a batch."""
        return cls(torch.stack([sample.a for sample in samples]), torch.stack([sample.b for sample in samples]),
                   tuple(sample.key for sample in samples))


def batches(samples: Samples, *, seed: int, start: int, stop: int, batch_size: int, size: tuple[int, int],
            resize: int | None = None, rank: int = 0, world: int = 1, workers: int = 0,
            pin_memory: bool = False, timeout: float = 600.0) -> Iterator[Batch]:
    """The batches of this process for images `start` … `stop` − 1 of the run.

    A global batch is `batch_size` images, of which process `rank` of `world` gets its contiguous share. A last batch
    that `stop` cuts short is given where it can be shared equally, and otherwise left out: fewer than `batch_size`
    images of the stage are then not trained on. `size` is the crop (height, width), `resize` the short side images are
    loaded at (None: as the data's config says; more where the crop would not fit).

    Raises `DataError` for an image that cannot be used, naming the file, and `TranslateError` when a worker process
    dies or gives nothing for `timeout` seconds. Workers leave SIGINT and SIGTERM to the parent, so that it can save.
    """
    if batch_size % world:
        raise UsageError(f"batch_size {batch_size} cannot be shared equally by {world} processes; use a multiple of "
                         f"{world}")
    stream = Stream(samples, seed, size, resize)
    return _loaded(stream, Shares(start, stop, batch_size, rank, world), workers, pin_memory, timeout)


class Stream(Dataset):
    """Every sample of a run, by its number."""

    def __init__(self, samples: Samples, seed: int, size: tuple[int, int], resize: int | None = None):
        self.samples, self.seed, self.size = samples, seed, size
        self.resize = samples.loading.resize if resize is None else resize
        self.transform = RandomTransform(size, samples.loading.augment)

    def __getitem__(self, number: int) -> Sample | Failure:
        """Sample `number`, or why there is none.

        Whatever goes wrong is returned, not raised: an exception that cannot be pickled would hang a loader, and
        StopIteration end an epoch in silence.
        """
        try:
            return self.sample(number)
        except ImageError as error:
            return Failure(DataError.of(error, CHECK_ALL))
        except TranslateError as error:
            return Failure(error)
        except Exception as error:
            index_a, index_b, *_ = self.address(number)
            return Failure(DataError(f"{type(error).__name__}: {error}", f"{self.samples.files_a[index_a]} and "
                                     f"{self.samples.files_b[index_b]}", CHECK_ALL))

    def sample(self, number: int) -> Sample:
        """Sample `number`. Raises `ImageError` or `DataError`."""
        index_a, index_b, key_a, key_b = self.address(number)
        images = self.samples.fitted(index_a, index_b, self.resize, self.size)
        if self.samples.paired:
            images = self.transform(images, key_a)
        else:
            images = [self.transform([image], key)[0] for image, key in zip(images, (key_a, key_b), strict=True)]
        return Sample(*self.samples.tensors(images), key_a)

    def address(self, number: int) -> tuple[int, int, int, int]:
        """(index in A, index in B, key of A, key of B) of sample `number`. The sample's own key is that of A."""
        if self.samples.paired:
            index, key = self.place("pair", len(self.samples.files_a), number)
            return index, index, key, key
        index_a, key_a = self.place("a", len(self.samples.files_a), number)
        index_b, key_b = self.place("b", len(self.samples.files_b), number)
        return index_a, index_b, key_a, key_b

    def place(self, side: str, num_images: int, number: int) -> tuple[int, int]:
        """(index, key): the image of a side that comes as `number`, and what its draw is hashed from."""
        epoch, position = divmod(number, num_images)
        index = int(permutation(stable_hash(self.seed, side, epoch), num_images)[position])
        return index, stable_hash(self.seed, side, epoch, index)


@functools.lru_cache(maxsize=4)
def permutation(seed: int, num: int) -> np.ndarray:
    """0 … num − 1 in an order that depends on `seed` alone.

    Sorted by raw numbers of a bit generator, whose stream NumPy promises never to change; `Generator.permutation`
    may change with any release.
    """
    return np.argsort(np.random.Philox(seed).random_raw(num), kind="stable")


@dataclass(frozen=True)
class Failure:
    """Why a sample could not be made; stands in its place until the parent process raises it."""

    error: TranslateError


@dataclass(frozen=True)
class Shares:
    """The image numbers of each of this process's batches (a batch sampler)."""

    start: int
    stop: int
    batch_size: int
    rank: int
    world: int

    def __iter__(self) -> Iterator[range]:
        for first in range(self.start, self.stop, self.batch_size):
            share, rest = divmod(min(self.batch_size, self.stop - first), self.world)
            if rest == 0:
                yield range(first + self.rank * share, first + (self.rank + 1) * share)

    def __len__(self) -> int:
        full, rest = divmod(max(0, self.stop - self.start), self.batch_size)
        return full + (rest > 0 and rest % self.world == 0)


def _collate(samples: Sequence[Sample | Failure]) -> Batch | Failure:
    failure = next((sample for sample in samples if isinstance(sample, Failure)), None)
    return failure or Batch.of([sample for sample in samples if isinstance(sample, Sample)])


def _loaded(stream: Stream, shares: Shares, workers: int, pin_memory: bool, timeout: float) -> Iterator[Batch]:
    """Run the loader; turn failures, dead and silent workers into errors of ours; leave no worker behind."""
    others = set(multiprocessing.active_children())
    loader: DataLoader[Sample] = DataLoader(
        stream, batch_sampler=shares, num_workers=workers, collate_fn=_collate, pin_memory=pin_memory,  # type: ignore[arg-type]
        timeout=timeout if workers else 0, worker_init_fn=_enter_worker,
        generator=torch.Generator())  # its own: else every start would draw from the generator of the run
    # A worker that was told to end before it could refuse would leave its parent waiting for it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_PARENT)
    try:
        iterator = iter(loader)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    processes = set(multiprocessing.active_children()) - others
    try:
        while True:
            lost = None
            try:
                batch = next(iterator)
            except StopIteration:
                return
            except RuntimeError as error:
                lost = str(error)
            if lost is not None:
                raise TranslateError(f"loading images: {lost.splitlines()[0].rstrip('.')}. If memory or shared memory "
                                     "(/dev/shm) ran out, set workers to less; if a disk is gone, see to it")
            if isinstance(batch, Failure):
                raise batch.error
            yield batch
    finally:
        del iterator, loader  # ends the workers in good order
        for process in processes:
            if process.is_alive():  # one that hangs in a read: it ignores SIGTERM, and Python would wait for it
                process.kill()


def _enter_worker(_: int) -> None:
    """A signal to the whole group is for the parent: it saves, and ends its workers. They also end when it dies."""
    for number in FOR_THE_PARENT:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FOR_THE_PARENT)  # what came meanwhile is ignored as well
    torch.set_num_threads(1)
    use_one_thread()


def held_out(config: LayoutConfig, root: Path, num: int, size: tuple[int, int], resize: int | None = None) -> Batch:
    """The first `num` samples of the test split (of train where there is none), the centre of each at `size`.

    The same on every call: for pictures that show how a training goes on. Raises `DataError`.
    """
    samples = None
    for name in ("test", "val", "train"):
        samples = samples or config.find(name, root)
    samples = samples or config.build("train", root)  # says what is missing
    chosen = []
    for index in range(min(num, len(samples))):
        try:
            images = samples.fitted(index % len(samples.files_a), index % len(samples.files_b),
                                    config.resize if resize is None else resize, size)
        except ImageError as error:
            raise DataError.of(error, CHECK_ALL) from None
        a, b = samples.tensors([centre_crop(image, size) for image in images])
        chosen.append(Sample(a, b, stable_hash("held out", index)))
    return Batch.of(chosen)


class Pairs(Sequence[tuple[Tensor, Tensor]]):
    """The test pairs at their full size: item i is (a, b), each (C, H, W) in [-1, 1]. Raises `ImageError`."""

    def __init__(self, samples: Samples):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        a, b, _ = self.samples.whole(range(len(self))[index])
        return a, b


def test_pairs(config: LayoutConfig, root: Path) -> Pairs:
    """Test inputs with their truth. Of unpaired data they are known where the test folders pair by name.

    Raises `DataError` where there is no test split or no pairing.
    """
    samples = config.build("test", root)
    if not samples.paired:
        assert isinstance(config, SidesConfig)
        folders = config.sides(samples.split, root)
        assert folders is not None, "the split was found"
        files = pair_files(folders[0], samples.files_a, folders[1], samples.files_b)
        samples = Samples(samples.loading, samples.split, *files)
    return Pairs(samples)
