"""Templates of pages: those of a wing, and the ones that all share."""

from __future__ import annotations

from pathlib import Path

import jinja2

SHARED = Path(__file__).parent  # style.css, slider.html.j2, slider.js


def templates_in(folder: Path) -> jinja2.Environment:
    """Return the templates of a folder, which may include and import the shared ones. What they show is escaped."""
    return jinja2.Environment(loader=jinja2.FileSystemLoader([folder, SHARED]), autoescape=True, trim_blocks=True,
                              lstrip_blocks=True, undefined=jinja2.StrictUndefined)
