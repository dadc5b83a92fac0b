"""A count of the bytes that live at once, written apart from the package's own."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of every storage that an operation returns, until it is freed; not those that were there.

    Counts on their device alone.
    """

    def __init__(self, there: Sequence[Tensor]) -> None:
        super().__init__()
        self.device = there[0].device
        self.seen = {tensor.untyped_storage()._cdata for tensor in there}
        self.live = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            here = isinstance(tensor, Tensor) and tensor.device == self.device
            if here and tensor.untyped_storage()._cdata not in self.seen:
                storage = tensor.untyped_storage()
                self.seen.add(storage._cdata)
                self.live += storage.nbytes()
                weakref.finalize(storage, self.freed, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return result

    def freed(self, key: int, num_bytes: int) -> None:
        self.seen.discard(key)
        self.live -= num_bytes
