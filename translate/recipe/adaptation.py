"""What `translate adapt` needs beside a training: labelled images, a task network, and how the table is made."""

from __future__ import annotations

import pydantic
from pydantic import Field

from translate.data.labelled_layouts import LabelledLayout
from translate.data.transforms import Augmentation, ClassicalAdaptation
from translate.networks.task_networks import TaskNetworkConfig
from translate.schema import Config, Size


class Downstream(Config):
    """How a task network is trained: every one of a table alike, whatever it is trained on."""

    network: TaskNetworkConfig
    resolution: Size = 256  # px: crops, a square or [height, width]
    resize: int | None = Field(None, ge=1, le=100_000)  # short side to load at; null keeps the size
    images: int = Field(100_000, ge=1, le=10**12)  # seen in training, over all epochs
    batch_size: int = Field(8, ge=1, le=1_000_000)
    lr: float = Field(1e-3, gt=0, le=1e9)  # of AdamW; falls to 0 along a cosine
    weight_decay: float = Field(1e-2, ge=0, le=1e9)
    augment: tuple[Augmentation, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the crops."""
        return self.resolution if isinstance(self.resolution, tuple) else (self.resolution, self.resolution)

    @property
    def num_seen(self) -> int:
        """How many images are seen: all, without one that would be left for a last batch of its own.

        Batch norm may have a single value a channel there, which torch refuses and which says nothing. With a
        batch_size of 1, or a single image, every batch is like that, and all images are seen.
        """
        return self.images - (self.images > self.batch_size > 1 and self.images % self.batch_size == 1)


class SemanticWeights(Config):
    """The consistency loss that `translate adapt make` adds to a CycleGAN, with a network that it trains first."""

    weight: float = Field(1.0, ge=0, le=1e9)  # of A → B
    # of B → A; 1 in the paper, for a network that is right about most images of B
    back: float = Field(0.0, ge=0, le=1e9)


class SelfTraining(Config):
    """Rows of the table that also learn from the target's images without labels, by what their networks are sure of."""

    confidence: float = Field(0.9, gt=0, lt=1)  # probability from which a network's own answer is taken for a label
    rounds: int = Field(1, ge=1, le=100)  # trainings, each with the labels of the one before


class Adaptation(Config):
    """Domain adaptation: labelled images of A become labelled images that look like B, and are put to the test."""

    source: LabelledLayout  # labelled images of A
    target: LabelledLayout  # images of B: test labels for the table, training labels for its oracle
    task: Downstream
    # what is done to the source's images before they are translated; translator, judge and task network see the result
    match: ClassicalAdaptation | None = None
    semantic: SemanticWeights | None = SemanticWeights()  # null: without; only CycleGANs have it
    variants: int = Field(1, ge=1, le=1000)  # translators to train, from as many seeds; each makes a set
    reject: float | None = Field(None, gt=0, lt=1)  # leave out images of which a larger share changes; null: none
    seeds: int = Field(5, ge=1, le=1000)  # of downstream trainings; seed i takes set i modulo `variants`
    self_training: SelfTraining | None = None  # null: no row learns from the target's images

    @pydantic.model_validator(mode="after")
    def _one_task(self) -> Adaptation:
        if self.source.per_pixel != self.target.per_pixel:
            raise ValueError("source and target: one has label maps and the other a class for each image")
        if self.source.num_classes != self.target.num_classes:
            raise ValueError(f"source and target: {self.source.num_classes} and {self.target.num_classes} classes; "
                             "they need the same")
        if self.task.network.per_pixel != self.source.per_pixel:
            raise ValueError(f"task.network: {self.task.network.kind} names "
                             f"{'every pixel' if self.task.network.per_pixel else 'the image as a whole'}, and the "
                             f"labels of {self.source.kind} do not")
        if self.self_training is not None and self.source.per_pixel and getattr(self.source, "ignore", None) is None:
            raise ValueError("self_training: pixels that a network is not sure of are ignored, and source.ignore is "
                             "null; give the number of pixels that do not count")
        return self
