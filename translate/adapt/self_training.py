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
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from translate.adapt.examples import Examples
from translate.adapt.task_training import Watch, of_one_size, task_precision, train_task
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

    They are means over batches. One value of a channel has no variance: a norm that a batch reaches with no more passes
    it on by the statistics it has, those of the source until another batch has reached it. A network without batch norm
    comes back as it was.
    """
    def count_where_possible(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        norm.train(inputs[0].numel() > inputs[0].shape[1])

    network = copy.deepcopy(network)
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    hooks = [norm.register_forward_pre_hook(count_where_possible) for norm in norms]
    for norm in norms:
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.zero_()  # the first batch takes the place of the source's statistics
        norm.momentum = None  # a mean over all batches, where a number would forget the first
    for batch in of_one_size(unlabelled.whole(number) for number in range(len(unlabelled) if norms else 0)):
        with autocast(device, task_precision(device)):
            network(torch.stack([image for image, _ in batch]).to(device))
    for hook in hooks:
        hook.remove()
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
                 watch: Watch = lambda done, total: None) -> tuple[nn.Module, list[int]]:
    """Return a network trained on `examples` and on what `teacher` is sure of among the target's images.

    It begins anew from `seed`, and is the teacher of the next round. Its batch norms have the target's statistics. What
    the teacher is sure of is repeated a whole number of times, so that it is 40 to 57 % of what is trained on; where it
    is more than `examples`, all of it comes once, and its part is larger.

    The list says how many images each round took. It ends with 0 where a teacher is sure of nothing: the teacher itself
    comes back.
    """
    taken: list[int] = []
    for number in range(how.rounds):
        sure = pseudo_labelled(teacher, unlabelled, how.confidence, device)
        taken.append(len(sure))
        if not len(sure):
            break
        share = [*range(len(sure))] * max(1, round(len(examples) / len(sure)))

        def tell(done: int, total: int, before: int = number) -> None:
            watch(before * total + done, how.rounds * total)

        trained = train_task(config, examples + sure.part(share), seed, device, workers, tell)
        teacher = with_norms_of(trained, unlabelled, device)
    return teacher, taken
