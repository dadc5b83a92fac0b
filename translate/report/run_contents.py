"""What a run folder knows: its recipe, numbers, events, data card and results. Older runs know less."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from translate.cards.cards import find_card, read_record
from translate.errors import DocumentError, RunError, TranslateError
from translate.evaluation.results import BEST_RESULTS, RESULTS
from translate.foreign import Count, Lines, Number, Shape, examine_lines, read_json
from translate.losses.in_words import without_side
from translate.metrics.observations import MEASURES
from translate.missing import no_run
from translate.places import RECIPE_FILE, data_root
from translate.recipe import Recipe
from translate.report.charts import Curve, Mark, Ring
from translate.runs.folder import MEMORY, STATUS, MemoryChoice, Status, load_saved, settled
from translate.runs.progress import Best
from translate.runs.records import EVENTS, METRICS, Event, Line
from translate.runs.release import RELEASE

RESULTS_OF = {RESULTS: "newest checkpoint", BEST_RESULTS: "best checkpoint"}
NO_VALUES = ("images", "kind", "stage", "lr", "images_per_second", "peak_bytes")
GUARD_EVENTS = ("skipped", "rollback", "collapse")
DIAGNOSTICS = {  # what charts of diagnostics are called
    "right": "how often discriminators are right", "spread": "how much discriminators vary",
    "gradient_generator": "gradient of the generators", "gradient_discriminator": "gradient of the discriminators",
    "diversity": "diversity of the probe's outputs", "error": "error on the probe",
    "saturation": "saturation of the probe's outputs", "change": "change from input to output on the probe"}
LARGEST_NUMBER = 1e30  # that is drawn
Interval = Annotated[list[Number], Field(min_length=2, max_length=2)]


class Record(Line):
    """A line of `metrics.jsonl`; losses and scores stand in it under their own names."""

    stage: Count = 0
    images_per_second: Annotated[Number, Field(ge=0)] | None = None
    peak_bytes: Annotated[Number, Field(ge=0)] | None = None
    num_held_out: Count | None = None
    side: Count = 0
    own_side: Count = 0
    own_size: dict[str, Number | None] = Field(default_factory=dict)
    decided_by: str | None = None
    best: Best | None = None
    since_best: Count | None = None
    seconds: Annotated[Number, Field(ge=0)] | None = None
    verdict: str = ""
    intervals: dict[str, Interval] = Field(default_factory=dict)


class ReportedEvent(Event):
    """A line of `events.jsonl`."""

    stage: Count | None = None
    plan: str | None = None
    predicted_bytes: Annotated[Number, Field(ge=0)] | None = None
    seconds: Annotated[Number, Field(ge=0)] | None = None
    device: str = ""
    shown: str = ""


class Score(Shape):
    """A value of `results.json`."""

    value: Number | None
    interval: Interval | None


class ScoreRow(Score):
    """A score of `results.json`, with what it is compared to."""

    title: str
    better: str
    floor: Score | None
    baselines: dict[str, Score]
    own_size: Score | None = None


class MadeBy(Shape):
    """When `results.json` was written."""

    date: str


class ResultsShape(Shape):
    """What `translate evaluate` left, see `translate.evaluation.results`."""

    num_images: Count
    num_reals: Count
    side: Count = 0
    own_side: Count = 0
    weights: str | None = None
    metrics: dict[str, ScoreRow]
    missing: list[str]
    notes: list[str] = Field(default_factory=list)
    made_by: MadeBy


@dataclass
class Faults:
    """Reads the files of a run, and remembers what it could not read: a page shows the rest, and says so."""

    folder: Path
    found: list[str] = field(default_factory=list)

    def document(self, name: str, shape: Any) -> dict[str, Any]:
        """Return a JSON document; empty where there is none that can be read."""
        try:
            return read_json(self.folder / name, shape)
        except DocumentError as error:
            self.found.append(f"{name}: {error.what}")
            return {}

    def lines(self, name: str, shape: Any) -> list[dict[str, Any]]:
        """Return the lines of a JSON-lines file that can be read."""
        try:
            lines = examine_lines(self.folder / name, shape)
        except OSError as error:
            lines = Lines(fault=error.strerror or str(error))
        if lines.fault:
            self.found.append(f"{name}: {lines.fault}")
        return lines.records


@dataclass(frozen=True)
class RunRecord:
    """One run, read from its folder. Where a list is of records, they are lines of `metrics.jsonl`."""

    folder: Path
    recipe: Recipe
    status: dict[str, Any]
    training: list[dict[str, Any]]  # losses
    evaluations: list[dict[str, Any]]  # held-out scores, see `translate.evaluation.heldout`
    game: list[dict[str, Any]]  # what the discriminators say, and gradients, see `Update.observed`
    probes: list[dict[str, Any]]  # what the generators make of a few images, see `translate.training.probe`
    events: list[dict[str, Any]]  # lines of `events.jsonl`
    memory: dict[str, Any]  # the memory plan of each stage, see `translate.runs.folder`
    card: dict[str, Any] | None  # of its data, see `read_card`
    results: dict[str, dict[str, Any]]  # what `translate evaluate` left, by what it is of (see `RESULTS_OF`)
    faults: list[str]  # what in the folder could not be read, in words

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @cached_property
    def outdated(self) -> int | None:
        """Return the images of the checkpoint of the table of the newest one where the run has gone on since."""
        weights = str(self.results.get(RESULTS_OF[RESULTS], {}).get("weights") or "")
        goes_on = self.status.get("state") != "finished" or not weights.isdigit()
        return None if goes_on or int(weights) >= self.status["images"] else int(weights)

    @cached_property
    def tables(self) -> dict[str, dict[str, Any]]:
        """Return `results`, and once where the newest checkpoint is the best one and their scores are the same."""
        newest, best = (self.results.get(title) for title in RESULTS_OF.values())
        if self.outdated is None and newest and best and newest["weights"] and all(
                newest[field] == best[field] for field in ("weights", "metrics")):
            return {"newest checkpoint, which is the best": newest}
        return self.results

    @cached_property
    def best(self) -> dict[str, Any] | None:
        """Return {images, metric, value, num_images} of the best checkpoint; None where no score decided."""
        return next((record["best"] for record in reversed(self.evaluations)
                     if record.get("best") and record["best"]["metric"] in MEASURES), None)

    @cached_property
    def scores(self) -> list[str]:
        """Return the names of all held-out scores, first the one that decides which checkpoint is the best."""
        found = [name for name in MEASURES if any(name in record for record in self.evaluations)]
        return sorted(found, key=lambda name: self.best is None or name != self.best["metric"])

    @cached_property
    def sides(self) -> list[int]:
        """Return at which typical short sides, px, held-out images were shown, in their order."""
        return list(dict.fromkeys(record["side"] for record in self.evaluations if "side" in record))

    @cached_property
    def seconds(self) -> float | None:
        """Return how long the steps took, as far as their speed is recorded: without evaluations."""
        speeds = [record.get("images_per_second") for record in self.training]
        spans = [(after["images"] - before["images"]) / speed for before, after, speed
                 in zip(self.training, self.training[1:], speeds[1:], strict=False) if speed and speed > 1e-9]
        return sum(spans) * len(self.training) / len(spans) if spans else None

    @cached_property
    def timed(self) -> list[dict[str, Any]]:
        """Return the records of losses whose speed is known: not the first after a start."""
        return [record for record in self.training if record.get("images_per_second")]

    @cached_property
    def speed(self) -> float | None:
        """Return the median of the recorded images per second."""
        return statistics.median(record["images_per_second"] for record in self.timed) if self.timed else None

    @cached_property
    def peak_bytes(self) -> int | None:
        """Return the most memory that was taken, see `translate.training.machine.take_peak_bytes`."""
        return max((record["peak_bytes"] for record in self.training if record.get("peak_bytes")), default=None)

    @cached_property
    def machine(self) -> dict[str, Any]:
        """Return what the newest process of the run ran on."""
        return next((event for event in reversed(self.events) if event["what"] in ("started", "resumed")), {})

    @cached_property
    def report_seconds(self) -> float:
        """Return how long writing reports has taken, all together."""
        return sum(event.get("seconds") or 0 for event in self.events if event["what"] == "report")

    @cached_property
    def evaluation_seconds(self) -> float:
        """Return how long evaluations have taken, all together."""
        return sum(record.get("seconds") or 0 for record in self.evaluations)

    def losses(self) -> dict[str, list[Curve]]:
        """Return the curves of all losses, by the title of their chart."""
        names = list(dict.fromkeys(name for record in self.training for name in record if name not in NO_VALUES))
        charts: dict[str, list[Curve]] = {}
        for name in names:
            curves = charts.setdefault(without_side(name), [])
            curves.append(self.curve(self.training, name, len(curves)))
        return charts

    def diagnostics(self) -> dict[str, list[Curve]]:
        """Return the curves that tell how the game stands and are no losses, by the title of their chart."""
        charts: dict[str, list[Curve]] = {}
        for records in (self.game, self.probes):
            for name in dict.fromkeys(name for record in records for name in record if name not in NO_VALUES):
                curves = charts.setdefault(title_of(name), [])
                curves.append(self.curve(records, name, len(curves)))
        return charts

    @cached_property
    def marks(self) -> list[Mark]:
        """Return what the guard has done, and at how many images."""
        return [Mark(event["images"], f"{event['images']:,} images: {event['message']}") for event in self.events
                if event["what"] in GUARD_EVENTS]

    def score(self, name: str, series: int = 0) -> Curve:
        """Return the curve of a held-out score, with its intervals."""
        sides = [(record.get("intervals") or {}).get(name, (math.nan, math.nan)) for record in self.evaluations
                 if name in record]
        curve = self.curve(self.evaluations, name, series)
        if all(math.isnan(low) for low, _ in sides):
            return curve
        return Curve(curve.name, curve.x, curve.y, [low for low, _ in sides], [high for _, high in sides], series)

    @cached_property
    def at_best(self) -> dict[str, Any]:
        """Return the evaluation of the best checkpoint; empty where no score decided."""
        return next((record for record in reversed(self.evaluations)
                     if self.best and record["images"] == self.best["images"]), {})

    def rings(self, name: str, series: int = 0) -> list[Ring]:
        """Return a ring where the best checkpoint lies on the curve of a score; none where that is not known."""
        value = self.at_best.get(name)
        return [] if value is None else [Ring(self.at_best["images"], value, series)]

    def curve(self, records: list[dict[str, Any]], name: str, series: int = 0, scale: float = 1.0) -> Curve:
        """Return the values `name`, times `scale`, of all records that have one; null becomes NaN."""
        known = [record for record in records if name in record]
        return Curve(name, [record["images"] for record in known],
                     [math.nan if record[name] is None else record[name] * scale for record in known], series=series)


def read_run(folder: Path) -> RunRecord:
    """Read a run folder.

    Raises `RunError` for a folder that holds no run, `RecipeError` for a recipe that this version does not understand.
    """
    if not folder.exists():
        raise no_run(folder)
    if (folder / RELEASE).is_file():
        raise RunError("is a release, which does not know how it was trained", folder, "name the run it is from")
    if not (folder / RECIPE_FILE).is_file():
        raise RunError(f"there is no run here: it holds no {RECIPE_FILE}", folder)
    recipe = load_saved(folder)
    faults = Faults(folder)
    records = [numbers_of(record) for record in faults.lines(METRICS, Record)]
    training, evaluations, game, probes = ([record for record in records if record.get("kind") == kind]
                                           for kind in ("train", "evaluation", "game", "probe"))
    return RunRecord(
        folder, recipe, settled(folder, faults.document(STATUS, Status)), training, evaluations, game, probes,
        faults.lines(EVENTS, ReportedEvent), faults.document(MEMORY, dict[str, MemoryChoice]), read_card(recipe),
        {title: found for name, title in RESULTS_OF.items() if (found := faults.document(name, ResultsShape))},
        faults.found)


def title_of(diagnostic: str) -> str:
    """Return the title of the chart that shows a diagnostic, by its name in `metrics.jsonl`."""
    what, _, where = diagnostic.partition("_")
    if what in ("real", "fake"):
        return f"discriminator {where}: real and fake"
    return DIAGNOSTICS.get(diagnostic if what == "gradient" else what, without_side(diagnostic).replace("_", " "))


def numbers_of(record: dict[str, Any]) -> dict[str, Any]:
    """Return a line of `metrics.jsonl` with the fields that are known, and numbers; what cannot be drawn is None."""
    numbers = {name: value if is_number(value) else None for name, value in record.items()
               if value is None or isinstance(value, int | float)}
    return numbers | {name: value for name, value in record.items() if name in Record.model_fields}


def is_number(value: Any) -> bool:
    """Return whether a value can be drawn."""
    return value is not None and not isinstance(value, bool) and abs(value) <= LARGEST_NUMBER


def read_card(recipe: Recipe) -> dict[str, Any] | None:
    """Read {title, licence, attribution, citation, num_samples} of the recipe's card: as prepared, or as it is shipped.

    Of a card that is unknown here, only its name is known; None where the recipe names no card.
    """
    name = recipe.data.card
    if name is None:
        return None
    with suppress(TranslateError):
        return read_record(data_root() / name)
    with suppress(TranslateError):
        return find_card(name).model_dump(mode="json")
    return {"title": name}


def flat(document: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of every field of a recipe's document, such as stages.0.images."""
    entries = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in entries:
        path = f"{where}.{key}" if where else str(key)
        if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(each, dict) for each in value)):
            yield from flat(value, path)
        else:
            yield path, value
