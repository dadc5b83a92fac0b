"""The claims of the lectures that can be tried exactly, in seconds: a table each. docs/lectures.md shows them.

    python tools/lectures.py                    all of them
    python tools/lectures.py gradients latents  some: gradients, bilinear, batches, latents

`tools/lectures_trained.py` tries those that need trained generators.
"""

from __future__ import annotations

import argparse
import datetime
import math
import os
import platform

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn

from translate import __version__
from translate.losses import NonSaturating, Vanilla
from translate.networks.latent.latents import Distribution
from translate.sampling.latents import between

SAMPLES = 200_000


def gradients() -> None:
    """G's gradient at its samples under the best D, real ~ N(0, 1) and fake ~ N(m, 1), by how good D is.

    The best D's logit is log p_real(x)/p_fake(x) = m²/2 − m x, and its accuracy Φ(m/2). The gradient is the mean length
    of dL/dx of one sample (the batch's mean undone).
    """
    print("\nD's accuracy   minimax: |dL/dx|   non-saturating: |dL/dx|   (the objectives' own loss, by autograd)")
    chance = torch.Generator().manual_seed(0)
    noise = torch.randn(SAMPLES, dtype=torch.float64, generator=chance)
    for apart in (0.2, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0):
        found = []
        for objective in (Vanilla(), NonSaturating()):
            fake = (apart + noise).requires_grad_()
            logits = apart**2 / 2 - apart * fake
            loss = objective.generator_loss(logits) * SAMPLES
            found.append(float(torch.autograd.grad(loss, fake)[0].abs().mean()))
        accuracy = 0.5 * (1 + math.erf(apart / 2 / math.sqrt(2)))
        print(f"{accuracy:12.4f}   {found[0]:16.6f}   {found[1]:23.6f}")


def bilinear() -> None:
    """min over x, max over y of x·y from (1, 1): how far from the solution (0, 0) after so many steps."""
    print("\nx·y, step 0.1     after 10   100   1000 steps: distance from (0, 0), which began at 1.414")
    for name, alternating in (("simultaneous", False), ("alternating", True)):
        x, y, seen = 1.0, 1.0, []
        for step in range(1, 1001):
            new_x = x - 0.1 * y
            y = y + 0.1 * (new_x if alternating else x)
            x = new_x
            if step in (10, 100, 1000):
                seen.append(math.hypot(x, y))
        print(f"{name:16} " + "   ".join(f"{each:9.4g}" for each in seen))
    print(f"simultaneous, exactly: √2 · (1 + 0.1²)^(k/2) = "
          f"{', '.join(f'{math.sqrt(2) * 1.01 ** (k / 2):.4g}' for k in (10, 100, 1000))}")


def batches() -> None:
    """A discriminator with batch norm, whose real and fake images differ in brightness alone (or contrast alone).

    What a batch is made of decides what batch norm takes away.
    """
    print("\nD with batch norm behind its first layer, 400 steps; accuracy as it is trained (batch statistics)")
    print("fakes differ in            separate batches   one mixed batch")
    for name, shift, scale in (("mean", 1.0, 1.0), ("deviation", 0.0, 2.0), ("both", 1.0, 2.0)):
        found = []
        for mixed in (False, True):
            torch.manual_seed(0)
            network = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
            optimizer, right = torch.optim.Adam(network.parameters(), lr=1e-2), []
            for _ in range(400):
                real, fake = torch.randn(64, 16), shift + scale * torch.randn(64, 16)
                logits = network(torch.cat([real, fake])).chunk(2) if mixed else (network(real), network(fake))
                loss = nn.functional.softplus(-logits[0]).mean() + nn.functional.softplus(logits[1]).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                right.append(float(((logits[0] > 0).float().mean() + (logits[1] < 0).float().mean()) / 2))
            found.append(sum(right[-100:]) / 100)
        print(f"{name:24} {found[0]:18.3f} {found[1]:17.3f}")


def latents() -> None:
    """Where the middle of a way lies, in deviations of the lengths that latents have."""
    print("\nlatents of 100 numbers: length, and that of the middle between two (in deviations from the mean length)")
    chance = torch.Generator().manual_seed(0)
    drawn: dict[str, Tensor] = {"normal": torch.randn(20_000, 100, generator=chance),
                                "uniform": torch.rand(20_000, 100, generator=chance) * 2 - 1}
    for name, all_of_them in drawn.items():
        lengths = all_of_them.norm(dim=1)
        mean, deviation = float(lengths.mean()), float(lengths.std())
        words = []
        ways: tuple[tuple[Distribution, str], ...] = (("uniform", "on the line"), ("normal", "on the sphere"))
        for way, title in ways:
            middles = [between(all_of_them[number], all_of_them[number + 1], 0.5, way) for number in range(0, 2_000, 2)]
            length = float(torch.stack(middles).norm(dim=1).mean())
            words.append(f"{title} {length:.2f} ({(length - mean) / deviation:+.1f})")
        print(f"{name:8} {mean:.2f} ± {deviation:.2f}: {', '.join(words)}")


CLAIMS = {"gradients": gradients, "bilinear": bilinear, "batches": batches, "latents": latents}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claims", nargs="*", metavar="CLAIM", help=", ".join(CLAIMS))
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.claims if name not in CLAIMS]:
        parser.error(f"{', '.join(unknown)}: expected {', '.join(CLAIMS)}")
    torch.set_num_threads(1)
    print(f"Diptych {__version__}, torch {torch.__version__}, {platform.machine()}, {datetime.date.today()}")
    for name in arguments.claims or CLAIMS:
        CLAIMS[name]()


if __name__ == "__main__":
    main()
