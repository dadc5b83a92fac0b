"""norm → act → pad as one operation gives what the three give one after the other, in every way it is computed.

Triton's kernels run in its interpreter, which takes a second for what a card does in a millisecond: most of that is
marked slow.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.bounds import RoundingBound
from tests.covering import each_value, every_pair, one_in
from tests.networks import DISCRIMINATORS, GENERATORS, SMALL, randomise
from tests.steps import build, gradients, make_batch, step, worst_error
from translate.errors import UsageError
from translate.networks import PatchGANConfig, ResNetConfig, UNetConfig, memory
from translate.networks.layers import Chain, InstanceNorm, Layer
from translate.networks.normalised import computed_by, fused, normalised, normalised_by, path_of, path_on
from translate.optimizers import Optimizers
from translate.recipe import Stage
from translate.training.step_on_meta import Networks, StepOnMeta
from translate.translators import CUTConfig, CycleGANConfig, Pix2PixConfig

INTERPRETS = importlib.util.find_spec("triton") is not None and os.environ.get("TRITON_INTERPRET") == "1"
SLOPES = (None, 0.0, 0.2)
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
                        *rest: Any, rounded: torch.dtype | None = None) -> list[Tensor]:
    """What a function gives, and the gradients of z, scale and shift, for a gradient that is the same for all; it is in
    the format `rounded`, if that is given."""
    z = given["z"].to(dtype).to(memory_format=layout).requires_grad_()
    like = dtype if dtype == torch.float64 else torch.float32
    statistics = given["statistics"] and tuple(value.to(like) for value in given["statistics"])
    scale, shift = (None if value is None else value.to(like).requires_grad_()
                    for value in (given["scale"], given["shift"]))
    y = function(z, statistics, scale, shift, *rest)
    arriving = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    arriving = arriving.to(rounded or dtype).to(dtype)
    followed = [value for value in (z, scale, shift) if value is not None]
    return [y, *torch.autograd.grad(y, followed, arriving.to(memory_format=layout))]


def distance(found: list[Tensor], exact: list[Tensor]) -> float:
    return max(((one.double() - other).abs().max() / other.abs().max()).item()
               for one, other in zip(found, exact, strict=True))


def interpreted(test: Any) -> Any:
    """A test of Triton's kernels, which is left out where Triton is not there."""
    return pytest.mark.skipif(not INTERPRETS, reason="needs Triton, and TRITON_INTERPRET=1 before its import")(test)


def check_values_and_gradients(path: Any, kind: str, slope: float | None, amounts: tuple[int, int, int, int],
                               samples: int, size: tuple[int, int], layout: torch.memory_format,
                               formats: tuple[torch.dtype, ...] = (torch.float64, torch.float32)) -> None:
    """Float64 to its rounding, float32 to 1e-5: against the definition in float64."""
    given = arguments(kind, samples, size)

    def by_definition(z: Tensor, *others: Any) -> Tensor:
        return formula(z, kind, *others)

    exact = value_and_gradients(by_definition, given, torch.float64, layout, slope, amounts)
    for dtype in formats:
        with computed_by(path):
            found = value_and_gradients(functools.partial(computed, kind), given, dtype, layout, slope, amounts)
        assert distance(found, exact) <= {torch.float64: 1e-12, torch.float32: 1e-5}[dtype], dtype
        assert all(image.is_contiguous(memory_format=layout) for image in found[:2]), "as it came"


@every_pair(kind=NORMS, slope=SLOPES, amounts=AMOUNTS, samples=(1, 2, 3), size=SIZES,
            layout={"channels_last": torch.channels_last, "contiguous": torch.contiguous_format})
def test_values_and_gradients_are_those_of_the_definition(
        kind: str, slope: float | None, amounts: tuple[int, int, int, int], samples: int, size: tuple[int, int],
        layout: torch.memory_format) -> None:
    check_values_and_gradients("plain", kind, slope, amounts, samples, size, layout)


@pytest.mark.parametrize(("kind", "slope", "amounts", "samples", "size"), one_in(203, [
    (kind, slope, amounts, samples, size) for size in SIZES.values() for amounts in AMOUNTS.values()
    for samples in (1, 2, 3) for slope in SLOPES for kind in NORMS]))
@interpreted
def test_the_kernels_have_the_values_and_gradients_of_the_definition(
        kind: str, slope: float | None, amounts: tuple[int, int, int, int], samples: int, size: tuple[int, int]
        ) -> None:
    check_values_and_gradients("fused", kind, slope, amounts, samples, size, torch.channels_last)


@interpreted
def test_the_kernels_add_up_many_spans_and_blocks_of_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a large image: of 64 pixels a span, and of two blocks of channels, the second of them not full."""
    monkeypatch.setattr(fused, "SPAN_PIXELS", 64)
    monkeypatch.setattr(fused, "BLOCK_CHANNELS", 4)
    check_values_and_gradients("fused", "batch", 0.0, (1, 1, 1, 1), 1, (9, 8), torch.channels_last, (torch.float64,))


def errors_in_half_precision(path: Any, kind: str, slope: float, dtype: torch.dtype) -> list[float]:
    """How far a value and its gradients lie from the definition's in float64, of an image and a gradient in `dtype`."""
    given, amounts = arguments(kind, 1, (16, 16)), (1, 1, 1, 1)
    given["z"] = given["z"].to(dtype).double()

    def by_definition(z: Tensor, *others: Any) -> Tensor:
        return formula(z, kind, *others)

    exact = value_and_gradients(by_definition, given, torch.float64, torch.channels_last, slope, amounts, rounded=dtype)
    with computed_by(path):
        found = value_and_gradients(functools.partial(computed, kind), given, dtype, torch.channels_last, slope,
                                    amounts)
    return [((one.double() - other).norm() / other.norm()).item() for one, other in zip(found, exact, strict=True)]


@each_value(share=3, kind=NORMS, slope=(0.0, 0.2), dtype=(torch.float16, torch.bfloat16))
def test_half_precision_is_no_further_from_the_truth_than_one_after_the_other(
        kind: str, slope: float, dtype: torch.dtype) -> None:
    eager = errors_in_half_precision("eager", kind, slope, dtype)
    plain = errors_in_half_precision("plain", kind, slope, dtype)
    assert sum(plain) <= 1.1 * sum(eager), (plain, eager)


@pytest.mark.parametrize(("kind", "slope"), one_in(12, [(kind, slope) for kind in NORMS for slope in (0.0, 0.2)]))
@interpreted
def test_the_kernels_in_half_precision_are_no_further_from_the_truth(kind: str, slope: float) -> None:
    """In float16: what the interpreter makes of bfloat16 is cut off, not rounded."""
    eager = errors_in_half_precision("eager", kind, slope, torch.float16)
    fused = errors_in_half_precision("fused", kind, slope, torch.float16)
    assert sum(fused) <= 1.1 * sum(eager), (fused, eager)


@pytest.mark.parametrize(("path", "rounding"), [("plain", 0.0), pytest.param("fused", 1e-6)])
def test_running_statistics_advance_as_torchs_own(path: Any, rounding: float) -> None:
    if path == "fused" and not INTERPRETS:
        pytest.skip("needs Triton, and TRITON_INTERPRET=1 before its import")
    z = torch.randn(2, 3, 6, 6)
    for momentum in (0.1, None):
        own, torchs = nn.BatchNorm2d(3, momentum=momentum), nn.BatchNorm2d(3, momentum=momentum)
        for _ in range(3):
            torchs(z)
            with computed_by(path):
                normalised(z, own, 0.0, (1, 1, 1, 1))
        torch.testing.assert_close(dict(own.named_buffers()), dict(torchs.named_buffers()), rtol=rounding, atol=0)


def test_one_value_a_channel_has_no_statistics() -> None:
    for norm, samples in ((InstanceNorm(2), 3), (nn.BatchNorm2d(2), 1)):
        with computed_by("plain"), pytest.raises(ValueError, match="more than one value per channel"):
            normalised(torch.randn(samples, 2, 1, 1), norm)


class Shifted(nn.InstanceNorm2d):
    """A norm of somebody's own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 5


def test_a_norm_of_ones_own_is_computed_by_its_own_code_and_refused_in_strips() -> None:
    """On a card it was computed as the class that it is derived from."""
    z = torch.randn(2, 3, 6, 6)
    with computed_by("plain"):
        torch.testing.assert_close(normalised(z, Shifted(3)), Shifted(3)(z))
    chain = Chain(Layer(nn.Conv2d(3, 3, 1)), Layer(nn.Conv2d(3, 3, 1), norm=Shifted(3)))
    chain.keep = "strips"
    with pytest.raises(UsageError, match=r"Shifted.* cannot run in strips"):
        chain(z.requires_grad_())


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("path", ["plain", "fused"])
def test_no_image_is_mirrored_beyond_its_side(path: Any, device: str) -> None:
    """A kernel read what lies beside the image."""
    with computed_by(path), pytest.raises(AssertionError, match=r"\(0, 0, 4, 0\) mirrored of 4×9"):
        normalised(torch.randn(1, 2, 4, 9, device=device), None, 0.0, (0, 0, 4, 0))


def test_a_training_goes_on_after_images_were_translated_in_inference_mode() -> None:
    """Of the same size: a second derivative was refused, as the places that are kept were made there."""
    image = torch.randn(1, 2, 19, 23)
    with computed_by("plain"):
        with torch.inference_mode():
            normalised(image, InstanceNorm(2), 0.0, (1, 2, 3, 1))
        z = image.requires_grad_()
        y = normalised(z, InstanceNorm(2), 0.0, (1, 2, 3, 1))
        (first,) = torch.autograd.grad(y.square().sum(), z, create_graph=True)
        first.square().sum().backward()
        padded = normalised(z, amounts=(1, 2, 3, 1))
        (first,) = torch.autograd.grad(padded.pow(3).sum(), z, create_graph=True)
        first.square().sum().backward()
    assert z.grad is not None and z.grad.isfinite().all()


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
    expected, once = trained(network, x, "eager")
    found, advanced = trained(network, x, "plain")
    assert worst_error(found, expected) <= 1e-8
    torch.testing.assert_close(advanced, once)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("config", GENERATORS + DISCRIMINATORS)
@interpreted
def test_every_network_of_the_unions_has_the_same_gradients_and_statistics_by_the_kernels(config: type, norm: str
                                                                                          ) -> None:
    torch.manual_seed(0)
    network = randomise(config(**SMALL[config], norm=norm).build(*(3,) * (1 + (config in GENERATORS))))
    network = network.to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 33, 40, dtype=torch.float64)
    expected, once = trained(network, x, "eager")
    found, advanced = trained(network, x, "fused")
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


def step_by(path: Any, name: str, plan: str, size: tuple[int, int] = (33, 40)) -> dict[str, Tensor]:
    translator = build(STEPS[name])
    with computed_by(path):
        step(translator, make_batch(size, 2), plan)
    return gradients(translator)


@functools.cache
def eager_step(name: str, size: tuple[int, int] = (33, 40)) -> tuple[dict[str, Tensor], RoundingBound]:
    expected = step_by("eager", name, "split", size)
    return expected, RoundingBound(expected, lambda: step_by("eager", name, "split", size))


@each_value(share=24, name=list(STEPS), plan=list(memory.PLANS))
def test_every_memory_plan_has_the_gradients_of_the_eager_step(name: str, plan: str) -> None:
    expected, bound = eager_step(name)
    assert worst_error(step_by("plain", name, plan), expected) <= bound


@pytest.mark.slow
@pytest.mark.parametrize("plan", memory.PLANS)
@pytest.mark.parametrize("name", STEPS)
@interpreted
def test_every_memory_plan_has_the_gradients_of_the_eager_step_by_the_kernels(name: str, plan: str) -> None:
    size = (32, 32)
    expected, bound = eager_step(name, size)
    assert worst_error(step_by("fused", name, plan, size), expected) <= bound


def test_an_image_alone_in_its_batch_is_normalised_as_it_is_among_others() -> None:
    images = torch.randn(3, 4, 6, 6, dtype=torch.float64).to(memory_format=torch.channels_last)
    layer = Layer(nn.Conv2d(4, 2, 3), norm=InstanceNorm(4), slope=0.0, reflect=1).double()
    with computed_by("plain"):
        torch.testing.assert_close(layer(images), torch.cat([layer(image) for image in images.split(1)]))


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@interpreted
def test_the_kernels_can_be_compiled_for_a_card(capability: int, tmp_path: Path) -> None:
    """Without one; in a process of its own, where Triton compiles and does not interpret."""
    done = subprocess.run([sys.executable, str(Path(__file__).parent / "compile_kernels.py"), str(capability)],
                          env=os.environ | {"TRITON_CACHE_DIR": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@interpreted
def test_where_kernels_cannot_be_compiled_torchs_own_are_taken_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without a C compiler, where every step would fail."""
    from translate.networks.normalised import kernels

    assert fused.works_on(torch.device("cpu"))
    monkeypatch.setattr(kernels, "applied", {})
    with pytest.warns(UserWarning, match="Triton is here, but its kernels do not run"):
        assert not fused.works_on(torch.device("cpu"))


@pytest.mark.parametrize("processor", ["AVX2", "AVX512"])
def test_weights_lie_in_memory_as_the_processor_is_fast_with(processor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the gradients are the same: with AVX2, channels_last made a CycleGAN step take 1.3 times as long."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: processor)
    translator = build(STEPS["cyclegan"])
    step(translator, make_batch((33, 40), 2))
    last = {"AVX2": False, "AVX512": True}[processor]
    kernels = [weight for network in translator.networks.values() for weight in network.parameters()
               if weight.ndim == 4 and min(weight.shape[1:]) > 1]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) is last for kernel in kernels)
    expected, bound = eager_step("cyclegan")
    assert worst_error(gradients(translator), expected) <= bound


def test_a_cpu_computes_eagerly_and_a_card_that_is_not_here_counts_as_an_old_one() -> None:
    assert path_of(torch.empty(1)) == path_on("cpu") == path_of(torch.empty(1, device="meta")) == "eager"
    assert torch.cuda.is_available() or path_on("cuda") == "plain"


@pytest.mark.parametrize(("plan", "most_gb", "most_kernels"), [
    ("split", 55, 0.86), pytest.param("strips", 100, 0.87, marks=pytest.mark.slow)])
def test_a_step_moves_three_fifths_of_the_bytes_that_separate_operations_do(
        plan: memory.PlanName, most_gb: float, most_kernels: float) -> None:
    """CycleGAN with ResNet-9 at 1024 px: `tools/count_step.py` says of what. 93 and 170 GB they were before."""
    step = StepOnMeta(Networks(translator=CycleGANConfig(), optimizer=Optimizers()), (3, 3),
                      Stage(resolution=1024, images=1))
    work = {}
    for path in ("eager", "fused"):
        with computed_by(path):
            work[path] = step.measure(memory.PLANS[plan], "fp16", "cuda", 1).work
    assert work["fused"].moved_bytes <= most_gb * 1e9 and work["fused"].moved_bytes <= 0.6 * work["eager"].moved_bytes
    assert work["fused"].kernels <= most_kernels * work["eager"].kernels
    assert work["fused"].flops == work["eager"].flops


def test_an_older_card_takes_more_memory_than_a_newer_one_and_less_than_separate_operations() -> None:
    step = StepOnMeta(Networks(translator=CycleGANConfig(), optimizer=Optimizers()), (3, 3),
                      Stage(resolution=256, images=1))
    peak = {}
    for path in ("eager", "plain", "fused"):
        with computed_by(path):
            peak[path] = step.measure(memory.PLANS["split"], "fp16", "cuda", 1).peak_bytes
    assert 0.9 * peak["plain"] < peak["fused"] < peak["plain"] < 0.95 * peak["eager"]
