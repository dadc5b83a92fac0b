"""Putting an adapted set together: translations under the names of their sources, labels carried over byte for byte."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from translate import files
from translate.cards.cards import find_card
from translate.data.labelled import METADATA, Labelled, LabelledConfig, metadata_rows
from translate.errors import DataError, TranslateError
from translate.images.reading import ImageConfig
from translate.images.writing import suffix_for
from translate.recipe import Recipe
from translate.runs.release import Release

MANIFEST, CARD = "manifest.jsonl", "README.md"


def check_names(source: Labelled, image_out: ImageConfig) -> None:
    """Raise `DataError` for source files whose format cannot hold what the translator gives: names must stay."""
    wrong = [path for path in source.files if suffix_for(path.suffix, image_out) != path.suffix]
    if wrong:
        raise DataError(f"{wrong[0]}: {wrong[0].suffix} cannot hold a translation ({image_out.channels} channels, "
                        f"bits: {image_out.bits}), and {len(wrong)} images would change their names, by which labels "
                        "find them; store the source as .png")


def assemble(recipe: Recipe, source: Labelled, staged: Path, final: Path, release: Release,
             changed: Mapping[str, float], rejected: Collection[str], failed: Mapping[str, Mapping[str, str]],
             keys: Mapping[str, str | None], notes: Sequence[str]) -> dict[str, int]:
    """Replace `final` by the set. Returns how many images were kept, rejected and failed; together, all of them.

    Images are named below `source.images`. `changed` are the shares that the judge has changed its opinion of, `failed`
    the stage and the message of each failure, `keys` what each translation was made from, `notes` lines for the card.
    Raises `DiskError`.
    """
    building = final.with_name(f"{files.TEMPORARY}{final.name}")
    images = source.images.relative_to(source.folder)
    rows = []
    with files.naming_disk_faults(final):
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        for path, label in zip(source.files, source.labels, strict=True):
            name = path.relative_to(source.images).as_posix()
            row: dict[str, Any] = {"from": (images / name).as_posix(), "from_sha256": files.checksum(path),
                                   "key": keys.get(name)}
            if isinstance(label, Path):
                row |= {"label": label.relative_to(source.folder).as_posix(), "label_sha256": files.checksum(label)}
            else:
                row["class"] = recipe.adapt.source.class_names[label] if recipe.adapt else label
            if name in failed:
                rows.append(row | {"status": "failed", **failed[name]})
                continue
            row |= {"status": "rejected" if name in rejected else "kept", "changed": round(changed[name], 6)}
            if name not in rejected:
                link(staged / name, building / images / name)
                row |= {"image": (images / name).as_posix(), "sha256": files.checksum(staged / name)}
                if isinstance(label, Path):
                    row["label_sha256"] = carry(label, building / row["label"])
            rows.append(row)
        kept = {row["from"] for row in rows if row["status"] == "kept"}
        if source.metadata is not None:
            content = rows_of(source.metadata, {Path(each).relative_to(images).as_posix() for each in kept})
            files.write_bytes(building / images / METADATA, content)
            carried = {"label": (images / METADATA).as_posix(), "label_sha256": hashlib.sha256(content).hexdigest()}
            rows = [row | carried if row["from"] in kept else row for row in rows]
        rows.sort(key=lambda row: row["from"])
        lines = "".join(json.dumps(row, ensure_ascii=True, sort_keys=True) + "\n" for row in rows)
        files.write_bytes(building / MANIFEST, lines.encode())
        counts = {status: sum(row["status"] == status for row in rows) for status in ("kept", "rejected", "failed")}
        files.write_bytes(building / CARD, describe(recipe, release, counts, notes).encode())
        files.exchange_folder(building, final)
    return counts


def link(there: Path, here: Path) -> None:
    """One more name for a file, or a copy of it where the disk has no links.

    No copy, which would double what a set of 60 GB takes: who edits the set edits the staged file with it, and the
    checksum in the converter's ledger, which neither of them is part of, tells.
    """
    here.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(there, here)
    except OSError:
        shutil.copyfile(there, here)


def carry(label: Path, here: Path) -> str:
    """Copy a file of labels, whatever it holds; returns the SHA-256 of what was written."""
    content = label.read_bytes()
    here.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(here, content)
    return hashlib.sha256(content).hexdigest()


def rows_of(metadata: Path, names: Collection[str]) -> bytes:
    """The lines of a `metadata.jsonl` about these images, each as it is."""
    wanted = {number for number, name, _ in metadata_rows(metadata) if name in names}
    everything = metadata.read_bytes().splitlines(keepends=True)
    if len(wanted) == sum(bool(line.strip()) for line in everything):
        return metadata.read_bytes()
    return b"".join(line for number, line in enumerate(everything, 1) if number in wanted)


def manifest_hash(folder: Path) -> str | None:
    """The hash of a set, which its manifest is checked by; None where there is none."""
    return files.checksum(folder / MANIFEST)


def damage(folder: Path, layout: LabelledConfig, expected: str | None) -> str | None:
    """What of a set is missing or other than it was made, by its manifest, whose own hash is `expected`; else None."""
    if not (folder / MANIFEST).is_file() or manifest_hash(folder) != expected:
        return f"{folder / MANIFEST} is missing, or is not the one that was written"
    kept = [row for row in files.read_lines(folder / MANIFEST) if row["status"] == "kept"]
    for row in kept:
        for file, digest in (("image", "sha256"), ("label", "label_sha256")):
            if file in row and files.checksum(folder / row[file]) != row[digest]:
                return f"{folder / row[file]} is missing, or is not the one that was written"
    try:
        found = layout.model_copy(update={"card": None, "folder": folder, "exclude": ()}).find("train", folder)
    except DataError as error:
        return str(error)
    added = {path.relative_to(folder).as_posix() for path in found.files} - {row["image"] for row in kept}
    return f"{folder / min(added)} is no image of the set" if added else None


def change_of_source(folder: Path, layout: LabelledConfig, source: Labelled) -> str | None:
    """What of the source is other than when a set, which is whole, was made from it; None where nothing is."""
    rows = {row["from"]: row for row in files.read_lines(folder / MANIFEST)}
    now = {path.relative_to(source.folder).as_posix(): label
           for path, label in zip(source.files, source.labels, strict=True)}
    for names, what in ((rows.keys() - now.keys(), "is not there any more"), (now.keys() - rows.keys(), "is new")):
        if names:
            return f"{source.folder / min(names)} {what}"
    for name, label in now.items():
        row = rows[name]
        if row["from_sha256"] != files.checksum(source.folder / name):
            return f"{source.folder / name} is not the image that it was"
        if isinstance(label, Path) and row["label_sha256"] != files.checksum(label):
            return f"{label} is not the label map that it was"
        if not isinstance(label, Path) and row["class"] != layout.class_names[label]:
            return f"{source.folder / name} was of class {row['class']} and is now of {layout.class_names[label]}"
    return None


def describe(recipe: Recipe, release: Release, counts: Mapping[str, int], notes: Sequence[str]) -> str:
    """The card of an adapted set. It holds nothing that changes from one day to another."""
    assert recipe.adapt is not None
    source, origin = recipe.adapt.source, recipe.adapt.source.card or "a folder"
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
