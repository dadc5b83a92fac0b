"""Pages: `report.html` of a run, several runs side by side, an adaptation. The templates lie beside this file.

A page is one file of at most some 20 MB, with as many pictures in it as that allows. It loads nothing, and its
Content-Security-Policy forbids it to.
"""

from __future__ import annotations

import base64
import datetime
import functools
import io
import re
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from translate import files
from translate.errors import DocumentError, TranslateError, UsageError
from translate.evaluation.in_words import BELOW_ZERO, below_zero, shown_metrics, too_few_in_words
from translate.foreign import opened
from translate.html.templates import templates_in
from translate.losses.in_words import LOSSES
from translate.metrics.observations import MEASURES
from translate.recipe import Recipe
from translate.report import showcase
from translate.report.charts import Curve, line_chart, short
from translate.report.run_contents import RunRecord, flat, read_run
from translate.report.showcase import Shown
from translate.runs.recipe_paths import NEEDED_TO_TRAIN, places_of, text_for_others
from translate.sizes import format_bytes, format_duration, format_speed

REPORT = "report.html"
NUM_GRIDS = 8  # sample grids, evenly spaced over the training, the newest among them
GRID_SIZE = (1400, 1800)  # px, width and height, that larger grids are shrunk to
GRID_JPEG_QUALITY = 85
PICTURE_BYTES = 12_000_000  # of held-out images in a page, at most; base64 makes a third more of them
NUM_COLOURS = 6  # of curves
PAIR = ("input", "output")  # what a slider shows first


def write_report(run: Path, file: Path | None = None, make: bool = False,
                 on_progress: Callable[[int, int], object] = lambda done, total: None) -> Path:
    """Write the report of a run to `file` (None: into the run folder), and return its path.

    `make`: where the training has left no held-out images, translate some now; `on_progress` is told how many of how
    many. Raises `RunError`, `RecipeError`, `DiskError`.
    """
    # What the folder knows, and held-out images
    record = read_run(run)
    shown, index, faults = showcase.read_shown(run)
    pictures, bad = grids(run)
    record.faults.extend([*faults, *bad])
    missing = ""
    if not shown and make:
        try:
            shown = showcase.make_shown(run, record.recipe, on_progress)
        except TranslateError as error:
            missing = f"No held-out images: {error}"
    kept = showcase.within(shown, PICTURE_BYTES)

    page = _templates().get_template("report.html.j2").render(
        run=record, status=record.status, settings=settings(record.recipe), sliders=[slider(each) for each in kept],
        index=index, missing=missing, left_out=len(shown) - len(kept), grids=pictures,
        two_way="ba" in record.recipe.translator.directions,
        speed=record.curve(record.timed, "images_per_second"),
        memory=record.curve(record.training, "peak_bytes", scale=2**-30), stages=stages(record),
        events=[event for event in record.events if event["what"] != "report"],
        recipe_text=text_for_others(record.recipe))
    return _write(page, file or run / REPORT)


def write_comparison(runs: Sequence[Path], file: Path) -> Path:
    """Write a page that sets `runs` side by side to `file`, and return its path.

    Raises `UsageError` for fewer than two runs or one that is named twice, `RunError`, `RecipeError`, `DiskError`.
    """
    if len(runs) < 2:
        raise UsageError("compare: name two runs or more", advice="`translate report RUN` shows one")

    # What each folder knows; scores and losses that any of them has
    records = [read_run(run) for run in runs]
    names = distinct_names(records)
    scores = [name for name in MEASURES if any(name in record.scores for record in records)]
    losses: dict[str, list[Curve]] = {}
    for number, record in enumerate(records):
        for curves in record.losses().values():
            for curve in curves:
                losses.setdefault(curve.name, []).append(Curve(names[number], curve.x, curve.y,
                                                               series=number % NUM_COLOURS))

    # The page, with the held-out images that all runs have kept
    pictures = showcase.within(side_by_side(records, names), PICTURE_BYTES)
    page = _templates().get_template("compare.html.j2").render(
        runs=list(zip(names, records, strict=True)), differences=differing(records), scores=scores, losses=losses,
        sheets=[(name, *sheets[-1]) for name, record in zip(names, records, strict=True)
                if not record.recipe.translator.needs_sources and (sheets := grids(record.folder)[0])],
        sliders=[slider(each, (names[0], names[1])) for each in pictures])
    return _write(page, file)


def write_adaptation(table: dict[str, Any], reports: Sequence[tuple[str, dict[str, Any]]], shown: Sequence[Shown],
                     file: Path) -> Path:
    """Write the page of an adaptation to `file`, and return its path. Raises `DiskError`.

    table    what `table.json` holds
    reports  the title of each adapted set, and what its `preservation.json` holds
    shown    source images, before and after
    """
    sliders = [slider(each, ("source", "set")) for each in showcase.within(shown, PICTURE_BYTES)]
    page = _templates().get_template("adaptation.html.j2").render(table=table, reports=reports, sliders=sliders)
    return _write(page, file)


def settings(recipe: Recipe) -> list[tuple[str, str]]:
    """Return (title, text) of what was trained and with what, for people; the page holds the whole recipe as well."""
    translator, data = recipe.translator.model_dump(mode="json"), recipe.data
    rows = [("translator", translator.pop("kind"))] + [(name, words(value)) for name, value in translator.items()]
    rows += [(f"optimizer: {phase}", words(config))
             for phase, config in recipe.optimizer.model_dump(mode="json").items()]
    places = places_of(recipe)
    where = data.card or ", ".join(f"…/{places[field].name}" for field in NEEDED_TO_TRAIN if field in places)
    sizes = {stage.resize or data.resize for stage in recipe.stages}
    size = "loaded in their own size" if sizes == {None} else "resized to " + ", ".join(
        f"{side} px" if side else "their own size" for side in sorted(sizes, key=lambda side: side or 0))
    return [("data", f"{data.kind}, {where}, {data.channels_a} → {data.channels_b} channels, {size}"),
            *rows, ("seed", str(recipe.seed))]


def words(value: Any) -> str:
    """Return a part of a recipe as a person says it: its kind first, then its settings."""
    if not isinstance(value, dict):
        return "none" if value is None or value == [] else str(value)
    kind = [str(value["kind"])] if "kind" in value else []
    return ", ".join(kind + [f"{name} {words(each)}" for name, each in value.items() if name != "kind"])


def stages(record: RunRecord) -> list[dict[str, Any]]:
    """Return a row for every stage: what the recipe says, and the memory plan that it ran under.

    The predicted peak is that of the plan it was begun with: None where a step ran out of memory and changed the plan.
    """
    rows = []
    for number, stage in enumerate(record.recipe.stages):
        planned: dict[str, Any] = next((event for event in reversed(record.events)
                                        if event["what"] == "stage" and event.get("stage") == number), {})
        used = record.memory.get(str(number), {})
        strips = f" ({used['strips']} strips)" if used.get("strips") else ""
        rows.append({"size": "{}×{}".format(*stage.size) + stage.level, "images": stage.images,
                     "shown": planned.get("shown", ""),
                     "batch_size": stage.batch_size, "lr": words(stage.lr.model_dump(mode="json")),
                     "plan": f"{used['plan']}{strips}" if used else "",
                     "predicted": planned.get("predicted_bytes") if planned.get("plan") == used.get("plan") else None})
    return rows


def grids(run: Path) -> tuple[list[tuple[int, str]], list[str]]:
    """Return (images seen, picture) of some sample grids, from the first to the newest, and which cannot be read."""
    paths = sorted(path for path in (run / "samples").glob("*.png") if re.fullmatch(r"\d{1,15}", path.stem))
    last = len(paths) - 1
    chosen = sorted({round(step * last / (NUM_GRIDS - 1)) for step in range(NUM_GRIDS)}) if paths else []
    found, faults = [], []
    for path in (paths[number] for number in chosen):
        try:
            found.append((int(path.stem), data_uri(small_grid(path, path.stat().st_mtime))))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, DocumentError) as error:
            faults.append(f"samples/{path.name}: {error}")
    return found, faults


@functools.lru_cache(maxsize=2 * NUM_GRIDS)
def small_grid(path: Path, changed: float) -> bytes:
    """Return a sample grid as a JPEG for a page.

    It is cached, for a training writes its report many times. `changed`, the time the file was written, is there so
    that another grid at that path is not taken for this one.
    """
    with opened(path) as file, Image.open(file) as image:
        picture = image.convert("RGB")
    picture.thumbnail(GRID_SIZE, Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    picture.save(encoded, "jpeg", quality=GRID_JPEG_QUALITY)
    return encoded.getvalue()


def slider(shown: Shown, pair: tuple[str, str] = PAIR) -> dict[str, Any]:
    """Return what a before/after slider needs: two pictures that it begins with, and all that it offers.

    Where one of `pair` is missing it begins with the first or the last that there is.
    """
    names = list(shown.pictures)
    left, right = (name if name in names else names[position] for name, position in zip(pair, (0, -1), strict=True))
    return {"name": shown.name, "size": shown.size, "left": left, "right": right,
            "pictures": [(what, data_uri(content)) for what, content in shown.pictures.items()]}


def side_by_side(records: Sequence[RunRecord], names: Sequence[str]) -> list[Shown]:
    """Return the held-out images that all runs have kept: the input, every run's output, the truth."""
    found = []
    for record in records:
        shown, _, faults = showcase.read_shown(record.folder)
        record.faults.extend(faults)
        found.append({each.name: each for each in shown if {"input", "output"} <= each.pictures.keys()})
    together = []
    for name, first in found[0].items():
        each = [images.get(name) for images in found]
        same = [image for image in each if image is not None and image.pictures["input"] == first.pictures["input"]]
        if len(same) == len(records):
            outputs = {run: image.pictures["output"] for run, image in zip(names, same, strict=True)}
            truth = {"truth": first.pictures["truth"]} if "truth" in first.pictures else {}
            together.append(Shown(name, {"input": first.pictures["input"], **outputs, **truth}))
    return together


def differing(records: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Return (field, its value in every run) for all fields in which the recipes differ."""
    documents = [dict(flat(record.recipe.dump())) for record in records]
    paths = dict.fromkeys(path for document in documents for path in document)
    return [(path, ["—" if path not in document else words(document[path]) for document in documents])
            for path in paths if any(document.get(path, records) != documents[0].get(path, records)
                                     for document in documents)]


def distinct_names(records: Sequence[RunRecord]) -> list[str]:
    """Return the names of the runs: those of their folders, with as much of the path as tells them apart."""
    parts = [record.folder.resolve().parts for record in records]
    if len(set(parts)) < len(parts):
        raise UsageError("compare: a run is named twice", advice="name each once")
    length = next(length for length in range(1, 1000) if len({part[-length:] for part in parts}) == len(parts))
    return ["/".join(part[-length:]) for part in parts]


def data_uri(content: bytes) -> str:
    """Return a JPEG file as a page holds it."""
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


@functools.cache
def _templates() -> jinja2.Environment:
    """Return the templates, and the names that they use."""
    environment = templates_in(Path(__file__).parent)
    environment.filters |= {"format_bytes": format_bytes, "duration": format_duration, "short": short,
                            "speed": format_speed}
    environment.globals |= {"chart": line_chart, "MEASURES": MEASURES, "NUM_COLOURS": NUM_COLOURS,
                            "shown_metrics": shown_metrics, "too_few_in_words": too_few_in_words,
                            "below_zero": below_zero, "BELOW_ZERO": BELOW_ZERO, "LOSSES": LOSSES,
                            "version": version("diptych"),
                            "now": lambda: datetime.datetime.now().astimezone().isoformat(" ", "minutes")}
    return environment


def _write(page: str, file: Path) -> Path:
    """Write a page to `file`, and return that path. Raises `DiskError`."""
    with files.as_disk_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(file, page.lstrip().encode("utf-8", "backslashreplace"))  # names may be no text
    return file
