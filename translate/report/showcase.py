"""Held-out images for people to look at: what went in, what came out, and the truth, whole, as training shows images.

A training leaves them in its folder at every evaluation, where they cost no translation of their own:

    held_out/<number>-input.jpg
             <number>-output.jpg    of the newest evaluation
             <number>-best.jpg      of the best
             <number>-truth.jpg     where it is known
             <number>-deformation.jpg   the newest output under arrows to the truth, where `registration` learns them
             index.json             {images, best}: how many images the generators of output and best had seen;
                                    names: {number: file name}; side: the typical short side, px, of all inputs

Of a side longer than `MAX_SIDE` the middle is kept.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from translate import files
from translate.data.scale import Fitting
from translate.errors import DataError, DocumentError, ImageError
from translate.evaluation.heldout import HeldOut, evenly_spaced, translate_whole
from translate.foreign import Count, Shape, opened, read_json
from translate.networks.eval_mode import evaluating
from translate.places import data_root
from translate.precision import Format
from translate.recipe import Recipe
from translate.report.arrows import with_arrows
from translate.runs.records import to_rgb
from translate.runs.release import load_generator
from translate.translators import Translator

FOLDER, INDEX = "held_out", "index.json"
NUM_SHOWN = 4  # held-out images
MAX_SIDE = 2048  # px
JPEG_QUALITY = 88
MAX_PICTURE_BYTES = 3 * MAX_SIDE**2  # a JPEG of that size takes less
WHAT = ("input", "output", "best", "truth", "deformation")  # in the order in which a person is offered them


@dataclass(frozen=True)
class Shown:
    """One held-out image: JPEG files of one size, by what they show (see `WHAT`)."""

    name: str
    pictures: dict[str, bytes]

    @property
    def num_bytes(self) -> int:
        """Return how large its files are together."""
        return sum(map(len, self.pictures.values()))

    @property
    def size(self) -> tuple[int, int]:
        """Return (width, height) in pixels."""
        return Image.open(io.BytesIO(next(iter(self.pictures.values())))).size


class Showcase:
    """Keeps a few of the held-out images of a training, evenly spaced among them.

    An error here costs the report a picture, and the training nothing.
    """

    def __init__(self, run: Path, held_out: HeldOut, needs_sources: bool = True):
        self.folder, self.held_out = run / FOLDER, held_out
        self.names = {number: held_out.names[number] for number in evenly_spaced(len(held_out.sources), NUM_SHOWN)}
        self.labels, self.needs_sources = held_out.samples.labels[0], needs_sources
        self.own_side = held_out.side
        self.fault = ""  # what could not be kept since the last `note`

    @classmethod
    def unscored(cls, run: Path, recipe: Recipe) -> Showcase | None:
        """Return that of a training whose held-out images cannot be scored; None where there are none."""
        try:
            held_out = HeldOut(recipe, data_root(), most=NUM_SHOWN)
        except DataError:
            return None
        return cls(run, held_out, recipe.translator.needs_sources)

    def make(self, translator: Translator, fitting: Fitting, device: torch.device, precision: Format, num_images: int
             ) -> str:
        """Translate and keep the few, where no evaluation does it. Returns what went wrong; empty if nothing did.

        Raises `DoesNotFit`, and what torch raises where memory runs out.
        """
        shown, generator = self.held_out.shown(fitting), translator.generator("ab")
        self.show_at(shown.side)
        with evaluating(generator):
            for number in self.names:
                try:
                    source, truth = shown.pair(number)
                except ImageError as error:
                    self.fault = str(error)
                    continue
                given = translator.inputs(source[None], [shown.key(number)])[0]
                self.keep(number, source, translate_whole(generator, given, device, precision), truth)
        return self.note(num_images, shown.side, best=False)

    def show_at(self, side: int) -> None:
        """Say at which typical short side, px, images are shown from now on; pictures at another one are removed."""
        try:
            files.refuse_link(self.folder)
            index = read_index(self.folder)[0]
            if index and index.get("side", self.own_side) != side:
                for number in self.names:
                    for what in WHAT:
                        self._path(number, what).unlink(missing_ok=True)
                files.write_json(self.folder / INDEX, {"names": self.names, "side": side})
        except Exception as error:
            self.fault = f"{type(error).__name__}: {error}"

    def keep(self, number: int, source: Tensor, fake: Tensor, truth: Tensor | None,
             deform: Callable[[Tensor, Tensor], Tensor | None] = lambda made, truth: None) -> None:
        """Write the pictures of held-out image `number`, if it is one of the few; each is (C, H, W) in [-1, 1].

        `deform` gives what a translator learns of how a truth lies on what was made, if it does.
        """
        if number not in self.names:
            return
        try:
            files.make_folder(self.folder, self.folder.parent)
            for what, image in (("input", source), ("truth", truth), ("output", fake)):
                path = self._path(number, what)
                if image is None or (what == "input" and not self.needs_sources):
                    continue
                if what == "output" or not path.exists():
                    files.write_bytes(path, encode(image, labels=self.labels and what == "input"))
            if truth is not None and (deformation := deform(fake, truth)) is not None:
                files.write_bytes(self._path(number, "deformation"), encode(fake, deformation=deformation))
        except Exception as error:
            self.fault = f"{type(error).__name__}: {error}"

    def note(self, num_images: int, side: int, best: bool) -> str:
        """Note, after an evaluation, what the outputs are of, and copy them where they are the best so far.

        Returns what went wrong since the last time; empty if nothing did.
        """
        try:
            files.refuse_link(self.folder)
            index = read_index(self.folder)[0] | {"images": num_images, "names": self.names, "side": side}
            if best:
                index["best"] = num_images
                for number in self.names:
                    if not self._path(number, "output").exists():  # one that cannot be read
                        continue
                    files.copy(self._path(number, "output"), self._path(number, "best"))
            files.write_json(self.folder / INDEX, index)
        except Exception as error:
            self.fault = self.fault or f"{type(error).__name__}: {error}"
        fault, self.fault = self.fault, ""
        return fault

    def _path(self, number: int, what: str) -> Path:
        return self.folder / f"{number:06d}-{what}.jpg"


class Index(Shape):
    """What `index.json` holds."""

    images: Count = 0
    best: Count | None = None
    side: Count | None = None
    names: dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], str] = Field(default_factory=dict)


def read_index(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the index of a folder of held-out images, empty where there is none, and what is wrong with it."""
    try:
        return read_json(folder / INDEX, Index), []
    except DocumentError as error:
        return {}, [f"{FOLDER}/{INDEX}: {error.what}"]


def read_shown(run: Path) -> tuple[list[Shown], dict[str, Any], list[str]]:
    """Read what a training has left in its folder: the held-out images, and the index (see the top of this file).

    Returns in words what of it cannot be read, too.
    """
    folder = run / FOLDER
    index, faults = read_index(folder)
    shown = []
    for number, name in index.get("names", {}).items():
        pictures = {}
        for what in WHAT:
            path = folder / f"{int(number):06d}-{what}.jpg"
            if path.is_file():
                try:
                    pictures[what] = read_picture(path)
                except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                    faults.append(f"{FOLDER}/{path.name}: {error}")
        if pictures.get("best") == pictures.get("output"):  # the newest is the best: once is enough
            pictures.pop("best", None)
        if pictures:
            shown.append(Shown(name, pictures))
    return shown, index, faults


def read_picture(path: Path) -> bytes:
    """Return a JPEG file. Raises `OSError` or `ValueError` where it is none, or larger than any that a training keeps.
    """
    with opened(path) as file:
        content = file.read(MAX_PICTURE_BYTES + 1)
    if len(content) > MAX_PICTURE_BYTES:
        raise ValueError(f"more than {MAX_PICTURE_BYTES:,} bytes")
    Image.open(io.BytesIO(content), formats=["jpeg"]).close()
    return content


def make_shown(run: Path, recipe: Recipe,
               on_progress: Callable[[int, int], object] = lambda done, total: None) -> list[Shown]:
    """Translate held-out images now, for a run that left none. Raises `TranslateError` without weights or images."""
    release = load_generator(run)
    held_out = HeldOut(recipe, data_root(), most=NUM_SHOWN).shown(release.fitting)
    shown, total = [], len(held_out.sources)
    for number in range(total):
        on_progress(number, total)
        source, truth = held_out.pair(number)
        given = recipe.translator.inputs(source[None], [held_out.key(number)])[0]
        images = {"output": encode(translate_whole(release.generator, given, torch.device("cpu"), "fp32"))}
        if recipe.translator.needs_sources:
            images = {"input": encode(source, held_out.samples.labels[0])} | images
        if truth is not None:
            images["truth"] = encode(truth)
        shown.append(Shown(held_out.names[number], images))
    on_progress(total, total)
    return shown


def within(shown: Sequence[Shown], num_bytes: int) -> list[Shown]:
    """Return as many of the first as fit into `num_bytes`, and at least one."""
    kept: list[Shown] = []
    for each in shown:
        if kept and sum(other.num_bytes for other in kept) + each.num_bytes > num_bytes:
            break
        kept.append(each)
    return kept


def encode(image: Tensor, labels: bool = False, deformation: Tensor | None = None) -> bytes:
    """Return an image (C, H, W) in [-1, 1] as a JPEG file. `labels`: it is a one-hot label map. With a `deformation`
    (2, H, W), px, it is under arrows."""
    height, width = image.shape[1:]
    top, left = max(height - MAX_SIDE, 0) // 2, max(width - MAX_SIDE, 0) // 2
    middle = (slice(None), slice(top, top + MAX_SIDE), slice(left, left + MAX_SIDE))
    pixels = to_rgb(image[middle].cpu()[None], labels)[0].add(1).mul(127.5).round().clamp(0, 255).byte()
    array = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
    if deformation is not None:
        array = with_arrows(array, deformation[middle].float().cpu().numpy())
    encoded = io.BytesIO()
    Image.fromarray(array).save(encoded, "jpeg", quality=JPEG_QUALITY)
    return encoded.getvalue()
