"""One process of several: at which port it meets the others, and that it goes on where one of them has no store.

    python -m tests.roll_call FOLDER
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from accelerate import Accelerator
from torch.distributed import PrefixStore, Store

from translate.training import nodes
from translate.training.nodes import Roll, naming_the_lost


def main(folder: Path) -> None:
    accelerator = Accelerator(cpu=True)
    roll = Roll.call(accelerator)
    assert roll is not None and roll.names == [socket.gethostname()] * 2
    for store in (roll.store, roll.asked):
        while isinstance(store, PrefixStore):
            store = store.underlying_store
        assert store.port == int(os.environ["MASTER_PORT"]), store  # type: ignore[attr-defined]
    roll.close()

    if accelerator.process_index == 1:
        nodes._get_default_store = lambda: Store()  # type: ignore[attr-defined]  # which has no copies
    with naming_the_lost(accelerator):
        (folder / str(accelerator.process_index)).touch()
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
