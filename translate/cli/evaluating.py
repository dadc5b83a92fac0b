"""evaluate, report, compare: how good a run is, in numbers and on a page."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from translate.cli import console
from translate.cli.console import say, say_table
from translate.cli.models import at_hand
from translate.cli.options import Direction, Engine, EngineCores, shared_out
from translate.cli.progress import Display
from translate.cli.tables import results_table
from translate.errors import UsageError, visible
from translate.missing import none_to_score
from translate.places import RECIPE_FILE
from translate.sizes import format_bytes

COLUMNS = "“real | real” is what real images score beside each other, identity the untouched input"
HOW_TO_READ = ("The first is about the best there is; where a value is no better than a baseline's, this score sees no "
               "gain. docs/evaluation.md says which to trust when")
MOST_CLASSES = 8_192  # of label maps: the table of which is taken for which has half a gigabyte then

def evaluate(
    what: Annotated[Path, typer.Argument(metavar="RUN_OR_FOLDER", help="A run (or RUN/best), a release (or "
                                         "hf:org/name), or a folder of images that any tool has made.")],
    against: Annotated[Path | None, typer.Option(help="For a folder: the real images; one of the same name is an "
                                                 "image's truth.")] = None,
    source: Annotated[Path | None, typer.Option(help="For a folder: what its images were made from, for the baselines, "
                                                "and to see whether they lie on it.")] = None,
    truth: Annotated[bool | None, typer.Option("--truth/--no-truth", help="For a folder: pair names that are alike as "
                                               "well (x_fake, x_real); or compare sets alone, whatever the names.",
                                               show_default="equal names are pairs")] = None,
    direction: Direction = "ab",
    most: Annotated[int | None, typer.Option("--images", help="Score at most so many images, evenly spread.",
                                             show_default="all")] = None,
    values: Annotated[str | None, typer.Option("--range", metavar="LOW,HIGH", help="Values of the files that are black "
                                               "and white, in all folders.", show_default="all of their type")] = None,
    classes: Annotated[int | None, typer.Option(help="Both folders hold label maps of so many classes.")] = None,
    ignore: Annotated[str | None, typer.Option(metavar="N", help="Label of pixels that do not count; none: all count.",
                                               show_default="255, where that is no class")] = None,
    ids: Annotated[str | None, typer.Option(metavar="N=CLASS,…", help="Which classes the numbers of label maps stand "
                                            "for, such as 255=1; the others for themselves.")] = None,
    frames: Annotated[bool, typer.Option("--frames", help="The folder holds frames of a film: how much do they flicker "
                                         "beside those of --source?")] = False,
    tstr: Annotated[bool, typer.Option("--tstr", help="Of a run from noise, whose data have classes: which classes are "
                                       "drawn, and how much does a network learn from samples?")] = False,
    engine: Engine = None,
    engine_cores: EngineCores = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the results here; - prints "
                                                   "them.", show_default="RUN/results.json")] = None,
) -> None:
    """Score a run on its test images, or any folder of images against real ones."""
    from translate.evaluation.alignment import add_alignment, evaluate_alignment
    from translate.evaluation.frames import evaluate_frames
    from translate.evaluation.in_words import BELOW_ZERO, below_zero, too_few_in_words
    from translate.evaluation.label_maps import evaluate_labels
    from translate.evaluation.results import results_file, run_of
    from translate.evaluation.scoring import evaluate_folder, evaluate_run

    # Words that do not fit together.
    what = at_hand(what)
    is_run = (run_of(what) / RECIPE_FILE).is_file()
    if most is not None and most < 1:
        raise UsageError(f"--images {most}: give 1 or more")
    if is_run and not (against is source is classes is truth is values is None):
        raise UsageError("a run is scored on the test images of its recipe", what,
                         "to score other images, run `convert`, then `evaluate OUT --against REAL`")
    if tstr and not is_run:
        raise UsageError("--tstr: is about a run that draws images from noise", what)
    if tstr:
        from translate.adapt.drawn import add_drawn, check_drawn

        check_drawn(what)
    if frames and (is_run or source is None or not (against is truth is most is classes is None)):
        raise UsageError("--frames: compares frames with what they were made from, and with nothing else", what,
                         "give a folder of frames and --source FOLDER")
    if not is_run and against is source is None:
        raise none_to_score(what)
    if truth is not None and against is None:
        raise UsageError("--truth: pairs images with those of --against", advice="add --against FOLDER")
    if classes is not None and not (source is most is truth is values is None):
        raise UsageError("--classes: label maps are compared as they are, all of them",
                         advice="leave --source and --images out, and --truth and --range")
    if classes is None and not (ignore is ids is None):
        raise UsageError("--ignore and --ids are about label maps", advice="add --classes N")

    part, cluster = shared_out(None, engine, engine_cores)
    if part is not None:
        raise UsageError(f"evaluate: a launcher has started {part.num} processes, and each would score all images",
                         advice="start one; --engine ray shares the images out")
    if cluster is not None and (frames or tstr or classes is not None or (not is_run and against is None)):
        raise UsageError("--engine: shares out the images of a run, or of a folder with --against, and nothing else")

    beside = console.err if json_file == Path("-") else None  # nothing but the document, for programs
    with Display("evaluate", beside) as display, cluster or nullcontext():
        if frames and source is not None:
            results = evaluate_frames(what, source, low_high=range_of(values), on_progress=display.count)
        elif against is None and source is not None:
            results = evaluate_alignment(what, source, most=most, low_high=range_of(values), on_progress=display.count)
        elif against is None:
            results = evaluate_run(what, direction=direction, most=most, engine=cluster,  # type: ignore[arg-type]
                                   on_progress=display.count)
            if tstr:
                add_drawn(results, what, most, on_progress=partial(display.count, stage="classes of samples"))
        elif classes is not None:
            results = evaluate_labels(what, against, classes, ignored_number(ignore, classes), ids_of(ids),
                                      on_progress=display.count)
        else:
            results = evaluate_folder(what, against, source, truth=truth, most=most, low_high=range_of(values),
                                      engine=cluster, on_progress=display.count)
            if source is not None:
                add_alignment(results, what, source, most, range_of(values),
                              partial(display.count, stage="as they lie on their sources"))

    document = results.as_json()
    if json_file == Path("-"):
        say(json.dumps(document, indent=1))
        return
    say_table(results_table(document))
    few = too_few_in_words(document)  # of which no column is a measure of another
    say(f"note: {few}. {COLUMNS}" if few else f"how to read it: {COLUMNS}. {HOW_TO_READ}")
    if below_zero(document):
        say(f"note: {BELOW_ZERO}")
    for line in document["missing"]:
        say(f"missing: {line}")
    for line in document["notes"]:
        say(f"note: {line}")
    if (file := json_file or results_file(what)) is not None:
        results.write(file)
        say(f"results: {visible(file)}")


def ignored_number(word: str | None, classes: int) -> int | None:
    """Return what `--ignore` says. Raises `UsageError` for what is no number."""
    from translate.data.labels import default_ignore

    if not 2 <= classes <= MOST_CLASSES:
        raise UsageError(f"--classes {classes}: expected 2 to {MOST_CLASSES:,}")
    if word is None:
        return default_ignore(classes)
    if word != "none" and not word.isdecimal():
        raise UsageError(f"--ignore {word}: give the number of a label, or none")
    if word != "none" and int(word) < classes:
        raise UsageError(f"--ignore {word}: is one of the {classes} classes",
                         advice="--ids says what numbers stand for")
    return None if word == "none" else int(word)


def ids_of(words: str | None) -> dict[int, int]:
    """Return what `--ids` says, such as 0=0,255=1. Raises `UsageError` for anything else."""
    ids = {}
    for word in words.split(",") if words is not None else ():
        number, equals, stands_for = word.partition("=")
        if not (equals and number.strip().isdecimal() and stands_for.strip().isdecimal()):
            raise UsageError(f"--ids {words}: expected numbers and their classes, such as 0=0,255=1")
        ids[int(number)] = int(stands_for)
    return ids


def range_of(words: str | None) -> tuple[float, float] | None:
    """Return what `--range` says, such as 0,4095. Raises `UsageError` for anything else."""
    if words is None:
        return None
    try:
        low, high = map(float, words.split(","))
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(f"--range {words}: expected two numbers, the lower first, such as 0,4095 or -200,800")
    return low, high


def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    file: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="The page to write.",
                                              show_default="RUN/report.html")] = None,
) -> None:
    """Show a run on one page: curves, scores, held-out images, settings, events. Training writes it as well."""
    from translate.report import write_report

    with Display("report") as display:
        page = write_report(run, file, make=True, on_progress=display.count)
    say_page(page)


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders.")],
    file: Annotated[Path, typer.Option("--out", metavar="FILE", help="The page to write.")] = Path("comparison.html"),
) -> None:
    """Set runs side by side on one page: what differs in their settings, scores, curves, the same held-out images."""
    from translate.report import write_comparison

    say_page(write_comparison(runs, file))


def say_page(file: Path) -> None:
    """Print where a page lies, and its size."""
    say(f"report: {visible(file)} ({format_bytes(file.stat().st_size)}, one file for any browser)")
