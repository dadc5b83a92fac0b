"""Does BEGAN's γ set how varied samples are (Berthelot et al. 2017)? Perceptrons on digits of 14 px, 15 s of a
thread for each training; docs/lectures.md shows the table.

    python tools/lectures_began.py --digits data/mnist                        12 trainings
    python tools/lectures_began.py --digits data/mnist --gamma 0.3 0.7 --seeds 1 --seconds 10        a part, quickly

The game is the one that trainings play. Its networks are perceptrons with the paper's ELU: those of the package, of
convolutions, take a processor several times as long for a step, and this game needs a thousand.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from tools.lectures_trained import SIDE, images_in
from translate import __version__
from translate.losses import Began
from translate.metrics.distribution import kernel_distance, precision_recall
from translate.networks.eval_mode import evaluating

BATCH, LATENT, WIDTH, BOTTLENECK, PIXELS = 32, 16, 128, 16, SIDE * SIDE
LEARNING_RATE, RATE = 1e-3, 0.02  # Adam's, and λ, by which k moves: published 1e-4 and 1e-3, for days of training
SAMPLES = 500


class PerceptronAutoencoder(nn.Module):
    """Maps images (N, 1, SIDE, SIDE) to their errors of reconstruction, (N,): the mean of |x − D(x)| over pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, WIDTH), nn.ELU(), nn.Linear(WIDTH, WIDTH), nn.ELU(),
                                    nn.Linear(WIDTH, BOTTLENECK), nn.Linear(BOTTLENECK, WIDTH), nn.ELU(),
                                    nn.Linear(WIDTH, WIDTH), nn.ELU(), nn.Linear(WIDTH, PIXELS))

    def forward(self, images: Tensor) -> Tensor:
        return (images.flatten(1) - self.layers(images)).abs().mean(1)


def generator_of_digits() -> nn.Module:
    """Return a perceptron from latents (N, LATENT) to images. Without batch norm all become alike within seconds."""
    return nn.Sequential(nn.Linear(LATENT, WIDTH), nn.BatchNorm1d(WIDTH), nn.ELU(),
                         nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.ELU(),
                         nn.Linear(WIDTH, PIXELS), nn.Unflatten(1, (1, SIDE, SIDE)))


def trained(gamma: float, seed: int, seconds: float, reals: Tensor) -> tuple[nn.Module, dict[str, float]]:
    """Return a generator trained for so many seconds of processor time, and how its game stands at the end.

    The learning rate falls to 0 over the second half of the time.
    """
    torch.manual_seed(seed)
    game, balance = Began(gamma=gamma, rate=RATE), torch.zeros(())
    generator, autoencoder = generator_of_digits(), PerceptronAutoencoder()
    optimizers = [torch.optim.Adam(network.parameters(), LEARNING_RATE, (0.5, 0.999))
                  for network in (generator, autoencoder)]
    spent, steps, seen = 0.0, 0, {"real": 0.0, "fake": 0.0}
    while spent < seconds:
        start = time.process_time()
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, 2 * (1 - spent / seconds))

        # The generator's step: images that are rebuilt well.
        fake = generator(torch.randn(BATCH, LATENT))
        autoencoder.requires_grad_(False)
        step(optimizers[0], game.generator_loss(autoencoder(fake)))
        autoencoder.requires_grad_(True)

        # The autoencoder's: real images are rebuilt well, and these badly, k times as much.
        real_errors = autoencoder(reals[torch.randint(len(reals), (BATCH,))])
        fake_errors = autoencoder(fake.detach())
        step(optimizers[1], game.discriminator_loss(real_errors, fake_errors, balance))
        game.rebalance(balance, real_errors.mean(), fake_errors.mean())
        steps += 1
        for name, errors in (("real", real_errors), ("fake", fake_errors)):
            seen[name] += 0.02 * (float(errors.detach().mean()) - seen[name])
        spent += time.process_time() - start
    return generator, {"steps": steps, "k": float(balance), **seen}


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def apart(images: Tensor) -> float:
    """Return the mean distance of two images of a set (N, C, H, W), by their pixels."""
    return float(torch.pdist(images.flatten(1)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", type=Path, required=True)
    parser.add_argument("--gamma", type=float, nargs="+", default=[0.3, 0.5, 0.7, 0.9])
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="keep 100 samples of each training here, as a picture")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps({"diptych": __version__, "torch": torch.__version__, "date": str(datetime.date.today()),
                      "machine": f"{os.cpu_count()} cores, {platform.machine()}", "threads": 1}))

    reals, _ = images_in(arguments.digits / "train", 1)
    test, _ = images_in(arguments.digits / "test", 1)
    test = test[::len(test) // SAMPLES][:SAMPLES]
    varied: list[tuple[float, float]] = []
    print(f"real digits are {apart(test):.2f} apart\n\n"
          "| γ | seed | apart | precision | recall | kernel distance | fake / real error | k | steps |\n"
          "|---|---|---|---|---|---|---|---|---|")
    for gamma in arguments.gamma:
        for seed in range(arguments.seeds):
            generator, game = trained(gamma, seed, arguments.seconds, reals)
            with torch.no_grad(), evaluating(generator):
                drawn = generator(torch.randn(SAMPLES, LATENT, generator=torch.Generator().manual_seed(1))).clamp(-1, 1)
            share = apart(drawn) / apart(test)
            varied.append((gamma, share))
            fakes, truths = ([image.flatten()[None] for image in side] for side in (drawn, test))
            precision, recall = precision_recall(fakes, truths)
            print(f"| {gamma} | {seed} | {share:.2f} | {precision.value:.2f} | {recall.value:.2f} | "
                  f"{kernel_distance(fakes, truths).value:.3f} | {game['fake'] / game['real']:.2f} | {game['k']:.2f} | "
                  f"{game['steps']:.0f} |", flush=True)
            if arguments.out is not None:
                keep(drawn[:100], arguments.out / f"began_{gamma}_{seed}.png")
    print(f"\nrank correlation of γ with how far samples are apart: {spearmanr(*np.array(varied).T)[0]:.2f}")


def keep(images: Tensor, path: Path) -> None:
    """Write 100 images as a picture of ten rows."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = images.view(10, 10, SIDE, SIDE).transpose(1, 2).reshape(10 * SIDE, 10 * SIDE)
    Image.fromarray(((pixels + 1) * 127.5).byte().numpy()).save(path)


if __name__ == "__main__":
    main()
