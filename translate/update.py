"""Update: all that a translator's step may ask of the machinery.

A step is a few phases, each the training of some networks while all others are frozen. Within a phase every loss is
backpropagated as soon as it is known (split backward): a fake image is a cut in the graph, a leaf that gathers the
gradients of everything that looks at it; when all have, its gradient goes on through the generator that made it. Each
gradient equals that of one joint backward pass over the sum of the losses, and only one branch of the graph is alive
at a time. Models are never wrapped (DDP would average the gradients at every partial backward): they are averaged
across processes once a phase.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from translate.data import Batch
from translate.networks.layers import seed_dropout
from translate.networks.memory import Plan
from translate.precision import Format, autocast
from translate.translators import Translator
from translate.translators.pool import ImagePool


class Update:
    """One step's machinery: phases, micro-batches, cuts, scaled backward passes, one gradient average a phase.

    `losses` gathers what the step recorded, as scalars on the device: means over the batch of this process.
    """

    def __init__(self, translator: Translator, optimizers: dict[str, torch.optim.Optimizer], accelerator: Accelerator,
                 plan: Plan, precision: Format, micro_batch: int | None = None):
        self.translator, self.optimizers, self.accelerator = translator, optimizers, accelerator
        self.plan, self.precision, self.micro_batch = plan, precision, micro_batch
        self.losses: dict[str, Tensor] = {}
        self._share = 1.0  # of the current micro-batch in this process's batch
        self._waiting: list[Tensor] = []  # losses of a joint backward pass (plan `plain`)

    def phase(self, name: str, body: Callable[..., Any], *arguments: Any) -> Any:
        """Train the networks of phase `name`: run `body(*arguments, self)`, average the gradients, step the optimizer.

        A phase is a call rather than a `with` block so that it can be run again when it runs out of memory.
        """
        trained = self.translator.phases[name]
        with frozen(network for other, network in self.translator.networks.items() if other not in trained):
            self.optimizers[name].zero_grad(set_to_none=True)
            with self.autocast():
                result = body(*arguments, self)
        self.average_gradients(trained)
        self.step_optimizer(self.optimizers[name])
        for pool in self.translator.pools.values():
            pool.commit()
        return result

    def micro_batches(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
        """The (a, b) images of this process's batch, in pieces of `micro_batch` samples."""
        for piece in batch.micro_batches(self.micro_batch):
            self._share = len(piece) / len(batch)
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
        image = there(real)
        if not self.plan.cut:
            yield image
            return
        leaf = image.detach().to(torch.promote_types(image.dtype, torch.float32)).requires_grad_()
        yield leaf
        if leaf.grad is not None:
            with self.outside_autocast():
                image.backward(leaf.grad.to(image.dtype))
            leaf.grad = None

    def backward(self, name: str, loss: Tensor) -> None:
        """Backpropagate `loss` (a mean over the micro-batch) and record it under `name`."""
        share = loss * self._share
        recorded = share.detach()
        self.losses[name] = self.losses[name] + recorded if name in self.losses else recorded
        if self.plan.cut:
            self._propagate(share)
        else:
            self._waiting.append(share)

    def past(self, pool: ImagePool, fakes: Tensor) -> Tensor:
        """Exchange fakes with a pool of past ones; it counts when the phase has ended."""
        return pool.exchange(fakes)

    def autocast(self) -> AbstractContextManager[object]:
        return autocast(self.accelerator.device, self.precision)

    def outside_autocast(self) -> AbstractContextManager[object]:
        """Backward passes choose their formats by their forward's, and recomputation restores its own."""
        return torch.autocast(self.accelerator.device.type, enabled=False)

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

    def step_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """One optimizer step; under fp16 unscaled, and left out when a gradient overflowed.

        There is one gradient scaler for all phases. It may be updated after each because a phase's backward passes
        and its step lie together: nothing scaled before an update is unscaled after it.
        """
        if self.accelerator.scaler is None:
            optimizer.step()
        else:
            self.accelerator.scaler.step(optimizer)
            self.accelerator.scaler.update()

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
