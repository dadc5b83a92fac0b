"""Regions of source images that must not change (`data.protect`): kept by the converter, and looked at afterwards.

The converter puts the source's own samples there. What is looked at here are the files that came out: an image of which
a single protected pixel differs does not get into a set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from translate import files
from translate.convert.protecting import LOSSY, Protection, num_changed
from translate.data.labelled import Labelled
from translate.data.protected import ProtectConfig
from translate.data.samples import shape_in
from translate.errors import DataError
from translate.images.decoding import decode, read_content
from translate.recipe import Recipe


def check_protection(recipe: Recipe, source: Labelled) -> None:
    """Look at the masks of source images, before anything is trained. Raises `DataError`."""
    if recipe.data.protect is None:
        return
    if lossy := [path for path in source.files if path.suffix.lower() in LOSSY]:
        raise DataError(f"{lossy[0].suffix} does not keep the pixels of data.protect, and translations have the names "
                        "of their sources", lossy[0], "store the source as .png")
    recipe.data.protect.check(source.files, shape_in)


def protection_of(recipe: Recipe, source: Labelled) -> Protection | None:
    """Return what the converter is to keep of source images; None where nothing is protected."""
    protect = recipe.data.protect
    if protect is None:
        return None
    masks = {path.relative_to(source.images).with_suffix("").as_posix(): mask for path in source.files
             if (mask := protect.mask(path)) is not None}
    return Protection(protect.folder, masks, classes=protect.classes)


def made_from(recipe: Recipe, source: Labelled) -> list[Any]:
    """Return what a set depends on beside all else, as JSON: empty where nothing is protected."""
    protect = recipe.data.protect
    if protect is None:
        return []
    sums = [files.checksum(mask) for path in source.files if (mask := protect.mask(path)) is not None]
    return [["protect", protect.classes, sums]]


def violations(protect: ProtectConfig, source: Path, made: Path) -> int:
    """Return of how many protected pixels a translation has other samples than its source. Raises `ImageError`."""
    protected = protect.read(source)[..., 0] > 0
    before, after = (decode(read_content(path), path) for path in (source, made))
    return num_changed(before, after, protected)
