"""`translate adapt evaluate`: does training on translations help where it counts, on real target labels?

The same task network is trained in the same way on

    source                  the source as it is
    histogram_matching      the source, each image changed towards a random target image, without learning:
    fda                         its histogram; its low frequencies (Yang and Soatto 2020);
    pixel_distribution          the mean and deviation of each channel
    resolution              the source shrunk to the target's resolution
    translated              the adapted set
    translated_and_source   both
    oracle                  the target's own training images and labels

and tested on the target's test labels, from several seeds. `OUT/results.jsonl` keeps a line for each training, so that
an interrupted table goes on; `OUT/table.json` and `OUT/table.html` hold the table.
"""

from __future__ import annotations

import datetime
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from translate import files
from translate.adapt.assembling import manifest_hash
from translate.adapt.examples import Examples
from translate.adapt.kept import digest, refuse_linked_folders
from translate.adapt.stopping import stopping
from translate.adapt.table_data import TableData, find_table_data
from translate.adapt.tasks import confusions, train_task
from translate.adapt.translators import adaptation_of, numbered
from translate.data.hashing import stable_hash
from translate.data.loading import workers_for
from translate.data.transforms import adapted, at_resolution_of
from translate.errors import visible
from translate.evaluation.heldout import evenly_spaced
from translate.foreign import Count, Shape, read_lines
from translate.images.reading import read_image
from translate.metrics.intervals import CONFIDENCE
from translate.metrics.segmentation import class_ious
from translate.precision import choose_device
from translate.recipe import Recipe
from translate.report import Shown, encode, write_adaptation
from translate.training.loop import Reporter

RowName = Literal["source", "histogram_matching", "fda", "pixel_distribution", "resolution", "translated",
                  "translated_and_source", "oracle"]
TITLES: dict[RowName, str] = {
    "source": "source only", "histogram_matching": "histogram matching", "fda": "FDA",
    "pixel_distribution": "pixel distribution adaptation", "resolution": "resolution matching",
    "translated": "translated", "translated_and_source": "translated + source", "oracle": "oracle (target labels)"}
CLASSICAL: tuple[RowName, ...] = ("histogram_matching", "fda", "pixel_distribution", "resolution")
RESULTS, TABLE, PAGE = "results.jsonl", "table.json", "table.html"
NUM_SHOWN = 6
NUM_ASKED = 1000  # source images, at most, that a trained network is asked about before and after translation
VERSION = 2  # raise it when the same data and settings begin to give other results


class Result(Shape):
    """What a line of `results.jsonl` has; one that has not is left out, and trained again."""

    key: str
    row: RowName
    seed: Count
    confusion: list[list[Count]]
    wrong: dict[Literal["untranslated", "translated"], float] = Field(default_factory=dict)


def evaluate(recipe: Recipe, home: Path, report: Reporter, *, device: str = "auto") -> dict[str, Any]:
    """Train and test every row from every seed; return the table, which is also written to `home`.

    Raises `DataError` where labels cannot be used, there is no adapted set yet, or one is damaged or was made from
    something else, `RunError` where it was made by another recipe, and `Stopped` after a signal.
    """
    adapt, where = adaptation_of(recipe), choose_device(device)
    refuse_linked_folders(home)
    shape = (adapt.source.num_classes, adapt.source.num_classes + 1)
    known = {record["key"]: record for record in read_lines(home / RESULTS, Result)
             if np.shape(record["confusion"]) == shape}
    results: dict[RowName, list[dict[str, Any]]] = {}

    with stopping(report, f"finished rows are kept in {home / RESULTS}, one in training begins again") as report:
        # What is trained and tested on.
        data = find_table_data(recipe, home, lambda done, total: report.progress(done, total, "labels", {}))
        wanted: list[tuple[int, RowName]] = [(seed, row) for seed in range(adapt.seeds) for row in TITLES
                                             if row != "oracle" or data.target_train is not None]
        names = [numbered("set", number) for number in range(len(data.translated))]
        report.say(f"trained on {', '.join(names)} ({len(names)} of {adapt.variants} in adapt.variants)")
        for line in data.missing:
            report.say(line)

        # Results that are there and none of these: nobody should wait for all rows again without knowing why.
        keys = [key_of(recipe, home, data, row, seed) for seed, row in wanted]
        if known and known.keys().isdisjoint(keys):
            report.say(f"warning: none of the {len(known)} results in {visible(home / RESULTS)} is of these images, "
                       "labels and settings as this version reads them; all rows are trained anew")

        # Rows that are not known yet, one after the other.
        for number, ((seed, row), key) in enumerate(zip(wanted, keys, strict=True)):
            if key not in known:
                known[key] = {"key": key, "row": row, "seed": seed} | run_row(recipe, data, row, seed, where, report)
                with files.as_disk_errors(home / RESULTS):
                    files.append_line(home / RESULTS, known[key])
            results.setdefault(row, []).append(known[key])
            report.progress(number + 1, len(wanted), "table", {})

    # The table, with all that must be known to believe it.
    table = tabulate(results, adapt.source.class_names, adapt.source.per_pixel) | {
        "name": recipe.name, "num_test": len(data.target_test), "num_target": len(data.target_train or ()),
        "num_source": len(data.source), "num_sets": len(data.translated), "sets": names, "variants": adapt.variants,
        "missing": list(data.missing), "tested_on": data.tested.as_json(),
        "task": adapt.task.model_dump(mode="json"),
        "made_by": {"diptych": version("diptych"), "torch": torch.__version__, "date": str(datetime.date.today()),
                    "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {where}"}}
    with files.as_disk_errors(home / TABLE):
        files.write_json(home / TABLE, table)
    write_adaptation(table, list(zip(names, data.reports, strict=True)), pictures(data), home / PAGE)
    return table


def pictures(data: TableData) -> list[Shown]:
    """Return some source images, and what each set has made of them."""
    shown = []
    for number in evenly_spaced(len(data.source), NUM_SHOWN):
        name = data.source.files[number].name
        images = {"source": data.source.whole(number)[0]}
        for variant, examples in enumerate(data.translated):
            place = data.places[variant] / data.source.files[number].relative_to(data.images)
            if place in examples.files:
                images[numbered("set", variant)] = examples.whole(examples.files.index(place))[0]
        if len({image.shape for image in images.values()}) == 1:
            shown.append(Shown(name, {what: encode(image) for what, image in images.items()}))
    return shown


def key_of(recipe: Recipe, home: Path, data: TableData, row: RowName, seed: int) -> str:
    """Return what a result belongs to: where anything that it was made from changes, the key is another.

    Digests say what images and labels hold and how they are read, the set's hash what it holds.
    """
    adapt = adaptation_of(recipe)
    used = None if row in CLASSICAL else manifest_hash(home / numbered("set", seed % len(data.translated)))
    own = data.target_train.digest if row == "oracle" and data.target_train is not None else None
    like = [files.checksum(path) for path in data.unlabelled] if row in CLASSICAL else None
    image_b = recipe.data.image_b.model_dump(mode="json")
    parts = [VERSION, row, seed, adapt.task.model_dump(mode="json"), image_b, used, like, own, data.source.digest,
             data.target_test.digest]
    return digest(parts)


def run_row(recipe: Recipe, data: TableData, row: RowName, seed: int, where: torch.device,
            report: Reporter) -> dict[str, Any]:
    """Train for one row from one seed, and test. Return {confusion, of some rows `wrong` (`wrong_about_labels`)}."""
    adapt = adaptation_of(recipe)
    variant = seed % len(data.translated)
    examples = examples_for(data, row, seed, data.translated[variant])
    network = train_task(adapt.task, examples, seed, where, workers_for(recipe.workers, where),
                         lambda done, total: report.progress(done, total, f"{row}, seed {seed}", {}))
    confusion = np.sum(confusions(network, data.target_test, where), axis=0)
    result: dict[str, Any] = {"confusion": confusion.astype(int).tolist()}
    if row in ("source", "oracle"):
        result["wrong"] = wrong_about_labels(network, data, variant, where)
    return result


def examples_for(data: TableData, row: RowName, seed: int, translated: Examples) -> Examples:
    """Return what a row is trained on."""
    if row == "oracle":
        assert data.target_train is not None, "a table without an oracle has no such row"
        return data.target_train
    if row in ("translated", "translated_and_source"):
        return translated if row == "translated" else translated + data.source
    if row == "source":
        return data.source
    source, image = data.source, data.target_test.image

    def change(picture: np.ndarray, number: int) -> np.ndarray:
        key = stable_hash(row, seed, number)
        like = read_image(data.unlabelled[key % len(data.unlabelled)], image)
        return at_resolution_of(picture, like) if row == "resolution" else adapted(row, picture, like, key)  # type: ignore[arg-type]

    return Examples(source.layout, source.files, source.labels, source.image, source.resize, change)


def wrong_about_labels(network: nn.Module, data: TableData, variant: int, where: torch.device) -> dict[str, float]:
    """Return the share of images or pixels whose labels a network disagrees with, before and after translation.

    Both shares are of the same images, which the set has kept. For the oracle, which has never seen the source, the
    first is the control: how much of the source such a network gets wrong without any translation.
    """
    numbers = {path.relative_to(data.images): number for number, path in enumerate(data.source.files)}
    after = data.translated[variant].part(evenly_spaced(len(data.translated[variant]), NUM_ASKED))
    before = data.source.part([numbers[path.relative_to(data.places[variant])] for path in after.files])
    return {name: 1 - accuracy(np.sum(confusions(network, examples, where), axis=0))
            for name, examples in (("untranslated", before), ("translated", after))}


def accuracy(confusion: np.ndarray) -> float:
    """Return the share of images or pixels that are right, of a (classes, classes + 1) confusion."""
    return float(np.trace(confusion[:, :-1]) / confusion.sum())


def tabulate(results: dict[RowName, list[dict[str, Any]]], names: Sequence[str], per_pixel: bool) -> dict[str, Any]:
    """Return the numbers of the table, from results whose lists are in the order of the seeds.

    value               of a row: the mean over seeds of mIoU (of accuracy, where an image has one class) with the half
                        width of its Student t interval
    over_source, over_classical    the differences from the source only, and from the strongest classical row, seed by
                        seed. That row is chosen by its test score, which biases the comparison in its favour
    gap_from_source, gap_from_classical    which part of the way from that row to the oracle is covered
    """
    # One score for each row and seed.
    confusion = {row: [np.array(each["confusion"]) for each in found] for row, found in results.items()}
    scores = {row: np.array([float(np.nanmean(class_ious(each))) if per_pixel else accuracy(each) for each in found])
              for row, found in confusion.items()}
    strongest = max((row for row in CLASSICAL if row in scores), key=lambda row: scores[row].mean())
    oracle = scores["oracle"].mean() if "oracle" in scores else None

    # What they say of each row, by itself and beside the others.
    rows = {}
    for row, values in scores.items():
        rows[row] = {
            "title": TITLES[row], "values": values.tolist(), "value": estimate(values),
            "accuracy": estimate(np.array([accuracy(each) for each in confusion[row]])),
            "over_source": None if row == "source" else estimate(values - scores["source"]),
            "over_classical": None if row == strongest else estimate(values - scores[strongest]),
            "gap_from_source": gap(values.mean(), scores["source"].mean(), oracle),
            "gap_from_classical": gap(values.mean(), scores[strongest].mean(), oracle)}
        if per_pixel:
            of_classes = np.stack([class_ious(each) for each in confusion[row]])
            rows[row]["class_ious"] = {name: estimate(column[np.isfinite(column)]) for name, column
                                       in zip(names, of_classes.T, strict=True) if np.isfinite(column).any()}

    wrong = {row: {what: estimate(np.array([each["wrong"][what] for each in results[row]]))
                   for what in ("untranslated", "translated")} for row in results if "wrong" in results[row][0]}
    return {"metric": "mIoU" if per_pixel else "accuracy", "rows": rows, "strongest_classical": strongest,
            "num_seeds": len(scores["source"]), "level": CONFIDENCE, "wrong_about_labels": wrong}


def estimate(values: np.ndarray) -> dict[str, float | None]:
    """Return {mean, half}: half the width of the Student t interval over seeds; null for one seed."""
    from scipy import stats  # slow to import

    num = len(values)
    half = None if num < 2 else float(stats.t.ppf((1 + CONFIDENCE) / 2, num - 1) * values.std(ddof=1) / num**0.5)
    return {"mean": float(values.mean()), "half": half}


def gap(value: float, low: float, high: float | None) -> float | None:
    """Return the part of the way from `low` to `high` that `value` has come; None where there is no such way."""
    return None if high is None or high <= low else float((value - low) / (high - low))
