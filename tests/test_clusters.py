"""The files for clusters are what their programs read, and the commands in them and on their page are ours."""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.conversions import fill, tree
from tests.runs import Silent, cyclegan_recipe
from translate.cli.app import command_line
from translate.convert.sharding import shard_of
from translate.training.loop import train

ROOT = Path(__file__).parent.parent
FILES = ROOT / "integrations" / "clusters"


PAGES = {"README.md": 12, "docs/clusters.md": 4, "docs/commands.md": 40}


def commands(text: str) -> list[list[str]]:
    """The words of every `translate …` in a text, as a shell cuts them; what follows two spaces is a comment."""
    lines = [re.split(r"\s{2,}", line.strip())[0] for line in text.replace("\\\n", " ").splitlines()]
    found = [re.search(r"'(translate [^']*)'|(?:^|-m )(translate .*?)(?:&|$)", line) for line in lines]
    return [shlex.split(each[1] or each[2]) for each in found if each is not None]


def parse(words: list[str]) -> None:
    """Have the command line read a command, and not run it. Raises what it raises for words that it does not know."""
    program = command_line()
    within = program.make_context("translate", words[1:])
    program.commands[words[1]].make_context(words[1], words[2:], parent=within)


@pytest.mark.parametrize(("page", "least"), PAGES.items())
def test_a_page_s_commands_are_read_by_the_command_line(page: str, least: int) -> None:
    found = [words for block in (ROOT / page).read_text().split("```")[1::2] for words in commands(block)]
    assert len(found) >= least
    for words in found:
        parse(words)


def test_the_kubernetes_job_tells_its_pods_how_many_they_are() -> None:
    job = yaml.safe_load((FILES / "convert-job.yaml").read_text())
    spec = job["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert (job["apiVersion"], job["kind"], spec["completionMode"]) == ("batch/v1", "Job", "Indexed")
    variables = {each["name"]: each["value"] for each in container["env"]}
    parts = [shard_of(variables | {"JOB_COMPLETION_INDEX": str(number)}) for number in range(spec["completions"])]
    assert {part.num for part in parts} == {spec["completions"]} and len({part.index for part in parts}) == len(parts)
    parse(container["command"])


@pytest.mark.parametrize("name", ["convert.sbatch", "train.sbatch"])
def test_the_scripts_for_slurm_are_scripts(name: str) -> None:
    text = (FILES / name).read_text()
    assert subprocess.run(["bash", "-n", FILES / name], check=False).returncode == 0
    lines = text.splitlines()
    options = [number for number, line in enumerate(lines) if line.startswith("#SBATCH ")]
    assert lines[0] == "#!/bin/bash" and all(re.fullmatch(r"#SBATCH --[a-z-]+(=\S+)?", lines[each]) for each in options)
    assert max(options) < lines.index("set -euo pipefail")  # sbatch reads none behind the first command
    for words in commands("\n".join(line for line in lines if not line.startswith("#")).replace('"${resume[@]}"', "")):
        parse(words)


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """What stands in for Slurm here: `srun` starts its command once for each of two nodes, on this machine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program(folder, "translate", f'exec {sys.executable} -m translate "$@"')
    program(folder, "torchrun", f'exec {sys.executable} -m torch.distributed.run --local_addr=127.0.0.1 "$@"')
    program(folder, "scontrol", "echo 127.0.0.1; echo 127.0.0.2")
    program(folder, "srun", '"$@" & first=$!; "$@" & second=$!; wait $first && wait $second')
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_the_array_of_slurm_translates_a_folder(slurm: dict[str, str], shared_pairs: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    train(cyclegan_recipe(shared_pairs, stages=[{"resolution": 16, "images": 2, "batch_size": 2}]), tmp_path / "run",
          Silent())
    fill(tmp_path / "in", 6)
    for number in (5, 6, 7):
        variables = {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_COUNT": "3"}
        ended = subprocess.run(["bash", FILES / "convert.sbatch", tmp_path / "in", tmp_path / "out", tmp_path / "run"],
                               env=slurm | variables, capture_output=True, text=True, timeout=120)
        assert ended.returncode == 0, ended.stderr
    assert tree(tmp_path / "out").keys() == tree(tmp_path / "in").keys()


@pytest.mark.slow
def test_the_job_of_slurm_trains_on_two_nodes_and_goes_on(slurm: dict[str, str], shared_pairs: Path,
                                                          tmp_path: Path) -> None:
    recipe = cyclegan_recipe(shared_pairs, stages=[{"resolution": 16, "images": 4, "batch_size": 2}])
    (tmp_path / "r.yaml").write_text(recipe.dump_yaml())
    variables = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "7"}
    for _ in range(2):  # the second call finds a run that is finished, and resumes it
        ended = subprocess.run(["bash", FILES / "train.sbatch", tmp_path / "r.yaml", tmp_path / "run"],
                               env=slurm | variables, capture_output=True, text=True, timeout=240)
        assert ended.returncode == 0, ended.stderr
    assert '"finished"' in (tmp_path / "run" / "status.json").read_text()


def test_the_cluster_file_starts_ray_on_every_machine() -> None:
    cluster = cluster_file()
    assert cluster["max_workers"] == len(cluster["provider"]["worker_ips"])
    for words in commands("\n".join(line.removeprefix("#") for line in
                                    (FILES / "ray-cluster.yaml").read_text().splitlines() if line.startswith("#"))):
        parse(words)


@pytest.mark.slow
def test_ray_takes_the_cluster_file() -> None:
    pytest.importorskip("ray", reason="needs ray: pip install 'diptych[ray]'")
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster_file()))


def cluster_file() -> dict[str, Any]:
    return yaml.safe_load((FILES / "ray-cluster.yaml").read_text())  # type: ignore[no-any-return]
