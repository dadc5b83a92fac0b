"""The networks are the published ones, take any size, and every option of theirs does something."""

from __future__ import annotations

import copy
import typing
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.flop_counter import FlopCounterMode

from tests.networks import DISCRIMINATORS, GENERATORS, SMALL
from translate.networks import (
    AutoencoderConfig,
    CoarseToFineConfig,
    PatchGANConfig,
    ResNetConfig,
    UNetConfig,
)
from translate.networks.attention import Attention
from translate.networks.dropout import PositionalDropout, positional_mask, seed_dropout
from translate.networks.enlarging import enlarges_at_once
from translate.networks.layers import Layer, low_passed, make_norm
from translate.networks.normalised import computed_by, path_on
from translate.tiling.graph import TensorSource
from translate.tiling.lazy import LazyImage
from translate.tiling.recorded import Recording

OTHER = {  # another value for each option, to be seen in the output
    "width": 6, "blocks": 1, "downs": 5, "layers": 3, "norm": "none", "upsample": "resize", "spectral": True,
    "minibatch_std": True, "downsample": "blurred", "attention": True, "init": "orthogonal", "scales": 2,
    "fine_blocks": 2, "minibatch_kernels": 3, "image_skip": 4,
}


def other(config: type, option: str) -> object:
    """Another value than the default's."""
    if option == "dropout":
        return 0.0 if config.model_fields[option].default else 0.5
    return "instance" if (config, option) == (AutoencoderConfig, "norm") else OTHER[option]


def parameters(network: nn.Module) -> float:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("config", "channels", "published"), [
    (ResNetConfig(), (3, 3), 11_378_179), (ResNetConfig(blocks=6), (3, 3), 7_837_699),
    (UNetConfig(), (3, 3), 54_413_955), (PatchGANConfig(), (3,), 2_764_737),
    (PatchGANConfig(norm="batch"), (6,), 2_768_705), (PatchGANConfig(scales=3), (3,), 3 * 2_764_737)],
    ids=["resnet-9", "resnet-6", "unet-256", "patch-3", "patch-6", "patch-3-pyramid"])
def test_networks_have_the_published_sizes(config: Any, channels: tuple[int, ...], published: int) -> None:
    with torch.device("meta"):
        assert parameters(config.build(*channels)) == published


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
        if config is CoarseToFineConfig:
            configured.grow(network)
        return network.train()(image)

    plain, changed = output(), output(**{option: other(config, option)})
    if option == "scales":
        assert isinstance(changed, tuple) and len(changed) == 2
        return
    assert plain.shape != changed.shape or not torch.allclose(plain, changed)


@pytest.mark.parametrize(("config", "option"), [each for each in options(GENERATORS + DISCRIMINATORS)
                                                if each[1] in ("upsample", "downsample")])
def test_filters_without_weights_change_what_equal_weights_make_of_an_image(config: type, option: str) -> None:
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    values = {"upsample": ("resize", "bilinear"), "downsample": ("strided", "blurred")}[option]
    networks = [config(**SMALL[config] | {option: value}).build(*(3, 3)[:1 + (config in GENERATORS)]).double()
                for value in values]
    networks[1].load_state_dict(networks[0].state_dict())
    seed_dropout(networks, (0,))
    assert not torch.allclose(networks[0](image), networks[1](image))


@pytest.mark.parametrize("config", [config for config in GENERATORS if "attention" in config.model_fields])
def test_attention_in_a_generator_lets_a_pixel_depend_on_every_other(config: type) -> None:
    """Beyond what its convolutions reach; without norms, which see the whole image too."""
    # Of few channels now and then none is awake at a place
    network = config(**SMALL[config] | {"width": 16, "norm": "none", "init": "orthogonal", "attention": True}
                     | ({"blocks": 0} if "blocks" in config.model_fields else {"downs": 3})).build(3, 3).double().eval()
    reach = []
    for gamma in (0.0, 0.5):
        image = torch.rand(1, 3, 128, 64, dtype=torch.float64, requires_grad=True)
        for part in network.modules():
            if isinstance(part, Attention):
                nn.init.constant_(part.gamma, gamma)
        network(image)[0, 0, 0, 0].backward()
        reach.append((image.grad[0].abs().sum(0) > 0)[-16:, -16:].any().item())
    assert reach == [False, True]


@pytest.mark.parametrize(("config", "sizes"), [*((config, {}) for config in DISCRIMINATORS),
                                               (PatchGANConfig, {"scales": 3})])
def test_a_discriminators_smallest_side_is_the_smallest(config: type, sizes: dict[str, int]) -> None:
    configured = config(**SMALL[config] | sizes, norm="none")
    network = configured.build(3)
    side = configured.smallest_side()
    judged = network(torch.randn(1, 3, side, side))
    assert min((judged if isinstance(judged, torch.Tensor) else judged[-1]).shape[2:]) == 1
    if side > 1:
        with pytest.raises(RuntimeError):
            network(torch.randn(1, 3, side - 2, side - 2))


def test_resize_convolution_has_no_checkerboard_on_a_flat_image() -> None:
    """A transposed convolution of kernel 3 and stride 2 covers pixels unevenly; resize-convolution cannot."""
    image = torch.full((1, 3, 128, 128), 0.3)  # large: zero padding is felt some way in from the borders
    spread = {}
    for upsample in ("transposed", "resize", "bilinear"):
        torch.manual_seed(0)
        network = ResNetConfig(width=8, blocks=1, norm="none", upsample=upsample).build(3, 3)
        out = network(image)[0, 0, 48:80, 48:80]
        spread[upsample] = ((out.max() - out.min()) / out.abs().max()).item()
    assert spread["resize"] < 1e-4 and spread["bilinear"] < 1e-4 and spread["transposed"] > 0.1


@pytest.mark.parametrize("reflect", [0, 1])
def test_a_resize_convolution_at_once_is_that_of_repeated_pixels_for_less_than_half_of_its_work(reflect: int) -> None:
    conv = nn.Conv2d(3, 5, 3, padding=1 - reflect).double()
    image = torch.randn(2, 3, 61, 47, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn(2, 5, 122, 94, dtype=torch.float64)

    def repeated(x: torch.Tensor) -> torch.Tensor:
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return conv(nn.functional.pad(x, (1, 1, 1, 1), mode="reflect") if reflect else x)

    found = {}
    for name, run in (("repeated", repeated), ("layer", Layer(conv, scale_factor=2, reflect=reflect))):
        with FlopCounterMode(display=False) as counter:
            image.grad = None
            conv.zero_grad()
            out = run(image)
            out.backward(gradient)
        found[name] = (out, image.grad, conv.weight.grad, conv.bias.grad), counter.get_total_flops()
    torch.testing.assert_close(found["layer"][0], found["repeated"][0], rtol=1e-10, atol=1e-12)
    # 4 multiplications in the place of 9, and some more at mirrored borders
    assert found["layer"][1] < found["repeated"][1] / 2


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_resize_convolutions_of_a_card_are_computed_the_same_way_in_tiles_as_whole(device: str) -> None:
    """An image that is cut into tiles counted as on a CPU, whatever it was on, and in a card's prediction as well."""
    layer, source = Layer(nn.Conv2d(3, 5, 3, padding=1), scale_factor=2), TensorSource(torch.zeros(1, 3, 40, 40))
    lazy = LazyImage.of(source, Recording(lambda node: torch.empty(0)), torch.device(device), torch.float32)
    at_once = layer(lazy).node.inputs[0] is lazy.node
    with computed_by(path_on("cpu" if device == "cpu" else "cuda")):
        whole = torch.empty(1, 3, 40, 40, device="meta")
        assert at_once == enlarges_at_once(whole, layer.conv, 0) == (device == "cpu")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_resize_convolution_in_half_precision_rounds_the_weights_that_were_learnt_and_no_sums_of_them(
        dtype: torch.dtype, autocast: bool) -> None:
    conv = nn.Conv2d(3, 5, 3, padding=1).to(torch.float32 if autocast else dtype)
    x = torch.randn(1, 3, 40, 40, dtype=conv.weight.dtype)
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=autocast):
        expected = conv(nn.functional.interpolate(x, scale_factor=2))
        assert expected.dtype == dtype and torch.equal(Layer(conv, scale_factor=2)(x), expected)


def test_a_resize_convolution_that_is_more_than_torchs_is_called_as_it_is() -> None:
    """With a hook that makes its weights, as spectral norm was, or with a forward pass of its own."""
    class Doubled(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    x, plain = torch.randn(1, 3, 40, 40), nn.Conv2d(3, 5, 3, padding=1)
    hooked = copy.deepcopy(plain)
    hooked.register_forward_pre_hook(lambda conv, inputs: (2 * inputs[0],))
    own = Doubled(3, 5, 3, padding=1)
    own.load_state_dict(plain.state_dict())
    for conv in (hooked, own):
        expected = conv(nn.functional.interpolate(x, scale_factor=2))
        torch.testing.assert_close(Layer(conv, scale_factor=2)(x), expected)
    parametrizations.spectral_norm(plain)
    assert enlarges_at_once(x, plain, 0)


def test_the_low_pass_filter_is_the_binomial_one_and_nothing_is_left_of_what_would_alias() -> None:
    """Two pixels a period, the finest there is, would be taken for something flat after a stride of two."""
    image = torch.randn(2, 3, 9, 12, dtype=torch.float64)
    weights = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]], dtype=torch.float64) / 16
    padded = nn.functional.pad(image, (1, 1, 1, 1), mode="reflect")
    expected = nn.functional.conv2d(padded, weights.expand(3, 1, 3, 3), groups=3)
    torch.testing.assert_close(low_passed(image), expected)
    finest = (-1.0) ** torch.arange(12).expand(1, 1, 9, 12)
    assert low_passed(finest).abs().max() < 1e-6 and (finest[..., ::2] == 1).all()


def test_antialiased_downsampling_filters_behind_norm_and_activation_and_keeps_every_second_pixel() -> None:
    """Convolve → norm → ReLU → mirror → filter with a stride of 2, twice, as CUT's networks do (Park et al. 2020)."""
    network = ResNetConfig(width=4, blocks=0, downsample="antialiased").build(3, 3)
    image = torch.randn(2, 3, 12, 20)
    filters = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    y = image
    for number, layer in enumerate(network.head):
        y = layer.conv(nn.functional.pad(y, (3, 3, 3, 3), mode="reflect") if number == 0 else y)
        y = nn.functional.instance_norm(y).relu()
        if number:
            mirrored = nn.functional.pad(y, (1, 1, 1, 1), mode="reflect")
            y = nn.functional.conv2d(mirrored, filters.expand(y.shape[1], 1, 3, 3), stride=2, groups=y.shape[1])
    torch.testing.assert_close(network.bottleneck(image), y)


def test_attention_is_the_softmax_of_its_keys_and_begins_as_if_it_were_not_there() -> None:
    """Zhang et al. 2019, equations 1 to 3, with the whole matrix of weights; γ alone has a gradient at first."""
    network, image = Attention(16).double(), torch.randn(2, 16, 6, 8, dtype=torch.float64)
    out = network(image)
    assert torch.equal(out, image)
    out.square().sum().backward()
    assert network.gamma.grad.abs() > 0 and all(parameter.grad.abs().max() == 0 for name, parameter
                                                in network.named_parameters() if name != "gamma")
    query = network.query(image).flatten(2).unflatten(1, (4, 2))
    key, value = (nn.functional.max_pool2d(part(image), 2).flatten(2).unflatten(1, (4, 2))
                  for part in (network.key, network.value))
    weights = torch.softmax(torch.einsum("nhdq,nhdk->nhqk", query, key) / 2**0.5, dim=-1)
    seen = torch.einsum("nhqk,nhdk->nhdq", weights, value).flatten(1, 2).unflatten(2, (6, 8))
    nn.init.constant_(network.gamma, 0.3)
    torch.testing.assert_close(network(image), image + 0.3 * network.out(seen))


@pytest.mark.parametrize("norm", ["instance", "none"])
def test_orthogonal_weights_keep_the_size_of_what_goes_through_them(norm: str) -> None:
    network = ResNetConfig(width=8, blocks=1, norm=norm, init="orthogonal").build(3, 3)
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            matrix = part.weight.detach().flatten(1)
            product = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
            torch.testing.assert_close(product, torch.eye(len(product)), rtol=0, atol=1e-5)


def test_half_of_the_filters_that_an_image_joins_begin_with_its_differences_alone() -> None:
    """Their weights sum to zero, so that an image of one value says nothing to them. Both halves are louder than the
    features that are joined, unless a spectral norm would make these as much softer."""
    torch.manual_seed(0)
    plain, bounded = (UNetConfig(width=8, downs=4, image_skip=64, spectral=spectral).build(2, 3).tail[0].conv.weight
                      for spectral in (False, True))
    sums = plain[:, -2:].sum((2, 3)).abs()
    assert sums[:32].max() < 1e-4 and sums[32:].mean() > 0.3
    features, differences, values = plain[:, :-2].std(), plain[:32, -2:].std(), plain[32:, -2:].std()
    assert (differences / features).item() == pytest.approx(256 * (8 / 9) ** 0.5, rel=0.1)
    assert (values / features).item() == pytest.approx(16, rel=0.1)
    assert (bounded[:, -2:].std() / bounded[:, :-2].std()).item() == pytest.approx(1, rel=0.1)


def test_a_pyramid_judges_the_image_at_each_size_as_a_patchgan_of_its_own_would() -> None:
    image = torch.randn(2, 3, 65, 48)
    pyramid = PatchGANConfig(width=4, layers=1, scales=3).build(3)
    sizes = [image, *(nn.functional.avg_pool2d(image, 3, 2, 1, count_include_pad=False) for _ in range(1))]
    sizes.append(nn.functional.avg_pool2d(sizes[-1], 3, 2, 1, count_include_pad=False))
    for logits, judge, seen in zip(pyramid(image), pyramid.judges, sizes, strict=True):
        assert torch.equal(logits, judge(seen))
    assert [tuple(seen.shape[2:]) for seen in sizes] == [(65, 48), (33, 24), (17, 12)]
    found, expected = pyramid.features(image), [each for judge, seen in zip(pyramid.judges, sizes, strict=True)
                                                for each in judge.features(seen)]
    assert len(found) == len(expected) == 3 * 2
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


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
