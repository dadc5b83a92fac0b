"""The images of a file as pages: sources for `translate.tiling`, none of which need stand whole in memory.

    with open_pages(path, image_in) as pages, writing_pages(out, pages, image_out) as sinks:
        for page, sink in zip(pages, sinks):
            tiling.apply(generator, page, out=sink)

Rows come from the file as `translate.images.windows` reads them; only those asked for become floats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
from torch import Tensor

from translate.images.pictures import MAX_PIXELS, Picture
from translate.images.reading import ImageConfig, fit, to_tensor
from translate.images.windows import PageRows, held_rows, open_rows

OpenRows = Callable[[Path, int], AbstractContextManager[list[PageRows]]]


class Page:
    """One upright image, read by rows, with the channels and bits that `config` declares (as `images.fit` gives them).

    `shape` is (1, C, H, W). A source for `translate.tiling`. `is_big` says that it comes from a BigTIFF; `icc`, `exif`,
    `dpi` and `geo` are as in a `Picture`. Raises ImageError for an image that cannot be made what `config` declares.

    Rows of a TIFF are decoded as they are asked for, so `read` and `read_alpha` raise ImageError for what is wrong in
    the middle of a file. Going from top to bottom nothing is decoded twice, by either of them, and one thread may read
    colours while another reads alpha.
    """

    def __init__(self, page: PageRows, config: ImageConfig):
        picture = page.head.picture
        self.path, self.config, self.is_big = picture.path, config, page.head.is_big
        self.icc, self.exif, self.dpi, self.geo = picture.icc, picture.exif, picture.dpi, picture.geo
        self._rows, self._alpha_rows = page.rows, page.alpha_rows
        no_rows = fit(picture, config)  # what cannot be fitted is refused here, before anything is decoded
        self.shape = (1, config.channels, page.head.height, no_rows.pixels.shape[1])
        self.has_alpha = no_rows.alpha is not None

    @property
    def height(self) -> int:
        return self.shape[2]

    @property
    def width(self) -> int:
        return self.shape[3]

    def read(self, a: int, b: int) -> Tensor:
        """Rows [a, b): (1, C, b − a, W) float32 in [-1, 1]."""
        return to_tensor(fit(self._rows.read(a, b), self.config).pixels, self.config)[None]

    def read_alpha(self, a: int, b: int) -> np.ndarray | None:
        """Alpha of rows [a, b): (b − a, W) uint8 or uint16 as in the file; None where it has none, or where `config`
        makes it a channel."""
        return self._alpha_rows.read(a, b).alpha if self.has_alpha else None


def page_of(picture: Picture, config: ImageConfig) -> Page:
    """A decoded picture as a page."""
    return Page(held_rows(picture), config)


@contextmanager
def open_pages(path: Path, config: ImageConfig, max_pixels: int = MAX_PIXELS,
               opening: OpenRows = open_rows) -> Iterator[list[Page]]:
    """The pages of a file: those of a TIFF without its reduced ones, else a single one. Read them inside the block.

    `max_pixels` bounds what has to be decoded at once: an image as a whole, all pages together; but of a TIFF that is
    read by windows only one row of tiles or one strip, whatever its size, and nothing where it is not compressed.
    `opening` is `translate.images.decoder.open_rows` for files that nobody has looked at: they are decoded in another
    process. Raises ImageError.
    """
    with opening(path, max_pixels) as pages:
        yield [Page(page, config) for page in pages]
