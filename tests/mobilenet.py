"""A MobileNetV2 of random weights, where the package looks for the real one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision

from translate.files import sha256
from translate.networks import features


def write_mobilenet(root: Path, patch: pytest.MonkeyPatch) -> Path:
    """A data folder with a MobileNetV2 of random weights, and a checksum that takes them."""
    path = root / "features" / features.MOBILENET_FILE
    path.parent.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(torchvision.models.mobilenet_v2().state_dict(), path)
    patch.setattr(features, "MOBILENET_SHA256", sha256(path))
    patch.setenv("DIPTYCH_DATA", str(root))
    return path
