"""How long it takes to score an image: measured on a small one, before the first evaluation of a training.

An evaluation of large images may take longer than a short training, and nothing that is known of the steps tells how
long: scores cost the same however small the networks are, and features the same however large the image is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from translate.errors import TranslateError
from translate.evaluation.heldout import Evaluator, translate_whole
from translate.metrics import reference
from translate.metrics.features import MAX_PATCHES, PATCH_SIDE
from translate.networks.eval_mode import evaluating
from translate.translators import Translator

T = TypeVar("T")
MEASURED_SIDE = 192  # px, enough for every score


@dataclass(frozen=True)
class Prices:
    """The seconds that scoring takes.

    translated  a pixel that goes through the generator
    compared    a pixel that is compared with its truth
    patch       the features of a patch
    """

    translated: float
    compared: float
    patch: float

    def seconds(self, areas: Sequence[float], num_translated: float, num_once: float) -> float:
        """Return the seconds of images, each in sizes of these areas in px².

        Of `num_translated` the translations are compared, of `num_once` the images themselves.
        """
        compared = sum(area * self.compared + self.patch * min(max(area / PATCH_SIDE**2, 1), MAX_PATCHES**2)
                       for area in areas)
        return (num_translated + num_once) * compared + num_translated * sum(areas) * self.translated


PIXELS = Prices(0.0, 1.0, 0.0)  # where nothing is known: pixels are counted, each like the other


@torch.no_grad()
def measured(evaluator: Evaluator, translator: Translator) -> Prices | None:
    """Measure what scoring takes; all processes together do it so much faster.

    None where that has no room, and where images are drawn from noise, in a size of their own.
    """
    if not evaluator.has_sources:
        return None
    device, generator = evaluator.accelerator.device, translator.generator("ab")
    try:
        given = translator.inputs(torch.zeros(1, evaluator.channels_a, MEASURED_SIDE, MEASURED_SIDE), [0])[0]
        with evaluating(generator):
            translated, fake = timed(partial(translate_whole, generator, given, device, evaluator.precision), device)
        paired = evaluator.held_out.paired
        compared = timed(partial(reference.score, fake[None], fake[None]), device)[0] if paired else 0.0
        corner = fake[:, :PATCH_SIDE, :PATCH_SIDE]
        patch = sum(timed(partial(network, corner), device)[0] for network in evaluator.networks)
    except (RuntimeError, MemoryError, TranslateError):
        return None
    area, num = MEASURED_SIDE**2, evaluator.accelerator.num_processes
    return Prices(translated / area / num, compared / area / num, patch / num)


def timed(work: Callable[[], T], device: torch.device) -> tuple[float, T]:
    """Return the seconds that some work takes a device, done again after a first time that starts up much; its result.
    """
    for _ in range(2):
        begin = time.perf_counter()
        result = work()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
    return time.perf_counter() - begin, result
