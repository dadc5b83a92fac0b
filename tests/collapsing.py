"""A training whose generator is constant for a while, in one of several forks."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate.state import AcceleratorState

import translate.training.loop
from tests.runs import Silent
from translate.data import Batch
from translate.recipe import Recipe, Stage
from translate.training.loop import Run, train
from translate.training.update import Update


class Collapsing(Run):
    """Constant before four steps from 20 images on, after images that are not finite in one process at 8."""

    left = 4

    def step(self, stage: Stage, batch: Batch) -> Update:
        if self.progress.images == 8 and self.accelerator.process_index == 1:
            batch.a[:] = float("nan")
        if self.progress.images >= 20 and self.left:
            self.left -= 1
            with torch.no_grad():
                for parameter in self.translator.networks["generator_ab"].parameters():
                    parameter.zero_()
        return super().step(stage, batch)

    def finish(self) -> None:
        weights = {f"{name}.{key}": value for name, network in self.translator.networks.items()
                   for key, value in network.named_parameters()}
        seed = self.progress.data_seed(self.recipe)
        torch.save({"rollbacks": self.progress.rollbacks, "seed": seed, "weights": weights},
                   self.folder / f"{self.accelerator.process_index}.pt")
        super().finish()


def train_and_collapse(recipe: Recipe, folder: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # what this fork inherited
    translate.training.loop.Run = Collapsing  # type: ignore[misc]
    train(recipe, folder, Silent())
