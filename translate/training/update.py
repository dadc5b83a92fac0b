"""Update: how a training keeps what `translate.translators.step_tools` promises to a translator's step.

A step is a few phases, each the training of some networks while all others are frozen. Within a phase every loss is
backpropagated as soon as it is known (split backward). A fake image is a cut in the graph: a leaf. Each loss adds its
gradient to the leaf. After the last one the sum is passed on through the generator that made the fake. Each gradient
equals that of one joint backward pass over the sum of the losses, and only one branch of the graph is alive at a time.
Models are not wrapped in DDP, which would average at every partial backward; gradients are averaged once, at the end
of a phase.

A phase that runs out of memory is undone and run again under the next leaner memory plan. Optimizers, pools and the
gradient scaler change only at a phase's end, so until then there is little to undo. A phase with a non-finite loss or
gradient is undone in the same way: nothing of it reaches weights, buffers or pools. How the host need not wait to know:
`translate.training.late`.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from translate.agreement import in_any_process
from translate.data import Batch, draws
from translate.errors import DoesNotFit
from translate.images.tensors import hide_unknown
from translate.losses import Penalty
from translate.networks import memory
from translate.networks.discriminators import Discriminator
from translate.networks.dropout import seed_dropout
from translate.networks.memory import MemoryPlan
from translate.networks.recomputing import recomputing, starting_point
from translate.optimizers import clip_gradients, gradient_norm, lay_like_weights
from translate.precision import Format, at_least_float32, autocast, is_out_of_memory
from translate.training.late import LatePhase
from translate.training.previews import Previews
from translate.training.processes import average_gradients, has_sync_batch_norm
from translate.training.undo import BeforePhase, frozen, not_finite
from translate.translators import Translator
from translate.translators.pool import ImagePool
from translate.translators.step_tools import StepTools


class NotFinite(Exception):
    """A loss or gradient of a phase is not finite. The phase is undone and the step ended; the message names what."""


class Update(StepTools):
    """One step's machinery: phases, micro-batches, cuts, scaled backward passes, one gradient average a phase.

    Besides what `StepTools` names, a step leaves in it

        observed    means of what is no loss, and `gradient_<phase>`, the norm of a phase's gradient before clipping
        plan        the memory plan in use: a leaner one than at the beginning if a phase ran out of memory
        notes       messages about changes of the memory plan
        overflowed  the phases whose optimizer step fp16's gradient scaler left out, as it may (only if `guarded`)
        unjudged    the phases of which the host does not know yet whether they count (filled only if `late`)

    `guarded`: a phase raises `NotFinite` rather than learn from numbers that are not finite; if `late`, it goes on, and
    changes nothing. `settle` is called before the pools are used: they must know whether the step before counts.
    """

    def __init__(self, translator: Translator, optimizers: dict[str, torch.optim.Optimizer], accelerator: Accelerator,
                 plan: MemoryPlan, precision: Format, micro_batch: int | None = None, number: int = 0, images: int = 0,
                 guarded: bool = False, late: bool = False, settle: Callable[[], object] = lambda: None):
        self.translator, self.optimizers, self.accelerator = translator, optimizers, accelerator
        self.plan, self.precision, self.micro_batch = plan, precision, micro_batch
        self.number, self.images, self.guarded, self.late, self.settle = number, images, guarded, late, settle
        self.overflowed: list[str] = []
        self.unjudged: list[LatePhase] = []
        self.left_out: Tensor | None = None
        self.losses: dict[str, Tensor] = {}
        self.observed: dict[str, Tensor] = {}
        self.notes: list[str] = []
        self._share = 1.0  # of the current micro-batch in this process's batch
        self.keys: tuple[int, ...] = ()  # of the current micro-batch's samples
        self.protected: Tensor | None = None
        self.other: Tensor | None = None
        self.has_unknown = False
        self._waiting: list[Tensor] = []  # losses of a joint backward pass (plan `plain`)
        self._previews = Previews()
        self._before: BeforePhase  # what the phase under way goes back to where it fails

    def phase(self, name: str, body: Callable[..., Any], *arguments: Any) -> Any:
        """Train the networks of a phase.

        Raises `DoesNotFit` when it runs out of memory under the leanest plan, `NotFinite` (in all processes) where the
        update is `guarded`.
        """
        # Run the body until it fits. All processes must redo a phase, as all wait for each other's gradients.
        while True:
            self._before = BeforePhase(self.translator, self.accelerator.device, self.losses, self.observed)
            result, out_of_memory = self._attempt(name, body, arguments)
            if not in_any_process(out_of_memory is not None, self.accelerator):
                break
            self._undo(name)
            self._use_leaner_plan(name, out_of_memory)

        # Step the optimizer; if a number is not finite, undo the phase.
        try:
            average_gradients(self.translator.phases[name], self.accelerator)
            if self.late:
                self.unjudged.append(LatePhase(name, self._before))
            norm = self.step_optimizer(name)
        except NotFinite:
            self._undo(name)
            raise
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise DoesNotFit(f"out of memory in the optimizer's step of the {name} phase, which cannot be undone; go "
                             "on from the newest checkpoint under a leaner memory plan (--set memory.plan=…)") from None

        # Note the gradient's norm for the log and the guard, and make the pools' exchanges final.
        scaled = self.guarded and not self.late and self.accelerator.scaler is not None
        if scaled and not math.isfinite(norm.item()):
            self.overflowed.append(name)
        else:
            self.observed[f"gradient_{name}"] = norm
        for pool in [] if self.late else self.translator.pools.values():
            pool.commit()
        return result

    def _attempt(self, name: str, body: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, str | None]:
        """Return the result of a phase's body, or how it ran out of memory."""
        trained = self.translator.phases[name]
        try:
            with frozen(network for other, network in self.translator.networks.items() if other not in trained):
                self.optimizers[name].zero_grad(set_to_none=True)
                with self.autocast():
                    return body(*arguments, self), None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if self.accelerator.num_processes > 1 and has_sync_batch_norm(self.translator.networks.values()):
                raise DoesNotFit(f"out of memory in the {name} phase under memory plan {self.plan}, which cannot be "
                                 "undone: batch norm over several processes has them wait for each other. Name a "
                                 "leaner plan in the recipe (memory.plan)") from None
            return None, str(error).split(". ")[0]

    def _undo(self, name: str) -> None:
        """Restore everything as it was before phase `name`."""
        self.optimizers[name].zero_grad(set_to_none=True)
        self.losses, self.observed = self._before.losses, self._before.observed
        self._waiting = []
        self._before.restore()
        self._previews.undo()

    def _use_leaner_plan(self, name: str, out_of_memory: str | None) -> None:
        gc.collect()  # the failed attempt's frames, where they form cycles
        if self.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
        networks = self.translator.networks.values()
        plan = memory.leaner(self.plan, networks, self.translator.graphs_wait)
        reason = out_of_memory or "another process ran out of memory"
        if plan is None:
            raise DoesNotFit(f"the {name} phase runs out of memory under {self.plan}, the leanest memory plan "
                             f"({reason})")
        self.notes.append(f"out of memory in the {name} phase under memory plan {self.plan}; it is undone and goes on "
                          f"under {plan} ({reason})")
        self.plan = plan
        for network in networks:
            memory.apply(plan, network, self.accelerator.num_processes)

    def micro_batches(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
        self.has_unknown = batch.has_unknown
        for piece in batch.micro_batches(self.micro_batch):
            self._share = len(piece) / len(batch)
            self.keys, self.protected, self.other = piece.keys, piece.protected, piece.other
            seed_dropout(self.translator.networks.values(), piece.keys)
            yield piece.a, piece.b
            if self._waiting:
                self._propagate(torch.stack(self._waiting).sum())
                self._waiting = []

    def hide_unknown(self, made: Tensor, real: Tensor, truth: Tensor | None = None) -> Tensor:
        return hide_unknown(made, real, truth) if self.has_unknown else made

    @contextmanager
    def fake(self, generator: nn.Module, real: Tensor, truth: Tensor | None = None, shared: bool = False
             ) -> Iterator[Tensor]:
        """Yield a fake as a leaf.

        It is in at least float32: scaled half-precision gradients of several losses could overflow in their sum. Under
        memory plan `plain` there is no cut, and the image is yielded as it is.
        """
        kept = self._previews.take(generator) if shared else None
        if not self.plan.cut:
            yield self.hide_unknown(generator(real), real, truth) if kept is None else kept
            return

        # In CycleGAN and CUT a generator also reads the fake. Both graphs together would not fit: this one is dropped
        # now and rebuilt when the fake's gradient is known.
        replay = self.plan.replay and self.translator.reads_fakes
        start = starting_point(generator) if replay else []
        image, kept = kept, None
        if image is None:
            with self.without_graph() if replay else nullcontext():
                image = self.hide_unknown(generator(real), real, truth)
        dtype = image.dtype

        # A view, and not the tensor itself: autocast keeps its copies of other leaves to the end.
        detached = at_least_float32(image.detach())
        leaf = detached.view_as(detached).requires_grad_()
        if replay:
            image = None
        yield leaf

        # Every loss of the fake has added its gradient to the leaf: pass the sum on through the generator.
        if leaf.grad is None:
            return
        gradient, leaf.grad = leaf.grad.to(dtype), None
        if image is None:
            with recomputing(start):
                image = self.hide_unknown(generator(real), real, truth)
        with self.outside_autocast():
            image.backward(gradient)

    def backward(self, name: str, loss: Tensor, times: int = 1) -> None:
        self.record(name, loss)
        share = loss * self._share
        if self.plan.cut:
            self._propagate(share * times)
        else:
            self._waiting.append(share * times)

    def regularise(self, name: str, loss: Tensor) -> None:
        self._share = 1.0
        self.record(name, loss)
        self._propagate(loss)

    def translated(self, generator: nn.Module, real: Tensor, truth: Tensor | None = None, shared: bool = False
                   ) -> Tensor:
        if shared and self._previews.may_keep:
            with self._previews.graph_of(generator):
                fake = self.hide_unknown(generator(real), real, truth)
            self._previews.keep(generator, fake)
            return at_least_float32(fake.detach())
        with self.without_graph():
            return self.hide_unknown(at_least_float32(generator(real)), real, truth)

    def previewing(self, generators: dict[str, nn.Module], num_samples: int) -> AbstractContextManager[object]:
        """Keep fakes for the generators' phase where they are of one micro-batch and may wait; others leave no trace.
        """
        may_keep = not self.plan.replay and (self.micro_batch or num_samples) >= num_samples
        return self._previews.within(generators.values(), may_keep)

    def record(self, name: str, value: Tensor) -> None:
        self._add(self.losses, name, value)

    def observe(self, name: str, value: Tensor) -> None:
        self._add(self.observed, name, value)

    def _add(self, gathered: dict[str, Tensor], name: str, value: Tensor) -> None:
        share = value.detach() * self._share
        gathered[name] = gathered[name] + share if name in gathered else share

    def mean(self, name: str) -> Tensor:
        value = self.observed[name].clone()
        if self.accelerator.num_processes > 1:
            torch.distributed.all_reduce(value)
        return value / self.accelerator.num_processes

    def penalise(self, penalty: Penalty, discriminator: Discriminator, real: Tensor, fake: Tensor) -> None:
        """Backpropagate the penalty on `discriminator` where it is due.

        In float32: the squares of small half-precision gradients would be zero. The loss is scaled as every other is;
        the gradient with respect to images, within it, is not and need not be.
        """
        if self.number % penalty.every:
            return
        name = f"penalty_{discriminator.domain}"
        with self.full_precision():
            loss = penalty(discriminator, real, fake, self.uniform(name))
            self.backward(name, penalty.weight * loss, times=penalty.every)

    def past(self, pool: ImagePool, fakes: Tensor) -> Tensor:
        self.settle()
        self._before.mark(pool)
        return pool.exchange(fakes, waits=not self.late)

    def uniform(self, name: str) -> Tensor:
        return draws.uniform(self.keys, name, self.accelerator.device)

    def normal(self, name: str, like: Tensor) -> Tensor:
        return draws.normal(self.keys, name, like.detach())

    def places(self, name: str, num: int, size: tuple[int, int]) -> Tensor:
        return draws.places(self.keys, name, num, size, self.accelerator.device)

    def autocast(self) -> AbstractContextManager[object]:
        """Compute in the step's precision within the block."""
        return autocast(self.accelerator.device, self.precision)

    def full_precision(self) -> AbstractContextManager[object]:
        return torch.autocast(self.accelerator.device.type, enabled=False)

    def outside_autocast(self) -> AbstractContextManager[object]:
        """Turn autocast off for a backward pass. `MetaUpdate` overrides this and `full_precision` differently."""
        return torch.autocast(self.accelerator.device.type, enabled=False)

    def without_graph(self) -> AbstractContextManager[object]:
        """Compute without a graph within the block.

        Autocast would remember the low-precision weights it makes here, without a graph, and some versions of torch
        hand them to later passes, whose weights would then get no gradient.
        """
        device = self.accelerator.device.type
        context = ExitStack()
        context.enter_context(torch.no_grad())
        if torch.is_autocast_enabled(device):
            context.enter_context(torch.autocast(device, torch.get_autocast_dtype(device), cache_enabled=False))
        return context

    def step_optimizer(self, phase: str) -> Tensor:
        """Step the optimizer of a phase, its gradients clipped; under fp16 they are unscaled, and the step is left out
        when one overflowed.

        Returns the norm of the whole gradient before it is clipped. Raises `NotFinite` where the update is `guarded`.

        There is one gradient scaler for all phases. It may be updated after each because a phase's backward passes
        and its step lie together: nothing scaled before an update is unscaled after it.
        """
        optimizer, scaler = self.optimizers[phase], self.accelerator.scaler
        if scaler is not None:
            scaler.unscale_(optimizer)  # notes what is not finite; its `step` then leaves the optimizer's step out
        lay_like_weights(optimizer)
        if self.late:
            return self.unjudged[-1].step(self, optimizer)
        norm = gradient_norm(optimizer)
        if self.guarded and self._is_broken(norm):
            if scaler is not None:
                scaler.update()
            raise NotFinite(not_finite(phase, self.translator, self.losses))
        clip_gradients(optimizer)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        return norm

    def _is_broken(self, norm: Tensor) -> bool:
        """Tell whether a loss or gradient of any process is not finite.

        Under fp16 gradients are not checked: they may overflow now and then, and the scaler skips such steps itself.
        """
        values = [value.float() for value in self.losses.values()]
        if self.accelerator.scaler is None:
            values.append(norm.float())
        broken = bool(values) and not torch.isfinite(torch.stack(values)).all().item()
        return in_any_process(broken, self.accelerator)

    def _propagate(self, loss: Tensor) -> None:
        with self.outside_autocast():
            scaler = self.accelerator.scaler
            (loss if scaler is None else scaler.scale(loss)).backward()
