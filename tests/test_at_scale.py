"""Work on many machines, foretold: hours, bytes and the bottleneck."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from tests.commands import call
from tests.conversions import fill, tiny_release
from tests.runs import cyclegan_recipe
from translate.convert import convert
from translate.convert.at_scale import ConversionPlan, plan_conversion
from translate.errors import UsageError
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


def test_a_training_on_nodes_is_planned(shared_pairs: Path, tmp_path: Path, said: io.StringIO,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = cyclegan_recipe(shared_pairs, memory={"plan": "split"},
                             stages=[{"resolution": 16, "images": 40, "batch_size": 2}])
    planned = plan_for_gpu(recipe, "8GB")
    one, two = (plan_nodes(recipe, planned, num) for num in (1, 2))
    mean = sum(path.stat().st_size for path in shared_pairs.glob("train*/*.png")) / 6
    assert one.num_images == 40 and one.bytes_read == pytest.approx(40 * mean)
    assert one.bytes_sent == 0 < two.bytes_sent and one.parts["computing"] == 2 * two.parts["computing"]
    assert plan_nodes(recipe, planned, 2, 400).bytes_sent == pytest.approx(10 * two.bytes_sent)
    with pytest.raises(UsageError, match="a batch of 2 cannot be shared equally"):
        plan_nodes(recipe, planned, 3)

    (tmp_path / "r.yaml").write_text(recipe.dump_yaml())
    assert call(monkeypatch, "plan", tmp_path / "r.yaml", "--memory", "8GB", "--nodes", "2", "--images", "400") == 0
    assert "on 2 nodes with such a GPU each" in said.getvalue() and "bottleneck: " in said.getvalue()
