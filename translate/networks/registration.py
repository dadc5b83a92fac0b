"""A network that learns how the two images of a pair lie on each other, so that a generator need not (Reg-GAN).

Real pairs are off by pixels: two scans, two cameras, two days. A generator that is held to such truths pixel by pixel
learns their mean, which is blurred. Here a small network sees what the generator made and the truth, says how far each
pixel of the truth lies from its place in what was made, and losses compare the two after that (Kong et al. 2021,
section 3). It is trained with the generator, and nobody translates with it.

What a pair is off by as a whole is not learnt but found, by trying every shift (`common_shift`): a network that saw
two images side by side had learnt nothing of it after 600 steps (docs/log.md). Here it says the rest. It looks at half
the resolution: deformations are smooth, and at full size it would take more memory than a generator. Under every memory
plan it keeps all that it computes, and it never runs in strips.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from translate.precision import at_least_float32
from translate.schema import Config

LEVELS = 3  # below half the resolution: a pixel of the lowest stands for 16 of the image
SLOPE = 0.2  # of leaky ReLUs
LAST_STD = 1e-3  # of the last layer's first weights: all that it says begins near zero
REACH = 12  # px that a common shift may go in each direction, at most a quarter of an image's side
RATE = 0.02  # at which a step's deformations come into their mean: it is of the last 50 or so, or of all there are
FLAT = 1e-4  # of an image's variance: what varies less is noise
SHARPNESS = 20.0  # of the choice among shifts, in units of what the best is better than the mean
ALIKE = 0.5  # of a correlation: where less agrees, an output does not show yet what its truth does
UNSURE = 0.1  # of a correlation: where the best is no better than the mean by this, shifts count alike


class RegistrationConfig(Config):
    """How the images of a pair are brought onto each other before losses compare them."""

    # Of a deformation's gradient: more lets less than a common shift through, less lets it bend what is wrong into
    # place instead of mending it
    smoothness: float = Field(100.0, ge=0, le=1e9)
    width: int = Field(16, ge=1, le=1024)  # channels at half the resolution, doubled at each level below

    def build(self, channels: int) -> RegistrationNetwork:
        """Build the network of pairs with so many channels in both images."""
        return RegistrationNetwork(channels, self.width)


class RegistrationNetwork(nn.Module):
    """Finds the shift between two images, and says the rest by a small U-Net without norms."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        widths = [width * 2**level for level in range(LEVELS + 1)]
        self.first = nn.Conv2d(2 * channels, width, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(above, below, 3, stride=2, padding=1)
                                  for above, below in pairwise(widths))
        self.lowest = nn.Conv2d(widths[-1], widths[-1], 3, padding=1)
        self.up = nn.ModuleList(nn.Conv2d(below + above, above, 3, padding=1)
                                for above, below in pairwise(widths))
        self.last = nn.Conv2d(width, 2, 3, padding=1, bias=False)  # a shift of all is taken off again
        self.register_buffer("usual", torch.zeros(2))  # what the deformations found lately had in common
        self.register_buffer("counted", torch.zeros(()))  # steps that are in it
        self.usual: Tensor
        self.counted: Tensor

        # He's initialisation, as there are no norms, and hardly any deformation at first
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, SLOPE)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
        nn.init.normal_(self.last.weight, 0.0, LAST_STD)

    def forward(self, made: Tensor, truth: Tensor) -> Tensor:
        """Return for each pixel of `truth` how far (right, down) its place in `made` is from its own, px: (N, 2, H, W).

        Both images are (N, C, H, W) of any one size.
        """
        height, width = made.shape[2:]
        # The shift of the whole, and the two images without it
        shift = common_shift(made, truth) - self.usual
        shift = shift.to(made.dtype)[..., None, None].expand(-1, -1, height, width)
        features = F.avg_pool2d(torch.cat([warped(made, shift), truth.to(made.dtype)], 1), 2, ceil_mode=True)
        features = F.leaky_relu(self.first(features), SLOPE)

        # Down, and up again beside what was there on the way
        passed = []
        for layer in self.down:
            passed.append(features)
            features = F.leaky_relu(layer(features), SLOPE)
        features = F.leaky_relu(self.lowest(features), SLOPE)
        for layer, beside in zip(reversed(self.up), reversed(passed), strict=True):
            features = F.interpolate(features, beside.shape[2:], mode="nearest")
            features = F.leaky_relu(layer(torch.cat([features, beside], 1)), SLOPE)
        rest = F.interpolate(self.last(features), (height, width), mode="bilinear", align_corners=False)
        return shift + rest - rest.mean((2, 3), keepdim=True)  # else it would run ahead of what `usual` takes off

    @torch.no_grad()
    def remember(self, deformation: Tensor, left_out: Tensor | None = None) -> None:
        """Count in the mean (right, down) of a step's deformations, unless it was `left_out` (1, else 0).

        What all deformations have in common is where outputs lie, and no loss would see it: they might come to lie
        anywhere. So it is taken off each, and losses draw outputs back to the mean of where truths lie.
        """
        counts = torch.ones_like(self.counted) if left_out is None else (left_out <= 0).to(self.counted)
        self.counted += counts
        further = deformation.to(self.usual) * (1 / self.counted.clamp_min(1)).clamp_min(RATE)
        self.usual += torch.where(counts > 0, further, 0)


@torch.no_grad()
def common_shift(made: Tensor, truth: Tensor) -> Tensor:
    """Return how far (right, down) the places of `truth` are from their own in `made`, px: (N, 2); images (N, C, H, W).

    Every whole shift is tried; of each, how the two correlate where they overlap (Lewis 1995), all channels together.
    The mean of shifts, weighted by a soft maximum (as Kendall et al. 2017, section 3.4), falls between pixels, and is
    no shift where none is better than others. Pixels that are the same count nowhere: those of which nothing is known
    have been made so (`hide_unknown`), and others hardly ever are.
    """
    truth = at_least_float32(truth)
    known = ~(made == truth.to(made.dtype)).all(1, keepdim=True)
    made, known = at_least_float32(made), known.to(truth.dtype)
    made, truth = made * known, truth * known
    reach = [min(REACH, side // 4) for side in made.shape[2:]]

    # Of each shift, over what is known in both: number, sums and squares of what the other image meets there
    count = correlation(known, known, reach).clamp_min(1)
    sums = correlation(made, known, reach), correlation(known, truth, reach)
    squares = correlation(made.square(), known, reach), correlation(known, truth.square(), reach)
    varies = [(square - total.square() / count).sum(1).clamp_min(0) / count[:, 0]
              for square, total in zip(squares, sums, strict=True)]
    agrees = (correlation(made, truth, reach) - sums[0] * sums[1] / count).sum(1) / count[:, 0]
    found = (agrees / (varies[0] * varies[1]).sqrt().clamp_min(FLAT) - ALIKE).clamp_min(0).flatten(1)

    best, mean = found.amax(1, keepdim=True), found.mean(1, keepdim=True)
    weights = (SHARPNESS * (found - best) / (best - mean + UNSURE)).softmax(1).view_as(agrees)
    down, right = (torch.arange(-far, far + 1, dtype=weights.dtype, device=weights.device) for far in reach)
    return torch.stack([(weights.sum(1) * right).sum(1), (weights.sum(2) * down).sum(1)], 1)


def correlation(one: Tensor, other: Tensor, reach: list[int]) -> Tensor:
    """Return Σ one(x + s) other(x) over an image for every shift s of up to `reach` (down, right): (N, C, 2·+1, 2·+1).

    Beyond their borders images are 0.
    """
    size = [side + far for side, far in zip(one.shape[2:], reach, strict=True)]
    spectrum = torch.fft.rfft2(one, s=size) * torch.fft.rfft2(other, s=size).conj()
    found = torch.fft.irfft2(spectrum, s=size).roll(reach, (2, 3))
    return found[:, :, :2 * reach[0] + 1, :2 * reach[1] + 1]


def beyond(deformation: Tensor) -> Tensor:
    """Return of which pixels a deformation (N, 2, H, W) says that their place is outside of the image: (N, 1, H, W)."""
    height, width = deformation.shape[2:]
    down, right = (torch.arange(side, device=deformation.device, dtype=deformation.dtype) for side in (height, width))
    right, down = right + deformation[:, 0], down[:, None] + deformation[:, 1]
    return ((right < 0) | (right > width - 1) | (down < 0) | (down > height - 1))[:, None]


def warped(images: Tensor, deformation: Tensor) -> Tensor:
    """Return images (N, C, H, W) deformed: each pixel from where `deformation` (N, 2, H, W) says, right and down, px.

    Bicubic (Keys 1981, a = −0.75), as bilinear interpolation blurs, and what it blurs a loss would not see; beyond its
    border an image goes on as there.
    """
    height, width = images.shape[2:]
    down, right = (torch.arange(side, device=images.device, dtype=images.dtype) for side in (height, width))
    right, down = right + deformation[:, 0], down[:, None] + deformation[:, 1]

    # As grid_sample counts: the middles of the first and the last pixel are -1 and 1
    grid = torch.stack([2 * right / max(width - 1, 1) - 1, 2 * down / max(height - 1, 1) - 1], -1)
    return F.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=True)
