"""Growing is seamless, is trained and remembered like the rest, and leaves nothing behind."""

from __future__ import annotations

import copy
import functools
import gc
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.bounds import RoundingBound
from tests.covering import each_value
from tests.networks import DISCRIMINATORS, GENERATORS, SMALL, randomise
from tests.runs import (
    GROWTH,
    UNSEEN,
    Silent,
    final_state,
    growing_cyclegan_recipe,
    growing_recipe,
    pix2pix_recipe,
    train_until,
)
from tests.steps import known, make_batch, step, strengthen, worst_error
from translate import tiling
from translate.data import held_out
from translate.data.scale import Fitting
from translate.errors import RecipeError, RunError
from translate.evaluation.heldout import Evaluator, Scored
from translate.losses import R1, NonSaturating, RelativisticAverage, feature_matching, over_scales
from translate.metrics.intervals import Estimate
from translate.networks import PatchGANConfig, ResNetConfig, UNetConfig, memory
from translate.networks.discriminators import Discriminator
from translate.networks.dropout import seed_dropout
from translate.networks.growing import Fading, Growable, add_level, extend, fade_in
from translate.networks.recomputing import recomputing, starting_point
from translate.optimizers import Adam, follow
from translate.recipe import Recipe, Stage
from translate.runs.checkpoint import checkpoint_at
from translate.runs.folder import RunFolder
from translate.runs.release import load_release
from translate.tiling import Settings
from translate.training.built import parameters_of
from translate.training.loop import Run, train
from translate.training.plan import predict
from translate.training.processes import make_accelerator
from translate.translators import CycleGANConfig, Pix2PixConfig, Translator
from translate.translators.translator import together

GROWING = [config for config in GENERATORS + DISCRIMINATORS if issubclass(config, Growable)]
FADING = [config for config in GROWING if config.fades]
SMALL = SMALL | {UNetConfig: {"width": 4, "downs": 4}}  # two levels more, and 64 px need no padding
VARIANTS = {
    **{f"{config.__name__}-{norm}": (config, {"norm": norm}) for config in FADING
       for norm in ("instance", "batch", "none")},
    **{f"{config.__name__}-resize": (config, {"upsample": "resize"}) for config in FADING if config in GENERATORS},
    "ResNetConfig-antialiased": (ResNetConfig, {"downsample": "antialiased"}),
    "PatchGANConfig-spectral": (PatchGANConfig, {"spectral": True}),
}


def make(variant: str) -> tuple[Any, Any]:
    """A small config of a variant, and what it builds: float64, with weights large enough to matter."""
    config, changes = VARIANTS[variant]
    configured = config(**(SMALL[config] | changes))
    torch.manual_seed(0)
    network = configured.build(3, 3) if config in GENERATORS else configured.build(3)
    return configured, network.double() if changes.get("spectral") else randomise(network)


def downsampled(image: Tensor) -> Tensor:
    """Means of 2×2 pixels, without the function under test."""
    return image.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5))


def upsampled(image: Tensor) -> Tensor:
    return image.repeat_interleave(2, 2).repeat_interleave(2, 3)


def random_images() -> Tensor:
    """Sides that no small network need pad, with two levels more than it has."""
    return torch.randn(2, 3, 64, 64, dtype=torch.float64)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_level_that_has_not_begun_to_fade_in_changes_nothing(variant: str, training: bool) -> None:
    """At α = 0 a generator is: halve, translate as before, double; a discriminator: halve, judge as before."""
    config, network = make(variant)
    image = random_images()
    for level in (1, 2):
        network.train(training)
        start = starting_point(network)
        seed_dropout([network], (5,))
        with torch.no_grad(), recomputing(start):
            before = network(downsampled(image))
        add_level(config, network)
        network.train(training)
        seed_dropout([network], (5,))
        fade_in(network, 0.0)
        with torch.no_grad(), recomputing(starting_point(network)):
            after = network(image)
        assert network.levels == level
        expected = upsampled(before) if type(config) in GENERATORS else before
        assert (after - expected).abs().max() <= 1e-6 * max(1.0, before.abs().max().item())
        fade_in(network, 1.0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_reach_a_level_as_soon_as_it_fades_in_and_the_old_ends_until_it_is_in(variant: str) -> None:
    config, network = make(variant)
    inside = list(network.parameters())
    add_level(config, network)
    fresh = [parameter for part in network.newest() for parameter in part.parameters()]
    ends = [parameter for part in network.modules() if isinstance(part, Fading) for name, parameter
            in part.named_parameters() if name.startswith(("old", "down", "up"))]  # of what is replaced
    old = [parameter for parameter in inside if all(parameter is not each for each in fresh)]
    assert len(fresh) + len(inside) == len(list(network.parameters()))
    for alpha, new_moves, old_moves in ((0.0, False, True), (0.3, True, True), (1.0, True, False)):
        fade_in(network, alpha)
        network.zero_grad()
        network(random_images()).square().mean().backward()
        weights = [parameter for parameter in fresh if parameter.ndim == 4]
        assert all(bool(parameter.grad.abs().max() > 0) == new_moves for parameter in weights)
        assert ends and all(bool(parameter.grad.abs().max() > 0) == (old_moves or all(parameter is not end
                                                                                         for end in ends))
                            for parameter in old if parameter.ndim == 4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_level_that_is_in_leaves_nothing_of_what_it_replaced(variant: str) -> None:
    """At α = 1 the old ends do nothing; once dropped they are not in memory any more."""
    config, network = make(variant)
    before = sum(parameter.numel() for parameter in network.parameters())
    add_level(config, network)
    fade_in(network, 1.0)
    network.train()
    start, image = starting_point(network), random_images()
    with torch.no_grad(), recomputing(start):
        mixed = network(image)
    del start  # it holds modules
    everything = {id(parameter): weakref.ref(parameter) for parameter in network.parameters()}
    network.drop_faded()
    gc.collect()
    left = {id(parameter) for parameter in network.parameters()}
    gone = [reference for key, reference in everything.items() if key not in left]
    assert gone and all(reference() is None for reference in gone)
    with torch.no_grad():
        assert (network(image) - mixed).abs().max() <= 1e-12
    assert sum(parameter.numel() for parameter in network.parameters()) < before + sum(
        parameter.numel() for part in network.newest() for parameter in part.parameters())


@pytest.mark.parametrize("config", FADING, ids=lambda config: config.__name__)
def test_a_grown_network_is_the_larger_network_of_its_kind(config: type) -> None:
    """It has as many layers as one that was built larger, and takes images of any size."""
    configured = config(**SMALL[config])
    network = configured.build(3, 2) if config in GENERATORS else configured.build(3)
    convolutions = [part for part in network.modules() if isinstance(part, nn.Conv2d | nn.ConvTranspose2d)]
    extend(configured, network, 2, fading=False)
    grown = [part for part in network.modules() if isinstance(part, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(grown) == len(convolutions) + (4 if config in GENERATORS else 2)
    if config in GENERATORS:
        for size in [(1, 1), (33, 70), (64, 96)]:
            out = network(torch.randn(2, 3, *size))
            assert out.shape == (2, 2, *size) and out.isfinite().all()


PYRAMID = PatchGANConfig(width=4, layers=1, scales=2)


def grown_pyramid(alpha: float) -> tuple[Any, Any]:
    """A pyramid, and the same with one more discriminator for twice the size, so far faded in."""
    torch.manual_seed(0)
    before = randomise(PYRAMID.build(3))
    after = copy.deepcopy(before)
    add_level(PYRAMID, after)
    randomise(after.judges[0])
    fade_in(after, alpha)
    return before, after


def losses_of(judge: Any, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """Everything that a translator asks of a discriminator."""
    apart, penalty = NonSaturating(), R1()
    return {"discriminator": over_scales(apart.discriminator_loss, judge(real), judge(fake)),
            "generator": over_scales(apart.generator_loss, judge(fake)),
            "relativistic": over_scales(RelativisticAverage().generator_loss, judge(fake), judge(real)),
            "features": feature_matching(judge.features(fake), judge.features(real)),
            "penalty": penalty(Discriminator("discriminator_b", judge), real, fake, torch.zeros(2))}


@pytest.mark.parametrize("name", ["discriminator", "generator", "relativistic", "features"])
def test_a_pyramid_says_and_teaches_at_first_what_it_did_of_images_of_half_the_size(name: str) -> None:
    """At α = 0 every loss, its gradients in the weights inside and in what is judged; and nothing in the newest."""
    before, after = grown_pyramid(0.0)
    small = [torch.randn(2, 3, 64, 48, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    large = [upsampled(image).detach().requires_grad_() for image in small]
    expected, found = losses_of(before, *small)[name], losses_of(after, *large)[name]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    expected.backward(), found.backward()
    inside = dict(zip(before.judges, list(after.judges)[1:], strict=True))
    for old, new in inside.items():
        for mine, other in zip(new.parameters(), old.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-9, atol=1e-12)
    for mine, other in zip(large, small, strict=True):
        if other.grad is not None:
            torch.testing.assert_close(downsampled(mine.grad) * 4, other.grad, rtol=1e-9, atol=1e-12)
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in after.judges[0].parameters())


def test_a_pyramids_newest_counts_as_far_as_it_has_faded_in_and_in_the_end_as_all_do() -> None:
    real, fake = (torch.randn(2, 3, 65, 48, dtype=torch.float64) for _ in range(2))
    _, settled = grown_pyramid(1.0)
    settled.drop_faded()
    found = {alpha: losses_of(grown_pyramid(alpha)[1], real, fake) for alpha in (0.3, 1.0)}
    for name, value in losses_of(settled, real, fake).items():
        torch.testing.assert_close(found[1.0][name], value, rtol=1e-12, atol=0)
        assert not torch.isclose(found[0.3][name], value, rtol=1e-6)
    judge = grown_pyramid(0.3)[1]
    over_scales(NonSaturating().generator_loss, judge(fake)).backward()
    assert all(parameter.grad.any() for parameter in judge.judges[0].parameters() if parameter.ndim == 4)


def test_nobody_hears_of_the_game_from_a_discriminator_that_is_still_fading_in() -> None:
    before, after = grown_pyramid(0.4)
    image = torch.randn(2, 3, 64, 48, dtype=torch.float64)
    said = together(after(image))
    assert torch.equal(said, torch.cat([scale.flatten(1) for scale in after(image)[1:]], dim=1))
    assert said.shape == together(before(downsampled(image))).shape
    after.drop_faded()
    assert together(after(image)).shape[1] > said.shape[1]


@pytest.mark.parametrize("config", [PatchGANConfig(width=4, layers=2), PYRAMID], ids=["one", "pyramid"])
def test_the_distance_of_features_has_no_seam_where_a_level_comes_or_settles(config: PatchGANConfig) -> None:
    torch.manual_seed(0)
    judge = randomise(config.build(3))
    real, fake = (upsampled(torch.randn(2, 3, 32, 24, dtype=torch.float64)) for _ in range(2))

    def distance(of: Any) -> Tensor:
        return feature_matching(judge.features(of(fake)), judge.features(of(real)))

    before = distance(downsampled)
    add_level(config, judge)
    for part in judge.newest():
        randomise(part)
    fade_in(judge, 0.0)
    torch.testing.assert_close(distance(lambda image: image), before, rtol=1e-9, atol=0)
    fade_in(judge, 1.0)
    faded = distance(lambda image: image)
    judge.drop_faded()
    torch.testing.assert_close(distance(lambda image: image), faded, rtol=1e-12, atol=0)
    assert not torch.isclose(faded, before)


GROWN: dict[str, tuple[Any, dict[str, Any]]] = {
    "pix2pix-pyramid-fading": (Pix2PixConfig(generator=ResNetConfig(width=4, blocks=1), discriminator=PYRAMID,
                                             weights={"features": 3.0}, penalty={"kind": "r1"}),
                               {"levels": 1, "fade": True})}
for generator in (config for config in FADING if config in GENERATORS):
    for kind, config_of, norm in (("cyclegan", CycleGANConfig, "instance"), ("pix2pix", Pix2PixConfig, "batch")):
        config = config_of(generator=generator(**SMALL[generator], norm=norm),
                           discriminator=PatchGANConfig(width=4, layers=1),
                           **({"pool": 0} if kind == "cyclegan" else {}))
        GROWN |= {f"{kind}-{generator.__name__}-{name}": (config, shape) for name, shape in (
            ("fading", {"levels": 1, "fade": True}), ("settled", {"levels": 2}),
            ("alone", {"levels": 1, "freeze": True}))}


def build_grown(name: str) -> Translator:
    """A translator in the shape of a stage, half faded in where it fades, at ten times the published weights."""
    config, shape = GROWN[name]
    torch.manual_seed(0)
    translator: Translator = config.build(3, 3, 0)
    translator.to(torch.device("cpu"), torch.float64)
    translator.take_shape(Stage(resolution=64, images=1, **shape))
    translator.fade_in(0.4)
    return strengthen(translator)


def size_for(name: str) -> tuple[int, int]:
    """Small, and no sides that a network must pad: a U-Net with all its levels takes multiples of 64 px."""
    return (64, 64) if "UNet" in name else (32, 48)


@functools.cache
def textbook(name: str) -> tuple[dict[str, Tensor], RoundingBound]:
    """The gradients of the plan `plain`, and their bound."""
    def plain() -> dict[str, Tensor]:
        translator = build_grown(name)
        step(translator, make_batch(size_for(name), 2), "plain")
        return known(translator)

    expected = plain()
    return expected, RoundingBound(expected, plain)


@each_value(share=15, name=list(GROWN), plan=[plan for plan in memory.PLANS if plan != "plain"])
def test_every_plan_gives_the_gradients_of_the_textbook_step(name: str, plan: str) -> None:
    translator = build_grown(name)
    step(translator, make_batch(size_for(name), 2), plan)
    found, (expected, bound) = known(translator), textbook(name)
    assert found.keys() == expected.keys()
    assert worst_error(found, expected) <= bound


@pytest.mark.parametrize("name", [name for name in GROWN if name.endswith("alone")])
def test_a_level_that_is_trained_alone_leaves_the_generators_inside_as_they_are(name: str) -> None:
    translator = build_grown(name)
    found, _ = textbook(name)
    for network in translator.phases["generator"]:
        mine = translator.networks[network]
        fresh = {id(parameter) for part in mine.newest() for parameter in part.parameters()}
        for parameter, value in mine.named_parameters():
            assert (f"{network}.{parameter}" in found) == (id(value) in fresh) == value.requires_grad
    translator.take_shape(Stage(resolution=64, images=1, levels=1))
    assert all(parameter.requires_grad for network in translator.networks.values()
               for parameter in network.parameters())


@each_value(share=10, variant=[variant for variant in VARIANTS if VARIANTS[variant][0] in GENERATORS],
            fading=[True, False], size=[(70, 34), (96, 17)],
            settings={"a row": Settings(1, 16.0), "least": Settings(7, 0.0), "whole": Settings(999, float("inf"))})
def test_a_grown_generator_in_strips_gives_the_whole_images_output(
        variant: str, fading: bool, size: tuple[int, int], settings: Settings) -> None:
    config, network = make(variant)
    extend(config, network, 1, fading)
    fade_in(network, 0.4)
    network.eval()
    image = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        truth = network(image)
    found = tiling.apply(network, image, settings=settings)
    assert (found - truth).abs().max() <= 1e-10 * truth.abs().max()


def growing_unet_recipe(data: Path, stages: Sequence[dict[str, Any]] = GROWTH) -> Recipe:
    """With batch norm, dropout, an average, and a spectral norm in what grows of the discriminator."""
    return pix2pix_recipe(data, stages=stages, every=UNSEEN, translator={
        "kind": "pix2pix", "generator": {"kind": "unet", "width": 2, "downs": 4}, "ema": 0.9,
        "discriminator": {"kind": "patchgan", "width": 2, "layers": 1, "spectral": True}})


def growing_pyramid_recipe(data: Path) -> Recipe:
    """With all that looks at what a pyramid says: features, a penalty, and an average."""
    return pix2pix_recipe(data, stages=[GROWTH[0] | {"images": 4}, GROWTH[1]], every=UNSEEN, translator={
        "kind": "pix2pix", "generator": {"kind": "resnet", "width": 2, "blocks": 1}, "ema": 0.9, "orthogonal": 0.01,
        "discriminator": {"kind": "patchgan", "width": 2, "layers": 1, "scales": 2}, "weights": {"features": 3.0},
        "penalty": {"kind": "r1"}})


def test_a_run_whose_pyramid_grows_resumes_bit_identically_in_the_middle_of_a_fade(shared_pairs: Path, tmp_path: Path
                                                                                   ) -> None:
    recipe = growing_pyramid_recipe(shared_pairs)
    train(recipe, tmp_path / "whole", Silent())
    train_until(recipe, tmp_path / "broken", 8)
    train(recipe, tmp_path / "broken", Silent(), resume=True)
    assert final_state(tmp_path / "broken") == final_state(tmp_path / "whole")


def test_a_last_stage_that_fades_cannot_be_made_longer(shared_pairs: Path, tmp_path: Path) -> None:
    """Its share follows from how many images it has: it would jump back."""
    train(growing_recipe(shared_pairs, stages=GROWTH[:2], every=UNSEEN), tmp_path / "run", Silent())
    longer = [GROWTH[0], GROWTH[1] | {"images": 16}]
    with pytest.raises(RunError, match=r"stages.1.images: 8 → 16"):
        train(growing_recipe(shared_pairs, stages=longer, every=UNSEEN), tmp_path / "run", Silent(), resume=True)
    train(growing_recipe(shared_pairs, stages=GROWTH[:3], every=UNSEEN), tmp_path / "run", Silent(), resume=True)


INSTANTS = [8, 10, 14, 16, 20, 26]  # at the end of a stage, in the middle of a fade, after one, in that of a second


def growing_unet_recipe_until_a_level_is_in(data: Path) -> Recipe:
    return growing_unet_recipe(data, GROWTH[:3])


@pytest.mark.parametrize(("recipe_of", "at"), [
    (growing_unet_recipe_until_a_level_is_in, 14), *(
        pytest.param(recipe_of, at, marks=pytest.mark.slow)
        for recipe_of in (growing_cyclegan_recipe, growing_unet_recipe) for at in INSTANTS)])
def test_a_run_that_grows_resumes_bit_identically(recipe_of: Any, at: int, shared_pairs: Path, tmp_path: Path,
                                                  trained: Callable[[Recipe], Path]) -> None:
    recipe = recipe_of(shared_pairs)
    train_until(recipe, tmp_path / "broken", at)
    train(recipe, tmp_path / "broken", Silent(), resume=True)
    assert final_state(tmp_path / "broken") == final_state(trained(recipe))


def whole(translator: Translator) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for name, module in translator.modules.items()
            for key, value in module.state_dict().items()}


@pytest.mark.slow
def test_a_restore_that_forgets_how_far_a_level_has_faded_in_is_caught(shared_pairs: Path, tmp_path: Path,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof that the comparison above can fail: a fade that begins again ends in another state."""
    recipe = growing_recipe(shared_pairs, every={"log": 4, "sample": 8, "checkpoint": 2}, stages=GROWTH[:2])
    train(recipe, tmp_path / "whole", Silent())
    train_until(recipe, tmp_path / "broken", 12)
    fade = Translator.fade_in
    monkeypatch.setattr(Translator, "fade_in", lambda self, share: fade(self, max(share - 0.5, 0.0)))
    train(recipe, tmp_path / "broken", Silent(), resume=True)
    assert final_state(tmp_path / "broken") != final_state(tmp_path / "whole")


def test_an_optimizer_goes_on_with_what_it_knows_and_forgets_what_is_gone() -> None:
    torch.manual_seed(0)
    translator = CycleGANConfig(generator=ResNetConfig(width=4, blocks=1), discriminator=PatchGANConfig(
        width=4, layers=1), pool=0).build(3, 3)
    held = Adam().build(parameters_of(translator, "generator"))
    for parameter in parameters_of(translator, "generator"):
        parameter.grad = torch.ones_like(parameter)
    held.step()
    inner = translator.generator_ab.trunk[0].chain[0].conv.weight
    moment, old = held.state[inner]["exp_avg"], translator.generator_ab.head[0].conv.weight
    for stage in ({"levels": 1, "fade": True}, {"levels": 1}):
        translator.take_shape(Stage(resolution=32, images=1, **stage))
        follow(held, parameters_of(translator, "generator"))
        assert held.state[inner]["exp_avg"] is moment
        assert [id(each) for each in held.param_groups[0]["params"]] == [
            id(each) for each in parameters_of(translator, "generator")]
        assert (old in held.state) == bool(stage.get("fade"))
    fresh = translator.generator_ab.head[0].conv.weight
    assert fresh not in held.state
    for parameter in parameters_of(translator, "generator"):
        parameter.grad = torch.ones_like(parameter)
    before = fresh.clone()
    held.step()
    assert not torch.equal(before, fresh) and fresh in held.state


@pytest.mark.parametrize("generator", [config for config in FADING if config in GENERATORS],
                         ids=lambda config: config.__name__)
def test_an_average_starts_a_level_from_its_networks_weights_and_keeps_its_own_inside(generator: type) -> None:
    torch.manual_seed(0)
    translator = Pix2PixConfig(generator=generator(**SMALL[generator], norm="instance"), ema=0.5).build(3, 3)
    network, average = translator.generator_ab, translator.ema_generators["generator_ab"]
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.add_(1.0)
    mean = {id(parameter): (parameter, parameter.clone()) for parameter in average.parameters()}
    translator.take_shape(Stage(resolution=256, images=1, levels=1, fade=True))
    for mine, own in zip(network.newest(), average.newest(), strict=True):
        torch.testing.assert_close(own.state_dict(), mine.state_dict(), rtol=0, atol=0)
    assert not any(parameter.requires_grad for parameter in average.parameters()) and not average.training
    now = {id(parameter) for parameter in average.parameters()}
    assert mean.keys() <= now and all(torch.equal(*both) for both in mean.values())
    translator.update_ema(1, 0)
    translator.take_shape(Stage(resolution=256, images=1, levels=1))
    assert average.state_dict().keys() == network.state_dict().keys()


@pytest.mark.parametrize("at", [12, 20, pytest.param(26, marks=pytest.mark.slow)])
def test_a_model_is_read_in_the_shape_and_the_fade_of_its_checkpoint(at: int, shared_pairs: Path, tmp_path: Path
                                                                     ) -> None:
    """In the middle of a fade, after it, and in a second one: as the run itself would translate."""
    recipe = growing_unet_recipe(shared_pairs) if at > 20 else growing_unet_recipe_until_a_level_is_in(shared_pairs)
    train_until(recipe, tmp_path / "run", at)
    held = Run(recipe, RunFolder(tmp_path / "run"), make_accelerator(recipe, tmp_path / "run"), Silent())
    held.restore()
    assert held.progress.images == at // 4 * 4
    release = load_release(tmp_path / "run")
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        expected = held.translator.generator("ab").eval()(image)
        assert torch.equal(release.generator(image), expected)
        fade_in(release.generator, 0.9)
        faded = [part for part in release.generator.modules() if isinstance(part, Fading)]
        assert bool(faded) == recipe.stages[held.progress.stage].fade
        assert torch.equal(release.generator(image), expected) != bool(faded)


def test_a_finished_run_gives_away_what_it_ended_with_and_said_how_far_a_level_had_faded_in(
        shared_pairs: Path, tmp_path: Path) -> None:
    """Also where the last stage fades in a level: by then it is all there."""
    seen: dict[int, str] = {}

    class Listening(Silent):
        def progress(self, images: int, total: int, stage: str, losses: dict[str, float],
                     seconds_left: float | None = None, stage_number: int = 0) -> None:
            seen[images] = stage

    train(growing_recipe(shared_pairs), tmp_path / "run", report := Listening())
    assert seen[8] == "stage 1/4" and seen[12] == "stage 2/4, level 1 α 0.50" and seen[20] == "stage 3/4"
    from_run, given_away = load_release(tmp_path / "run"), load_release(tmp_path / "run" / "release")
    assert from_run.fingerprint == given_away.fingerprint and given_away.generator.levels == 2
    assert all(part.alpha == 1.0 for part in given_away.generator.modules() if isinstance(part, Fading))
    assert any("32×32 px, level 1 fading in, 8 images" in line for line in report.lines)


def test_a_run_can_go_back_to_before_a_level_came(shared_pairs: Path, tmp_path: Path) -> None:
    """As the guard's rollbacks do; and forward again."""
    recipe = growing_recipe(shared_pairs, keep_checkpoints=9)
    train_until(recipe, tmp_path / "run", 20)
    held = Run(recipe, RunFolder(tmp_path / "run"), make_accelerator(recipe, tmp_path / "run"), Silent())
    held.restore()
    there = {name: value.clone() for name, value in whole(held.translator).items()}
    for images, levels in ((8, 0), (12, 1), (4, 0), (20, 1)):
        held.load(checkpoint_at(tmp_path / "run" / "checkpoints", images))
        assert held.translator.generator_ab.levels == levels and held.progress.images == images
        for phase, optimizer in held.optimizers.items():
            assert [id(each) for each in optimizer.param_groups[0]["params"]] == [
                id(each) for each in parameters_of(held.translator, phase)]
            assert optimizer is held.state.optimizers[phase]
    torch.testing.assert_close(whole(held.translator), there, rtol=0, atol=0)


def test_no_network_that_has_not_all_its_levels_is_the_best_or_costs_patience(
        shared_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores are of test images at their full size. The best is given away in the shape it had, here half faded in."""
    scores = iter([0.5, 0.4, 0.3, 0.2, 0.1])

    def score(self: Any, *arguments: Any) -> Scored:
        return Scored({"ssim": Estimate(next(scores))}, 6, 72, {}, "")

    monkeypatch.setattr(Evaluator, "__call__", score)
    recipe = growing_recipe(shared_pairs, every={"log": 4, "sample": 28, "checkpoint": 4, "evaluate": 6},
                            evaluate={"patience": 2, "metric": "ssim"})
    train(recipe, tmp_path / "run", Silent())
    best = load_release(tmp_path / "run" / "best")
    assert best.weights is not None and best.weights.name.lstrip("0") == "24" and best.generator.levels == 2
    assert "2 of 2 levels, the newest faded in to α = 0.50" in best.growth
    release = load_release(tmp_path / "run" / "release")
    assert release.fingerprint == best.fingerprint and release.growth == best.growth


def test_what_was_the_best_before_a_level_was_added_is_so_no_more(shared_pairs: Path, tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.5, 0.4, 0.3])

    def score(self: Any, *arguments: Any) -> Scored:
        return Scored({"ssim": Estimate(next(scores))}, 6, 72, {}, "")

    monkeypatch.setattr(Evaluator, "__call__", score)
    options = {"every": {"log": 4, "sample": 28, "checkpoint": 4, "evaluate": 8}, "evaluate": {"metric": "ssim"}}
    train(growing_recipe(shared_pairs, stages=GROWTH[:1], **options), tmp_path / "run", Silent())
    assert load_release(tmp_path / "run" / "best").generator.levels == 0
    train(growing_recipe(shared_pairs, stages=GROWTH[:2], **options), tmp_path / "run", Silent(), resume=True)
    best = load_release(tmp_path / "run" / "best")
    assert best.generator.levels == 1 and best.growth == ""


def test_the_samples_show_the_same_images_in_every_stage(shared_pairs: Path, tmp_path: Path) -> None:
    """What the held-out inputs show at 16 px is what they show at 64, shrunk."""
    recipe = growing_recipe(shared_pairs)
    shown = [held_out(recipe.data, Path(), 4, Fitting(stage.size[0], stage.size)) for stage in recipe.stages]
    for stage, samples in zip(recipe.stages, shown, strict=True):
        small, large = (torch.cat([torch.nn.functional.interpolate(sample.a[None], (8, 8), mode="area")
                                   for sample in each]) for each in (samples, shown[-1]))
        closeness = [[(mine - other).abs().mean().item() for other in large] for mine in small]
        assert all(min(row) == row[number] < 0.12 for number, row in enumerate(closeness)), stage.size


def test_a_plan_counts_a_fade_and_a_frozen_inside(shared_pairs: Path) -> None:
    recipe = growing_recipe(shared_pairs)

    def peak(**shape: Any) -> int:
        return predict(recipe, Stage(resolution=256, images=1, **shape), memory.PLANS["split"], "fp32").peak_bytes

    assert peak(levels=1, fade=True) > peak(levels=1) > peak(levels=1, freeze=True)
    assert peak(levels=2) < peak(levels=1) < peak()


@pytest.mark.parametrize(("stages", "complaint"), [
    ([{"levels": 1}, {"levels": 3}], "stages.1.levels: 3 after 1; .* use 1 or 2"),
    ([{"levels": 1}, {}], "stages.1.levels: 0 after 1"),
    ([{"levels": 1, "fade": True}], "stages.0.fade: there is nothing to fade"),
    ([{"levels": 1}, {"levels": 1, "fade": True}], "stages.1.fade: there is nothing to fade"),
    ([{"freeze": True}], "stages.0.freeze: there is no level to train alone"),
    ([{}, {"levels": 1}], "stages.1.resolution: 32 px is too small for one level more .*, of 32 px; .* use about 64"),
    ([{"levels": 3}], "stages.0.resolution: 32 px is less than the 48 px that the .* can judge with 3 levels")])
def test_stages_that_cannot_be_are_refused_by_name(stages: list[dict[str, Any]], complaint: str,
                                                   shared_pairs: Path) -> None:
    with pytest.raises(RecipeError, match=complaint):
        growing_recipe(shared_pairs, stages=[{"resolution": 32, "images": 2, "batch_size": 2} | stage
                                             for stage in stages])


def test_networks_and_translators_that_cannot_grow_are_named(shared_pairs: Path) -> None:
    stages = [{"resolution": 32, "images": 2, "batch_size": 2, "levels": 1}]
    with pytest.raises(RecipeError, match=r"stages.0.levels: translator.kind: cut cannot gain levels"):
        growing_recipe(shared_pairs, stages=stages, translator={"kind": "cut"})
    with pytest.raises(RecipeError, match=r"stages.0.levels: generator.image_skip: 4 cannot gain levels"):
        growing_recipe(shared_pairs, stages=stages, translator={
            "kind": "pix2pix", "generator": {"kind": "unet", "width": 2, "downs": 4, "image_skip": 4}})


@pytest.mark.parametrize("name", [name for name in GROWN if name.endswith("fading")])
def test_a_stage_that_is_entered_twice_is_as_it_was(name: str) -> None:
    """A resumed run enters the stage it is in, and must change nothing."""
    translator = build_grown(name)
    before = {name: value.clone() for name, value in whole(translator).items()}
    translator.take_shape(Stage(resolution=64, images=1, levels=1, fade=True))
    torch.testing.assert_close(whole(translator), before, rtol=0, atol=0)
