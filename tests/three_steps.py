"""Three float64 steps with SGD, of each translator in turn, alone or in one of several forks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate.state import AcceleratorState

from tests.runs import UNSEEN, Silent, cut_recipe, cyclegan_recipe, pix2pix_recipe
from translate.data import Batch
from translate.recipe import Recipe
from translate.runs.folder import RunFolder
from translate.training.loop import Run
from translate.training.processes import make_accelerator
from translate.training.update import Update

SGD = {"kind": "sgd", "lr": 0.05}
STEPS = {"optimizer": {"generator": SGD, "discriminator": SGD}, "every": UNSEEN, "guard": None,
         "stages": [{"resolution": 32, "images": 12, "batch_size": 4, "micro_batch": 1}]}
RESNET = {"kind": "resnet", "width": 4, "blocks": 1}
PATCHGAN = {"kind": "patchgan", "width": 4, "layers": 1}
RECIPES: dict[str, Callable[[Path], Recipe]] = {
    "cyclegan": lambda data: cyclegan_recipe(data, **STEPS, translator={
        "kind": "cyclegan", "generator": RESNET, "discriminator": PATCHGAN, "pool": 50}),
    "cut": lambda data: cut_recipe(data, **STEPS, translator={
        "kind": "cut", "generator": RESNET, "discriminator": PATCHGAN, "patches": 30, "flip_equivariance": True}),
    "pix2pix": lambda data: pix2pix_recipe(data, **STEPS, translator={
        "kind": "pix2pix", "generator": {"kind": "unet", "width": 4, "downs": 4, "norm": "instance"},
        "discriminator": PATCHGAN | {"norm": "none"}}),
}


def main(kind: str, data: Path, out: Path) -> None:
    recipe = RECIPES[kind](data)
    out.mkdir(parents=True, exist_ok=True)
    accelerator = make_accelerator(recipe, out)
    run = Run(recipe, RunFolder(out), accelerator, Silent())
    run.translator.to(accelerator.device, torch.float64)
    before = state(run)
    run.plans.choose(0)
    run.start_stage(0)
    for batch in run.batches(recipe.stages[0]):
        update = Update(run.translator, run.optimizers, accelerator, run.plans.current, run.precision,
                        recipe.stages[0].micro_batch, run.progress.stage_images // 4)
        run.translator.step(Batch(batch.a.double(), batch.b.double(), batch.keys), update)
        run.progress.stage_images += 4
    torch.save({"before": before, "after": state(run)}, out / f"{accelerator.process_index}.pt")


def state(run: Run) -> dict[str, torch.Tensor]:
    return {f"{name}.{parameter}": value.detach().clone() for name, network in run.translator.networks.items()
            for parameter, value in network.named_parameters()}


def all_translators(data: Path, out: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # what this fork inherited
    for kind in RECIPES:
        main(kind, data, out / kind)


if __name__ == "__main__":  # on one of several nodes: python -m tests.three_steps DATA OUT
    for each in RECIPES:
        main(each, Path(sys.argv[1]), Path(sys.argv[2]) / each)
