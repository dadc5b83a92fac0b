"""Training: a recipe goes in, a run folder comes out.

    runs/<name>/
      recipe.yaml      the resolved recipe                 metrics.jsonl   losses and scores, one line a record
      status.json      running, stopped, finished          samples/        grids of the same held-out images over time
      checkpoints/     the newest few and the best         release/        the generators to give away, at the end
      memory.json      the memory plan of each stage       events.jsonl    start, resume, warnings, end
      report.html      all of this on one page             held_out/       what it shows of held-out images

A run is bit-identical on a CPU whether or not it was interrupted: the data are a function of (seed, image number), and
everything else that changes is in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState

from translate.data import Batch, batches
from translate.data.loading import naming_lost_workers
from translate.data.transforms import stable_hash
from translate.errors import CheckpointError, Collapsed, DiskError, DoesNotFit, Stopped, UsageError
from translate.networks import memory
from translate.optimizers import follow
from translate.places import data_root
from translate.precision import choose_precision
from translate.recipe import Recipe, Stage
from translate.runs.checkpoint import (
    Progress,
    RunState,
    checkpoint_at,
    discard_after,
    healthy_checkpoint,
    newest_checkpoint,
    put_back,
    read_networks,
    read_progress,
    restore_checkpoint,
    save_checkpoint,
    verify,
)
from translate.runs.folder import RunFolder
from translate.runs.release import write_release
from translate.signals import StopRequest, minding_signals
from translate.training import plan as planner
from translate.training.guard import Guard, Trouble
from translate.training.logbook import Logbook, Reporter
from translate.training.plan import parameters_of
from translate.training.processes import by_main_process, in_any_process, prepare_for_processes
from translate.training.update import NotFinite, Update

FEW, MANY = 10, 100  # steps that are left out: each of so few is told, and then every so many


def train(recipe: Recipe, folder: Path, report: Reporter, *, resume: bool = False, card: str | None = None,
          tell_recipe: bool = True) -> None:
    """Train `recipe` in the run folder `folder`, from its newest checkpoint when `resume` is set.

    `card` is the size of the card that `memory: auto` chooses for, such as 8GB; None: the one there is. The resolved
    recipe lies in the run folder, and is told to `report` as well unless `tell_recipe` says no. Raises
    `RunError` when the folder holds a run and `resume` is not set, or the other way round, `Stopped` after a SIGTERM
    or SIGINT (everything is saved), `DiskError` when a checkpoint cannot be written, `DoesNotFit` when a step runs out
    of memory under the leanest memory plan, `Collapsed` when the guard gives the training up.
    """
    accelerator = make_accelerator(recipe, folder)
    home = RunFolder(folder)
    if accelerator.is_main_process:
        home.check(recipe, resume)
    accelerator.wait_for_everyone()
    run = Run(recipe, home, accelerator, report, card)  # mistakes in recipe and data end here, and leave no folder;
    if not resume:
        run.plan_stages(0)  # so does a stage that does not fit, however late it comes
    if accelerator.is_main_process:
        home.claim(recipe)
    if tell_recipe:
        report.say(recipe.dump_yaml())
    with run.recording_status(), naming_lost_workers(), minding_signals() as run.stop:
        run.begin(resume)
        for stage in run.stages():
            for batch in run.batches(stage):
                update = run.step(stage, batch)
                run.advance(len(batch) * accelerator.num_processes, update)
        run.finish()


def make_accelerator(recipe: Recipe, folder: Path) -> Accelerator:
    """Accelerate's part: the device, the processes, the gradient scaler of fp16, and the trackers."""
    cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    state = PartialState(cpu=cpu)  # told so, it joins the processes of torchrun on a CPU; else each would train alone
    precision = choose_precision(recipe.precision, state.device)
    return Accelerator(cpu=cpu, mixed_precision="fp16" if precision == "fp16" else "no",
                       log_with=list(recipe.trackers) or None, project_dir=str(folder))


def check_shares(recipe: Recipe, num_processes: int) -> None:
    """Raise `UsageError` where a batch cannot be shared equally."""
    for number, stage in enumerate(recipe.stages):
        if stage.batch_size % num_processes:
            raise UsageError(f"stages.{number}.batch_size: {stage.batch_size} cannot be shared equally by "
                             f"{num_processes} processes; use a multiple of {num_processes}, as in --set "
                             f"stages.{number}.batch_size={num_processes}")


class Run:
    """One training: its folder, its state, and all that happens between two steps."""

    def __init__(self, recipe: Recipe, home: RunFolder, accelerator: Accelerator, report: Reporter,
                 card: str | None = None):
        self.recipe, self.home, self.accelerator, self.card = recipe, home, accelerator, card
        self.folder = home.path
        check_shares(recipe, accelerator.num_processes)
        self.precision = choose_precision(recipe.precision, accelerator.device)
        self.progress = Progress()
        self.build()
        self.samples = recipe.data.build("train", data_root())
        self.log = Logbook(self.folder, recipe, accelerator, self.precision, self.progress, report)
        objective = recipe.translator.objective.kind
        self.guard = None if recipe.guard is None else Guard(recipe.guard, objective, accelerator)
        self.rolled_back = False
        self.choices: dict[int, planner.Choice] = {}
        self.plan = memory.PLANS["split"]
        self.stop = StopRequest()

    def build(self) -> None:
        """Fresh networks in the shape of the first stage, and their optimizers."""
        torch.manual_seed(self.recipe.seed)
        data = self.recipe.data
        self.translator = self.recipe.translator.build(data.channels_a, data.channels_b, self.recipe.seed)
        self.translator.to(self.accelerator.device)
        self.shaped = 0  # the stage whose shape the networks have
        self.translator.enter(self.recipe.stages[0])
        prepare_for_processes(self.translator.modules, self.accelerator)
        self.optimizers = {phase: getattr(self.recipe.optimizer, phase).build(parameters_of(self.translator, phase))
                           for phase in self.translator.phases}
        self.state = RunState(self.progress, self.translator, self.optimizers, self.accelerator)

    def shape(self, number: int) -> None:
        """Give the networks the shape they have in stage `number`; the optimizers follow. Going back begins anew."""
        if number < self.shaped:
            self.build()
        if number > self.shaped:
            self.translator.enter(self.recipe.stages[number])
            prepare_for_processes(self.translator.modules, self.accelerator)
            for phase, optimizer in self.optimizers.items():
                follow(optimizer, parameters_of(self.translator, phase))
            self.shaped = number

    def begin(self, resume: bool) -> None:
        """Open the trackers, and continue where an earlier process stopped."""
        self.log.tracker.open()
        if resume:
            self.restore()
        self.log.begin(resume)
        if resume:
            self.plan_stages(self.progress.stage)
            if self.log.evaluate(self.translator):  # a signal may have left no time for it
                self.save()

    def plan_stages(self, first: int) -> None:
        """Choose the memory plan of every stage from number `first` on. Raises `DoesNotFit`, `UsageError`."""
        for number in range(first, len(self.recipe.stages)):
            self.choices[number] = self._choose_plan(number)

    def restore(self) -> None:
        """Continue from the newest checkpoint that verifies; say which were refused, and what else is different."""
        checkpoints = self.folder / "checkpoints"
        by_main_process(lambda: put_back(checkpoints), self.accelerator)
        newest, refused = newest_checkpoint(checkpoints)
        for reason in refused:
            self.log.tell("warning", f"refused {reason}")
        if newest is None:
            if refused:
                raise CheckpointError(f"{self.folder}: none of its {len(refused)} checkpoints verifies")
            self.log.tell("warning", f"{self.folder}: stopped before its first checkpoint; starting again")
            self.log.tracker.resume_at(0)
            return
        for difference in self.load(newest):
            self.log.tell("warning", f"warning: the run may not repeat bit for bit: {difference}")
        self.log.report.say(f"resumed at {self.progress.images:,} images from {newest}")

    def load(self, checkpoint: Path) -> list[str]:
        """Put the run into the state of a checkpoint. Returns what differs between then and now."""
        self.shape(read_progress(checkpoint).stage)
        differences = restore_checkpoint(checkpoint, self.state)
        self.translator.fade_in(self.share)
        if self.guard is not None:
            self.guard.unpack(self.progress.guard)
            if self.progress.clear is None:  # nobody watched until now, or the run had ended
                self.guard.memory.looked = self.guard.memory.clear = self.progress.images
        self.log.go_back(self.progress.images)
        best = self.progress.best
        if best is not None and (fault := verify(checkpoint_at(self.folder / "checkpoints", best.images))):
            self.log.tell("warning", f"warning: the best checkpoint, at {best.images:,} images, is lost: {fault}")
            self.progress.best, self.progress.since_best = None, 0
        return differences

    def stages(self) -> Iterator[Stage]:
        """The stages that are left, each entered; after the guard went back, from the one on that this led to."""
        number = self.progress.stage
        while number < len(self.recipe.stages) and not self.ended:
            self.rolled_back = False
            self.enter(number)
            yield self.recipe.stages[number]
            number = self.progress.stage if self.rolled_back else number + 1

    def enter(self, number: int) -> None:
        """Begin, or go on with, stage `number`."""
        stage = self.recipe.stages[number]
        if self.progress.stage != number:
            self.progress.stage, self.progress.stage_images = number, 0
        self.shape(number)
        self.translator.fade_in(self.share)
        if self.guard is not None and self.progress.stage_images == 0:
            self.guard.enter()
        choice = self.choices[number]
        self._use_plan(choice.plan, choice.asked)
        self.log.enter(number, stage, self.translator, choice.plan.name, choice.line, choice.peak_bytes)

    def batches(self, stage: Stage) -> Iterator[Batch]:
        """This process's share of every global batch that is left in the stage; sets the learning rate before each."""
        first = self.progress.images - self.progress.stage_images
        stream = batches(self.samples, seed=self.data_seed, start=self.progress.images, stop=first + stage.images,
                         batch_size=stage.batch_size, rank=self.accelerator.process_index,
                         world=self.accelerator.num_processes, workers=self.recipe.workers, size=stage.size,
                         resize=stage.resize, pin_memory=self.accelerator.device.type == "cuda")
        for batch in stream:
            if self.ended or self.rolled_back:
                return
            self._schedule(stage)
            yield batch.to(self.accelerator.device)

    @property
    def data_seed(self) -> int:
        """What the order of the data, and all chance of its samples, is drawn from: another one after each rollback."""
        seed, rollbacks = self.recipe.seed, self.progress.rollbacks
        return stable_hash(seed, "rollback", rollbacks) if rollbacks else seed

    def step(self, stage: Stage, batch: Batch) -> Update:
        """One step. The guard leaves it out, or what is left of it, where its numbers are not finite."""
        update = Update(self.translator, self.optimizers, self.accelerator, self.plan, self.precision,
                        stage.micro_batch, self.progress.stage_images // stage.batch_size, self.progress.images,
                        guarded=self.guard is not None)
        why_skipped = ""
        if self.guard is not None and self.progress.images == 0:
            self.save()  # what it goes back to before there is anything better
        try:
            with self.minding_memory(update):
                self.translator.step(batch, update)
        except NotFinite as error:
            why_skipped = str(error)
        if self.guard is not None:
            self.guard.note(update.observed, bool(update.overflowed), why_skipped)
            skipped = self.guard.memory.skipped
            if why_skipped and (skipped <= FEW or skipped % MANY == 0):
                self.log.tell("skipped", f"{self.progress.images:,} images: a step is left out, number {skipped:,} of "
                                         f"this run: {why_skipped}")
        return update

    def advance(self, num_images: int, update: Update) -> None:
        """After a step: count, average, let the guard judge, record and save, and stop if a signal asked for it."""
        self.translator.average(num_images)
        before = self.progress.images
        self.progress.images += num_images
        self.progress.stage_images += num_images
        self.translator.fade_in(self.share)
        self.log.note(update.losses, update.observed)
        # All processes agree: a signal may have reached only one of them, or them between different steps.
        stopping = in_any_process(bool(self.stop), self.accelerator)
        trouble = self._trouble(self._crossed(self.recipe.every.probe, before) or self.ended)
        if trouble is not None:
            self.roll_back(trouble)  # and nothing of what led here is kept
        else:
            self._keep(before, stopping)
        self.log.show_progress()
        if stopping:
            num = self.accelerator.num_processes
            launch = "translate" if num == 1 else f"torchrun --nproc_per_node {num} -m translate"
            raise Stopped(f"stopped by {self.stop.name} at {self.progress.images:,} images; everything "
                          f"is saved. Continue with: {launch} train --resume --run-dir {self.folder}")

    def _keep(self, before: int, stopping: bool) -> None:
        """Score, record, save and picture what is due since `before` images."""
        every = self.recipe.every
        better = not stopping and self.log.evaluate(self.translator)  # before a save, which then knows of it
        saving = better or self._crossed(every.checkpoint, before) or self.ended or stopping
        if self._crossed(every.log, before) or saving:  # before a save: a resume records what would have been recorded
            self.log.record_losses(self.optimizers["generator"].param_groups[0]["lr"])
        if saving:
            self.save()
        if self._crossed(every.sample, before) or self.ended:
            self.log.picture(self.translator)
        if self.progress.evaluated == self.progress.images and not self.ended:
            self.log.write_report()

    def _crossed(self, cadence: int | None, before: int) -> bool:
        return cadence is not None and self.progress.images // cadence > before // cadence

    def _trouble(self, looking: bool) -> Trouble | None:
        """What the guard sees, at a look and before one; every process hears the same."""
        probed = self.log.probe() if looking else {}
        if (guard := self.guard) is None:
            return None
        trouble = guard.despair()
        if trouble is None and looking:
            observed = guard.window.take(self.accelerator)
            if self.progress.images <= self.recipe.translator.pace.warmup:  # D alone is trained: it wins, as it should
                probed, observed = {}, {}
            trouble = by_main_process(lambda: guard.judge(self.progress.images, probed, observed), self.accelerator)
        return trouble

    def roll_back(self, trouble: Trouble) -> None:
        """Go back to the newest healthy checkpoint, and on from there with other data. Raises `Collapsed`."""
        guard = self.guard
        assert guard is not None
        images, count, most = self.progress.images, self.progress.rollbacks, guard.config.rollbacks
        checkpoints = self.folder / "checkpoints"
        self.log.tell("collapse", f"{images:,} images: {trouble}")
        healthy = by_main_process(lambda: healthy_checkpoint(checkpoints, guard.memory.clear), self.accelerator)
        if count >= most or healthy is None:
            tried = f"{count} rollbacks have not helped" if healthy else "there is no healthy checkpoint to go back to"
            raise Collapsed(f"given up at {images:,} images, {tried}. {trouble}. docs/training.md says what to change")
        if self.accelerator.is_main_process:
            discard_after(healthy)  # before anything else: a run that is killed here comes to the same place again
        self.load(healthy)
        self.progress.rollbacks = count + 1
        self.plan_stages(self.progress.stage)
        self.save()  # the count, in place of what was there
        self.rolled_back = True
        self.log.tell("rollback", f"back to the healthy checkpoint at {self.progress.images:,} images, and on with "
                                  f"other data: rollback {count + 1} of {most}")

    @contextmanager
    def minding_memory(self, update: Update) -> Iterator[None]:
        """Go on with the memory plan that a step ends with, also after a resume; name what fits under no plan."""
        stage = self.recipe.stages[self.progress.stage]
        try:
            yield
        except DoesNotFit as error:
            raise DoesNotFit(f"{planner.describe(self.progress.stage, stage)}: {error}; use a smaller resolution, "
                             "micro_batch or width (`translate plan` says what fits)") from None
        for note in update.notes:
            self.log.tell("memory", note)
        if update.plan != self.plan:
            self._use_plan(update.plan, None)

    def save(self) -> None:
        """Write a checkpoint, and the status."""
        self.progress.guard, self.progress.clear = {}, None
        if self.guard is not None:
            self.progress.guard = self.guard.pack()
            self.progress.clear = None if self.ended else self.guard.memory.clear  # from the end there is no way back
        save_checkpoint(self.folder / "checkpoints", self.state, self.recipe.keep_checkpoints)
        self._write_status("running")

    def finish(self) -> None:
        """Write the release: the newest generators, or the best where `evaluate.patience` lets the scores decide."""
        if self.why_stop:
            self.log.tell("early stop", self.why_stop)
        progress, chosen = self.progress, "last"
        if self.recipe.evaluate.patience is not None and (best := self.progress.best) is not None:
            checkpoint = checkpoint_at(self.folder / "checkpoints", best.images)
            progress = read_progress(checkpoint)
            chosen = f"best {best.metric} ({best.value:.5g}) of all that were evaluated"
            self.shape(progress.stage)
            read_networks(checkpoint, self.translator)
        if self.accelerator.is_main_process:
            write_release(self.folder / "release", self.recipe, self.translator, progress, chosen)
        self.accelerator.wait_for_everyone()
        self.log.tracker.close()

    @contextmanager
    def recording_status(self) -> Iterator[None]:
        """Keep `status.json` true: it says how the run ended even where a launcher changes the exit code."""
        self._write_status("running")
        try:
            yield
        except BaseException as error:
            stopped = isinstance(error, Stopped | KeyboardInterrupt)
            with suppress(DiskError):  # what ended the run matters more than that this cannot be written
                self._conclude("stopped" if stopped else "failed", f"{type(error).__name__}: {error}",
                               130 if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1))
            raise
        else:
            self._conclude("finished", self.why_stop, 0)
        finally:
            self.home.leave()

    def _choose_plan(self, number: int) -> planner.Choice:
        """Stage `number`'s memory plan and its prediction."""
        def choose() -> planner.Choice:
            before = self.home.memory_choices().get(str(number))
            return planner.choose_for_run(self.recipe, number, before, self.accelerator.device, self.precision,
                                          self.accelerator.num_processes, self.card)

        return by_main_process(choose, self.accelerator)

    def _use_plan(self, plan: memory.Plan, asked: dict[str, Any] | None) -> None:
        """Train and sample under `plan` from now on, and remember it. `asked`: what it was chosen by, where new."""
        self.plan = plan
        for network in self.translator.modules.values():
            memory.apply(plan, network, self.accelerator.num_processes)
        if self.accelerator.is_main_process:
            self.home.remember_memory(self.progress.stage, asked, plan)

    @property
    def ended(self) -> bool:
        """Whether all images have been seen, or the scores say that more of them do no good."""
        return self.progress.images >= self.recipe.num_images or bool(self.why_stop)

    @property
    def why_stop(self) -> str:
        """What the scores say for ending early; empty where they do not."""
        return self.progress.why_stop(self.recipe.evaluate.patience, self.recipe.num_images)

    @property
    def share(self) -> float:
        """The share of its images that the stage has seen."""
        return self.progress.stage_images / self.recipe.stages[self.progress.stage].images

    def _schedule(self, stage: Stage) -> None:
        factor = stage.lr.at(self.share)
        for phase, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = getattr(self.recipe.optimizer, phase).lr * factor

    def _conclude(self, state: str, message: str, exit_code: int) -> None:
        """The last words of a run, in its status and in its report."""
        self._write_status(state, message, exit_code)
        self.log.tracker.event(self.progress.images, state, message)
        if exit_code != 130:  # whoever presses Ctrl-C again is in a hurry
            self.log.write_report()

    def _write_status(self, state: str, message: str = "", exit_code: int | None = None) -> None:
        if self.accelerator.is_main_process:
            self.home.write_status({
                "state": state, "message": message, "exit_code": exit_code, "images": self.progress.images,
                "of": self.recipe.num_images, "stage": self.progress.stage,
                "best": self.progress.best and asdict(self.progress.best), "rollbacks": self.progress.rollbacks,
                "skipped_steps": self.guard.memory.skipped if self.guard is not None else 0})
