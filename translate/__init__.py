"""Diptych: high-resolution image translation that fits your GPU."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # `import translate` costs no torch
    from pathlib import Path

    from translate.convert.python_api import Model

__version__ = version("diptych")
__all__ = ["load"]


def load(path: str | Path, direction: Literal["ab", "ba"] = "ab", device: str = "auto",
         precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto", memory: str | None = None) -> Model:
    """Load a model from a run or release folder: `load(path).convert(image)` translates an image in memory.

    One that draws images from noise does so by `load(path).sample(num, seed)`.

    path        the folder
    direction   `ab` from domain A to domain B, `ba` back; not for one from noise, as for `memory`
    device      `auto` takes CUDA where there is one
    precision   `auto` takes the device's fast number format for outputs of 8 bits, fp32 for deeper ones
    memory      (such as "2GB") bounds what translating takes beyond the image: exact strips, somewhat slower

    Raises `UsageError` where there is no such folder, direction, device or format, `CheckpointError` when the folder's
    files do not verify.
    """
    from pathlib import Path

    from translate.convert.from_noise import NoiseModel
    from translate.convert.python_api import Model
    from translate.convert.translating import Translating
    from translate.errors import UsageError
    from translate.runs.release import draws_from_noise, load_release
    from translate.sampling.sampler import Sampler

    if draws_from_noise(Path(path)):
        if direction != "ab" or memory is not None:
            raise UsageError(f"{path} draws images from noise: it has no other direction, and none of its images are "
                             "computed in strips; leave direction and memory out")
        return NoiseModel(Sampler.load(Path(path), device, precision))
    return Model(Translating.with_release(load_release(Path(path), direction), device, precision, memory))
