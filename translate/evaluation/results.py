"""Scores as they are kept: the document that `results.json` holds, and where a run keeps it.

`results.json` holds

    what          the run or folder;  against: the real images;  direction: of a run
    weights       of a run: the name of the folder they are from, which for a checkpoint is the number of images it had
                  seen; else null
    side, own_side   of a run: the typical short side of the sources, px, as they were shown (as in the last stage of
                  the training, but whole), and in their own size
    num_images, num_reals, num_sources;  paired: whether image i has a truth
    range         of folders, where it was given: the values of the files that stand for black and white
    labels        of label maps: how many pixels of which classes the truth holds, and how many are ignored
    features      the networks that sets were compared by
    interval      {level, resamples}: how the intervals were made (percentile bootstrap over images)
    metrics       {name: {title, better, value, interval, floor, baselines}} in the order of a table
                  floor: {value, interval} of one half of the real images against the other; null where it has none
                  baselines: {identity, colour_transfer} → {value, interval}: images made without any learning
                  own_size: {value, interval} of the test images in their own size; null but for a run whose last stage
                  showed images at another scale, by more than a third
    missing       lines that say what could not be computed, why, and how to get it
    notes         lines that say what else was seen, such as what makes scores doubtful
    made_by       {diptych, torch, machine, date}

A value that is not finite (the PSNR of equal images) is null.
"""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from translate import files
from translate.metrics import intervals
from translate.metrics.intervals import Estimate
from translate.metrics.observations import MEASURES

RESULTS, BEST_RESULTS = "results.json", "best-results.json"  # of a run's newest checkpoint, and of its best one
OnProgress = Callable[[int, int], object]


@dataclass
class Results:
    """The scores of a set of images, of real ones, and of baselines."""

    about: dict[str, Any]
    scores: dict[str, Estimate]
    floor: dict[str, Estimate] = field(default_factory=dict)
    baselines: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    own_size: dict[str, Estimate] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the document that `results.json` holds."""
        return self.about | {
            "interval": {"level": intervals.CONFIDENCE, "resamples": intervals.RESAMPLES},
            "metrics": {name: {
                "title": MEASURES[name].title, "better": MEASURES[name].better, **_plain(self.scores[name]),
                "floor": _plain(self.floor[name]) if name in self.floor else None,
                "baselines": {baseline: _plain(scores[name]) for baseline, scores in self.baselines.items()
                              if name in scores},
                "own_size": _plain(self.own_size[name]) if name in self.own_size else None}
                for name in MEASURES if name in self.scores},
            "missing": self.missing,
            "notes": self.notes,
            "made_by": {"diptych": version("diptych"), "torch": torch.__version__, "date": str(datetime.date.today()),
                        "machine": f"{os.cpu_count()} cores, {platform.machine()}"}}

    def write(self, path: Path) -> None:
        """Write `as_json` to the file `path`. Raises `DiskError`."""
        with files.as_disk_errors(path):
            files.write_json(path, self.as_json())


def run_of(path: Path) -> Path:
    """Return the run that is meant by `path`: the folder itself, or RUN where it is RUN/best, which is no folder."""
    return path.parent if path.name == "best" and not path.is_dir() else path


def results_file(path: Path) -> Path | None:
    """Return where a run, or RUN/best, keeps its scores; None for what is no run."""
    run = run_of(path)
    if not (run / "checkpoints").is_dir():
        return None
    return run / (RESULTS if run == path else BEST_RESULTS)


def _plain(score: Estimate) -> dict[str, Any]:
    """Return a score as JSON has it, in which there is no infinity."""
    return {"value": score.finite, "interval": score.interval}
