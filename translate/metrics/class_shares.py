"""How often each class occurs among images without labels: what a network believes of them, corrected for its training.

A network trained where a class is rare believes in it too seldom. Expectation maximisation corrects its probabilities
by the shares of the classes, and the shares by the probabilities, until both agree (Saerens, Latinne and Decaestecker
2002, "Adjusting the outputs of a classifier to new a priori probabilities", eq. 2.9). It is right as far as the
probabilities are those of images that look alike in both domains.
"""

from __future__ import annotations

import numpy as np

MAX_ROUNDS = 10_000
CONVERGED = 1e-7  # change of a share in a round


def class_shares(beliefs: np.ndarray, trained_on: np.ndarray) -> np.ndarray:
    """Return the most likely shares of the classes, (classes,), which add up to 1.

    beliefs     (N, classes): probabilities that a network gives the classes of each image, or pixel
    trained_on  (classes,): their shares in what it was trained on; a class with none gets none
    """
    known = trained_on > 0
    ratio = np.divide(beliefs, trained_on, out=np.zeros_like(beliefs, dtype=np.float64), where=known)
    shares = trained_on / trained_on.sum()
    for _ in range(MAX_ROUNDS):
        joint = ratio * shares
        before, shares = shares, (joint / np.maximum(joint.sum(1, keepdims=True), np.finfo(float).tiny)).mean(0)
        if np.abs(shares - before).max() < CONVERGED:
            break
    return shares / shares.sum()


def share_that_differs(one: np.ndarray, other: np.ndarray) -> float:
    """Return which part would have to be of another class for the shares to be equal: half of their L1 distance."""
    return float(np.abs(one - other).sum() / 2)
