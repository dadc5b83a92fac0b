"""The folder of a run: who may use it, what recipe it belongs to, and how the run ended.

    runs/<name>/
      recipe.yaml      the resolved recipe, absolute places    metrics.jsonl   losses and scores, one line a record
      status.json      running, stopped, finished, died    samples/        grids of the same held-out images over time
      checkpoints/     the newest few and the best         release/        the generators to give away, at the end
      memory.json      the memory plan of each stage       events.jsonl    start, resume, warnings, end
      report.html      all of this on one page             held_out/       what it shows of held-out images
"""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from pydantic import Field

from translate import files
from translate.data.layout import HELD_OUT_FIELDS
from translate.errors import DataError, DocumentError, RunError, visible
from translate.foreign import Count, Shape, read_json
from translate.images.transparency import Background
from translate.missing import none_to_resume
from translate.networks.memory import MemoryPlan, PlanName
from translate.places import RECIPE_FILE, data_root
from translate.recipe import Recipe, differences, load_recipe
from translate.runs.lock import LOCK, hold, let_go, while_free
from translate.runs.recipe_paths import absolute, comparable, refuse_moved

STATUS, MEMORY = "status.json", "memory.json"
FOLDERS = ("checkpoints", "samples", "held_out")  # that a training writes into
# What is there before the first step: a start that failed leaves these, and a new run may replace them
BEFORE_TRAINING = {RECIPE_FILE, STATUS, MEMORY, LOCK, "events.jsonl", "report.html"}


class Status(Shape):
    """What others read of `status.json`."""

    state: str
    message: str = ""
    images: Count
    of: Count


class Asked(Shape):
    """What a memory plan was chosen by."""

    memory: str | dict[str, Any]
    card: str | None


class MemoryChoice(Shape):
    """The memory plan of a stage, and what it was chosen by."""

    asked: Asked
    plan: PlanName
    strips: Annotated[int, Field(ge=2, le=1000)] | None


def read_status(run: Path) -> dict[str, Any]:
    """Return how the run in a folder goes; empty where it does not say. Raises `DocumentError`."""
    return read_json(run / STATUS, Status)


def settled(run: Path, status: dict[str, Any]) -> dict[str, Any]:
    """Return how a run goes, of which `status` was read; one whose process is gone has died, and its file says so then.

    Whether a process of another machine lives cannot be told: its run is believed.
    """
    if status.get("state") != "running" or status.get("host", platform.node()) != platform.node():
        return status
    with while_free(run) as is_free:
        if is_free:
            status = status | {"state": "died", "message": death_of(run, status)}
            with suppress(OSError):
                files.write_json(run / STATUS, status)
    return status


def death_of(run: Path, status: dict[str, Any]) -> str:
    """Say of a run that its process is gone, without a word."""
    return (f"the process that trained it ended without a word, after {status['images']:,} images or later: it was "
            f"killed, as for want of memory, or its machine ended. Continue with: {resume_command(run)}")


def resume_command(run: Path, num_processes: int = 1) -> str:
    """Return the command that goes on with a run, by so many processes, as a shell takes it."""
    launch, option = ("translate", "--run") if num_processes == 1 else (
        f"torchrun --nproc_per_node {num_processes} -m translate", "--run-dir")  # torchrun takes --run for its own
    return f"{launch} train --resume {option} {shlex.quote(visible(run))}"


class RunFolder:
    """One run's folder. Only the main process of a run claims it and writes to it.

    `memory.json` holds {number of a stage: {asked, plan, strips}}: its memory plan, and what that was chosen by.
    """

    def __init__(self, path: Path):
        self.path = path
        self.death = ""  # what became of the process that trained it before, where that did not say it itself
        self._lock: BinaryIO | None = None

    def check(self, recipe: Recipe, resume: bool) -> None:
        """Raise `RunError` where the folder holds files that would be overwritten.

        With `resume`: where it holds no run, or the run of another recipe, or its images are not there any more.
        """
        if resume:
            refuse_changes(self.saved_recipe(), recipe, self.path)
            refuse_moved(recipe, self.path)
        elif self.path.exists() and not self.path.is_dir():
            raise RunError("is a file", self.path, "a run needs a folder, name another with --run")
        elif self.path.exists() and any(
                each.name not in BEFORE_TRAINING and not each.name.startswith(files.TEMPORARY)
                for each in self.path.iterdir()):
            raise RunError("holds files already and is not overwritten", self.path,
                           "continue it with --resume, or name another folder with --run")

    def saved_recipe(self) -> Recipe:
        """Return the recipe that the run was begun with. Raises `RunError` where there is none."""
        if not (self.path / RECIPE_FILE).is_file():
            raise none_to_resume(self.path)
        return load_saved(self.path)

    def claim(self, recipe: Recipe) -> None:
        """Make the folder, keep other processes out until `close`, and save the resolved recipe.

        Raises `RunError` when another process trains in it, and `DiskError`.
        """
        with files.as_disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            for folder in (self.path / name for name in FOLDERS):
                with files.as_disk_errors(folder):
                    files.refuse_link(folder)
            with files.as_disk_errors(self.path / LOCK):  # what is to be removed is the lock, and not the run
                self._lock = hold(self.path)
            if self._lock is None:
                raise RunError("another process is training this run", self.path, "wait for it, or end it")
            self._clear_up()
            files.write_bytes(self.path / RECIPE_FILE, absolute(recipe).dump_yaml().encode())

    def _clear_up(self) -> None:
        """Note that the process before this one was killed, if it was, and remove what such processes leave."""
        with suppress(DocumentError):
            status = read_status(self.path)
            self.death = death_of(self.path, status) if status.get("state") == "running" else ""
        files.finish_exchanges(self.path)
        for path in [*self.path.glob(f"{files.TEMPORARY}*"), *self.path.glob(f"*/{files.TEMPORARY}*")]:
            if path.is_file():
                with suppress(OSError):  # somebody is writing it, such as a report
                    files.remove_left_behind(path)
            elif path.parent == self.path:  # a release; checkpoints see to their own
                files.remove_folder(path)

    def write_status(self, status: dict[str, Any]) -> None:
        """Replace `status.json`. Raises `DiskError`."""
        with files.as_disk_errors(self.path):
            files.write_json(self.path / STATUS, status)

    def memory_choices(self) -> dict[str, Any]:
        """Return what `memory.json` holds; empty before the first stage."""
        try:
            return read_json(self.path / MEMORY, dict[str, MemoryChoice])
        except DocumentError:  # plans are equal in what they compute: others are chosen
            return {}

    def remember_memory(self, number: int, asked: dict[str, Any] | None, plan: MemoryPlan) -> None:
        """Note the memory plan of stage `number` for a later resume.

        `asked` is what it was chosen by, see `translate.training.plan`; None leaves that as it was.
        """
        choices = self.memory_choices()
        choices[str(number)] = {"asked": asked or choices[str(number)]["asked"], "plan": plan.name,
                                "strips": plan.num_strips if plan.in_strips else None}
        with files.as_disk_errors(self.path):
            files.write_json(self.path / MEMORY, choices)

    def close(self) -> None:
        """Let other processes in again."""
        if self._lock is not None:
            let_go(self._lock)


def load_saved(folder: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read the recipe that a run or a release holds. Raises `RecipeError`."""
    return as_written(load_recipe(folder / RECIPE_FILE, overrides))


def as_written(saved: Recipe) -> Recipe:
    """Return what a recipe meant that a training has saved: what it does not say, its version did in its own way.

    Before a recipe could say who is trained first in a step, generators were, whatever the translator. Before it could
    say on what transparent images are shown, the colours that nobody sees were trained on.
    """
    saved = with_backgrounds(saved, {})
    written = "first" in saved.translator.pace.model_fields_set
    return saved if written or saved.translator.first == "generator" else saved.with_first("generator")


def continued(saved: Recipe, recipe: Recipe) -> Recipe:
    """Return what `recipe` means to a run that was begun with `saved`: what it leaves open stays as it was."""
    recipe = with_backgrounds(recipe, {"image_a": saved.data.loading.image_a.background,
                                       "image_b": saved.data.loading.image_b.background})
    if recipe.start is None:
        recipe = recipe.model_copy(update={"start": saved.start})
    is_open = recipe.translator.pace.first is None and recipe.translator.first != saved.translator.first
    return recipe.with_first(saved.translator.first) if is_open else recipe


def with_backgrounds(recipe: Recipe, backgrounds: Mapping[str, Background | None]) -> Recipe:
    """Return a recipe whose sides have these backgrounds, or none, where it leaves them open."""
    data = recipe.data
    chosen = {side: backgrounds.get(side) for side in data.open_backgrounds}
    return recipe.model_copy(update={"data": data.with_backgrounds(chosen)}) if chosen else recipe


def has_held_out(recipe: Recipe) -> bool:
    """Return whether a recipe finds images to be scored on, named in it or lying in its own folder."""
    with suppress(DataError):
        recipe.data.build("test", data_root())
        return True
    return False


def refuse_changes(saved: Recipe, recipe: Recipe, folder: Path, advice: str | None = None) -> None:
    """Raise `RunError` listing what differs, unless a resume with the new recipe goes on with the same training.

    Allowed are changes of fields without effect on results; folders of held-out images where there were none; more
    stages; and more images in the last saved stage, if its learning rate and fade do not depend on their number.
    `advice` says what to do; None: what to do after `translate train`.
    """
    # What changes no result
    recipe = continued(saved, recipe)
    old, new = comparable(saved, recipe)
    for document, each in ((old, saved), (new, recipe)):
        document["translator"]["pace"]["first"] = each.translator.first
        document["data"].pop("on_unreadable"), document["data"].pop("cache")
        document["data"].pop("scale")  # decides how other images are translated
        for field in Recipe.may_change:
            document.pop(field)
        document["data"].pop("truth", None)  # decides about scores alone
        for stage in document["stages"]:
            stage.pop("memory"), stage.pop("micro_batch")
    held_out = [field for field in HELD_OUT_FIELDS if old["data"].get(field) is None]
    named = any(new["data"].get(field) is not None for field in held_out)
    if named and not has_held_out(saved):  # only scored; scores of others cannot be set beside the best
        for field in held_out:
            old["data"].pop(field, None), new["data"].pop(field, None)

    # What only adds to the training
    known = len(old["stages"])
    if len(new["stages"]) >= known:
        new["stages"] = new["stages"][:known]
        last_old, last_new = old["stages"][-1], new["stages"][-1]
        last = recipe.stages[known - 1]
        if last.images > last_old["images"] and not (last.lr.depends_on_images or last.fade):
            last_new["images"] = last_old["images"]

    changed = list(differences(old, new))
    if changed:
        raise RunError("\n".join(["belongs to another recipe, and resuming would mix the two:", *changed]), folder,
                       advice or "start a new run with --run, or undo the changes: "
                       f"`translate train --resume --run {shlex.quote(visible(folder))}` takes the saved recipe")
