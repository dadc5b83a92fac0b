"""A network applied to an image: it is called once to record what it does, and that is then computed, or added up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import overload

import torch
from torch import Tensor, nn

from translate.errors import UsageError
from translate.networks.dropout import seed_dropout
from translate.networks.recomputing import recomputing, starting_point
from translate.sizes import num_bytes
from translate.tiling.bands import Settings
from translate.tiling.executing import Forecast, Sink, cheapest_that_fits, execute, predict
from translate.tiling.graph import Node, Schedule, Source, TensorSource, TilingError, nodes_of
from translate.tiling.lazy import LazyImage
from translate.tiling.recorded import Recording


@overload
def apply(generator: nn.Module, source: Tensor | Source, *, memory: int | str | None = None,
          settings: Settings | None = None, seed: int = 0) -> Tensor: ...


@overload
def apply(generator: nn.Module, source: Tensor | Source, *, memory: int | str | None = None,
          settings: Settings | None = None, out: Sink, seed: int = 0) -> None: ...


@torch.no_grad()
def apply(generator: nn.Module, source: Tensor | Source, *, memory: int | str | None = None,
          settings: Settings | None = None, out: Sink | None = None, seed: int = 0) -> Tensor | None:
    """Translate an image as `generator(image)` would; returns it as a tensor (1, C', H, W).

        source     a tensor (1, C, H, W) in [-1, 1], or a `Source`
        memory     bytes, or text such as "2GB": the bound of what this takes beyond the network, the source and the
                   output, from which settings are derived; None: rows are kept in the device's memory
        settings   how to cut the image and where to keep rows, instead of `memory`
        out        where to write the output strip by strip; nothing is returned then
        seed       names the image to dropout, for a generator that is in training mode

    Computes where the generator's weights are and under the caller's autocast. Running statistics are left alone.

    Raises `TilingError` for an operation without an exact rule, `DoesNotFit` where no settings keep to `memory`,
    `DiskError` when the disk is full.
    """
    read = TensorSource(source) if isinstance(source, Tensor) else source
    weight = next(generator.parameters(), torch.empty(0))
    job = _Job(weight.device, memory, settings)

    # Call the network, which records a graph; what needs all rows at once is computed on the way, and stays in memory.
    def compute(node: Node) -> Tensor:
        whole = _Whole(node.height)
        job.execute(node, whole)
        job.held += whole.image.nbytes
        return whole.image

    seed_dropout([generator], (seed,))
    lazy = _record(generator, LazyImage.of(read, Recording(compute, seed), job.device, weight.dtype))

    # Compute the graph. The output is a tensor already if the last operation needed all rows at once.
    whole = _Whole(lazy.shape[2])
    sink = whole if out is None else out
    if isinstance(lazy, Tensor):
        sink.write(0, lazy)
    else:
        job.execute(lazy.node, sink)
    return whole.image if out is None else None


@torch.no_grad()
def forecast(generator: nn.Module, shape: Sequence[int], *, memory: int | str | None = None,
             settings: Settings | None = None) -> Forecast:
    """Return what `apply` would take for an image of `shape` (1, C, H, W). Nothing is computed.

    Raises `DoesNotFit` where `memory` is too little for any settings, `TilingError` as `apply` does.
    """
    weight = next(generator.parameters(), torch.empty(0))
    job = _Job(weight.device, memory, settings)

    # As in `apply`, on the meta device: one part for whatever needs all rows at once, and one for the output.
    parts: list[tuple[Node, Forecast]] = []

    def add_up(node: Node) -> Tensor:
        found = job.add_up(node)
        parts.append((node, replace(found, peak_bytes=found.peak_bytes + job.held)))
        job.held += node.height * node.row_bytes
        return torch.empty(node.shape, dtype=node.dtype, device="meta")

    empty = TensorSource(torch.empty(tuple(shape), device="meta"))
    image = LazyImage.of(empty, Recording(add_up), job.device, weight.dtype)
    weights = {name: each.to("meta") for name, each in [*generator.named_parameters(), *generator.named_buffers()]}
    lazy = _record(generator, image, weights)
    if isinstance(lazy, LazyImage):
        add_up(lazy.node)

    # All parts together: the work of every one, and the memory and settings of the heaviest.
    once = sum({node: node.macs * node.height for last, _ in parts for node in nodes_of(last)}.values())
    done = sum(Schedule(node, 1, found.settings.kept_floats).macs for node, found in parts)
    heaviest = max((found for _, found in parts), key=lambda found: found.peak_bytes)
    return replace(heaviest, compute=done / once if once else 1.0,
                   disk_bytes=max(found.disk_bytes for _, found in parts))


class _Whole:
    """The output as one tensor."""

    def __init__(self, height: int):
        self.height = height
        self.image = torch.empty(0)

    def write(self, start: int, strip: Tensor) -> None:
        if start == 0:
            self.image = strip.new_empty((*strip.shape[:2], self.height, strip.shape[3]))
        self.image[:, :, start:start + strip.shape[2]] = strip


@dataclass
class _Job:
    """One image to translate: where, and in how much memory. `held` is what has been taken for good by now."""

    device: torch.device
    memory: int | str | None
    settings: Settings | None
    held: int = 0

    def execute(self, output: Node, sink: Sink) -> None:
        execute(output, self.settings_for(output), self.device, sink)

    def add_up(self, output: Node) -> Forecast:
        return predict(output, self.settings_for(output), self.device)

    def settings_for(self, output: Node) -> Settings:
        """Return how to compute a graph. Raises `DoesNotFit`."""
        if self.settings is not None:
            return self.settings
        if self.memory is None:
            return Settings()
        return cheapest_that_fits(output, self.device, num_bytes(self.memory), self.held)


def _record(network: nn.Module, image: LazyImage, weights: dict[str, Tensor] | None = None) -> LazyImage | Tensor:
    """Call a network on a lazy image, with `weights` in place of its own; its running statistics stay as they are.

    Raises `UsageError` for an image of another shape than (1, C, H, W), `TilingError` for a result of another kind.
    """
    if len(image.shape) != 4 or image.shape[0] != 1:
        raise UsageError(f"expected an image (1, C, H, W) to translate in strips, got {tuple(image.shape)}")
    with recomputing(starting_point(network)):
        result = network(image) if weights is None else torch.func.functional_call(network, weights, (image,))
    if not isinstance(result, LazyImage | Tensor) or len(result.shape) != 4:
        raise TilingError(f"the network returns {type(result).__name__}; strips need one image (1, C, H, W)")
    return result
