"""`translate adapt make`: labelled images of the source become labelled images that look like the target.

    OUT/
      judge/  task/           task networks trained on the source: for the check, and for the consistency loss
      consistency.json        what task/ held when the first translator began with it
      checked.json            what was looked at before anything was trained
      translator.yaml         the recipe of the translator, for training it elsewhere (`prepare`)
      translator/             the run of the translator, as `translate train` leaves it
      translated/             its translations of all source images, with the converter's ledger
      set/                    the adapted set in the source's own layout, labels byte for byte; with its card
                              (README.md) and manifest.jsonl
      preservation.json       what the judge says of it, and how far it is from the target

Further variants are `translator-2`, `translated-2`, `set-2` and so on. `manifest.jsonl` holds a row for every source
image: what became of it (kept, rejected, failed), where it came from, and checksums; its own is the hash of the set.
Whatever is finished is kept: called again, all goes on where it was stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from translate import files
from translate.adapt.carrying import assemble, check_names, damage, manifest_hash
from translate.adapt.checking import check_everything
from translate.adapt.examples import Examples
from translate.adapt.preservation import Opinion, compare_opinions, is_held_out, summarise, warnings_of
from translate.adapt.stopping import stopping
from translate.adapt.tasks import kept_task
from translate.adapt.translators import (
    adaptation_of,
    notes_on_consistency,
    numbered,
    prepare_consistency,
    source_examples,
    trained_translator,
    translators_recipe,
)
from translate.convert import Shard, Summary, convert
from translate.convert.ledger import Ledger
from translate.data.labelled import Labelled
from translate.data.transforms import resized, target_shape
from translate.errors import DataError, Stopped
from translate.evaluation.heldout import evenly_spaced
from translate.images.reading import read_image, to_tensor
from translate.metrics.distribution import kernel_distance
from translate.metrics.features import MobileNet, find_mobilenet
from translate.networks.tasks import WEIGHTS
from translate.places import data_root
from translate.precision import choose_device
from translate.recipe import Recipe
from translate.runs.release import Release, load_release
from translate.training.loop import Reporter

NUM_COMPARED = 128  # images of each side, at most, for the distance to the target
SEED_OF_JUDGE = 1_000_003  # far from those of runs and of tables
UNREAD = ("find", "read")  # stages of the converter at which the source image is to blame
KEPT = "finished networks and translations are kept, a network in training begins again"


@dataclass(frozen=True)
class MadeSet:
    """One adapted set."""

    folder: Path
    kept: int
    rejected: int
    failed: int
    hash: str
    report: dict[str, Any]  # what preservation.json holds

    @property
    def total(self) -> int:
        return self.kept + self.rejected + self.failed


def make(recipe: Recipe, home: Path, report: Reporter, *, models: Sequence[Path] = (), shard: Shard | None = None,
         device: str = "auto") -> list[MadeSet]:
    """Make the adapted sets of a recipe in the folder `home`; go on where an earlier call stopped.

    `models` are runs or releases to take in the place of translators trained here, one a variant. With a `shard`, only
    its part of the images is translated, by translators that are there, and no set is made: a last call without one
    makes it, and looks at every file, which a shard does not. Raises `DataError` with all that is wrong with labels and
    images before anything is trained and where a set has nothing left, `RunError` where the folder was begun with
    another recipe, `Stopped` after a signal.
    """
    adapt = adaptation_of(recipe)
    source = adapt.source.find("train", data_root())
    if not models:
        check_names(source, recipe.data.image_b)
    made, num = [], len(models) or adapt.variants
    with stopping(report, KEPT) as report:
        if shard is None:
            check_everything(recipe, source, home, report, training=not models)
        where = choose_device(device)
        for number in range(num):
            model = models[number] if models else trained_translator(recipe, source, home, number, report, where,
                                                                     may_train=shard is None)
            staged = home / numbered("translated", number)
            release = load_release(model)
            check_names(source, release.image_out)
            report.say(f"set {number + 1}: weights {release.weights}")
            if shard is None:
                discard_changed(source, staged, report)
            summary = translate_all(source, staged, release, shard, report, device)
            if shard is None:
                of = {"sets": num, "trained_here": not models}  # for `evaluate`, which takes these and no older ones
                made.append(finish_set(recipe, source, home, number, release, summary, of, report, where))
    return made


def prepare(recipe: Recipe, home: Path, report: Reporter, *, device: str = "auto") -> list[Path]:
    """All that `make` does before it trains a translator: for training that elsewhere, or on several GPUs.

    Returns the recipes of the translators, one a variant; `make` goes on with what was trained from each in the folder
    of its name.
    """
    source = adaptation_of(recipe).source.find("train", data_root())
    check_names(source, recipe.data.image_b)
    written = []
    with stopping(report, KEPT) as report:
        check_everything(recipe, source, home, report)
        prepare_consistency(recipe, source, home, report, choose_device(device))
        for number in range(adaptation_of(recipe).variants):
            written.append(home / f"{numbered('translator', number)}.yaml")
            with files.naming_disk_faults(written[-1]):
                files.write_bytes(written[-1], translators_recipe(recipe, home, number).dump_yaml().encode())
    return written


def train_judge(recipe: Recipe, source: Labelled, unreadable: Collection[str], home: Path, report: Reporter,
                where: torch.device) -> nn.Module:
    """The task network that is asked about translations; a tenth of the source is kept from it, and what is unreadable.
    """
    examples = source_examples(recipe, source)
    seen = [number for number, name in enumerate(names_of(source)) if not is_held_out(name) and name not in unreadable]
    if not seen:
        raise DataError(f"{source.images}: holds too few images to train the judge on")
    return kept_task(home / "judge", adaptation_of(recipe).task, examples.part(seen), SEED_OF_JUDGE, where,
                     recipe.workers, lambda done, total: report.progress(done, total, "judge", {}))


def discard_changed(source: Labelled, staged: Path, report: Reporter) -> None:
    """Remove translations that are not what the converter has written, so that it makes them again."""
    ledger = Ledger(staged)
    for name in names_of(source):
        written = ledger.last(name).get("sha256")
        if written is not None and (staged / name).is_file() and files.checksum(staged / name) != written:
            report.say(f"warning: {staged / name}: was changed after it was made, and is made again")
            (staged / name).unlink()


def translate_all(source: Labelled, staged: Path, release: Release, shard: Shard | None, report: Reporter,
                  device: str) -> Summary:
    """Translate all source images, or a shard of them, into `staged`. Raises `Stopped` after a signal."""
    if release.labels is not None:
        raise DataError(f"{release.name}: translates label maps, and labelled images are to be adapted")
    summary = convert(source.images, staged, release, device=device, shard=shard, only=frozenset(names_of(source)),
                      on_progress=lambda row, number, total: report.progress(number, total, "translate", {}))
    for row in summary.failed:
        report.say(str(row))
    if summary.stopped:
        raise Stopped(f"stopped by a signal with {summary.num_seen} of {summary.total} images translated; the same "
                      "command goes on")
    return summary


def finish_set(recipe: Recipe, source: Labelled, home: Path, number: int, release: Release, summary: Summary,
               of: dict[str, Any], report: Reporter, where: torch.device) -> MadeSet:
    """Ask the judge, and put translations and labels together. What is there already, whole and made alike, is kept.

    `of` goes into the report: of how many sets this is one. Raises `DataError` where nothing is left of it.
    """
    adapt, staged, final = adaptation_of(recipe), home / numbered("translated", number), home / numbered("set", number)
    ledger, names = Ledger(staged), names_of(source)
    keys = {name: ledger.last(name).get("key") for name in names}
    failed = {name: {"stage": "convert", "message": "left out by the converter, as if it were made by one"}
              for name in names if not (staged / name).is_file()}
    failed |= {row.path: {"stage": row.stage or "", "message": str(row)} for row in summary.failed}
    done = [index for index, name in enumerate(names) if name not in failed]
    if not done:
        raise DataError(f"{source.images}: none of its {len(source)} images could be translated; the first: "
                        f"{next(iter(failed.values()))['message']}")
    judge = train_judge(recipe, source, {name for name, fault in failed.items() if fault["stage"] in UNREAD}, home,
                        report, where)
    everything = source_examples(recipe, source)
    made_from = hashlib.sha256(json.dumps([
        keys, sorted(failed), everything.digest, source.metadata and files.checksum(source.metadata), adapt.reject,
        adapt.task.resize, files.checksum(home / "judge" / WEIGHTS)]).encode()).hexdigest()
    told = home / f"{numbered('preservation', number)}.json"
    before = json.loads(told.read_text()) if told.is_file() else {}
    alike = before.get("made_from") == made_from and before["hash"] is not None
    fault = damage(final, adapt.source, before["hash"]) if alike else None
    if fault is not None:
        report.say(f"warning: {fault}; {final} is put together again")
    if not alike or fault is not None:
        after = Examples(adapt.source, [staged / names[index] for index in done],
                         [source.labels[index] for index in done], recipe.data.image_b, adapt.task.resize)
        found: list[Opinion] = []
        for opinion in compare_opinions(judge, everything.part(done), after, where):
            found.append(opinion)
            report.progress(len(found), len(done), "check", {})
        shares = {names[index]: opinion.share_changed for index, opinion in zip(done, found, strict=True)}
        rejected = {name for name, share in shares.items() if adapt.reject is not None and share > adapt.reject}
        before = summarise(found, [is_held_out(name) for name in shares], adapt.source.class_names,
                           [name not in rejected for name in shares])
        what = "pixels" if adapt.source.per_pixel else "images"
        before |= {"made_from": made_from, "hash": None, "reject": adapt.reject, "of": what, "model": release.name,
                   "fingerprint": release.fingerprint, "warnings": warnings_of(before, what, bool(rejected)),
                   "counts": {"kept": len(done) - len(rejected), "rejected": len(rejected), "failed": len(failed)},
                   "kernel_distance": distances(recipe, everything.part(done), after, where)}
        if len(rejected) < len(done):
            notes = [*before["warnings"], *(notes_on_consistency(recipe, home) if of["trained_here"] else [])]
            assemble(recipe, source, staged, final, release, shares, rejected, failed, keys, notes)
            before["hash"] = manifest_hash(final)
    before |= of
    files.write_json(told, before)
    for line in before["warnings"]:
        report.say(f"warning: {line}")
    counts = before["counts"]
    if before["hash"] is None:
        raise DataError(f"{final}: nothing is left of it: of {sum(counts.values())} images {counts['failed']} failed "
                        f"and {counts['rejected']} were rejected, as the judge sees more than {adapt.reject} of each "
                        f"otherwise (adapt.reject). {told} says what it thinks of them; train the translator or the "
                        "judge (adapt.task.images) longer, or set adapt.reject to null")
    return MadeSet(final, counts["kept"], counts["rejected"], counts["failed"], before["hash"], before)


def names_of(source: Labelled) -> list[str]:
    """What each image is called below the folder of images."""
    return [path.relative_to(source.images).as_posix() for path in source.files]


def distances(recipe: Recipe, before: Examples, after: Examples, where: torch.device) -> dict[str, float] | None:
    """The kernel distance of some images to the target's training images, which needs no label: before and after.

    All are loaded at the size that the translator is trained at: the network would see another one. None where the
    weights of MobileNetV2 are not here (`translate data features`).
    """
    weights = find_mobilenet(data_root())
    if weights is None or recipe.data.channels_b not in (1, 3):
        return None
    network = MobileNet(weights, where)
    target = recipe.data.build("train", data_root()).files_b

    def features(paths: Sequence[Path], image: Any) -> list[torch.Tensor]:
        loaded = (read_image(paths[number], image) for number in evenly_spaced(len(paths), NUM_COMPARED))
        return [network(to_tensor(resized(each, target_shape(each.shape[:2], recipe.data.resize)), image))[network.name]
                for each in loaded]

    real = features(target, recipe.data.image_b)
    return {"untranslated": kernel_distance(features(before.files, recipe.data.image_a), real).value,
            "translated": kernel_distance(features(after.files, recipe.data.image_b), real).value}
