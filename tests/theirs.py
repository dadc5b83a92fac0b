"""Networks as the papers and the published order of layers have them, under the names that their files use.

Pix2pix and CycleGAN (Isola et al. 2017, Zhu et al. 2017), CUT (Park et al. 2020), pix2pixHD (Wang et al. 2018); none of
it is made of this toolkit's networks. `shaken` gives weights for which every norm and statistic matters.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm_of(kind: str) -> Callable[[int], nn.Module]:
    return {"instance": nn.InstanceNorm2d, "batch": nn.BatchNorm2d, "none": lambda channels: nn.Identity()}[kind]


class Halve(nn.Module):
    """[1 2 1] in both directions, mirrored at the borders; every second pixel."""

    def __init__(self, channels: int):
        super().__init__()
        taps = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("filt", (taps[:, None] * taps / 16).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.filt, stride=2, groups=x.shape[1])


class Double(nn.Module):
    """Zeros between the pixels, then [1 3 3 1] in both directions; the border is repeated."""

    def __init__(self, channels: int):
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("filt", (4 * taps[:, None] * taps / 64).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv_transpose2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), self.filt, stride=2, padding=1,
                               groups=x.shape[1])
        return y[:, :, 2:-2, 2:-2]


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, norm: Callable[[int], nn.Module], bias: bool, dropout: bool):
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=bias), norm(channels), nn.ReLU(),
            *[nn.Dropout(0.5)] * dropout,
            nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=bias), norm(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


def resnet_parts(inputs: int, outputs: int, width: int, blocks: int, downs: int, norm: str, bias: bool,
                 dropout: bool = False, blur_down: bool = False, blur_up: bool = False) -> list[list[nn.Module]]:
    """The parts of a ResNet generator: down, blocks and up, to the image."""
    make = norm_of(norm)
    down: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(inputs, width, 7, bias=bias), make(width), nn.ReLU()]
    for level in range(downs):
        few, many = width * 2**level, width * 2**(level + 1)
        down += [nn.Conv2d(few, many, 3, 1 if blur_down else 2, 1, bias=bias), make(many), nn.ReLU()]
        down += [Halve(many)] * blur_down
    many = width * 2**downs
    middle: list[nn.Module] = [ResidualBlock(many, make, bias, dropout) for _ in range(blocks)]
    up: list[nn.Module] = []
    for level in reversed(range(downs)):
        few, many = width * 2**level, width * 2**(level + 1)
        up += [Double(many), nn.Conv2d(many, few, 3, 1, 1, bias=bias)] if blur_up else [
            nn.ConvTranspose2d(many, few, 3, 2, 1, output_padding=1, bias=bias)]
        up += [make(few), nn.ReLU()]
    return [down, middle, up, [nn.ReflectionPad2d(3), nn.Conv2d(width, outputs, 7), nn.Tanh()]]


class ResNetOfTheirs(nn.Module):
    def __init__(self, inputs: int = 3, outputs: int = 3, width: int = 4, blocks: int = 2, downs: int = 2,
                 norm: str = "instance", bias: bool | None = None, **options: bool):
        super().__init__()
        parts = resnet_parts(inputs, outputs, width, blocks, downs, norm, norm == "instance" if bias is None else bias,
                             **options)
        self.model = nn.Sequential(*(layer for part in parts for layer in part))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Skip(nn.Module):
    """A level of the U-Net: what comes in, beside what is made of it inside."""

    def __init__(self, outer: int, inner: int, inside: nn.Module | None, norm: str, dropout: bool):
        super().__init__()
        make, bias = norm_of(norm), norm == "instance"
        self.model = nn.Sequential(
            nn.LeakyReLU(0.2), nn.Conv2d(outer, inner, 4, 2, 1, bias=bias),
            *([make(inner), inside] if inside is not None else []),
            nn.ReLU(), nn.ConvTranspose2d(inner if inside is None else 2 * inner, outer, 4, 2, 1, bias=bias),
            make(outer), *[nn.Dropout(0.5)] * dropout)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.model(x)], 1)


class Outermost(nn.Module):
    def __init__(self, inputs: int, outputs: int, width: int, inside: nn.Module, bias: bool):
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(inputs, width, 4, 2, 1, bias=bias), inside, nn.ReLU(),
                                   nn.ConvTranspose2d(2 * width, outputs, 4, 2, 1), nn.Tanh())


class UNetOfTheirs(nn.Module):
    def __init__(self, inputs: int = 3, outputs: int = 3, downs: int = 7, width: int = 2, norm: str = "batch",
                 dropout: bool = True):
        super().__init__()
        inside: nn.Module | None = None
        for level in reversed(range(1, downs)):
            outer, inner = (width * min(2**each, 8) for each in (level - 1, level))
            inside = Skip(outer, inner, inside, norm, dropout and 4 <= level < downs - 1)
        assert inside is not None
        self.model = Outermost(inputs, outputs, width, inside, norm == "instance")

    def forward(self, x: Tensor) -> Tensor:
        return self.model.model(x)


class EnhancersOfTheirs(nn.Module):
    """pix2pixHD's local enhancers around its global generator, which is `model`; biases everywhere."""

    def __init__(self, inputs: int = 3, outputs: int = 3, width: int = 2, blocks: int = 2, fine_blocks: int = 1,
                 downs: int = 2, levels: int = 1, norm: str = "instance"):
        super().__init__()
        self.levels = levels
        inner = resnet_parts(inputs, outputs, width * 2**levels, blocks, downs, norm, True)[:3]
        self.model = nn.Sequential(*(layer for part in inner for layer in part))
        for level in range(1, levels + 1):
            here = width * 2**(levels - level)
            down, middle, up, image = resnet_parts(inputs, outputs, here, fine_blocks, 1, norm, True)
            setattr(self, f"model{level}_1", nn.Sequential(*down))
            setattr(self, f"model{level}_2", nn.Sequential(*middle, *up, *(image if level == levels else [])))

    def forward(self, x: Tensor) -> Tensor:
        sizes = [x]
        for _ in range(self.levels):
            sizes.append(F.avg_pool2d(sizes[-1], 3, stride=2, padding=1, count_include_pad=False))
        y = self.model(sizes.pop())
        for level in range(1, self.levels + 1):
            y = getattr(self, f"model{level}_2")(getattr(self, f"model{level}_1")(sizes.pop()) + y)
        return y


class PatchGANOfTheirs(nn.Module):
    """Isola et al. 2017, section 6.1.2: C64-C128-C256-C512 and a convolution to one logit a patch."""

    def __init__(self, inputs: int = 3, width: int = 4, layers: int = 3, norm: str = "instance"):
        super().__init__()
        make, channels = norm_of(norm), [width * min(2**layer, 8) for layer in range(layers + 1)]
        parts: list[nn.Module] = [nn.Conv2d(inputs, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for layer in range(1, layers + 1):
            parts += [nn.Conv2d(channels[layer - 1], channels[layer], 4, 2 if layer < layers else 1, 1,
                                bias=norm == "instance"), make(channels[layer]), nn.LeakyReLU(0.2)]
        self.model = nn.Sequential(*parts, nn.Conv2d(channels[-1], 1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class PixelOfTheirs(nn.Module):
    """Its 1×1 form: C64-C128 and a logit a pixel."""

    def __init__(self, inputs: int = 3, width: int = 4, norm: str = "instance"):
        super().__init__()
        bias = norm == "instance"
        self.net = nn.Sequential(
            nn.Conv2d(inputs, width, 1), nn.LeakyReLU(0.2), nn.Conv2d(width, 2 * width, 1, bias=bias),
            norm_of(norm)(2 * width), nn.LeakyReLU(0.2), nn.Conv2d(2 * width, 1, 1, bias=bias))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def shaken(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights, biases, scales and running statistics that all matter; in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.ndim == 4 and not name.endswith("filt"):
            tensor.normal_(0, 1.5 / tensor[0].numel()**0.5, generator=generator)
        elif tensor.ndim == 1:
            tensor.normal_(1.0 if name.endswith("weight") else 0.0, 0.3, generator=generator)
    return network.eval()


SIZES, HD_SIZES = [(32, 32), (64, 40), (100, 76)], [(64, 64), (96, 160), (208, 112)]
NORMS = ("instance", "batch", "none")
TABLE: dict[str, tuple[Callable[..., nn.Module], float, list[tuple[int, int]]]] = {  # largest difference, sizes
    **{f"cyclegan-resnet-{norm}": (partial(ResNetOfTheirs, norm=norm, blocks=3), 0.0, SIZES) for norm in NORMS},
    "cyclegan-resnet-dropout": (partial(ResNetOfTheirs, dropout=True), 0.0, SIZES),
    "cyclegan-resnet-grey-to-colour": (partial(ResNetOfTheirs, 1, 3), 0.0, SIZES),
    **{f"pix2pix-unet-128-{norm}": (partial(UNetOfTheirs, norm=norm), 0.0, [(256, 256), (256, 128), (256, 384)])
       for norm in NORMS},
    "pix2pix-unet-256": (partial(UNetOfTheirs, downs=8, dropout=False), 0.0, [(256, 256), (256, 512), (768, 256)]),
    **{f"cut-up-{norm}": (partial(ResNetOfTheirs, norm=norm, blur_up=True), bound, SIZES)
       for norm, bound in (("instance", 2.6e-6), ("batch", 3.7e-5))},
    **{f"cut-down-{norm}": (partial(ResNetOfTheirs, norm=norm, blur_down=True), bound, SIZES)
       for norm, bound in (("instance", 1.5e-5), ("batch", 1.9e-4))},
    **{f"cut-{norm}": (partial(ResNetOfTheirs, norm=norm, blur_up=True, blur_down=True), bound, SIZES)
       for norm, bound in (("instance", 1.5e-5), ("batch", 1.9e-4))},
    **{f"hd-global-{norm}": (partial(ResNetOfTheirs, norm=norm, downs=4, width=2, bias=True), bound, HD_SIZES)
       for norm, bound in (("instance", 0.0), ("batch", 1e-4))},
    **{f"hd-local-{levels}-{norm}": (partial(EnhancersOfTheirs, levels=levels, norm=norm), bound, HD_SIZES)
       for levels in (1, 2) for norm, bound in (("instance", 0.0), ("batch", 1e-4))},
}
