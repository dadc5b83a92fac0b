"""What a recipe may say about its data, and where each layout keeps its images.

    unpaired   folder/trainA, trainB, testA, testB (valA, valB)         or two folders a, b
               folder/A/train, B/train, … or folder/train/A, train/B, …
    paired     folder/train, test, val of files with A beside B         or two folders a, b, paired by name
               folder/trainA, trainB, … paired by name
    labels     folder/train_label, train_img, test_label, test_img      or two folders a (labels), b (images)
    computed   a folder of photographs, or its train, test, val; A is computed from each
    images     a folder of images, or its train, test, val; A is what each is drawn under (`translate.data.conditioned`)

A card's data lie in a folder of its name and are read like any other folder. Folders may be nested, suffixes are read
in any case, and the order is that of the sorted paths.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import pydantic
from pydantic import Field

from translate.data.conditioned import ImagesConfig
from translate.data.labels import Labelling, default_ignore
from translate.data.layout import FOLDERS_OF, LayoutConfig, OneFolderConfig, Split
from translate.data.pairing import pair_files
from translate.data.samples import (
    AlignedSamples,
    ComputedInput,
    ComputedSamples,
    LabelSamples,
    Samples,
    UnpairedSamples,
)
from translate.errors import DataError, visible
from translate.images.reading import ImageConfig

LabelNumber = Annotated[int, Field(ge=0, le=65_535)]


class SidesConfig(LayoutConfig):
    """A layout whose sides may also be two folders of any names."""

    a: Path | None = None
    b: Path | None = None
    test_a: Path | None = None
    test_b: Path | None = None

    ways: ClassVar[str] = f"{LayoutConfig.ways}, or a: PATH and b: PATH"
    what_a_and_b_hold: ClassVar[str] = "images in a and b"

    @property
    def suffixes(self) -> tuple[str, str]:
        """Return what follows train, test or val in the names of the two folders of a data set."""
        return "A", "B"

    @property
    def domains(self) -> tuple[str, str]:
        if self.a is None or self.b is None:
            return super().domains
        a, b = (side.parent if side.name in FOLDERS_OF["train"] else side for side in (self.a, self.b))
        if a.name == b.name:
            return super().domains
        return ("A" if a.name in ("", "a", "A") else f"A ({a.name})",
                "B" if b.name in ("", "b", "B") else f"B ({b.name})")

    def sides(self, name: str, root: Path) -> tuple[Path, Path] | None:
        """Return the folders of A and B for a split; None where there is no such split.

        Raises `DataError` when there is only one of them.
        """
        if self.a is not None and self.b is not None:
            own = {"train": (self.a, self.b), "test": (self.test_a, self.test_b)}.get(name, (None, None))
            return None if own[0] is None or own[1] is None else (own[0].expanduser(), own[1].expanduser())
        place = self.place(root)
        ways = self.folders_of(name)
        found = [(place / a, place / b) for a, b in ways if (place / a).is_dir() and (place / b).is_dir()]
        if found:
            return found[0]
        for a, b in (*ways[:2], *(way[::-1] for way in ways[:2])):  # train/A alone may be any folder of images
            if (place / a).is_dir():
                raise DataError(f"no such folder, and {a} is there; both are needed", place / b, self.hint())
        return None

    def folders_of(self, name: str) -> tuple[tuple[str, str], ...]:
        """Return what the folders of A and B of a split may be called: trainA, or A/train, or train/A."""
        suffixes = self.suffixes
        a, b = (suffix.strip("_") for suffix in suffixes)
        return (f"{name}{suffixes[0]}", f"{name}{suffixes[1]}"), (f"{a}/{name}", f"{b}/{name}"), (
            f"{name}/{a}", f"{name}/{b}")

    def expected(self, split: Split, recipe: str = "the recipe") -> str:
        if self.a is not None:
            if split == "train":
                return self.what_a_and_b_hold
            assert self.b is not None, "a and b are given together"
            named = f"named in {recipe} as data.test_a and data.test_b"
            names, home = (self.a.name, self.b.name), self.a.parent
            if home != self.b.parent:
                return f"folders of their own, {named}"
            if all(name.startswith("train") for name in names):
                a, b = (visible(name.replace("train", "test", 1)) for name in names)
                return f"{a} and {b} beside them, {named}"
            home = home.parent if home.name in FOLDERS_OF["train"] else home
            a, b = (f"test/{visible(name)}" for name in names)
            return f"{a} and {b} in {visible(home)}, {named}"
        a, b = self.suffixes
        return " or ".join(f"{f'{name} (A beside B), ' if self.aligned else ''}{name}{a} and {name}{b}"
                           for name in FOLDERS_OF[split])

    def files_of(self, folders: tuple[Path, Path]) -> tuple[list[Path], list[Path]]:
        """Return the files of A and B in their two folders."""
        return self.list_files(folders[0]), self.list_files(folders[1])

    def pairs_of(self, folders: tuple[Path, Path]) -> tuple[list[Path], list[Path]]:
        """Return the same, paired by name. Raises `DataError` for files that do not pair."""
        files_a, files_b = self.files_of(folders)
        return pair_files(folders[0], files_a, folders[1], files_b)

    def place(self, root: Path) -> Path:
        return self.a.expanduser() if self.a is not None else super().place(root)

    def exchanged(self) -> Self:
        """Return two folders of A and B, and those of their test images, the other way round."""
        sides = {"": self.sides("train", Path())} | {
            "test_": next((each for test in FOLDERS_OF["test"] if (each := self.sides(test, Path()))), None)}
        where: dict[str, Any] = {f"{split}{side}": folder for split, folders in sides.items() if folders is not None
                                 for side, folder in zip("ba", folders, strict=True)}
        return type(self)(**where)

    def given(self) -> list[str]:
        return super().given() + [side for side in "ab" if getattr(self, side) is not None][:1]

    @pydantic.model_validator(mode="after")
    def _both_sides(self) -> SidesConfig:
        for side, other in ("ab", "ba"):
            if getattr(self, side) is not None and getattr(self, other) is None:
                raise ValueError(f"{side}: names the images of one side; {other}, those of the other, is missing")
        if (self.test_a is None) != (self.test_b is None):
            raise ValueError("test_a and test_b: give both or neither")
        if self.test_a is not None and self.a is None:
            raise ValueError("test_a: goes with a and b; a folder or a card has its own test images")
        for side in "ab":
            trained, held_out = getattr(self, side), getattr(self, f"test_{side}")
            if held_out is not None and trained in held_out.parents:  # folders are read with all that lies in them
                raise ValueError(f"test_{side}: {held_out} lies in {trained}, so that its images would be trained on; "
                                 "move it to a place outside of it")
        return self


class UnpairedConfig(SidesConfig):
    """Two sets of images, as CycleGAN takes them."""

    kind: Literal["unpaired"] = "unpaired"
    image_a: ImageConfig = ImageConfig(channels=3)
    # test images of A and B of one name are pairs, and scores are against them; false: the same names say nothing
    truth: bool = False

    paired: ClassVar[bool] = False

    @property
    def truth_is_known(self) -> bool:
        return self.truth

    def find(self, name: str, root: Path) -> Samples | None:
        folders = self.sides(name, root)
        if folders is None:
            return None
        return UnpairedSamples(self.loading, name, *self.files_of(folders))

    def with_images_a(self, folder: Path, root: Path) -> Self:
        self.build("train", root)
        place = self.sides("train", root)
        assert place is not None, "it has training images"
        return self.model_copy(update={"card": None, "folder": None, "a": folder, "b": place[1], "test_a": None,
                                       "test_b": None})

    def other_way(self) -> Self:
        return self.exchanged()

    def description(self) -> str:
        return "images of A and of B (trainA and trainB), whose names do not all pair"


class PairedConfig(SidesConfig):
    """Pairs of images, as pix2pix takes them."""

    kind: Literal["paired"] = "paired"
    image_a: ImageConfig = ImageConfig(channels=3)
    direction: Literal["ab", "ba"] = "ab"  # of a folder: A is the left half, or trainA; ba: the other

    aligned: ClassVar[bool] = True

    @property
    def suffixes(self) -> tuple[str, str]:
        return ("A", "B") if self.direction == "ab" else ("B", "A")

    def find(self, name: str, root: Path) -> Samples | None:
        folders = self.sides(name, root)
        if folders is not None:
            return Samples(self.loading, name, *self.pairs_of(folders))
        if self.a is not None or not (self.place(root) / name).is_dir():
            return None
        aligned = self.list_files(self.place(root) / name)
        return AlignedSamples(self.loading, name, aligned, swapped=self.direction == "ba")

    def other_way(self) -> Self:
        if self.a is not None:
            return self.exchanged()
        return self.model_copy(update={"direction": "ba" if self.direction == "ab" else "ab"})

    def description(self) -> str:
        by_name = self.a is not None or self.sides("train", Path()) is not None
        return "images of A and of B (trainA and trainB), paired by name" if by_name else "files with A beside B"

    @pydantic.model_validator(mode="after")
    def _direction_of_a_folder(self) -> PairedConfig:
        if self.direction == "ba" and self.a is not None:
            raise ValueError("direction: ba is for a folder or a card; with a and b, exchange their paths")
        return self


class LabelsConfig(SidesConfig):
    """Label maps and images, as pix2pixHD takes them. Side A is one-hot: 1 where a pixel is of the class, else 0."""

    shows_a: ClassVar[bool] = False

    kind: Literal["labels"] = "labels"
    classes: int = Field(ge=2, le=65_536)
    # pixels of this number belong to no class: 0 in every channel. Not written: 255, where that is no class; null: none
    ignore: int | None = Field(default_factory=lambda known: default_ignore(known.get("classes", 2)), ge=0, le=2**32)
    ids: dict[LabelNumber, LabelNumber] | None = None  # numbers in the files → classes, before all else: {255: 1}
    labels: str = "*"  # file names of label maps, where others lie beside them: "*_labelTrainIds.png"
    # numbers from here on are class × `instances` + instance number (Cityscapes' *_instanceIds.png: 1000); null: all
    # numbers are classes
    instances: int | None = Field(default=None, ge=2, le=2**32)
    edges: bool = False  # one more channel: where a thing, or without `instances` a class, ends (pix2pixHD)

    what_a_and_b_hold: ClassVar[str] = "label maps in a and images in b"

    @property
    def labelling(self) -> Labelling:
        """Return what the numbers of its label maps say."""
        return Labelling(self.classes, self.ignore, self.instances, self.edges, tuple((self.ids or {}).items()))

    @property
    def image_a(self) -> ImageConfig:
        """Return what a generator is shown: a one-hot image, of a file with one channel of class numbers."""
        return ImageConfig(channels=self.labelling.channels, background=None)

    @property
    def suffixes(self) -> tuple[str, str]:
        return "_label", "_img"

    def find(self, name: str, root: Path) -> Samples | None:
        folders = self.sides(name, root)
        if folders is None:
            return None
        return LabelSamples(self.loading, name, *self.pairs_of(folders), self.labelling)

    def files_of(self, folders: tuple[Path, Path]) -> tuple[list[Path], list[Path]]:
        return self.list_files(folders[0], self.labels), self.list_files(folders[1])

    def description(self) -> str:
        return f"label maps and images, with {self.classes} classes"

    @pydantic.model_validator(mode="after")
    def _things_and_classes(self) -> LabelsConfig:
        if self.instances is not None and self.instances < self.classes:
            raise ValueError(f"instances: numbers from {self.instances} on are things, and there are classes up to "
                             f"{self.classes - 1}; use {self.classes} or more")
        wrong = {new for new in (self.ids or {}).values() if not 0 <= new < self.classes and new != self.ignore}
        if wrong and self.instances is None:
            raise ValueError(f"ids: lead to {', '.join(map(str, sorted(wrong)))}; classes are 0 … {self.classes - 1}, "
                             f"ignored {self.ignore}")
        return self


class ComputedConfig(OneFolderConfig):
    """Photographs (B), and as A what is computed from them: their luma, or their edges."""

    shows_a: ClassVar[bool] = False
    otherwise: ClassVar[str] = ("read as photographs to be coloured; --kind images draws others like them from noise; "
                                "for a translation between two styles, add a second folder beside it")

    kind: Literal["computed"] = "computed"
    input: ComputedInput = "grey"

    @property
    def image_a(self) -> ImageConfig:
        """Return what is computed: a grey image of the photographs' depth."""
        return self.image_b.model_copy(update={"channels": 1})

    def find(self, name: str, root: Path) -> Samples | None:
        folder = self.folder_of(name, root)
        return None if folder is None else ComputedSamples(self.loading, name, self.list_files(folder), self.input)

    def description(self) -> str:
        return "photographs"

    def expected(self, split: Split, recipe: str = "the recipe") -> str:
        return "photographs" if split == "train" else f"test or val, or test_folder in {recipe}"

    @pydantic.model_validator(mode="after")
    def _can_be_computed(self) -> ComputedConfig:
        if self.image_b.channels != 3 and not (self.input == "edges" and self.image_b.channels == 1):
            raise ValueError(f"image_b.channels: {self.input} is computed from 3 channels, not {self.image_b.channels}")
        return self


DataConfig = Annotated[UnpairedConfig | PairedConfig | LabelsConfig | ComputedConfig | ImagesConfig,
                       Field(discriminator="kind")]
