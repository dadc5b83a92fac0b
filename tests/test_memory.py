"""Every memory plan gives the gradients of the textbook step, and advances nothing twice."""

from __future__ import annotations

import functools
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator, debug_launcher
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests.bounds import FAULT, RoundingBound
from tests.covering import each_value
from tests.games import GAMES, KINDS, game, kinds_of
from tests.mobilenet import write_mobilenet
from tests.networks import members
from tests.steps import LR, build, gradients, make_batch, step, worst_error
from tests.textbook import cut_reference, cyclegan_reference, pix2pix_reference
from translate.data import Batch
from translate.losses import LeastSquares
from translate.networks import PatchGANConfig, PixelConfig, ResNetConfig, UNetConfig, memory
from translate.networks.dropout import seed_dropout
from translate.optimizers import SGD
from translate.training.update import Update
from translate.translators import CUTConfig, CycleGANConfig, NoiseConfig, Pix2PixConfig, StackedConfig, TranslatorConfig

PLANS = list(memory.PLANS)
PATCH = PatchGANConfig(width=4, layers=2)
CYCLEGANS = {
    "resnet": CycleGANConfig(generator=ResNetConfig(width=4, blocks=2), discriminator=PATCH, pool=0),
    "resnet-batch-resize-no-identity": CycleGANConfig(
        generator=ResNetConfig(width=4, blocks=1, norm="batch", upsample="resize"),
        discriminator=PixelConfig(width=4, norm="batch"), pool=0, weights={"identity": 0.0}),
    "resnet-none": CycleGANConfig(generator=ResNetConfig(width=4, blocks=1, norm="none"), discriminator=PATCH, pool=0),
    "unet-batch-dropout": CycleGANConfig(generator=UNetConfig(width=4, downs=6), discriminator=PATCH, pool=0),
    "resnet-antialiased": CycleGANConfig(
        generator=ResNetConfig(width=4, blocks=1, upsample="bilinear", downsample="blurred", init="orthogonal"),
        discriminator=PatchGANConfig(width=4, layers=2, downsample="blurred"), pool=0),
    "resnet-antialiased-as-cut": CycleGANConfig(
        generator=ResNetConfig(width=4, blocks=1, upsample="bilinear", downsample="antialiased"), discriminator=PATCH,
        pool=0),
    "resnet-attention": CycleGANConfig(
        generator=ResNetConfig(width=4, blocks=2, downs=3, attention=True), discriminator=PATCH, pool=0),
    "discriminator-first": CycleGANConfig(generator=ResNetConfig(width=4, blocks=1), discriminator=PATCH, pool=0,
                                          pace={"first": "discriminator"}),
}
PIX2PIXS = {
    "unet-resize": Pix2PixConfig(generator=UNetConfig(width=4, downs=5, norm="instance", upsample="resize"),
                                 discriminator=PATCH),
    "unet-bilinear": Pix2PixConfig(
        generator=UNetConfig(width=4, downs=4, norm="instance", upsample="bilinear"), discriminator=PATCH),
    "unet-image-skip": Pix2PixConfig(
        generator=UNetConfig(width=4, downs=4, norm="instance", upsample="resize", image_skip=3), discriminator=PATCH),
    "unet-blurred": Pix2PixConfig(
        generator=UNetConfig(width=4, downs=4, norm="instance", downsample="blurred"), discriminator=PATCH),
    "unet-attention": Pix2PixConfig(
        generator=UNetConfig(width=4, downs=4, norm="instance", attention=True), discriminator=PATCH),
    "unet-batch-dropout": Pix2PixConfig(generator=UNetConfig(width=4, downs=6),
                                        discriminator=PatchGANConfig(width=4, layers=2, norm="batch")),
    "resnet-batch-resize-lsgan": Pix2PixConfig(
        generator=ResNetConfig(width=4, blocks=1, norm="batch", upsample="resize"), discriminator=PATCH,
        objective=LeastSquares()),
    "registered": Pix2PixConfig(generator=ResNetConfig(width=4, blocks=1), discriminator=PATCH,
                                registration={"width": 4, "smoothness": 3.0}),
    "generator-first": Pix2PixConfig(generator=UNetConfig(width=4, downs=4), pace={"first": "generator"},
                                     discriminator=PatchGANConfig(width=4, layers=2, norm="batch")),
}
CUTS = {
    "resnet": CUTConfig(generator=ResNetConfig(width=4, blocks=6), discriminator=PATCH, patches=30),
    "resnet-batch-resize-flipped": CUTConfig(
        generator=ResNetConfig(width=4, blocks=2, norm="batch", upsample="resize"),
        discriminator=PixelConfig(width=4, norm="batch"), patches=30, flip_equivariance=True),
    "resnet-none-no-blocks": CUTConfig(generator=ResNetConfig(width=4, blocks=0, norm="none"), discriminator=PATCH,
                                       weights={"identity": 0.0}),
    "unet-batch-dropout": CUTConfig(generator=UNetConfig(width=4, downs=6), discriminator=PATCH, patches=30),
}
# A pass advances the vectors of a spectral norm, and a batch is what the others see.
WHOLE_BATCHES = ("spectral", "spectral generator", "orthogonal generator", "minibatch std", "minibatch kernels")
CONFIGS = CYCLEGANS | {f"pix2pix-{name}": config for name, config in PIX2PIXS.items()} | {
    f"cut-{name}": config for name, config in CUTS.items()}
REFERENCES = {"cyclegan": cyclegan_reference, "pix2pix": pix2pix_reference, "cut": cut_reference}


@functools.cache
def joint_step(name: str, size: tuple[int, int], samples: int) -> tuple[dict[str, Tensor], RoundingBound]:
    """The gradients of one joint backward pass, from the independent reference of tests/textbook.py, and their bound.
    """
    def joint() -> dict[str, Tensor]:
        translator, batch = build(CONFIGS[name]), make_batch(size, samples)
        seed_dropout(translator.networks.values(), batch.keys)
        return REFERENCES[CONFIGS[name].kind](translator, batch, LR)

    expected = joint()
    return expected, RoundingBound(expected, joint)


@each_value(share=23, name=list(CONFIGS), batch={"rectangle": ((32, 48), 2), "odd": ((33, 50), 1)}, plan=PLANS)
def test_every_plan_gives_the_gradients_of_the_textbook_step(
        name: str, batch: tuple[tuple[int, int], int], plan: str) -> None:
    translator, (size, samples) = build(CONFIGS[name]), batch
    step(translator, make_batch(size, samples), plan, lr=LR)
    expected, bound = joint_step(name, size, samples)
    assert worst_error(gradients(translator), expected) <= bound


@pytest.mark.parametrize("name", ["resnet", "pix2pix-unet-blurred", "cut-resnet"])
def test_a_weights_gradient_that_is_off_by_a_billionth_would_be_seen(name: str) -> None:
    expected, bound = joint_step(name, (33, 50), 1)
    for weight in (weight for weight, value in expected.items() if value.ndim == 4):
        assert worst_error(expected | {weight: expected[weight] * (1 + FAULT)}, expected) > bound, weight


def test_one_strips_share_of_one_gradient_would_be_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, bound = joint_step("resnet", (24, 32), 2)
    whole, calls = torch.autograd.grad, iter(range(10**6))

    def without_one(*arguments: Any, **named: Any) -> tuple[Tensor, ...]:
        first, *others = whole(*arguments, **named)
        return (torch.zeros_like(first) if next(calls) == 40 else first, *others)

    monkeypatch.setattr(torch.autograd, "grad", without_one)
    translator = build(CONFIGS["resnet"])
    step(translator, make_batch((24, 32), 2), "strips", lr=LR)
    assert next(calls) > 100, "strips ask autograd one after the other"
    assert worst_error(gradients(translator), expected) > bound


def build_game(name: str, kind: str) -> Any:
    translator = build(game(name, kind))
    for network in translator.phases["discriminator"].values():
        if hasattr(network, "balance"):
            network.balance.fill_(0.5)  # at its first value, 0, fakes would not count
    return translator


@pytest.fixture(scope="module", autouse=True)
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Random weights under MobileNetV2's name: what it sees does not matter here, that it is looked at does."""
    root = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch:
        write_mobilenet(root, patch)
        yield


Played = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]


def play(name: str, kind: str, plan: str, size: tuple[int, int], samples: int) -> Played:
    """The gradients, losses and buffers of a whole batch."""
    translator = build_game(name, kind)
    update = step(translator, make_batch(size, samples), plan)
    return gradients(translator), update.losses, buffers(translator)


@functools.cache
def joint_game(name: str, kind: str) -> tuple[Played, RoundingBound]:
    """What the plan `plain` gives (no checkpoint, no cut, nothing computed twice), and the bound of its gradients."""
    played = functools.partial(play, name, kind, "plain", (33, 50), 3)
    expected = played()
    return expected, RoundingBound(expected[0], lambda: played()[0])


def buffers(translator: Any) -> dict[str, Tensor]:
    return {f"{name}.{buffer}": value for name, network in translator.networks.items()
            for buffer, value in network.named_buffers()}


def test_every_translator_is_among_those_that_play_the_games() -> None:
    """Those from noise have tests of their own, test_noise.py and test_stacked.py: they are given other batches."""
    assert {*KINDS.values(), NoiseConfig, StackedConfig} == set(members(TranslatorConfig))


def games_under_plans() -> Iterator[Any]:
    """Every game of every translator under every plan; quick is one plan of each game, with other
    translators for the next."""
    for row, name in enumerate(GAMES):
        kinds = kinds_of(name)
        for column, plan in enumerate(["split", "preact", "replay", "strips_blocks"]):
            quick = kinds[(row // 4 + column // 2) % len(kinds)] if (row + column) % 8 == 0 else None
            yield from (pytest.param(name, kind, plan, marks=() if kind == quick else pytest.mark.slow)
                        for kind in kinds)


@pytest.mark.parametrize(("name", "kind", "plan"), games_under_plans())
def test_every_game_has_the_same_gradients_and_losses_under_every_plan(name: str, kind: str, plan: str) -> None:
    """In micro-batches besides: what is drawn for a sample must not depend on how the batch is divided.

    The vectors of a spectral norm advance once a pass, also where a second derivative repeats a pass twice.
    """
    translator = build_game(name, kind)
    update = step(translator, make_batch((33, 50), 3), plan, micro_batch=None if name in WHOLE_BATCHES else 2)
    (expected, losses, advanced), bound = joint_game(name, kind)
    assert worst_error(gradients(translator), expected) <= bound
    for loss, value in losses.items():
        torch.testing.assert_close(update.losses[loss], value, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(buffers(translator), advanced, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("num_strips", [2, pytest.param(5, marks=pytest.mark.slow), 25])
def test_any_number_of_strips_gives_the_same_gradients(num_strips: int) -> None:
    """More than there are rows, as well."""
    translator, batch = build(CONFIGS["resnet"]), make_batch((24, 32), 2)
    plan = memory.MemoryConfig(plan="strips", strips=num_strips).resolve()
    assert plan.num_strips == num_strips
    step(translator, batch, plan)
    assert translator.generator_ab.tail.num_strips == num_strips
    expected, bound = joint_step("resnet", (24, 32), 2)
    assert worst_error(gradients(translator), expected) <= bound


def forwards(translator: Any, batch: Batch) -> None:
    """Every forward pass of a step, once each and in the step's order, without any machinery."""
    a, b = batch.a, batch.b
    with torch.no_grad():
        if hasattr(translator, "generator_ba"):
            fakes = []
            for real, there, back, judge in (
                    (a, translator.generator_ab, translator.generator_ba, translator.discriminator_b),
                    (b, translator.generator_ba, translator.generator_ab, translator.discriminator_a)):
                fakes.append(there(real))
                judge(fakes[-1]), back(fakes[-1])
                if translator.weights.identity:
                    back(real)
            for image, judge in ((a, translator.discriminator_a), (fakes[1], translator.discriminator_a),
                                 (b, translator.discriminator_b), (fakes[0], translator.discriminator_b)):
                judge(image)
        elif hasattr(translator, "heads"):
            generator, judge = translator.generator_ab, translator.discriminator_b

            def encode(image: Tensor) -> None:
                generator.features(image, lambda number, features: features)

            assert translator.first == "discriminator"
            fake = generator(a)
            judge(b), judge(fake)
            judge(fake), encode(a), encode(fake)
            same = generator(b)
            encode(b), encode(same)
        else:
            fake = translator.generator_ab(a)
            for image in (b, fake, fake) if translator.first == "discriminator" else (fake, b, fake):
                translator.discriminator_b(torch.cat([a, image], 1))


@each_value(share=6, name=["resnet-batch-resize-no-identity", "unet-batch-dropout", "pix2pix-unet-batch-dropout",
                  "pix2pix-resnet-batch-resize-lsgan", "cut-unet-batch-dropout", "pix2pix-generator-first"], plan=PLANS)
def test_batch_norm_statistics_advance_once_a_pass_under_every_plan(name: str, plan: str) -> None:
    """A forward pass that is repeated for its gradient must not be noticed."""
    translator, batch = build(CONFIGS[name]), make_batch((64, 64))
    expected = build(CONFIGS[name])
    seed_dropout(expected.networks.values(), batch.keys)
    forwards(expected, batch)
    step(translator, batch, plan)
    num_buffers = 0
    for which, network in expected.networks.items():
        for buffer, value in network.named_buffers():
            torch.testing.assert_close(translator.networks[which].get_buffer(buffer), value, rtol=1e-10, atol=1e-12,
                                       msg=f"{which}.{buffer}")
            num_buffers += 1
    assert num_buffers


def spectral_step(plan: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The gradients and buffers of a step whose convolutions all have torch's own spectral norm."""
    translator = build(CONFIGS["discriminator-first"])
    torch.manual_seed(5)
    for network in translator.networks.values():
        for convolution in [part for part in network.modules() if isinstance(part, nn.Conv2d)]:
            parametrizations.spectral_norm(convolution)
    step(translator, make_batch((32, 40)), plan)
    return gradients(translator), buffers(translator)


@functools.cache
def plain_spectral_step() -> tuple[dict[str, Tensor], dict[str, Tensor], RoundingBound]:
    expected, advanced = spectral_step("plain")
    return expected, advanced, RoundingBound(expected, lambda: spectral_step("plain")[0])


@pytest.mark.parametrize("plan", [pytest.param(plan, marks=() if plan in ("replay", "strips") else pytest.mark.slow)
                                  for plan in PLANS[1:]])
def test_spectral_norm_advances_once_a_pass_under_every_plan(plan: str) -> None:
    """A repeated pass starts from the vectors the first one started from, however many passes lie between."""
    found, advanced = spectral_step(plan)
    expected, advanced_once, bound = plain_spectral_step()
    assert worst_error(found, expected) <= bound
    torch.testing.assert_close(advanced, advanced_once, rtol=1e-9, atol=1e-12)


def step_in(precision: str, plan: str, name: str) -> dict[str, Tensor]:
    translator, batch = build(CONFIGS[name], torch.float32), make_batch((40, 40), dtype=torch.float32)
    optimizers = {phase: SGD(lr=1e-30).build(parameter for network in networks.values()
                                             for parameter in network.parameters())
                  for phase, networks in translator.phases.items()}
    for network in translator.networks.values():
        memory.apply(memory.PLANS[plan], network)
    translator.step(batch, Update(translator, optimizers, Accelerator(cpu=True), memory.PLANS[plan], precision))
    found = gradients(translator)
    assert all(gradient is not None for gradient in found.values()), "a weight got no gradient"
    return found


@functools.cache
def plain_in(precision: str, name: str) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in step_in(precision, "plain", name).values()])


QUICK_BFLOAT16 = {"split": "unet-batch-dropout", "preact": "unet-batch-dropout", "replay": "resnet",
                  "blocks": "cut-resnet", "strips": "unet-batch-dropout", "strips_blocks": "resnet"}


@pytest.mark.parametrize(("name", "plan"), [
    pytest.param(name, plan, marks=() if QUICK_BFLOAT16[plan] == name else pytest.mark.slow)
    for name in ("resnet", "unet-batch-dropout", "cut-resnet") for plan in PLANS[1:]])
def test_a_bfloat16_step_is_as_exact_under_every_plan_as_under_plain(name: str, plan: str) -> None:
    """Compared with the float32 step. Every weight gets a gradient, also where a generator ran without a graph first:
    autocast could remember the low-precision weights made there."""
    found = torch.cat([gradient.flatten() for gradient in step_in("bf16", plan, name).values()])
    exact, plain = plain_in("fp32", name), plain_in("bf16", name)
    assert F.cosine_similarity(found, exact, dim=0).item() > 0.95
    assert (found - exact).norm() <= 1.5 * (plain - exact).norm()


Step = tuple[str, str, str, int]  # of a config or a game, by which translator, under which plan, of so many samples
SHARED_GAMES = [name for name in GAMES if not name.startswith("minibatch")]
EVERY_STEP: list[Step] = [*((name, "", plan, 4) for name in ("resnet", "cut-resnet") for plan in PLANS),
                          *((name, kind, "preact", 4) for name in SHARED_GAMES for kind in kinds_of(name))]
# What processes could do otherwise: compare samples, draw chance, keep numbers or vectors, differentiate twice.
COUPLED_GAMES = ["relativistic", "noise", "augmented", "began", "dropout", "spectral", "two sizes, flipped",
                 "registered", "orthogonal generator"]
# With one sample a process, and with two (cut-resnet). A plan that keeps all, one that plays back, one that recomputes
# in pieces; and each of these games of the quickest translator that can play it.
EACH_ONCE: list[Step] = [
    ("discriminator-first", "", "split", 2), ("cut-resnet", "", "replay", 4),
    ("discriminator-first", "", "strips_blocks", 2),
    *((name, min(kinds_of(name), key=["pix2pix", "cut", "cyclegan"].index), "preact", 2) for name in COUPLED_GAMES)]


def in_a_process_of_two(folder: Path, steps: list[Step]) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # what this fork inherited
    accelerator = Accelerator(cpu=True)
    for name, kind, plan, samples in steps:
        own = make_batch((32, 40), samples).micro_batches(samples // 2)[accelerator.process_index]
        if kind:
            step(translator := build_game(name, kind), own, plan, accelerator=accelerator)
        else:
            step(translator := build(CONFIGS[name]), own, plan, accelerator=accelerator, lr=LR)
        torch.save((gradients(translator), buffers(translator)),
                   folder / f"{name} {kind} {plan} {accelerator.process_index}.pt")


@pytest.mark.parametrize("steps", [pytest.param(EACH_ONCE, id="each once"),
                                   pytest.param(EVERY_STEP, id="all", marks=pytest.mark.slow)])
def test_two_processes_give_the_gradients_of_the_whole_batch_in_every_game(steps: list[Step], tmp_path: Path) -> None:
    """One test, because one launch is enough for all."""
    debug_launcher(in_a_process_of_two, (tmp_path, steps), num_processes=2)
    for name, kind, plan, samples in steps:
        if kind:
            played = functools.partial(play, name, kind, plan, (32, 40), samples)
            expected, _, advanced_once = played()
            bound = RoundingBound(expected, lambda: played()[0])  # noqa: B023 (called in this turn)
        else:
            expected, bound = joint_step(name, (32, 40), samples)
            advanced_once = {}
        for process in range(2):
            found, advanced = torch.load(tmp_path / f"{name} {kind} {plan} {process}.pt")
            assert worst_error(found, expected) <= bound, (name, kind, plan)
            if kind:
                torch.testing.assert_close(advanced, advanced_once, rtol=1e-9, atol=1e-12, msg=f"{name} {kind}")


def test_plans_from_most_to_least_do_ever_less() -> None:
    """Each plan of the ladder leads to a leaner one, and `blocks` joins it; the leanest is the end."""
    networks, pix2pix, cut = (build(CONFIGS[name]).networks.values()
                              for name in ("resnet", "pix2pix-unet-resize", "cut-resnet"))

    def ladder(networks: Any, graphs_wait: bool) -> list[str]:
        seen, plan = [], memory.PLANS["plain"]
        while plan is not None:
            seen.append(plan.name)
            plan = memory.leaner(plan, networks, graphs_wait)
        return seen

    assert ladder(networks, True) == list(memory.LADDER) and memory.LADDER[-1] == "strips_blocks"
    assert ladder(cut, CUTConfig().build(3, 3).graphs_wait) == list(memory.LADDER)
    assert memory.leaner(memory.PLANS["blocks"], networks, True).name == "strips"
    assert build(CONFIGS["pix2pix-unet-resize"]).graphs_wait, "of the fake that D has seen before it is G's turn"
    assert ladder(pix2pix, True) == ["plain", "split", "preact", "replay", "strips"]
    assert ladder(pix2pix, False) == ["plain", "split", "preact", "strips"], "a phase is not redone as it was"


def test_asking_what_a_plan_does_changes_nothing() -> None:
    """Plans differ in what they do to a network just where the network differs once they are applied."""
    network = build(CONFIGS["cut-resnet"]).generator_ab

    def applied() -> list[Any]:
        return [(getattr(part, "keep", None), getattr(part, "num_strips", None)) for part in network.modules()]

    before, does, looks = applied(), {}, {}
    for name, plan in memory.PLANS.items():
        does[name] = memory.effect(plan, [network], graphs_wait=False)[2:]
    assert applied() == before
    for name, plan in memory.PLANS.items():
        memory.apply(plan, network)
        looks[name] = applied()
    for one in PLANS:
        assert [does[one] == does[other] for other in PLANS] == [looks[one] == looks[other] for other in PLANS], one


def test_a_plan_is_applied_whatever_was_applied_before() -> None:
    """The ladder changes plans in the middle of a training."""
    changed = build(CONFIGS["resnet"]).generator_ab
    for second in PLANS:
        fresh = build(CONFIGS["resnet"]).generator_ab
        memory.apply(memory.PLANS[second], fresh)
        for first in PLANS:
            memory.apply(memory.PLANS[first], changed)
            memory.apply(memory.PLANS[second], changed)
            for one, other in zip(changed.modules(), fresh.modules(), strict=True):
                assert getattr(one, "keep", None) == getattr(other, "keep", None), (first, second)


def large_step(what: str, plan: str, limit_gib: float) -> dict[str, Any]:
    script = Path(__file__).with_name("large_step.py")
    done = subprocess.run([sys.executable, str(script), what, plan, str(limit_gib * 1024)], capture_output=True,
                          text=True, timeout=4 * 3600, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    assert all(result["moved"].values()) and not result["notes"]
    assert all(math.isfinite(loss) for loss in result["losses"].values())
    return result


@pytest.mark.slow
@pytest.mark.parametrize(("what", "plan", "limit_gib"), [
    ("cyclegan", "strips", 12.0), ("pix2pix", "strips", 4.5), ("monet2photo_2000", "strips", 12.0),
    ("maps_2000", "blocks", 4.5), ("monet2photo_growing_2000", "replay", 5.0),
    ("monet2photo_coarse_to_fine_2000", "strips_blocks", 6.0), ("maps_coarse_to_fine_2000", "strips_blocks", 9.5)])
def test_a_real_step_of_2000_px_ends_under_a_hard_limit_of_memory(what: str, plan: str, limit_gib: float) -> None:
    """Full width, float32, on a CPU: twice what fp16 takes on a card, and the textbook step is predicted far more.

    Of a recipe, a step of its last stage.
    """
    assert large_step(what, plan, limit_gib)["predicted_plain_bytes"] > limit_gib * 2**30


@pytest.mark.slow
def test_a_real_step_of_the_paired_networks_that_have_grown_to_2000_px_takes_a_few_gigabytes() -> None:
    """They are so narrow outside that the textbook step would fit, too."""
    large_step("maps_growing_2000", "split", 3.5)
