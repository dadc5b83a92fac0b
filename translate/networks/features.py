"""Networks trained on ImageNet whose features images are compared by, and where the files of their weights lie.

Weights are read only where they lie: nothing is downloaded here. A file of weights must have the checksum its name
promises before it is opened.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v2, vgg19

from translate.errors import DataError
from translate.files import sha256
from translate.networks.layers import checkpointed

MOBILENET_FILE = "mobilenet_v2-b0353104.pth"
MOBILENET_SHA256 = "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"
VGG19_FILE = "vgg19-dcbb9e9d.pth"
VGG19_SHA256 = "dcbb9e9d"  # what its file name promises
VGG19_URL = f"https://download.pytorch.org/models/{VGG19_FILE}"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, in [0, 1]


class ImageNetRange(nn.Module):
    """Maps images (…, 1 or 3, H, W) in [-1, 1] to what torchvision's networks were trained to see; no weights."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return ((images.expand(*images.shape[:-3], 3, -1, -1) + 1) / 2 - self.mean) / self.deviation


class Features(nn.Module):
    """What a frozen network makes of images on its way, at scales from fine to coarse.

    Maps images (N, 1 or 3, H, W) in [-1, 1], sides of at least 32 px, to one tensor a stage. Each stage keeps only its
    input for the backward pass: at full resolution these networks are as large as the generator they help.
    """

    def __init__(self, *stages: nn.Module):
        super().__init__()
        self.range, self.stages = ImageNetRange(), nn.ModuleList(stages)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.range(images)
        found = []
        for stage in self.stages:
            x = checkpointed(stage, stage, x)
            found.append(x)
        return found


def vgg19_features(weights: Path | None) -> Features:
    """VGG19 up to relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1, as pix2pixHD compares images by.

    `weights` and what is raised: see `frozen_layers`.
    """
    layers = frozen_layers(vgg19, weights, VGG19_SHA256)
    return Features(*(layers[first:last] for first, last in ((0, 2), (2, 7), (7, 12), (12, 21), (21, 30))))


def mobilenet_features(weights: Path | None) -> Features:
    """MobileNetV2's last features at a half, a quarter, an eighth, a sixteenth and a 32nd of the resolution."""
    layers = mobilenet_layers(weights)
    return Features(*(layers[first:last] for first, last in ((0, 2), (2, 4), (4, 7), (7, 14), (14, 18))))


def mobilenet_layers(weights: Path | None) -> nn.Sequential:
    """MobileNetV2 up to its last 1280 features."""
    return frozen_layers(mobilenet_v2, weights, MOBILENET_SHA256)


def frozen_layers(make: Callable[[], nn.Module], weights: Path | None, beginning: str) -> nn.Sequential:
    """The convolutional part of a network of torchvision, with the weights of a file whose SHA-256 begins so.

    Without a file its shapes alone, on the meta device. Raises `DataError` for another file.
    """
    with torch.device("meta"):
        layers = cast(nn.Sequential, make().features)
    if weights is not None:
        must_be(weights, beginning)
        held = torch.load(weights, map_location="cpu", weights_only=True)
        layers.load_state_dict({name.removeprefix("features."): value for name, value in held.items()
                                if name.startswith("features.")}, assign=True)
    return layers.eval().requires_grad_(False)


def find_mobilenet(root: Path) -> Path | None:
    """MobileNetV2's weights in the data folder `root`, or in torch's cache."""
    own = root / "features" / MOBILENET_FILE
    return own if own.is_file() else in_torch_cache(MOBILENET_FILE)


def in_torch_cache(name: str) -> Path | None:
    """A file of weights in torch's own cache (TORCH_HOME)."""
    path = torch_cache() / name
    return path if path.is_file() else None


def torch_cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def must_be(path: Path, beginning: str) -> None:
    found = sha256(path)
    if not found.startswith(beginning):
        raise DataError(f"not the expected weights, so they were not loaded: sha256 {found[:16]}…, wanted "
                        f"{beginning[:16]}…", path, "delete the file and fetch it again")
