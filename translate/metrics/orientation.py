"""The shift between two images of one place by two sensors, whose colours and brightness say nothing of each other.

What two sensors share are the directions of edges, not which side is brighter. So each image becomes the double angle
of its gradient, where an edge and its inverse are one number, and the correlation of two such fields has its peak at
the shift (orientation correlation: Fitch et al. 2002). Whether there is a shift at all is read from the peak itself:
between unrelated images none stands out.
"""

from __future__ import annotations

import cv2
import numpy as np

SIGMA = 1.0  # px, of the Gaussian before the gradient
FURTHEST = 0.25  # of the shorter side that a shift is looked for
# Deviations of the correlation that its peak must stand above the mean, and above the next peak. Relief and satellite
# tiles of two places reached 5.4 and 1.0 in 120 pairs
LEAST_HEIGHT, LEAST_LEAD = 6.5, 2.5
NEXT_PEAK = 6  # px from the peak, beyond which another peak is another


def shift_by_orientation(a: np.ndarray, b: np.ndarray) -> tuple[float, float] | None:
    """Return how far (right, down) image b lies from a, in px; None where no shift stands out.

    Both are (H, W, C) float32 of one height and width, with any channels.
    """
    height, width = a.shape[:2]
    window = np.sqrt(cv2.createHanningWindow((width, height), cv2.CV_32F))
    spectra = [np.fft.fft2(_double_angles(image) * window) for image in (a, b)]
    correlation = np.fft.ifft2(spectra[0].conj() * spectra[1]).real

    # The highest place among shifts that are looked for, and how far it stands out
    down, right = (np.fft.fftfreq(side, 1 / side) for side in (height, width))
    furthest = FURTHEST * min(height, width)
    looked_at = (np.abs(down) <= furthest)[:, None] & (np.abs(right) <= furthest)
    row, column = np.unravel_index(np.where(looked_at, correlation, -np.inf).argmax(), correlation.shape)
    elsewhere = np.hypot((down - down[row])[:, None], right - right[column]) > NEXT_PEAK
    peak, spread = correlation[row, column], max(float(correlation.std()), 1e-12)
    if (peak - correlation.mean() < LEAST_HEIGHT * spread
            or peak - correlation[elsewhere].max() < LEAST_LEAD * spread):
        return None

    # The top of a paraboloid through the pixels around it
    y, x = (each.ravel() for each in np.mgrid[-2:3, -2:3])
    values = correlation[(row + y) % height, (column + x) % width]
    terms = np.stack([np.ones(25), x, y, x**2, x * y, y**2], 1)
    _, by_x, by_y, xx, xy, yy = np.linalg.lstsq(terms, values, rcond=None)[0]
    top = np.clip(np.linalg.lstsq([[2 * xx, xy], [xy, 2 * yy]], [-by_x, -by_y], rcond=None)[0], -1, 1)
    return float(right[column] + top[0]), float(down[row] + top[1])


def _double_angles(image: np.ndarray) -> np.ndarray:
    """Return the squares of gradients as complex numbers (H, W), weak ones nearly as long as strong ones."""
    total = np.zeros(image.shape[:2], np.complex64)
    for channel in range(image.shape[2]):
        smooth = cv2.GaussianBlur(image[..., channel], (0, 0), SIGMA)
        total += (cv2.Scharr(smooth, cv2.CV_32F, 1, 0) + 1j * cv2.Scharr(smooth, cv2.CV_32F, 0, 1)) ** 2
    strength = np.abs(total)
    around = cv2.GaussianBlur(strength**2, (0, 0), 8 * SIGMA)
    largest = max(float(strength.max()), 1e-12)
    return total / (strength + np.sqrt(np.maximum(around, 0)) + 1e-3 * largest)
