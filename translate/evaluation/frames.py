"""The frames of a film, translated one by one: how much they flicker beside their inputs."""

from __future__ import annotations

import re
from pathlib import Path

from translate.data.pairing import shared_names
from translate.errors import DataError, NoData
from translate.evaluation.folder_images import FolderImages, doubts, list_folder
from translate.evaluation.results import OnProgress, Results
from translate.images.values import Range
from translate.metrics.flicker import Film


def in_order(frame: Path) -> list[tuple[int, str]]:
    """Return what frames are sorted by: numbers in their names count as numbers, so 9 comes before 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(frame))]


def evaluate_frames(folder: Path, source: Path, *, low_high: Range | None = None,
                    on_progress: OnProgress = lambda done, total: None) -> Results:
    """Score the frames below `folder`, in the order of their names, beside those of `source` that they were made from.

    low_high     the values of all files that stand for black and white; None: all of their type
    on_progress  called with the number of frames looked at, and of all there are

    Raises `DataError` where a frame has no source of its name or another size, `NoData` for fewer than two frames,
    `ImageError`.
    """
    pairs, lonely, _ = shared_names(folder, list_folder(folder), source, list_folder(source), alike=True)
    pairs = sorted(pairs, key=lambda pair: in_order(pair[0]))
    if lonely:
        raise DataError(f"{len(lonely)} of its frames have no source of their name in {source}, such as "
                        f"{lonely[0].name}", folder)
    if len(pairs) < 2:
        raise NoData(f"holds {len(pairs)} frames, and neighbours are compared", folder)

    compared = {place: FolderImages(paths, None, low_high) for place, paths in
                ((folder, [frame for frame, _ in pairs]), (source, [origin for _, origin in pairs]))}
    film, frames, origins = Film(), compared[folder].images, compared[source].images
    shape = None
    for number, (path, _) in enumerate(pairs):
        frame, origin = frames.read(number), origins.read(number)
        shape = frame.shape[1:] if shape is None else shape
        if not frame.shape[1:] == origin.shape[1:] == shape:
            raise DataError(f"is {frame.shape[2]}×{frame.shape[1]} px, its source {origin.shape[2]}×{origin.shape[1]}, "
                            f"and the first frame {shape[1]}×{shape[0]}: frames of a film have one size", path)
        film.add(frame, origin)
        on_progress(number + 1, len(pairs))
    return Results({"what": str(folder), "against": str(source), "direction": None, "weights": None,
                    "num_images": len(pairs), "num_reals": 0, "num_sources": len(pairs), "paired": True,
                    "features": [], "counted": f"{len(pairs)} frames in the order of their names",
                    "floor_is": "steady, of that contrast"},
                   {"flicker": film.score}, floor={"flicker": film.floor}, missing=list(doubts(compared)))
