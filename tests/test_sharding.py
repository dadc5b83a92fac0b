"""Which part of the files a process does, as launchers and arrays of jobs tell it."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from translate.convert.jobs import Shard
from translate.convert.sharding import choose_shard, shard_of
from translate.errors import UsageError
from translate.host.launcher import NAMES, num_processes_here
from translate.precision import choose_device
from translate.recipe import Recipe
from translate.training.processes import make_accelerator

ARRAY = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "10",
         "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_STEP": "3", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"}
STEP = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "8", "PMI_RANK": "5", "PMI_SIZE": "8"}


@pytest.mark.parametrize(("variables", "expected"), [
    (ARRAY, Shard(3, 4)),  # of a batch script, whose job could run eight processes, and which is one
    (STEP, Shard(6, 8)), (ARRAY | STEP, Shard(2 * 8 + 6, 32)),
    ({"JOB_COMPLETION_INDEX": "0", "JOB_COMPLETIONS": "5"}, Shard(1, 5)),
    ({"JOB_COMPLETION_INDEX": "4", "JOB_COMPLETIONS": "5", "RANK": "1", "WORLD_SIZE": "2"}, Shard(10, 10)),
    ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, Shard(4, 4)),
    ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, Shard(1, 1)),
    ({"MV2_COMM_WORLD_RANK": "2", "MV2_COMM_WORLD_SIZE": "3"}, Shard(3, 3)),
    ({"PMI_RANK": "9", "PMI_SIZE": "12"}, Shard(10, 12))])
def test_the_part_is_as_the_launcher_says(variables: dict[str, str], expected: Shard,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    assert shard_of(variables) == expected
    for name in (*ARRAY, *STEP, "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert choose_shard("auto") == expected


def test_all_of_an_array_of_launchers_share_the_files_without_a_gap() -> None:
    parts = [shard_of(ARRAY | STEP | {"SLURM_ARRAY_TASK_ID": str(1 + 3 * job), "PMI_RANK": str(process)})
             for job in range(4) for process in range(8)]
    assert parts == [Shard(number + 1, 32) for number in range(32)]


@pytest.mark.parametrize(("variables", "named"), [
    ({}, "none of RANK, OMPI_COMM_WORLD_RANK"),
    ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, "none of RANK"),  # a batch script without srun does all or none
    ({"JOB_COMPLETION_INDEX": "3"}, "JOB_COMPLETION_INDEX=3, and JOB_COMPLETIONS is not set"),
    ({"JOB_COMPLETION_INDEX": "5", "JOB_COMPLETIONS": "5"}, "JOB_COMPLETION_INDEX=5, JOB_COMPLETIONS=5"),
    ({"RANK": "0"}, "RANK=0, and WORLD_SIZE is not set"), ({"RANK": "", "WORLD_SIZE": "2"}, "RANK=, WORLD_SIZE=2"),
    ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK=-1"), ({"RANK": "٣", "WORLD_SIZE": "4"}, "RANK=٣"),
    ({"PMI_RANK": "1e1", "PMI_SIZE": "20"}, "PMI_RANK=1e1"), ({"PMI_RANK": "0", "PMI_SIZE": "9" * 20}, "PMI_SIZE=999"),
    (ARRAY | {"SLURM_ARRAY_TASK_ID": "8"}, "SLURM_ARRAY_TASK_ID=8"),  # between two steps
    (ARRAY | {"SLURM_ARRAY_TASK_STEP": "0"}, "SLURM_ARRAY_TASK_STEP=0"),
    (ARRAY | {"SLURM_ARRAY_TASK_ID": "13"}, "SLURM_ARRAY_TASK_ID=13")])
def test_what_tells_no_part_is_named(variables: dict[str, str], named: str) -> None:
    """A part that is guessed leaves files undone, or does them twice."""
    with pytest.raises(UsageError) as raised:
        shard_of(variables)
    assert named in str(raised.value) and raised.value.advice


@pytest.mark.parametrize("rank", [None, "", "north", "-1"])
def test_a_number_of_processes_without_a_rank_is_no_launcher(rank: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert choose_shard(None) is None and choose_shard("2/3") == Shard(2, 3)


@pytest.mark.parametrize(("name", "value"), [*((name, "north") for name in NAMES), ("LOCAL_WORLD_SIZE", "0")])
def test_a_variable_that_no_launcher_sets_is_named_before_libraries_take_it(name: str, value: str,
                                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"{name}={value} .* a launcher"):
        make_accelerator(cast(Recipe, None), Path())  # what a training begins with
    assert choose_device("auto") and num_processes_here(3) == 3
