"""What is looked at before anything is trained: every label, every image, and what a table will be tested on.

`OUT/checked.json` remembers what was found good, so that a call that goes on does not read it all again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from translate import files
from translate.adapt.examples import refuse_all_ignored
from translate.adapt.tasks import Watch
from translate.data.check import Finding
from translate.data.folders import Split
from translate.data.labelled import Labelled, LabelledConfig, LabelMaps, check_labels
from translate.data.pairing import NUM_NAMED, match, named
from translate.data.samples import Samples
from translate.errors import DataError, ImageError, NoData
from translate.images.reading import ImageConfig, read_image
from translate.places import data_root
from translate.recipe import Adaptation, Recipe
from translate.training.loop import Reporter

CHECKED = "checked.json"
Image = tuple[Path, ImageConfig]


def check_everything(recipe: Recipe, source: Labelled, home: Path, report: Reporter, training: bool = True) -> None:
    """Look at all that `adapt make` and `adapt evaluate` will read. Raises `DataError` with what is wrong of it.

    Where no translator is to be trained an image that cannot be read costs itself alone: the converter names it.
    """
    adapt = recipe.adapt
    assert adapt is not None
    parts = [("source", adapt.source, source)]
    try:
        test, train, missing = target_splits(adapt)
    except NoData as error:  # a set can be made all the same
        report.say(f"warning: `translate adapt evaluate` will have nothing to test on: {error}")
    else:
        parts += [("target test", adapt.target, test)] + ([("target", adapt.target, train)] if train else [])
        for line in missing:
            report.say(f"`translate adapt evaluate` will have {line}")
    for _, layout, found in parts:
        if empty := without_images(layout, found):
            report.say(f"warning: {found.images}: {empty}")
    images: list[Image] = [(path, recipe.data.image_b) for _, _, found in parts[1:] for path in found.files]
    if training:
        images += [*((path, recipe.data.image_a) for path in source.files),
                   *images_of(recipe, translators_samples(recipe))]
    images = distinct(images)
    digest = digest_of(parts, images)
    if is_checked(home, digest):
        return
    for name, layout, found in parts:
        check_labels(layout, found, lambda done, total, name=name: report.progress(  # type: ignore[misc]
            done, total, f"{name} labels", {}))
        refuse_all_ignored(layout, found)
    faults = list(unreadable(images, lambda done, total: report.progress(done, total, "reading images", {})))
    if faults:
        more = f"\n… and {len(faults) - NUM_NAMED} more" if len(faults) > NUM_NAMED else ""
        raise DataError("\n".join([f"{len(faults)} of {len(images)} images cannot be read, and a training would stop "
                                   "at them:", *faults[:NUM_NAMED]])
                        + f"{more}\nrepair or replace them, or remove each with its label")
    with files.naming_disk_faults(home):
        home.mkdir(parents=True, exist_ok=True)
        files.write_json(home / CHECKED, {"digest": digest, "images": len(images)})


def target_splits(adapt: Adaptation) -> tuple[Labelled, Labelled | None, list[str]]:
    """The target's test labels, its training labels where there are any, and what a table lacks without them.

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
        return test, None, [f"no oracle, and no part of the gap: {error}"]


def translators_samples(recipe: Recipe) -> list[Samples]:
    """What the translator trains on, and what it is scored on where there is such. Raises `DataError`."""
    samples = [recipe.data.build("train", data_root())]
    try:
        return [*samples, recipe.data.build("test", data_root())]
    except DataError:
        if recipe.needs_test_images:
            raise
        return samples  # the training will say that it has no scores


def images_of(recipe: Recipe, samples: Iterable[Samples]) -> Iterator[Image]:
    """Every image of the translator's own data, and what it is read as."""
    for each in samples:
        yield from ((path, recipe.data.image_a) for path in each.files_a)
        yield from ((path, recipe.data.image_b) for path in each.files_b)


def distinct(images: Iterable[Image]) -> list[Image]:
    """Each file once, whatever links lead to it: the source's are often the translator's, too."""
    return list({(os.path.realpath(path), image): (path, image) for path, image in images}.values())


def unreadable(images: list[Image], watch: Watch) -> Iterator[str]:
    """What is wrong with images that cannot be decoded, or are not as the recipe says."""
    for number, (path, image) in enumerate(images, 1):
        try:
            read_image(path, image)
        except ImageError as error:
            yield str(error)
        watch(number, len(images))


def without_images(layout: LabelledConfig, found: Labelled) -> str:
    """Of layouts with a class for each image: classes that no image of a split has, in words; else nothing."""
    met = set(found.labels)
    empty = [name for number, name in enumerate(layout.class_names) if number not in met and not layout.per_pixel]
    return f"holds no image of class {', '.join(empty)} (names in the recipe)" if empty else ""


def digest_of(parts: Sequence[tuple[str, LabelledConfig, Labelled]], images: list[Image]) -> str:
    """Another one where a file was added, removed or written again, or is read otherwise."""
    labels = [[layout.model_dump(mode="json"), [stamp(label) if isinstance(label, Path) else label
                                                for label in found.labels]] for _, layout, found in parts]
    read = [[stamp(path), image.model_dump(mode="json")] for path, image in images]
    return hashlib.sha256(json.dumps([labels, read]).encode()).hexdigest()


def stamp(path: Path) -> list[Any]:
    """What tells whether a file is still the same; of one that is not there, its name alone."""
    try:
        status = path.stat()
    except OSError:
        return [str(path)]
    return [str(path), status.st_size, status.st_mtime_ns]


def is_checked(home: Path, digest: str) -> bool:
    """Whether all of this was found good before."""
    try:
        return json.loads((home / CHECKED).read_bytes())["digest"] == digest
    except (OSError, ValueError, KeyError, TypeError):
        return False


# -- for `translate data check` ----------------------------------------------------------------------------------------


def label_findings(recipe: Recipe, watch: Watch = lambda done, total: None) -> list[Finding]:
    """What is wrong with the labelled images of a recipe's `adapt`, all of it; none for a recipe without.

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
        try:
            found, lonely = pairs_of(layout, split)
        except DataError as error:
            optional = layout is adapt.target and split == "train"  # without it there is only no oracle
            findings.append(Finding.of(error, "note" if optional else "error"))
            continue
        findings += lonely
        if empty := without_images(layout, found):
            findings.append(Finding(found.images, "warning", empty))
        for number, (path, label) in enumerate(zip(found.files, found.labels, strict=True), 1):
            findings += look(layout, path, label, None if os.path.realpath(path) in known else image)
            watch(number, len(found))
    return findings


def pairs_of(layout: LabelledConfig, split: Split) -> tuple[Labelled, list[Finding]]:
    """The images that have labels, and a finding for every image and label without the other. Raises `DataError`."""
    if not isinstance(layout, LabelMaps):
        return layout.find(split, data_root()), []
    place, images, listed, labels, maps = layout.sides(split, data_root())
    names, others = named(images, listed), named(labels, maps)
    if any(len(each) > 1 for each in (*names.values(), *others.values())):
        return layout.find(split, data_root()), []  # names the two of one name
    pairs, only_a, only_b = match(list(names), list(others))
    advice = "add it, remove this one, or name it in exclude"
    lonely = [Finding(names[name][0], "error", f"has no label map in {labels}", advice) for name in only_a]
    lonely += [Finding(others[name][0], "error", f"has no image in {images}", advice) for name in only_b]
    return Labelled(place, images, tuple(names[a][0] for a, _ in pairs), tuple(others[b][0] for _, b in pairs)), lonely


def look(layout: LabelledConfig, path: Path, label: Path | int, image: ImageConfig | None) -> Iterator[Finding]:
    """What is wrong with an image, where `image` says what it is read as, or else with its label."""
    try:
        if image is not None:
            read_image(path, image)
    except ImageError as error:
        yield Finding(path, "error", error.reason, "repair, replace or remove it")
        return
    fault = layout.problem(path, label)
    if fault is not None:
        yield Finding.of(fault)
