"""Networks trained on ImageNet by whose features images are compared, and where the files of their weights lie.

VGG19 serves perceptual losses, MobileNetV2 those and the metrics of sets. Weights are read only where they lie: nothing
is downloaded here. A file of weights must have the checksum its name promises before it is opened.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from translate.errors import DataError
from translate.files import sha256
from translate.networks.recomputing import checkpointed
from translate.places import cache_folder, data_root

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
    """The features that a frozen network makes of images, at scales from fine to coarse.

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
    """Return VGG19's features at relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1, which pix2pixHD compares images by.

    `weights` and what is raised: see `frozen_layers`.
    """
    from torchvision.models import vgg19  # slow to import, and most trainings need no features

    layers = frozen_layers(vgg19, weights, VGG19_SHA256)
    return Features(*(layers[first:last] for first, last in ((0, 2), (2, 7), (7, 12), (12, 21), (21, 30))))


def mobilenet_features(weights: Path | None) -> Features:
    """Return MobileNetV2's last features at a half, a quarter, an eighth, a sixteenth and a 32nd of the resolution.

    `weights` and what is raised: see `frozen_layers`.
    """
    layers = mobilenet_layers(weights)
    return Features(*(layers[first:last] for first, last in ((0, 2), (2, 4), (4, 7), (7, 14), (14, 18))))


def mobilenet_layers(weights: Path | None) -> nn.Sequential:
    """Return MobileNetV2 up to its last 1280 features."""
    from torchvision.models import mobilenet_v2

    return frozen_layers(mobilenet_v2, weights, MOBILENET_SHA256)


def frozen_layers(make: Callable[[], nn.Module], weights: Path | None, beginning: str) -> nn.Sequential:
    """Return the convolutional part of a network of torchvision, frozen and in eval mode, whose batch norms are folded
    into the convolutions before them: as exact as rounding, and a third quicker.

        make        the network, as torchvision makes it without weights
        weights     the file of its weights; None: its shapes alone, on the meta device
        beginning   what the file's SHA-256 begins with

    Raises `DataError` for a file with another checksum.
    """
    with torch.device("meta"):
        layers = cast(nn.Sequential, make().features)
    if weights is not None:
        must_be(weights, beginning)
        held = torch.load(weights, map_location="cpu", weights_only=True)
        layers.load_state_dict({name.removeprefix("features."): value for name, value in held.items()
                                if name.startswith("features.")}, assign=True)
    fold_batch_norm(layers.eval())
    return layers.requires_grad_(False)


def fold_batch_norm(network: nn.Module) -> None:
    """Replace, in place, each batch norm in eval mode that follows a convolution by other weights of this."""
    parts = list(network.named_children())
    for (before, conv), (name, norm) in itertools.pairwise(parts):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(network, before, fuse_conv_bn_eval(conv, norm))
            setattr(network, name, nn.Identity())
    for _, part in parts:
        fold_batch_norm(part)


def features_folder() -> Path:
    """Return the folder of fetched weights: `features` in the user's cache, one for all folders that one works in."""
    return cache_folder() / "features"


def find_mobilenet() -> Path | None:
    """Return the file of MobileNetV2's weights; None without one.

    It lies in the user's cache, in the data folder (where earlier versions kept it) or in torch's cache.
    """
    for folder in (features_folder(), data_root() / "features", torch_cache()):
        if (folder / MOBILENET_FILE).is_file():
            return folder / MOBILENET_FILE
    return None


def in_torch_cache(name: str) -> Path | None:
    """Return a file of weights in torch's own cache (TORCH_HOME); None where there is none of that name."""
    path = torch_cache() / name
    return path if path.is_file() else None


def torch_cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def must_be(path: Path, beginning: str) -> None:
    """Raise `DataError` for a file whose SHA-256 does not begin so."""
    found = sha256(path)
    if not found.startswith(beginning):
        raise DataError(f"not the expected weights, so they were not loaded: sha256 {found[:16]}…, wanted "
                        f"{beginning[:16]}…", path, "delete the file and fetch it again")
