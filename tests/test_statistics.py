"""A stage that holds the statistics of batch norm: networks learn as they will translate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.networks import members
from tests.runs import Silent, final_state, pix2pix_recipe, train_until
from tests.steps import build, make_batch, step
from translate.errors import UsageError
from translate.networks import GeneratorConfig, LatentGeneratorConfig
from translate.networks.statistics import has_batch_norm
from translate.recipe import Recipe, Stage
from translate.runs.manifest import read_tensors
from translate.runs.progress import Progress
from translate.training.loop import train
from translate.training.starting import Source, take_over
from translate.translators import Pix2PixConfig, Translator

NORM, NONE = ({"kind": "resnet", "width": 2, "blocks": 1, "norm": norm} for norm in ("batch", "none"))


def norms_of(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [each for each in network.modules() if isinstance(each, nn.BatchNorm2d)]


def held(plan: str) -> tuple[Translator, dict[str, Tensor], dict[str, Tensor]]:
    """A translator after a step with its statistics held, its generator's gradients, and that one's buffers before."""
    translator = build(Pix2PixConfig(generator=NORM, discriminator={"kind": "patchgan", "width": 2, "layers": 2,
                                                                    "norm": "batch"}))
    draw = torch.Generator().manual_seed(0)
    for norm in norms_of(translator.generator_ab):
        norm.running_mean.normal_(generator=draw)  # type: ignore[union-attr, operator]
        norm.running_var.uniform_(0.5, 2.0, generator=draw)  # type: ignore[union-attr, operator]
    before = {name: value.clone() for name, value in translator.generator_ab.named_buffers()}
    translator.take_shape(Stage(images=1, hold_statistics=True))
    step(translator, make_batch((16, 16)), plan)
    return translator, {name: value.grad for name, value in translator.generator_ab.named_parameters()}, before


@pytest.mark.parametrize("plan", ["plain", "replay", "strips"])
def test_with_statistics_held_the_gradients_are_those_of_the_network_that_translates(plan: str) -> None:
    """Beside the step written out with the network in eval mode; the statistics stay what they were. Those of the
    discriminator, by which nobody translates, go on."""
    translator, found, before = held(plan)
    other = held("plain")[0]
    batch = make_batch((16, 16))
    other.generator_ab.zero_grad()
    other.generator_ab.eval()
    fake = other.generator_ab(batch.a)
    logits = other.discriminator_b(torch.cat([batch.a, fake], 1))
    (F.softplus(-logits).mean() + 100 * (fake - batch.b).abs().mean()).backward()
    for name, value in other.generator_ab.named_parameters():
        torch.testing.assert_close(found[name], value.grad, rtol=1e-9, atol=1e-9)
    assert all(torch.equal(value, before[name]) for name, value in translator.generator_ab.named_buffers())
    assert all(each.num_batches_tracked > 0 for each in norms_of(translator.discriminator_b))


def stages(hold: bool) -> list[dict[str, object]]:
    return [{"resolution": 16, "images": 8, "batch_size": 2},
            {"resolution": 16, "images": 8, "batch_size": 2, "hold_statistics": hold}]


def recipe_of(data: Path, hold: bool = True) -> Recipe:
    return pix2pix_recipe(
        data, stages=stages(hold),
        translator={"kind": "pix2pix", "generator": NORM,
                    "discriminator": {"kind": "patchgan", "width": 2, "layers": 1}},
        every={"log": 4, "sample": None, "checkpoint": 4, "evaluate": 12}, keep_checkpoints=4, evaluate={"images": 2})


def test_a_run_holds_them_from_its_stage_on_also_where_it_is_interrupted_and_scored(
        shared_pairs: Path, tmp_path: Path) -> None:
    """Evaluations look at the network in eval mode and leave its parts in the mode they were in."""
    recipe = recipe_of(shared_pairs)
    train(recipe, tmp_path / "through", Silent())
    train_until(recipe, tmp_path / "stopped", 14)
    train(recipe, tmp_path / "stopped", Silent(), resume=True)
    assert final_state(tmp_path / "through") == final_state(tmp_path / "stopped")

    def statistics(images: int) -> dict[str, Tensor]:
        tensors = read_tensors(tmp_path / "through" / "checkpoints" / f"{images:012}" / "generator_ab.safetensors")
        return {name: value for name, value in tensors.items() if "running" in name}

    early, middle, late = (statistics(images) for images in (4, 8, 16))
    assert middle and all(torch.equal(value, late[name]) for name, value in middle.items())
    assert not any(torch.equal(value, early[name]) for name, value in middle.items())


LEVEL = "no statistics of the level that this stage adds have been counted; set it in a later one"


@pytest.mark.parametrize(("generator", "number", "changes", "words"), [
    (NONE, 1, {}, "stages.1.hold_statistics: translator.generator has no batch norm; leave it out"),
    (NORM, 0, {}, "stages.0.hold_statistics: no statistics have been counted before the first stage; set it in a"),
    (NORM, 1, {"levels": 1, "resolution": 64}, f"stages.1.hold_statistics: {LEVEL}"),
    (NORM, 0, {"levels": 1, "fade": True}, f"stages.0.hold_statistics: {LEVEL}")])
def test_what_cannot_be_held_is_named(generator: dict[str, object], number: int, changes: dict[str, object],
                                      words: str, tmp_path: Path) -> None:
    both = stages(False)
    both[number] |= {"hold_statistics": True} | changes
    start = {"start": str(tmp_path)} if changes.get("fade") else {}
    with pytest.raises(UsageError, match=words):
        pix2pix_recipe(tmp_path, stages=both, translator={"kind": "pix2pix", "generator": generator}, **start)


def test_a_start_with_fewer_levels_than_a_first_stage_that_holds_statistics_is_refused(tmp_path: Path) -> None:
    first = {"resolution": 64, "images": 8, "batch_size": 2, "levels": 1, "hold_statistics": True}
    recipe = pix2pix_recipe(tmp_path, stages=[first], translator={"kind": "pix2pix", "generator": NORM},
                            start=str(tmp_path))
    translator = recipe.translator.build(3, 3)
    source = Source("a run", {"generator_ab": dict(translator.generator_ab.state_dict())}, {}, levels=0)
    with pytest.raises(UsageError, match="0 levels, and no statistics of those that the first stage adds have been"):
        take_over(source, translator, recipe, Progress())


@pytest.mark.parametrize("kind", [*members(GeneratorConfig), *members(LatentGeneratorConfig)],
                         ids=lambda kind: kind.__name__)
def test_a_generators_config_knows_whether_there_is_batch_norm_in_what_it_builds(kind: Any) -> None:
    choices: list[dict[str, object]] = [{"norm": norm} for norm in ("batch", "none")]
    for changes in [*choices, {"norm": "batch", "widths": [9]}] if "norm" in kind.model_fields else [{}]:
        config = kind(**{name: value for name, value in changes.items() if name in kind.model_fields})
        with torch.device("meta"):
            assert has_batch_norm(config.build(3, 3)) == config.has_batch_norm
