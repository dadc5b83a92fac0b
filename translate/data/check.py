"""Reading every file of a data set before a training does, to say what is wrong with each."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from translate.data.check_pixels import PixelCount
from translate.data.duplicates import Pictures
from translate.data.headers import size_to_load
from translate.data.label_counts import LabelCounts
from translate.data.labels import Labelling, read_labels
from translate.data.layout import FOLDERS_OF, LayoutConfig
from translate.data.layouts import SidesConfig
from translate.data.pairing import match, named
from translate.data.passed_over import PassedOver
from translate.data.recognising import SPLITS, matched, recognise, train_sides, unknown_layout
from translate.data.scale import AS_TRAINED, Fitting, Scale, sides_in_words, sides_of
from translate.data.stream import hint_at_truth
from translate.data.transforms import check_loaded
from translate.errors import DataError, ImageError, TranslateError, visible
from translate.images.decoding import decode, inspect, read_content
from translate.images.listing import no_files_beside
from translate.images.reading import ImageConfig, fit
from translate.images.resampling import target_shape
from translate.sizes import plural

Severity = Literal["note", "warning", "error"]  # error: a training would stop at it, or learn something wrong


class Finding(NamedTuple):
    """What is wrong with a file or a folder, and what to do about it."""

    path: Path
    severity: Severity
    what: str
    advice: str | None = None

    @classmethod
    def of(cls, error: TranslateError, severity: Severity = "error") -> Finding:
        """Return an error as a finding."""
        return cls(Path(error.path or ""), severity, error.what, error.advice)


def check(data: LayoutConfig | Path, root: Path = Path(), crop: tuple[int, int] | None = None,
          progress: Callable[[int, int], None] | None = None, needs_test_images: bool = False,
          resize: int | None = None) -> list[Finding]:
    """Read every image of a data set, and return what was found, in the order of the folders.

    data: a recipe's data, or a folder; of a folder, the first finding is a note on which layout it is read as.
    root: the folder of prepared cards.
    crop: (height, width); smaller images are found as well.
    progress: is called with how many files of how many have been read.
    needs_test_images: missing test images are an error and not a note, as a training would stop at once
        (`Recipe.needs_test_images`).
    resize: the short side that the last stage of a training shows images at, px; None: as the data's config says.
    """
    if isinstance(data, LayoutConfig):
        places = [place.expanduser() for name in ("folder", "a", "b") if (place := getattr(data, name, None))]
        return [*_check_config(data, root, crop, progress, needs_test_images, resize), *_passed_over(places)]

    # A bare folder: what it seems to be.
    config = recognise(data)
    if config is None:
        return [Finding.of(unknown_layout(data))]
    config = config.model_copy(update={"resize": size_to_load(config, root)})
    loaded = "in their own size" if config.resize is None else f"at a short side of {config.resize} px"
    note = Finding(data, "note", f"read as kind: {config.kind}, "  # type: ignore[attr-defined]
                   f"{config.description()}; loaded {loaded}, as by the recipe that `translate new` writes",
                   "if it holds something else, write a recipe for it (`translate new FOLDER --kind …`) and check that")
    return [note, *_almost_paired(config), *_check_config(config, root, crop, progress), *_passed_over([data])]


def count_severities(findings: list[Finding]) -> dict[Severity, int]:
    """Return how many findings there are of each severity, the worst first."""
    return {severity: sum(finding.severity == severity for finding in findings)
            for severity in reversed(get_args(Severity))}


def _passed_over(places: list[Path]) -> Iterator[Finding]:
    """Yield a note on files that are read by nothing, where there are some; a card's own belong there."""
    if passed_over := PassedOver.below(*places):
        yield Finding(places[0], "note", f"passed over: {passed_over}", passed_over.advice)


def _almost_paired(config: LayoutConfig) -> Iterator[Finding]:
    """Yield the files without a partner of a folder whose trainA and trainB pair for the most part."""
    if config.paired or not isinstance(config, SidesConfig) or (folders := train_sides(config)) is None:
        return
    num_pairs, only_a, only_b = matched(folders)
    if num_pairs < max(len(only_a), len(only_b)):  # on one side, most have no partner: not meant as pairs
        return
    place = Path(os.path.commonpath(folders))
    name_a, name_b = (folder.relative_to(place) for folder in folders)
    yield Finding(place, "warning", f"{num_pairs} names of {name_a} are in {name_b} too, and "
                  f"{len(only_a + only_b)} have no partner: probably meant as pairs",
                  "if so, add their partners, or remove them")
    for lonely, other in ((only_a, name_b), (only_b, name_a)):
        yield from (Finding(path, "warning", f"has no partner in {visible(other)}") for path in lonely)


def _check_config(config: LayoutConfig, root: Path, crop: tuple[int, int] | None,
                  progress: Callable[[int, int], None] | None, needs_test_images: bool = False,
                  resize: int | None = None) -> Iterator[Finding]:
    """Yield the findings: how the files belong together, then of each file, then of the two files of a pair."""
    parts, findings = _parts(config, root, needs_test_images)
    yield from findings
    if config.protect is not None:
        try:
            config.build("train", root)
        except DataError as error:
            if not any(finding.what == error.what for finding in findings):
                yield Finding.of(error)

    # What is called an image and is none is left out of both.
    files = (path for part in parts.values() for pair in part for path, _ in pair)
    yield from (Finding(path, "error", "is a pipe, a socket or a device, and is left out", "remove it")
                for path in no_files_beside(files))

    # Read every file, and compare the sizes of a pair.
    met: set[tuple[int, int]] = set()
    loading = config.loading
    counts = {side: PixelCount(image, f"data.image_{side}")
              for side, image in (("a", loading.image_a), ("b", loading.image_b))}
    labels = {name: LabelCounts(config.labelling.names, config.labelling.ignore) for name in parts
              if config.labelling is not None}
    pictures = Pictures(FOLDERS_OF["test"])
    num_files, done = sum(len(pair) for part in parts.values() for pair in part), 0
    for name, pair in ((name, pair) for name, part in parts.items() for pair in part):
        sizes = []
        for path, side in pair:
            note = functools.partial(pictures.add, name, side, path)
            size, findings = _read_file(path, side, config, crop, counts, labels.get(name), note)
            yield from findings
            sizes.append(size)
            done += 1
            if progress:
                progress(done, num_files)
        known = [size for size in sizes if size is not None]
        met.update(known)
        if len(set(known)) > 1:
            sizes_differ = f"is {_size_text(known[0])}, and its partner {pair[1][0]} {_size_text(known[1])}"
            yield Finding(pair[0][0], "error", sizes_differ, "make both one size")

    # What only all images together tell: of their pixels, the same picture twice, of which classes label maps are.
    for count in counts.values():
        for file, severity, what, advice in count.said():
            yield Finding(file or config.place(root), severity, what, advice)
    yield from (Finding(config.place(root), "warning", *fault) for fault in pictures.faults())
    for name, found in labels.items():
        yield from count_findings(found, config.place(root), f"label maps of {name}: ", "data in the recipe",
                                  "error" if name in FOLDERS_OF["train"] else "warning")

    # Many sizes are no fault of unpaired images, but good to know.
    if not config.paired and len(met) > 1:
        short = resize or config.resize  # a stage's own comes first
        loaded = "at their own sizes" if short is None else f"at a short side of {short} px"
        smallest, largest = (choose(met, key=lambda size: (size[0] * size[1], size)) for choose in (min, max))
        yield Finding(_place_of_all(config, root), "note", f"holds images of {len(met)} sizes, A and B together, "
                      f"from {_size_text(smallest)} to {_size_text(largest)}", f"all are loaded {loaded}")

    # A network knows the scale that it is shown, and no other.
    fitting = Fitting(resize or config.resize, crop or (1, 1))
    if fitting.rescales(met):
        both = "" if config.paired else " of A and B"
        yield Finding(_place_of_all(config, root), "note", f"holds images{both} with {sides_in_words(sides_of(met))}, "
                      f"and a training shows them at {Scale.of(list(met), fitting)}: the network will know that scale, "
                      "and no other",
                      f"translate with `convert {AS_TRAINED}`; or " + (
                          "train at their own size, with resize: null and as large a resolution as fits"
                          if resize or config.resize else "use a smaller resolution: they are enlarged to the crops"))


def count_findings(counts: LabelCounts, path: Path, what: str, where: str, severity: Severity) -> Iterator[Finding]:
    """Yield what labels are of; where nothing can be learnt from them, that, as a finding of `severity`.

    path, what    where they lie, and what begins each line
    where         what in a recipe says how they are read
    """
    if not counts.num_labels:
        return
    yield Finding(path, "note", f"{what}{counts}")
    if (fault := counts.fault()) is not None:
        yield Finding(path, severity, f"{what}{fault}", counts.advice(where))
    for line in counts.warnings() if fault is None else ():
        yield Finding(path, "warning", f"{what}{line}")


Side = Literal["a", "b", "both"]
Pair = tuple[tuple[Path, Side], ...]


def _parts(config: LayoutConfig, root: Path, needs_test_images: bool) -> tuple[dict[str, list[Pair]], list[Finding]]:
    """Return, for each split, the files that are read together, and what is wrong with how they belong together."""
    parts: dict[str, list[Pair]] = {}
    findings: list[Finding] = []
    try:
        place = config.place(root)
    except DataError as error:
        return {}, [Finding.of(error)]

    # Find the files of every split; those without a partner are read as well.
    found: set[str] = set()  # the splits that exist, also those with faults
    for name in SPLITS:
        try:
            if isinstance(config, SidesConfig) and (folders := config.sides(name, root)) is not None:
                pairs, wrong = _sides(config, folders, config.paired or (
                    config.truth_is_known and name in FOLDERS_OF["test"]))
                parts[name] = pairs
                findings += wrong
                found.add(name)
            elif (samples := config.find(name, root)) is not None:
                parts[name] = _alone(list(samples.files_b), "both" if config.aligned else "b")
                found.add(name)
            elif name == "train":
                findings.append(Finding.of(config.lacks("train", root)))
        except DataError as error:
            findings.append(Finding.of(error))
            found.add(name)

    # Without test images a training goes on, unless its recipe wants scores.
    place = _place_of_all(config, root)
    if not found.intersection(FOLDERS_OF["test"]):
        expected = f"expected {config.expected('test')}"
        findings.append(Finding(place, "error", "holds no test images, and the recipe wants scores on them", expected)
                        if needs_test_images else
                        Finding(place, "note", "holds no test images, so a training has no scores, and shows pictures "
                                "of training images", expected))
    if hint := hint_at_truth(config, root):
        findings.append(Finding(place, "note", hint))
    return parts, findings


def _place_of_all(config: LayoutConfig, root: Path) -> Path:
    """Return the folder of all images of a data set: of two sides, what holds both where they lie beside each other."""
    place = config.place(root)
    if not isinstance(config, SidesConfig) or config.b is None:
        return place
    return place.parent if place.parent == config.b.expanduser().parent else place


def _sides(config: SidesConfig, folders: tuple[Path, Path],
           paired: bool) -> tuple[list[Pair], list[Finding]]:
    """Return the files of two folders, those that pair together and all others alone, and what does not pair."""
    files_a, files_b = config.files_of(folders)
    if not paired:
        return _alone(files_a, "a") + _alone(files_b, "b"), []

    # Files pair by name: two files of one name, and names without a partner, are errors.
    names_a, names_b = named(folders[0], files_a), named(folders[1], files_b)
    findings = [Finding(clash[1], "error", f"has the name of {visible(clash[0].name)}, and pairs are found by name",
                        "remove or rename one of them")
                for names in (names_a, names_b) for clash in names.values() if len(clash) > 1]
    pairs, only_a, only_b = match(list(names_a), list(names_b))
    for only, names, other in ((only_a, names_a, folders[1]), (only_b, names_b, folders[0])):
        findings += [Finding(names[name][0], "error", f"has no partner in {visible(other)}",
                             "add it there, or remove this one") for name in only]

    together: list[Pair] = [((names_a[a][0], "a"), (names_b[b][0], "b")) for a, b in pairs]
    alone_a, alone_b = [names_a[name][0] for name in only_a], [names_b[name][0] for name in only_b]
    return together + _alone(alone_a, "a") + _alone(alone_b, "b"), findings


def _alone(files: list[Path], side: Side) -> list[Pair]:
    return [((path, side),) for path in files]


def _read_file(path: Path, side: Side, config: LayoutConfig, crop: tuple[int, int] | None,
               counts: dict[str, PixelCount], labels: LabelCounts | None, note_pixels: Callable[[np.ndarray], None],
               ) -> tuple[tuple[int, int] | None, list[Finding]]:
    """Read one file as training would. Returns the (height, width) of an image in it (None of one that cannot be read),
    and findings. What an image is like is added to `counts` of its side, what a label map is of to `labels`, and
    `note_pixels` is shown an image as it is stored."""
    # Read it as each side it belongs to
    image_a, image_b = config.loading.image_a, config.loading.image_b
    try:
        if side == "a" and config.labelling is not None and labels is not None:
            return _read_label_map(path, config.labelling, labels)
        wanted = [image_a, image_b] if side == "both" else [image_a if side == "a" else image_b]
        picture = decode(read_content(path), path, stacked=wanted[0].pages is not None)
        note_pixels(picture.pixels)
        array = fit(picture, wanted[0]).pixels
        for other in wanted[1:]:
            fit(picture, other)
        counts["b" if side == "b" else "a"].look_at(picture)  # files of both sides are counted once
    except ImageError as error:
        return None, [Finding(path, "error", error.reason, "repair, replace or remove it" + (
            "" if config.loading.skips_unreadable else "; or data.on_unreadable: skip trains without it"))]

    # Compare what it is with what the recipe declares.
    findings = [finding for each in wanted for finding in _differs(path, each)][:1]
    findings += [Finding(path, "warning", note, "a training goes on without it") for note in picture.notes]
    height, width = array.shape[:2]
    if side == "both" and width % 2:
        findings.append(Finding(path, "error", f"is {width} pixels wide, an odd number, so it has no two equal halves",
                                "expected A beside B"))
    width = width // 2 if side == "both" else width
    try:
        check_loaded((height, width), target_shape((height, width), config.resize, crop or (1, 1)), path)
    except ImageError as error:
        return (height, width), [*findings, Finding(path, "error", error.reason)]
    if crop and (height < crop[0] or width < crop[1]):
        findings.append(Finding(path, "warning", f"is {_size_text((height, width))}, smaller than the crop of "
                                f"{_size_text(crop)}, so it is enlarged", "use larger images or a smaller resolution"))
    return (height, width), findings


def _read_label_map(path: Path, labelling: Labelling,
                    counts: LabelCounts) -> tuple[tuple[int, int], list[Finding]]:
    labels = read_labels(path)
    if fault := labelling.fault(labels):
        return labels.shape[:2], [Finding(path, "error", fault, "raise data.classes, set data.ignore, or say in "
                                                                "data.ids what the numbers are")]
    counts.add(labelling.classes_in(labelling.renumbered(labels)))
    return labels.shape[:2], []


def _differs(path: Path, wanted: ImageConfig) -> Iterator[Finding]:
    """Yield what reading an image as the recipe declares it changes without a word."""
    info = inspect(path)
    if info.format == "DICOM":  # whatever its bits, a window shows them
        return
    if wanted.pages is not None:
        info = replace(info, channels=info.channels * info.frames)
    advice = f"if all files are like this, declare it: channels: {info.channels}, bits: {info.bits}"
    if info.mode == "CMYK":
        yield Finding(path, "warning", "is CMYK, and is converted to sRGB (by its colour profile, where it has one)",
                      "convert it yourself to choose how")
    elif (info.channels, wanted.channels, info.bits) == (1, 3, wanted.bits):
        yield Finding(path, "note", "is grey, and is read as a colour image whose three channels are equal",
                      "nothing need be done, unless all images of its side are grey: then declare channels: 1")
    elif info.channels != wanted.channels:
        yield Finding(path, "warning", f"has {plural(info.channels, 'channel')} ({info.mode}); the "
                      f"recipe declares {wanted.channels}", advice)
    elif info.bits != wanted.bits and wanted.value_range is None:
        yield Finding(path, "warning", f"has {info.bits} bits a sample; the recipe declares {wanted.bits}", advice)


def _size_text(size: tuple[int, int]) -> str:
    return f"{size[1]}×{size[0]}"
