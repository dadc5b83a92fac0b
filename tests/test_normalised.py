"""norm → act → pad as one operation gives what the three give one after the other, in every way it is computed."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.bounds import rounding_bound
from tests.covering import each_value, every_pair
from tests.networks import DISCRIMINATORS, GENERATORS, SMALL, randomise
from tests.steps import build, gradients, make_batch, step, worst_error
from translate.networks import PatchGANConfig, ResNetConfig, UNetConfig, memory
from translate.networks.layers import InstanceNorm, Layer
from translate.networks.normalised import computed_by, normalised, normalised_by, path_of, path_on
from translate.translators import CUTConfig, CycleGANConfig, Pix2PixConfig

NORMS = ("instance", "instance affine", "batch", "batch in eval mode", "by numbers", "none")
SIZES = {"odd": (9, 7), "even": (8, 12), "barely larger than its padding": (4, 5)}
AMOUNTS = {"no padding": (0, 0, 0, 0), "1": (1, 1, 1, 1), "3": (3, 3, 3, 3), "of a strip": (2, 2, 2, 0),
           "right and bottom": (0, 2, 0, 1)}


def formula(z: Tensor, kind: str, statistics: Any, scale: Tensor | None, shift: Tensor | None, slope: float | None,
            amounts: tuple[int, int, int, int]) -> Tensor:
    """The operation as its definition says."""
    y = z
    if kind != "none":
        if statistics is None:
            dims = (2, 3) if kind.startswith("instance") else (0, 2, 3)
            mean, var = z.mean(dims, keepdim=True), z.var(dims, correction=0, keepdim=True)
        else:
            mean, var = (value.view(-1, z.shape[1], 1, 1) for value in statistics)
        y = (z - mean) / (var + 1e-5).sqrt()
        if scale is not None:
            y = y * scale.view(-1, z.shape[1], 1, 1) + shift.view(-1, z.shape[1], 1, 1)
    if slope is not None:
        y = torch.where(y > 0, y, slope * y)
    return F.pad(y, amounts, mode="reflect") if any(amounts) else y


def arguments(kind: str, samples: int, size: tuple[int, int]) -> dict[str, Any]:
    """z, statistics, scale and shift for a norm, in float64: z far enough from zero for a lost mean to be seen."""
    torch.manual_seed(0)
    channels, weights = 5, {"instance": 0, "none": 0, "by numbers": 5 * samples}.get(kind, 5)
    per_channel = {"batch in eval mode": channels, "by numbers": channels * samples}.get(kind)
    return {"z": torch.randn(samples, channels, *size, dtype=torch.float64) * 2 + 3,
            "statistics": per_channel and (torch.randn(per_channel, dtype=torch.float64) + 3,
                                           torch.rand(per_channel, dtype=torch.float64) + 0.5),
            "scale": torch.randn(weights, dtype=torch.float64) + 2 if weights else None,
            "shift": torch.randn(weights, dtype=torch.float64) if weights else None}


def computed(kind: str, z: Tensor, statistics: Any, scale: Tensor | None, shift: Tensor | None, slope: float | None,
             amounts: tuple[int, int, int, int]) -> Tensor:
    """The operation as networks call it."""
    if kind == "by numbers":
        return normalised_by(*statistics, 1e-5, len(z), z, scale, shift, slope, amounts)
    norm: Any = {"instance": InstanceNorm, "instance affine": functools.partial(nn.InstanceNorm2d, affine=True),
                 "none": lambda channels: None}.get(kind, nn.BatchNorm2d)(z.shape[1])
    if norm is not None:
        norm.to(torch.promote_types(z.dtype, torch.float32))
    if scale is not None:
        norm._parameters.update(weight=scale, bias=shift)  # the tensors themselves, to be asked for their gradients
    if statistics is not None:
        norm.eval()
        norm.running_mean, norm.running_var = statistics
    return normalised(z, norm, slope, amounts)


def value_and_gradients(function: Any, given: dict[str, Any], dtype: torch.dtype, layout: torch.memory_format,
                        *rest: Any) -> list[Tensor]:
    """What a function gives, and the gradients of z, scale and shift, for a gradient that is the same for all."""
    z = given["z"].to(dtype).to(memory_format=layout).requires_grad_()
    like = dtype if dtype == torch.float64 else torch.float32
    statistics = given["statistics"] and tuple(value.to(like) for value in given["statistics"])
    scale, shift = (None if value is None else value.to(like).requires_grad_()
                    for value in (given["scale"], given["shift"]))
    y = function(z, statistics, scale, shift, *rest)
    arriving = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    followed = [value for value in (z, scale, shift) if value is not None]
    return [y, *torch.autograd.grad(y, followed, arriving.to(memory_format=layout))]


def distance(found: list[Tensor], exact: list[Tensor]) -> float:
    return max(((one.double() - other).abs().max() / other.abs().max()).item()
               for one, other in zip(found, exact, strict=True))


@every_pair(kind=NORMS, slope=(None, 0.0, 0.2), amounts=AMOUNTS, samples=(1, 2, 3), size=SIZES,
            layout={"channels_last": torch.channels_last, "contiguous": torch.contiguous_format})
def test_values_and_gradients_are_those_of_the_definition(
        kind: str, slope: float | None, amounts: tuple[int, int, int, int], samples: int, size: tuple[int, int],
        layout: torch.memory_format) -> None:
    given = arguments(kind, samples, size)

    def by_definition(z: Tensor, *others: Any) -> Tensor:
        return formula(z, kind, *others)

    exact = value_and_gradients(by_definition, given, torch.float64, layout, slope, amounts)
    own = functools.partial(computed, kind)
    for dtype, most in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        with computed_by("plain"):
            found = value_and_gradients(own, given, dtype, layout, slope, amounts)
        assert distance(found, exact) <= most, dtype
        assert all(image.is_contiguous(memory_format=layout) for image in found[:2]), "as it came"


@each_value(share=3, kind=NORMS, slope=(0.0, 0.2), dtype=(torch.float16, torch.bfloat16))
def test_half_precision_is_no_further_from_the_truth_than_one_after_the_other(
        kind: str, slope: float, dtype: torch.dtype) -> None:
    given, amounts = arguments(kind, 1, (32, 32)), (1, 1, 1, 1)
    given["z"] = given["z"].to(dtype).double()

    def by_definition(z: Tensor, *others: Any) -> Tensor:
        return formula(z, kind, *others)

    exact = value_and_gradients(by_definition, given, torch.float64, torch.channels_last, slope, amounts)
    away = {}
    for path in ("eager", "plain"):
        with computed_by(path):
            found = value_and_gradients(functools.partial(computed, kind), given, dtype, torch.channels_last, slope,
                                        amounts)
        away[path] = [(one.double() - other).norm() / other.norm() for one, other in zip(found, exact, strict=True)]
    assert all(own <= 1.2 * eager + 1e-6 for own, eager in zip(away["plain"], away["eager"], strict=True)), away


def test_running_statistics_advance_as_torchs_own() -> None:
    z = torch.randn(2, 3, 6, 6)
    for momentum in (0.1, None):
        own, torchs = nn.BatchNorm2d(3, momentum=momentum), nn.BatchNorm2d(3, momentum=momentum)
        for _ in range(3):
            torchs(z)
            with computed_by("plain"):
                normalised(z, own, 0.0, (1, 1, 1, 1))
        torch.testing.assert_close(dict(own.named_buffers()), dict(torchs.named_buffers()), rtol=0, atol=0)


def test_one_value_a_channel_has_no_statistics() -> None:
    for norm, samples in ((InstanceNorm(2), 3), (nn.BatchNorm2d(2), 1)):
        with computed_by("plain"), pytest.raises(ValueError, match="more than one value per channel"):
            normalised(torch.randn(samples, 2, 1, 1), norm)


@each_value(share=2, kind=("instance", "batch", "none"), amounts={"1": (1, 1, 1, 1), "none": (0, 0, 0, 0)})
def test_second_derivatives_are_those_of_the_definition(kind: str, amounts: tuple[int, int, int, int]) -> None:
    def second(path: Any) -> tuple[Tensor, ...]:
        z = arguments(kind, 2, (6, 5))["z"].requires_grad_()
        norm = {"instance": InstanceNorm, "batch": nn.BatchNorm2d}.get(kind, lambda channels: None)(5)
        with computed_by(path):
            y = normalised(z, None if norm is None else norm.double(), 0.2, amounts)
            (first,) = torch.autograd.grad(y.square().sum(), z, create_graph=True)
            return first, *torch.autograd.grad(first.pow(3).sum(), z)

    torch.testing.assert_close(second("plain"), second("eager"))


def trained(network: nn.Module, x: Tensor, path: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The gradients of a network's output, squared, by its weights and by x; and the buffers it leaves."""
    network, x = copy.deepcopy(network), x.clone().requires_grad_()
    with computed_by(path):
        network(x).square().mean().backward()
    weights = {f"weights.{name}": parameter.grad for name, parameter in network.named_parameters()}
    return {**weights, "image": x.grad}, dict(network.named_buffers())


@each_value(share=4, config=GENERATORS + DISCRIMINATORS, norm=("instance", "batch", "none"), samples=(1, 2),
            size={"odd": (65, 67), "even": (64, 64)})
def test_every_network_of_the_unions_has_the_same_gradients_and_statistics(
        config: type, norm: str, samples: int, size: tuple[int, int]) -> None:
    """In float64, up to rounding, and what the deepest network makes of that."""
    torch.manual_seed(0)
    network = randomise(config(**SMALL[config], norm=norm).build(*(3,) * (1 + (config in GENERATORS))))
    network = network.to(memory_format=torch.channels_last)
    x = torch.randn(samples, 3, *size, dtype=torch.float64)
    (found, advanced), (expected, once) = trained(network, x, "plain"), trained(network, x, "eager")
    assert worst_error(found, expected) <= 1e-8
    torch.testing.assert_close(advanced, once)


PATCH = PatchGANConfig(width=4, layers=2)
STEPS = {"cyclegan": CycleGANConfig(generator=ResNetConfig(width=4, blocks=1), discriminator=PATCH, pool=0),
         "cyclegan with batch norm": CycleGANConfig(generator=ResNetConfig(width=4, blocks=1, norm="batch"),
                                                    discriminator=PATCH, pool=0),
         "pix2pix": Pix2PixConfig(generator=UNetConfig(width=4, downs=5), discriminator=PATCH),
         "cut": CUTConfig(generator=ResNetConfig(width=4, blocks=1, downsample="antialiased"), discriminator=PATCH),
         "penalty": CycleGANConfig(generator=ResNetConfig(width=4, blocks=1), discriminator=PATCH, pool=0,
                                   penalty={"kind": "r1"})}


def step_by(path: Any, name: str, plan: str) -> dict[str, Tensor]:
    translator = build(STEPS[name])
    with computed_by(path):
        step(translator, make_batch((33, 40), 2), plan)
    return gradients(translator)


@functools.cache
def eager_step(name: str) -> tuple[dict[str, Tensor], float]:
    expected = step_by("eager", name, "split")
    return expected, rounding_bound(expected, lambda: step_by("eager", name, "split"))


@each_value(share=5, name=list(STEPS), plan=list(memory.PLANS))
def test_every_memory_plan_has_the_gradients_of_the_eager_step(name: str, plan: str) -> None:
    expected, bound = eager_step(name)
    assert worst_error(step_by("plain", name, plan), expected) <= bound


def test_an_image_alone_in_its_batch_is_normalised_as_it_is_among_others() -> None:
    images = torch.randn(3, 4, 6, 6, dtype=torch.float64).to(memory_format=torch.channels_last)
    layer = Layer(nn.Conv2d(4, 2, 3), norm=InstanceNorm(4), slope=0.0, reflect=1).double()
    with computed_by("plain"):
        torch.testing.assert_close(layer(images), torch.cat([layer(image) for image in images.split(1)]))


def test_a_cpu_computes_eagerly_and_a_card_that_is_not_here_counts_as_an_old_one() -> None:
    assert path_of(torch.empty(1)) == path_on("cpu") == path_of(torch.empty(1, device="meta")) == "eager"
    assert torch.cuda.is_available() or path_on("cuda") == "plain"
