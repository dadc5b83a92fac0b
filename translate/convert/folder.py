"""convert(): what its words mean, which files are to be done, and who does them: this process, a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from translate.cluster.ray_engine import RayEngine
from translate.convert.converter import Converter
from translate.convert.jobs import FileFormat, Job, Naming, Shard, plan_jobs
from translate.convert.ledger import Entry, Ledger, source_of
from translate.convert.on_ray import OnRay, WorkerSetup
from translate.convert.protecting import Protection, refuse_unkept
from translate.convert.remote import Remote
from translate.convert.saving import Options, remove_leftovers
from translate.convert.scaling import Resize, Scaling, Size
from translate.convert.summary import Summary
from translate.convert.translating import Precision, Translating
from translate.convert.workers import workers_by_cores
from translate.errors import ImageError, MissingExtra, UsageError, visible
from translate.host.signals import minding_signals
from translate.images.decoding import inspect
from translate.images.pictures import MAX_PIXELS
from translate.runs.release import Release

NUM_HEADS = 100  # of files that are looked at to see whether outputs are of another size


def convert(source: Path, out: Path, release: Release, *, device: str = "auto", precision: Precision = "auto",
            overwrite: bool = False, max_pixels: int = MAX_PIXELS, memory: str | None = None,
            file_format: FileFormat | None = None, quality: int | None = None,
            compression: int | None = None, shard: Shard | None = None,
            only: Collection[str] | None = None, workers: int | None = None, dry_run: bool = False,
            verify: bool = False, resize: Resize | None = None, size: Size = "resized",
            protect: Path | Protection | None = None, feather: float = 0.0,
            owned: bool = False, engine: RayEngine | None = None, remote: Remote | None = None,
            warn: Callable[[str], None] = lambda line: None,
            on_progress: Callable[[Entry, int, int], None] | None = None) -> Summary:
    """Translate files into `out`, and go on where an earlier call was interrupted.

    Outputs have the size of their inputs seen upright, unless `resize` says otherwise; alpha, ICC profile, EXIF and
    resolution go along where the format holds them (EXIF not from a TIFF, and into one only if that has 8 bits and at
    most 3 colours). A suffix is kept where its format can hold the output, else it becomes .png (.tif for floats and
    many channels). Where another file claims a name, the suffix is added to the whole name (x.gif beside x.png →
    x.gif.png).

    Files already done are left alone, and so are a file at an output's place that this folder's ledgers do not know and
    the output of another folder's file of the same name; these are reported. Where the model, the settings or an image
    are others than before, its output is replaced, and counted.

    source        an image, a folder (every image below it), or a glob (`**` too), whose matches keep their tree below
                  the glob's fixed part
    out           a folder; for a single image it may be a file, and then no ledger is written
    release       the generator and what goes in and out of it
    device        `auto` takes CUDA where there is one
    precision     `auto` computes outputs of 8 bits in the device's fast format, deeper ones in fp32
    overwrite     replace what is done, what the ledgers do not know, and what was made from another folder
    max_pixels    the largest image that is decoded at once
    memory        (such as "2GB") bounds what translating takes beyond the image: exact strips, somewhat slower. None:
                  at once what fits into a share of the memory that is left, the rest in strips
    file_format   one format for all outputs
    quality       1 to 100: of JPEG; it makes WebP lossy
    compression   of PNG and TIFF: 0 (none) to 9 (smallest file, slowest). No pixel depends on it, so what is done stays
                  done under another; None: what suits the format
    shard         the part of the files that this one of several processes does
    only          leave alone all files but these (names below the folder)
    workers       processes that decode ahead, and threads that write behind, each holding one image more in memory;
                  fewer where these find no room. 0: all in this process, where a file that crashes the decoder ends
                  it, and whose allocations are bounded (RLIMIT_DATA) while a file is decoded. None: one for each core,
                  and 0 on a single one
    dry_run       read everything and write nothing
    verify        read every output that is done, and make again what was changed since; else only those whose size or
                  time is another
    resize        translate at another scale: a short side in px, or `trained`: the range of short sides that the model
                  was trained on, into which an input's is brought by as little as can be
    size          of outputs: `resized`, that in which they were translated, or `input`, that of the input
    protect       a folder of masks, one for each image by its name: where a mask is not 0, an output has the samples of
                  its input (`translate.convert.protecting`). Masks are looked at before anything is translated
    feather       px inside of a mask's border, over which the translation fades into the input
    owned         `out` is the caller's own: outputs of another folder's files are replaced, too
    engine        a Ray cluster that does the work, in place of this process
    remote        the folders in storage that stand for `source` and `out`
    warn          called with a line about the first image that is translated at a scale beyond the model's, by more
                  than a third (the summary counts them), with one where there is no memory for all workers, with one
                  about another folder whose outputs stand in `out`, and with one about the first output of each cause
                  that is replaced
    on_progress   called after each file, in their order, with its entry, its number and the number of files

    A file that cannot be translated is an entry of the summary. Raises `UsageError` for words that do not fit together
    and for a source without images, `DiskError` when the output disk is full or read-only: nothing more could be done.
    SIGINT and SIGTERM end the call after the file in hand.
    """
    # Words that mean nothing are refused before any work.
    check_quality(quality, file_format)
    check_compression(compression, file_format)
    if workers is not None and workers < 0:
        raise UsageError(f"workers {workers}: expected 0 or more")
    if feather and not isinstance(protect, Path):
        raise UsageError(f"feather {feather}: is of a folder of masks, and none is named",
                         advice="add --protect FOLDER")
    if max_pixels < 1:
        raise UsageError(f"max_pixels {max_pixels}: expected 1 or more")

    # Names are planned over all files, so that every shard gives an output the same one; then come the shard's own.
    naming = Naming(release.image_out, file_format)
    if remote is not None:
        if engine is not None:
            raise UsageError("--engine works on folders that all nodes see, and these are in storage",
                             advice="use --shard auto on each machine")
        jobs, skipped = remote.plan(naming)
        ledger: Ledger = remote.ledger()
    else:
        if engine is not None:  # whose workers stand in other folders
            source, out = source.absolute(), out.absolute()
        jobs, skipped = plan_jobs(source, out, naming)
        ledger = Ledger(None if source.is_file() and jobs[0].output == out else out, shard,
                        None if owned else source_of(os.path.realpath(jobs.source)))
    if only is not None:
        jobs = jobs.where(lambda name: name in only)
    if shard is not None:
        jobs = jobs.where(shard.has)
        skipped = [name for name in skipped if shard.has(name)]

    scaling = Scaling.of(resize, size, release.scale)
    protection = Protection.of(protect, feather) if isinstance(protect, Path) else protect
    if protection is not None:
        refuse_unkept(release, scaling, quality)
        protection.check(jobs)
        protection = protection if engine is None else protection.absolute()
    options = Options(overwrite, max_pixels, file_format, quality, compression,
                      workers_by_cores() if workers is None else workers, dry_run, verify, protection)
    make = partial(Translating.with_release, release, device, precision, memory, scaling)
    summary = Summary(len(jobs), skipped=skipped)

    def look(these: Sequence[Job]) -> None:
        summary.resized |= give_another_size(these, scaling)

    if engine is None:
        worker: Converter | OnRay = (converter := Converter(make(), ledger, options, warn))
        run = converter.run if remote is None else partial(remote.run, converter=converter, look=look)
    else:
        worker = OnRay(engine, WorkerSetup(make, out if ledger.keeps else None, ledger.source,
                                           replace(options, workers=-1 if workers is None else workers)), warn)
        run = worker.run
    for other in ledger.other_sources():
        warn(f"{visible(remote.out.at if remote is not None else out)} also holds outputs of a folder that was called "
             f"{visible(other)}; they are kept. To have the two apart, name another folder for these outputs")
    if not dry_run:
        ledger.open()
        if remote is None:
            remove_leftovers(jobs)

    # A signal lets the converter finish the file in hand; it counts as a stop only if files are left.
    if remote is None:
        look(jobs)
    with closing(ledger), minding_signals() as stop, closing(run(jobs, stop=stop)) as entries:
        for number, entry in enumerate(entries, 1):
            if entry.replaces is not None and entry.replaces not in summary.replaced:
                warn(f"outputs of {entry.replaces} stand here, such as {visible(entry.output)}, and "
                     f"{'would be' if dry_run else 'are'} replaced; another folder for the outputs would keep them")
            summary.count(entry)
            if on_progress is not None:
                on_progress(entry, number, len(jobs))
        summary.outside = worker.num_outside
        summary.stopped = bool(stop) and summary.num_seen < len(jobs)
    return summary


def give_another_size(jobs: Sequence[Job], scaling: Scaling) -> bool:
    """Tell whether outputs are of another size than their inputs, by the heads of the first files."""
    if scaling.sides is None or scaling.give_back == "input":
        return False
    for job in jobs[:NUM_HEADS]:
        with suppress(ImageError, MissingExtra):  # the conversion itself says it of each file
            info = inspect(job.source)
            if scaling.shape_of((info.height, info.width)) != (info.height, info.width):
                return True
    return False


def check_quality(quality: int | None, file_format: FileFormat | None) -> None:
    """Raise `UsageError` for a quality that means nothing."""
    if quality is not None and not 1 <= quality <= 100:
        raise UsageError(f"quality {quality}: expected 1 to 100")
    if quality is not None and file_format in ("png", "tif"):
        raise UsageError(f"quality {quality}: {file_format} is written without loss; leave it out, or take jpg or webp")


def check_compression(compression: int | None, file_format: FileFormat | None) -> None:
    """Raise `UsageError` for a compression that means nothing."""
    if compression is not None and not 0 <= compression <= 9:
        raise UsageError(f"compression {compression}: expected 0 (none) to 9 (smallest file)")
    if compression is not None and file_format in ("jpg", "webp"):
        raise UsageError(f"compression {compression}: is of png and tif; leave it out, or say quality for "
                         f"{file_format}")
