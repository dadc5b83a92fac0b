"""What `state.json` of a checkpoint looks like, whoever has written it."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from translate.data.scale import ScaleState
from translate.foreign import Count, Number, Shape


class BestState(Shape):
    """A `Best`, as a checkpoint holds it."""

    images: Count
    metric: str
    value: Number
    num_images: Count
    side: Count | None = None


class ProgressState(Shape):
    """A `Progress`, as a checkpoint holds it."""

    images: Count
    stage: Count
    stage_images: Count
    evaluated: Count = 0
    best: BestState | None = None
    since_best: Count = 0
    rollbacks: Count = 0
    clear: Count | None = None
    began: str = ""
    guard: dict[str, Any] = Field(default_factory=dict)
    scales: dict[str, ScaleState] = Field(default_factory=dict)
    files: dict[str, Any] = Field(default_factory=dict)


class State(Shape):
    """What a checkpoint's `state.json` holds."""

    progress: ProgressState
    groups: dict[str, list[dict[str, Any]]]
    machine: dict[str, Any]
    scaler: dict[str, Any] | None
    num_processes: Count
