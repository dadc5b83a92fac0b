"""Labelled images, for domain adaptation: a class for every pixel (a label map beside each image) or for the image.

    gta5         folder/images/*.png, folder/labels/*.png of Cityscapes' ids (Richter et al. 2016)
    cityscapes   folder/leftImg8bit/{train,val}/CITY/*.png, folder/gtFine/{train,val}/CITY/*_gtFine_labelTrainIds.png
    masks        any two folders, paired by name
    classes      folder/{train,test}/CLASS/*
    imagefolder  folder/{train,test}/metadata.jsonl as Hugging Face has it: file_name, and a column with the class

Paths in a recipe may hold `{split}`; where the images' does not, there is only one split, the training images. Files of
labels are never changed: `ids` says how their numbers are read. `exclude` leaves images out, with their labels.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePath, PureWindowsPath
from typing import Annotated, ClassVar, Literal

import numpy as np
import pydantic
from pydantic import Field

from translate.data.folders import Split
from translate.data.labels import read_labels
from translate.data.pairing import NUM_NAMED, list_images, match, named, pair_files
from translate.errors import DataError, ImageError, NoData, TranslateError
from translate.images.decoding import inspect
from translate.schema import Config, Name

METADATA = "metadata.jsonl"
SPLITS: tuple[Split, ...] = ("train", "test")
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
    images: str  # below the folder
    train: str = "train"  # what {split} stands for
    test: str = "test"
    exclude: tuple[str, ...] = ()  # images to leave out, with their labels: "00123", "002*", "city/*" below the images

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

    def problem(self, path: Path, label: Path | int) -> TranslateError | None:
        """What is wrong with the label of an image: a size that is not the image's, a number that is no class."""
        return None

    def place(self, root: Path) -> Path:
        """The folder that holds all. Raises `DataError`."""
        place = root / self.card if self.card is not None else (self.folder or root).expanduser()
        if not place.is_dir():
            raise NoData(f"no such folder; labelled images ({self.kind}) were expected there", place, self.hint())
        return place

    def folder_of(self, place: Path, path: str, split: Split) -> Path:
        return place / path.replace("{split}", self.train if split == "train" else self.test)

    def below(self, place: Path, path: str, split: Split) -> Path:
        """A folder of a split. Raises `DataError` where it is not there, or there is only one split."""
        if "{split}" not in path and split != "train":
            raise NoData(f"{path} has no test images: with {{split}} in the path, as in {{split}}/{path}, it could "
                         "have", place)
        folder = self.folder_of(place, path, split)
        if not folder.is_dir():
            raise NoData(f"no such folder; {split} images or labels ({self.kind}) were expected there", folder,
                         self.hint())
        return folder

    def listed(self, folder: Path, pattern: str = "*") -> list[Path]:
        """The image files below a folder, at least one. Raises `DataError`."""
        try:
            found = list_images(folder, pattern)
        except ImageError as error:
            raise DataError.of(error) from None
        if not found:
            raise NoData(f"holds no images named {pattern}", folder, self.hint())
        return found

    def excluded(self, folder: Path, files: Iterable[Path]) -> set[Path]:
        """Those of the files below `folder` that `exclude` names."""
        return {path for path in files if any(matches(pattern, path.relative_to(folder)) for pattern in self.exclude)}

    def left(self, place: Path, images: Path, files: list[Path], out: set[Path],
             rows: Iterable[PurePath]) -> list[Path]:
        """The images that are not `out`. `rows` are names of labels: a pattern may mean one that has no image.

        Raises `DataError` where nothing is left, and for a pattern that matches no image or label of either split.
        """
        names = [*(path.relative_to(images) for path in files), *rows]
        idle = [pattern for pattern in self.exclude if not any(matches(pattern, name) for name in names)]
        for split in SPLITS if idle else ():
            other = self.folder_of(place, self.images, split)
            names = [path.relative_to(other) for path in (list_images(other) if other.is_dir() else ())]
            idle = [pattern for pattern in idle if not any(matches(pattern, name) for name in names)]
        if idle:
            raise DataError(f"exclude: {', '.join(idle)}: matches no image", images, "give names of files with or "
                            "without suffix, patterns of them (002*), or paths below this folder (a/*)")
        kept = [path for path in files if path not in out]
        if files and not kept:
            raise DataError(f"exclude: leaves none of its {len(files)} images", images)
        return kept

    def hint(self) -> str | None:
        return f"run: translate data prepare {self.card}" if self.card is not None else None

    @pydantic.model_validator(mode="after")
    def _inside_the_folder(self) -> LabelledConfig:
        """A set is made in the layout of its source, and must not write outside its own folder."""
        for field in ("images", "labels", "train", "test"):
            path = getattr(self, field, "")
            if ".." in PurePath(path).parts or PurePath(path).is_absolute() or PureWindowsPath(path).is_absolute():
                raise ValueError(f"{field}: {path}: leaves the folder; give a path below it, or set folder to one that "
                                 "holds images and labels (links in it may lead elsewhere)")
        return self

    @pydantic.model_validator(mode="after")
    def _one_place(self) -> LabelledConfig:
        if (self.card is None) == (self.folder is None):
            raise ValueError("say once where the labelled images are: card: NAME, or folder: PATH")
        return self


class LabelMaps(LabelledConfig):
    """Layouts with a label map beside each image."""

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
        place, images, files, labels, maps = self.sides(split, root)
        files, maps = pair_files(images, files, labels, maps)
        return Labelled(place, images, tuple(files), tuple(maps))

    def sides(self, split: Split, root: Path) -> tuple[Path, Path, list[Path], Path, list[Path]]:
        """The folder of all, that of the images and they, that of the label maps and they; paired or not."""
        place = self.place(root)
        images, labels = self.below(place, self.images, split), self.below(place, self.labels, split)
        files, maps = self.listed(images), self.listed(labels, self.pattern)
        if self.exclude:  # an image and its label go together, whichever of them is named
            names, others = named(images, files), named(labels, maps)
            out = self.excluded(images, files) | self.excluded(labels, maps)
            for image, label in match(list(names), list(others))[0]:
                pair = {*names[image], *others[label]}
                out |= pair if pair & out else set()
            files = self.left(place, images, files, out, [path.relative_to(labels) for path in maps])
            maps = [path for path in maps if path not in out]
        return place, images, files, labels, maps

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

    def problem(self, path: Path, label: Path | int) -> TranslateError | None:
        try:
            info, shape = inspect(path), self.read(label).shape
        except ImageError as error:
            return error
        if (info.height, info.width) == shape[:2]:
            return None
        return DataError(f"is {info.size} and its labels {label} {shape[1]}×{shape[0]} pixels", path,
                         "they need one size")

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
        files = self.left(place, images, files, self.excluded(images, files), ())
        found = [path.relative_to(images).parts for path in files]
        unknown = sorted({parts[0] if len(parts) > 1 else f"{parts[0]}, which lies in no folder" for parts in found
                          if len(parts) < 2 or parts[0] not in self.names})
        if unknown:
            raise DataError(f"unknown class {'; '.join(unknown[:8])}; known are {', '.join(self.names)} (names in the "
                            "recipe)", images)
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
        classes = dict(self._rows(metadata))
        files, rows = self.listed(images), [PurePath(name) for name in classes]
        files = self.left(place, images, files, self.excluded(images, files), rows)
        names = {path.relative_to(images).as_posix(): path for path in files}
        classes = {name: label for name, label in classes.items()
                   if not any(matches(pattern, PurePath(name)) for pattern in self.exclude)}
        for what, missing in (("no row in it", sorted(names.keys() - classes)),
                              ("a row and no image", sorted(classes.keys() - names))):
            if missing:
                raise DataError(f"{len(missing)} images have {what}, the first {missing[0]}", metadata)
        return Labelled(place, images, tuple(names.values()), tuple(classes[name] for name in names), metadata)

    def _rows(self, metadata: Path) -> Iterator[tuple[str, int]]:
        seen: set[str] = set()
        for number, name, row in metadata_rows(metadata):
            value = row.get(self.column)
            where = f"{metadata}, line {number}"
            if self.column not in row:
                raise DataError(f"no column {self.column!r} (column in the recipe); it has {', '.join(row)}", where)
            if name in seen:
                raise DataError(f"{name} stands there twice", where)
            seen.add(name)
            if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(self.names):
                yield name, value
            elif value in self.names:
                yield name, self.names.index(value)
            else:
                raise DataError(f"unknown class {value!r}; known are {', '.join(self.names)} (names in the recipe), or "
                                "their numbers", where)


def matches(pattern: str, name: PurePath) -> bool:
    """Whether a pattern of `exclude` means a file, by its name or its path, each with or without the suffix."""
    path = name.as_posix()
    texts = (name.name, name.stem, path, path.removesuffix(name.suffix))
    return any(fnmatchcase(text, pattern) for text in texts)


def metadata_rows(metadata: Path) -> Iterator[tuple[int, str, dict[str, object]]]:
    """(line number from 1, file_name, row) of a `metadata.jsonl`. Raises `DataError`."""
    for number, line in enumerate(metadata.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            yield number, str(Path(row["file_name"]).as_posix()), row
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{type(error).__name__}: {error}", f"{metadata}, line {number}",
                            "expected a JSON object with file_name") from None


LabelledLayout = Annotated[GTA5Config | CityscapesConfig | MasksConfig | ClassesConfig | ImageFolderConfig,
                           Field(discriminator="kind")]


def check_labels(config: LabelledConfig, found: Labelled, watch: Callable[[int, int], None] = lambda done, total: None,
                 ) -> None:
    """Look at every label of a split. Raises `DataError` with what is wrong, before anything is trained on it.

    `watch` is told how many labels of how many have been looked at.
    """
    faults = []
    for number, (path, label) in enumerate(zip(found.files, found.labels, strict=True), 1):
        fault = config.problem(path, label)
        if fault is not None:
            faults.append(str(fault))
        watch(number, len(found))
    if faults:
        more = f"\n… and {len(faults) - NUM_NAMED} more" if len(faults) > NUM_NAMED else ""
        raise DataError("\n".join([f"{len(faults)} of {len(found)} labels cannot be used:", *faults[:NUM_NAMED]])
                        + more, found.folder, "put them right, or leave their images out: exclude "
                        "(docs/domain-adaptation.md)")
