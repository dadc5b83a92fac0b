"""The networks from noise are those of their papers: their sizes, their growth, what they begin as."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from translate.networks import (
    BigGANConfig,
    BigGANDiscriminatorConfig,
    DCGANConfig,
    DCGANDiscriminatorConfig,
    MLPConfig,
    MLPDiscriminatorConfig,
    PGGANConfig,
    PGGANDiscriminatorConfig,
)
from translate.networks.growing import add_level, downsampled_2x2, extend, fade_in, upsampled
from translate.networks.latent.mlp import Dense
from translate.networks.latent.pggan import PixelNorm, equalised
from translate.translators.codes import Codes
from translate.translators.noise import NoiseConfig


def num_parameters(config: Any, *build: int, levels: int = 0) -> int:
    with torch.device("meta"):
        network = config.build(*build)
        if levels:
            extend(config, network, levels, fading=False)
    return sum(parameter.numel() for parameter in network.parameters())


IMAGE_LAYERS = 4 * 512 + 256 + 128 + 64 + 32  # channels of the levels below 1024 px that had a layer to an image


@pytest.mark.parametrize(("found", "published"), [
    # pytorch/examples, dcgan/main.py with its defaults; its D has no bias in the first layer
    (lambda: num_parameters(DCGANConfig(), 0, 3), 3_576_704),
    (lambda: num_parameters(DCGANDiscriminatorConfig(), 3), 2_765_568 + 64),
    # TensorFlow's tutorial of DCGAN, which the lectures' code follows; its batch norm behind the dense layer has two
    # numbers for each of 7·7·256 features, here for each of 256 channels
    (lambda: num_parameters(DCGANConfig(side=28), 0, 1), 2_305_472 - 2 * (7 * 7 * 256 - 256)),
    (lambda: num_parameters(DCGANDiscriminatorConfig(side=28, norm="none"), 1), 212_865),
    # The lectures' perceptrons: dense layers with biases
    (lambda: num_parameters(MLPConfig(), 0, 1), sum((a + 1) * b for a, b in (
        (100, 128), (128, 256), (256, 512), (512, 1024), (1024, 784)))),
    (lambda: num_parameters(MLPDiscriminatorConfig(), 1), sum((a + 1) * b for a, b in (
        (784, 512), (512, 256), (256, 128), (128, 1)))),
    # Karras et al. 2018, table 2: 23.1 M; the authors' code prints these numbers for 1024 px, which count the layers to
    # and from images of every level, of which a grown network here has the last alone
    (lambda: num_parameters(PGGANConfig(), 0, 3, levels=8), 23_079_115 - 3 * (IMAGE_LAYERS + 8)),
    # Brock et al. 2019, table 4 (70.43 M) and appendix B; the authors' PyTorch code prints 70,433,988 and 87,982,370.
    # Attention of C channels has 2·C² weights here and 1.25·C² there
    (lambda: num_parameters(BigGANConfig(), 1000, 3), 70_433_988 + 3 * 192**2 // 4),
    (lambda: num_parameters(BigGANDiscriminatorConfig(), 3, 1000), 87_982_370 + 3 * 96**2 // 4),
    (lambda: num_parameters(PGGANDiscriminatorConfig(), 3, levels=8), 23_087_249 - 4 * IMAGE_LAYERS),
])
def test_networks_have_the_published_number_of_parameters(found: Callable[[], int], published: int) -> None:
    assert found() == published


@pytest.mark.parametrize(("side", "latent"), [(28, 100), (32, 100), (64, 100), (128, 100)])
def test_dcgans_draw_and_judge_images_of_their_side(side: int, latent: int) -> None:
    with torch.device("meta"):
        drawn = DCGANConfig(side=side, width=2).build(3, 2)(torch.empty(2, latent + 3, 1, 1))
        judged = DCGANDiscriminatorConfig(side=side, width=2).build(2, 3)(drawn, torch.empty(2, 3, 1, 1))
    assert drawn.shape == (2, 2, side, side) and judged.shape == (2, 1, 1, 1)


class Operations(TorchDispatchMode):
    """The names of all operations within the block."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def test_perceptrons_are_matrix_products_and_no_convolutions_which_take_a_processor_three_times_as_long() -> None:
    """Drawing, judging, the gradients of both and of D's slope; and a dense layer is the 1×1 convolution it is kept as.
    """
    generator = MLPConfig(side=8, widths=(6,)).build(2, 1)
    judge = MLPDiscriminatorConfig(side=8, widths=(6,)).build(1, 2)
    with Operations() as done:
        image = generator(torch.randn(3, 102, 1, 1))
        (slope,) = torch.autograd.grad(judge(image, torch.randn(3, 2, 1, 1)).sum(), image, create_graph=True)
        slope.square().sum().backward()
    assert any("mm" in name for name in done.names) and not any("conv" in name for name in done.names)

    dense, x = Dense(5, 4).double(), torch.randn(3, 5, 1, 1, dtype=torch.float64, requires_grad=True)
    given = [x, dense.weight, dense.bias]
    for found, expected in zip(torch.autograd.grad(dense(x).square().sum(), given), torch.autograd.grad(
            F.conv2d(x, dense.weight, dense.bias).square().sum(), given), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["mlp", "dcgan", "mlp judge"])
def test_a_network_hears_a_class_from_its_first_step_as_loud_as_all_that_it_is_joined_to(name: str) -> None:
    """A one-hot class of 10 beside 100 latents or 784 pixels would else be a tenth or a 28th as loud."""
    first = first_layer(name, 10, num_classes=10)
    joined = first.in_channels - 10
    silent = first(torch.zeros(1, joined + 10, 1, 1))
    latents = first(F.pad(torch.randn(200, joined, 1, 1), (0, 0, 0, 0, 0, 10))) - silent
    classes = first(torch.cat([torch.zeros(10, joined), torch.eye(10)], dim=1)[:, :, None, None]) - silent
    assert classes.std().item() == pytest.approx(latents.std().item(), rel=0.1)


def first_layer(name: str, conditions: int, num_classes: int, codes: Codes | None = None) -> Any:
    """The first layer of a translator's generator, or of its judge, with the same draws at each call."""
    dcgan = name == "dcgan"
    config = NoiseConfig(
        generator=DCGANConfig(side=32, width=32) if dcgan else MLPConfig(),
        discriminator=DCGANDiscriminatorConfig(side=32, width=2) if dcgan else MLPDiscriminatorConfig(), codes=codes)
    torch.manual_seed(0)
    translator: Any = config.build(conditions, 1, num_classes=num_classes)
    network = translator.discriminator_b if name == "mlp judge" else translator.generator_ab
    return network.eval().chain[0].conv


@pytest.mark.parametrize("name", ["mlp", "dcgan", "mlp judge"])
def test_weights_of_vectors_and_codes_are_as_drawn_beside_those_of_a_class(name: str) -> None:
    """Of ten conditions the first three are a class, the others a vector; twelve codes stand before them."""
    codes = Codes(categorical=(10,), continuous=2)
    drawn, loud = (first_layer(name, 10, number, codes).weight for number in (0, 3))
    drawn, loud = ((each if name == "dcgan" else each.transpose(0, 1)).flatten(1) for each in (drawn, loud))
    joined = len(drawn) - 10
    torch.testing.assert_close(loud[:joined], drawn[:joined], rtol=0, atol=0)
    torch.testing.assert_close(loud[joined:joined + 3], drawn[joined:joined + 3] * joined**0.5)
    torch.testing.assert_close(loud[joined + 3:], drawn[joined + 3:], rtol=0, atol=0)


def grown(levels: int = 2) -> tuple[nn.Module, nn.Module]:
    """A generator and a discriminator that have just begun the last of so many levels, double, of one condition."""
    torch.manual_seed(0)
    configs = PGGANConfig(width=6, latent=5, channels=48), PGGANDiscriminatorConfig(width=6, channels=48)
    networks = configs[0].build(1, 2).double(), configs[1].build(2, 1).double()
    for config, network in zip(configs, networks, strict=True):
        extend(config, network, levels, fading=True)
    return networks


def test_a_level_changes_nothing_at_first_and_nothing_is_left_of_the_old_ends_at_last() -> None:
    """At α = 0 a grown G is e ∘ old G, and a grown D is old D ∘ s; at α = 1 dropping what faded changes nothing."""
    old, fresh = grown(1), grown(1)
    given, condition = torch.randn(3, 6, 1, 1).double(), torch.randn(3, 1, 1, 1).double()
    for config, network in zip((PGGANConfig(width=6, latent=5, channels=48),
                                PGGANDiscriminatorConfig(width=6, channels=48)), fresh, strict=True):
        fade_in(network, 1.0)
        add_level(config, network)
        fade_in(network, 0.0)
    for network in old:
        fade_in(network, 1.0)
    image = torch.randn(3, 2, 16, 16).double()
    torch.testing.assert_close(fresh[0](given), upsampled(old[0](given)))
    torch.testing.assert_close(fresh[1](image, condition), old[1](downsampled_2x2(image), condition))

    for network, inputs in ((fresh[0], (given,)), (fresh[1], (image, condition))):
        fade_in(network, 1.0)
        before = network(*inputs)
        network.drop_faded()
        torch.testing.assert_close(network(*inputs), before)
        assert len(network.newest()) == 3


def test_an_equalised_layer_is_convolution_leaky_relu_and_pixel_norm_of_scaled_weights() -> None:
    """Written out as the paper has it: activation, then norm (section 4.2), weights times He's constant (4.1)."""
    torch.manual_seed(0)
    conv, x = equalised(nn.Conv2d(4, 3, 3, 1, 1)).double(), torch.randn(2, 4, 5, 5).double()
    y = F.leaky_relu(F.conv2d(x, conv.parametrizations.weight.original * (2 / (4 * 9)) ** 0.5, conv.bias, 1, 1), 0.2)
    wanted = y / (y.square().mean(1, keepdim=True) + 1e-8).sqrt()
    torch.testing.assert_close(F.leaky_relu(PixelNorm(0.2)(conv(x)), 0.2), wanted)
    assert equalised(nn.Conv2d(64, 64, 3)).parametrizations.weight.original.std().item() == pytest.approx(1, abs=0.02)
