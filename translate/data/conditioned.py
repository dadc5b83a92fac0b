"""Images that are drawn from noise, and what each is drawn under: nothing, its class, a vector beside it, or both.

    images    folder, or its train and test (val); nested, of any names
    classes   one folder for each class in it, or a column of its metadata.jsonl
    vectors   vectors.npz in it (`names`: paths of images below the folder, `vectors`: one row each), or a column of
              its metadata.jsonl

What a training sees of it is a sample like any other: `b` is the image, and `a` is the condition, float32
(channels_a, 1, 1): first the class as one-hot numbers (`num_classes` of them), then the numbers of the vector
(`vector_size`), as they are. Without either, a has no channels. So a batch carries (N, channels_a, 1, 1) beside its
images, and `translator.build(channels_a, channels_b)` knows both sizes.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import pydantic
import torch
from pydantic import Field
from torch import Tensor

from translate.data.hashing import stable_hash
from translate.data.labelled import Labelled, LabelledConfig
from translate.data.labelled_layouts import METADATA, ClassesConfig, ImageFolderConfig, metadata_rows
from translate.data.layout import FOLDERS_OF, OneFolderConfig, Split
from translate.data.pairing import names_of
from translate.data.samples import Loading, Samples, Stored
from translate.errors import DataError, visible
from translate.images.listing import is_aside
from translate.images.reading import ImageConfig
from translate.images.tensors import to_tensor
from translate.schema import Config

VECTORS_FILE = "vectors.npz"


class VectorsConfig(Config):
    """A vector beside each image, such as the embedding of a sentence about it."""

    size: int = Field(ge=1, le=65_536)  # numbers of each
    column: str | None = None  # of metadata.jsonl, a list of numbers; null: they lie in vectors.npz

    def read(self, folder: Path, files: Sequence[Path]) -> np.ndarray:
        """Return the vectors of image files below `folder`, float32 (N, size). Raises `DataError`."""
        source = folder / (VECTORS_FILE if self.column is None else METADATA)
        names, rows = read_vectors(source) if self.column is None else self._in_column(source, self.column)
        found = dict(zip(names, rows, strict=True))
        if len(found) < len(names):
            twice = next(name for name, times in Counter(names).items() if times > 1)
            raise DataError(f"has {Counter(names)[twice]} vectors of {visible(twice)}", source, "expected one of each "
                            "image")

        # Each image has its vector, of the size that the recipe says.
        missing = [path for path in files if path.relative_to(folder).as_posix() not in found]
        if missing:
            raise DataError(f"has no vector of {len(missing)} images: {names_of(missing)}", source,
                            "names are paths below this folder, with their suffix")
        vectors = [found[path.relative_to(folder).as_posix()] for path in files]
        for path, vector in zip(files, vectors, strict=True):
            if vector.shape != (self.size,):
                raise DataError(f"has {vector.size} numbers for {visible(path.name)}; expected {self.size} "
                                "(data.vectors.size)", source)
        return np.stack(vectors)

    def _in_column(self, source: Path, column: str) -> tuple[list[str], list[np.ndarray]]:
        if not source.is_file():
            raise DataError("no such file", source, f"data.vectors.column {column} is one of its columns")
        names, rows = [], []
        for number, name, row in metadata_rows(source):
            values = row.get(column)
            if not isinstance(values, list) or not all(isinstance(value, int | float) for value in values):
                raise DataError(f"column {column!r} holds no list of numbers (data.vectors.column)",
                                f"{source}, line {number}")
            try:
                row_of_numbers = np.array([float(value) for value in values])
            except OverflowError:  # JSON has whole numbers of any length
                row_of_numbers = np.array([np.inf])
            names.append(name)
            rows.append(_learnable(row_of_numbers, f"{source}, line {number}"))
        return names, rows


def read_vectors(source: Path) -> tuple[list[str], np.ndarray]:
    """Return the names of images in a vectors.npz, in its order, and their vectors, float32 (N, size).

    Raises `DataError`, also for numbers that are not finite.
    """
    expected = "expected an npz file of names (N,) and vectors (N, size), as numpy.savez writes it"
    try:
        with np.load(source, allow_pickle=False) as arrays:
            names, vectors = arrays["names"], arrays["vectors"]
    except FileNotFoundError:
        raise DataError("no such file", source, f"{expected}; or data.vectors.column") from None
    except (OSError, ValueError, KeyError, EOFError, TypeError, IndexError, MemoryError, zipfile.BadZipFile) as error:
        raise DataError(f"cannot be read: {error}", source, expected) from None
    if names.ndim != 1 or vectors.ndim != 2 or len(names) != len(vectors) or not len(names):
        raise DataError(f"names are {names.shape} and vectors {vectors.shape}", source, expected)
    return list(map(str, names)), _learnable(vectors, source)


def _learnable(vectors: np.ndarray, place: Path | str) -> np.ndarray:
    """Return vectors as float32. Raises `DataError` for what are no numbers, or none that can be learnt from."""
    if vectors.dtype.kind not in "iuf":
        what = f"values of type {vectors.dtype}"
    else:
        with np.errstate(over="ignore"):
            vectors = vectors.astype(np.float32)
        if np.isfinite(vectors).all():
            return vectors
        what = "numbers that are not finite"
    raise DataError(f"has {what} among its vectors", place, "expected finite numbers, as float32 holds them")


class ImagesConfig(OneFolderConfig):
    """Images to be drawn from noise, with or without what they are drawn under."""

    kind: Literal["images"] = "images"
    # folders in each split, or values of `column`: their names in order, or how many there are; null: no classes
    classes: tuple[str, ...] | Annotated[int, Field(ge=2, le=1_000_000)] | None = None
    column: str = "label"  # of metadata.jsonl, where there is one: holds the class of each image
    vectors: VectorsConfig | None = None  # beside each image; null: none

    has_sources: ClassVar[bool] = False
    shows_a: ClassVar[bool] = False

    @property
    def image_a(self) -> ImageConfig:
        """Return how files are read: there are no others than B's."""
        return self.image_b

    @property
    def num_classes(self) -> int:
        return self.classes if isinstance(self.classes, int) else len(self.classes or ())

    @property
    def vector_size(self) -> int:
        return 0 if self.vectors is None else self.vectors.size

    @property
    def channels_a(self) -> int:
        return self.num_classes + self.vector_size

    @property
    def truth_is_known(self) -> bool:
        return False

    def find(self, name: str, root: Path) -> Samples | None:
        folder = self.folder_of(name, root)
        if folder is None:
            return None
        files = self.list_files(folder)
        classes = None
        if self.classes is not None:
            _, found = self._labelled(folder, root)
            files, classes = list(found.files), [label for label in found.labels if isinstance(label, int)]
        vectors = None if self.vectors is None else self.vectors.read(folder, files)
        return ConditionedSamples(self.loading, name, files, classes, self.num_classes, vectors)

    def labelled(self, split: Split, root: Path) -> tuple[LabelledConfig, Labelled]:
        """Return the images of a split with their classes, as the layouts of labelled images read them."""
        folder = next((found for name in FOLDERS_OF[split] if (found := self.folder_of(name, root)) is not None), None)
        if folder is None:
            raise self.lacks(split, root)
        return self._labelled(folder, root)

    def _labelled(self, folder: Path, root: Path) -> tuple[LabelledConfig, Labelled]:
        names = self.class_names(root)
        layout: LabelledConfig = ClassesConfig(folder=folder, images=".", names=names)
        if (folder / METADATA).is_file():
            layout = ImageFolderConfig(folder=folder, images=".", names=names, column=self.column)
        return layout, layout.find("train", folder)

    def class_names(self, root: Path) -> tuple[str, ...]:
        """Return the names that the recipe gives.

        Where it only says how many there are, they are the folders of the training images, sorted by name, or the
        numbers from 0 on where a metadata.jsonl says the classes.
        """
        if not isinstance(self.classes, int):
            return self.classes or ()
        folder = self.folder_of("train", root)
        if folder is None or (folder / METADATA).is_file():
            return tuple(map(str, range(self.classes)))
        found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not is_aside(path.name))
        if len(found) != self.classes:
            raise DataError(f"holds {len(found)} folders, and data.classes says {self.classes}: each folder is a class",
                            folder, "give their number or their names; or a metadata.jsonl")
        return tuple(found)

    def description(self) -> str:
        return "images to be drawn from noise"

    def expected(self, split: Split, recipe: str = "the recipe") -> str:
        return "images" if split == "train" else f"test or val, or test_folder in {recipe}"

    @pydantic.model_validator(mode="after")
    def _at_least_two_classes(self) -> ImagesConfig:
        if isinstance(self.classes, tuple) and (len(self.classes) < 2 or len(set(self.classes)) < len(self.classes)):
            raise ValueError("classes: give at least two names, each once; null for images without classes")
        return self


class ConditionedSamples(Samples):
    """Images (B), and as A the condition of each."""

    def __init__(self, loading: Loading, split: str, files: Sequence[Path], classes: Sequence[int] | None,
                 num_classes: int, vectors: np.ndarray | None):
        super().__init__(loading, split, files, files)
        self.classes, self.num_classes, self.vectors = classes, num_classes, vectors

        # Images by their condition, for `other_condition`: those of one lie beside each other
        numbers: dict[tuple[int, bytes], int] = {}
        self._groups = np.array([numbers.setdefault(
            (0 if classes is None else classes[index], b"" if vectors is None else vectors[index].tobytes()),
            len(numbers)) for index in range(len(files))])
        self._grouped = np.argsort(self._groups, kind="stable")

    @property
    def num_planes(self) -> int:
        return self.image_b.channels

    def stored(self, index_a: int, index_b: int) -> list[Stored]:
        return [self.stored_image(self.files_b[index_b], self.image_b)]

    def tensors(self, images: Sequence[np.ndarray], index: int) -> tuple[Tensor, Tensor]:
        return self.condition(index), to_tensor(images[0], self.image_b)

    def condition(self, index: int) -> Tensor:
        """Return what image `index` is drawn under, float32 (num_classes + vector_size, 1, 1)."""
        parts = [] if self.classes is None else [one_hot(self.classes[index], self.num_classes)]
        parts += [] if self.vectors is None else [torch.from_numpy(self.vectors[index])[:, None, None]]
        return torch.cat(parts) if parts else torch.zeros(0, 1, 1)

    def other_condition(self, index: int, key: int) -> Tensor | None:
        first, end = np.searchsorted(self._groups, self._groups[index] + np.arange(2), sorter=self._grouped)
        num_others = len(self._groups) - int(end - first)
        if not num_others:
            return None
        place = stable_hash(key, "other condition") % num_others
        return self.condition(int(self._grouped[place if place < first else place + int(end - first)]))


def one_hot(number: int, num_classes: int) -> Tensor:
    """Return a class as a condition, float32 (num_classes, 1, 1): 1 for the class, 0 for all others."""
    condition = torch.zeros(num_classes, 1, 1)
    condition[number] = 1.0
    return condition
