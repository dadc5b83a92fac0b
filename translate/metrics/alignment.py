"""How two images of the same thing lie on each other: shift, scale, rotation and local warp between them, in pixels.

The two may differ in colours, contrast, noise or sensor. Registration is OpenCV's: phase correlation for the first
guess of a shift, ECC (Evangelidis and Psarakis 2008) for the affine map, DIS optical flow (Kroeger et al. 2016) for
what is left of it. What is compared is first the strength of edges, which no change of colours takes away, and then one
image with the other as a polynomial of its colours predicts it: where colours are a function of colours, that is exact.
Where neither can be relied on, as between two sensors, `translate.metrics.orientation` may still tell the shift.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from translate.metrics.checks import check_image
from translate.metrics.orientation import shift_by_orientation

LARGEST_SIDE = 1536  # px; larger images are measured at this size, and the pixels counted are their own
SMALLEST_SIDE = 32  # px
EDGE_SCALES = (4.0, 2.0, 1.0)  # px, of the Gaussian before the gradient: coarse to fine
BY_COLOURS = 0.6  # correlation from which the prediction by colours is trusted
LEAST_CORRELATION = 0.15
MOST_INCONSISTENT = 0.25  # px between the flow there and back, in the median, beyond which nothing is certain
LEAST_STRUCTURE = 0.01  # share of pixels that must be edges
STEEP = 2 / 255  # gradient per px from which a pixel is an edge, of a range of 1
REPEATS = 0.7  # autocorrelation, of its largest value, from which an image repeats itself
OF_ONE_SENSOR, OF_TWO_SENSORS = 0.1, 1.0  # px, accuracy of a displacement
BORDER = 0.05  # of each side, which the warp does not count


@dataclass(frozen=True)
class Alignment:
    """What brings the first image onto the second. `None` of a value: it cannot be known.

    shift         (right, down), px, of the middle of the image
    scale         1: equally large
    rotation      degrees, clockwise
    displacement  how far a pixel is off by these three, px: root mean square over the image
    warp          how far it is off beyond them, px: the median over the image, sheared ones included
    confident     whether the figures can be relied on
    reason        why not, or why only the shift is known, in words
    accuracy      of the displacement where it is confident, px: one of `OF_ONE_SENSOR`, `OF_TWO_SENSORS`
    """

    shift: tuple[float, float] | None = None
    scale: float | None = None
    rotation: float | None = None
    displacement: float | None = None
    warp: float | None = None
    confident: bool = False
    reason: str = ""
    accuracy: float | None = None


def align(first: Tensor, second: Tensor) -> Alignment:
    """Measure how the second image lies on the first, both (C, H, W) in [-1, 1] of one height and width.

    The numbers of channels may differ.
    Where it is confident it is accurate to about 0.1 px of displacement and 0.3 px of warp. Between two sensors it
    knows the shift alone, to about 1 px: where the one sees an edge, the other may see it a little beside. Raises
    `DataError` for values that no image has.
    """
    return align_pixels(first, second)[0]


def align_pixels(first: Tensor, second: Tensor) -> tuple[Alignment, np.ndarray | None]:
    """Do as `align`; return also where each pixel of the first image lies in the second, from its own place.

    That is (H, W, 2) float32, right and down, px; None where it is not known.
    """
    check_image(first)
    check_image(second)
    assert first.shape[1:] == second.shape[1:], "of one height and width"
    height, width = first.shape[1:]
    if min(height, width) < SMALLEST_SIDE:
        return Alignment(reason=f"sides below {SMALLEST_SIDE} px"), None

    # As OpenCV takes them, in [0, 1]
    factor = max(1.0, max(height, width) / LARGEST_SIDE)
    if min(height, width) / factor < SMALLEST_SIDE:
        return Alignment(reason=f"sides below {SMALLEST_SIDE} px, where the longer is of {LARGEST_SIDE}"), None
    a, b = (_array(image, factor) for image in (first, second))
    for image, which in ((a, "the first"), (b, "the second")):
        if (reason := _nothing_to_see(image)):
            return Alignment(reason=f"{which} image {reason}"), None

    # The affine map that brings points of the first to those of the second, and what it leaves
    try:
        matrix, correlation, pair = _registered(a, b)
    except cv2.error:  # it does not converge, for images that have little in common
        return _shifted(a, b, factor, "the images have too little in common"), None
    flow, inconsistency = _flow(*pair)
    doubt = ""
    if correlation < LEAST_CORRELATION:
        doubt = f"a correlation of {correlation:.2f}"
    elif inconsistency > MOST_INCONSISTENT:
        doubt = f"the way there and back differ by {inconsistency:.2f} px"
    if doubt and (shifted := _shifted(a, b, factor, doubt)).confident:
        return shifted, None
    found, field = _described(matrix, flow, factor, doubt)
    return found, None if doubt else cv2.resize(field, (width, height), interpolation=cv2.INTER_LINEAR) * factor


def _shifted(a: np.ndarray, b: np.ndarray, factor: float, doubt: str) -> Alignment:
    """Return the shift alone, where the directions of edges tell it although there is a `doubt` about all else."""
    shift = shift_by_orientation(a, b)
    if shift is None:
        return Alignment(reason=doubt)
    right, down = (each * factor for each in shift)
    return Alignment((right, down), displacement=math.hypot(right, down), confident=True, reason="as between two "
                     "sensors: only the shift is known", accuracy=OF_TWO_SENSORS * factor)


def _array(image: Tensor, factor: float) -> np.ndarray:
    array: np.ndarray = (image.detach().to("cpu").float().movedim(0, -1).numpy() + 1) / 2
    if factor > 1:
        size = round(array.shape[1] / factor), round(array.shape[0] / factor)
        array = np.asarray(cv2.resize(array, size, interpolation=cv2.INTER_AREA))
    return np.ascontiguousarray(array if array.ndim == 3 else array[..., None], dtype=np.float32)


def _nothing_to_see(image: np.ndarray) -> str:
    """Return why nothing can be measured on an image: it has no edges, or repeats itself; else nothing."""
    if (_gradient(image, EDGE_SCALES[-1]) > STEEP).mean() < LEAST_STRUCTURE:
        return "shows hardly any edges"

    # An image that is like itself somewhere else could lie there as well
    small = cv2.resize(_edges(image, EDGE_SCALES[-1]), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    small = (small - small.mean()) * cv2.createHanningWindow(small.shape[::-1], cv2.CV_32F)
    spectrum = np.fft.rfft2(small)
    correlation = np.fft.irfft2(np.abs(spectrum) ** 2, small.shape)
    height, width = small.shape
    down, right = np.minimum(np.arange(height), height - np.arange(height)), np.arange(width)
    away = np.hypot(down[:, None], np.minimum(right, width - right)[None]) > min(8, min(small.shape) / 6)
    return "repeats itself" if correlation[away].max() > REPEATS * correlation[0, 0] else ""


def _gradient(image: np.ndarray, sigma: float) -> np.ndarray:
    """Return the strength of edges, over all channels (Di Zenzo 1986), per px."""
    total = np.zeros(image.shape[:2], np.float32)
    for channel in range(image.shape[2]):
        smooth = cv2.GaussianBlur(image[..., channel], (0, 0), sigma)
        total += cv2.Scharr(smooth, cv2.CV_32F, 1, 0) ** 2 + cv2.Scharr(smooth, cv2.CV_32F, 0, 1) ** 2
    return np.sqrt(total) / 32


def _edges(image: np.ndarray, sigma: float) -> np.ndarray:
    """Return the strength of edges beside that of their neighbourhood, so that weak ones count as well."""
    gradient = _gradient(image, sigma)
    around = np.sqrt(cv2.GaussianBlur(gradient**2, (0, 0), 8 * sigma))
    return gradient / (around + 1e-3 * max(float(gradient.max()), 1e-6) + STEEP / 4)


def _details(channel: np.ndarray) -> np.ndarray:
    """Return what stands out from its neighbourhood, beside how much stands out there."""
    details = cv2.GaussianBlur(channel, (0, 0), 1.0) - cv2.GaussianBlur(channel, (0, 0), 6.0)
    around = np.sqrt(cv2.GaussianBlur(details**2, (0, 0), 12.0))
    return details / (around + 1e-2 * float(np.abs(details).max()) + STEEP / 10)


def _registered(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, float, tuple[np.ndarray, np.ndarray]]:
    """Return the affine map (2, 3) from a to b, the correlation of what was compared, and a and b on it."""
    # A shift first, then the map, from coarse edges to fine ones
    window = cv2.createHanningWindow(a.shape[1::-1], cv2.CV_32F)
    edges = {sigma: (_edges(a, sigma), _edges(b, sigma)) for sigma in EDGE_SCALES}
    fine_a, fine_b = edges[EDGE_SCALES[-1]]
    (right, down), _ = cv2.phaseCorrelate(fine_a - fine_a.mean(), fine_b - fine_b.mean(), window)
    matrix = np.array([[1, 0, right], [0, 1, down]], np.float32)
    correlation = 0.0
    for sigma in EDGE_SCALES:
        correlation, matrix = _by_ecc(*edges.pop(sigma), matrix, blur=5)

    # Then by colours, where those of b can be told from those of a
    better, by_edges, colours = matrix, correlation, _colours(a)
    for _ in range(3):
        predicted, seen, coloured = _prediction(colours, b, better)
        if coloured < BY_COLOURS:
            break
        correlation, better = _by_ecc(predicted, _details(b[..., seen]), better, blur=1)
    else:
        predicted, seen, coloured = _prediction(colours, b, better)
        if coloured >= max(BY_COLOURS, by_edges - 0.05):
            return better, coloured, (predicted, _details(_on(b, better)[..., seen]))
    return matrix, by_edges, (fine_a, _edges(_on(b, matrix), EDGE_SCALES[-1]))


def _by_ecc(a: np.ndarray, b: np.ndarray, matrix: np.ndarray, blur: int) -> tuple[float, np.ndarray]:
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 1e-6)
    correlation, matrix = cv2.findTransformECC(a, b, matrix.astype(np.float32), cv2.MOTION_AFFINE, criteria,
                                               None, blur)  # type: ignore[call-overload]
    return float(correlation), matrix


def _on(b: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return image b brought onto a."""
    warped = cv2.warpAffine(b, matrix, b.shape[1::-1], flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
                            borderMode=cv2.BORDER_REFLECT)
    return warped if warped.ndim == 3 else warped[..., None]


def _colours(a: np.ndarray) -> np.ndarray:
    """Return the terms by which colours of a tell those of b: a polynomial of degree two, and each channel's cube."""
    channels = [a[..., number] for number in range(a.shape[2])]
    return np.stack([np.ones_like(channels[0]), *channels, *(channel**3 for channel in channels),
                     *(one * other for number, one in enumerate(channels) for other in channels[number:])], -1)


def _prediction(terms: np.ndarray, b: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, int, float]:
    """Return the details of the channel of b that the colours of a (`terms`) tell best, as they tell them; its number,
    and the correlation with the real ones."""
    target = _on(b, matrix)
    weights, *_ = np.linalg.lstsq(terms.reshape(-1, terms.shape[2])[::7], target.reshape(-1, target.shape[2])[::7],
                                  rcond=None)
    told = (terms @ weights).astype(np.float32)

    pairs = [(_details(np.ascontiguousarray(told[..., number])), _details(target[..., number]))
             for number in range(target.shape[2])]
    likeness = [_correlation(one, other) for one, other in pairs]
    best = int(np.argmax(likeness))
    return pairs[best][0], best, likeness[best]


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one - one.mean(), other - other.mean()
    return float((one * other).mean() / max(float(one.std() * other.std()), 1e-12))


def _flow(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the flow (H, W, 2) from a to b, and the median distance of its way there and back, where there are edges.
    """
    as_bytes = [np.clip(128 + 40 * (each - each.mean()), 0, 255).astype(np.uint8) for each in (a, b)]
    method: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    method.setFinestScale(0)
    method.setVariationalRefinementIterations(10)
    there, back = method.calc(as_bytes[0], as_bytes[1], None), method.calc(as_bytes[1], as_bytes[0], None)
    down, right = np.indices(a.shape, dtype=np.float32)
    returned = cv2.remap(back, right + there[..., 0], down + there[..., 1], cv2.INTER_LINEAR)
    return there, float(np.median(np.linalg.norm(there + returned, axis=2)))


def _described(matrix: np.ndarray, flow: np.ndarray, factor: float, doubt: str) -> tuple[Alignment, np.ndarray]:
    """Return the affine map as shift, scale and rotation, and what it and the flow leave as warp; all in own pixels.

    Beside it, how far each pixel (H, W, 2) is off, in the pixels that were measured.
    """
    height, width = flow.shape[:2]
    linear, middle = matrix[:, :2].astype(np.float64), np.array([(width - 1) / 2, (height - 1) / 2])
    shift = linear @ middle + matrix[:, 2] - middle

    # The nearest similarity to the linear part; its angle turns right to down, which is clockwise
    angle = math.atan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1])
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    scale = float((turn * linear).sum() / 2)

    # How far pixels are off: by the similarity, and beyond it
    down, right = np.indices((height, width), dtype=np.float64)
    points = np.stack([right, down], -1) - middle
    moved = points @ (scale * turn).T + shift - points
    total = points @ linear.T + shift - points + flow @ linear.T
    inside = (slice(int(BORDER * height), height - int(BORDER * height)),
              slice(int(BORDER * width), width - int(BORDER * width)))
    found = Alignment(
        (float(shift[0]) * factor, float(shift[1]) * factor), scale, math.degrees(angle),
        float(np.sqrt((moved**2).sum(-1).mean())) * factor,
        float(np.median(np.linalg.norm(total - moved, axis=-1)[inside])) * factor, not doubt, doubt,
        None if doubt else OF_ONE_SENSOR * factor)
    return found, total.astype(np.float32)
