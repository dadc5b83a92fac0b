"""norm → act → pad as one operation, forward and backward: what stands between any two convolutions.

    y = mirrored(act(γ·(z − µ)·r + β))                 µ the mean of z, r = (σ² + ε)^-½, act a ReLU or LeakyReLU

A network spends most of its time outside of convolutions on these three, and separately each reads and writes the
whole tensor. As one operation it reads z for its statistics, and then once more to write y. For the backward pass it
holds z, µ and r alone, what memory plan `preact` holds; the activation's mask is found again from them. With the
gradient g that arrives, gathered from the places each pixel was mirrored to, and masked,

    dβ = Σ g        dγ = Σ g·(z − µ)·r        dz = γ·r·(g − dβ/N − (z − µ)·r·dγ/N)

where Σ runs over the N values that µ was taken of. Where µ and σ² are given (a norm in eval mode; strips, see
`translate.networks.strips`), dz = γ·r·g.

There are three ways to compute it, which give the same to rounding, and a device has one of them (`path_of`):

    eager     the norm, the activation and the padding as torch has them: on a CPU, whose kernels keep channels_last and
              are fastest (docs/log.md)
    plain     torch's kernels of norms, and mirrored padding put together of slices: on a card, where torch's padding
              would change the layout and add up its gradient in any order
    fused     Triton's kernels: on a card of compute capability 8.0 or more, where Triton is there

None of them adds atomically: the same numbers come out every time. A second derivative goes the eager way.
"""

from translate.networks.normalised.operation import fields_say_all, normalised, normalised_by
from translate.networks.normalised.paths import FUSED_FROM, Path, computed_by, is_on_cpu, path_of, path_on, path_on_card

__all__ = ["FUSED_FROM", "Path", "computed_by", "fields_say_all", "is_on_cpu", "normalised", "normalised_by", "path_of",
           "path_on", "path_on_card"]
