"""Curves as inline SVG. Colours come from the page's style (`.series-0` …), so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

WIDTH, HEIGHT = 380, 200  # px of a chart
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 8, 22  # px beside the plot, for the numbers
MAX_DOTS = 30  # a curve of more values is a line without dots
MAX_POINTS = 160  # a longer curve is drawn as means of neighbours, with the range of what they stand for
NUM_VALUES_OUTLIERS = 40  # a curve of more values may have outliers, which do not set the axis
OUTLIERS_SHARE = 0.01  # of its values, at either end


@dataclass(frozen=True)
class Curve:
    """Values `y` over images seen `x`, with an interval where `low` and `high` are given; NaN leaves a value out."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    series: int = 0  # number of its colour


@dataclass(frozen=True)
class Ring:
    """A ring around a point that stands out: the best checkpoint."""

    x: float
    y: float
    series: int = 0  # number of its colour


@dataclass(frozen=True)
class Mark:
    """An event at `x`: a dashed line across the chart, which says `words` to a pointer."""

    x: float
    words: str


def line_chart(curves: Sequence[Curve], rings: Sequence[Ring] = (), title: str = "", from_zero: bool = False,
               marks: Sequence[Mark] = ()) -> Markup:
    """Draw `curves` over one pair of axes as an SVG; empty where there is nothing to draw.

    `from_zero` lets the vertical axis begin at 0, unless values lie below.
    """
    # The axes: from 0 images on, over the values of all curves
    drawn = [thinned for curve in curves if len((thinned := thin(curve)).x)]
    if not drawn:
        return Markup("")
    left, right = min(min(curve.x) for curve in drawn), max(max(curve.x) for curve in drawn)
    bottom, top = value_range(drawn, from_zero)
    plot = Plot(min(left, 0), right if right > min(left, 0) else left + 1, bottom, top)

    # From the back to the front: grid, events, bands, lines (cut at the edge of the plot), dots, rings
    parts = [plot.grid(), *(plot.mark(mark) for mark in marks if plot.left <= mark.x <= plot.right)]
    inner = [band for curve in drawn if (band := plot.band(curve))] + [plot.line(curve) for curve in drawn]
    parts += [f'<svg x="{LEFT}" y="{TOP}" width="{plot.width}" height="{plot.height}" overflow="hidden">'
              f"{''.join(inner)}</svg>"]
    parts += [plot.dots(curve) for curve in drawn if len(curve.x) <= MAX_DOTS]
    parts += [f'<circle class="best series-{ring.series}" cx="{LEFT + plot.x(ring.x):.1f}" '
              f'cy="{TOP + plot.y(ring.y):.1f}" r="5"><title>best: {short(ring.y)} at {ring.x:,.0f} images</title>'
              "</circle>" for ring in rings if bottom <= ring.y <= top]
    label = escape(title or ", ".join(curve.name for curve in curves))
    return Markup(f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
                  f"{''.join(parts)}</svg>")


class Plot:
    """The inner rectangle of a chart, in which the curves lie: from values to places, and to SVG elements."""

    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def __init__(self, left: float, right: float, bottom: float, top: float):
        self.left, self.right, self.bottom, self.top = left, right, bottom, top

    def x(self, value: float) -> float:
        """Return px from its left edge."""
        return (value - self.left) / (self.right - self.left) * self.width

    def y(self, value: float) -> float:
        """Return px from its top edge."""
        return (self.top - value) / (self.top - self.bottom) * self.height

    def grid(self) -> str:
        """Draw lines at round values of the vertical axis, and the numbers of both axes; in px of the chart."""
        rows = [(TOP + self.y(tick), text) for tick, text in ticks(self.bottom, self.top, 5)]
        columns = [(LEFT + self.x(tick), text) for tick, text in ticks(self.left, self.right, 5)]
        return "".join(
            [f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
             f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>' for y, text in rows]
            + [f'<text x="{x:.1f}" y="{HEIGHT - 6}" text-anchor="{"end" if x > WIDTH - 30 else "middle"}">{text}</text>'
               for x, text in columns])

    def mark(self, mark: Mark) -> str:
        """Draw the line of an event, in px of the chart."""
        x = LEFT + self.x(mark.x)
        return (f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{TOP + self.height}">'
                f"<title>{escape(mark.words)}</title></line>")

    def line(self, curve: Curve) -> str:
        """Draw a curve, in px of this rectangle."""
        return (f'<polyline class="line series-{curve.series}" points="{self._points(curve.x, curve.y)}">'
                f"<title>{escape(curve.name)}</title></polyline>")

    def band(self, curve: Curve) -> str:
        """Draw the intervals of a curve, in px of this rectangle; empty where it has none."""
        if curve.low is None or curve.high is None:
            return ""
        known = [(x, low, high) for x, low, high in zip(curve.x, curve.low, curve.high, strict=True)
                 if math.isfinite(low) and math.isfinite(high)]
        x, low, high = zip(*known, strict=True) if known else ((), (), ())
        outline = f"{self._points(x, high)} {self._points(x[::-1], low[::-1])}"
        return f'<polygon class="band series-{curve.series}" points="{outline}"/>'

    def dots(self, curve: Curve) -> str:
        """Draw a dot at each value within the axes, which says its number to a pointer; in px of the chart."""
        def words(number: int) -> str:
            interval = "" if curve.low is None or curve.high is None or not math.isfinite(curve.low[number]) else (
                f" [{short(curve.low[number])}, {short(curve.high[number])}]")
            return f"{escape(curve.name)}: {short(curve.y[number])}{interval} at {curve.x[number]:,.0f} images"

        return "".join(f'<circle class="dot series-{curve.series}" cx="{LEFT + self.x(x):.1f}" '
                       f'cy="{TOP + self.y(y):.1f}" r="2.5"><title>{words(number)}</title></circle>'
                       for number, (x, y) in enumerate(zip(curve.x, curve.y, strict=True))
                       if self.bottom <= y <= self.top)

    def _points(self, x: Sequence[float], y: Sequence[float]) -> str:
        return " ".join(f"{self.x(one):.1f},{self.y(other):.1f}" for one, other in zip(x, y, strict=True))


def thin(curve: Curve) -> Curve:
    """Return a curve of the finite values.

    Of more than `MAX_POINTS` values it has the means of neighbours, and their range in place of an interval.
    """
    keep = np.isfinite(np.asarray(curve.y, dtype=np.float64))
    x, y = np.asarray(curve.x, dtype=np.float64)[keep], np.asarray(curve.y, dtype=np.float64)[keep]
    sides = [None if side is None else np.asarray(side, dtype=np.float64)[keep] for side in (curve.low, curve.high)]
    if len(x) > MAX_POINTS:
        parts = [np.array_split(values, MAX_POINTS) for values in (x, y)]
        sides = [np.array([part.min() for part in parts[1]]), np.array([part.max() for part in parts[1]])]
        x, y = (np.array([part.mean() for part in each]) for each in parts)
    low, high = (None if side is None else side.tolist() for side in sides)
    return Curve(curve.name, x.tolist(), y.tolist(), low, high, curve.series)


def value_range(curves: Sequence[Curve], from_zero: bool) -> tuple[float, float]:
    """Return the lowest and the highest value that an axis shows.

    That is the range of all values and intervals, with a little room. Of long curves the outliers are left out, which
    would flatten the rest, and so are their intervals.
    """
    values: list[float] = []
    for curve in curves:
        if len(curve.y) > NUM_VALUES_OUTLIERS:
            values += np.quantile(curve.y, (OUTLIERS_SHARE, 1 - OUTLIERS_SHARE)).tolist()
        else:
            values += [*curve.y, *(side for sides in (curve.low, curve.high) for side in sides or ()
                                   if math.isfinite(side))]
    bottom, top = min([*values, 0.0] if from_zero else values), max(values)
    room = (top - bottom or abs(top) or 1) * 0.05
    return max(bottom - room, 0.0) if bottom >= 0 else bottom - room, top + room  # a distance has nothing below 0


def ticks(low: float, high: float, most: int) -> list[tuple[float, str]]:
    """Return at most `most` + 1 round numbers from `low` to `high`, each with its text.

    They are multiples of 1, 2 or 5 times a power of ten. The text has the digits that tell them apart.
    """
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if (high - low) / (power * factor) <= most)
    values = [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    digits = max(-math.floor(math.log10(step) + 1e-9), 0)
    return [(value, f"{value:.{digits}f}" if abs(value) < 1e4 else short(value)) for value in values]


def short(value: float) -> str:
    """Return a number in few characters, such as 0.1234, 12.5k or 1.2M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.4g}{letter}"
    return f"{round(value, 10):.4g}"
