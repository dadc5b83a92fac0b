"""The layouts of labelled images that a recipe's `adapt` can name.

    gta5         folder/images/*.png, folder/labels/*.png of Cityscapes' ids (Richter et al. 2016)
    cityscapes   folder/leftImg8bit/{train,val}/CITY/*.png, folder/gtFine/{train,val}/CITY/*_gtFine_labelTrainIds.png
    masks        any two folders, paired by name
    classes      folder/{train,test}/CLASS/*
    imagefolder  folder/{train,test}/metadata.jsonl as Hugging Face has it: file_name, and a column with the class
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Annotated, ClassVar, Literal

import numpy as np
import pydantic
from pydantic import Field

from translate.data.labelled import Labelled, LabelledConfig, matches
from translate.data.labels import VOID, class_of, default_ignore, numbers_in, read_labels
from translate.data.layout import Split
from translate.data.pairing import match, named, pair_files
from translate.errors import DataError, ImageError, visible
from translate.foreign import Shape, parse
from translate.images.decoding import inspect

METADATA = "metadata.jsonl"
# Cityscapes' label ids → trainIds, 0 road … 18 bicycle; all others, with 34 (GTA5's licence plates), do not count.
CITYSCAPES_IDS = dict.fromkeys(range(35), VOID) | {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15,
    31: 16, 32: 17, 33: 18}
CITYSCAPES_NAMES = ("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
                    "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle",
                    "bicycle")


class LabelMaps(LabelledConfig):
    """Layouts with a label map beside each image."""

    labels: str
    pattern: str = "*"  # file names of label maps, where others lie beside them
    classes: int = Field(ge=2, le=65_536)
    # after `ids`: pixels that do not count. Not written: 255, where that is no class; null: all count
    ignore: int | None = Field(default_factory=lambda known: default_ignore(known.get("classes", 2)), ge=0, le=2**32)
    ids: Literal["cityscapes"] | dict[int, int] | None = None  # numbers in the files → classes; null: as they are
    names: tuple[str, ...] = ()  # of the classes, for tables

    per_pixel: ClassVar[bool] = True

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.names or tuple(map(str, range(self.classes)))

    @property
    def known(self) -> dict[int, int] | None:
        """Return the class of each number in a file; None: numbers are the classes and `ignore` themselves."""
        return CITYSCAPES_IDS if self.ids == "cityscapes" else self.ids

    def find(self, split: Split, root: Path) -> Labelled:
        place, images, files, labels, maps = self.sides(split, root)
        files, maps = pair_files(images, files, labels, maps)
        return Labelled(place, images, tuple(files), tuple(maps))

    def sides(self, split: Split, root: Path) -> tuple[Path, Path, list[Path], Path, list[Path]]:
        """Return (the folder of everything, that of the images, the images, that of the label maps, the label maps).

        Images and label maps need not pair; those that `exclude` names are left out. Raises `DataError`.
        """
        place = self.place(root)
        images, labels = self.below(place, self.images, split), self.below(place, self.labels, split)
        files, maps = self.list_files(images), self.list_files(labels, self.pattern)
        if not self.exclude:
            return place, images, files, labels, maps

        # An image and its label go together, whichever of them is named.
        names, others = named(images, files), named(labels, maps)
        out = self.excluded(images, files) | self.excluded(labels, maps)
        for image, label in match(list(names), list(others))[0]:
            pair = {*names[image], *others[label]}
            out |= pair if pair & out else set()
        files = self.remaining(place, images, files, out, [path.relative_to(labels) for path in maps])
        return place, images, files, labels, [path for path in maps if path not in out]

    def read(self, label: Path | int) -> np.ndarray:
        assert isinstance(label, Path)
        stored, known = read_labels(label).astype(np.int64), self.known

        # A number that the recipe does not know is an error, not a pixel to ignore.
        present = numbers_in(stored)
        classes = {number: class_of(number, known or {}) for number in present}
        unknown = [number for number, means in classes.items()
                   if means is None or (means >= self.classes and means != self.ignore)]
        if unknown:
            means = f"0 … {self.classes - 1}, ignored {self.ignore}"
            means = means if self.ids is None else f"ids: {self.ids}, and besides {means}"
            raise ImageError(label, "read", f"unknown class numbers {', '.join(map(str, unknown[:8]))}; known are "
                                            f"{means} (adapt in the recipe)")

        # The others become classes by looking them up.
        if known is None:
            return stored
        table = np.zeros(max(present, default=0) + 1, np.int64)
        table[present] = [means for means in classes.values() if means is not None]
        return table[stored]

    def checked(self, path: Path, label: Path | int) -> np.ndarray:
        info, classes = inspect(path), self.read(label)
        if (info.height, info.width) != classes.shape[:2]:
            raise DataError(f"is {info.size} and its labels {visible(label)} {classes.shape[1]}×{classes.shape[0]} "
                            "pixels", path, "they need one size")
        return classes

    @pydantic.model_validator(mode="after")
    def _numbers_fit(self) -> LabelMaps:
        wrong = {new for new in (self.known or {}).values() if new >= self.classes and new != self.ignore}
        if wrong:
            raise ValueError(f"ids: lead to {', '.join(map(str, sorted(wrong)))}; classes are 0 … {self.classes - 1}, "
                             f"ignored {self.ignore}")
        if self.names and len(self.names) != self.classes:
            raise ValueError(f"names: {len(self.names)} names for {self.classes} classes")
        if self.ignore is not None and self.ignore < self.classes:
            raise ValueError(f"ignore: {self.ignore} is one of the {self.classes} classes")
        return self


class GTA5Config(LabelMaps):
    """Frames of a game and their labels ("Playing for Data")."""

    kind: Literal["gta5"] = "gta5"
    images: str = "images"
    labels: str = "labels"
    classes: int = Field(19, ge=2, le=65_536)
    ids: Literal["cityscapes"] | dict[int, int] | None = "cityscapes"
    names: tuple[str, ...] = CITYSCAPES_NAMES


class CityscapesConfig(LabelMaps):
    """Cityscapes as it is unpacked, with the trainIds that its scripts write."""

    kind: Literal["cityscapes"] = "cityscapes"
    test: str = "val"  # the labels of its own test images are not public
    images: str = "leftImg8bit/{split}"
    labels: str = "gtFine/{split}"
    pattern: str = "*_gtFine_labelTrainIds.png"  # with *_gtFine_labelIds.png, set ids: cityscapes
    classes: int = Field(19, ge=2, le=65_536)
    names: tuple[str, ...] = CITYSCAPES_NAMES


class MasksConfig(LabelMaps):
    """Two folders of any names."""

    kind: Literal["masks"] = "masks"
    images: str = "{split}/images"
    labels: str = "{split}/masks"


class Classes(LabelledConfig):
    """Layouts with a class for each image."""

    names: tuple[str, ...] = Field(min_length=2)  # of the classes, in the order of their numbers

    per_pixel: ClassVar[bool] = False

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.names


class ClassesConfig(Classes):
    """A folder for each class."""

    kind: Literal["classes"] = "classes"
    images: str = "{split}"

    def find(self, split: Split, root: Path) -> Labelled:
        place = self.place(root)
        images = self.below(place, self.images, split)
        files = self.list_files(images)
        files = self.remaining(place, images, files, self.excluded(images, files), ())
        found = [path.relative_to(images).parts for path in files]
        unknown = sorted({parts[0] if len(parts) > 1 else f"{parts[0]}, which lies in no folder" for parts in found
                          if len(parts) < 2 or parts[0] not in self.names})
        if unknown:
            raise DataError(f"unknown class {'; '.join(unknown[:8])}; known are {', '.join(self.names)} (as the "
                            "recipe says)", images)
        return Labelled(place, images, tuple(files), tuple(self.names.index(parts[0]) for parts in found))


class ImageFolderConfig(Classes):
    """Images and a `metadata.jsonl` beside them, as Hugging Face's `imagefolder` has it."""

    kind: Literal["imagefolder"] = "imagefolder"
    images: str = "{split}"
    column: str = "label"  # holds a name, or a number

    def find(self, split: Split, root: Path) -> Labelled:
        place = self.place(root)
        images = self.below(place, self.images, split)
        metadata = images / METADATA
        if not metadata.is_file():
            raise DataError("no such file", metadata, "an imagefolder without it has a folder for each class: use "
                            "kind: classes")

        # `exclude` leaves out images and rows alike.
        classes = dict(self._rows(metadata))
        files, rows = self.list_files(images), [PurePath(name) for name in classes]
        files = self.remaining(place, images, files, self.excluded(images, files), rows)
        names = {path.relative_to(images).as_posix(): path for path in files}
        classes = {name: label for name, label in classes.items()
                   if not any(matches(pattern, PurePath(name)) for pattern in self.exclude)}

        # Of what remains, each image has its row and each row its image.
        for what, missing in (("no row in it", sorted(names.keys() - classes)),
                              ("a row and no image", sorted(classes.keys() - names))):
            if missing:
                raise DataError(f"{len(missing)} images have {what}, the first {visible(missing[0])}", metadata)
        return Labelled(place, images, tuple(names.values()), tuple(classes[name] for name in names), metadata)

    def _rows(self, metadata: Path) -> Iterator[tuple[str, int]]:
        """Yield (file_name, class number) of each row. Raises `DataError` naming the line."""
        seen: set[str] = set()
        for number, name, row in metadata_rows(metadata):
            value = row.get(self.column)
            where = f"{metadata}, line {number}"
            if self.column not in row:
                raise DataError(f"no column {self.column!r} (column in the recipe); it has "
                                f"{', '.join(map(visible, row))}", where)
            if name in seen:
                raise DataError(f"{visible(name)} stands there twice", where)
            seen.add(name)
            if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(self.names):
                yield name, value
            elif value in self.names:
                yield name, self.names.index(value)
            else:
                raise DataError(f"unknown class {value!r}; known are {', '.join(self.names)} (as the recipe says), or "
                                "their numbers", where)


class MetadataRow(Shape):
    """What every line of a `metadata.jsonl` has."""

    file_name: str


def metadata_rows(metadata: Path) -> Iterator[tuple[int, str, dict[str, object]]]:
    """Yield (line number from 1, file_name, row) of a `metadata.jsonl`. Raises `DataError` naming the line."""
    for number, line in enumerate(metadata.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = parse(line, MetadataRow)
        except ValueError as error:
            raise DataError(str(error), f"{metadata}, line {number}", "expected a JSON object with file_name") from None
        yield number, Path(row["file_name"]).as_posix(), row


LabelledLayout = Annotated[GTA5Config | CityscapesConfig | MasksConfig | ClassesConfig | ImageFolderConfig,
                           Field(discriminator="kind")]
