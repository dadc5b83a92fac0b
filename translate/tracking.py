"""What a run leaves for people and programs to look at: JSON lines, sample grids, and trackers through Accelerate."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from accelerate import Accelerator
from torch import Tensor

from translate import files
from translate.errors import MissingExtra
from translate.recipe import Recipe
from translate.translators import Translator

METRICS = "metrics.jsonl"


class Tracker:
    """Writes a run's numbers and pictures; only the main process does. Raises `DiskError` when it cannot."""

    def __init__(self, folder: Path, recipe: Recipe, accelerator: Accelerator):
        self.folder, self.recipe, self.accelerator = folder, recipe, accelerator
        if "tensorboard" in recipe.trackers:
            _require_tensorboard()

    def open(self) -> None:
        """Start the trackers; they write into the run folder."""
        if self.recipe.trackers:
            with files.naming_disk_faults(self.folder):
                self.accelerator.init_trackers(self.recipe.name, config=None)

    def resume_at(self, num_images: int) -> None:
        """Forget what was recorded after `num_images`: the run that wrote it is being repeated."""
        path = self.folder / METRICS
        if self.accelerator.is_main_process and path.exists():
            kept = [record for record in files.read_lines(path) if record["images"] <= num_images]
            with files.naming_disk_faults(path):
                files.write_bytes(path, "".join(json.dumps(record) + "\n" for record in kept).encode())

    def record(self, num_images: int, values: dict[str, float], **about: Any) -> None:
        """Add one line to `metrics.jsonl` and send the values to the trackers."""
        if self.accelerator.is_main_process:
            plain = {name: value if math.isfinite(value) else None for name, value in values.items()}  # JSON has no NaN
            with files.naming_disk_faults(self.folder / METRICS):
                files.append_line(self.folder / METRICS, {"images": num_images, **about, **plain})
        self.accelerator.log(values, step=num_images)

    def picture(self, num_images: int, grid: Tensor) -> Path:
        """Save a (3, H, W) grid in [-1, 1] as `samples/<images>.png`."""
        path = self.folder / "samples" / f"{num_images:012d}.png"
        image = torchvision.transforms.functional.to_pil_image(grid.add(1).div(2).clamp(0, 1))
        encoded = io.BytesIO()
        image.save(encoded, format="png")
        with files.naming_disk_faults(path):
            path.parent.mkdir(exist_ok=True)
            files.write_bytes(path, encoded.getvalue())
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.log_images({"samples": grid.add(1).div(2).clamp(0, 1)[None].cpu().numpy()},
                                   step=num_images, dataformats="NCHW")
        return path

    def close(self) -> None:
        self.accelerator.end_training()


@torch.no_grad()
def sample_grid(translator: Translator, a: Tensor, b: Tensor, device: torch.device, labels: bool = False) -> Tensor:
    """One row a held-out sample: a, a → b, b, and for two-way translators also b → a. (3, H, W) in [-1, 1].

    One image at a time is on the device, so that a picture needs less memory than a step.

    `labels` says that domain A holds one-hot label maps.
    """
    columns = [to_rgb(a, labels), to_rgb(_translate(translator, "ab", a, device)), to_rgb(b)]
    if "ba" in translator.directions:
        columns.append(to_rgb(_translate(translator, "ba", b, device), labels))
    rows = torch.stack(columns, dim=1).flatten(0, 1)
    return torchvision.utils.make_grid(rows, nrow=len(columns), padding=2, pad_value=1.0)


def to_rgb(images: Tensor, labels: bool = False) -> Tensor:
    """(N, C, H, W) as something to look at, (N, 3, H, W) in [-1, 1].

    Grey becomes RGB, the classes of one-hot labels become levels of grey, and of many channels the first three are
    shown.
    """
    channels = images.shape[1]
    if labels:
        return (images.argmax(1, keepdim=True).float() / (channels - 1) * 2 - 1).expand(-1, 3, -1, -1)
    if channels == 1:
        return images.float().expand(-1, 3, -1, -1)
    if channels == 2:
        return F.pad(images.float(), (0, 0, 0, 0, 0, 1), value=-1.0)
    return images[:, :3].float()


def _translate(translator: Translator, direction: Any, images: Tensor, device: torch.device) -> Tensor:
    generator = translator.generator(direction)
    training = generator.training
    generator.eval()
    fakes = torch.cat([generator(image[None].to(device)).cpu() for image in images])
    generator.train(training)
    return fakes


def _require_tensorboard() -> None:
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        raise MissingExtra("tensorboard", "track", "trackers: [tensorboard]") from None
