"""Scores of label maps against those that tell the truth: mIoU and accuracies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from translate.data.label_counts import LabelCounts
from translate.data.labels import Labelling, numbers_in, read_labels
from translate.data.pairing import shared_names
from translate.errors import DataError, ImageError, visible
from translate.evaluation.folder_images import list_folder, unpaired_in_words
from translate.evaluation.results import OnProgress, Results
from translate.metrics.segmentation import LabelScores, totals


def evaluate_labels(folder: Path, against: Path, classes: int, ignore: int | None = 255,
                    ids: Mapping[int, int] | None = None,
                    on_progress: OnProgress = lambda done, total: None) -> Results:
    """Score label maps below `folder` against those below `against`: mIoU and accuracies.

    Pixels whose truth is `ignore` do not count. `ids` says which classes the numbers in the files stand for, where they
    do not stand for themselves (see `translate.data.labels.class_of`). Predictions whose numbers are classes already,
    as networks write them, are taken as they are, and that is said (see `Labelling.are_classes`). What pairs with
    nothing is named. `on_progress` is called with the number of maps read, and of all there are.

    Raises `DataError` where no names pair, and where all that counts is of one class, `ImageError` for what is no label
    map of these classes.
    """
    pairs, *lonely = shared_names(folder, list_folder(folder), against, list_folder(against), alike=True)
    if not pairs:
        raise DataError(f"none of its label maps has the name of one in {against}", folder)
    labelling, total = Labelling(classes, ignore, ids=tuple((ids or {}).items())), len(pairs) * (2 if ids else 1)

    # Predictions are read as the truth is, unless their numbers are the classes
    reading = labelling
    if ids and labelling.are_classes(_all_numbers([prediction for prediction, _ in pairs],
                                                  lambda done: on_progress(done, total))):
        reading = Labelling(classes, ignore)

    # Each pair: where the truth has which class, and the prediction which
    scores, counts = LabelScores(classes, ignore), LabelCounts(labelling.names, ignore)
    num_strange = 0
    found: list[np.ndarray] = []
    for done, (prediction, truth) in enumerate(pairs, total - len(pairs)):
        on_progress(done, total)
        is_of = _read_truth(truth, labelling)
        try:
            confusion = scores.confusion(reading.renumbered(read_labels(prediction)), is_of)
        except DataError as error:
            raise ImageError(prediction, "read", f"{error.what}; its truth is {visible(truth)}") from None
        found.append(totals(confusion))
        counts.add(labelling.classes_in(is_of))
        num_strange += int(confusion[:, classes].sum())
    on_progress(total, total)

    _refuse_one_class(counts, against)
    missing = unpaired_in_words(folder, lonely[0], against, lonely[1])
    missing += [f"mIoU and per-class accuracy of all classes: {against} {line}" for line in counts.warnings()[:1]
                if counts.absent]
    notes = []
    if num_strange:
        by_ids = "; its numbers, like the truth's, are read by --ids: store what these turn into classes"
        notes.append(f"{num_strange:,} pixels of {visible(folder)} have numbers that are none of the {classes} "
                     f"classes, which counts as wrong{by_ids if reading.ids else ''}")
    if reading is not labelling:
        notes.append(f"the numbers of {visible(folder)} are taken for classes as they are, as all lie in 0 … "
                     f"{classes - 1} and --ids, which reads the truth, makes no others of them")
    return Results({"what": str(folder), "against": str(against), "direction": None, "weights": None,
                    "num_images": len(pairs), "num_reals": len(pairs), "num_sources": 0, "paired": True,
                    "features": [], "labels": counts.as_json()},
                   scores.summarise(found), missing=missing, notes=notes)


def _all_numbers(maps: Sequence[Path], on_read: Callable[[int], object]) -> set[int]:
    """Return the numbers that stand in any of the maps; `on_read` is called with the number of maps read."""
    numbers: set[int] = set()
    for done, path in enumerate(maps, 1):
        numbers.update(numbers_in(read_labels(path)))
        on_read(done)
    return numbers


def _read_truth(path: Path, labelling: Labelling) -> np.ndarray:
    """Return the classes of a label map. Raises `ImageError` for one of other numbers."""
    stored = read_labels(path)
    if (fault := labelling.fault(stored)) is not None:
        raise ImageError(path, "read", f"{fault}; --classes, --ignore and --ids say which there are")
    return labelling.renumbered(stored)


def _refuse_one_class(counts: LabelCounts, against: Path) -> None:
    """Raise `DataError` where all that counts is of one class, or nothing is: a score from nothing would be 1."""
    if (fault := counts.fault()) is not None:
        number, stands_for = next(iter(counts.remedy.items()))
        raise DataError(fault, against, f"if {number} is a class, add --ids {number}={stands_for}; --ignore none "
                        "where the numbers in the files are the classes" if counts.ignored else
                        "such labels tell no prediction from another; look at the files, and at --classes")
