"""Images that are known by their shape and by how they come about: what `tiling.rules` makes of one another.

A `RecordedImage` stands for a `Node` of a graph. Recording an operation on it makes a new node; nothing is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from translate.networks.rows import Operation, Pointwise
from translate.tiling.graph import Node, Read, Source, TensorSource, TilingError


@dataclass
class Recording:
    """What the images of one call of a network share.

    `compute` makes the tensor (1, C, H, W) of a node, for what needs all rows at once. `seed` names the sample to
    torch's own dropout, which becomes one by position, so that every strip meets the same mask.
    """

    compute: Callable[[Node], Tensor]
    seed: int = 0
    num_dropouts: int = 0


class RecordedImage:
    """An image (1, C, H, W) that is not computed yet. In-place operations give it another `node`."""

    def __init__(self, node: Node, recording: Recording, device: torch.device):
        self.node, self.recording, self.device = node, recording, device
        self.shares_memory = False  # with a slice of itself, or with what it is a slice of

    @classmethod
    def of(cls, source: Source, recording: Recording, device: torch.device, dtype: torch.dtype) -> Self:
        """Return the image of a source, whose rows come to `device`."""
        return cls(Node(Read(source, device), (), torch.Size(source.shape), dtype), recording, device)

    @property
    def shape(self) -> torch.Size:
        return self.node.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.node.dtype

    def then(self, operation: Operation, shape: torch.Size, dtype: torch.dtype | None = None, macs: float = 0.0, *,
             inputs: Sequence[Node] | None = None) -> Self:
        """Record an operation; returns its result.

            shape     of the result
            dtype     of the result; None: that of the first input
            macs      multiplications that a row of the result takes
            inputs    what the operation is applied to; None: this image alone
        """
        nodes = (self.node,) if inputs is None else tuple(inputs)
        return type(self)(Node(operation, nodes, shape, dtype or nodes[0].dtype, macs), self.recording, self.device)


def pointwise(function: Callable[..., Tensor], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Record a function of every pixel by itself, of one or more images of the same size and any constants.

    `args` and `kwargs` are the function's; at least one of `args` is an image. A tensor as high as the image counts as
    an image. Raises `TilingError` for images of different sizes.
    """
    # Which arguments are images: recorded ones, and tensors that have a value for every row.
    first = next(arg for arg in args if isinstance(arg, RecordedImage))
    height = first.shape[2]
    images: list[Node] = []
    places: list[int | None] = []  # for every argument, which of the images it is
    for arg in args:
        has_rows = isinstance(arg, Tensor) and arg.ndim >= 2 and arg.shape[-2] == height > 1
        if has_rows:
            arg = arg.reshape((1,) * (4 - arg.ndim) + arg.shape)
        node = node_of(arg, first) if has_rows else arg.node if isinstance(arg, RecordedImage) else None
        places.append(None if node is None else len(images))
        images += [] if node is None else [node]
    if any(node.height != height or node.shape[3] not in (1, first.shape[3]) for node in images):
        raise TilingError(f"{function.__name__} of images of {described(args)}: strips need images of one size")

    def run(*xs: Tensor) -> Tensor:
        return function(*(arg if at is None else xs[at] for arg, at in zip(args, places, strict=True)), **kwargs)

    dtype = images[0].dtype
    for node in images[1:]:
        dtype = torch.promote_types(dtype, node.dtype)
    return first.then(Pointwise(run), shape_of(function, args, kwargs), dtype, inputs=images)


def shape_of(function: Callable[..., Tensor], args: Sequence[Any], kwargs: dict[str, Any]) -> torch.Size:
    """Return the shape of a result, from torch itself: computed on the meta device, where tensors have no values."""
    def empty(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(empty(item) for item in value)
        if isinstance(value, Tensor) and not value.is_floating_point():
            return value.to("meta")
        return torch.empty(value.shape, device="meta") if isinstance(value, RecordedImage | Tensor) else value
    with torch.autocast("cpu", enabled=False):
        return function(*empty(tuple(args)), **{key: empty(value) for key, value in kwargs.items()}).shape


def computed(value: Any) -> Any:
    """Return the same arguments with every recorded image computed; the image then holds the tensor, so it is computed
    once."""
    if isinstance(value, RecordedImage):
        done = value.node.operation
        if isinstance(done, Read) and isinstance(done.source, TensorSource):
            return done.source.tensor
        tensor = value.recording.compute(value.node)
        value.node = node_of(tensor, value)
        return tensor
    if isinstance(value, list | tuple):
        return type(value)(computed(item) for item in value)
    return {key: computed(item) for key, item in value.items()} if isinstance(value, dict) else value


def node_of(tensor: Tensor, like: RecordedImage) -> Node:
    """Return a tensor as a node of the graph that `like` belongs to."""
    return Node(Read(TensorSource(tensor), like.device), (), tensor.shape, tensor.dtype)


def described(args: Any) -> str:
    """Return the shapes of the images among some arguments, for an error."""
    shapes = ["×".join(map(str, arg.shape)) for arg in args if isinstance(arg, RecordedImage | Tensor)]
    return ", ".join(shapes) or "…"
