"""What every layout of a training's data is: two sides, how they are loaded, and where the images of a split lie.

`translate.data.layouts` has the layouts themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self

import pydantic
from pydantic import Field

from translate.data.image_cache import ImageCache
from translate.data.labels import Labelling
from translate.data.layout_folder import PlaceConfig
from translate.data.protected import ProtectConfig
from translate.data.samples import Loading, Samples
from translate.data.transforms import Augmentation
from translate.errors import RECIPE_PLACEHOLDER, DataError, NoData, UsageError, visible
from translate.images.reading import ImageConfig
from translate.images.transparency import Background
from translate.places import data_root
from translate.sizes import num_bytes

Split = Literal["train", "test"]
CACHE_FOLDER = ".image-cache"  # among prepared data sets
FOLDERS_OF: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val")}  # the first that exists
HELD_OUT_FIELDS = ("test_a", "test_b", "test_folder")  # of layouts, which name the folders of held-out images


class LayoutConfig(PlaceConfig):
    """What all layouts of a training's data share."""

    image_b: ImageConfig = ImageConfig(channels=3)
    # short side that images are loaded at, px; null keeps the size
    resize: int | None = Field(default=286, ge=1, le=100_000)
    augment: tuple[Augmentation, ...] = ("flip",)
    # what a larger image shows: by_size, the same larger; fixed, more of the same, as a pixel has one length in all of
    # them (maps, microscopes). Counts where the last stage keeps images at their own size
    scale: Literal["by_size", "fixed"] = "by_size"
    # a file that cannot be read: stop saves and ends the training; skip takes another image, names and counts the file
    on_unreadable: Literal["stop", "skip"] = "stop"

    # decode a JPEG that `resize` shrinks to less than half at a half, quarter or eighth of its size: twice as fast, and
    # its pixels differ by half a step of 255 in the mean. Not of files that hold A beside B
    draft: bool = False
    # keep images at the size that they are loaded at, in so much of the disk (20GB): null: none. No pixel depends on it
    cache: str | None = None
    protect: ProtectConfig | None = None  # regions of A's images that a translation is to leave as they are

    paired: ClassVar[bool] = True  # a training sees pairs
    has_sources: ClassVar[bool] = True  # A are images that a translator starts from
    aligned: ClassVar[bool] = False  # an image file that is no side of its own holds A beside B
    otherwise: ClassVar[str] = ""  # as what else such a folder may be meant, and what to do then
    shows_a: ClassVar[bool] = True  # A are images as they lie on the disk: their pixels can be kept

    @property
    def loading(self) -> Loading:
        """Return what its samples need to know of it. Each layout has `image_a`, as a field or computed from others."""
        image_a: ImageConfig = self.image_a  # type: ignore[attr-defined]
        cache = None if self.cache is None else ImageCache(data_root().absolute() / CACHE_FOLDER, num_bytes(self.cache))
        return Loading(image_a, self.image_b, self.resize, self.augment, self.on_unreadable == "skip", self.draft,
                       cache, self.protect)

    @property
    def truth_is_known(self) -> bool:
        """Whether the recipe says that test image i of B is the truth of test image i of A."""
        return self.paired

    @property
    def labelling(self) -> Labelling | None:
        """Return what the numbers of A's label maps say; None where A are images."""
        return None

    @property
    def channels_a(self) -> int:
        return self.loading.image_a.channels

    @property
    def channels_b(self) -> int:
        return self.image_b.channels

    @property
    def protects(self) -> bool:
        return self.protect is not None

    @property
    def num_classes(self) -> int:
        """How many classes images are drawn under from noise; 0: none."""
        return 0

    @property
    def vector_size(self) -> int:
        """How many numbers the vector beside each image has that is drawn from noise; 0: there is none."""
        return 0

    def class_names(self, root: Path) -> tuple[str, ...]:
        """Return what the classes of `num_classes` are called, in the order of their numbers. Raises `DataError`."""
        return ()

    @property
    def domains(self) -> tuple[str, str]:
        """What images of A and of B are called, as far as the folders say it."""
        return "A", "B"

    @property
    def open_backgrounds(self) -> list[str]:
        """The sides, image_a or image_b, of which it is left open on what transparent images are shown."""
        return [side for side in ("image_a", "image_b") if side in type(self).model_fields
                and "background" not in getattr(self, side).model_fields_set]

    def with_backgrounds(self, backgrounds: Mapping[str, Background | None]) -> Self:
        """Return the same with other backgrounds, by the sides of `open_backgrounds`."""
        return self.model_copy(update={side: getattr(self, side).model_copy(update={"background": background})
                                       for side, background in backgrounds.items()})

    def with_images_a(self, folder: Path, root: Path) -> Self:
        """Return the same training data with the images of another folder as A; only of data that are no pairs.

        They have no test images. Raises `DataError` where B has no training images.
        """
        raise NotImplementedError

    def other_way(self) -> Self:
        """Return the same with its sides exchanged, so that B is made into A. Raises `DataError` where A is no image.
        """
        raise DataError(f"holds {self.description()}, and only B can be made of such data", self.folder,
                        "leave --direction out")

    def build(self, split: Split, root: Path) -> Samples:
        """Return the images of a split; `root` is where prepared cards lie. Raises `DataError` naming the folder."""
        samples = next((found for name in FOLDERS_OF[split] if (found := self.find(name, root)) is not None), None)
        if samples is None:
            raise self.lacks(split, root)
        if self.protect is not None and split == "train":
            self.protect.check(samples.files_a, samples.shape_in)
        return samples

    def lacks(self, split: Split, root: Path) -> NoData:
        """Return the error of data that have no images of a split."""
        advice = f"expected {self.expected(split, RECIPE_PLACEHOLDER)}"
        return NoData(f"holds no {split} images", self.place(root), "; ".join(filter(None, (advice, self.hint()))))

    def refuse_missing_tests(self) -> None:
        """Raise `NoData` where a folder that is named as one of held-out images is not there."""
        for field in HELD_OUT_FIELDS:
            if (folder := getattr(self, field, None)) is not None:
                self.existing(folder.expanduser(), "held-out images")

    def find(self, name: str, root: Path) -> Samples | None:
        """Return the images of the split that the disk calls `name` (train, test, val); None when there is none."""
        raise NotImplementedError

    def expected(self, split: Split, recipe: str = "the recipe") -> str:
        """Return the folders that `build` looks for, in words; `recipe` is what names those of any other name."""
        raise NotImplementedError

    def description(self) -> str:
        """Return in words what a folder of this layout holds, as it lies on the disk."""
        raise NotImplementedError

    @property
    def contents(self) -> str:
        return self.expected("train")

    @pydantic.field_validator("cache")
    @classmethod
    def _is_a_size(cls, value: str | None) -> str | None:
        try:
            return value if value is None or num_bytes(value) else None
        except UsageError as error:
            raise ValueError(str(error)) from None

    @pydantic.model_validator(mode="after")
    def _can_be_kept(self) -> Self:
        if self.protect is not None and not self.shows_a:
            raise ValueError("protect: A are no images here, so nothing of them can stay in an output")
        return self

    @pydantic.field_validator("augment")
    @classmethod
    def _each_once(cls, value: tuple[Augmentation, ...]) -> tuple[Augmentation, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"{', '.join(value)}: each augmentation once")
        return value


class OneFolderConfig(LayoutConfig):
    """A layout whose images lie in one folder, or in the train, test and val of it."""

    test_folder: Path | None = None  # images held out, where `folder` has no test or val in it

    def folder_of(self, name: str, root: Path) -> Path | None:
        """Return the folder of the split that the disk calls `name`; None where there is no such split."""
        place = self.place(root)
        if name == "test" and self.test_folder is not None:
            return self.test_folder.expanduser()
        if (place / name).is_dir():
            return place / name
        if name == "train" and not any((place / other).is_dir() for other in FOLDERS_OF["test"]):
            return place  # all of it, as nothing in it is set apart
        return None

    def lacks(self, split: Split, root: Path) -> NoData:
        tests = [name for name in FOLDERS_OF["test"] if split == "train" and (self.place(root) / name).is_dir()]
        if not tests:
            return super().lacks(split, root)
        return NoData(f"holds no train images: beside {tests[0]}, they are to lie in a folder that is called train",
                      self.place(root), f"move those that are to be trained on into {visible(self.place(root))}/train")

    @pydantic.model_validator(mode="after")
    def _test_images_apart(self) -> Self:
        if self.test_folder is not None and self.folder is None:
            raise ValueError("test_folder: goes with folder; a card has its own test images")
        if self.test_folder is not None and self.folder is not None and self.test_folder.is_relative_to(self.folder):
            raise ValueError("test_folder: lies in folder, and its images would be trained on; call it test, and put "
                             "the others into train beside it")
        return self
