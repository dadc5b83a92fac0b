"""Putting an adapted set together: translations under the names of their sources, labels carried over byte for byte."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from translate import __version__, files
from translate.data.cards import find_card
from translate.data.images import ImageConfig, suffix_for
from translate.data.labelled import METADATA, Labelled, metadata_rows
from translate.errors import DataError, TranslateError
from translate.recipe import Recipe
from translate.release import Release

MANIFEST, CARD = "manifest.jsonl", "README.md"


def check_names(source: Labelled, image_out: ImageConfig) -> None:
    """Raise `DataError` for source files whose format cannot hold what the translator gives: names must stay."""
    wrong = [path for path in source.files if suffix_for(path.suffix, image_out) != path.suffix]
    if wrong:
        raise DataError(f"{wrong[0]}: {wrong[0].suffix} cannot hold a translation ({image_out.channels} channels, "
                        f"bits: {image_out.bits}), and {len(wrong)} images would change their names, by which labels "
                        "find them; store the source as .png")


def assemble(recipe: Recipe, source: Labelled, staged: Path, final: Path, release: Release,
             changed: Mapping[str, float], rejected: Collection[str], failed: Mapping[str, str],
             keys: Mapping[str, str | None]) -> dict[str, int]:
    """Replace `final` by the set. Returns how many images were kept, rejected and failed; together, all of them.

    Images are named below `source.images`. `changed` are the shares that the judge has changed its opinion of, `keys`
    what each translation was made from. Raises `DiskError`.
    """
    building = final.with_name(f"{files.TEMPORARY}{final.name}")
    images = source.images.relative_to(source.folder)
    rows = []
    with files.naming_disk_faults(final):
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        for path, label in zip(source.files, source.labels, strict=True):
            name = path.relative_to(source.images).as_posix()
            row: dict[str, Any] = {"from": (images / name).as_posix(), "key": keys.get(name)}
            if name in failed:
                rows.append(row | {"status": "failed", "message": failed[name]})
                continue
            row |= {"status": "rejected" if name in rejected else "kept", "changed": round(changed[name], 6)}
            if name not in rejected:
                link(staged / name, building / images / name)
                row |= {"image": (images / name).as_posix(), "sha256": files.sha256(staged / name)}
                if isinstance(label, Path):
                    below = label.relative_to(source.folder)
                    row |= {"label": below.as_posix(), "label_sha256": carry(label, building / below)}
                else:
                    row["class"] = recipe.adapt.source.class_names[label] if recipe.adapt else label
            rows.append(row)
        kept = {row["from"] for row in rows if row["status"] == "kept"}
        if source.metadata is not None:
            content = rows_of(source.metadata, {Path(each).relative_to(images).as_posix() for each in kept})
            files.write_bytes(building / images / METADATA, content)
        rows.sort(key=lambda row: row["from"])
        lines = "".join(json.dumps(row, ensure_ascii=True, sort_keys=True) + "\n" for row in rows)
        files.write_bytes(building / MANIFEST, lines.encode())
        counts = {status: sum(row["status"] == status for row in rows) for status in ("kept", "rejected", "failed")}
        files.write_bytes(building / CARD, describe(recipe, release, counts).encode())
        files.exchange_folder(building, final)
    return counts


def link(there: Path, here: Path) -> None:
    """One more name for a file, or a copy of it where the disk has no links."""
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
    return files.sha256(folder / MANIFEST) if (folder / MANIFEST).is_file() else None


def describe(recipe: Recipe, release: Release, counts: Mapping[str, int]) -> str:
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
        f"- Model: {model} (Diptych {__version__})",
        f"- Licence of the source: {licences['source']}", f"- Licence of the target: {licences['target']}",
        "- What a model learns from these images is only as right as their labels: see `preservation.json` beside "
        "this folder.", "", "Recipe:", "", "```yaml", recipe.dump_yaml().rstrip(), "```", ""])
