"""The folder of a run: who may use it, what recipe it belongs to, and how the run ended.

    runs/<name>/
      recipe.yaml      the resolved recipe                 metrics.jsonl   losses and scores, one line a record
      status.json      running, stopped, finished          samples/        grids of the same held-out images over time
      checkpoints/     the newest few and the best         release/        the generators to give away, at the end
      memory.json      the memory plan of each stage       events.jsonl    start, resume, warnings, end
      report.html      all of this on one page             held_out/       what it shows of held-out images
"""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO, Any

from translate import files
from translate.errors import RunError
from translate.networks.memory import Plan
from translate.recipe import Recipe, differences, load_recipe, sides_without_background
from translate.schema import read_document

RECIPE_FILE, STATUS, MEMORY, LOCK = "recipe.yaml", "status.json", "memory.json", ".lock"
# What is there before the first step: a start that failed leaves these, and a new run may replace them
BEFORE_TRAINING = {RECIPE_FILE, STATUS, MEMORY, LOCK, "events.jsonl", "report.html"}


class RunFolder:
    """One run's folder. Only the main process of a run claims it and writes to it.

    `memory.json` holds {number of a stage: {asked, plan, strips}}: its memory plan, and what that was chosen by.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock: IO[bytes] | None = None

    def check(self, recipe: Recipe, resume: bool) -> None:
        """Raise `RunError` where the folder holds files that would be overwritten.

        With `resume`: where it holds no run, or the run of another recipe.
        """
        saved = self.path / RECIPE_FILE
        if resume:
            if not saved.is_file():
                raise RunError("there is no run here to resume", self.path, "leave out --resume to start one")
            refuse_changes(load_recipe(saved, saved=True), self.as_begun(recipe), self.path)
        elif self.path.exists() and not self.path.is_dir():
            raise RunError("is a file", self.path, "a run needs a folder, name another with --run")
        elif self.path.exists() and any(each.name not in BEFORE_TRAINING for each in self.path.iterdir()):
            raise RunError("holds files already and is not overwritten", self.path,
                           "continue it with --resume, or name another folder with --run")

    def as_begun(self, recipe: Recipe) -> Recipe:
        """Return `recipe` for a resume: with what an earlier version did, where the saved one lacks a younger field."""
        saved = self.path / RECIPE_FILE
        sides = sides_without_background(read_document(saved, "")) if saved.is_file() else []
        images = {side: getattr(recipe.data, side).model_copy(update={"background": None}) for side in sides}
        return recipe.model_copy(update={"data": recipe.data.model_copy(update=images)}) if sides else recipe

    def claim(self, recipe: Recipe) -> None:
        """Make the folder, keep other processes out until `leave`, and save the resolved recipe.

        Raises `RunError` when another process trains in it, and `DiskError`.
        """
        with files.as_disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / LOCK).open("wb")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._lock.close()
                raise RunError("another process is training this run", self.path, "wait for it, or end it") from None
            files.write_bytes(self.path / RECIPE_FILE, recipe.dump_yaml().encode())

    def write_status(self, status: dict[str, Any]) -> None:
        """Replace `status.json`. Raises `DiskError`."""
        with files.as_disk_errors(self.path):
            files.write_json(self.path / STATUS, status)

    def memory_choices(self) -> dict[str, Any]:
        """Return what `memory.json` holds; empty before the first stage."""
        return files.read_json(self.path / MEMORY)

    def remember_memory(self, number: int, asked: dict[str, Any] | None, plan: Plan) -> None:
        """Note the memory plan of stage `number` for a later resume.

        `asked` is what it was chosen by, see `translate.training.plan`; None leaves that as it was.
        """
        choices = self.memory_choices()
        choices[str(number)] = {"asked": asked or choices[str(number)]["asked"], "plan": plan.name,
                                "strips": plan.num_strips if plan.in_strips else None}
        with files.as_disk_errors(self.path):
            files.write_json(self.path / MEMORY, choices)

    def leave(self) -> None:
        """Let other processes in again."""
        if self._lock is not None:
            self._lock.close()


def refuse_changes(saved: Recipe, recipe: Recipe, folder: Path, advice: str | None = None) -> None:
    """Raise `RunError` listing what differs, unless a resume with the new recipe goes on with the same training.

    Allowed are changes of fields without effect on results; more stages; and more images in the last saved stage, if
    its learning rate and fade do not depend on their number. `advice` says what to do; None: what to do after
    `translate train`.
    """
    # What changes no result
    old, new = saved.dump(), recipe.dump()
    for document in (old, new):
        for field in Recipe.may_change:
            document.pop(field)
        for stage in document["stages"]:
            stage.pop("memory"), stage.pop("micro_batch")

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
                       f"`translate train --resume --run {folder}` takes the saved recipe")
