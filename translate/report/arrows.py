"""A deformation drawn as arrows over the image that it is of."""

from __future__ import annotations

import cv2
import numpy as np

NUM_ARROWS = 16  # along the longer side
LEAST_CELL = 12  # px between two arrows
STILL = 0.05  # px below which nothing is drawn: a dot
COLOUR, EDGE = (255, 220, 0), (0, 0, 0)


def with_arrows(pixels: np.ndarray, deformation: np.ndarray) -> np.ndarray:
    """Return an image (H, W, 3) uint8 with arrows of a deformation (2, H, W), right and down, px.

    The longest is as long as its cell; how much longer than it is that makes it, a number in the corner says.
    """
    height, width = pixels.shape[:2]
    cell = max(LEAST_CELL, max(height, width) // NUM_ARROWS)
    rows, columns = np.arange(cell // 2, height, cell), np.arange(cell // 2, width, cell)
    found = deformation[:, rows][:, :, columns]
    longest = float(np.hypot(*found).max()) if found.size else 0.0
    factor = min(cell / longest, 100.0) if longest > STILL else 1.0

    # Each with a dark edge, so that it is seen on any ground
    drawn = pixels.copy()
    for y, line in zip(rows, np.moveaxis(found, 0, -1), strict=True):
        for x, (right, down) in zip(columns, line, strict=True):
            begin, end = (int(x), int(y)), (round(x + factor * float(right)), round(y + factor * float(down)))
            for colour, thickness in ((EDGE, 3), (COLOUR, 1)):
                if np.hypot(right, down) > STILL:
                    cv2.arrowedLine(drawn, begin, end, colour, thickness, cv2.LINE_AA, tipLength=0.3)
                else:
                    cv2.circle(drawn, begin, 1, colour, thickness)
    for colour, thickness in ((EDGE, 3), (COLOUR, 1)):
        cv2.putText(drawn, f"x{factor:.2g}, {longest:.2g} px", (4, height - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour,
                    thickness, cv2.LINE_AA)
    return drawn
