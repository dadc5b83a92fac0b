"""What commands print as tables: documents and predictions as rich shows them. Nothing is printed here."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from translate.sizes import amount


def preservation_table(report: dict[str, Any], title: str) -> Table:
    """What `translate adapt make` shows: how often the judge changes its opinion, with the control beside it."""
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
    """What `translate adapt evaluate` shows: a row for each thing to train on; what networks say of carried labels."""
    level = f"{table['level']:.0%}"
    classical = table["rows"][table["strongest_classical"]]["title"]
    also = ["accuracy"] if table["metric"] == "mIoU" else []
    rows = Table("trained on", table["metric"], *also, "over source only", f"over {classical}",
                 "gap from source only", f"gap from {classical}", title_justify="left",
                 title=f"{table['name']}: {table['num_test']} target test images, {table['num_seeds']} seeds, mean ± "
                       f"{level} interval")
    for row in table["rows"].values():
        accuracy = [shown_half(row["accuracy"])] if also else []
        rows.add_row(row["title"], shown_half(row["value"]), *accuracy, shown_half(row["over_source"], sign=True),
                     shown_half(row["over_classical"], sign=True),
                     *("" if row[part] is None else f"{row[part]:.0%}" for part in ("gap_from_source",
                                                                                    "gap_from_classical")))
    wrong = Table("network trained on", "untranslated (control)", "translated", title_justify="left",
                  title="wrong about carried labels")
    for name, shares in table["wrong_about_labels"].items():
        wrong.add_row(table["rows"][name]["title"], *map(shown_half, (shares["untranslated"], shares["translated"])))
    return [rows, wrong]


def shown_half(score: dict[str, Any] | None, sign: bool = False) -> str:
    """A share as a percentage, with half its interval."""
    if score is None:
        return ""
    mean = f"{100 * score['mean']:+.1f}" if sign else f"{100 * score['mean']:.1f}"
    return mean if score["half"] is None else f"{mean} ± {100 * score['half']:.1f}"


def plan_table(stages: list[Any], budget: int | None, precision: str) -> Table:
    """What `translate plan` shows: a row for every stage and memory plan, an arrow at the one a training takes."""
    usable = f", {amount(budget)} usable" if budget else ""
    table = Table("stage", "resolution", "batch", "memory plan", "predicted peak", "compute",
                  *(["fits"] if budget else []), title=f"CUDA, {precision}{usable}", title_justify="left")
    for stage in stages:
        height, width = stage.stage.size
        pieces = f" in {stage.stage.micro_batch}s" if stage.stage.micro_batch else ""
        for row, each in enumerate(stage.predictions):
            place = [str(stage.number + 1), f"{height}×{width}{stage.stage.level}", f"{stage.stage.batch_size}{pieces}"]
            chosen = stage.chosen is not None and each.plan == stage.chosen.plan
            name = f"{each.plan.name}, here the same as {each.same_as}" if each.same_as else each.plan
            missing = each.peak_bytes - (budget or 0)
            fits = [] if budget is None else ["yes" if missing <= 0 else f"{amount(missing)} too much"]
            table.add_row(*(place if row == 0 else [""] * 3), f"{'→' if chosen else ' '} {name}",
                          amount(each.peak_bytes), f"{each.compute:.2f}×", *fits,
                          end_section=each is stage.predictions[-1], style="bold" if chosen else "")
    return table


def results_table(document: dict[str, Any]) -> Table:
    """What `translate evaluate` shows: a row a score, beside what real images and baselines reach."""
    baselines = list(dict.fromkeys(name for row in document["metrics"].values() for name in row["baselines"]))
    counted = f"{document['num_images']} images, {document['num_reals']} real ones"
    interval = f"{document['interval']['level']:.0%} interval"
    table = Table("", "better", "value", interval, "real | real", *(name.replace("_", " ") for name in baselines),
                  title=f"{document['what']} ({counted})", title_justify="left")
    for row in document["metrics"].values():
        table.add_row(row["title"], row["better"], shown_score(row, False), shown_interval(row),
                      shown_score(row["floor"]), *(shown_score(row["baselines"].get(name)) for name in baselines))
    return table


def shown_score(score: dict[str, Any] | None, with_interval: bool = True) -> str:
    if score is None:
        return ""
    value = "∞" if score["value"] is None else f"{score['value']:.4g}"
    return f"{value}  {shown_interval(score)}" if with_interval else value


def shown_interval(score: dict[str, Any]) -> str:
    return "" if score["interval"] is None else "{:.3g} … {:.3g}".format(*score["interval"])
