"""Source images changed towards the target without learning: as a row of the table, and before they are translated.

With `adapt.match` the translator begins from images that are nearer to the target: OUT/matched/ holds them and nothing
else, under their names, and matched.json what they were made from. The judge and the network of the consistency loss
see them as well.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from translate import files
from translate.adapt.examples import Change, Examples
from translate.adapt.result_cache import MADE_FROM, Record, cached, digest, first_changed, read_record, write_record
from translate.adapt.task_training import Watch
from translate.data.hashing import stable_hash
from translate.data.labelled import Labelled
from translate.data.transforms import ClassicalAdaptation, adapted, resized
from translate.errors import RECIPE_PLACEHOLDER, DocumentError, ImageError, RunError
from translate.foreign import SHA256, Shape
from translate.images.reading import read_image
from translate.images.writing import write_image
from translate.places import data_root
from translate.recipe import Recipe

MATCHED = "matched"
VERSION = 2  # raise it when the same images and settings begin to give other results


class Matched(Shape):
    """What is read of `matched.json`. Until all images are there, it names none."""

    images: dict[str, SHA256]


def towards(kind: ClassicalAdaptation, target: Examples, seed: int) -> Change:
    """Return a change that makes each image like one of the target's, drawn from the seed and its number."""
    def change(picture: np.ndarray, number: int) -> np.ndarray:
        key = stable_hash(kind, seed, number)
        return adapted(kind, picture, target.read(key % len(target)), key)

    return change


def matched_source(recipe: Recipe, source: Labelled, home: Path, watch: Watch, may_write: bool = True) -> Labelled:
    """Return the source as translators and networks see it: `source` itself, or its images changed by `adapt.match`.

    Labels, names and sizes are those of the source. What is there and whole is kept, and what was interrupted goes on.
    A source image that cannot be read is copied as it is, so that the converter names it. Raises `RunError` where
    images are not there and must not be written (`may_write`), `ImageError` for a target image that cannot be read,
    and `DiskError`.
    """
    assert recipe.adapt is not None
    kind, layout = recipe.adapt.match, recipe.adapt.source
    if kind is None:
        return source

    # What they are made from, and where they will lie.
    target = recipe.data.build("train", data_root()).files_b
    a, b = recipe.data.image_a, recipe.data.image_b
    names = [path.relative_to(source.images) for path in source.files]
    made_from = digest([VERSION, kind, recipe.seed, a.model_dump(mode="json"), b.model_dump(mode="json"),
                        [name.as_posix() for name in names], [*map(files.checksum, source.files)],
                        [*map(files.checksum, target)]])
    images, path_of_record = home / MATCHED / source.images.relative_to(source.folder), home / f"{MATCHED}.json"

    def write() -> Record:
        if not may_write:
            raise RunError("the images that adapt.match makes are not there yet, and a shard makes none", images,
                           f"run `translate adapt make {RECIPE_PLACEHOLDER} --prepare` first")
        change = towards(kind, Examples(layout, target, target, b, None), recipe.seed)

        # Images of another source, target or setting go; what is left is of these, also after an interruption.
        before = record_of(path_of_record)
        if before is None or before[MADE_FROM] != made_from:
            with files.as_disk_errors(home / MATCHED):
                files.remove_folder(home / MATCHED)
            before = {"images": {}, MADE_FROM: made_from}
            write_record(path_of_record, before)

        for number, (path, name) in enumerate(zip(source.files, names, strict=True)):
            found = files.checksum(images / name)
            if found is None or found != before["images"].get(name.as_posix(), found):
                match_image(path, images / name, number, change)
            watch(number + 1, len(names))
        return {"images": {name.as_posix(): files.checksum(images / name) for name in names}}

    def match_image(path: Path, place: Path, number: int, change: Change) -> None:
        with files.as_disk_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
        try:
            image = read_image(path, a)
        except ImageError:
            with files.as_disk_errors(place):
                shutil.copyfile(path, place)
            return
        write_image(place, resized(change(image, number), image.shape[:2]))  # label maps keep their size

    cached(path_of_record, made_from, write, lambda record: len(record["images"]) == len(names) and first_changed(
        (images / name, sha256) for name, sha256 in record["images"].items()) is None, Matched)
    return replace(source, images=images, files=tuple(images / name for name in names))


def record_of(path: Path) -> Record | None:
    """Return the record of matched images; None where there is none that can be read."""
    try:
        return read_record(path, Matched)
    except DocumentError:
        return None
