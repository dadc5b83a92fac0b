"""Sizes of memory: one reading of what people write, wherever `--memory` is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conversions import Identity, noise, release_of
from translate.convert import convert
from translate.errors import UsageError
from translate.images.writing import write_image
from translate.sizes import format_bytes, num_bytes
from translate.training.plan import budget_of


@pytest.mark.parametrize(("text", "number"), [
    ("800MB", 800_000_000), ("4GB", 4_000_000_000), ("4 GiB", 2**32), ("1.5g", 1_500_000_000), ("2 tib", 2**41),
    ("64kb", 64_000), (7, 7)])
def test_memory_is_read_as_people_write_it(text: str | int, number: int) -> None:
    assert num_bytes(text) == number


@pytest.mark.parametrize("text", ["", "many", "4XB", "GB", "inf", "1e999GB", "nan", "-1GB", "0", "0.1", "2", "8B",
                                  "0GB", "8TB!", f"{'9' * 400}GB", "0.0001KB", 0, -5])
def test_what_is_no_size_of_memory_is_refused(text: str | int) -> None:
    with pytest.raises(UsageError, match="write it as 800MB"):
        num_bytes(text)


def test_a_number_without_a_unit_is_refused_wherever_memory_is_said(tmp_path: Path) -> None:
    """Two bytes to one command and a mistake to another, `--memory 2` was."""
    write_image(tmp_path / "a.png", noise(20, 20))
    with pytest.raises(UsageError, match="'2' is not a size of memory"):
        convert(tmp_path / "a.png", tmp_path / "out", release_of(Identity()), memory="2")
    with pytest.raises(UsageError, match="'2' is not a size of memory"):
        budget_of("2")  # of plan and train


def test_what_is_written_is_read_again() -> None:
    for number in (2**20, 300 * 2**20, 2**30, 5 * 2**31):
        assert num_bytes(format_bytes(number)) == number
