"""What a person sees while work goes on: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar

from translate.cli import console
from translate.cli.console import has_spoken, say
from translate.errors import visible
from translate.sizes import format_speed

PLAIN_SECONDS = 5.0  # between two plain lines
QUIET_SECONDS = 8.0  # without a line, after which one says that work goes on


class Display:
    """How far work is: images done of all, images/s and megapixels/s, time left, losses. Use it as a context.

    title   what is done, such as the name of a recipe
    on      where it is shown; None: `translate.cli.console.out`
    unit    what is counted
    """

    def __init__(self, title: str, on: Console | None = None, unit: str = "images"):
        self.title, self.unit = visible(title), unit
        self.console = on or console.out
        what, speed, left, detail = (TextColumn(f"{{task.{name}}}", markup=False)
                                     for name in ("description", "fields[speed]", "fields[left]", "fields[detail]"))
        self._bar = ProgressBar(what, BarColumn(), MofNCompleteColumn(), speed, TimeElapsedColumn(),
                                left, detail, console=self.console, transient=True)
        self._task = self._bar.add_task(self.title, total=None, speed="", left="", detail="", start=False)
        self._first: tuple[float, int, float] | None = None  # where speed is counted from: (time, worked, megapixels)
        self._worked, self._stage_number = 0, 0  # the stage whose speed is counted
        self._scoring_since: float | None = None  # the time at which an evaluation began that is going on
        self._scoring_seconds = 0.0  # of all evaluations
        self._last_line = self._last_said = self._last_news = time.monotonic()
        self._where = self.title  # how far the work is, in words
        self._losses: set[str] = set()  # names of those that were shown
        self._explained: set[str] = set()  # what has been said of them
        self._ended = threading.Event()

    def __enter__(self) -> Display:
        has_spoken.set()
        if self.console.is_terminal:
            self._bar.start()
        else:
            threading.Thread(target=self._say_that_work_goes_on, name="display", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._ended.set()
        if self.console.is_terminal:  # one that never started would print an empty line
            self._bar.stop()

    def say(self, line: str) -> None:
        """Print a line that stays, above the bar."""
        self._last_said = self._last_news = time.monotonic()
        say(line, self.console)

    def _say_that_work_goes_on(self) -> None:
        """Where there is no terminal whose clock goes on: a line now and then while one step takes long."""
        while not self._ended.wait(QUIET_SECONDS / 8):
            now = time.monotonic()
            if now - self._last_said > QUIET_SECONDS:
                self._last_said = now
                say(f"{self._where}; still at work, {timedelta(seconds=round(now - self._last_news))} since then",
                    self.console)

    def count(self, done: int, total: int, stage: str = "") -> None:
        """Show that so many of all images are done, where there are no losses to show."""
        self.progress(done, total, stage, {})

    def scoring(self, done: int, total: int) -> None:
        """Show how many images an evaluation has looked at, of all, for which the work that is counted waits."""
        now = time.monotonic()
        if self._scoring_since is None:
            self._scoring_since = now
        what = f"scoring held-out images, {done} of {total}"
        self._where, self._last_news = f"{self.title}: {what}", now
        self._bar.update(self._task, description=f"{self.title} {what}")
        if not self.console.is_terminal and now - self._last_line > PLAIN_SECONDS:
            self._last_line = now
            left = (now - self._scoring_since) / max(done, 1) * (total - done)
            self.say(f"{self.title}: {what}" + (f", {timedelta(seconds=round(left))} left of it" if done else ""))

    def progress(self, images: int, total: int, stage: str, losses: dict[str, float],
                 seconds_left: float | None = None, stage_number: int = 0, *,
                 worked: int | None = None, megapixels: float | None = None) -> None:
        """Show how far the work is.

        images, total   done, of all
        stage           which part of the work this is, shown behind the title
        losses          shown by name
        seconds_left    of all the work; None: by the speed so far
        stage_number    which stage of a training this is, from 0: each has its own speed
        worked          how many of `images` took work; the others were done before. None: all
        megapixels      how many were made so far; None: not shown
        """
        now = time.monotonic()
        worked = images if worked is None else worked

        # An evaluation has ended: its time is not the work's.
        if self._scoring_since is not None:
            self._scoring_seconds += (now - self._scoring_since) * (self._first is not None)
            self._scoring_since = None

        # Speed is counted from the first call, and again from the start of each kind of work.
        if self._first is None or worked < self._worked or stage_number != self._stage_number:
            self._first = (now, worked, megapixels or 0.0)
            self._scoring_seconds = 0.0
            self._bar.start_task(self._task)
        self._worked, self._stage_number = worked, stage_number
        first_time, first_worked, first_megapixels = self._first
        elapsed = now - first_time - self._scoring_seconds
        rate = (worked - first_worked) / elapsed if elapsed > 0 else 0.0
        speed = format_speed(rate, self.unit) if rate and total > 1 else ""  # of one image there is none
        if speed and megapixels == 0:  # files that failed: how fast says nothing
            speed = ""
        elif speed and megapixels is not None:
            speed += f", {(megapixels - first_megapixels) / elapsed:.1f} megapixels/s"

        # A later stage may have losses of other names.
        if not losses.keys() <= self._losses:
            self._losses |= losses.keys()
            from translate.losses.in_words import losses_in_words  # brings torch, which has made the losses

            if words := [each for each in losses_in_words(losses) if each not in self._explained]:
                self._explained.update(words)
                self.say(f"losses: {'; '.join(words)}")

        heading = f"{self.title} {visible(stage)}".strip()
        self._where, self._last_news = f"{heading}: {images:,} of {total:,} {self.unit}", now
        detail = "  ".join(f"{visible(name)} {value:.3f}" for name, value in losses.items())
        if seconds_left is None and rate:
            seconds_left = (total - images) / rate
        left = "" if seconds_left is None or images >= total else f"{timedelta(seconds=round(seconds_left))} left"
        self._bar.update(self._task, completed=images, total=total, description=heading, speed=speed, left=left,
                         detail=detail)

        # Where there is no terminal: a line now and then, and one at the end.
        if not self.console.is_terminal and (now - self._last_line > PLAIN_SECONDS or images >= total):
            self._last_line = now
            counted = ", ".join(filter(None, (f"{images:,} of {total:,} {self.unit}", speed, left)))
            self.say(f"{heading}: {counted}  {detail}")
