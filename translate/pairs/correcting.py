"""A corrected copy of a data set of pairs: the same tree, one image of each pair brought onto the other.

Originals are only read. `OUT/.translate-align.jsonl` holds a line for each pair: what was measured, what was done about
it, how far the pair is off now. A call that was stopped goes on where it was: a pair whose inputs, options and outputs
are those of its line is left alone.

What cannot be told is not guessed: such a pair is copied as it is, and so is one that lies well already. A correction
that does not bring a pair nearer is not taken either.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from translate import files
from translate.data.recognising import Kind, read_as
from translate.errors import DataError, DiskError, ImageError, TranslateError, UsageError
from translate.foreign import Shape, read_lines
from translate.host.signals import minding_signals
from translate.images.georeference import PLACE_TAGS, geo_from, place_of
from translate.images.pictures import Picture, bits_of
from translate.images.values import NoData
from translate.images.writing import holds, write_image
from translate.metrics.alignment import Alignment, align, align_pixels
from translate.pairs.moving import Model, Part, cropped, moved, sources, valid_part
from translate.pairs.pair_files import Pair, as_measured, pairs_of

LEDGER = ".translate-align.jsonl"
QUALITY = 98  # of JPEG and lossy WebP
SMALLEST = 8  # px, of a side that is left of a cropped pair
Edges = Literal["crop", "mark"]
Side = Literal["a", "b"]


class Row(Shape):
    """A line of the ledger that this module relies on."""

    pair: str
    key: str
    outputs: dict[str, list[int]]  # path below the folder: bytes, and time of writing in ns


@dataclass
class Corrected:
    """What became of all pairs."""

    total: int
    moved: int = 0
    in_place: int = 0  # nearer than can be told
    unsure: int = 0  # copied as they are, as nothing can be told of them
    already: int = 0  # done by an earlier call
    failed: list[str] = field(default_factory=list)
    before: list[float] = field(default_factory=list)  # px that moved pairs were off
    after: list[float] = field(default_factory=list)  # px that they are off now
    stopped: bool = False

    def count(self, record: dict[str, Any]) -> None:
        """Add a pair whose images are written."""
        self.moved += record["what"] == "moved"
        self.in_place += record["what"] == "in place"
        self.unsure += record["what"] == "unsure"
        if record["what"] == "moved":
            self.before.append(record["before"])
            self.after.append(record["after"])

    @property
    def exit_code(self) -> int:
        """0: all, 3: some, 4: none of the pairs are there; 75: stopped, and can be gone on with."""
        done = self.total - len(self.failed)
        return 75 if self.stopped else 0 if not self.failed else 3 if done else 4


def align_pairs(folder: Path, out: Path, model: Model, *, kind: Kind | None = None, move: Side = "b",
                edges: Edges = "crop", on_progress: Callable[[int, int], None] = lambda done, total: None) -> Corrected:
    """Write a copy of the pairs below `folder`, in which the images of a pair lie on each other.

    out     a folder outside of it; what an earlier call has done there is kept
    model   what is undone: a shift, a similarity (also scale and rotation), or a flow (each pixel's own way)
    kind    what the folder holds; None: what it seems to
    move    the image of a pair that is brought onto the other, which is not resampled
    edges   where what was moved has no source: `crop` both images to what has one; or `mark`: keep their size, these
            pixels have no data (floats, and TIFF)

    Suffixes stay where the format can be written, else files become .png or .tif: x.gif becomes x.png, and beside
    another x it becomes x.gif.png. A file that an earlier call wrote for a pair under another name is removed. JPEG and
    WebP are encoded anew where something was moved or cropped. Raises `DataError` for a folder without pairs, and for
    names that would be given twice; `UsageError` for an `out` that lies in it, `DiskError`. SIGINT and SIGTERM end the
    call after the pair in hand.
    """
    # Never touch what was given.
    if out.resolve().is_relative_to(folder.resolve()) or folder.resolve().is_relative_to(out.resolve()):
        raise UsageError(f"{out} and {folder} lie in each other: a corrected copy needs a folder of its own")
    if out.is_dir() and any(out.iterdir()) and not (out / LEDGER).is_file():
        raise UsageError(f"{out} holds other files: a corrected copy needs a folder of its own, or one of an earlier "
                         "call")
    pairs = pairs_of(read_as(folder, kind), folder)
    copy = _Copy(folder, out, pairs, model, move, edges)
    copy.open()

    # Pair by pair; a fault in one costs the others nothing.
    summary = Corrected(len(pairs))
    with minding_signals() as stop:
        for number, pair in enumerate(pairs, 1):
            if stop:
                summary.stopped = True
                break
            try:
                copy.make(pair, summary)
            except DiskError:
                raise
            except TranslateError as error:
                summary.failed.append(str(error))
            on_progress(number, len(pairs))
    return summary


class _Copy:
    """The copy below `out`, under one set of options."""

    def __init__(self, folder: Path, out: Path, pairs: Sequence[Pair], model: Model, move: Side, edges: Edges):
        self.folder, self.out = folder, out
        self.model, self.move, self.edges = model, move, edges
        self.crowded = crowded_of(pairs)
        self.done: dict[str, Any] = {row["pair"]: row for row in read_lines(out / LEDGER, Row)}

    def open(self) -> None:
        """Make the folder and its ledger, by which a later call knows the folder. Raises `DiskError`."""
        with files.as_disk_errors(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
            with files.appending(self.out / LEDGER) as ledger:  # what a crash has cut must not swallow the next line
                if ledger.tell() and os.pread(ledger.fileno(), 1, ledger.tell() - 1) != b"\n":
                    ledger.write(b"\n")

    def make(self, pair: Pair, summary: Corrected) -> None:
        """Write a pair and its line, unless it is there. Raises `TranslateError`."""
        name = pair.a.relative_to(self.folder).as_posix()
        key = " ".join([str(files.checksum(pair.a)), str(files.checksum(pair.b)), self.model, self.move, self.edges])
        row = self.done.get(name)
        if row is not None and row["key"] == key and all(
                files.stamp(self.out / path) == stamp for path, stamp in row["outputs"].items()):
            summary.already += 1
            return

        # Measure, and decide
        images: dict[str, Picture] = dict(zip("ab", pair.read(), strict=True))
        still: Side = "a" if self.move == "b" else "b"
        found, flow = align_pixels(*(as_measured(images[side], pair.labels and side == "a")
                                     for side in (still, self.move)))
        off = _off(found, self.model)
        record: dict[str, Any] = {"pair": name, "split": pair.split, "key": key, "model": self.model,
                                  "shift": found.shift, "scale": found.scale, "rotation": found.rotation,
                                  "warp": found.warp, "why": found.reason}
        correction = None
        if not found.confident or off is None:
            record["what"] = "unsure"
        elif off <= (found.accuracy or 0.0):
            record["what"] = "in place"
        else:
            correction = self._corrected(pair, images, still, found, flow)
            if correction is None or correction.off is None or correction.off >= off:
                record, correction = record | {"what": "unsure", "why": "moved, it lies no better"}, None
            else:
                record |= {"what": "moved", "before": off, "after": correction.off, "part": correction.corners}

        # Write the images, or copy their files; then the line that says that they are there
        written = self._write(pair, correction.images) if correction is not None else self._copied(pair)
        record["outputs"] = {path.relative_to(self.out).as_posix(): files.stamp(path) for path in written}
        self.done[name] = record
        if row is not None:
            self._remove(set(row["outputs"]).difference(*(each["outputs"] for each in self.done.values())))
        with files.as_disk_errors(self.out / LEDGER):
            files.append_line(self.out / LEDGER, record)
        summary.count(record)

    def _corrected(self, pair: Pair, images: dict[str, Picture], still: Side, found: Alignment,
                   flow: np.ndarray | None) -> _Correction | None:
        """Return both images of a pair after the correction; None where too little of them is left."""
        shape = images["a"].pixels.shape[:2]
        places = sources(found, flow, self.model, (shape[0], shape[1]))
        nearest = pair.labels and self.move == "a"
        brought, inside = moved(images[self.move], places, nearest)
        brought = replace(brought, geo=self._geo(images[still], images[self.move], found))
        part = valid_part(inside)
        if min(each.stop - each.start for each in part) < SMALLEST:
            return None

        # How they lie on each other now, where both are
        made: dict[str, Picture] = {still: images[still], self.move: brought}
        again = align(*(as_measured(cropped(made[side], part), pair.labels and side == "a")
                        for side in (still, self.move)))
        if self.edges == "crop":
            made = {side: cropped(image, part) for side, image in made.items()}
        elif not inside.all():
            unknown = ~inside if brought.unknown is None else brought.unknown | ~inside
            made[self.move] = replace(brought, unknown=unknown)
        return _Correction(made, part if self.edges == "crop" else None, _off(again, self.model))

    def _geo(self, still: Picture, moving: Picture, found: Alignment) -> tuple[Any, ...]:
        """Return a GeoTIFF's tags of a picture after it was moved: its own, and that it lies where its partner does.

        If that does not say, it lies where it lay before, which only a shift leaves simple to tell; else nowhere.
        """
        place = place_of(still.geo)
        if not place and self.model == "shift" and found.shift is not None:
            place = geo_from(place_of(moving.geo), found.shift[1], found.shift[0])
        return (*place, *(tag for tag in moving.geo if tag[0] not in PLACE_TAGS))

    def _write(self, pair: Pair, images: dict[str, Picture]) -> list[Path]:
        """Write the images of a pair. Raises `ImageError` for what a format cannot hold."""
        if pair.halves:
            left, right = (images[side] for side in ("ba" if pair.swapped else "ab"))
            return [self._write_file(self._as_stored(pair.a, beside(left, right)))]

        # What cannot be written is refused before a half of a pair is
        stored = [self._as_stored(pair.a, images["a"]), self._as_stored(pair.b, images["b"])]
        return [self._write_file(each, pair.labels and number == 0) for number, each in enumerate(stored)]

    def _as_stored(self, origin: Path, picture: Picture) -> _Stored:
        """Return a picture as it is stored in the place of `origin`, in its format where that can be."""
        pixels, geo = picture.pixels, picture.geo
        if pixels.dtype == np.float64:
            raise ImageError(origin, "write", "holds whole numbers of 32 bits, which cannot be written; save it as "
                             "floats, or with 16 bits")
        bits = 16 if pixels.dtype == np.int16 else bits_of(pixels)
        suffix = next(each for each in (origin.suffix, ".png", ".tif")
                      if holds(each, pixels.shape[2], bits) and (pixels.dtype != np.int16 or each != ".png"))
        path = self.out / origin.relative_to(self.folder)
        if suffix != origin.suffix:
            path = path.with_name(origin.name + suffix) if origin in self.crowded else path.with_suffix(suffix)

        # What has no data is a value, which the file tells if it can
        if picture.unknown is not None:
            nodata = NoData.of_output(pixels.dtype, picture.nodata, None)
            if not nodata.told or suffix.lower() not in (".tif", ".tiff"):
                raise DataError(f"cannot mark pixels without data in {suffix} of {pixels.dtype}", origin,
                                "take --edges crop, or files that name a value for no data (TIFF)")
            pixels, geo = nodata.put(pixels, picture.unknown), nodata.tags(geo)
        elif picture.nodata is not None:  # a resampled value may be like it
            pixels = NoData(picture.nodata, True).put(pixels, None)
        return _Stored(origin, path, replace(picture, pixels=pixels, geo=geo))

    def _write_file(self, stored: _Stored, labels: bool = False) -> Path:
        """Write a picture, and return where; `labels`: with the palette of its original."""
        path, picture = stored.path, stored.picture
        with files.as_disk_errors(path):
            files.make_folder(path.parent, self.out)
        if not labels or not _with_palette(stored.origin, picture.pixels, path):
            write_image(path, picture.pixels, alpha=picture.alpha, icc=picture.icc, exif=picture.exif, dpi=picture.dpi,
                        geo=picture.geo, quality=QUALITY if path.suffix.lower().startswith((".jp", ".jf")) else None)
        return path

    def _copied(self, pair: Pair) -> list[Path]:
        """Copy the files of a pair as they are."""
        made = []
        for origin in dict.fromkeys([pair.a, pair.b]):
            path = self.out / origin.relative_to(self.folder)
            with files.as_disk_errors(path):
                files.make_folder(path.parent, self.out)
                files.copy(origin, path)
            made.append(path)
        return made

    def _remove(self, names: Iterable[str]) -> None:
        """Remove files that an earlier call has written, and no line names any more. Raises `DiskError`."""
        for path in (self.out / name for name in names):
            if path.parent.resolve().is_relative_to(self.out.resolve()):  # whatever the ledger says
                with files.as_disk_errors(path):
                    path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Stored:
    """A picture as a file will hold it: in the place of which original, and where."""

    origin: Path
    path: Path
    picture: Picture


@dataclass(frozen=True)
class _Correction:
    """A pair after its correction: its images, the part of them that is left, and how far they are off now, px."""

    images: dict[str, Picture]
    part: Part | None
    off: float | None

    @property
    def corners(self) -> list[int] | None:
        """Return the part as top, left, bottom and right; None where all is left."""
        if self.part is None:
            return None
        rows, columns = self.part
        return [rows.start, columns.start, rows.stop, columns.stop]


def crowded_of(pairs: Sequence[Pair]) -> set[Path]:
    """Return the files that others of one folder share the name with, but for the suffix: x.gif beside x.png.

    Raises `DataError` where such a name with a suffix added (x.gif.png) may be another file's as well.
    """
    by_name: dict[Path, list[Path]] = {}
    for path in dict.fromkeys(each for pair in pairs for each in (pair.a, pair.b)):
        by_name.setdefault(path.with_suffix(""), []).append(path)
    crowded = {path for paths in by_name.values() if len(paths) > 1 for path in paths}
    if clashing := sorted(crowded & by_name.keys()):
        raise DataError(f"its corrected copy may have the name of that of {by_name[clashing[0]][0].name}", clashing[0],
                        "rename one of them")
    return crowded


def _off(found: Alignment, model: Model) -> float | None:
    """Return how far a pair is off, px, of what a model undoes."""
    if found.shift is None or found.displacement is None:
        return None
    if model == "shift":
        return float(np.hypot(*found.shift))
    return found.displacement + ((found.warp or 0.0) if model == "flow" else 0.0)


def beside(left: Picture, right: Picture) -> Picture:
    """Return two pictures of one kind beside each other."""
    alpha, unknown = (None if one is None or other is None else np.concatenate([one, other], 1) for one, other in (
        (left.alpha, right.alpha), (_mask(left, right), _mask(right, left))))
    return replace(left, pixels=np.concatenate([left.pixels, right.pixels], 1), alpha=alpha, unknown=unknown)


def _mask(picture: Picture, other: Picture) -> np.ndarray | None:
    """Return which pixels of a picture have no data, where any of it or its neighbour has none."""
    if picture.unknown is None and other.unknown is not None:
        return np.zeros(picture.pixels.shape[:2], bool)
    return picture.unknown


def _with_palette(origin: Path, numbers: np.ndarray, path: Path) -> bool:
    """Write a label map with the colours that the original's palette has, if it has one."""
    with Image.open(origin) as image:
        if image.mode != "P" or numbers.dtype != np.uint8 or path.suffix.lower() != ".png":
            return False
        made = Image.fromarray(numbers[..., 0])
        made.putpalette(image.getpalette() or [])
    with files.as_disk_errors(path), files.replacing(path) as file:
        made.save(file, "PNG")
    return True


def median(values: Sequence[float]) -> float:
    """Return the median of some values, 0 of none."""
    return float(np.median(values)) if values else 0.0
