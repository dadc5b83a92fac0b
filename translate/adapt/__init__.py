"""Domain adaptation: labelled source images become labelled images that look like the target, and are put to the test.

    prepare     all that must be looked at and trained before a translator is
    make        the adapted set, its labels carried over, and what a judge says of it
    evaluate    the table that says whether training on it helps
    train_rows  a part of that table, for several processes
"""

from translate.adapt.making import MadeSet, make, prepare
from translate.adapt.table import evaluate, train_rows

__all__ = ["MadeSet", "evaluate", "make", "prepare", "train_rows"]
