"""A model that a command names: a run, RUN/best, a release, or a release on the Hub, which is fetched."""

from __future__ import annotations

from pathlib import Path

from translate.cli import console
from translate.cli.console import say
from translate.errors import visible


def quieten_the_hub() -> None:
    """Leave out the bars of the Hub's library where nobody would see them move."""
    from huggingface_hub.utils import disable_progress_bars

    if not console.err.is_terminal:
        disable_progress_bars()


def at_hand(model: Path) -> Path:
    """Return the folder of a model; one on the Hub is fetched, which is said.

    Raises as `translate.runs.hub.fetch` does.
    """
    from translate.runs.hub import address, fetch, is_address

    if not is_address(model):
        return model
    quieten_the_hub()
    fetched = fetch(address(model))
    say(f"warning: {visible(fetched.note)}" if fetched.note else f"fetched: {visible(model)}")
    return fetched.folder
