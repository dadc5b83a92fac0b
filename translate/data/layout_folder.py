"""Where a layout's images lie: in the folder of a card, or in any other folder."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pydantic

from translate.data.pairing import list_images
from translate.errors import DataError, ImageError, NoData, visible
from translate.schema import Config, Name


class PlaceConfig(Config):
    """What layouts of a training's data and of labelled images share: `card` or `folder` says where the images are."""

    card: Name | None = None  # a data set of `translate data list`
    folder: Path | None = None

    ways: ClassVar[str] = "card: NAME, or folder: PATH"  # to say where the images are

    @property
    def contents(self) -> str:
        """What is expected in the folder, in words."""
        raise NotImplementedError

    def place(self, root: Path) -> Path:
        """Return the folder that holds everything; `root` is where prepared cards lie. Raises `NoData`."""
        place = root / self.card if self.card is not None else (self.folder or root).expanduser()
        return self.existing(place, self.contents)

    def existing(self, folder: Path, contents: str) -> Path:
        """Return a folder that is there. Raises `NoData` where it is not, saying what should be in it."""
        if not folder.is_dir():
            where = "" if folder.is_absolute() else f" (a relative path; looked for: {visible(folder.absolute())})"
            raise NoData(f"no such folder{where}; expected {contents} in it", folder, self.hint())
        return folder

    def list_files(self, folder: Path, pattern: str = "*") -> list[Path]:
        """Return the image files below a folder, at least one. Raises `DataError`, `NoData` where there is none."""
        self.existing(folder, "images")
        try:
            files = list_images(folder, pattern)
        except ImageError as error:
            raise DataError.of(error) from None
        if not files:
            names = "" if pattern == "*" else f" named {pattern}"
            raise NoData(f"holds no images{names} that we read", folder, self.hint())
        return files

    def hint(self) -> str | None:
        """Return what to do when something is missing; None where the folder is the user's own."""
        return f"run: translate data prepare {self.card}" if self.card is not None else None

    def given(self) -> list[str]:
        """Return the fields that say where the images are: it must be one."""
        return [field for field in ("card", "folder") if getattr(self, field) is not None]

    @pydantic.model_validator(mode="after")
    def _one_place(self) -> PlaceConfig:
        given = self.given()
        if len(given) != 1:
            raise ValueError(f"{' and '.join(given)}: say once where the images are ({self.ways})" if given else
                             f"no image location; give {self.ways}")
        return self
