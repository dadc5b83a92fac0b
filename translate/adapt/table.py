"""`translate adapt evaluate`: does training on translations help where it counts, on real target labels?

The same task network is trained in the same way on

    source                  the source as it is
    histogram_matching      the source, each image changed towards a random target image, without learning:
    fda                         its histogram; its low frequencies (Yang and Soatto 2020);
    pixel_distribution          the mean and deviation of each channel
    resolution              the source shrunk to the target's resolution
    translated              the adapted set
    translated_and_source   both, the source as the translator saw it (`adapt.match`)
    oracle                  the target's own training images and labels

and tested on the target's test labels, from several seeds. With `adapt.self_training` every row but the oracle has two
more, which see the target's training images without their labels (`translate.adapt.self_training`).

`OUT/results.jsonl` keeps a line for each row and seed, so that an interrupted table goes on; of shard I of N it is
`OUT/results-I-of-N.jsonl`, as no two machines may append to one file. `OUT/table.json` and `OUT/table.html` hold the
table.
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
from translate.adapt.matching import towards
from translate.adapt.result_cache import Record, digest, refuse_linked_folders
from translate.adapt.self_training import beliefs, self_trained, with_norms_of
from translate.adapt.stopping import stopping
from translate.adapt.table_data import TableData, find_table_data
from translate.adapt.task_training import confusions, train_task
from translate.adapt.translators import adaptation_of, numbered
from translate.convert import Shard
from translate.data.loading import workers_for
from translate.errors import visible
from translate.evaluation.heldout import evenly_spaced
from translate.foreign import Count, Shape, read_lines
from translate.metrics.class_shares import class_shares, share_that_differs
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
Use = Literal["adabn", "self_training"]  # what a row has learnt from the target's images
TITLES_OF_USES: dict[Use, str] = {"adabn": "AdaBN", "self_training": "self-training"}
RESULTS, TABLE, PAGE = "results.jsonl", "table.json", "table.html"
NUM_SHOWN = 6
NUM_CLASSES_NAMED = 4
NUM_PIXELS_ASKED = 256  # of each image, for the shares of the classes
SHARE_TO_WARN_OF = 0.25  # of the target; of digits, as frequent on both sides, the estimate was 0.17 off
NUM_ASKED = 1000  # source images, at most, that a trained network is asked about before and after translation
VERSION = 2  # raise it when the same data and settings begin to give other results


class Result(Shape):
    """What a line of `results*.jsonl` has; one that has not is left out, and trained again."""

    key: str
    row: RowName
    seed: Count
    confusion: list[list[Count]]
    wrong: dict[Literal["untranslated", "translated"], float] = Field(default_factory=dict)
    uses: dict[Use, list[list[Count]]] = Field(default_factory=dict)  # confusions of the rows that see the target
    num_sure: list[Count] = Field(default_factory=list)  # images that each round of self-training took
    target_shares: list[float] = Field(default_factory=list)  # of the classes, as this network estimates them


def evaluate(recipe: Recipe, home: Path, report: Reporter, *, device: str = "auto") -> dict[str, Any]:
    """Train and test every row from every seed; return the table, which is also written to `home`.

    Raises `DataError` where labels cannot be used, there is no adapted set yet, or one is damaged or was made from
    something else, `RunError` where it was made by another recipe, and `Stopped` after a signal.
    """
    adapt = adaptation_of(recipe)
    data, results = train_rows(recipe, home, report, device=device)
    names = [numbered("set", number) for number in range(len(data.translated))]

    # The table, with all that must be known to believe it.
    shares = compare_shares(results["translated"], data.source_shares, adapt.source.class_names)
    table = tabulate(results, adapt.source.class_names, adapt.source.per_pixel) | {
        "name": recipe.name, "num_test": len(data.target_test), "num_target": len(data.target_train or ()),
        "num_source": len(data.source), "num_sets": len(data.translated), "sets": names, "variants": adapt.variants,
        "missing": [*data.missing, *nothing_learnt(results)], "class_shares": shares, "warnings": warnings_of(shares),
        "tested_on": data.tested.as_json(),
        "task": adapt.task.model_dump(mode="json"),
        "made_by": {"diptych": version("diptych"), "torch": torch.__version__, "date": str(datetime.date.today()),
                    "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {choose_device(device)}"}}
    with files.as_disk_errors(home / TABLE):
        files.write_json(home / TABLE, table)
    write_adaptation(table, list(zip(names, data.reports, strict=True)), pictures(data), home / PAGE)
    return table


def train_rows(recipe: Recipe, home: Path, report: Reporter, *, shard: Shard | None = None,
               device: str = "auto") -> tuple[TableData, dict[RowName, list[Record]]]:
    """Train and test every row from every seed, or those of a shard, that is not known yet.

    Return what they were trained on, and their results in the order of the seeds. Raises as `evaluate` does.
    """
    adapt, where = adaptation_of(recipe), choose_device(device)
    refuse_linked_folders(home)
    own_results = home / (RESULTS if shard is None else f"results-{shard.index}-of-{shard.num}.jsonl")
    known = known_results(home, adapt.source.num_classes)
    results: dict[RowName, list[Record]] = {}

    with stopping(report, f"finished rows are kept in {own_results}, one in training begins again") as report:
        # What is trained and tested on.
        data = find_table_data(recipe, home, lambda done, total: report.progress(done, total, "labels", {}),
                               may_write=shard is None)
        wanted: list[tuple[int, RowName]] = [(seed, row) for seed in range(adapt.seeds) for row in TITLES
                                             if row != "oracle" or data.target_train is not None]
        names = [numbered("set", number) for number in range(len(data.translated))]
        report.say(f"trained on {', '.join(names)} ({len(names)} of {adapt.variants} in adapt.variants)")
        for line in data.missing:
            report.say(line)

        # Results that are there and none of these: nobody should wait for all rows again without knowing why.
        keys = [key_of(recipe, home, data, row, seed) for seed, row in wanted]
        if known and known.keys().isdisjoint(keys):
            report.say(f"warning: none of the {len(known)} results in {visible(home)} is of these images, "
                       "labels and settings as this version reads them; all rows are trained anew")

        # Rows that are not known yet, one after the other.
        own = [(seed, row, key) for number, ((seed, row), key) in enumerate(zip(wanted, keys, strict=True))
               if shard is None or number % shard.num == shard.index - 1]
        for number, (seed, row, key) in enumerate(own):
            if key not in known:  # other processes may have trained it meanwhile
                known = known_results(home, adapt.source.num_classes)
            if key not in known:
                known[key] = {"key": key, "row": row, "seed": seed} | run_row(recipe, data, row, seed, where, report)
                with files.as_disk_errors(own_results):
                    files.append_line(own_results, known[key])
            results.setdefault(row, []).append(known[key])
            report.progress(number + 1, len(own), "table", {})
    return data, results


def known_results(home: Path, classes: int) -> dict[str, Record]:
    """Return the lines of `results.jsonl`, and of those of shards, by their keys. Raises `DocumentError`."""
    return {record["key"]: record for path in sorted(home.glob("results*.jsonl"))
            for record in read_lines(path, Result)
            if all(np.shape(each) == (classes, classes + 1)
                   for each in (record["confusion"], *record.get("uses", {}).values()))}


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

    Digests say what images and labels hold and how they are read, the set's hash what it holds. With `adapt.match`,
    rows that are trained on the changed source, or are asked about it afterwards, have its digest as well.
    """
    adapt = adaptation_of(recipe)
    used = None if row in CLASSICAL else manifest_hash(home / numbered("set", seed % len(data.translated)))
    own = data.target_train.digest if row == "oracle" and data.target_train is not None else None
    like = [files.checksum(path) for path in data.likes.files] if row in CLASSICAL else None
    image_b = recipe.data.image_b.model_dump(mode="json")
    parts = [VERSION, row, seed, adapt.task.model_dump(mode="json"), image_b, used, like, own, data.source.digest,
             data.target_test.digest]
    if adapt.match is not None and row in ("source", "translated_and_source", "oracle"):
        parts.append(data.matched.digest)
    if adapt.self_training is not None and row != "oracle":
        parts += [adapt.self_training.model_dump(mode="json"), [*map(files.checksum, data.likes.files)]]
    return digest(parts)


def run_row(recipe: Recipe, data: TableData, row: RowName, seed: int, where: torch.device,
            report: Reporter) -> dict[str, Any]:
    """Train for one row from one seed, and test. Return what a `Result` holds besides its key, row and seed."""
    adapt, workers = adaptation_of(recipe), workers_for(recipe.workers, where)
    variant = seed % len(data.translated)
    examples = examples_for(data, row, seed, data.translated[variant])

    def watch(done: int, total: int) -> None:
        report.progress(done, total, f"{row}, seed {seed}", {})

    def tested(network: nn.Module) -> list[list[int]]:
        found: list[list[int]] = np.sum(confusions(network, data.target_test, where), axis=0).astype(int).tolist()
        return found

    network = train_task(adapt.task, examples, seed, where, workers, watch)
    result: dict[str, Any] = {"confusion": tested(network)}
    if row in ("source", "oracle"):
        result["wrong"] = wrong_about_labels(network, data, variant, where)

    # What the target's images teach it without their labels, and which classes it believes they are of.
    unlabelled = data.unlabelled
    if adapt.self_training is not None and row != "oracle":
        teacher = with_norms_of(network, unlabelled, where)
        student, result["num_sure"] = self_trained(adapt.self_training, adapt.task, examples, teacher, unlabelled,
                                                   seed, where, workers, watch)
        result["uses"] = {"adabn": tested(teacher), "self_training": tested(student)}
        network = teacher
    if row == "translated":
        result["target_shares"] = estimated_shares(network, unlabelled, data.source_shares, where).tolist()
    return result


def examples_for(data: TableData, row: RowName, seed: int, translated: Examples) -> Examples:
    """Return what a row is trained on."""
    if row == "oracle":
        assert data.target_train is not None, "a table without an oracle has no such row"
        return data.target_train
    source = data.source
    if row == "source":
        return source
    if row == "translated":
        return translated
    if row == "translated_and_source":
        return translated + data.matched
    change = towards(row, data.likes, seed)
    return Examples(source.layout, source.files, source.labels, source.image, source.resize, change)


def wrong_about_labels(network: nn.Module, data: TableData, variant: int, where: torch.device) -> dict[str, float]:
    """Return the share of images or pixels whose labels a network disagrees with, before and after translation.

    Both shares are of the same images, which the set has kept. For the oracle, which has never seen the source, the
    first is the control: how much of the source such a network gets wrong without any translation.
    """
    numbers = {path.relative_to(data.images): number for number, path in enumerate(data.source.files)}
    after = data.translated[variant].part(evenly_spaced(len(data.translated[variant]), NUM_ASKED))
    before = data.matched.part([numbers[path.relative_to(data.places[variant])] for path in after.files])
    return {name: 1 - accuracy(np.sum(confusions(network, examples, where), axis=0))
            for name, examples in (("untranslated", before), ("translated", after))}


def accuracy(confusion: np.ndarray) -> float:
    """Return the share of images or pixels that are right, of a (classes, classes + 1) confusion."""
    return float(np.trace(confusion[:, :-1]) / confusion.sum())


def tabulate(results: dict[RowName, list[dict[str, Any]]], names: Sequence[str], per_pixel: bool) -> dict[str, Any]:
    """Return the numbers of the table, from results whose lists are in the order of the seeds.

    value               of a row: the mean over seeds of mIoU (of accuracy, where an image has one class) with the half
                        width of its Student t interval
    over_source, over_classical    the differences from the source only, and from the strongest row without a
                        translator (a classical one, or what self-training makes of one or of the source), seed by seed.
                        That row is chosen by its test score, which biases the comparison in its favour
    gap_from_source, gap_from_classical    which part of the way from that row to the oracle is covered
    """
    # One score for each row and seed.
    confusion = dict[str, list[np.ndarray]]()
    titles: dict[str, str] = {}
    for name, found in results.items():
        confusion[name], titles[name] = [np.array(each["confusion"]) for each in found], TITLES[name]
        for use in found[0].get("uses", ()):
            confusion[f"{name}+{use}"] = [np.array(each["uses"][use]) for each in found]
            titles[f"{name}+{use}"] = f"{TITLES[name]}, {TITLES_OF_USES[use]}"
    scores = {row: np.array([float(np.nanmean(class_ious(each))) if per_pixel else accuracy(each) for each in found])
              for row, found in confusion.items()}
    strongest = max((row for row in scores if row.partition("+")[0] in (*CLASSICAL, "source") and row != "source"),
                    key=lambda row: scores[row].mean())
    oracle = scores["oracle"].mean() if "oracle" in scores else None

    # What they say of each row, by itself and beside the others.
    rows = {}
    for row, values in scores.items():
        rows[row] = {
            "title": titles[row], "values": values.tolist(), "value": estimate(values),
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


def estimated_shares(network: nn.Module, unlabelled: Examples, trained_on: np.ndarray,
                     where: torch.device) -> np.ndarray:
    """Return which part of the target's images, or pixels, is of each class, as a network estimates it."""
    some = unlabelled.part(evenly_spaced(len(unlabelled), NUM_ASKED))
    pixels = [belief.reshape(len(belief), -1) for belief in beliefs(network, some, where)]
    chosen = [each[:, evenly_spaced(each.shape[1], NUM_PIXELS_ASKED)] for each in pixels]
    return class_shares(np.concatenate(chosen, axis=1).T, trained_on)


def nothing_learnt(results: dict[RowName, list[dict[str, Any]]]) -> list[str]:
    """Return a line for each row of which self-training found no image to take, with the seeds and rounds."""
    lines = []
    for row, found in results.items():
        idle = [f"seed {each['seed']}, round {len(each['num_sure'])}" for each in found
                if 0 in each.get("num_sure", ())]
        if idle:
            lines.append(f"{TITLES[row]}, self-training: the network was sure of no image of the target "
                         f"({'; '.join(idle)}) and stayed as it was before that round; lower "
                         "adapt.self_training.confidence")
    return lines


def compare_shares(results: Sequence[dict[str, Any]], source: np.ndarray,
                   names: Sequence[str]) -> dict[str, Any] | None:
    """Return the classes' shares in the source and, as the networks of these results estimate them, in the target.

    None where the results are of an older version.
    """
    found = np.array([each["target_shares"] for each in results if each.get("target_shares")])
    if not len(found):
        return None
    return {"source": dict(zip(names, source.tolist(), strict=True)),
            "target": {name: estimate(column) for name, column in zip(names, found.T, strict=True)},
            "differs": estimate(np.array([share_that_differs(source, each) for each in found]))}


def warnings_of(shares: dict[str, Any] | None) -> list[str]:
    """Return a line on classes that are not as frequent in the target as in the source, where that is beyond doubt."""
    if shares is None or shares["differs"]["mean"] - (shares["differs"]["half"] or 0) <= SHARE_TO_WARN_OF:
        return []
    named = sorted(shares["source"], key=lambda name: -abs(shares["target"][name]["mean"] - shares["source"][name]))
    said = ", ".join(f"{name} {shares['source'][name]:.0%} and {shares['target'][name]['mean']:.0%}"
                     for name in named[:NUM_CLASSES_NAMED])
    return [f"classes are not as frequent in the target as in the source: {shares['differs']['mean']:.0%} of it would "
            f"have to be of another class (estimated without its labels; source and target: {said}). A discriminator "
            "sees the difference, and a translator is rewarded for changing classes: leave source images out "
            "(adapt.source.exclude) until the shares are nearer, or raise adapt.semantic.weight"]


def estimate(values: np.ndarray) -> dict[str, float | None]:
    """Return {mean, half}: half the width of the Student t interval over seeds; null for one seed."""
    from scipy import stats  # slow to import

    num = len(values)
    half = None if num < 2 else float(stats.t.ppf((1 + CONFIDENCE) / 2, num - 1) * values.std(ddof=1) / num**0.5)
    return {"mean": float(values.mean()), "half": half}


def gap(value: float, low: float, high: float | None) -> float | None:
    """Return the part of the way from `low` to `high` that `value` has come; None where there is no such way."""
    return None if high is None or high <= low else float((value - low) / (high - low))
