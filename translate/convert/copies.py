"""Images on their way to a GPU and back, while it computes others.

A copy waits for nobody only from and to pinned memory, and beside the computation only in a stream of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Copies:
    """The two ways between this process and a CUDA device, beside the stream on which the caller computes."""

    def __init__(self, device: torch.device):
        self.device = device
        self._there, self._back = torch.cuda.Stream(device), torch.cuda.Stream(device)

    def there(self, image: Tensor) -> Tensor:
        """Return an image on the device, to be used in the caller's stream. From pinned memory nobody waits."""
        computing = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._there):
            sent = image.to(self.device, non_blocking=True)
        computing.wait_stream(self._there)
        sent.record_stream(computing)
        return sent

    def back(self, made: Tensor) -> Callable[[], Tensor]:
        """Begin to copy what the caller's stream has made. Returns what waits for it, in any thread, and gives it."""
        computing = torch.cuda.current_stream(self.device)
        self._back.wait_stream(computing)
        with torch.cuda.stream(self._back):
            here = torch.empty_like(made, device="cpu", pin_memory=True)
            here.copy_(made, non_blocking=True)
            arrived = self._back.record_event()
        made.record_stream(self._back)

        def wait() -> Tensor:
            arrived.synchronize()
            return here

        return wait
