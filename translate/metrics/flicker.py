"""How much a translated film flickers: what changes from frame to frame beyond what changes in its input.

A translator that takes frame by frame may decide otherwise about equal pixels. A change of an output pixel counts as
far as it is larger than that of the same input pixel; a still scene should stay still.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from translate.metrics.baselines import identity
from translate.metrics.checks import check_image
from translate.metrics.intervals import Estimate, mean


def flicker(before: Tensor, after: Tensor, input_before: Tensor, input_after: Tensor) -> float:
    """Return the mean over pixels of max(0, |Δ output| − |Δ input|), as a share of the range from black to white.

    Two neighbouring frames and their inputs, (C, H, W) in [-1, 1], each of one shape.
    """
    excess = (after - before).abs() - (input_after - input_before).abs()
    return float(excess.clamp_min(0).mean()) / 2


@dataclass
class Film:
    """Scores frames one after the other; of each but the newest, numbers alone are kept."""

    _last: tuple[Tensor, Tensor] | None = None
    _flicker: list[float] = field(default_factory=list)
    _input_change: list[Tensor] = field(default_factory=list)  # mean |Δ input| of each channel
    _deviations: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # of each channel: of output, of input

    def add(self, output: Tensor, source: Tensor) -> None:
        """Take the next frame and what it was made from, (C, H, W) in [-1, 1] and of one height and width.

        Raises `DataError` for values that are not finite or not in that range.
        """
        check_image(output)
        check_image(source)
        shown = identity(source, output.shape[0])
        source = source.mean(0, keepdim=True).expand_as(output) if shown is None else shown
        if self._last is not None:
            before, source_before = self._last
            self._flicker.append(flicker(before, output, source_before, source))
            self._input_change.append((source - source_before).abs().mean((1, 2)))
        self._deviations.append((output.std((1, 2)), source.std((1, 2))))
        self._last = output, source

    @property
    def score(self) -> Estimate:
        """The mean over all pairs of neighbouring frames; there must be one."""
        return mean(self._flicker)

    @property
    def floor(self) -> Estimate:
        """The score of the input itself, brought to the contrast of the output by one map for all frames.

        More contrast makes every change larger, without any flicker. That share is no fault of a translator.
        """
        outputs, sources = (torch.stack(each).mean(0) for each in zip(*self._deviations, strict=True))
        beyond = (outputs / sources.clamp_min(1e-6) - 1).clamp_min(0)
        return mean([float((change * beyond).mean()) / 2 for change in self._input_change])
