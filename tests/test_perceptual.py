"""The perceptual loss compares what pretrained networks see, and says what it lacks where it has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from tests.covering import one_in
from tests.mobilenet import write_mobilenet
from tests.steps import build, gradients, make_batch, peak_of_step, step
from translate.errors import DataError, RecipeError
from translate.files import sha256
from translate.losses import VGG19, MobileNetV2, PerceptualLoss
from translate.networks import ResNetConfig, features, memory
from translate.networks.features import mobilenet_features, vgg19_features
from translate.recipe import Recipe
from translate.schema import validate
from translate.translators import CycleGANConfig, Pix2PixConfig

MEAN, DEVIATION = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Sequential]:
    """A file of random weights under VGG19's name (without its classifier, which is not read), and their network."""
    torch.manual_seed(0)
    layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["E"])
    path = tmp_path_factory.mktemp("torch") / "hub" / "checkpoints" / features.VGG19_FILE
    path.parent.mkdir(parents=True)
    torch.save({f"features.{name}": value for name, value in layers.state_dict().items()}, path)
    return path, layers.eval()


@pytest.fixture
def weights(vgg: tuple[Path, nn.Sequential], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Sequential:
    monkeypatch.setattr(features, "VGG19_SHA256", sha256(vgg[0]))
    monkeypatch.setenv("TORCH_HOME", str(vgg[0].parent.parent.parent))
    write_mobilenet(tmp_path / "data", monkeypatch)
    return vgg[1]


def test_vgg19_is_looked_into_where_pix2pixhd_looks(weights: nn.Sequential, vgg: tuple[Path, nn.Sequential]) -> None:
    """After relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1, of images as torchvision's weights want them."""
    image = torch.rand(2, 3, 48, 32) * 2 - 1
    found = vgg19_features(vgg[0])(image)
    x, expected = ((image + 1) / 2 - MEAN) / DEVIATION, []
    for number, layer in enumerate(weights):
        x = layer(x.clone())
        if number in (1, 6, 11, 20, 29):
            expected.append(x)
    assert [each.shape[1:] for each in found] == [(64, 48, 32), (128, 24, 16), (256, 12, 8), (512, 6, 4), (512, 3, 2)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_the_distance_is_the_weighted_sum_of_the_stages_and_none_of_it_is_the_truths_to_learn_from(
        weights: nn.Sequential) -> None:
    loss = VGG19(weight=2.0).build()
    image, truth = (torch.rand(1, 3, 32, 32, requires_grad=True) for _ in range(2))
    found = loss(image, truth)
    stages = zip(loss.features(image), loss.features(truth), (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1), strict=True)
    assert found.item() == pytest.approx(2 * sum(share * (a - b).abs().mean().item() for a, b, share in stages))
    found.backward()
    assert image.grad.abs().sum() > 0 and truth.grad is None
    assert all(parameter.grad is None for parameter in loss.parameters())
    assert loss(truth, truth).item() == 0


def test_grey_images_are_looked_at_as_grey_ones(weights: nn.Sequential) -> None:
    loss = MobileNetV2().build()
    grey = torch.rand(2, 1, 40, 40)
    colours = loss(grey.expand(-1, 3, -1, -1), 1 - grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(loss(grey, 1 - grey), colours)


@pytest.mark.parametrize("config", one_in(2, [Pix2PixConfig, CycleGANConfig]))
def test_kind_and_weight_of_the_perceptual_loss_change_the_gradients_and_its_network_is_not_trained(
        config: Any, weights: nn.Sequential) -> None:
    small = {"generator": ResNetConfig(width=4, blocks=1), "discriminator": {"kind": "pixel", "width": 4}}
    found = []
    for perceptual in (None, {"kind": "mobilenet"}, {"kind": "mobilenet", "weight": 3.0}, {"kind": "vgg19"}):
        translator = build(config(**small, perceptual=perceptual), torch.float32)
        before = {name: value.clone() for name, value in helper(translator).items()}
        losses = step(translator, make_batch((48, 32), dtype=torch.float32)).losses
        assert any(name.startswith("perceptual") for name in losses) == (perceptual is not None)
        assert all(torch.equal(before[name], value) for name, value in helper(translator).items())
        assert not any("perceptual" in name for name in translator.modules), "nothing to save or to give away"
        found.append(torch.cat([value.flatten() for name, value in gradients(translator).items()
                                if name.startswith("generator")]))
    for number, one in enumerate(found):
        assert all(not torch.allclose(one, other) for other in found[:number])


def helper(translator: Any) -> dict[str, Tensor]:
    return {} if translator.perceptual is None else translator.perceptual.state_dict()


@pytest.mark.parametrize(("kind", "advice"), [
    ("vgg19", r"vgg19 needs vgg19-dcbb9e9d.pth \(548 MB\) in .*download https://"),
    ("mobilenet", r"mobilenet needs mobilenet_v2-b0353104.pth \(14 MB\) in .*run: translate data features")])
def test_where_weights_are_missing_the_error_says_which_and_a_plan_needs_none(
        kind: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("DIPTYCH_DATA", str(tmp_path))
    config = Pix2PixConfig(generator=ResNetConfig(width=4, blocks=1), perceptual={"kind": kind})
    with pytest.raises(DataError, match=advice):
        config.build(3, 3)
    peaks = [peak_of_step(each, 128, memory.PLANS["split"], "fp32", "cpu")
             for each in (config, config.model_copy(update={"perceptual": None}))]
    assert peaks[0] > peaks[1] + 4 * sum(value.numel() for value in config.perceptual.network(None).parameters())


def test_another_file_of_weights_is_not_opened(vgg: tuple[Path, nn.Sequential]) -> None:
    for make in (vgg19_features, mobilenet_features):
        with pytest.raises(DataError, match="not the expected weights, so they were not loaded"):
            make(vgg[0])


def test_images_of_other_channels_are_refused_by_the_recipe() -> None:
    document = {"name": "x", "data": {"kind": "unpaired", "folder": "d", "image_a": {"channels": 4}},
                "translator": {"kind": "cyclegan", "perceptual": {"kind": "vgg19"}, "weights": {"identity": 0}},
                "stages": [{"images": 1}]}
    with pytest.raises(RecipeError, match=r"translator.perceptual: its network knows .* not of 4 \(side A\)"):
        validate(Recipe, document, "x")
    paired = document | {"data": document["data"] | {"kind": "paired"},
                         "translator": {"kind": "pix2pix", "perceptual": {"kind": "vgg19"}}}
    assert validate(Recipe, paired, "x").translator.perceptual.weight == 10.0


def test_stages_are_computed_again_rather_than_kept(weights: nn.Sequential) -> None:
    """Of full resolution only relu1_1 waits for the backward pass, and the truth's; conv1_2 and relu1_2 do not."""
    largest: set[int] = set()

    def keep(tensor: Tensor) -> Tensor:
        if tensor.numel() >= 64 * 64 * 64:
            largest.add(tensor.data_ptr())
        return tensor

    loss, image = VGG19().build(), torch.rand(1, 3, 64, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = loss(image, torch.rand(1, 3, 64, 64))
    assert isinstance(loss, PerceptualLoss) and out.requires_grad
    assert len(largest) == 2
