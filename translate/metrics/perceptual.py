"""LPIPS: how different two images look to a network (Zhang et al. 2018, version 0.1, AlexNet).

The computation and the learned weights of the distance are torchmetrics'; the backbone is torchvision's AlexNet, whose
file is looked for in torch's cache and never downloaded here.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

from translate.metrics.checks import check_pair
from translate.metrics.features import in_torch_cache, must_be, rgb, torch_cache

ALEXNET_FILE = "alexnet-owt-7be5be79.pth"
ALEXNET_SHA256 = "7be5be79"  # what its file name promises
ALEXNET_URL = f"https://download.pytorch.org/models/{ALEXNET_FILE}"
SMALLEST = 32  # px: below, AlexNet's pooling leaves nothing


class LPIPS:
    """The distance of two (C, H, W) images in [-1, 1], C 1 or 3, both sides at least 32 px: 0 for equal ones."""

    def __init__(self, weights: Path, device: torch.device | str = "cpu"):
        """`weights` is AlexNet's file in torch's cache. Raises `DataError` for another file."""
        must_be(weights, ALEXNET_SHA256)
        with torch.random.fork_rng(devices=[]):  # initialisation draws numbers that are replaced at once
            self.network = LearnedPerceptualImagePatchSimilarity(net_type="alex").to(device).eval()
        self.device = device

    def takes(self, image: Tensor) -> bool:
        """Whether an image is of a shape that it can look at."""
        return image.shape[0] in (1, 3) and min(image.shape[-2:]) >= SMALLEST

    @torch.no_grad()
    def __call__(self, image: Tensor, truth: Tensor) -> float:
        check_pair(image, truth)
        pair = [rgb(each)[None].to(self.device).clamp(-1, 1) for each in (image, truth)]
        return float(self.network.net(*pair).mean())


def available(device: torch.device | str = "cpu") -> LPIPS | str:
    """LPIPS, or the line that says what is missing and how to get it."""
    weights = in_torch_cache(ALEXNET_FILE)
    if weights is None:
        return f"LPIPS needs AlexNet's weights, {ALEXNET_FILE}, in {torch_cache()}; download {ALEXNET_URL}"
    return LPIPS(weights, device)
