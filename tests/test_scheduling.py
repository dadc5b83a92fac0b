"""What the engine sends to workers and makes of their errors, without a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cluster import RayHere
from translate.cluster.ray_engine import RayEngine
from translate.convert.on_ray import OnRay, WorkerSetup
from translate.convert.saving import Options
from translate.errors import DataError, DiskError, UsageError
from translate.places import data_root
from translate.precision import is_out_of_memory


class Looking:
    """A task that says where it looks for data, or raises `error`."""

    def __init__(self, error: Exception | None = None):
        self.error = error

    def sizes(self, items: Sequence[int]) -> list[int]:
        return [1] * len(items)

    def do(self, items: Sequence[int], stop: object) -> tuple[list[Path], None]:
        if self.error is not None:
            raise self.error
        return [data_root() for _ in items], None


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RayEngine:
    """One whose worker stands in another folder than this process."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.setenv("DIPTYCH_DATA", "mine")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    return RayHere(tmp_path / "elsewhere").engine()


def lost(item: Any, error: str, what: str) -> Any:
    raise AssertionError(f"{item}: {what} ({error})")


def test_workers_look_for_data_where_the_driver_does(engine: RayEngine, tmp_path: Path) -> None:
    (found, _), = engine.run([7], Looking, False, lost)
    assert found == [tmp_path / "mine"]


@pytest.mark.parametrize(("raised", "expected"), [
    (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError), (MemoryError(), MemoryError),
    (DataError("no image"), DataError), (OSError(28, "No space left on device"), DiskError)])
def test_an_error_of_a_worker_keeps_its_class_but_for_that_of_a_disk(engine: RayEngine, raised: Exception,
                                                                     expected: type[Exception]) -> None:
    with pytest.raises(expected) as caught:
        list(engine.run([7], partial(Looking, raised), False, lost))
    assert type(caught.value) is expected and str(raised) in str(caught.value)
    assert is_out_of_memory(caught.value) == is_out_of_memory(raised)


def test_a_part_is_advised_only_by_callers_that_have_one(engine: RayEngine) -> None:
    """`evaluate` has no --shard."""
    with pytest.raises(UsageError, match="cannot be sent") as raised:
        list(engine.run([7], lambda: Looking(), False, lost))
    assert raised.value.advice == "leave --engine out"
    setup = WorkerSetup(lambda: None, None, "", Options())  # type: ignore[arg-type, return-value]
    with pytest.raises(UsageError, match="cannot be sent") as raised:
        list(OnRay(engine, setup, lambda line: None).run([], False))
    assert raised.value.advice == "leave --engine out, and use --shard auto on each machine"
