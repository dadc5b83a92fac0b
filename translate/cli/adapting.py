"""adapt make, adapt evaluate: labelled images that look like a target, and whether training on them helps."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from translate.cli.console import as_errors_of_recipe, say, say_table
from translate.cli.models import at_hand
from translate.cli.options import AdaptFolder, AdaptRecipe, Device, Engine, EngineCores, Overrides, Shard, shared_out
from translate.cli.progress import Display
from translate.cli.tables import adaptation_tables, preservation_table
from translate.errors import UsageError, visible

if TYPE_CHECKING:
    from translate.adapt import MadeSet


def make(
    recipe: AdaptRecipe,
    folder: AdaptFolder = None,
    models: Annotated[list[Path] | None, typer.Option("--model", help="Translate with this run or release, instead of "
                                                      "training a translator; repeatable, each makes a set.")] = None,
    shard: Shard = None,
    engine: Engine = None,
    engine_cores: EngineCores = None,
    only_prepare: Annotated[bool, typer.Option("--prepare", help="Stop before a translator is trained: look at all "
                                               "files, train the network of the consistency loss, and write the "
                                               "translator's recipe, for training it on several GPUs.")] = False,
    device: Device = "auto",
    overrides: Overrides = None,
) -> None:
    """Train a translator, translate all labelled source images, carry the labels over, and check what they show.

    With --shard it only translates; when all parts are translated, a last call without it makes the set. With --engine
    a cluster translates, and all else is done here.
    """
    from translate.adapt import make as make_sets
    from translate.adapt import prepare
    from translate.recipe import default_adaptation, find_recipe, load_recipe

    chosen = load_recipe(find_recipe(recipe), overrides or [])
    home = folder or default_adaptation(chosen)
    part, cluster = shared_out(shard, engine, engine_cores)
    if only_prepare and (models or part is not None or cluster is not None):
        raise UsageError("--prepare runs in one process and trains no translator",
                         advice="leave --model, --shard, --engine and torchrun out")

    with Display(chosen.name) as display, as_errors_of_recipe(recipe):
        if only_prepare:
            for file in prepare(chosen, home, display, device=device):
                words = shlex.join(["train", str(file), "--run-dir", str(file.with_suffix(""))])
                say(f"prepared: {visible(file)}; train it with: torchrun --nproc_per_node N -m translate "
                    f"{visible(words)}, and then go on with the same command without --prepare")
            return
        made = make_sets(chosen, home, display, models=[at_hand(model) for model in models or ()], shard=part,
                         engine=cluster, device=device)

    for each in made:
        say_set(each)
    if part is not None:
        say(f"shard {part.index} of {part.num} is translated; when all are: translate adapt make {shlex.quote(recipe)}")
    raise typer.Exit(3 if any(each.failed for each in made) else 0)


def say_set(made: MadeSet) -> None:
    """Print what is known of a set: what became of its labels, how near it is to the target, and how large it is."""
    report = made.report
    say_table(preservation_table(report, str(made.folder)))
    if report["flagged"]:
        say("flagged: what these show changes in translation, so their labels may be wrong: "
            + ", ".join(map(visible, report["flagged"])))
    if report["kernel_distance"]:
        say("kernel distance to the target: {untranslated:.4g} untranslated, {translated:.4g} translated".format(
            **report["kernel_distance"]))
    say(f"{made.kept} kept, {made.rejected} rejected, {made.failed} failed, of {made.total} images → "
        f"{visible(made.folder)} (hash {made.hash[:16]})")


def evaluate(
    recipe: AdaptRecipe,
    folder: AdaptFolder = None,
    shard: Annotated[str | None, typer.Option(metavar="I/N|auto", help="Train only part I of N of the rows, such as "
                                              "1/4; auto: as Slurm, Kubernetes or MPI says.")] = None,
    device: Device = "auto",
    overrides: Overrides = None,
) -> None:
    """Train the same network on the source, classical baselines, the adapted set and the target; test on the target.

    With --shard it only trains; when all parts are trained, a last call without it makes the table.
    """
    from translate.adapt import evaluate as evaluate_rows
    from translate.adapt import train_rows
    from translate.convert.sharding import choose_shard
    from translate.recipe import default_adaptation, find_recipe, load_recipe

    chosen = load_recipe(find_recipe(recipe), overrides or [])
    home, part = folder or default_adaptation(chosen), choose_shard(shard)
    with Display(chosen.name) as display, as_errors_of_recipe(recipe):
        if part is not None:
            train_rows(chosen, home, display, shard=part, device=device)
            say(f"shard {part.index} of {part.num} is trained; when all are: translate adapt evaluate "
                f"{shlex.quote(recipe)}")
            return
        table = evaluate_rows(chosen, home, display, device=device)

    for each in adaptation_tables(table):
        say_table(each)
    for line in table["warnings"]:
        say(f"warning: {line}")
    for line in table["missing"]:
        say(f"missing: {line}")
    say(f"table: {home / 'table.json'}; with pictures: {home / 'table.html'}")
