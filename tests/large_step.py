"""One 2000×2000 step of a full-width translator under a hard limit: `large_step.py WHAT PLAN LIMIT_MIB`.

WHAT is cyclegan or pix2pix as published, or a recipe, of which it is a step of the last stage. The limit is the
system's (RLIMIT_DATA: what the process itself allocates). Prints peak resident memory and seconds, and beside them what
is predicted for this step and for the textbook one.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from accelerate import Accelerator

from translate.data import Batch
from translate.networks import memory
from translate.optimizers import Adam
from translate.recipe import Recipe, find_recipe, load_recipe
from translate.training.built import parameters_of
from translate.training.plan import predict
from translate.training.update import Update

PUBLISHED = {"cyclegan": {"data": {"kind": "unpaired", "card": "monet2photo", "resize": None}},
             "pix2pix": {"data": {"kind": "paired", "card": "maps", "resize": None}}}


def recipe_of(what: str) -> Recipe:
    if what in PUBLISHED:
        return Recipe.model_validate({"name": what, "translator": {"kind": what}, **PUBLISHED[what],
                                      "stages": [{"resolution": 2000, "images": 1}]})
    return load_recipe(find_recipe(what))


def main(what: str, plan: memory.MemoryPlan, limit: int) -> None:
    torch.set_num_threads(2)
    recipe = recipe_of(what)
    stage = recipe.stages[-1]
    assert stage.size == (2000, 2000)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    torch.manual_seed(0)
    predicted, textbook = (predict(recipe, stage, each, "fp32", "cpu").peak_bytes
                           for each in (plan, memory.PLANS["plain"]))
    translator = recipe.translator.build(3, 3)
    translator.to(torch.device("cpu"))
    translator.take_shape(stage)
    translator.fade_in(0.5)
    for network in translator.networks.values():
        memory.apply(plan, network)
    optimizers = {phase: Adam().build(parameters_of(translator, phase)) for phase in translator.phases}
    a, b = (torch.rand(1, 3, *stage.size) * 2 - 1 for _ in range(2))
    update = Update(translator, optimizers, Accelerator(cpu=True), plan, "fp32")
    before = {phase: next(parameters_of(translator, phase)).clone() for phase in translator.phases}
    begin = time.monotonic()
    translator.step(Batch(a, b, (0,)), update)
    moved = {phase: not torch.equal(before[phase], next(parameters_of(translator, phase))) for phase in before}
    json.dump({"predicted_bytes": predicted, "predicted_plain_bytes": textbook,
               "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
               "seconds": time.monotonic() - begin, "moved": moved, "notes": update.notes,
               "losses": {name: loss.item() for name, loss in update.losses.items()}}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], memory.PLANS[sys.argv[2]], int(float(sys.argv[3]) * 2**20))
