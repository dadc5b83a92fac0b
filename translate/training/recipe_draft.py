"""A first recipe in the making: its networks and stages, its text, and what is said of the images it was made for.

It trains from small to full: at half of half the size, where a step costs a sixteenth, and last at the images' own.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from translate.data.headers import FEW, Headers, of_one_scale
from translate.data.layout import LayoutConfig
from translate.data.scale import AS_TRAINED
from translate.errors import DataError, NoData, visible
from translate.metrics.features import hint_at_features
from translate.places import data_root
from translate.recipe import Recipe
from translate.schema import read_yaml, validate
from translate.sizes import format_bytes, format_duration, format_speed, plural
from translate.training.plan import Prediction
from translate.training.recipe_plan import PlannedGPU

MOST_PIXELS = 4_000  # a side of a crop
SMALLEST_STAGE = 192  # px; what is larger begins at half its size
SMALL = 128  # px; images of fewer are trained on whole, larger ones in crops of 15 of 16 px, so that crops differ
STEP = 4  # px; crops are multiples of it
BATCHES = ((300, 4), (600, 2))  # (px, samples): smaller crops go through together
DRAWN_SIDES = (28, 32, 64, 128)  # px at which a recipe of this kind draws from noise

HEADINGS = {"unpaired": "{a} and {b}, either made of the other (CycleGAN)",
            "paired": "{a} made into {b} (pix2pix; --direction exchanges them)",
            "labels": "Label maps of {classes} classes made into images (pix2pix)",
            "computed": "Grey images made into photographs in colour (pix2pix)",
            "images": "Images like those of {b}, drawn from noise (DCGAN's networks; relativistic, with R1 and R2)"}
TRANSLATORS = {True: """\
  kind: pix2pix
  generator: {{kind: unet, width: 64, downs: {downs}, norm: instance, dropout: 0.5}}
  discriminator: {{kind: patchgan, width: 64, layers: {layers}, norm: instance}}
  objective: {{kind: nonsaturating}}   # docs/objectives.md has others, and what to do when D wins
  weights: {{l1: 100.0}}      # less: livelier, and less faithful to the truth
""", False: """\
  kind: cyclegan
  generator: {{kind: resnet, width: 64, blocks: {blocks}, norm: instance}}
  discriminator: {{kind: patchgan, width: 64, layers: {layers}, norm: instance}}
  objective: {{kind: lsgan}}   # docs/objectives.md has others, and what to do when D wins
  weights: {{cycle: 10.0, identity: {identity}   # identity keeps shared colours; 0 is faster
  pool: {pool}                  # past fakes shown again; they lie in ordinary memory and in checkpoints
"""}  # by whether a training sees pairs
FROM_NOISE = """\
  kind: noise
  generator: {{kind: dcgan, side: {side}, width: 64}}
  discriminator: {{kind: dcgan, side: {side}, width: 64, norm: none, init: orthogonal}}
  objective: {{kind: relativistic}}
  penalty: {{kind: r1_r2, weight: 2.0}}   # more: calmer, and slower
  ema: 0.9998               # samples are drawn from the mean of the last 5,000 images' weights
"""


class Draft:
    """A recipe in the making. `batches`: whether small crops go through several at once."""

    betas = "[0.5, 0.999]"  # of both optimizers

    def __init__(self, layout: LayoutConfig, sides: tuple[Headers, Headers], name: str, short: int, gpu: str):
        self.layout, self.sides, self.short, self.gpu = layout, sides, short, gpu
        self.name = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:100] or "mine"
        self.num = max(len(side.files) for side in sides)
        self.batches = True
        self.notes: list[str] = []
        self.one_scale = of_one_scale(sides)
        self.data = self._data()
        channels = [self.data.get(side, {"channels": 3})["channels"] for side in ("image_a", "image_b")]
        self.alike = channels[0] == channels[1]
        if not self.alike and layout.has_sources and not layout.paired:
            self.notes.append(f"A has {plural(channels[0], 'channel')} and B {channels[1]}: identity is 0, as it needs "
                              "as many in both")
        self.crop = 0

    def _data(self) -> dict[str, Any]:
        """Return what the recipe says of its data, but for the size."""
        a, b = self.sides
        kind = {"kind": self.layout.kind}  # type: ignore[attr-defined]
        data = kind | self.layout.model_dump(mode="json", exclude_unset=True)
        image = {"image_b": b.image}
        if "image_a" in type(self.layout).model_fields:
            image["image_a"] = a.image
        if "input" in type(self.layout).model_fields and b.image["channels"] == 1:
            data["input"] = "edges"  # there are no colours to be made of grey
        elif "input" in type(self.layout).model_fields and b.image["channels"] != 3:
            raise DataError(f"holds one set of images of {plural(b.image['channels'], 'channel')}; colouring makes 3",
                            self.layout.place(data_root()), "--kind images draws others like them; for a translation, "
                            "name two folders trainA and trainB")
        return data | {side: said for side, said in sorted(image.items()) if said != {"channels": 3}}  # of 8 bits

    def largest_crop(self) -> int:
        """Return the side of the crops at full size, px."""
        return _multiple(min(self.short if self.short < SMALL else self.short * 15 // 16, MOST_PIXELS))

    def smaller_crop(self, crop: int) -> int:
        """Return the next smaller side, px, where one does not fit; 0: there is none."""
        return _multiple(crop * 3 // 4)

    def stages(self, crop: int) -> list[dict[str, Any]]:
        """Return stages up to `crop` px, each at twice the size of the one before."""
        self.crop = crop
        sizes = [crop]
        while sizes[0] // 2 >= SMALLEST_STAGE:
            sizes.insert(0, _multiple(sizes[0] // 2))
        stages: list[dict[str, Any]] = []
        for number, size in enumerate(sizes):
            # As much of the picture in every crop; the last size is the images' own.
            last = size == crop
            resize = {} if last and self.one_scale else {"resize": max(round(self.short * size / crop), size)}
            batch = next((many for px, many in BATCHES if size <= px), 1) if self.batches else 1
            stages.append({"resolution": size, **resize, "images": self._images(len(sizes) - 1 - number),
                           "batch_size": batch})
        if len(stages) == 1:
            stages = [stages[0], dict(stages[0])]
        start = {"start": 0.5} if len(sizes) > 1 else {}
        stages[-1]["lr"] = {"kind": "linear", **start, "to": 0.0}
        return stages

    def _images(self, doublings: int) -> int:
        """Return how many images a stage shows that many doublings before the last: as the papers' epochs, bounded."""
        last = min(20_000, max(2_000, 50 * self.num // 1000 * 1000))
        return int(min(200_000, last * 2**doublings))

    def document(self, stages: list[dict[str, Any]]) -> str:
        """Return the recipe as YAML, without its heading."""
        total = sum(stage["images"] for stage in stages)
        places = "".join(f"  {name}: {_inline(value)}\n" for name, value in self.data.items())
        rows = "".join(f"  - {_inline(stage)}\n" for stage in stages)
        return (f"name: {_inline(self.name)}\ndata:\n{places}"
                f"  resize: null              # each stage says it; where none does, images keep their own size\n"
                f"  augment: [flip]           # left and right; [] where that matters, as for text\n"
                f"translator:\n{self.translator(min(stage['resolution'] for stage in stages))}"
                f"optimizer:\n"
                f"  generator:     {{kind: adam, lr: 2.0e-4, betas: {self.betas}}}\n"
                f"  discriminator: {{kind: adam, lr: 2.0e-4, betas: {self.betas}}}\n"
                f"memory: auto                # the least predicted time that fits the GPU, for each stage\n"
                f"stages:                     # from small to full; images: how many are shown, with repeats\n{rows}"
                f"every: {{log: 100, sample: {min(2_000, total // 20)}, checkpoint: {min(5_000, total // 10)}}}"
                "   # in images\n"
                "evaluate: {images: 64}      # held-out ones at most; scoring takes 5 % of the time or far less\n")

    def translator(self, smallest: int) -> str:
        """Return the translator as YAML, for stages of `smallest` px and more."""
        return TRANSLATORS[self.layout.paired].format(
            layers=next(layers for layers in (3, 2, 1) if smallest >= 3 * 2**layers),
            blocks=9 if self.crop >= 256 else 6, pool=50 if self.crop < 1024 else 10,
            downs=min(8, smallest.bit_length() - 1), identity="5.0}" if self.alike else "0.0}")

    def recipe(self, stages: list[dict[str, Any]]) -> Recipe:
        """Return the same as a recipe: what is written is what was planned."""
        self.body = self.document(stages)
        return validate(Recipe, read_yaml(self.body, "the recipe for this folder"), "the recipe for this folder")

    def heading(self) -> str:
        """Return what is made of what."""
        a, b = self.sides
        return HEADINGS[self.layout.kind].format(  # type: ignore[attr-defined]
            a=_place(a, self.layout), b=_place(b, self.layout), classes=getattr(self.layout, "classes", 0))

    def looked(self) -> list[str]:
        """Return a line on each side's images."""
        a, b = self.sides
        if a is b:
            return [f"images: {a}"]
        return [f"A: {_place(a, self.layout)}: {a}", f"B: {_place(b, self.layout)}: {b}"]

    def said(self, crop: int) -> list[str]:
        """Return what of the images a person should know."""
        lines = [*self.notes, *self.said_of_sizes(crop)]
        if self.num == 1:
            lines.append("warning: one image alone teaches nothing that others would need: add more")
        elif self.num < FEW:
            counted = f"{plural(self.num, 'image')}{'' if self.layout.paired else ' on a side'}"
            lines.append(f"{counted}, which are few: expect colours and textures to be learnt, not new shapes")
        if why := self._without_tests():
            lines.append(why)
        elif hint := hint_at_features(self.layout.truth_is_known):
            lines.append(hint)
        return lines

    def said_of_sizes(self, crop: int) -> list[str]:
        lines, shorts = list[str](), [min(shape) for side in self.sides for shape in side.shapes]
        if (few := sum(short < crop for short in shorts)) and self.one_scale:
            lines.append(f"{plural(few, 'image')} with a side of fewer than {crop} px: enlarged to it")
        if not self.one_scale:
            lines.append(f"images are of many sizes: all are loaded at a short side of {self.short} px, and "
                         f"what is converted should be too: convert {AS_TRAINED}")
        if crop < self.largest_crop():
            lines.append(f"crops of {crop} px are the largest that fit; images keep their own scale, and convert "
                         "translates them whole")
        return lines

    def _without_tests(self) -> str:
        """Return why there will be no scores; nothing where images are held out."""
        try:
            self.layout.build("test", data_root())
        except NoData:
            return f"no images are held out, so no scores: move some into {self.layout.expected('test')}"
        except DataError as error:
            return f"warning: no scores of the images held out: {visible(error.path or '')}: {error.what}"
        return ""

    def text(self, file: Path, recipe: Recipe, predicted: list[Prediction], planned: PlannedGPU, gpu: str | None,
             here: str) -> str:
        """Return the recipe with its heading: what it is, the commands, what was seen, what it needs of which GPU.

        `gpu` is how that was named, `here` says how long it takes on this machine where that has no GPU.
        """
        name = shlex.quote(str(file))
        needs = [f"{'×'.join(map(str, dict.fromkeys(stage.size)))} px {found.plan.name} "
                 f"{format_bytes(found.peak_bytes)}, {format_speed(1 / found.seconds)}"
                 for stage, found in zip(recipe.stages, predicted, strict=True)]
        seconds = sum(stage.images * found.seconds for stage, found in zip(recipe.stages, predicted, strict=True))
        run, blocks = f"runs/{self.name}", " --set translator.generator.blocks=2" * ("blocks:" in self.body)
        comments = [
            f"{self.heading()}, at {self.crop} px on a GPU of {self.gpu}.",
            f"Check:    translate data check {name}      every pixel; this recipe has looked at headers alone",
            f"Memory:   translate plan {name} --gpu {shlex.quote(gpu or self.gpu)}",
            *(f"            {need}" for need in dict.fromkeys(needs)),
            f"Try:      translate train {name} --run {run}-try --set '{self.quick_stages()}' "
            f"--set translator.generator.width=16{blocks} --set translator.discriminator.width=16 "
            "--set every.sample=100 --set evaluate.images=2",
            "          minutes on a CPU, by narrow networks, to see that all works; pictures of it mean nothing",
            f"Train:    translate train {name}      (after an interruption: the same with --resume)",
            self.use(run),
            *([f"Here:     {here}"] if here else []),
            f"Hours:    about {format_duration(seconds)} of steps on that GPU; loading and scoring (`translate plan` "
            f"counts them) come on top; {planned.whose}",
            *(f"{'Images:' if not number else '':<9} {line}" for number, line in enumerate(
                self.looked() + self.said(self.crop)))]
        return "".join(f"# {visible(line)}\n" for line in comments) + self.body

    def quick_stages(self) -> str:
        """Return stages of a training that is to show that all works."""
        small = min(64, _multiple(self.crop))
        return f"stages=[{{resolution: {small}, resize: {max(small, 72) if small == 64 else small}, images: 200}}]"

    def use(self, run: str) -> str:
        """Return the heading's line on what is done with the finished run."""
        scale = "" if self.one_scale else f" {AS_TRAINED}"  # all were loaded at one short side
        return f"Convert:  translate convert {shlex.quote(visible(self._to_convert()))} out/ --model {run}{scale}"

    def _to_convert(self) -> Path:
        """Return the folder of inputs that are held out, else of those trained on."""
        try:
            files = self.layout.build("test", data_root()).files_a
        except DataError:
            files = self.sides[0].files
        folder = Path(os.path.commonpath([path.parent for path in files]))
        return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


class NoiseDraft(Draft):
    """A recipe that draws images like those of a folder: whole ones, at one of the sides that its networks draw."""

    betas = "[0.0, 0.99]"  # recipes/r3.yaml's

    def largest_crop(self) -> int:
        return max(side for side in DRAWN_SIDES if side <= max(self.short, DRAWN_SIDES[0]))

    def smaller_crop(self, crop: int) -> int:
        return max((side for side in DRAWN_SIDES if side < crop), default=0)

    def stages(self, crop: int) -> list[dict[str, Any]]:
        self.crop = crop
        stage = {"resolution": crop, "resize": crop, "images": 1_000_000, "batch_size": 64 if self.batches else 16}
        return [stage, stage | {"lr": {"kind": "linear", "to": 0.0}}]

    def translator(self, smallest: int) -> str:
        return FROM_NOISE.format(side=smallest)

    def said_of_sizes(self, crop: int) -> list[str]:
        return [f"images are loaded and drawn at {crop} px, and squares are cut out of them"]

    def quick_stages(self) -> str:
        return f"stages=[{{resolution: {self.crop}, resize: {self.crop}, images: 208, batch_size: 16}}]"

    def use(self, run: str) -> str:
        return f"Draw:     translate sample {run} out/ --num 64"


def _multiple(side: int) -> int:
    return max(side - side % STEP, STEP)


def _place(side: Headers, layout: LayoutConfig) -> str:
    """Return the folder of a side's images as people call it."""
    folder = Path(os.path.commonpath([path.parent for path in side.files]))
    place = layout.place(data_root())
    return visible(folder.relative_to(place.parent) if folder.is_relative_to(place.parent) else folder.name)


def _inline(value: Any) -> str:
    """Return a value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")
