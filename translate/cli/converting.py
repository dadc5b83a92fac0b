"""convert: a folder of images translated into another."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from translate.cli import console
from translate.cli.console import say
from translate.cli.models import at_hand
from translate.cli.options import Device, Direction, Engine, EngineCores, Precision, Shard, one_of, shared_out
from translate.cli.progress import Display
from translate.errors import UsageError, visible

if TYPE_CHECKING:
    from translate.convert import Summary
    from translate.convert.ledger import Entry

DRY_RUN_WORDS = {"todo": "to do: ", "already": "done: ", "failed": "would fail: "}  # what an entry's status means there


def checked(read: Callable[[str], object]) -> Callable[[str | None], str | None]:
    """Return a check of an option's value by what reads it later, so that a wrong one is said at once."""
    def check(value: str | None) -> str | None:
        if value is not None:
            read(value)
        return value

    return check


def short_side(text: str | None) -> int | str | None:
    """Read the value of `--resize`. Raises `UsageError` for what is neither `trained` nor a number of pixels."""
    if text is None or text == "trained":
        return text
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 7):
        raise UsageError(f"--resize {text}: expected trained, or a short side in pixels, such as 512")
    return int(text)


def number_or_auto(text: str) -> int | None:
    """Read the value of `--workers`: a number, or None for `auto`. Raises `UsageError`."""
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 4):
        raise UsageError(f"--workers {text}: expected auto, or a number from 0 to 999")
    return int(text)


def convert(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="IN", help="An image, a folder of any depth, or a glob in quotes, "
                                           "such as 'photos/**/*.png'.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write to (or a file, for a file).")],
    model: Annotated[Path, typer.Option(help="The model that translates: a run (runs/<name>), its best "
                                        "checkpoint (runs/<name>/best), a release's folder, or hf:org/name.")],
    direction: Direction = "ab",
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Convert again what is done already, and replace "
                                            "files that no conversion wrote, or one of another folder.")] = False,
    max_pixels: Annotated[int | None, typer.Option(help="Refuse images with more pixels.",
                                                   show_default="200,000,000")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory limit for translating one image, such as 2GB, not counting "
                                               "weights and the image. Same output, slower.",
                                               show_default="a share of what is left")] = None,
    file_format: Annotated[str | None, typer.Option(
        "--format", help="Write png, jpg, webp or tif.", callback=one_of("png", "jpg", "webp", "tif"),
        show_default="each input's own, where it can hold the output")] = None,
    quality: Annotated[int | None, typer.Option(help="Of JPEG, 1 to 100; makes WebP lossy.")] = None,
    compression: Annotated[int | None, typer.Option(help="Of PNG and TIFF, 0 (none) to 9 (smallest, slowest); same "
                                                    "pixels.", show_default="6 and 1")] = None,
    workers: Annotated[str, typer.Option(metavar="auto|N", help="Number of decoder processes, and of writer threads; "
                                         "0: none. auto: by cores and memory.",
                                         callback=checked(number_or_auto))] = "auto",
    resize: Annotated[str | None, typer.Option(metavar="trained|N", help="Translate at another scale: that of the "
                                               "model's training, or a short side of N px.",
                                               show_default="each image as it is",
                                               callback=checked(short_side))] = None,
    size: Annotated[str, typer.Option(help="Size of outputs after --resize: resized, or input, as it was before.",
                                      callback=one_of("resized", "input"))] = "resized",
    protect: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Masks, by the names of the images: where "
                                                 "one is not 0, the output is the input.")] = None,
    feather: Annotated[float, typer.Option(help="Fade into the input over so many px inside of a mask.")] = 0.0,
    shard: Shard = None,
    engine: Engine = None,
    engine_cores: EngineCores = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read every output that is done, and make again what was "
                                         "changed since. Otherwise only those whose size or time is another.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")] = False,
) -> None:
    """Translate a folder: same tree, same names, and without --resize same sizes. Call it again to go on after an
    interruption."""
    from translate.convert import convert as convert_files
    from translate.convert.remote import Remote
    from translate.convert.sharding import add_up
    from translate.convert.storage import address, local
    from translate.images.decoding import MAX_PIXELS
    from translate.runs.release import load_release

    if context.args:
        raise UsageError(f"convert: {len(context.args)} unexpected arguments after IN and OUT, starting with "
                         f"{context.args[0]}", advice="put a glob in quotes ('photos/*.png'), or the shell expands it")
    part, cluster = shared_out(shard, engine, engine_cores)

    # The model, and what was refused in looking for its weights.
    release = load_release(at_hand(model), direction)  # type: ignore[arg-type]
    for reason in release.refused:
        say(f"refused {reason}")
    say(f"weights: {visible(release.weights)}" + (f" ({release.growth})" if release.growth else ""))

    first, second = map(visible, release.domains)
    say(f"direction: {first} to {second}" + (
        f"; the other way, {second} to {first}: --direction {direction[::-1]}" if release.has_other else
        ", the only one of this model"))
    if is_of_the_other_side(source, release.domains, direction):
        say(f"note: {visible(source)} has the name of what this model makes, not of what it was trained to translate")
    if release.scale is not None:
        say(f"scale: trained on images with {release.scale}")

    with Display(f"convert with {model}") as display, cluster or nullcontext(), ExitStack() as storage:
        source, target = local(source), local(target)
        if source.is_dir() and source.resolve() in target.resolve().parents:
            display.say(f"note: {visible(target)} lies in {visible(source)}: convert takes no output for an input, and "
                        "a training on that folder would; a folder outside it is safer")
        remote = storage.enter_context(Remote(source, target)) if address(source) or address(target) else None
        summary = convert_files(source, target, release, device=device, precision=precision,  # type: ignore[arg-type]
                                overwrite=overwrite, max_pixels=MAX_PIXELS if max_pixels is None else max_pixels,
                                memory=memory, file_format=file_format, quality=quality,  # type: ignore[arg-type]
                                compression=compression, workers=number_or_auto(workers), shard=part,
                                dry_run=dry_run, verify=verify,
                                resize=short_side(resize), size=size, engine=cluster, remote=remote,  # type: ignore[arg-type]
                                protect=protect, feather=feather,
                                warn=lambda line: display.say(f"warning: {line}"),
                                on_progress=entry_shower(display, dry_run))
        shown = {entry.path for entry in summary.failed}
        summary = add_up(summary)
    say_summary(summary, address(target) or target, dry_run, shown)
    raise typer.Exit(summary.exit_code)


def is_of_the_other_side(source: Path, domains: tuple[str, str], direction: str) -> bool:
    """Return whether a folder is called what a model makes, such as `trainB`, or `evening` of "B (evening)"."""
    name = source.name.casefold()
    is_given, is_made = (domain.casefold() in (name, f"{side} ({name})")
                         for domain, side in zip(domains, direction, strict=True))
    return not is_given and (is_made or name in {split + direction[1] for split in ("train", "test", "val")})


def entry_shower(display: Display, dry_run: bool) -> Callable[[Entry, int, int], None]:
    """Return what shows each file when it is done: its entry where it failed (in a dry run every one), and progress."""
    worked, pixels = 0, 0

    def show(entry: Entry, number: int, total: int) -> None:
        nonlocal worked, pixels
        worked, pixels = worked + (entry.status != "already"), pixels + (entry.pixels or 0)
        if dry_run:
            display.say(DRY_RUN_WORDS[entry.status] + str(entry))
        elif entry.status == "failed":
            display.say(str(entry))
        elif entry.message:
            display.say(f"{visible(entry.path)}: {entry.message}")
        display.progress(number, total, "", {}, worked=worked, megapixels=None if dry_run else pixels / 1e6)

    return show


def say_summary(summary: Summary, target: Path | str, dry_run: bool, shown: set[str]) -> None:
    """Print what became of all files. `shown`: the failed ones that were printed already, by this process."""
    for entry in summary.failed:
        if entry.path not in shown:
            say(str(entry))
    for name in summary.skipped:
        say(f"skipped (not an image suffix, or an earlier output): {visible(name)}")
    if summary.noted:
        first, others = summary.noted[0], len(summary.noted) - 1
        more = f" (and of {others} more images: the ledger says which)" if others else ""
        say(f"note: {visible(first.path)}: {visible(first.note)}{more}")
    if summary.in_strips:
        first, others = summary.in_strips[0], len(summary.in_strips) - 1
        more = f" ({others} more images as well: the ledger says why)" if others else ""
        say(f"in strips, which give the same output: {visible(first.path)}: {visible(first.strips)}{more}")
    say(f"{f'{summary.todo} to convert' if dry_run else f'{summary.converted} converted'}, {summary.already} done "
        f"before, {len(summary.failed)} failed, {len(summary.skipped)} skipped, of {summary.total} images → "
        f"{visible(target)}")
    for what, num in summary.replaced.items():
        say(f"{num} of them {'would replace' if dry_run else 'replaced'} outputs of {what}")
    if summary.resized:
        say("outputs have the size the network works at; --size input brings them back to the input's")
    if summary.outside:
        say(f"{summary.outside} of them at another scale than the model was trained at")
    if summary.stopped:
        say("stopped by a signal; the same command goes on", console.err)
