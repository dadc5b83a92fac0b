"""What a person sees while work goes on: a rich progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_SECONDS = 15.0  # between two plain lines


class Display:
    """Images done of all, images/s, time left, and what is being measured. Use as a context."""

    def __init__(self, console: Console, title: str):
        self.console, self.title = console, title
        self._bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                             TextColumn("{task.fields[speed]}"), TimeElapsedColumn(), TimeRemainingColumn(),
                             TextColumn("{task.fields[detail]}"), console=console, transient=True)
        self._task = self._bar.add_task(title, total=None, speed="", detail="", start=False)
        self._first: tuple[float, int] | None = None
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

    def progress(self, images: int, total: int, stage: str, losses: dict[str, float]) -> None:
        """Show how far the work is."""
        now = time.monotonic()
        if self._first is None:
            self._first = (now, images)
            self._bar.start_task(self._task)
        elapsed, done = now - self._first[0], images - self._first[1]
        speed = done / elapsed if elapsed > 0 else 0.0
        detail = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
        self._bar.update(self._task, completed=images, total=total, description=f"{self.title} {stage}".strip(),
                         speed=f"{speed:.1f} images/s", detail=detail)
        if not self.console.is_terminal and (now - self._last_line > PLAIN_SECONDS or images >= total):
            self._last_line = now
            left = f", {(total - images) / speed:.0f} s left" if speed and images < total else ""
            self.say(f"{self.title} {stage}: {images:,} of {total:,} images, {speed:.1f} images/s{left}  {detail}")
