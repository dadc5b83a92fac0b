"""Which classes the images of a set are of, and how many of all that there are: does a generator draw everything?

A classifier names each image. Of digits that are stacked as the channels of an image (Metz et al. 2017) it names each
channel, and three of them are one of 1,000 modes.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from translate.errors import CheckpointError, DataError
from translate.images.resampling import HeightWidth
from translate.metrics.features import FeatureNetwork
from translate.networks.task_networks import load_task

IMAGES_AT_ONCE = 256


class Modes(NamedTuple):
    """found: modes that at least one image is of; of: all there are; kl: KL(images ‖ real), in nats."""

    found: int
    of: int
    kl: float


class ClassNamer(FeatureNetwork):
    """Names the class of an image by the classifier of a task folder: a one-hot row under `classes`."""

    name = "classes"
    title = "classes, by a classifier"

    def __init__(self, folder: Path, channels: int, size: HeightWidth, device: torch.device):
        """Load the classifier, for images with so many channels; it is shown all of them at one size.

        Raises `CheckpointError` where the folder holds none for such images.
        """
        self.classifier, self.size, self.device = load_task(folder, channels).to(device), size, device
        logits = self.classifier(torch.zeros(1, channels, *size, device=device))
        if logits.ndim != 2:
            raise CheckpointError("its network names pixels, and classes of whole images are counted", folder,
                                  "name a classifier's folder in evaluate.classifier")
        self.num_classes = logits.shape[1]

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        shown = F.interpolate(image[None].to(self.device), self.size, mode="bilinear", antialias=True)
        return {"classes": F.one_hot(torch.from_numpy(named(self.classifier, shown)), self.num_classes).float()}


@torch.no_grad()
def named(classifier: nn.Module, images: Tensor) -> np.ndarray:
    """Return the class that `classifier`, from (N, C, H, W) in [-1, 1] to logits, gives each image: int64 (N,)."""
    found = [classifier(part).argmax(1) for part in images.split(IMAGES_AT_ONCE)]
    return torch.cat(found).cpu().numpy() if found else np.zeros(0, np.int64)


def stacked_modes(classifier: nn.Module, images: Tensor, num_classes: int) -> np.ndarray:
    """Return the mode of each image (N, C, H, W) whose channels are images of their own: int64 (N,).

    With ten classes and three channels it is the number that the channels' classes are read as: 407 for 4, 0 and 7.
    """
    channels = images.shape[1]
    classes = named(classifier, images.flatten(0, 1)[:, None]).reshape(-1, channels)
    return classes @ num_classes ** np.arange(channels - 1, -1, -1)


def histogram(numbers: np.ndarray, num_classes: int) -> np.ndarray:
    """Return how many images are of each class, (num_classes,). Raises `DataError` for a class that is none."""
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < num_classes:
        raise DataError(f"class {numbers.max()} of {num_classes} that there are")
    return np.bincount(numbers, minlength=num_classes)


def modes(numbers: np.ndarray, real: np.ndarray) -> Modes:
    """Return how many modes a set of images has, and how far their shares are from those of real images.

    numbers   the mode of each image (N,), from 0 on
    real      the share of each mode in real images, or its count: positive, (modes,)

    KL(images ‖ real) = Σ p log(p / q) is 0 for equal shares; a mode that no image is of adds nothing to it, so that a
    generator which draws one of 1,000 equal modes has log 1000 = 6.9. Of few images it is too large by some
    (modes − 1) / 2N. Raises `DataError` for no images, and for a mode without real images.
    """
    if not numbers.size:
        raise DataError("modes are counted of one image or more")
    counts = histogram(numbers, len(real))
    if (real <= 0).any():
        raise DataError(f"{int((real <= 0).sum())} of {len(real)} modes have no real images to compare with")
    p, q = counts / counts.sum(), real / real.sum()
    there = p > 0
    return Modes(int(there.sum()), len(real), float((p[there] * np.log(p[there] / q[there])).sum()))
