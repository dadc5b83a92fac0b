"""Images as a training loads them, kept on the disk: decoding and resizing a photograph takes longer than reading them.

An entry's name is a hash of the file's content and of all that decides which pixels are made of it, so that nothing
stale is ever taken: a file that is changed, another size or a new version of a library has another entry. What an entry
holds is checked by a checksum when it is read. Several processes may use one folder, of several trainings, and any of
them may be killed at any moment: entries are renamed into place, and who adds one holds a lock of its part of the
folder, in which no more is kept than its part of the whole.

A full part takes nothing in any more, but in place of entries that nobody has used for a week. To let the newest push
out the oldest would keep nothing: a training comes to every image once in an epoch.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import io
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import features

from translate import files
from translate.images.decoding import read_content
from translate.images.resampling import HeightWidth

NUM_PARTS = 64  # each with a lock, and with its part of the room
UNUSED_SECONDS = 7 * 24 * 3600.0  # after which an entry makes room for another
NOTED_SECONDS = 3600.0  # use is noted no more often than this
LIBRARIES = ("albucore", "albumentations", "imagecodecs", "numpy", "pillow", "pillow-heif", "pydicom", "tifffile")
WITHIN_PILLOW = ("jpg", "libjpeg_turbo", "libtiff", "webp", "avif", "littlecms2")
VERSION = 1  # raise it when the same file and options begin to give other pixels
DIGEST_BYTES, LOCK = hashlib.sha256().digest_size, ".lock"


class ImageCache:
    """Images by their keys, in a folder that takes no more than `max_bytes`."""

    def __init__(self, folder: Path, max_bytes: int):
        self.folder, self.max_bytes = folder, max_bytes
        self._libraries = library_versions()

    def key(self, path: Path, made_by: Any) -> str:
        """Return the key of what is made of a file's content; `made_by` says how, as JSON. Raises `ImageError`."""
        how = json.dumps([VERSION, self._libraries, made_by], sort_keys=True)
        return hashlib.sha256(hashlib.sha256(read_content(path)).digest() + how.encode()).hexdigest()

    def get(self, key: str) -> tuple[np.ndarray, HeightWidth] | None:
        """Return an image (H, W, C), and the own (height, width) of that which it was made of; None where it is not
        here, or damaged."""
        path = self._place(key)
        with suppress(OSError, ValueError):
            content = path.read_bytes()
            if hashlib.sha256(content[DIGEST_BYTES:]).digest() != content[:DIGEST_BYTES]:
                path.unlink()
                return None
            file = io.BytesIO(content[DIGEST_BYTES:])
            own, image = (np.load(file, allow_pickle=False) for _ in range(2))
            if time.time() - path.stat().st_mtime > NOTED_SECONDS:
                with suppress(OSError):  # a folder that may only be read: its images are as good
                    os.utime(path)
            return image, (int(own[0]), int(own[1]))
        return None

    def put(self, key: str, image: np.ndarray, own: HeightWidth) -> None:
        """Keep an image, if there is room for it. A disk that fails or is full keeps none, and harms no training."""
        file = io.BytesIO()
        np.save(file, np.array(own, np.int64), allow_pickle=False)
        np.save(file, image, allow_pickle=False)
        content, path = file.getvalue(), self._place(key)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with files.appending(path.parent / LOCK) as lock:
                # Who cannot have it now adds nothing, and waits for nobody
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._make_room(path.parent, DIGEST_BYTES + len(content)):
                    temporary = path.with_name(files.TEMPORARY + path.name)
                    temporary.write_bytes(hashlib.sha256(content).digest() + content)
                    temporary.replace(path)

    def _place(self, key: str) -> Path:
        return self.folder / f"{int(key[:8], 16) % NUM_PARTS:02d}" / key

    def _make_room(self, part: Path, needed: int) -> bool:
        """Return whether so many bytes fit into a part whose lock is held; remove what was left half, and what is old.
        """
        left, old = self.max_bytes // NUM_PARTS - needed, list[tuple[float, int, Path]]()
        for entry in list(os.scandir(part)):
            if entry.name == LOCK:
                continue
            if entry.name.startswith(files.TEMPORARY):  # of a process that was killed: it held the lock
                Path(entry.path).unlink()
                continue
            status = entry.stat()
            left -= status.st_size
            if time.time() - status.st_mtime > UNUSED_SECONDS:
                old.append((status.st_mtime, status.st_size, Path(entry.path)))
        for _, size, path in sorted(old):
            if left >= 0:
                break
            path.unlink()
            left += size
        return left >= 0


def library_versions() -> dict[str, str | None]:
    """Return the versions of all that decodes and resizes here; None for what is not there."""
    versions: dict[str, str | None] = {"cv2": cv2.__version__}  # of four packages, which give the same module
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions | {f"Pillow's {name}": features.version(name) for name in WITHIN_PILLOW}
