"""Putting an adapted set together: translations under the names of their sources, labels carried over byte for byte."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from translate import files
from translate.adapt.result_cache import first_changed
from translate.cards.cards import find_card
from translate.data.labelled import Labelled, LabelledConfig
from translate.data.labelled_layouts import METADATA, metadata_rows
from translate.errors import DataError, TranslateError, visible
from translate.foreign import SHA256, Shape, opened, read_lines
from translate.images.reading import ImageConfig
from translate.images.writing import suffix_for
from translate.recipe import Recipe
from translate.runs.release import Release

MANIFEST, CARD = "manifest.jsonl", "README.md"
STAGES_OF_READING = ("find", "read")  # of the converter: what fails there is the fault of the source image


def check_names(source: Labelled, image_out: ImageConfig) -> None:
    """Raise `DataError` for source files whose format cannot hold what the translator gives: names must stay."""
    wrong = [path for path in source.files if suffix_for(path.suffix, image_out) != path.suffix]
    if wrong:
        raise DataError(f"{wrong[0].suffix} cannot hold a translation ({image_out.channels} channels, bits: "
                        f"{image_out.bits}), and {len(wrong)} images would change their names, by which labels find "
                        "them", wrong[0], "store the source as .png")


class Row(Shape):
    """What every line of a `manifest.jsonl` has, and what some have."""

    status: Literal["kept", "rejected", "failed"]
    stage: str | None = None
    image: str = ""
    sha256: SHA256 | None = None
    label: str = ""
    label_sha256: SHA256 | None = None
    from_sha256: SHA256 | None = None
    source: str = Field(alias="from")


@dataclass(frozen=True)
class Translations:
    """What the converter has made of the source images, which are named by their paths below `source.images`."""

    folder: Path
    keys: Mapping[str, str | None]  # what each was made from, by the converter's ledger
    failed: Mapping[str, Mapping[str, str]]  # {stage, message} of each image without a translation

    @property
    def done(self) -> list[int]:
        """The numbers of the source images that have a translation."""
        return [number for number, name in enumerate(self.keys) if name not in self.failed]


def assemble(recipe: Recipe, source: Labelled, made: Translations, final: Path, release: Release,
             changed: Mapping[str, float], rejected: Collection[str], notes: Sequence[str]) -> None:
    """Replace the folder `final` by the adapted set, in one step. Raises `DiskError`.

    made       the translations, from the translator `release`
    changed    of each translation, the share that the judge has changed its opinion of
    rejected   the names of those that do not belong to the set
    notes      lines for the card
    """
    building = final.with_name(f"{files.TEMPORARY}{final.name}")
    images = source.images.relative_to(source.folder)
    with files.as_disk_errors(final):
        files.remove_folder(building)
        building.mkdir(parents=True)

        # A row for every source image; what is kept gets its translation and its label map.
        rows = []
        for path, label in zip(source.files, source.labels, strict=True):
            name = path.relative_to(source.images).as_posix()
            row: dict[str, Any] = {"from": (images / name).as_posix(), "from_sha256": files.checksum(path),
                                   "key": made.keys.get(name)}
            if isinstance(label, Path):
                row |= {"label": label.relative_to(source.folder).as_posix(), "label_sha256": files.checksum(label)}
            else:
                row["class"] = recipe.adapt.source.class_names[label] if recipe.adapt else label
            if name in made.failed:
                rows.append(row | {"status": "failed", **made.failed[name]})
                continue
            row |= {"status": "rejected" if name in rejected else "kept", "changed": round(changed[name], 6)}
            if name not in rejected:
                link(made.folder / name, building / images / name)
                row |= {"image": (images / name).as_posix(), "sha256": files.checksum(made.folder / name)}
                if isinstance(label, Path):
                    row["label_sha256"] = carry(label, building / row["label"])
            rows.append(row)

        # Where one file says all classes, its lines about what is kept are carried over.
        if source.metadata is not None:
            kept = {row["from"] for row in rows if row["status"] == "kept"}
            content = lines_about(source.metadata, {Path(each).relative_to(images).as_posix() for each in kept})
            files.write_bytes(building / images / METADATA, content)
            carried = {"label": (images / METADATA).as_posix(), "label_sha256": hashlib.sha256(content).hexdigest()}
            rows = [row | carried if row["from"] in kept else row for row in rows]

        # The manifest, the card, and at last the name.
        rows.sort(key=lambda row: row["from"])
        lines = "".join(json.dumps(row, ensure_ascii=True, sort_keys=True) + "\n" for row in rows)
        files.write_bytes(building / MANIFEST, lines.encode())
        counts = Counter(row["status"] for row in rows)
        files.write_bytes(building / CARD, describe(recipe, release, counts, notes).encode())
        files.exchange_folder(building, final)


def link(there: Path, here: Path) -> None:
    """Give a file a second name, or copy it where the disk has no links.

    Copies would double what a set of 60 GB takes. With a link, who edits the set edits the translation it was made from
    as well; the checksum in the converter's ledger tells.
    """
    here.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(there, here)
    except OSError:
        files.copy(there, here)


def carry(label: Path, here: Path) -> str:
    """Copy a file of labels, whatever it holds; return the SHA-256 of what was written."""
    with opened(label) as file:
        content = file.read()
    here.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(here, content)
    return hashlib.sha256(content).hexdigest()


def lines_about(metadata: Path, names: Collection[str]) -> bytes:
    """Return the lines of a `metadata.jsonl` about these images, each as it is."""
    wanted = {number for number, name, _ in metadata_rows(metadata) if name in names}
    everything = metadata.read_bytes().splitlines(keepends=True)
    if len(wanted) == sum(bool(line.strip()) for line in everything):
        return metadata.read_bytes()
    return b"".join(line for number, line in enumerate(everything, 1) if number in wanted)


def manifest_hash(folder: Path) -> str | None:
    """Return the hash of a set, which its manifest is checked by; None where there is none."""
    return files.checksum(folder / MANIFEST)


def damage(folder: Path, layout: LabelledConfig, expected: str | None) -> str | None:
    """Return which file of a set is missing, added or changed; None where the set is as it was made.

    Its manifest says how it was made, and `expected` is the manifest's own hash.
    """
    rows = [row for row in read_lines(folder / MANIFEST, Row) if row["status"] == "kept" and "image" in row]
    written = ((folder / row[file], row[sha256]) for row in rows
               for file, sha256 in (("image", "sha256"), ("label", "label_sha256")) if file in row and sha256 in row)
    changed = first_changed([(folder / MANIFEST, expected or "")]) or first_changed(written)
    if changed is not None:
        return f"{visible(changed)} is missing, or is not the one that was written"
    try:
        found = layout.model_copy(update={"card": None, "folder": folder, "exclude": ()}).find("train", folder)
    except DataError as error:
        return str(error)
    added = {path.relative_to(folder).as_posix() for path in found.files} - {row["image"] for row in rows}
    return f"{visible(folder / min(added))} is no image of the set" if added else None


def change_of_source(folder: Path, layout: LabelledConfig, source: Labelled) -> str | None:
    """Return what has changed in the source since a set, which is whole, was made from it; None where nothing has."""
    rows = {row["from"]: row for row in read_lines(folder / MANIFEST, Row)}
    now = {path.relative_to(source.folder).as_posix(): label
           for path, label in zip(source.files, source.labels, strict=True)}
    for names, what in ((rows.keys() - now.keys(), "is not there any more"), (now.keys() - rows.keys(), "is new")):
        if names:
            return f"{visible(source.folder / min(names))} {what}"
    for name, label in now.items():
        row = rows[name]
        if first_changed([(source.folder / name, row.get("from_sha256"))]):
            return f"{visible(source.folder / name)} is not the image that it was"
        if isinstance(label, Path) and first_changed([(label, row.get("label_sha256"))]):
            return f"{visible(label)} is not the label map that it was"
        if not isinstance(label, Path) and row.get("class") != layout.class_names[label]:
            return (f"{visible(source.folder / name)} was of class {visible(row.get('class'))} and is now of "
                    f"{layout.class_names[label]}")
    return None


def describe(recipe: Recipe, release: Release, counts: Mapping[str, int], notes: Sequence[str]) -> str:
    """Return the card of an adapted set. It holds nothing that changes from one day to another."""
    assert recipe.adapt is not None
    source, origin = recipe.adapt.source, recipe.adapt.source.card or "a folder"

    # Where it comes from.
    model = f"{release.name}, {release.direction}, fingerprint `{release.fingerprint[:16]}`"
    licences = {}
    for side, card in (("source", source.card), ("target", recipe.adapt.target.card)):
        licences[side] = "that of its images"
        with suppress(TranslateError):
            licences[side] = find_card(card).licence if card else licences[side]

    return "\n".join([
        "---", f"pretty_name: {recipe.name}, adapted", "license: other",
        "tags: [diptych, domain-adaptation, synthetic]", "---", "", f"# {recipe.name}, adapted", "",
        f"{counts['kept']:,} labelled images in the layout `{source.kind}`, made from those of {origin} by a "
        "translator towards the target; labels are the source's own files and names, byte for byte. "
        f"{counts['rejected']:,} were rejected and {counts['failed']:,} could not be translated: `{MANIFEST}` has a "
        "row for every source image, with what became of it and what it was made from.", "",
        f"- Model: {model} (Diptych {version('diptych')})",
        f"- Licence of the source: {licences['source']}", f"- Licence of the target: {licences['target']}",
        "- What a model learns from these images is only as right as their labels: see `preservation.json` beside "
        "this folder.", *(f"- {note}" for note in notes), "",
        "Recipe:", "", "```yaml", recipe.dump_yaml().rstrip(), "```", ""])
