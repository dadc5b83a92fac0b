"""Discriminators of patches (PatchGAN: Isola et al. 2017, section 3.2.2), of single pixels, and pyramids of them.

A PatchGAN gives one logit for every patch of an image: real or fake, as far as that patch shows. How large the patches
are follows from its number of layers. A pyramid is several of them, each on the image at half the last one's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from translate.networks.dropout import PositionalDropout
from translate.networks.growing import Fading, FadingEntry, Growable, downsampled_2x2, outer_width
from translate.networks.layers import Chain, Downsample, Layer, Norm, downsampled_3x3, make_norm
from translate.networks.weights import Initialisation, prepared
from translate.precision import at_least_float32
from translate.schema import Config


class PatchGANConfig(Growable):
    """PatchGAN: width 64 and 3 layers judge patches of 70×70 px (2.765 M parameters with instance norm)."""

    kind: Literal["patchgan"] = "patchgan"
    width: int = Field(64, ge=1, le=4096)
    layers: int = Field(3, ge=1, le=8)  # strided layers; the patch is 16, 34, 70, 142, 286 px for 1 … 5
    norm: Norm = "instance"
    dropout: float = Field(0.0, ge=0, lt=1)  # before each convolution but the first two; one mask for real and fake
    minibatch_std: bool = False  # shows the last layer how much the samples of a batch differ; needs a batch
    # Kernels (such as 16) that show the last layer how near each sample is to the others; needs a batch. Their memory
    # grows with the square of its samples. 0: none
    minibatch_kernels: int = Field(0, ge=0, le=1024)
    spectral: bool = False  # spectral norm (Miyato et al. 2018): each convolution's largest singular value is one
    init: Initialisation = "normal"
    downsample: Downsample = "strided"  # blurred: low-pass filtered before each stride, so that nothing aliases
    scales: int = Field(1, ge=1, le=6)  # as many of them, each on the image at half the last one's size (pix2pixHD: 3)

    reconstructs: ClassVar[bool] = False  # what it judges with are errors of reconstruction (BEGAN)
    judges_whole: ClassVar[bool] = False  # one logit an image, of hidden features, beside a condition

    @property
    def least_samples(self) -> int:
        """How many samples a micro-batch must have: of one, what compares samples tells nothing."""
        return 2 if self.minibatch_std or self.minibatch_kernels else 1

    def build(self, in_channels: int) -> PatchGAN | Pyramid:
        patchgans = [self.build_one(in_channels) for _ in range(self.scales)]
        return prepared(patchgans[0] if self.scales == 1 else Pyramid(patchgans), self.init, self.spectral)

    def build_one(self, in_channels: int) -> PatchGAN:
        """Return one discriminator, without its first weights."""
        return PatchGAN(in_channels, self.width, self.layers, self.norm, self.dropout, self.minibatch_std,
                        self.minibatch_kernels, self.downsample)

    def grow(self, network: PatchGAN | Pyramid) -> None:
        """Add one more strided layer in front of `network`, which fades in: patches twice as large.

        A pyramid keeps its discriminators at the sizes they know and gains one for the new size.
        """
        if isinstance(network, Pyramid):
            network.grow(self.build_one(network.in_channels))
        else:
            network.grow()
        for part in network.newest():
            prepared(part, self.init, self.spectral)

    def smallest_side(self, levels: int = 0) -> int:
        """Return the smallest side, in px, that it can judge with so many levels gained: what leaves one logit after
        the two unstrided layers at its end."""
        return ((3 * 2**self.layers - 1) * 2**(self.scales - 1) + 1) * 2**levels


class PixelConfig(Config):
    """A discriminator of single pixels (1×1 PatchGAN): judges colour and nothing else."""

    kind: Literal["pixel"] = "pixel"
    width: int = Field(64, ge=1, le=4096)
    norm: Norm = "instance"
    spectral: bool = False  # spectral norm (Miyato et al. 2018): each convolution's largest singular value is one
    init: Initialisation = "normal"

    grows: ClassVar[bool] = False
    reconstructs: ClassVar[bool] = False
    judges_whole: ClassVar[bool] = False
    least_samples: ClassVar[int] = 1

    def build(self, in_channels: int) -> Pixel:
        return prepared(Pixel(in_channels, self.width, self.norm), self.init, self.spectral)

    def smallest_side(self, levels: int = 0) -> int:
        """Return the smallest side, in px, that it can judge; it gains no levels."""
        return 1


class MinibatchStd(nn.Module):
    """Appends a channel that says how much the samples differ, so that D sees a generator that repeats itself.

    The standard deviation over the samples of each value, averaged to one number (Karras et al. 2018, section 3). The
    samples are those of a micro-batch in one process; of a single one the number is zero.
    """

    def forward(self, x: Tensor) -> Tensor:
        deviation = (at_least_float32(x).var(0, correction=0) + 1e-8).sqrt().mean()
        return torch.cat([x, deviation.to(x.dtype).expand(len(x), 1, *x.shape[2:])], dim=1)


class MinibatchDiscrimination(nn.Module):
    """Appends channels that say how near a sample is to the others, so that D sees a generator that repeats itself.

    Salimans et al. 2016, section 3.2: a learnt T makes B rows M of `size` numbers of the features, and the b-th channel
    of sample i is Σⱼ exp(−‖Mᵢ,b − Mⱼ,b‖₁) over the others. The features are those of one place, so that every patch is
    compared with the same patch of the other samples: those of a micro-batch in one process. Of a single sample the
    channels are zero.
    """

    def __init__(self, channels: int, num_kernels: int, size: int = 5):
        super().__init__()
        self.size = size
        self.conv = nn.Conv2d(channels, num_kernels * size, 1, bias=False)  # T

    def forward(self, x: Tensor) -> Tensor:
        projected = at_least_float32(self.conv(x)).unflatten(1, (-1, self.size))  # M: (N, B, size, h, w)
        distances = (projected[:, None] - projected[None]).abs().sum(3)  # (N, N, B, h, w)
        near = (-distances).exp().sum(1) - 1  # without the sample itself, whose distance is zero
        return torch.cat([x, near.to(x.dtype)], dim=1)


def sequence(*parts: nn.Module | None) -> nn.Module | None:
    """Return one module that runs those of `parts` that there are, one after the other; None where there is none."""
    present = [part for part in parts if part is not None]
    return nn.Sequential(*present) if len(present) > 1 else present[0] if present else None


class PatchGAN(Chain):
    """Maps images (N, C, H, W) to logits (N, 1, h, w), one a patch.

    Each outer level that it gains (`translate.networks.growing`) is one more strided layer, the new first one.
    """

    levels = 0

    def __init__(self, in_channels: int, width: int = 64, layers: int = 3, norm: Norm = "instance",
                 dropout: float = 0.0, minibatch_std: bool = False, minibatch_kernels: int = 0,
                 downsample: Downsample = "strided"):
        bias = norm != "batch"  # BatchNorm has a shift of its own
        widths = [min(2**layer, 8) * width for layer in range(layers + 1)]
        blurred = downsample == "blurred"

        def dropped(layer: int) -> nn.Module | None:
            return PositionalDropout(dropout, layer) if dropout else None

        # Strided layers, the first without a norm before it, then one that keeps the size.
        chain = [Layer(nn.Conv2d(in_channels, width, 4, 2, 1), smooth=blurred)]
        for layer in range(1, layers + 1):
            before, after = widths[layer - 1], widths[layer]
            stride = 2 if layer < layers else 1
            chain.append(Layer(nn.Conv2d(before, after, 4, stride, 1, bias=bias), slope=0.2,
                               smooth=blurred and stride > 1,
                               norm=sequence(make_norm(norm, before), dropped(layer)) if layer > 1 else None))

        # To one logit a patch; before it, channels that compare the samples of the batch.
        last = widths[-1] + minibatch_std
        compare = MinibatchDiscrimination(last, minibatch_kernels) if minibatch_kernels else None
        chain.append(Layer(nn.Conv2d(last + minibatch_kernels, 1, 4, 1, 1), slope=0.2,
                           norm=sequence(make_norm(norm, widths[-1]), dropped(layers + 1),
                                        MinibatchStd() if minibatch_std else None, compare)))
        super().__init__(*chain)

    def grow(self) -> None:
        """Put a layer in front of the first, which fades out and comes again as the second."""
        first = cast(Layer, self[0])
        inside = first.conv.out_channels
        width = outer_width(inside)
        self[0] = FadingEntry(first, [Layer(nn.Conv2d(first.conv.in_channels, width, 4, 2, 1), smooth=first.smooth),
                                      Layer(nn.Conv2d(width, inside, 4, 2, 1), slope=0.2, smooth=first.smooth)])
        self.levels += 1

    def drop_faded(self) -> None:
        """Take out the first layer that others have replaced."""
        entry = self[0]
        if isinstance(entry, FadingEntry):
            first, second = entry.new
            self[0] = second
            self.insert(0, first)

    def newest(self) -> list[nn.Module]:
        """Return the two layers that were added last; none before."""
        if self.levels == 0:
            return []
        return list(self[0].new) if isinstance(self[0], FadingEntry) else list(self)[:2]


class Scales(tuple[Tensor, ...]):
    """The logits of one image at several sizes, those of the full size first, which count as `share` of the others."""

    share: float = 1.0


Logits = Tensor | Scales  # of a discriminator, or of each that judges an image at a size of its own


@dataclass(frozen=True)
class Discriminator:
    """A discriminator as a step plays against it: its network under its name, and what it sees beside each image.

    `name` is that in `Translator.phases`; its last letter is the domain it judges images of. `condition` (N, C, H, W)
    is shown together with every image, as further channels in front (a conditional GAN's input); None: nothing is.
    """

    name: str
    network: nn.Module
    condition: Tensor | None = None

    @property
    def domain(self) -> str:
        """The domain whose images it judges, a or b."""
        return self.name[-1]

    def __call__(self, images: Tensor) -> Logits:
        """Return the logits of images (N, C, H, W)."""
        return self.network(self._shown(images))

    def features(self, images: Tensor) -> list[Tensor]:
        """Return what the network's layers make of images (N, C, H, W), for a distance of features."""
        return cast(Any, self.network).features(self._shown(images))

    def _shown(self, images: Tensor) -> Tensor:
        return images if self.condition is None else torch.cat([self.condition, images], dim=1)


class Pyramid(Fading):
    """Discriminators of one image at several sizes: full, half, a quarter … (pix2pixHD: Wang et al. 2018, section 3.2).

    Maps images (N, C, H, W) to the logits of each, those of the full size first. The coarse ones see more of an image
    at once and judge what it shows, the fine ones its textures. Each level that it gains is one more of them, in front.

    While one fades in, it counts as its share α, and the others see (1 − α) · s(x) + α · h(x) of an image x, where s is
    the half size of all growing (means of 2×2 pixels) and h that of pyramids (of 3×3): at α = 0 they say of x what they
    would have said before of s(x).
    """

    levels = 0
    fading = False

    def __init__(self, patchgans: Sequence[PatchGAN]):
        super().__init__()
        self.judges = nn.ModuleList(patchgans)  # its name stands in checkpoints

    @property
    def in_channels(self) -> int:
        return cast(Layer, cast(PatchGAN, self.judges[0])[0]).conv.in_channels

    @property
    def share(self) -> float:
        """How much the discriminator of the full size counts."""
        return self.alpha if self.fading else 1.0

    def forward(self, image: Tensor) -> Scales:
        logits = Scales(each(seen) for each, seen in zip(self.judges, self.sizes(image), strict=True))
        logits.share = self.share
        return logits

    def features(self, image: Tensor) -> list[Tensor]:
        """Return the convolution outputs of every layer but the last, of each discriminator; those of one that fades in
        are multiplied by its share, and so is every distance of them."""
        full_size, *others = (cast(Chain, each).features(seen)
                              for each, seen in zip(self.judges, self.sizes(image), strict=True))
        if self.fading:
            full_size = [self.share * found for found in full_size]
        return [*full_size, *(found for features in others for found in features)]

    def sizes(self, image: Tensor) -> list[Tensor]:
        """Return the image at its own size and, averaged, at every coarser one."""
        images = [image]
        while len(images) < len(self.judges):
            half = downsampled_3x3(images[-1])
            if self.fading and len(images) == 1:
                half = self.mix(downsampled_2x2(image, round_up=True), half)
            images.append(half)
        return images

    def grow(self, patchgan: PatchGAN) -> None:
        """Gain a discriminator for images of twice the size, which fades in."""
        self.judges.insert(0, patchgan)
        self.levels += 1
        self.fading = True

    def drop_faded(self) -> None:
        """Let the newest count as all do from now on; it replaced nothing."""
        self.fading = False

    def newest(self) -> list[nn.Module]:
        """Return the discriminator that was gained last; none before."""
        return [self.judges[0]] if self.levels else []


class Pixel(Chain):
    """Maps images (N, C, H, W) to logits (N, 1, H, W), one a pixel."""

    def __init__(self, in_channels: int, width: int = 64, norm: Norm = "instance"):
        bias = norm != "batch"
        super().__init__(
            Layer(nn.Conv2d(in_channels, width, 1)),
            Layer(nn.Conv2d(width, 2 * width, 1, bias=bias), slope=0.2),
            Layer(nn.Conv2d(2 * width, 1, 1, bias=bias), slope=0.2, norm=make_norm(norm, 2 * width)))
