"""What a bare folder seems to hold: the layout that a recipe would name for it, guessed by names and a few files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

from translate.data.conditioned import ImagesConfig
from translate.data.labels import VOID, read_labels
from translate.data.layout import FOLDERS_OF, LayoutConfig
from translate.data.layouts import (
    ComputedConfig,
    LabelsConfig,
    PairedConfig,
    SidesConfig,
    UnpairedConfig,
)
from translate.data.pairing import list_images, match, named, names_of
from translate.data.passed_over import PassedOver
from translate.data.samples import Samples
from translate.errors import DataError, ImageError, NoData, visible
from translate.images.decoding import inspect
from translate.images.listing import is_aside
from translate.missing import no_images

Kind = Literal["unpaired", "paired", "labels", "computed", "images"]

NEARLY_ALL = 0.75  # of the names of two folders: where so many pair, some lack a partner, or none is meant to have one
SPLITS = FOLDERS_OF["train"] + FOLDERS_OF["test"]
NUM_SAMPLE_FILES = 20  # of a folder, to recognise its layout by


def recognise(folder: Path) -> LayoutConfig | None:
    """Return the layout that a folder seems to have; None where no known place in it holds images."""
    if not folder.is_dir():
        return None

    # Two folders of images, or of label maps and images, in one of the ways in which layouts know them.
    for sides in (UnpairedConfig(folder=folder), LabelsConfig(folder=folder, classes=2)):
        found: SidesConfig = sides
        if (folders := train_sides(found)) is not None:
            return _of_sides(found, folders, {"folder": folder})
    has_train = (folder / "train").is_dir()
    if has_train and all(width == 2 * height for width, height in _sizes(list_images(folder / "train"))):
        return PairedConfig(folder=folder)
    if _fault_of_splits(folder) is not None:
        return None
    if (where := _two_domains(folder)) is not None:
        return _of_sides(UnpairedConfig(folder=folder), (where["a"], where["b"]), where)
    images_are_one_set = has_train or (list_images(folder) and not splits_further_down(folder))
    return ComputedConfig(folder=folder) if images_are_one_set else None


def unknown_layout(folder: Path) -> DataError:
    """Return the error of a folder of which `recognise` makes nothing."""
    inside = splits_further_down(folder) if folder.is_dir() else []
    if inside:
        return DataError(f"has splits further down alone, in {names_of(inside)}", folder, "take one of these folders, "
                         "or a recipe that says which is which: a, b, test_a, test_b")
    if folder.is_dir() and (fault := _fault_of_splits(folder)) is not None:
        return fault
    if folder.is_dir() and not list_images(folder) and (passed_over := PassedOver.below(folder)):
        return DataError(f"holds no images that are read, but {passed_over}", folder, passed_over.advice)
    return DataError("holds no images in a layout that is known", folder,
                     "expected trainA and trainB (or A/train and B/train, or train/A and train/B), train (A beside "
                     "B), train_label and train_img, two folders of images, or photographs")


def read_as(folder: Path, kind: Kind | None) -> LayoutConfig:
    """Return the layout that a folder seems to have or, where it could be one, the layout of a `kind`.

    Raises `DataError` for a folder that has none, or cannot be of that kind.
    """
    if not folder.is_dir():
        raise NoData("is a file, and a folder of images is needed", folder) if folder.exists() else no_images(folder)
    if kind in ("computed", "images") and list_images(folder):
        return ImagesConfig(folder=folder) if kind == "images" else ComputedConfig(folder=folder)
    found = recognise(folder)
    if found is None:
        raise unknown_layout(folder)
    if kind in (None, found.kind):  # type: ignore[attr-defined]
        return found

    # Another reading of two folders, or of files that may be halves.
    sides = train_sides(found) if isinstance(found, SidesConfig) else None
    if sides is None and kind == "paired" and (folder / "train").is_dir():
        return PairedConfig(folder=folder)
    if sides is None:
        raise DataError(f"is no data of kind {kind}: that takes two folders of images", folder,
                        "name them trainA and trainB (and testA, testB for those held out)")
    where = {"a": sides[0], "b": sides[1]}
    tests = (found.sides(test, Path()) for test in FOLDERS_OF["test"])  # type: ignore[attr-defined]
    if (test := next((each for each in tests if each is not None), None)) is not None:
        where |= {"test_a": test[0], "test_b": test[1]}
    if kind == "labels":
        return LabelsConfig(**where, classes=_guessed_classes(sides[0]))
    return PairedConfig(**where) if kind == "paired" else UnpairedConfig(**where)


def refuse_unclear(layout: LayoutConfig, folder: Path) -> None:
    """Raise `DataError` for a folder that may well be meant otherwise than `read_as` takes it, and ask which it is."""
    # Pairs of which some lack a partner, or two sets that number alike.
    if isinstance(layout, SidesConfig) and not layout.paired and (folders := train_sides(layout)) is not None:
        num_pairs, only_a, only_b = matched(folders)
        lonely = [path.relative_to(folder) if path.is_relative_to(folder) else path for path in (*only_a, *only_b)]
        if lonely and num_pairs >= NEARLY_ALL * (num_pairs + len(lonely)):
            none, it = ("has no partner", "it") if len(lonely) == 1 else ("have no partner", "them")
            raise DataError(f"{num_pairs} of {num_pairs + len(lonely)} names pair; {names_of(lonely)} {none}", folder,
                            f"remove {it}, or use --kind unpaired")

    # Several folders, and nothing beside them: two sides and a third, or one set.
    if layout.otherwise and not (folder / "train").is_dir():
        places = [path.relative_to(folder) for path in list_images(folder)]
        inside = sorted({place.parts[0] for place in places})
        if len(inside) > 2 and all(len(place.parts) > 1 for place in places):
            raise DataError(f"holds {len(inside)} folders of images: {names_of(list(map(Path, inside)))}", folder,
                            "call the two that are A and B trainA and trainB, and those of held-out images testA and "
                            "testB; or, if all are one set: --kind computed or --kind images")


def how_read(layout: LayoutConfig, samples: Samples) -> list[str]:
    """Return what `read_as` took a folder for, and what to do where something else was meant; a line or none."""
    if not layout.paired or layout.labelling is not None or samples.files_a == samples.files_b:
        classes = _classes_of_train(layout)
        return [*classes, *([layout.otherwise] if layout.otherwise else [])]
    a, b = samples.files_a[0], samples.files_b[0]
    why = "every name is in both folders" if a.stem == b.stem else (
        f"the names of both folders number alike, such as {visible(a.name)} and {visible(b.name)}")
    return [f"read as pairs, as {why}; if they show different things, and only number alike: --kind unpaired"]


def _classes_of_train(layout: LayoutConfig) -> list[str]:
    """Return what to say of two folders in `train`, not named A and B: photographs are often kept so, by class."""
    if not isinstance(layout, SidesConfig) or layout.labelling is not None or layout.a is None or layout.b is None:
        return []
    a, b = layout.a, layout.b
    are_named = {a.name.lower(), b.name.lower()} == {"a", "b"}
    if are_named or a.parent != b.parent or a.parent.name not in FOLDERS_OF["train"]:
        return []
    return [f"read as two sides, {visible(a.name)} and {visible(b.name)}, each to be made to look like the other; if "
            "they are classes of one set of photographs: --kind computed or --kind images"]


def splits_further_down(folder: Path) -> list[Path]:
    """Return the folders, below one that has no splits itself, that have some: all of its images are not one set."""
    return sorted({path.parent for path in folder.glob("*/**/") if path.name in SPLITS
                   and not any(map(is_aside, path.relative_to(folder).parts))} - {folder})


def _two_domains(folder: Path) -> dict[str, Path] | None:
    """Return what a recipe says of a folder with two folders in it, of A and B, each with its splits or without.

    Folders of any names are those, in the order of their names, where all images of the folder lie in them, but for
    those held out in its `test`. Both may lie in its `train`.
    """
    home, inside = _sides_in(folder)
    if len(inside) != 2:
        return None
    for train in FOLDERS_OF["train"]:
        if all((path / train).is_dir() for path in inside):
            where = {"a": inside[0] / train, "b": inside[1] / train}
            tests = (test for test in FOLDERS_OF["test"] if all((path / test).is_dir() for path in inside))
            test = next(tests, None)
            return where | ({"test_a": inside[0] / test, "test_b": inside[1] / test} if test is not None else {})
    where = {"a": inside[0], "b": inside[1]}
    held_out = [folder / test for test in FOLDERS_OF["test"] if (folder / test).is_dir()]
    if held_out:
        where |= {"test_a": held_out[0] / inside[0].name, "test_b": held_out[0] / inside[1].name}
    if [path.name.lower() for path in inside] == ["a", "b"]:
        return where
    names = tuple(name for split in FOLDERS_OF.values() for name in split)
    is_split = any(path.name.lower().startswith(names) for path in inside) or splits_further_down(folder)
    images_in = [len(list_images(path)) for path in inside]
    num_held_out = sum(len(list_images(test)) for test in held_out if home == folder)
    if is_split or not all(images_in) or sum(images_in) + num_held_out < len(list_images(home)):
        return None
    return where


def _sides_in(folder: Path) -> tuple[Path, list[Path]]:
    """Return where the folders lie that may be A and B, and these, sorted: in `folder` or else in its `train`."""
    for home in (folder, folder / "train"):
        inside = sorted(path for path in home.iterdir() if path.is_dir() and not is_aside(path.name)
                        and (home != folder or path.name not in SPLITS)) if home.is_dir() else []
        if inside:
            return home, inside
    return folder, []


def _fault_of_splits(folder: Path) -> DataError | None:
    """Return the error of a train, test or val with other folders beside it to which it cannot belong; or None."""
    home, sides = _sides_in(folder)
    sides = [side for side in sides if list_images(side)]
    if not sides or splits_further_down(folder):
        return None

    # Images to be trained on in two places
    if home == folder and (folder / "train").is_dir():
        beside = names_of([side.relative_to(folder) for side in sides])
        return DataError(f"holds train, and images in {beside} beside it: it is not clear which are to be trained on",
                         folder, "put these folders into train, or elsewhere")

    # Two sides, and held-out images of one of them, or of neither
    tests = [Path(test) for test in FOLDERS_OF["test"] if (folder / test).is_dir()]
    lacking = [test / side.name for test in tests for side in sides
               if not (folder / test / side.name).is_dir() or not list_images(folder / test / side.name)]
    if len(sides) == 2 and lacking:
        a, b = (visible(side.relative_to(folder)) for side in sides)
        return DataError(f"holds the two sides {a} and {b}, and beside them {names_of(tests)}, where images held out "
                         f"are to lie in folders of the same names: there are none in {names_of(lacking)}", folder,
                         f"put some there, or take {names_of(tests)} out of this folder")
    return None


def train_sides(config: SidesConfig) -> tuple[Path, Path] | None:
    """Return the folders of both sides for training; None where there are not both."""
    with suppress(DataError):
        return config.sides("train", Path())
    return None


def matched(folders: tuple[Path, Path]) -> tuple[int, list[Path], list[Path]]:
    """Return how many names of two folders pair, and the files of each that have no partner."""
    a, b = (named(side, list_images(side)) for side in folders)
    pairs, only_a, only_b = match(list(a), list(b))
    return len(pairs), [a[name][0] for name in only_a], [b[name][0] for name in only_b]


def _of_sides(config: SidesConfig, folders: tuple[Path, Path], where: dict[str, Path]) -> LayoutConfig:
    """Return what two folders hold, that `where` names in a recipe: label maps, pairs, or what does not all pair."""
    if config.labelling is not None:
        return LabelsConfig(**where, classes=_guessed_classes(folders[0]))
    _, only_a, only_b = matched(folders)
    return UnpairedConfig(**where) if only_a or only_b else PairedConfig(**where)


def _guessed_classes(folder: Path) -> int:
    """Return one more than the largest number in some label maps, without the 255 of 8 bits, which is ignored."""
    largest = 1
    for path in list_images(folder)[:NUM_SAMPLE_FILES]:
        try:
            numbers = read_labels(path)
        except ImageError:
            continue  # the check reads every file and reports it
        counted = numbers if numbers.dtype.itemsize > 1 else numbers[numbers != VOID]
        largest = max(largest, int(counted.max(initial=1)))
    return largest + 1


def _sizes(files: list[Path]) -> Iterator[tuple[int, int]]:
    for path in files[:NUM_SAMPLE_FILES]:
        try:
            info = inspect(path)
        except ImageError:
            continue
        yield info.width, info.height
