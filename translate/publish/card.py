"""The card of a model on the Hub: what it is, what it was trained on, how good it is, how to use it, and its limits.

What its maker has written, here or on the web, stays: only missing fields of the front matter are added, and only the
part between two marks is written anew.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import yaml
from PIL import Image

from translate.cards.cards import Record
from translate.errors import UsageError
from translate.metrics.observations import MEASURES
from translate.recipe import Recipe
from translate.report.run_contents import RunRecord, read_card
from translate.report.showcase import Shown
from translate.runs.hub import is_address

BEGIN, END = "<!-- from here: written by translate publish -->", "<!-- up to here: written by translate publish -->"
EXAMPLE = "example.jpg"
EXAMPLE_HEIGHT = 512  # px
EXAMPLE_SHOWS = ("input", "output", "truth")
FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)


def card_of(text: str, recipe: Recipe, directions: Sequence[str], repository: str, scores: Sequence[str],
            has_example: bool, licence: str | None) -> str:
    """Return the card of a release, given the text of one that is there already.

    recipe       of the release
    directions   that it translates in: ab, ba
    repository   that it is published in: org/name
    scores       lines of a table, see `score_table`; none where nothing is known
    has_example  whether a picture `EXAMPLE` lies beside it
    licence      of the weights, as the Hub names licences: apache-2.0, cc-by-4.0; None: as the text says, or none

    Raises `UsageError` where the text has one of the marks and not the other.
    """
    data = read_card(recipe)
    fields, body = read_front_matter(text)
    kind = recipe.translator.kind
    fields |= {name: value for name, value in {
        "pipeline_tag": "image-to-image", "library_name": "diptych", "tags": ["image-to-image", kind],
        **({"datasets": [recipe.data.card]} if recipe.data.card else {}),
        **({"base_model": str(recipe.start).removeprefix("hf:").partition("@")[0]} if recipe.start is not None
           and is_address(recipe.start) else {})}.items() if name not in fields}
    if licence is not None:
        fields["license"] = licence

    written = "\n".join([BEGIN, "", *_sections(recipe, directions, repository, scores, has_example, data), END])
    before, begun, rest = body.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if begun and not ended:
        raise UsageError(f"the card has the mark {BEGIN} and not the one that ends this part, {END}", "README.md",
                         "put it back where your own text begins, or take both out")
    front = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n{before.rstrip()}\n\n{written}\n{after.lstrip()}"


def read_front_matter(text: str) -> tuple[dict[str, Any], str]:
    """Return the fields above a card, and the text below them. Fields that are no YAML mapping count as text."""
    found = FRONT_MATTER.match(text)
    if found is None:
        return {}, text
    try:
        fields = yaml.safe_load(found[1])
    except yaml.YAMLError:
        return {}, text
    return (fields, text[found.end():]) if isinstance(fields, dict) else ({}, text)


def _sections(recipe: Recipe, directions: Sequence[str], repository: str, scores: Sequence[str], has_example: bool,
              data: dict[str, Any] | None) -> list[str]:
    stage = recipe.stages[-1]
    size = " × ".join(map(str, stage.size))
    lines = []
    if has_example:
        lines += [f"![{', '.join(EXAMPLE_SHOWS)}]({EXAMPLE})", "",
                  "A held-out image: input, output, and the truth where it is known.", ""]

    lines += ["## Use", "", "```", "pip install diptych",
              *(f"translate convert photos/ out/ --model hf:{repository}" + (" --direction ba" * (way == "ba"))
                for way in directions), "```", "", "```python", "import translate",
              f'model = translate.load("hf:{repository}", "{directions[0]}")',
              "out = model.convert(image)  # PIL, array, tensor", "```", ""]
    if scores:
        lines += ["## Scores", "", *scores, ""]

    lines += ["## Data", ""]
    if data is None:
        lines += ["Images of its maker."]
    else:
        about = Record.model_validate({name: value for name, value in data.items() if value is not None})
        lines += [f"{about.title or recipe.data.card}." + (f" Licence: {about.licence}." if about.licence else "")
                  + (f" {about.attribution}." if about.attribution else ""),
                  *(["", about.citation] if about.citation else [])]
    return [*lines, "", "## Limits", "",
            f"- It was trained on crops of {size} px. Images at another scale are another task to it: `--resize "
            "trained` translates them at the scale that it knows.",
            "- Do not cut images into tiles for it: its norms see the whole image. Any size is translated as a whole, "
            "in strips that give the same pixels where memory is short (`--memory`).",
            "- It shows what images of its training data look like. What it adds to an image was not there: it is no "
            "evidence of anything.", ""]


def score_table(record: RunRecord) -> list[str]:
    """Return the lines of a table of a run's scores: those of `translate evaluate`, else its own best; or no lines."""
    # What was evaluated after the training, on all images
    if record.results:
        what, results = next(iter(record.results.items()))
        rows = [(name, score["value"], score["interval"]) for name, score in results["metrics"].items()]
        return [*_table(rows), "", f"On {results['num_images']:,} held-out images ({what}), "
                f"{results['made_by']['date']}; in brackets the 95 % interval."]

    # What the training has evaluated itself
    evaluation = record.at_best or (record.evaluations[-1] if record.evaluations else {})
    rows = [(name, evaluation[name], evaluation.get("intervals", {}).get(name)) for name in MEASURES
            if isinstance(evaluation.get(name), int | float)]
    number = evaluation.get("num_held_out")
    return [*_table(rows), "", f"On {number or 'its'} held-out images, at {evaluation['images']:,} images of its "
            "training; in brackets the 95 % interval."] if rows else []


def _table(rows: Sequence[tuple[str, float | None, Sequence[float] | None]]) -> list[str]:
    known = [(name, value, interval) for name, value, interval in rows if name in MEASURES and value is not None]
    return ["| score | | value |", "|---|---|---|", *(
        f"| {MEASURES[name].title} | {'↑' if MEASURES[name].better == 'higher' else '↓'} | {value:.4g}"
        + (f" [{interval[0]:.4g}, {interval[1]:.4g}]" if interval else "") + " |" for name, value, interval in known)]


def example(shown: Shown) -> bytes:
    """Return a JPEG of a held-out image: input, output and truth side by side, as far as they are known."""
    pictures = [Image.open(io.BytesIO(shown.pictures[what])).convert("RGB") for what in EXAMPLE_SHOWS
                if what in shown.pictures]
    height = min(EXAMPLE_HEIGHT, *(picture.height for picture in pictures))
    small = [picture.resize((max(1, round(picture.width * height / picture.height)), height), Image.Resampling.LANCZOS)
             for picture in pictures]
    sheet = Image.new("RGB", (sum(picture.width for picture in small), height))
    left = 0
    for picture in small:
        sheet.paste(picture, (left, 0))
        left += picture.width
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=90)
    return file.getvalue()
