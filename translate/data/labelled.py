"""Labelled images, for domain adaptation: what all of their layouts share (see `labelled_layouts`).

A label is a class for every pixel (a label map beside each image) or one for the image. Paths in a recipe may hold
`{split}`; where the images' does not, there is only one split, the training images. Files of labels are never changed.
`exclude` leaves images out, with their labels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePath, PureWindowsPath
from typing import ClassVar

import numpy as np
import pydantic

from translate.data.label_counts import LabelCounts
from translate.data.layout import Split
from translate.data.layout_folder import PlaceConfig
from translate.data.pairing import NUM_NAMED, list_images
from translate.errors import DataError, ImageError, NoData
from translate.schema import Config

SPLITS: tuple[Split, ...] = ("train", "test")


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


class KindConfig(Config):
    """A base of its own, so that `kind` is the first field of a labelled layout in a saved recipe."""

    kind: str


class LabelledConfig(PlaceConfig, KindConfig):
    """What all layouts of labelled images share."""

    images: str  # below the folder
    train: str = "train"  # what {split} stands for
    test: str = "test"
    exclude: tuple[str, ...] = ()  # images to leave out, with their labels: "00123", "002*", "city/*" below the images

    per_pixel: ClassVar[bool]

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """Return what the classes are called, in the order of their numbers."""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @abstractmethod
    def find(self, split: Split, root: Path) -> Labelled:
        """Return the labelled images of a split; `root` is where prepared cards lie.

        Raises `DataError` for an image without a label, a label without an image and a class that is none, and `NoData`
        where there is no folder or no image.
        """

    def read(self, label: Path | int) -> np.ndarray:
        """Return class numbers as int64: (H, W, 1) of a label map, (1,) of a class. Raises `ImageError`."""
        return np.array([label], dtype=np.int64)

    def checked(self, path: Path, label: Path | int) -> np.ndarray:
        """Do as `read`. Raises `DataError` for a label map of another size than its image at `path`, too."""
        return self.read(label)

    def counts(self) -> LabelCounts:
        """Return counts of classes that nothing has been added to."""
        return LabelCounts(self.class_names, getattr(self, "ignore", None), "pixel" if self.per_pixel else "image")

    @property
    def contents(self) -> str:
        return f"labelled images ({self.kind})"

    def folder_of(self, place: Path, path: str, split: Split) -> Path:
        return place / path.replace("{split}", self.train if split == "train" else self.test)

    def below(self, place: Path, path: str, split: Split) -> Path:
        """Return the folder of a split. Raises `NoData` where it is not there, or there is only one split."""
        if "{split}" not in path and split != "train":
            raise NoData(f"{path} has no test images", place, f"put {{split}} into the path, as in {{split}}/{path}")
        return self.existing(self.folder_of(place, path, split), f"{split} images or labels ({self.kind})")

    def excluded(self, folder: Path, files: Iterable[Path]) -> set[Path]:
        """Return those of the files below `folder` that `exclude` names."""
        return {path for path in files if any(matches(pattern, path.relative_to(folder)) for pattern in self.exclude)}

    def remaining(self, place: Path, images: Path, files: list[Path], out: set[Path],
                  labels: Iterable[PurePath]) -> list[Path]:
        """Return the image files that are not `out`.

        place    the folder of everything, and `images` that of the images
        files    all image files of the split, and `out` those to leave out
        labels   the names of the labels: a pattern of `exclude` may mean one that has no image

        Raises `DataError` where nothing remains, and for a pattern that matches no image or label of either split.
        """
        # A pattern that matches nothing in this split may be there for the images of the other.
        names = [*(path.relative_to(images) for path in files), *labels]
        idle = [pattern for pattern in self.exclude if not any(matches(pattern, name) for name in names)]
        for split in SPLITS if idle else ():
            other = self.folder_of(place, self.images, split)
            names = [path.relative_to(other) for path in (list_images(other) if other.is_dir() else ())]
            idle = [pattern for pattern in idle if not any(matches(pattern, name) for name in names)]
        if idle:
            raise DataError(f"exclude: {', '.join(idle)}: matches no image", images, "give names of files with or "
                            "without suffix, patterns of them (002*), or paths below this folder (a/*)")

        remaining = [path for path in files if path not in out]
        if files and not remaining:
            raise DataError(f"exclude: leaves none of its {len(files)} images", images)
        return remaining

    @pydantic.model_validator(mode="after")
    def _inside_the_folder(self) -> LabelledConfig:
        """A set is made in the layout of its source, and must not write outside its own folder."""
        for field in ("images", "labels", "train", "test"):
            path = getattr(self, field, "")
            if ".." in PurePath(path).parts or PurePath(path).is_absolute() or PureWindowsPath(path).is_absolute():
                raise ValueError(f"{field}: {path}: leaves the folder; give a path below it, or set folder to one that "
                                 "holds images and labels (links in it may lead elsewhere)")
        return self


def matches(pattern: str, name: PurePath) -> bool:
    """Return whether a pattern of `exclude` means a file: its name or its path, each with or without the suffix."""
    path = name.as_posix()
    texts = (name.name, name.stem, path, path.removesuffix(name.suffix))
    return any(fnmatchcase(text, pattern) for text in texts)


def check_labels(config: LabelledConfig, found: Labelled, watch: Callable[[int, int], None] = lambda done, total: None,
                 ) -> LabelCounts:
    """Return what the labels of a split are of. `watch` is told how many of how many have been looked at.

    Raises `DataError` naming all labels that cannot be used, before anything is trained on them, and for labels of
    which nothing can be learnt, as all that counts is of one class.
    """
    faults, counts = [], config.counts()
    for number, (path, label) in enumerate(zip(found.files, found.labels, strict=True), 1):
        try:
            counts.add(config.checked(path, label))
        except (ImageError, DataError) as error:
            faults.append(str(error))
        watch(number, len(found))
    if faults:
        raise DataError("\n".join([f"{len(faults)} of {len(found)} labels cannot be used:", *first_of(faults)]),
                        found.folder, "put them right, or leave their images out: exclude (docs/domain-adaptation.md)")
    if (fault := counts.fault()) is not None:
        raise DataError(fault, found.folder, counts.advice("this layout (adapt in the recipe)"))
    return counts


def first_of(faults: Sequence[str]) -> list[str]:
    """Return the first of many messages, and how many more there are."""
    more = [f"… and {len(faults) - NUM_NAMED} more"] if len(faults) > NUM_NAMED else []
    return [*faults[:NUM_NAMED], *more]
