"""Whether translations still show what their labels say: a second opinion, class by class.

The judge is a task network, trained on labelled source images from a seed of its own: the translator may have learned
to please another one (the consistency loss), and not this. It looks at each image before and after translation. Its
errors on untranslated images are the control for how often it changes its opinion; both are counted on images that it
was not trained on, as it knows the others by heart.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from translate.adapt.examples import Examples
from translate.adapt.task_training import opinions

ONE_HELD_OUT_IN = 10  # images: that one is not shown to the judge in its training
ALARM_SHARE = 0.25  # a class is flagged where so much more of it changes than the judge gets wrong untranslated
UNSURE_SHARE = 0.25  # a judge that gets more than this wrong untranslated cannot tell what translation changes


@dataclass(frozen=True)
class Opinion:
    """What became of one image, counted by the class that its label says: of pixels, or of the one image."""

    counted: np.ndarray  # (classes,)
    wrong_before: np.ndarray
    wrong_after: np.ndarray
    changed: np.ndarray

    @property
    def share_changed(self) -> float:
        """The part of all that counts in the image."""
        return float(self.changed.sum() / max(self.counted.sum(), 1))


def compare_opinions(judge: nn.Module, before: Examples, after: Examples, device: torch.device) -> Iterator[Opinion]:
    """Yield the judge's opinion of each image; `before` and `after` hold the same images with the same labels."""
    classes, ignore = before.layout.num_classes, getattr(before.layout, "ignore", None)

    # Both are looked at side by side. What counts, by the class that its label says:
    pairs = zip(opinions(judge, before, device), opinions(judge, after, device), strict=True)
    for (first, truth), (second, _) in pairs:
        counts = np.ones(truth.shape, bool) if ignore is None else truth != ignore

        def by_class(which: np.ndarray, truth: np.ndarray = truth, counts: np.ndarray = counts) -> np.ndarray:
            return np.bincount(truth[counts & which].ravel(), minlength=classes)

        yield Opinion(by_class(np.ones_like(counts)), by_class(first != truth), by_class(second != truth),
                      by_class(first != second))


def summarise(found: Sequence[Opinion], held_out: Sequence[bool], names: Sequence[str],
              kept: Sequence[bool] | None = None) -> dict[str, Any]:
    """Return the report on opinions about some images.

    held_out   which of them the judge was not trained on
    names      of the classes
    kept       which of them belong to the set (None: all)

    It says for each class, and for `all`, how many images or pixels there are and how many are kept, and these shares:

    changed             the judge changes its opinion
    changed_held_out    the same, of images that it was not trained on
    wrong_untranslated  the judge is wrong before translation, of images that it was not trained on: the control
    wrong_translated    the judge is wrong after translation, of the same images

    It says too which classes are `flagged` (too much changes), `unsure` (the judge does not know them untranslated),
    `unknown` (there is no control, so nothing can be said) or `lost` (nothing is kept). A share of nothing is null.
    """
    held = [opinion for opinion, is_held in zip(found, held_out, strict=True) if is_held]
    left = [opinion for opinion, is_kept in zip(found, kept or [True] * len(found), strict=True) if is_kept]
    of_all, of_held, of_kept = (_total(each, len(names)) for each in (found, held, left))

    # A row for each class and for all of them; `pick` takes what belongs to it from counts by class.
    def row(pick: Any) -> dict[str, Any]:
        counted, held_counted = int(pick(of_all.counted)), int(pick(of_held.counted))
        return {"num": counted, "num_kept": int(pick(of_kept.counted)),
                "changed": _share(pick(of_all.changed), counted), "num_held_out": held_counted,
                "changed_held_out": _share(pick(of_held.changed), held_counted),
                "wrong_untranslated": _share(pick(of_held.wrong_before), held_counted),
                "wrong_translated": _share(pick(of_held.wrong_after), held_counted)}

    # What is to be said of classes that have images at all.
    classes = {name: row(lambda counts, number=number: counts[number]) for number, name in enumerate(names)}
    there = {name: each for name, each in classes.items() if each["num"]}
    control = {name: each["wrong_untranslated"] for name, each in there.items() if each["num_held_out"]}
    return {"classes": classes, "all": row(np.sum), "alarm": ALARM_SHARE, "unsure_above": UNSURE_SHARE,
            "flagged": [name for name, wrong in control.items() if there[name]["changed"] - wrong > ALARM_SHARE],
            "unsure": [name for name, wrong in control.items() if wrong > UNSURE_SHARE],
            "unknown": [name for name in there if name not in control],
            "lost": [name for name, each in there.items() if not each["num_kept"]]}


def warnings_of(report: dict[str, Any], of: str, rejects: bool) -> list[str]:
    """Return what a person must know before they believe a report, which counts images or pixels (`of`).

    `rejects`: images were left out of the set for the judge's opinion of them.
    """
    lines, wrong, limit = [], report["all"]["wrong_untranslated"], f"{100 * UNSURE_SHARE:.0f} %"
    if wrong is not None and wrong > UNSURE_SHARE:
        lines.append(f"the judge is wrong about {100 * wrong:.0f} % of untranslated {of}: this check says little"
                     f"{', and so do its rejections' if rejects else ''}; train it longer (adapt.task.images)")
    elif report["unsure"]:
        lines.append(f"the judge is wrong about more than {limit} of untranslated {of} of {', '.join(report['unsure'])}"
                     ": of these, this check says little; train it longer (adapt.task.images)")
    if report["unknown"]:
        lines.append(f"of {', '.join(report['unknown'])} no {of} were kept from the judge's training: how often it is "
                     "wrong about them untranslated is unknown, so they cannot be flagged; use more source images")
    if report["lost"]:
        lines.append(f"nothing is left of {', '.join(report['lost'])}: all of it was rejected (adapt.reject)")
    return lines


def is_held_out(name: str) -> bool:
    """Return whether an image is kept from the judge's training: by its name alone, so that every set agrees."""
    return hashlib.sha256(os.fsencode(name)).digest()[0] % ONE_HELD_OUT_IN == 0


def _total(found: Sequence[Opinion], classes: int) -> Opinion:
    none = np.zeros(classes, np.int64)
    return Opinion(*(sum((getattr(each, name) for each in found), none)
                     for name in ("counted", "wrong_before", "wrong_after", "changed")))


def _share(part: float, whole: int) -> float | None:
    return float(part) / whole if whole else None
