"""The curves of docs/training.md, from real trainings: a healthy one, and what becomes of it when something breaks.

    python tools/training_curves.py --data data/earth --out docs

Writes training-healthy.svg and training-trouble.svg. The trainings are those of tools/guard_zoo.py, beside this file.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from guard_zoo import ONSET, PERSISTENT, TRANSIENT, TRANSLATORS, Failure, Outcome, recipe_of, run, shrunk

from translate.report.charts import HEIGHT, WIDTH, Curve, Mark, line_chart

TITLE, GAP = 26, 14  # px
STYLE = """
text { font: 10.5px system-ui, sans-serif; fill: #656b76; } .title { font-size: 13px; font-weight: 600; fill: #1d2026; }
.ground { fill: #fff; } .grid { stroke: #e3e4e7; } .line { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
.series-0 { stroke: #2456c8; color: #2456c8; } .series-1 { stroke: #c2570c; color: #c2570c; } .band { opacity: 0; }
.dot { r: 0; } .mark { stroke: #b42318; stroke-width: 1.5; stroke-dasharray: 4 3; }
"""
HEALTHY = [("D(real), blue, and D(fake)", ("real_b", "fake_b")), ("how often D is right", ("right_b",)),
           ("error on the probe", ("error_ab",)), ("diversity", ("diversity_ab",)),
           ("gradient of the generator", ("gradient_generator",)),
           ("gradient of the discriminator", ("gradient_discriminator",))]
TROUBLE = [("constant output", "diversity_ab"), ("saturated output", "saturation_ab"), ("identity copy", "change_ab"),
           ("dead discriminator", "spread_b"), ("discriminator too strong", "right_b"),
           ("learning rate × 500, 20 steps", "error_ab")]


def curve(outcome: Outcome, name: str, series: int = 0) -> Curve:
    records = [record for record in outcome.records if record.get(name) is not None]
    return Curve(name, [record["images"] for record in records], [record[name] for record in records], series=series)


def page(panels: list[tuple[str, list[Curve], list[Mark]]]) -> str:
    """Charts in two columns, as one SVG."""
    rows = -(-len(panels) // 2)
    width, height = 2 * WIDTH + GAP, rows * (HEIGHT + TITLE)
    parts = []
    for number, (title, curves, marks) in enumerate(panels):
        x, y = number % 2 * (WIDTH + GAP), number // 2 * (HEIGHT + TITLE)
        chart = str(line_chart(curves, title=title, from_zero=True, marks=marks))
        place = f'<svg x="{x}" y="{y + TITLE}" width="{WIDTH}" height="{HEIGHT}" '
        parts += [f'<text class="title" x="{x + 8}" y="{y + TITLE - 8}">{title}</text>',
                  chart.replace('<svg class="chart" ', place, 1)]
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"><style>{STYLE}</style>'
            f'<rect class="ground" width="{width}" height="{height}"/>{"".join(parts)}</svg>\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/earth"), help="a prepared set of pairs")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data = shrunk(words.data, Path(scratch) / "data")

        def trained(failure: Failure | None) -> Outcome:
            return run(recipe_of(data, TRANSLATORS["pix2pix lsgan"], 0, guard=None), failure)

        healthy = trained(None)
        (words.out / "training-healthy.svg").write_text(page([
            (title, [curve(healthy, name, series) for series, name in enumerate(names)], [])
            for title, names in HEALTHY]))
        broken = {name: trained((PERSISTENT | TRANSIENT)[name]) for name, _ in TROUBLE}
        (words.out / "training-trouble.svg").write_text(page([
            (f"{name}: {shown.rpartition('_')[0]}", [curve(healthy, shown, 1), curve(broken[name], shown)],
             [Mark(ONSET, "broken from here on")]) for name, shown in TROUBLE]))


if __name__ == "__main__":
    main()
