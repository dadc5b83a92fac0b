"""The loop of a training: a recipe goes in, a run folder comes out (`translate.runs.folder` says what lies in it).

A run is bit-identical on a CPU whether or not it was interrupted: the data are a function of (seed, image number), and
everything else that changes is in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from accelerate import Accelerator

from translate.agreement import by_main_process, in_any_process
from translate.data import Batch
from translate.data.scale import Shapes
from translate.errors import CheckpointError, Collapsed, Stopped, TranslateError
from translate.host.signals import minding_signals
from translate.places import RECIPE_FILE, data_root
from translate.precision import choose_precision
from translate.recipe import Recipe, Stage
from translate.runs.checkpoint import (
    checkpoint_at,
    discard_after,
    finish_replacements,
    healthy_checkpoint,
    newest_checkpoint,
    read_networks,
    read_progress,
    read_recipe,
    restore_checkpoint,
    save_checkpoint,
)
from translate.runs.folder import RunFolder, as_written, continued, refuse_changes, resume_command
from translate.runs.manifest import verify
from translate.runs.release import write_release
from translate.training.built import Built
from translate.training.guard import Guard, Trouble
from translate.training.late import JudgedUpdate, LateStep, judges_late
from translate.training.logbook import Logbook, Reporter
from translate.training.memory_plans import MemoryPlans
from translate.training.nodes import naming_the_lost
from translate.training.plan import refuse_what_has_no_room
from translate.training.processes import check_shares, make_accelerator
from translate.training.starting import Source, read_source
from translate.training.supply import Supply
from translate.training.update import NotFinite, Update


def train(recipe: Recipe, folder: Path, report: Reporter, *, resume: bool = False,
          gpu_memory: str | None = None) -> None:
    """Train a recipe; leave a run folder.

    recipe       what to train
    folder       the run folder
    report       who is told what happens
    resume       go on from the folder's newest checkpoint
    gpu_memory   the size of GPU that `memory: auto` chooses a plan for, such as 8GB; None: the GPU there is

    Raises `RunError` when the folder holds a run and `resume` is not set, or the other way round, `Stopped` after a
    SIGTERM or SIGINT (everything is saved), `DiskError` when a checkpoint cannot be written, `DoesNotFit` when a step
    runs out of memory under the leanest memory plan, `Collapsed` when the guard gives the training up.
    """
    # Checked before the folder is made: the recipe, its data, and the memory of every stage, also the last.
    accelerator = make_accelerator(recipe, folder)
    home = RunFolder(folder)
    if resume:
        recipe = continued(home.saved_recipe(), recipe)
    by_main_process(lambda: home.check(recipe, resume), accelerator)
    run = Run(recipe, home, accelerator, report, gpu_memory, None if resume else read_source(recipe))
    if not resume:
        report.say("choosing a memory plan for each stage")
        run.plans.choose(0)

    # From here on the folder is this run's.
    with closing(home), closing(run.plans):
        by_main_process(lambda: home.claim(recipe), accelerator)

        status = run.log.recording_status(lambda: run.skipped)
        with minding_signals() as stop, status, naming_the_lost(accelerator):
            run.supply.stop = stop
            run.begin(resume)
            for stage in run.stages():
                for batch in run.batches(stage):
                    run.step(stage, batch)
                    run.advance(len(batch) * accelerator.num_processes)
            run.finish()


class Run(Built):
    """One training: its folder, its state, its steps and all that happens between them."""

    def __init__(self, recipe: Recipe, home: RunFolder, accelerator: Accelerator, report: Reporter,
                 gpu_memory: str | None = None, source: Source | None = None):
        """Build everything. Raises `UsageError`, `DataError` or `MissingExtra` for what cannot be trained here."""
        self.home, self.folder = home, home.path
        check_shares(recipe, accelerator.num_processes)
        self.precision = choose_precision(recipe.precision, accelerator.device)
        self.plans = MemoryPlans(recipe, home, accelerator, self.precision, gpu_memory)
        refuse_what_has_no_room(recipe)
        super().__init__(recipe, accelerator, source)
        self.samples = recipe.data.build("train", data_root())
        recipe.data.refuse_missing_tests()
        self.shapes = Shapes(self.samples)
        self.log = Logbook(home, recipe, accelerator, self.precision, self.progress, report, self.shapes)
        self.guard = None if recipe.guard is None else Guard(
            recipe.guard, recipe.translator.objective.sure_scores, accelerator)
        self.rolled_back = False
        self.judges_late = self.guard is not None and judges_late(accelerator, self.optimizers)
        self.unsettled: LateStep | None = None  # the newest step, where it is not judged yet
        self.supply = Supply(self.samples, recipe.workers, accelerator, lambda line: self.log.tell("unreadable", line))

    def begin(self, resume: bool) -> None:
        """Open the trackers, and continue where an earlier process stopped."""
        self.log.tracker.open()
        if resume:
            self.restore()
            self.log.write_status("running", self.skipped)  # a kill from here on is one after this many images
        self.log.begin(resume, self.notes)
        if resume:
            self.plans.choose(self.progress.stage)
            if self.log.evaluate(self.translator):  # due, but a signal stopped the run before it
                self.save()
            self.log.time_left.scoring_ended()

    def restore(self) -> None:
        """Continue from the newest checkpoint that verifies; say which were refused, and what else is different."""
        # The newest that verifies. A run that was killed while it rolled back is put in order first.
        checkpoints = self.folder / "checkpoints"
        by_main_process(lambda: finish_replacements(checkpoints), self.accelerator)
        newest, refused = newest_checkpoint(checkpoints)
        for reason in refused:
            self.log.tell("warning", f"refused {reason}")

        # A run that was stopped before its first checkpoint begins again; one whose checkpoints are all bad does not.
        if newest is None:
            if refused:
                raise CheckpointError(f"none of its {len(refused)} checkpoints verifies", self.folder)
            self.log.tell("warning", f"{self.folder}: stopped before its first checkpoint; starting again")
            self.log.tracker.resume_at(0)
            self.build(read_source(self.recipe))
            return

        for difference in self.load(newest):
            self.log.tell("warning", f"warning: the run may not repeat bit for bit: {difference}")
        self.log.report.say(f"resumed at {self.progress.images:,} images from {newest}")

    def load(self, checkpoint: Path) -> list[str]:
        """Put the run into the state of a checkpoint. Return what differs between then and now.

        Raises `RunError`, which names what differs, for a checkpoint that was trained by another recipe.
        """
        trained_by = read_recipe(checkpoint)
        if trained_by is not None:
            refuse_changes(as_written(trained_by), self.recipe, checkpoint,
                           f"undo the changes in {self.folder / RECIPE_FILE}, or remove this checkpoint if it is of "
                           "another run")
        self.match_stage_shape(read_progress(checkpoint, len(self.recipe.stages)).stage)
        differences = restore_checkpoint(checkpoint, self.state)
        self.translator.fade_in(self.progress.share(self.recipe))

        # The guard and the log go on from where they were then.
        if self.guard is not None:
            self.guard.unpack(self.progress.guard)
            # No healthy point is stored (no guard before, or the run had ended): count this one as healthy.
            if self.progress.healthy_at is None:
                self.guard.count_as_healthy(self.progress.images)
        self.log.go_back(self.progress.images)

        # The best checkpoint is kept beside this one, and may have been damaged since.
        best = self.progress.best
        if best is not None and (fault := verify(checkpoint_at(self.folder / "checkpoints", best.images))):
            self.log.tell("warning", f"warning: the best checkpoint, at {best.images:,} images, is lost: {fault}")
            self.progress.best, self.progress.since_best = None, 0
        return differences

    def stages(self) -> Iterator[Stage]:
        """Start and yield the stages that are left; after a rollback, from the stage on that it led to."""
        number = self.progress.stage
        while number < len(self.recipe.stages) and not self.ended:
            self.rolled_back = False
            self.start_stage(number)
            yield self.recipe.stages[number]
            number = self.progress.stage if self.rolled_back else number + 1

    def start_stage(self, number: int) -> None:
        """Begin, or go on with, stage `number`."""
        self.settle()
        stage = self.recipe.stages[number]
        if self.progress.stage != number:
            self.progress.stage, self.progress.stage_images = number, 0
        self.progress.scales = self.shapes.scales(self.recipe.fitting(stage))
        self.match_stage_shape(number)
        self.translator.fade_in(self.progress.share(self.recipe))
        if self.guard is not None and self.progress.stage_images == 0:
            self.guard.forget_scales()
        choice = self.plans.apply(number, self.translator)
        with self.saving_first():
            self.supply.together(lambda: self.log.stage_began(number, stage, self.translator, choice,
                                                              self.plans.paces(number, self.samples)))

    def batches(self, stage: Stage) -> Iterator[Batch]:
        """Yield this process's share of every global batch left in the stage; set the learning rate before each."""
        # Closed by name: an error that leaves here holds the stream, and its workers, until the process has ended.
        left = stage.images - self.progress.stage_images
        seed = self.progress.data_seed(self.recipe)
        with closing(self.supply.stream(stage, seed, self.progress.images, left)) as stream:
            while not (self.ended or self.rolled_back):
                with self.saving_first():
                    batch = self.supply.next(stream)
                if batch is None:
                    return
                self.schedule(stage)
                yield batch.to(self.accelerator.device)

    @contextmanager
    def saving_first(self) -> Iterator[None]:
        """Save what there is before an error of the block goes on, which must be one of all processes, or a stop."""
        try:
            yield
            if self.supply.is_stopping:
                raise self.supply.stopped(self.progress.images, self.folder)
        except TranslateError as error:
            images = self.progress.images
            if images and not checkpoint_at(self.folder / "checkpoints", images).is_dir():
                self._record_losses()
                self.save()
            if images and not isinstance(error, Stopped):
                command = resume_command(self.folder, self.accelerator.num_processes)
                error.saved = (f"everything is saved, up to {images:,} images. Without the fault it goes on with: "
                               f"{command}")
                self.log.tracker.event(images, "saved", error.saved)  # said by whoever says what the fault is
            raise

    def step(self, stage: Stage, batch: Batch) -> Update:
        """Do one step. With a guard, a phase whose numbers are not finite is undone, and the rest of the step skipped.

        Where steps are judged late, it is the step before that is judged, and counted, once this one is launched.
        """
        update = Update(self.translator, self.optimizers, self.accelerator, self.plans.current, self.precision,
                        stage.micro_batch, self.progress.stage_images // stage.batch_size, self.progress.images,
                        guarded=self.guard is not None, late=self.judges_late, settle=self.settle)

        # The first place to roll back to, once there is a batch: a start that finds none leaves nothing in the way.
        if self.guard is not None and self.progress.images == 0:
            self.save()

        # The step itself, under the stage's memory plan or, if that runs out of memory, a leaner one.
        why_skipped = ""
        with self.plans.minding(update, self.progress.stage, self.translator):
            try:
                self.translator.step(batch, update)
            except NotFinite as error:
                why_skipped = str(error)
        for note in update.notes:
            self.log.tell("memory", note)

        late = LateStep(update) if self.judges_late else None
        self.settle()
        self.unsettled = late
        if late is None:
            self._count(update, why_skipped)
        return update

    def settle(self) -> None:
        """Judge and count the newest step, if that has not been done: wait until the device has done it."""
        step, self.unsettled = self.unsettled, None
        if step is not None:
            self._count(step.update, step.judge())

    def _count(self, update: JudgedUpdate, why_skipped: str) -> None:
        """Gather what a step recorded for the log and the guard; tell of one that was left out."""
        self.log.note(update.losses, update.observed)
        if self.guard is not None:
            line = self.guard.note(update.observed, bool(update.overflowed), why_skipped)
            if line is not None:
                self.log.tell("skipped", f"{update.images:,} images: {line}", update.images)

    def advance(self, num_images: int) -> None:
        """End a step: count, average, let the guard look, record, save. Raises `Stopped` if a signal asked for it."""
        # Count the images, of the run and of its stage.
        self.translator.update_ema(num_images, self.progress.images)
        images_before = self.progress.images
        self.progress.images += num_images
        self.progress.stage_images += num_images
        self.translator.fade_in(self.progress.share(self.recipe))

        # A signal may reach one process, or several at different steps: all agree now.
        stopping = in_any_process(bool(self.supply.stop), self.accelerator)

        # A training that has collapsed goes back, and nothing of what led here is recorded or saved.
        trouble = self._look_with_guard(images_before, stopping)
        if trouble is not None:
            self.roll_back(trouble)
        else:
            self._record_and_save(images_before, stopping)

        self.log.show_progress()
        if stopping:
            raise self.supply.stopped(self.progress.images, self.folder)

    def _look_with_guard(self, images_before: int, stopping: bool) -> Trouble | None:
        """Probe the generators where that is due; return what the guard says of the training, None where all is well.
        """
        looking = self._is_due(self.recipe.every.probe, images_before) or self.ended
        if looking or stopping or self._is_due(self.recipe.every.checkpoint, images_before):
            self.settle()  # what is saved has been judged, all of it
        probed = self.log.probe() if looking and self.translator.has_begun_to_draw else {}
        if self.guard is None:
            return None
        warming_up = self.progress.images <= self.recipe.translator.pace.warmup
        return self.guard.trouble(self.progress.images, looking, probed, warming_up)

    def _record_and_save(self, images_before: int, stopping: bool) -> None:
        """Score, record, save and picture what has come due since `images_before`."""
        # Record first, then save: the checkpoint counts these records, so a resume writes none twice.
        every = self.recipe.every
        better = not stopping and self.log.evaluate(self.translator)
        saving = better or self._is_due(every.checkpoint, images_before) or self.ended or stopping
        if self._is_due(every.log, images_before) or saving:
            self._record_losses()
        if saving:
            self.save()

        # Pictures and the report, for people.
        if (self._is_due(every.sample, images_before) and self.translator.has_begun_to_draw) or self.ended:
            self.log.picture(self.translator)
        if self.progress.evaluated == self.progress.images and not self.ended:
            self.log.write_report()

    def _record_losses(self) -> None:
        self.settle()
        self.log.record_losses(self.optimizers["generator"].param_groups[0]["lr"])

    def _is_due(self, cadence: int | None, images_before: int) -> bool:
        return cadence is not None and self.progress.images // cadence > images_before // cadence

    def roll_back(self, trouble: Trouble) -> None:
        """Go back to the newest healthy checkpoint, and on from there with other data. Raises `Collapsed`."""
        # Find the newest healthy checkpoint; give up where there is none, or after too many rollbacks.
        self.settle()
        guard = self.guard
        assert guard is not None
        images, count, most = self.progress.images, self.progress.rollbacks, guard.config.rollbacks
        checkpoints = self.folder / "checkpoints"
        self.log.tell("collapse", f"{images:,} images: {trouble}")
        healthy = by_main_process(lambda: healthy_checkpoint(checkpoints, guard.last_healthy), self.accelerator)
        if count >= most or healthy is None:
            tried = f"{count} rollbacks have not helped" if healthy else "there is no healthy checkpoint to go back to"
            raise Collapsed(f"given up at {images:,} images, {tried}. {trouble}. docs/training.md says what to change")

        # Delete the later checkpoints first: a run killed from here on finds this one as its newest.
        by_main_process(lambda: discard_after(healthy), self.accelerator)
        self.load(healthy)
        self.progress.rollbacks = count + 1
        self.plans.choose(self.progress.stage)
        self.save()  # replaces the checkpoint by one that counts this rollback
        self.rolled_back = True
        self.log.tell("rollback", f"back to the healthy checkpoint at {self.progress.images:,} images, and on with "
                                  f"other data: rollback {count + 1} of {most}")

    def save(self) -> None:
        """Write a checkpoint, and the status."""
        self.settle()
        self.progress.guard, self.progress.healthy_at = {}, None
        if self.guard is not None:
            self.progress.guard = self.guard.pack()
            if not self.ended:  # one that has ended never rolls back
                self.progress.healthy_at = self.guard.last_healthy
        save_checkpoint(self.folder / "checkpoints", self.state, self.recipe.keep_checkpoints)
        self.log.write_status("running", self.skipped)

    def finish(self) -> None:
        """Write the release and close the trackers."""
        if why := self.progress.why_stop(self.recipe):
            self.log.tell("early stop", why)

        # Release the newest generators or the best? With `evaluate.patience` the scores decide.
        progress, chosen = self.progress, "last"
        if self.recipe.evaluate.patience is not None and (best := self.progress.best) is not None:
            checkpoint = checkpoint_at(self.folder / "checkpoints", best.images)
            progress = read_progress(checkpoint)
            chosen = f"best {best.metric} ({best.value:.5g}) of all that were evaluated"
            self.match_stage_shape(progress.stage)
            read_networks(checkpoint, self.translator)

        by_main_process(lambda: write_release(self.folder / "release", self.recipe, self.translator, progress, chosen),
                        self.accelerator)
        self.log.tracker.close()

    @property
    def ended(self) -> bool:
        """Whether all images have been seen, or the scores say that more of them do no good."""
        return self.progress.has_ended(self.recipe)

    @property
    def skipped(self) -> int:
        """The number of steps that the guard has left out."""
        return 0 if self.guard is None else self.guard.state.skipped
