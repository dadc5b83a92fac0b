"""A reporter for trainings whose figures alone are wanted."""

from __future__ import annotations


class Silent:
    """A reporter that says nothing."""

    def say(self, line: str) -> None:
        pass

    def progress(self, images: int, total: int, stage: str, losses: dict[str, float],
                 seconds_left: float | None = None, stage_number: int = 0) -> None:
        pass

    def scoring(self, done: int, total: int) -> None:
        pass
