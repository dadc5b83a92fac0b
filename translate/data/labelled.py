"""Labelled images, for domain adaptation: a class for every pixel (a label map beside each image) or for the image.

    gta5         folder/images/*.png, folder/labels/*.png of Cityscapes' ids (Richter et al. 2016)
    cityscapes   folder/leftImg8bit/{train,val}/CITY/*.png, folder/gtFine/{train,val}/CITY/*_gtFine_labelTrainIds.png
    masks        any two folders, paired by name
    classes      folder/{train,test}/CLASS/*
    imagefolder  folder/{train,test}/metadata.jsonl as Hugging Face has it: file_name, and a column with the class

Paths in a recipe may hold `{split}`; where the images' does not, there is only one split, the training images. Files of
labels are never changed: `ids` says how their numbers are read.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import pydantic
from pydantic import Field

from translate.data.decoding import inspect
from translate.data.folders import Split
from translate.data.labels import read_labels
from translate.data.pairing import list_images, pair_files
from translate.errors import DataError, ImageError
from translate.schema import Config, Name

METADATA = "metadata.jsonl"
VOID = 255  # in label maps that are read by Cityscapes' ids: pixels that do not count
# Cityscapes' label ids → trainIds, 0 road … 18 bicycle; all others, with 34 (GTA5's licence plates), do not count.
CITYSCAPES_IDS = dict.fromkeys(range(35), VOID) | {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15,
    31: 16, 32: 17, 33: 18}
CITYSCAPES_NAMES = ("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
                    "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle",
                    "bicycle")


@dataclass(frozen=True)
class Labelled:
    """The labelled images of one split. Everything lies below `folder`, the images below `images`."""

    folder: Path
    images: Path
    files: tuple[Path, ...]
    labels: tuple[Path | int, ...]  # of each image: its label map, or its class
    metadata: Path | None = None  # the file that says the classes, where neither maps nor folders do

    def __len__(self) -> int:
        return len(self.files)


class LabelledConfig(Config):
    """What all layouts of labelled images share. `card` or `folder` says where they are."""

    kind: str
    card: Name | None = None  # a data set of `translate data list`
    folder: Path | None = None
    train: str = "train"  # what {split} stands for
    test: str = "test"

    per_pixel: ClassVar[bool]

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """What the classes are called, in the order of their numbers."""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @abstractmethod
    def find(self, split: Split, root: Path) -> Labelled:
        """The images of a split; `root` is where prepared cards lie. Raises `DataError`: no folder, no images, an image
        without a label or a label without an image, a class that is none."""

    def read(self, label: Path | int) -> np.ndarray:
        """Class numbers as int64: (H, W, 1) of a label map, (1,) of a class. Raises `ImageError`."""
        return np.array([label], dtype=np.int64)

    def problems(self, found: Labelled) -> Iterator[str]:
        """What is wrong with its labels, image by image: a size that is not the image's, a number that is no class."""
        yield from ()

    def place(self, root: Path) -> Path:
        """The folder that holds all. Raises `DataError`."""
        place = root / self.card if self.card is not None else (self.folder or root).expanduser()
        if not place.is_dir():
            raise DataError(f"{place}: no such folder; labelled images ({self.kind}) were expected there{self.hint()}")
        return place

    def below(self, place: Path, path: str, split: Split) -> Path:
        """A folder of a split. Raises `DataError` where it is not there, or there is only one split."""
        if "{split}" not in path and split != "train":
            raise DataError(f"{place}: {path} has no test images: with {{split}} in the path, as in "
                            f"{{split}}/{path}, it could have")
        folder = place / path.replace("{split}", self.train if split == "train" else self.test)
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; {split} images or labels ({self.kind}) were expected "
                            f"there{self.hint()}")
        return folder

    def listed(self, folder: Path, pattern: str = "*") -> list[Path]:
        """The image files below a folder, at least one. Raises `DataError`."""
        try:
            found = list_images(folder, pattern)
        except ImageError as error:
            raise DataError(str(error)) from None
        if not found:
            raise DataError(f"{folder}: holds no images named {pattern}{self.hint()}")
        return found

    def hint(self) -> str:
        return f"; run: translate data prepare {self.card}" if self.card is not None else ""

    @pydantic.model_validator(mode="after")
    def _one_place(self) -> LabelledConfig:
        if (self.card is None) == (self.folder is None):
            raise ValueError("say once where the labelled images are: card: NAME, or folder: PATH")
        return self


class LabelMaps(LabelledConfig):
    """Layouts with a label map beside each image."""

    images: str
    labels: str
    pattern: str = "*"  # file names of label maps, where others lie beside them
    classes: int = Field(ge=2)
    ignore: int | None = Field(VOID, ge=0)  # after `ids`: pixels that do not count
    ids: Literal["cityscapes"] | dict[int, int] | None = None  # numbers in the files → classes; null: as they are
    names: tuple[str, ...] = ()  # of the classes, for tables

    per_pixel: ClassVar[bool] = True

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.names or tuple(map(str, range(self.classes)))

    @property
    def known(self) -> dict[int, int] | None:
        """What each number of a file stands for; None: the classes and `ignore`, as they are."""
        return CITYSCAPES_IDS if self.ids == "cityscapes" else self.ids

    def find(self, split: Split, root: Path) -> Labelled:
        place = self.place(root)
        images, labels = self.below(place, self.images, split), self.below(place, self.labels, split)
        files, maps = pair_files(images, self.listed(images), labels, self.listed(labels, self.pattern))
        return Labelled(place, images, tuple(files), tuple(maps))

    def read(self, label: Path | int) -> np.ndarray:
        assert isinstance(label, Path)
        stored = read_labels(label).astype(np.int64)
        known = self.known
        present = np.unique(stored)
        unknown = [int(number) for number in present
                   if (number not in known if known is not None else number >= self.classes and number != self.ignore)]
        if unknown:
            means = f"ids: {self.ids}" if self.ids is not None else f"0 … {self.classes - 1}, ignored {self.ignore}"
            raise ImageError(label, "read", f"unknown class numbers {', '.join(map(str, unknown[:8]))}; known are "
                                            f"{means} (adapt in the recipe)")
        if known is None:
            return stored
        table = np.zeros(int(present.max(initial=0)) + 1, np.int64)
        for number in present:
            table[number] = known[int(number)]
        return table[stored]

    def problems(self, found: Labelled) -> Iterator[str]:
        for path, label in zip(found.files, found.labels, strict=True):
            try:
                info, shape = inspect(path), self.read(label).shape
            except ImageError as error:
                yield str(error)
                continue
            if (info.height, info.width) != shape[:2]:
                yield f"{path} is {info.size} and its labels {label} {shape[1]}×{shape[0]} pixels; they need one size"

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
    classes: int = Field(19, ge=2)
    ids: Literal["cityscapes"] | dict[int, int] | None = "cityscapes"
    names: tuple[str, ...] = CITYSCAPES_NAMES


class CityscapesConfig(LabelMaps):
    """Cityscapes as it is unpacked, with the trainIds that its scripts write."""

    kind: Literal["cityscapes"] = "cityscapes"
    test: str = "val"  # the labels of its own test images are not public
    images: str = "leftImg8bit/{split}"
    labels: str = "gtFine/{split}"
    pattern: str = "*_gtFine_labelTrainIds.png"  # with *_gtFine_labelIds.png, set ids: cityscapes
    classes: int = Field(19, ge=2)
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
        files = self.listed(images)
        found = [path.relative_to(images).parts for path in files]
        unknown = sorted({parts[0] if len(parts) > 1 else f"{parts[0]}, which lies in no folder" for parts in found
                          if len(parts) < 2 or parts[0] not in self.names})
        if unknown:
            raise DataError(f"{images}: unknown class {'; '.join(unknown[:8])}; known are {', '.join(self.names)} "
                            "(names in the recipe)")
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
            raise DataError(f"{metadata}: no such file; an imagefolder without it has a folder for each class: use "
                            "kind: classes")
        classes = dict(self._rows(metadata))
        names = {path.relative_to(images).as_posix(): path for path in self.listed(images)}
        for what, missing in (("no row in it", sorted(names.keys() - classes)),
                              ("a row and no image", sorted(classes.keys() - names))):
            if missing:
                raise DataError(f"{metadata}: {len(missing)} images have {what}, the first {missing[0]}")
        return Labelled(place, images, tuple(names.values()), tuple(classes[name] for name in names), metadata)

    def _rows(self, metadata: Path) -> Iterator[tuple[str, int]]:
        seen: set[str] = set()
        for number, name, row in metadata_rows(metadata):
            value = row.get(self.column)
            where = f"{metadata}, line {number}"
            if self.column not in row:
                raise DataError(f"{where}: no column {self.column!r} (column in the recipe); it has {', '.join(row)}")
            if name in seen:
                raise DataError(f"{where}: {name} stands there twice")
            seen.add(name)
            if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(self.names):
                yield name, value
            elif value in self.names:
                yield name, self.names.index(value)
            else:
                raise DataError(f"{where}: unknown class {value!r}; known are {', '.join(self.names)} (names in the "
                                "recipe), or their numbers")


def metadata_rows(metadata: Path) -> Iterator[tuple[int, str, dict[str, object]]]:
    """(line number from 1, file_name, row) of a `metadata.jsonl`. Raises `DataError`."""
    for number, line in enumerate(metadata.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            yield number, str(Path(row["file_name"]).as_posix()), row
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{metadata}, line {number}: {type(error).__name__}: {error}; expected a JSON object with "
                            "file_name") from None


LabelledLayout = Annotated[GTA5Config | CityscapesConfig | MasksConfig | ClassesConfig | ImageFolderConfig,
                           Field(discriminator="kind")]


def check_labels(config: LabelledConfig, found: Labelled) -> None:
    """Look at every label of a split. Raises `DataError` with what is wrong, before anything is trained on it."""
    faults = list(config.problems(found))
    if faults:
        more = f"\n… and {len(faults) - 20} more" if len(faults) > 20 else ""
        raise DataError("\n".join([f"{found.folder}: {len(faults)} of {len(found)} labels cannot be used:",
                                   *faults[:20]]) + more)
