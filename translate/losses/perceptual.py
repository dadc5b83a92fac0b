"""The perceptual loss: how different two images look to a network that has learnt to recognise things.

Johnson et al. 2016; as pix2pixHD uses it (Wang et al. 2018, section 3.2), it steadies colours and shapes beside an
adversarial loss. The networks are frozen and no part of what is trained, saved or given away.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from translate.errors import DataError
from translate.losses.reconstruction import l1_loss
from translate.networks import features
from translate.networks.features import Features
from translate.schema import Config


class _Perceptual(Config):
    """Σᵢ wᵢ mean |φᵢ(image) − φᵢ(truth)| over the stages of a network φ, times `weight`."""

    kind: str

    weight: float = Field(10.0, gt=0, le=1e9)  # pix2pixHD: 10

    stages: ClassVar[tuple[float, ...]]  # wᵢ, from fine to coarse

    def build(self) -> PerceptualLoss:
        """Return the loss; on the meta device its shapes. Raises `DataError` where the weights are not at hand."""
        planning = torch.get_default_device().type == "meta"
        return PerceptualLoss(self.network(None if planning else self.find()), self.stages, self.weight)

    @abstractmethod
    def find(self) -> Path:
        """Return the file of weights. Raises `DataError` saying how to get it."""

    @abstractmethod
    def network(self, weights: Path | None) -> Features:
        """Return the network; without weights, its shapes."""


class VGG19(_Perceptual):
    """VGG19 (Simonyan & Zisserman 2015), with pix2pixHD's stages and their weights."""

    kind: Literal["vgg19"] = "vgg19"

    stages: ClassVar[tuple[float, ...]] = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)

    def find(self) -> Path:
        found = features.in_torch_cache(features.VGG19_FILE)
        if found is None:
            raise DataError(f"translator.perceptual: vgg19 needs {features.VGG19_FILE} (548 MB) in "
                            f"{features.torch_cache()}; download {features.VGG19_URL}, or use kind: mobilenet")
        return found

    def network(self, weights: Path | None) -> Features:
        return features.vgg19_features(weights)


class MobileNetV2(_Perceptual):
    """MobileNetV2 (Sandler et al. 2018): not the network of the papers, but 14 MB that `translate data features`
    fetches, and a tenth of the computation. All stages count alike."""

    kind: Literal["mobilenet"] = "mobilenet"

    stages: ClassVar[tuple[float, ...]] = (1.0, 1.0, 1.0, 1.0, 1.0)

    def find(self) -> Path:
        found = features.find_mobilenet()
        if found is None:
            raise DataError(f"translator.perceptual: mobilenet needs {features.MOBILENET_FILE} (14 MB) in "
                            f"{features.features_folder()}; run: translate data features")
        return found

    def network(self, weights: Path | None) -> Features:
        return features.mobilenet_features(weights)


class PerceptualLoss(nn.Module):
    """The distance of images (N, 1 or 3, H, W) in [-1, 1], weighted: a scalar in at least float32. No gradient goes to
    the truth."""

    def __init__(self, network: Features, stages: tuple[float, ...], weight: float = 1.0):
        super().__init__()
        self.features, self.stages = network, [weight * stage for stage in stages]

    def forward(self, image: Tensor, truth: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.features(truth)
        return torch.stack([weight * l1_loss(found, true) for weight, found, true in zip(
            self.stages, self.features(image), wanted, strict=True)]).sum()
