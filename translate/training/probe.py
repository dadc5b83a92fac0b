"""The probe: what the generators make of a few held-out images, in numbers, again and again while a training goes on.

A look leaves in `metrics.jsonl` a line of `kind: probe` with, for each direction (`_ab`, `_ba`):

    diversity   how much the outputs differ from each other, divided by the smaller diversity of inputs and reals: 0
                where all outputs are the same (from noise: by that of reals)
    error       mean absolute error, divided by that of the mean colour: 1 where that would do as well. Paired: from
                output to truth; CycleGAN: from input to its round trip; CUT: none
    saturation  the share of the outputs' values at the ends of their range, beyond that of real images: 1 where all are
                (only where most values of real images are not: masks and drawings lie there by nature)
    change      how far the outputs are from the inputs, relative to how far the images of the other side are: 0 where
                they are copies (only where both sides have as many channels)

The probe looks at the generators that are trained, not at their moving averages, and in eval mode: so it also tells
when their running statistics are broken.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from translate.data import Sample
from translate.networks.eval_mode import evaluating
from translate.precision import Format, autocast
from translate.tiling.where_it_fits import apply_where_it_fits
from translate.translators import Direction, Translator

THUMBNAIL_SIDE = 32  # px: images are told apart by copies of this size, where noise does not count
RANGE_END = 0.99  # in magnitude, of a range that reaches from −1 to 1
NATURAL_SATURATION_LIMIT = 0.5  # of values: real images with more of them at the ends say nothing about saturation
DISTANCE_FLOOR = 1e-3  # what is as alike as this is no measure for anything


class Probe:
    """Looks at the generators of `translator` through held-out samples of any sizes. `paired`: b is the truth of a."""

    def __init__(self, samples: Sequence[Sample], translator: Translator, paired: bool, device: torch.device,
                 precision: Format):
        self.samples, self.translator, self.paired = samples, translator, paired
        self.device, self.precision = device, precision

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        """Look once, and return the numbers by name. The networks, and all random states, stay as they are."""
        found: dict[str, Tensor] = {}
        for direction in self.translator.directions:
            found |= {f"{name}_{direction}": value for name, value in self._look(direction).items()}
        if not found:  # images that nothing can be measured by: a single one, all black
            return {}
        values = torch.stack([value.float().to(self.device) for value in found.values()]).tolist()
        return dict(zip(found, values, strict=True))

    def _look(self, direction: Direction) -> dict[str, Tensor]:
        back: Direction = "ba" if direction == "ab" else "ab"
        sides = [sample.a[None] for sample in self.samples], [sample.b[None] for sample in self.samples]
        sources, reals = sides if direction == "ab" else reversed(sides)

        # One image at a time, as a training has little memory to spare.
        outputs, errors, saturated, changes = [], [], [], []
        for source, real, sample in zip(sources, reals, self.samples, strict=True):
            source, real = source.to(self.device), real.to(self.device)
            output = self._translate(direction, self.translator.inputs(source, [sample.key]))
            outputs.append(thumbnail(output))
            saturated.append(at_the_ends(output))
            if output.shape == source.shape:
                changes.append((output - source).abs().mean())
            if self.paired:
                errors.append((output - real).abs().mean())
            elif back in self.translator.directions:
                errors.append((self._translate(back, output) - source).abs().mean())

        # Each number relative to what images of this kind make possible; left out where that is next to nothing.
        found = {}
        least = diversity(reals) if len(reals) > 1 else torch.zeros(())
        if self.translator.needs_sources and len(sources) > 1:
            least = torch.minimum(diversity(sources), least)
        if least > DISTANCE_FLOOR:
            found["diversity"] = distance(outputs) / least.to(self.device)
        targets = torch.cat([each[0].float().flatten(1) for each in (reals if self.paired else sources)], dim=1)
        plain = (targets - targets.mean(1, keepdim=True)).abs().mean()
        if errors and plain > DISTANCE_FLOOR:
            found["error"] = torch.stack(errors).mean() / plain.to(self.device)
        taken = torch.stack([at_the_ends(real) for real in reals]).mean()
        if taken < NATURAL_SATURATION_LIMIT:
            taken = taken.to(self.device)
            found["saturation"] = (torch.stack(saturated).mean() - taken).clamp(min=0) / (1 - taken)
        if changes:
            apart = torch.stack([difference(*pair) for pair in zip(sources, reals, strict=True)]).mean()
            if apart > DISTANCE_FLOOR:
                found["change"] = torch.stack(changes).mean() / apart.to(self.device)
        return found

    def _translate(self, direction: Direction, source: Tensor) -> Tensor:
        generator: nn.Module = self.translator.phases["generator"][f"generator_{direction}"]
        with evaluating(generator), autocast(self.device, self.precision):
            return apply_where_it_fits(generator, source).float()


def thumbnail(image: Tensor) -> Tensor:
    """Return an image (1, C, H, W) as the mean colours of at most `THUMBNAIL_SIDE` rows and columns."""
    return F.adaptive_avg_pool2d(image.float(), [min(side, THUMBNAIL_SIDE) for side in image.shape[2:]])  # type: ignore[arg-type]


def diversity(images: Sequence[Tensor]) -> Tensor:
    """Return how far images (1, C, H, W) are from each other."""
    return distance([thumbnail(image) for image in images])


def distance(thumbnails: Sequence[Tensor]) -> Tensor:
    """Return the mean absolute difference of all pairs."""
    return torch.stack([difference(one, other) for one, other in combinations(thumbnails, 2)]).mean()


def difference(one: Tensor, other: Tensor) -> Tensor:
    """Return the mean absolute difference of two images (1, C, H, W): of what both show from their upper left on."""
    height, width = (min(sides) for sides in zip(one.shape[2:], other.shape[2:], strict=True))
    return (one[..., :height, :width] - other[..., :height, :width]).abs().mean()


def at_the_ends(image: Tensor) -> Tensor:
    """Return the share of values that are as large or as small as can be."""
    return (image.abs() > RANGE_END).float().mean()
