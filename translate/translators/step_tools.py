"""What a translator's step may ask of the machinery, and what it is promised.

In a training that is `Update` of `translate/training/update.py`, which says how the promises are kept; translators
stand on a lower floor and must not import it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor, nn

from translate.data import Batch
from translate.losses import Penalty
from translate.networks.discriminators import Discriminator
from translate.translators.pool import ImagePool


class StepTools(Protocol):
    """All that a step may ask of the machinery.

    number       steps of its stage before this one
    images       images of the run before this step
    keys         of the samples of the micro-batch that it is at: what is drawn for a sample is drawn from its key
    has_unknown  whether pixels of the batch have no data
    protected    how strictly each pixel of its A is to stay as it is, (N, 1, H, W); None: nothing is protected
    other        of images from noise, a condition of each that is not its own, (N, K, 1, 1); None: there is none
    losses       what was recorded, as scalars on the device: means over the batch of this process
    left_out     where steps are judged late, 1 where the phases so far are left out, and 0 else, a scalar on the
                 device; else None
    """

    number: int
    images: int
    keys: tuple[int, ...]
    has_unknown: bool
    protected: Tensor | None
    other: Tensor | None
    losses: dict[str, Tensor]
    left_out: Tensor | None

    def phase(self, name: str, body: Callable[..., Any], *arguments: Any) -> Any:
        """Train the networks of phase `name`: run `body(*arguments, self)`, average the gradients, step the optimizer.

        All other networks are frozen meanwhile. A phase is a call rather than a `with` block so that it can be run
        again when it runs out of memory. Returns what the body does.
        """

    def micro_batches(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the (a, b) images of this process's batch, in pieces that fit: each (N, C, H, W)."""

    def hide_unknown(self, made: Tensor, real: Tensor, truth: Tensor | None = None) -> Tensor:
        """Return what was made of `real` without the pixels that are not known, see `images.tensors.hide_unknown`."""

    def fake(self, generator: nn.Module, real: Tensor, truth: Tensor | None = None,
             shared: bool = False) -> AbstractContextManager[Tensor]:
        """Yield `generator(real)` as a leaf that gathers its gradient, which goes on through `generator` at the end.

        It is the truth where that or `real` is not known, see `hide_unknown`. `shared`: `translated` may have made it.
        """

    def translated(self, generator: nn.Module, real: Tensor, truth: Tensor | None = None,
                   shared: bool = False) -> Tensor:
        """Return `generator(real)` in at least float32, without a graph and without what is not known.

        `shared`: the generators' phase needs it too. Within `previewing` it is kept for that, with its graph.
        """

    def previewing(self, generators: dict[str, nn.Module], num_samples: int) -> AbstractContextManager[object]:
        """Make fakes of a batch of `num_samples` within the block that the generators' phase needs as well."""

    def backward(self, name: str, loss: Tensor, times: int = 1) -> None:
        """Backpropagate `loss`, a mean over the micro-batch, and record it under `name`.

        `times`: factor on the gradient, not on the recorded value (penalties that are due every k steps).
        """

    def regularise(self, name: str, loss: Tensor) -> None:
        """Backpropagate a loss of weights alone, once a phase and outside of micro-batches; record it under `name`."""

    def penalise(self, penalty: Penalty, discriminator: Discriminator, real: Tensor, fake: Tensor) -> None:
        """Backpropagate the penalty on `discriminator` every `penalty.every` steps; record it as `penalty_<domain>`."""

    def record(self, name: str, value: Tensor) -> None:
        """Record a loss, a mean over the micro-batch: it is logged, and a step is left out where it is not finite."""

    def observe(self, name: str, value: Tensor) -> None:
        """Note a mean over the micro-batch that is no loss, for the log and for the guard's signs of a lost game."""

    def mean(self, name: str) -> Tensor:
        """Return the mean over all processes of what was observed under `name`: after a phase, in all of them."""

    def past(self, pool: ImagePool, fakes: Tensor) -> Tensor:
        """Exchange fakes (N, C, H, W) with a pool of past ones; the exchange counts when the phase does."""

    def uniform(self, name: str) -> Tensor:
        """Draw a number in [0, 1) for each sample (N,) of the micro-batch; the same when this step is done again."""

    def normal(self, name: str, like: Tensor) -> Tensor:
        """Draw standard normal noise of the shape of `like` (N, …); the same when this step is done again."""

    def places(self, name: str, num: int, size: tuple[int, int]) -> Tensor:
        """Draw rows and columns of at most `num` different places in a map of `size` (height, width): (2, N, num).

        They are the same when this step is done again.
        """

    def full_precision(self) -> AbstractContextManager[object]:
        """Turn autocast off for a forward pass: compute in float32 within the block, also in later recomputation."""

    def without_graph(self) -> AbstractContextManager[object]:
        """Compute without a graph within the block, for what takes no gradient or is run again for it."""
