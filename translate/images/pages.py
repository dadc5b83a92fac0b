"""The images of a file as pages: sources for `translate.tiling`, none of which need stand whole in memory.

    with open_pages(path, image_in) as pages, writing_pages(out, pages, image_out) as sinks:
        for page, sink in zip(pages, sinks):
            tiling.apply(generator, page, out=sink)

Rows come from the file as `translate.images.row_readers` reads them; only those asked for become tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
from torch import Tensor

from translate.host.available_memory import Available
from translate.images.pictures import MAX_PIXELS, Picture
from translate.images.reading import ImageConfig, fit, shown_on
from translate.images.row_readers import FilePage, open_file
from translate.images.tensors import to_tensor

OpenFile = Callable[[Path, int, Available | None], AbstractContextManager[list[FilePage]]]


class Page:
    """One upright image, read by rows, with the channels and bits that `config` declares (as `reading.fit` gives them).

    A source for `translate.tiling`: `shape` is (1, C, H, W). `is_big` says that it comes from a BigTIFF; `icc`, `exif`,
    `dpi`, `geo` and `notes` are as in a `Picture`. Raises `ImageError` for an image that cannot be made what `config`
    declares. `held_bytes` is what the page takes as long as its file is open, `read_bytes` what reading takes besides,
    where the file is decoded.

    Rows of a TIFF are decoded as they are asked for, so `read` and `read_alpha` raise `ImageError` for what is wrong in
    the middle of a file. Going from top to bottom nothing is decoded twice, by either of them, and one thread may read
    colours while another reads alpha.
    """

    def __init__(self, page: FilePage, config: ImageConfig):
        picture = page.head.picture
        self.path, self.config, self.is_big = picture.path, config, page.head.is_big
        self.icc, self.exif, self.dpi, self.geo = picture.icc, picture.exif, picture.dpi, picture.geo
        self.notes = picture.notes
        self.held_bytes, self.read_bytes = page.head.held_bytes, page.head.read_bytes
        self._reader, self._alpha_reader = page.reader, page.alpha_reader
        no_rows = fit(picture, config)  # what cannot be fitted is refused here, before anything is decoded
        self.shape = (1, config.channels, page.head.height, no_rows.pixels.shape[1])
        self.nodata = picture.nodata
        self.may_lack_data = (self.nodata is not None or picture.unknown is not None
                              or picture.pixels.dtype.kind == "f")
        self.has_alpha = no_rows.alpha is not None
        if self.has_alpha and config.background is not None:
            self.notes = (*self.notes, shown_on(config.background))

    @classmethod
    def of_picture(cls, picture: Picture, config: ImageConfig) -> Page:
        """Make a page of a picture that stands decoded in memory."""
        return cls(FilePage.of_picture(picture), config)

    @property
    def height(self) -> int:
        return self.shape[2]

    @property
    def width(self) -> int:
        return self.shape[3]

    def read(self, start: int, stop: int) -> Tensor:
        """Read rows [start, stop): (1, C, stop − start, W) float32 in [-1, 1]."""
        return to_tensor(self.read_pixels(start, stop), self.config)[None]

    def read_pixels(self, start: int, stop: int) -> np.ndarray:
        """Read rows [start, stop): (stop − start, W, C) of the depth that `config` declares."""
        return fit(self._reader.read(start, stop), self.config).pixels

    def read_alpha(self, start: int, stop: int) -> np.ndarray | None:
        """Read alpha of rows [start, stop): (stop − start, W) uint8 or uint16 as in the file.

        None where the file has no alpha, or where `config` makes a channel of it.
        """
        return self._alpha_reader.read(start, stop).alpha if self.has_alpha else None

    def read_unknown(self, start: int, stop: int) -> np.ndarray | None:
        """Read which pixels of rows [start, stop) have no data: (stop − start, W); None where all have."""
        return self._alpha_reader.read(start, stop).unknown if self.may_lack_data else None


@contextmanager
def open_pages(path: Path, config: ImageConfig, max_pixels: int = MAX_PIXELS,
               opening: OpenFile = open_file, room: Available | None = None) -> Iterator[list[Page]]:
    """Open a file and yield its pages: those of a TIFF without its reduced ones, else a single one.

    path        the file; read its pages inside the block
    config      the channels and bits that the pages get
    max_pixels  at most this many pixels are decoded at once: the whole file (all pages together); for a TIFF read by
                rows one row of tiles or strip; none if uncompressed
    room        what decoding may take; more is refused
    opening     `decoder_process.open_file` for files that nobody has looked at: another process decodes them

    Raises `ImageError`.
    """
    with opening(path, max_pixels, room) as pages:
        yield [Page(page, config) for page in pages]
