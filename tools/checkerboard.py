"""How much of a checkerboard each way of enlarging paints over a flat image, untrained and after a short training.

    python tools/checkerboard.py                    # the table of docs/high-resolution.md, about a minute on one core
    python tools/checkerboard.py --steps 0          # untrained networks alone: seconds

A flat image has nothing in it, so whatever is not flat in what a generator makes of it, away from the borders, it made
up. Two enlargements by a stride of two can paint patterns with periods of 2 and 4 px along rows and columns; the table
gives the root mean square of what a Fourier transform finds at these frequencies (`board`) and at all others (`rest`),
on the scale of images, -1 to 1, as medians and maxima over seeds and grey levels. The networks are ResNets without
norms, which would divide what little varies by itself. They are trained with L1 to give the negatives of smooth images.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from translate.losses import l1_loss
from translate.networks import ResNetConfig
from translate.training.machine import describe_machine

WAYS = ("transposed", "resize", "bilinear")
GREYS = (-0.8, -0.3, 0.2, 0.7)
PERIOD = 4  # px, of what two strides of two can paint
SIDE, INSIDE = 160, 64  # px: of the flat image, and of its middle, far from what the borders' padding does


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seeds", type=int, default=20, help="untrained networks of each way")
    arguments.add_argument("--trained-seeds", type=int, default=3)
    arguments.add_argument("--steps", type=int, default=200, help="of the short training; 0: none")
    arguments.add_argument("--width", type=int, default=8)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    about = describe_machine(torch.device("cpu"))
    print(f"{datetime.date.today()}, {about['device']}, torch {about['torch']}, Diptych {about['diptych']}")
    print(f"ResNet, width {options.width}, 1 block, no norm, orthogonal weights; flat images at {GREYS}\n")
    print("| enlargement | training | networks | board, median | board, most | rest, most |")
    print("|---|---|---|---|---|---|")
    for steps, seeds in ((0, options.seeds), (options.steps, options.trained_seeds)):
        for way in WAYS if steps or seeds == options.seeds else ():
            found = [measured(network, grey) for seed in range(seeds)
                     for network in [trained(way, seed, steps, options.width)] for grey in GREYS]
            board, rest = zip(*found, strict=True)
            print(f"| {way} | {f'{steps} steps' if steps else 'none'} | {seeds} | {statistics.median(board):.1e} | "
                  f"{max(board):.1e} | {max(rest):.1e} |", flush=True)
        if not options.steps:
            break


def trained(way: str, seed: int, steps: int, width: int) -> nn.Module:
    """A generator after so many steps of four smooth images of 64 px each, which it is to turn into their negatives."""
    torch.manual_seed(seed)
    network = ResNetConfig(width=width, blocks=1, norm="none", init="orthogonal", upsample=way).build(3, 3)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.5, 0.999))
    for _ in range(steps):
        images = F.interpolate(torch.rand(4, 3, 8, 8) * 2 - 1, scale_factor=8, mode="bicubic").clamp(-1, 1)
        optimizer.zero_grad()
        l1_loss(network(images), -images).backward()
        optimizer.step()
    return network


@torch.no_grad()
def measured(network: nn.Module, grey: float) -> tuple[float, float]:
    """The root mean squares of what is painted over a flat image, at the strides' frequencies and at all others."""
    out = network(torch.full((1, 3, SIDE, SIDE), grey)).double()
    first = (SIDE - INSIDE) // 2
    return pattern(out[0, :, first:first + INSIDE, first:first + INSIDE])


def pattern(image: Tensor) -> tuple[float, float]:
    """The same of an image (C, H, W) whose sides are multiples of the period."""
    power = torch.fft.fft2(image).abs().square() / image[0].numel()**2  # Parseval: sums to the mean square
    power[:, 0, 0] = 0  # what is flat
    rows, columns = (side // PERIOD for side in image.shape[1:])
    board = power[:, ::rows, ::columns].sum()
    return (board / len(image)).sqrt().item(), ((power.sum() - board).clamp(min=0) / len(image)).sqrt().item()


if __name__ == "__main__":
    main()
