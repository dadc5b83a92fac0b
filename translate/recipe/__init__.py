"""What is to be trained, and how? One YAML file says everything about a training, and every mistake in it is named at
once.

    recipe.py        Recipe: everything about a training
    stages.py        a stretch of it at one resolution
    watching.py      how often it is looked at, what scores decide, what the guard does
    adaptation.py    what `translate adapt` needs besides
    recipe_files.py  from a file to a recipe
"""

from translate.recipe.adaptation import Adaptation, Downstream, SelfTraining, SemanticWeights
from translate.recipe.recipe import Precision, Recipe
from translate.recipe.recipe_files import (
    apply_override,
    default_adaptation,
    default_run,
    differences,
    find_recipe,
    load_recipe,
)
from translate.recipe.stages import Stage
from translate.recipe.watching import Cadence, Evaluation, GuardConfig, Sign

__all__ = ["Adaptation", "Cadence", "Downstream", "Evaluation", "GuardConfig", "Precision", "Recipe",
           "SelfTraining", "SemanticWeights", "Sign", "Stage", "apply_override", "default_adaptation", "default_run",
           "differences", "find_recipe", "load_recipe"]
