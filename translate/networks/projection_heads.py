"""Projection heads: small networks that map an encoder's features to the unit vectors that PatchNCE compares.

CUT (Park et al. 2020, section 3.2) trains them with the generator; nobody translates with them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from translate.precision import at_least_float32


class ProjectionHeads(nn.Module):
    """A two-layer perceptron H_l for each layer of an encoder (Park et al. 2020, section 3.2).

    `channels` are those of the layers' features. 256 units, and the published initialisation: N(0, 0.02), zero biases.
    """

    def __init__(self, channels: Sequence[int], width: int = 256):
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(num, width), nn.ReLU(), nn.Linear(width, width)) for num in channels)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, 0.0, 0.02)
                nn.init.zeros_(part.bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Map features of some places in each layer, (N, S, C_l), to vectors (N, S, width) of length one.

        In at least float32: what is compared are small angles.
        """
        return [F.normalize(head(at_least_float32(each)), dim=2)
                for head, each in zip(self.heads, features, strict=True)]
