"""Whether a translation still shows what it did before, in the opinion of a network that knows the source."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def semantic_consistency(logits: Tensor, before: Tensor) -> Tensor:
    """Cross-entropy of a translation's logits with the class that its source was given (Hoffman et al. 2018, eq. 4).

    Both are (N, classes) or (N, classes, H, W), of one frozen network; computed in float32.
    """
    return F.cross_entropy(logits.float(), before.argmax(1))
