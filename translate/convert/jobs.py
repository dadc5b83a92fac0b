"""Which file becomes which, decided by names alone, before anything is opened."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from translate.errors import DataError, ImageError, UsageError, visible
from translate.images.listing import SUFFIXES, Listing, list_folder
from translate.images.reading import ImageConfig
from translate.images.writing import suffix_for

FileFormat = Literal["png", "jpg", "webp", "tif"]
FORMATS: dict[FileFormat, tuple[str, ...]] = {"png": (".png",), "jpg": (".jpg", ".jpeg", ".jpe", ".jfif"),
                                              "webp": (".webp",), "tif": (".tif", ".tiff")}

LEDGERS = ".translate-ledger"  # what the names of ledgers begin with, which mark a folder of outputs


@dataclass(frozen=True)
class Job:
    """One file to translate."""

    source: Path
    name: str  # below the source folder
    output: Path
    output_name: str  # below the output folder
    fault: ImageError | None = None  # known before it is opened


@dataclass(frozen=True)
class Shard:
    """The part of the files that one of several processes does: number `index`, from 1, of `num`.

    A name alone decides whose it is: processes that list a folder while files arrive still never do one twice.
    """

    index: int
    num: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read text such as 2/4. Raises `UsageError`."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError(f"shard {text}: expected i/n with i from 1 to n; of four processes, the first does 1/4")
        return cls(int(found[1]), int(found[2]))

    def has(self, name: str) -> bool:
        """Return whether the file of this name is this shard's."""
        digest = hashlib.sha256(os.fsencode(name)).digest()
        return int.from_bytes(digest[:8], "big") % self.num == self.index - 1


@dataclass(frozen=True)
class Naming:
    """Under which suffix an output is written."""

    config: ImageConfig
    format: FileFormat | None = None

    def __post_init__(self) -> None:
        if self.format is not None and suffix_for(f".{self.format}", self.config) != f".{self.format}":
            raise UsageError(f"format {self.format}: cannot hold the output ({self.content}); "
                             f"take {suffix_for('.png', self.config)[1:]}")

    @property
    def content(self) -> str:
        return f"{self.config.channels} channels, bits: {self.config.bits}"

    def suffix(self, given: str) -> str:
        """Return the suffix for the output of a file with the suffix `given`: the same wherever it can be."""
        if self.format is None:
            return suffix_for(given, self.config)
        return given if given.lower() in FORMATS[self.format] else f".{self.format}"


def plan_jobs(source: Path, out: Path, naming: Naming) -> tuple[list[Job], list[str]]:
    """Return the jobs for a file, a folder or a glob, and the names of files that are no images.

    Raises `UsageError` when there is nothing to do or an output would replace a source.
    """
    # A single file is a job whatever its name. A folder or a glob goes to a folder that is not itself.
    if source.is_file():
        jobs, skipped = [_single_job(source, out, naming)], list[str]()
    else:
        folder, pattern = _split(source)
        if pattern is None and not folder.is_dir():
            raise DataError("no such file or folder", source)
        if out.exists() and not out.is_dir():
            raise UsageError("is a file; a folder of images needs a folder to go to", out)
        if out.is_dir() and folder.is_dir() and out.samefile(folder):
            raise UsageError("is the source itself; its images would be replaced", out, "choose another folder")

        # Its images, each with a name of its own.
        listing = _listing(folder, pattern, out)
        jobs = _folder_jobs(listing, folder, out, naming)
        if not jobs:
            raise DataError(f"{'holds' if pattern is None else 'matches'} no images ({', '.join(sorted(SUFFIXES))})",
                            source)
        skipped = [str(path.relative_to(folder)) for path in listing.others]

    # Links make it possible that an output is one of the sources under another name.
    sources = {path for job in jobs for path in (_place(job.source), Path(os.path.realpath(job.source)))}
    replaced = next((job for job in jobs if _place(job.output) in sources), None)
    if replaced is not None:
        raise UsageError(f"the output of {visible(replaced.source)} would replace an image of the source",
                         replaced.output, "choose another folder")
    return jobs, skipped


def _split(source: Path) -> tuple[Path, tuple[str, ...] | None]:
    """Return a glob's fixed folder, and the parts of its pattern; a pattern of None for what is no glob."""
    parts = source.parts
    first = next((number for number, part in enumerate(parts) if re.search(r"[*?\[]", part)), None)
    if first is None or source.exists():
        return source, None
    return Path(*parts[:first]), parts[first:]


def _listing(folder: Path, pattern: tuple[str, ...] | None, out: Path) -> Listing:
    """List what lies in a folder, as far as it matches. Links are followed and loops ended as in any folder.

    What conversions have written into folders inside it counts among the others.
    """
    # A ledger marks a folder of outputs, and everything below it.
    listing = list_folder(folder, skip=out) if folder.is_dir() else Listing([], [], [])
    outputs = {path.parent for path in listing.others if path.name.startswith(LEDGERS)} - {folder}
    made = [path for path in listing.images if outputs.intersection(path.parents)]
    listing = Listing([path for path in listing.images if path not in set(made)], [*listing.others, *made],
                      listing.faults)
    if pattern is None:
        return listing

    # Of a glob, what it matches; and of the folders that cannot be read, those that it leads into.
    images, others = ([path for path in paths if matches(path.relative_to(folder).parts, pattern)]
                      for paths in (listing.images, listing.others))
    faults = [fault for fault in listing.faults
              if "**" in pattern or len(fault.path.relative_to(folder).parts) < len(pattern)]
    return Listing(images, others, faults)


def matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Return whether a shell's glob names a path; `**` stands for any number of folders."""
    if not pattern or not parts:
        return not parts and all(part == "**" for part in pattern)
    if pattern[0] == "**":
        return matches(parts, pattern[1:]) or matches(parts[1:], pattern)
    return fnmatchcase(parts[0], pattern[0]) and matches(parts[1:], pattern[1:])


def _single_job(source: Path, out: Path, naming: Naming) -> Job:
    """Return the job of a single file: into the file `out`, where that is an image's name, else into the folder."""
    suffix = out.suffix.lower()
    if suffix in SUFFIXES and not out.is_dir():
        if naming.suffix(suffix) != suffix:
            why = f"cannot hold the output ({naming.content})" if naming.format is None else f"is no {naming.format}"
            raise UsageError(why, out, f"write {naming.suffix(suffix)}")
        return Job(source, source.name, out, out.name)
    name = Path(source.name).with_suffix(naming.suffix(source.suffix))
    return Job(source, source.name, out / name, str(name))


def _folder_jobs(listing: Listing, source: Path, out: Path, naming: Naming) -> list[Job]:
    """Return the jobs of a folder, no two of which have the same output. What cannot be has a fault."""
    # An image that keeps its suffix claims its own name before any other file can.
    names = [path.relative_to(source) for path in listing.images]
    claimed = {name for name in names if naming.suffix(name.suffix) == name.suffix}
    jobs = [_job(fault.path, source, out, fault.path.relative_to(source), fault) for fault in listing.faults]

    # Another suffix in place of its own, else added to the whole name.
    for path, name in zip(listing.images, names, strict=True):
        output, fault = name, None
        if name not in claimed:
            suffix = naming.suffix(name.suffix)
            wishes = [name.with_suffix(suffix), name.with_name(name.name + suffix)]
            free = [wish for wish in wishes if wish not in claimed]
            output = free[0] if free else wishes[-1]
            if not free:
                fault = ImageError(path, "find", f"its output {visible(output)} is also that of another file; rename "
                                   "one")
            claimed.add(output)
        jobs.append(_job(path, source, out, output, fault))
    return jobs


def _job(path: Path, source: Path, out: Path, output: Path, fault: ImageError | None) -> Job:
    return Job(path, str(path.relative_to(source)), out / output, str(output), fault)


def _place(path: Path) -> Path:
    """Return where a name lies, whatever it is a link to: what a rename to it would replace."""
    return Path(os.path.realpath(path.parent)) / path.name
