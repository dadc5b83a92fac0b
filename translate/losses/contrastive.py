"""The contrastive loss that holds a translation to its input, patch by patch (Park et al. 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def patch_nce(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Return PatchNCE (eq. 3 and 4): −log exp(v·v⁺/τ) / (exp(v·v⁺/τ) + Σ exp(v·v⁻/τ)), the mean over queries v.

    Both are (N, S, C), vectors of length one at the same S places of N images. A query's positive v⁺ is the key of its
    own place, its negatives v⁻ the keys of the other places of the same image. No gradient goes to the keys.
    """
    similarity = queries @ keys.detach().transpose(1, 2) / temperature
    own_places = torch.arange(queries.shape[1], device=queries.device).expand(len(queries), -1)
    return F.cross_entropy(similarity.flatten(0, 1), own_places.flatten())
