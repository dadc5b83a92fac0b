"""What a training shows of itself: its losses, its scores, the same held-out images over time, and its report.

Nothing here changes the training. A picture that does not fit, a test image that cannot be read or a report that cannot
be drawn is a warning and no reason to lose a week of work.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from typing import Protocol

from accelerate import Accelerator
from torch import Tensor

from translate.agreement import by_main_process
from translate.data import Sample, Samples, held_out
from translate.data.label_counts import MAX_MAPS_BEFORE_TRAINING
from translate.data.pairing import names_of
from translate.data.scale import Shapes, scales_in_words
from translate.data.stream import hint_at_truth
from translate.errors import DataError, DiskError, DoesNotFit, Stopped, TranslateError
from translate.evaluation import prices
from translate.evaluation.heldout import Evaluator
from translate.evaluation.in_words import scores_in_words
from translate.images.listing import no_files_beside
from translate.metrics.observations import MEASURES
from translate.places import RECIPE_FILE, data_root
from translate.precision import Format, autocast, is_out_of_memory
from translate.recipe import Recipe, Stage
from translate.report import Showcase, write_report
from translate.runs.folder import RunFolder
from translate.runs.progress import Progress
from translate.runs.records import Tracker, sample_grid
from translate.sampling.sheets import training_sheet
from translate.training.hours import Pace, end_in_words
from translate.training.machine import describe_machine, take_peak_bytes
from translate.training.plan import Choice
from translate.training.probe import Probe
from translate.training.processes import Means
from translate.training.time_left import TimeLeft
from translate.translators import Translator

NUM_SAMPLES = 4  # held-out images in a grid
MOST_CROPS = 4  # of a sample, as many pixels are shown as so many crops of the training have: more would cost more
ALWAYS_WHOLE_PIXELS = 512 * 512  # pixels of a sample that is shown whole all the same
MUCH_SCORING = 0.25  # of the time of a training: more is said
PLATEAU_EVALUATIONS = 5  # without a better one, after which a person is told


class Reporter(Protocol):
    """Who is told what happens. The command line shows it; a program may pass its own."""

    def say(self, line: str) -> None:
        """Tell one thing worth knowing."""

    def progress(self, images: int, total: int, stage: str, losses: dict[str, float],
                 seconds_left: float | None = None, stage_number: int = 0) -> None:
        """Tell how far a training is, after every step: the latest means of losses, and the seconds left, if known."""

    def scoring(self, done: int, total: int) -> None:
        """Tell how many images of how many an evaluation has looked at, first 0. The training waits for it."""


class Logbook:
    """Records one training in its run folder and tells `report` about it. Every process calls all methods alike."""

    def __init__(self, home: RunFolder, recipe: Recipe, accelerator: Accelerator, precision: Format,
                 progress: Progress, report: Reporter, shapes: Shapes):
        """Open the book of the run in `home`, which trains on the samples of these `shapes`.

        Raises `DataError` where the scores that the recipe decides by cannot be had, or where nothing can be learnt
        from the label maps of a run that has not begun; `MissingExtra` for a tracker.
        """
        self.home, self.folder, self.recipe = home, home.path, recipe
        self.accelerator, self.precision, self.progress, self.report = accelerator, precision, progress, report
        self.samples = shapes.samples
        self.begun = (self.folder / "checkpoints").is_dir()  # a version before may have seen to less
        self.notes = [] if self.begun else by_main_process(lambda: self._look_at_labels(shapes.samples), accelerator)
        if not self.begun:
            enlarged = shapes.enlarged([recipe.fitting(stage) for stage in recipe.stages])
            self.notes += [("warning", f"warning: {line}") for line in enlarged]
        self.unscored = ""  # why there are no scores, where there could be some
        self.evaluator = self._make_evaluator()
        held_out = self.evaluator.held_out.samples if self.evaluator else self.samples
        if left_out := no_files_beside([*self.samples.files_a, *self.samples.files_b,
                                        *held_out.files_a, *held_out.files_b]):
            self.notes.append(("warning", f"warning: {len(left_out):,} among the images are pipes, sockets or devices, "
                                          f"and are left out: {names_of(left_out)}"))
        self.showcase = Showcase.unscored(self.folder, recipe) if self.unscored else None
        if self.evaluator:
            self.showcase = Showcase(self.folder, self.evaluator.held_out, recipe.translator.needs_sources)
        self.tracker = Tracker(self.folder, recipe, accelerator, lambda line: self.tell("warning", line))
        self._probe: Probe | None = None
        self._losses, self._observed, self._shown = Means(), Means(), dict[str, float]()
        self.time_left = TimeLeft(recipe, self.evaluator.schedule if self.evaluator else None)
        self._held_out, self._since = list[Sample](), (self.time_left.clock(), 0)

    def begin(self, resumed: bool, notes: Sequence[str] = ()) -> None:
        """Make the first entry: on what, and with what, the training begins or goes on. `notes` say with whose weights.
        """
        self.tracker.event(self.progress.images, "resumed" if resumed else "started",
                           num_processes=self.accelerator.num_processes, precision=self.precision,
                           **describe_machine(self.accelerator.device))
        for line in self._in_short():
            self.report.say(line)
        if self.home.death:
            self.tell("died", self.home.death)
        for what, line in (*self.notes, *(("start", note) for note in notes)):
            self.tell(what, line)
        then, now = self.progress.trained_on, self.samples.counted()
        if then and then != now:
            self.tell("data", f"warning: the images to train on are not those of before ({then['a']:,} + {then['b']:,} "
                              f"files then, {now['a']:,} + {now['b']:,} now): the run goes on with those that are "
                              "there, and does not repeat bit for bit")
        self.progress.trained_on = now

    def _in_short(self) -> Iterator[str]:
        """Yield in a line each on what is trained, by what, and until when."""
        # Of unpaired sides either has its number; of held-out images those that are scored.
        (a, b), held_out = (len(side) for side in (self.samples.files_a, self.samples.files_b)), self.evaluator
        pairs = f"{a:,} pairs of images" if self.recipe.data.has_sources else f"{b:,} images"
        trained = pairs if self.samples.paired else f"{a:,} + {b:,} images"
        why = ", as every.evaluate is null" * (self.recipe.every.evaluate is None)
        scored = f"nothing is scored{why}" if held_out is None else (
            f"{len(held_out.held_out.sources):,} + {len(held_out.held_out.reals):,} held-out ones are "
            f"scored {held_out.schedule.in_words(self.recipe.num_images)} (every.evaluate, evaluate.images)")
        yield f"data: {trained} to train on; {scored}"
        if held_out is not None and (share := held_out.schedule.share) > MUCH_SCORING:
            yield (f"scoring may take about {share:.1g} times as long as all of the training: fewer images with "
                   "--set evaluate.images=N, none with --set every.evaluate=null")
        processes = f" × {self.accelerator.num_processes}" * (self.accelerator.num_processes > 1)
        yield f"device: {self.accelerator.device}{processes}, {self.precision}"
        total = self.recipe.num_images
        yield (f"end: after {total:,} images, each of these shown {total / len(self.samples):,.1f} times; the time "
               f"left is shown as it goes. The recipe with all its defaults: {self.folder / RECIPE_FILE}")

    def tell(self, what: str, line: str, images: int | None = None) -> None:
        """Say one thing worth knowing, and keep it for the report, as of now or of `images` images."""
        self.report.say(line)
        self.tracker.event(self.progress.images if images is None else images, what, line)

    def stage_began(self, number: int, stage: Stage, translator: Translator, choice: Choice, paces: Sequence[Pace]
                    ) -> None:
        """Tell that stage `number` begins or goes on under the memory plan of `choice`.

        `paces` are predicted: of it and of each one that follows.
        """
        self._losses, self._observed, self._shown = Means(), Means(), {}  # the stage before may have had other losses
        self.time_left.begin_stage(number, paces)
        if self.evaluator:
            self.time_left.expect(partial(prices.measured, self.evaluator, translator))
        height, width = stage.size
        self._show(stage, translator, max(MOST_CROPS * height * width, ALWAYS_WHOLE_PIXELS))
        shown = scales_in_words(self.progress.scales)
        self.report.say(f"stage {number + 1} of {len(self.recipe.stages)}: crops of {height}×{width} px{stage.level}, "
                        f"{stage.images:,} images, batch {stage.batch_size}; images are shown at {shown}")
        self.report.say(f"memory: {choice.line}")
        ahead = end_in_words(self.recipe.stages[number:], paces, self.progress.stage_images, datetime.now())
        self.report.say(f"time, as predicted for a machine that does nothing else, scoring not counted: {ahead}. The "
                        "time left that is shown from here on goes by what is measured, and counts scoring")
        self.tracker.event(self.progress.images, "stage", f"memory {choice.line}", stage=number, plan=choice.plan.name,
                           predicted_bytes=choice.peak_bytes, shown=shown)

    def _show(self, stage: Stage, translator: Translator, most_pixels: int) -> None:
        """Choose what the probe and the sample grids show: held-out samples as the stage shows images, but whole.

        Of those with more than `most_pixels` it is the middle.
        """
        self._held_out = held_out(self.recipe.data, data_root(), NUM_SAMPLES, self.recipe.fitting(stage), most_pixels)
        self._probe = Probe(self._held_out, translator, self.recipe.translator.needs_pairs, self.accelerator.device,
                            self.precision)

    def note(self, losses: dict[str, Tensor], observed: dict[str, Tensor]) -> None:
        """Gather the losses of a step and what else it observed; not every step has all of either."""
        self._losses.add(losses)
        self._observed.add(observed)

    def record_losses(self, lr: float) -> None:
        """Record the means of all that was gathered since the last time."""
        self._shown = self._losses.take(self.accelerator)
        (then, images), now = self._since, self.time_left.clock()  # a training's speed is that of its steps
        speed = (self.progress.images - images) / (now - then) if images else 0.0
        self._since = (now, self.progress.images)
        self.tracker.record(self.progress.images, "train", self._shown | {
            "lr": lr, "images_per_second": speed, "peak_bytes": take_peak_bytes(self.accelerator.device)},
            stage=self.progress.stage)
        self.tracker.record(self.progress.images, "game", self._observed.take(self.accelerator),
                            stage=self.progress.stage)

    def probe(self) -> dict[str, float]:
        """Look at the held-out samples as they are translated now, see `translate.training.probe`; record what is seen.

        All processes get what the main one sees.
        """
        seen = by_main_process(self._look, self.accelerator)
        if seen:
            self.tracker.record(self.progress.images, "probe", seen, stage=self.progress.stage)
        return seen

    def _look(self) -> dict[str, float]:
        with self._going_on_without("look at the probe"):
            return {} if self._probe is None else self._probe()
        return {}

    @contextmanager
    def _going_on_without(self, what: str) -> Iterator[None]:
        """End the block with a warning where it runs out of memory; then less of the samples is shown from now on."""
        try:
            yield
        except (RuntimeError, MemoryError, DoesNotFit) as error:
            if not isinstance(error, DoesNotFit) and not is_out_of_memory(error):
                raise
            self.tell("warning", f"warning: no {what} at {self.progress.images:,} images: out of memory")
            stage = self.recipe.stages[self.progress.stage]
            if self._probe is not None:
                self._show(stage, self._probe.translator, math.prod(stage.size))

    def go_back(self, num_images: int) -> None:
        """Go back to `num_images`: forget what was recorded and gathered since."""
        self._losses, self._observed, self._shown = Means(), Means(), {}
        self._since = (self.time_left.clock(), num_images)
        self.tracker.resume_at(num_images)
        self.time_left.went_back()

    def show_progress(self) -> None:
        """Say where the training stands."""
        at = self.recipe.stages[self.progress.stage]
        stage = f"stage {self.progress.stage + 1}/{len(self.recipe.stages)}"
        if at.fade:
            stage += f", level {at.levels} α {self.progress.stage_images / at.images:.2f}"
        self.time_left.advanced(self.progress.stage_images)
        self.report.progress(self.progress.images, self.recipe.num_images, stage, self._shown,
                             self.time_left.seconds(self.progress.images, self.progress.stage_images),
                             self.progress.stage)

    def picture(self, translator: Translator) -> None:
        """Add a grid of the held-out samples as they are translated now, or of what is drawn from noise."""
        if not self._held_out or not self.accelerator.is_main_process:
            return
        with self._going_on_without("picture"):
            with autocast(self.accelerator.device, self.precision):
                grid = sample_grid(translator, self._held_out, self.accelerator.device,
                                   labels=self.recipe.data.labelling is not None) if translator.needs_sources else \
                    training_sheet(translator, self.recipe, self._held_out, self.accelerator.device)
            self.tracker.picture(self.progress.images, grid)

    def evaluate(self, translator: Translator) -> bool:
        """Score the held-out images when it is time to. Return whether this is the best so far, to be saved then."""
        progress = self.progress
        if self.evaluator is None:
            self._show_unscored(translator)
        if self.evaluator is None or not self._evaluation_is_due(self.evaluator.schedule.cadence):
            return False
        progress.evaluated = progress.images
        start = time.monotonic()
        self.time_left.scoring_began(progress.stage)
        fitting = self.recipe.fitting(self.recipe.stages[progress.stage])
        if self.showcase is not None and self.accelerator.is_main_process:
            self.showcase.show_at(self.evaluator.held_out.shown(fitting).side)
        self.accelerator.wait_for_everyone()
        try:
            keep = None if self.showcase is None else partial(self.showcase.keep, deform=translator.deformation)
            scored = self.evaluator(translator, fitting, keep, self.report.scoring)
        except TranslateError as error:
            self.time_left.scoring_ended(failed=True)
            self.tell("warning", f"warning: no scores at {progress.images:,} images: {error}")
            return False

        # The best so far? Networks that have not all their levels yet are no measure.
        scores, num_images = scored.shown, scored.num_images
        held_out, metric = self.evaluator.held_out, self.evaluator.metric
        if progress.best is not None and progress.best.images <= self.recipe.complete_from:
            progress.best, progress.since_best = None, 0  # a level was added to the recipe since
        is_first = progress.best is None
        counts = metric in scores and progress.images > self.recipe.complete_from
        better = progress.compare(metric, scores[metric].value if counts else None, num_images, scored.side,
                                  held_out.side, MEASURES[metric].better == "higher")

        # What metrics.jsonl, people and the report are told.
        best = progress.best
        self.tracker.record(
            progress.images, "evaluation", {name: score.value for name, score in scores.items()}, stage=progress.stage,
            num_held_out=num_images, decided_by=metric, best=best and best.model_dump(),
            since_best=progress.since_best, seconds=time.monotonic() - start, side=scored.side, own_side=held_out.side,
            verdict=scored.verdict, own_size={name: score.finite for name, score in scored.own_size.items()},
            intervals={name: score.interval for name, score in scores.items() if score.interval is not None})
        at = f" at {scored.side} px" if scored.own_size else ""
        said = [f"{progress.images:,} images, held out{at}: {scores_in_words(scores, num_images)}",
                f"by {MEASURES[metric].name} {scored.verdict}" if scored.verdict else "",
                "" if not better else "the first evaluation" if is_first else "the best so far"]
        self.report.say("; ".join(filter(None, said)))
        if scored.own_size:
            self.report.say(f"  in their own size, {held_out.side} px: {scores_in_words(scored.own_size, num_images)}")
        if scored.missing:
            self.tell("warning", f"warning: no scores of held-out images in their own size at {progress.images:,} "
                                 f"images: {scored.missing}")
        stopping = progress.why_stop(self.recipe)
        if progress.since_best == PLATEAU_EVALUATIONS and best is not None and not stopping:
            self.tell("plateau", f"{MEASURES[metric].name} has not got better in {PLATEAU_EVALUATIONS} evaluations; it "
                                 f"was best at {best.images:,} images, and that checkpoint is kept")
        if (self.showcase is not None and self.accelerator.is_main_process
                and (fault := self.showcase.note(progress.images, scored.side, better))):
            self.report.say(f"warning: not all held-out images could be kept for the report: {fault}")
        return better

    def _show_unscored(self, translator: Translator) -> None:
        """Keep pictures of held-out images for the report, at the end of a training that has no scores."""
        images, fitting = self.progress.images, self.recipe.fitting(self.recipe.stages[self.progress.stage])
        if self.showcase and images >= self.recipe.num_images and self.accelerator.is_main_process:
            with self._going_on_without("pictures of held-out images"):
                self.showcase.make(translator, fitting, self.accelerator.device, self.precision, images)

    def write_report(self) -> None:
        """Write the page of the run as it stands. A fault in it is no reason to lose a training."""
        if not self.accelerator.is_main_process:
            return
        start = time.monotonic()
        try:
            write_report(self.folder)
            self.tracker.event(self.progress.images, "report", seconds=round(time.monotonic() - start, 3))
        except Exception as error:
            self.report.say(f"warning: no report: {type(error).__name__}: {error}")

    @contextmanager
    def recording_status(self, skipped: Callable[[], int]) -> Iterator[None]:
        """Keep `status.json` true: it says how the run ended even where a launcher changes the exit code.

        `skipped` tells how many steps the guard has left out.
        """
        self.write_status("running", skipped())
        try:
            yield
        except BaseException as error:
            stopped = isinstance(error, Stopped | KeyboardInterrupt)
            with suppress(DiskError):  # what ended the run matters more than that this cannot be written
                self._conclude("stopped" if stopped else "failed", skipped(), f"{type(error).__name__}: {error}",
                               130 if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1))
            raise
        else:
            why_early = self.progress.why_stop(self.recipe)
            self._conclude("finished", skipped(), why_early, 0)

    def write_status(self, state: str, skipped: int, message: str = "", exit_code: int | None = None) -> None:
        """Write how far the run is, and how it is going."""
        if self.accelerator.is_main_process:
            progress = self.progress
            self.home.write_status({
                "state": state, "message": message, "exit_code": exit_code, "images": progress.images,
                "of": self.recipe.num_images, "stage": progress.stage,
                "best": progress.best and progress.best.model_dump(), "rollbacks": progress.rollbacks,
                "skipped_steps": skipped, "host": platform.node()})

    def _conclude(self, state: str, skipped: int, message: str, exit_code: int) -> None:
        """Write how the run ended into its status and its report."""
        self.write_status(state, skipped, message, exit_code)
        self.tracker.event(self.progress.images, state, message)
        if exit_code != 130:  # whoever presses Ctrl-C again is in a hurry
            self.write_report()

    def _look_at_labels(self, samples: Samples) -> list[tuple[str, str]]:
        """Return what to `tell` of the label maps that are trained on, an even part of many; of none nothing.

        Raises `DataError` where nothing could be learnt from them.
        """
        if (counts := samples.count_labels(MAX_MAPS_BEFORE_TRAINING)) is None or not counts.num_labels:
            return []
        if (fault := counts.fault()) is not None:
            raise DataError(f"label maps: {fault}", self.recipe.data.place(data_root()),
                            counts.advice("data in the recipe"))
        return [("data", f"label maps: {counts}"),
                *(("warning", f"warning: label maps: {line}") for line in counts.warnings())]

    def _make_evaluator(self) -> Evaluator | None:
        """Return None where nothing can be scored and the recipe does not insist. Raises `DataError` where it does.

        A run that has begun goes on all the same: a version before may have taken other images for the truth.
        """
        if self.recipe.every.evaluate is None:
            return None
        if not self.begun and (hint := hint_at_truth(self.recipe.data, data_root())):
            self.notes.append(("data", hint))
        try:
            return Evaluator(self.recipe, self.accelerator, self.precision, lambda line: self.tell("unreadable", line))
        except DataError as error:
            if self.recipe.needs_test_images and not self.begun:
                raise
            error.recipe = str(self.folder / RECIPE_FILE)  # the run's, which a training that goes on reads
            self.unscored = f"no held-out scores: {error}"
            self.notes.append(("warning", self.unscored))
            return None

    def _evaluation_is_due(self, cadence: int) -> bool:
        images, evaluated = self.progress.images, self.progress.evaluated
        return images // cadence > evaluated // cadence or (images >= self.recipe.num_images and images != evaluated)
