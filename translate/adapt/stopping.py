"""Ending work at its next progress report after a signal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from translate.errors import Stopped
from translate.host.signals import StopRequest, minding_signals
from translate.training.loop import Reporter


@dataclass
class StoppingReporter:
    """A reporter that passes on what it is told, and raises `Stopped` once a signal has asked for it."""

    report: Reporter
    stop: StopRequest
    kept: str  # what is not lost, in words

    def say(self, line: str) -> None:
        self.report.say(line)
        self._end("")

    def progress(self, images: int, total: int, stage: str, losses: dict[str, float],
                 seconds_left: float | None = None, stage_number: int = 0) -> None:
        self.report.progress(images, total, stage, losses, seconds_left, stage_number)
        if images < total:  # else it is finished, and is saved next
            self._end(f" ({stage}, {images:,} of {total:,})")

    def scoring(self, done: int, total: int) -> None:
        self.report.scoring(done, total)

    def _end(self, where: str) -> None:
        if self.stop:
            raise Stopped(f"stopped by {self.stop.name}{where}; {self.kept}", advice="the same command goes on")


@contextmanager
def stopping(report: Reporter, kept: str) -> Iterator[Reporter]:
    """Yield a reporter: within the block, SIGTERM and SIGINT end the work at its next progress report."""
    with minding_signals() as stop:
        yield StoppingReporter(report, stop, kept)
