"""Training a task network, and putting it to the test."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from translate.adapt.examples import Examples, TrainingExamples
from translate.adapt.result_cache import Record, TaskRecord, cached
from translate.metrics.segmentation import LabelScores
from translate.networks.task_networks import RECORD, load_task, read_task, save_task
from translate.precision import Format, autocast, choose_precision
from translate.recipe import Downstream

Watch = Callable[[int, int], None]  # so much is done of so much
PIXELS_AT_ONCE = 2**18  # of images that a network is asked about together


def train_task(config: Downstream, examples: Examples, seed: int, device: torch.device, workers: int = 0,
               watch: Watch = lambda done, total: None) -> nn.Module:
    """Return a task network trained on `examples` from `seed`, frozen and in eval mode.

    It is trained with cross-entropy and AdamW, the learning rate falling to 0. `workers` processes load the examples.
    Random states of the process stay as they are. Raises `DataError` for an example that cannot be read, and
    `TranslateError` where a worker is lost.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        layout = examples.layout
        network = config.network.build(examples.image.channels, layout.num_classes).to(device).train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        precision = task_precision(device)
        ignored = getattr(layout, "ignore", None)
        steps = math.ceil(config.num_seen / config.batch_size)

        # Loaders of earlier versions drew this number. Without it, dropout would give other results than tables hold.
        torch.empty((), dtype=torch.int64).random_()

        with closing(TrainingExamples(examples, config, seed).batches(workers)) as batches:
            for step, (images, labels) in enumerate(batches):
                for group in optimizer.param_groups:
                    group["lr"] = config.lr * (1 + math.cos(math.pi * step / steps)) / 2
                with autocast(device, precision):
                    logits = network(images.to(device))
                loss = F.cross_entropy(logits.float(), labels.to(device),
                                       ignore_index=-100 if ignored is None else ignored)
                if torch.isfinite(loss):  # a crop of ignored pixels alone has no loss
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
                watch(min((step + 1) * config.batch_size, config.num_seen), config.num_seen)
    return network.eval().requires_grad_(False)


def cached_task(folder: Path, config: Downstream, examples: Examples, seed: int, device: torch.device, workers: int,
                watch: Watch = lambda done, total: None) -> nn.Module:
    """Return the network of a task folder, trained as by `train_task` where it was trained otherwise or is damaged."""
    made_from = {"training": config.model_dump(mode="json"), "seed": seed, "examples": examples.digest}

    def make() -> Record:
        network = train_task(config, examples, seed, device, workers, watch)
        return save_task(folder, network, config.network, examples.image.channels, examples.layout.num_classes)

    cached(folder / RECORD, made_from, make, lambda _: read_task(folder) is not None, TaskRecord)
    return load_task(folder, examples.image.channels).to(device)


def task_precision(device: torch.device) -> Format:
    """Return bf16 where CUDA has it, else fp32: fp16 would need scaled losses, and a CPU gains nothing by bf16."""
    chosen = choose_precision("auto", device) if device.type == "cuda" else "fp32"
    return chosen if chosen == "bf16" else "fp32"


def opinions(network: nn.Module, examples: Examples, device: torch.device) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the classes that a network gives each example, and its true ones, as int64: (1,), or (h, w, 1) of pixels.

    Logits of another size than the truth are resized to it before a class is chosen. The network sees small images of
    one size together.
    """
    for batch in of_one_size(examples.whole(number) for number in range(len(examples))):
        yield from _opinions(network, batch, device)


def of_one_size(samples: Iterable[tuple[Tensor, np.ndarray]]) -> Iterator[list[tuple[Tensor, np.ndarray]]]:
    """Yield images (C, H, W) and their classes together, in their order, as many of one size as a network is asked."""
    waiting: list[tuple[Tensor, np.ndarray]] = []
    for image, truth in samples:
        full = sum(each.shape[1] * each.shape[2] for each, _ in waiting) >= PIXELS_AT_ONCE
        if waiting and (full or (image.shape, truth.shape) != (waiting[0][0].shape, waiting[0][1].shape)):
            yield waiting
            waiting = []
        waiting.append((image, truth))
    if waiting:
        yield waiting


@torch.no_grad()
def _opinions(network: nn.Module, examples: Sequence[tuple[Tensor, np.ndarray]],
              device: torch.device) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    images, truths = zip(*examples, strict=True)
    size = truths[0].shape[:2]
    with autocast(device, task_precision(device)):
        logits = network(torch.stack(images).to(device)).float()
    if logits.ndim == 4 and logits.shape[2:] != size:
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    yield from zip(logits.argmax(1).cpu().numpy()[..., None], truths, strict=True)


def confusions(network: nn.Module, examples: Examples, device: torch.device) -> list[np.ndarray]:
    """Return (classes, classes + 1) counts for each example, of its pixels or of the one image.

    See `LabelScores.confusion`.
    """
    scores = LabelScores(examples.layout.num_classes, getattr(examples.layout, "ignore", None))
    return [scores.confusion(found, truth) for found, truth in opinions(network, examples, device)]
