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
    """List everything below `folder`, except below `skip`.

    Linked folders are entered, once each and after all real ones, so that a loop of links ends and a link never
    changes the names of what lies inside `folder` anyway. A link that leads nowhere counts as a file: whoever opens it
    will say so. Hidden files and folders, those of systems, pipes and devices are never images.
    """
    files: list[Path] = []
    others: list[Path] = []
    faults: list[ImageError] = []

    # Two queues: linked folders wait until no real one is left. A folder entered once, or skipped, is `seen`.
    seen = {_identity(skip)} if skip is not None and skip.is_dir() else set()
    folders: list[Path] = [folder]
    links: list[Path] = []
    while folders or links:
        here = folders.pop() if folders else links.pop(0)
        try:
            if _identity(here) in seen:
                continue
            seen.add(_identity(here))

            # Each entry is a file, a folder to enter later, or neither; temporary files of ours are not mentioned.
            for entry in sorted(here.iterdir()):
                if is_aside(entry.name):
                    if not entry.name.startswith(TEMPORARY):  # left behind by a killed process of ours
                        others.append(entry)
                elif entry.is_dir():
                    (links if entry.is_symlink() else folders).append(entry)
                elif entry.suffix.lower() in SUFFIXES and (entry.is_file() or not entry.exists()):
                    files.append(entry)
                else:
                    others.append(entry)
        except OSError as error:
            faults.append(ImageError(here, "find", error.strerror or str(error)))
    return Listing(sorted(files), sorted(others), faults)


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
