"""Evaluation: scores of a run or of any folder, and the held-out images that a training is scored on."""
