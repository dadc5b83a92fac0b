"""One 2000×2000 step of a full-width translator under a hard limit: `large_step.py cyclegan|pix2pix PLAN LIMIT_MIB`.

The limit is the system's (RLIMIT_DATA: what the process itself allocates). Prints peak resident memory and
seconds, and beside them what is predicted for this step and for the textbook one.
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
from translate.plan import parameters_of, predict_step
from translate.translators import CycleGANConfig, Pix2PixConfig
from translate.update import Update

SIZE = 2000


def main(kind: str, plan: memory.Plan, limit: int) -> None:
    torch.set_num_threads(2)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    torch.manual_seed(0)
    config = CycleGANConfig() if kind == "cyclegan" else Pix2PixConfig()
    predicted, textbook = (predict_step(config, SIZE, each, "fp32", "cpu").peak_bytes
                           for each in (plan, memory.PLANS["plain"]))
    translator = config.build(3, 3)
    translator.to(torch.device("cpu"))
    for network in translator.networks.values():
        memory.apply(plan, network)
    optimizers = {phase: Adam().build(parameters_of(translator, phase)) for phase in translator.phases}
    a, b = (torch.rand(1, 3, SIZE, SIZE) * 2 - 1 for _ in range(2))
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
