"""From images to a table: what is kept of each image, and the scores of a set of them.

Every image is looked at by itself, anywhere and in any order; the scores are made of what was kept, in the order of
the images. So the work can be shared by processes, and the result is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from translate.metrics import distribution, diversity, intervals, reference
from translate.metrics.features import FeatureNetwork
from translate.metrics.intervals import Estimate
from translate.metrics.perceptual import LPIPS


@dataclass(frozen=True)
class Measure:
    """How a score is called, and which way is better."""

    title: str
    better: Literal["higher", "lower"]


MEASURES: dict[str, Measure] = {
    "psnr": Measure("PSNR (dB)", "higher"),
    "ssim": Measure("SSIM", "higher"),
    "ms_ssim": Measure("MS-SSIM", "higher"),
    "lpips": Measure("LPIPS (AlexNet)", "lower"),
    "l1": Measure("L1", "lower"),
    "gradient_error": Measure("gradient error", "lower"),
    "kernel_distance": Measure("kernel distance (MobileNetV2)", "lower"),
    "precision": Measure("precision (MobileNetV2)", "higher"),
    "recall": Measure("recall (MobileNetV2)", "higher"),
    "fid": Measure("FID", "lower"),
    "kid": Measure("KID", "lower"),
    "inception_score": Measure("Inception Score", "higher"),
    "similarity": Measure("similarity within", "lower"),
    "miou": Measure("mIoU", "higher"),
    "pixel_accuracy": Measure("per-pixel accuracy", "higher"),
    "class_accuracy": Measure("per-class accuracy", "higher"),
}


@dataclass(frozen=True)
class Observed:
    """What is kept of an image: its scores against its truth, its features, and a small copy."""

    scores: dict[str, float] = field(default_factory=dict)
    features: dict[str, Tensor] = field(default_factory=dict)
    small: Tensor | None = None


def observe(image: Tensor, truth: Tensor | None, networks: Sequence[FeatureNetwork], *, small: int | None,
            lpips: LPIPS | None = None) -> Observed:
    """Look at an image (C, H, W) in [-1, 1], beside its truth where there is one. Raises `DataError`.

    `small`: keep a copy of at most so many px a side, to compare it with other images of its set.
    """
    scores: dict[str, float] = {}
    if truth is not None:
        scores = reference.score(image[None], truth[None])
        if lpips is not None and lpips.takes(image):
            scores["lpips"] = lpips(image, truth)
    features = {name: rows for network in networks if image.shape[0] in (1, 3) for name, rows in network(image).items()}
    return Observed(scores, features, None if small is None else diversity.thumbnail(image, small))


def summarise(images: Sequence[Observed], reals: Sequence[Observed], *, paired: bool) -> dict[str, Estimate]:
    """The scores of a set, each of those that can be computed from what was kept of its images.

    `paired`: image i is to look like real image i. Scores that need more images than there are are left out.
    """
    found = {name: intervals.mean([each.scores[name] for each in images if name in each.scores])
             for name in MEASURES if any(name in each.scores for each in images)}
    return found | compare_sets(images, reals, paired=paired)


def why_not(scores: dict[str, Estimate], images: Sequence[Observed], reals: Sequence[Observed],
            networks: Sequence[FeatureNetwork], *, paired: bool) -> list[str]:
    """What these images themselves, and no missing file, keep out of `scores`: a line each."""
    lines = []
    if min(len(images), len(reals)) < 2:
        lines.append(f"sets are compared from two images on, and here are {len(images)} and {len(reals)}")
    if networks and any(not each.features for each in (*images, *reals)):
        lines.append("kernel distance, precision, recall and the like need grey or RGB images")
    if paired and "ssim" not in scores:
        lines.append(f"SSIM needs images with sides of {reference.SMALLEST_SSIM} px")
    if paired and "ms_ssim" not in scores:
        lines.append(f"MS-SSIM needs images with sides of {reference.SMALLEST_MS_SSIM} px")
    return lines


def compare_sets(images: Sequence[Observed], reals: Sequence[Observed], *, paired: bool) -> dict[str, Estimate]:
    """The set-against-set part of `summarise`; two halves of the real images give the floor of it."""
    found: dict[str, Estimate] = {}
    few = min(len(images), len(reals)) < 2

    def features(name: str, of: Sequence[Observed]) -> list[Tensor]:
        return [each.features[name] for each in of if name in each.features]

    if features("mobilenet", images) and features("mobilenet", reals) and not few:
        fake, real = features("mobilenet", images), features("mobilenet", reals)
        found["kernel_distance"] = distribution.kernel_distance(fake, real, paired=paired)
        if min(sum(map(len, fake)), sum(map(len, real))) > distribution.NEIGHBOURS:
            found["precision"], found["recall"] = distribution.precision_recall(fake, real)
    if features("inception", images) and features("inception", reals) and not few:
        fake, real = features("inception", images), features("inception", reals)
        found["fid"] = distribution.frechet_distance(fake, real)
        found["kid"] = distribution.kernel_distance(fake, real)
        found["inception_score"] = distribution.inception_score(features("inception_logits", images))
    small = [each.small for each in images if each.small is not None]
    if len(small) > 1 and min(min(each.shape[1:]) for each in small) >= reference.SMALLEST_SSIM:
        found["similarity"] = diversity.similarity(small)
    return found


def floor(reals: Sequence[Observed]) -> dict[str, Estimate]:
    """What real images score against real ones: every second against the others. No translator should do better."""
    return compare_sets(reals[::2], reals[1::2], paired=False)
