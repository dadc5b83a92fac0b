"""Training a task network, and putting it to the test."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from translate.adapt.examples import Draws, Examples
from translate.metrics.segmentation import LabelScores
from translate.networks.tasks import load_task, read_task, save_task
from translate.precision import Format, autocast, choose_precision
from translate.recipe import Downstream

Watch = Callable[[int, int], None]  # so much is done of so much
PIXELS_AT_ONCE = 2**18


def train_task(config: Downstream, examples: Examples, seed: int, device: torch.device, workers: int = 0,
               watch: Watch = lambda done, total: None) -> nn.Module:
    """A task network trained on `examples` from `seed`: cross-entropy, AdamW, the learning rate falling to 0.

    Random states of the process stay as they are. Frozen and in eval mode. Raises `TranslateError` for an example that
    cannot be read.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        layout = examples.layout
        network = config.network.build(examples.image.channels, layout.num_classes).to(device).train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        precision = task_precision(device)
        ignored = getattr(layout, "ignore", None)
        steps = math.ceil(config.images / config.batch_size)
        for step, (images, labels) in enumerate(Draws(examples, config, seed).batches(workers)):
            for group in optimizer.param_groups:
                group["lr"] = config.lr * (1 + math.cos(math.pi * step / steps)) / 2
            with autocast(device, precision):
                logits = network(images.to(device))
            loss = F.cross_entropy(logits.float(), labels.to(device), ignore_index=-100 if ignored is None else ignored)
            if torch.isfinite(loss):  # a crop of ignored pixels alone has no loss
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            watch(min((step + 1) * config.batch_size, config.images), config.images)
    return network.eval().requires_grad_(False)


def kept_task(folder: Path, config: Downstream, examples: Examples, seed: int, device: torch.device, workers: int,
              watch: Watch = lambda done, total: None) -> nn.Module:
    """The same, kept in a task folder: one that was trained alike before is read."""
    about = {"training": config.model_dump(mode="json"), "seed": seed, "examples": examples.digest}
    record = read_task(folder)
    if record is None or record["about"] != about:
        network = train_task(config, examples, seed, device, workers, watch)
        save_task(folder, network, config.network, examples.image.channels, examples.layout.num_classes, about)
    return load_task(folder, examples.image.channels).to(device)


def task_precision(device: torch.device) -> Format:
    """bf16 where CUDA has it, else fp32: fp16 would need scaled losses, and small networks gain nothing on a CPU."""
    chosen = choose_precision("auto", device) if device.type == "cuda" else "fp32"
    return chosen if chosen == "bf16" else "fp32"


def opinions(network: nn.Module, images: Iterable[tuple[Tensor, tuple[int, ...]]],
             device: torch.device) -> Iterator[np.ndarray]:
    """What a network says each image (C, H, W) shows, as int64: (1,) for a class, or (h, w, 1) for every pixel.

    Beside each image stands the shape of its truth: logits of another size are enlarged to it before a class is chosen.
    Small images of one size are looked at together.
    """
    waiting: list[tuple[Tensor, tuple[int, ...]]] = []
    for image, shape in images:
        full = sum(each.shape[1] * each.shape[2] for each, _ in waiting) >= PIXELS_AT_ONCE
        if waiting and (full or (image.shape, shape) != (waiting[0][0].shape, waiting[0][1])):
            yield from _opinions(network, waiting, device)
            waiting = []
        waiting.append((image, shape))
    if waiting:
        yield from _opinions(network, waiting, device)


@torch.no_grad()
def _opinions(network: nn.Module, images: Sequence[tuple[Tensor, tuple[int, ...]]],
              device: torch.device) -> Iterator[np.ndarray]:
    shape = images[0][1]
    with autocast(device, task_precision(device)):
        logits = network(torch.stack([image for image, _ in images]).to(device)).float()
    if logits.ndim == 4 and logits.shape[2:] != shape[:2]:
        logits = F.interpolate(logits, shape[:2], mode="bilinear", align_corners=False)
    yield from logits.argmax(1).cpu().numpy()[..., None]


def confusions(network: nn.Module, examples: Examples, device: torch.device) -> list[np.ndarray]:
    """(classes, classes + 1) counts for each example, see `LabelScores.confusion`: of pixels, or of the one image."""
    scores = LabelScores(examples.layout.num_classes, getattr(examples.layout, "ignore", None))
    truths: deque[np.ndarray] = deque()

    def images() -> Iterator[tuple[Tensor, tuple[int, ...]]]:
        for number in range(len(examples)):
            image, truth = examples.whole(number)
            truths.append(truth)
            yield image, truth.shape

    return [scores.confusion(found, truths.popleft()) for found in opinions(network, images(), device)]
