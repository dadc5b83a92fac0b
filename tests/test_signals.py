"""SIGTERM and SIGINT ask work to stop, and are given back, passed on or ignored when it has stopped."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runs import Silent, cyclegan_recipe
from translate.errors import Stopped
from translate.host import signals
from translate.host.signals import ending_once_stopped, minding_signals
from translate.training.loop import train


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]


@pytest.fixture(autouse=True)
def given_back() -> Iterator[list[Any]]:
    """The handlers before; they are there again for the next test."""
    before = handlers()
    yield before
    for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("asked", [False, True])
def test_a_program_that_calls_us_has_its_handlers_back(asked: bool, given_back: list[Any]) -> None:
    with minding_signals() as request:
        assert handlers() != given_back
        if asked:
            os.kill(os.getpid(), signal.SIGTERM)
    assert bool(request) == asked and handlers() == given_back


def test_a_command_that_was_asked_to_stop_ends_whatever_comes_then() -> None:
    """A launcher's second SIGTERM, milliseconds before the end, made −15 of 75: to a batch system it had failed."""
    with ending_once_stopped(), minding_signals():
        os.kill(os.getpid(), signal.SIGTERM)
    assert handlers() == [signal.SIG_IGN, signal.SIG_IGN]
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_command_that_was_not_asked_can_be_interrupted_as_before(given_back: list[Any]) -> None:
    with ending_once_stopped(), minding_signals():
        pass
    assert handlers() == given_back
    with ending_once_stopped(), pytest.raises(KeyboardInterrupt), minding_signals():
        signals.SECONDS_BEFORE_A_SECOND_SIGINT, usual = 0.0, signals.SECONDS_BEFORE_A_SECOND_SIGINT
        try:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            signals.SECONDS_BEFORE_A_SECOND_SIGINT = usual
    assert handlers() == given_back, "a third Ctrl-C ends what the second one's end hangs in"


def test_work_around_another_that_is_over_can_still_be_stopped(given_back: list[Any]) -> None:
    """The one within took the other for itself: it was taken off the list, and the stop ended in a ValueError."""
    with minding_signals() as around:
        with minding_signals() as within:
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert around and not within
    assert handlers() == given_back and not signals.MINDING.requests


def test_what_was_asked_of_the_work_within_is_asked_of_the_work_around_it(given_back: list[Any]) -> None:
    """A signal in the last step of a training that `adapt` had started was lost, and all its other work went on."""
    with ending_once_stopped(), minding_signals() as around:
        with minding_signals() as within:
            os.kill(os.getpid(), signal.SIGTERM)
            assert within and not around, "it stops by itself first, and saves"
        assert around.name == "SIGTERM" and handlers() != [signal.SIG_IGN, signal.SIG_IGN]
    with minding_signals() as request:
        assert not request


def test_a_second_sigint_behind_the_work_within_ends_the_work_around_it(
        monkeypatch: pytest.MonkeyPatch, given_back: list[Any]) -> None:
    """The outer work had been told of the first SIGINT, but not when: a launcher's second one was an IndexError."""
    with pytest.raises(KeyboardInterrupt), minding_signals() as around:
        with minding_signals():
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # at once: the first, passed on
        assert around.name == "SIGINT"
        monkeypatch.setattr(signals, "SECONDS_BEFORE_A_SECOND_SIGINT", 0.0)
        with minding_signals() as later:
            os.kill(os.getpid(), signal.SIGTERM)
        assert later and around.name == "SIGTERM"
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("not heard")
    assert handlers() == given_back


def test_a_stop_between_two_steps_leaves_no_worker_behind(shared_pairs: Path, tmp_path: Path) -> None:
    """The error of the stop held the stream of batches, and so its workers, which ignore signals: Python waited for
    them at its end, for ever."""
    recipe = cyclegan_recipe(shared_pairs, workers=2, stages=[{"resolution": 16, "images": 8, "batch_size": 2}])
    report = Silent(lambda images: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped, match="at 2 images") as held:
        train(recipe, tmp_path / "run", report)
    assert not multiprocessing.active_children() and held.tb
