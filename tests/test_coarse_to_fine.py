"""pix2pixHD's generator: as published, trained in its three stages under every memory plan, resumed and given away."""

from __future__ import annotations

import functools
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.bounds import RoundingBound
from tests.covering import each_value
from tests.networks import randomise
from tests.runs import Silent, cyclegan_recipe, final_state, pix2pix_recipe, train_until
from tests.steps import known, make_batch, step, strengthen, worst_error
from translate import tiling
from translate.errors import RecipeError
from translate.networks import CoarseToFineConfig, PatchGANConfig, memory
from translate.networks.discriminators import Pyramid
from translate.networks.growing import add_level
from translate.recipe import Recipe, Stage, find_recipe, load_recipe
from translate.runs.release import load_release
from translate.tiling import Settings
from translate.training.loop import Run, train
from translate.training.plan import budget_of, choose
from translate.translators import CycleGANConfig, Pix2PixConfig, Translator

SMALL: dict[str, Any] = {"width": 4, "blocks": 1, "downs": 2, "fine_blocks": 1}


def grown(levels: int, in_channels: int = 3, **options: Any) -> Any:
    config = CoarseToFineConfig(**options)
    network = config.build(in_channels, 3)
    for _ in range(levels):
        add_level(config, network)
    return network


def convolution(before: int, after: int, kernel: int) -> int:
    """The weights and biases of one."""
    return before * after * kernel**2 + after


@pytest.mark.parametrize("in_channels", [3, 36], ids=["photographs", "cityscapes"])
def test_the_defaults_have_the_published_sizes(in_channels: int) -> None:
    """Layer by layer from the paper's appendix: c7s1-64,d128,d256,d512,d1024,R1024×9,u512,u256,u128,u64,c7s1-3, and
    c7s1-32,d64,R64×3,u32,c7s1-3 around it, in the place of its last layer."""
    widths = [64, 128, 256, 512, 1024]
    inside = (convolution(in_channels, 64, 7) + 9 * 2 * convolution(1024, 1024, 3)
              + sum(convolution(before, after, 3) for before, after in pairwise([*widths, *widths[-2::-1]])))
    enhancer = (convolution(in_channels, 32, 7) + convolution(32, 64, 3) + 3 * 2 * convolution(64, 64, 3)
                + convolution(64, 32, 3) + convolution(32, 3, 7))
    with torch.device("meta"):
        sizes = [sum(parameter.numel() for parameter in grown(levels, in_channels).parameters()) for levels in (0, 1)]
    assert sizes == [inside + convolution(64, 3, 7), inside + enhancer]
    if in_channels == 3:
        assert 2 * sizes[0] == pytest.approx(365e6, rel=0.001)


def plain(layer: Any, *, transposed: bool = False, reflect: int = 0, norm: bool = True) -> list[nn.Module]:
    """conv → norm → ReLU with a layer's own weights, as the paper writes it."""
    padding = [nn.ReflectionPad2d(reflect)] if reflect else []
    return [*padding, layer.conv, *([nn.InstanceNorm2d(layer.conv.out_channels), nn.ReLU()] if norm else [])]


class Residual(nn.Module):
    def __init__(self, block: Any):
        super().__init__()
        first, second = block.chain
        self.layers = nn.Sequential(*plain(first, reflect=1), *plain(second, reflect=1)[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def reference(network: Any) -> nn.Sequential:
    """A ResNet in the paper's order, c7s1 and d… | R… and u… | the last layer."""
    down = [part for number, layer in enumerate(network.head) for part in plain(layer, reflect=3 * (number == 0))]
    up = [part for layer in list(network.tail)[:-1] for part in plain(layer)]
    rest = nn.Sequential(*(Residual(block) for block in network.trunk), *up)
    last = nn.Sequential(nn.ReflectionPad2d(3), network.tail[-1].conv, nn.Tanh())
    return nn.Sequential(nn.Sequential(*down), rest, last)


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_the_generator_is_that_of_the_paper(levels: int) -> None:
    """Figure 3: what the global generator ends with is added to what the enhancer has after its downsampling."""
    torch.manual_seed(0)
    network = randomise(grown(levels, **SMALL | {"downs": 3}))
    image = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    sizes = [image]
    for _ in range(levels):
        sizes.append(F.avg_pool2d(sizes[-1], 3, 2, 1, count_include_pad=False))
    inside: Any = 0.0
    for part, seen in zip([network.coarse, *network.fine], reversed(sizes), strict=True):
        down, rest, last = reference(part)
        inside = rest(down(seen) + inside)
    torch.testing.assert_close(network(image), last(inside))


def test_a_width_that_cannot_be_halved_for_every_level_is_one_of_a_recipes_mistakes(shared_pairs: Path) -> None:
    generator = {"kind": "coarse_to_fine", "width": 6, "blocks": 0, "downs": 1}
    with pytest.raises(RecipeError, match=r"generator.width: 6 cannot be halved 2 times, once for each of "
                                          r"stages.2.levels; use a multiple of 4"):
        pix2pix_recipe(shared_pairs, translator={"kind": "pix2pix", "generator": generator}, stages=[
            {"resolution": 32, "images": 2, "levels": levels} for levels in (0, 1, 2)])


@each_value(share=8, levels=[1, 2], options={
    "": {}, "batch": {"norm": "batch"}, "attention": {"attention": True},
    "blurred": {"upsample": "bilinear", "downsample": "blurred"}, "antialiased": {"downsample": "antialiased"}},
    size=[(43, 26), (24, 33)],
    settings={"a row": Settings(1, 16.0), "least": Settings(7, 0.0), "whole": Settings(64, math.inf)})
def test_in_strips_it_gives_the_whole_images_output(levels: int, options: dict[str, Any], size: tuple[int, int],
                                                    settings: Settings) -> None:
    torch.manual_seed(0)
    network = randomise(grown(levels, **SMALL | options)).eval()
    if "attention" in options:
        nn.init.constant_(network.coarse.trunk[0].gamma, 0.5)
    image = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        truth = network(image)
    found = tiling.apply(network, image, settings=settings)
    assert (found - truth).abs().max() <= 1e-10 * truth.abs().max()


JUDGE = PatchGANConfig(width=4, layers=1, scales=2)
CONFIGS: dict[str, Any] = {
    "cyclegan": CycleGANConfig(generator=CoarseToFineConfig(**SMALL), discriminator=JUDGE, pool=0),
    "pix2pix": Pix2PixConfig(generator=CoarseToFineConfig(**SMALL), discriminator=JUDGE, weights={"features": 3.0}),
}
STAGES = {"global": Stage(images=1), "alone": Stage(images=1, levels=1, freeze=True),
          "joint": Stage(images=1, levels=1)}


def in_stage(kind: str, stage: str, **changes: Any) -> Translator:
    torch.manual_seed(0)
    translator: Translator = CONFIGS[kind].model_copy(update=changes).build(3, 3, 0)
    translator.to(torch.device("cpu"), torch.float64)
    translator.take_shape(STAGES[stage])
    return strengthen(translator)


@functools.cache
def textbook(kind: str, stage: str) -> tuple[dict[str, Tensor], RoundingBound]:
    """The gradients of the plan `plain`, and their bound."""
    def plain() -> dict[str, Tensor]:
        translator = in_stage(kind, stage)
        step(translator, make_batch((32, 48)), "plain")
        return known(translator)

    expected = plain()
    return expected, RoundingBound(expected, plain)


@each_value(share=9, kind=list(CONFIGS), stage=list(STAGES), plan=[plan for plan in memory.PLANS if plan != "plain"])
def test_every_plan_gives_the_gradients_of_the_textbook_step(kind: str, stage: str, plan: str) -> None:
    translator = in_stage(kind, stage)
    step(translator, make_batch((32, 48)), plan)
    found, (expected, bound) = known(translator), textbook(kind, stage)
    assert found.keys() == expected.keys()
    assert worst_error(found, expected) <= bound


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_global_generator_is_frozen_while_its_enhancer_is_trained_alone_and_trained_before_and_after(
        kind: str) -> None:
    for stage in STAGES:
        trained = {name.split(".")[1] for name in textbook(kind, stage)[0] if name.startswith("generator_ab")}
        assert trained == {"global": {"coarse"}, "alone": {"fine"}, "joint": {"coarse", "fine"}}[stage]
    weights = in_stage(kind, "joint").networks["generator_ab"].state_dict()
    assert not any(name.startswith("coarse.tail.2") for name in weights), "its last layer makes nothing any more"


def test_discriminators_keep_the_sizes_they_know_and_gain_one_for_the_full_size() -> None:
    translator = in_stage("pix2pix", "global")
    judge = translator.networks["discriminator_b"]
    assert isinstance(judge, Pyramid)
    before, image = list(judge.judges), torch.randn(1, 6, 64, 64, dtype=torch.float64)
    half = F.avg_pool2d(image, 3, 2, 1, count_include_pad=False)
    expected = judge(half)
    translator.take_shape(STAGES["alone"])
    assert len(judge.judges) == 3 and list(judge.judges)[1:] == before
    assert all(torch.equal(one, other) for one, other in zip(judge(image)[1:], expected, strict=True))


def coarse_cyclegan(data: Path) -> Recipe:
    """With an average, so that its level must follow; two steps a stage."""
    return cyclegan_recipe(data, stages=stages(32), translator={
        "kind": "cyclegan", "generator": {"kind": "coarse_to_fine", **SMALL}, "pool": 2, "ema": 0.9,
        "discriminator": {"kind": "patchgan", "width": 2, "layers": 1, "scales": 2}})


def coarse_pix2pix(data: Path, **changes: Any) -> Recipe:
    return pix2pix_recipe(data, stages=stages(32), **changes, translator={
        "kind": "pix2pix", "generator": {"kind": "coarse_to_fine", **SMALL, "norm": "batch", "spectral": True},
        "discriminator": {"kind": "patchgan", "width": 2, "layers": 1, "scales": 2, "spectral": True},
        "weights": {"features": 10.0, "l1": 0.0}})


def stages(size: int) -> list[dict[str, Any]]:
    return [{"resolution": size // 2, "images": 4, "batch_size": 2},
            {"resolution": size, "images": 4, "batch_size": 2, "levels": 1, "freeze": True},
            {"resolution": size, "images": 4, "batch_size": 2, "levels": 1}]


@pytest.mark.slow  # a growing network's resume is quick
@pytest.mark.parametrize(("recipe_of", "at"), [
    (recipe_of, at) for recipe_of in (coarse_cyclegan, coarse_pix2pix) for at in (4, 6, 8)])
def test_a_run_resumes_bit_identically_in_every_stage_and_gives_away_what_it_trained(
        recipe_of: Any, at: int, shared_pairs: Path, tmp_path: Path) -> None:
    recipe = recipe_of(shared_pairs).model_copy(update={"every": recipe_of(shared_pairs).every.model_copy(
        update={"checkpoint": 2})})
    train(recipe, tmp_path / "whole", Silent())
    train_until(recipe, tmp_path / "broken", at)
    train(recipe, tmp_path / "broken", Silent(), resume=True)
    assert final_state(tmp_path / "broken") == final_state(tmp_path / "whole")
    release = load_release(tmp_path / "whole")
    assert release.generator.levels == 1
    image = torch.randn(1, 3, 40, 48)
    assert torch.equal(release.generator(image), load_release(tmp_path / "whole" / "release").generator(image))


def test_while_the_enhancer_is_trained_alone_the_weights_inside_do_not_move(shared_pairs: Path, tmp_path: Path) -> None:
    """Not by the optimizer either, which knows their gradients of before."""
    seen: list[dict[str, Tensor]] = []

    class Watching(Silent):
        def progress(self, images: int, total: int, stage: str, losses: dict[str, float],
                     seconds_left: float | None = None, stage_number: int = 0) -> None:
            seen.append({name: value.clone() for name, value in runs[0].translator.networks[
                "generator_ab"].coarse.named_parameters()})

    runs: list[Any] = []
    build = Run.build

    def remembering(run: Any, *given: Any) -> None:
        build(run, *given)
        runs.append(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "build", remembering)
        recipe = coarse_pix2pix(shared_pairs, memory={"plan": "split"}, every={"sample": None, "evaluate": None})
        train(recipe, tmp_path / "run", Watching())
    first, second, frozen, still, thawed, last = seen
    for name in frozen:
        assert torch.equal(second[name], frozen[name]) and torch.equal(frozen[name], still[name]), name
    assert any(not torch.equal(still[name], thawed[name]) for name in frozen)
    assert any(not torch.equal(first[name], second[name]) for name in second) and last.keys() == thawed.keys()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "card", "overrides"), [
    ("maps_coarse_to_fine_2000", "8GB", []), ("monet2photo_coarse_to_fine_2000", "8GB", []),
    ("monet2photo_coarse_to_fine_2000", "16GB", ["translator.generator.width=64"]), ("cityscapes_hd", "8GB", [])])
def test_every_stage_fits_the_card_that_its_recipe_names(name: str, card: str, overrides: list[str]) -> None:
    recipe = load_recipe(find_recipe(name), overrides)
    for stage in recipe.stages:
        assert choose(recipe, stage, budget_of(card), "fp16") is not None
