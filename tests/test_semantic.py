"""The consistency loss: what it adds to a CycleGAN's gradients, that every memory plan agrees, and that it works."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.bounds import RoundingBound
from tests.covering import each_value
from tests.steps import build, gradients, make_batch, peak_of_step, step, worst_error
from tests.textbook import cyclegan_reference
from translate import files
from translate.errors import CheckpointError, RecipeError
from translate.networks import PatchGANConfig, ResNetConfig, memory
from translate.networks.task_networks import (
    RECORD,
    CNNConfig,
    FCNConfig,
    TaskConfig,
    TorchvisionConfig,
    load_task,
    save_task,
)
from translate.schema import validate
from translate.translators import CycleGANConfig
from translate.translators.cyclegan import SemanticConfig

Gradients = dict[str, Tensor]
NETWORKS: dict[str, TaskConfig] = {"cnn": CNNConfig(width=4, downs=2), "fcn": FCNConfig(width=4, downs=1)}


def write_task(folder: Path, config: TaskConfig, channels: int = 3, classes: int = 4) -> Path:
    """A task network whose opinions differ from image to image."""
    torch.manual_seed(5)
    network = config.build(channels, classes)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3.0)
    files.write_json(folder / RECORD, save_task(folder, network, config, channels, classes))
    return folder


def cyclegan(task: Path, **semantic: Any) -> CycleGANConfig:
    return CycleGANConfig(generator=ResNetConfig(width=4, blocks=1), discriminator=PatchGANConfig(width=4, layers=2),
                          pool=0, semantic=SemanticConfig(task=task, **semantic))


def with_semantic(translator: Any, weight: float, back: float) -> dict[str, Tensor]:
    """The textbook gradients and, by one more backward pass of a plain loss, those of the consistency."""
    batch = make_batch((24, 33), 3)
    expected = cyclegan_reference(translator, batch)
    task = translator.frozen["task"]
    loss = sum((factor * F.cross_entropy(task(there(real)), task(real).argmax(1)) for factor, there, real in (
        (weight, translator.generator_ab, batch.a), (back, translator.generator_ba, batch.b))), torch.zeros(()))
    for name, network in (("generator_ab", translator.generator_ab), ("generator_ba", translator.generator_ba)):
        names = [f"{name}.{parameter}" for parameter, _ in network.named_parameters()]
        added = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True, allow_unused=True)
        for parameter, gradient in zip(names, added, strict=True):
            expected[parameter] = expected[parameter] + (0 if gradient is None else gradient)
    return expected


DISTANCE = functools.partial(worst_error, floor=0.05)


@pytest.fixture(scope="module")
def textbook(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[CycleGANConfig, Gradients, float]]:
    """`textbook(name)` is a CycleGAN that asks this task network, its gradients, and their bound; made once each."""
    @functools.cache
    def of(name: str) -> tuple[CycleGANConfig, Gradients, RoundingBound]:
        task = write_task(tmp_path_factory.mktemp("task"), NETWORKS[name])
        config = cyclegan(task, weight=2.0, back=0.5)
        expected = with_semantic(build(config), 2.0, 0.5)
        plain = cyclegan_reference(build(config), make_batch((24, 33), 3))
        assert worst_error(expected, plain) > 1e-3, "it adds nothing"
        return config, expected, RoundingBound(expected, lambda: with_semantic(build(config), 2.0, 0.5), DISTANCE)
    return of


@each_value(share=24, name=list(NETWORKS), plan=list(memory.PLANS))
def test_every_plan_gives_the_gradients_of_the_textbook_consistency(name: str, plan: str, textbook: Any) -> None:
    """In micro-batches besides, and with both directions weighted differently.

    The gradients that are not 0 reach a tenth of their network's largest at least; those of biases in front of a norm
    are 0 up to rounding.
    """
    config, expected, bound = textbook(name)
    for micro_batch in (None, 1):
        translator = build(config)
        update = step(translator, make_batch((24, 33), 3), plan, micro_batch)
        assert DISTANCE(gradients(translator), expected) <= bound
        assert {"semantic_ab", "semantic_ba"} <= update.losses.keys()


def test_every_option_of_the_consistency_changes_the_gradients(tmp_path: Path) -> None:
    first, second = (write_task(tmp_path / name, config) for name, config in NETWORKS.items())
    found = []
    for task, changes in ((first, {}), (second, {}), (first, {"weight": 2.0}), (first, {"back": 1.0})):
        translator = build(cyclegan(task, **changes))
        step(translator, make_batch((33, 50), 2))
        found.append(gradients(translator))
    for number, other in enumerate(found[1:]):
        assert worst_error(other, found[0]) > 1e-6, number


def test_a_direction_of_weight_nought_is_not_asked(tmp_path: Path) -> None:
    translator = build(cyclegan(write_task(tmp_path / "task", NETWORKS["cnn"]), weight=1.0, back=0.0))
    seen = []
    translator.frozen["task"].register_forward_hook(lambda *_: seen.append(1))
    assert "semantic_ba" not in step(translator, make_batch((33, 50))).losses and len(seen) == 2


def test_the_task_network_is_never_trained(tmp_path: Path) -> None:
    """Neither its weights, nor what its batch norm has seen; and no checkpoint or release holds it."""
    task = write_task(tmp_path / "task", NETWORKS["fcn"])
    translator = build(cyclegan(task))
    before = {name: value.clone() for name, value in translator.frozen["task"].state_dict().items()}
    step(translator, make_batch((33, 50)))
    assert all(torch.equal(before[name], value) for name, value in translator.frozen["task"].state_dict().items())
    assert all(parameter.grad is None for parameter in translator.frozen["task"].parameters())
    assert not any("task" in name for name in translator.modules)


def test_the_planner_counts_the_task_network(tmp_path: Path) -> None:
    small, large = (write_task(tmp_path / str(width), FCNConfig(width=width, downs=1)) for width in (2, 48))
    plain = CycleGANConfig(generator=ResNetConfig(width=4, blocks=1), discriminator=PatchGANConfig(width=4, layers=2),
                           pool=0)
    peaks = [peak_of_step(config, 64, memory.PLANS["split"], "fp32", "cpu")
             for config in (plain, cyclegan(small), cyclegan(large))]
    assert peaks[0] <= peaks[1] < peaks[2]


@pytest.mark.parametrize("config", [*NETWORKS.values(),
                                    TorchvisionConfig(name="lraspp_mobilenet_v3_large", pretrained=False),
                                    pytest.param(TorchvisionConfig(name="resnet18", pretrained=False),
                                                 marks=pytest.mark.slow)],
                         ids=["cnn", "fcn", "lraspp", "resnet18"])
def test_a_task_network_comes_back_from_its_folder_as_it_was(config: TaskConfig, tmp_path: Path) -> None:
    for channels in (1, 3):
        torch.manual_seed(channels)
        network, images = config.build(channels, 5), torch.randn(2, channels, 50, 66)
        folder = tmp_path / str(channels)
        files.write_json(folder / RECORD, save_task(folder, network, config, channels, 5))
        logits = load_task(tmp_path / str(channels), channels)(images)
        torch.testing.assert_close(logits, network.eval()(images), rtol=0, atol=0)
        assert logits.shape == ((2, 5, 50, 66) if config.per_pixel else (2, 5))
    with pytest.raises(CheckpointError, match="images with 1 channels, not 3"):
        load_task(tmp_path / "1", 3)


def test_a_damaged_or_missing_task_network_is_refused_by_name(tmp_path: Path) -> None:
    task = write_task(tmp_path / "task", NETWORKS["cnn"])
    content = bytearray((task / "task.safetensors").read_bytes())
    content[-1] ^= 1
    (task / "task.safetensors").write_bytes(bytes(content))
    for folder in (task, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match=f"{folder}: holds no task network, or a damaged one"):
            load_task(folder, 3)


def test_sides_of_different_channels_have_no_common_opinion(tmp_path: Path) -> None:
    from translate.recipe import Recipe

    with pytest.raises(RecipeError, match=r"translator\.semantic: one network sees images of A and B, which have 1"):
        validate(Recipe, {
            "name": "x", "data": {"kind": "unpaired", "folder": "x", "image_a": {"channels": 1}},
            "translator": {"kind": "cyclegan", "weights": {"identity": 0}, "semantic": {"task": "t"}},
            "stages": [{"images": 1}]}, "x")


# -- the classic failure: classes exchanged ----------------------------------------------------------------------------


def discs(num: int, seed: int) -> tuple[Tensor, Tensor]:
    """(num, 3, 16, 16) discs, and their class: 0 bright on dark, 1 dark on bright. Both domains look alike."""
    random = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    centre = 5 + 6 * torch.rand(num, 2, 1, 1, generator=random)
    inside = ((rows - centre[:, 0]) ** 2 + (columns - centre[:, 1]) ** 2) < 16
    classes = torch.randint(2, (num,), generator=random)
    image = torch.where(inside, 0.7, -0.7) * torch.where(classes == 0, 1.0, -1.0)[:, None, None]
    return image[:, None].expand(-1, 3, -1, -1) + 0.05 * torch.randn(num, 3, 16, 16, generator=random), classes


def trained_classifier(config: TaskConfig, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    network = config.build(3, 2)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for number in range(60):
        images, classes = discs(16, 1000 * seed + number)
        optimizer.zero_grad()
        F.cross_entropy(network(images), classes).backward()
        optimizer.step()
    return network.eval()


@pytest.mark.slow
def test_the_consistency_leads_out_of_exchanged_classes_that_a_cyclegan_stays_in(
        tmp_path: Path, record_property: Any) -> None:
    """Two domains that look alike, and generators that invert colours: discriminators and cycle have nothing against
    it, so a CycleGAN leaves the classes exchanged. A judge that had no part in the training counts them."""
    config = CNNConfig(width=4, downs=2)
    task = tmp_path / "task"
    files.write_json(task / RECORD, save_task(task, trained_classifier(config, 1), config, 3, 2))
    judge = trained_classifier(config, 2)
    swaps = {}
    for name, semantic in (("without", None), ("with", SemanticConfig(task=tmp_path / "task", weight=10.0, back=10.0))):
        torch.manual_seed(0)
        translator = CycleGANConfig(
            generator=ResNetConfig(width=4, blocks=1), discriminator=PatchGANConfig(width=4, layers=1), pool=0,
            weights={"identity": 0.0}, semantic=semantic).build(3, 3, 0)
        begin_inverted(translator)
        images, classes = discs(200, 99)
        start = swap_rate(judge, translator.generator_ab, images, classes)
        train_on_discs(translator, 200)
        swaps[name] = swap_rate(judge, translator.generator_ab, images, classes)
        record_property(f"swap rate {name} the consistency, before → after", f"{start:.3f} → {swaps[name]:.3f}")
        assert start > 0.95
    assert swap_rate(judge, nn.Identity(), images, classes) < 0.02, "the control: untranslated images"
    assert swaps["without"] > 0.9 and swaps["with"] < 0.1, swaps


def begin_inverted(translator: Any) -> None:
    optimizer = torch.optim.Adam([*translator.generator_ab.parameters(), *translator.generator_ba.parameters()], 1e-2)
    for number in range(120):
        images, _ = discs(8, 5000 + number)
        optimizer.zero_grad()
        loss = sum(F.l1_loss(generator(images), -images) for generator in (translator.generator_ab,
                                                                           translator.generator_ba))
        loss.backward()
        optimizer.step()


def train_on_discs(translator: Any, steps: int) -> None:
    from accelerate import Accelerator

    from translate.data import Batch
    from translate.optimizers import Adam
    from translate.training.update import Update

    optimizers = {phase: Adam(lr=2e-3).build(parameter for network in networks.values()
                                             for parameter in network.parameters())
                  for phase, networks in translator.phases.items()}
    for number in range(steps):
        (a, _), (b, _) = discs(8, 20_000 + number), discs(8, 40_000 + number)
        translator.step(Batch(a, b, tuple(range(8))), Update(translator, optimizers, Accelerator(cpu=True),
                                                             memory.PLANS["split"], "fp32"))


@torch.no_grad()
def swap_rate(judge: nn.Module, generator: nn.Module, images: Tensor, classes: Tensor) -> float:
    return float((judge(generator(images)).argmax(1) != classes).float().mean())
