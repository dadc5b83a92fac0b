"""Work on many machines, foretold: hours, bytes and the bottleneck."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from tests.commands import call
from tests.conversions import fill, noise, tiny_release
from tests.runs import cyclegan_recipe, least_recipe
from tests.steps import gradients, make_batch, step
from translate.convert import convert
from translate.convert.at_scale import ConversionPlan, plan_conversion
from translate.errors import DataError, UsageError
from translate.recipe import Recipe
from translate.training.node_hours import plan_nodes
from translate.training.recipe_plan import plan_for_gpu


def test_a_conversion_is_planned_by_images_converted_here(tmp_path: Path) -> None:
    fill(tmp_path / "in", 12, 64, 48)
    plan = plan_conversion(tiny_release(), tmp_path / "in", 1_000_000, 4, "cpu")
    convert(tmp_path / "in", tmp_path / "out", tiny_release(), device="cpu", workers=0)
    sizes = [[path.stat().st_size for path in sorted((tmp_path / folder).rglob("*.png"))] for folder in ("in", "out")]
    assert plan.bytes_read == pytest.approx(sum(sizes[0]) / 12, rel=0.1)
    assert plan.bytes_written == pytest.approx(sum(sizes[1]) / 12, rel=0.1)
    assert plan.num_tried == 8 and min(plan.seconds_read, plan.seconds_translate, plan.seconds_write) > 0
    assert plan.hours == pytest.approx(250_000 * plan.seconds / 3600)


@pytest.mark.parametrize(("seconds", "gpus", "expected", "named"), [
    ((0.4, 0.3, 0.4), 1, 0.3, "translating"), ((0.4, 0.3, 6.0), 1, 1.6, "encoding and writing"),
    ((4.0, 0.3, 0.4), 2, 1.1, "reading and decoding"), ((0.4, 0.3, 0.4), 0, 0.5, "translating")])
def test_the_bottleneck_is_named(seconds: tuple[float, float, float], gpus: int, expected: float, named: str) -> None:
    """Beside a GPU four cores read and write at the same time; without one they do one after the other."""
    plan = ConversionPlan(1000, 1, 8, 4, gpus, *seconds, 1e6, 2e6)
    assert plan.seconds == pytest.approx(expected) and f"bottleneck: {named}" in plan.lines[-1]


def test_what_is_read_by_rows_is_tried_and_what_cannot_be_converted_is_named(tmp_path: Path) -> None:
    """TIFFs of several pages were called no images."""
    (tmp_path / "in").mkdir()
    for number in range(3):
        tifffile.imwrite(tmp_path / "in" / f"{number}.tif", np.stack([noise(48, 64, seed=number)] * 2),
                         photometric="rgb")
    plan = plan_conversion(tiny_release(), tmp_path / "in", 1000, 1, "cpu")
    assert plan.num_tried == 3 and plan.seconds_translate > 0 and not plan.left_out

    (tmp_path / "in" / "3.tif").write_bytes(b"nothing")
    plan = plan_conversion(tiny_release(), tmp_path / "in", 1000, 1, "cpu")
    assert plan.num_tried == 3 and plan.hours == pytest.approx(1000 * plan.seconds / 3600)
    assert "1 of 4 images that were tried cannot be converted" in plan.lines[1] and "3.tif" in plan.lines[1]
    for number in range(3):
        (tmp_path / "in" / f"{number}.tif").unlink()
    with pytest.raises(DataError, match="none of the 1 images that were tried can be converted"):
        plan_conversion(tiny_release(), tmp_path / "in", 1000, 1, "cpu")


def test_a_training_on_nodes_is_planned(shared_pairs: Path, tmp_path: Path, said: io.StringIO,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = least_recipe(shared_pairs, memory={"plan": "split"},
                          stages=[{"resolution": 16, "images": 40, "batch_size": 2}])
    planned = plan_for_gpu(recipe, "8GB")
    one, two = (plan_nodes(recipe, planned, num) for num in (1, 2))
    mean = sum(path.stat().st_size for path in shared_pairs.glob("train*/*.png")) / 6
    assert one.num_images == 40 and one.bytes_read == pytest.approx(40 * mean)
    assert one.bytes_sent == 0 and one.parts["computing"] == 2 * two.parts["computing"]
    assert plan_nodes(recipe, planned, 2, 400).bytes_sent == pytest.approx(10 * two.bytes_sent)
    with pytest.raises(UsageError, match="a batch of 2 cannot be shared equally"):
        plan_nodes(recipe, planned, 3)

    (tmp_path / "r.yaml").write_text(recipe.dump_yaml())
    assert call(monkeypatch, "plan", tmp_path / "r.yaml", "--gpu", "8GB", "--nodes", "2", "--images", "400") == 0
    assert "on 2 nodes with such a GPU each" in said.getvalue() and "bottleneck: " in said.getvalue()

    # As JSON it is there too.
    said.seek(0)
    said.truncate()
    assert call(monkeypatch, "plan", tmp_path / "r.yaml", "--gpu", "8GB", "--nodes", "2", "--json") == 0
    text = said.getvalue()
    found = json.JSONDecoder().raw_decode(text[text.index("{"):])[0]["nodes"]
    assert (found["num"], found["images"], found["bytes_sent_each"]) == (2, 40, two.bytes_sent)


@pytest.mark.slow
def test_gradients_and_checkpoints_have_the_bytes_of_real_ones(shared_pairs: Path, tmp_path: Path,
                                                               trained: Callable[[Recipe], Path]) -> None:
    """Two checkpoints with averages, and four steps."""
    networks = {"generator": {"kind": "resnet", "width": 12, "blocks": 1}, "pool": 0, "ema": 0.9,
                "discriminator": {"kind": "patchgan", "width": 12, "layers": 2}}
    recipe = cyclegan_recipe(shared_pairs, translator={"kind": "cyclegan", **networks}, memory={"plan": "split"},
                             stages=[{"resolution": 16, "images": 8, "batch_size": 2}])
    planned = plan_for_gpu(recipe, "8GB")
    written = sum(path.stat().st_size for path in trained(recipe).glob("checkpoints/*/*.safetensors"))
    assert plan_nodes(recipe, planned, 1).bytes_written == pytest.approx(written, rel=0.02)

    # Round a ring of n nodes each sends all gradients but 1/n of them, twice.
    translator = recipe.translator.build(3, 3)
    translator.to(torch.device("cpu"), torch.float64)
    step(translator, make_batch((16, 16)))
    of_one = sum(4 * gradient.numel() for gradient in gradients(translator).values())
    assert plan_nodes(recipe, planned, 2).bytes_sent == pytest.approx(4 * of_one)

    # There is one at the end in any case
    seldom = recipe.model_copy(update={"every": recipe.every.model_copy(update={"checkpoint": 1000})})
    assert plan_nodes(seldom, planned, 2).bytes_written == pytest.approx(written / 2, rel=0.02)


def test_what_is_not_known_of_a_training_is_left_out_by_name(tmp_path: Path) -> None:
    """Of images that are not here, and of a stage that fits no plan, without whose hours the whole has none."""
    recipe = least_recipe(tmp_path / "elsewhere", memory={"plan": "split"}, stages=[
        {"resolution": 16, "images": 40, "batch_size": 2},
        {"resolution": 512, "resize": 512, "images": 40, "batch_size": 2}])
    planned = plan_for_gpu(recipe, "20MB")
    assert [stage.chosen is None for stage in planned.stages] == [False, True]
    plan = plan_nodes(recipe, planned, 2)
    assert plan.hours is None and plan.bottleneck is None
    said = " ".join(plan.lines)
    assert "about" not in said and "computing is not counted: a stage fits under no memory plan" in said

    # The first stage alone
    first = recipe.model_copy(update={"stages": recipe.stages[:1]})
    plan = plan_nodes(first, replace(planned, stages=planned.stages[:1], loading=planned.loading[:1]), 2)
    assert plan.hours is not None and plan.as_json()["hours_of"]["loading images"] is None
    assert plan.lines[0].count("loading") == 0
    assert plan.lines[1] == "loading images is not counted: they are not here to be tried"


@pytest.mark.parametrize("words", [["--json"], ["--gpu", "RTX 4090"], ["--precision", "fp32"],
                                   ["--set", "workers=1"]], ids=lambda words: words[0])
def test_words_for_a_training_are_refused_beside_a_conversion(words: list[str], tmp_path: Path, said: io.StringIO,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, "plan", tmp_path, "--convert", tmp_path, *words) == 2
    assert f"{words[0]}: of the plan of a training" in said.getvalue()
