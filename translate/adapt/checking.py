"""What is looked at before anything is trained: every label, every image, and what a table will be tested on.

`OUT/checked.json` remembers what was found good, so that a call that goes on does not read it all again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from translate.adapt.result_cache import Record, cached, digest, stamp
from translate.adapt.task_training import Watch
from translate.data.check import Finding, count_findings
from translate.data.label_counts import LabelCounts
from translate.data.labelled import Labelled, LabelledConfig, check_labels, first_of
from translate.data.labelled_layouts import LabelMaps
from translate.data.layout import Split
from translate.data.pairing import match, named
from translate.data.samples import Samples
from translate.errors import DataError, ImageError, NoData, visible
from translate.foreign import Shape
from translate.images.reading import ImageConfig, read_image
from translate.places import data_root
from translate.recipe import Adaptation, Recipe
from translate.training.loop import Reporter

CHECKED = "checked.json"
VERSION = 2  # raise it when more is looked at: what was found good before is read again
Image = tuple[Path, ImageConfig]


class Checked(Shape):
    """What is read of `checked.json`."""

    told: list[str]  # what labels are of, and what is odd about them


def check_everything(recipe: Recipe, source: Labelled, home: Path, report: Reporter, training: bool = True) -> None:
    """Look at all that `adapt make` and `adapt evaluate` will read. Raises `DataError` with what is wrong with it.

    Where no translator is to be trained, a source image that cannot be read is no error: only that image is skipped,
    and the converter names it.
    """
    adapt = recipe.adapt
    assert adapt is not None

    # Which labels: of the source, and of the target where it has any. Without those, a set can be made all the same.
    parts = [("source", adapt.source, source)]
    try:
        test, train, missing = target_splits(adapt)
    except NoData as error:
        report.say(f"warning: `translate adapt evaluate` will have nothing to test on: {error}")
    else:
        parts += [("target test", adapt.target, test)] + ([("target", adapt.target, train)] if train else [])
        for line in missing:
            report.say(f"`translate adapt evaluate` will have {line}")

    # Which images: of the target, and all that a translator would be trained on.
    images: list[Image] = [(path, recipe.data.image_b) for _, _, found in parts[1:] for path in found.files]
    if training:
        images += [*((path, recipe.data.image_a) for path in source.files),
                   *images_of(recipe, translators_samples(recipe))]
    images = distinct(images)

    def look_at_all() -> Record:
        told = []
        for name, layout, found in parts:
            counts = check_labels(layout, found, lambda done, total, name=name: report.progress(  # type: ignore[misc]
                done, total, f"{name} labels", {}))
            told += [f"{name} labels: {counts}", *(f"warning: {found.images}: {line}" for line in counts.warnings())]
        refuse_unreadable(images, lambda done, total: report.progress(done, total, "reading images", {}))
        return {"images": len(images), "told": told}

    for line in cached(home / CHECKED, digest_of(parts, images), look_at_all, shape=Checked)["told"]:
        report.say(line)


def target_splits(adapt: Adaptation) -> tuple[Labelled, Labelled | None, list[str]]:
    """Return the target's test labels, its training labels (None: there are none), and what a table lacks without them.

    Raises `NoData` where there is nothing to test on, `DataError` where there is something wrong.
    """
    try:
        test = adapt.target.find("test", data_root())
    except NoData as error:
        raise NoData(f"{error.what} (adapt.target: its test labels are what `translate adapt evaluate` tests on)",
                     error.path, error.advice) from None
    try:
        return test, adapt.target.find("train", data_root()), []
    except NoData as error:
        return test, None, [f"no oracle, and so no share of the gap that a row closes: {error}"]


def translators_samples(recipe: Recipe) -> list[Samples]:
    """Return what the translator trains on, and what it is scored on where there is such. Raises `DataError`."""
    samples = [recipe.data.build("train", data_root())]
    try:
        return [*samples, recipe.data.build("test", data_root())]
    except DataError:
        if recipe.needs_test_images:
            raise
        return samples  # the training will say that it has no scores


def images_of(recipe: Recipe, samples: Iterable[Samples]) -> Iterator[Image]:
    """Yield every image of the translator's own data, and what it is read as."""
    for each in samples:
        yield from ((path, recipe.data.image_a) for path in each.files_a)
        yield from ((path, recipe.data.image_b) for path in each.files_b)


def distinct(images: Iterable[Image]) -> list[Image]:
    """Return each file once, whatever links lead to it: the source's are often the translator's, too."""
    return list({(os.path.realpath(path), image): (path, image) for path, image in images}.values())


def refuse_unreadable(images: list[Image], watch: Watch) -> None:
    """Raise `DataError` naming the images that cannot be decoded, or are not as the recipe says."""
    faults = []
    for number, (path, image) in enumerate(images, 1):
        try:
            read_image(path, image)
        except ImageError as error:
            faults.append(str(error))
        watch(number, len(images))
    if faults:
        heading = f"{len(faults)} of {len(images)} images cannot be read, and a training would stop at them:"
        raise DataError("\n".join([heading, *first_of(faults)]),
                        advice="repair or replace them, or remove each with its label")


def digest_of(parts: Sequence[tuple[str, LabelledConfig, Labelled]], images: list[Image]) -> str:
    """Return another digest where a file was added, removed or written again, or is to be read in another way."""
    labels = [[layout.model_dump(mode="json"), [stamp(label) if isinstance(label, Path) else label
                                                for label in found.labels]] for _, layout, found in parts]
    return digest([VERSION, labels, [[stamp(path), image.model_dump(mode="json")] for path, image in images]])


# -- for `translate data check` ----------------------------------------------------------------------------------------


def label_findings(recipe: Recipe, watch: Watch = lambda done, total: None) -> list[Finding]:
    """Return all that is wrong with the labelled images of a recipe's `adapt`; nothing for a recipe without it.

    Images that the translator's data hold as well are left to the check of those.
    """
    if (adapt := recipe.adapt) is None:
        return []
    known: set[str] = set()
    with suppress(DataError):  # named by the check of the data
        known = {os.path.realpath(path) for path, _ in images_of(recipe, translators_samples(recipe))}

    places: list[tuple[LabelledConfig, Split, ImageConfig]] = [
        (adapt.source, "train", recipe.data.image_a), (adapt.target, "test", recipe.data.image_b),
        (adapt.target, "train", recipe.data.image_b)]
    findings: list[Finding] = []
    for layout, split, image in places:
        # Images and labels that do not pair: of the target's training labels, only an oracle would miss them.
        try:
            found, lonely = pairs_of(layout, split)
        except DataError as error:
            optional = layout is adapt.target and split == "train"
            findings.append(Finding.of(error, "note" if optional else "error"))
            continue
        findings += lonely

        # Then each image with its label, and what the labels are of.
        counts = layout.counts()
        for number, (path, label) in enumerate(zip(found.files, found.labels, strict=True), 1):
            findings += look(layout, path, label, None if os.path.realpath(path) in known else image, counts)
            watch(number, len(found))
        findings += count_findings(counts, found.images, "labels: ", "this layout (adapt in the recipe)", "error")
    return findings


def pairs_of(layout: LabelledConfig, split: Split) -> tuple[Labelled, list[Finding]]:
    """Return the images that have labels, and a finding for each image or label alone. Raises `DataError`."""
    if not isinstance(layout, LabelMaps):
        return layout.find(split, data_root()), []
    place, images, listed, labels, maps = layout.sides(split, data_root())
    names, others = named(images, listed), named(labels, maps)
    if any(len(each) > 1 for each in (*names.values(), *others.values())):
        return layout.find(split, data_root()), []  # names the two of one name
    pairs, only_a, only_b = match(list(names), list(others))
    advice = "add it, remove this one, or name it in exclude"
    lonely = [Finding(names[name][0], "error", f"has no label map in {visible(labels)}", advice) for name in only_a]
    lonely += [Finding(others[name][0], "error", f"has no image in {visible(images)}", advice) for name in only_b]
    return Labelled(place, images, tuple(names[a][0] for a, _ in pairs), tuple(others[b][0] for _, b in pairs)), lonely


def look(layout: LabelledConfig, path: Path, label: Path | int, image: ImageConfig | None,
         counts: LabelCounts) -> Iterator[Finding]:
    """Yield what is wrong with an image, where `image` says what it is read as, or else with its label.

    What the label is of is added to `counts`.
    """
    try:
        if image is not None:
            read_image(path, image)
    except ImageError as error:
        yield Finding(path, "error", error.reason, "repair, replace or remove it")
        return
    try:
        counts.add(layout.checked(path, label))
    except (ImageError, DataError) as error:
        yield Finding.of(error)
