"""How often a short run records and shows itself, where its recipe leaves that open: so that there are curves to see.
"""

from __future__ import annotations

from translate.recipe import Recipe

CURVE_POINTS = 50  # of a curve of losses, at least
SAMPLE_GRIDS = 10  # pictures of the same held-out images over time, at least


def with_cadences(recipe: Recipe) -> Recipe:
    """Return the recipe, for a run of few images with shorter cadences than the defaults. What it says itself stays."""
    every, total = recipe.every, recipe.num_images
    wanted = {"log": min(every.log, max(1, total // CURVE_POINTS)),
              "sample": every.sample and min(every.sample, max(1, total // SAMPLE_GRIDS))}
    open_ones = {name: value for name, value in wanted.items() if name not in every.model_fields_set}
    return recipe.model_copy(update={"every": every.model_copy(update=open_ones)})
