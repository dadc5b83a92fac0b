"""The networks are the published ones, take any size, and every option of theirs does something."""

from __future__ import annotations

import typing

import pytest
import torch
from torch import nn

from translate.networks import (
    AutoencoderConfig,
    DiscriminatorConfig,
    GeneratorConfig,
    PatchGANConfig,
    PixelConfig,
    ResNetConfig,
    UNetConfig,
)
from translate.networks.layers import PositionalDropout, make_norm, positional_mask, seed_dropout

SMALL: dict[type, dict[str, object]] = {
    ResNetConfig: {"width": 4, "blocks": 2}, UNetConfig: {"width": 4, "downs": 6},
    PatchGANConfig: {"width": 4, "layers": 2}, PixelConfig: {"width": 4},
    AutoencoderConfig: {"width": 4, "downs": 2},
}
OTHER = {  # another value for each option, to be seen in the output
    "width": 6, "blocks": 1, "downs": 5, "layers": 3, "norm": "none", "upsample": "resize", "spectral": True,
    "minibatch_std": True, "minibatch_kernels": 3,
}


def other(config: type, option: str) -> object:
    """Another value than the default's."""
    if option == "dropout":
        return 0.0 if config.model_fields[option].default else 0.5
    return "instance" if (config, option) == (AutoencoderConfig, "norm") else OTHER[option]


def members(union: object) -> list[type]:
    """The config classes of a registry union."""
    return list(typing.get_args(typing.get_args(union)[0]))


GENERATORS, DISCRIMINATORS = members(GeneratorConfig), members(DiscriminatorConfig)


def parameters(network: nn.Module) -> float:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("network", "published"), [
    (ResNetConfig().build(3, 3), 11_378_179), (ResNetConfig(blocks=6).build(3, 3), 7_837_699),
    (UNetConfig().build(3, 3), 54_413_955), (PatchGANConfig().build(3), 2_764_737),
    (PatchGANConfig(norm="batch").build(6), 2_768_705)], ids=["resnet-9", "resnet-6", "unet-256", "patch-3", "patch-6"])
def test_networks_have_the_published_sizes(network: nn.Module, published: int) -> None:
    assert parameters(network) == published


def test_patchgan_judges_patches_of_70_pixels() -> None:
    """Isola et al. 2017 name their discriminator by its receptive field: a logit's gradient reaches 70×70 pixels."""
    network = PatchGANConfig(norm="none", width=4).build(3).double()
    image = torch.randn(1, 3, 256, 256, dtype=torch.float64, requires_grad=True)
    logits = network(image)
    logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
    rows, columns = image.grad[0].abs().sum(0).nonzero(as_tuple=True)
    assert int(rows.max() - rows.min()) + 1 == 70
    assert int(columns.max() - columns.min()) + 1 == 70


@pytest.mark.parametrize("config", GENERATORS, ids=lambda config: config.__name__)
@pytest.mark.parametrize("size", [(8, 8), (1, 1), (3, 70), (65, 66), (64, 96), (127, 33)])
def test_generators_return_the_size_they_are_given(config: type, size: tuple[int, int]) -> None:
    network = config(**SMALL[config], norm="instance").build(3, 2)
    out = network(torch.randn(2, 3, *size))
    assert out.shape == (2, 2, *size)
    assert out.isfinite().all() and out.abs().max() <= 1


@pytest.mark.parametrize("config", GENERATORS, ids=lambda config: config.__name__)
def test_padding_leaves_images_that_fit_alone(config: type) -> None:
    """An image whose sides fit is the network's own input: padding must not blur the claim of published networks."""
    network = config(**SMALL[config]).build(3, 3).eval()
    image = torch.randn(1, 3, 2 * network.multiple, 2 * network.multiple)
    torch.testing.assert_close(network(image), network.translate(image), rtol=0, atol=0)


def options(configs: list[type]) -> list[tuple[type, str]]:
    return [(config, name) for config in configs for name in config.model_fields if name != "kind"]


@pytest.mark.parametrize(("config", "option"), options(GENERATORS + DISCRIMINATORS),
                         ids=lambda value: getattr(value, "__name__", value))
def test_every_option_of_a_network_changes_its_output(config: type, option: str) -> None:
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))

    def output(**changes: object) -> torch.Tensor:
        torch.manual_seed(0)
        configured = config(**(SMALL[config] | changes))
        network = configured.build(3, 3) if config in GENERATORS else configured.build(3)
        return network.train()(image)

    plain, changed = output(), output(**{option: other(config, option)})
    assert plain.shape != changed.shape or not torch.allclose(plain, changed)


@pytest.mark.parametrize("config", DISCRIMINATORS, ids=lambda config: config.__name__)
def test_a_discriminators_smallest_side_is_the_smallest(config: type) -> None:
    configured = config(**SMALL[config], norm="none")
    network = configured.build(3)
    assert min(network(torch.randn(1, 3, configured.smallest, configured.smallest)).shape[2:]) == 1
    if configured.smallest > 1:
        with pytest.raises(RuntimeError):
            network(torch.randn(1, 3, configured.smallest - 2, configured.smallest - 2))


def test_resize_convolution_has_no_checkerboard_on_a_flat_image() -> None:
    """A transposed convolution of kernel 3 and stride 2 covers pixels unevenly; resize-convolution cannot."""
    image = torch.full((1, 3, 128, 128), 0.3)  # large: zero padding is felt some way in from the borders
    spread = {}
    for upsample in ("transposed", "resize"):
        torch.manual_seed(0)
        network = ResNetConfig(width=8, blocks=1, norm="none", upsample=upsample).build(3, 3)
        out = network(image)[0, 0, 48:80, 48:80]
        spread[upsample] = ((out.max() - out.min()) / out.abs().max()).item()
    assert spread["resize"] < 1e-4 and spread["transposed"] > 0.1


@pytest.mark.parametrize("samples", [1, 2])
def test_instance_norm_has_the_right_gradient_in_every_memory_layout(samples: int) -> None:
    """torch's own is wrong on a CPU for one sample when the gradient arrives in channels_last (2.15; docs/log.md)."""
    formats = (torch.contiguous_format, torch.channels_last)
    image = torch.randn(samples, 6, 5, 7, dtype=torch.float64)
    weight = torch.randn_like(image)

    def gradient(norm: typing.Callable[[torch.Tensor], torch.Tensor], of: torch.memory_format, to: torch.memory_format
                 ) -> torch.Tensor:
        leaf = image.clone(memory_format=of).requires_grad_()
        norm(leaf).backward(weight.clone(memory_format=to))
        return leaf.grad

    def plain(x: torch.Tensor) -> torch.Tensor:
        variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
        return (x - mean) / (variance + 1e-5).sqrt()

    expected = gradient(plain, *formats[:1] * 2)
    for of in formats:
        for to in formats:
            torch.testing.assert_close(gradient(make_norm("instance", 6), of, to), expected, rtol=1e-10, atol=1e-12)


class TestPositionalDropout:
    def test_the_mask_drops_the_share_it_says_and_keeps_the_mean(self) -> None:
        dropout = PositionalDropout(0.3, layer=2)
        out = dropout(torch.ones(4, 16, 64, 64))
        assert (out == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
        assert out.mean().item() == pytest.approx(1.0, abs=0.02)

    def test_strips_of_a_mask_are_the_mask_of_the_whole(self) -> None:
        whole = positional_mask(torch.Size((2, 3, 40, 7)), (5, 6), 1, 0.5, torch.device("cpu"))
        strip = positional_mask(torch.Size((2, 3, 11, 7)), (5, 6), 1, 0.5, torch.device("cpu"), first_row=13)
        assert torch.equal(whole[:, :, 13:24], strip)

    def test_masks_differ_between_samples_layers_channels_rows_and_columns(self) -> None:
        mask = positional_mask(torch.Size((2, 2, 64, 64)), (7, 8), 0, 0.5, torch.device("cpu")).float()
        other = positional_mask(torch.Size((2, 2, 64, 64)), (7, 8), 1, 0.5, torch.device("cpu")).float()
        for first, second in [(mask[0], mask[1]), (mask, other), (mask[:, 0], mask[:, 1]),
                              (mask[:, :, 1:], mask[:, :, :-1]), (mask[..., 1:], mask[..., :-1])]:
            assert abs(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1].item()) < 0.05

    def test_a_sample_meets_the_same_mask_whatever_else_is_in_its_batch(self) -> None:
        network = UNetConfig(width=4, downs=6, norm="instance").build(3, 3)
        images = torch.randn(2, 3, 64, 64)
        seed_dropout([network], (11, 12))
        both = network(images)
        seed_dropout([network], (12,))
        torch.testing.assert_close(network(images[1:]), both[1:])
