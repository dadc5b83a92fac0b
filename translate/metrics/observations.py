"""From images to a table: what is kept of each image, and the scores of a set of them.

Each image is observed by itself, in any process and any order, and the scores are computed from what was kept of all
images, in their order. So several processes can share the work, and the scores are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from translate.images.tensors import hide_unknown
from translate.metrics import distribution, diversity, intervals, reference, sliced_wasserstein
from translate.metrics.features import FeatureNetwork
from translate.metrics.intervals import Estimate
from translate.metrics.perceptual import LPIPS
from translate.metrics.structural_similarity import MIN_SIDE_MS_SSIM, MIN_SIDE_SSIM


@dataclass(frozen=True)
class Measure:
    """The title of a score, and whether higher or lower is better."""

    title: str
    better: Literal["higher", "lower"]

    @property
    def name(self) -> str:
        """The title without what stands in brackets."""
        return self.title.partition(" (")[0]


MEASURES: dict[str, Measure] = {
    "psnr": Measure("PSNR (dB)", "higher"),
    "ssim": Measure("SSIM", "higher"),
    "ms_ssim": Measure("MS-SSIM", "higher"),
    "lpips": Measure("LPIPS (AlexNet)", "lower"),
    "l1": Measure("L1", "lower"),
    "gradient_error": Measure("gradient error", "lower"),
    "kernel_distance": Measure("kernel distance (MobileNetV2)", "lower"),
    "sliced_wasserstein": Measure("sliced Wasserstein distance (×1000)", "lower"),
    "precision": Measure("precision (MobileNetV2)", "higher"),
    "recall": Measure("recall (MobileNetV2)", "higher"),
    "fid": Measure("FID", "lower"),
    "kid": Measure("KID", "lower"),
    "inception_score": Measure("Inception Score", "higher"),
    "as_asked": Measure("samples of the class asked for", "higher"),
    "rarest_class": Measure("share of the rarest class", "higher"),
    "classes_found": Measure("classes that samples are of", "higher"),
    "tstr": Measure("accuracy, trained on samples (TSTR)", "higher"),
    "similarity": Measure("likeness to each other (1: all the same)", "lower"),
    "flicker": Measure("flicker", "lower"),
    "displacement": Measure("displacement (px)", "lower"),
    "warp": Measure("warp (px)", "lower"),
    "miou": Measure("mIoU", "higher"),
    "pixel_accuracy": Measure("per-pixel accuracy", "higher"),
    "class_accuracy": Measure("per-class accuracy", "higher"),
}

LARGER_OF_FEWER = ("fid", "sliced_wasserstein")  # also between two sets of one distribution


@dataclass(frozen=True)
class Observed:
    """What is kept of an image: its scores against its truth, its features, and a small copy."""

    scores: dict[str, float] = field(default_factory=dict)
    features: dict[str, Tensor] = field(default_factory=dict)
    small: Tensor | None = None


def observe(image: Tensor, truth: Tensor | None, networks: Sequence[FeatureNetwork], *, small: int | None,
            lpips: LPIPS | None = None) -> Observed:
    """Return what is kept of an image.

    image: (C, H, W) in [-1, 1].
    truth: of the same shape, for the scores against it; None where it is not known.
    networks: those that take features of it, where it has 1 or 3 channels.
    small: the largest side, in px, of a copy to compare with other images of its set; None keeps no copy.
    lpips: the network of that score; None leaves it out.

    Raises `DataError` for values that are not finite or not in [-1, 1], and for a truth of another shape.
    """
    scores: dict[str, float] = {}
    if truth is not None:
        scores = reference.score(image[None], truth[None])
        image = hide_unknown(image, image, truth)
        if lpips is not None and lpips.takes(image):
            scores["lpips"] = lpips(image, truth)
    features = {name: rows for network in networks if image.shape[0] in (1, 3) for name, rows in network(image).items()}
    return Observed(scores, features, None if small is None else diversity.thumbnail(image, small))


def summarise(images: Sequence[Observed], reals: Sequence[Observed], *, paired: bool) -> dict[str, Estimate]:
    """Return every score of a set that can be computed from what was kept of its images and of the real ones.

    `paired`: real image i is the truth of image i. Scores that need more images than there are, are left out.
    """
    found = {name: intervals.mean([each.scores[name] for each in images if name in each.scores])
             for name in MEASURES if any(name in each.scores for each in images)}
    return found | compare_sets(images, reals, paired=paired)


def why_not(scores: dict[str, Estimate], images: Sequence[Observed], reals: Sequence[Observed],
            networks: Sequence[FeatureNetwork], *, paired: bool) -> list[str]:
    """Return a line for each score that `scores` lacks because of the images themselves, and not of a missing file."""
    lines = []
    if min(len(images), len(reals)) < 2:
        lines.append(f"comparing sets takes two images of each, and there are {len(images)} and {len(reals)}")
    by_network = [network for network in networks if not isinstance(network, sliced_wasserstein.PyramidPatches)]
    if by_network and any(not each.features for each in (*images, *reals)):
        lines.append("kernel distance, precision, recall and FID need grey or RGB images")
    if len(by_network) < len(networks) and "sliced_wasserstein" not in scores and min(len(images), len(reals)) > 1:
        lines.append("the sliced Wasserstein distance needs grey or RGB images of one size, with sides of "
                     f"{sliced_wasserstein.SMALLEST_LEVEL} px")
    if paired and "ssim" not in scores:
        lines.append(f"SSIM needs images with sides of {MIN_SIDE_SSIM} px")
    if paired and "ms_ssim" not in scores:
        lines.append(f"MS-SSIM needs images with sides of {MIN_SIDE_MS_SSIM} px")
    return lines


def compare_sets(images: Sequence[Observed], reals: Sequence[Observed], *, paired: bool) -> dict[str, Estimate]:
    """Return the scores of `summarise` that compare the set with the real images as sets, and its images with each
    other."""
    found: dict[str, Estimate] = {}
    enough = min(len(images), len(reals)) >= 2

    def features(name: str, of: Sequence[Observed]) -> list[Tensor]:
        return [each.features[name] for each in of if name in each.features]

    # Against the real images, by features: of patches, and of whole images as in the literature.
    if features("mobilenet", images) and features("mobilenet", reals) and enough:
        fake, real = features("mobilenet", images), features("mobilenet", reals)
        found["kernel_distance"] = distribution.kernel_distance(fake, real, paired=paired)
        if min(sum(map(len, fake)), sum(map(len, real))) > distribution.NEIGHBOURS:
            found["precision"], found["recall"] = distribution.precision_recall(fake, real)
    if features("inception", images) and features("inception", reals) and enough:
        fake, real = features("inception", images), features("inception", reals)
        found["fid"] = distribution.frechet_distance(fake, real)
        found["kid"] = distribution.kernel_distance(fake, real)
        found["inception_score"] = distribution.inception_score(features("inception_logits", images))

    # By the patches of a pyramid, the mean over its levels: of as many images, all of one size.
    levels = [{tuple(sliced_wasserstein.levels_of(each.features)) for each in side} for side in (images, reals)]
    if enough and levels[0] == levels[1] and len(levels[0]) == 1 and any(levels[0]):
        distances = sliced_wasserstein.sliced_wasserstein(*([each.features for each in side]
                                                            for side in (images, reals)))
        found["sliced_wasserstein"] = Estimate(sum(distances.values()) / len(distances))

    # By the classes that real images are of.
    if features("classes", images) and features("classes", reals):
        shares = [torch.cat(features("classes", side)).mean(0) for side in (images, reals)]
        found["rarest_class"] = Estimate(float(shares[0][shares[1] > 0].min()))
        found["classes_found"] = Estimate(float((shares[0][shares[1] > 0] > 0).sum()))

    # Against each other, by the small copies.
    small = [each.small for each in images if each.small is not None]
    if len(small) > 1 and min(min(each.shape[1:]) for each in small) >= MIN_SIDE_SSIM:
        found["similarity"] = diversity.similarity(small)
    return found


def floor(reals: Sequence[Observed]) -> dict[str, Estimate]:
    """Return the scores of half of the real images (every second one) against the others: the best to be expected.

    There is none of the scores that are larger of half as many images.
    """
    found = compare_sets(reals[::2], reals[1::2], paired=False)
    return {name: score for name, score in found.items() if name not in LARGER_OF_FEWER}
