"""Which way the operation is computed, by the device: `eager`, `plain` or `fused`."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor
from torch.overrides import has_torch_function_unary

from translate.networks.normalised import fused
from translate.precision import HasFormat

Path = Literal["eager", "plain", "fused"]

FUSED_FROM = (8, 0)  # the compute capability below which Triton promises nothing


def path_of(x: Tensor) -> Path:
    """Return how the operation is computed on the device of `x`: by that alone, or as `computed_by` says."""
    if has_torch_function_unary(x):  # an image of `translate.tiling`, which records torch's own functions
        return "eager"
    if _forced is not None:
        return _forced
    return path_on_card(x.device.index or 0) if x.device.type == "cuda" else "eager"


def path_on(device: Literal["cuda", "cpu"], is_here: bool = True) -> Path:
    """Return how the operation is computed on a kind of device, or as `computed_by` says: on that of this machine, or
    if not `is_here` on another one's. A card that is not here may have no Triton; without it a step takes no less
    memory."""
    if _forced is not None:
        return _forced
    if device == "cpu":
        return "eager"
    return path_here() if is_here else "plain"


def path_here() -> Path:
    """Return how the operation is computed on torch's current CUDA card, and as if it were an older one on none."""
    return path_on_card(torch.cuda.current_device()) if torch.cuda.is_available() else "plain"


def is_on_cpu(x: HasFormat) -> bool:
    """Tell whether `x` is on a CPU, or stands for what is: on the meta device, where `computed_by` says so. An image of
    `translate.tiling` is where it will be computed, though `path_of` has one way for all of them."""
    return x.device.type in ("cpu", "meta") and path_on("cpu") == "eager"


@functools.cache
def path_on_card(index: int) -> Path:
    """Return how the operation is computed on a CUDA card of this machine."""
    is_new = torch.cuda.get_device_capability(index) >= FUSED_FROM
    has_triton = is_new and importlib.util.find_spec("triton") is not None
    return "fused" if has_triton and fused.works_on(torch.device("cuda", index)) else "plain"


_forced: Path | None = None


@contextmanager
def computed_by(path: Path) -> Iterator[None]:
    """Compute by `path` within the block, backward passes included, on any device: for counts on the meta device, which
    stands for another, and for tests."""
    global _forced
    before, _forced = _forced, path
    try:
        yield
    finally:
        _forced = before
