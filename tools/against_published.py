"""A recipe of ours against pix2pix as published, after equal CPU time, beside trivial baselines.

    python tools/against_published.py --recipe terrain --seconds 300 --out against.jsonl
    python tools/against_published.py --recipe earth --seconds 660 --out against.jsonl

Needs the recipe's card (`translate data prepare terrain_small`) and, for the kernel distance, `translate data
features`. Every way trains for the same CPU time of the training thread, on one thread; loading images is left to
another process.

    ours                 the recipe, as it stands in recipes/, of one size; its stages share the time as they share
                         its images
    published            the defaults of the public code: U-Net-256 of width 64 with batch norm and dropout, PatchGAN
                         70, the GAN of cross-entropy, λ 100, Adam 2e-4, one image a step, loaded at 286 px, crops of
                         256. Translated as its test.py does, at 256 px, with norms and dropout as in training; the
                         output is enlarged to the truth's size. Kinder than the defaults in two things: images are
                         flipped only where the recipe does so, and the rate falls to zero over the second half
    published, own size  the same, trained on crops of 256 px at the tiles' own size, and given whole tiles

The published networks and losses are our own parts, which tests hold to be equal to those of the public code
(`tests/test_interop.py`, `tests/textbook.py`). The baselines are `tools/show_demo.py`'s, and so are board and
overshoot; all held-out tiles are scored. Every run adds a line to --out; the table of all lines is printed at the end.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from equal_time import Part, done, machine, table, trained
from show_demo import baselines, board, overshoot, tensor
from torch import Tensor

from translate.data import held_out
from translate.data.scale import OWN_SIZE, Fitting
from translate.files import append_line
from translate.foreign import read_lines
from translate.metrics.features import MobileNet, find_mobilenet
from translate.metrics.observations import observe, summarise
from translate.places import data_root
from translate.recipe import Stage, find_recipe, load_recipe

TITLES = {"psnr": "PSNR (dB) ↑", "ssim": "SSIM ↑", "ms_ssim": "MS-SSIM ↑", "l1": "L1 ↓",
          "kernel_distance": "kernel distance ↓", "gradient_error": "gradient error ↓", "board": "board → 1",
          "overshoot": "overshoot ↓"}
LOADED, CROP = 286, 256  # px, the public code's
WAYS = ("ours", "published", "published, own size")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="terrain", help="a recipe of paired data")
    parser.add_argument("--set", nargs="+", default=[], help="changes of it, such as translator.weights.l1=60")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=WAYS, help="none: the baselines alone")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=300.0, help="CPU time of each run")
    parser.add_argument("--out", type=Path, default=Path("against.jsonl"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe(find_recipe(asked.recipe), asked.set)
    if recipe.data.card is None:
        parser.error(f"--recipe {asked.recipe}: its data name no card")
    if len({(stage.size, stage.levels, stage.batch_size) for stage in recipe.stages}) > 1:
        parser.error(f"--recipe {asked.recipe}: its stages have several sizes; one of a single size can be compared")
    setting = {"recipe": asked.recipe, "changes": asked.set, "seconds": asked.seconds}

    truths = [b for _, b, *_ in held_out(recipe.data, data_root(), 10**6, OWN_SIZE)]
    reals = [observe(truth, None, features(), small=None) for truth in truths]

    def add(way: str, seed: int, images: list[int], outputs: list[Tensor]) -> None:
        append_line(asked.out, {"way": way, "seed": seed, "setting": setting, "images": images,
                                "scores": scores(outputs, truths, reals), "machine": machine()})

    # What knows no images' content: once, as no chance is in it.
    inputs, candidates = baselines(data_root() / recipe.data.card)
    for name, candidate in candidates.items():
        if not done(asked.out, way=name, setting=setting):
            add(name, 0, [0], [tensor(candidate(image))[0] for image in inputs])

    for seed in asked.seeds:
        for way in asked.ways:
            if not done(asked.out, way=way, seed=seed, setting=setting):
                translator, images = trained(*recipe_of(way, recipe, asked), seed, asked.seconds)
                add(way, seed, images, translated(way, recipe, translator.generator("ab")))

    lines = [each for each in read_lines(asked.out) if each["setting"] == setting]
    print(f"{table(lines, TITLES)}\n\nRecipe {' '.join([asked.recipe, *asked.set])}, {asked.seconds:g} s of CPU time a "
          f"run, {len(truths)} held-out tiles; {lines[-1]['machine']}.")


def recipe_of(way: str, recipe: Any, asked: argparse.Namespace) -> tuple[Any, list[Part]]:
    """Return what a way trains, on the recipe's data, and in which parts of the time."""
    if way == "ours":
        return recipe, [Part(stage.images / recipe.num_images, stage) for stage in recipe.stages]
    published = load_recipe(find_recipe("facades"))
    changed = load_recipe(find_recipe(asked.recipe), [
        *asked.set, f"translator={published.translator.model_dump_json()}",
        f"optimizer={published.optimizer.model_dump_json()}"])
    stage = Stage(resolution=CROP, resize=LOADED if way == "published" else None, images=1, batch_size=1)
    return changed, [Part(1.0, stage)]


@torch.no_grad()
def translated(way: str, recipe: Any, generator: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Return the generator's outputs of all held-out tiles, at the tiles' own size, as that way translates them."""
    generator.train(way != "ours")  # type: ignore[attr-defined]
    fitting = Fitting(CROP, (CROP, CROP)) if way == "published" else OWN_SIZE
    own = held_out(recipe.data, data_root(), 10**6, OWN_SIZE)
    outputs = []
    for shown, (_, truth, *_) in zip(held_out(recipe.data, data_root(), 10**6, fitting), own, strict=True):
        out = generator(shown.a[None])
        if out.shape[-2:] != truth.shape[-2:]:
            out = F.interpolate(out, truth.shape[-2:], mode="bicubic", antialias=True)
        outputs.append(out[0].clamp(-1, 1))
    return outputs


def scores(outputs: list[Tensor], truths: list[Tensor], reals: list[Any]) -> dict[str, float]:
    """Return the means over all held-out tiles, and the kernel distance of the set."""
    seen = [observe(output, truth, features(), small=None) for output, truth in zip(outputs, truths, strict=True)]
    found = {name: estimate.value for name, estimate in summarise(seen, reals, paired=True).items()}
    pairs = [(output[None], truth[None]) for output, truth in zip(outputs, truths, strict=True)]
    for name, measure in (("board", board), ("overshoot", overshoot)):
        found[name] = sum(measure(*pair) for pair in pairs) / len(pairs)
    return {name: found[name] for name in TITLES if name in found}


def features() -> list[MobileNet]:
    """Return the network that the kernel distance compares by, where its weights have been fetched."""
    weights = find_mobilenet()
    return [MobileNet(weights, torch.device("cpu"))] if weights else []


if __name__ == "__main__":
    main()
