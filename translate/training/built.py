"""What a training is built of: networks in the shape of a stage, and their optimizers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch import nn

from translate.optimizers import follow
from translate.recipe import Recipe, Stage
from translate.runs.checkpoint import RunState
from translate.runs.progress import Progress
from translate.training.processes import prepare_for_processes
from translate.training.starting import Source, take_over
from translate.translators import Translator


class Built:
    """The networks and optimizers of a recipe, and the state of a run that a checkpoint holds."""

    def __init__(self, recipe: Recipe, accelerator: Accelerator, source: Source | None = None):
        """Build them as they are before the first image, fresh or with the weights of `source`."""
        self.recipe, self.accelerator = recipe, accelerator
        self.progress = Progress()
        self.build(source)

    def build(self, source: Source | None = None) -> None:
        """Build networks in the shape of the first stage, fresh or with the weights of `source`, and optimizers."""
        torch.manual_seed(self.recipe.seed)
        data = self.recipe.data
        self.translator = self.recipe.translator.build(data.channels_a, data.channels_b, self.recipe.seed,
                                                       data.num_classes)
        self.notes = take_over(source, self.translator, self.recipe, self.progress)
        self.translator.to(self.accelerator.device)
        self.shaped_for = 0  # the stage whose shape the networks have
        self.translator.take_shape(self.recipe.stages[0])
        prepare_for_processes(self.translator.modules, self.accelerator)
        self.optimizers = {phase: getattr(self.recipe.optimizer, phase).build(parameters_of(self.translator, phase))
                           for phase in self.translator.phases}
        self.state = RunState(self.progress, self.translator, self.optimizers, self.accelerator, self.recipe)

    def match_stage_shape(self, number: int) -> None:
        """Give the networks the shape of stage `number`; the optimizers follow. Going back builds them anew."""
        if number < self.shaped_for:
            self.build()
        if number > self.shaped_for:
            self.translator.take_shape(self.recipe.stages[number])
            prepare_for_processes(self.translator.modules, self.accelerator)
            for phase, optimizer in self.optimizers.items():
                follow(optimizer, parameters_of(self.translator, phase))
            self.shaped_for = number

    def schedule(self, stage: Stage) -> None:
        """Set the learning rates to what they are where the stage stands."""
        factor = stage.lr.at(self.progress.share(self.recipe))
        for phase, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = getattr(self.recipe.optimizer, phase).lr * factor


def parameters_of(translator: Translator, phase: str) -> Iterator[nn.Parameter]:
    """Return the parameters that a phase trains."""
    return (parameter for network in translator.phases[phase].values() for parameter in network.parameters())
