"""Domain adaptation: labelled source images become labelled images that look like the target, and are put to the test.

    make        the adapted set, its labels carried over, and what a judge says of it
    evaluate    the table that says whether training on it helps
"""

from translate.adapt.making import MadeSet, make
from translate.adapt.table import evaluate

__all__ = ["MadeSet", "evaluate", "make"]
