"""`translate adapt make`: labelled images of the source become labelled images that look like the target.

    OUT/
      judge/  task/           task networks trained on the source: for the check, and for the consistency loss
      matched/                the source's images as adapt.match changes them; matched.json says from what
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
Whatever is finished is kept (`translate.adapt.result_cache`): called again, all goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from translate import files
from translate.adapt.assembling import STAGES_OF_READING, Translations, assemble, check_names, damage, manifest_hash
from translate.adapt.checking import check_everything
from translate.adapt.examples import Examples
from translate.adapt.matching import matched_source
from translate.adapt.preservation import Opinion, compare_opinions, is_held_out, summarise, warnings_of
from translate.adapt.protection import check_protection, made_from, protection_of, violations
from translate.adapt.result_cache import Record, SetRecord, cached, digest, refuse_linked_folders, write_record
from translate.adapt.stopping import stopping
from translate.adapt.task_training import cached_task
from translate.adapt.translators import (
    adaptation_of,
    notes_on_consistency,
    numbered,
    prepare_consistency,
    source_examples,
    trained_translator,
    translators_recipe,
)
from translate.cluster.ray_engine import RayEngine
from translate.convert import LEDGER, Entry, Shard, convert
from translate.convert.ledger import Ledger
from translate.convert.protecting import Protection
from translate.convert.scaling import Resize
from translate.data.labelled import Labelled
from translate.data.loading import workers_for
from translate.data.samples import shape_in
from translate.data.scale import Scale, measured, thinned
from translate.data.transforms import loaded
from translate.errors import DataError, Stopped, visible
from translate.evaluation.heldout import evenly_spaced
from translate.images.reading import read_image
from translate.images.tensors import to_tensor
from translate.metrics.distribution import kernel_distance
from translate.metrics.features import MobileNet, find_mobilenet
from translate.networks.task_networks import WEIGHTS
from translate.places import data_root
from translate.precision import choose_device
from translate.recipe import Recipe
from translate.runs.recipe_paths import absolute
from translate.runs.release import Release, load_release
from translate.training.loop import Reporter

NUM_COMPARED = 128  # images of each side, at most, for the distance to the target
SEED_OF_JUDGE = 1_000_003  # far from those of runs and of tables
WHAT_IS_KEPT = "finished networks and translations are kept, a network in training begins again"


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
         engine: RayEngine | None = None, device: str = "auto") -> list[MadeSet]:
    """Make the adapted sets of a recipe in the folder `home`; go on where an earlier call stopped.

    models    runs or releases to take in the place of translators trained here, one a variant
    shard     the part of the images to translate, by translators that are there. No set is made: a last call without
              one makes it, and looks at every file, which a shard does not
    engine    a cluster that translates the images, in place of this process; connected only meanwhile

    Raises `DataError` with all that is wrong with labels and images before anything is trained, and where a set has
    nothing left; `RunError` where the folder was begun with another recipe; `DiskError` where a link lies among its
    folders; `Stopped` after a signal.
    """
    adapt = adaptation_of(recipe)
    source = adapt.source.find("train", data_root())
    if not models:
        check_names(source, recipe.data.image_b)
    check_protection(recipe, source)
    refuse_linked_folders(home)
    made, num = [], len(models) or adapt.variants

    with stopping(report, WHAT_IS_KEPT) as report:
        if shard is None:
            check_everything(recipe, source, home, report, training=not models)
        where = choose_device(device)
        shown = matched_source(recipe, source, home, lambda done, total: report.progress(done, total, "match", {}),
                               may_write=shard is None)

        for number in range(num):
            # A translator: one that is named, or is trained here.
            model = models[number] if models else trained_translator(recipe, shown, home, number, report, where,
                                                                     may_train=shard is None)
            staged = home / numbered("translated", number)
            release = load_release(model)
            check_names(source, release.image_out)
            report.say(f"set {number + 1}: weights {visible(release.weights)}")

            # Its translations, and the set of them.
            with engine or nullcontext():
                translations = translate_all(shown, staged, release, shard, report, device,
                                             protection_of(recipe, source), engine)
            if shard is None:
                call = {"sets": num, "trained_here": not models}  # for `evaluate`, which takes these and no older ones
                made.append(finish_set(recipe, source, shown, home, number, release, translations, call, report, where))
    return made


def prepare(recipe: Recipe, home: Path, report: Reporter, *, device: str = "auto") -> list[Path]:
    """Do all that `make` does before it trains a translator: for training that elsewhere, or on several GPUs.

    Return the recipes of the translators, one a variant; `make` goes on with what was trained from each in the folder
    of its name.
    """
    source = adaptation_of(recipe).source.find("train", data_root())
    check_names(source, recipe.data.image_b)
    check_protection(recipe, source)
    written = []
    with stopping(report, WHAT_IS_KEPT) as report:
        check_everything(recipe, source, home, report)
        shown = matched_source(recipe, source, home, lambda done, total: report.progress(done, total, "match", {}))
        prepare_consistency(recipe, shown, home, report, choose_device(device))
        for number in range(adaptation_of(recipe).variants):
            written.append(home / f"{numbered('translator', number)}.yaml")
            with files.as_disk_errors(written[-1]):
                files.write_bytes(written[-1], absolute(translators_recipe(recipe, home, number)).dump_yaml().encode())
    return written


def translate_all(source: Labelled, staged: Path, release: Release, shard: Shard | None, report: Reporter,
                  device: str, protection: Protection | None = None, engine: RayEngine | None = None) -> Translations:
    """Translate all source images, or a shard of them, into `staged`. Raises `Stopped` after a signal."""
    if release.labels is not None:
        raise DataError("translates label maps, and labelled images are to be adapted", release.name)
    names = names_of(source)
    resize: Resize | None = "trained" if is_beyond(source, release.scale) else None
    if resize is not None:
        report.say(f"images are translated at the scale that the translator was trained at, {release.scale}, and "
                   "brought back to their own size")

    rows: dict[str, Entry] = {}

    def tell(row: Entry, number: int, total: int) -> None:
        rows[row.path] = row
        if row.status == "done" and row.message:
            report.say(f"warning: {visible(staged / row.path)}: {row.message}")
        report.progress(number, total, "translate", {})

    summary = convert(source.images, staged, release, device=device, shard=shard, only=frozenset(names),
                      verify=shard is None, resize=resize, size="input", protect=protection,
                      owned=True, engine=engine, on_progress=tell)
    for row in summary.failed:
        report.say(str(row))
    if summary.stopped:
        raise Stopped(f"stopped by a signal with {summary.num_seen} of {summary.total} images translated",
                      advice="the same command goes on")

    # An image in a folder with a ledger is no source image to the converter, and has no row. What has one is asked
    # nothing: a shared disk may show late what other machines have written.
    ledger = Ledger(staged)
    failed = {name: {"stage": "convert", "message": f"not translated: a {LEDGER} in its folder, or in one above, says "
                     "that the images there are translations; remove it if they are not"}
              for name in names if name not in rows and not (staged / name).is_file()}
    failed |= {row.path: {"stage": row.stage or "", "message": str(row)} for row in summary.failed}
    return Translations(staged, {name: rows[name].key if name in rows else ledger.last(name).get("key")
                                 for name in names}, failed)


def is_beyond(source: Labelled, scale: Scale | None) -> bool:
    """Return whether some source image is of another scale, by more than a third, than a translator knows."""
    return scale is not None and any(not scale.knows(min(shape)) for shape in measured(thinned(source.files), shape_in))


def train_judge(recipe: Recipe, source: Labelled, unreadable: Collection[str], home: Path, report: Reporter,
                where: torch.device) -> nn.Module:
    """Return the task network that is asked about translations.

    It has never seen a tenth of the source images (`is_held_out`), nor what is `unreadable`.
    """
    examples = source_examples(recipe, source)
    seen = [number for number, name in enumerate(names_of(source)) if not is_held_out(name) and name not in unreadable]
    if not seen:
        raise DataError("holds too few images to train the judge on", source.images)
    return cached_task(home / "judge", adaptation_of(recipe).task, examples.part(seen), SEED_OF_JUDGE, where,
                       workers_for(recipe.workers, where),
                       lambda done, total: report.progress(done, total, "judge", {}))


def finish_set(recipe: Recipe, source: Labelled, shown: Labelled, home: Path, number: int, release: Release,
               made: Translations, call: dict[str, Any], report: Reporter, where: torch.device) -> MadeSet:
    """Put translations and labels together to the set of variant `number`, after asking the judge about them.

    `shown` are the images that were translated: those of the source, or what `adapt.match` has made of them.
    A set that is there, whole and made from the same, is kept. `call` goes into its report: of how many sets this is
    one. Raises `DataError` where nothing is left of it.
    """
    adapt, final = adaptation_of(recipe), home / numbered("set", number)
    path = home / f"{numbered('preservation', number)}.json"
    if not made.done:
        raise DataError(f"none of its {len(source)} images could be translated; the first: "
                        f"{next(iter(made.failed.values()))['message']}", source.images)

    # What the set and its report are made from.
    unreadable = {name for name, fault in made.failed.items() if fault["stage"] in STAGES_OF_READING}
    judge = train_judge(recipe, shown, unreadable, home, report, where)
    depends_on = digest([made.keys, sorted(made.failed), source_examples(recipe, source).digest,
                        *([source_examples(recipe, shown).digest] if shown is not source else []),
                        source.metadata and files.checksum(source.metadata), adapt.reject, adapt.task.resize,
                        files.checksum(home / "judge" / WEIGHTS), *made_from(recipe, source)])

    def is_whole(about: Record) -> bool:
        if about["hash"] is None:  # nothing was left of it, and there is nothing to damage
            return True
        fault = damage(final, adapt.source, about["hash"])
        if fault is not None:
            report.say(f"warning: {fault}; {visible(final)} is put together again")
        return fault is None

    notes = notes_on_consistency(recipe, home) if call["trained_here"] else []
    about = cached(path, depends_on, lambda: call | judged_set(recipe, source, shown, final, release, made, judge,
                                                              report, where, notes), is_whole, SetRecord)

    # A reused set may come from a call with other --model or adapt.variants: update its record.
    if about | call != about:
        about |= call
        write_record(path, about)
    for line in about["warnings"]:
        report.say(f"warning: {line}")
    counts = about["counts"]
    if about["hash"] is None:
        raise DataError(f"nothing is left of it: of {sum(counts.values())} images {counts['failed']} failed and "
                        f"{counts['rejected']} were rejected, as " + "; or ".join([
                            *[f"the judge changes its opinion about more than {adapt.reject} of each (adapt.reject)"]
                            * (adapt.reject is not None), *["protected pixels have changed (data.protect)"]
                            * bool(about.get("protected", {}).get("pixels"))])
                        + f". {visible(path)} has the judge's opinions", final,
                        "train the translator or the judge (adapt.task.images) longer, or set adapt.reject to null")
    return MadeSet(final, counts["kept"], counts["rejected"], counts["failed"], about["hash"], about)


def judged_set(recipe: Recipe, source: Labelled, shown: Labelled, final: Path, release: Release, made: Translations,
               judge: nn.Module, report: Reporter, where: torch.device, notes: Sequence[str]) -> Record:
    """Ask the judge about all translations, and make the set `final` of those it does not reject.

    It compares them with what was translated (`shown`); names and labels are those of the source.
    `notes` go into the card of the set. Return the report, whose `hash` is that of the set, or None where nothing is
    left of it.
    """
    adapt, names, done = adaptation_of(recipe), names_of(source), made.done
    before = source_examples(recipe, shown).part(done)
    after = Examples(adapt.source, [made.folder / names[index] for index in done],
                     [source.labels[index] for index in done], recipe.data.image_b, adapt.task.resize)

    # What it thinks of each, before and after.
    found: list[Opinion] = []
    for opinion in compare_opinions(judge, before, after, where):
        found.append(opinion)
        report.progress(len(found), len(done), "check", {})
    shares = {names[index]: opinion.share_changed for index, opinion in zip(done, found, strict=True)}
    rejected = {name for name, share in shares.items() if adapt.reject is not None and share > adapt.reject}

    # Whether what must not change has not.
    protect, changed = recipe.data.protect, dict[str, int]()
    if protect is not None:
        changed = {names[index]: number for index in done
                   if (number := violations(protect, source.files[index], made.folder / names[index]))}
        rejected |= changed.keys()

    # What that says of all.
    about = summarise(found, [is_held_out(name) for name in shares], adapt.source.class_names,
                      [name not in rejected for name in shares])
    what = "pixels" if adapt.source.per_pixel else "images"
    about |= {"hash": None, "reject": adapt.reject, "match": adapt.match, "of": what, "model": release.name,
              "fingerprint": release.fingerprint, "warnings": warnings_of(about, what, bool(rejected)),
              "counts": {"kept": len(found) - len(rejected), "rejected": len(rejected), "failed": len(made.failed)},
              "kernel_distance": distances(recipe, before, after, where)}
    if protect is not None:
        about["protected"] = {"images": len(changed), "pixels": sum(changed.values())}
    if changed:
        about["warnings"].append(f"{sum(changed.values())} protected pixels of {len(changed)} images have changed "
                                 f"(data.protect), such as of {visible(min(changed))}: these images are rejected")

    if len(rejected) < len(found):
        assemble(recipe, source, made, final, release, shares, rejected, [*about["warnings"], *notes])
        about["hash"] = manifest_hash(final)
    return about


def names_of(source: Labelled) -> list[str]:
    """Return what each image is called below the folder of images."""
    return [path.relative_to(source.images).as_posix() for path in source.files]


def distances(recipe: Recipe, before: Examples, after: Examples, where: torch.device) -> dict[str, float] | None:
    """Return how far some images are from the target's training images, before and after translation.

    It is the kernel distance, which needs no label. All are loaded at the size that the translator is trained at, as
    features depend on it. None where the weights of MobileNetV2 are not here (`translate data features`).
    """
    weights = find_mobilenet()
    if weights is None or recipe.data.channels_b not in (1, 3):
        return None
    network = MobileNet(weights, where)
    target = recipe.data.build("train", data_root()).files_b

    def features(paths: Sequence[Path], image: Any) -> list[torch.Tensor]:
        chosen = [paths[number] for number in evenly_spaced(len(paths), NUM_COMPARED)]
        return [network(to_tensor(loaded(read_image(path, image), path, recipe.data.resize), image))[network.name]
                for path in chosen]

    real = features(target, recipe.data.image_b)
    return {"untranslated": kernel_distance(features(before.files, recipe.data.image_a), real).value,
            "translated": kernel_distance(features(after.files, recipe.data.image_b), real).value}
