"""Update: all that a translator's step may ask of the machinery.

A step is a few phases, each the training of some networks while all others are frozen. Within a phase every loss is
backpropagated as soon as it is known (split backward): a fake image is a cut in the graph, a leaf that gathers the
gradients of everything that looks at it; when all have, its gradient goes on through the generator that made it. Each
gradient equals that of one joint backward pass over the sum of the losses, and only one branch of the graph is alive
at a time. Models are never wrapped (DDP would average the gradients at every partial backward): they are averaged
across processes once a phase.

A phase that runs out of memory is undone and run again under the next leaner memory plan. What an optimizer, a pool or
the gradient scaler learns of a phase it learns at its end, so until then there is little to undo. In the same way a
phase is undone whose losses or gradients are not finite: nothing of it reaches weights, buffers or pools.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from translate.data import Batch
from translate.errors import DoesNotFit
from translate.losses import Judge, Penalty
from translate.networks import memory
from translate.networks.checkpointing import recomputing, starting_point
from translate.networks.dropout import seed_dropout
from translate.networks.memory import Plan
from translate.optimizers import clip_gradients, gradient_norm
from translate.precision import Format, autocast, is_out_of_memory
from translate.training import draws
from translate.training.processes import in_any_process
from translate.translators import Translator
from translate.translators.pool import ImagePool


class NotFinite(Exception):
    """A phase brought numbers that are not finite. It is undone, and the step is over; the words say what and where."""


class Update:
    """One step's machinery: phases, micro-batches, cuts, scaled backward passes, one gradient average a phase.

    `losses` gathers what the step recorded, and `observed` what it noted besides, as scalars on the device: means over
    the batch of this process; `gradient_<phase>` is the norm of a phase's whole gradient before it is clipped. `plan`
    is the memory plan in use, which `apply` of `translate.networks.memory` has given to the networks; when a phase ran
    out of memory it is a leaner one at the end, and `notes` say so. Before this step there were `number` steps in its
    stage, and `images` images in the run. `guarded`: a phase raises `NotFinite` rather than learn from numbers that are
    not; the phases whose step the gradient scaler of fp16 left out, as it does now and then, are `overflowed`.
    """

    def __init__(self, translator: Translator, optimizers: dict[str, torch.optim.Optimizer], accelerator: Accelerator,
                 plan: Plan, precision: Format, micro_batch: int | None = None, number: int = 0, images: int = 0,
                 guarded: bool = False):
        self.translator, self.optimizers, self.accelerator = translator, optimizers, accelerator
        self.plan, self.precision, self.micro_batch = plan, precision, micro_batch
        self.number, self.images, self.guarded = number, images, guarded
        self.overflowed: list[str] = []
        self.losses: dict[str, Tensor] = {}
        self.observed: dict[str, Tensor] = {}
        self.notes: list[str] = []
        self._share = 1.0  # of the current micro-batch in this process's batch
        self._keys: tuple[int, ...] = ()  # of the current micro-batch's samples
        self._waiting: list[Tensor] = []  # losses of a joint backward pass (plan `plain`)

    def phase(self, name: str, body: Callable[..., Any], *arguments: Any) -> Any:
        """Train the networks of phase `name`: run `body(*arguments, self)`, average the gradients, step the optimizer.

        A phase is a call rather than a `with` block so that it can be run again when it runs out of memory. Raises
        `DoesNotFit` when it does so under the leanest plan, `NotFinite` (in all processes) where that is asked for.
        """
        while True:
            before = _Before(self)
            result, shortage = self._attempt(name, body, arguments)
            # All must redo a phase, as all wait for each other's gradients.
            if not in_any_process(shortage is not None, self.accelerator):
                break
            self.optimizers[name].zero_grad(set_to_none=True)
            before.restore(self)
            self._use_leaner_plan(name, shortage)
        try:
            self.average_gradients(self.translator.phases[name])
            norm = self.step_optimizer(self.optimizers[name])
        except NotFinite:
            what = self._not_finite(name)
            self.optimizers[name].zero_grad(set_to_none=True)
            before.restore(self)
            raise NotFinite(what) from None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise DoesNotFit(f"out of memory in the optimizer's step of the {name} phase, which cannot be undone; go "
                             "on from the newest checkpoint under a leaner memory plan (--set memory.plan=…)") from None
        if self.guarded and self.accelerator.scaler is not None and not math.isfinite(norm.item()):
            self.overflowed.append(name)
        else:
            self.observed[f"gradient_{name}"] = norm
        for pool in self.translator.pools.values():
            pool.commit()
        return result

    def _attempt(self, name: str, body: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, str | None]:
        """The result of a phase's body, or how it ran out of memory."""
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

    def _use_leaner_plan(self, name: str, shortage: str | None) -> None:
        gc.collect()  # the failed attempt's frames, where they form cycles
        if self.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
        networks = self.translator.networks.values()
        plan = memory.leaner(self.plan, networks, self.translator.replays)
        reason = shortage or "another process ran out of memory"
        if plan is None:
            raise DoesNotFit(f"the {name} phase runs out of memory under {self.plan}, the leanest memory plan "
                             f"({reason})")
        self.notes.append(f"out of memory in the {name} phase under memory plan {self.plan}; it is undone and goes on "
                          f"under {plan} ({reason})")
        self.plan = plan
        for network in networks:
            memory.apply(plan, network, self.accelerator.num_processes)

    def micro_batches(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
        """The (a, b) images of this process's batch, in pieces of `micro_batch` samples."""
        for piece in batch.micro_batches(self.micro_batch):
            self._share = len(piece) / len(batch)
            self._keys = piece.keys
            seed_dropout(self.translator.networks.values(), piece.keys)
            yield piece.a, piece.b
            if self._waiting:
                self._propagate(torch.stack(self._waiting).sum())
                self._waiting = []

    @contextmanager
    def fake(self, there: nn.Module, real: Tensor) -> Iterator[Tensor]:
        """`there(real)` as a leaf in fp32 that gathers its gradient; on leaving, the gradient goes on through `there`.

        fp32, because scaled half-precision gradients of several losses could overflow in their sum.
        """
        if not self.plan.cut:
            yield there(real)
            return
        # Where nobody but discriminators looks at a fake, its generator's graph may wait for the gradient.
        replay = self.plan.replay and self.translator.replays
        start = starting_point(there) if replay else []
        with self.without_graph() if replay else nullcontext():
            image: Tensor | None = there(real)
        assert image is not None
        dtype = image.dtype
        wide = image.detach().to(torch.promote_types(dtype, torch.float32))
        leaf = wide.view_as(wide).requires_grad_()  # a view: autocast keeps its copies of other leaves to the end
        if replay:
            image = None
        yield leaf
        if leaf.grad is None:
            return
        gradient, leaf.grad = leaf.grad.to(dtype), None
        if image is None:
            with recomputing(start):
                image = there(real)
        with self.outside_autocast():
            image.backward(gradient)

    def backward(self, name: str, loss: Tensor, times: int = 1) -> None:
        """Backpropagate `loss` (a mean over the micro-batch) so many times over, and record it under `name`."""
        self.record(name, loss)
        share = loss * self._share
        if self.plan.cut:
            self._propagate(share * times)
        else:
            self._waiting.append(share * times)

    def regularise(self, name: str, loss: Tensor) -> None:
        """Backpropagate a loss of weights alone, and record it under `name`: outside of micro-batches, once a phase."""
        self._share = 1.0
        self.record(name, loss)
        self._propagate(loss)

    def translated(self, there: nn.Module, real: Tensor) -> Tensor:
        """`there(real)` in at least float32, without a graph."""
        with self.without_graph():
            image = there(real)
        return image.to(torch.promote_types(image.dtype, torch.float32))

    def record(self, name: str, value: Tensor) -> None:
        """Record a mean over the micro-batch."""
        self._add(self.losses, name, value)

    def observe(self, name: str, value: Tensor) -> None:
        """Note a mean over the micro-batch that is no loss: it is logged, and nobody watches it go by."""
        self._add(self.observed, name, value)

    def _add(self, gathered: dict[str, Tensor], name: str, value: Tensor) -> None:
        share = value.detach() * self._share
        gathered[name] = gathered[name] + share if name in gathered else share

    def mean(self, name: str) -> Tensor:
        """What was observed under `name`, over all processes: for after a phase, which all processes have ended."""
        value = self.observed[name].clone()
        if self.accelerator.num_processes > 1:
            torch.distributed.all_reduce(value)
        return value / self.accelerator.num_processes

    def penalise(self, name: str, penalty: Penalty, discriminator: nn.Module, judge: Judge, real: Tensor,
                 fake: Tensor) -> None:
        """Every `penalty.every` steps: backpropagate the penalty on `discriminator`, and record it under `name`.

        In float32: the squares of small half-precision gradients would be zero. The loss is scaled as every other is;
        the gradient with respect to images, within it, is not and need not be.
        """
        if self.number % penalty.every:
            return
        with self.full_precision():
            loss = penalty(discriminator, judge, real, fake, self.uniform(name))
            self.backward(name, penalty.weight * loss, times=penalty.every)

    def past(self, pool: ImagePool, fakes: Tensor) -> Tensor:
        """Exchange fakes with a pool of past ones; it counts when the phase has ended."""
        return pool.exchange(fakes)

    def uniform(self, name: str) -> Tensor:
        """A number in [0, 1) for each sample of the micro-batch (N,); the same whenever this step is done again."""
        return draws.uniform(self._keys, name, self.accelerator.device)

    def normal(self, name: str, like: Tensor) -> Tensor:
        """Standard normal noise of the shape of `like` (N, …); the same whenever this step is done again."""
        return draws.normal(self._keys, name, like.detach())

    def places(self, name: str, num: int, size: tuple[int, int]) -> Tensor:
        """Different rows and columns in a map of `size` for each sample of the micro-batch (2, N, at most `num`); the
        same whenever this step is done again."""
        return draws.places(self._keys, name, num, size, self.accelerator.device)

    def autocast(self) -> AbstractContextManager[object]:
        return autocast(self.accelerator.device, self.precision)

    def full_precision(self) -> AbstractContextManager[object]:
        """Float32, whatever the step's precision is: also where something is computed again in a backward pass."""
        return torch.autocast(self.accelerator.device.type, enabled=False)

    def outside_autocast(self) -> AbstractContextManager[object]:
        """Backward passes choose their formats by their forward's, and recomputation restores its own."""
        return torch.autocast(self.accelerator.device.type, enabled=False)

    def without_graph(self) -> AbstractContextManager[object]:
        """A forward pass that no gradient goes through, or that is run again for its gradient.

        Autocast would remember the low-precision weights it makes here, without a graph, and some versions of torch
        hand them to later passes, whose weights would then get no gradient.
        """
        device = self.accelerator.device.type
        context = ExitStack()
        context.enter_context(torch.no_grad())
        if torch.is_autocast_enabled(device):
            context.enter_context(torch.autocast(device, torch.get_autocast_dtype(device), cache_enabled=False))
        return context

    def average_gradients(self, networks: dict[str, nn.Module]) -> None:
        """The mean over all processes, in one flattened all-reduce."""
        if self.accelerator.num_processes == 1:
            return
        gradients = [parameter.grad for network in networks.values() for parameter in network.parameters()
                     if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.accelerator.num_processes
        for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def step_optimizer(self, optimizer: torch.optim.Optimizer) -> Tensor:
        """One optimizer step, its gradients clipped; under fp16 unscaled, and left out when a gradient overflowed.

        Returns the norm of the whole gradient, before it is clipped. Raises `NotFinite` where that is asked for.

        There is one gradient scaler for all phases. It may be updated after each because a phase's backward passes
        and its step lie together: nothing scaled before an update is unscaled after it.
        """
        scaler = self.accelerator.scaler
        if scaler is not None:
            scaler.unscale_(optimizer)  # notes what is not finite; its `step` then leaves the optimizer's step out
        norm = gradient_norm(optimizer)
        if self.guarded and self._is_broken(norm):
            if scaler is not None:
                scaler.update()
            raise NotFinite
        clip_gradients(optimizer)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        return norm

    def _is_broken(self, norm: Tensor) -> bool:
        """Whether there is a loss or gradient that nothing may be learnt from; fp16's scaler minds the gradients."""
        minded = [value.float() for value in self.losses.values()]
        if self.accelerator.scaler is None:
            minded.append(norm.float())
        broken = bool(minded) and not torch.isfinite(torch.stack(minded)).all().item()
        return in_any_process(broken, self.accelerator)

    def _not_finite(self, name: str) -> str:
        """What is not finite in a phase, in words."""
        losses = [loss for loss, value in self.losses.items() if not torch.isfinite(value)]
        networks = self.translator.phases[name]
        weights = [each for each, network in self.translator.networks.items()
                   if not all(torch.isfinite(parameter).all() for parameter in network.parameters())]
        gradients = [f"{each}.{parameter}" for each, network in networks.items() for parameter, value in
                     network.named_parameters() if value.grad is not None and not torch.isfinite(value.grad).all()]
        found = [f"{what} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
                 for what, names in (("the weights of", weights), ("the loss", losses), ("the gradient of", gradients))
                 if names]
        return f"{name} phase: not finite: {'; '.join(found) or 'something in another process'}"

    def _propagate(self, loss: Tensor) -> None:
        with self.outside_autocast():
            scaler = self.accelerator.scaler
            (loss if scaler is None else scaler.scale(loss)).backward()


@contextmanager
def frozen(networks: Iterator[nn.Module]) -> Iterator[None]:
    """No gradient is computed for these networks' parameters within the block."""
    held = [parameter for network in networks for parameter in network.parameters() if parameter.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


class _Before:
    """What a phase changes before its end, as it was: buffers, random states, recorded losses. Gradients are none."""

    def __init__(self, update: Update):
        self.buffers = [(buffer, buffer.clone()) for network in update.translator.networks.values()
                        for buffer in network.buffers()]
        self.losses, self.observed = dict(update.losses), dict(update.observed)
        self.device = update.accelerator.device
        self.random = torch.get_rng_state()
        self.random_cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None

    def restore(self, update: Update) -> None:
        update.losses, update.observed, update._waiting = self.losses, self.observed, []
        for pool in update.translator.pools.values():
            pool.undo()
        with torch.no_grad():
            for buffer, value in self.buffers:
                buffer.copy_(value)
        torch.set_rng_state(self.random)
        if self.random_cuda is not None:
            torch.cuda.set_rng_state(self.random_cuda, self.device)


def has_sync_batch_norm(networks: Iterable[nn.Module]) -> bool:
    """Whether a forward pass of these networks talks to other processes."""
    return any(isinstance(part, nn.SyncBatchNorm) for network in networks for part in network.modules())
