"""Images that any tool has left in a folder, as scores compare them, and what their values stand for.

Files of 16 bits may hold 12, and floats anything. A range of values, the same for all folders that are compared, says
what is black and white; without one all of a type counts, and values that fill a small part of it are told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from translate.data.check_pixels import PixelCount
from translate.data.pairing import list_images, names_of
from translate.errors import DataError, ImageError, visible
from translate.evaluation.heldout import evenly_spaced
from translate.images.decoding import decode, read_content
from translate.images.pictures import Picture
from translate.images.reading import ImageConfig, fit
from translate.images.tensors import to_tensor
from translate.images.values import Range
from translate.metrics.baselines import identity
from translate.missing import no_images

RANGE_ADVICE = "say which of them are black and white, in all folders: --range LOW,HIGH; without it, floats are to " \
               "lie in [-1, 1]"


@dataclass(frozen=True)
class Images:
    """`num` images, each read when it is asked for by its number: (C, H, W) in [-1, 1].

    They can be sent to other processes, which read them by the same paths.
    """

    num: int
    read: Callable[[int], Tensor]
    paths: Sequence[Path] = ()  # the file of each, where they lie in a folder
    values: PixelCount | None = None  # that have been seen in files, as far as they are read


class FolderImages:
    """At most `most` of the images `paths`, evenly spaced, and what their values are.

    low_high  the values that stand for black and white; None: all of a type
    """

    def __init__(self, paths: Sequence[Path], most: int | None, low_high: Range | None):
        self.paths = [paths[index] for index in evenly_spaced(len(paths), most)]
        self._config = ImageConfig(bits="float", range=low_high)
        self._channels = len(self._tensor(self._picture(self.paths[0])))
        self._counted: set[int] = set()
        self.count = PixelCount(self._config, "")

    @property
    def images(self) -> Images:
        """Return them as they are compared. Reading one with other channels than the first raises `DataError`."""
        return Images(len(self.paths), self._read, self.paths, self.count)

    def _read(self, number: int) -> Tensor:
        path = self.paths[number]
        picture = self._picture(path)
        if number not in self._counted:
            self._counted.add(number)
            self.count.look_at_values(picture)
        image = self._tensor(picture)
        if len(image) != self._channels:
            raise DataError(f"has {len(image)} channels, and {self.paths[0]} has {self._channels}", path,
                            "all images of a set must have equally many")
        return image

    def _picture(self, path: Path) -> Picture:
        """Decode a file. Raises `ImageError` where it cannot be, and where its type does not hold the range."""
        picture = decode(read_content(path), path)
        dtype, low_high = picture.pixels.dtype, self._config.range
        if low_high is not None and dtype.kind in "ui":
            limits = np.iinfo(dtype)
            if low_high[0] < limits.min or low_high[1] > limits.max:
                raise ImageError(path, "read", f"holds {dtype} samples, which cannot reach from {low_high[0]:g} to "
                                 f"{low_high[1]:g} (--range); store the images of all folders in the same values")
        return picture

    def _tensor(self, picture: Picture) -> Tensor:
        """Return an image as (C, H, W) float32 in [-1, 1], as it is seen on white where it is transparent.

        Grey becomes RGB, as formats differ in whether they keep grey images grey. Raises `ImageError`.
        """
        config = self._config.model_copy(update={"channels": picture.pixels.shape[2]})
        image = to_tensor(fit(picture, config, RANGE_ADVICE).pixels, config)
        return image if (rgb := identity(image, 3)) is None else rgb


def doubts(folders: dict[Path, FolderImages]) -> Iterator[str]:
    """Yield, once the images of all folders have been read, what makes scores of their values doubtful."""
    parts = {folder: part for folder, of in folders.items() if (part := of.count.part_used()) is not None}
    lows, highs = zip(*(part.proposed for part in parts.values()), strict=True) if parts else ((), ())
    for folder, part in parts.items():
        advice = "those of the other folder do not: store both in the same values"
        if len(parts) == len(folders):
            advice = f"if that is all they can hold, add --range {min(lows):g},{max(highs):g}, or errors look too small"
        yield f"the values of {visible(folder)} {part.words}; {advice}"
    for folder, of in folders.items():
        if outside := of.count.outside:
            yield (f"of the values of {visible(folder)}: {len(outside)} of {len(of.paths)} images have "
                   f"some outside of --range, which become its ends; all reach from {of.count.lowest:g} to "
                   f"{of.count.highest:g}")


def list_folder(folder: Path) -> list[Path]:
    """List the images below `folder`, at least one. Raises `UsageError`, `DataError`."""
    if not folder.is_dir():
        raise no_images(folder)
    try:
        found = list_images(folder)
    except ImageError as error:
        raise DataError.of(error) from None
    if not found:
        raise DataError("holds no image of a format that can be read", folder)
    return found


def unpaired_in_words(folder: Path, only_images: Sequence[Path], against: Path,
                      only_reals: Sequence[Path]) -> list[str]:
    """Return a line on the images, and one on the real ones, that pair with nothing."""
    return [f"scores of {len(lonely)} in {visible(place)}, which pair by name with nothing in {visible(other)}: "
            f"{names_of(lonely)}"
            for lonely, place, other in ((only_images, folder, against), (only_reals, against, folder)) if lonely]
