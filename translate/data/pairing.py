"""Finding images in folders, and which image of one folder belongs to which of another."""

from __future__ import annotations

import os
import string
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from translate.errors import RECIPE_PLACEHOLDER, DataError, visible
from translate.images.listing import find_images

NUM_NAMED = 20  # files that an error names before it says how many more there are


def list_images(folder: Path, pattern: str = "*") -> list[Path]:
    """Return the image files below `folder`, nested ones too, sorted.

    Left out are hidden files (macOS keeps notes under `._name`), what systems put there (`@eaDir`), and files whose
    names do not match `pattern`. Raises `ImageError` for a folder that cannot be read.
    """
    return [path for path in find_images(folder) if fnmatchcase(path.name, pattern)]


def named(folder: Path, files: Iterable[Path]) -> dict[str, list[Path]]:
    """Return files by what pairs them: their path below `folder` without the suffix. Two in a list are a clash."""
    names: dict[str, list[Path]] = {}
    for path in files:
        names.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
    return names


def match(names_a: Sequence[str], names_b: Sequence[str]) -> tuple[list[tuple[str, str]], list[str], list[str]]:
    """Return which name of A belongs to which of B: (pairs in the order of A, names only in A, names only in B).

    Equal names belong together. Where the two folders name their files differently (`0001_label`, `0001_photo`), what
    all names of a folder begin and end with is set aside first, if that leaves fewer without a partner.
    """
    plain = _equal(names_a, names_b)
    if not plain[1] and not plain[2]:
        return plain
    cores = _matched(_cores(names_a), _cores(names_b))
    return cores if len(cores[0]) > len(plain[0]) else plain


def shared_names(folder_a: Path, files_a: Sequence[Path], folder_b: Path, files_b: Sequence[Path],
                 alike: bool = False) -> tuple[list[tuple[Path, Path]], list[Path], list[Path]]:
    """Return (pairs of files of one name in the order of A, files of A alone, files of B alone).

    With `alike`, names pair as in `match`; else they must be equal. Raises `DataError` for two files of one name.
    """
    names_a, names_b = _once_each(folder_a, files_a), _once_each(folder_b, files_b)
    pair = match if alike else _equal
    pairs, only_a, only_b = pair(list(names_a), list(names_b))
    return ([(names_a[a], names_b[b]) for a, b in pairs], [names_a[name] for name in only_a],
            [names_b[name] for name in only_b])


def pair_files(folder_a: Path, files_a: Sequence[Path], folder_b: Path,
               files_b: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return two lists of equal length, in the order of A. Raises `DataError` unless every image has one partner."""
    pairs, only_a, only_b = shared_names(folder_a, files_a, folder_b, files_b, alike=True)
    if only_a or only_b:
        lonely = names_of([*only_a, *only_b])
        raise DataError(f"{len(only_a)} of {len(files_a)} and {len(only_b)} of {len(files_b)} images have no partner "
                        f"of the same name: {lonely}", f"{folder_a} and {folder_b}",
                        f"rename or remove them (`translate data check {RECIPE_PLACEHOLDER}` lists all of a recipe's)")
    return [a for a, _ in pairs], [b for _, b in pairs]


def names_of(files: Sequence[Path]) -> str:
    """Return the first of some files, as an error names them."""
    return ", ".join(map(visible, files[:NUM_NAMED])) + ", …" * (len(files) > NUM_NAMED)


def _once_each(folder: Path, files: Iterable[Path]) -> dict[str, Path]:
    """Return files by what pairs them. Raises `DataError` for two of one name."""
    names = named(folder, files)
    for clashing in names.values():
        if len(clashing) > 1:
            raise DataError("two images of one name, and pairs are found by name",
                            f"{clashing[0]} and {clashing[1].name}", "remove or rename one")
    return {name: paths[0] for name, paths in names.items()}


def _equal(names_a: Sequence[str], names_b: Sequence[str]) -> tuple[list[tuple[str, str]], list[str], list[str]]:
    return _matched({name: name for name in names_a}, {name: name for name in names_b})


def _matched(keys_a: dict[str, str], keys_b: dict[str, str]) -> tuple[list[tuple[str, str]], list[str], list[str]]:
    """Do as `match`; the keys give for each name what it is compared by. No two names of a folder share one."""
    partners = {key: name for name, key in keys_b.items()}
    pairs = [(name, partners[key]) for name, key in keys_a.items() if key in partners]
    taken_a, taken_b = {a for a, _ in pairs}, {b for _, b in pairs}
    return pairs, [name for name in keys_a if name not in taken_a], [name for name in keys_b if name not in taken_b]


def _cores(names: Sequence[str]) -> dict[str, str]:
    """Return for each name what is left of it without what all of them begin and end with.

    Digits stay: they number the images.
    """
    start = len(os.path.commonprefix(list(names)).rstrip(string.digits))  # noqa: RUF071 (characters are meant)
    rest = [name[start:] for name in names]
    end = len(os.path.commonprefix([name[::-1] for name in rest]).rstrip(string.digits))  # noqa: RUF071
    return {name: short[:len(short) - end] for name, short in zip(names, rest, strict=True)}
