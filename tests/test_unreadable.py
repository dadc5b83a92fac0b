"""A file that cannot be read in the middle of a training costs nothing that was learnt, and no more than itself."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from accelerate import debug_launcher
from accelerate.state import AcceleratorState
from PIL import Image

from tests.bombs import BOMBS, black_square, endless_colours, endless_strip, false_header, huge_tile, peak_bytes
from tests.conversions import noise
from tests.covering import one_in
from tests.runs import Silent, final_state, pix2pix_recipe
from translate.data import PairedConfig, UnpairedConfig, batches
from translate.data.labels import Labelling
from translate.data.samples import Samples
from translate.errors import DataError, ImageError, Stopped, TranslateError
from translate.foreign import read_lines
from translate.host.available_memory import Available
from translate.images import decoding_memory
from translate.images.reading import ImageConfig, read_image
from translate.recipe import Recipe
from translate.runs.checkpoint import newest_checkpoint
from translate.runs.records import Event
from translate.schema import validate
from translate.training.loop import train

SMALL = {"translator": {"kind": "pix2pix", "generator": {"kind": "resnet", "width": 2, "blocks": 0},
                        "discriminator": {"kind": "patchgan", "width": 2, "layers": 1}},
         "stages": [{"resolution": 16, "images": 24, "batch_size": 2}],
         "every": {"log": 10, "sample": None, "checkpoint": 100, "evaluate": None}}


def small(data: Path, skipping: bool = False, **changes: Any) -> Recipe:
    document = pix2pix_recipe(data, **SMALL).dump()
    document["data"] |= {"resize": 20, "on_unreadable": "skip" if skipping else "stop"}
    return validate(Recipe, document | changes, "toy")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def exchanged(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


HARM: dict[str, Callable[[Path], None]] = {"gone": Path.unlink, "cut": cut, "a pipe": exchanged, "empty": emptied}


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read files whenever a sample is made, as those of a set that is too large to stay in memory."""
    monkeypatch.setattr("translate.data.stream.KEPT_BYTES", 0)


@pytest.fixture
def data(shared_pairs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shared_pairs, tmp_path / "pairs"))


def harming(data: Path, harm: Callable[[Path], None], at: int = 8, name: str = "trainB/3.png") -> Silent:
    """A reporter that harms a file once so many images have been seen."""
    def after(images: int) -> None:
        if images == at:
            harm(data / name)

    return Silent(after)


@pytest.mark.parametrize(("harm", "workers"), one_in(3, [("cut", 2), ("cut", 0), ("a pipe", 0), ("gone", 0)]))
def test_a_fault_of_reading_saves_first_and_the_run_goes_on_when_it_is_mended(
        harm: str, workers: int, data: Path, shared_pairs: Path, tmp_path: Path, trained: Callable[[Recipe], Path]
        ) -> None:
    """Everything since the last checkpoint was lost, up to 10,000 images, to one file."""
    report = harming(data, HARM[harm])
    with pytest.raises(DataError, match=r"3\.png.*data\.on_unreadable: skip goes on without them") as fault:
        train(small(data, workers=workers), tmp_path / "run", report)
    assert re.search(r"everything is saved.*--resume --run ", fault.value.saved or "")
    assert fault.value.saved in [line["message"] for line in read_lines(tmp_path / "run" / "events.jsonl", Event)]
    assert not any("everything is saved" in line for line in report.lines), "before the fault was named"
    newest, _ = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert newest is not None and int(newest.name) >= 8
    assert json.loads((tmp_path / "run" / "status.json").read_text())["images"] == int(newest.name)

    (data / "trainB" / "3.png").unlink(missing_ok=True)
    shutil.copy(shared_pairs / "trainB" / "3.png", data / "trainB" / "3.png")
    train(small(data), tmp_path / "run", Silent(), resume=True)
    whole = trained(small(shared_pairs))
    assert weights(tmp_path / "run") == weights(whole)
    assert losses(tmp_path / "run") == losses(whole)


def weights(run: Path) -> Any:
    """The checksums of what is trained: the recipes name two folders of equal data."""
    return {name: entry for name, entry in final_state(run).items() if "rator" in name or name == "images"}


def losses(run: Path) -> Any:
    """The last recorded losses, without the times that they took."""
    last = [record for record in read_lines(run / "metrics.jsonl") if record["kind"] == "train"][-1]
    return {name: value for name, value in last.items() if name not in ("images_per_second", "peak_bytes")}


def test_a_test_image_that_is_lost_when_a_stage_begins_saves_first_as_well(data: Path, tmp_path: Path) -> None:
    stages = [{"resolution": 16, "images": 12, "batch_size": 2}, {"resolution": 20, "images": 4, "batch_size": 2}]
    with pytest.raises(DataError, match=r"testA/0\.png"):
        train(small(data, stages=stages), tmp_path / "run", harming(data, cut, name="testA/0.png"))
    newest, _ = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert newest is not None and newest.name == "000000000012"


def test_workers_that_are_lost_save_first(data: Path, tmp_path: Path) -> None:
    """A killed worker ended a training in the middle of a step, which could then not be saved."""
    def kill(images: int) -> None:
        if images == 8:
            for worker in multiprocessing.active_children():
                worker.kill()
                worker.join()

    with pytest.raises(TranslateError, match="loading images: "):
        train(small(data, workers=2), tmp_path / "run", Silent(kill))
    newest, _ = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert newest is not None and int(newest.name) >= 8


@pytest.mark.parametrize("harm", one_in(2, list(HARM)))
def test_with_skip_a_file_is_named_counted_and_done_without(harm: str, data: Path, tmp_path: Path) -> None:
    for side in "AB":  # one of forty files, or nearly
        for number in range(6, 20):
            shutil.copy(data / f"train{side}" / "0.png", data / f"train{side}" / f"{number}.png")
    report = harming(data, HARM[harm])
    train(small(data, skipping=True, stages=[{"resolution": 16, "images": 48, "batch_size": 2}]),
          tmp_path / "run", report)
    told = [line for line in report.lines if "cannot be read" in line]
    assert len(told) == 1 and "3.png" in told[0] and "1 of 40 files so far" in told[0]
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "finished"
    assert [event["what"] for event in read_lines(tmp_path / "run" / "events.jsonl")].count("unreadable") == 1
    assert "3.png" in (tmp_path / "run" / "report.html").read_text()


def test_more_than_a_share_of_unreadable_files_ends_the_training_and_is_saved(data: Path, tmp_path: Path) -> None:
    """A disk that is gone must not turn a data set of thousands into the few images that were cached."""
    def harm(images: int) -> None:
        if images == 8:
            for number in (1, 3, 5):
                cut(data / "trainB" / f"{number}.png")

    with pytest.raises(DataError, match="2 of 12 files cannot be read, more than the 5%"):
        train(small(data, skipping=True), tmp_path / "run", Silent(harm))
    newest, _ = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert newest is not None and int(newest.name) >= 8


@pytest.mark.parametrize(("name", "at"), one_in(2, [("testA/5.png", 4), ("testB/0.png", 0)]))
def test_with_skip_a_damaged_held_out_image_is_named_once_and_the_others_are_scored(
        name: str, at: int, data: Path, tmp_path: Path) -> None:
    """One damaged test image cost every score of a training, and with them its best checkpoint."""
    every, stages = SMALL["every"] | {"evaluate": 4}, [{"resolution": 16, "images": 8, "batch_size": 2}]
    report = harming(data, cut, at, name)
    if not at:
        cut(data / name)
    train(small(data, skipping=True, every=every, stages=stages), tmp_path / "run", report)
    told = [line for line in report.lines if "held-out image cannot be read" in line]
    assert len(told) == 1 and name in told[0] and "1 of 12 files so far" in told[0]
    assert not [line for line in report.lines if line.startswith("warning")]
    scored = evaluations(tmp_path / "run")
    assert [record["num_held_out"] for record in scored] == [6 if at else 5, 5]
    best = json.loads((tmp_path / "run" / "status.json").read_text())["best"]
    assert best["num_images"] == 5 and (tmp_path / "run" / "checkpoints" / f"{best['images']:012d}").is_dir()

    for side in "AB":  # the scores are those of a data set without that pair
        (data / f"test{side}" / Path(name).name).unlink()
    train(small(data, every=every, stages=stages), tmp_path / "without", Silent())
    assert scored[-1]["ssim"] == evaluations(tmp_path / "without")[-1]["ssim"]


def evaluations(run: Path) -> list[dict[str, Any]]:
    return [record for record in read_lines(run / "metrics.jsonl") if record["kind"] == "evaluation"]


def test_more_than_a_share_of_unreadable_held_out_files_is_a_warning_and_no_score(data: Path, tmp_path: Path) -> None:
    for number in (1, 3):
        cut(data / "testA" / f"{number}.png")
    report = Silent()
    train(small(data, skipping=True, every=SMALL["every"] | {"evaluate": 12}), tmp_path / "run", report)
    assert any("no scores at 12 images" in line and "2 of 12 files cannot be read, more than the 5%" in line
               for line in report.lines)
    assert not evaluations(tmp_path / "run")


def test_a_run_that_stopped_may_go_on_with_skip(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        train(small(data), tmp_path / "run", harming(data, cut))
    train(small(data, skipping=True), tmp_path / "run", Silent(), resume=True)


def test_what_is_taken_instead_does_not_depend_on_workers_or_the_point_of_resuming(data: Path) -> None:
    cut(data / "trainB" / "3.png")
    samples = PairedConfig(folder=data, resize=20, on_unreadable="skip").build("train", data)

    def keys(start: int, workers: int) -> list[int]:
        return [key for batch in batches(samples, seed=0, start=start, stop=24, batch_size=2, size=(16, 16),
                                         workers=workers) for key in batch.keys]

    whole = keys(0, 0)
    assert keys(0, 2) == whole and keys(10, 0) == whole[10:] and len(whole) == 24


@pytest.mark.parametrize("workers", [0, 1])
def test_a_signal_ends_the_wait_for_a_read_that_hangs_and_everything_is_saved(
        workers: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM did not end a training whose loader hung: a batch system then killed it, unsaved."""
    read = Samples.stored

    def hanging(self: Samples, index_a: int, index_b: int) -> Any:
        if index_a == 3 and (tmp_path / "armed").exists():
            time.sleep(600)
        return read(self, index_a, index_b)

    def arm(images: int) -> None:
        if images == 6 and not (tmp_path / "armed").exists():
            (tmp_path / "armed").touch()
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()

    monkeypatch.setattr(Samples, "stored", hanging)
    began = time.monotonic()
    with pytest.raises(Stopped, match=r"stopped by SIGTERM .* everything is saved. Continue with: translate train"):
        train(small(data, workers=workers), tmp_path / "run", Silent(arm))
    newest, _ = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert newest is not None and int(newest.name) >= 6 and time.monotonic() - began < 60


def in_two(data: Path, folder: Path, faulty: int) -> None:
    """One of two processes cannot read a file that the other reads well."""
    AcceleratorState._reset_state(reset_partial_state=True)  # what this fork inherited
    read = Samples.stored

    def fault(self: Samples, index_a: int, index_b: int) -> Any:
        if torch.distributed.get_rank() == faulty and (folder / "armed").exists():
            raise DataError("cannot be read here", self.files_a[index_a])
        return read(self, index_a, index_b)

    Samples.stored = fault  # type: ignore[method-assign]
    recipe = small(data, stages=[{"resolution": 16, "images": 240, "batch_size": 2}])
    try:
        train(recipe, folder / "run", Silent(lambda images: (folder / "armed").touch() if images == 8 else None))
    except DataError as error:
        (folder / f"{torch.distributed.get_rank()}.txt").write_text(str(error))


def test_what_one_of_two_processes_cannot_read_ends_both_and_is_saved(shared_pairs: Path, tmp_path: Path) -> None:
    debug_launcher(in_two, (shared_pairs, tmp_path, 1), num_processes=2)
    assert all("cannot be read here" in (tmp_path / f"{rank}.txt").read_text() for rank in range(2))
    newest, _ = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert newest is not None and int(newest.name) >= 8


def test_a_fault_of_this_process_is_not_said_to_be_a_lost_worker(data: Path) -> None:
    """Without workers nobody can be lost; the advice was to set workers to less."""
    samples = PairedConfig(folder=data, resize=20).build("train", data)
    unequal = batches(samples, seed=0, start=0, stop=24, batch_size=2, size=(16, 16), pin_memory=False)

    def fail(*_: object) -> None:
        raise OSError("of the caller")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("translate.data.stream.Stream.__getitem__", fail)
        with pytest.raises(OSError, match="of the caller"):
            next(unequal)


# -- files that hold more than there is room for -----------------------------------------------------------------------


@pytest.mark.parametrize(("make", "workers"), one_in(3, [*((make, 0) for make in BOMBS), (endless_colours, 1)]))
def test_a_file_that_unpacks_to_gigabytes_is_one_unreadable_file(
        make: Callable[[Path], None], workers: int, tmp_path: Path) -> None:
    """Decoding was bounded in a conversion alone: a TIFF of 16×16 pixels and 3 MB had a training killed."""
    channels, bits = BOMBS[make]
    for side in "ab":
        (tmp_path / side).mkdir()
        for name in ("0", "1"):
            tifffile.imwrite(tmp_path / side / f"{name}.tif", noise(16, 16, channels, dtype=(
                np.uint8 if bits == 8 else np.uint16)).squeeze(), photometric="rgb" if channels == 3 else "minisblack")
    image = {"channels": channels, "bits": bits}
    config = UnpairedConfig.model_validate({"kind": "unpaired", "a": tmp_path / "a", "b": tmp_path / "b",
                                            "image_a": image, "image_b": image, "resize": None, "augment": [],
                                            "on_unreadable": "skip"})
    samples = config.build("train", tmp_path)
    make(tmp_path / "a/1.tif")
    peak_bytes("self")
    before = peak_bytes("self")
    read = list(batches(samples, seed=0, start=0, stop=6, batch_size=2, size=(16, 16), workers=workers))
    assert peak_bytes("self") - before < 300e6
    places = {str(error.path) for batch in read for error in batch.unreadable}
    assert len(read) == 3 and places <= {str(tmp_path / "a/1.tif")}
    assert places or make is endless_strip  # of which only the image is decoded, where the library can stop


def test_a_label_map_that_unpacks_to_gigabytes_is_an_error(tmp_path: Path) -> None:
    huge_tile(tmp_path / "x.tif")
    peak_bytes("self")
    before = peak_bytes("self")
    with pytest.raises(ImageError):
        Labelling(classes=2).read(tmp_path / "x.tif")
    assert peak_bytes("self") - before < 300e6


def test_an_image_for_which_there_is_no_memory_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no process that the system kills, which would end the training without a word."""
    monkeypatch.setattr(decoding_memory, "available_bytes", lambda: Available(200 * 10**6, "a test's memory"))
    black_square(tmp_path / "black.tif")
    assert (tmp_path / "black.tif").stat().st_size < 10**6
    for path, size in ((tmp_path / "black.tif", 14_000), (false_header(tmp_path, 5000, 5000), 5000)):
        with pytest.raises(ImageError, match=rf"is {size}×{size}; decoding it takes .* taken \(a test's memory\)"):
            read_image(path, ImageConfig())
    Image.new("L", (40, 30)).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png", ImageConfig(channels=1)).shape == (30, 40, 1)
