"""Whether a translation still shows what it did before, in the opinion of a network that knows the source."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from translate.precision import at_least_float32


def semantic_consistency(logits: Tensor, before: Tensor) -> Tensor:
    """Return the cross-entropy of a translation's logits with the class that its source was given.

    Both are (N, classes) or (N, classes, H, W), of one frozen network (Hoffman et al. 2018, eq. 4).
    """
    return F.cross_entropy(at_least_float32(logits), before.argmax(1))
