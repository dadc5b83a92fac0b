"""Which file becomes which, decided by names alone, before anything is opened."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from translate.data.images import SUFFIXES, ImageConfig, list_folder, suffix_for
from translate.errors import DataError, ImageError, UsageError


@dataclass(frozen=True)
class Job:
    """One file to translate."""

    source: Path
    name: str  # below the source folder
    output: Path
    output_name: str  # below the output folder
    fault: ImageError | None = None  # known before it is opened


def plan_jobs(source: Path, out: Path, config: ImageConfig) -> tuple[list[Job], list[str]]:
    """Which file becomes which, decided by names alone, and the files that are no images.

    Raises `UsageError` when there is nothing to do or an output would replace a source.
    """
    if source.is_file():
        jobs, skipped = [_single_job(source, out, config)], list[str]()
    elif source.is_dir():
        if out.exists() and not out.is_dir():
            raise UsageError(f"{out}: is a file; a folder of images needs a folder to go to")
        if out.is_dir() and out.samefile(source):
            raise UsageError(f"{out}: is the source itself; its images would be replaced. Choose another folder")
        jobs, skipped = _folder_jobs(source, out, config)
    else:
        raise DataError(f"{source}: no such file or folder")
    sources = {path for job in jobs for path in (_place(job.source), Path(os.path.realpath(job.source)))}
    replaced = next((job for job in jobs if _place(job.output) in sources), None)
    if replaced is not None:
        raise UsageError(printable(f"{replaced.output}: the output of {replaced.source} would replace an image of the "
                                   "source; choose another folder"))
    return jobs, skipped


def _single_job(source: Path, out: Path, config: ImageConfig) -> Job:
    suffix = out.suffix.lower()
    if suffix in SUFFIXES and not out.is_dir():
        if suffix_for(suffix, config) != suffix:
            raise UsageError(f"{out}: cannot hold the output ({config.channels} channels, bits: {config.bits}); "
                             f"write {suffix_for(suffix, config)}")
        return Job(source, source.name, out, out.name)
    name = Path(source.name).with_suffix(suffix_for(source.suffix, config))
    return Job(source, source.name, out / name, str(name))


def _folder_jobs(source: Path, out: Path, config: ImageConfig) -> tuple[list[Job], list[str]]:
    listing = list_folder(source, skip=out)
    names = [path.relative_to(source) for path in listing.images]
    claimed = {name for name in names if suffix_for(name.suffix, config) == name.suffix}
    jobs = [_job(fault.path, source, out, fault.path.relative_to(source), fault) for fault in listing.faults]
    for path, name in zip(listing.images, names, strict=True):
        output, fault = name, None
        if name not in claimed:
            suffix = suffix_for(name.suffix, config)
            wishes = [name.with_suffix(suffix), name.with_name(name.name + suffix)]
            free = [wish for wish in wishes if wish not in claimed]
            output = free[0] if free else wishes[-1]
            if not free:
                fault = ImageError(path, "find", f"its output {output} is also that of another file; rename one")
            claimed.add(output)
        jobs.append(_job(path, source, out, output, fault))
    if not jobs:
        raise DataError(f"{source}: holds no images ({', '.join(sorted(SUFFIXES))})")
    return jobs, [str(path.relative_to(source)) for path in listing.others]


def _job(path: Path, source: Path, out: Path, output: Path, fault: ImageError | None) -> Job:
    return Job(path, str(path.relative_to(source)), out / output, str(output), fault)


def _place(path: Path) -> Path:
    """Where a name lies, whatever it is a link to: what a rename to it would replace."""
    return Path(os.path.realpath(path.parent)) / path.name


def printable(text: str) -> str:
    """File names may hold bytes that are no text; a terminal refuses them."""
    return text.encode("utf-8", "backslashreplace").decode()
