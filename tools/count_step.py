"""Count what a step asks of a card, on shapes alone: multiplications, bytes outside of convolutions, kernels.

    python tools/count_step.py                         # CycleGAN, ResNet-9, 1024 px, under the plans split and strips
    python tools/count_step.py --size 256 --plans split blocks --operations

Each operation counts what it is given and what it gives, once: so norm → act → pad counts as torch's own norm does,
which reads its input twice as well. The last column says how many kernels Triton launches for it beyond one, and what
these read again. The optimizers' steps are left out. `--operations` lists what the bytes and kernels are of.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from torch import Tensor

from translate.networks import memory
from translate.networks.live_bytes import LiveBytes, Work
from translate.networks.memory import MemoryPlan
from translate.networks.normalised import Path as Way
from translate.networks.normalised import computed_by
from translate.optimizers import Optimizers
from translate.recipe import Stage
from translate.training.step_on_meta import MetaUpdate, Networks, StepOnMeta
from translate.translators import CycleGANConfig, TranslatorConfig

# Kernels that a direction of `translate.networks.normalised.fused` launches where it finds sums (µ and r; dβ and
# dγ) and where not, and how many tensors as large as z it then reads a second time. The planner of time counts one and
# none: the factor by which it takes bytes together is for what is read again (`translate.training.speeds.MOVING`).
KERNELS = {"normalised_forward": (3, 1), "normalised_backward": (3, 1)}
READ_TWICE = {"normalised_forward": 1, "normalised_backward": 2}


class Counted:
    """The work of each operation by name, of a step without its optimizers; `again` is what Triton's kernels add."""

    def __init__(self) -> None:
        self.kernels: Counter[str] = Counter()
        self.moved_bytes: Counter[str] = Counter()
        self.flops = 0
        self.again = Work()

    @property
    def work(self) -> Work:
        return Work(self.flops, sum(self.moved_bytes.values()), sum(self.kernels.values()))


def count(config: TranslatorConfig, size: int, plan: MemoryPlan, way: Way) -> Counted:
    """Count the step of a translator for one image of size × size px, in fp16 on CUDA, its layers computed `way`."""
    step = StepOnMeta(Networks(translator=config, optimizer=Optimizers()), (3, 3), Stage(resolution=size, images=1))
    found = Counted()
    with counting_by_name(found), computed_by(way):
        step.measure(plan, "fp16", "cuda", 1)
    return found


@contextmanager
def counting_by_name(found: Counted) -> Iterator[None]:
    """Have all counting tell apart by operation what it counts; optimizers tell nothing."""
    dispatch, optimize, inside = LiveBytes.__torch_dispatch__, MetaUpdate.step_optimizer, [True]

    def told(self: LiveBytes, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self.work
        result = dispatch(self, function, types, args, kwargs)
        if inside[0]:
            name = function._overloadpacket.__name__
            found.flops += self.work.flops - before.flops
            found.moved_bytes[name] += self.work.moved_bytes - before.moved_bytes
            found.kernels[name] += self.work.kernels - before.kernels
            if name in KERNELS:
                found.again = found.again.plus(launched_besides(name, args, result))
        return result

    def untold(self: MetaUpdate, phase: str) -> Any:
        inside[0] = False
        try:
            return optimize(self, phase)
        finally:
            inside[0] = True

    LiveBytes.__torch_dispatch__, MetaUpdate.step_optimizer = told, untold  # type: ignore[method-assign]
    try:
        yield
    finally:
        LiveBytes.__torch_dispatch__, MetaUpdate.step_optimizer = dispatch, optimize  # type: ignore[method-assign]


def launched_besides(name: str, args: Any, result: tuple[Tensor, ...]) -> Work:
    """Return what Triton launches and reads beyond one kernel that takes all and gives all, for one call."""
    finds_sums = result[1].numel() > 0
    read = sum(tensor.nbytes for tensor in args[:READ_TWICE[name]] if tensor is not None)
    return Work(0, read * finds_sums, KERNELS[name][0 if finds_sums else 1] - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="square images, px")
    parser.add_argument("--plans", nargs="+", choices=list(memory.PLANS), default=["split", "strips"])
    parser.add_argument("--operations", action="store_true")
    asked = parser.parse_args()
    ways: dict[Way, str] = {"eager": "one after the other", "fused": "as one operation"}

    print(f"CycleGAN, ResNet-9, {asked.size}×{asked.size}, batch 1, identity loss, fp16; without the optimizers\n")
    print("| plan | norm, activation, padding | TFLOP | GB outside of convolutions | kernels | by Triton besides |")
    print("|---|---|---|---|---|---|")
    details = []
    for plan in asked.plans:
        for way, words in ways.items():
            found = count(CycleGANConfig(), asked.size, memory.PLANS[plan], way)
            again = f"{found.again.moved_bytes / 1e9:.1f} GB, {found.again.kernels:,}" if way == "fused" else ""
            print(f"| `{plan}` | {words} | {found.work.flops / 1e12:.1f} | {found.work.moved_bytes / 1e9:.1f} | "
                  f"{found.work.kernels:,} | {again} |", flush=True)
            details.append((plan, words, found))
    for plan, words, found in details if asked.operations else []:
        print(f"\n{plan}, {words}")
        for name, moved in found.moved_bytes.most_common():
            if found.kernels[name]:
                print(f"  {name:32} {found.kernels[name]:6,} kernels {moved / 1e9:8.2f} GB")


if __name__ == "__main__":
    main()
