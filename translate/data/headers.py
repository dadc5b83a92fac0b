"""What the files of a data set say of themselves: sizes, channels, depth, transparency. No pixel is decoded for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from translate.data.layout import LayoutConfig
from translate.data.samples import Samples
from translate.data.scale import HeightWidth, differ, thinned
from translate.errors import DataError, ImageError, TranslateError, visible
from translate.images.decoding import decode, inspect, read_content
from translate.images.pictures import ImageInfo
from translate.sizes import plural

FEW = 100  # images of a side that are trained on; fewer are said to be few
NUM_UNEQUAL = 5  # pairs of two sizes that are named
NUM_VALUES_READ = 5  # files of more than 8 bits that are decoded all the same, to know which values they use
CHANNELS_IN_WORDS = {1: "grey", 3: "colour"}


@dataclass(frozen=True)
class Headers:
    """What the files of one side say of themselves.

    files       all of them
    read        those whose headers were read, evenly spaced where there are many
    infos       what they say
    shapes      the (height, width) of the image in each, upright; of two in one file, that of each
    faults      of the files that cannot be read
    """

    files: tuple[Path, ...]
    read: tuple[Path, ...]
    infos: tuple[ImageInfo, ...]
    shapes: tuple[HeightWidth, ...]
    faults: tuple[ImageError, ...]

    @property
    def image(self) -> dict[str, Any]:
        """What a recipe says of images like these: `channels`, `bits` and, where it takes one, a `range`.

        Raises `DataError` for files that are no images of one kind.
        """
        # Grey and colour images are shown as colour; any other number of channels must be that of all.
        channels = Counter(info.channels for info in self.infos)
        if len(channels) > 1 and not set(channels) <= {1, 3}:
            counted = ", ".join(f"{number} of {many}" for many, number in sorted(channels.items()))
            raise DataError(f"holds images of {len(channels)} numbers of channels ({counted})", self.files[0].parent,
                            "keep files of one kind in it")

        # Of the deepest file. 12 bits in files of 16, and floats beyond [-1, 1], need a range.
        deep = [path for path, info in zip(self.read, self.infos, strict=True) if info.bits != 8]
        image: dict[str, Any] = {"channels": max(channels)}
        if deep:
            whole = all(info.bits in (8, 16) for info in self.infos)
            values = _range_of(deep[:NUM_VALUES_READ], whole)
            image |= {"bits": 16 if whole else "float"} | ({} if values is None else {"range": values})
        return image

    def __str__(self) -> str:
        """Say it in one line, such as `30 images, 1600×1200, colour, 8 bits; 2 may be transparent`."""
        sizes = sorted(set(self.shapes), key=lambda shape: shape[0] * shape[1])
        ends = [f"{width}×{height}" for height, width in (sizes[0], sizes[-1])]
        size = ends[0] if len(sizes) == 1 else f"{ends[0]} to {ends[1]}"
        kinds = {CHANNELS_IN_WORDS.get(info.channels, f"{info.channels} channels") for info in self.infos}
        bits = {"floats" if info.bits == "float" else f"{info.bits} bits" for info in self.infos}
        looked = len(self.read) + len(self.faults)
        some = "" if looked == len(self.files) else f" ({looked:,} looked at)"
        parts = [f"{plural(len(self.files), 'image')}{some}, {size} px, {' and '.join(sorted(kinds))}, "
                 f"{' and '.join(sorted(bits))}"]

        # What of them is out of the ordinary
        for number, what in ((sum(info.alpha for info in self.infos), "may be transparent (shown on white)"),
                             (sum(info.turned for info in self.infos), "turned upright, as EXIF says (sizes as well)"),
                             (len(self.faults), f"without a header that can be read, such as {self._first_fault()}")):
            parts += [f"{number} {what}"] * bool(number)
        return "; ".join(parts)

    def _first_fault(self) -> str:
        return visible(self.faults[0].path or "") if self.faults else ""


def look_at(samples: Samples) -> tuple[Headers, Headers]:
    """Return what the files of A and of B say. Raises `DataError` for a side of which no file can be read."""
    a = _headers(samples, samples.files_a)
    return a, a if samples.files_b == samples.files_a else _headers(samples, samples.files_b)


def seen(layout: LayoutConfig, root: Path) -> Iterator[str]:
    """Yield a line on each side of the images that are trained on and of those held out, where they can be read."""
    for split in ("train", "test"):
        try:
            a, b = look_at(layout.build(split, root))
        except TranslateError:
            continue  # a finding of the check
        for side, headers in ({"": a} if a is b else {" A": a, " B": b}).items():
            few = split == "train" and len(headers.files) < FEW
            yield f"{split}{side}: {headers}" + "; few: expect colours and textures, not new shapes" * few


def size_to_load(layout: LayoutConfig, root: Path) -> int | None:
    """Return the short side, px, at which the images of a bare folder are to be loaded: None, their own, where they
    are much alike in size, or cannot be looked at."""
    try:
        sides = look_at(layout.build("train", root))
    except TranslateError:  # a finding of the check
        return None
    return None if of_one_scale(sides) else short_side(sides)


def short_side(sides: tuple[Headers, Headers]) -> int:
    """Return the short side, px, that nine of ten images have."""
    shorts = _short_sides(sides)
    return shorts[len(shorts) // 10]


def of_one_scale(sides: tuple[Headers, Headers]) -> bool:
    """Return whether images are so much alike in size that each can keep its own: most within a third of each other."""
    shorts = _short_sides(sides)
    tenth = len(shorts) // 10
    return not differ(shorts[tenth], shorts[-1 - tenth])


def unequal(sides: tuple[Headers, Headers]) -> str:
    """Return, of pairs, how many are of images of two sizes, and the first of them, in words; nothing where none is."""
    a, b = sides
    if len(a.files) != len(b.files):
        return ""
    of_b = dict(zip(b.read, b.shapes, strict=True))
    partners = dict(zip(a.files, b.files, strict=True))
    differ = [f"{visible(path.name)} is {width}×{height} and its partner {of_b[partners[path]][1]}×"
              f"{of_b[partners[path]][0]} px" for path, (height, width) in zip(a.read, a.shapes, strict=True)
              if of_b.get(partners[path], (height, width)) != (height, width)]
    if not differ:
        return ""
    more = f" and {len(differ) - NUM_UNEQUAL} more" * (len(differ) > NUM_UNEQUAL)
    return (f"is to hold pairs, and {len(differ)} of {len(a.read)} are of two sizes: "
            f"{'; '.join(differ[:NUM_UNEQUAL])}{more}")


def _short_sides(sides: tuple[Headers, Headers]) -> list[int]:
    """Return the short sides of all images, px, from the least to the most."""
    return sorted(min(shape) for side in sides for shape in side.shapes)


def _headers(samples: Samples, files: Sequence[Path]) -> Headers:
    read, infos, shapes, faults = [], [], [], []
    for path in thinned(files):
        try:
            shape, info = samples.shape_in(path), inspect(path)
        except ImageError as error:
            faults.append(error)
            continue
        read.append(path)
        infos.append(info)
        shapes.append(shape)
    if not infos:
        raise DataError(f"none of its {plural(len(files), 'image')} can be read: {faults[0].reason}", files[0].parent)
    return Headers(tuple(files), tuple(read), tuple(infos), tuple(shapes), tuple(faults))


def _range_of(files: Sequence[Path], whole: bool) -> list[float] | None:
    """Return the range of values that some deep files use, as a recipe would say it; None: all of their type."""
    values, have_signs = [], False
    for path in files:
        try:
            picture = decode(read_content(path), path)
        except ImageError:
            continue  # a check says so
        if picture.range is not None:  # its own window shows it
            return None
        known = picture.pixels if picture.unknown is None else picture.pixels[~picture.unknown]
        values += [known.min(), known.max()] if known.size else []
        have_signs |= known.dtype.kind == "i"
    if not values:
        return None
    low, high = float(min(values)), float(max(values))
    if whole:
        bits = int(high).bit_length()
        if have_signs:  # which are refused without a range
            return [low, max(high, low + 1)] if low < 0 else [0, 2**max(bits, 1) - 1]
        return [0, 2**bits - 1] if 8 <= bits < 16 else None
    if -1 <= low < 0 and high <= 1:
        return None
    return [0, 1] if low >= 0 and high <= 1 else [low, max(high, low + 1)]
