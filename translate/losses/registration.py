"""What keeps a learnt deformation from doing a generator's work: it is smooth."""

from __future__ import annotations

from torch import Tensor

from translate.precision import at_least_float32


def roughness(deformation: Tensor) -> Tensor:
    """Return the mean square of a deformation's gradient (Kong et al. 2021, eq. 4), of (N, 2, H, W) in px.

    A shift of the whole image has none.
    """
    deformation = at_least_float32(deformation)
    down, right = deformation.diff(dim=2), deformation.diff(dim=3)
    return (down.square().mean() + right.square().mean()) / 2
