"""What a training takes on several nodes: hours, what is read, computed, sent and written, and what holds it up."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from translate.errors import UsageError
from translate.recipe import Recipe
from translate.sizes import format_bytes, format_duration
from translate.training.recipe_plan import RecipePlan, samples_of

FLOAT_BYTES = 4
ADAM_STATES = 2  # of each parameter
NETWORK_BYTES = 125_000_000  # a second: of Ethernet of 1 Gbit/s, the slowest that nodes have


@dataclass(frozen=True)
class NodePlan:
    """A training on `num_nodes`, each with a GPU as it is planned for.

    hours_compute     of one node alone, as predicted; None: a stage fits under no memory plan
    hours_load        of loading images on one node, as it was tried here; None: they are not here
    bytes_read        of all images that are shown, as files; None: they are not here
    bytes_sent        of gradients, by each node
    bytes_written     of checkpoints
    """

    num_images: int
    num_nodes: int
    hours_compute: float | None
    hours_load: float | None
    bytes_read: float | None
    bytes_sent: float
    bytes_written: float

    @property
    def parts(self) -> dict[str, float]:
        """The hours, as far as they are known, of what goes on side by side."""
        hours = {"computing": self.hours_compute, "loading images": self.hours_load}
        known = {name: each / self.num_nodes for name, each in hours.items() if each is not None}
        return known | {"sending gradients": self.bytes_sent / NETWORK_BYTES / 3600}

    @property
    def unknown(self) -> dict[str, str]:
        """What is not known of them, and why."""
        reasons = {"computing": "a stage fits under no memory plan",
                   "loading images": "they are not here to be tried"}
        return {name: why for name, why in reasons.items() if name not in self.parts}

    @property
    def hours(self) -> float | None:
        """How long all of it takes, as far as it is known; None without computing. No network hides its sending."""
        parts = self.parts
        if "computing" not in parts:
            return None
        return max(parts["computing"], parts.get("loading images", 0.0)) + parts["sending gradients"]

    @property
    def bottleneck(self) -> str | None:
        """The longest of the parts; None without computing."""
        return max(self.parts, key=lambda name: self.parts[name]) if "computing" in self.parts else None

    @property
    def lines(self) -> list[str]:
        """The plan in words."""
        read = "" if self.bytes_read is None else f"read {format_bytes(self.bytes_read)} of image files, "
        each = ", ".join(f"{name} {format_duration(3600 * hours)}" for name, hours in self.parts.items())
        takes = "" if self.hours is None else f"about {format_duration(3600 * self.hours)} for "
        bottleneck = "" if self.bottleneck is None else f"; bottleneck: {self.bottleneck}"
        return [f"on {self.num_nodes} nodes with such a GPU each: {takes}{self.num_images:,} images ({each}; a network "
                "of 1 Gbit/s, which nothing hides)",
                *(f"{name} is not counted: {why}" for name, why in self.unknown.items()),
                f"{read}sent {format_bytes(self.bytes_sent)} by each node, written "
                f"{format_bytes(self.bytes_written)} of checkpoints{bottleneck}"]

    def as_json(self) -> dict[str, Any]:
        """Return what `translate plan --json` says of it; null is what is not known."""
        return {"num": self.num_nodes, "images": self.num_images, "hours": self.hours, "bottleneck": self.bottleneck,
                "hours_of": {name: self.parts.get(name) for name in (*self.parts, *self.unknown)},
                "bytes_read": self.bytes_read, "bytes_sent_each": self.bytes_sent, "bytes_written": self.bytes_written}


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
    compute = None if len(chosen) < len(planned.stages) else share * sum(
        stage.stage.images * found.seconds for stage, found in chosen) / 3600
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

    # Gradients go round a ring once in every step.
    with torch.device("meta"):
        translator = recipe.translator.build(recipe.data.channels_a, recipe.data.channels_b)
    bytes_of = FLOAT_BYTES * sum(parameter.numel() for network in translator.networks.values()
                                 for parameter in network.parameters())
    steps = sum(stage.images / stage.batch_size for stage in recipe.stages) * share
    sent = steps * 2 * bytes_of * (num_nodes - 1) / num_nodes

    # Checkpoints hold networks, their averages among them, and what the optimizers keep; the last is at the end.
    held = ADAM_STATES * bytes_of + sum(tensor.numel() * tensor.itemsize for module in translator.modules.values()
                                        for tensor in module.state_dict().values())
    written = math.ceil(all_images * share / recipe.every.checkpoint) * held
    return NodePlan(round(all_images * share), num_nodes, compute, None if load is None else load * share,
                    read, sent, written)
