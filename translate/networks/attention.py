"""Self-attention between convolutions: every place of an image sees every other.

A convolution sees a few pixels, and only many of them in a row see a whole image. SAGAN (Zhang et al. 2019) puts one
layer of attention among them, where the image is small: its cost grows with the square of the pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from translate.networks.layers import Keep
from translate.networks.recomputing import checkpointed

NUM_HEADS = 4


class Attention(nn.Module):
    """x + γ · out(attention(x)), with γ = 0 at first: the network begins as if the attention were not there.

    SAGAN (Zhang et al. 2019, section 3.1) in BigGAN's form (Brock et al. 2019, appendix B): keys and values are
    max-pooled by two, values have half as many channels as the image. Its one head has become four of an eighth of
    the channels each, as the fused kernels that never hold the matrix of weights take queries, keys and values of one
    size.

    Maps (N, C, H, W), sides of at least 2, to the same. Its cost grows with the square of the pixels, its memory with
    the pixels.
    """

    keep: Keep = "everything"

    def __init__(self, channels: int):
        super().__init__()
        inner = NUM_HEADS * max(channels // (2 * NUM_HEADS), 1)
        self.query, self.key, self.value = (nn.Conv2d(channels, inner, 1, bias=False) for _ in range(3))
        self.out = nn.Conv2d(inner, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return checkpointed(self, self._run, x) if self.keep == "input" else self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        # Queries of all places, keys and values of every second row and column.
        whole = x.flatten(2).unflatten(2, x.shape[2:])  # a view; exact tiling learns here that all rows are needed
        query = in_heads(self.query(whole))
        key, value = (in_heads(F.max_pool2d(conv(whole), 2)) for conv in (self.key, self.value))

        # Back to the image's shape, and added to it.
        seen = attend(query, key, value).transpose(2, 3).unflatten(-1, whole.shape[2:]).flatten(1, 2)
        return x + self.gamma.to(seen.dtype) * self.out(seen)


def in_heads(x: Tensor) -> Tensor:
    """Return an image (N, heads · D, H, W) as a list of its places for each head, (N, heads, H · W, D)."""
    return x.flatten(2).unflatten(1, (NUM_HEADS, -1)).transpose(2, 3)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax(query · keyᵀ / √D) · value, each (N, heads, places, D), without holding the matrix of weights.

    On the meta device, where the planner counts, torch's own would be the textbook's, which does hold it; and so it is
    on a CPU where the numbers of a place do not lie side by side.
    """
    query, key, value = (each if each.stride(-1) == 1 else each.contiguous() for each in (query, key, value))
    if query.is_meta:
        return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, True)[0]
    return F.scaled_dot_product_attention(query, key, value)
