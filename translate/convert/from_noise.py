"""The Python face of generators from noise: images drawn in memory, the same as `translate sample` writes.

    model = translate.load("runs/dcgan")
    images = model.sample(16, seed=0)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from translate.convert.python_api import Model
from translate.convert.translating import Translating
from translate.errors import UsageError
from translate.images.tensors import to_array
from translate.sampling.sampler import Sampler


class NoiseModel(Model):
    """A generator ready to draw images. `image_out` says what comes out, `classes` what its classes are called."""

    def __init__(self, sampler: Sampler):
        super().__init__(Translating(sampler.release, sampler.device, sampler.precision))
        self._sampler = sampler
        self.classes = sampler.class_names

    def sample(self, num: int, seed: int = 0, classes: Iterable[int | str] | None = None,
               truncation: float | None = None) -> list[Image.Image]:
        """Draw `num` images, those of the numbers 0 … num − 1 of a seed; see `draw` for the arguments.

        Raises `UsageError` for a model whose images no PIL image holds (`draw` gives tensors).
        """
        bits, channels = self.image_out.bits, self.image_out.channels
        if bits != 8 or channels not in (1, 3, 4):
            raise UsageError(f"sample: a PIL image cannot hold what this model draws ({channels} channels, bits: "
                             f"{bits}); use draw, which gives tensors")
        arrays = [to_array(image, self.image_out) for image in self.draw(num, seed, classes, truncation)]
        return [Image.fromarray(np.ascontiguousarray(array[..., 0] if channels == 1 else array)) for array in arrays]

    def draw(self, num: int, seed: int = 0, classes: Iterable[int | str] | None = None,
             truncation: float | None = None) -> Tensor:
        """Draw `num` images as a tensor (num, C, H, W), float32 in [-1, 1], on the CPU.

        seed         image i of a seed is always the same, however many are drawn
        classes      numbers, or names as text; image i is of the i-th, and so on from the first again; None: all
        truncation   ψ: latents within it give truer and more alike images; None: as in training

        Raises `UsageError` for a class that is none, a model that needs vectors, and numbers out of range.
        """
        if num < 1:
            raise UsageError(f"draw: {num} images; expected 1 or more")
        turn = self._sampler.numbers_of(range(len(self.classes)) if classes is None else classes)
        of = [turn[number % len(turn)] if turn else None for number in range(num)]
        return torch.stack(list(self._sampler.sample(range(num), seed, of, truncation)))

    def convert(self, image: Any, *_: object, **__: object) -> NoReturn:
        """Raise `UsageError`: there is nothing to translate from."""
        raise UsageError("convert: this model draws images from noise and translates none; use sample(num, seed)")
