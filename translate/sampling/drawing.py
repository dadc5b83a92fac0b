"""`translate sample`: images drawn from noise, a file each, and one sheet of them.

`OUT/images` holds the images, those of a class in a folder of its name, so that it is a set of labelled images that
`data: {kind: images, classes: …}` and other tools read; `OUT/sheet.png` shows up to `MOST_ON_SHEET` of them, and
`OUT/samples.json` says what was drawn. Of several processes each writes its share of the images, and the first all
else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from translate import files
from translate.data.conditioned import read_vectors
from translate.errors import DataError, UsageError, visible
from translate.images.tensors import to_array
from translate.images.writing import suffix_for, write_image
from translate.places import data_root
from translate.runs.records import sheet_of
from translate.sampling.latents import between, parse_sum, where_latents_lie
from translate.sampling.nearest import nearest
from translate.sampling.sampler import MOST_SAMPLES, Sampler

DEFAULT_NUM, DEFAULT_ROWS = 64, 8  # images, or rows of a grid's columns and of ways from one sample to another
MOST_ON_SHEET = 400
SHEET, SAMPLES = "sheet.png", "samples.json"
OnProgress = Callable[[int, int], object]


@dataclass(frozen=True)
class Wanted:
    """What is to be drawn.

    num           images; with `grid` latents, with `interpolate` ways; None: 64 or 8 of them
    classes       names or numbers, "0,1,2"; None: all. Sample i is of the i-th of them, and so on from the first again
    truncation    ψ; None: latents as they were in training
    grid          each latent under each class; of a model without classes, under each value of its first code
    interpolate   images from one sample to the next, both included: from 0 to 1, from 2 to 3, …
    arithmetic    a sum of samples by their numbers, "7,12,3 - 5,9 + 1"
    vectors       a vectors.npz for a model that draws beside vectors; None: those of its data's test images
    """

    num: int | None = None
    seed: int = 0
    classes: str | None = None
    truncation: float | None = None
    grid: bool = False
    interpolate: int | None = None
    arithmetic: str | None = None
    vectors: Path | None = None


class Cell(NamedTuple):
    """An image to be drawn: its name without suffix, and what it is drawn from and under."""

    name: str
    latent: Tensor
    code: Tensor
    condition: Tensor


@dataclass
class Drawn:
    """What was drawn: how many images, the sheet, and lines about them."""

    num: int
    sheet: Path
    notes: list[str] = field(default_factory=list)


def draw(sampler: Sampler, out: Path, wanted: Wanted, *, overwrite: bool = False, rank: int = 0, world: int = 1,
         on_progress: OnProgress = lambda done, total: None) -> Drawn:
    """Draw images into the folder `out`; this is process `rank` of `world`, and draws its share.

    Raises `UsageError` for words that do not fit together or the model, `DataError` for vectors that do not, and
    `DiskError`.
    """
    rows = planned(sampler, wanted)
    cells = [cell for row in rows for cell in row]
    suffix = suffix_for(".png", sampler.release.image_out)
    paths = [out / "images" / f"{cell.name}{suffix}" for cell in cells]
    mine = {number for number in range(len(cells)) if number % world == rank}
    if not overwrite:
        refuse_to_replace([paths[number] for number in sorted(mine)] + [out / SHEET] * (rank == 0))

    # The first process draws what the sheet shows as well, whoever writes the files of it.
    shown = set(range(min(len(cells), MOST_ON_SHEET))) if rank == 0 else set[int]()
    made: dict[int, Tensor] = {}
    todo = sorted(mine | shown)
    for done, (number, image) in enumerate(zip(todo, _images(sampler, [cells[each] for each in todo]), strict=True), 1):
        if number in mine:
            paths[number].parent.mkdir(parents=True, exist_ok=True)
            write_image(paths[number], to_array(image, sampler.release.image_out))
        if number in shown:
            made[number] = image
        on_progress(done, len(todo))

    notes: list[str] = []
    if rank == 0:
        _write_sheet(sampler, out, wanted, rows, made, notes)
    return Drawn(len(mine), out / SHEET, notes)


def refuse_to_replace(paths: Sequence[Path]) -> None:
    """Raise `UsageError` for files that are there."""
    there = [path for path in paths if path.exists()]
    if there:
        raise UsageError(f"{len(there)} files are there already, the first {visible(there[0].name)}", there[0].parent,
                         "name another OUT, or add --overwrite")


def planned(sampler: Sampler, wanted: Wanted) -> list[list[Cell]]:
    """Return what is to be drawn, by the rows of the sheet. Raises `UsageError`."""
    ways = [name for name, given in (("--grid", wanted.grid), ("--interpolate", wanted.interpolate is not None),
                                     ("--arithmetic", wanted.arithmetic is not None)) if given]
    if len(ways) > 1:
        raise UsageError(f"{' and '.join(ways)}: one of them at a time")
    num = wanted.num if wanted.num is not None else DEFAULT_ROWS if ways else DEFAULT_NUM
    if not 1 <= num <= MOST_SAMPLES:
        raise UsageError(f"--num {num}: expected 1 to {MOST_SAMPLES:,}")
    if wanted.num is not None and wanted.arithmetic is not None:
        raise UsageError("--num: --arithmetic says by itself which samples it takes", advice="leave --num out")
    if wanted.interpolate is not None and wanted.interpolate < 2:
        raise UsageError(f"--interpolate {wanted.interpolate}: from one sample to the next are 2 images or more")

    classes = sampler.classes_of(wanted.classes)
    if wanted.grid and not (classes or sampler.num_values):
        raise UsageError("--grid: shows the classes of a model, or the values of its first categorical code, and this "
                         "one has neither", sampler.release.name)
    under = _Under(sampler, classes, _vectors(sampler, wanted.vectors))
    if wanted.arithmetic is not None:
        return _sum(sampler, wanted, under)
    if wanted.interpolate is not None:
        return _ways(sampler, wanted, num, wanted.interpolate, under)

    # Plain samples fill a square; of a grid, a row is a class or the value of a code, and a column a latent.
    numbers = range(num)
    latents, codes = sampler.latents(numbers, wanted.seed, wanted.truncation)
    if wanted.grid and not classes:
        values = torch.eye(sampler.num_values)
        return [[Cell(f"value_{value}/{number:08d}", latents[number],
                      torch.cat([values[value], codes[number, len(values):]]), under(0, number)) for number in numbers]
                for value in range(len(values))]
    if wanted.grid:
        return [[Cell(under.name(position, number), latents[number], codes[number], under(position, number))
                 for number in numbers] for position in range(len(classes))]
    cells = [Cell(under.name(number, number), latents[number], codes[number], under(number, number))
             for number in numbers]
    columns = math.ceil(math.sqrt(min(num, MOST_ON_SHEET)))
    return [cells[start:start + columns] for start in range(0, num, columns)]


@dataclass(frozen=True)
class _Under:
    """What samples are drawn under: classes in turn, and vectors in turn."""

    sampler: Sampler
    classes: list[int]
    vectors: list[Tensor]

    def __call__(self, position: int, number: int) -> Tensor:
        """Return the condition under the class at a `position` in turn, beside the vector of sample `number`."""
        return self.sampler.condition(self.class_at(position),
                                      self.vectors[number % len(self.vectors)] if self.vectors else None)

    def class_at(self, position: int) -> int | None:
        return self.classes[position % len(self.classes)] if self.classes else None

    def name(self, position: int, number: int | str) -> str:
        """Return the name of a sample's file, in the folder of its class."""
        name = f"{number:08d}" if isinstance(number, int) else number
        at = self.class_at(position)
        return name if at is None else f"{self.sampler.class_names()[at]}/{name}"


def _vectors(sampler: Sampler, file: Path | None) -> list[Tensor]:
    """Return the vectors to draw beside: of a file, else of the test images of the model's data. Raises `DataError`."""
    if file is not None and not sampler.vector_size:
        raise UsageError("--vectors: this model draws images beside none", sampler.release.name)
    if not sampler.vector_size:
        return []
    if file is not None:
        return [torch.as_tensor(vector, dtype=torch.float32) for vector in read_vectors(file).values()]
    samples = sampler.recipe.data.build("test", data_root())
    return [samples.whole(index).a[sampler.num_classes:, 0, 0] for index in range(min(len(samples), DEFAULT_NUM))]


def _ways(sampler: Sampler, wanted: Wanted, num: int, steps: int, under: _Under) -> list[list[Cell]]:
    """Return `num` ways, each from sample 2k to sample 2k + 1 in `steps` images under one class."""
    latents, codes = sampler.latents(range(2 * num), wanted.seed, wanted.truncation)
    rows = []
    for way in range(num):
        start, end = latents[2 * way], latents[2 * way + 1]
        rows.append([Cell(under.name(way, f"{2 * way:08d}-{2 * way + 1:08d}_{step:03d}"),
                          between(start, end, step / (steps - 1), sampler.distribution), codes[2 * way],
                          under(way, 2 * way)) for step in range(steps)])
    return rows


def _sum(sampler: Sampler, wanted: Wanted, under: _Under) -> list[list[Cell]]:
    """Return a row for each term of a sum, its samples and their mean, and one for the result.

    All are drawn under one class and code, those of the first sample. Means and sums are brought to where latents lie.
    """
    terms = parse_sum(wanted.arithmetic or "")
    first = terms[0].numbers[0]
    rows, result = [], torch.zeros(())
    for number, term in enumerate(terms, 1):
        latents, _ = sampler.latents(term.numbers, wanted.seed, wanted.truncation)
        _, code = sampler.latents([first], wanted.seed)
        mean = latents.mean(0)
        result = result + term.sign * mean
        rows.append([*(Cell(under.name(0, each), latent, code[0], under(0, first))
                       for each, latent in zip(term.numbers, latents, strict=True)),
                     Cell(under.name(0, f"mean_{number}"), where_latents_lie(mean, sampler.distribution), code[0],
                          under(0, first))])
    rows.append([Cell(under.name(0, "result"), where_latents_lie(result, sampler.distribution), code[0],
                      under(0, first))])
    return rows


def _images(sampler: Sampler, cells: Sequence[Cell]) -> Iterator[Tensor]:
    if cells:
        yield from sampler.images(torch.stack([cell.latent for cell in cells]),
                                  torch.stack([cell.code for cell in cells]), [cell.condition for cell in cells])


def _write_sheet(sampler: Sampler, out: Path, wanted: Wanted, rows: list[list[Cell]], made: dict[int, Tensor],
                 notes: list[str]) -> None:
    """Write the sheet and the record of what was drawn; of a sum, the nearest real image stands behind each row."""
    shown: list[list[Tensor]] = []
    number = 0
    for row in rows:
        shown.append([made[each] for each in range(number, number + len(row)) if each in made])
        number += len(row)

    about: dict[str, object] = {}
    if wanted.arithmetic is not None:
        try:
            fitting = sampler.release.fitting
            found = nearest([row[-1] for row in shown], sampler.recipe.data.build("train", data_root()), fitting)
        except DataError as error:
            notes.append(f"the nearest real images are not shown: {error}")
        else:
            shown = [[*row, real.image] for row, real in zip(shown, found, strict=True)]
            about["nearest"] = [{"file": real.name, "distance": real.distance} for real in found]
            notes.append(f"the real image nearest to the result is {visible(found[-1].name)}, at a mean squared "
                         f"difference of {found[-1].distance:.3f}")

    with files.as_disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        write_image(out / SHEET, sheet_of([row for row in shown if row]).numpy())
        files.write_json(out / SAMPLES, {
            "model": sampler.release.name, "weights": None if sampler.release.weights is None
            else sampler.release.weights.name, "seed": wanted.seed, "num": number, "classes": wanted.classes,
            "truncation": wanted.truncation, "grid": wanted.grid, "interpolate": wanted.interpolate,
            "arithmetic": wanted.arithmetic, "diptych": version("diptych"), **about})
