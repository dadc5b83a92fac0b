"""How sure a score is: percentile bootstrap intervals (Efron 1979) over images.

The test images are resampled `RESAMPLES` times, with replacement and from a fixed seed, and the score is computed of
every resample: 95 % of those values lie in the interval. It says how much the score would change with other test images
of the same kind, and nothing about another training of the same recipe.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
CONFIDENCE = 0.95  # share of the resamples that lie in an interval
SEED = 0


@dataclass(frozen=True)
class Estimate:
    """A score and its interval; `low` and `high` are None where there are too few images, or no way to tell."""

    value: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, value: float, resampled: np.ndarray) -> Estimate:
        """Return a score with its interval, from the same score of every resample; without, where one is not finite."""
        if len(resampled) == 0 or not np.isfinite(resampled).all():
            return cls(value)
        low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return cls(value, float(low), float(high))

    def __str__(self) -> str:
        return f"{self.value:.4g}" + ("" if self.low is None else f" [{self.low:.4g}, {self.high:.4g}]")

    @property
    def finite(self) -> float | None:
        """The value, as JSON takes it: None where it is not finite."""
        return self.value if math.isfinite(self.value) else None

    @property
    def interval(self) -> list[float] | None:
        """[low, high], as JSON takes it."""
        return None if self.low is None or self.high is None else [self.low, self.high]


@functools.lru_cache(maxsize=8)
def bootstrap_counts(num: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Return how often each of `num` images is drawn in each resample: (num, resamples) float64, columns sum to num."""
    counts = np.random.Generator(np.random.PCG64(SEED)).multinomial(num, np.full(num, 1 / num), size=resamples)
    return np.ascontiguousarray(counts.T, dtype=np.float64)


def mean(values: Sequence[float]) -> Estimate:
    """Return the mean of `values`, one for each image, and its interval."""
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        return Estimate(float(array.mean()))
    value = math.fsum(array) / len(array)
    return Estimate(value) if len(array) < 2 else Estimate.of(value, array @ bootstrap_counts(len(array)) / len(array))
