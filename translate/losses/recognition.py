"""What a head on the discriminator recognises of an image: the codes it was drawn from, or its style."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from translate.precision import at_least_float32


def information_losses(found: Tensor, codes: Tensor, categorical: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return −E log Q(c|x) of categorical and of continuous codes, two scalars (Chen et al. 2016, eq. 5).

    With the codes' entropy, a constant, it bounds what an image tells of its codes. `found` (N, size) is what Q says of
    images, `codes` (N, size) what they were drawn from: one-hot numbers for each of the `categorical` codes, then
    continuous ones, of which Q says the mean of a normal distribution of variance 1.
    """
    found, codes = at_least_float32(found), at_least_float32(codes)
    sizes = [*categorical, codes.shape[1] - sum(categorical)]
    parts = list(zip(found.split(sizes, 1), codes.split(sizes, 1), strict=True))
    named = [F.cross_entropy(logits, code) for logits, code in parts[:-1]]
    mean, code = parts[-1]
    near = (mean - code).square().sum(1).mean() / 2
    return torch.stack(named).sum() if named else found.new_zeros(()), near


def style_ambiguity(logits: Tensor) -> Tensor:
    """Return how far a classifier is from finding K styles equally likely, a scalar (Elgammal et al. 2017, eq. 3).

    −Σₖ (1/K log pₖ + (1 − 1/K) log(1 − pₖ)), the mean over images with logits (N, K) of styles: least where every pₖ is
    1/K.
    """
    log_p = F.log_softmax(at_least_float32(logits), 1)
    num, others = logits.shape[1], torch.log1p(-log_p.exp().clamp(max=1 - 1e-6))
    return -(log_p / num + (1 - 1 / num) * others).sum(1).mean()
