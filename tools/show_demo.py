"""What the demo shows: input | output | truth of the held-out band, and its scores beside trivial baselines.

    python tools/show_demo.py --data data/terrain_small --converted out/terrain/tiles --picture out/terrain/demo.png

The baselines know no images' content: `identity` is the input itself, `mean colour` the mean of the training targets,
`lookup table` the mean target colour of every input colour (32³ bins; empty ones take the nearest filled bin's), learnt
from the training pairs. Prints a table with machine, versions and date; of every second image, as scores take their
time. Beside the scores of `translate evaluate`:

    board      what two strides of two could paint, patterns of 2 and 4 px, over the same of the truth; 1: no grid
    overshoot  halos: how far pixels near strong edges of the truth leave the truth's range around them (0 to 255)
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from checkerboard import PERIOD, pattern
from PIL import Image
from scipy.spatial import cKDTree

from translate import __version__
from translate.images.listing import find_images
from translate.images.reading import ImageConfig, read_image
from translate.metrics.reference import score

RGB = ImageConfig()
BINS = 32
MEASURES = {"psnr": "PSNR (dB)", "ssim": "SSIM", "ms_ssim": "MS-SSIM", "l1": "L1", "gradient_error": "gradient error",
            "board": "board", "overshoot": "overshoot"}
EVERY = 2  # every second image is scored
ROWS = 5  # of the picture, at most
STRONG = 0.3  # of the range of [-1, 1]: what changes by more within `AROUND` is a strong edge
AROUND = 9  # px


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with trainA, trainB, testA, testB")
    parser.add_argument("--converted", type=Path, required=True, help="testA, translated")
    parser.add_argument("--picture", type=Path, required=True, help="where the picture goes (.png)")
    words = parser.parse_args()
    inputs, candidates = baselines(words.data)
    truths, outputs = read_all(words.data / "testB"), read_all(words.converted)
    if len(outputs) != len(inputs):
        parser.error(f"{words.converted} holds {len(outputs)} images and {words.data / 'testA'} {len(inputs)}")
    inputs, truths, outputs = inputs[::EVERY], truths[::EVERY], outputs[::EVERY]
    made = {name: [candidate(image) for image in inputs] for name, candidate in candidates.items()}
    print(f"held-out band, {len(inputs)} images, Diptych {__version__}, torch {torch.__version__}, "
          f"{os.cpu_count()} cores ({platform.machine()}), {datetime.date.today()}")
    print(f"{'':14}" + "".join(f"{title:>16}" for title in MEASURES.values()))
    for name, images in (made | {"translated": outputs}).items():
        pairs = [(tensor(image), tensor(truth)) for image, truth in zip(images, truths, strict=True)]
        scores = [score(*pair) | {"board": board(*pair), "overshoot": overshoot(*pair)} for pair in pairs]
        print(f"{name:14}" + "".join(f"{np.mean([each[measure] for each in scores]):16.3f}" for measure in MEASURES))
    shown = slice(0, None, -(-len(inputs) // ROWS))
    draw(words.picture, inputs[shown], outputs[shown], truths[shown])
    print(f"input | output | truth: {words.picture}")


def baselines(data: Path) -> tuple[list[np.ndarray], dict[str, Callable[[np.ndarray], np.ndarray]]]:
    """Return the held-out inputs of a folder of pairs, and what each baseline makes of one of them."""
    train_a, train_b = read_all(data / "trainA"), read_all(data / "trainB")
    colour = np.concatenate([image.reshape(-1, 3) for image in train_b]).mean(0).round().astype(np.uint8)
    return read_all(data / "testA"), {
        "identity": lambda image: image,
        "mean colour": lambda image: np.broadcast_to(colour, image.shape),
        "lookup table": lookup_table(train_a, train_b)}


def read_all(folder: Path) -> list[np.ndarray]:
    return [read_image(path, RGB) for path in find_images(folder)]


def lookup_table(inputs: list[np.ndarray], targets: list[np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """The mean target colour of every input colour."""
    seen = np.concatenate([bins(image) for image in inputs])
    colours = np.concatenate([image.reshape(-1, 3) for image in targets]).astype(np.float64)
    count = np.bincount(seen, minlength=BINS**3)
    means = np.stack([np.bincount(seen, colours[:, c], BINS**3) for c in range(3)], 1) / np.maximum(count, 1)[:, None]
    places = np.stack(np.unravel_index(np.arange(BINS**3), (BINS,) * 3), 1)
    filled = count > 0
    _, nearest = cKDTree(places[filled]).query(places)
    table = means[filled][nearest].round().astype(np.uint8)
    return lambda image: table[bins(image)].reshape(image.shape)


def bins(image: np.ndarray) -> np.ndarray:
    red, green, blue = (image.reshape(-1, 3) // (256 // BINS)).astype(np.int64).T
    return (red * BINS + green) * BINS + blue


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1


def board(image: torch.Tensor, truth: torch.Tensor) -> float:
    """How much of patterns with periods of 2 and 4 px an image has, over the same of its truth."""
    height, width = (side // PERIOD * PERIOD for side in image.shape[-2:])
    return pattern(image[0, :, :height, :width])[0] / pattern(truth[0, :, :height, :width])[0]


def overshoot(image: torch.Tensor, truth: torch.Tensor) -> float:
    """How far an image leaves the range that its truth has around each pixel, where that range is wide: a mean."""
    highest, lowest = highest_around(truth), -highest_around(-truth)
    beyond = (image - highest).clamp(min=0) + (lowest - image).clamp(min=0)
    edges = highest - lowest > 2 * STRONG
    return beyond[edges].mean().item() * 127.5 if edges.any() else 0.0


def highest_around(image: torch.Tensor) -> torch.Tensor:
    """The largest value around each pixel: along rows, and of these along columns."""
    along = F.max_pool2d(image, (1, AROUND), 1, (0, AROUND // 2))
    return F.max_pool2d(along, (AROUND, 1), 1, (AROUND // 2, 0))


def draw(path: Path, *columns: list[np.ndarray]) -> None:
    """The images of each column below each other, columns side by side."""
    gap = 8
    rows = []
    for images in zip(*columns, strict=True):
        padded = [np.pad(image, ((0, gap), (0, gap), (0, 0)), constant_values=255) for image in images]
        rows.append(np.concatenate(padded, axis=1))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(path)


if __name__ == "__main__":
    main()
