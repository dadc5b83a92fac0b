"""How far the pairs of a data set are off, and what a training will make of that.

A generator that sees the same shift in all pairs learns to shift. Where each pair is off in its own way it cannot, and
learns the mean of what it was shown, which is blurred. So what counts is how pairs differ from their common shift, in
the pixels that a training shows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from translate.data.check import Finding
from translate.data.hashing import stable_hash
from translate.data.layouts import LayoutConfig
from translate.errors import ImageError, visible
from translate.images.resampling import target_shape
from translate.metrics.alignment import OF_ONE_SENSOR, OF_TWO_SENSORS, Alignment, align
from translate.pairs.pair_files import Pair, as_measured, pairs_of
from translate.sizes import plural

NUM_PAIRS = 64  # that are measured where nobody asks for all
MOST_SECONDS = 60.0  # that this may take
NUM_WORST = 10  # that are named
BLURS = 0.5  # px by which pairs differ from their common shift, in the median, from which a training blurs
SHIFTS = 0.5  # px of the common shift, from which its outputs are seen to be shifted
SEVERAL = 4  # pairs: where so many tell nothing, it is no chance
FAR = 2.0  # px, from which a pair is counted although most lie well
ADVICE = "translate data align FOLDER OUT corrects a copy; or train with translator.registration (pix2pix)"


@dataclass(frozen=True)
class Measured:
    """A pair, how its B lies on its A, and how large a pixel of it is in a training."""

    pair: Pair
    found: Alignment
    scale: float

    @property
    def off(self) -> float:
        """Return how far it is off, px of its own."""
        return (self.found.displacement or 0.0) + (self.found.warp or 0.0)


def measure(data: LayoutConfig, root: Path, most: int | None = NUM_PAIRS, seconds: float | None = MOST_SECONDS,
            resize: int | None = None, crop: tuple[int, int] | None = None,
            on_progress: Callable[[int, int], None] = lambda done, total: None) -> tuple[list[Measured], int]:
    """Measure how pairs of a data set lie on each other; return them, and how many pairs there are.

    most     pairs, taken by chance that is always the same; None: all
    seconds  after which no other is begun; None: as long as it takes
    resize   the short side, px, that a training shows images at; None: their own
    crop     the crops of a training, (height, width)

    What cannot be read is left out: the check names it. Raises `DataError` for data without pairs of files.
    """
    pairs = pairs_of(data, root)
    chosen = sorted(range(len(pairs)), key=lambda number: stable_hash("misregistration", number))[:most]
    began, measured = time.monotonic(), list[Measured]()
    for done, number in enumerate(chosen, 1):
        try:
            a, b = pairs[number].read()
            found = align(as_measured(a, pairs[number].labels), as_measured(b, False))
        except ImageError:
            continue
        shape = a.pixels.shape[0], a.pixels.shape[1]
        measured.append(Measured(pairs[number], found, target_shape(shape, resize, crop or (1, 1))[0] / shape[0]))
        elapsed = max(time.monotonic() - began, 1e-3)
        if seconds is not None and elapsed > seconds:
            on_progress(done, done)
            break
        on_progress(done, len(chosen) if seconds is None else min(len(chosen), round(done * seconds / elapsed) + 1))
    return measured, len(pairs)


def worst(measured: Sequence[Measured]) -> list[Measured]:
    """Return the pairs that are off the furthest, among those that can be told."""
    sure = [each for each in measured if each.found.confident]
    return sorted(sure, key=lambda each: -each.off)[:NUM_WORST]


def misregistration(measured: Sequence[Measured], num_pairs: int, place: Path) -> list[Finding]:
    """Return as findings how far pairs are off, which are the worst, and what a training will make of it."""
    sure = [each for each in measured if each.found.confident]
    num_measured = plural(len(measured), "measured pair")
    others = num_pairs - len(measured)
    in_all = f" (of {num_pairs:,} in all)" if others else ""
    if not measured:
        return []
    if not sure:
        # Label maps have too few edges to say that of them
        if len(measured) < SEVERAL or any(each.pair.labels for each in measured):
            return [Finding(place, "note", f"{num_measured}{in_all}: how A and B lie on each other cannot be told")]
        apart_in_files = any(each.pair.a != each.pair.b for each in measured)
        return [Finding(place, "warning", f"in none of {num_measured}{in_all} are A and B seen to show the same thing: "
                        "perhaps they are no pairs", "if so: translate new FOLDER --kind unpaired" if apart_in_files
                        else None)]
    told = f"{len(sure)} of {num_measured}" + (f" (of {num_pairs:,} in all; --all-pairs measures every one)"
                                               if others else "")

    # Each pair's shift as a training shows it, the one that they share, and how they differ from it
    shifts = np.array([np.array(each.found.shift) * each.scale for each in sure])
    common = np.median(shifts, axis=0)
    apart = np.linalg.norm(shifts - common, axis=1) + [(each.found.warp or 0.0) * each.scale for each in sure]
    spread, off = float(np.median(apart)), [each.off for each in sure]
    accuracy = float(np.median([(each.found.accuracy or 0.0) * each.scale for each in sure]))
    how = f"told to about {accuracy:.2g} px" + ", as two sensors see edges at different places" * (
        accuracy > (OF_ONE_SENSOR + OF_TWO_SENSORS) / 2)
    findings = [Finding(place, "note", f"the images of a pair are off by {np.median(off):.2f} px in the median and "
                        f"{max(off):.2f} px at most, by {told}, {how}")]

    # What a training makes of it
    limit = max(BLURS, accuracy)
    blurs = spread > limit
    beyond = max(FAR, accuracy)
    far = sum(each > beyond for each in off)
    if blurs:
        findings.append(Finding(place, "warning", f"a training will blur: pairs are off by {spread:.1f} px in the "
                                "median, each in its own way, in the pixels that it shows", ADVICE))
    elif np.hypot(*common) > max(SHIFTS, accuracy):
        findings.append(Finding(place, "warning", "outputs will be shifted: all pairs are off alike, by "
                                f"{moved_in_words(common)}", ADVICE))
    elif far:
        moved = any((each.found.displacement or 0.0) > beyond for each in sure)  # and does not merely seem bent
        findings.append(Finding(place, "warning" if moved else "note", f"{far} of {len(sure)} pairs "
                                f"{'is' if far == 1 else 'are'} off by more than {beyond:.2g} px", ADVICE))
    else:
        rest = f"; of {others:,} pairs nothing is known, which --all-pairs would measure" if others else ""
        findings.append(Finding(place, "note", f"{'of these ' * (others > 0)}no blur is to be expected: shifts vary by "
                                f"{spread:.2f} px from pair to pair{rest}"))

    # The worst by name. Where pairs lie well, one that merely seems bent is not worth a warning.
    advice = None if any(finding.advice for finding in findings) else ADVICE  # once
    findings += [Finding(each.pair.a, "warning", f"its partner {each.pair.b.name} lies {in_words(each.found)}", advice)
                 for each in worst(measured)
                 if (each.off if blurs else each.found.displacement or 0.0) * each.scale > limit]
    return findings


def moved_in_words(shift: Sequence[float]) -> str:
    """Say how far something lies to a side and up or down, px."""
    right, down = shift
    return (f"{abs(right):.1f} px to the {'left' if right < 0 else 'right'} and "
            f"{abs(down):.1f} px {'up' if down < 0 else 'down'}")


def in_words(found: Alignment) -> str:
    """Say how one image lies on another."""
    assert found.shift is not None
    words = moved_in_words(found.shift)
    if found.scale is not None and found.rotation is not None:
        larger, turned = 100 * (found.scale - 1), found.rotation
        words += f", {larger:+.1f} % larger" * (abs(larger) >= 0.05)  # what rounds to zero is left out
        words += f", {turned:+.1f}° clockwise" * (abs(turned) >= 0.05)
        words += f", and {found.warp:.1f} px bent" * ((found.warp or 0.0) > BLURS)
    return visible(words)
