"""`translate adapt make`: labelled images of the source become labelled images that look like the target.

    OUT/
      judge/  task/           task networks trained on the source: for the check, and for the consistency loss
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
from translate.adapt.carrying import assemble, check_names, manifest_hash
from translate.adapt.checking import check_everything
from translate.adapt.examples import Examples
from translate.adapt.preservation import Opinion, compare_opinions, is_held_out, summarise
from translate.adapt.stopping import stopping
from translate.adapt.tasks import kept_task
from translate.convert import Shard, Summary, convert
from translate.convert.ledger import Ledger
from translate.convert.translating import choose_device
from translate.data import data_root
from translate.data.images import read_image, to_tensor
from translate.data.labelled import Labelled
from translate.data.transforms import resized, target_shape
from translate.errors import DataError, RecipeError, RunError, Stopped
from translate.heldout import spread
from translate.metrics.distribution import kernel_distance
from translate.metrics.features import MobileNet, find_mobilenet
from translate.networks.tasks import WEIGHTS
from translate.recipe import Adaptation, Recipe, load_recipe
from translate.release import Release, load_release
from translate.runs import RECIPE, STATUS, refuse_changes
from translate.train import Reporter, train

NUM_COMPARED = 128  # images of each side, at most, for the distance to the target
SEED_OF_JUDGE, SEED_OF_TASK = 1_000_003, 1_000_033  # far from those of runs and of tables
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
    images before anything is trained, `Stopped` after a signal.
    """
    adapt = adaptation_of(recipe)
    source = adapt.source.find("train", data_root())
    if not models:
        check_names(source, recipe.data.image_b)
    made = []
    with stopping(report, KEPT) as report:
        if shard is None:
            check_everything(recipe, source, home, report)
        where = choose_device(device)
        for number in range(len(models) or adapt.variants):
            model = models[number] if models else trained_translator(recipe, source, home, number, report, where,
                                                                     may_train=shard is None)
            staged = home / numbered("translated", number)
            release = load_release(model)
            check_names(source, release.image_out)
            report.say(f"set {number + 1}: weights {release.weights}")
            summary = translate_all(source, staged, release, shard, report, device)
            if shard is None:
                made.append(finish_set(recipe, source, home, number, release, summary, report, where))
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
        train_task_network(recipe, source, home, report, choose_device(device))
        for number in range(adaptation_of(recipe).variants):
            written.append(home / f"{numbered('translator', number)}.yaml")
            with files.naming_disk_faults(written[-1]):
                files.write_bytes(written[-1], translators_recipe(recipe, home, number).dump_yaml().encode())
    return written


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


def train_task_network(recipe: Recipe, source: Labelled, home: Path, report: Reporter, where: torch.device) -> None:
    """The network of the consistency loss, where there is one."""
    adapt = adaptation_of(recipe)
    if adapt.semantic is not None:
        kept_task(home / "task", adapt.task, source_examples(recipe, source), SEED_OF_TASK, where, recipe.workers,
                  lambda done, total: report.progress(done, total, "task network", {}))


def translators_recipe(recipe: Recipe, home: Path, number: int) -> Recipe:
    """What variant `number` is trained from: another seed, and the consistency loss if asked for."""
    return recipe.with_consistency((home / "task").resolve(), recipe.seed + number)


def trained_translator(recipe: Recipe, source: Labelled, home: Path, number: int, report: Reporter, where: torch.device,
                       may_train: bool) -> Path:
    """The run of variant `number`: as it is if finished, else trained on, with the consistency loss if asked for."""
    folder, chosen = home / numbered("translator", number), translators_recipe(recipe, home, number)
    begun = (folder / RECIPE).is_file()
    if begun:
        refuse_changes(load_recipe(folder / RECIPE), chosen, folder)
    status = json.loads((folder / STATUS).read_text()) if begun and (folder / STATUS).is_file() else {}
    finished = status.get("state") == "finished" and status["of"] == chosen.num_images  # it may have gained stages
    if not finished and not may_train:
        raise RunError(f"{folder}: the translator is not trained yet, and a shard does not train; run `translate adapt "
                       "make RECIPE` without --shard first, or name one with --model")
    if not finished:
        train_task_network(recipe, source, home, report, where)
        try:
            train(chosen, folder, report, resume=begun, tell_recipe=False)
        except Stopped as error:
            raise Stopped(f"{error}\nThe same `translate adapt make` goes on from there, too") from None
    return folder


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
               report: Reporter, where: torch.device) -> MadeSet:
    """Ask the judge, and put translations and labels together. What is there already and made alike is kept."""
    adapt, staged, final = adaptation_of(recipe), home / numbered("translated", number), home / numbered("set", number)
    ledger, names = Ledger(staged), names_of(source)
    keys = {name: ledger.last(name).get("key") for name in names}
    failed = {name: "left out by the converter, as if it were made by one" for name in names
              if not (staged / name).is_file()} | {row.path: str(row) for row in summary.failed}
    done = [index for index, name in enumerate(names) if name not in failed]
    if not done:
        raise DataError(f"{source.images}: none of its {len(source)} images could be translated; the first: "
                        f"{next(iter(failed.values()))}")
    unreadable = {row.path for row in summary.failed if row.stage in ("find", "read")}
    judge = train_judge(recipe, source, unreadable, home, report, where)
    everything = source_examples(recipe, source)
    made_from = hashlib.sha256(json.dumps([
        keys, sorted(failed), everything.digest, source.metadata and files.sha256(source.metadata), adapt.reject,
        adapt.task.resize, files.sha256(home / "judge" / WEIGHTS)]).encode()).hexdigest()
    told = home / f"{numbered('preservation', number)}.json"
    before = json.loads(told.read_text()) if told.is_file() else {}
    if before.get("made_from") != made_from or manifest_hash(final) != before.get("hash"):
        after = Examples(adapt.source, [staged / source.files[index].relative_to(source.images) for index in done],
                         [source.labels[index] for index in done], recipe.data.image_b, adapt.task.resize)
        found: list[Opinion] = []
        for opinion in compare_opinions(judge, everything.part(done), after, where):
            found.append(opinion)
            report.progress(len(found), len(done), "check", {})
        opinions = {names[index]: opinion for index, opinion in zip(done, found, strict=True)}
        rejected = {name for name, opinion in opinions.items()
                    if adapt.reject is not None and opinion.share_changed > adapt.reject}
        counts = assemble(recipe, source, staged, final, release, {name: each.share_changed for name, each
                                                                   in opinions.items()}, rejected, failed, keys)
        before = summarise(found, [is_held_out(names[index]) for index in done], adapt.source.class_names) | {
            "made_from": made_from, "hash": manifest_hash(final), "counts": counts, "reject": adapt.reject,
            "of": "pixels" if adapt.source.per_pixel else "images", "model": release.name,
            "fingerprint": release.fingerprint,
            "kernel_distance": distances(recipe, everything.part(done), after, where)}
        files.write_json(told, before)
    counts = before["counts"]
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
