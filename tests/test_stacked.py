"""A stack of generators learns as its paper says, one part after the other, and is trained, stopped, planned and drawn
from as every other translator."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.bounds import RoundingBound, worst_error
from tests.covering import one_in
from tests.runs import Silent, final_state, train_until
from tests.steps import known, peak_of_real_step, step, strengthen
from tests.test_latent_networks import num_parameters
from tests.test_noise import batch_of
from tests.test_noise_training import told_by_the_guard, write_bars
from translate.foreign import read_lines
from translate.networks import DCGANConfig, PatchGANConfig
from translate.networks.latent.stacked import EncoderConfig, FeatureDiscriminatorConfig, FeatureGeneratorConfig
from translate.networks.memory import PLANS
from translate.optimizers import Optimizers
from translate.recipe import Recipe, Stage
from translate.runs.manifest import read_tensors
from translate.runs.release import load_generator
from translate.sampling.sampler import Sampler
from translate.schema import validate
from translate.training.loop import train
from translate.training.step_on_meta import Networks, StepOnMeta
from translate.translators import StackedConfig

SIDE, CLASSES = 16, 4
SMALL: dict[str, Any] = {
    "kind": "stacked", "encoder": {"width": 3, "features": 5}, "feature_generator": {"latent": 3, "widths": [6, 4]},
    "feature_discriminator": {"widths": [5, 4]},
    "generator": {"kind": "mlp", "side": SIDE, "widths": [8, 6], "latent": 4, "norm": "batch"},
    "discriminator": {"kind": "mlp", "side": SIDE, "widths": [6, 4]}}
ENCODER, UPPER, LOWER, BOTH = (Stage(resolution=SIDE, images=8, levels=levels, freeze=freeze) for levels, freeze in (
    (0, False), (1, True), (2, True), (2, False)))
OF_FEATURES = {"generator_ab.upper", "latents_h", "discriminator_h"}
OF_IMAGES = {"generator_ab.lower", "latents_b", "discriminator_b"}
LEARNING = {"encoder": (ENCODER, {"encoder"}), "upper": (UPPER, OF_FEATURES), "lower": (LOWER, OF_IMAGES),
            "both": (BOTH, OF_FEATURES | OF_IMAGES)}


def config_of(**changes: Any) -> StackedConfig:
    merged = {key: SMALL.get(key, {}) | value if isinstance(value, dict) and "kind" not in value else value
              for key, value in changes.items()}
    return validate(StackedConfig, SMALL | merged, "small")


def built(stage: Stage = BOTH, **changes: Any) -> Any:
    torch.manual_seed(0)
    translator = config_of(**changes).build(CLASSES, 1)
    translator.to(torch.device("cpu"), torch.float64)
    translator.take_shape(stage)
    return strengthen(translator)


def test_networks_have_the_sizes_of_the_authors_code() -> None:
    """Of `xunhuang1995/SGAN`, mnist/: the arrays of pretrained/encoder.npz have 160,362 numbers; G₁ and D₁ as its
    train_independent.py builds them, with a batch norm in place of biases, and D₁ without Q₁."""
    encoder, drawer, judge = EncoderConfig(), FeatureGeneratorConfig(), FeatureDiscriminatorConfig()
    assert num_parameters(encoder, 1, 28, 10) == 160_362
    assert num_parameters(drawer, 10, 256) == 60 * 512 + 512 * 512 + 2 * 2 * 512 + 512 * 256 + 256
    assert num_parameters(judge, 256) == 2 * (256 * 256 + 256) + 256 + 1


@pytest.mark.parametrize("name", LEARNING)
def test_a_stage_trains_what_it_says_and_nothing_else(name: str) -> None:
    """Weights that move are those; the encoder stays as it is while generators learn."""
    stage, wanted = LEARNING[name]
    translator = built(stage)
    before = {key: value.clone() for key, value in states(translator).items()}
    step(translator, batch_of(SIDE, 4, CLASSES), lr=0.01)
    moved = {part_of(key) for key, value in states(translator).items() if not torch.equal(value, before[key])}
    assert moved == wanted


def states(translator: Any) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for name, network in translator.networks.items()
            for key, value in network.state_dict().items()}


def part_of(key: str) -> str:
    name, part, *_ = key.split(".")
    return f"{name}.{part}" if name == "generator_ab" else name


@pytest.mark.parametrize("name", ["upper", "lower", "both"])
def test_losses_are_those_of_the_paper(name: str) -> None:
    """Huang et al. 2017, section 3, written out without any machinery: the gradients of both generators' sum."""
    stage, _ = LEARNING[name]
    translator, batch = built(stage), batch_of(SIDE, 4, CLASSES)
    upper, lower, encoder = translator.generator_ab.upper, translator.generator_ab.lower, translator.encoder
    z, classes = translator.inputs(batch.a, batch.keys), batch.a.flatten(1).argmax(1)
    z0, above = z[:, :4], z[:, 4:]  # of the image, of features and class
    relu = torch.relu
    conv = [layer.conv for layer in (*encoder.inner, *encoder.outer)]

    def features_of(image: Tensor) -> Tensor:
        hidden = F.max_pool2d(relu(conv[0](image)), 2)
        return relu(conv[2](F.max_pool2d(relu(conv[1](hidden)), 2)))

    def fooled(judge: Any, head: Any, made: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        logits = judge(made, made[:, :0, :1, :1])
        return F.softplus(-logits).mean(), 2.5 * (head(judge.hidden(made, made[:, :0, :1, :1])) - latents.flatten(1)
                                                  ).square().mean()

    losses, features = {}, features_of(batch.b).detach()
    if name != "lower":
        features = upper(above)
        losses["adversarial_h"], losses["entropy_h"] = fooled(
            translator.discriminator_h, translator.heads["latents_h"], features, above[:, :3])
        losses["conditional_h"] = F.cross_entropy(conv[3](features).flatten(1), classes)
    if name != "upper":
        image = lower(torch.cat([z0, features], dim=1))
        losses["adversarial_b"], losses["entropy_b"] = fooled(
            translator.discriminator_b, translator.heads["latents_b"], image, z0)
        losses["conditional_b"] = (features_of(image) - features).square().mean()
    torch.stack(list(losses.values())).sum().backward()
    wanted = {key: value.clone() for key, value in known(translator).items() if "discriminator" not in key}
    update = step(translator, batch)
    found = {key: value for key, value in known(translator).items() if "discriminator" not in key}
    assert found.keys() == wanted.keys() and worst_error(found, wanted) < 1e-9
    for key, loss in losses.items():
        torch.testing.assert_close(update.losses[key], loss.detach())


def test_what_the_lower_generator_learns_reaches_the_upper_one_where_both_learn() -> None:
    """The upper one's own losses taken away, of which those of the image are left."""
    translator = built(weights={"entropy": 0.0})
    batch = batch_of(SIDE, 4, CLASSES)
    step(translator, batch)
    joint = known(translator)
    alone = built(UPPER, weights={"entropy": 0.0})
    step(alone, batch)
    assert any(not torch.allclose(joint[key], value) for key, value in known(alone).items() if "upper" in key)


@pytest.mark.parametrize(("name", "plan"), one_in(5, [
    (name, plan) for name in LEARNING for plan in PLANS if plan != "plain"]))
def test_every_plan_gives_the_gradients_of_one_joint_backward_pass(name: str, plan: str) -> None:
    def played(plan: str) -> dict[str, Tensor]:
        translator = built(LEARNING[name][0], penalty={"kind": "r1"}, objective={"kind": "relativistic"})
        step(translator, batch_of(SIDE, 4, CLASSES), plan)
        return known(translator)

    expected = played("plain")
    assert worst_error(played(plan), expected) <= RoundingBound(expected, lambda: played("plain"))


def test_the_planner_foretells_the_peak_of_a_step_within_five_per_cent() -> None:
    """Of the stage that trains the most, after one of the encoder's."""
    config = config_of(encoder={"width": 16, "features": 64}, feature_generator={"widths": [256, 256]},
                       generator={"kind": "dcgan", "side": 32, "width": 16},
                       discriminator={"kind": "dcgan", "side": 32, "width": 16})
    stage = Stage(resolution=32, images=8, batch_size=8, levels=2)
    foretold = StepOnMeta(Networks(translator=config, optimizer=Optimizers()), (CLASSES, 1), stage).measure(
        PLANS["preact"], "fp32", "cpu", 1)
    whole = batch_of(32, 8, CLASSES)
    batch = dataclasses.replace(whole, a=whole.a.float(), b=whole.b.float(), other=None)
    assert foretold.peak_bytes == pytest.approx(peak_of_real_step(
        config, batch, PLANS["preact"], [stage.model_copy(update={"levels": 0}), stage]), rel=0.05)


OPTIONS: dict[str, dict[str, Any]] = {
    "encoder.width": {"encoder": {"width": 4}}, "encoder.features": {"encoder": {"features": 6}},
    "feature_generator.latent": {"feature_generator": {"latent": 2}},
    "feature_generator.widths": {"feature_generator": {"widths": [6, 5]}},
    "feature_discriminator.widths": {"feature_discriminator": {"widths": [5, 5]}},
    "weights.conditional": {"weights": {"conditional": 0.5}}, "weights.entropy": {"weights": {"entropy": 0.5}}}


@pytest.fixture(scope="module")
def left_by_a_step() -> Callable[..., dict[str, Tensor]]:
    def left(**changes: Any) -> dict[str, Tensor]:
        translator = built(**changes)
        step(translator, batch_of(SIDE, 4, CLASSES))
        return known(translator)

    return left


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_changes_the_gradients(option: str, left_by_a_step: Callable[..., dict[str, Tensor]]) -> None:
    before, after = left_by_a_step(), left_by_a_step(**OPTIONS[option])
    assert any(value.shape != after[key].shape or not torch.equal(value, after[key]) for key, value in before.items())


def test_all_its_own_options_are_among_them() -> None:
    parts = ("encoder", "feature_generator", "feature_discriminator", "weights")
    assert {f"{part}.{field}" for part in parts for field in getattr(config_of(), part).model_fields} == OPTIONS.keys()


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bars(tmp_path_factory.mktemp("data") / "bars")


STAGES = [{"resolution": SIDE, "levels": levels, "freeze": freeze, "images": 8, "batch_size": 4}
          for levels, freeze in ((0, False), (1, True), (2, True), (2, False))]


def recipe_of(folder: Path, **changes: Any) -> Recipe:
    return validate(Recipe, {
        "name": "toy", "data": {"kind": "images", "folder": str(folder), "image_b": {"channels": 1}, "classes": 2,
                                "resize": SIDE, "augment": []},
        "translator": SMALL | {"ema": 0.9}, "stages": STAGES,
        "every": {"log": 4, "sample": 16, "checkpoint": 4, "probe": 4, "evaluate": None}, "workers": 0, **changes},
        "toy")


@pytest.fixture(scope="module")
def run(bars: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run under a guard of no patience, with its checkpoints."""
    folder = tmp_path_factory.mktemp("run") / "run"
    train(recipe_of(bars, keep_checkpoints=20, guard={"patience": 8}), folder, Silent())
    return folder


@pytest.mark.parametrize("images", one_in(4, [12, 4, 20, 28]))
def test_a_run_that_is_killed_in_any_of_its_stages_goes_on_bit_for_bit(bars: Path, run: Path, tmp_path: Path,
                                                                       images: int) -> None:
    recipe = recipe_of(bars, keep_checkpoints=20, guard={"patience": 8})
    train_until(recipe, tmp_path / "killed", images)
    levels = {4: 0, 12: 1}.get(images, 2)
    assert load_generator(tmp_path / "killed").growth == (
        f"a network that is still growing: {levels} of 2 levels" if levels < 2 else "")
    train(recipe, tmp_path / "killed", Silent(), resume=True)
    assert final_state(tmp_path / "killed") == final_state(run)


@pytest.mark.parametrize("log", [8, 12])
def test_a_stage_shows_and_records_no_losses_of_the_one_before(bars: Path, tmp_path: Path, log: int) -> None:
    """The classifier's was shown as one of the features', whether it was recorded where a stage ends or after it."""
    shown: list[tuple[int, dict[str, float]]] = []

    class Remembering(Silent):
        def progress(self, images: int, total: int, stage: str, losses: dict[str, float],
                     seconds_left: float | None = None, stage_number: int = 0) -> None:
            shown.append((stage_number, losses))

    train(recipe_of(bars, stages=STAGES[:2], every={"log": log, "checkpoint": 100, "evaluate": None}), tmp_path / "run",
          Remembering())
    recorded = [(line["stage"], line) for line in read_lines(tmp_path / "run" / "metrics.jsonl")
                if line["kind"] == "train"]
    assert "entropy_h" in recorded[-1][1] and shown[-1][1]
    assert not any("classes" in losses for stage, losses in (*shown, *recorded) if stage == 1)


def test_the_encoder_of_a_run_is_fixed_once_it_is_trained(run: Path) -> None:
    weights = [read_tensors(path / "encoder.safetensors") for path in sorted((run / "checkpoints").glob("0*"))]
    begun, trained, *later = weights[0], *weights[2:]  # of 0, 8 and more images
    assert any(not torch.equal(value, trained[key]) for key, value in begun.items())
    assert len(later) == 6 and all(torch.equal(value, each[key]) for each in later for key, value in trained.items())


def test_no_generator_is_looked_at_before_it_has_begun_to_learn(run: Path) -> None:
    """What it draws until then is alike: the guard would take the training for lost."""
    looks = [line["images"] for line in read_lines(run / "metrics.jsonl") if line["kind"] == "probe"]
    assert not told_by_the_guard(run) and looks == [20, 24, 28, 32]


def test_a_run_draws_the_class_that_is_asked_for_by_both_generators(run: Path) -> None:
    sampler = Sampler.load(run)
    first, second = sampler.sample([3, 3], classes=[0, 1])
    assert first.shape == (1, SIDE, SIDE) and not torch.equal(first, second)
    assert torch.equal(next(iter(sampler.sample([3], classes=[1]))), second)
    assert load_generator(run).growth == ""
    latents, codes = sampler.latents([3], 0)
    assert latents.shape == (1, 3 + 4) and codes.shape == (1, 0)


def test_mistakes_of_a_recipe_are_named(bars: Path) -> None:
    translator, stages = SMALL, STAGES
    for changes, what in (
            ({"stages": stages[1:]}, "no encoder has been trained"),
            ({"stages": [stages[0], stages[2]]}, "2 after 0.*0: the classifier, 1: features, 2: images"),
            ({"stages": [*stages, stages[3] | {"levels": 3}]}, "a stack has two generators"),
            ({"stages": [stages[0] | {"freeze": True}]}, "no level to train alone"),
            ({"stages": [stages[0], stages[1] | {"fade": True, "freeze": False}]}, "do not fade in"),
            ({"stages": [stages[0], stages[1] | {"freeze": "trunk"}]}, "no trunk"),
            ({"stages": [stages[0] | {"resolution": 8}]}, "draws 16×16"),
            ({"stages": [stages[0] | {"batch_size": 1}]}, "1 sample is no batch"),
            ({"translator": translator | {"augment": ["color"]}}, "judges features as well"),
            ({"translator": translator | {"discriminator": PatchGANConfig().model_dump()}}, "judges patches"),
            ({"translator": translator | {"generator": {"kind": "pggan"}}}, "gains levels of its own"),
            ({"translator": translator | {"generator": {"kind": "mlp", "side": 8}}}, "the encoder can see"),
            ({"translator": translator | {"generator": DCGANConfig(side=32).model_dump()}}, "they need one size"),
            ({"data": {"kind": "images", "folder": str(bars), "resize": SIDE}}, "set data.classes")):
        with pytest.raises(Exception, match=what):
            recipe_of(bars, **changes)
