"""Which images lie in a folder: by their names, in an order that does not depend on the disk."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from translate.errors import ImageError
from translate.files import TEMPORARY

# What an image file may be called, in lower case. What it is, its content tells.
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm",
                      ".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif", ".hif", ".dcm", ".dicom"})
# What systems put into folders of images, in lower case: thumbnails, rubbish bins, snapshots. Its images are nobody's.
OF_SYSTEMS = frozenset({
    "@eadir", "@tmp", "@sharebin", "@sharesnap", "#recycle", "#snapshot",  # Synology
    "@recycle", "@recently-snapshot",  # QNAP
    "$recycle.bin", "recycler", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini",  # Windows
    "__macosx", "network trash folder", "temporary items",  # macOS, whose other files are hidden
    "lost+found", "~snapshot"})  # Linux, NetApp


def is_aside(name: str) -> bool:
    """Return whether a file or folder of this name is hidden, or put there by a system: it is never an image."""
    return name.startswith(".") or name.lower() in OF_SYSTEMS


@dataclass(frozen=True)
class Listing:
    """What lies in a folder, each part sorted: images by their suffix, everything else, folders that cannot be read.

    A folder that is set aside (`is_aside`) stands among everything else, and nothing in it is listed.
    """

    images: list[Path]
    others: list[Path]
    faults: list[ImageError]


def find_images(folder: Path) -> list[Path]:
    """List the images below `folder`, nested, by suffix in any case, sorted.

    Raises `ImageError` for a folder that cannot be read.
    """
    listing = list_folder(folder)
    if listing.faults:
        raise listing.faults[0]
    return listing.images


def list_folder(folder: Path, skip: Path | None = None) -> Listing:
    """List everything below `folder`, except below `skip`, as `list_names` does."""
    names = list_names(folder, skip)
    return Listing([folder / name for name in names.images], [folder / name for name in names.others], names.faults)


@dataclass(frozen=True)
class Names:
    """A `Listing` by the names below the folder, of which there may be millions. `links`: images that are links."""

    images: list[str]
    others: list[str]
    faults: list[ImageError]
    links: list[str]


def list_names(folder: Path, skip: Path | None = None) -> Names:
    """List everything below `folder`, except below `skip`.

    Linked folders are entered, once each and after all real ones, so that a loop of links ends and a link never
    changes the names of what lies inside `folder` anyway. A link that leads nowhere counts as a file: whoever opens it
    will say so. Hidden files and folders, those of systems, pipes and devices are never images.
    """
    names = Names([], [], [], [])

    # Two queues: linked folders wait until no real one is left. A folder entered once, or skipped, is `seen`.
    seen = {_identity(skip)} if skip is not None and skip.is_dir() else set()
    folders: list[str] = [""]
    links: list[str] = []
    while folders or links:
        here = folders.pop() if folders else links.pop(0)
        try:
            if _identity(folder / here) in seen:
                continue
            seen.add(_identity(folder / here))

            # Each entry is a file, a folder to enter later, or neither; temporary files of ours are not mentioned.
            inner: list[tuple[str, bool]] = []
            with os.scandir(folder / here) as entries:
                for entry in entries:
                    name = f"{here}/{entry.name}" if here else entry.name
                    if is_aside(entry.name):
                        if not entry.name.startswith(TEMPORARY):  # left behind by a killed process of ours
                            names.others.append(name)
                    elif _is_folder(entry):
                        inner.append((name, entry.is_symlink()))
                    elif _is_image(entry):
                        names.images.append(name)
                        if entry.is_symlink():
                            names.links.append(name)
                    else:
                        names.others.append(name)
            for name, is_link in sorted(inner):
                (links if is_link else folders).append(name)
        except OSError as error:
            names.faults.append(ImageError(folder / here, "find", error.strerror or str(error)))
    names.images.sort(key=_by_parts)
    names.others.sort(key=_by_parts)
    return names


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):  # a link to itself
        return entry.is_dir()
    return False


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Return whether what is no folder is an image by its suffix: a file, or a link that leads nowhere."""
    suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 (a path for each of a million takes seconds)
    if suffix not in SUFFIXES:
        return False
    return Path(entry.path).is_file() or not Path(entry.path).exists() if entry.is_symlink() else entry.is_file()


def _by_parts(name: str) -> str:
    """Return what sorts names as paths are sorted: the part of a folder before what is longer."""
    return name.replace("/", "\0")


def no_files_beside(files: Iterable[Path]) -> list[Path]:
    """Return what has the name of an image and is a pipe, a socket or a device, in the folders of `files`, sorted.

    `find_images` leaves it out.
    """
    found: list[Path] = []
    for folder in {path.parent for path in files}:
        with suppress(OSError), os.scandir(folder) as entries:  # of a folder that is gone, whoever reads will say so
            found += [Path(entry.path) for entry in entries if Path(entry.name).suffix.lower() in SUFFIXES
                      and not is_aside(entry.name) and not entry.is_file() and not entry.is_dir()
                      and Path(entry.path).exists()]
    return sorted(found)


def _identity(folder: Path) -> tuple[int, int]:
    """Return what is the same for all names of a folder."""
    status = folder.stat()
    return status.st_dev, status.st_ino
