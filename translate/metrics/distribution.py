"""How alike two sets of images are, by their features: kernel distance (KID), FID, precision and recall.

All scores are computed in float64 from features that were taken of each image by itself, so that none depends on
batches, on the order of the images (beyond rounding, 1e-10) or on how many processes took the features. The features of
an image are (P, D): of P patches, or of the whole image (P = 1). Patches of one image are not independent samples:
intervals resample images and not patches, and where pairs of a sample with itself are left out, all pairs of patches of
one image are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from translate.errors import DataError
from translate.metrics.intervals import Estimate, bootstrap_counts

NEIGHBOURS = 3  # the ball around a sample reaches to its third nearest neighbour (Kynkäänniemi et al. 2019)
MAX_BLOCK_NUMBERS = 2**24  # numbers of a kernel or distance matrix held at once
FRECHET_RESAMPLES = 50  # each is a singular value decomposition


def kernel_distance(x: Sequence[Tensor], y: Sequence[Tensor], *, paired: bool = False) -> Estimate:
    """Return the unbiased squared MMD of two sets with the kernel ((x·y)/d + 1)³ (Bińkowski et al. 2018).

    x, y: the features (P, D) of each image, of two images or more.
    paired: image i of x is a translation of which image i of y is the truth. They are more alike than two random
        images, so these pairs are left out of the cross term as well (Gretton et al. 2012, eq. 4).

    It is computed over all pairs of the two sets, and not as a mean over random subsets. With Inception features of
    whole images it is KID; with other features its values cannot be compared with a KID. Of two sets of the same
    distribution 0 is expected, so that values scatter around 0 and may be negative.
    """
    values = kernel_distances(x, y, paired=paired)
    resampled = values[1:][np.isfinite(values[1:])]  # a resample that holds one image alone has no pairs
    return Estimate.of(float(values[0]), resampled if min(len(x), len(y)) > 3 else values[:0])


def kernel_distances(x: Sequence[Tensor], y: Sequence[Tensor], *, paired: bool = False) -> np.ndarray:
    """Return the kernel distance, followed by that of each resample: (1 + RESAMPLES,).

    Sets of one size are always resampled alike, so that the difference of two sets' distances to a third one can be
    given an interval.
    """
    first, second = _Set.of(x, "x", min_images=2), _Set.of(y, "y", min_images=2)
    _same_features(first, second)
    if paired and len(first) != len(second):
        raise DataError(f"a paired kernel distance needs as many images in both sets, not {len(first)} and "
                        f"{len(second)}")
    weights_x = _with_whole(len(first))
    weights_y = weights_x if paired else _with_whole(len(second), mirrored=True)
    within_x = _mean_kernel(first, first, weights_x, weights_x, distinct=True)
    within_y = _mean_kernel(second, second, weights_y, weights_y, distinct=True)
    across = _mean_kernel(first, second, weights_x, weights_y, distinct=paired)
    return np.asarray((within_x + within_y - 2 * across).numpy())


def frechet_distance(x: Sequence[Tensor], y: Sequence[Tensor]) -> Estimate:
    """Return |μx − μy|² + tr(Σx + Σy − 2 (Σx Σy)^½) (Heusel et al. 2017): FID, of Inception features of whole images.

    With centred data matrices X, Y of n and m rows, tr (Σx Σy)^½ is the sum of the singular values of X Yᵀ, divided by
    √((n−1)(m−1)): no square root of a matrix is taken, and there may be fewer images than features. FID falls as the
    number of images grows: compare only values of equal numbers. A resample holds fewer distinct images, so the
    interval may lie above the value; only its width means something.
    """
    first, second = _Set.of(x, "x", min_images=2), _Set.of(y, "y", min_images=2)
    _same_features(first, second)
    value = _frechet(first.features, second.features)
    resampled = []
    for column in range(FRECHET_RESAMPLES if min(len(first), len(second)) > 3 else 0):
        drawn = []
        for each in (first, second):
            counts = torch.from_numpy(bootstrap_counts(len(each), FRECHET_RESAMPLES)[:, column]).long()
            drawn.append(torch.repeat_interleave(each.features, counts[each.owner], dim=0))
        resampled.append(_frechet(*drawn))
    return Estimate.of(value, np.array(resampled))


def inception_score(logits: Sequence[Tensor]) -> Estimate:
    """Return exp(E KL(p(class|image) ‖ p(class))) of the whole set (Salimans et al. 2016).

    `logits` are (1, classes) of each image. It is torch-fidelity's score with one split. The lowest value is 1, of
    images that are all alike; real images play no part in it.
    """
    rows = _Set.of(logits, "logits", min_images=1)
    log_p = torch.log_softmax(rows.features, dim=1)
    p, own = log_p.exp(), (log_p.exp() * log_p).sum(1)
    weights = _with_whole(len(rows)) / len(rows)
    marginal = weights.T @ p
    entropy = torch.special.xlogy(marginal, marginal).sum(1)
    values = (weights.T @ own - entropy).exp().numpy()
    return Estimate.of(float(values[0]), values[1:] if len(rows) > 1 else values[:0])


def precision_recall(fakes: Sequence[Tensor], reals: Sequence[Tensor],
                     k: int = NEIGHBOURS) -> tuple[Estimate, Estimate]:
    """Return improved precision and recall (Kynkäänniemi et al. 2019, eq. 2 and 3).

    A set's manifold is the union of balls around its samples that reach to their k-th nearest neighbour. Precision is
    the share of fakes inside the reals' manifold (are they realistic?), recall that of reals inside the fakes' (do they
    cover the reals?). Intervals resample the images that are counted and keep the manifolds.
    """
    first, second = _Set.of(fakes, "fakes", min_images=1), _Set.of(reals, "reals", min_images=1)
    _same_features(first, second)
    for each in (first, second):
        if len(each.features) <= k:
            raise DataError(f"precision and recall look at the {k} nearest neighbours of each sample and need more "
                            f"than {k} samples, not {len(each.features)}")
    return _share_inside(first, second, k), _share_inside(second, first, k)


class _Set:
    """The features of a set in one float64 matrix, and which image each row belongs to."""

    def __init__(self, features: Tensor, owner: Tensor, num: int):
        self.features, self.owner, self._num = features, owner, num
        self.counts = torch.bincount(owner, minlength=num).double()

    def __len__(self) -> int:
        return self._num

    @classmethod
    def of(cls, images: Sequence[Tensor], name: str, min_images: int) -> _Set:
        if len(images) < min_images:
            raise DataError(f"{len(images)} images; this score needs at least {min_images}", name)
        for number, each in enumerate(images):
            if each.ndim != 2 or not each.is_floating_point():
                raise DataError(f"the features of image {number} are {each.dtype} {tuple(each.shape)}; expected floats "
                                "(patches, features)", name)
            if not torch.isfinite(each).all():
                raise DataError(f"the features of image {number} are not finite; its pixels may not be either", name)
        owner = torch.repeat_interleave(torch.arange(len(images)), torch.tensor([len(each) for each in images]))
        return cls(torch.cat(list(images)).to("cpu", torch.float64), owner, len(images))


def _same_features(x: _Set, y: _Set) -> None:
    if x.features.shape[1] != y.features.shape[1]:
        raise DataError(f"features of {x.features.shape[1]} and of {y.features.shape[1]} numbers cannot be compared",
                        advice="use one feature network for both sets")


def _with_whole(num: int, mirrored: bool = False) -> Tensor:
    """Return how often each image counts, (num, 1 + RESAMPLES): once in the whole set, then as each resample draws it.

    `mirrored` takes the resamples in reverse order, so that two sets of one size are not resampled alike.
    """
    counts = bootstrap_counts(num)[:, ::-1] if mirrored else bootstrap_counts(num)
    return torch.from_numpy(np.concatenate([np.ones((num, 1)), counts], axis=1))


def _mean_kernel(x: _Set, y: _Set, weights_x: Tensor, weights_y: Tensor, *, distinct: bool) -> Tensor:
    """Return the weighted mean of the kernel over all pairs of images, one for each column of weights.

    `distinct` leaves out pairs of the same number: an image with itself, however often it was drawn.
    """
    # Some images of x at a time against all of y, as the whole kernel matrix may not fit into memory.
    total = torch.zeros(weights_x.shape[1], dtype=torch.float64)
    step = max(1, MAX_BLOCK_NUMBERS // max(1, len(y.features) * int(x.counts.max())))
    for start in range(0, len(x), step):
        stop = min(start + step, len(x))

        # The kernel between patches, and from it the mean over the patches of each pair of images.
        rows = (x.owner >= start) & (x.owner < stop)
        kernel = (x.features[rows] @ y.features.T / x.features.shape[1] + 1) ** 3
        by_image = torch.zeros(stop - start, len(y.features), dtype=torch.float64)
        by_image.index_add_(0, x.owner[rows] - start, kernel)
        cells = torch.zeros(stop - start, len(y), dtype=torch.float64).index_add_(1, y.owner, by_image)
        cells /= x.counts[start:stop, None] * y.counts[None]

        # Each column of weights sums the pairs that its resample holds.
        if distinct:
            cells[torch.arange(stop - start), torch.arange(start, stop)] = 0
        total += (weights_x[start:stop] * (cells @ weights_y)).sum(0)

    num_pairs = weights_x.sum(0) * weights_y.sum(0)
    if distinct:
        num_pairs = num_pairs - (weights_x * weights_y).sum(0)
    return total / num_pairs


def _frechet(x: Tensor, y: Tensor) -> float:
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = (x - mean_x) / (len(x) - 1) ** 0.5, (y - mean_y) / (len(y) - 1) ** 0.5
    traces = x.square().sum() + y.square().sum()
    x, y = (torch.linalg.qr(each).R if len(each) > each.shape[1] else each for each in (x, y))
    return float((mean_x - mean_y).square().sum() + traces - 2 * torch.linalg.svdvals(x @ y.T).sum())


def _share_inside(samples: _Set, manifold: _Set, k: int) -> Estimate:
    """Return the share of `samples` that lie within the k-nearest-neighbour balls of `manifold`."""
    radii = torch.cat([distances.kthvalue(k + 1, dim=1).values  # the nearest is the sample itself
                       for distances in _distances(manifold.features, manifold.features)])
    inside = torch.cat([(distances <= radii).any(1) for distances in _distances(samples.features, manifold.features)])
    shares = torch.zeros(len(samples), dtype=torch.float64).index_add_(0, samples.owner, inside.double())
    counts = _with_whole(len(samples))
    values = (counts.T @ shares / (counts.T @ samples.counts)).numpy()
    return Estimate.of(float(values[0]), values[1:] if len(samples) > 1 else values[:0])


def _distances(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Yield the Euclidean distances from some rows of x at a time to all rows of y."""
    step = max(1, MAX_BLOCK_NUMBERS // len(y))
    for start in range(0, len(x), step):
        yield torch.cdist(x[start:start + step], y, compute_mode="donot_use_mm_for_euclid_dist")
