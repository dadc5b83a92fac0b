"""Which file becomes which, decided by names alone, before anything is opened."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, overload

from translate.errors import DataError, ImageError, UsageError, visible
from translate.images.listing import SUFFIXES, Names, list_names
from translate.images.reading import ImageConfig
from translate.images.writing import suffix_for
from translate.missing import no_sources

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

    @property
    def out(self) -> Path:
        """The folder of all outputs; that of its own where an output waits under another name to be put in its place.
        """
        parts = Path(self.output_name).parts
        return Path(*self.output.parts[:-len(parts) if self.output.parts[-len(parts):] == parts else -1])


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


class Jobs(Sequence[Job]):
    """Jobs of one folder, each made when it is asked for: of a million, their names alone are held.

    names    of the inputs, below `source`
    wishes   by which of `_wishes` each output is called, or that it cannot be
    """

    def __init__(self, source: Path, out: Path, naming: Naming, names: list[str], wishes: bytearray,
                 faults: dict[str, ImageError]):
        self.source, self.out, self.naming = source, out, naming
        self.names, self._wishes, self._faults = names, wishes, faults

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Job: ...

    @overload
    def __getitem__(self, index: slice) -> list[Job]: ...

    def __getitem__(self, index: int | slice) -> Job | list[Job]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        name = self.names[index]
        output = _wishes(name, self.naming)[self._wishes[index]]
        return Job(self.source / name, name, self.out / output, output, self._faults.get(name))

    @property
    def folders(self) -> set[str]:
        """The folders of inputs and of outputs, below those of all."""
        return set(map(_folder, self.names))

    def where(self, wanted: Callable[[str], bool]) -> Jobs:
        """Return the jobs whose names are wanted."""
        kept = [number for number, name in enumerate(self.names) if wanted(name)]
        return Jobs(self.source, self.out, self.naming, [self.names[number] for number in kept],
                    bytearray(self._wishes[number] for number in kept), self._faults)


def plan_jobs(source: Path, out: Path, naming: Naming) -> tuple[Jobs, list[str]]:
    """Return the jobs for a file, a folder or a glob, and the names of files that are no images.

    Raises `UsageError` when there is nothing to do or an output would replace a source.
    """
    # A single file is a job whatever its name. A folder or a glob goes to a folder that is not itself.
    if source.is_file():
        jobs: Jobs = SingleJob(_single_job(source, out, naming))
        names = Names([source.name], [], [], [source.name])
    else:
        folder, pattern = _split(source)
        if pattern is None and not folder.is_dir():
            raise no_sources(source)
        if out.exists() and not out.is_dir():
            raise UsageError("is a file; a folder of images needs a folder to go to", out)
        if out.is_dir() and folder.is_dir() and out.samefile(folder):
            raise UsageError("is the source itself; its images would be replaced", out, "choose another folder")

        # Its images, each with a name of its own.
        names = _list(folder, pattern, out)
        jobs = folder_jobs(names, folder, out, naming)
        if not jobs:
            raise DataError(f"{'holds' if pattern is None else 'matches'} no images ({', '.join(sorted(SUFFIXES))})",
                            source)

    _refuse_replaced(jobs, names.links)
    return jobs, names.others


def _refuse_replaced(jobs: Jobs, links: Sequence[str]) -> None:
    """Raise `UsageError` where an output would replace an image of the source.

    Links make it possible that it is one under another name. `links`: the names of images that are links.
    """
    # Only an output whose folder is that of a source can be one. Folders are few, and files may be millions.
    of_sources = {folder: _real(jobs.source / folder) for folder in jobs.folders}
    of_outputs = {folder: _real(jobs.out / folder) for folder in jobs.folders}
    pointed = {_real(jobs.source / name) for name in links}
    if not set(of_outputs.values()) & {*of_sources.values(), *(path.parent for path in pointed)}:
        return
    places = {of_sources[_folder(job.name)] / job.source.name for job in jobs} | pointed
    for job in jobs:
        if of_outputs[_folder(job.name)] / job.output.name in places:
            raise UsageError(f"the output of {visible(job.source)} would replace an image of the source",
                             job.output, "choose another folder")


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _split(source: Path) -> tuple[Path, tuple[str, ...] | None]:
    """Return a glob's fixed folder, and the parts of its pattern; a pattern of None for what is no glob."""
    parts = source.parts
    first = next((number for number, part in enumerate(parts) if re.search(r"[*?\[]", part)), None)
    if first is None or source.exists():
        return source, None
    return Path(*parts[:first]), parts[first:]


def _list(folder: Path, pattern: tuple[str, ...] | None, out: Path) -> Names:
    """List what lies in a folder, as far as it matches. Links are followed and loops ended as in any folder.

    What conversions have written into folders inside it counts among the others.
    """
    # A ledger marks a folder of outputs, and everything below it.
    names = list_names(folder, skip=out) if folder.is_dir() else Names([], [], [], [])
    outputs = tuple(sorted({head + "/" for head, _, name in (other.rpartition("/") for other in names.others)
                            if head and name.startswith(LEDGERS)}))
    if outputs:
        made = [name for name in names.images if name.startswith(outputs)]
        names = Names([name for name in names.images if not name.startswith(outputs)], [*names.others, *made],
                      names.faults, names.links)
    if pattern is None:
        return names

    # Of a glob, what it matches; and of the folders that cannot be read, those that it leads into.
    images, others, links = ([name for name in some if matches(tuple(name.split("/")), pattern)]
                             for some in (names.images, names.others, names.links))
    faults = [fault for fault in names.faults
              if "**" in pattern or len(fault.path.relative_to(folder).parts) < len(pattern)]
    return Names(images, others, faults, links)


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


class SingleJob(Jobs):
    """A single file as jobs."""

    def __init__(self, job: Job):
        super().__init__(job.source.parent, job.output.parent, Naming(ImageConfig()), [job.name], bytearray(1), {})
        self._job = job

    def __getitem__(self, index: int | slice) -> Any:
        return [self._job][index]

    def where(self, wanted: Callable[[str], bool]) -> Jobs:
        return self if wanted(self._job.name) else super().where(wanted)


def folder_jobs(names: Names, source: Path, out: Path, naming: Naming) -> Jobs:
    """Return the jobs of a folder, no two of which have the same output. What cannot be has a fault."""
    faults = {str(fault.path.relative_to(source)): fault for fault in names.faults}
    images = [*faults, *names.images]
    wishes = bytearray(len(images))
    if all(_suffix(name, naming) is None for name in names.images):  # each output is called as its input
        return Jobs(source, out, naming, images, wishes, faults)

    # An image that keeps its suffix claims its own name before any other file can.
    claimed = {name for name in names.images if _suffix(name, naming) is None}

    # Another suffix in place of its own, else added to the whole name.
    for number, name in enumerate(images):
        if name in claimed or name in faults:
            continue
        own = _wishes(name, naming)
        free = [wish for wish in (SWAPPED, ADDED) if own[wish] not in claimed]
        wishes[number] = free[0] if free else ADDED
        if not free:
            faults[name] = ImageError(source / name, "find", f"its output {visible(own[ADDED])} is also that of "
                                      "another file; rename one")
        claimed.add(own[wishes[number]])
    return Jobs(source, out, naming, images, wishes, faults)


KEPT, SWAPPED, ADDED = 0, 1, 2  # the suffix of an output


def _wishes(name: str, naming: Naming) -> tuple[str, str, str]:
    """Return what the output of an input may be called."""
    suffix = _suffix(name, naming)
    if suffix is None:
        return name, name, name
    return name, os.path.splitext(name)[0] + suffix, name + suffix  # noqa: PTH122


def _suffix(name: str, naming: Naming) -> str | None:
    """Return the suffix of the output of an input; None where that is its own."""
    return _other_suffix(os.path.splitext(name)[1], naming)  # noqa: PTH122 (a path for each of a million takes seconds)


@functools.lru_cache
def _other_suffix(given: str, naming: Naming) -> str | None:
    suffix = naming.suffix(given)
    return None if suffix == given else suffix
