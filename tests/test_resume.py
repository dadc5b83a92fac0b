"""A run goes on from what is its own, in any number of processes; what is not its own is named, or left alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate import debug_launcher
from accelerate.state import AcceleratorState

from tests.covering import one_in
from tests.runs import Silent, cyclegan_recipe, final_state, train_until
from translate.errors import RunError
from translate.recipe import Recipe
from translate.runs.checkpoint import newest_checkpoint, read_recipe
from translate.runs.folder import load_saved
from translate.runs.manifest import read_tensors, seal
from translate.schema import read_document
from translate.training.loop import train
from translate.translators.pool import ImagePool, dealt

SMALL: dict[str, Any] = {
    "stages": [{"resolution": 16, "images": 8, "batch_size": 2}],
    "every": {"log": 2, "sample": 100, "checkpoint": 2, "evaluate": None}}


def small(data: Path, **changes: Any) -> Recipe:
    return cyclegan_recipe(data, **SMALL | changes)


# ---- any number of processes


def pools_of(sizes: list[int]) -> list[tuple[list[torch.Tensor], list[Any]]]:
    """Pools that hold the numbers 0, 1, 2, … as images, all different."""
    number, pools = 0, []
    for rank, size in enumerate(sizes):
        pool = ImagePool(50, rank)
        pool.images = [torch.full((1, 1, 1), number + each) for each in range(size)]
        pools.append(pool.state())
        number += size
    return pools


@pytest.mark.parametrize("sizes", [[4], [3, 3], [5, 2, 0], [1, 1, 1, 1]])
@pytest.mark.parametrize("now", [1, 2, 3, 5])
def test_every_image_of_the_pools_comes_to_one_process_and_no_two_draw_alike(sizes: list[int], now: int) -> None:
    shares = [dealt(pools_of(sizes), rank, now, 50) for rank in range(now)]
    found = sorted(int(image) for images, _ in shares for image in images)
    assert found == list(range(sum(sizes)))
    assert max(len(images) for images, _ in shares) - min(len(images) for images, _ in shares) <= 1
    draws = []
    for images, state in shares:
        pool = ImagePool(50, 0)
        pool.load(images, state)
        draws.append(pool.random.random())
    assert len(set(draws)) == now


def test_a_pool_that_is_full_takes_some_of_every_process() -> None:
    images, _ = dealt(pools_of([50, 50]), 0, 1, 50)
    assert len(images) == 50 and 20 <= sum(int(image) < 50 for image in images) <= 30


def goes_on(data: Path, run: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # what this fork inherited
    report = Silent()
    train(small(data), run, report, resume=(run / "recipe.yaml").exists())
    if int(torch.distributed.get_rank()) == 0:
        (run / "said.txt").write_text("\n".join(report.lines))


def test_a_run_of_one_process_goes_on_in_two_and_back(shared_pairs: Path, tmp_path: Path) -> None:
    """It was refused, for the image pools, of which pix2pix has none."""
    run = tmp_path / "run"
    train_until(small(shared_pairs), run, 4)
    debug_launcher(goes_on, (shared_pairs, run), num_processes=2)
    assert "processes: 1 then, 2 now (the images of all pools are dealt out again" in (run / "said.txt").read_text()
    assert {"rank0.json", "rank1.json"} <= final_state(run).keys()

    report, more = Silent(), [*SMALL["stages"], {"resolution": 16, "images": 2, "batch_size": 2}]
    before = read_tensors(run / "checkpoints" / "000000000008" / "rank1.safetensors")
    train(small(shared_pairs, stages=more), run, report, resume=True)
    assert any("processes: 2 then, 1 now" in line for line in report.lines)
    assert final_state(run)["images"] == "000000000010" and "rank1.json" not in final_state(run)
    assert any(name.startswith("pool_a.") for name in before)


# ---- a checkpoint is of one recipe


def edited(run: Path, **fields: Any) -> None:
    """Edit the saved recipe by hand."""
    document = read_document(run / "recipe.yaml", "")
    for path, value in fields.items():
        place = document
        *steps, last = path.split("__")
        for step in steps:
            place = place[step]
        place[last] = value
    (run / "recipe.yaml").write_text(yaml.safe_dump(document))


@pytest.mark.parametrize(("change", "named"), one_in(2, [
    ({"data__resize": None}, "data.resize: 40 → null"),
    ({"seed": 5}, "seed: 0 → 5"), ({"data__resize": 50}, "data.resize: 40 → 50"),
    ({"translator__weights": {"adversarial": 1.0, "cycle": 3.0, "identity": 5.0}}, "weights.cycle: 10.0 → 3.0"),
    ({"optimizer__generator__lr": 1e-3}, "optimizer.generator.lr")]))
def test_a_saved_recipe_that_was_edited_is_told_by_its_checkpoints(change: dict[str, Any], named: str,
                                                                    shared_pairs: Path, tmp_path: Path) -> None:
    """It went on with another seed, and other losses, without a word: a run that no recipe describes."""
    run = tmp_path / "run"
    train_until(small(shared_pairs), run, 2)
    edited(run, **change)
    with pytest.raises(RunError, match="belongs to another recipe") as raised:
        train(load_saved(run), run, Silent(), resume=True)
    assert all(words in str(raised.value) for words in (named, "000000000002", "undo the changes"))


def test_a_checkpoint_of_another_run_of_the_same_shape_is_told(shared_pairs: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("other", 1)):
        train_until(small(shared_pairs, seed=seed), tmp_path / name, 4)
    shutil.copytree(tmp_path / "other/checkpoints/000000000004", tmp_path / "one/checkpoints/000000000006")
    with pytest.raises(RunError, match="seed: 1 → 0"):
        train(small(shared_pairs), tmp_path / "one", Silent(), resume=True)


def test_what_may_change_may_and_a_checkpoint_of_before_goes_on(shared_pairs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_until(small(shared_pairs), run, 2)
    newest, _ = newest_checkpoint(run / "checkpoints")
    assert newest is not None and read_recipe(newest) == small(shared_pairs)
    train_until(small(shared_pairs, every=SMALL["every"] | {"log": 4}, guard=None), run, 4, resume=True)

    # As a version left it that did not keep the recipe
    newest, _ = newest_checkpoint(run / "checkpoints")
    assert newest is not None
    (newest / "recipe.json").unlink(), (newest / "MANIFEST.json").unlink()
    seal(newest)
    train(small(shared_pairs), run, Silent(), resume=True)
    assert final_state(run)["images"] == "000000000008"


# ---- what is not ours


@pytest.mark.parametrize("name", one_in(3, ["000000000012.bak", "2026-11-30", "12 old"]))
def test_what_is_not_ours_is_left_alone(name: str, shared_pairs: Path, tmp_path: Path,
                                        trained: Callable[[Recipe], Path]) -> None:
    """A copy of a checkpoint beside it ended every training at its first save."""
    run = tmp_path / "run"
    train_until(small(shared_pairs), run, 2)
    for folder in ("checkpoints", "samples", "held_out"):
        (run / folder / name).mkdir(parents=True)
        (run / folder / name / "mine.txt").write_text("mine")
    (run / "checkpoints" / "000000000003.tar").write_text("mine")
    train(small(shared_pairs), run, Silent(), resume=True)
    newest, refused = newest_checkpoint(run / "checkpoints")
    assert newest is not None and newest.name == "000000000008" and not refused
    assert all((run / folder / name / "mine.txt").read_text() == "mine"
               for folder in ("checkpoints", "samples", "held_out"))
    assert (run / "checkpoints" / "000000000003.tar").exists() and (run / "report.html").is_file()
