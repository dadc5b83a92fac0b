"""Where a run stands, as it is counted while it trains and as a checkpoint's `state.json` holds it.

It also tells what follows from that: the seed of the data, whether scores have stopped getting better, and the end.
"""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from translate.data.hashing import stable_hash
from translate.data.scale import ScaleState
from translate.foreign import MAX_NUMBER, Count, Document, Number, Shape
from translate.recipe import Recipe


class Best(Shape):
    """The checkpoint at `images` has the best `metric` of all that were evaluated, on `num_images` held-out images.

    `side` is their typical short side as they were shown, px: scores at two scales cannot be compared.
    """

    model_config = ConfigDict(frozen=True)

    images: Count
    metric: str
    value: Number
    num_images: Count
    side: Count | None = None  # None: an older version showed them at their own size


class Progress(Shape):
    """Where a run stands. `images` counts all images, `stage_images` those of the current stage.

    An alias is the name of a field in checkpoints, which earlier versions read as well.
    """

    model_config = ConfigDict(populate_by_name=True, extra="ignore")  # so no other name can be assigned

    images: Count = 0
    stage: Count = 0
    stage_images: Count = 0
    evaluated: Count = 0  # `images` at the last evaluation
    best: Best | None = None
    since_best: Count = 0  # evaluations that were not better
    rollbacks: Count = 0  # how often the run has gone back to a healthy checkpoint; each time its data are others
    healthy_at: Count | None = Field(None, alias="clear")  # `images` when the guard last saw no sign; None: no way back
    guard: dict[str, Any] = Field(default_factory=dict)  # what the guard remembers
    began: str = ""  # whose weights it began with, in words; empty: with fresh ones
    scales: dict[str, ScaleState] = Field(default_factory=dict)  # what the stage shows of A and B
    trained_on: dict[str, Any] = Field(default_factory=dict, alias="files")  # see `Samples.counted`

    def load(self, saved: Document) -> None:
        """Take over what a checkpoint says. What an older version did not write stays as it is."""
        then = SavedProgress.model_validate(saved)
        for name in Progress.model_fields.keys() & then.model_fields_set:
            setattr(self, name, getattr(then, name))

    def dump(self) -> Document:
        """Return it as a checkpoint holds it."""
        return self.model_dump(by_alias=True)

    def share(self, recipe: Recipe) -> float:
        """Return the share of its images that the stage has seen."""
        return self.stage_images / recipe.stages[self.stage].images

    def data_seed(self, recipe: Recipe) -> int:
        """Return what the order of the data and all chance of its samples is drawn from: another after each rollback.
        """
        return stable_hash(recipe.seed, "rollback", self.rollbacks) if self.rollbacks else recipe.seed

    def has_ended(self, recipe: Recipe) -> bool:
        """Tell whether all images have been seen, or the scores say that more of them do no good."""
        return self.images >= recipe.num_images or bool(self.why_stop(recipe))

    def why_stop(self, recipe: Recipe) -> str:
        """Return why a run ends now, as `evaluate.patience` evaluations brought no better one; empty where it goes on.
        """
        patience = recipe.evaluate.patience
        if patience is None or self.best is None or self.since_best < patience:
            return ""
        return (f"stopped early at {self.images:,} of {recipe.num_images:,} images: {self.best.metric} was best at "
                f"{self.best.images:,} images ({self.best.value:.5g}), and no better in the {self.since_best} "
                f"evaluations since (evaluate.patience: {patience}); a resume with more patience goes on")

    def compare(self, metric: str, value: float | None, num_images: int, side: int, own_side: int,
                higher_is_better: bool) -> bool:
        """Note the score of an evaluation, and return whether it is the best so far.

        value      None where the evaluation does not count
        side       the typical short side of the images as they were shown, px
        own_side   the same of the images in their own size

        A best of another metric, of another number of held-out images, or at another scale is forgotten: the two
        cannot be compared. A value that is not finite, or beyond what a checkpoint can hold, counts for nothing.
        """
        if self.best is not None and ((self.best.metric, self.best.num_images, self.best.side or own_side)
                                      != (metric, num_images, side)):
            self.best, self.since_best = None, 0
        sign = 1 if higher_is_better else -1
        counts = value is not None and abs(value) <= MAX_NUMBER  # which NaN is not
        if value is not None and counts and (self.best is None or sign * value > sign * self.best.value):
            self.best = Best(images=self.images, metric=metric, value=value, num_images=num_images, side=side)
            self.since_best = 0
            return True
        self.since_best += self.best is not None
        return False


class SavedProgress(Progress):
    """What every checkpoint says of it: one without these counts is no run of 0 images, but damaged."""

    images: Count
    stage: Count
    stage_images: Count
