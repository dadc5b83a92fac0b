"""Translating in strips gives the whole image's output, whatever the network, the strips and the place to keep rows."""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
import typing
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.flop_counter import FlopCounterMode

from tests.covering import every_pair
from tests.live_bytes import LiveBytes
from tests.networks import GENERATORS, SMALL, randomise
from translate import tiling
from translate.errors import DoesNotFit, UsageError
from translate.networks.dropout import seed_dropout
from translate.networks.recomputing import recomputing, starting_point
from translate.networks.resnet import ResNet
from translate.networks.rows import RowRange
from translate.networks.unet import UNet
from translate.networks.weights import spectrally_normed
from translate.sizes import num_bytes
from translate.tiling import Settings, TilingError
from translate.tiling.bands import DiskBand
from translate.tiling.graph import Node, Read, TensorSource

LEAST = Settings(strip_rows=5, kept_floats=0.0)
NUMBERS = torch.float64


def whole_image(network: nn.Module, image: Tensor, seed: int = 0) -> Tensor:
    """The reference: the network itself, with its running statistics left as they are."""
    seed_dropout([network], (seed,))
    with torch.no_grad(), recomputing(starting_point(network)):
        return network(image)


def difference(found: Tensor, truth: Tensor) -> float:
    assert found.shape == truth.shape and found.dtype == truth.dtype
    return ((found - truth).abs().max() / truth.abs().max()).item()


WAYS = {
    "a row": Settings(1, 16.0), "least": Settings(7, 0.0), "disk": Settings(64, 16.0, "disk"),
    "whole": Settings(999, math.inf), "all on disk": Settings(7, math.inf, "disk"), "host": Settings(7, 32.0, "host")}
OPTIONS = {"transposed": {"upsample": "transposed"}, "resize": {"upsample": "resize"},
           "blurred": {"upsample": "bilinear", "downsample": "blurred"}, "antialiased": {"downsample": "antialiased"},
           "attention": {"attention": True},
           "spectral": {"spectral": True}, "image-skip": {"upsample": "resize", "image_skip": 3}}


def has_option(config: type, norm: str, options: dict[str, Any], *others: object) -> bool:
    """Whether networks of a kind have these options, with these values."""
    return all(name in config.model_fields and (
        not isinstance(value, str) or value in typing.get_args(config.model_fields[name].annotation))
        for name, value in options.items())


@every_pair(has_option, config=GENERATORS, norm=["instance", "batch", "none"], options=OPTIONS,
            training={"training": True, "eval": False}, settings=WAYS, size=[(8, 8), (1, 30), (67, 26), (32, 33)])
def test_every_generator_in_strips_gives_the_whole_images_output(
        config: type, norm: str, options: dict[str, Any], training: bool, settings: Settings, size: tuple[int, int]
        ) -> None:
    """In training mode with dropout on, and a batch norm takes the statistics of the image."""
    torch.manual_seed(0)
    spectral = "spectral" in options
    network = randomise(config(**SMALL[config], norm=norm, **({} if spectral else options)).build(3, 2)).train(training)
    network = spectrally_normed(network) if spectral else network
    for name, parameter in network.named_parameters():
        if name.endswith("gamma"):
            nn.init.constant_(parameter, 0.5)
    image = torch.randn(1, 3, *size, dtype=NUMBERS)
    truth = whole_image(network, image, seed=3)
    assert difference(tiling.apply(network, image, settings=settings, seed=3), truth) < 1e-10


class Foreign(nn.Module):
    """A network that knows nothing of this toolkit, around one operation."""

    def __init__(self, function: Callable[[Tensor], Tensor] | nn.Module):
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 4, 3, 2), nn.ConvTranspose2d(4, 2, 3, 2)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        y = self.function(x)
        return self.after(y[:, :4] if y.shape[1] > 4 else y)


OPERATIONS: dict[str, Callable[[Tensor], Tensor] | nn.Module] = {
    "dilated": nn.Conv2d(4, 4, 3, padding=2, dilation=2),
    "grouped": nn.Conv2d(4, 4, 5, stride=(2, 1), groups=2),
    "same": nn.Conv2d(4, 4, 4, padding="same"),
    "conv that mirrors": nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    "transposed": nn.ConvTranspose2d(4, 4, 5, 3, 1, output_padding=2),
    "mirrored": nn.ReflectionPad2d((1, 2, 4, 3)),
    "replicated": nn.ReplicationPad2d(5),
    "zeros": nn.ZeroPad2d((0, 1, 12, 9)),
    "instance norm": nn.InstanceNorm2d(4, affine=True),
    "instance norm, running": nn.InstanceNorm2d(4, track_running_stats=True).eval(),
    "batch norm": nn.BatchNorm2d(4),
    "batch norm, running": nn.BatchNorm2d(4).eval(),
    "group norm": nn.GroupNorm(2, 4),
    "average pool": nn.AvgPool2d(3, 2, 1),
    "average pool inside": nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "max pool": nn.MaxPool2d(3, 2, 1),
    "nearest": nn.Upsample(scale_factor=(3, 2)),
    "nearest to a size": lambda x: F.interpolate(F.max_pool2d(x, 2), size=tuple(side // 2 * 2 for side in x.shape[2:])),
    "bilinear": nn.Upsample(scale_factor=2, mode="bilinear"),
    "bilinear, corners": nn.Upsample(scale_factor=1.7, mode="bilinear", align_corners=True),
    "bilinear to a size": nn.Upsample(size=(19, 40), mode="bilinear"),
    "pixel shuffle": nn.Sequential(nn.Conv2d(4, 16, 1), nn.PixelShuffle(2)),
    "pixel unshuffle": nn.PixelUnshuffle(2),
    "prelu": nn.PReLU(4),
    "activations": nn.Sequential(nn.SiLU(), nn.GELU(), nn.ELU(inplace=True), nn.Softplus(), nn.Hardtanh()),
    "arithmetic": lambda x: 2 - (x * x + 1) / 3 - (-x) * torch.full((1, 4, 1, 1), 0.3, dtype=x.dtype),
    "maps of the image's size": lambda x: (
        x * torch.arange(x.shape[2], dtype=x.dtype).reshape(1, 1, -1, 1) - torch.arange(x.shape[2])[:, None]
        + torch.linspace(0, 1, x.shape[1:].numel(), dtype=x.dtype).reshape(x.shape[1:])),
    "skips": lambda x: torch.cat([x, F.instance_norm(x).relu(), x.tanh()], 1),
    "chunks": lambda x: torch.cat([part * (i + 1) for i, part in enumerate(x.chunk(2, 1))], dim=-3),
    "crop": lambda x: F.relu(x[..., 3:-2, 1:]),
    "sums used twice": lambda x: (y := x + x.tanh()) + F.instance_norm(y) + y.clamp(-1, 1),
    "types": lambda x: (x.float().to(x.dtype) * x.contiguous()).to(x.device).clone(),
    "nothing": nn.Identity(),
    "spectral norm": parametrizations.spectral_norm(nn.Conv2d(4, 4, 3)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_foreign_network_of_supported_operations_is_translated_as_it_is(name: str) -> None:
    torch.manual_seed(0)
    network = Foreign(OPERATIONS[name]).double()
    image = torch.randn(1, 3, 38, 41, dtype=NUMBERS)
    truth = whole_image(network, image)
    for settings in (Settings(1, 0.0), Settings(6, math.inf)):
        assert difference(tiling.apply(network, image, settings=settings), truth) < 1e-12


def test_a_network_that_does_nothing_returns_the_image() -> None:
    image = torch.randn(1, 3, 9, 7)
    assert torch.equal(tiling.apply(nn.Identity(), image, settings=LEAST), image)
    assert tiling.forecast(nn.Identity(), image.shape).compute == 1


def test_in_place_operations_change_the_image_for_everyone_who_holds_it() -> None:
    """The widespread U-Net hands its skip connection on *after* the next level's in-place activation."""
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.down = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 4, 2, 1)
            self.up = nn.ConvTranspose2d(4, 3, 4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            deeper = self.up(F.relu_(self.down(F.leaky_relu(x, 0.2, inplace=True))))
            x += 1
            x.mul_(2)
            return torch.cat([x, deeper], 1)

    network, image = Skip().double(), torch.randn(1, 3, 20, 16, dtype=NUMBERS)
    assert difference(tiling.apply(network, image, settings=LEAST), whole_image(network, image)) < 1e-12


class Attention(nn.Module):
    """Self-attention between convolutions, as networks put it at their bottleneck."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.norm, self.up = nn.Conv2d(3, 8, 4, 4), nn.GroupNorm(2, 8), nn.ConvTranspose2d(8, 3, 4, 4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        pixels = self.norm(x).flatten(2).transpose(1, 2)
        seen = self.attention(pixels, pixels, pixels)[0].transpose(1, 2).reshape(x.shape)
        return self.up(F.instance_norm(x + seen))


def test_attention_sees_all_rows_at_the_waist() -> None:
    network, image = Attention().double(), torch.randn(1, 3, 64, 48, dtype=NUMBERS)
    assert difference(tiling.apply(network, image, settings=LEAST), whole_image(network, image)) < 1e-12
    found = tiling.forecast(network, image.shape, settings=LEAST)
    assert found.compute > 1 and found.peak_bytes > 0


@pytest.mark.parametrize(("function", "named"), [
    (lambda x: torch.fft.rfft2(x), "fft_rfft2"), (lambda x: x.mean((2, 3), keepdim=True), "mean"),
    (lambda x: F.adaptive_avg_pool2d(x, 1), "adaptive_avg_pool2d"), (lambda x: x[:, :, ::2], "slices with step 1"),
    (lambda x: F.interpolate(x, scale_factor=1.5), "interpolate"),
    (lambda x: F.interpolate(x, scale_factor=2.05), "interpolate"),  # of 16 rows: 32
    (lambda x: x * (x == 0), "eq"), (lambda x: x.clamp(0, 1) if x > 0 else x, "gt"), (lambda x: x // 2, "floordiv"),
    (lambda x: x if x else -x, "bool"),
    (lambda x: F.avg_pool2d(x, 2, ceil_mode=True), "ceil_mode"),
    (lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"), "circular"), (lambda x: x + x[:, :, 1:], "images of one size"),
    (lambda x: x.flip(2), "flip"), (lambda x: torch.cat([x, x], 2), "cat along dimension 2"),
    (lambda x: x[:, :2].add_(1), "in place")])
def test_an_operation_without_an_exact_rule_is_refused_by_name(function: Any, named: str) -> None:
    with pytest.raises(TilingError, match=named):
        tiling.apply(Foreign(function), torch.zeros(1, 3, 16, 16))


def test_batches_and_networks_that_return_no_image_are_refused() -> None:
    with pytest.raises(UsageError, match="expected an image"):
        tiling.apply(ResNet(3, 3, 2, 0), torch.zeros(2, 3, 16, 16))

    class Twice(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(TilingError, match="tuple"):
        tiling.apply(Twice(), torch.zeros(1, 3, 16, 16))


def test_torch_dropout_draws_one_mask_for_the_image_whatever_the_strips() -> None:
    network = Foreign(nn.Dropout(0.4)).double()
    image = torch.ones(1, 3, 40, 30, dtype=NUMBERS)
    one, other = (tiling.apply(network, image, settings=Settings(rows), seed=1) for rows in (1, 40))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert difference(tiling.apply(network, image, seed=2), one) > 0.1


def test_running_statistics_are_left_alone_and_a_chain_for_training_in_strips_can_be_used() -> None:
    network = randomise(ResNet(3, 3, 4, 1, "batch"))
    before = copy.deepcopy(network.state_dict())
    image = torch.randn(1, 3, 33, 20, dtype=NUMBERS)
    truth = whole_image(network, image)
    network.head.keep = network.tail.keep = "strips"
    assert difference(tiling.apply(network, image, settings=LEAST), truth) < 1e-10
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


class Window:
    """A source and a sink that write down what they are asked for."""

    def __init__(self, image: Tensor):
        self.image, self.shape = image, image.shape
        self.most, self.read_rows, self.written, self.strips = 0, set[int](), [], list[Tensor]()

    def read(self, a: int, b: int) -> Tensor:
        self.most = max(self.most, b - a)
        self.read_rows |= set(range(a, b))
        return self.image[:, :, a:b].clone()

    def write(self, start: int, strip: Tensor) -> None:
        self.written += range(start, start + strip.shape[2])
        self.strips.append(strip.clone())


def test_files_are_read_and_written_by_windows() -> None:
    """Never more rows at a time than a strip and what its convolutions reach; rows are written once and in order."""
    network = randomise(ResNet(3, 2, 4, 1))
    window = Window(torch.randn(1, 3, 101, 40, dtype=NUMBERS))
    assert tiling.apply(network, window, settings=Settings(4, 16.0), out=window) is None
    assert window.read_rows == set(range(101)) and window.written == list(range(101))
    assert window.most <= 30
    assert difference(torch.cat(window.strips, 2), whole_image(network, window.image)) < 1e-10


@pytest.mark.parametrize("network", [ResNet(3, 3, 16, 4), UNet(3, 3, 8, 6, "instance")], ids=["resnet", "unet"])
def test_single_precision_is_as_exact_as_the_whole_image(network: nn.Module) -> None:
    """Against float64, no more than half as much again as the whole image's own error, and 2e-5 from it."""
    torch.manual_seed(0)
    network = network.double().eval()
    image = torch.randn(1, 3, 192, 192, dtype=NUMBERS)
    truth = whole_image(network, image)
    single = copy.deepcopy(network).float()
    own = whole_image(single, image.float())
    found = tiling.apply(single, image.float(), settings=Settings(16, 16.0))
    assert (found - own).abs().max() < 2e-5
    assert decibels(found, own) > 120
    assert (found - truth).square().mean().sqrt() < 1.5 * (own - truth).square().mean().sqrt()


def decibels(found: Tensor, truth: Tensor) -> float:
    """Peak signal to noise ratio of images in [-1, 1]."""
    return 10 * math.log10(4 / (found.double() - truth.double()).square().mean().item())


def test_rows_may_wait_in_half_precision_at_a_known_price() -> None:
    """Of random weights, which amplify rounding more than trained ones; bfloat16 has three bits less, 18 dB."""
    torch.manual_seed(0)
    network = ResNet(3, 3, 8, 4)
    image = torch.rand(1, 3, 96, 96) * 2 - 1
    truth = whole_image(network, image)
    for place in ("device", "disk"):
        half, brain = (decibels(tiling.apply(network, image, settings=Settings(16, 16.0, place, dtype)), truth)
                       for dtype in (torch.float16, torch.bfloat16))
        assert 65 < half < 90
        assert half - brain == pytest.approx(18, abs=3)
    less, full = (tiling.forecast(network, (1, 3, 4000, 4000), settings=Settings(16, 16.0, dtype=dtype)).waiting_bytes
                  for dtype in (torch.float16, None))
    assert less == pytest.approx(full / 2, rel=0.2)  # blocks of 40 MB


def test_autocast_is_followed() -> None:
    torch.manual_seed(0)
    network = randomise(ResNet(3, 3, 8, 2))
    image = torch.randn(1, 3, 64, 64, dtype=NUMBERS)
    truth = whole_image(network, image)
    single = copy.deepcopy(network).float()
    with torch.autocast("cpu", torch.bfloat16):
        own = whole_image(single, image.float())
        found = tiling.apply(single, image.float(), settings=LEAST)
    assert found.dtype == own.dtype
    error, own_error = ((x.double() - truth).square().mean().sqrt() for x in (found, own))
    assert 1e-4 < error < 1.5 * own_error


def flops(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("kept_floats", [0.0, 2.0, math.inf])
def test_the_forecast_of_compute_is_what_is_computed(kept_floats: float) -> None:
    network, image = ResNet(3, 3, 8, 2), torch.randn(1, 3, 128, 64)
    settings = Settings(16, kept_floats)
    recording = flops(lambda: tiling.forecast(network, image.shape, settings=settings))
    strips = flops(lambda: tiling.apply(network, image, settings=settings)) - recording
    done = strips / flops(lambda: whole_image(network, image))
    assert tiling.forecast(network, image.shape, settings=settings).compute == pytest.approx(done, rel=0.05)
    assert (done < 1.05) == (kept_floats == math.inf)


class Blank:
    """A large image without values, and a sink that takes nothing. Counting begins when the first row is read."""

    def __init__(self, *shape: int):
        self.shape = shape
        self.counter: LiveBytes | None = None

    def read(self, a: int, b: int) -> Tensor:
        if self.counter is not None:
            self.counter.peak, self.counter = self.counter.live, None
        return torch.empty(1, self.shape[1], b - a, self.shape[3], device="meta")

    def write(self, start: int, strip: Tensor) -> None:
        pass


@pytest.mark.parametrize(("network", "settings"), [
    pytest.param(ResNet(3, 3, 64, 2), Settings(32, 32.0), marks=pytest.mark.slow),
    pytest.param(ResNet(3, 3, 64, 2), Settings(64, 16.0, dtype=torch.float16), marks=pytest.mark.slow),
    pytest.param(ResNet(3, 3, 64, 1), Settings(64, 0.0), marks=pytest.mark.slow),
    pytest.param(ResNet(3, 3, 64, 2), Settings(2000, math.inf), marks=pytest.mark.slow),
    (UNet(3, 3, 32, 6, "instance", 0.0), Settings(64, 16.0))])
def test_translating_takes_the_memory_that_is_forecast(network: nn.Module, settings: Settings) -> None:
    """The bytes of all tensors at 500 × 1500, on the meta device: the same run, without values."""
    network, image = copy.deepcopy(network).to("meta"), Blank(1, 3, 500, 1500)
    with LiveBytes([*network.parameters()]) as image.counter:
        counter = image.counter
        tiling.apply(network, image, settings=settings, out=image)
    assert tiling.forecast(network, image.shape, settings=settings).peak_bytes == pytest.approx(counter.peak, rel=0.15)


def test_of_one_pass_only_skips_wait_on_the_disk() -> None:
    """A residual addition reads its rows again a few rows later; each block of a ResNet was written and read back."""
    shape, settings = (1, 3, 512, 256), Settings(32, 0.0, "disk")
    skips = tiling.forecast(UNet(3, 3, 8, 6, "none", 0.0), shape, settings=settings)
    additions = tiling.forecast(ResNet(3, 3, 8, 4, norm="none"), shape, settings=settings)
    in_memory = tiling.forecast(UNet(3, 3, 8, 6, "none", 0.0), shape, settings=Settings(32, 0.0))
    assert additions.disk_bytes == 0
    assert skips.disk_bytes > 0 and skips.peak_bytes < in_memory.peak_bytes


@pytest.mark.slow
def test_settings_follow_from_the_memory_that_is_allowed() -> None:
    network = ResNet(3, 3, 64, 2)
    shape, found = (1, 3, 2000, 2000), []
    for memory in ("8GB", "1GB", "300MB"):
        found.append(tiling.forecast(network, shape, memory=memory))
        assert found[-1].peak_bytes <= num_bytes(memory)
    assert found[0].compute == pytest.approx(1.0, abs=0.01) and found[0].settings.place == "device"
    assert found[-1].settings.place == "disk" and found[-1].disk_bytes > 5e8
    assert all(each.compute < 1.2 for each in found)
    with pytest.raises(DoesNotFit, match=r"2000×2000 pixels needs \d\d+ MB of memory .* and 70 MB are allowed"):
        tiling.forecast(network, shape, memory="70MB")


def test_a_bounded_translation_is_exact() -> None:
    network = randomise(ResNet(3, 3, 16, 1))
    image = torch.randn(1, 3, 300, 200, dtype=NUMBERS)
    assert difference(tiling.apply(network, image, memory="100MB"), whole_image(network, image)) < 1e-10


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="a file system that gives back parts of a file")
def test_rows_on_disk_give_their_space_back_as_they_are_used() -> None:
    source = Read(TensorSource(torch.empty(0)), torch.device("cpu"))
    node = Node(source, (), torch.Size((1, 8, 64, 4096)), torch.float32)
    band, strip = DiskBand(node, torch.float32), torch.randn(1, 8, 64, 4096)
    band.add(RowRange(0, 64), strip)
    os.fdatasync(band.file.fileno())
    full = os.fstat(band.file.fileno()).st_blocks
    band.drop(48)
    assert os.fstat(band.file.fileno()).st_blocks < 0.3 * full
    assert torch.equal(band.get(RowRange(50, 60)), strip[:, :, 50:60])


@pytest.mark.slow
def test_translating_2000_pixels_takes_a_third_of_the_whole_images_memory() -> None:
    """Peak resident memory of a process of its own above what it had before, and as forecast within 20 %."""
    def megabytes(call: str) -> float:
        script = (
            "import threading, time, torch\n"
            "from translate import tiling\nfrom translate.networks.resnet import ResNet\n"
            "network, image = ResNet(3, 3).eval(), torch.rand(1, 3, 2000, 2000) * 2 - 1\n"
            "class Nowhere:\n    def write(self, start, strip):\n        pass\n"
            "def resident():\n"
            "    return int(open('/proc/self/statm').read().split()[1]) * 4096 / 1e6\n"
            "with torch.no_grad():\n"
            "    network(image[..., :256, :256])\n"
            "    before, most, done = resident(), [0.0], threading.Event()\n"
            "    def watch():\n"
            "        while not done.is_set():\n"
            "            most[0] = max(most[0], resident())\n            time.sleep(0.005)\n"
            "    thread = threading.Thread(target=watch)\n    thread.start()\n"
            f"    {call}\n    done.set()\n    thread.join()\n"
            "    print(most[0] - before)\n")
        return float(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout)

    settings = Settings(32, 32.0)
    whole = megabytes("network(image)")
    strips = megabytes(f"tiling.apply(network, image, settings=tiling.{settings!r}, out=Nowhere())")
    predicted = tiling.forecast(ResNet(3, 3).eval(), (1, 3, 2000, 2000), settings=settings).peak_bytes / 1e6
    assert strips < whole / 3
    assert predicted == pytest.approx(strips, rel=0.2)
