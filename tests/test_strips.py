"""A chain in strips is the plain chain: same output, same gradients, same running statistics, in less memory."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from tests.bounds import RoundingBound
from tests.covering import one_in
from tests.live_bytes import LiveBytes
from tests.networks import randomise
from translate.errors import UsageError
from translate.networks.discriminators import PatchGAN
from translate.networks.growing import FadingEntry
from translate.networks.layers import Chain, Layer
from translate.networks.local_chain import LocalChain, Weights, geometry_of
from translate.networks.recomputing import checkpointed
from translate.networks.resnet import ResNet
from translate.networks.rows import Composed, plan_strips
from translate.networks.strips import run_in_strips


def random_layer(draw: random.Random, channels: int, after: int) -> Layer:
    norm = draw.choice([None, nn.InstanceNorm2d(channels), nn.InstanceNorm2d(channels, affine=True),
                        nn.BatchNorm2d(channels), nn.BatchNorm2d(channels, momentum=None),
                        nn.BatchNorm2d(channels, track_running_stats=False), nn.BatchNorm2d(channels).eval()])
    kernel, stride, dilation = draw.randint(1, 5), draw.choice([1, 1, 2, 3]), draw.choice([1, 1, 2])
    common = {"stride": stride, "padding": draw.randint(0, kernel // 2), "dilation": dilation,
              "bias": draw.random() < 0.5}
    rest = {"norm": norm, "slope": draw.choice([None, 0.0, 0.2])}
    if draw.random() < 0.3:
        output_padding = draw.randint(0, max(stride, dilation) - 1)
        return Layer(nn.ConvTranspose2d(channels, after, kernel, output_padding=output_padding, **common), **rest)
    return Layer(nn.Conv2d(channels, after, kernel, **common), reflect=draw.choice([0, 0, 1, 3]),
                 scale_factor=draw.choice([1, 1, 2]), smooth=draw.random() < 0.3,
                 downsample=draw.random() < 0.2, last=nn.Tanh() if draw.random() < 0.2 else None, **rest)


def step(run: Callable[[Tensor], Tensor], network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """One forward and backward pass: everything it yields, by name."""
    x = x.detach().requires_grad_(x.requires_grad)
    network.zero_grad()
    y = run(x)
    if y.requires_grad:
        y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y.dtype))
    found = {"output": y.detach(), "input": x.grad, **{name: p.grad for name, p in network.named_parameters()},
             **{name: buffer.double() for name, buffer in network.named_buffers()}}
    return {name: tensor.clone() for name, tensor in found.items() if tensor is not None}


def error(found: dict[str, Tensor], truth: dict[str, Tensor]) -> float:
    """The worst difference, relative to the largest output, gradient or statistic of its kind.

    The gradient of a bias that feeds a norm is zero but for rounding: it is measured by the other gradients, and by
    that of the output, which is about one.
    """
    assert found.keys() == truth.keys()
    weights = [tensor for name, tensor in truth.items() if name.endswith(("weight", "bias"))]
    gradients = max(1.0, *(tensor.abs().max().item() for tensor in weights), 0.0)
    worst = 0.0
    for name, true in truth.items():
        scale = gradients if name.endswith(("weight", "bias")) else true.abs().max().item()
        worst = max(worst, (found[name].double() - true.double()).abs().max().item() / (scale or 1.0))
    return worst


def in_strips(network: nn.Module, num_strips: int) -> nn.Module:
    """A copy of a network whose chains at full resolution run in strips."""
    network = copy.deepcopy(network)
    for chain in [network.head, network.tail] if isinstance(network, ResNet) else [network]:
        chain.keep, chain.num_strips = "strips", num_strips
    return network


def bound_of(plain: nn.Module, x: Tensor) -> RoundingBound:
    """How far what strips yield may lie from what the plain network does."""
    exact, rough = copy.deepcopy(plain), copy.deepcopy(plain)
    return RoundingBound(step(exact, exact, x), lambda: step(rough, rough, x), error)


def tail(width: int = 8, norm: Any = "instance") -> Chain:
    return ResNet(3, 3, width, 0, norm).tail


@pytest.mark.parametrize("num", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_random_chains_in_strips_have_the_plain_chains_output_gradients_and_running_statistics(num: int) -> None:
    """Of every kind of layer, norm, freezing and number of strips that there is."""
    compared = 0
    for seed in range(num):
        draw = random.Random(seed)
        torch.manual_seed(seed)
        widths = [draw.choice([1, 2, 3]) for _ in range(draw.randint(2, 5))]
        chain = randomise(Chain(*(random_layer(draw, before, after) for before, after in pairwise(widths))))
        x = torch.randn(draw.choice([1, 2]), widths[0], draw.randint(12, 40), draw.randint(12, 30), dtype=torch.float64,
                        requires_grad=draw.random() < 0.8)
        if not well_conditioned(chain, x):
            continue
        for parameter in chain.parameters():
            parameter.requires_grad_(draw.random() < 0.85)
        stripped, bound = in_strips(chain, draw.choice([1, 2, 3, 5, 8, 1000])), bound_of(chain, x)
        assert error(step(stripped, stripped, x), step(chain, chain, x)) <= bound, seed
        compared += 1
    assert compared > num // 2


def well_conditioned(chain: Chain, x: Tensor) -> bool:
    """No norm meets a constant channel or very few pixels: there, plain chains differ among themselves."""
    chain, x = copy.deepcopy(chain), x.detach()
    for layer in chain:
        if min(x.shape[2:]) < 6 or (layer.norm is not None and x.std((2, 3)).min() < 0.05 * x.abs().max()):
            return False
        try:
            x = layer(x)
        except RuntimeError:  # torch refuses it: a kernel larger than the image
            return False
    return True


@pytest.mark.parametrize(("upsample", "downsample", "downs", "norm", "size", "num_strips"), one_in(13, [
    (*ends, norm, *cut) for cut in (((2, 3, 37, 50), 3), ((1, 3, 64, 33), 1000)) for ends in (
        ("transposed", "strided", 2), ("resize", "strided", 1), ("bilinear", "blurred", 2),
        ("transposed", "blurred", 3), ("bilinear", "antialiased", 2)) for norm in ("instance", "batch", "none")]))
def test_a_resnet_with_its_ends_in_strips_has_equal_gradients(
        norm: Any, upsample: Any, downsample: Any, downs: int, size: tuple[int, ...], num_strips: int) -> None:
    torch.manual_seed(0)
    plain = randomise(ResNet(3, 2, 4, 1, norm, upsample, downs, downsample))
    x = torch.randn(size, dtype=torch.float64, requires_grad=True)
    stripped, bound = in_strips(plain, num_strips), bound_of(plain, x)
    assert error(step(stripped, stripped, x), step(plain, plain, x)) <= bound


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("samples", [1, 2])
def test_a_channels_last_resnet_in_strips_has_equal_gradients_in_the_same_layout(norm: Any, samples: int) -> None:
    torch.manual_seed(0)
    plain = randomise(ResNet(3, 2, 4, 1, norm)).to(memory_format=torch.channels_last)
    x = torch.randn(samples, 3, 40, 32, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    stripped, contiguous = in_strips(plain, 3), copy.deepcopy(plain).to(memory_format=torch.contiguous_format)
    bound = bound_of(contiguous, x.contiguous())
    assert error(step(stripped, stripped, x), step(contiguous, contiguous, x.contiguous())) <= bound
    assert stripped.head(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_a_frozen_discriminator_in_strips_passes_on_the_gradient_of_its_image(norm: Any) -> None:
    """What a generator's step asks of it: the image's gradient and no other."""
    plain = randomise(PatchGAN(3, 4, 3, norm)).requires_grad_(False)
    x = torch.randn(2, 3, 61, 40, dtype=torch.float64, requires_grad=True)
    stripped, bound = in_strips(plain, 4), bound_of(plain, x)
    assert error(step(stripped, stripped, x), step(plain, plain, x)) <= bound


def test_weights_that_a_parametrisation_makes_get_their_gradient_and_are_made_once() -> None:
    """Spectral norm advances its vectors each time a weight is read: strips must read it once a pass."""
    plain = randomise(tail(2))
    for layer in plain:
        parametrizations.spectral_norm(layer.conv)
    stripped = in_strips(plain, 3)
    x = torch.randn(1, 8, 6, 6, dtype=torch.float64, requires_grad=True)
    bound = bound_of(plain, x)
    assert error(step(stripped, stripped, x), step(plain, plain, x)) <= bound


def test_running_statistics_advance_once_however_often_a_pass_is_computed() -> None:
    plain = randomise(tail(2, "batch"))
    x = torch.randn(2, 8, 9, 8, dtype=torch.float64, requires_grad=True)
    truth = step(plain, plain, x)
    stripped = in_strips(plain, 5)
    stripped.load_state_dict({**plain.state_dict()})
    for module in (plain, stripped):
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.reset_running_stats()
    bound, truth = bound_of(plain, x), step(plain, plain, x)
    again = step(lambda x: checkpointed(stripped, stripped, x), stripped, x)
    assert error(again, truth) <= bound
    assert [int(value) for name, value in again.items() if name.endswith("num_batches_tracked")] == [1, 1]


def test_strips_work_without_gradients_and_inside_a_checkpoint() -> None:
    plain = randomise(tail(2))
    stripped = in_strips(plain, 4)
    x = torch.randn(2, 8, 9, 8, dtype=torch.float64, requires_grad=True)
    bound, truth = bound_of(plain, x), step(plain, plain, x)
    inside = step(lambda x: checkpoint(stripped, x, use_reentrant=False), stripped, x)
    assert error(inside, truth) <= bound
    with torch.no_grad():
        torch.testing.assert_close(stripped(x), truth["output"], rtol=1e-11, atol=1e-11)


def test_a_second_derivative_is_refused_and_says_what_to_do() -> None:
    """It would be silently wrong: R1 through a discriminator in strips was off by 100 %."""
    chain = in_strips(PatchGAN(3, 2, 1), 2)
    x = torch.randn(1, 3, 16, 16, requires_grad=True)
    with pytest.raises(UsageError, match="gradient penalty cannot run in strips"):
        torch.autograd.grad(chain(x).sum(), x, create_graph=True)


@pytest.mark.parametrize("norm", [nn.GroupNorm(1, 4), nn.SyncBatchNorm(4),
                                  nn.InstanceNorm2d(4, track_running_stats=True)])
def test_a_norm_without_exact_strips_is_refused_by_name(norm: nn.Module) -> None:
    with pytest.raises(UsageError, match=type(norm).__name__):
        run_in_strips([Layer(nn.Conv2d(4, 4, 1), norm=norm)], torch.zeros(1, 4, 8, 8), 2)


class Doubling(Layer):
    """Computes something that its fields do not tell."""

    def to_convolution(self, x: Tensor) -> Tensor:
        return 2 * super().to_convolution(x)


def test_a_layer_that_strips_do_not_know_is_refused_by_name_and_every_other_is_exact() -> None:
    """A subclass with code of its own had gradients 5 % off in strips, silently: they read a layer's fields."""
    kinds, x = {Layer, Doubling}, torch.randn(1, 2, 16, 8, dtype=torch.float64)
    while more := {each for kind in kinds for each in kind.__subclasses__()} - kinds:
        kinds |= more
    for kind in kinds:
        chain = randomise(Chain(*(kind(nn.Conv2d(2, 2, 3, padding=1), norm=nn.InstanceNorm2d(2)) for _ in range(2))))
        if vars(kind).get("fields_say_all"):
            stripped = in_strips(chain, 3)
            assert error(step(stripped, stripped, x), step(chain, chain, x)) <= bound_of(chain, x), kind
        else:
            with pytest.raises(UsageError, match=f"class {kind.__name__} cannot run in strips"):
                run_in_strips(chain, x, 3)
    faded = FadingEntry(Layer(nn.Conv2d(2, 2, 1)), [Layer(nn.Conv2d(2, 2, 1))])
    with pytest.raises(UsageError, match="class FadingEntry cannot run in strips"):
        run_in_strips([faded], x, 3)


def test_single_precision_rounds_no_worse_than_three_times_the_plain_chain() -> None:
    torch.manual_seed(0)
    plain = randomise(ResNet(3, 3, 8, 1))
    x = torch.randn(1, 3, 96, 96, dtype=torch.float64, requires_grad=True)
    truth = step(plain, plain, x)
    single = copy.deepcopy(plain).float()
    stripped = in_strips(single, 6)
    own, x = step(single, single, x.float()), x.float()
    assert error(step(stripped, stripped, x), truth) < 3 * error(own, truth)


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_autocast_computes_in_the_same_precision_as_the_plain_chain(norm: Any) -> None:
    """Against float64, bfloat16 strips are as good as a bfloat16 plain step; every gradient has its weight's dtype."""
    torch.manual_seed(0)
    truth_chain = randomise(tail(8, norm))
    x = torch.randn(1, 32, 16, 16, dtype=torch.float64, requires_grad=True)
    truth = step(truth_chain, truth_chain, x)
    plain = copy.deepcopy(truth_chain).float()
    stripped = in_strips(plain, 4)

    def cast(network: nn.Module) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return network(x)
        return run

    own = step(cast(plain), plain, x.float())
    found = step(cast(stripped), stripped, x.float())
    assert {name: tensor.dtype for name, tensor in found.items()} == {name: own[name].dtype for name in found}
    assert found["output"].dtype == torch.bfloat16
    assert 1e-4 < error(found, truth) < 1.5 * error(own, truth)


def test_statistics_are_gathered_in_single_precision_of_a_half_precision_image() -> None:
    """An image far from zero: bfloat16 statistics would be wrong in the first digit."""
    z = (100 + torch.randn(1, 4, 64, 64)).bfloat16()
    layer = Layer(nn.Conv2d(4, 4, 1), norm=nn.InstanceNorm2d(4))
    found, = LocalChain([layer], Weights.of(layer), 64, 8).gather_statistics(z)
    var, mean = torch.var_mean(z.double(), (0, 2, 3), correction=0)
    assert found is not None and found.mean.dtype == found.var.dtype == torch.float32
    torch.testing.assert_close(found.mean.double(), mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.var.double(), var, rtol=1e-5, atol=0)


def peak(chain: nn.Module, x: Tensor) -> tuple[int, int]:
    """The bytes held for the backward pass besides the output, and the peak of the step beyond input and weights."""
    with LiveBytes([x, *chain.parameters()]) as bytes_:
        y = chain(x)
        held = bytes_.live - y.untyped_storage().nbytes()
        y.backward(torch.empty_like(y))
    return held, bytes_.peak


def test_memory_is_that_of_a_strip() -> None:
    """At 512 px: the plain chain holds what it computes, strips hold nothing; twice the strips take half the rest."""
    with torch.device("meta"):
        chain = tail(16)
        x = torch.empty(1, 64, 128, 128, requires_grad=True)
        output, gradients = 3 * 512 * 512 * 4, x.numel() * 4 + sum(p.numel() for p in chain.parameters()) * 4
        fixed = 2 * output + gradients
        plain_held, plain_peak = peak(chain, x)
        peaks = []
        for num_strips in (4, 8, 16):
            held, most = peak(in_strips(chain, num_strips), x)
            assert held < 10_000  # statistics
            peaks.append(most - fixed)
    assert plain_held > 3 * 16 * 512 * 512 * 4
    assert peaks[0] < (plain_peak - fixed) / 3
    assert peaks[1] < 0.6 * peaks[0] and peaks[2] < 0.6 * peaks[1]


def flops(run: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def test_compute_is_what_the_derivation_says() -> None:
    """n layers, a norm before each but the first: layer i runs n − i times forward. One strip, so nothing overlaps."""
    with torch.device("meta"):
        chain = tail(8)
        x = torch.empty(1, 32, 16, 16, requires_grad=True)
        each, z = [], x
        for layer in chain:
            each.append(flops(lambda layer=layer, z=z: layer(z)))
            z = layer(z)
        assert flops(lambda: in_strips(chain, 1)(x)) == sum((3 - i) * cost for i, cost in enumerate(each))
        y = in_strips(chain, 1)(x)
        # forward again in each of two passes, data gradients down to each norm, weights' once; and pass 3: the first.
        assert flops(lambda: y.backward(y.detach())) == (
            2 * sum(each) + (each[2] + sum(each)) + sum(each) + 3 * each[0])
        plain = Chain(*(Layer(layer.conv, slope=0.0, reflect=layer.reflect) for layer in chain))
        assert flops(lambda: in_strips(plain, 1)(x)) == sum(each)


def test_frozen_layers_and_an_image_without_gradient_cost_nothing() -> None:
    with torch.device("meta"):
        chain = tail(8).requires_grad_(False)
        chain[2].requires_grad_(True)
        y = in_strips(chain, 1)(torch.empty(1, 32, 16, 16))
        forward = flops(lambda: chain(torch.empty(1, 32, 16, 16)))
        last = flops(lambda: chain[2](torch.empty(1, 8, 64, 64)))
        assert flops(lambda: y.backward(y.detach())) == forward + last


def test_overlap_is_the_halo_of_every_boundary_between_strips() -> None:
    """The tail of the published ResNet: its 7×7 convolution mirrors 3 rows, the two doublings add less and less."""
    chain = Composed(tuple(geometry_of(layer, Weights.of(layer)) for layer in tail()))
    for num_strips, overlap in ((8, [21, 28, 42, 0]), (1, [0, 0, 0, 0])):
        computed = zip(*(map(len, strip.rows) for strip in plan_strips(chain, 500, num_strips)), strict=True)
        assert [sum(rows) - height for rows, height in zip(computed, chain.heights(500), strict=True)] == overlap
