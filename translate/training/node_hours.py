"""What a training takes on several nodes: hours, what is read, computed, sent and written, and what holds it up."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import torch

from translate.errors import UsageError
from translate.recipe import Recipe
from translate.sizes import format_bytes, format_duration
from translate.training.recipe_plan import RecipePlan, samples_of

FLOAT_BYTES = 4
STATES = 3  # of each parameter in a checkpoint: itself, and what Adam keeps of it
NETWORK_BYTES = 125_000_000  # a second: of Ethernet of 1 Gbit/s, the slowest that nodes have


@dataclass(frozen=True)
class NodePlan:
    """A training on `num_nodes`, each with a GPU as it is planned for.

    hours_compute     of one node alone, as predicted
    hours_load        of loading images on one node, as it was tried here; None: they are not here
    bytes_read        of all images that are shown, as files; None: they are not here
    bytes_sent        of gradients, by each node
    bytes_written     of checkpoints
    """

    num_images: int
    num_nodes: int
    hours_compute: float
    hours_load: float | None
    bytes_read: float | None
    bytes_sent: float
    bytes_written: float

    @property
    def parts(self) -> dict[str, float]:
        """The hours of what goes on side by side."""
        return {"computing": self.hours_compute / self.num_nodes, "loading images": (self.hours_load or 0.0) /
                self.num_nodes, "sending gradients": self.bytes_sent / NETWORK_BYTES / 3600}

    @property
    def lines(self) -> list[str]:
        """The plan in words."""
        parts = self.parts
        bottleneck = max(parts, key=lambda name: parts[name])
        total = max(parts["computing"], parts["loading images"]) + parts["sending gradients"]
        read = "" if self.bytes_read is None else f"read {format_bytes(self.bytes_read)} of image files, "
        each = ", ".join(f"{name} {format_duration(3600 * hours)}" for name, hours in parts.items())
        return [f"on {self.num_nodes} nodes with such a GPU each: about {format_duration(3600 * total)} for "
                f"{self.num_images:,} images ({each}; a network of 1 Gbit/s, which nothing hides)",
                f"{read}sent {format_bytes(self.bytes_sent)} by each node, written "
                f"{format_bytes(self.bytes_written)} of checkpoints; bottleneck: {bottleneck}"]


def plan_nodes(recipe: Recipe, planned: RecipePlan, num_nodes: int, num_images: int | None = None) -> NodePlan:
    """Return what a planned recipe takes on several nodes, for as many images as it says or as are asked for.

    Raises `UsageError` where a batch cannot be shared.
    """
    for stage in recipe.stages:
        if stage.batch_size % num_nodes:
            raise UsageError(f"--nodes {num_nodes}: a batch of {stage.batch_size} cannot be shared equally",
                             advice=f"--set stages.0.batch_size={num_nodes}, and the same of every stage")
    all_images = sum(stage.images for stage in recipe.stages)
    share = (num_images or all_images) / all_images

    # What is computed, and loaded beside it
    chosen = [(stage, stage.chosen) for stage in planned.stages if stage.chosen is not None]
    compute = sum(stage.stage.images * found.seconds for stage, found in chosen) / 3600
    loads = [(stage.images, loading.seconds) for stage, loading in zip(recipe.stages, planned.loading, strict=True)]
    load = None if any(seconds is None for _, seconds in loads) else sum(
        num * (seconds or 0.0) for num, seconds in loads) / 3600

    # Files, by their mean size; a sample has one of each side
    read = None
    if (samples := samples_of(recipe)) is not None:
        with suppress(OSError):
            sizes = [sum(path.stat().st_size for path in side[:1000]) / len(side[:1000])
                     for side in {samples.files_a, samples.files_b} if side]
            read = sum(sizes) * all_images * share

    # Gradients go round a ring once in every step; checkpoints hold parameters and what the optimizer keeps.
    with torch.device("meta"):
        translator = recipe.translator.build(recipe.data.channels_a, recipe.data.channels_b)
    bytes_of = FLOAT_BYTES * sum(parameter.numel() for network in translator.networks.values()
                                 for parameter in network.parameters())
    steps = sum(stage.images / stage.batch_size for stage in recipe.stages) * share
    sent = steps * 2 * bytes_of * (num_nodes - 1) / num_nodes
    written = (all_images * share / recipe.every.checkpoint) * STATES * bytes_of
    return NodePlan(round(all_images * share), num_nodes, compute * share, None if load is None else load * share,
                    read, sent, written)
