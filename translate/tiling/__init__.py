"""Translating an image of any size, exactly, in bounded memory: in strips of rows; no tiles, no seams.

    fake = tiling.apply(generator, image, memory="2GB")

The output equals the whole image's: the same computation is executed strip by strip, with the statistics of every norm
gathered over the whole image first. The network is called once on an image that is not computed yet
(`tiling.lazy`); what it does becomes a graph, and a schedule (`tiling.graph`) says which rows to compute when. The
schedule is executed, or, for a forecast, only added up (`tiling.executing`, called by `tiling.applying`).

A tile of an image, translated alone, differs from the same place of the whole: its norms have other statistics and its
borders other neighbours. Strips have neither fault, at the price of more than one pass over the image.
"""

from translate.tiling.applying import apply, forecast
from translate.tiling.bands import Settings
from translate.tiling.executing import Forecast, Sink
from translate.tiling.graph import Source, TilingError
from translate.tiling.whole import whole_bytes

__all__ = ["Forecast", "Settings", "Sink", "Source", "TilingError", "apply", "forecast", "whole_bytes"]
