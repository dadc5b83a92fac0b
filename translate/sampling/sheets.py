"""The sheet that a training from noise shows of itself: the same latents throughout, and ways between some of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from translate.data import Sample
from translate.data.conditioned import one_hot
from translate.networks.eval_mode import evaluating
from translate.recipe import Recipe
from translate.runs.records import sheet_of
from translate.sampling.latents import between
from translate.translators import Translator
from translate.translators.from_noise import FromNoiseConfig

COLUMNS, WAYS = 8, 2
LARGEST_SHEET = 2048  # px, of a side: of large images fewer are shown


@torch.no_grad()
def training_sheet(translator: Translator, recipe: Recipe, held_out: Sequence[Sample], device: torch.device) -> Tensor:
    """Return samples of the averaged generator, and below them ways from one to the next: (H, W, 3) in 8 bits.

    Samples are those of `translate sample` by their numbers, with the recipe's seed: of each class in turn, or beside
    the vectors of held-out samples in turn and of their classes. A way keeps to one condition. One image at a time is
    on the device.
    """
    config, num_classes = cast(FromNoiseConfig, recipe.translator), recipe.data.num_classes
    generator, distribution = translator.generator("ab"), config.generator.distribution

    def condition(number: int) -> Tensor:
        if num_classes and not recipe.data.vector_size:
            return one_hot(number % num_classes, num_classes)
        return held_out[number % len(held_out)].a

    def image(latent: Tensor, code: Tensor, number: int) -> Tensor:
        given = config.joined(latent[None], code[None], condition(number)[None])
        return generator(given.to(device))[0].float().cpu()

    with evaluating(generator):
        # As many as a sheet has room for; the first image says how large they are.
        latents, codes = config.draw(range(COLUMNS**2), recipe.seed)
        first = image(latents[0], codes[0], 0)
        columns = max(2, min(COLUMNS, LARGEST_SHEET // max(first.shape[1:])))
        ways = min(WAYS, columns // 2)
        rows = [[image(latents[number], codes[number], number) for number in range(start, start + columns)]
                for start in range(0, (columns - ways) * columns, columns)]
        for way in range(ways):
            start, end = latents[2 * way], latents[2 * way + 1]
            rows.append([image(between(start, end, step / (columns - 1), distribution), codes[2 * way], 2 * way)
                         for step in range(columns)])
    return sheet_of(rows)
