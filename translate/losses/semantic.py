"""Whether a translation still shows what it did before, in the opinion of a network that knows the source."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def semantic_consistency(logits: Tensor, before: Tensor) -> Tensor:
    """Cross-entropy of a translation's logits with the class that its source was given (Hoffman et al. 2018, eq. 4).

    Both are (N, classes) or (N, classes, H, W), of one frozen network; computed in at least float32.
    """
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), before.argmax(1))
