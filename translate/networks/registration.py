"""A network that learns how the two images of a pair lie on each other, so that a generator need not (Reg-GAN).

Real pairs are off by pixels: two scans, two cameras, two days. A generator that is held to such truths pixel by pixel
learns their mean, which is blurred. Here a small network sees what the generator made and the truth, says how far each
pixel of the truth lies from its place in what was made, and losses compare the two after that (Kong et al. 2021,
section 3). It is trained with the generator, and nobody translates with it.

It looks at half the resolution: deformations are smooth, and at full size it would take more memory than a generator.
Under every memory plan it keeps all that it computes, and it never runs in strips.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from translate.schema import Config

LEVELS = 3  # below half the resolution: a pixel of the lowest stands for 16 of the image
SLOPE = 0.2  # of leaky ReLUs
LAST_STD = 1e-3  # of the last layer's first weights: all deformations begin near zero


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
    """A small U-Net without norms: two images in, a deformation out."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        widths = [width * 2**level for level in range(LEVELS + 1)]
        self.first = nn.Conv2d(2 * channels, width, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(above, below, 3, stride=2, padding=1)
                                  for above, below in pairwise(widths))
        self.lowest = nn.Conv2d(widths[-1], widths[-1], 3, padding=1)
        self.up = nn.ModuleList(nn.Conv2d(below + above, above, 3, padding=1)
                                for above, below in pairwise(widths))
        self.last = nn.Conv2d(width, 2, 3, padding=1)

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
        features = F.avg_pool2d(torch.cat([made, truth.to(made.dtype)], 1), 2, ceil_mode=True)
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
        return F.interpolate(self.last(features), (height, width), mode="bilinear", align_corners=False)


def warped(images: Tensor, deformation: Tensor) -> Tensor:
    """Return images (N, C, H, W) deformed: each pixel from where `deformation` (N, 2, H, W) says, right and down, px.

    Bilinear; beyond its border an image goes on as there.
    """
    height, width = images.shape[2:]
    down, right = (torch.arange(side, device=images.device, dtype=images.dtype) for side in (height, width))
    right, down = right + deformation[:, 0], down[:, None] + deformation[:, 1]

    # As grid_sample counts: the middles of the first and the last pixel are -1 and 1
    grid = torch.stack([2 * right / max(width - 1, 1) - 1, 2 * down / max(height - 1, 1) - 1], -1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)
