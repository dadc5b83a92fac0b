"""What a task network can still learn from the target's images, without any label of them.

AdaBN (Li et al. 2017, "Revisiting batch normalization for practical domain adaptation") counts the statistics of batch
norm anew on the target. Self-training (Lee 2013, "Pseudo-label") trains again, on the same examples and on the target's
images with what the network was sure of as their labels. Neither needs a translator, so that a table has them for its
baselines as well.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from translate.adapt.examples import Examples
from translate.adapt.tasks import Watch, of_one_size, task_precision, train_task
from translate.data.hashing import stable_hash
from translate.precision import autocast
from translate.recipe import Downstream, SelfTraining

NO_CLASS = np.full(1, -1)  # the label of an image that has none


def without_labels(examples: Examples) -> Examples:
    """Return the same images without labels, in an order of chance: files lie in the order of classes."""
    mixed = sorted(range(len(examples)), key=lambda number: stable_hash("order", number))
    return examples.part(mixed, [NO_CLASS] * len(mixed))


@torch.no_grad()
def with_norms_of(network: nn.Module, unlabelled: Examples, device: torch.device) -> nn.Module:
    """Return a copy of a network whose batch norms have the statistics of these images (AdaBN), in eval mode.

    They are means over batches. A network without batch norm comes back as it was.
    """
    network = copy.deepcopy(network)
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a mean over all batches, where a number would forget the first
        norm.train()
    for batch in of_one_size(unlabelled.whole(number) for number in range(len(unlabelled) if norms else 0)):
        with autocast(device, task_precision(device)):
            network(torch.stack([image for image, _ in batch]).to(device))
    return network.eval()


@torch.no_grad()
def beliefs(network: nn.Module, examples: Examples, device: torch.device) -> Iterator[np.ndarray]:
    """Yield the probabilities that a network gives the classes of each image: (classes,), or (classes, h, w) of pixels.
    """
    for batch in of_one_size(examples.whole(number) for number in range(len(examples))):
        with autocast(device, task_precision(device)):
            logits = network(torch.stack([image for image, _ in batch]).to(device))
        yield from logits.float().softmax(1).cpu().numpy()


def pseudo_labelled(network: nn.Module, unlabelled: Examples, confidence: float, device: torch.device) -> Examples:
    """Return images with the classes to which a network gives a probability of at least `confidence`.

    Of label maps, pixels of which it is less sure are ignored; an image of which nothing is left is left out. The
    labels are kept in memory: of 3,000 images of 512×1024 pixels, 1.6 GB.
    """
    ignore, sure, labels = getattr(unlabelled.layout, "ignore", None), [], []
    for number, belief in enumerate(beliefs(network, unlabelled, device)):
        certain = belief.max(0) >= confidence
        if certain.any():
            found = belief.argmax(0)
            sure.append(number)
            labels.append(np.where(certain, found, found if ignore is None else ignore)[..., None]
                          .astype(np.min_scalar_type(max(len(belief), ignore or 0))))
    return unlabelled.part(sure, labels)


def self_trained(how: SelfTraining, config: Downstream, examples: Examples, teacher: nn.Module, unlabelled: Examples,
                 seed: int, device: torch.device, workers: int = 0,
                 watch: Watch = lambda done, total: None) -> nn.Module:
    """Return a network trained on `examples` and, as often, on what `teacher` is sure of among the target's images.

    It begins anew from `seed`, and is the teacher of the next round. Its batch norms have the target's statistics.
    Where a teacher is sure of nothing, the teacher itself comes back.
    """
    for number in range(how.rounds):
        sure = pseudo_labelled(teacher, unlabelled, how.confidence, device)
        if not len(sure):
            break
        share = [*range(len(sure))] * max(1, round(len(examples) / len(sure)))

        def tell(done: int, total: int, before: int = number) -> None:
            watch(before * total + done, how.rounds * total)

        trained = train_task(config, examples + sure.part(share), seed, device, workers, tell)
        teacher = with_norms_of(trained, unlabelled, device)
    return teacher
