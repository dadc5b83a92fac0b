"""Label maps against label maps: mIoU, per-pixel and per-class accuracy (Long et al. 2015, section 5).

The FCN-score of pix2pix (Isola et al. 2017, section 4.1) is these numbers for what a segmentation network, trained on
real photographs, finds in translated ones, against the labels they were made from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from translate.errors import DataError
from translate.metrics.intervals import Estimate, bootstrap_counts


@dataclass(frozen=True)
class LabelScores:
    """Scores of label maps of `classes` classes; pixels whose truth is `ignore` do not count.

    A predicted number that is no class counts as wrong. Classes that occur neither in the truth nor in the prediction
    are left out of mIoU, and those that do not occur in the truth are left out of the per-class accuracy.
    """

    classes: int
    ignore: int | None = 255

    def confusion(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Return counts of pixels (classes, classes + 1): row = truth, column = prediction, the last one for numbers
        that are no class.

        Raises `DataError` for maps of different shapes, or of fractions, and for a truth with other class numbers.
        """
        if prediction.shape != truth.shape:
            sizes = (f"{map_.shape[1]}×{map_.shape[0]} px" for map_ in (prediction, truth))
            raise DataError(f"the prediction is {' and its truth '.join(sizes)}; expected one size")
        for what, array in (("prediction", prediction), ("truth", truth)):
            if not np.issubdtype(array.dtype, np.integer):
                raise DataError(f"the {what} is of {array.dtype}; expected class numbers, which are integers")

        # Of the pixels that count: the class in the truth gives the row, the predicted one the column.
        counted = np.ones(truth.shape, bool) if self.ignore is None else truth != self.ignore
        rows = truth[counted].astype(np.int64)
        if rows.size and not 0 <= rows.min() <= rows.max() < self.classes:
            raise DataError(f"the truth holds class numbers {rows.min()} … {rows.max()}; expected 0 … "
                            f"{self.classes - 1}, ignored {self.ignore}")
        columns = prediction[counted].astype(np.int64)
        columns[(columns < 0) | (columns >= self.classes)] = self.classes
        counts = np.bincount(rows * (self.classes + 1) + columns, minlength=self.classes * (self.classes + 1))
        return counts.reshape(self.classes, self.classes + 1)

    def summarise(self, found: list[np.ndarray]) -> dict[str, Estimate]:
        """Return the scores of all images together, from the `totals` of each; intervals resample images.

        Raises `DataError` where every pixel is ignored.
        """
        stacked = np.stack(found).astype(np.float64)
        if not stacked.sum():
            raise DataError(f"no pixel of the truth belongs to a class: all of them are ignored ({self.ignore})")
        whole = _scores(stacked.sum(0)[None])
        drawn = np.einsum("nr,nij->rij", bootstrap_counts(len(stacked)), stacked) if len(stacked) > 1 else stacked[:0]
        resampled = _scores(drawn)
        return {name: Estimate.of(float(value[0]), resampled[name][np.isfinite(resampled[name])])
                for name, value in whole.items()}


def totals(confusion: np.ndarray) -> np.ndarray:
    """Return all that scores need of a confusion, (3, classes): pixels that are right, of the truth, of the prediction.

    For many classes it is a small part of it, of which every image keeps one and the bootstrap draws a thousand.
    """
    return np.stack([np.diagonal(confusion[:, :-1]), confusion.sum(1), confusion[:, :-1].sum(0)])


def class_ious(confusion: np.ndarray) -> np.ndarray:
    """Return the intersection over union of each class (classes,), NaN of one that does not occur, from a confusion."""
    right = np.diagonal(confusion[:, :-1])
    union = confusion.sum(1) + confusion[:, :-1].sum(0) - right
    return np.where(union > 0, right / np.where(union > 0, union, 1), np.nan)


def _scores(found: np.ndarray) -> dict[str, np.ndarray]:
    """Return the scores of N `totals` (N, 3, classes): (N,) each."""
    right, of_truth, of_prediction = found[:, 0], found[:, 1], found[:, 2]
    with np.errstate(invalid="ignore", divide="ignore"):
        union = of_truth + of_prediction - right
        return {"miou": _mean_of_present(right, union), "pixel_accuracy": right.sum(1) / of_truth.sum(1),
                "class_accuracy": _mean_of_present(right, of_truth)}


def _mean_of_present(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    present = whole > 0
    shares = np.where(present, part / np.where(present, whole, 1), 0.0)
    return shares.sum(1) / present.sum(1)
