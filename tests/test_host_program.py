"""A program that imports the package stays as it was: its limits, its signals, its environment, its threads."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

from translate.data.labels import read_labels
from translate.images.decoding import decode
from translate.images.pictures import PILLOW_LIMIT

DATA = Path(__file__).parent / "data" / "run-b2bf1ce"
# What a conversion, a training and its scores may never need, and would wait for at their start.
NOT_NEEDED = "torchvision torchmetrics albumentations kornia scipy ray s3fs moto"
PROGRAM = """
import logging, os, pkgutil, signal, sys, warnings
import cv2, numpy, torch
from PIL import Image

def state():
    handlers = {each: signal.getsignal(each) for each in signal.Signals if each not in (signal.SIGKILL, signal.SIGSTOP)}
    return {"environment": dict(os.environ), "Pillow's limit": Image.MAX_IMAGE_PIXELS,
            "warnings": list(warnings.filters), "signals": handlers, "torch's threads": torch.get_num_threads(),
            "OpenCV's threads": cv2.getNumThreads(), "logging": list(logging.getLogger().handlers),
            "gradients": torch.is_grad_enabled(), "dtype": torch.get_default_dtype(),
            "chance": torch.get_rng_state().tolist()[:64], "numpy's chance": numpy.random.get_state()[1].tolist()[:9],
            "excepthook": sys.excepthook, "formats": sorted(Image.registered_extensions())}

def compare(when):
    after = state()
    changed.extend(f"{name} changed {when}: {before[name]} -> {after[name]}" for name in before
                if after[name] != before[name])

changed, before = [], state()
import translate
compare("on import")
model = translate.load(sys.argv[1])
model.convert(Image.new("RGB", (32, 32), "teal"))
compare("on conversion")
if "torch._dynamo" in sys.modules:
    changed.append("torch's compiler was imported, which takes seconds and is not used")

import translate.convert, translate.training.loop, translate.evaluation.scoring
changed.extend(f"{name} was imported before it is needed" for name in sys.argv[2].split() if name in sys.modules)

import scipy.special  # which has a filter of its own
before = state()
import translate.data.transforms
translate.data.transforms.resized(numpy.zeros((8, 8, 3), numpy.uint8), (4, 4))
compare("on augmentation")
sys.exit("\\n".join(changed) or 0)
"""


def test_a_program_that_imports_the_package_and_converts_stays_as_it_was_and_waits_for_no_library_in_vain() -> None:
    """Pillow's limit against decompression bombs was off in the whole process: 48 kB took a server 10 s and 2.9 GiB.

    And a conversion waited three seconds for libraries that it does not use.
    """
    child = subprocess.run([sys.executable, "-c", PROGRAM, str(DATA / "release"), NOT_NEEDED], capture_output=True,
                           text=True)
    assert child.returncode == 0, child.stderr


def test_pillows_limit_is_back_when_the_last_thread_has_decoded() -> None:
    """Whoever leaves first must not put it back while others decode, nor the last put back what another had lifted."""
    before = Image.MAX_IMAGE_PIXELS
    inside, leave = threading.Event(), threading.Event()

    def decode_slowly() -> None:
        with PILLOW_LIMIT.lifted():
            inside.set()
            leave.wait(10)

    other = threading.Thread(target=decode_slowly)
    with PILLOW_LIMIT.lifted():
        other.start()
        assert inside.wait(10)
    assert Image.MAX_IMAGE_PIXELS is None
    leave.set()
    other.join()
    assert Image.MAX_IMAGE_PIXELS == before is not None


def test_a_limit_of_the_host_program_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`max_pixels` says what is decoded here; what a program allows itself is its own affair."""
    Image.new("RGB", (40, 30)).save(tmp_path / "image.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decode((tmp_path / "image.png").read_bytes(), tmp_path / "image.png").pixels.shape == (30, 40, 3)
    assert read_labels(tmp_path / "image.png").shape == (30, 40, 1)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / "image.png")
