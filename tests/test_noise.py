"""Images from noise: what is drawn depends on a sample's seed and number alone, conditions reach both networks, and
every part of the house works for this translator as for the others."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import Tensor

import translate
from tests.bounds import RoundingBound, worst_error
from tests.commands import call
from tests.covering import one_in
from tests.games import GAMES
from tests.networks import members
from tests.runs import Silent
from tests.steps import gradients, step, strengthen
from translate.data import Batch
from translate.errors import UsageError
from translate.losses import information_losses, style_ambiguity
from translate.networks import LatentGeneratorConfig, WholeDiscriminatorConfig
from translate.networks.discriminators import PatchGANConfig
from translate.networks.growing import extend, fade_in
from translate.networks.latent.stackgan import Augmentation
from translate.networks.memory import PLANS
from translate.recipe import Recipe
from translate.runs.release import load_generator, load_release
from translate.schema import validate
from translate.training.loop import train
from translate.translators import NoiseConfig
from translate.translators.codes import Codes

SMALL: dict[str, dict[str, Any]] = {  # of each family, a generator and what judges it
    "mlp": {"generator": {"kind": "mlp", "side": 8, "widths": [8, 6], "latent": 5},
            "discriminator": {"kind": "mlp", "side": 8, "widths": [6, 4]}},
    "dcgan": {"generator": {"kind": "dcgan", "side": 32, "width": 2, "latent": 5},
              "discriminator": {"kind": "dcgan", "side": 32, "width": 2}},
    "dcgan 28": {"generator": {"kind": "dcgan", "side": 28, "width": 2, "latent": 5, "distribution": "uniform"},
                 "discriminator": {"kind": "dcgan", "side": 28, "width": 2, "norm": "none", "dropout": 0.3}},
    "codes": {"generator": {"kind": "mlp", "side": 8, "widths": [8, 6], "latent": 5},
              "discriminator": {"kind": "mlp", "side": 8, "widths": [6, 4]},
              "codes": {"categorical": [3, 2], "continuous": 2}, "conditioned": False},
    "styles": {"generator": {"kind": "dcgan", "side": 32, "width": 2, "latent": 5},
               "discriminator": {"kind": "dcgan", "side": 32, "width": 2}, "styles": {}, "conditioned": False},
    "pggan": {"generator": {"kind": "pggan", "width": 6, "latent": 5}, "discriminator": {"kind": "pggan", "width": 6}},
    "began": {"generator": {"kind": "began", "side": 16, "width": 4, "latent": 5, "init": "normal"},
              "discriminator": {"kind": "autoencoder", "width": 3, "downs": 1}, "objective": {"kind": "began"},
              "conditioned": False},
    "biggan": {"generator": {"kind": "biggan", "side": 32, "width": 1, "latent": 8, "shared": 3, "attention": 16},
               "discriminator": {"kind": "biggan", "side": 32, "width": 1, "attention": 16},
               "objective": {"kind": "hinge"}},
    "stackgan": {"generator": {"kind": "stackgan", "side": 16, "width": 4, "latent": 5, "embedding": 3, "blocks": 1},
                 "discriminator": {"kind": "stackgan", "side": 16, "width": 2, "embedding": 3}, "mismatched": 1.0},
    "judged by patches": {"generator": {"kind": "dcgan", "side": 32, "width": 2, "latent": 5},
                          "discriminator": {"kind": "patchgan", "width": 4, "layers": 2}},
}
SIDES = {name: parts["generator"].get("side", 4) for name, parts in SMALL.items()}
NUM_CLASSES = 4


def config_of(name: str, **changes: Any) -> NoiseConfig:
    merged = {key: SMALL[name].get(key, {}) | value if isinstance(value, dict) and "kind" not in value else value
              for key, value in changes.items()}
    return validate(NoiseConfig, SMALL[name] | merged, name)


def built(config: NoiseConfig, num_classes: int = NUM_CLASSES) -> Any:
    torch.manual_seed(0)
    translator = config.build(num_classes, 1, 0)
    translator.to(torch.device("cpu"), torch.float64)
    return strengthen(translator)


def batch_of(side: int, samples: int = 3, num_classes: int = NUM_CLASSES) -> Batch:
    chance = torch.Generator().manual_seed(3)
    a = torch.eye(num_classes, dtype=torch.float64)[torch.arange(samples) % num_classes, :, None, None]
    b = torch.rand(samples, 1, side, side, generator=chance, dtype=torch.float64) * 2 - 1
    return Batch(a, b, tuple(range(40, 40 + samples)), other=a.roll(1, dims=0))


def test_every_network_from_noise_is_among_the_small_ones() -> None:
    for union, part in ((LatentGeneratorConfig, "generator"), (WholeDiscriminatorConfig, "discriminator")):
        used = {type(getattr(config_of(name), part)) for name in SMALL}
        assert used == set(members(union))


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_what_is_drawn_depends_on_the_seed_and_the_number_alone(distribution: str) -> None:
    config = config_of("mlp", generator={"distribution": distribution})
    latents, codes = config.draw(range(10), seed=1)
    some, _ = config.draw([7, 3], seed=1)
    assert torch.equal(some, latents[[7, 3]]) and codes.shape == (10, config.num_codes)
    assert not torch.equal(config.draw([7], seed=2)[0], latents[[7]])


@pytest.mark.parametrize(("distribution", "truncation", "wanted"), [
    ("normal", None, stats.norm()), ("normal", 0.7, stats.truncnorm(-0.7, 0.7)),
    ("uniform", None, stats.uniform(-1, 2)), ("uniform", 0.5, stats.uniform(-0.5, 1))])
def test_latents_have_the_distribution_that_the_recipe_names(distribution: str, truncation: float | None,
                                                             wanted: Any) -> None:
    """Truncated normal latents are those of N(0, 1) within the bound (Brock et al. 2019), by scipy's distribution."""
    config = config_of("mlp", generator={"distribution": distribution, "latent": 2000})
    latents, _ = config.draw(range(2), 0, truncation)
    assert stats.kstest(latents.flatten().double().numpy(), wanted.cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", [name for name, parts in SMALL.items() if "conditioned" not in parts])
def test_a_condition_reaches_both_networks(name: str) -> None:
    translator, batch = built(config_of(name)), batch_of(SIDES[name])
    other = batch.a.roll(1, dims=1)
    for network in translator.networks.values():
        network.eval()
    drawn, of_other = (translator.generator_ab(translator.inputs(a, batch.keys)) for a in (batch.a, other))
    assert (drawn - of_other).abs().flatten(1).amax(1).min() > 1e-6
    judged, beside_other = (translator.conditional(a, batch.b)(batch.b) for a in (batch.a, other))
    assert (judged - beside_other).abs().flatten(1).amax(1).min() > 1e-6


@pytest.mark.parametrize("name", SMALL)
def test_where_the_recipe_says_so_a_condition_reaches_neither(name: str) -> None:
    if config_of(name).generator.needs_conditions:
        pytest.skip("it draws images under a condition alone")
    translator, batch = built(config_of(name, conditioned=False)), batch_of(SIDES[name])
    translator.discriminator_b.eval()  # the vectors of a spectral norm advance in training
    nothing = translator.inputs(batch.a[:, :0], batch.keys)
    assert torch.equal(translator.inputs(batch.a, batch.keys), nothing)
    assert torch.equal(translator.conditional(batch.a, batch.b)(batch.b),
                       translator.conditional(batch.a.roll(1, dims=1), batch.b)(batch.b))


@pytest.mark.parametrize(("name", "plan"), one_in(11, [
    (name, plan) for plan in PLANS if plan != "plain" for name in SMALL]))
def test_every_plan_gives_the_gradients_of_one_joint_backward_pass(name: str, plan: str) -> None:
    """In micro-batches where no norm mixes samples. Under strips these networks do as under `preact`."""
    def played(plan: str, micro_batch: int | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        translator = built(config_of(name))
        update = step(translator, batch_of(SIDES[name]), plan, micro_batch)
        return gradients(translator), update.losses

    expected, losses = played("plain")
    found, recorded = played(plan, 2 if name == "mlp" else None)
    assert worst_error(found, expected) <= RoundingBound(expected, lambda: played("plain")[0])
    for loss, value in losses.items():
        torch.testing.assert_close(recorded[loss], value, rtol=1e-9, atol=1e-12)


def test_mismatched_conditions_give_the_same_gradients_in_any_micro_batches() -> None:
    """They were another sample's of the micro-batch, and a micro-batch of one had none. Beside the loss written out."""
    def played(micro_batch: int | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        translator = built(config_of("mlp", mismatched=2.0))
        update = step(translator, batch_of(8, 4), micro_batch=micro_batch)
        return gradients(translator), update.losses

    expected, losses = played(None)
    for micro_batch in (1, 2):
        found, recorded = played(micro_batch)
        assert worst_error(found, expected) <= RoundingBound(expected, lambda: played(None)[0])
        torch.testing.assert_close(recorded["mismatched"], losses["mismatched"], rtol=1e-9, atol=1e-12)

    judge, batch = built(config_of("mlp")).discriminator_b, batch_of(8, 4)
    matched, mismatched = (judge(batch.b, a) for a in (batch.a, batch.a.roll(1, dims=0)))
    zero = torch.zeros_like(matched)
    wanted = torch.logaddexp(zero, -matched).mean() + torch.logaddexp(zero, mismatched).mean()  # twice half of it
    torch.testing.assert_close(losses["mismatched"], wanted.detach())


def test_a_mismatched_image_is_seen_as_real_ones_are() -> None:
    """Augmented: else the discriminator knows by that alone what it is beside."""
    translator = built(config_of("dcgan", mismatched=1.0, augment=["translation", "color"]))
    batch, seen = batch_of(32), list[Tensor]()
    translator.discriminator_b.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    step(translator, batch)
    real, _, mismatched, matched, *_ = seen
    assert torch.equal(matched, real) and torch.equal(mismatched, real) and not torch.equal(real, batch.b)


def test_heads_are_trained_on_every_level_of_a_discriminator() -> None:
    """A StackGAN's was narrower before its second stage, and its codes ended the training there."""
    for name in ("pggan", "stackgan"):
        config = config_of(name, codes={"categorical": [3], "continuous": 1})
        translator = built(config)
        for network, part in ((translator.generator_ab, config.generator),
                              (translator.discriminator_b, config.discriminator)):
            extend(part, network, 1, fading=False)
            network.double()
        step(translator, batch_of(config.generator.side_at(1)))
        assert all(value.isfinite().all() for value in gradients(translator).values() if value is not None)


def test_an_augmented_condition_diverges_from_the_normal_distribution_as_torch_says() -> None:
    """Zhang et al. 2017, eq. 2, beside torch's divergence; and a draw has the mean and deviation that are learnt."""
    torch.manual_seed(0)
    augmentation, condition = Augmentation(4, 3).double(), torch.randn(5, 4, 1, 1).double()
    mean, log_variance = augmentation.dense(condition).flatten(1).chunk(2, 1)
    learnt = torch.distributions.Normal(mean, (log_variance / 2).exp())
    wanted = torch.distributions.kl_divergence(learnt, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(augmentation.divergence(condition), wanted)
    noise = torch.randn(5, 3, 1, 1).double()
    drawn = augmentation(condition, noise).flatten(1)
    torch.testing.assert_close(drawn, learnt.mean + learnt.stddev * noise[..., 0, 0])


@pytest.mark.parametrize("plan", ["preact", "strips_blocks"])
def test_a_level_that_fades_in_has_the_same_gradients_under_every_plan(plan: str) -> None:
    def played(plan: str) -> dict[str, Tensor]:
        config = config_of("pggan", generator={"channels": 16}, discriminator={"channels": 16})
        translator = built(config)
        for network, part in ((translator.generator_ab, config.generator),
                              (translator.discriminator_b, config.discriminator)):
            extend(part, network, 2, fading=True)
            fade_in(network.double(), 0.3)
        step(strengthen(translator), batch_of(16), plan)
        return gradients(translator)

    expected = played("plain")
    assert worst_error(played(plan), expected) <= RoundingBound(expected, lambda: played("plain"))


def test_information_losses_are_those_of_the_variational_bound() -> None:
    """−log Q(c|x), by torch's distributions; of continuous codes without the constant ½ log 2π of each."""
    chance = torch.Generator().manual_seed(0)
    found = torch.randn(5, 7, generator=chance, dtype=torch.float64)
    codes = Codes(categorical=(3, 2), continuous=2).drawn(range(5)).double()
    named, near = information_losses(found, codes, (3, 2))
    first, second, mean = found.split([3, 2, 2], 1)
    wanted = -sum(torch.distributions.OneHotCategorical(logits=logits).log_prob(code).mean()
                  for logits, code in ((first, codes[:, :3]), (second, codes[:, 3:5])))
    torch.testing.assert_close(named, torch.as_tensor(wanted))
    density = torch.distributions.Normal(mean, 1.0).log_prob(codes[:, 5:]).sum(1).mean()
    torch.testing.assert_close(near, -density - np.log(2 * np.pi))


def test_a_style_is_most_ambiguous_where_all_are_equally_likely() -> None:
    """Elgammal et al. 2017, eq. 3, beside the same written out; least at 1/K of each."""
    logits = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64)
    p = logits.softmax(1)
    wanted = -(p.log() / 3 + 2 / 3 * (1 - p).log()).sum()
    torch.testing.assert_close(style_ambiguity(logits), wanted)
    assert style_ambiguity(torch.zeros(1, 3)) < style_ambiguity(torch.tensor([[0.1, 0.0, 0.0]]))


def playable() -> list[str]:
    """The games of an objective and penalty that a DCGAN can play: those of other parts are left out."""
    return [name for name, changes in GAMES.items()
            if changes.keys() <= NoiseConfig.model_fields.keys() - {"generator"} and "began" not in name
            and not {"scales", "layers"} & changes.get("discriminator", {}).keys()]


@pytest.mark.parametrize("name", one_in(6, playable()))
def test_every_game_has_the_same_gradients_under_the_leanest_plan(name: str) -> None:
    judge = SMALL["dcgan"]["discriminator"] | {"norm": "none"} | GAMES[name].get("discriminator", {})

    def played(plan: str) -> dict[str, Tensor]:
        translator = built(config_of("dcgan", **(GAMES[name] | {"discriminator": judge})))
        step(translator, batch_of(32), plan)
        return gradients(translator)

    expected = played("plain")
    assert worst_error(played("strips_blocks"), expected) <= RoundingBound(expected, lambda: played("plain"))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of toy images, 8×8: bars along rows, bars along columns; train and test."""
    folder, chance = tmp_path_factory.mktemp("digits"), np.random.default_rng(0)
    for part, num in (("train", 12), ("test", 4)):
        for kind in range(2):
            (folder / part / str(kind)).mkdir(parents=True)
            for number in range(num):
                image = np.zeros((8, 8), np.uint8)
                image[chance.integers(8)] = chance.integers(150, 255)
                Image.fromarray(image.T if kind else image).save(folder / part / str(kind) / f"{number}.png")
    return folder


def recipe_of(folder: Path, **changes: Any) -> Recipe:
    return validate(Recipe, {
        "name": "toy", "data": {"kind": "images", "folder": str(folder), "image_b": {"channels": 1}, "classes": 2,
                                "resize": 8, "augment": []},
        "translator": {"kind": "noise", "ema": 0.9} | SMALL["mlp"],
        "stages": [{"resolution": 8, "images": 24, "batch_size": 4}],
        "every": {"log": 4, "sample": 12, "checkpoint": 4, "probe": 8, "evaluate": None}, "workers": 0, **changes},
        "toy")


@pytest.fixture(scope="module")
def run(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    train(recipe_of(digits), folder, Silent())
    return folder


def test_a_run_leaves_a_generator_that_draws_the_same_images_in_any_batch(run: Path) -> None:
    recipe = recipe_of(run)  # its folder does not matter here
    config, release = recipe.translator, load_generator(run)
    assert isinstance(config, NoiseConfig)
    latents, codes = config.draw(range(6), 5)
    given = config.joined(latents, codes, torch.eye(2)[torch.arange(6) % 2, :, None, None])
    together = release.generator(given)
    assert together.shape == (6, 1, 8, 8) and together.abs().max() <= 1
    torch.testing.assert_close(torch.cat([release.generator(each[None]) for each in given]), together, rtol=0,
                               atol=1e-6)
    assert (run / "report.html").is_file() and list((run / "samples").glob("*.png"))


def test_data_check_measures_no_alignment_of_images_that_have_no_sources(
        digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: io.StringIO) -> None:
    """It warned that A and B show different things; there is no A."""
    file = tmp_path / "toy.yaml"
    file.write_text(recipe_of(digits).dump_yaml())
    assert call(monkeypatch, "data", "check", file) == 0
    assert "measured pair" not in said.getvalue() and "0 errors" in said.getvalue()
    assert call(monkeypatch, "data", "check", file, "--picture", tmp_path / "worst.jpg") == 2


def test_who_would_convert_with_it_is_told_what_to_use_instead(run: Path) -> None:
    with pytest.raises(UsageError, match="translate sample"):
        load_release(run)
    for asked in ({"direction": "ba"}, {"memory": "1GB"}):
        with pytest.raises(UsageError, match="leave direction and memory out"):
            translate.load(run, **asked)


def test_mistakes_of_a_recipe_are_named(digits: Path) -> None:
    for wrong, what in (({"widths": [-3]}, "-3"), ({"widths": [0, 8]}, "0")):
        for part in ("generator", "discriminator"):
            with pytest.raises(Exception, match=f"widths.*{what}"):
                config_of("mlp", **{part: wrong})
    with pytest.raises(Exception, match="attention: 64 px, and its images reach 32 px"):
        config_of("biggan", generator={"attention": 64})
    with pytest.raises(Exception, match="attention: 64 px, and its features begin at 32 px"):
        config_of("biggan", discriminator={"attention": 64, "side": 64})
    for data, what in (({"classes": 2, "vectors": {"size": 5}}, "data.vectors are no classes"),
                       ({"classes": None, "vectors": {"size": 5}}, "set data.classes")):
        with pytest.raises(Exception, match=what):
            recipe_of(digits, data={"kind": "images", "folder": str(digits), "resize": 32, **data},
                      translator={"kind": "noise"} | SMALL["styles"],
                      stages=[{"resolution": 32, "images": 8, "batch_size": 4}])
    with pytest.raises(Exception, match="8×8 px, and the generator draws 32×32"):
        recipe_of(digits, translator={"kind": "noise"} | SMALL["dcgan"])
    with pytest.raises(Exception, match="cannot gain levels"):
        recipe_of(digits, stages=[{"resolution": 8, "images": 8}, {"resolution": 16, "images": 8, "levels": 1}])
    with pytest.raises(Exception, match="micro_batch: 1 sample is no batch"):
        recipe_of(digits, translator={"kind": "noise"} | SMALL["codes"],
                  stages=[{"resolution": 8, "images": 8, "batch_size": 4, "micro_batch": 1}])


def test_a_patch_discriminator_is_shown_a_condition_as_planes() -> None:
    assert not PatchGANConfig().judges_whole
    translator = built(config_of("judged by patches"))
    assert translator.discriminator_b[0].conv.in_channels == 1 + NUM_CLASSES
