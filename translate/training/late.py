"""Judging a step one step late, so that the host never waits for the device within one.

A host that asks whether a loss is finite waits until all that was launched is done, and meanwhile launches nothing: the
device then runs dry, twice a step. So on a GPU the device itself leaves out what is not finite: the optimizer's kernels
take a flag and then change nothing, and buffers become again what they were. The flags are sent to the host, which
reads them when the next step has been launched. Only then it counts the step's losses, makes the pools' exchanges
final, and tells of a step that was left out. All phases of that have run by then: torch's random state has moved on,
and under fp16 the gradient scale has been updated once a phase.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from translate.optimizers import clip_gradients, gradient_norms, may_be_left_out, step
from translate.training.undo import BeforePhase, gradients_of, in_words, without_finite_weights
from translate.translators import Translator


def judges_late(accelerator: Accelerator, optimizers: Mapping[str, torch.optim.Optimizer]) -> bool:
    """Tell whether steps are judged late: on CUDA, where optimizers can be told by the device to change nothing.

    Several processes judge at once: they wait for each other in every phase.
    """
    return (accelerator.device.type == "cuda" and accelerator.num_processes == 1
            and all(map(may_be_left_out, optimizers.values())))


class JudgedUpdate(Protocol):
    """What is read and set here of a `translate.training.update.Update`, which documents it."""

    translator: Translator
    accelerator: Accelerator
    images: int
    losses: dict[str, Tensor]
    observed: dict[str, Tensor]
    overflowed: list[str]
    unjudged: list[LatePhase]
    left_out: Tensor | None


class Sent:
    """A tensor on its way to the host."""

    def __init__(self, values: Tensor):
        self._there = values.to("cpu", non_blocking=True) if values.is_cuda else values  # in pinned memory
        self._arrival = torch.cuda.Event() if values.is_cuda else None
        if self._arrival is not None:
            self._arrival.record(torch.cuda.current_stream(values.device))

    def read(self) -> list[bool]:
        """Return the values; wait until they, and all that was sent before them, have arrived."""
        if self._arrival is not None:
            self._arrival.synchronize()
        found: list[bool] = self._there.tolist()
        return found


class LatePhase:
    """A phase that the host has not judged yet: what was before it, and which of its numbers are finite."""

    def __init__(self, name: str, before: BeforePhase):
        self.name, self.before = name, before

    def step(self, update: JudgedUpdate, optimizer: torch.optim.Optimizer) -> Tensor:
        """Step the optimizer, unless what it would learn from is not finite. Return the norm of the whole gradient.

        Gradients are unscaled already. Those of fp16 may overflow now and then: then the step of training goes on, and
        this optimizer's alone is left out.
        """
        # What may be not finite: the losses so far, the phase's gradients, and the norm of all of these.
        gradients, losses = gradients_of(update.translator, self.name), update.losses
        norms = gradient_norms(list(gradients.values()))
        of_losses = torch.isfinite(torch.stack([norms[-1], *(value.float() for value in losses.values())])[1:])
        of_gradients = torch.isfinite(norms)
        self.losses, self.gradients = list(losses), list(gradients)
        self.flags = torch.cat([of_losses, of_gradients])

        # What is left out once stays so to the end of the step.
        scaler = update.accelerator.scaler
        self.may_overflow = scaler is not None
        self.is_left_out = (~(of_losses if self.may_overflow else self.flags).all()).float()
        if len(update.unjudged) > 1:
            self.is_left_out = torch.maximum(self.is_left_out, update.unjudged[-2].is_left_out)

        update.left_out = self.is_left_out
        clip_gradients(optimizer)
        step(optimizer, torch.maximum(self.is_left_out, (~of_gradients.all()).float()))
        if scaler is not None:
            scaler.update()
        return norms[-1]

    @torch.no_grad()
    def undo_buffers(self) -> None:
        """Make buffers what they were before the phase, if it is left out."""
        is_left_out = self.is_left_out > 0
        for buffer, value in self.before.buffers:
            buffer.copy_(torch.where(is_left_out, value, buffer))


class LateStep:
    """A step whose flags are on their way to the host."""

    def __init__(self, update: JudgedUpdate):
        """Undo on the device what is left out, from the last phase to the first, and send the flags."""
        self.update, self.phases = update, update.unjudged
        for phase in reversed(self.phases):
            phase.undo_buffers()
        self.flags = Sent(torch.cat([phase.flags for phase in self.phases])) if self.phases else None

    def judge(self) -> str:
        """Return what is not finite, in words; empty where the step counts. Waits until the device has done it.

        Losses, observations and overflows of the update become those of what counts: the phases before the first that
        is left out. Their exchanges with the pools become final, and later ones are forgotten.
        """
        flags = iter(self.flags.read() if self.flags else [])
        why = ""
        for number, phase in enumerate(self.phases):
            losses, gradients = ([name for name in names if not next(flags)]
                                 for names in (phase.losses, phase.gradients))
            is_finite = next(flags) and not gradients  # the norm of the whole gradient may overflow alone
            if losses or not (is_finite or phase.may_overflow):
                why = in_words(phase.name, without_finite_weights(self.update.translator), losses, gradients)
                self.update.losses, self.update.observed = phase.before.losses, phase.before.observed
                for undone in reversed(self.phases[number:]):
                    undone.before.undo_exchanges()
                break
            if not is_finite:
                self.update.overflowed.append(phase.name)

        # What an overflow left of itself, also in what is recorded of the phases before one that is left out.
        for name in self.update.overflowed:
            self.update.observed.pop(f"gradient_{name}", None)
        for pool in self.update.translator.pools.values():
            pool.commit()
        return why
