"""Task networks: classifiers and segmentation networks, which say what an image shows.

Domain adaptation trains them on translated images. Trained on labelled images of one domain, such a network is tested
on another, or asked whether a translation still shows what it did before. Logits are (N, classes) for an image, or
(N, classes, H, W) for each of its pixels.

A task folder holds `task.safetensors` and, written last, `task.json`: the network's config, channels, classes, the
SHA-256 of the weights, and what it was trained on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors.torch
import torch
import torch.nn.functional as F
from pydantic import Field, TypeAdapter
from torch import Tensor, nn

from translate import files
from translate.errors import CheckpointError, DocumentError, UsageError
from translate.foreign import SHA256, Count, Shape, read_json
from translate.networks.features import ImageNetRange
from translate.networks.weights import refuse_other_shapes
from translate.schema import Config

WEIGHTS, RECORD = "task.safetensors", "task.json"


class Record(Shape):
    """What others read of `task.json`."""

    network: dict[str, Any]
    channels: Count
    classes: Count
    sha256: SHA256


class TaskConfig(Config, ABC):
    """What every task network's config has."""

    @property
    @abstractmethod
    def per_pixel(self) -> bool:
        """Whether it names every pixel, or the image as a whole."""

    @abstractmethod
    def build(self, channels: int, classes: int) -> nn.Module:
        """Return the network for images with so many channels; untrained, or with ImageNet weights (`pretrained`)."""


class CNNConfig(TaskConfig):
    """A small classifier: convolution, batch norm, ReLU and pooling, `downs` times; the mean; a linear layer."""

    kind: Literal["cnn"] = "cnn"
    width: int = Field(32, ge=1, le=4096)  # channels of the first layer; doubled by each next
    downs: int = Field(3, ge=1, le=12)

    @property
    def per_pixel(self) -> bool:
        return False

    def build(self, channels: int, classes: int) -> nn.Module:
        widths = [channels, *(self.width * 2**depth for depth in range(self.downs + 1))]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [*_convolution(before, after), nn.MaxPool2d(2)]
        return nn.Sequential(*layers[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))


class FCNConfig(TaskConfig):
    """A small segmentation network: a U-Net that pools `downs` times and upsamples as often."""

    kind: Literal["fcn"] = "fcn"
    width: int = Field(16, ge=1, le=4096)
    downs: int = Field(2, ge=1, le=12)

    @property
    def per_pixel(self) -> bool:
        return True

    def build(self, channels: int, classes: int) -> nn.Module:
        return FCN(channels, classes, self.width, self.downs)


class TorchvisionConfig(TaskConfig):
    """A network of torchvision, for images of 1 or 3 channels."""

    kind: Literal["torchvision"] = "torchvision"
    name: Literal["resnet18", "resnet50", "lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large",
                  "deeplabv3_resnet50", "fcn_resnet50"] = "deeplabv3_resnet50"
    pretrained: bool = True  # begin with ImageNet weights: from torch's cache, or downloaded by torchvision

    @property
    def per_pixel(self) -> bool:
        return "_" in self.name

    def build(self, channels: int, classes: int) -> nn.Module:
        """Raises `UsageError` for other images, and where ImageNet weights are asked for and cannot be had."""
        if channels not in (1, 3):
            raise UsageError(f"task network {self.name}: takes images of 1 or 3 channels, not {channels}")
        from torchvision import models  # slow to import, and no other network needs it

        backbones = {"mobilenet_v3_large": models.MobileNet_V3_Large_Weights, "resnet50": models.ResNet50_Weights}
        weights = "DEFAULT" if self.pretrained else None
        try:
            if self.per_pixel:
                backbone = weights and backbones[self.name.split("_", 1)[1]].DEFAULT
                network = models.get_model(self.name, weights=None, weights_backbone=backbone, num_classes=classes)
            else:
                network = models.get_model(self.name, weights=weights)
                network.fc = nn.Linear(network.fc.in_features, classes)
        except OSError as error:  # no network here, and nothing in the cache
            raise UsageError(f"task network {self.name}: its ImageNet weights could not be downloaded ({error}); put "
                             "them into TORCH_HOME, or set pretrained: false") from None
        return FromTorchvision(network)


TaskNetworkConfig = Annotated[CNNConfig | FCNConfig | TorchvisionConfig, Field(discriminator="kind")]


class FCN(nn.Module):
    """Maps images of any size (N, C, H, W) to logits (N, classes, H, W)."""

    def __init__(self, channels: int, classes: int, width: int, downs: int):
        super().__init__()
        widths = [width * 2**depth for depth in range(downs + 1)]
        self.first = nn.Sequential(*_convolution(channels, width))
        self.down = nn.ModuleList(nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), *_convolution(fine, coarse),
                                                *_convolution(coarse, coarse))
                                  for fine, coarse in pairwise(widths))
        self.up = nn.ModuleList(nn.Sequential(*_convolution(coarse + fine, fine))
                                for fine, coarse in reversed(list(pairwise(widths))))
        self.last = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        # Down: the features of every level.
        levels = [self.first(images)]
        for down in self.down:
            levels.append(down(levels[-1]))

        # Up: each level's features beside those from below.
        features = levels.pop()
        for up in self.up:
            finer = levels.pop()
            features = F.interpolate(features, finer.shape[2:], mode="bilinear", align_corners=False)
            features = up(torch.cat([features, finer], dim=1))
        return self.last(features)


class FromTorchvision(nn.Module):
    """A network of torchvision for images in our range: maps (N, 1 or 3, H, W) in [-1, 1] to logits."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.range, self.network = ImageNetRange(), network

    def forward(self, images: Tensor) -> Tensor:
        made = self.network(self.range(images))
        return made["out"] if isinstance(made, dict) else made


def _convolution(before: int, after: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()


def save_task(folder: Path, network: nn.Module, config: TaskConfig, channels: int, classes: int) -> dict[str, Any]:
    """Write a trained network into a task folder, and return the record that is to be written there last, as `RECORD`.

    Raises `DiskError`.
    """
    with files.as_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.detach().to("cpu").contiguous() for name, tensor in network.state_dict().items()}
        files.write_bytes(folder / WEIGHTS, safetensors.torch.save(weights))
        return _record(folder, config, channels, classes)


def save_shapes(folder: Path, config: TaskConfig, channels: int, classes: int) -> None:
    """Write a task folder without weights: what `load_task` needs of one on the meta device."""
    files.write_bytes(folder / WEIGHTS, b"")
    files.write_json(folder / RECORD, _record(folder, config, channels, classes))


def _record(folder: Path, config: TaskConfig, channels: int, classes: int) -> dict[str, Any]:
    return {"network": config.model_dump(mode="json"), "channels": channels, "classes": classes,
            "sha256": files.sha256(folder / WEIGHTS)}


def read_task(folder: Path) -> dict[str, Any] | None:
    """Return what `task.json` says, where the weights are those that it names; else None."""
    try:
        record = read_json(folder / RECORD, Record)
    except DocumentError:
        return None
    return record if record and files.checksum(folder / WEIGHTS) == record["sha256"] else None


def load_task(folder: Path, channels: int) -> nn.Module:
    """Return the trained network of a task folder, frozen and in eval mode; on the meta device only its shapes.

    Raises `CheckpointError` for a folder that is none or is damaged, and for a network of images with other `channels`.
    """
    record = read_task(folder)
    if record is None:
        raise CheckpointError("holds no task network, or a damaged one", folder, "`translate adapt make RECIPE` trains "
                              "one (OUT/task), as `translate evaluate RUN --tstr` does (RUN/classifier)")
    if record["channels"] != channels:
        raise CheckpointError(f"its task network is for images with {record['channels']} channels, not {channels}",
                              folder, "train one for these: `translate adapt make RECIPE`")

    # Built as it was, but without downloading ImageNet weights that are replaced at once.
    try:
        config: TaskConfig = TypeAdapter(TaskNetworkConfig).validate_python(
            record["network"] | ({"pretrained": False} if "pretrained" in record["network"] else {}))
        if (folder / WEIGHTS).stat().st_size:  # of shapes alone it is empty
            refuse_other_shapes(folder / WEIGHTS, lambda: config.build(channels, record["classes"]))
        with torch.random.fork_rng(devices=[]):  # initialisation draws numbers that are replaced at once
            network = config.build(channels, record["classes"])
        if not any(parameter.is_meta for parameter in network.parameters()):
            network.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
    except (ValueError, RuntimeError, safetensors.SafetensorError) as error:
        what = f"holds no such network as its {RECORD} says: {str(error).splitlines()[0]}"
        raise CheckpointError(what, folder) from None
    return network.eval().requires_grad_(False)
