"""Training: a recipe goes in, a run folder comes out.

    runs/<name>/
      recipe.yaml      the resolved recipe          metrics.jsonl   losses and scores, one line a record
      status.json      running, stopped, finished   samples/        grids of the same held-out images over time
      checkpoints/     the newest few, verified     release/        the generators to give away, written at the end
      memory.json      the memory plan of each stage, for a resume

A run is bit-identical on a CPU whether or not it was interrupted: the data are a function of (seed, image number), and
everything else that changes is in the checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from translate import plan as planner
from translate.checkpoint import Progress, RunState, newest_checkpoint, restore_checkpoint, save_checkpoint
from translate.data import Batch, LabelsConfig, batches, data_root, held_out, test_pairs
from translate.errors import CheckpointError, DiskError, DoesNotFit, Stopped, TranslateError, UsageError
from translate.evaluate import score_held_out
from translate.networks import memory
from translate.precision import autocast, choose_precision
from translate.recipe import Recipe, Stage
from translate.release import write_release
from translate.runs import RunFolder
from translate.signals import StopRequest, minding_signals
from translate.tracking import Tracker, sample_grid
from translate.update import Update

NUM_SAMPLES = 4  # held-out images in a grid


class Reporter(Protocol):
    """Who is told what happens. The command line shows it; a program may pass its own."""

    def say(self, line: str) -> None:
        """One thing worth knowing."""

    def progress(self, images: int, total: int, stage: str, losses: dict[str, float]) -> None:
        """Called after every step; `losses` are the latest recorded means."""


def train(recipe: Recipe, folder: Path, report: Reporter, *, resume: bool = False, card: str | None = None) -> None:
    """Train `recipe` in the run folder `folder`, from its newest checkpoint when `resume` is set.

    `card` is the size of the card that `memory: auto` chooses for, such as 8GB; None: the one there is. Raises
    `RunError` when the folder holds a run and `resume` is not set, or the other way round, `Stopped` after a SIGTERM
    or SIGINT (everything is saved), `DiskError` when a checkpoint cannot be written, `DoesNotFit` when a step runs out
    of memory under the leanest memory plan.
    """
    accelerator = make_accelerator(recipe, folder)
    home = RunFolder(folder)
    if accelerator.is_main_process:
        home.check(recipe, resume)
    accelerator.wait_for_everyone()
    run = Run(recipe, home, accelerator, report, card)  # mistakes in recipe and data end here, and leave no folder
    if accelerator.is_main_process:
        home.claim(recipe)
    with run.recording_status(), minding_signals() as run.stop:
        run.begin(resume)
        for number in range(run.progress.stage, len(recipe.stages)):
            stage = recipe.stages[number]
            run.enter(number)
            for batch in run.batches(stage):
                update = Update(run.translator, run.optimizers, accelerator, run.plan, run.precision, stage.micro_batch,
                                run.progress.stage_images // stage.batch_size, run.progress.images)
                with run.minding_memory(update):
                    run.translator.step(batch, update)
                run.advance(len(batch) * accelerator.num_processes, update.losses)
        run.finish()


class Run:
    """One training: its folder, its state, and all that happens between two steps."""

    def __init__(self, recipe: Recipe, home: RunFolder, accelerator: Accelerator, report: Reporter,
                 card: str | None = None):
        self.recipe, self.home, self.accelerator, self.report, self.card = recipe, home, accelerator, report, card
        self.folder = home.path
        torch.manual_seed(recipe.seed)
        self.translator = recipe.translator.build(recipe.data.channels_a, recipe.data.channels_b, recipe.seed)
        prepare_for_processes(self.translator.modules, accelerator)
        self.translator.to(accelerator.device)
        self.precision = choose_precision(recipe.precision, accelerator.device)
        self.optimizers = {phase: getattr(recipe.optimizer, phase).build(
            parameter for network in networks.values() for parameter in network.parameters())
            for phase, networks in self.translator.phases.items()}
        self.progress = Progress()
        self.state = RunState(self.progress, self.translator, self.optimizers, accelerator)
        self.samples = recipe.data.build("train", data_root())
        if recipe.every.evaluate:
            test_pairs(recipe.data, data_root())  # raises now what would end the run at its first evaluation
        self.tracker = Tracker(self.folder, recipe, accelerator)
        self.plan = memory.PLANS["split"]
        self._held_out: Batch | None = None
        self._losses: dict[str, tuple[Any, int]] = {}  # sum, and the number of steps that had it
        self._since = (time.monotonic(), 0)
        self._shown: dict[str, float] = {}
        self.stop = StopRequest()

    def begin(self, resume: bool) -> None:
        """Open the trackers, and continue where an earlier process stopped."""
        self.tracker.open()
        if resume:
            self.restore()

    def restore(self) -> None:
        """Continue from the newest checkpoint that verifies; say which were refused, and what else is different."""
        newest, refused = newest_checkpoint(self.folder / "checkpoints")
        for reason in refused:
            self.report.say(f"refused {reason}")
        if newest is None:
            if refused:
                raise CheckpointError(f"{self.folder}: none of its {len(refused)} checkpoints verifies")
            self.report.say(f"{self.folder}: stopped before its first checkpoint; starting again")
            self.tracker.resume_at(0)
            return
        for difference in restore_checkpoint(newest, self.state):
            self.report.say(f"warning: the run may not repeat bit for bit: {difference}")
        self.tracker.resume_at(self.progress.images)
        self.report.say(f"resumed at {self.progress.images:,} images from {newest}")

    def enter(self, number: int) -> None:
        """Begin, or go on with, stage `number`."""
        stage = self.recipe.stages[number]
        if self.progress.stage != number:
            self.progress.stage, self.progress.stage_images = number, 0
        self.plan, prediction = self._choose_plan(number)
        for network in self.translator.networks.values():
            memory.apply(self.plan, network)
        self._held_out = held_out(self.recipe.data, data_root(), NUM_SAMPLES, stage.size, stage.resize)
        height, width = stage.size
        self.report.say(f"stage {number + 1} of {len(self.recipe.stages)}: {height}×{width}, {stage.images:,} images, "
                        f"batch {stage.batch_size}, {self.precision} on {self.accelerator.device} × "
                        f"{self.accelerator.num_processes}; {prediction}")

    def batches(self, stage: Stage) -> Iterator[Batch]:
        """This process's share of every global batch that is left in the stage; sets the learning rate before each."""
        first = self.progress.images - self.progress.stage_images
        stream = batches(self.samples, seed=self.recipe.seed, start=self.progress.images, stop=first + stage.images,
                         batch_size=stage.batch_size, rank=self.accelerator.process_index,
                         world=self.accelerator.num_processes, workers=self.recipe.workers, size=stage.size,
                         resize=stage.resize, pin_memory=self.accelerator.device.type == "cuda")
        for batch in stream:
            self._schedule(stage)
            yield batch.to(self.accelerator.device)

    def advance(self, num_images: int, losses: dict[str, Tensor]) -> None:
        """After a step: count, average, record, picture, score, save, and stop if a signal asked for it."""
        self.translator.average(num_images)
        before = self.progress.images
        self.progress.images += num_images
        self.progress.stage_images += num_images
        for name, loss in losses.items():  # not every step has every loss
            total, steps = self._losses.get(name, (0.0, 0))
            self._losses[name] = total + loss, steps + 1
        every, stopping = self.recipe.every, self._must_stop()

        def due(cadence: int | None) -> bool:
            return cadence is not None and self.progress.images // cadence > before // cadence

        saving = due(every.checkpoint) or self._ended() or stopping
        if due(every.log) or saving:  # before a save, so that a resumed run records what an uninterrupted one does
            self._record_losses()
        if saving:
            self.save()
        if due(every.sample) or self._ended():
            self._picture()
        if due(every.evaluate) or (every.evaluate and self._ended()):
            self._evaluate()
        stage = f"stage {self.progress.stage + 1}/{len(self.recipe.stages)}"
        self.report.progress(self.progress.images, self.recipe.num_images, stage, self._shown)
        if stopping:
            raise Stopped(f"stopped by {self.stop.name} at {self.progress.images:,} images; everything "
                          f"is saved. Continue with: translate train --resume --run-dir {self.folder}")

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
            self.report.say(note)
        if update.plan != self.plan:
            self.plan = update.plan
            if self.accelerator.is_main_process:
                planner.remember_choice(self.folder / "memory.json", self.progress.stage, None, self.plan)

    def save(self) -> None:
        """Write a checkpoint, and the status."""
        save_checkpoint(self.folder / "checkpoints", self.state, self.recipe.keep_checkpoints)
        self._write_status("running")

    def finish(self) -> None:
        """Write the release."""
        if self.accelerator.is_main_process:
            write_release(self.folder / "release", self.recipe, self.translator, self.progress.images)
        self.accelerator.wait_for_everyone()
        self.tracker.close()

    @contextmanager
    def recording_status(self) -> Iterator[None]:
        """Keep `status.json` true: it says how the run ended even where a launcher changes the exit code."""
        self._write_status("running")
        try:
            yield
        except BaseException as error:
            stopped = isinstance(error, Stopped | KeyboardInterrupt)
            with suppress(DiskError):  # what ended the run matters more than that this cannot be written
                self._write_status("stopped" if stopped else "failed", f"{type(error).__name__}: {error}",
                                   130 if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1))
            raise
        else:
            self._write_status("finished", exit_code=0)
        finally:
            self.home.leave()

    def _choose_plan(self, number: int) -> tuple[memory.Plan, str]:
        """Stage `number`'s memory plan and its prediction: the main process chooses for all."""
        chosen: list[Any] = [None]
        if self.accelerator.is_main_process:
            try:
                chosen = [planner.choose_for_run(
                    self.recipe, number, self.folder / "memory.json", self.accelerator.device, self.precision,
                    self.accelerator.num_processes, self.card)]
            except DoesNotFit as error:
                chosen = [error]
        (choice,) = broadcast_object_list(chosen)
        if isinstance(choice, DoesNotFit):
            raise choice
        return choice

    def _ended(self) -> bool:
        return self.progress.images >= self.recipe.num_images

    def _must_stop(self) -> bool:
        """All processes agree: a signal may have reached only one of them, or them between different steps."""
        if self.accelerator.num_processes == 1:
            return bool(self.stop)
        asked = torch.tensor([float(bool(self.stop))], device=self.accelerator.device)
        torch.distributed.all_reduce(asked)
        return bool(asked.item())

    def _schedule(self, stage: Stage) -> None:
        factor = stage.lr.at(self.progress.stage_images / stage.images)
        for phase, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = getattr(self.recipe.optimizer, phase).lr * factor

    def _record_losses(self) -> None:
        means = torch.stack([total.float() / steps for total, steps in self._losses.values()])
        means = self.accelerator.reduce(means, "mean")
        self._shown = dict(zip(self._losses, means.tolist(), strict=True))
        (then, images), now = self._since, time.monotonic()
        speed = (self.progress.images - images) / (now - then) if images else 0.0
        self._since = (now, self.progress.images)
        self.tracker.record(self.progress.images, self._shown | {
            "lr": self.optimizers["generator"].param_groups[0]["lr"], "images_per_second": speed},
            kind="train", stage=self.progress.stage)
        self._losses = {}

    def _picture(self) -> None:
        if self._held_out is None or not self.accelerator.is_main_process:
            return
        device = self.accelerator.device
        with autocast(device, self.precision):
            grid = sample_grid(self.translator, self._held_out.a.to(device), self._held_out.b.to(device),
                               labels=isinstance(self.recipe.data, LabelsConfig))
        self.tracker.picture(self.progress.images, grid)

    def _evaluate(self) -> None:
        """Held-out scores, where the truth is known. Every process waits for the main one."""
        if self.accelerator.is_main_process:
            try:
                scores = score_held_out(self.recipe, self.translator, self.accelerator.device, self.precision)
            except (TranslateError, RuntimeError) as error:  # a rotten test image, or one too large for the device
                self.report.say(f"warning: no scores at {self.progress.images:,} images: {error}")
            else:
                self.tracker.record(self.progress.images, scores, kind="evaluation", stage=self.progress.stage)
                self.report.say(f"{self.progress.images:,} images, held out: "
                                + ", ".join(f"{name} {value:.4g}" for name, value in scores.items()))
        self.accelerator.wait_for_everyone()

    def _write_status(self, state: str, message: str = "", exit_code: int | None = None) -> None:
        if self.accelerator.is_main_process:
            self.home.write_status({
                "state": state, "message": message, "exit_code": exit_code, "images": self.progress.images,
                "of": self.recipe.num_images, "stage": self.progress.stage})


def make_accelerator(recipe: Recipe, folder: Path) -> Accelerator:
    """Accelerate's part: the device, the processes, the gradient scaler of fp16, and the trackers."""
    cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    state = PartialState(cpu=cpu)  # told so, it joins the processes of torchrun on a CPU; else each would train alone
    precision = choose_precision(recipe.precision, state.device)
    return Accelerator(cpu=cpu, mixed_precision="fp16" if precision == "fp16" else "no",
                       log_with=list(recipe.trackers) or None, project_dir=str(folder))


def prepare_for_processes(modules: dict[str, torch.nn.Module], accelerator: Accelerator) -> None:
    """With several processes: the same weights everywhere, and batch norm over the whole batch. Raises `UsageError`."""
    if accelerator.num_processes == 1:
        return
    for name, module in modules.items():
        if any(isinstance(part, _BatchNorm) for part in module.modules()):
            if accelerator.device.type != "cuda":
                raise UsageError(f"{name}: batch norm over several processes needs CUDA (SyncBatchNorm); on a CPU use "
                                 "norm: instance or none, or one process")
            torch.nn.SyncBatchNorm.convert_sync_batchnorm(module)
        module.to(accelerator.device)
        for tensor in [*module.parameters(), *module.buffers()]:
            torch.distributed.broadcast(tensor.data, src=0)

