"""A stage: a stretch of the training at one resolution."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from translate.networks.memory import AutoMemory
from translate.optimizers import Constant, Schedule
from translate.schema import Config, Size


class Stage(Config):
    """A stretch of the training at one resolution. One image is one (a, b) sample."""

    resolution: Size = 256  # px: a square, or [height, width]
    images: int = Field(ge=1, le=10**12)
    batch_size: int = Field(1, ge=1, le=1_000_000)  # global: over all processes and micro-batches
    micro_batch: int | None = Field(None, ge=1, le=1_000_000)  # samples a process holds at once; null: all of its share
    # short side to load at in this stage; null: as `data.resize` says
    resize: int | None = Field(None, ge=1, le=100_000)
    lr: Schedule = Constant()  # {kind: constant, factor: 0.5}: half of the optimizers'
    # number of added levels; each doubles the resolution (docs/high-resolution.md). As in the stage before, or one more
    # (of translator.kind stacked: how many of its generators have begun to learn)
    levels: int = Field(0, ge=0, le=8)
    fade: bool = False  # the newest level fades in over this stage's images; what it replaces is gone in the next
    # true: of the generators the newest level is trained alone in this stage; trunk: all but their trunk is
    freeze: bool | Literal["trunk"] = False
    # the generators' batch norm goes by its running statistics in this stage, as it does in translating: what they were
    # counted on is then no matter of chance, since the weights learn beside them. For the end of a training
    hold_statistics: bool = False
    memory: AutoMemory | None = None  # null: the recipe's

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the crops."""
        return self.resolution if isinstance(self.resolution, tuple) else (self.resolution, self.resolution)

    @property
    def level(self) -> str:
        """The newest level, and what is frozen, in words with commas before them; nothing where there is none."""
        how = f"{' fading in' * self.fade}{' alone' * (self.freeze is True)}"
        return f", level {self.levels}{how}" * (self.levels > 0) + ", the trunk frozen" * (self.freeze == "trunk")
