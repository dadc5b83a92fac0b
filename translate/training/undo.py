"""What a phase changes before its end, so that one that fails can be undone, and what made it fail."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from translate.translators import Translator
from translate.translators.pool import ImagePool, Mark

Buffers = list[tuple[Tensor, Tensor]]  # each as it is, and as it was


def held_buffers(networks: Iterable[nn.Module]) -> Buffers:
    """Copy what forward passes advance: running statistics, the vectors of a spectral norm."""
    return [(buffer, buffer.clone()) for network in networks for buffer in network.buffers()]


@torch.no_grad()
def restore_buffers(buffers: Buffers) -> None:
    """Make buffers what they were when they were held."""
    for buffer, value in buffers:
        buffer.copy_(value)


class BeforePhase:
    """What was recorded, the buffers of all networks and the random states, as they were before a phase.

    Optimizers, pools and the gradient scaler change only at a phase's end; these are all there is to restore, besides
    the gradients and what the phase has staged in pools.
    """

    def __init__(self, translator: Translator, device: torch.device, losses: dict[str, Tensor],
                 observed: dict[str, Tensor]):
        self.device = device
        self.losses, self.observed = dict(losses), dict(observed)
        self.pools: list[tuple[ImagePool, Mark]] = []
        self.buffers = held_buffers(translator.networks.values())
        self.random = torch.get_rng_state()
        self.random_cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def mark(self, pool: ImagePool) -> None:
        """Note what was staged in a pool before the phase, if this is its first exchange of the phase.

        Where steps are judged late, phases before this one have staged as well. The step before must be settled by now.
        """
        if all(marked is not pool for marked, _ in self.pools):
            self.pools.append((pool, pool.mark()))

    def restore(self) -> None:
        """Restore buffers and random states, and make the pools forget the exchanges of this phase."""
        self.undo_exchanges()
        restore_buffers(self.buffers)
        torch.set_rng_state(self.random)
        if self.random_cuda is not None:
            torch.cuda.set_rng_state(self.random_cuda, self.device)

    def undo_exchanges(self) -> None:
        """Make the pools forget the exchanges since the phase began."""
        for pool, mark in self.pools:
            pool.undo(mark)


@contextmanager
def frozen(networks: Iterator[nn.Module]) -> Iterator[None]:
    """Compute no gradient for these networks' parameters within the block."""
    held = [parameter for network in networks for parameter in network.parameters() if parameter.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


def not_finite(phase: str, translator: Translator, losses: dict[str, Tensor]) -> str:
    """Say in words what of a phase is not finite: its losses, the weights of any network, the phase's gradients."""
    broken = [loss for loss, value in losses.items() if not torch.isfinite(value)]
    gradients = [name for name, value in gradients_of(translator, phase).items()
                 if not torch.isfinite(torch.linalg.vector_norm(value))]
    return in_words(phase, without_finite_weights(translator), broken, gradients)


def gradients_of(translator: Translator, phase: str) -> dict[str, Tensor]:
    """Return the gradients of a phase by the names of its networks and of their parameters."""
    return {f"{each}.{parameter}": value.grad for each, network in translator.phases[phase].items()
            for parameter, value in network.named_parameters() if value.grad is not None}


def without_finite_weights(translator: Translator) -> list[str]:
    """Return the names of networks with weights that are not finite."""
    return [each for each, network in translator.networks.items()
            if not all(torch.isfinite(parameter).all() for parameter in network.parameters())]


def in_words(phase: str, weights: list[str], losses: list[str], gradients: list[str]) -> str:
    """Say what of a phase is not finite, by the names of networks, losses and gradients."""
    found = [f"{what} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
             for what, names in (("the weights of", weights), ("the loss", losses), ("the gradient of", gradients))
             if names]
    return f"{phase} phase: not finite: {'; '.join(found) or 'the norm of the whole gradient, or another process'}"
