"""What every test shares: one compute thread each, and small data sets with something to learn in them."""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import numpy as np

    from translate.recipe import Recipe

# What is heavy is imported where it is used: pytest-xdist's controller reads this file too, before there is a worker.
os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and in the processes that tests start
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Bytecode is kept, also where the environment says otherwise: hundreds of processes would compile the package again.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_configure(config: pytest.Config) -> None:
    """The proofs are about the CPU, whatever the machine has; but for those that `make cuda` asks for.

    Triton's kernels run there as well, interpreted, if that is said before Triton is imported.
    """
    if "cuda" not in config.option.markexpr.replace("not cuda", ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ["TRITON_INTERPRET"] = "1"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leave what is collected out of Python's garbage collection, which would go through thousands of tests each time.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def waves(number: int, size: tuple[int, int]) -> np.ndarray:
    """A colourful (H, W, 3) uint8 picture, different for every number."""
    import numpy as np

    rows, columns = np.mgrid[: size[0], : size[1]]
    planes = [np.sin(columns / (4 + number) + number), np.cos(rows / (3 + number)), rows / size[0] * 2 - 1]
    return (127.5 + 120 * np.stack(planes, axis=-1)).clip(0, 255).astype(np.uint8)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Everything that is printed, to either stream."""
    from rich.console import Console

    from translate.cli import console

    text = io.StringIO()
    for name in ("out", "err"):
        monkeypatch.setattr(console, name, Console(file=text, width=300))
    yield text


@pytest.fixture
def toy_pairs(tmp_path: Path) -> Path:
    """trainA/B and testA/B of six pictures each, 72×80 px; B is the negative of A."""
    return write_pairs(tmp_path / "pairs")


@pytest.fixture(scope="session", autouse=True)
def no_prepared_data(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What `make demo` has prepared in this checkout, and what this user's machine knows, is not there for tests."""
    os.environ["DIPTYCH_DATA"] = str(tmp_path_factory.mktemp("data"))
    os.environ["DIPTYCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_disks() -> Iterator[None]:
    """A file that is synced survives a power cut, which no test makes; a process that is killed loses none either way.

    On a busy machine a third of a test's time would be such waiting.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # which fails alike for what is no open file
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Recipe], Path]:
    """`trained(recipe)` is the folder of a whole run, trained once for all tests that only read it."""
    runs: dict[str, Path] = {}

    def once(recipe: Recipe) -> Path:
        from tests.runs import Silent
        from translate.training.loop import train

        key = recipe.dump_yaml()
        if key not in runs:
            runs[key] = tmp_path_factory.mktemp("trained") / "run"
            train(recipe, runs[key], Silent())
        return runs[key]

    return once


@pytest.fixture(scope="session")
def shared_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, once for all tests that only read it."""
    return write_pairs(tmp_path_factory.mktemp("shared") / "pairs")


def write_pairs(folder: Path, change: Callable[[np.ndarray], np.ndarray] = lambda image: 255 - image) -> Path:
    from PIL import Image

    for split in ("train", "test"):
        for number in range(6):
            image = waves(number + 10 * (split == "test"), (72, 80))
            for side, pixels in (("A", image), ("B", change(image))):
                path = folder / f"{split}{side}" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return folder
