"""What a check of a data set counts over all images of a side: how many are transparent, and what they hide."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from translate.images.pictures import Picture
from translate.images.reading import ImageConfig
from translate.images.transparency import hidden_colours, is_transparent

NUM_NAMED = 3  # files that a sentence names


@dataclass
class PixelCount:
    """What has been seen of the images of one side. `field` is what its recipe calls it, such as data.image_a."""

    config: ImageConfig
    field: str
    num: int = 0
    transparent: list[Path] = field(default_factory=list)
    hidden: dict[tuple[float, ...], Path] = field(default_factory=dict)  # each colour, and the first file that hides it

    def look_at(self, picture: Picture) -> None:
        """Count one image, as its file has it."""
        self.num += 1
        if is_transparent(picture.alpha):
            self.transparent.append(picture.path)
            for colour in hidden_colours(picture.pixels, picture.alpha):
                self.hidden.setdefault(colour, picture.path)

    def said(self) -> list[tuple[Path, Literal["note", "warning"], str, str | None]]:
        """Return what is to be known of all images together: a file, a severity, what, advice."""
        if not self.transparent or self.config.channels in (2, 4):  # alpha is one of its channels
            return []
        what = f"is transparent, as {len(self.transparent)} of {self.num} images of {self.field} are"
        differ = len(self.hidden) > 1
        examples = [f"{shown(colour)} in {path.name}" for colour, path in list(self.hidden.items())[:NUM_NAMED]]
        hiding = f"the colours that nobody sees under it differ ({', '.join(examples)})"
        if self.config.background is not None:
            return [(self.transparent[0], "note", f"{what}: shown on {self.config.background}"
                     + (f"; {hiding}, and are not trained on" if differ else ""), f"{self.field}.background chooses")]
        return [(self.transparent[0], "warning" if differ else "note",
                 f"{what}: the colours that nobody sees are trained on" + (f", and {hiding}" if differ else ""),
                 f"set {self.field}.background to white, black or [red, green, blue]")]


def shown(colour: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in colour) + ")"
