"""The data of the evaluation table: source and target with their labels, and the adapted sets made of them.

Everything is looked at before anything is trained: a label that cannot be used, a set that is damaged, or one that was
made by another recipe or from another source, is an error that names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from translate.adapt.assembling import MANIFEST, STAGES_OF_READING, Row, change_of_source, damage
from translate.adapt.checking import target_splits
from translate.adapt.examples import Examples
from translate.adapt.matching import matched_source
from translate.adapt.result_cache import Record, SetRecord, read_record
from translate.adapt.self_training import without_labels
from translate.adapt.task_training import Watch
from translate.adapt.translators import adaptation_of, is_finished, numbered, saved_recipe, translators_recipe
from translate.data.label_counts import LabelCounts
from translate.data.labelled import Labelled, check_labels
from translate.errors import RECIPE_PLACEHOLDER, DataError, DocumentError, Mistake, RecipeError, visible
from translate.foreign import read_lines
from translate.places import RECIPE_FILE, data_root
from translate.recipe import Recipe

NUM_UNREADABLE_NAMED = 5


@dataclass(frozen=True)
class TableData:
    """What the rows of a table are made of."""

    source: Examples
    matched: Examples  # the source as translators see it: itself, or as adapt.match changes it
    source_shares: np.ndarray  # (classes,) of the source's images or pixels
    target_test: Examples
    target_train: Examples | None  # None: no oracle
    unlabelled: Examples  # the target's training images, as the translator saw them, in an order of chance
    likes: Examples  # the same at their own size, which classical rows make the source like
    translated: Sequence[Examples]  # a set a variant
    images: Path  # the folder of the source's images
    places: Sequence[Path]  # and those of each set
    tested: LabelCounts  # what the target's test labels are of
    missing: tuple[str, ...] = ()  # what the table has to do without
    reports: tuple[Record, ...] = ()  # of each set, what its preservation.json holds


def find_table_data(recipe: Recipe, home: Path, watch: Watch = lambda done, total: None,
                    may_write: bool = True) -> TableData:
    """Return everything that is trained and tested on, after looking at all of its labels.

    `watch` is told how many labels, or images to match, of how many have been seen to; `may_write` says whether matched
    images that are gone may be made again. Raises `RecipeError` for images that the classical rows cannot change, and
    `DataError` or `RunError` for labels and sets that cannot be used.
    """
    adapt, root = adaptation_of(recipe), data_root()
    resize, a, b = adapt.task.resize, recipe.data.image_a, recipe.data.image_b
    if a.bits != 8 or b.bits != 8 or a.channels not in (1, 3):
        raise RecipeError(Mistake("data.image_a, data.image_b", f"bits {a.bits} and {b.bits}, {a.channels} channels",
                                  "the classical rows of the table know images of 8 bits with 1 or 3 channels",
                                  source=recipe.name))

    # Labels of the source, of the target's test images, and of its training images for an oracle.
    found = adapt.source.find("train", root)
    test, train, missing = target_splits(adapt)
    counted = check_labels(adapt.source, found, watch).counted
    if train is not None:
        check_labels(adapt.target, train, watch)
    tested = check_labels(adapt.target, test, watch)
    missing += [f"target test labels: {line}; no score of the table says anything about it" for line in
                tested.warnings()[:1] if tested.absent]

    # The sets, and what they could not be made from: no row is trained on it.
    sets, reports = find_sets(recipe, home, found)
    if len(sets) < adapt.variants:
        missing.append(f"sets: {len(sets)} of {adapt.variants} (adapt.variants), and seeds share them; `translate "
                       "adapt make` makes all")
    unread = {row["from"] for folder in sets for row in read_lines(folder / MANIFEST, Row)
              if row.get("stage") in STAGES_OF_READING}
    if unread:
        named = sorted(unread)[:NUM_UNREADABLE_NAMED]
        missing.append(f"source images: {len(unread)} could not be read when the set was made, and no row is trained "
                       f"on them: {', '.join(map(visible, named))}{' …' * (len(unread) > len(named))}")
    layout = adapt.source.model_copy(update={"card": None, "exclude": ()})
    made = [layout.model_copy(update={"folder": folder}).find("train", root) for folder in sets]
    read = [number for number, path in enumerate(found.files)
            if path.relative_to(found.folder).as_posix() not in unread]

    matched = matched_source(recipe, found, home, watch, may_write)
    files_b = recipe.data.build("train", root).files_b
    return TableData(source=Examples.of(adapt.source, found, a, resize).part(read),
                     matched=Examples.of(adapt.source, matched, a, resize).part(read),
                     source_shares=counted / counted.sum(),
                     target_test=Examples.of(adapt.target, test, b, resize),
                     target_train=None if train is None else Examples.of(adapt.target, train, b, resize),
                     unlabelled=without_labels(Examples(adapt.source, files_b, files_b, b, resize)),
                     likes=Examples(adapt.source, files_b, files_b, b, None),
                     translated=[Examples.of(adapt.source, each, b, resize) for each in made],
                     images=found.images, places=[each.images for each in made], missing=tuple(missing),
                     reports=tuple(reports), tested=tested)


def find_sets(recipe: Recipe, home: Path, source: Labelled) -> tuple[list[Path], list[Record]]:
    """Return the sets that the last `make` was about, as far as it came, and their reports.

    Raises `DataError` or `RunError` where one of them is damaged or does not belong to this recipe and source.
    """
    adapt = adaptation_of(recipe)
    sets: list[Path] = []
    reports: list[Record] = []
    num = 1  # the first report says how many
    while len(sets) < num:
        # Where one was not begun, the last `make` came no further.
        number = len(sets)
        folder, path = home / numbered("set", number), home / f"{numbered('preservation', number)}.json"
        try:
            report = read_record(path, SetRecord)
        except DocumentError as error:
            raise DataError.of(error, f"run again: translate adapt make {RECIPE_PLACEHOLDER}") from None
        if report is None or (report["hash"] is not None and not folder.is_dir()):
            break

        # Is it the set that a `make` of now would leave as it is?
        fault = fault_of(report, folder, recipe, source)
        if fault is None and report["trained_here"] and not translator_is_finished(recipe, home, number):
            fault = "its translator is not finished under this recipe"
        if fault is not None:
            raise DataError(fault, folder, f"run again: translate adapt make {RECIPE_PLACEHOLDER}")

        if number == 0:
            num = min(report["sets"], adapt.variants) if report["trained_here"] else report["sets"]
        sets, reports = [*sets, folder], [*reports, report]
    if not sets:
        raise DataError("holds no adapted set yet", home, f"run: translate adapt make {RECIPE_PLACEHOLDER}")
    return sets, reports


def translator_is_finished(recipe: Recipe, home: Path, number: int) -> bool:
    """Return whether this recipe leaves a translator as it is; one that was removed is taken to be finished.

    Raises `RunError` where it was trained by another recipe.
    """
    translator = home / numbered("translator", number)
    if not (translator / RECIPE_FILE).is_file():
        return True
    chosen = translators_recipe(recipe, home, number)
    saved_recipe(translator, chosen)
    return is_finished(translator, chosen)


def fault_of(report: Record, folder: Path, recipe: Recipe, source: Labelled) -> str | None:
    """Return why a set is not the one that its report, this recipe and this source would give; None where it is."""
    adapt = adaptation_of(recipe)
    if "sets" not in report:
        return "was made by an older version of Diptych"
    if report["hash"] is None:
        return "nothing was left of it when it was made last (adapt.reject)"
    if report["reject"] != adapt.reject:
        return f"was made with adapt.reject {report['reject']}, and the recipe says {adapt.reject}"
    if report.get("match") != adapt.match:
        return f"was made with adapt.match {report.get('match')}, and the recipe says {adapt.match}"
    return damage(folder, adapt.source, report["hash"]) or change_of_source(folder, adapt.source, source)
