"""Whether the images of a folder lie on those that they were made from, whatever tool has made them.

A network that works pixel by pixel leaves everything in its place. Tools that draw anew shift, zoom and bend.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from translate.data.pairing import shared_names
from translate.errors import DataError, visible
from translate.evaluation.folder_images import FolderImages, doubts, list_folder
from translate.evaluation.results import OnProgress, Results
from translate.images.values import Range
from translate.metrics.alignment import Alignment, align
from translate.metrics.diversity import resized
from translate.metrics.intervals import mean

MOST_ALIGNED = 16  # pairs that are measured, evenly spread: each takes about a second
NUM_WORST = 3  # that are named
OFF = 0.5  # px beyond which an image is named


def evaluate_alignment(folder: Path, source: Path, *, most: int | None = None, low_high: Range | None = None,
                       on_progress: OnProgress = lambda done, total: None) -> Results:
    """Measure how the images below `folder` lie on those below `source`, which they were made from.

    most         measure at most so many pairs, evenly spaced; None: `MOST_ALIGNED`
    low_high     the values of all files that stand for black and white; None: all of their type
    on_progress  called with the number of pairs measured, and of all there are

    An image of another size than its source is compared with the source at its size. Raises `DataError` where no names
    pair, `ImageError`.
    """
    pairs, _, _ = shared_names(folder, list_folder(folder), source, list_folder(source), alike=True)
    if not pairs:
        raise DataError(f"none of its images has the name of one in {source}", folder)
    number = MOST_ALIGNED if most is None else most
    compared = {place: FolderImages(paths, number, low_high) for place, paths in (
        (folder, [made for made, _ in pairs]), (source, [origin for _, origin in pairs]))}
    images, origins = compared[folder].images, compared[source].images

    # Each beside its source, and that beside itself: the least that can be told
    measured: list[tuple[Path, Alignment]] = []
    floors: list[Alignment] = []
    num_resized = 0
    for index, path in enumerate(images.paths):
        image, origin = images.read(index), origins.read(index)
        num_resized += image.shape[1:] != origin.shape[1:]
        origin = resized(origin, (image.shape[1], image.shape[2]))
        measured.append((path, align(origin, image)))
        if measured[-1][1].confident:
            floors.append(align(origin, origin))
        on_progress(index + 1, images.num)

    sure = [(path, found) for path, found in measured if found.confident]
    results = Results({"what": str(folder), "against": str(source), "direction": None, "weights": None,
                       "num_images": len(sure), "num_reals": 0, "num_sources": len(measured), "paired": True,
                       "features": [], "floor_is": "source on itself",
                       "counted": f"{len(sure)} of {len(measured)} images that can be measured, each on its source"},
                      {}, missing=[*_unmeasured(measured), *doubts(compared)],
                      notes=_notes(measured, sure, num_resized, len(pairs)))
    if sure:
        for name in ("displacement", "warp"):
            known = [value for _, found in sure if (value := getattr(found, name)) is not None]
            if known:
                results.scores[name] = mean(known)
                results.floor[name] = mean([getattr(found, name) or 0.0 for found in floors])
    return results


def add_alignment(results: Results, folder: Path, source: Path, most: int | None = None,
                  low_high: Range | None = None, on_progress: OnProgress = lambda done, total: None) -> None:
    """Add to the scores of a folder how its images lie on their sources; a line that says why, where that is not known.
    """
    try:
        found = evaluate_alignment(folder, source, most=most, low_high=low_high, on_progress=on_progress)
    except DataError as error:
        results.missing.append(f"alignment with the sources: {error}")
        return
    results.scores |= found.scores
    results.floor |= found.floor
    results.missing += found.missing
    results.notes += found.notes


def _notes(measured: Sequence[tuple[Path, Alignment]], sure: Sequence[tuple[Path, Alignment]], num_resized: int,
           num_pairs: int) -> list[str]:
    """Return in words which images are off the furthest, and what was measured otherwise than as they are."""
    worst = sorted(sure, key=lambda each: -(each[1].displacement or 0) - (each[1].warp or 0))[:NUM_WORST]
    notes = [f"alignment: {visible(path.name)} is off by {_in_words(found)}" for path, found in worst
             if (found.displacement or 0) + (found.warp or 0) > OFF]
    if of_sensors := sum(found.scale is None for _, found in sure):
        notes.append(f"alignment: {of_sensors} of {len(measured)} images lie on their sources as between two sensors, "
                     "of which only the shift can be told, to about a pixel")
    if num_resized:
        notes.append(f"alignment: {num_resized} images have another size than their sources, and were compared with "
                     "them at that size")
    if len(measured) < num_pairs:
        notes.append(f"alignment: {len(measured)} of {num_pairs} pairs were measured, evenly spread; --images N "
                     "measures more")
    return notes


def _unmeasured(measured: Sequence[tuple[Path, Alignment]]) -> list[str]:
    """Return in words of how many images it cannot be told how they lie, and why."""
    reasons = Counter(found.reason.split(" of ")[0].split(" by ")[0] for _, found in measured if not found.confident)
    return [f"alignment of {number} of {len(measured)} images: {reason}" for reason, number in reasons.most_common()]


def _in_words(found: Alignment) -> str:
    assert found.shift is not None
    right, down = found.shift
    if found.scale is None or found.rotation is None:
        return f"about {right:+.1f} px to the right, {down:+.1f} px down"
    return (f"{right:+.2f} px to the right, {down:+.2f} px down, {100 * (found.scale - 1):+.2f} % larger, "
            f"{found.rotation:+.2f}° clockwise, and {found.warp:.2f} px of warp")
