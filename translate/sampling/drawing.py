"""`translate sample`: images drawn from noise, a file each, and one sheet of them.

`OUT/images` holds the images, those of a class in a folder of its name, so that it is a set of labelled images that
`data: {kind: images, classes: …}` and other tools read; `OUT/sheet.png` shows up to `MOST_ON_SHEET` of them, and
`OUT/samples.json` says what is drawn. Of several processes each writes its share of the images, and the first all else.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from translate import files
from translate.errors import DataError, visible
from translate.images.tensors import to_array
from translate.images.writing import suffix_for, write_image
from translate.places import data_root
from translate.runs.records import sheet_of
from translate.sampling.nearest import nearest, pooled
from translate.sampling.output_folder import IMAGES, SAMPLES, SHEET, claim
from translate.sampling.planning import MOST_ON_SHEET, Plan, Wanted, planned
from translate.sampling.sampler import Sampler

SHEET_PIXELS = 2**24  # of a sheet's images, which are shrunk where they are more
OnProgress = Callable[[int, int], object]


@dataclass
class Drawn:
    """What there is now: how many images of this process, how many of them were there before, the sheet, and lines."""

    num: int
    num_kept: int
    sheet: Path
    notes: list[str] = field(default_factory=list)


def draw(sampler: Sampler, out: Path, wanted: Wanted, *, overwrite: bool = False, rank: int = 0, world: int = 1,
         on_progress: OnProgress = lambda done, total: None) -> Drawn:
    """Draw images into the folder `out`; this is process `rank` of `world`, and draws its share.

    A draw that was interrupted goes on. Raises `UsageError` for words that do not fit together or the model, and for a
    folder that holds anything else, `DataError` for vectors that do not fit, and `DiskError`.
    """
    plan = planned(sampler, wanted)
    record = record_of(sampler, wanted, plan)
    there = claim(out, record, overwrite=overwrite)
    suffix = suffix_for(".png", sampler.release.image_out)

    # The first process draws what the sheet shows as well, whoever writes the files of it.
    shown = range(min(plan.num, MOST_ON_SHEET) if rank == 0 else 0)
    side = cell_side(plan, len(shown), beside=wanted.arithmetic is not None)
    cells: list[Tensor] = []
    ends: dict[int, Tensor] = {}  # of each row of a sum, small
    total = len(range(rank, plan.num, world)) + sum(number % world != rank for number in shown)
    done = num = num_kept = 0
    for number in range(plan.num):
        mine = number % world == rank
        if not mine and number not in shown:
            continue
        name = f"{plan.name(number)}{suffix}"
        written = mine and number not in plan.repeats
        missing = written and name not in there
        num, num_kept = num + written, num_kept + (written and not missing)
        if missing or number in shown:
            cell = plan.cell(number)
            image = next(sampler.images(cell.latent[None], cell.code[None], [cell.condition]))
        if missing:
            path = out / IMAGES / name
            with files.as_disk_errors(path.parent):
                files.make_folder(path.parent, out)
            write_image(path, to_array(image, sampler.release.image_out))
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


def record_of(sampler: Sampler, wanted: Wanted, plan: Plan) -> dict[str, Any]:
    """Return what `samples.json` says of a draw: all that its images depend on, and how many there are."""
    release = sampler.release
    return {"model": release.name, "weights": release.weights and release.weights.name,
            "fingerprint": release.fingerprint, "seed": wanted.seed, "num": plan.num - len(plan.repeats),
            "classes": wanted.classes, "truncation": wanted.truncation, "grid": wanted.grid,
            "interpolate": wanted.interpolate, "arithmetic": wanted.arithmetic,
            "vectors": wanted.vectors and files.checksum(wanted.vectors), "device": sampler.device.type,
            "precision": sampler.precision, "diptych": version("diptych")}


def cell_side(plan: Plan, num_shown: int, *, beside: bool) -> int:
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

