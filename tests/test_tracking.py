"""Numbers and pictures reach the trackers, and none of them can cost a training anything."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import accelerate.tracking
import pytest
from accelerate.tracking import GeneralTracker
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.covering import one_in
from tests.runs import Silent, pix2pix_recipe
from translate.errors import MissingExtra
from translate.foreign import read_lines
from translate.training.loop import train


def recipe(data: Path) -> Any:
    return pix2pix_recipe(data, trackers=["tensorboard"], evaluate={"images": 2},
                          every={"log": 4, "sample": 6, "checkpoint": 12, "evaluate": 6})


def test_tensorboard_gets_losses_scores_and_pictures(shared_pairs: Path, tmp_path: Path) -> None:
    """As they stand in metrics.jsonl, at the same numbers of images; L1 the loss is not L1 the score."""
    train(recipe(shared_pairs), tmp_path / "run", Silent())
    board = EventAccumulator(str(tmp_path / "run" / "toy"))
    board.Reload()
    records = read_lines(tmp_path / "run" / "metrics.jsonl")
    for kind, name in (("train", "l1"), ("evaluation", "l1"), ("evaluation", "ssim"), ("train", "discriminator_b")):
        written = [(record["images"], record[name]) for record in records if record["kind"] == kind]
        kept = [(event.step, event.value) for event in board.Scalars(f"{kind}/{name}")]
        assert len(written) > 1 and kept == [(images, pytest.approx(value, rel=1e-6)) for images, value in written]
    pictures = board.Images("samples")
    assert [event.step for event in pictures] == [6, 12]
    assert (pictures[0].width, pictures[0].height) == (3 * 80 + 2, 4 * 72 + 2)


@pytest.mark.parametrize("fault", one_in(2, ["log", "log_images", "start", "finish"]))
def test_a_tracker_that_raises_is_left_out_with_one_warning(fault: str, shared_pairs: Path, tmp_path: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two, the other goes on; the training ends as ever, and its report tells of it."""
    calls: list[str] = []

    class Faulty(GeneralTracker):
        name, requires_logging_directory, tracker = "wandb", False, None

        def __init__(self, run_name: str, **words: Any):
            super().__init__()

    def method(called: str) -> Any:
        def call(self: Faulty, *words: Any, **named: Any) -> None:
            calls.append(called)
            if called == fault:
                raise ConnectionError("the service is away")

        return call

    for name in ("start", "log", "log_images", "finish"):
        setattr(Faulty, name, method(name))
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: found("json" if name == "wandb" else name))
    monkeypatch.setattr(accelerate.tracking, "_available_trackers",
                        [*accelerate.tracking._available_trackers, accelerate.tracking.LoggerType.WANDB])
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "wandb", Faulty)
    report = Silent()
    both = recipe(shared_pairs).model_copy(update={"trackers": ("wandb", "tensorboard")})
    train(both, tmp_path / "run", report)
    warnings = [line for line in report.lines if line.startswith("warning")]
    assert warnings == ["warning: the tracker wandb is left out from now on: ConnectionError: the service is away"]
    assert calls.count(fault) == 1 and calls[-1] == fault, "it is not asked again"
    board = EventAccumulator(str(tmp_path / "run" / "toy"))
    board.Reload()
    assert [event.step for event in board.Scalars("evaluation/ssim")] == [6, 12]
    assert warnings[0] in [event["message"] for event in read_lines(tmp_path / "run" / "events.jsonl")]


def test_a_tracker_that_is_not_installed_is_named_before_the_training(shared_pairs: Path, tmp_path: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"needs tensorboard; run: pip install 'diptych\[track\]'"):
        train(recipe(shared_pairs), tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()
