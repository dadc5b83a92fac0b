"""A training over several nodes: the same as in one process, resumed on any number; a node that is lost is named."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from tests import three_steps
from tests.nodes import Node, start_nodes
from tests.runs import Silent, cyclegan_recipe, final_state
from translate.training.loop import train

pytestmark = pytest.mark.slow
SECONDS = 180  # in which torch is imported on each node


def ended(nodes: list[Node]) -> None:
    for node in nodes:
        assert node.wait(SECONDS) == 0, node.printed.read_text()


def test_two_nodes_train_as_one_process(shared_pairs: Path, tmp_path: Path) -> None:
    """The same parameters after three steps with the same global batch, in float64 with SGD."""
    ended(start_nodes(2, tmp_path / "logs", "tests.three_steps", shared_pairs, tmp_path / "two"))
    for kind in three_steps.RECIPES:
        three_steps.main(kind, shared_pairs, tmp_path / "one" / kind)
        one = torch.load(tmp_path / "one" / kind / "0.pt")["after"]
        for rank in (0, 1):
            two = torch.load(tmp_path / "two" / kind / f"{rank}.pt")["after"]
            for name, value in one.items():
                torch.testing.assert_close(two[name], value, rtol=1e-10, atol=1e-10)


def test_a_run_of_two_nodes_goes_on_on_one_and_on_three(shared_pairs: Path, tmp_path: Path) -> None:
    """The global batch stays; rank 0 alone writes, so that the folder is that of any other run."""
    recipe = cyclegan_recipe(shared_pairs, every={"log": 6, "sample": 100, "checkpoint": 6},
                             stages=[{"resolution": 16, "images": 12, "batch_size": 6}])
    (tmp_path / "recipe.yaml").write_text(recipe.dump_yaml())
    words = "translate", "train", tmp_path / "recipe.yaml", "--run-dir", tmp_path / "run"
    more = "--resume", "--images", "+12"
    ended(start_nodes(2, tmp_path / "two", *words))
    report = Silent()
    longer = recipe.model_copy(update={"stages": (recipe.stages[0].model_copy(update={"images": 24}),)})
    train(longer, tmp_path / "run", report, resume=True)
    assert any("processes: 2 then, 1 now" in line for line in report.lines)
    ended(start_nodes(3, tmp_path / "three", *words, *more))
    assert "processes: 1 then, 3 now" in (tmp_path / "three" / "node0.log").read_text()
    assert final_state(tmp_path / "run")["images"] == "000000000036"
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "finished"


@pytest.mark.parametrize("lost", [0, 1])
def test_a_node_that_is_killed_ends_the_job_with_its_name(lost: int, shared_pairs: Path, tmp_path: Path) -> None:
    """The others waited, or ended with thirty lines about a socket."""
    recipe = cyclegan_recipe(shared_pairs, every={"log": 60, "sample": 60_000, "checkpoint": 60},
                             stages=[{"resolution": 16, "images": 60_000, "batch_size": 6}])
    (tmp_path / "recipe.yaml").write_text(recipe.dump_yaml())
    nodes = start_nodes(2, tmp_path / "logs", "translate", "train", tmp_path / "recipe.yaml", "--run-dir",
                        tmp_path / "run")
    until = time.monotonic() + SECONDS
    while not list((tmp_path / "run").glob("checkpoints/[0-9]*")):
        assert time.monotonic() < until, nodes[0].printed.read_text()
        time.sleep(0.1)
    nodes[lost].kill()
    assert nodes[1 - lost].wait(60) != 0
    assert f"process {lost} of 2, on " in (said := nodes[1 - lost].printed.read_text()), said
    assert "--resume" in said and "Traceback" not in said.split("torch/distributed/elastic")[0]


def test_the_lost_are_named_by_the_port_of_the_rendezvous_alone_and_a_training_goes_on_without(tmp_path: Path) -> None:
    """A firewall between nodes that opens this one ended every training after ten seconds."""
    (tmp_path / "went on").mkdir()
    ended(start_nodes(2, tmp_path / "logs", "tests.roll_call", tmp_path / "went on"))
    assert {path.name for path in (tmp_path / "went on").iterdir()} == {"0", "1"}
