"""The data stream: a pure function of (seed, image number), whatever loads it, and never a silent end or a hang."""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from translate.data import Batch, PairedConfig, Samples, UnpairedConfig, batches, loading
from translate.data.hashing import stable_hash
from translate.data.samples import Stored
from translate.data.stream import Stream, permutation
from translate.data.transforms import RandomTransform, resized
from translate.errors import DataError, TranslateError, UsageError
from translate.host.signals import StopAsked, minding_signals
from translate.images.resampling import target_shape

HEIGHT, WIDTH = 40, 50


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def coordinates(blue: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, blue)], axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven images of A, five of B; every pixel holds (row, column, number), of B plus 100. The first five pair."""
    root = tmp_path_factory.mktemp("toy")
    for number in range(7):
        save(root / "unpaired" / "trainA" / f"{number}.png", coordinates(number))
        if number < 5:
            save(root / "unpaired" / "trainB" / f"{number}.png", coordinates(100 + number))
            save(root / "paired" / "trainA" / f"{number}.png", coordinates(number))
            save(root / "paired" / "trainB" / f"{number}.png", coordinates(100 + number))
    return root


def paired(toy: Path, **fields: Any) -> Samples:
    return PairedConfig(folder=toy / "paired", **{"resize": None, **fields}).build("train", toy)


def unpaired(toy: Path, **fields: Any) -> Samples:
    return UnpairedConfig(folder=toy / "unpaired", **{"resize": None, **fields}).build("train", toy)


def stream(samples: Samples, start: int = 0, stop: int = 24, batch_size: int = 4, **options: Any) -> Iterator[Batch]:
    return batches(samples, **{"seed": 3, "start": start, "stop": stop, "batch_size": batch_size, "size": (16, 16),
                               **options})


def digest(stream: Iterator[Batch]) -> str:
    sha = hashlib.sha256()
    for batch in stream:
        sha.update(repr(batch.keys).encode() + batch.a.numpy().tobytes() + batch.b.numpy().tobytes())
    return sha.hexdigest()


def pixels(side: torch.Tensor) -> np.ndarray:
    """(C, H, W) in [-1, 1] → the (H, W, C) values of the file."""
    return ((side.permute(1, 2, 0) + 1) * 127.5).round().numpy().astype(int)


# ---------------------------------------------------------------------------------------------- one stream


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("samples", [paired, unpaired])
def test_the_number_of_workers_and_the_point_of_resuming_never_change_the_stream(
        samples: Callable[..., Samples], toy: Path) -> None:
    data = samples(toy, resize=45, augment=("flip", "flip_vertical", "rotate90"))
    whole = digest(stream(data))
    assert digest(stream(data, workers=3)) == whole
    rest = digest(itertools.islice(stream(data), 3, None))
    assert digest(stream(data, start=12, workers=2)) == rest != whole


def test_the_stream_depends_on_the_seed_and_on_nothing_else(toy: Path) -> None:
    data = paired(toy)
    whole = digest(stream(data))
    assert digest(stream(data, seed=4)) != whole
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()
    assert digest(stream(data, workers=1)) == whole
    assert torch.equal(state[0], torch.get_rng_state()), "starting a loader drew from the generator of the run"
    assert state[1] == random.getstate() and state[2] == np.random.get_state()[1].tobytes()
    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)
    assert digest(stream(data)) == whole


def test_hash_and_order_are_the_same_in_every_version() -> None:
    """A run that is resumed after an upgrade must see the data it would have seen."""
    assert stable_hash(0, "pair", 1) == int.from_bytes(
        hashlib.blake2b(b"0\x00pair\x001", digest_size=8).digest(), "little") // 2
    assert stable_hash(1, 23) != stable_hash(12, 3) and 0 <= stable_hash("x") < 2**63
    assert permutation(5, 10).tolist() == [3, 6, 2, 4, 5, 7, 0, 9, 8, 1]


def test_pairs_that_a_process_has_loaded_are_decoded_once_as_far_as_there_is_room(
        toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no pixel differs, whatever is drawn of them."""
    samples, read = paired(toy, augment=["flip", "rotate90"]), list[int]()
    one_pair = 2 * HEIGHT * WIDTH * 3
    fitted = samples.fitted
    monkeypatch.setattr(samples, "fitted", lambda index, *more: read.append(index) or fitted(index, *more))
    for room, times in ((10**6, 5), (2 * one_pair, 2 + 3 * 4), (one_pair - 1, 5 * 4)):
        monkeypatch.setattr("translate.data.stream.KEPT_BYTES", room)
        read.clear()
        kept = Stream(samples, seed=1, size=(8, 8))
        of_kept = [kept.sample(number).sample for number in range(20)]
        assert len(read) == times
        for number, sample in enumerate(of_kept):
            alone = Stream(samples, seed=1, size=(8, 8)).sample(number).sample
            assert torch.equal(sample.a, alone.a) and torch.equal(sample.b, alone.b)


def test_every_epoch_shows_every_pair_once_in_an_order_of_its_own(toy: Path) -> None:
    numbers = [Stream(paired(toy), seed=1, size=(8, 8)).address(k)[0] for k in range(50)]
    epochs = [numbers[i:i + 5] for i in range(0, 50, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs) and len({tuple(epoch) for epoch in epochs}) > 5


def test_of_unpaired_sides_the_smaller_begins_anew_in_another_order(toy: Path) -> None:
    addresses = [Stream(unpaired(toy), seed=1, size=(8, 8)).address(k) for k in range(70)]
    for side, num in ((0, 7), (1, 5)):
        epochs = [[address[side] for address in addresses[i:i + num]] for i in range(0, 70, num)]
        assert all(sorted(epoch) == list(range(num)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 5
    assert len({address[2] for address in addresses}) == 70, "keys name samples"
    together = {(a, b) for a, b, *_ in addresses}
    assert len(together) > 25, "each image of A meets many of B"


def test_the_shares_of_two_processes_make_up_the_global_batch(toy: Path) -> None:
    whole = list(stream(paired(toy), stop=16, batch_size=4))
    shares = [list(stream(paired(toy), stop=16, batch_size=4, rank=rank, world=2)) for rank in (0, 1)]
    assert len(whole) == len(shares[0]) == len(shares[1]) == 4
    for batch, first, second in zip(whole, *shares, strict=True):
        assert len(first) == len(second) == 2 and first.keys + second.keys == batch.keys
        assert torch.equal(torch.cat([first.a, second.a]), batch.a)


def test_a_batch_that_cannot_be_shared_equally_is_refused_and_a_short_last_one_left_out(toy: Path) -> None:
    with pytest.raises(UsageError, match="batch_size 4 cannot be shared equally by 3 processes"):
        stream(paired(toy), world=3)
    sizes = {world: [len(batch) for batch in stream(paired(toy), stop=11, world=world)] for world in (1, 2)}
    assert sizes == {1: [4, 4, 3], 2: [2, 2]}
    assert [len(batch) for batch in stream(paired(toy), stop=10, world=2)] == [2, 2, 1]


def test_micro_batches_are_the_batch_in_order(toy: Path) -> None:
    batch = next(stream(paired(toy), batch_size=5))
    pieces = batch.micro_batches(2)
    assert [len(piece) for piece in pieces] == [2, 2, 1] and len(batch) == 5
    assert torch.equal(torch.cat([piece.a for piece in pieces]), batch.a)
    assert torch.equal(torch.cat([piece.b for piece in pieces]), batch.b)
    assert sum((piece.keys for piece in pieces), ()) == batch.keys
    assert [len(piece) for piece in batch.micro_batches(None)] == [5]
    assert torch.equal(batch.to("cpu").a, batch.a)


# ---------------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize("augment", [(), ("flip",), ("flip_vertical",), ("rotate90",),
                                     ("flip", "flip_vertical", "rotate90")])
def test_both_images_of_a_pair_are_cut_and_turned_alike(augment: tuple[str, ...], toy: Path) -> None:
    for batch in stream(paired(toy, augment=augment), stop=20):
        for a, b in zip(batch.a, batch.b, strict=True):
            assert (pixels(a) + np.array([0, 0, 100]) == pixels(b)).all()


def test_the_sides_of_unpaired_data_are_drawn_independently(toy: Path) -> None:
    corners = [(tuple(pixels(a)[0, 0, :2]), tuple(pixels(b)[0, 0, :2]))
               for batch in stream(unpaired(toy, augment=()), stop=60) for a, b in zip(batch.a, batch.b, strict=True)]
    a, b = np.array(corners).transpose(1, 2, 0)
    assert sum(first == second for first, second in corners) < 6
    assert abs(np.corrcoef(a[0], b[0])[0, 1]) < 0.5 and abs(np.corrcoef(a[1], b[1])[0, 1]) < 0.5


def test_crops_are_windows_from_everywhere_in_the_image_and_differ_between_epochs(toy: Path) -> None:
    tops, lefts = set(), set()
    for batch in stream(paired(toy, augment=()), stop=400, batch_size=20):
        for a in batch.a:
            window = pixels(a)
            top, left = window[0, 0, :2]
            expected = coordinates(window[0, 0, 2])[top:top + 16, left:left + 16]
            assert (window == expected).all()
            tops.add(int(top))
            lefts.add(int(left))
    assert tops == set(range(HEIGHT - 16 + 1)) and lefts == set(range(WIDTH - 16 + 1))


def orientation(window: np.ndarray) -> tuple[bool, bool, bool]:
    """Of a window of coordinates: (is mirrored left to right, is upside down, has rows for columns)."""
    turned = window[0, 0, 0] != window[0, -1, 0]
    upright = window.transpose(1, 0, 2) if turned else window
    return bool(upright[0, 0, 1] > upright[0, -1, 1]), bool(upright[0, 0, 0] > upright[-1, 0, 0]), bool(turned)


@pytest.mark.parametrize(("augment", "seen"), [
    ((), {(False, False, False)}),
    (("flip",), {(False, False, False), (True, False, False)}),
    (("flip_vertical",), {(False, False, False), (False, True, False)}),
    (("flip", "flip_vertical"), set(itertools.product([False, True], [False, True], [False]))),
    (("rotate90",), {(False, False, False), (True, True, False), (True, False, True), (False, True, True)}),
    (("flip", "rotate90"), set(itertools.product([False, True], repeat=3))),
])
def test_each_augmentation_does_what_it_says_and_all_combinations_occur(
        augment: tuple[str, ...], seen: set[tuple[bool, ...]], toy: Path) -> None:
    batch = next(stream(paired(toy, augment=augment), batch_size=120, stop=120))
    assert {orientation(pixels(a)) for a in batch.a} == seen


def test_where_a_crop_lies_says_nothing_about_whether_it_is_flipped(toy: Path) -> None:
    """albumentations seeds all transforms of a chain alike: then only crops from the upper half were ever flipped."""
    batch = next(stream(paired(toy, augment=("flip", "flip_vertical")), batch_size=400, stop=400))
    tops = np.array([pixels(a)[..., 0].min() for a in batch.a])
    flips = np.array([orientation(pixels(a))[:2] for a in batch.a])
    table = np.corrcoef(np.column_stack([tops, flips]).T)
    assert np.abs(table[np.triu_indices(3, 1)]).max() < 0.2  # 4 standard deviations of 400 draws


def test_rotation_of_crops_that_are_not_square_is_refused() -> None:
    with pytest.raises(DataError, match="rotate90 needs square crops, and this stage's are 16×24"):
        RandomTransform((16, 24), ("flip", "rotate90"))


@pytest.mark.parametrize(("shape", "resize", "crop", "expected"), [
    ((300, 400), 286, (256, 256), (286, 381)),
    ((400, 300), 150, (128, 128), (200, 150)),
    ((300, 400), None, (256, 256), (300, 400)),
    ((100, 400), None, (256, 256), (256, 1024)),  # the crop would not fit
    ((100, 400), 150, (128, 700), (175, 700)),
    ((333, 777), 286, (256, 668), (286, 668)),  # rounding never makes it too small
])
def test_images_are_loaded_at_their_short_side_or_just_large_enough(
        shape: tuple[int, int], resize: int | None, crop: tuple[int, int], expected: tuple[int, int]) -> None:
    assert target_shape(shape, resize, crop) == expected


def test_small_images_are_enlarged_to_the_crop(toy: Path) -> None:
    batch = next(stream(paired(toy), size=(80, 90)))
    assert batch.a.shape[2:] == (80, 90)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_shrinking_averages_and_enlarging_stays_in_range(dtype: type) -> None:
    """Without area averaging, a one-pixel checkerboard shrinks to plain black or to moiré."""
    top = {np.uint8: 255, np.uint16: 65535, np.float32: 1}[dtype]
    board = (np.mgrid[:64, :64].sum(axis=0) % 2 * top).astype(dtype)[..., None]
    small = resized(board, (32, 32))
    assert small.dtype == dtype and small.shape == (32, 32, 1)
    assert np.abs(small.astype(float) / top - 0.5).max() < 0.01
    large = resized(board, (100, 128))
    assert large.shape == (100, 128, 1) and large.min() >= 0 and large.max() <= top


def test_a_stage_may_load_at_another_size_than_the_data_say(toy: Path) -> None:
    data = paired(toy, resize=20, augment=())
    spans = {resize: int(np.ptp(pixels(next(stream(data, resize=resize, batch_size=1)).a[0])[..., 0]))
             for resize in (None, 20, 40)}
    assert spans[None] == spans[20] > 28 and spans[40] == 15


# ---------------------------------------------------------------------------------------------- faults


class Faulty(Samples):
    """Reads like the real one, but for image 3."""

    fault: Callable[[], Any]

    @classmethod
    def of(cls, samples: Samples, fault: Callable[[], Any]) -> Faulty:
        faulty = cls(samples.loading, samples.split, samples.files_a, samples.files_b)
        faulty.fault = fault
        return faulty

    def stored(self, index_a: int, index_b: int) -> list[Stored]:
        if index_a == 3:
            self.fault()
        return super().stored(index_a, index_b)


def unpicklable() -> None:
    class LocalError(Exception):
        def __init__(self, text: str, handle: Any):
            super().__init__(text)
            self.handle = handle

    raise LocalError("cannot be pickled", open(os.devnull))  # noqa: SIM115, PTH123


def end_of_iteration() -> None:
    raise StopIteration


def out_of_memory() -> None:
    raise MemoryError("no room for this image")


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hanging() -> None:
    time.sleep(600)


def exhaust(batches: Iterator[Batch]) -> float:
    """The seconds until the stream fails."""
    began = time.monotonic()
    for _ in batches:
        pass
    raise AssertionError(f"the stream ended as if nothing were wrong, after {time.monotonic() - began:.1f} s")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("fault", "words"), [
    (unpicklable, "LocalError: cannot be pickled"), (end_of_iteration, "StopIteration"),
    (out_of_memory, "MemoryError: no room")])
def test_whatever_goes_wrong_with_an_image_is_an_error_that_names_it(
        fault: Callable[[], Any], words: str, workers: int, toy: Path) -> None:
    with pytest.raises(DataError, match=f"trainA/3.png and .*trainB/3.png: {words}.*translate data check"):
        exhaust(stream(Faulty.of(paired(toy), fault), workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_cannot_be_read_is_named_with_what_to_do(workers: int, tmp_path: Path) -> None:
    for side in "AB":
        for number in range(4):
            save(tmp_path / f"train{side}" / f"{number}.png", coordinates())
    broken = tmp_path / "trainB" / "2.png"
    broken.write_bytes(broken.read_bytes()[:broken.stat().st_size // 2])
    data = PairedConfig(folder=tmp_path, resize=None).build("train", tmp_path)
    with pytest.raises(DataError, match=r"trainB/2.png: read: .*`translate data check RECIPE`"):
        exhaust(stream(data, workers=workers))


def test_a_worker_that_is_killed_ends_the_training_with_a_reason(toy: Path) -> None:
    with pytest.raises(TranslateError, match=r"(?s)loading images: .*(killed|exited).*set workers to less"):
        exhaust(stream(Faulty.of(paired(toy), killed), workers=2))
    assert not multiprocessing.active_children()


@pytest.fixture
def looking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's workers look every five seconds whether their parent lives, and are waited for as long."""
    for module in (torch.utils.data._utils, torch.utils.data._utils.worker):
        monkeypatch.setattr(module, "MP_STATUS_CHECK_INTERVAL", 0.2)


@pytest.mark.parametrize("workers", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_workers_that_hang_are_given_up_and_killed(toy: Path, looking_often: None, workers: int) -> None:
    """Without a second error later: torch watches workers that it has not ended itself, and tells of their death in
    the middle of whatever comes next, such as the last words of a run."""
    began = time.monotonic()
    with pytest.raises(TranslateError, match=r"(?s)loading images: .*timed out.*if a disk is gone") as raised:
        exhaust(stream(Faulty.of(paired(toy), hanging), workers=workers, timeout=0.5))
    assert raised.value.__context__ is None and time.monotonic() - began < 30
    deadline = time.monotonic() + 5
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not multiprocessing.active_children()


def test_a_stream_that_is_left_early_leaves_no_process_behind(toy: Path) -> None:
    unfinished = stream(paired(toy), stop=10_000, workers=2)
    next(unfinished)
    assert len(multiprocessing.active_children()) == 2
    unfinished.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


def test_workers_leave_signals_to_the_parent(toy: Path) -> None:
    """A launcher signals the whole group; were the workers to die of it, the parent could not save."""
    unfinished = stream(paired(toy), stop=80, workers=2)
    next(unfinished)
    for child in multiprocessing.active_children():
        os.kill(child.pid or 0, signal.SIGTERM)
        os.kill(child.pid or 0, signal.SIGINT)
    assert sum(1 for _ in unfinished) == 19


def test_a_signal_that_comes_before_a_worker_can_refuse_it_is_refused_as_well(toy: Path,
                                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the parent would wait for a batch of the dead one."""
    enter = loading._enter_worker

    def late(number: int) -> None:
        for signalled in (signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), signalled)
        enter(number)

    monkeypatch.setattr(loading, "_enter_worker", late)
    assert sum(1 for _ in stream(paired(toy), stop=40, workers=2)) == 10


def test_workers_end_when_their_parent_is_killed(toy: Path, looking_often: None) -> None:
    context = multiprocessing.get_context("fork")
    told = context.SimpleQueue()

    def load() -> None:
        unfinished = stream(paired(toy), stop=10_000, workers=2)
        next(unfinished)
        told.put([child.pid for child in multiprocessing.active_children()])
        time.sleep(600)

    parent = context.Process(target=load)
    parent.start()
    workers = told.get()
    assert len(workers) == 2
    parent.kill()
    parent.join()
    deadline = time.monotonic() + 20
    while (alive := [pid for pid in workers if runs(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive


def test_a_worker_whose_parent_is_killed_before_it_is_ready_ends_as_well(toy: Path,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """It took whoever had adopted it for its parent, and lived on for ever."""
    context = multiprocessing.get_context("fork")
    told = context.SimpleQueue()
    enter = loading._enter_worker

    def late(number: int) -> None:
        told.put(os.getpid())
        os.kill(os.getppid(), signal.SIGKILL)
        while runs(multiprocessing.parent_process().pid):  # type: ignore[union-attr]
            time.sleep(0.01)
        enter(number)

    monkeypatch.setattr(loading, "_enter_worker", late)
    parent = context.Process(target=lambda: next(stream(paired(toy), workers=1)))
    parent.start()
    parent.join()
    worker, deadline = told.get(), time.monotonic() + 20
    while runs(worker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert parent.exitcode == -signal.SIGKILL and not runs(worker)


def runs(pid: int) -> bool:
    """Whether a process is there and not merely waiting to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_second_signal_leaves_alone_what_the_first_one_ends() -> None:
    """A batch system signals a launcher and its children: a training hung for ever, its workers half ended."""
    in_order = False
    with minding_signals() as request, pytest.raises(StopAsked), request.ending_waits():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            in_order = True
    assert in_order and request
