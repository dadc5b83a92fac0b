"""Memory plans: what a training step keeps and what it computes again. The gradients are equal under every plan.

With the predicted peak and the compute of a CycleGAN step at 2000×2000 (ResNet-9, batch 1, fp16; compute is relative
to `plain`). `translate plan` gives these for any recipe, and docs/memory.md says how to choose.

    plan           peak      compute  what it does
    plain          47.4 GiB  1.00     one joint backward pass at the end, everything kept: the textbook step
    split          16.5 GiB  1.00     each loss is backpropagated as soon as it is known, cut at the fake image
    preact         11.9 GiB  1.00     split; layers keep only their convolutions' outputs
    replay          7.0 GiB  1.11     preact; the generator that made a fake keeps nothing, and runs again when the
                                      fake's gradient is known
    blocks          5.7 GiB  1.31     split; every end, residual block and level keeps only its input
    strips          4.9 GiB  1.16     replay; the head keeps only its input, and the tail runs in strips of rows
    strips_blocks   2.8 GiB  1.43     strips; and every residual block keeps only its input

A plan a network cannot follow acts as the nearest one it can:

    U-Net           has levels instead of ends and blocks: they keep their convolutions' outputs under `preact` and
                    `replay`, and only their inputs under `blocks` and both `strips`. With `image_skip` it has a tail
    pix2pix,        no generator reads a fake, so `replay` matters only where D moves first: the fake that D sees is
    from noise      then made a second time for the generator, in place of being kept with its graph
    CUT             computes its encoder's features without strips: under both `strips` the head keeps only its input
    attention       keeps only its input where blocks or levels do
    discriminators  never run in strips: they keep their convolutions' outputs under all plans but `plain` and `split`
    latent/         these generators never run in strips, and none is run again in the generator's own phase: chains
                    do as discriminators do, and BigGAN's blocks as the levels of a U-Net
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Tag, model_validator
from pydantic import Discriminator as UnionDiscriminator
from torch import nn

from translate.networks.attention import Attention
from translate.networks.layers import Block, Chain, Keep, Scale
from translate.networks.statistics import has_batch_norm
from translate.schema import Config

Part = Chain | Block | Scale | Attention  # what a plan addresses
PlanName = Literal["plain", "split", "preact", "replay", "blocks", "strips", "strips_blocks"]


@dataclass(frozen=True)
class MemoryPlan:
    """What one memory plan does: to the step (`cut`, `replay`) and to the parts of a network (what each keeps)."""

    name: PlanName
    cut: bool = True  # split backward: the graph is cut at the fake image
    replay: bool = False  # no graph of a fake waits while other networks are trained or read it: it is made again
    head: Keep = "everything"  # of a ResNet: down to a quarter of the resolution
    trunk: Keep = "everything"  # its residual blocks
    tail: Keep = "everything"  # up again
    levels: Keep = "everything"  # of a U-Net, and whatever else has scales
    discriminator: Keep = "everything"
    num_strips: int = 8  # of the parts that run in strips

    @property
    def in_strips(self) -> bool:
        return self.tail == "strips"

    def __str__(self) -> str:
        return f"{self.name} ({self.num_strips} strips)" if self.in_strips else self.name


PLANS: dict[PlanName, MemoryPlan] = {plan.name: plan for plan in (
    MemoryPlan("plain", cut=False),
    MemoryPlan("split"),
    MemoryPlan("preact", head="convolutions", trunk="convolutions", tail="convolutions", levels="convolutions",
               discriminator="convolutions"),
    MemoryPlan("replay", replay=True, head="convolutions", trunk="convolutions", tail="convolutions",
               levels="convolutions", discriminator="convolutions"),
    MemoryPlan("blocks", head="input", trunk="input", tail="input", levels="input", discriminator="convolutions"),
    # The head's backward pass is the last: the trunk's graph is gone by then, and there is room to run it whole.
    MemoryPlan("strips", replay=True, head="input", trunk="convolutions", tail="strips", levels="input",
               discriminator="convolutions"),
    MemoryPlan("strips_blocks", replay=True, head="input", trunk="input", tail="strips", levels="input",
               discriminator="convolutions"),
)}

# In a few words, for tables: docs/memory.md has more
GLOSSES: dict[PlanName, str] = {
    "plain": "the textbook step: all losses, then one backward pass",
    "split": "a backward pass for each loss, so that what it needs is kept no longer",
    "preact": "keeps what convolutions give; norms, activations and padding are computed again",
    "replay": "also makes a fake a second time instead of keeping how it was made",
    "blocks": "keeps the input of each block, and computes the block again",
    "strips": "computes the layers at full size in strips of rows",
    "strips_blocks": "both: the leanest, and the slowest"}

# From the most memory to the least, and from the least compute to the most. `blocks` is left out: for some networks it
# takes less memory than `strips`.
LADDER: tuple[PlanName, ...] = ("plain", "split", "preact", "replay", "strips", "strips_blocks")


# Plans that do all that another does and more, and so cannot take less time than it. tests/test_speeds.py counts.
MORE_WORK: dict[PlanName, tuple[PlanName, ...]] = {
    "split": ("preact", "replay", "blocks", "strips", "strips_blocks"),
    "preact": ("replay", "blocks", "strips", "strips_blocks"),
    "replay": ("strips", "strips_blocks"),
    "blocks": ("strips_blocks",),
    "strips": ("strips_blocks",),
    "strips_blocks": ()}


def leaner(plan: MemoryPlan, networks: Collection[nn.Module], graphs_wait: bool) -> MemoryPlan | None:
    """Return the plan to try when `plan` ran out of memory: the next of the ladder that does something else to these
    networks. None after the leanest."""
    here = effect(plan, networks, graphs_wait)
    # `blocks` is not on the ladder; from it go to `strips`, which comes after `replay`.
    position = LADDER.index("replay" if plan.name == "blocks" else plan.name)
    candidates = (replace(PLANS[name], num_strips=plan.num_strips) for name in LADDER[position + 1:])
    return next((each for each in candidates if effect(each, networks, graphs_wait) != here), None)


class MemoryConfig(Config):
    """The memory plan of a recipe or of one of its stages."""

    plan: PlanName
    strips: int | None = Field(None, ge=2, le=1000)  # null: 8; 16 take a little less memory, more hardly any

    @model_validator(mode="after")
    def _has_strips(self) -> MemoryConfig:
        if self.strips is not None and not PLANS[self.plan].in_strips:
            raise ValueError(f"plan {self.plan} has no strips; leave out `strips: {self.strips}`, or use plan: strips "
                             "or strips_blocks")
        return self

    def resolve(self) -> MemoryPlan:
        """Return the plan that this names."""
        plan = PLANS[self.plan]
        return plan if self.strips is None else replace(plan, num_strips=self.strips)


def _kind(value: object) -> str:
    return "auto" if isinstance(value, str) else "MemoryConfig"


def _explained(value: object) -> object:
    """Refuse, with an example of how it is written, what is neither `auto` nor a plan with its name."""
    wrong = not (value == "auto" or isinstance(value, dict | MemoryConfig))
    if wrong or (isinstance(value, dict) and "plan" not in value):
        name = value if isinstance(value, str) and value in PLANS else "strips"
        raise ValueError(f"{value!r}: write auto, or name a plan, as in {{plan: {name}}} (--set memory.plan={name})")
    return value


# `auto`: the planner chooses. Pydantic's tag tells `auto` from a mapping, so that an error names the field inside the
# mapping.
AutoMemory = Annotated[Annotated[Literal["auto"], Tag("auto")] | Annotated[MemoryConfig, Tag("MemoryConfig")],
                       UnionDiscriminator(_kind), BeforeValidator(_explained)]


def apply(plan: MemoryPlan, network: nn.Module, num_processes: int = 1) -> None:
    """Tell every part of `network` what to keep under `plan`, whatever it was told before."""
    for part, keep in kept_by_parts(plan, network, num_processes):
        part.keep = keep
        if isinstance(part, Chain) and keep == "strips":
            part.num_strips = plan.num_strips
            # Run the first layer whole: then the first norm's statistics need no extra pass (−6 % compute).
            part.strips_from = min(1, len(part) - 1)


def effect(plan: MemoryPlan, networks: Collection[nn.Module], graphs_wait: bool, num_processes: int = 1
           ) -> tuple[Any, ...]:
    """Return what `plan` does to these networks, of a translator whose `graphs_wait` or not. Nothing is changed.

    Equal for plans that do the same: a step is then the same under both.
    """
    keeps = [keep for network in networks for _, keep in kept_by_parts(plan, network, num_processes)]
    return plan.cut, plan.replay and graphs_wait, plan.num_strips if "strips" in keeps else None, *keeps


def kept_by_parts(plan: MemoryPlan, network: nn.Module, num_processes: int) -> Iterator[tuple[Part, Keep]]:
    """Yield every part of `network` that plans address, and what it keeps under `plan`, in an order that is always
    the same."""
    in_blocks = {part.chain for part in network.modules() if isinstance(part, Block)}
    for part in network.modules():
        if isinstance(part, Block):  # the chain inside is told with it
            whole = plan.trunk == "input"
            yield part, "input" if whole else "everything"
            yield part.chain, "everything" if whole else plan.trunk
        elif isinstance(part, Scale):
            yield part, plan.levels
        elif isinstance(part, Attention):
            yield part, "input" if "input" in (plan.trunk, plan.levels) else "everything"
        elif isinstance(part, Chain) and part not in in_blocks:
            keep = {"head": plan.head, "tail": plan.tail, "discriminator": plan.discriminator}[part.role]
            # Strips gather statistics in one process alone; batch norm over several needs the whole image at once.
            if keep == "strips" and num_processes > 1 and has_batch_norm(part):
                keep = "input"
            yield part, keep
