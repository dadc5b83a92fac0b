"""How good images are: those that a run makes of its test set, or those that any tool has left in a folder.

`results.json` holds

    what          the run or folder;  against: the real images;  direction: of a run
    weights       of a run: the name of the folder they are from, which for a checkpoint is the number of images it had
                  seen; else null
    side, own_side   of a run: the typical short side of the sources, px, as they were shown (as in the last stage of
                  the training, but whole), and in their own size
    num_images, num_reals, num_sources;  paired: whether image i has a truth
    range         of folders, where it was given: the values of the files that stand for black and white
    labels        of label maps: how many pixels of which classes the truth holds, and how many are ignored
    features      the networks that sets were compared by
    interval      {level, resamples}: how the intervals were made (percentile bootstrap over images)
    metrics       {name: {title, better, value, interval, floor, baselines}} in the order of a table
                  floor: {value, interval} of one half of the real images against the other; null where it has none
                  baselines: {identity, colour_transfer} → {value, interval}: images made without any learning
                  own_size: {value, interval} of the test images in their own size; null but for a run whose last stage
                  showed images at another scale, by more than a third
    missing       lines that say what could not be computed, why, and how to get it
    notes         lines that say what else was seen, such as which images lie the furthest off
    made_by       {diptych, torch, machine, date}

A value that is not finite (the PSNR of equal images) is null.
"""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from translate import files
from translate.cluster.ray_engine import RayEngine
from translate.data.label_counts import LabelCounts
from translate.data.labels import Labelling, numbers_in, read_labels
from translate.data.pairing import names_of, shared_names
from translate.data.stream import TRUTH_ADVICE
from translate.errors import DataError, ImageError, visible
from translate.evaluation.folder_images import FolderImages, Images, doubts, list_folder
from translate.evaluation.heldout import HeldOut, translate_whole
from translate.evaluation.observing import Item, Observers, Observing, look_at
from translate.images.tensors import hide_unknown, to_array, to_tensor
from translate.images.values import Range
from translate.metrics import intervals, observations
from translate.metrics.baselines import ColourTransfer
from translate.metrics.features import FeatureNetwork
from translate.metrics.intervals import Estimate
from translate.metrics.observations import MEASURES, summarise
from translate.metrics.segmentation import LabelScores, totals
from translate.metrics.sliced_wasserstein import PyramidPatches
from translate.places import data_root
from translate.precision import choose_precision, is_out_of_memory
from translate.recipe import Recipe
from translate.runs.folder import RECIPE_FILE, load_saved
from translate.runs.recipe_paths import naming_moved_places, relative_places
from translate.runs.release import RELEASE, Release, load_generator
from translate.translators import Direction

RESULTS = "results.json"
OnProgress = Callable[[int, int], object]


@dataclass
class Results:
    """The scores of a set of images, of real ones, and of baselines."""

    about: dict[str, Any]
    scores: dict[str, Estimate]
    floor: dict[str, Estimate] = field(default_factory=dict)
    baselines: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    own_size: dict[str, Estimate] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the document that `results.json` holds."""
        return self.about | {
            "interval": {"level": intervals.CONFIDENCE, "resamples": intervals.RESAMPLES},
            "metrics": {name: {
                "title": MEASURES[name].title, "better": MEASURES[name].better, **_plain(self.scores[name]),
                "floor": _plain(self.floor[name]) if name in self.floor else None,
                "baselines": {baseline: _plain(scores[name]) for baseline, scores in self.baselines.items()
                              if name in scores},
                "own_size": _plain(self.own_size[name]) if name in self.own_size else None}
                for name in MEASURES if name in self.scores},
            "missing": self.missing,
            "notes": self.notes,
            "made_by": {"diptych": version("diptych"), "torch": torch.__version__, "date": str(datetime.date.today()),
                        "machine": f"{os.cpu_count()} cores, {platform.machine()}"}}

    def write(self, path: Path) -> None:
        """Write `as_json` to the file `path`. Raises `DiskError`."""
        with files.as_disk_errors(path):
            files.write_json(path, self.as_json())


def run_of(path: Path) -> Path:
    """Return the run that is meant by `path`: the folder itself, or RUN where it is RUN/best, which is no folder."""
    return path.parent if path.name == "best" and not path.is_dir() else path


def results_file(path: Path) -> Path | None:
    """Return where a run, or RUN/best, keeps its scores; None for what is no run."""
    run = run_of(path)
    name = RESULTS if run == path else f"best-{RESULTS}"
    return run / name if (run / "checkpoints").is_dir() else None


@dataclass
class Fakes:
    """Translations of held-out images, in the numbers that a file can hold, by the device of whichever process asks."""

    release: Release
    recipe: Recipe
    of: HeldOut

    @cached_property
    def device(self) -> torch.device:
        """Where the generator is from now on."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.release.generator.to(device)
        return device

    def __call__(self, number: int) -> Tensor:
        """Return a translation (C, H, W) in [-1, 1]."""
        given = self.recipe.translator.inputs(self.of.source(number)[None], [self.of.key(number)])[0]
        image_out = self.release.image_out
        precision = choose_precision("auto" if image_out.bits == 8 else "fp32", self.device)
        made = translate_whole(self.release.generator, given, self.device, precision).cpu()
        return hide_unknown(to_tensor(to_array(made, image_out), image_out), made)


def evaluate_run(path: Path, *, direction: Direction = "ab", most: int | None = None, engine: RayEngine | None = None,
                 on_progress: Callable[[int, int, str], object] = lambda done, total, what: None) -> Results:
    """Translate the test images of a run's (or release's) recipe and score what comes out, as `convert` would write it.

    They are shown as the last stage of the training showed images, but whole; and, where that is another scale than
    their own, by more than a third, in their own size as well.

    path         a run folder, `<run>/best`, or a release folder
    most         at most so many test images, evenly spaced; None: all
    engine       a connected cluster that translates and looks at the images, in place of this process
    on_progress  called with the number of images looked at, of all there are, and in which size

    Raises `UsageError`, `CheckpointError`, `ImageError`.
    """
    # The generator, and the test images of the recipe beside it
    release = load_generator(path, direction)
    home = run_of(path)
    home = home.parent if (home / RELEASE).is_file() and (home.parent / RECIPE_FILE).is_file() else home
    recipe = load_saved(home)  # of a release that lies in its run, the run's: it says where images are
    with naming_moved_places(recipe, home):
        own = HeldOut(recipe, data_root().absolute(), direction, most)  # a cluster's workers stand in other folders
    held_out = own.shown(release.fitting)

    rescales = release.fitting.rescales(own.shapes)

    def shown_at(of: HeldOut) -> str:
        return "" if not rescales else f"in their own size, {of.side} px" if of is own else f"at {of.side} px"

    def score(of: HeldOut, sources: Images | None) -> Results:
        return compare(Images(len(of.sources), Fakes(release, recipe, of)), Images(len(of.reals), of.real),
                       sources, paired=of.paired, sources_paired=True,
                       on_progress=lambda done, total: on_progress(done, total, shown_at(of)),
                       beside=[] if recipe.translator.needs_sources else [PyramidPatches()], engine=engine)

    # Neither label maps nor what images are conditioned on are images: there are no baselines of them
    compares = release.labels is None and recipe.translator.needs_sources
    results = score(held_out, Images(len(held_out.sources), held_out.source) if compares else None)
    if rescales:
        try:
            in_own_size = score(own, None)
            results.own_size = in_own_size.scores
            # A score that there is in their own size alone has no row in the table, and is not missing
            results.missing = [line for line in results.missing if line in in_own_size.missing]
            results.notes += [f"{MEASURES[name].title} in their own size alone, {own.side} px: {found.value:.4g}"
                              for name, found in results.own_size.items() if name not in results.scores]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            results.missing.append(f"scores of the test images in their own size, {own.side} px: out of memory")
    if not held_out.paired and recipe.translator.needs_sources:
        results.missing.append(f"scores against a truth: which image is whose is not known; {TRUTH_ADVICE}")
    if relative := relative_places(recipe):
        results.missing.append(f"certainty about the images: the recipe names a relative place, {relative}")
    results.about |= {"what": str(path), "against": "the test images of its recipe", "direction": direction,
                      "weights": release.weights.name if release.weights else None, "side": held_out.side,
                      "own_side": own.side}
    return results


def evaluate_folder(folder: Path, against: Path, source: Path | None = None, *, truth: bool | None = None,
                    most: int | None = None, low_high: Range | None = None, engine: RayEngine | None = None,
                    on_progress: OnProgress = lambda done, total: None) -> Results:
    """Score the images below `folder` against the real ones below `against`: by pairs too where most have a truth.

    source       holds what the images were made from, for the baselines; None: no baselines
    truth        None: a real image of the very same name is an image's truth, and where at least half of the images
                 have one, those are scored and the others named. True: also one whose name differs in what all names
                 of its folder begin or end with. False: names say nothing, and sets are compared
    most         at most so many images of each folder, evenly spaced; None: all
    low_high     the values of all files that stand for black and white; None: all of their type, and values that fill
                 a small part of it are said
    engine       a connected cluster that looks at the images, in place of this process
    on_progress  called with the number of images looked at, and of all there are

    Raises `DataError` for folders without images and pairs of different sizes, `ImageError`.
    """
    images, reals = list_folder(folder), list_folder(against)
    sources = [] if source is None else list_folder(source)

    # Images with a truth are scored, and what pairs with nothing is named. Without truths, sets are compared.
    pairs, notes = _truths(folder, images, against, reals, truth)
    if pairs:
        images, reals = [image for image, _ in pairs], [real for _, real in pairs]

    # Baselines are compared as sets, too, unless every image has its source. Others than these are not looked at: of
    # one that cannot be read nothing was made.
    sources_paired, why_sets = False, ""
    if source is not None:
        try:
            origins, lonely, _ = shared_names(folder, images, source, sources, alike=True)
        except DataError as error:
            why_sets = f"sources that pair by name: {error}"
        else:
            sources_paired = bool(pairs) and not lonely
            sources = sources if lonely else [origin for _, origin in origins]
            if lonely:
                why_sets = f"a source of each image's name; without one in {visible(source)}: {names_of(lonely)}"
    notes += [f"scores of baselines against a truth need {why_sets}"] if pairs and why_sets else []

    if engine is not None:  # whose workers stand in other folders
        images, reals, sources = ([path.absolute() for path in side] for side in (images, reals, sources))

    # What their values stand for is known when all have been read
    compared = {folder: FolderImages(images, most, low_high), against: FolderImages(reals, most, low_high)}
    results = compare(compared[folder].images, compared[against].images,
                      FolderImages(sources, most, low_high).images if sources else None,
                      paired=bool(pairs), sources_paired=sources_paired, on_progress=on_progress, engine=engine)
    results.about |= {"what": str(folder), "against": str(against), "direction": None, "weights": None}
    results.about |= {"range": list(low_high)} if low_high else {}
    results.missing += [*notes, *doubts(compared)]
    return results


def _truths(folder: Path, images: list[Path], against: Path, reals: list[Path],
            truth: bool | None) -> tuple[list[tuple[Path, Path]], list[str]]:
    """Return the images that have a truth, each with it, and notes on the others; see `evaluate_folder`."""
    if truth is False:
        return [], []
    try:
        pairs, only_images, only_reals = shared_names(folder, images, against, reals, alike=bool(truth))
        if truth and not pairs:
            raise DataError(f"no name is like one of {against}", folder)
    except DataError as error:
        if truth:
            raise
        return [], [f"scores against a truth need images that pair by name: {error}"]
    if truth is None and len(pairs) < len(only_images):
        alike = shared_names(folder, images, against, reals, alike=True)[0][:1]
        hint = [f"; --truth takes {visible(a.name)} and {visible(b.name)} for a pair" for a, b in alike]
        return [], [f"scores against a truth need images that pair by name: {len(only_images)} of {len(images)} have "
                    f"none in {visible(against)}: {names_of(only_images)}{''.join(hint)}"]
    return pairs, _unscored(folder, only_images, against, only_reals)


def _unscored(folder: Path, only_images: Sequence[Path], against: Path, only_reals: Sequence[Path]) -> list[str]:
    """Return a line on the images, and one on the real ones, that pair with nothing."""
    return [f"scores of {len(lonely)} in {visible(place)}, which pair by name with nothing in {visible(other)}: "
            f"{names_of(lonely)}"
            for lonely, place, other in ((only_images, folder, against), (only_reals, against, folder)) if lonely]


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
    scores, labelling = LabelScores(classes, ignore), Labelling(classes, ignore, ids=tuple((ids or {}).items()))
    counts, num_strange = LabelCounts(labelling.names, ignore), 0
    found: list[np.ndarray] = []

    # Predictions are read as the truth is, unless their numbers are the classes
    reading, total = labelling, len(pairs) * (2 if ids else 1)
    if ids:
        numbers: set[int] = set()
        for done, (prediction, _) in enumerate(pairs, 1):
            numbers.update(numbers_in(read_labels(prediction)))
            on_progress(done, total)
        if labelling.are_classes(numbers):
            reading = Labelling(classes, ignore)
    for done, (prediction, truth) in enumerate(pairs, total - len(pairs)):
        on_progress(done, total)
        stored = read_labels(truth)
        if (fault := labelling.fault(stored)) is not None:
            raise ImageError(truth, "read", f"{fault}; --classes, --ignore and --ids say which there are")
        try:
            confusion = scores.confusion(reading.renumbered(read_labels(prediction)), labelling.renumbered(stored))
        except DataError as error:
            raise ImageError(prediction, "read", f"{error.what}; its truth is {visible(truth)}") from None
        found.append(totals(confusion))
        counts.add(labelling.classes_in(labelling.renumbered(stored)))
        num_strange += int(confusion[:, classes].sum())

    on_progress(total, total)

    # A score from nothing would be 1.
    if (fault := counts.fault()) is not None:
        number, stands_for = next(iter(counts.remedy.items()))
        raise DataError(fault, against, f"if {number} is a class, add --ids {number}={stands_for}; --ignore none "
                        "where the numbers in the files are the classes" if counts.ignored else
                        "such labels tell no prediction from another; look at the files, and at --classes")
    missing = _unscored(folder, lonely[0], against, lonely[1])
    missing += [f"mIoU and per-class accuracy of all classes: {against} {line}" for line in counts.warnings()[:1]
                if counts.absent]
    if num_strange:
        by_ids = "; its numbers, like the truth's, are read by --ids: store what these turn into classes"
        missing.append(f"a class in {num_strange:,} pixels of {visible(folder)}: their numbers are none of the "
                       f"{classes}, which counts as wrong{by_ids if reading.ids else ''}")
    if reading is not labelling:
        missing.append(f"certainty about the numbers of {visible(folder)}: they are taken for classes as they are, as "
                       f"all lie in 0 … {classes - 1} and --ids, which reads the truth, makes no others of them")
    return Results({"what": str(folder), "against": str(against), "direction": None, "weights": None,
                    "num_images": len(pairs), "num_reals": len(pairs), "num_sources": 0, "paired": True,
                    "features": [], "labels": counts.as_json()},
                   scores.summarise(found), missing=missing)


def compare(images: Images, reals: Images, sources: Images | None, *, paired: bool, sources_paired: bool,
            on_progress: OnProgress = lambda done, total: None, beside: Sequence[FeatureNetwork] = (),
            engine: RayEngine | None = None) -> Results:
    """Score `images` and the baselines made of `sources` against `reals`.

    paired          real i is the truth of image i
    sources_paired  image i was made from source i
    on_progress     called with the number of images looked at, and of all there are
    beside          what else sets are compared by, whatever is on this machine
    engine          a connected cluster that looks at the images, in place of this process

    Raises `DataError` naming the image that cannot be compared.
    """
    # What sets and pairs are compared by, as far as it is on this machine
    task = Observing(images, reals, sources, paired, sources_paired, tuple(beside))
    observers = task.observers if engine is None else Observers.here(paired=paired, beside=beside)
    task.expected = observers.titles
    missing = list(observers.missing)

    # Real images with the others, and then the sources: the colour transfer needs the colours of all real images
    num_sources = sources.num if sources is not None else 0
    before, total = reals.num + images.num, reals.num + images.num + num_sources
    items: list[Item] = [*(("reals", number) for number in range(reals.num)),
                         *(("images", number) for number in range(images.num))]
    seen = look_at(task, items, engine, lambda done: on_progress(done, total))
    moments, kept_reals = zip(*(seen["reals", number] for number in range(reals.num)), strict=True)
    kept = {"reals": list(kept_reals), "images": [seen["images", number] for number in range(images.num)]}

    # The baselines, as far as a source has the channels of the real images and the size of its truth
    of_sources: list[Item] = [("sources", number) for number in range(num_sources)]
    task.transfer = ColourTransfer(moments)
    by_source = look_at(task, of_sources, engine, lambda done: on_progress(before + done, total)) if of_sources else {}
    made = [each for item in of_sources if (each := by_source[item]) is not None]
    kept["identity"], kept["colour_transfer"] = ([each[column] for each in made] for column in (0, 1))

    # A baseline counts where it could be made of every source
    scores = summarise(kept["images"], kept["reals"], paired=paired)
    missing += observations.why_not(scores, kept["images"], kept["reals"], observers.networks, paired=paired)
    return Results(
        {"num_images": images.num, "num_reals": reals.num, "num_sources": num_sources,
         "paired": paired, "features": [network.title for network in observers.networks]},
        scores, observations.floor(kept["reals"]),
        {name: summarise(kept[name], kept["reals"], paired=paired and sources_paired)
         for name in ("identity", "colour_transfer") if num_sources and len(kept[name]) == num_sources}, missing)


def _plain(score: Estimate) -> dict[str, Any]:
    """Return a score as JSON has it, in which there is no infinity."""
    return {"value": score.finite, "interval": score.interval}
