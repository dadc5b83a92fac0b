"""What is watched while a training runs: how often, which scores, which signs that it is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pydantic
from pydantic import Field

from translate.schema import Config


class Cadence(Config):
    """How often, in images."""

    log: int = Field(100, ge=1, le=10**12)
    probe: int = Field(200, ge=1, le=10**12)  # a look at what the generators make of a few held-out images, in numbers
    sample: int | None = Field(2_000, ge=1, le=10**12)  # a grid of pictures; null: only at the end
    checkpoint: int = Field(10_000, ge=1, le=10**12)
    # held-out scores; auto: where there is a test set, at the end and so seldom before that scoring takes 5 % of the
    # time at most, usually far less; null: never
    evaluate: int | Literal["auto"] | None = "auto"

    @pydantic.field_validator("evaluate")
    @classmethod
    def _at_least_one(cls, value: int | str | None) -> int | str | None:
        if isinstance(value, int) and not 1 <= value <= 10**12:
            raise ValueError(f"{value} is not a number of images; use 1 to 1,000,000,000,000, auto or null")
        return value


class Evaluation(Config):
    """What held-out scores decide: which checkpoint is the best, and whether it is time to stop."""

    # auto: SSIM where the truth of test images is known, else the kernel distance to real ones
    metric: Literal["auto", "psnr", "ssim", "ms_ssim", "l1", "gradient_error", "kernel_distance",
                    "sliced_wasserstein"] = "auto"
    images: int = Field(64, ge=2, le=10**12)  # most test images that are scored, evenly spread: enough for a curve
    # evaluations without a better one after which the training ends, and its release is the best; null: never
    patience: int | None = Field(None, ge=1, le=10**12)
    # folder of a classifier, such as `translate evaluate RUN --tstr` leaves in RUN/classifier: of how many classes
    # are the images, and what is the share of the rarest? null: nobody asks
    classifier: Path | None = None


Sign = Literal["not_finite", "constant", "saturated", "copy", "lost", "blind", "won", "fooled", "vanished", "exploded"]


class GuardConfig(Config):
    """What is done about a training that is lost; docs/training.md tells the signs. Judged at every `every.probe`."""

    # images that a sign must last; smaller: earlier, but more false alarms
    patience: int = Field(2_000, ge=1, le=10**12)
    # steps in a row that may be left out because their numbers are not finite
    skips: int = Field(10, ge=0, le=1_000_000)
    # returns to the newest healthy checkpoint, each with other data, before the run is given up; 0: at the first sign
    rollbacks: int = Field(3, ge=0, le=1000)
    ignore: tuple[Sign, ...] = ()  # signs that mean nothing here
