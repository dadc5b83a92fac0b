"""Real steps of the recipes for 2000×2000 px on a card of a given size; writes docs/benchmarks-recipes.md.

    python tools/bench_recipes.py                           # 8GB, every shipped recipe whose name ends in _2000
    python tools/bench_recipes.py --memory 16GB NAME …
    python tools/bench_recipes.py --train                   # and each recipe as a whole, its stages cut short

For every stage: the plan that `memory: auto` takes for the card, and three steps of it in fp16 on random images. The
limit is hard: torch may not take more than the card's size, less what CUDA itself has taken by then. Beside the
prediction stands what tensors took at most (`max_memory_allocated`) and what torch's allocator took for them
(`max_memory_reserved`, cuDNN's own memory in it). Needs a GPU, of any size from the given one on.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import datetime
import gc
import multiprocessing
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image

from translate import __version__
from translate.data import Batch
from translate.networks import memory
from translate.places import shipped_recipes
from translate.recipe import Recipe, Stage, find_recipe, load_recipe
from translate.sizes import num_bytes
from translate.training.built import parameters_of
from translate.training.loop import train
from translate.training.plan import budget_of, choose, describe, predict
from translate.training.update import Update

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks-recipes.md"
WARM, TIMED = 1, 2  # steps


@dataclass(frozen=True)
class Foreseen:
    """The plan of a stage, and the peaks of its step and of the textbook step, in bytes."""

    plan: str
    peak: int
    textbook: int


@dataclass(frozen=True)
class Measured:
    """Bytes, and seconds an image."""

    allocated: int
    reserved: int
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="recipes; none: all whose name ends in _2000")
    parser.add_argument("--memory", default="8GB", help="the card")
    parser.add_argument("--train", action="store_true", help="also train each recipe, two steps a stage, from files")
    parser.add_argument("--out", type=Path, default=PAGE)
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU: nothing is measured; `translate plan` predicts what would be")
        return
    names = asked.names or [path.stem for path in shipped_recipes() if path.stem.endswith("_2000")]
    recipes = {name: load_recipe(find_recipe(name)) for name in names}
    work = [(name, number) for name, recipe in recipes.items() for number in distinct(recipe)]
    with concurrent.futures.ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        foreseen = dict(zip(work, pool.map(foresee, *zip(*work, strict=True), [asked.memory] * len(work)), strict=True))
    rows = []
    with card_of(asked.memory) as limit:
        for (name, number), plan in foreseen.items():
            rows.append(row(recipes[name], number, plan, measure(recipes[name], recipes[name].stages[number], plan)))
            print(rows[-1], flush=True)
            asked.out.write_text(page(asked.memory, limit, rows, []), encoding="utf-8")
        trained = []
        for name in names if asked.train else ():
            trained.append(train_briefly(name, asked.memory))
            print(trained[-1], flush=True)
            asked.out.write_text(page(asked.memory, limit, rows, trained), encoding="utf-8")


def distinct(recipe: Recipe) -> list[int]:
    """The stages that differ in what a step is."""
    seen: dict[str, int] = {}
    for number, stage in enumerate(recipe.stages):
        shape = stage.model_dump_json(include={"resolution", "batch_size", "micro_batch", "levels", "fade", "freeze"})
        seen.setdefault(shape, number)
    return list(seen.values())


def foresee(name: str, number: int, card: str) -> Foreseen:
    """In a process of its own: a prediction takes seconds."""
    recipe = load_recipe(find_recipe(name))
    stage = recipe.stages[number]
    chosen = choose(recipe, stage, budget_of(card), "fp16")
    if chosen is None:
        sys.exit(f"{name}: {describe(number, stage)} does not fit {card}")
    return Foreseen(chosen.plan.name, chosen.peak_bytes,
                    predict(recipe, stage, memory.PLANS["plain"], "fp16").peak_bytes)


@contextlib.contextmanager
def card_of(card: str) -> Iterator[int]:
    """torch has only a card of this size; yields the bytes that are left for its allocator."""
    torch.zeros(1, device="cuda") @ torch.zeros(1, device="cuda")  # the context, and cuBLAS
    free, total = torch.cuda.mem_get_info()
    limit = num_bytes(card) - (total - free - torch.cuda.memory_reserved())
    torch.cuda.set_per_process_memory_fraction(limit / total)
    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)


def fresh() -> None:
    """Nothing of before in memory or in the counts."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def measure(recipe: Recipe, stage: Stage, foreseen: Foreseen) -> Measured:
    """Some steps of `stage`, half faded in where it fades. Raises what torch does where they do not fit."""
    fresh()
    AcceleratorState._reset_state(reset_partial_state=True)
    device, plan = torch.device("cuda"), memory.PLANS[foreseen.plan]  # type: ignore[index]
    channels = recipe.data.channels_a, recipe.data.channels_b
    translator = recipe.translator.build(*channels)
    translator.to(device)
    translator.take_shape(stage)
    translator.fade_in(0.5)
    for network in translator.networks.values():
        memory.apply(plan, network)
    optimizers = {phase: getattr(recipe.optimizer, phase).build(parameters_of(translator, phase))
                  for phase in translator.phases}
    accelerator = Accelerator(mixed_precision="fp16")
    images = [torch.rand(stage.batch_size, num, *stage.size, device=device) * 2 - 1 for num in channels]
    for number in range(WARM + TIMED):
        if number == WARM:
            torch.cuda.synchronize()
            begin = time.perf_counter()
        update = Update(translator, optimizers, accelerator, plan, "fp16", stage.micro_batch, number)
        translator.step(Batch(images[0], images[1], tuple(range(stage.batch_size)), other=images[0]), update)
        if update.notes:
            raise torch.OutOfMemoryError(update.notes[0])
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - begin) / (TIMED * stage.batch_size)
    return Measured(torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved(), seconds)


def row(recipe: Recipe, number: int, foreseen: Foreseen, measured: Measured) -> str:
    stage, gib = recipe.stages[number], 2**30
    return (f"| `{recipe.name}` | {stage.size[0]}, batch {stage.batch_size}{stage.level} | `{foreseen.plan}` | "
            f"{foreseen.peak / gib:.2f} | {measured.allocated / gib:.2f} | {measured.reserved / gib:.2f} | "
            f"{measured.allocated / foreseen.peak:.2f} | {measured.reserved / foreseen.peak:.2f} | "
            f"{foreseen.textbook / gib:.2f} | {measured.seconds:.2f} |")


class Told:
    """A reporter that keeps what is said of memory."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        if "memory" in line:
            self.lines.append(line)

    def progress(self, images: int, total: int, stage: str, losses: dict[str, float],
                 seconds_left: float | None = None, stage_number: int = 0) -> None:
        print(f"  {images} of {total}, {stage}", flush=True)

    def scoring(self, done: int, total: int) -> None:
        pass


def train_briefly(name: str, card: str) -> str:
    """`translate train NAME --gpu CARD` on made pictures, two steps a stage, with all that a training does."""
    fresh()
    AcceleratorState._reset_state(reset_partial_state=True)
    with tempfile.TemporaryDirectory() as folder:
        pictures(Path(folder) / "data")
        short = [f"stages.{number}.images={2 * stage.batch_size}"
                 for number, stage in enumerate(load_recipe(find_recipe(name)).stages)]
        recipe = load_recipe(find_recipe(name), [
            *short, "data.card=null", f"data.folder={folder}/data", "precision=fp16", "every.log=1"])
        begin, told = time.perf_counter(), Told()
        train(recipe, Path(folder) / "run", told, gpu_memory=card)
        fell = sum("out of memory" in line for line in told.lines)
        return f"| `{name}` | {recipe.num_images} | {fell} | {time.perf_counter() - begin:.0f} |"


def pictures(folder: Path) -> None:
    """trainA, trainB, testA and testB of two pictures each, of 2100 px."""
    rows, columns = np.mgrid[:2100, :2100].astype(np.float32)
    for number, split in enumerate(f"{part}{side}/{index}" for part in ("train", "test") for index in range(2)
                                   for side in "AB"):
        planes = [np.sin(columns / (40 + number)), np.cos(rows / (30 + 2 * number)), np.sin((rows + columns) / 99)]
        path = (folder / split).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        image = (127.5 + 120 * np.stack(planes, axis=-1)).astype(np.uint8)
        Image.fromarray(image).save(path, compress_level=1)


def page(card: str, limit: int, rows: list[str], trained: list[str]) -> str:
    """The whole of docs/benchmarks-recipes.md."""
    lines = [
        "# The recipes for 2000×2000 px, measured", "", "Written by `tools/bench_recipes.py`.", "",
        f"{datetime.date.today().isoformat()}, {torch.cuda.get_device_name()}, of which torch could take "
        f"{limit / 2**30:.2f} GiB: a card of {card} less what CUDA itself had taken (what cuDNN loads later is not "
        f"deducted); fp16, torch {torch.__version__}, "
        f"cuDNN {torch.backends.cudnn.version()}, Python {platform.python_version()}, Diptych {__version__}. Random "
        "images. Memory in GiB; seconds are those of this card, which is a larger and faster one. A level alone is "
        "foreseen with what Adam knows of all other weights from the stage before, which a step by itself has not.", "",
        "| recipe | px | plan | predicted | allocated | reserved | allocated / predicted | reserved / predicted | "
        "textbook step, predicted | s an image |", "|---|---|---|---|---|---|---|---|---|---|", *rows, ""]
    if trained:
        lines += [
            f"`translate train NAME --gpu {card}` under the same limit, every stage two steps long, on pictures of "
            "2100 px: with loading, guard, samples, checkpoints and release.", "",
            "| recipe | images | phases that ran out | s |", "|---|---|---|---|",
            *trained, ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
