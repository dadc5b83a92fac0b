"""Time training steps on a CPU with networks in channels_last and in torch's usual layout, taking turns.

    python tools/layouts.py
    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 python tools/layouts.py        # as a processor without AVX512

Prints the least processor time of several steps in each layout, of one thread. `translate.precision.layout_for` goes by
what comes out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from accelerate import Accelerator

from translate.data import Batch
from translate.networks import PatchGANConfig, ResNetConfig, UNetConfig, memory
from translate.optimizers import Adam
from translate.precision import Format
from translate.training.built import parameters_of
from translate.training.update import Update
from translate.translators import CycleGANConfig, Pix2PixConfig

LAYOUTS = {"usual": torch.contiguous_format, "channels_last": torch.channels_last}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="square images, px")
    parser.add_argument("--width", type=int, default=32, help="channels of all networks (published: 64)")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="timed steps in each layout, after one that is not")
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    patch = PatchGANConfig(width=asked.width)
    configs: dict[str, Any] = {
        "CycleGAN, ResNet-9": CycleGANConfig(generator=ResNetConfig(width=asked.width), discriminator=patch),
        "pix2pix, U-Net": Pix2PixConfig(generator=UNetConfig(width=asked.width), discriminator=patch)}

    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {asked.size}×{asked.size}, batch "
          f"{asked.batch}, width {asked.width}; seconds of one thread\n")
    print("| step | | usual | channels_last | ratio |\n|---|---|---|---|---|")
    for name, config in configs.items():
        for precision in asked.precision:
            steps = {words: step_of(config, layout, asked.size, asked.batch, precision)
                     for words, layout in LAYOUTS.items()}
            taken: dict[str, list[float]] = {words: [] for words in steps}
            for _ in range(1 + asked.rounds):
                for words, step in steps.items():
                    begin = time.process_time()
                    step()
                    taken[words].append(time.process_time() - begin)
            usual, last = (min(taken[words][1:]) for words in LAYOUTS)
            print(f"| {name} | {precision} | {usual:.2f} | {last:.2f} | {last / usual:.2f} |", flush=True)


def step_of(config: Any, layout: torch.memory_format, size: int, num_samples: int, precision: Format
            ) -> Callable[[], None]:
    """Return a function that trains one step, as a training on this CPU does, with weights in a layout."""
    torch.manual_seed(0)
    translator = config.build(3, 3)
    translator.to(torch.device("cpu"))
    for network in translator.modules.values():
        network.to(memory_format=layout)
    for network in translator.networks.values():
        memory.apply(memory.PLANS["split"], network)
    optimizers = {phase: Adam().build(parameters_of(translator, phase)) for phase in translator.phases}
    a, b = (torch.rand(num_samples, 3, size, size) * 2 - 1 for _ in range(2))
    batch, accelerator = Batch(a, b, tuple(range(num_samples))), Accelerator(cpu=True)

    def step() -> None:
        translator.step(batch, Update(translator, optimizers, accelerator, memory.PLANS["split"], precision))

    return step


if __name__ == "__main__":
    main()
