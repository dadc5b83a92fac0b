"""The one-hot form of label maps, and the edges of what they show."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from translate.data.labels import Labelling


def label_planes(labelling: Labelling, labels: np.ndarray) -> Tensor:
    """Return, for (H, W, 1) numbers, (channels, H, W) float32: 1 where a pixel is of the class, else 0; then edges.

    0 rather than −1 stands for "not this class", as in pix2pixHD: a convolution's zero padding and an ignored pixel
    then both say that nothing is known here. Numbers that are no class must have been refused before.
    """
    stored = torch.from_numpy(labels[..., 0].astype(np.int64))
    numbers = torch.from_numpy(labelling.of_class(labels)[..., 0].astype(np.int64))
    known = (numbers < labelling.classes) & (numbers != labelling.ignore) & (stored != labelling.ignore)
    planes = torch.zeros(labelling.channels, *numbers.shape)
    planes.scatter_(0, numbers.clamp(max=labelling.classes - 1)[None], known[None].float())
    if labelling.edges:
        planes[-1] = edges(stored)
    return planes


def edges(numbers: Tensor) -> Tensor:
    """Return (H, W) float32: 1 where a pixel has another number than one beside, above or below it, else 0.

    It is the boundary map of pix2pixHD (Wang et al. 2018, section 3.3), which tells things of one class apart.
    """
    found = torch.zeros(numbers.shape)
    for dimension in (0, 1):
        differs = numbers.diff(dim=dimension) != 0
        for start in (0, 1):
            side = found.narrow(dimension, start, differs.shape[dimension])
            side.masked_fill_(differs, 1.0)
    return found
