"""Does the second stage of a StackGAN sharpen the first? docs/lectures.md shows the table and the picture.

    python tools/lectures_stages.py --run runs/stackgan_mnist --digits data/mnist --out stages.png

Both stages draw the same samples, of every class in turn. The first's are enlarged to the second's size, and both are
compared with real test digits: as they are, and enlarged from the first's size. `sharpness` is the mean step from a
pixel to the next, as a share of real digits'. --out shows a pair of columns for each latent: first and second stage.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
from pathlib import Path
from typing import cast

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.utils import save_image

from tools.equal_time import machine
from tools.lectures_trained import digits_classifier, images_in
from translate.metrics import intervals
from translate.metrics.distribution import kernel_distance
from translate.metrics.modes import named
from translate.networks.latent.stackgan import StackGAN
from translate.sampling.sampler import Sampler

SHOWN = 6  # latents in the picture


def enlarged(images: Tensor, side: int) -> Tensor:
    return F.interpolate(images, size=side, mode="bilinear", antialias=True)


def steps(images: Tensor) -> float:
    """Return the mean step from a pixel to the next, along rows and columns."""
    return float((images.diff(dim=2).abs().mean() + images.diff(dim=3).abs().mean()) / 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--digits", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())

    # The same samples by both stages, and real digits of both sizes
    second = Sampler.load(asked.run)
    first = copy.copy(second)
    first.generator = copy.deepcopy(second.generator)
    cast(StackGAN, first.generator).second = None
    drawn = {name: torch.stack(list(sampler.sample(range(asked.samples)))) for name, sampler in (
        ("first stage, enlarged", first), ("second stage", second))}
    small, side = drawn["first stage, enlarged"].shape[-1], drawn["second stage"].shape[-1]
    reals = images_in(asked.digits / "test", 1, 28)[0]
    reals = enlarged(reals[::len(reals) // asked.samples][:asked.samples], side)
    drawn |= {"real digits, enlarged from that size": enlarged(reals, small), "real digits": reals}

    classifier, accuracy = digits_classifier(asked.digits, 28)
    print(f"\nthe classifier knows {accuracy:.1%} of real test digits\n\n"
          "| images | as asked | sharpness | kernel distance |\n|---|---|---|---|")
    for name, images in drawn.items():
        images = drawn[name] = enlarged(images, side) if images.shape[-1] < side else images
        share = intervals.mean([float(found == number % 10) for number, found in enumerate(
            named(classifier, enlarged(images, 28)))])
        asked_for = "" if name.startswith("real") else f"{share.value:.2f} [{share.low:.2f}, {share.high:.2f}]"
        distance = kernel_distance(*([image.flatten()[None] for image in each] for each in (images, reals))).value
        print(f"| {name} | {asked_for} | {steps(images) / steps(reals):.2f} | {distance:.3f} |")
    if asked.out is not None:
        one, other = drawn["first stage, enlarged"], drawn["second stage"]
        pairs = torch.cat([one, other], dim=3)[[10 * number + digit for digit in range(10) for number in range(SHOWN)]]
        save_image(pairs, asked.out, nrow=SHOWN, normalize=True, value_range=(-1, 1))


if __name__ == "__main__":
    main()
