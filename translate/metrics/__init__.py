"""Scores of translated images: against their truth, against a set of real images, and how alike they are."""
