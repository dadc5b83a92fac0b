"""A stage that holds the statistics of batch norm: networks learn as they will translate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.runs import Silent, final_state, pix2pix_recipe, train_until
from tests.steps import build, make_batch, step
from translate.errors import UsageError
from translate.recipe import Recipe, Stage
from translate.runs.manifest import read_tensors
from translate.training.loop import train
from translate.translators import Pix2PixConfig, Translator

NORM, NONE = ({"kind": "resnet", "width": 2, "blocks": 1, "norm": norm} for norm in ("batch", "none"))


def norms_of(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [each for each in network.modules() if isinstance(each, nn.BatchNorm2d)]


def held(plan: str) -> tuple[Translator, dict[str, Tensor]]:
    """A translator after a step with its statistics held, and its generator's gradients."""
    translator = build(Pix2PixConfig(generator=NORM, discriminator={"kind": "patchgan", "width": 2, "layers": 2,
                                                                    "norm": "batch"}))
    draw = torch.Generator().manual_seed(0)
    for norm in norms_of(translator.generator_ab):
        norm.running_mean.normal_(generator=draw)  # type: ignore[union-attr, operator]
        norm.running_var.uniform_(0.5, 2.0, generator=draw)  # type: ignore[union-attr, operator]
    translator.take_shape(Stage(images=1, hold_statistics=True))
    step(translator, make_batch((16, 16)), plan)
    return translator, {name: value.grad for name, value in translator.generator_ab.named_parameters()}


@pytest.mark.parametrize("plan", ["plain", "replay", "strips"])
def test_with_statistics_held_the_gradients_are_those_of_the_network_that_translates(plan: str) -> None:
    """Beside the step written out with the network in eval mode; the statistics stay what they were. Those of the
    discriminator, by which nobody translates, go on."""
    translator, found = held(plan)
    other = held("plain")[0]
    before = {name: value.clone() for name, value in other.generator_ab.named_buffers()}
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
        every={"log": 4, "sample": None, "checkpoint": 4, "evaluate": 12}, keep_checkpoints=4)


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


@pytest.mark.parametrize(("generator", "number", "words"), [
    (NONE, 1, "stages.1.hold_statistics: translator.generator has no batch norm; leave it out"),
    (NORM, 0, "stages.0.hold_statistics: no statistics have been counted before the first stage; set it in a later")])
def test_what_cannot_be_held_is_named(generator: dict[str, object], number: int, words: str, tmp_path: Path) -> None:
    both = stages(False)
    both[number]["hold_statistics"] = True
    with pytest.raises(UsageError, match=words):
        pix2pix_recipe(tmp_path, stages=both, translator={"kind": "pix2pix", "generator": generator})
