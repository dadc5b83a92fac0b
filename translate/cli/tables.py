"""Tables of what commands have to show, made of documents and predictions. Nothing is printed here."""

from __future__ import annotations

from typing import Any

from translate.cli.console import Table
from translate.sizes import format_bytes, format_duration, format_speed


def preservation_table(report: dict[str, Any], title: str) -> Table:
    """Return the table of `translate adapt make`: a row for each class, and one for all.

    It shows how often the judge changes its opinion by translation, and on held-out images how often it is wrong before
    and after. `report` is a set's `preservation.json`. A class is marked ! where its labels may be wrong, ? where too
    little is known.
    """
    table = Table("class", report["of"], "kept", "changed", "held out", "wrong untranslated", "wrong translated",
                  title=title, title_justify="left")
    for name, row in [*report["classes"].items(), ("all", report["all"])]:
        shares = (row["changed"], row["wrong_untranslated"], row["wrong_translated"])
        changed, before, after = ("" if share is None else f"{share:.1%}" for share in shares)
        unsure = name in report["unsure"] or name in report["unknown"]
        mark = " !" if name in report["flagged"] else " ?" if unsure else ""
        table.add_row(f"{name}{mark}", f"{row['num']:,}", f"{row['num_kept']:,}", changed,
                      f"{row['num_held_out']:,}", before, after)
    return table


def adaptation_tables(table: dict[str, Any]) -> list[Table]:
    """Return the two tables of `translate adapt evaluate`. `table` is the document `table.json`.

    The first has a row for each thing that a network was trained on, with its score on the target and what it gains;
    the second shows how often the networks disagree with the labels that were carried over.
    """
    # The scores. Per-pixel accuracy stands beside mIoU alone, as the other metric is an accuracy itself.
    level = f"{table['level']:.0%}"
    classical = table["rows"][table["strongest_classical"]]["title"]
    also = ["accuracy"] if table["metric"] == "mIoU" else []
    of = f" ({table['tested_on']['text']})" if "tested_on" in table else ""
    rows = Table("trained on", table["metric"], *also, "over source only", f"over {classical}",
                 "gap from source only", f"gap from {classical}", title_justify="left",
                 title=f"{table['name']}: {table['num_test']} target test images{of}, {table['num_seeds']} seeds, "
                       f"mean ± {level} interval")
    for row in table["rows"].values():
        accuracy = [percentage(row["accuracy"])] if also else []
        gaps = ("" if row[part] is None else f"{row[part]:.0%}" for part in ("gap_from_source", "gap_from_classical"))
        rows.add_row(row["title"], percentage(row["value"]), *accuracy, percentage(row["over_source"], sign=True),
                     percentage(row["over_classical"], sign=True), *gaps)

    # What the networks say of the carried labels.
    wrong = Table("network trained on", "untranslated (control)", "translated", title_justify="left",
                  title="wrong about carried labels")
    for name, shares in table["wrong_about_labels"].items():
        wrong.add_row(table["rows"][name]["title"], percentage(shares["untranslated"]),
                      percentage(shares["translated"]))
    return [rows, wrong]


def percentage(score: dict[str, Any] | None, sign: bool = False) -> str:
    """Return a share as a percentage, with half the width of its interval; nothing for None."""
    if score is None:
        return ""
    mean = f"{100 * score['mean']:+.1f}" if sign else f"{100 * score['mean']:.1f}"
    return mean if score["half"] is None else f"{mean} ± {100 * score['half']:.1f}"


def plan_table(planned: Any) -> Table:
    """Return the table of `translate plan`: a row for every stage and memory plan of a `RecipePlan`.

    An arrow stands at the plan that a training takes.
    """
    budget = planned.gpu.budget
    table = Table("stage", "resolution", "batch", "memory plan", "predicted peak", "speed", "time",
                  *(["fits"] if budget else []), title_justify="left",
                  title=f"CUDA, {planned.precision}{f', {planned.usable}' if budget else ''}")
    for of_stage in planned.stages:
        # The first row of a stage says which stage it is.
        stage = of_stage.stage
        height, width = stage.size
        pieces = f" in {stage.micro_batch}s" if stage.micro_batch else ""
        heading = [str(of_stage.number + 1), f"{height}×{width}{stage.level}", f"{stage.batch_size}{pieces}"]

        for each in of_stage.predictions:
            chosen = of_stage.chosen is not None and each.plan == of_stage.chosen.plan
            name = f"{each.plan.name}, here the same as {each.same_as}" if each.same_as else each.plan
            missing = each.peak_bytes - (budget or 0)
            fits = [] if budget is None else ["yes" if missing <= 0 else f"{format_bytes(missing)} too much"]
            hours = planned.hours(of_stage, each)  # beside the loading of images
            times = format_speed(stage.images / (3600 * hours)), format_duration(3600 * hours)
            table.add_row(*heading, f"{'→' if chosen else ' '} {name}", format_bytes(each.peak_bytes), *times, *fits,
                          end_section=each is of_stage.predictions[-1], style="bold" if chosen else "")
            heading = [""] * len(heading)
    return table


def results_table(document: dict[str, Any]) -> Table:
    """Return the table of `translate evaluate`: a row for each score, beside those of real images and of baselines.

    `document` is what `results.json` holds.
    """
    from translate.evaluation.in_words import shown_metrics

    baselines = list(dict.fromkeys(name for row in document["metrics"].values() for name in row["baselines"]))
    counted = f"{document['num_images']} images, {document['num_reals']} real ones"
    if document["paired"] and document["direction"] is None:
        counted = f"{document['num_images']} images, each against the real one of its name"
    counted = document.get("counted", counted)
    counted += f", {document['labels']['text']}" if "labels" in document else ""
    counted += ", values from {:g} to {:g}".format(*document["range"]) if "range" in document else ""
    level = f"{document['interval']['level']:.0%} interval"
    own_size = any(row["own_size"] for row in document["metrics"].values())
    value, own = "value", []
    if own_size:
        value, own = f"value at {document['side']} px", [f"in their own size, {document['own_side']} px"]
    table = Table("", "better", value, level, *own, document.get("floor_is", "real | real"),
                  *(name.replace("_", " ") for name in baselines), title=f"{document['what']} ({counted})",
                  title_justify="left")
    for row in (document["metrics"][name] for name in shown_metrics(document)):
        table.add_row(row["title"], row["better"], number(row), interval(row),
                      *([with_interval(row["own_size"])] if own_size else []), with_interval(row["floor"]),
                      *(with_interval(row["baselines"].get(name)) for name in baselines))
    return table


def with_interval(score: dict[str, Any] | None) -> str:
    """Return a score with its interval behind it; nothing for None."""
    return "" if score is None else f"{number(score)}  {interval(score)}"


def number(score: dict[str, Any]) -> str:
    """Return a score's value in four digits. One that is not finite stands as null in a document."""
    return "∞" if score["value"] is None else f"{score['value']:.4g}"


def interval(score: dict[str, Any]) -> str:
    """Return the ends of a score's interval; nothing where it has none."""
    return "" if score["interval"] is None else "{:.3g} … {:.3g}".format(*score["interval"])
