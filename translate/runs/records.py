"""What a run leaves for people and programs to look at: JSON lines, sample grids, and trackers through Accelerate.

    metrics.jsonl   losses and scores, and how the game stands (docs/training.md). The records of images that a resume
                    or the guard's way back repeats are removed first.
    events.jsonl    what happened, and when: start, resume, stage, memory, warning, what the guard did, end. Nothing in
                    it is ever removed.
    samples/        <images>.png: the same held-out samples as they were translated then

The numbers and pictures also go to the trackers that the recipe names. A training never fails because one of them
does: a tracker that raises is left out from then on, with one warning.
"""

from __future__ import annotations

import datetime
import importlib.util
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from PIL import Image
from torch import Tensor

from translate import files
from translate.data import Sample
from translate.errors import MissingExtra
from translate.foreign import Count, Shape, read_lines
from translate.networks.eval_mode import evaluating
from translate.recipe import Recipe
from translate.tiling.where_it_fits import apply_where_it_fits
from translate.translators import Direction, Translator

METRICS, EVENTS = "metrics.jsonl", "events.jsonl"
LINE_WIDTH = 2  # pixels between the images of a sample grid


class Line(Shape):
    """What every line of `metrics.jsonl` has."""

    images: Count
    kind: str


class Event(Shape):
    """What every line of `events.jsonl` has."""

    time: str
    images: Count
    what: str
    message: str


class Tracker:
    """Writes a run's numbers, events and pictures. Every process calls it, and only the main one writes.

    Its methods raise `DiskError` when the disk is full.
    """

    def __init__(self, folder: Path, recipe: Recipe, accelerator: Accelerator, warn: Callable[[str], None]):
        """Check that the recipe's trackers are installed; raises `MissingExtra` otherwise.

        `warn` is called with a line about each tracker that fails.
        """
        self.folder, self.recipe, self.accelerator, self.warn = folder, recipe, accelerator, warn
        for name in recipe.trackers:
            if importlib.util.find_spec(name) is None:
                raise MissingExtra(name, "track", f"trackers: [{name}]")

    def open(self) -> None:
        """Start the trackers. TensorBoard and W&B write into the run folder, trackio where it keeps all its runs.

        One at a time: Accelerate would lose all of them by the first that raises.
        """
        about = {"name": self.folder.name, "config": self.recipe.dump()}
        settings = {"wandb": about | {"dir": str(self.folder)}, "trackio": about}
        wanted, opened = list(self.accelerator.log_with), []
        for each in wanted:
            self.accelerator.log_with, self.accelerator.trackers = [each], []
            try:
                self.accelerator.init_trackers(self.recipe.name, init_kwargs=settings)
            except Exception as error:
                self._leave_out(str(each), error)
            else:
                opened += self.accelerator.trackers
        self.accelerator.log_with, self.accelerator.trackers = wanted, opened

    def resume_at(self, num_images: int) -> None:
        """Remove the metrics of more than `num_images`, as the training repeats those images."""
        path = self.folder / METRICS
        if self.accelerator.is_main_process and path.exists():
            kept = [record for record in read_lines(path, Line) if record["images"] <= num_images]
            with files.as_disk_errors(path):
                files.write_bytes(path, "".join(json.dumps(record) + "\n" for record in kept).encode())

    def record(self, num_images: int, kind: str, values: dict[str, float], **about: Any) -> None:
        """Add one line of `kind` to `metrics.jsonl`, and send its values to the trackers as <kind>/<name>.

        The kind must be in the name: L1 is a weighted loss of the training and a score of the evaluation. `about` is
        for the line alone. A value that is not finite becomes null, as JSON has none.
        """
        if self.accelerator.is_main_process:
            plain = {name: value if math.isfinite(value) else None for name, value in values.items()}
            with files.as_disk_errors(self.folder / METRICS):
                files.append_line(self.folder / METRICS, {"images": num_images, "kind": kind, **about, **plain})
        named = {f"{kind}/{name}": value for name, value in values.items()}
        self._with_trackers(lambda tracker: tracker.log(named, step=num_images))

    def event(self, num_images: int, what: str, message: str = "", **about: Any) -> None:
        """Add one line to `events.jsonl`: `what` happened, in a word or two, and `message`, the same in a sentence."""
        if self.accelerator.is_main_process:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            with files.as_disk_errors(self.folder / EVENTS):
                files.append_line(self.folder / EVENTS, {
                    "time": now, "images": num_images, "what": what, "message": message, **about})

    def picture(self, num_images: int, grid: Tensor) -> Path:
        """Save a grid (H, W, 3) in 8 bits as `samples/<images>.png`, and return that path."""
        path = self.folder / "samples" / f"{num_images:012d}.png"
        image, encoded = Image.fromarray(grid.numpy()), io.BytesIO()
        image.save(encoded, format="png")
        with files.as_disk_errors(path):
            files.make_folder(path.parent, self.folder)
            files.write_bytes(path, encoded.getvalue())
        self._with_trackers(lambda tracker: _log_picture(tracker, image, num_images))
        return path

    def close(self) -> None:
        """Let the trackers write what they still hold."""
        self._with_trackers(lambda tracker: tracker.finish())
        self.accelerator.trackers = []
        self.accelerator.end_training()

    def _with_trackers(self, do: Callable[[GeneralTracker], None]) -> None:
        """Call `do` with every tracker; those that raise are left out from then on."""
        for tracker in list(self.accelerator.trackers):
            try:
                do(tracker)
            except Exception as error:
                self.accelerator.trackers.remove(tracker)
                self._leave_out(tracker.name, error)

    def _leave_out(self, name: str, error: Exception) -> None:
        self.warn(f"warning: the tracker {name} is left out from now on: {type(error).__name__}: {error}")


@torch.no_grad()
def sample_grid(translator: Translator, samples: Sequence[Sample], device: torch.device,
                labels: bool = False) -> Tensor:
    """Translate held-out samples of any sizes; return a grid of them (H, W, 3), in 8 bits.

    A row is one sample: a, a → b, b, and for two-way translators also b → a; smaller images stand in the middle of a
    white field. One image at a time is on the device, and in more than 8 bits, so that a picture needs less memory than
    a step. `labels` says that domain A holds one-hot label maps.
    """
    rows = []
    for a, b, *_ in samples:
        row = [_to_bytes(a[None], labels), _to_bytes(_translate(translator, "ab", a[None], device)), _to_bytes(b[None])]
        if "ba" in translator.directions:
            row.append(_to_bytes(_translate(translator, "ba", b[None], device), labels))
        rows.append(row)

    return in_fields(rows)


def sheet_of(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return rows of images (C, H, W) in [-1, 1] as one picture (H, W, 3), in 8 bits; rows may be of any length."""
    return in_fields([[_to_bytes(image[None]) for image in row] for row in rows])


def in_fields(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return rows of pictures (H, W, 3) in 8 bits as one, each in the middle of a field, between white lines."""
    height, width = (max(cell.shape[axis] for row in rows for cell in row) + LINE_WIDTH for axis in (0, 1))
    columns = max(map(len, rows))
    grid = torch.full((height * len(rows) + LINE_WIDTH, width * columns + LINE_WIDTH, 3), 255, dtype=torch.uint8)
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            top = LINE_WIDTH + y * height + (height - LINE_WIDTH - cell.shape[0]) // 2
            left = LINE_WIDTH + x * width + (width - LINE_WIDTH - cell.shape[1]) // 2
            grid[top:top + cell.shape[0], left:left + cell.shape[1]] = cell
    return grid


def _to_bytes(image: Tensor, labels: bool = False) -> Tensor:
    """Return an image (1, C, H, W) in [-1, 1] as `to_rgb` shows it, (H, W, 3) in 8 bits."""
    return to_rgb(image, labels)[0].add(1).div(2).clamp(0, 1).mul(255).byte().permute(1, 2, 0)


def to_rgb(images: Tensor, labels: bool = False) -> Tensor:
    """Return images (N, C, H, W) in [-1, 1] as something to look at, (N, 3, H, W) in [-1, 1].

    One channel becomes grey, two become red and green, and of more than three the first three are shown. Of one-hot
    `labels` each class becomes a level of grey.
    """
    channels = images.shape[1]
    if labels:
        return (images.argmax(1, keepdim=True).float() / (channels - 1) * 2 - 1).expand(-1, 3, -1, -1)
    if channels == 1:
        return images.float().expand(-1, 3, -1, -1)
    if channels == 2:
        return F.pad(images.float(), (0, 0, 0, 0, 0, 1), value=-1.0)
    return images[:, :3].float()


def _translate(translator: Translator, direction: Direction, image: Tensor, device: torch.device) -> Tensor:
    """Translate an image (1, C, H, W) on `device`; the result (1, C', H, W) is on the CPU."""
    generator = translator.generator(direction)
    with evaluating(generator):
        return apply_where_it_fits(generator, image.to(device)).cpu()


def _log_picture(tracker: GeneralTracker, image: Image.Image, num_images: int) -> None:
    """Give a picture to a tracker, each of which takes it in a way of its own."""
    if tracker.name == "tensorboard":
        tracker.log_images({"samples": np.asarray(image)[None]}, step=num_images, dataformats="NHWC")
    elif tracker.name == "wandb":
        tracker.log_images({"samples": [image]}, step=num_images)
    elif tracker.name == "trackio":
        import trackio

        tracker.tracker.log({"samples": trackio.Image(image)}, step=num_images)
