"""What a person sees while work goes on: a rich progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_SECONDS = 15.0  # between two plain lines


class Display:
    """Images done of all, images/s and megapixels/s, time left, and what is being measured. Use as a context."""

    def __init__(self, console: Console, title: str, unit: str = "images"):
        self.console, self.title, self.unit = console, title, unit
        self._bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                             TextColumn("{task.fields[speed]}"), TimeElapsedColumn(), TimeRemainingColumn(),
                             TextColumn("{task.fields[detail]}"), console=console, transient=True)
        self._task = self._bar.add_task(title, total=None, speed="", detail="", start=False)
        self._first: tuple[float, int, float] | None = None
        self._worked = 0
        self._last_line = time.monotonic()

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def progress(self, images: int, total: int, stage: str, losses: dict[str, float], *,
                 worked: int | None = None, megapixels: float | None = None) -> None:
        """Show how far the work is. `worked`: so many of the images took work, the others were done before."""
        now = time.monotonic()
        worked = images if worked is None else worked
        if self._first is None or worked < self._worked:  # the first of all, or of another kind of work
            self._first = (now, worked, megapixels or 0.0)
            self._bar.start_task(self._task)
        self._worked = worked
        elapsed = now - self._first[0]
        rate = (worked - self._first[1]) / elapsed if elapsed > 0 else 0.0
        speed = f"{rate:.1f} {self.unit}/s"
        if megapixels is not None and elapsed > 0:
            speed += f", {(megapixels - self._first[2]) / elapsed:.1f} megapixels/s"
        detail = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
        self._bar.update(self._task, completed=images, total=total, description=f"{self.title} {stage}".strip(),
                         speed=speed, detail=detail)
        if not self.console.is_terminal and (now - self._last_line > PLAIN_SECONDS or images >= total):
            self._last_line = now
            seconds = (total - images) / rate if rate else 0.0
            left = f", {timedelta(seconds=round(seconds))} left" if rate and images < total else ""
            done = f"{images:,} of {total:,} {self.unit}"
            self.say(f"{self.title} {stage}".strip() + f": {done}, {speed}{left}  {detail}")
