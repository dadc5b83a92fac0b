"""LPIPS: how different two images look to a network (Zhang et al. 2018, version 0.1, AlexNet).

torchmetrics computes it and brings the learned weights of the distance. The backbone is torchvision's AlexNet: its
weights must lie in torch's cache, and are never downloaded here.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from translate.metrics.checks import check_pair
from translate.metrics.features import in_torch_cache, must_be, rgb, torch_cache

ALEXNET_FILE = "alexnet-owt-7be5be79.pth"
ALEXNET_SHA256 = "7be5be79"  # the beginning of its SHA-256, as its name says
ALEXNET_URL = f"https://download.pytorch.org/models/{ALEXNET_FILE}"
MIN_SIDE = 32  # px; of a smaller image AlexNet's pooling leaves nothing


class LPIPS:
    """The distance of two images (C, H, W) in [-1, 1], with 1 or 3 channels and sides of at least 32 px; 0 if equal."""

    def __init__(self, weights: Path, device: torch.device | str = "cpu"):
        """Load AlexNet from the file `weights`. Raises `DataError` where it is another file."""
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity  # slow to import

        must_be(weights, ALEXNET_SHA256)
        with torch.random.fork_rng(devices=[]):  # it draws random numbers before it loads weights
            self.network = LearnedPerceptualImagePatchSimilarity(net_type="alex").to(device).eval()
        self.device = device

    def takes(self, image: Tensor) -> bool:
        """Tell whether an image has a shape that the network accepts."""
        return image.shape[0] in (1, 3) and min(image.shape[-2:]) >= MIN_SIDE

    @torch.no_grad()
    def __call__(self, image: Tensor, truth: Tensor) -> float:
        check_pair(image, truth)
        pair = [rgb(each)[None].to(self.device).clamp(-1, 1) for each in (image, truth)]
        return float(self.network.net(*pair).mean())


def available(device: torch.device | str = "cpu") -> LPIPS | str:
    """Return LPIPS, or a line that says what is missing and how to get it."""
    weights = in_torch_cache(ALEXNET_FILE)
    if weights is None:
        return f"LPIPS needs AlexNet's weights, {ALEXNET_FILE}, in {torch_cache()}; download {ALEXNET_URL}"
    return LPIPS(weights, device)
