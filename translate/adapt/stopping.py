"""A signal as a request, for work that tells how far it is: it ends at the next step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from translate.errors import Stopped
from translate.signals import StopRequest, minding_signals
from translate.training.loop import Reporter


@dataclass
class StoppingReporter:
    """Passes on what it is told, and raises `Stopped` where a signal has asked for it."""

    report: Reporter
    stop: StopRequest
    kept: str  # what is kept, and how to go on

    def say(self, line: str) -> None:
        self.report.say(line)
        self._end("")

    def progress(self, images: int, total: int, stage: str, losses: dict[str, float]) -> None:
        self.report.progress(images, total, stage, losses)
        if images < total:  # else it is finished, and is saved next
            self._end(f" ({stage}, {images:,} of {total:,})")

    def _end(self, where: str) -> None:
        if self.stop:
            raise Stopped(f"stopped by {self.stop.name}{where}; {self.kept}; the same command goes on")


@contextmanager
def stopping(report: Reporter, kept: str) -> Iterator[Reporter]:
    """Within the block SIGTERM and SIGINT end the work at the next thing that is told to what this yields."""
    with minding_signals() as stop:
        yield StoppingReporter(report, stop, kept)
