"""CPU time of an optimizer's step, fused and one weight after the other, taking turns in one process.

    python tools/optimizer_steps.py [--width 64] [--steps 15]

Of a U-Net of eight levels, pix2pix's for 256 px. Prints the medians, and how far the weights of both are apart in the
end: rounding, of steps that are each about the learning rate long.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from translate.networks import UNetConfig
from translate.optimizers import Adam
from translate.training.machine import describe_machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--steps", type=int, default=15)
    options = parser.parse_args()

    torch.manual_seed(0)
    network = UNetConfig(width=options.width).build(3, 3)
    networks = {"fused": network, "one by one": copy.deepcopy(network)}
    optimizers = {name: Adam().build(each.parameters()) for name, each in networks.items()}
    for group in optimizers["one by one"].param_groups:
        group["fused"] = False

    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(options.steps):
        gradients = [torch.randn_like(parameter) * 1e-3 for parameter in network.parameters()]
        for name, optimizer in optimizers.items():
            for parameter, gradient in zip(networks[name].parameters(), gradients, strict=True):
                parameter.grad = gradient.clone()
            then = time.process_time()
            optimizer.step()
            seconds[name].append(time.process_time() - then)

    print(*describe_machine(torch.device("cpu")).values(), sep=", ")
    for name, each in seconds.items():
        print(f"{name}: {1000 * statistics.median(each):.0f} ms of CPU time")
    apart = max((one - other).abs().max().item() for one, other in
                zip(*(each.parameters() for each in networks.values()), strict=True))
    print(f"apart by {apart / (Adam().lr * options.steps):.1e} of the way that a weight may have come")


if __name__ == "__main__":
    main()
