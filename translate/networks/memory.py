"""Memory plans: what a training step keeps and what it computes again. The gradients are equal under every plan.

From the most memory to the least; the compute of a CycleGAN step is given relative to `plain`:

    plan    compute  what it does
    plain   1.00     one joint backward pass at the end, everything kept: the textbook step
    split   1.00     each loss is backpropagated as soon as it is known, cut at the fake image
    blocks  1.32     split, and each block or level of a network keeps only its input
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from translate.networks.layers import Block, Chain, Keep, Level
from translate.schema import Config

PlanName = Literal["plain", "split", "blocks"]


class MemoryConfig(Config):
    """The memory plan of a recipe or of one of its stages."""

    plan: PlanName


@dataclass(frozen=True)
class Plan:
    """What one memory plan does: to the step (`cut`) and to the parts of a network (`keep`)."""

    name: PlanName
    cut: bool  # split backward: the graph is cut at the fake image
    keep: Keep


PLANS: dict[PlanName, Plan] = {plan.name: plan for plan in (
    Plan("plain", cut=False, keep="everything"),
    Plan("split", cut=True, keep="everything"),
    Plan("blocks", cut=True, keep="input"),
)}


def apply(plan: Plan, network: nn.Module) -> None:
    """Tell every part of `network` what to keep. The chain inside a block follows its block."""
    inner = {block.chain for block in network.modules() if isinstance(block, Block)}
    for part in network.modules():
        if isinstance(part, Block | Level) or (isinstance(part, Chain) and part not in inner):
            part.keep = plan.keep
