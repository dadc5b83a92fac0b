"""What was an image when it was listed may be a pipe, a socket, a device or a folder when it is opened."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conversions import Identity, last_rows, release_of
from tests.covering import one_in
from tests.runs import Silent, pix2pix_recipe
from translate.convert import convert
from translate.data import PairedConfig, batches
from translate.data.check import check
from translate.data.labels import read_labels
from translate.errors import DataError, ImageError
from translate.evaluation.scoring import evaluate_folder
from translate.images import listing
from translate.images.decoder_process import Request, read_file
from translate.images.decoding import inspect
from translate.images.reading import ImageConfig, read_image
from translate.images.row_readers import open_file
from translate.training.loop import train


def a_socket(path: Path) -> None:
    """Bound by its short name: the address of a socket holds 107 bytes."""
    home = Path.cwd()
    os.chdir(path.parent)
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(home)


KINDS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo, "socket": a_socket, "device": lambda path: path.symlink_to("/dev/zero"),
    "nothing": lambda path: path.symlink_to("/dev/null"), "folder": Path.mkdir}


def rows_of(path: Path) -> None:
    with open_file(path, 100):
        pass


READERS: dict[str, Callable[[Path], object]] = {
    "image": lambda path: read_image(path, ImageConfig()), "labels": read_labels, "head": inspect,
    "rows": rows_of, "decoder": lambda path: read_file(Request(path, 100, ""))}


@pytest.fixture(autouse=True)
def not_for_ever() -> Iterator[None]:
    """A test that waits for a pipe fails after a while, rather than hang the suite."""
    def too_long(*_: object) -> None:
        raise AssertionError("waits for what never comes")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_no_reader_waits_for_what_is_no_file(reader: str, kind: str, tmp_path: Path) -> None:
    """A training hung for ever in one such file, and SIGTERM did not end it."""
    KINDS[kind](tmp_path / "x.png")
    with pytest.raises(ImageError, match=r"is no plain file|is a folder, and a file was expected"):
        READERS[reader](tmp_path / "x.png")


def folders(home: Path, *names: str) -> None:
    for name in names:
        (home / name).mkdir(parents=True)
        for number in range(4):
            pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(home / name / f"{number}.png")


@pytest.mark.parametrize(("kind", "workers"), [("pipe", 0), ("pipe", 1), ("socket", 0), ("device", 0), ("folder", 0)])
def test_a_training_image_that_became_something_else_is_an_error_that_names_it(
        kind: str, workers: int, tmp_path: Path) -> None:
    folders(tmp_path, "trainA", "trainB")
    samples = PairedConfig(folder=tmp_path, resize=None).build("train", tmp_path)
    (tmp_path / "trainB" / "2.png").unlink()
    KINDS[kind](tmp_path / "trainB" / "2.png")
    with pytest.raises(DataError, match=r"trainB/2.png: read: is "):
        for _ in batches(samples, seed=0, start=0, stop=8, batch_size=2, size=(16, 16), workers=workers):
            pass


@pytest.mark.parametrize("kind", one_in(2, ["pipe", "device"]))
def test_a_check_and_a_training_name_what_they_leave_out(kind: str, shared_pairs: Path, tmp_path: Path) -> None:
    """Pipes and links to devices among the images were left out without a word. Links to images, folders called as
    images, and what is hidden are no fault."""
    data = Path(shutil.copytree(shared_pairs, tmp_path / "pairs"))
    for side in ("testA", "trainB"):
        KINDS[kind](data / side / "9.png")
        KINDS[kind](data / side / "._1.png")
        (data / side / "folder.png").mkdir()
    (data / "trainA" / "0.png").rename(tmp_path / "0.png")
    (data / "trainA" / "0.png").symlink_to(tmp_path / "0.png")
    found = [finding for finding in check(data) if "is a pipe, a socket or a device" in finding.what]
    assert [(finding.path, finding.severity) for finding in found] == [
        (data / side / "9.png", "error") for side in ("testA", "trainB")]

    report, small = Silent(), {"kind": "resnet", "width": 2, "blocks": 0}
    train(pix2pix_recipe(data, translator={"kind": "pix2pix", "generator": small, "discriminator": {
        "kind": "patchgan", "width": 2, "layers": 1}}, stages=[{"resolution": 16, "images": 2, "batch_size": 2}],
        every={"log": 2, "sample": None, "checkpoint": 100, "evaluate": 2}), tmp_path / "run", report)
    (told,) = (line for line in report.lines if "left out" in line)
    assert told.startswith("warning: 2 among the images") and "testA/9.png" in told and "trainB/9.png" in told


def test_a_conversion_goes_past_it(tmp_path: Path) -> None:
    folders(tmp_path, "in")

    class Exchanging(Identity):
        """With the first image, the last becomes a pipe."""

        def translate(self, image: torch.Tensor) -> torch.Tensor:
            if not self.seen:
                (tmp_path / "in" / "3.png").unlink()
                os.mkfifo(tmp_path / "in" / "3.png")
            return super().translate(image)

    summary = convert(tmp_path / "in", tmp_path / "out", release_of(Exchanging()), workers=0)
    assert (summary.converted, [row.path for row in summary.failed]) == (3, ["3.png"])
    assert "is no plain file" in last_rows(tmp_path / "out")["3.png"]["message"]


def test_an_evaluation_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders(tmp_path, "made", "truth")
    names_of = listing.list_names

    def late(folder: Path, skip: Path | None = None) -> listing.Names:
        """What is listed is a file still; what is opened next is not."""
        names = names_of(folder, skip)
        if (path := tmp_path / "made" / "3.png").is_file():
            path.unlink()
            os.mkfifo(path)
        return names

    monkeypatch.setattr(listing, "list_names", late)
    with pytest.raises(ImageError, match=r"3.png: read: is no plain file"):
        evaluate_folder(tmp_path / "made", tmp_path / "truth")
