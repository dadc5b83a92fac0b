"""`translate sample`: images drawn from noise, a file each, and one sheet of them.

`OUT/images` holds the images, those of a class in a folder of its name, so that it is a set of labelled images that
`data: {kind: images, classes: …}` and other tools read; `OUT/sheet.png` shows up to `MOST_ON_SHEET` of them, and
`OUT/samples.json` says what is drawn. Of several processes each writes its share of the images, and the first all else;
the workers of a cluster write the images, and the process that asks them to all else.
"""

from __future__ import annotations

import itertools
import math
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from translate import files
from translate.cluster.ray_engine import RayEngine
from translate.errors import DataError, TranslateError, visible
from translate.images.tensors import to_array
from translate.images.writing import suffix_for, write_image
from translate.places import data_root
from translate.recipe import Recipe
from translate.runs.records import sheet_of
from translate.runs.release import Release
from translate.sampling.nearest import nearest, pooled
from translate.sampling.output_folder import IMAGES, SAMPLES, SHEET, claim
from translate.sampling.planning import MOST_ON_SHEET, DrawPlan, Wanted, planned
from translate.sampling.sampler import Precision, Sampler

SHEET_PIXELS = 2**24  # of a sheet's images, which are shrunk where they are more
OnProgress = Callable[[int, int], object]


@dataclass
class Drawn:
    """What there is now: how many images of this process, how many of them were there before, the sheet, and lines."""

    num: int
    num_kept: int
    sheet: Path
    notes: list[str] = field(default_factory=list)


class Drawing:
    """Images of a draw, each into its file."""

    def __init__(self, sampler: Sampler, out: Path, plan: DrawPlan):
        self.sampler, self.out, self.plan = sampler, out, plan
        self.suffix = suffix_for(".png", sampler.release.image_out)

    @classmethod
    def elsewhere(cls, sampler: Sampler, out: Path, wanted: Wanted) -> Callable[[], Drawing]:
        """Return what makes the same in another process, which may stand in another folder, on as good a device."""
        vectors = wanted.vectors and wanted.vectors.absolute()
        release = replace(sampler.release, generator=deepcopy(sampler.generator).cpu())
        return partial(cls.made, release, sampler.recipe, sampler.device.type, sampler.precision, out.absolute(),
                       replace(wanted, vectors=vectors))

    @classmethod
    def made(cls, release: Release, recipe: Recipe, device: str, precision: Precision, out: Path,
             wanted: Wanted) -> Drawing:
        """Make one of what can be sent to another process."""
        sampler = Sampler(release, recipe, device, precision)
        return cls(sampler, out, planned(sampler, wanted))

    def name(self, number: int) -> str:
        """Return what the file of an image is called, below the folder of all."""
        return f"{self.plan.name(number)}{self.suffix}"

    def image(self, number: int) -> Tensor:
        """Return an image (C, H, W), float32 in [-1, 1] on the CPU."""
        cell = self.plan.cell(number)
        return next(self.sampler.images(cell.latent[None], cell.code[None], [cell.condition]))

    def write(self, number: int, image: Tensor) -> None:
        """Write the file of an image. Raises `DiskError`."""
        path = self.out / IMAGES / self.name(number)
        with files.as_disk_errors(path.parent):
            files.make_folder(path.parent, self.out)
        write_image(path, to_array(image, self.sampler.release.image_out))

    def sizes(self, numbers: Sequence[int]) -> list[int]:
        """Return the pixels of images: all are alike."""
        height, width = self.sampler.recipe.stages[-1].size
        return [height * width] * len(numbers)

    def do(self, numbers: Sequence[int], stop: object) -> tuple[list[int], None]:
        """Draw images until `stop` is true; return their numbers."""
        done = []
        for number in numbers:
            if stop:
                break
            self.write(number, self.image(number))
            done.append(number)
        return done, None


def draw(sampler: Sampler, out: Path, wanted: Wanted, *, overwrite: bool = False, rank: int = 0, world: int = 1,
         engine: RayEngine | None = None, on_progress: OnProgress = lambda done, total: None) -> Drawn:
    """Draw images into the folder `out`; this is process `rank` of `world`, and draws its share.

    engine   a connected cluster that draws the images, in place of this process, which draws those of the sheet alone.
             Its workers take the kind of device that `sampler` is on

    A draw that was interrupted goes on. Raises `UsageError` for words that do not fit together or the model, and for a
    folder that holds anything else, `DataError` for vectors that do not fit, `DiskError`, what `RayEngine.run` raises.
    """
    plan = planned(sampler, wanted)
    record = record_of(sampler, wanted, plan)
    there = claim(out, record, overwrite=overwrite)
    drawing = Drawing(sampler, out, plan)

    # The first process draws what the sheet shows as well, whoever writes the files of it.
    shown = range(min(plan.num, MOST_ON_SHEET) if rank == 0 else 0)
    side = cell_side(plan, len(shown), beside=wanted.arithmetic is not None)
    cells: list[Tensor] = []
    ends: dict[int, Tensor] = {}  # of each row of a sum, small
    total = len(range(rank, plan.num, world)) + sum(number % world != rank for number in shown)
    done = num = num_kept = 0
    if engine is not None:
        total = plan.num + len(shown)
        num, num_kept = draw_on(engine, drawing, wanted, there, lambda so_far: on_progress(so_far, total))
        done = plan.num
    for number in shown if engine is not None else range(plan.num):
        mine = engine is None and number % world == rank
        if not mine and number not in shown:
            continue
        written = mine and number not in plan.repeats
        missing = written and drawing.name(number) not in there
        num, num_kept = num + written, num_kept + (written and not missing)
        if missing or number in shown:
            image = drawing.image(number)
        if missing:
            drawing.write(number, image)
        if number in shown:
            cells.append(shrunk(image, side))
            if wanted.arithmetic is not None:
                ends[plan.row(number)] = pooled(image)
        done += 1
        on_progress(done, total)

    drawn = Drawn(num, num_kept, out / SHEET)
    if rank == 0:
        rows = [[cells[number] for number in row] for _, row in itertools.groupby(shown, plan.row)]
        if ends:
            record |= _beside(sampler, list(ends.values()), rows, side, drawn.notes,
                              lambda seen, of: on_progress(total + seen, total + of))
        with files.as_disk_errors(out):
            write_image(out / SHEET, sheet_of(rows).numpy())
            files.write_json(out / SAMPLES, record)
    return drawn


def draw_on(engine: RayEngine, drawing: Drawing, wanted: Wanted, there: set[str],
            on_progress: Callable[[int], object]) -> tuple[int, int]:
    """Have a cluster draw the images that are not `there`. Return how many there are now, and how many there were."""
    plan = drawing.plan
    num, missing = plan.num - len(plan.repeats), array("Q", (
        number for number in range(plan.num) if number not in plan.repeats and drawing.name(number) not in there))
    num_kept = done = num - len(missing)
    make = Drawing.elsewhere(drawing.sampler, drawing.out, wanted)
    with closing(engine.run(missing, make, False, deadly, ", and use --shard auto on each machine")) as parts:
        for numbers, _ in parts:
            done += len(numbers)
            on_progress(done)
    return num, num_kept


def deadly(number: int, error: str, what: str) -> int:
    """Raise `TranslateError`: an image with which workers die is not left out."""
    raise TranslateError(f"image {number}: {what} ({error})")


def record_of(sampler: Sampler, wanted: Wanted, plan: DrawPlan) -> dict[str, Any]:
    """Return what `samples.json` says of a draw: all that its images depend on, and how many there are."""
    release = sampler.release
    return {"model": release.name, "weights": release.weights and release.weights.name,
            "fingerprint": release.fingerprint, "seed": wanted.seed, "num": plan.num - len(plan.repeats),
            "classes": wanted.classes, "truncation": wanted.truncation, "grid": wanted.grid,
            "interpolate": wanted.interpolate, "arithmetic": wanted.arithmetic,
            "vectors": wanted.vectors and files.checksum(wanted.vectors), "device": sampler.device.type,
            "precision": sampler.precision, "diptych": version("diptych")}


def cell_side(plan: DrawPlan, num_shown: int, *, beside: bool) -> int:
    """Return the largest side, in px, of images on the sheet; `beside`: a real image stands behind each row."""
    rows = Counter(map(plan.row, range(num_shown)))
    fields = len(rows) * (max(rows.values(), default=0) + beside)
    return math.isqrt(SHEET_PIXELS // max(1, fields))


def shrunk(image: Tensor, side: int) -> Tensor:
    """Return an image (C, H, W) with sides of at most `side` px, as wide for its height as it was."""
    factor = side / max(image.shape[1:])
    if factor >= 1:
        return image
    return F.interpolate(image[None], [max(1, int(each * factor)) for each in image.shape[1:]], mode="area")[0]


def _beside(sampler: Sampler, ends: Sequence[Tensor], rows: list[list[Tensor]], side: int, notes: list[str],
            on_progress: OnProgress) -> dict[str, Any]:
    """Set the nearest real image behind each row of a sum, whose last images are `ends`; return what is said of it."""
    try:
        found, unreadable = nearest(ends, sampler.recipe.data.build("train", data_root()), sampler.release.fitting,
                                    on_progress)
    except DataError as error:
        notes.append(f"the nearest real images are not shown: {error}")
        return {}
    for row, real in zip(rows, found, strict=True):
        row.append(shrunk(real.image, side))
    if unreadable:
        notes.append(f"{unreadable} training images cannot be read, and nothing was compared with them")
    notes.append(f"the real image nearest to the result is {visible(found[-1].name)}, at a mean squared difference of "
                 f"{found[-1].distance:.3f}")
    return {"nearest": [{"file": real.name, "distance": real.distance} for real in found], "unreadable": unreadable}

