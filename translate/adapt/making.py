"""`translate adapt make`: labelled images of the source become labelled images that look like the target.

    OUT/
      judge/  task/           task networks trained on the source: for the check, and for the consistency loss
      consistency.json        what task/ held when the first translator began with it
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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from translate import files
from translate.adapt.carrying import assemble, check_names, damage, manifest_hash
from translate.adapt.examples import Examples, refuse_all_ignored
from translate.adapt.preservation import Opinion, compare_opinions, is_held_out, summarise, warnings_of
from translate.adapt.tasks import kept_task
from translate.convert import Shard, Summary, convert
from translate.convert.ledger import Ledger
from translate.convert.translating import choose_device
from translate.data import data_root
from translate.data.images import read_image, to_tensor
from translate.data.labelled import Labelled, check_labels
from translate.data.transforms import resized, target_shape
from translate.errors import DataError, RecipeError, RunError, Stopped
from translate.heldout import spread
from translate.metrics.distribution import kernel_distance
from translate.metrics.features import MobileNet, find_mobilenet
from translate.networks.tasks import WEIGHTS, read_task
from translate.recipe import Adaptation, Recipe, differences, load_recipe
from translate.release import Release, load_release
from translate.runs import RECIPE, STATUS, refuse_changes
from translate.schema import validate
from translate.train import Reporter, train

NUM_COMPARED = 128  # images of each side, at most, for the distance to the target
SEED_OF_JUDGE, SEED_OF_TASK = 1_000_003, 1_000_033  # far from those of runs and of tables
CONSISTENCY = "consistency.json"
UNREAD = ("find", "read")  # stages of the converter at which the source image is to blame


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
    makes it. Raises `DataError` with all that is wrong with the labels before anything is trained and where a set has
    nothing left, `RunError` where the folder was begun with another recipe, `Stopped` after a signal.
    """
    adapt = adaptation_of(recipe)
    source = adapt.source.find("train", data_root())
    check_labels(adapt.source, source)
    refuse_all_ignored(adapt.source, source)
    if not models:
        check_names(source, recipe.data.image_b)
    where = choose_device(device)
    made, num = [], len(models) or adapt.variants
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


def adaptation_of(recipe: Recipe) -> Adaptation:
    """Raises `RecipeError` where the recipe does not say what to adapt."""
    if recipe.adapt is None:
        raise RecipeError([f"{recipe.name}: adapt: missing; it says where labelled source images and the target are "
                           "(docs/domain-adaptation.md)"])
    return recipe.adapt


def numbered(name: str, number: int) -> str:
    """What belongs to variant `number`, from 0."""
    return name if number == 0 else f"{name}-{number + 1}"


def source_examples(recipe: Recipe, source: Labelled) -> Examples:
    """All source images, as a task network sees them."""
    adapt = adaptation_of(recipe)
    return Examples.of(adapt.source, source, recipe.data.image_a, adapt.task.resize)


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


def trained_translator(recipe: Recipe, source: Labelled, home: Path, number: int, report: Reporter, where: torch.device,
                       may_train: bool) -> Path:
    """The run of variant `number`: as it is if finished, else trained on, with the consistency loss if asked for."""
    adapt, folder = adaptation_of(recipe), home / numbered("translator", number)
    chosen = recipe_of_translator(recipe, home, number)
    begun = (folder / RECIPE).is_file()
    if begun:
        saved = saved_here(folder, chosen)
        refuse_other(saved, chosen, folder)
    finished = begun and is_finished(folder, chosen)
    if not finished and not may_train:
        raise RunError(f"{folder}: the translator is not trained yet, and a shard does not train; run `translate adapt "
                       "make RECIPE` without --shard first, or name one with --model")
    if not finished and adapt.semantic is not None:
        prepare_consistency(recipe, source, home, report, where)
    if begun:
        with files.naming_disk_faults(folder):
            files.write_bytes(folder / RECIPE, saved.dump_yaml().encode())
    if not finished:
        try:
            train(chosen, folder, report, resume=begun)
        except Stopped:
            raise Stopped(f"{folder}: stopped by a signal; everything is saved, and the same command goes on") from None
    for line in notes_on_consistency(recipe, home):
        report.say(line)
    return folder


def is_finished(folder: Path, chosen: Recipe) -> bool:
    """Whether a translator's training is over. The recipe may have gained stages since."""
    status = json.loads((folder / STATUS).read_text()) if (folder / STATUS).is_file() else {}
    return status.get("state") == "finished" and status["of"] == chosen.num_images


def recipe_of_translator(recipe: Recipe, home: Path, number: int) -> Recipe:
    """What the translator of variant `number` is trained by."""
    adapt = adaptation_of(recipe)
    document = recipe.dump() | {"adapt": None, "seed": recipe.seed + number}
    if adapt.semantic is not None:
        document["translator"]["semantic"] = adapt.semantic.model_dump() | {"task": str((home / "task").resolve())}
    return validate(Recipe, document, recipe.name)


def saved_here(folder: Path, chosen: Recipe) -> Recipe:
    """The recipe that a translator was begun with, its task network where it lies now: OUT may have been moved.

    Whether that is the network it began with, `consistency.json` tells by its content.
    """
    document, wanted = load_recipe(folder / RECIPE).dump(), chosen.dump()["translator"].get("semantic")
    if wanted is not None and document["translator"].get("semantic") is not None:
        document["translator"]["semantic"]["task"] = wanted["task"]
    return validate(Recipe, document, str(folder / RECIPE))


def refuse_other(saved: Recipe, chosen: Recipe, folder: Path) -> None:
    """Raise `RunError` where a translator was begun with another recipe."""
    refuse_changes(saved, chosen, folder, "take the changes back, or let `translate adapt make` begin anew in another "
                                          f"folder (--out); {folder} may be removed as well, and is then trained anew")


def prepare_consistency(recipe: Recipe, source: Labelled, home: Path, report: Reporter, where: torch.device) -> None:
    """Train the network of the consistency loss. Once a translator has begun with one, that one is kept: what is
    trained with two of them belongs to no recipe. Raises `RunError` where it is not there any more.
    """
    adapt, task = adaptation_of(recipe), home / "task"
    begun = next((path.parent for path in sorted(home.glob(f"translator*/{RECIPE}"))), None)
    if begun is None:
        kept_task(task, adapt.task, source_examples(recipe, source), SEED_OF_TASK, where, recipe.workers,
                  lambda done, total: report.progress(done, total, "task network", {}))
    found, known = read_task(task), began_with(home)
    if found is None or (begun is not None and known is not None and found["sha256"] != known["sha256"]):
        raise RunError(f"{task}: is not the task network that {begun} began with ({CONSISTENCY}), and going on would "
                       f"mix the two; put it back, or remove {begun} to train it anew")
    if found != known:
        with files.naming_disk_faults(home):
            files.write_json(home / CONSISTENCY, found)


def began_with(home: Path) -> dict[str, Any] | None:
    """The record of the task network that the translators of a folder have begun with; None where none is known."""
    with suppress(OSError, ValueError):
        return json.loads((home / CONSISTENCY).read_bytes())
    return None


def notes_on_consistency(recipe: Recipe, home: Path) -> list[str]:
    """Where the recipe's settings are no longer those of the task network that a translator was trained with."""
    known = began_with(home)
    if adaptation_of(recipe).semantic is None or known is None:
        return []
    changed = list(differences(known["about"]["training"], adaptation_of(recipe).task.model_dump(mode="json"),
                               "adapt.task"))
    return [f"the consistency loss has kept the task network that the translator began with; for the judge and the "
            f"table alone: {', '.join(changed)}"] if changed else []


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
    summary = convert(source.images, staged, release, device=device, shard=shard,
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
        loaded = (read_image(paths[number], image) for number in spread(len(paths), NUM_COMPARED))
        return [network(to_tensor(resized(each, target_shape(each.shape[:2], recipe.data.resize)), image))[network.name]
                for each in loaded]

    real = features(target, recipe.data.image_b)
    return {"untranslated": kernel_distance(features(before.files, recipe.data.image_a), real).value,
            "translated": kernel_distance(features(after.files, recipe.data.image_b), real).value}
